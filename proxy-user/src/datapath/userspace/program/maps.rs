//! Where the entries of the tables are, and what else the relay needs: clocks, counters, events.
//!
//! The relay's code calls these as it calls the kernel, without a context. [`Here`] is the context, one for each
//! thread.

use super::relay::packet_scratch::PacketScratch;
use crate::datapath::userspace::tables::{Counts, Tables};
use nix::time::{ClockId, clock_gettime};
use proxy_common::{
    layout::{LatchEvent, Leg, LegState, NextHop},
    locals::Local,
    verdict::Verdict,
};
use std::{
    cell::{Cell, UnsafeCell},
    ptr::NonNull,
    sync::Arc,
};

/// One thread's relay.
pub(in crate::datapath::userspace) struct Here {
    tables: Arc<Tables>,
    counts: Arc<Counts>,
    packet_scratch: UnsafeCell<PacketScratch>,
    /// The interface that the current frame is redirected to.
    interface: Cell<u32>,
}

thread_local! {
    /// Only set within [`Here::while_here`].
    static HERE: Cell<Option<NonNull<Here>>> = const { Cell::new(None) };
}

/// Ends what [`Here::while_here`] begins, also after a panic.
struct Leave;

impl Drop for Leave {
    fn drop(&mut self) {
        HERE.set(None);
    }
}

impl Here {
    pub(in crate::datapath::userspace) fn new(tables: Arc<Tables>) -> Self {
        let counts = tables.new_counts();
        Self { tables, counts, packet_scratch: UnsafeCell::new(PacketScratch::default()), interface: Cell::new(0) }
    }

    /// Runs the relay's code.
    pub(super) fn while_here<R>(&self, run: impl FnOnce() -> R) -> R {
        HERE.set(Some(NonNull::from(self)));
        let _leave = Leave;
        run()
    }

    /// Where the last frame was redirected to.
    pub(super) fn redirected(&self) -> u32 {
        self.interface.get()
    }
}

#[inline(always)]
fn here<R>(look: impl FnOnce(&Here) -> Option<R>) -> Option<R> {
    let here = HERE.get()?;
    // SAFETY: it is set while `while_here` borrows what it points to, and only for this thread.
    look(unsafe { here.as_ref() })
}

/// Where this thread keeps what it knows about the current datagram.
pub(crate) fn packet_scratch() -> Option<*mut PacketScratch> {
    here(|here| Some(here.packet_scratch.get()))
}

/// Counts how a packet left the relay.
pub(crate) fn count(verdict: Verdict) {
    here(|here| {
        here.counts.add(verdict);
        Some(())
    });
}

/// Reports a latch to the control plane; nothing waits for it, and a full queue loses it.
pub(crate) fn tell(event: &LatchEvent) {
    here(|here| {
        here.tables.tell(*event);
        Some(())
    });
}

/// Sets the interface that the frame leaves by; false if the slot has no device.
pub(crate) fn redirect(device: u32) -> bool {
    here(|here| {
        here.interface.set(here.tables.device(device)?);
        Some(())
    })
    .is_some()
}

pub(crate) fn locals_seed() -> u32 {
    here(|here| Some(here.tables.constants.locals_seed)).unwrap_or_default()
}

/// An entry of `LOCALS`.
pub(crate) fn local(slot: u32) -> Option<*const Local> {
    here(|here| here.tables.locals.place(slot)).map(|place| place.cast_const().cast())
}

/// An entry of `LEGS`.
pub(crate) fn leg(index: u32) -> Option<*const Leg> {
    here(|here| here.tables.legs.place(index)).map(|place| place.cast_const().cast())
}

/// An entry of `LEG_STATE`.
pub(crate) fn state(index: u32) -> Option<*mut LegState> {
    here(|here| here.tables.states.place(index)).map(<*mut u64>::cast)
}

/// An entry of `NEXT_HOPS`.
pub(crate) fn next_hop(index: u32) -> Option<*const NextHop> {
    here(|here| here.tables.next_hops.place(index)).map(|place| place.cast_const().cast())
}

/// Time at the last tick of the kernel, ns: cheap, and only useful for comparison with itself.
pub(crate) fn tick_ns() -> u64 {
    read(ClockId::CLOCK_MONOTONIC_COARSE)
}

/// `CLOCK_MONOTONIC`, ns.
pub(crate) fn now_ns() -> u64 {
    read(ClockId::CLOCK_MONOTONIC)
}

fn read(clock: ClockId) -> u64 {
    let time = clock_gettime(clock).map(|time| std::time::Duration::from(time).as_nanos());
    time.ok().and_then(|ns| u64::try_from(ns).ok()).unwrap_or_default()
}

/// Whether reception is measured.
pub(crate) fn measures() -> bool {
    here(|here| Some(here.tables.constants.measure)).unwrap_or_default()
}
