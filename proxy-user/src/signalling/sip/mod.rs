//! SIP (RFC 3261): [`syntax`] is its messages as bytes, [`agent`] what they do.

pub mod agent;
pub mod syntax;

pub use syntax::*;
