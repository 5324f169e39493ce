//! The two big arrays, `LEGS` and `LEG_STATE`, as memory that user space and the XDP program share.
//!
//! The kernel maps an array of values that are whole words without gaps (`BPF_F_MMAPABLE`). Both sides access it at the
//! same time, so user space does it by atomic 64-bit words only and never makes a reference to a value.

use super::indices::LegIndex;
use proxy_common::layout::{Component, Leg, LegState, Quality, RtcpComponent};
use std::{
    io,
    mem::offset_of,
    os::fd::{AsFd, AsRawFd},
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering, fence},
};

/// `LEGS`: written here, read by the XDP program.
pub(in crate::datapath) struct Legs(Memory<LEG_WORDS>);

impl Legs {
    /// Maps the array behind `map`, which has `entries` values.
    pub(in crate::datapath) fn of_map(map: impl AsFd, entries: u32) -> io::Result<Self> {
        Memory::of_map(map, entries).map(Self)
    }

    /// Puts a value in place. The XDP program sees the old one, a closed leg, or the new one: generation, peer
    /// generation and flags are one word, which is cleared first and stored last.
    ///
    /// An index outside the array is ignored.
    pub(in crate::datapath) fn put(&self, index: LegIndex, leg: &Leg) {
        let Some(words) = self.0.words(index.0) else { return };
        let new = words_of_leg(leg);
        let [head, body @ ..] = words;
        let [new_head, new_body @ ..] = &new;
        if body.iter().zip(new_body).any(|(word, new)| word.load(Ordering::Relaxed) != *new) {
            head.store(0, Ordering::Relaxed);
            fence(Ordering::Release);
            for (word, new) in body.iter().zip(new_body) {
                word.store(*new, Ordering::Relaxed);
            }
        }
        head.store(*new_head, Ordering::Release);
    }

    /// Closes a leg; the rest of the value stays.
    pub(super) fn close(&self, index: LegIndex) {
        if let Some([head, ..]) = self.0.words(index.0) {
            head.store(0, Ordering::Release);
        }
    }

    /// Whether an entry is open, or belongs to a stream with one that is.
    pub(super) fn is_used(&self, index: LegIndex) -> bool {
        self.0.words(index.0).is_some_and(|[head, ..]| head.load(Ordering::Acquire) != 0)
    }

    /// What stands there.
    #[cfg(test)]
    pub(super) fn get(&self, index: LegIndex) -> Leg {
        leg_of_words(self.0.words(index.0).unwrap().each_ref().map(|word| word.load(Ordering::Acquire)))
    }

    #[cfg(test)]
    pub(super) fn anonymous(entries: u32) -> Self {
        Self(Memory::anonymous(entries).unwrap())
    }
}

/// `LEG_STATE`: written by the XDP program and read here, except by [`States::forget`].
pub(in crate::datapath) struct States(Memory<STATE_WORDS>);

impl States {
    /// Maps the array behind `map`, which has `entries` values.
    pub(in crate::datapath) fn of_map(map: impl AsFd, entries: u32) -> io::Result<Self> {
        Memory::of_map(map, entries).map(Self)
    }

    /// Each word of the value as it is at some moment during the call; all zero outside the array.
    pub(in crate::datapath) fn get(&self, index: LegIndex) -> LegState {
        match self.0.words(index.0) {
            Some(words) => state_of_words(words.each_ref().map(|word| word.load(Ordering::Relaxed))),
            None => LegState::default(),
        }
    }

    /// Clears what was learned at a pair of ports, not what was counted. Only for a leg that has been closed long
    /// enough that no packet of its last call is under way: then nobody else writes here.
    pub(super) fn forget(&self, index: LegIndex) {
        let Some(words) = self.0.words(index.0) else { return };
        for (word, _) in words.iter().zip(LEARNED).filter(|(_, learned)| *learned) {
            word.store(0, Ordering::Release);
        }
    }

    #[cfg(test)]
    pub(super) fn anonymous(entries: u32) -> Self {
        Self(Memory::anonymous(entries).unwrap())
    }

    /// What the relay would do; for tests.
    pub(in crate::datapath) fn set(&self, index: LegIndex, state: &LegState) {
        let Some(words) = self.0.words(index.0) else { return };
        for (word, new) in words.iter().zip(words_of_state(state)) {
            word.store(new, Ordering::Relaxed);
        }
    }
}

