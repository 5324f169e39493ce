//! Hands out the relay's port pairs of one media address.
//!
//! Ports are drawn at random, so that nobody can guess where the next call will be, and rest for a while after a call,
//! so that its late packets do not reach another one. Both steps take constant time: free pairs are in an array without
//! order, from which the drawn one is taken by moving the last into its place; resting pairs wait in a queue.

use crate::config::PortRange;
use serde::{Deserialize, Serialize};
use std::{
    collections::{HashSet, VecDeque},
    time::{Duration, Instant},
};

/// Two neighbouring ports: an even one for RTP and the next for RTCP (RFC 3550 §11).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PortPair(u16);

impl PortPair {
    /// The RTP port, even.
    pub fn rtp(self) -> u16 {
        self.0
    }

    /// The RTCP port.
    pub fn rtcp(self) -> u16 {
        self.0 | 1
    }
}

/// The pairs of one port range.
#[derive(Debug)]
pub struct PortAllocator {
    ports: PortRange,
    hold_time: Duration,
    /// Pairs as their distance from the first one, here and below.
    free: Vec<u16>,
    /// In the order of their release.
    resting: VecDeque<(Instant, u16)>,
    in_use: Vec<bool>,
    in_use_count: usize,
}

impl PortAllocator {
    /// All pairs of `ports`; a pair rests for `hold_time` after its release.
    ///
    /// # Errors
    /// Where the range does not begin with an even port and end with an odd one above it, or begins with port 0.
    pub fn new(ports: PortRange, hold_time: Duration) -> Result<Self, UnusableRange> {
        let (low, high) = (ports.first, ports.last);
        if low == 0 || low % 2 != 0 || high % 2 != 1 || low > high {
            return Err(UnusableRange { low, high });
        }
        let pairs = (high - low) / 2 + 1;
        Ok(Self {
            ports,
            hold_time,
            free: (0..pairs).collect(),
            resting: VecDeque::new(),
            in_use: vec![false; usize::from(pairs)],
            in_use_count: 0,
        })
    }

    /// Takes a pair. `random` is evenly distributed over all its values and not to be guessed.
    ///
    /// # Errors
    /// Where every pair is in use or rests.
    pub fn allocate(&mut self, random: u64, now: Instant) -> Result<PortPair, OutOfPorts> {
        self.wake(now);
        // The high half of the product: a number below `len`, biased by at most len / 2^64.
        let drawn = ((u128::from(random) * self.free.len() as u128) >> 64) as usize;
        if drawn >= self.free.len() {
            return Err(OutOfPorts {
                low: self.ports.first,
                high: self.ports.last,
                in_use: self.in_use_count,
                resting: self.resting.len(),
            });
        }
        let pair = self.free.swap_remove(drawn);
        if let Some(in_use) = self.in_use.get_mut(usize::from(pair)) {
            *in_use = true;
        }
        self.in_use_count += 1;
        Ok(PortPair(self.ports.first + pair * 2))
    }

    /// Gives a pair back. Time must not run backwards from one release to the next.
    ///
    /// # Errors
    /// Where the pair is not in use; nothing changes then.
    pub fn release(&mut self, pair: PortPair, now: Instant) -> Result<(), NotInUse> {
        let distance = self.leave(pair)?;
        self.resting.push_back((now, distance));
        Ok(())
    }

    /// Gives a pair back that nobody was let in by, so that nothing late can come there: it need not rest.
    ///
    /// # Errors
    /// Where the pair is not in use; nothing changes then.
    pub fn release_unused(&mut self, pair: PortPair) -> Result<(), NotInUse> {
        let distance = self.leave(pair)?;
        self.free.push(distance);
        Ok(())
    }

    /// Takes those of these pairs that are free: they are in use by calls that began in an earlier process. Returns how
    /// many were not free.
    pub fn claim(&mut self, pairs: &[PortPair]) -> usize {
        let wanted: HashSet<u16> =
            pairs.iter().filter_map(|pair| Some(pair.0.checked_sub(self.ports.first)? / 2)).collect();
        let before = self.free.len();
        self.free.retain(|pair| !wanted.contains(pair));
        let claimed = before - self.free.len();
        let taken = (0u16..).zip(&mut self.in_use).filter(|(pair, in_use)| !**in_use && wanted.contains(pair));
        taken.for_each(|(_, in_use)| *in_use = true);
        self.in_use_count += claimed;
        pairs.len() - claimed
    }

    /// How many pairs are in use.
    pub fn in_use(&self) -> usize {
        self.in_use_count
    }

