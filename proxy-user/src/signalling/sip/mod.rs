//! SIP (RFC 3261): [`syntax`] is its messages as bytes, `agent` what they do, `wire` how they
//! travel.

mod agent;
pub mod syntax;
mod wire;

pub use agent::{PROTOCOL, Sip};
pub use syntax::*;
