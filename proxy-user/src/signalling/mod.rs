//! What terminals and softswitch say to each other: one module a protocol, each an [`Agent`] in front of the core.
//!
//! An agent reads messages, asks [`Core`](crate::engine::Core) who may act, what calls may begin and which ports their
//! media get, and writes messages. Nothing else knows its syntax: to add a protocol is a folder here, and a line in
//! `protocols`.

mod agent;
mod protocols;
pub mod sip;
mod wire;

pub use agent::{Agent, Arrival, Registration};
pub use protocols::{agents, wires};
pub use wire::{Broken, Fault, Frame, Framer, Listener, NewFramer, Wire};
