//! The maps (their values are described in `proxy_common::layout`) and all access to them.
//!
//! Entries of array maps are memory that other CPUs and user space change at any time. So no reference to one is ever
//! made: fields are read and written whole, each once, by volatile accesses of their own size, and what several CPUs
//! change is changed by atomic instructions. Entries live as long as the program that refers to their map.
//!
//! `core` has no atomic read-modify-write operations for this target; two lines of assembler stand in for them.

use aya_ebpf::{
    Global,
    btf_maps::{Array, DevMap, PerCpuArray, RingBuf},
    macros::btf_map,
};
use core::{arch::asm, mem::offset_of};
use proxy_common::{
    latch::Terms,
    layout::{Component, Drops, LatchEvent, Leg, LegState, NextHop},
    locals::{self, Local},
    verdict::{Counters, Verdict},
};

/// `BPF_F_MMAPABLE`: user space maps these arrays into its memory, so their values begin on a page.
const MAPPED: usize = 1 << 10;

// Sizes are defaults; the loader sets them.
#[btf_map]
static LEGS: Array<Leg, 16_384, MAPPED> = Array::new();
#[btf_map]
static LEG_STATE: Array<LegState, 16_384, MAPPED> = Array::new();
#[btf_map]
static LOCALS: Array<Local, { locals::SLOTS }> = Array::new();
#[btf_map]
static NEXT_HOPS: Array<NextHop, 1_024> = Array::new();
#[btf_map]
static DEVICES: DevMap<64> = DevMap::new();
#[btf_map]
static COUNTERS: PerCpuArray<Counters, 1> = PerCpuArray::new();
#[btf_map]
static EVENTS: RingBuf<LatchEvent, 262_144> = RingBuf::new();

/// The seed under which every media address has a slot of its own (`locals::find_seed`); set by the loader.
#[unsafe(no_mangle)]
static LOCALS_SEED: Global<u32> = Global::new(0);

/// One volatile read of a field of a map entry.
macro_rules! read {
    ($entry:expr, $field:ident) => {
        // SAFETY: the pointer came from a lookup of this type (private to this module), so it is aligned and good while
        // the program runs, and every bit pattern of these integers is a value.
        unsafe { (&raw const (*$entry).$field).read_volatile() }
    };
}

/// Counts how a packet left the program.
#[inline(always)]
pub(crate) fn count(verdict: Verdict) {
    if let Some(counters) = COUNTERS.get_ptr_mut(0) {
        // SAFETY: the entry is this CPU's own, one XDP program at a time runs on a CPU, and `Counters` is one u64 for
        // each verdict in the order of their numbers (tested beside it).
        unsafe { *counters.cast::<u64>().add(verdict as usize) += 1 }
    }
}

/// Tells user space of a latch; nobody waits for it, and a full buffer loses it.
#[inline(always)]
pub(crate) fn tell(event: &LatchEvent) {
    let _ = EVENTS.output(event, 0);
}

/// Sets the packet's way out, for when the program returns `XDP_REDIRECT`; false where the slot has no device.
#[inline(always)]
pub(crate) fn redirect(device: u32) -> bool {
    DEVICES.redirect(device, 0).is_ok()
}

/// Which leg a port belongs to.
#[derive(Clone, Copy)]
pub(crate) struct Spot {
    /// Index in `LEGS` and `LEG_STATE`.
    pub(crate) leg: u32,
    /// 0 RTP, 1 RTCP.
    pub(crate) component: u32,
}

/// A media address of the relay, given in memory order.
#[inline(always)]
pub(crate) fn local(address: u32) -> Option<LocalEntry> {
    const { assert!(offset_of!(Local, address) == 0 && align_of::<Local>() == 8) }
    let entry = LOCALS.get_ptr(locals::slot(address, LOCALS_SEED.load()))?;
    (load_v4(entry.cast()) == Some(address.to_ne_bytes())).then_some(LocalEntry(entry))
}

/// An entry of `LOCALS`.
#[derive(Clone, Copy)]
pub(crate) struct LocalEntry(*const Local);

impl LocalEntry {
    /// The leg and the component that `port` is, if it is in the range.
    #[inline(always)]
    pub(crate) fn spot(self, port: u16) -> Option<Spot> {
        let range = Local {
            port_base: read!(self.0, port_base),
            ports: read!(self.0, ports),
            first_leg: read!(self.0, first_leg),
            ..Local::default()
        };
        range.leg_of(port).map(|(leg, component)| Spot { leg, component })
    }

    /// Index of the interface by which packets to the address arrive.
    #[inline(always)]
    pub(crate) fn interface(self) -> u32 {
        read!(self.0, interface)
    }
}

