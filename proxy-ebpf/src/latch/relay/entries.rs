//! The entries of the maps, field by field; how a field is read and written is up to the platform (`memory`).

use super::{
    maps,
    memory::{add, add_u32, compare_and_swap, load, store},
};
use core::mem::offset_of;
use proxy_common::{
    address::{Address, Mask},
    latch::{self, SignalledRemote},
    layout::{Component, Drops, Leg, LegState, NextHop, Quality, RtcpComponent, leg_flags},
    locals::{self, Local},
    verdict::Verdict,
};

/// One read of a field of a map entry.
macro_rules! read {
    ($entry:expr, $field:ident) => {
        // SAFETY: the pointer came from a lookup of this type (private to this module), so the place is within the
        // entry.
        load(unsafe { &raw const (*$entry).$field })
    };
}

/// Which leg a port belongs to.
#[derive(Clone, Copy)]
pub(crate) struct LegPort {
    /// Index in `LEGS` and `LEG_STATE`.
    pub(crate) leg: u32,
    /// 0 RTP, 1 RTCP.
    pub(crate) component: u32,
}

/// A media address of the relay, given in memory order.
#[inline(always)]
pub(crate) fn local_v4(address: u32) -> Option<LocalEntry> {
    let entry = local(address)?;
    (entry.address() == Address::from_v4(address)).then_some(entry)
}

/// The same for IPv6.
#[inline(always)]
pub(crate) fn local_v6(address: Address) -> Option<LocalEntry> {
    let entry = local(address.fold_v6())?;
    (entry.address() == address).then_some(entry)
}

/// The address in a slot of `LOCALS`.
#[inline(always)]
pub(crate) fn local_at(slot: u16) -> Option<LocalEntry> {
    maps::local(slot.into()).map(LocalEntry)
}

#[inline(always)]
fn local(folded: u32) -> Option<LocalEntry> {
    maps::local(locals::slot(folded, maps::locals_seed())).map(LocalEntry)
}

/// An entry of `LOCALS`.
#[derive(Clone, Copy)]
pub(crate) struct LocalEntry(*const Local);

impl LocalEntry {
    #[inline(always)]
    pub(crate) fn address(self) -> Address {
        const { assert!(offset_of!(Local, address) == 0 && align_of::<Local>() == 8) }
        load_address(self.0.cast())
    }

    /// The address in memory order, if it is IPv4.
    #[inline(always)]
    pub(crate) fn v4(self) -> u32 {
        load(self.0.cast::<u32>().wrapping_add(3))
    }

    /// The leg and the component that `port` is, if it is in the range.
    #[inline(always)]
    pub(crate) fn leg_port(self, port: u16) -> Option<LegPort> {
        let range = Local {
            port_base: read!(self.0, port_base),
            ports: read!(self.0, ports),
            first_leg: read!(self.0, first_leg),
            ..Local::default()
        };
        range.leg_of(port).map(|(leg, component)| LegPort { leg, component })
    }

    /// Index of the interface by which packets to the address arrive.
    #[inline(always)]
    pub(crate) fn interface(self) -> u32 {
        read!(self.0, interface)
    }

    /// Identifiers of the VLAN tags that they come with.
    #[inline(always)]
    pub(crate) fn vlan(self) -> [u16; 2] {
        read!(self.0, vlan)
    }
}

/// Both entries of a leg.
#[inline(always)]
pub(crate) fn leg(index: u32) -> Option<(LegEntry, StateEntry)> {
    Some((LegEntry(maps::leg(index)?), StateEntry(maps::state(index)?)))
}

/// An entry of `LEGS`: control's.
#[derive(Clone, Copy)]
pub(crate) struct LegEntry(*const Leg);

impl LegEntry {
    #[inline(always)]
    pub(crate) fn generation(self) -> u16 {
        read!(self.0, generation)
    }

    #[inline(always)]
    pub(crate) fn peer_generation(self) -> u16 {
        read!(self.0, peer_generation)
    }

