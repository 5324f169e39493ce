//! What is counted, and how much is going on.

use serde::Serialize;

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
    /// Messages in calls and dialogs from an address that may not act there.
    pub strangers_refused: u64,
    /// Messages of strangers that were dropped unread, as there were too many.
    pub strangers_dropped: u64,
    /// Requests of terminals that the softswitch challenged (401, 407): without credentials, or with an old nonce.
    pub challenges: u64,
    /// Requests of terminals that it refused for who they are: 403, and 401 or 407 to credentials.
    pub credentials_refused: u64,
    /// Messages that were not sent to an address that has not proved itself, as more than three times what came from
    /// there.
    pub withheld: u64,
    /// States that cannot be; each is a fault of this program.
    pub inconsistencies: u64,
}

/// How much is going on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Load {
    /// Calls, from INVITE until the last counters came.
    pub calls: usize,
    /// Dialogs, including ended ones that are kept for late messages.
    pub dialogs: usize,
    /// Bindings.
    pub registrations: usize,
    /// Transactions of both kinds.
    pub transactions: usize,
    /// Connections that messages came over.
    pub connections: usize,
    /// Port pairs in use, resting ones left out.
    pub port_pairs: usize,
    /// Port pairs that rest after a call.
    pub resting_port_pairs: usize,
    /// Timers that are set.
    pub timers: usize,
}
