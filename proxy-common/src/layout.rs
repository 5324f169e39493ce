//! The values of the BPF maps, byte for byte.
//!
//! A relayed packet touches few cache lines that are not hot anyway: half of one for its [`Leg`] and the first 80 bytes
//! of its [`LegState`]. Every map has one writer: `control` (user space) or `datapath` (the XDP program).
//!
//! | map | kind | value | writer |
//! |---|---|---|---|
//! | `LEGS` | array, mapped into user space | [`Leg`] | control |
//! | `LEG_STATE` | array, mapped into user space | [`LegState`] | datapath (1) |
//! | `LOCALS` | array | [`crate::locals::Local`] | control |
//! | `NEXT_HOPS` | array | [`NextHop`] | control |
//! | `DEVICES` | device map | interface index | control |
//! | `COUNTERS` | per-CPU array, one entry | [`crate::verdict::Counters`] | datapath |
//! | `EVENTS` | ring buffer | [`LatchEvent`] | datapath |
//!
//! (1) Before control opens a pair of ports for another stream it clears the addresses that were learned there: the
//! pair is closed then, so the datapath does not write.
//!
//! One entry of `LEGS` and `LEG_STATE` is one pair of ports: RTP on the even one, RTCP on the odd one above it. Its
//! index is `first_leg + (port - port_base) / 2` of the [`crate::locals::Local`] it belongs to.

use core::mem::{offset_of, size_of};

/// Names the layout. A change of a struct in this module changes this number.
pub const LAYOUT_VERSION: u32 = 2;

/// Generations are 15 bits wide and never 0 on an open leg.
pub const GENERATION_MASK: u16 = 0x7fff;

/// One side of a stream: what control says about a pair of ports.
///
/// The first 32 bytes serve every packet that arrives here; the rest is read only while no source is latched.
/// Control writes `generation` last when it opens an entry and first (as 0) when it changes or closes one.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leg {
    /// 0: closed. A changed value: forget what was learned.
    pub generation: u16,
    /// Generation of the peer leg; what the peer learned counts only under it.
    pub peer_generation: u16,
    /// See [`leg_flags`].
    pub flags: u32,
    /// Index of the leg on the other side of the stream, in the same maps.
    pub peer: u32,
    /// Index in `NEXT_HOPS` of the route to the peer leg's `remote_address`.
    pub next_hop_remote: u16,
    /// Index in `NEXT_HOPS` of the route to the peer leg's `signalling_address`.
    pub next_hop_signalling: u16,
    /// Slot in `LOCALS` of the address that packets leave from at the peer leg.
    pub out_local: u16,
    /// Source port of RTP that leaves at the peer leg, host order; RTCP leaves from the next one, or from the same with
    /// [`leg_flags::PEER_RTCP_MUX`].
    pub out_port: u16,
    /// What may arrive here, in 1/256 bytes for each 65,536 ns, IP total lengths; 0: anything.
    pub rate: u32,
    /// How much of it may come at once, bytes.
    pub burst: u32,
    /// RTP timestamp units for each ns, times 2^32; 0 where the clock is not known.
    pub clock: u32,

    /// Address in the session description that the remote side sent, IPv4-mapped where it is IPv4; all zero where there
    /// is none (yet).
    pub remote_address: [u8; 16],
    /// Address that the remote side's signalling came from; all zero where learning from it is not wanted.
    pub signalling_address: [u8; 16],
    /// Payload types that were negotiated: type `t` is bit `t % 32` of word `t / 32`.
    pub payload_types: [u32; 4],
    /// Until this time a better candidate may replace a latched one; `CLOCK_MONOTONIC`, ns.
    pub window_end_ns: u64,
    /// RTP port in the remote side's session description, host order; 0 where there is none.
    pub remote_port: u16,
    /// RTCP port there, host order.
    pub remote_rtcp_port: u16,
    /// How many bits of an IPv4 address must agree with one that signalling named.
    pub address_bits_v4: u8,
    /// The same for an IPv6 address.
    pub address_bits_v6: u8,
    /// Zero.
    pub reserved: u16,
}

