//! What terminals and softswitch say to each other, as bytes: one module a protocol.
//!
//! Everything below is pure: bytes and values in, bytes and values out. Sockets and clocks are elsewhere.

pub mod sip;
