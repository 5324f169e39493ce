//! Where the parts of a message are, what can be wrong with it, and how large it may be.

use std::ops::Range;

use super::name::Name;

/// Byte ranges of the start line.
#[derive(Clone, Debug)]
pub(super) enum Line {
    Request { method: Range<usize>, uri: Range<usize> },
    Response { code: u16, reason: Range<usize> },
}

/// Byte positions of one header field, folded lines included.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    pub(super) name: Name,
    pub(super) start: u32,
    pub(super) name_end: u32,
    pub(super) value_start: u32,
    /// The end of the value, line end excluded.
    pub(super) value_end: u32,
    /// Past the line end.
    pub(super) end: u32,
}

/// Why a datagram is not a message that can be handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The start line is neither that of a request nor that of a response.
    #[error("malformed start line")]
    StartLine,
    /// A request of another version than SIP/2.0: 505.
    #[error("unknown SIP version")]
    Version,
    /// A status code that is not three digits from 100 to 699.
    #[error("malformed status code")]
    StatusCode,
    /// A header line without a name and colon, or with a stray carriage return.
    #[error("malformed header field")]
    HeaderField,
    /// More than [`MAX_FIELDS`] header fields.
    #[error("too many header fields")]
    TooManyFields,
    /// More than [`MAX_BYTES`] bytes.
    #[error("message too large")]
    TooLarge,
    /// The datagram ends before the empty line.
    #[error("no end of the header")]
    Truncated,
    /// A Content-Length that is not a number, or two that differ.
    #[error("malformed Content-Length")]
    ContentLength,
    /// A Content-Length beyond the end of the datagram (RFC 3261 §18.3).
    #[error("Content-Length beyond the datagram")]
    ShortBody,
}

impl Fault {
    /// The status code that a request with this fault is answered with.
    #[must_use]
    pub fn code(self) -> u16 {
        match self {
            Self::Version => 505,
            Self::TooLarge | Self::TooManyFields => 513,
            _ => 400,
        }
    }
}

/// The longest message taken, in bytes.
pub const MAX_BYTES: usize = 65_535;
/// The largest number of header fields taken.
pub const MAX_FIELDS: usize = 256;

/// More hops than a request has that began with the usual Max-Forwards (RFC 3261 §8.1.1.6).
pub(super) const MOST_VIAS: usize = 70;
