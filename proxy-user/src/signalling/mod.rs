//! What terminals and softswitch say to each other: one module a protocol.

pub mod sip;
