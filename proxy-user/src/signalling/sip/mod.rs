//! SIP (RFC 3261): [`syntax`] is its messages as bytes, the rest what they do.

pub mod syntax;

pub use syntax::*;