pub(in crate::datapath) const LEG_WORDS: usize = size_of::<Leg>() / 8;
pub(in crate::datapath) const STATE_WORDS: usize = size_of::<LegState>() / 8;

/// The words of a `LegState` that hold what was learned from a stream and its packets.
const LEARNED: [bool; STATE_WORDS] = {
    let mut learned = [false; STATE_WORDS];
    let (rtp, rtcp) = (offset_of!(LegState, rtp), offset_of!(LegState, rtcp));
    learned[(rtp + offset_of!(Component, source)) / 8] = true;
    learned[(rtp + offset_of!(Component, destination)) / 8] = true;
    learned[(rtcp + offset_of!(RtcpComponent, source)) / 8] = true;
    learned[(rtcp + offset_of!(RtcpComponent, destination)) / 8] = true;
    let mut word = offset_of!(LegState, quality) / 8;
    while word < (offset_of!(LegState, quality) + size_of::<Quality>()) / 8 {
        learned[word] = true;
        word += 1;
    }
    word = offset_of!(LegState, source_address) / 8;
    while word < STATE_WORDS {
        learned[word] = true;
        word += 1;
    }
    learned
};

fn words_of_leg(leg: &Leg) -> [u64; LEG_WORDS] {
    // SAFETY: `Leg` is `repr(C)`, made of integers and byte arrays without padding (asserted in its module), so it may
    // be read as words; transmute checks the size.
    unsafe { std::mem::transmute(*leg) }
}

#[cfg(test)]
fn leg_of_words(words: [u64; LEG_WORDS]) -> Leg {
    // SAFETY: as above, and every bit pattern is a `Leg`.
    unsafe { std::mem::transmute(words) }
}

/// The inverse of [`words_of_state`].
pub(super) fn state_of_words(words: [u64; STATE_WORDS]) -> LegState {
    // SAFETY: `LegState` is `repr(C)`, made of integers and byte arrays without padding, and every bit pattern is one;
    // transmute checks the size.
    unsafe { std::mem::transmute(words) }
}

/// A state as it is journalled.
pub(super) fn words_of_state(state: &LegState) -> [u64; STATE_WORDS] {
    // SAFETY: as above.
    unsafe { std::mem::transmute(*state) }
}

/// Shared memory of `entries` values of `WORDS` words.
pub(in crate::datapath) struct Memory<const WORDS: usize> {
    /// Start of `length` bytes that are mapped, readable and writable, page-aligned, and stay so until drop.
    start: NonNull<AtomicU64>,
    length: usize,
    entries: u32,
}

// SAFETY: the memory is not bound to a thread, and it is only accessed by atomic words.
unsafe impl<const WORDS: usize> Send for Memory<WORDS> {}
// SAFETY: as above.
unsafe impl<const WORDS: usize> Sync for Memory<WORDS> {}

impl<const WORDS: usize> Memory<WORDS> {
    /// Maps what is behind a descriptor of a map or a file of at least as many values.
    pub(in crate::datapath) fn of_map(map: impl AsFd, entries: u32) -> io::Result<Self> {
        Self::map(entries, libc::MAP_SHARED, map.as_fd().as_raw_fd())
    }

    #[cfg(test)]
    fn anonymous(entries: u32) -> io::Result<Self> {
        Self::map(entries, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1)
    }

    fn map(entries: u32, flags: i32, fd: i32) -> io::Result<Self> {
        let length = entries as usize * WORDS * size_of::<u64>();
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory that Rust knows of. The kernel
        // refuses a length that the map does not have, and a map that cannot be mapped.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, flags, fd, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mapped at address 0"))?;
        Ok(Self { start, length, entries })
    }

    /// The words of a value; `None` outside the array.
    pub(in crate::datapath) fn words(&self, index: u32) -> Option<&[AtomicU64; WORDS]> {
        if index >= self.entries {
            return None;
        }
        // SAFETY: `index` is below `entries`, so the words are within the mapping, which lives as long as `self`; it is
        // page-aligned, so each word is aligned; they are only ever accessed atomically, by both sides.
        Some(unsafe { self.start.add(index as usize * WORDS).cast::<[AtomicU64; WORDS]>().as_ref() })
    }
}

impl<const WORDS: usize> Memory<WORDS> {
    /// Where a value is; `None` outside the array.
    pub(in crate::datapath) fn place(&self, index: u32) -> Option<*mut u64> {
        // SAFETY: `index` is below `entries`, so the value is within the mapping.
        (index < self.entries).then(|| unsafe { self.start.add(index as usize * WORDS) }.as_ptr().cast())
    }
}