    /// How many pairs there are.
    pub fn capacity(&self) -> usize {
        self.in_use.len()
    }

    /// How many pairs still rest.
    pub fn resting(&self, now: Instant) -> usize {
        self.resting.len() - self.resting.partition_point(|(since, _)| self.is_rested(*since, now))
    }

    /// A pair is no longer in use. Returns its distance from the first.
    fn leave(&mut self, pair: PortPair) -> Result<u16, NotInUse> {
        let distance = pair.0.checked_sub(self.ports.first).ok_or(NotInUse(pair))? / 2;
        let in_use = self.in_use.get_mut(usize::from(distance)).filter(|in_use| **in_use).ok_or(NotInUse(pair))?;
        *in_use = false;
        self.in_use_count -= 1;
        Ok(distance)
    }

    /// Whether a pair that was released at `since` may be used again.
    fn is_rested(&self, since: Instant, now: Instant) -> bool {
        now.saturating_duration_since(since) >= self.hold_time
    }

    /// Makes those free that have rested long enough.
    fn wake(&mut self, now: Instant) {
        while let Some(&(since, pair)) = self.resting.front()
            && self.is_rested(since, now)
        {
            self.resting.pop_front();
            self.free.push(pair);
        }
    }
}

/// A range that cannot be cut into pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("ports {low}-{high}: must begin with an even port above 0 and end with an odd port above it")]
pub struct UnusableRange {
    /// First port.
    pub low: u16,
    /// Last port.
    pub high: u16,
}

/// No pair is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no media port left in {low}-{high}: {in_use} pairs in use, {resting} resting after use; widen the range")]
pub struct OutOfPorts {
    /// First port of the range.
    pub low: u16,
    /// Last port of the range.
    pub high: u16,
    /// Pairs in use.
    pub in_use: usize,
    /// Pairs that rest.
    pub resting: usize,
}