    #[inline(always)]
    pub(crate) fn peer(self) -> u32 {
        read!(self.0, peer)
    }

    #[inline(always)]
    pub(crate) fn flags(self) -> u32 {
        read!(self.0, flags)
    }

    /// The address that packets leave from at the peer leg.
    #[inline(always)]
    pub(crate) fn out(self) -> Option<LocalEntry> {
        local_at(read!(self.0, out_local))
    }

    /// The port of RTP there.
    #[inline(always)]
    pub(crate) fn out_port(self) -> u16 {
        read!(self.0, out_port)
    }

    /// Rate and burst.
    #[inline(always)]
    pub(crate) fn rate(self) -> (u32, u32) {
        (read!(self.0, rate), read!(self.0, burst))
    }

    #[inline(always)]
    pub(crate) fn clock(self) -> u32 {
        read!(self.0, clock)
    }

    #[inline(always)]
    pub(crate) fn next_hop(self, via_signalling: bool) -> Option<Hop> {
        let index = if via_signalling { read!(self.0, next_hop_signalling) } else { read!(self.0, next_hop_remote) };
        maps::next_hop(index as u32).map(Hop)
    }

    /// Who may send to a component: only consistent if nobody wrote in the meantime, which the generation tells.
    #[inline(always)]
    pub(crate) fn signalled_remote(self, component: u32, hide_from_verifier: impl Fn(u64) -> u64) -> SignalledRemote {
        let (flags, bits) = (self.flags(), (read!(self.0, address_bits_v4), read!(self.0, address_bits_v6)));
        SignalledRemote {
            remote_address: self.remote_address(),
            signalling_address: self.address(offset_of!(Leg, signalling_address)),
            mask: Mask::new(flags & leg_flags::V6 != 0, bits.0, bits.1).map(hide_from_verifier),
            port: self.remote_port(component),
            any: component == RTCP || flags & leg_flags::LATCH_ANY != 0,
        }
    }

    #[inline(always)]
    pub(crate) fn remote_address(self) -> Address {
        self.address(offset_of!(Leg, remote_address))
    }

    #[inline(always)]
    pub(crate) fn remote_port(self, component: u32) -> u16 {
        if component == RTP { read!(self.0, remote_port) } else { read!(self.0, remote_rtcp_port) }
    }

    #[inline(always)]
    pub(crate) fn window_end_ns(self) -> u64 {
        read!(self.0, window_end_ns)
    }

    /// Whether a payload type was negotiated.
    #[inline(always)]
    pub(crate) fn negotiated(self, payload_type: u8) -> bool {
        let words = self.0.cast::<u32>().wrapping_add(offset_of!(Leg, payload_types) / 4);
        latch::has_payload_type(&[0, 1, 2, 3].map(|index| load(words.wrapping_add(index))), payload_type)
    }

    #[inline(always)]
    fn address(self, offset: usize) -> Address {
        const { assert!(offset_of!(Leg, remote_address) % 8 == 0 && offset_of!(Leg, signalling_address) % 8 == 0) }
        load_address(self.0.cast::<u64>().wrapping_add(offset / 8))
    }
}

/// An entry of `LEG_STATE`: the datapath's.
#[derive(Clone, Copy)]
pub(crate) struct StateEntry(*mut LegState);

/// The two components of a leg.
pub(crate) const RTP: u32 = 0;
pub(crate) const RTCP: u32 = 1;

impl StateEntry {
    /// Source and destination of a component.
    #[inline(always)]
    pub(crate) fn component(self, component: u32) -> ComponentEntry {
        const { assert!(RTP_AT.is_multiple_of(8) && RTCP_AT.is_multiple_of(8)) }
        let offset = if component == RTP { RTP_AT } else { RTCP_AT };
        ComponentEntry(self.0.cast::<u8>().wrapping_add(offset).cast())
    }

