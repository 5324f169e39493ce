//! SIP (RFC 3261): [`syntax`] is its messages as bytes, `agent` what they do.

mod agent;
pub mod syntax;

pub use agent::{PROTOCOL, Sip};
pub use syntax::*;