/// A pair was given back that had not been taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("port pair {} is not in use", .0.0)]
pub struct NotInUse(pub PortPair);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    const HOLD: Duration = Duration::from_secs(10);

    fn allocator(first: u16, last: u16) -> Result<PortAllocator, UnusableRange> {
        PortAllocator::new(PortRange { first, last }, HOLD)
    }

    #[test]
    fn every_pair_of_the_range_is_given_once() {
        let now = Instant::now();
        let mut allocator = allocator(30_000, 30_019).unwrap();
        let ports: HashSet<u16> =
            (0..10u64).map(|n| allocator.allocate(n.wrapping_mul(0x9e37_79b9_7f4a_7c15), now).unwrap().rtp()).collect();
        assert_eq!(ports, (30_000..30_020).step_by(2).collect());
        assert_eq!(allocator.in_use(), 10);
        assert_eq!(
            allocator.allocate(1, now).unwrap_err().to_string(),
            "no media port left in 30000-30019: 10 pairs in use, 0 resting after use; widen the range"
        );
    }

    #[test]
    fn the_whole_port_space_fits() {
        let now = Instant::now();
        let mut allocator = allocator(2, 65_535).unwrap();
        assert_eq!(allocator.capacity(), 32_767);
        let pair = allocator.allocate(u64::MAX, now).unwrap();
        assert_eq!((pair.rtp(), pair.rtcp()), (65_534, 65_535));
        assert_eq!(allocator.allocate(0, now).unwrap().rtp(), 2);
    }

    #[test]
    fn a_released_pair_rests() {
        let start = Instant::now();
        let mut allocator = allocator(30_000, 30_001).unwrap();
        let pair = allocator.allocate(0, start).unwrap();
        allocator.release(pair, start).unwrap();
        let just_before = start + HOLD - Duration::from_millis(1);
        let early = allocator.allocate(0, just_before).unwrap_err();
        assert_eq!((early.in_use, early.resting, allocator.resting(just_before)), (0, 1, 1));
        assert_eq!(allocator.allocate(0, start + HOLD), Ok(pair));
    }

    #[test]
    fn a_pair_that_has_rested_is_not_counted_before_somebody_needs_it() {
        let start = Instant::now();
        let mut allocator = allocator(30_000, 30_005).unwrap();
        let pairs: Vec<_> = (0..3).map(|_| allocator.allocate(0, start).unwrap()).collect();
        for (pair, seconds) in pairs.into_iter().zip([0, 4, 4]) {
            allocator.release(pair, start + Duration::from_secs(seconds)).unwrap();
        }
        let resting = [4, 9, 10, 13, 14, 99].map(|seconds| allocator.resting(start + Duration::from_secs(seconds)));
        assert_eq!(resting, [3, 3, 2, 2, 0, 0]);
    }

    #[test]
    fn a_pair_that_nobody_was_let_in_by_does_not_rest() {
        let now = Instant::now();
        let mut allocator = allocator(30_000, 30_001).unwrap();
        let pair = allocator.allocate(0, now).unwrap();
        assert_eq!(allocator.release_unused(pair), Ok(()));
        assert_eq!(allocator.release_unused(pair), Err(NotInUse(pair)), "once");
        assert_eq!((allocator.in_use(), allocator.resting(now)), (0, 0));
        assert_eq!(allocator.allocate(0, now), Ok(pair));
    }

    #[test]
    fn a_pair_is_released_once() {
        let now = Instant::now();
        let mut allocator = allocator(30_000, 30_003).unwrap();
        let pair = allocator.allocate(0, now).unwrap();
        for foreign in [PortPair(29_998), PortPair(30_002), PortPair(30_004)] {
            assert_eq!(allocator.release(foreign, now), Err(NotInUse(foreign)));
        }
        assert_eq!(allocator.release(pair, now), Ok(()));
        assert_eq!(allocator.release(pair, now), Err(NotInUse(pair)));
        assert_eq!(allocator.in_use(), 0);
    }

    #[test]
    fn claimed_pairs_are_in_use() {
        let now = Instant::now();
        let mut allocator = allocator(30_000, 30_007).unwrap();
        let pairs = [PortPair(30_002), PortPair(30_006)];
        assert_eq!(allocator.claim(&pairs), 0);
        assert_eq!(allocator.claim(&pairs), 2, "once");
        assert_eq!(allocator.claim(&[PortPair(29_998), PortPair(30_008)]), 2, "not of the range");
        assert_eq!(allocator.in_use(), 2);
        let others: HashSet<_> = (0..2).map(|_| allocator.allocate(7, now).unwrap().rtp()).collect();
        assert_eq!(others, [30_000, 30_004].into());
        assert!(allocator.allocate(7, now).is_err());
        assert_eq!(allocator.release(pairs[0], now), Ok(()));
    }

    #[test]
    fn a_range_is_whole_pairs() {
        for (low, high, usable) in
            [(30_000, 30_001, true), (30_001, 30_002, false), (30_000, 30_002, false), (0, 3, false)]
        {
            assert_eq!(allocator(low, high).is_ok(), usable, "{low}-{high}");
        }
        assert_eq!(allocator(40_000, 30_001).unwrap_err(), UnusableRange { low: 40_000, high: 30_001 });
    }

    #[derive(Clone, Debug)]
    enum Step {
        Allocate(u64),
        Release(prop::sample::Index),
        Wait(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        prop::collection::vec(
            prop_oneof![
                3 => any::<u64>().prop_map(Step::Allocate),
                2 => any::<prop::sample::Index>().prop_map(Step::Release),
                1 => (0..15_000u64).prop_map(Step::Wait),
            ],
            1..200,
        )
    }

    proptest! {
        /// The model: which pairs are taken, and when each of the others was released.
        #[test]
        fn no_pair_is_given_twice_or_too_early(steps in steps()) {
            let mut now = Instant::now();
            let mut allocator = allocator(20_000, 20_015).unwrap();
            let mut taken: Vec<PortPair> = Vec::new();
            let mut released: HashMap<PortPair, Instant> = HashMap::new();
            for step in steps {
                match step {
                    Step::Allocate(random) => {
                        let resting = released.values().filter(|&&at| now - at < HOLD).count();
                        match allocator.allocate(random, now) {
                            Ok(pair) => {
                                prop_assert!(pair.rtp() % 2 == 0 && pair.rtcp() == pair.rtp() + 1);
                                prop_assert!((20_000..=20_014).contains(&pair.rtp()));
                                prop_assert!(!taken.contains(&pair));
                                prop_assert!(released.get(&pair).is_none_or(|&at| now - at >= HOLD));
                                taken.push(pair);
                            }
                            Err(error) => {
                                prop_assert_eq!(taken.len() + resting, 8);
                                prop_assert_eq!((error.in_use, error.resting), (taken.len(), resting));
                            }
                        }
                    }
                    Step::Release(index) if !taken.is_empty() => {
                        let pair = taken.swap_remove(index.index(taken.len()));
                        prop_assert_eq!(allocator.release(pair, now), Ok(()));
                        released.insert(pair, now);
                    }
                    Step::Release(_) => {}
                    Step::Wait(ms) => now += Duration::from_millis(ms),
                }
                prop_assert_eq!(allocator.in_use(), taken.len());
            }
        }
    }
}