/// Both entries of a leg.
#[inline(always)]
pub(crate) fn leg(index: u32) -> Option<(LegEntry, StateEntry)> {
    Some((LegEntry(LEGS.get_ptr(index)?), StateEntry(LEG_STATE.get_ptr_mut(index)?)))
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

    /// Address (memory order) and port that packets leave the peer leg from.
    #[inline(always)]
    pub(crate) fn out(self, component: u32) -> (u32, u16) {
        const { assert!(offset_of!(Leg, out_address) % 4 == 0) }
        let v4 = self.0.cast::<u32>().wrapping_add(offset_of!(Leg, out_address) / 4 + 3);
        (load(v4), read!(self.0, out_port).wrapping_add(component as u16))
    }

    #[inline(always)]
    pub(crate) fn next_hop(self, via_signalling: bool) -> Option<Hop> {
        let index = if via_signalling { read!(self.0, next_hop_signalling) } else { read!(self.0, next_hop_remote) };
        NEXT_HOPS.get_ptr(index as u32).map(Hop)
    }

    /// What learning needs of the entry: only whole if nobody wrote meanwhile, which its generation tells.
    #[inline(always)]
    pub(crate) fn terms(self) -> Terms {
        const { assert!(offset_of!(Leg, remote_address) % 8 == 0 && offset_of!(Leg, signalling_address) % 8 == 0) }
        let words = self.0.cast::<u64>();
        let types = self.0.cast::<u32>().wrapping_add(offset_of!(Leg, payload_types) / 4);
        Terms {
            remote_address: load_v4(words.wrapping_add(offset_of!(Leg, remote_address) / 8)),
            signalling_address: load_v4(words.wrapping_add(offset_of!(Leg, signalling_address) / 8)),
            remote_port: read!(self.0, remote_port),
            remote_rtcp_port: read!(self.0, remote_rtcp_port),
            payload_types: [0, 1, 2, 3].map(|index| load(types.wrapping_add(index))),
            window_end_ns: read!(self.0, window_end_ns),
            peer: self.peer(),
            flags: read!(self.0, flags),
        }
    }
}

/// An entry of `LEG_STATE`: the datapath's.
#[derive(Clone, Copy)]
pub(crate) struct StateEntry(*mut LegState);

impl StateEntry {
    /// The state of a component, 0 or 1.
    #[inline(always)]
    pub(crate) fn component(self, component: u32) -> ComponentEntry {
        const { assert!(offset_of!(LegState, rtp) == 0 && offset_of!(LegState, rtcp) == 64) }
        let mut offset = component as u64;
        // SAFETY: the instructions change one register and nothing else. They are written out because the compiler
        // knows that there are two components and the verifier, behind a call, does not.
        unsafe { asm!("{offset} &= 1", "{offset} <<= 6", offset = inout(reg) offset, options(pure, nomem, nostack)) }
        ComponentEntry(self.0.cast::<u8>().wrapping_add(offset as usize).cast())
    }

    /// Counts a packet that ended at this leg.
    #[inline(always)]
    pub(crate) fn dropped(self, verdict: Verdict) {
        let reason = match verdict {
            Verdict::DroppedSource | Verdict::DroppedRtcpSource => offset_of!(Drops, source),
            Verdict::DroppedFormat | Verdict::DroppedPayloadType => offset_of!(Drops, format),
            Verdict::DroppedDestination => offset_of!(Drops, destination),
            Verdict::DroppedTtl | Verdict::DroppedNextHop | Verdict::DroppedLoop => offset_of!(Drops, path),
            // Of a leg that was closed meanwhile, or that nobody dropped.
            _ => return,
        };
        add(self.0.cast::<u64>().wrapping_add((offset_of!(LegState, drops) + reason) / 8), 1);
    }
}

/// One component of an entry of `LEG_STATE`.
#[derive(Clone, Copy)]
pub(crate) struct ComponentEntry(*mut u64);

impl ComponentEntry {
    /// The latched source, as the word of a `Remote`.
    #[inline(always)]
    pub(crate) fn source(self) -> u64 {
        load(self.0.wrapping_add(SOURCE))
    }

    /// The destination of packets that arrive here, as the word of a `Remote`.
    #[inline(always)]
    pub(crate) fn destination(self) -> u64 {
        load(self.0.wrapping_add(DESTINATION))
    }

    #[inline(always)]
    pub(crate) fn set_destination(self, word: u64) {
        let place = self.0.wrapping_add(DESTINATION);
        // SAFETY: as in `load`; one store of an aligned word.
        unsafe { place.write_volatile(word) }
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

    /// Counts a packet that arrived here and goes on; `octets` is its IP total length.
    #[inline(always)]
    pub(crate) fn forwarded(self, octets: u16) {
        add(self.0.wrapping_add(PACKETS), 1);
        add(self.0.wrapping_add(OCTETS), octets as u64);
    }
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

const SOURCE: usize = offset_of!(Component, source) / 8;
const DESTINATION: usize = offset_of!(Component, destination) / 8;
const PACKETS: usize = offset_of!(Component, packets) / 8;
const OCTETS: usize = offset_of!(Component, octets) / 8;

/// One volatile read of a place inside a map entry.
#[inline(always)]
fn load<T: Copy>(place: *const T) -> T {
    // SAFETY: the callers (all in this file) point at an aligned place inside an entry that holds integers only.
    unsafe { place.read_volatile() }
}

/// The IPv4 address in an IPv4-mapped one, read as two words.
#[inline(always)]
fn load_v4(words: *const u64) -> Option<[u8; 4]> {
    const PREFIX: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);
    let (high, low) = (load(words), load(words.wrapping_add(1)));
    (high == 0 && low as u32 == PREFIX).then_some(((low >> 32) as u32).to_ne_bytes())
}

/// Atomically adds to a word of a map entry.
#[inline(always)]
fn add(word: *mut u64, value: u64) {
    // SAFETY: as in `load`; the instruction changes that
    // word and no register.
    unsafe { asm!("lock *(u64 *)({word} + 0) += {value}", word = in(reg) word, value = in(reg) value) }
}

/// Atomically replaces a word of a map entry by `new` if it is `old`; returns what it was.
#[inline(always)]
fn compare_and_swap(word: *mut u64, old: u64, new: u64) -> u64 {
    let seen;
    // SAFETY: as in `add`; the instruction compares with r0 and returns the old value there.
    unsafe {
        asm!(
            "r0 = cmpxchg_64({word} + 0, r0, {new})",
            word = in(reg) word, new = in(reg) new, inout("r0") old => seen,
        );
    }
    seen
}
