//! The call detail record.

/// One call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cdr {}
