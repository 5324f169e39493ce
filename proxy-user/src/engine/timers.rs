//! Timers, ordered by time.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    hash::Hash,
    time::Instant,
};

/// Keys ordered by time, each with one timer: the earliest that was set. The owner of a key remembers its own next
/// time, and sets the timer again if it fired too early. So moving a time on, which happens with every message, costs
/// nothing and leaves nothing behind.
pub(crate) struct Timers<K> {
    heap: BinaryHeap<Reverse<(Instant, u64, K)>>,
    /// The entry of the heap that counts.
    armed: HashMap<K, Instant>,
    sequence: u64,
}

impl<K: Copy + Ord + Hash> Timers<K> {
    pub(crate) fn new() -> Self {
        Self { heap: BinaryHeap::new(), armed: HashMap::new(), sequence: 0 }
    }

    pub(crate) fn set(&mut self, at: Instant, key: K) {
        if self.armed.get(&key).is_some_and(|armed| *armed <= at) {
            return;
        }
        self.armed.insert(key, at);
        self.sequence += 1;
        self.heap.push(Reverse((at, self.sequence, key)));
    }

    /// Cancels the timer of this key.
    pub(crate) fn cancel(&mut self, key: &K) {
        self.armed.remove(key);
        // Cancelled entries must not pile up: they are removed once they are the majority.
        if self.heap.len() > 64 && self.heap.len() > 2 * self.armed.len() {
            let armed = &self.armed;
            self.heap.retain(|Reverse((at, _, key))| armed.get(key) == Some(at));
        }
    }

    /// How many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.heap.len()
    }

    /// When the next timer fires, or earlier.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, ..))| *at)
    }

    /// Takes the next timer that is due by `now`.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<K> {
        while self.next()? <= now {
            let Reverse((at, _, key)) = self.heap.pop()?;
            if self.armed.get(&key) == Some(&at) {
                self.armed.remove(&key);
                return Some(key);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_earliest_alarm_of_a_key_counts() {
        let (mut timers, start) = (Timers::new(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        timers.set(at(5), 'a');
        timers.set(at(9), 'a');
        timers.set(at(7), 'b');
        timers.set(at(3), 'a');
        assert_eq!(timers.len(), 3);
        assert_eq!(timers.pop(at(2)), None);
        assert_eq!(timers.pop(at(8)), Some('a'));
        assert_eq!(timers.pop(at(8)), Some('b'), "the timer of a at 5 was replaced");
        assert_eq!((timers.pop(at(99)), timers.len(), timers.next()), (None, 0, None));
        timers.set(at(100), 'a');
        assert_eq!(timers.pop(at(100)), Some('a'));
    }

    #[test]
    fn what_was_cancelled_is_neither_due_nor_kept() {
        let (mut timers, start) = (Timers::new(), Instant::now());
        for key in 0..10_000 {
            timers.set(start + Duration::from_secs(3600), key);
            if key >= 10 {
                timers.cancel(&key);
            }
        }
        assert!(timers.len() <= 65, "{}", timers.len());
        let due: Vec<_> = std::iter::from_fn(|| timers.pop(start + Duration::from_secs(3600))).collect();
        assert_eq!(due, Vec::from_iter(0..10));
    }
}
