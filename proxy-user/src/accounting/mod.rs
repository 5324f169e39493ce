//! Call detail records and where they go.

mod cdr;
mod sink;
mod time;

pub use cdr::*;
pub use sink::{CdrSink, SinkError};
pub use time::{Timestamp, WallClock};
