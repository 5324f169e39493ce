//! What every protocol needs; it knows the syntax of none.
//!
//! | file | what it decides |
//! |---|---|
//! | `admission` | whether one more call is within the limits |
//! | `description` | what media descriptions say, and what offer and answer agree on |
//! | `session` | the media of one call |
//! | `timers`, `tracked` | what is due, and what was touched |

pub(crate) mod admission;
pub(crate) mod description;
pub(crate) mod session;
pub(crate) mod timers;
pub(crate) mod tracked;

use crate::{
    accounting::Cdr,
    flow::Flow,
    media::{MediaCommand, MediaEvent, RealmId},
};
use serde::Serialize;
use std::net::SocketAddr;

/// Something that happened.
#[allow(clippy::large_enum_variant, reason = "made where it is handled")]
#[derive(Debug)]
pub enum Input<'a> {
    /// A datagram arrived at a realm's signalling address.
    Datagram {
        /// The realm.
        realm: RealmId,
        /// Source of its IP and UDP headers.
        source: SocketAddr,
        /// Its payload.
        bytes: &'a [u8],
    },
    /// A message arrived over a connection.
    Message {
        /// The realm.
        realm: RealmId,
        /// The connection and its other end.
        source: Flow,
        /// The message, from its start line to the end of its body.
        bytes: &'a [u8],
    },
    /// A connection that messages came over is gone. Its number will not come again.
    Closed {
        /// The realm.
        realm: RealmId,
        /// The connection and its other end.
        flow: Flow,
    },
    /// What was sent there without naming a connection is lost: none could be made.
    Unreachable {
        /// The realm.
        realm: RealmId,
        /// The destination, as it was in [`Output::Send`].
        flow: Flow,
    },
    /// The datapath reports.
    Media(MediaEvent),
}

/// Something to do.
#[allow(clippy::large_enum_variant, reason = "moved once, from the queue to whoever does it")]
#[derive(Debug)]
pub enum Output {
    /// Send a message from a realm's signalling address.
    Send {
        /// The realm.
        realm: RealmId,
        /// Where to, and how.
        destination: Flow,
        /// The message.
        bytes: Vec<u8>,
    },
    /// Change the datapath.
    Media(MediaCommand),
    /// Write a call's record.
    Record(Box<Cdr>),
}

/// What the engine counted since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Statistics {
    /// Datagrams that were keep-alives.
    pub keepalives_received: u64,
    /// Datagrams that were no SIP message.
    pub unparsable: u64,
    /// Requests refused because they break the protocol.
    pub refused: u64,
    /// Datagrams in a core realm from another address than the softswitch's.
    pub foreign: u64,
    /// Responses to nothing that was asked.
    pub stray_responses: u64,
    /// ACKs that belong to nothing.
    pub stray_acks: u64,
    /// Requests that were retransmissions.
    pub retransmissions_received: u64,
    /// Messages that were retransmitted.
    pub retransmissions_sent: u64,
    /// Requests refused because a limit was reached.
    pub limited: u64,
    /// Calls, and more media in calls, refused because a realm or a user would have too much.
    pub not_admitted: u64,
    /// Streams for which the datapath had no room, or that it could not serve: their calls ended.
    pub media_failed: u64,
    /// Media packets of calls that came from an address or port that may not send there.
    pub strangers: u64,
    /// Messages to a terminal whose connection is gone.
    pub undeliverable: u64,
}

/// How much is going on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Load {
    /// Calls, from INVITE until the last counters came.
    pub calls: usize,
    /// Dialogs, those included that are kept for stragglers.
    pub dialogs: usize,
    /// Bindings.
    pub registrations: usize,
    /// Transactions of both kinds.
    pub transactions: usize,
    /// Connections that messages came over.
    pub connections: usize,
    /// Port pairs in use, resting ones left out.
    pub port_pairs: usize,
    /// Entries of the alarm clock.
    pub alarms: usize,
}
