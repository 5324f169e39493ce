//! Streams and legs as the engine sees them: what it asks of a datapath and what a datapath tells it.
//!
//! Commands are declarative: [`MediaCommand::Apply`] says how a stream is to be from now on, whatever it was before.

use std::{
    net::{IpAddr, SocketAddr},
    time::Instant,
};

pub mod allocator;
pub mod payload_types;
pub use payload_types::PayloadTypes;

/// Index of a realm in the configuration.
pub type RealmId = usize;

/// Names a stream for the life of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub u64);

/// One media description of a call: two legs that are each other's peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamSpec {
    /// The stream.
    pub id: StreamId,
    /// Its legs; their order stays the same for the life of the stream.
    pub legs: [LegSpec; 2],
}

/// One side of a stream in one realm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LegSpec {
    /// The realm that `local` belongs to.
    pub realm: RealmId,
    /// The relay's RTP address, port even; RTCP is the next port.
    pub local: SocketAddr,
    /// Whether `local` stood in a session description that was sent out. A closed leg drops all that arrives.
    pub open: bool,
    /// Addresses in the remote side's session description, once there is one.
    pub remote: Option<RemoteMedia>,
    /// Address that the remote side's signalling comes from, where media may come from it too.
    pub signalling: Option<IpAddr>,
    /// Payload types that were negotiated: only these are learned from.
    pub payload_types: PayloadTypes,
    /// Whether `remote` is known to be right, so that packets may go there before one came from it.
    pub send_before_latch: bool,
}

/// Where the remote side wants its media.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemoteMedia {
    /// RTP.
    pub rtp: SocketAddr,
    /// RTCP.
    pub rtcp: SocketAddr,
}

/// What the engine asks of a datapath.
#[allow(clippy::large_enum_variant, reason = "moved once, from the engine to the datapath")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MediaCommand {
    /// Make the stream like this. A leg whose `remote`, `signalling` and `open` are as before keeps what it learned; one
    /// in which they changed learns anew. The learning window of both legs starts now.
    Apply(StreamSpec),
    /// Close both legs for good; answered by [`MediaEvent::Released`] with the final counters.
    Release(StreamId),
}

/// What a datapath tells the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MediaEvent {
    /// A leg learned its remote address, or moved to a better candidate.
    Latched {
        /// The stream.
        stream: StreamId,
        /// Index in [`StreamSpec::legs`].
        leg: usize,
        /// RTCP, not RTP.
        rtcp: bool,
        /// The learned address.
        source: SocketAddr,
        /// When.
        at: Instant,
    },
    /// A stream could not be made as it was last applied; it is as it was before. Its call has no media.
    Failed {
        /// The stream.
        stream: StreamId,
    },
    /// Nothing was forwarded in either direction for the configured time. Repeated each time it passes again.
    Silent {
        /// The stream.
        stream: StreamId,
    },
    /// Final counters of a stream: nothing is forwarded any more.
    Released {
        /// The stream.
        stream: StreamId,
        /// What arrived at each leg, in the order of [`StreamSpec::legs`].
        counters: [LegCounters; 2],
    },
}

/// What arrived at a leg since its stream began. Octets are IP total lengths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LegCounters {
    /// RTP packets forwarded.
    pub rtp_packets: u64,
    /// Their octets.
    pub rtp_octets: u64,
    /// RTCP packets forwarded.
    pub rtcp_packets: u64,
    /// Their octets.
    pub rtcp_octets: u64,
    /// Dropped: from a source that may not send here.
    pub dropped_source: u64,
    /// Dropped: neither RTP nor RTCP, on the wrong port, or of a payload type that was not negotiated.
    pub dropped_format: u64,
    /// Dropped: the other side's address was not known yet.
    pub dropped_destination: u64,
    /// Dropped: TTL used up, no next hop, or a loop inside the host.
    pub dropped_path: u64,
}