/// Bits of [`Leg::flags`].
pub mod leg_flags {
    /// Packets may be sent to this leg's `remote_address` before a source is latched: the address is known to be right.
    pub const SEND_BEFORE_LATCH: u32 = 1 << 0;
    /// RTCP arrives on the RTP port (RFC 5761).
    pub const RTCP_MUX: u32 = 1 << 1;
    /// So it does at the peer leg.
    pub const PEER_RTCP_MUX: u32 = 1 << 2;
    /// Packets here are IPv6.
    pub const V6: u32 = 1 << 3;
    /// Packets at the peer leg are IPv6.
    pub const PEER_V6: u32 = 1 << 4;
    /// An address that signalling did not name may latch after a trial.
    pub const LATCH_ANY: u32 = 1 << 5;
    /// The latched source may come back with another port after a silence.
    pub const REBIND: u32 = 1 << 6;
    /// STUN is relayed.
    pub const CARRY_STUN: u32 = 1 << 7;
    /// DTLS is relayed, and its handshake latches.
    pub const CARRY_DTLS: u32 = 1 << 8;
    /// ZRTP is relayed.
    pub const CARRY_ZRTP: u32 = 1 << 9;
    /// Every datagram on the even port is relayed and latches: UDPTL.
    pub const CARRY_UDPTL: u32 = 1 << 10;
    /// Packets that arrive here leave with the DSCP in bits 16 to 21.
    pub const SET_DSCP: u32 = 1 << 11;
    /// Where the DSCP is.
    pub const DSCP_SHIFT: u32 = 16;
}

/// A remote transport address as the datapath keeps it: 64 bits, so that learning it is one compare-and-swap.
///
/// A source with port 0 is one whose IPv6 address is being written.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Remote {
    /// IPv4 address, network order; of an IPv6 one its [`crate::address::Address::fold`], and the address is in the
    /// field beside it.
    pub address: [u8; 4],
    /// Port, host order.
    pub port: u16,
    /// Low 15 bits: generation of the leg that learned it, 0 where nothing is. Top bit: see [`Remote::VIA_SIGNALLING`].
    pub tag: u16,
}

impl Remote {
    /// In a destination: the next hop is `next_hop_signalling`, not `next_hop_remote`.
    pub const VIA_SIGNALLING: u16 = 0x8000;

    /// The word that is compared and swapped; little-endian, as BPF is here.
    #[inline(always)]
    pub const fn to_word(self) -> u64 {
        u32::from_le_bytes(self.address) as u64 | (self.port as u64) << 32 | (self.tag as u64) << 48
    }

    /// The inverse of [`Remote::to_word`].
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        Self { address: (word as u32).to_le_bytes(), port: (word >> 32) as u16, tag: (word >> 48) as u16 }
    }

    /// The generation part of the tag.
    #[inline(always)]
    pub const fn generation(self) -> u16 {
        self.tag & GENERATION_MASK
    }
}

/// What the datapath knows about a leg. Counters only grow (those of 32 bits wrap around) and outlive calls: for a
/// call's share, subtract what they were when it began.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LegState {
    /// RTP, and what else is carried on the even port.
    pub rtp: Component,
    /// The token bucket: low half 1/256 bytes that are left, high half when that was, units of 65,536 ns.
    pub bucket: u64,
    /// What the RTP that was forwarded was like.
    pub quality: Quality,
    /// RTCP.
    pub rtcp: RtcpComponent,
    /// Packets that arrived here and went nowhere.
    pub drops: Drops,
    /// The latched RTP source, where it is IPv6.
    pub source_address: [u8; 16],
    /// Where RTP that arrives here goes, where that is IPv6.
    pub destination_address: [u8; 16],
}

/// RTP, the even port of a leg.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Component {
    /// The latched source: only its packets are accepted.
    pub source: Remote,
    /// Where packets that arrive here go: what the peer leg latched, under the peer's generation. It does not say which
    /// leg the peer was, so it must not outlive the stream.
    pub destination: Remote,
    /// Packets that arrived here and were forwarded.
    pub packets: u64,
    /// Their IP total lengths, bytes.
    pub octets: u64,
}

/// RTCP, the odd port of a leg, or the even one with rtcp-mux.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RtcpComponent {
    /// The latched source; not used with rtcp-mux, where it is that of RTP.
    pub source: Remote,
    /// As in [`Component`].
    pub destination: Remote,
    /// As in [`Component`].
    pub packets: u32,
    /// As in [`Component`].
    pub octets: u32,
}

/// Reception of RTP at a leg, as in RFC 3550 §6.4.1 and appendix A; times are the kernel's ticks in units of 1,048,576
/// ns. One CPU at a time is expected to receive a stream; if several do, an update may be lost.
///
/// While no source is latched, the trial of a candidate is kept here: its SSRC, in `highest` its last sequence number
/// and above it how many came in a row, in `transit` the source, in `last` when it began.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quality {
    /// SSRC of the last packet.
    pub ssrc: u32,
    /// Highest sequence number.
    pub highest: u32,
    /// Packets that the sequence numbers promise.
    pub expected: u32,
    /// Packets with a sequence number below the highest.
    pub reordered: u32,
    /// Packets with the highest sequence number once more.
    pub duplicates: u32,
    /// How often the SSRC changed.
    pub ssrc_changes: u32,
    /// Interarrival jitter, timestamp units times 16.
    pub jitter: u32,
    /// Arrival less timestamp of the last packet, timestamp units.
    pub transit: u32,
    /// When the first packet came; 0: none did.
    pub first: u32,
    /// When the last one came.
    pub last: u32,
}