    /// Counts a packet that arrived here and is forwarded; `octets` is its IP total length.
    #[inline(always)]
    pub(crate) fn forwarded(self, component: u32, octets: u16) {
        let words = self.0.cast::<u64>();
        if component == RTP {
            add(words.wrapping_add((RTP_AT + offset_of!(Component, packets)) / 8), 1);
            add(words.wrapping_add((RTP_AT + offset_of!(Component, octets)) / 8), octets as u64);
        } else {
            let words = self.0.cast::<u32>();
            add_u32(words.wrapping_add((RTCP_AT + offset_of!(RtcpComponent, packets)) / 4), 1);
            add_u32(words.wrapping_add((RTCP_AT + offset_of!(RtcpComponent, octets)) / 4), octets as u32);
        }
    }

    /// Counts a packet that ended at this leg.
    #[inline(always)]
    pub(crate) fn dropped(self, verdict: Verdict) {
        let reason = match verdict {
            Verdict::DroppedSource | Verdict::DroppedRtcpSource | Verdict::DroppedTrial => offset_of!(Drops, source),
            Verdict::DroppedFormat
            | Verdict::DroppedPayloadType
            | Verdict::DroppedStun
            | Verdict::DroppedDtls
            | Verdict::DroppedZrtp
            | Verdict::DroppedKeepalive => offset_of!(Drops, format),
            Verdict::DroppedDestination => offset_of!(Drops, destination),
            Verdict::DroppedTtl | Verdict::DroppedNextHop | Verdict::DroppedLoop => offset_of!(Drops, path),
            Verdict::DroppedRate => offset_of!(Drops, rate),
            Verdict::DroppedSize => offset_of!(Drops, size),
            // For a leg that was closed in the meantime, or a verdict that is not a drop.
            _ => return,
        };
        add_u32(self.0.cast::<u32>().wrapping_add((offset_of!(LegState, drops) + reason) / 4), 1);
    }

    /// The token bucket.
    #[inline(always)]
    pub(crate) fn bucket(self) -> u64 {
        load(self.0.cast::<u64>().wrapping_add(offset_of!(LegState, bucket) / 8))
    }

    #[inline(always)]
    pub(crate) fn set_bucket(self, bucket: u64) {
        store(self.0.cast::<u64>().wrapping_add(offset_of!(LegState, bucket) / 8), bucket);
    }

    #[inline(always)]
    pub(crate) fn quality(self) -> QualityEntry {
        QualityEntry(self.0.cast::<u8>().wrapping_add(offset_of!(LegState, quality)).cast())
    }

    /// The latched RTP source, where it is IPv6; only valid while its word says so.
    #[inline(always)]
    pub(crate) fn source_address(self) -> Address {
        load_address(self.words(offset_of!(LegState, source_address)))
    }

    #[inline(always)]
    pub(crate) fn set_source_address(self, address: Address) {
        store_address(self.words(offset_of!(LegState, source_address)), address);
    }

    #[inline(always)]
    pub(crate) fn destination_address(self) -> Address {
        load_address(self.words(offset_of!(LegState, destination_address)))
    }

    #[inline(always)]
    pub(crate) fn set_destination_address(self, address: Address) {
        store_address(self.words(offset_of!(LegState, destination_address)), address);
    }

    #[inline(always)]
    fn words(self, offset: usize) -> *mut u64 {
        self.0.cast::<u64>().wrapping_add(offset / 8)
    }
}

/// Source and destination of a component in an entry of `LEG_STATE`.
#[derive(Clone, Copy)]
pub(crate) struct ComponentEntry(*mut u64);

impl ComponentEntry {
    /// The latched source, as the word of a `Remote`.
    #[inline(always)]
    pub(crate) fn source(self) -> u64 {
        load(self.0.wrapping_add(SOURCE))
    }

    #[inline(always)]
    pub(crate) fn set_source(self, word: u64) {
        store(self.0.wrapping_add(SOURCE), word);
    }

    /// The destination of packets that arrive here, as the word of a `Remote`.
    #[inline(always)]
    pub(crate) fn destination(self) -> u64 {
        load(self.0.wrapping_add(DESTINATION))
    }

