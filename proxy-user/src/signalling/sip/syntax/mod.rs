//! The SIP message layer: what was not edited leaves as it came, byte for byte (RFC 3261).
//!
//! Data flows through it like this: [`Datagram::of`] tells keep-alives from messages and [`Framer`] finds both in a
//! stream, [`Message::parse`]
//! finds the start line and the header fields as byte ranges, [`check_request`] says what RFC 3261 §16.3
//! refuses, the typed views ([`Via`], [`NameAddr`], [`Uri`], ...) read single values, [`Editor`] changes some of
//! them, and [`Response`] and [`Request`] write what Latch itself originates.
//!
//! # Why not rsip
//!
//! A border element has to carry what it does not understand. The crate `rsip` (0.4.0) does not allow that:
//! it refuses folded header fields, methods outside its list and IPv6 Request-URIs; knows no compact form; reads
//! one Via of a list; loses the reason phrase; normalises spacing; and turns bodies that are not UTF-8 into
//! something else on output. Of RFC 4475's thirteen well-formed messages it reads seven. So the wire is ours.
//!
//! What Latch originates is written here too: a response repeats Via, From, To and Call-ID of a request that
//! somebody else wrote, an in-dialog request repeats that dialog's From and To, and both may have any of the
//! forms above. `rsip` serves as the second opinion in the tests: it must read every message that
//! [`Request`] and [`Response`] write out of plain values, and read the same from it.

#![warn(clippy::indexing_slicing)]

mod build;
mod check;
mod edit;
mod fields;
mod framing;
mod malformed;
mod message;
mod name;
mod params;
mod parse;
mod scan;
mod uri;
mod values;

pub use build::{Request, Response, ack_for, cancel_for, reason_phrase};
pub use check::{Reject, check_request, check_response};
pub use edit::Editor;
pub use fields::{Fault, MAX_BYTES, MAX_FIELDS};
pub use framing::{Broken, Frame, Framer};
pub use malformed::Malformed;
pub use message::{Datagram, Header, Message, ParseError, Start};
pub use name::{Key, Name, Shape};
pub use params::Params;
pub use uri::{HostPort, Uri, rewrite_hosts, rewrite_hosts_bytes};
pub use values::{CSeq, NameAddr, Rport, Via, split_list};
