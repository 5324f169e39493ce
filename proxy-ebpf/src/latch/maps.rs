//! The maps (their values are described in `proxy_common::layout`), where their entries are, and what else the kernel
//! lends.

use crate::relay::packet_scratch::PacketScratch;
use aya_ebpf::{
    Global,
    btf_maps::{Array, DevMap, PerCpuArray, RingBuf},
    helpers::{bpf_jiffies64, bpf_ktime_get_ns},
    macros::btf_map,
};
use proxy_common::{
    layout::{LatchEvent, Leg, LegState, NextHop},
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

/// Of the datagram that is being handled; nobody else reads it.
#[btf_map]
static NOTE: PerCpuArray<PacketScratch, 1> = PerCpuArray::new();

/// The seed under which every media address has a slot of its own (`locals::find_seed`); set by the loader.
#[unsafe(no_mangle)]
static LOCALS_SEED: Global<u32> = Global::new(0);

/// What a tick of the kernel takes; set by the loader.
#[unsafe(no_mangle)]
static NS_PER_TICK: Global<u64> = Global::new(4_000_000);

/// Whether jitter, loss and the like are measured; set by the loader.
#[unsafe(no_mangle)]
static MEASURE: Global<u32> = Global::new(1);

/// Where this CPU keeps what it knows about the current datagram.
#[inline(always)]
pub(crate) fn packet_scratch() -> Option<*mut PacketScratch> {
    NOTE.get_ptr_mut(0)
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

/// The seed of `LOCALS`.
#[inline(always)]
pub(crate) fn locals_seed() -> u32 {
    LOCALS_SEED.load()
}

/// An entry of `LOCALS`.
#[inline(always)]
pub(crate) fn local(slot: u32) -> Option<*const Local> {
    LOCALS.get_ptr(slot)
}

/// An entry of `LEGS`.
#[inline(always)]
pub(crate) fn leg(index: u32) -> Option<*const Leg> {
    LEGS.get_ptr(index)
}

/// An entry of `LEG_STATE`.
#[inline(always)]
pub(crate) fn state(index: u32) -> Option<*mut LegState> {
    LEG_STATE.get_ptr_mut(index)
}

/// An entry of `NEXT_HOPS`.
#[inline(always)]
pub(crate) fn next_hop(index: u32) -> Option<*const NextHop> {
    NEXT_HOPS.get_ptr(index)
}

/// Time at the last tick of the kernel, ns: 1 to 10 ms late, cheap, and only good to be compared with itself.
#[inline(always)]
pub(crate) fn tick_ns() -> u64 {
    // SAFETY: the helper takes nothing and only reads a counter.
    unsafe { bpf_jiffies64() }.wrapping_mul(NS_PER_TICK.load())
}

/// `CLOCK_MONOTONIC`, ns. Reading it takes as long as half of everything else that is done for a packet.
#[inline(always)]
pub(crate) fn now_ns() -> u64 {
    // SAFETY: the helper takes nothing and only reads a clock.
    unsafe { bpf_ktime_get_ns() }
}

/// Whether reception is measured.
#[inline(always)]
pub(crate) fn measures() -> bool {
    MEASURE.load() != 0
}
