//! Streams and legs as the engine sees them: its commands to a datapath and the events of a datapath.
//!
//! Commands are declarative: [`MediaCommand::Apply`] describes a stream as it must be from now on, whatever it was
//! before.

use serde::{Deserialize, Serialize};
use std::{
    net::{IpAddr, SocketAddr},
    time::Instant,
};

pub mod allocator;
pub mod bandwidth;
mod description;
pub mod payload_types;
pub mod quality;
mod realms;
pub use description::{Description, MediaPlan};
pub use payload_types::PayloadTypes;
pub use realms::{PerRealm, RealmId};

/// Names a stream for the life of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StreamId(pub u64);

/// One media description of a call: two legs that are each other's peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamSpec {
    /// The stream.
    pub id: StreamId,
    /// Its legs; their order stays the same for the life of the stream.
    pub legs: [LegSpec; 2],
}

/// One side of a stream in one realm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LegSpec {
    /// The realm that `local` belongs to.
    pub realm: RealmId,
    /// The relay's RTP address, port even; RTCP is the next port.
    pub local: SocketAddr,
    /// Whether `local` was in a session description that was sent out. A closed leg drops all that arrives.
    pub open: bool,
    /// Counts what the remote side stated: another number begins a new epoch, in which the leg learns again even where
    /// `remote` stays as it was.
    #[serde(default)]
    pub epoch: u32,
    /// Addresses in the remote side's session description, once there is one that counts: media may go there, and what
    /// comes from there is the best candidate.
    pub remote: Option<RemoteMedia>,
    /// Address that the remote side's signalling comes from, where media may come from it too.
    pub signalling: Option<IpAddr>,
    /// Payload types that were negotiated: only these are learned from.
    pub payload_types: PayloadTypes,
    /// Whether `remote` is known to be right, so that packets may go there before one came from it.
    pub send_before_latch: bool,
    /// RTP and RTCP share the RTP port on this side (RFC 5761).
    pub rtcp_mux: bool,
    /// What the realm and the negotiated media say of packets here.
    pub policy: LegPolicy,
}

/// How a leg learns, what it accepts and what its packets are marked with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LegPolicy {
    /// An address that neither session description nor signalling named may latch too, after four packets in sequence
    /// of one SSRC over at least 20 ms.
    pub latch_any: bool,
    /// A NAT may give the running stream another port of the same address.
    pub rebind: bool,
    /// Bits of an IPv4 and of an IPv6 address that must agree with the one that signalling named.
    pub address_bits: [u8; 2],
    /// The most that may arrive here; `None` is any.
    pub rate: Option<Rate>,
    /// DSCP (0 to 63) of packets that leave at this leg; `None` keeps what they had.
    pub dscp: Option<u8>,
    /// What is relayed besides RTP and RTCP.
    pub carry: Carry,
    /// RTP clock of the first negotiated codec, Hz; 0 where it is not known.
    pub clock_rate: u32,
}

impl Default for LegPolicy {
    fn default() -> Self {
        Self {
            latch_any: false,
            rebind: true,
            address_bits: [32, 128],
            rate: None,
            dscp: None,
            carry: Carry::default(),
            clock_rate: 0,
        }
    }
}

/// A token bucket, over IP total lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// Bytes a second that fill it.
    pub bytes_per_s: u32,
    /// Bytes it holds.
    pub burst_bytes: u32,
}

/// Datagrams that are relayed though they are neither RTP nor RTCP, by the first byte of RFC 7983. They never latch
/// anything, except a DTLS handshake and UDPTL where the leg carries that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carry {
    /// 0 to 3: STUN.
    pub stun: bool,
    /// 20 to 63: DTLS.
    pub dtls: bool,
    /// 16 to 19: ZRTP.
    pub zrtp: bool,
    /// The stream is T.38 over UDPTL: any datagram is its payload.
    pub udptl: bool,
}

/// Where the remote side wants its media.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Make the stream like this. A leg whose `epoch`, `remote`, `signalling` and `open` are as before keeps what it
    /// learned; a leg in which they changed learns again. The learning window of both legs starts now.
    Apply(StreamSpec),
    /// Close both legs for good; answered by [`MediaEvent::Released`] with the final counters.
    Release(StreamId),
}

/// What a datapath tells the engine.
#[allow(clippy::large_enum_variant, reason = "moved once, from the datapath to the engine")]
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
    /// A stream could not be made as it was last applied: its call has no media, or not all of it.
    Failed {
        /// The stream.
        stream: StreamId,
    },
    /// Nothing was forwarded in either direction for the configured time. Repeated each time it passes again.
    Silent {
        /// The stream.
        stream: StreamId,
    },
    /// Packets from an address or port that may not send to a leg came there, and were dropped. Reported at most once a
    /// second.
    Strangers {
        /// The stream.
        stream: StreamId,
        /// Index in [`StreamSpec::legs`].
        leg: usize,
        /// How many, since the last report.
        packets: u64,
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Dropped: more than the leg's rate.
    pub dropped_rate: u64,
    /// Dropped: larger than the way out takes.
    pub dropped_size: u64,
    /// How its RTP arrived.
    pub quality: Quality,
}

impl LegCounters {
    /// Adds those of a stream that came after.
    pub fn add(&mut self, later: &Self) {
        let Self {
            rtp_packets,
            rtp_octets,
            rtcp_packets,
            rtcp_octets,
            dropped_source,
            dropped_format,
            dropped_destination,
            dropped_path,
            dropped_rate,
            dropped_size,
            quality,
        } = later;
        self.rtp_packets += rtp_packets;
        self.rtp_octets += rtp_octets;
        self.rtcp_packets += rtcp_packets;
        self.rtcp_octets += rtcp_octets;
        self.dropped_source += dropped_source;
        self.dropped_format += dropped_format;
        self.dropped_destination += dropped_destination;
        self.dropped_path += dropped_path;
        self.dropped_rate += dropped_rate;
        self.dropped_size += dropped_size;
        self.quality.lost += quality.lost;
        self.quality.reordered += quality.reordered;
        self.quality.duplicates += quality.duplicates;
        self.quality.ssrc_changes += quality.ssrc_changes;
        self.quality.jitter_us = quality.jitter_us.or(self.quality.jitter_us);
    }
}

/// How RTP arrived at a leg (RFC 3550 §6.4.1 and appendix A).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quality {
    /// Packets that are missing by the sequence numbers.
    pub lost: u64,
    /// Packets that came after one with a higher sequence number.
    pub reordered: u64,
    /// Packets with the sequence number of the one before.
    pub duplicates: u64,
    /// How often another SSRC took over.
    pub ssrc_changes: u64,
    /// Interarrival jitter at the end, microseconds; none where the clock is not known or nothing came.
    pub jitter_us: Option<u64>,
}
