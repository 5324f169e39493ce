//! The relay's tables in user space: the same values as in the BPF maps, in memory that is mapped twice, once for the
//! relay and once for the control plane, which therefore treats them as it treats the kernel's.

use crate::datapath::control::mapped::{LEG_WORDS, Legs, Memory, STATE_WORDS, States};
use nix::{
    sys::eventfd::{EfdFlags, EventFd},
    sys::memfd::{MFdFlags, memfd_create},
};
use proxy_common::{
    layout::{LatchEvent, NextHop},
    locals::{self, Local},
    verdict::{Counters, Verdict},
};
use std::{
    ffi::CStr,
    fs::File,
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
};

const LOCAL_WORDS: usize = size_of::<Local>() / 8;
const HOP_WORDS: usize = size_of::<NextHop>() / 8;

/// What is the same for all frames.
#[derive(Clone, Debug)]
pub(super) struct Constants {
    pub(super) locals_seed: u32,
    pub(super) measure: bool,
    /// The interface in each slot of `DEVICES`.
    pub(super) devices: Vec<u32>,
}

/// How many entries there are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) legs: u32,
    pub(super) next_hops: u32,
    /// Bytes, as of the ring buffer.
    pub(super) events: u32,
}

/// The relay's side.
pub(super) struct Tables {
    pub(super) legs: Memory<LEG_WORDS>,
    pub(super) states: Memory<STATE_WORDS>,
    pub(super) locals: Memory<LOCAL_WORDS>,
    pub(super) next_hops: Memory<HOP_WORDS>,
    pub(super) constants: Constants,
    events: SyncSender<LatchEvent>,
    told: Arc<EventFd>,
    counts: Mutex<Vec<Arc<Counts>>>,
}

/// The control plane's side.
pub(super) struct Control {
    tables: Arc<Tables>,
    locals: Memory<LOCAL_WORDS>,
    next_hops: Memory<HOP_WORDS>,
    events: Receiver<LatchEvent>,
    told: Arc<EventFd>,
    /// They stay open to show, under `/proc/PID/fd`, the contents of the tables.
    _files: [OwnedFd; 4],
}

/// Both sides of the two big tables.
pub(super) struct Big {
    pub(super) legs: Legs,
    pub(super) states: States,
}

impl Tables {
    pub(super) fn new(sizes: Sizes, constants: Constants) -> io::Result<(Arc<Self>, Control, Big)> {
        let legs = memory(c"LEGS", sizes.legs, LEG_WORDS)?;
        let states = memory(c"LEG_STATE", sizes.legs, STATE_WORDS)?;
        let slots = locals::SLOTS as u32;
        let locals = memory(c"LOCALS", slots, LOCAL_WORDS)?;
        let next_hops = memory(c"NEXT_HOPS", sizes.next_hops, HOP_WORDS)?;
        let (sender, events) = sync_channel(sizes.events as usize / size_of::<LatchEvent>());
        let told = Arc::new(EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?);
        let tables = Arc::new(Self {
            legs: Memory::of_map(&legs, sizes.legs)?,
            states: Memory::of_map(&states, sizes.legs)?,
            locals: Memory::of_map(&locals, slots)?,
            next_hops: Memory::of_map(&next_hops, sizes.next_hops)?,
            constants,
            events: sender,
            told: Arc::clone(&told),
            counts: Mutex::default(),
        });
        let big = Big { legs: Legs::of_map(&legs, sizes.legs)?, states: States::of_map(&states, sizes.legs)? };
        let control = Control {
            tables: Arc::clone(&tables),
            locals: Memory::of_map(&locals, slots)?,
            next_hops: Memory::of_map(&next_hops, sizes.next_hops)?,
            events,
            told,
            _files: [legs, states, locals, next_hops],
        };
        Ok((tables, control, big))
    }

    /// The interface in a slot of `DEVICES`.
    pub(super) fn device(&self, slot: u32) -> Option<u32> {
        self.constants.devices.get(slot as usize).copied().filter(|interface| *interface != 0)
    }

    /// What one more thread counts in.
    pub(super) fn new_counts(&self) -> Arc<Counts> {
        let counts = Arc::new(Counts(Verdict::ALL.iter().map(|_| AtomicU64::new(0)).collect()));
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&counts));
        counts
    }

    pub(super) fn tell(&self, event: LatchEvent) {
        if self.events.try_send(event).is_ok() {
            // It only fails if the counter is full, and then it is readable.
            let _ = self.told.write(1);
        }
    }
}

impl Control {
    pub(super) fn put_local(&self, slot: u32, local: &Local) {
        put(&self.locals, slot, words(local));
    }

    pub(super) fn put_next_hop(&self, index: u32, hop: &NextHop) {
        put(&self.next_hops, index, words(hop));
    }

    pub(super) fn next_hop(&self, index: u32) -> NextHop {
        value(get(&self.next_hops, index))
    }

    /// The next latch, if one happened.
    pub(super) fn next_event(&self) -> Option<LatchEvent> {
        match self.events.try_recv() {
            Ok(event) => Some(event),
            Err(_) => {
                // Events after this make it readable again: so check once more.
                let _ = self.told.read();
                self.events.try_recv().ok()
            }
        }
    }

    /// Readable when [`Control::next_event`] has one.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.told.as_fd()
    }

    /// All threads' counters together.
    pub(super) fn counters(&self) -> Counters {
        let mut sum = Counters::default();
        for counts in self.tables.counts.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            for (verdict, count) in Verdict::ALL.iter().zip(&counts.0) {
                let place = sum.of(*verdict);
                *place = place.wrapping_add(count.load(Ordering::Relaxed));
            }
        }
        sum
    }
}

/// One thread's counters, by verdict.
pub(super) struct Counts(Vec<AtomicU64>);

impl Counts {
    pub(super) fn add(&self, verdict: Verdict) {
        if let Some(count) = self.0.get(verdict as usize) {
            // Nobody else writes.
            count.store(count.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        }
    }
}

/// Memory that can be mapped, of zeros.
fn memory(name: &CStr, entries: u32, words: usize) -> io::Result<OwnedFd> {
    let fd = memfd_create(name, MFdFlags::MFD_CLOEXEC)?;
    let file = File::from(fd);
    file.set_len(u64::from(entries) * words as u64 * 8)?;
    Ok(file.into())
}

fn put<const WORDS: usize>(memory: &Memory<WORDS>, index: u32, value: [u64; WORDS]) {
    for (place, word) in memory.words(index).into_iter().flatten().zip(value) {
        place.store(word, Ordering::Release);
    }
}

fn get<const WORDS: usize>(memory: &Memory<WORDS>, index: u32) -> [u64; WORDS] {
    memory.words(index).map_or([0; WORDS], |words| words.each_ref().map(|word| word.load(Ordering::Acquire)))
}

/// A value of a table as words.
fn words<T: aya::Pod, const WORDS: usize>(value: &T) -> [u64; WORDS] {
    const { assert!(size_of::<T>() == WORDS * 8) }
    // SAFETY: `T` is plain data without padding (`Pod`) and as large.
    unsafe { std::mem::transmute_copy(value) }
}

/// The inverse of [`words`].
fn value<T: aya::Pod, const WORDS: usize>(words: [u64; WORDS]) -> T {
    const { assert!(size_of::<T>() == WORDS * 8) }
    // SAFETY: every bit pattern is a `T` (`Pod`), and it is as large.
    unsafe { std::mem::transmute_copy(&words) }
}