impl<const WORDS: usize> Drop for Memory<WORDS> {
    fn drop(&mut self) {
        // SAFETY: exactly what `map` mapped, and no borrow of it outlives `self`.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proxy_common::layout::{Drops, Remote};
    use std::sync::atomic::AtomicBool;

    fn leg(generation: u16) -> Leg {
        let byte = generation.to_le_bytes()[0];
        Leg {
            generation,
            peer_generation: generation,
            flags: u32::from(generation),
            peer: u32::from(generation),
            signalling_address: [byte; 16],
            remote_address: [byte; 16],
            payload_types: [u32::from(generation); 4],
            window_end_ns: u64::from(generation),
            ..Leg::default()
        }
    }

    #[test]
    fn values_lie_one_after_the_other() {
        let legs = Legs::anonymous(100);
        for index in 0..100 {
            legs.put(LegIndex(index), &leg(index as u16 + 1));
        }
        for index in 0..100 {
            assert_eq!(legs.get(LegIndex(index)), leg(index as u16 + 1));
        }
        legs.close(LegIndex(5));
        assert_eq!(legs.get(LegIndex(5)).generation, 0);
        assert_eq!(legs.get(LegIndex(6)), leg(7));
    }

    #[test]
    fn outside_the_array_nothing_happens() {
        let (legs, states) = (Legs::anonymous(32), States::anonymous(32));
        legs.put(LegIndex(32), &leg(1));
        legs.close(LegIndex(u32::MAX));
        assert_eq!(states.get(LegIndex(32)), LegState::default());
    }

    #[test]
    fn counters_are_read_where_the_program_writes_them() {
        let states = States::anonymous(4);
        let state = LegState {
            rtp: Component {
                source: Remote { address: [1, 2, 3, 4], port: 5, tag: 6 },
                packets: 7,
                octets: 8,
                ..Default::default()
            },
            rtcp: RtcpComponent { packets: 9, ..Default::default() },
            drops: Drops { source: 10, format: 11, destination: 12, path: 13, rate: 14, size: 15 },
            ..Default::default()
        };
        states.set(LegIndex(3), &state);
        assert_eq!(states.get(LegIndex(3)), state);
        assert_eq!(states.get(LegIndex(2)), LegState::default());
    }

    #[test]
    fn what_was_learned_is_forgotten_and_what_was_counted_is_kept() {
        let remote = Remote { address: [1, 2, 3, 4], port: 5, tag: 6 };
        let counted = LegState {
            rtp: Component { packets: 7, octets: 8, ..Default::default() },
            rtcp: RtcpComponent { packets: 9, octets: 10, ..Default::default() },
            drops: Drops { source: 9, format: 10, destination: 11, path: 12, rate: 13, size: 14 },
            bucket: 15,
            ..Default::default()
        };
        let learned = LegState {
            rtp: Component { source: remote, destination: remote, ..counted.rtp },
            rtcp: RtcpComponent { source: remote, destination: remote, ..counted.rtcp },
            quality: Quality { ssrc: 1, highest: 2, expected: 3, first: 4, last: 5, ..Default::default() },
            source_address: [6; 16],
            destination_address: [7; 16],
            ..counted
        };
        let states = States::anonymous(2);
        for index in [0, 1] {
            states.set(LegIndex(index), &learned);
        }
        states.forget(LegIndex(1));
        assert_eq!(states.get(LegIndex(1)), counted);
        assert_eq!(states.get(LegIndex(0)), learned);
    }

    #[test]
    fn nobody_sees_half_a_leg() {
        let legs = Legs::anonymous(1);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut whole = 0;
                while !done.load(Ordering::Relaxed) {
                    let before = legs.get(LegIndex(0));
                    fence(Ordering::Acquire);
                    // Read twice under the same generation, it is the value of that generation.
                    if before.generation != 0 && legs.get(LegIndex(0)).generation == before.generation {
                        assert_eq!(before, leg(before.generation));
                        whole += 1;
                    }
                }
                whole
            });
            for generation in 1..=20_000 {
                legs.put(LegIndex(0), &leg(generation));
            }
            done.store(true, Ordering::Relaxed);
            let _ = reader.join().unwrap();
        });
    }
}
