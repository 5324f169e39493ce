//! The engine's alarm clock.

use std::{cmp::Reverse, collections::BinaryHeap, time::Instant};

/// Keys ordered by time. An entry can't be taken back: whoever owns the key remembers its own next time and ignores an
/// alarm that is not it.
pub(super) struct Timers<K> {
    heap: BinaryHeap<Reverse<(Instant, u64, K)>>,
    sequence: u64,
}

impl<K: Ord> Timers<K> {
    pub(super) fn new() -> Self {
        Self { heap: BinaryHeap::new(), sequence: 0 }
    }

    pub(super) fn set(&mut self, at: Instant, key: K) {
        self.sequence += 1;
        self.heap.push(Reverse((at, self.sequence, key)));
    }

    /// When the next alarm goes off.
    pub(super) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, ..))| *at)
    }

    /// Takes the next alarm that is due by `now`.
    pub(super) fn pop(&mut self, now: Instant) -> Option<(Instant, K)> {
        if self.next()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse((at, _, key))| (at, key))
    }
}
