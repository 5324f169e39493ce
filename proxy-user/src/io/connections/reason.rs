//! Why connections end, and how often each reason occurred.

use crate::signalling::Fault;

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// The other end closed it.
    Peer,
    /// It broke: reset, or nobody acknowledged anything any more.
    Error,
    /// The handshake of TLS or WebSocket failed.
    Handshake,
    /// A handshake, the first message, or the rest of one did not come in time.
    Slow,
    /// Nothing came or went for a long time.
    Idle,
    /// What came was not a sequence of the protocol's messages.
    Malformed,
    /// A message was too large.
    TooLarge,
    /// Too much waited for a peer that does not read.
    NotRead,
    /// It could not be made.
    Unreachable,
}

impl From<Fault> for Reason {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::TooLarge => Self::TooLarge,
            Fault::Malformed => Self::Malformed,
        }
    }
}

/// What happened to connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionStatistics {
    /// Accepted.
    pub accepted: u64,
    /// Made to a softswitch.
    pub made: u64,
    /// Refused: there are as many as there may be.
    pub refused_max: u64,
    /// Refused: there are as many from this address as there may be.
    pub refused_source: u64,
    /// Errors of accepting, such as too few file descriptors.
    pub accept_errors: u64,
    /// Closed by the other end.
    pub closed_by_peer: u64,
    /// Broken: reset, or nobody acknowledged anything any more.
    pub closed_error: u64,
    /// Closed: the handshake of TLS or WebSocket failed.
    pub closed_handshake: u64,
    /// Closed: a handshake, the first message, or the rest of one did not come in time.
    pub closed_slow: u64,
    /// Closed: nothing came or went for a long time.
    pub closed_idle: u64,
    /// Closed: what came was not a sequence of the protocol's messages, which in most cases is SIP.
    pub closed_not_sip: u64,
    /// Closed: a message was too large.
    pub closed_too_large: u64,
    /// Closed: too much waited for a peer that does not read.
    pub closed_not_read: u64,
    /// Could not be made.
    pub unreachable: u64,
}

impl ConnectionStatistics {
    /// Connections that were not taken.
    pub(crate) fn refused(&self) -> u64 {
        self.refused_max + self.refused_source + self.accept_errors
    }

    pub(super) fn ended(&mut self, reason: Reason) {
        *match reason {
            Reason::Peer => &mut self.closed_by_peer,
            Reason::Error => &mut self.closed_error,
            Reason::Handshake => &mut self.closed_handshake,
            Reason::Slow => &mut self.closed_slow,
            Reason::Idle => &mut self.closed_idle,
            Reason::Malformed => &mut self.closed_not_sip,
            Reason::TooLarge => &mut self.closed_too_large,
            Reason::NotRead => &mut self.closed_not_read,
            Reason::Unreachable => &mut self.unreachable,
        } += 1;
    }
}
