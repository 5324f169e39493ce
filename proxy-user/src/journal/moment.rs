//! Points in time inside of what is journalled.
//!
//! A field with `#[serde(with = "moment")]` is written as readings of `CLOCK_MONOTONIC`, ns, while [`on`] says how the
//! two clocks stand to each other. Time stays an argument so: nothing here reads a clock.

use crate::clock::Clock;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};
use std::{cell::Cell, net::SocketAddr, time::Instant};

thread_local! {
    static CLOCK: Cell<Option<Clock>> = const { Cell::new(None) };
}

/// Runs `work`, in which points in time are written and read by this clock.
pub(crate) fn on<T>(clock: Clock, work: impl FnOnce() -> T) -> T {
    let before = CLOCK.replace(Some(clock));
    let done = work();
    CLOCK.set(before);
    done
}

/// What holds points in time, and the same with readings in their place.
pub(crate) trait Timed: Sized {
    /// As it is written.
    type Plain: Serialize + DeserializeOwned;
    /// To be written.
    fn plain(&self, clock: &Clock) -> Self::Plain;
    /// As it was read.
    fn timed(plain: Self::Plain, clock: &Clock) -> Self;
}

impl Timed for Instant {
    type Plain = u64;
    fn plain(&self, clock: &Clock) -> u64 {
        clock.ns(*self)
    }
    fn timed(plain: u64, clock: &Clock) -> Self {
        clock.instant(plain)
    }
}

impl Timed for SocketAddr {
    type Plain = Self;
    fn plain(&self, _: &Clock) -> Self {
        *self
    }
    fn timed(plain: Self, _: &Clock) -> Self {
        plain
    }
}

impl<T: Timed> Timed for Option<T> {
    type Plain = Option<T::Plain>;
    fn plain(&self, clock: &Clock) -> Self::Plain {
        self.as_ref().map(|value| value.plain(clock))
    }
    fn timed(plain: Self::Plain, clock: &Clock) -> Self {
        plain.map(|plain| T::timed(plain, clock))
    }
}

impl<A: Timed, B: Timed> Timed for (A, B) {
    type Plain = (A::Plain, B::Plain);
    fn plain(&self, clock: &Clock) -> Self::Plain {
        (self.0.plain(clock), self.1.plain(clock))
    }
    fn timed((one, other): Self::Plain, clock: &Clock) -> Self {
        (A::timed(one, clock), B::timed(other, clock))
    }
}

impl<T: Timed> Timed for [T; 2] {
    type Plain = [T::Plain; 2];
    fn plain(&self, clock: &Clock) -> Self::Plain {
        self.each_ref().map(|value| value.plain(clock))
    }
    fn timed(plain: Self::Plain, clock: &Clock) -> Self {
        plain.map(|plain| T::timed(plain, clock))
    }
}

pub(crate) fn serialize<T: Timed, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    match CLOCK.get() {
        Some(clock) => value.plain(&clock).serialize(serializer),
        None => Err(serde::ser::Error::custom("no clock")),
    }
}

pub(crate) fn deserialize<'de, T: Timed, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    let plain = T::Plain::deserialize(deserializer)?;
    match CLOCK.get() {
        Some(clock) => Ok(T::timed(plain, &clock)),
        None => Err(serde::de::Error::custom("no clock")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Held {
        #[serde(with = "super")]
        latched: [Option<(SocketAddr, Instant)>; 2],
        #[serde(with = "super")]
        at: Instant,
    }

    #[test]
    fn times_survive_in_a_process_whose_instants_are_others() {
        let (here, later) = (Instant::now(), Instant::now() + Duration::from_secs(9));
        let (clock, other) = (Clock::new(here, 5_000_000_000), Clock::new(later, 5_000_000_000));
        let after = Duration::from_millis(1_500);
        let source = "198.51.100.7:40000".parse().unwrap();
        let held = Held { latched: [None, Some((source, here + after))], at: here - after };
        let bytes = on(clock, || serde_json::to_vec(&held)).unwrap();
        assert_eq!(on(clock, || serde_json::from_slice::<Held>(&bytes)).unwrap(), held);
        let moved = Held { latched: [None, Some((source, later + after))], at: later - after };
        assert_eq!(on(other, || serde_json::from_slice::<Held>(&bytes)).unwrap(), moved);
        assert!(serde_json::to_vec(&held).is_err(), "without a clock there is no time");
    }
}
