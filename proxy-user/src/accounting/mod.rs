//! Call detail records and where they go.

mod cdr;
pub use cdr::*;