    #[inline(always)]
    pub(crate) fn set_destination(self, word: u64) {
        store(self.0.wrapping_add(DESTINATION), word);
    }

    /// Replaces the source if it is still `old`; returns what it was.
    #[inline(always)]
    pub(crate) fn swap_source(self, old: u64, new: u64) -> u64 {
        compare_and_swap(self.0.wrapping_add(SOURCE), old, new)
    }

    /// Replaces the destination if it is still `old`; returns what it was.
    #[inline(always)]
    pub(crate) fn swap_destination(self, old: u64, new: u64) -> u64 {
        compare_and_swap(self.0.wrapping_add(DESTINATION), old, new)
    }
}

/// The `Quality` in an entry of `LEG_STATE`.
#[derive(Clone, Copy)]
pub(crate) struct QualityEntry(*mut Quality);

macro_rules! fields {
    ($($field:ident $set:ident,)*) => {
        impl QualityEntry {
            $(
                #[inline(always)]
                pub(crate) fn $field(self) -> u32 {
                    read!(self.0, $field)
                }

                #[inline(always)]
                pub(crate) fn $set(self, value: u32) {
                    store(self.0.cast::<u32>().wrapping_add(offset_of!(Quality, $field) / 4), value);
                }
            )*
        }
    };
}

fields! {
    ssrc set_ssrc,
    highest set_highest,
    expected set_expected,
    reordered set_reordered,
    duplicates set_duplicates,
    ssrc_changes set_ssrc_changes,
    jitter set_jitter,
    transit set_transit,
    first set_first,
    last set_last,
}

/// An entry of `NEXT_HOPS`: control's.
#[derive(Clone, Copy)]
pub(crate) struct Hop(*const NextHop);

impl Hop {
    #[inline(always)]
    pub(crate) fn kind(self) -> u32 {
        read!(self.0, kind)
    }

    #[inline(always)]
    pub(crate) fn interface(self) -> u32 {
        read!(self.0, interface)
    }

    #[inline(always)]
    pub(crate) fn device(self) -> u32 {
        read!(self.0, device)
    }

    /// The largest IP packet, bytes; 0: not known.
    #[inline(always)]
    pub(crate) fn mtu(self) -> u16 {
        read!(self.0, mtu)
    }

    /// How many VLAN tags frames have.
    #[inline(always)]
    pub(crate) fn tags(self) -> u16 {
        read!(self.0, tags) & 3
    }

    /// Their control information, network order.
    #[inline(always)]
    pub(crate) fn vlan(self) -> [u16; 2] {
        read!(self.0, vlan)
    }

    /// Destination and source MAC address, in the order of the Ethernet header, as three words.
    #[inline(always)]
    pub(crate) fn macs(self) -> [u32; 3] {
        const {
            assert!(offset_of!(NextHop, destination_mac) % 4 == 0);
            assert!(offset_of!(NextHop, source_mac) == offset_of!(NextHop, destination_mac) + 6);
        }
        let words = self.0.cast::<u32>().wrapping_add(offset_of!(NextHop, destination_mac) / 4);
        [load(words), load(words.wrapping_add(1)), load(words.wrapping_add(2))]
    }
}

const RTP_AT: usize = offset_of!(LegState, rtp);
const RTCP_AT: usize = offset_of!(LegState, rtcp);
const SOURCE: usize = offset_of!(Component, source) / 8;
const DESTINATION: usize = offset_of!(Component, destination) / 8;
const _: () = assert!(
    offset_of!(RtcpComponent, source) / 8 == SOURCE && offset_of!(RtcpComponent, destination) / 8 == DESTINATION
);

#[inline(always)]
fn load_address(words: *const u64) -> Address {
    Address([load(words), load(words.wrapping_add(1))])
}

#[inline(always)]
fn store_address(words: *mut u64, address: Address) {
    let Address([high, low]) = address;
    store(words, high);
    store(words.wrapping_add(1), low);
}