/// Packets dropped at a leg, both components, by reason.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drops {
    /// From an address or port that may not send here.
    pub source: u32,
    /// Of a kind that is not relayed here, on the wrong one of the two ports, or of a payload type that was not
    /// negotiated.
    pub format: u32,
    /// The other side's address is not known yet.
    pub destination: u32,
    /// TTL used up, no next hop, or a loop inside the host.
    pub path: u32,
    /// More than the rate allows.
    pub rate: u32,
    /// Larger than the way out takes.
    pub size: u32,
}

/// A way out of the host.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NextHop {
    /// See [`next_hop_kind`].
    pub kind: u32,
    /// Interface index; equal to the one a packet came in on, the packet is transmitted instead of redirected.
    pub interface: u32,
    /// Slot in `DEVICES`.
    pub device: u32,
    /// Destination MAC address.
    pub destination_mac: [u8; 6],
    /// Source MAC address: that of the interface.
    pub source_mac: [u8; 6],
    /// Tag control information of the VLAN tags, outermost first, network order.
    pub vlan: [u16; 2],
    /// How many tags there are.
    pub tags: u16,
    /// The largest IP packet that leaves here, bytes; 0: not known.
    pub mtu: u16,
}

/// Values of [`NextHop::kind`].
pub mod next_hop_kind {
    /// Not known yet: packets are dropped and counted.
    pub const UNRESOLVED: u32 = 0;
    /// Out of `interface` to `destination_mac`.
    pub const NEIGHBOUR: u32 = 1;
    /// The destination is one of the relay's own addresses: the packet is handled again as one that arrives there.
    pub const LOCAL: u32 = 2;
}

/// Tells user space that a leg latched, moved to a better candidate, or followed its source to another port.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LatchEvent {
    /// The latched source.
    pub source: Remote,
    /// Its address, IPv4-mapped where it is IPv4.
    pub address: [u8; 16],
    /// When; `CLOCK_MONOTONIC`, ns.
    pub time_ns: u64,
    /// Index of the leg.
    pub leg: u32,
    /// 0: RTP, 1: RTCP.
    pub component: u16,
    /// [`crate::latch::Rank`] as a number: 1 other, 2 address, 3 exact; 4 the NAT gave another port.
    pub rank: u16,
}

const _: () = {
    assert!(size_of::<Leg>() == 96);
    assert!(offset_of!(Leg, out_local) == 16);
    assert!(offset_of!(Leg, remote_address) == 32);
    assert!(offset_of!(Leg, payload_types) == 64);
    assert!(offset_of!(Leg, window_end_ns) == 80);
    assert!(offset_of!(Leg, remote_port) == 88);
    assert!(size_of::<LegState>() == 160);
    assert!(offset_of!(LegState, bucket) == 32);
    assert!(offset_of!(LegState, quality) == 40);
    assert!(offset_of!(LegState, rtcp) == 80);
    assert!(offset_of!(LegState, drops) == 104);
    assert!(offset_of!(LegState, source_address) == 128);
    assert!(offset_of!(LegState, destination_address) == 144);
    assert!(size_of::<Remote>() == 8);
    assert!(size_of::<Component>() == 32);
    assert!(size_of::<RtcpComponent>() == 24);
    assert!(size_of::<Quality>() == 40);
    assert!(size_of::<Drops>() == 24);
    assert!(size_of::<NextHop>() == 32);
    assert!(size_of::<LatchEvent>() == 48 - 8);
};

#[cfg(feature = "user")]
mod pod {
    use super::{LatchEvent, Leg, LegState, NextHop};
    use crate::{locals::Local, verdict::Counters};

    macro_rules! pod {
        ($($type:ty),*) => {$(
            // SAFETY: `repr(C)`, made of integers and byte arrays only, without padding (sizes asserted beside each),
            // so every bit pattern is a value.
            unsafe impl aya::Pod for $type {}
        )*};
    }
    pod!(Leg, LegState, NextHop, LatchEvent, Local, Counters);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remote_is_the_word_that_memory_holds() {
        let remote = Remote { address: [203, 0, 113, 7], port: 40_000, tag: 3 | Remote::VIA_SIGNALLING };
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&remote.address);
        bytes[4..6].copy_from_slice(&remote.port.to_ne_bytes());
        bytes[6..].copy_from_slice(&remote.tag.to_ne_bytes());
        assert_eq!(remote.to_word(), u64::from_ne_bytes(bytes));
        assert_eq!(Remote::from_word(remote.to_word()), remote);
        assert_eq!(remote.generation(), 3);
    }
}
