//! The relay of user space alone, without a network: for tests that compare it with the XDP program.

use super::{
    super::control::indices::LegIndex,
    program::{self, Here, frame::Context},
    tables::{Big, Constants, Control, Sizes, Tables},
};
use proxy_common::{
    layout::{LatchEvent, Leg, LegState, NextHop},
    locals::Local,
    verdict::{Counters, Verdict},
};
use std::{
    cell::Cell,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// One relay, or one thread of it, with its tables.
pub struct Relay {
    here: Here,
    tables: Arc<Tables>,
    control: Arc<Mutex<Control>>,
    big: Arc<Big>,
    frame: Context,
}

impl Relay {
    /// An empty one.
    ///
    /// # Errors
    ///
    /// The kernel gives no memory.
    pub fn new(legs: u32, next_hops: u32, locals_seed: u32, devices: Vec<u32>) -> io::Result<Self> {
        let sizes = Sizes { legs, next_hops, events: 1 << 16 };
        let (tables, control, big) = Tables::new(sizes, Constants { locals_seed, measure: true, devices })?;
        let (control, big) = (Arc::new(Mutex::new(control)), Arc::new(big));
        Ok(Self { here: Here::new(Arc::clone(&tables)), tables, control, big, frame: Context::new(2_048) })
    }

    /// The same relay on another thread.
    pub fn thread(&self) -> Self {
        let (tables, control, big) = (Arc::clone(&self.tables), Arc::clone(&self.control), Arc::clone(&self.big));
        Self { here: Here::new(Arc::clone(&tables)), tables, control, big, frame: Context::new(2_048) }
    }

    fn control(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes an entry of `LEGS`, as control does.
    pub fn put_leg(&self, index: u32, leg: &Leg) {
        self.big.legs.put(LegIndex(index), leg);
    }

    /// Reads an entry of `LEG_STATE`.
    pub fn state(&self, index: u32) -> LegState {
        self.big.states.get(LegIndex(index))
    }

    /// Writes an entry of `LEG_STATE`, which otherwise only the relay writes.
    pub fn set_state(&self, index: u32, state: &LegState) {
        self.big.states.set(LegIndex(index), state);
    }

    /// Writes an entry of `LOCALS`.
    pub fn put_local(&self, slot: u32, local: &Local) {
        self.control().put_local(slot, local);
    }

    /// Writes an entry of `NEXT_HOPS`.
    pub fn put_next_hop(&self, index: u32, hop: &NextHop) {
        self.control().put_next_hop(index, hop);
    }

    /// The next latch, if one happened.
    pub fn next_event(&self) -> Option<LatchEvent> {
        self.control().next_event()
    }

    /// Frames by verdict.
    pub fn counters(&self) -> Counters {
        self.control().counters()
    }

    /// Handles a frame. Returns its verdict, and the frame afterwards.
    pub fn run(&self, frame: &[u8], ingress: u32) -> (Verdict, Vec<u8>) {
        for (place, byte) in self.frame.room().iter().zip(frame) {
            place.set(*byte);
        }
        self.frame.written(frame.len());
        let decision = program::handle(&self.here, &self.frame, ingress);
        (decision.verdict, self.frame.bytes().iter().map(Cell::get).collect())
    }
}
