//! The values of the BPF maps, byte for byte.
//!
//! A relayed packet touches two cache lines that are not hot anyway: the first of its [`Leg`] and the first of its
//! [`LegState`]. Every map has one writer: `control` (user space) or `datapath` (the XDP program).
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
//! (1) Before control opens a pair of ports for another stream it clears the addresses that were learned there: the pair
//! is closed then, so the datapath does not write.
//!
//! One entry of `LEGS` and `LEG_STATE` is one pair of ports: RTP on the even one, RTCP on the odd one above it. Its
//! index is `first_leg + (port - port_base) / 2` of the [`crate::locals::Local`] it belongs to.

use core::mem::{offset_of, size_of};

/// Names the layout. Whoever changes a struct of this module changes this number.
pub const LAYOUT_VERSION: u32 = 1;

/// Generations are 15 bits wide and never 0 on an open leg.
pub const GENERATION_MASK: u16 = 0x7fff;

/// One side of a stream: what control says about a pair of ports.
///
/// The first 64 bytes serve every packet that arrives here; the rest is read only while no source is latched.
/// Control writes `generation` last when it opens an entry and first (as 0) when it changes or closes one.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leg {
    /// 0: closed. Another value than before: forget what was learned.
    pub generation: u16,
    /// Generation of the peer leg; what the peer learned counts only under it.
    pub peer_generation: u16,
    /// See [`leg_flags`].
    pub flags: u32,
    /// Index of the leg on the other side of the stream, in the same maps.
    pub peer: u32,
    /// Index in `NEXT_HOPS` of the way to the peer leg's `remote_address`.
    pub next_hop_remote: u16,
    /// Index in `NEXT_HOPS` of the way to the peer leg's `signalling_address`.
    pub next_hop_signalling: u16,
    /// Source address of packets that leave at the peer leg, IPv4-mapped where it is IPv4.
    pub out_address: [u8; 16],
    /// Source port of RTP that leaves at the peer leg, host order; RTCP leaves from the next one.
    pub out_port: u16,
    /// Zero.
    pub reserved: [u8; 30],

    /// Address in the session description that the remote side sent; all zero where there is none (yet).
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
    /// Zero.
    pub reserved_learning: u32,
}

/// Bits of [`Leg::flags`].
pub mod leg_flags {
    /// Packets may be sent to this leg's `remote_address` before a source is latched: the address is known to be right.
    pub const SEND_BEFORE_LATCH: u32 = 1;
}

/// A remote transport address as the datapath keeps it: 64 bits, so that learning it is one compare-and-swap.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Remote {
    /// IPv4 address, network order.
    pub address: [u8; 4],
    /// Port, host order.
    pub port: u16,
    /// Low 15 bits: generation of the leg that learned it, 0 where nothing is. Top bit: see [`Remote::VIA_SIGNALLING`].
    pub tag: u16,
}

impl Remote {
    /// In a destination: the way is `next_hop_signalling`, not `next_hop_remote`.
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

/// What the datapath knows of a leg. Counters only grow and outlive calls: who wants a call's share subtracts what
/// they were when it began.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LegState {
    /// RTP, the even port.
    pub rtp: Component,
    /// Zero; room for the two IPv6 addresses of the RTP component.
    pub reserved: [u64; 4],
    /// RTCP, the odd port.
    pub rtcp: Component,
    /// Packets that arrived here and went nowhere.
    pub drops: Drops,
}

/// One port of a leg.
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

/// Packets dropped at a leg, both components, by reason.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drops {
    /// From an address or port that may not send here.
    pub source: u64,
    /// Neither RTP nor RTCP, on the wrong one of the two ports, or of a payload type that was not negotiated.
    pub format: u64,
    /// The other side's address is not known yet.
    pub destination: u64,
    /// TTL used up, no next hop, or a loop inside the host.
    pub path: u64,
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

/// Tells user space that a leg latched or moved to a better candidate.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LatchEvent {
    /// The latched source.
    pub source: Remote,
    /// When; `CLOCK_MONOTONIC`, ns.
    pub time_ns: u64,
    /// Index of the leg.
    pub leg: u32,
    /// 0: RTP, 1: RTCP.
    pub component: u16,
    /// [`crate::latch::Rank`] as a number: 1 address, 2 exact.
    pub rank: u16,
}

const _: () = {
    assert!(size_of::<Leg>() == 128);
    assert!(offset_of!(Leg, out_address) == 16);
    assert!(offset_of!(Leg, out_port) == 32);
    assert!(offset_of!(Leg, remote_address) == 64);
    assert!(offset_of!(Leg, payload_types) == 96);
    assert!(offset_of!(Leg, window_end_ns) == 112);
    assert!(offset_of!(Leg, remote_port) == 120);
    assert!(size_of::<LegState>() == 128);
    assert!(offset_of!(LegState, rtcp) == 64);
    assert!(offset_of!(LegState, drops) == 96);
    assert!(size_of::<Remote>() == 8);
    assert!(size_of::<Component>() == 32);
    assert!(size_of::<Drops>() == 32);
    assert!(size_of::<NextHop>() == 24);
    assert!(size_of::<LatchEvent>() == 24);
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
