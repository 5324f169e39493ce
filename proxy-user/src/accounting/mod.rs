//! Call detail records and where they go.

mod cdr;
mod time;

pub use cdr::*;
pub use time::{Timestamp, WallClock};
