//! The clock of the XDP program and of the journal, `CLOCK_MONOTONIC` in nanoseconds, together with that of
//! [`Instant`].
//!
//! An [`Instant`] means nothing to another process; the kernel's reading means the same to all of them until the host
//! is restarted.

use std::{
    io,
    time::{Duration, Instant},
};

/// Both clocks at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    instant: Instant,
    ns: u64,
}

impl Clock {
    /// Reads both.
    pub fn now() -> Self {
        Self::new(Instant::now(), monotonic_ns())
    }

    /// One on which `instant` is the moment of the reading `ns`.
    pub fn new(instant: Instant, ns: u64) -> Self {
        Self { instant, ns }
    }

    /// The kernel's reading at `at`.
    pub fn ns(&self, at: Instant) -> u64 {
        let whole = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        match at.checked_duration_since(self.instant) {
            Some(later) => self.ns.saturating_add(whole(later)),
            None => self.ns.saturating_sub(whole(self.instant.duration_since(at))),
        }
    }

    /// The moment of the kernel's reading `ns`.
    pub fn instant(&self, ns: u64) -> Instant {
        match ns.checked_sub(self.ns) {
            Some(later) => self.instant + Duration::from_nanos(later),
            None => self.instant.checked_sub(Duration::from_nanos(self.ns - ns)).unwrap_or(self.instant),
        }
    }
}

fn monotonic_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid `timespec` to write to; the clock exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// What a tick of the kernel takes, ns, the program's read-only `NS_PER_TICK`: the coarse clocks go by it.
///
/// # Errors
///
/// The kernel's.
pub fn ns_per_tick() -> io::Result<u64> {
    let tick = nix::time::clock_getres(nix::time::ClockId::CLOCK_MONOTONIC_COARSE)?;
    u64::try_from(tick.tv_nsec()).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clocks_go_alike() {
        let clock = Clock::now();
        let later = Clock::now();
        assert!(later.ns >= clock.ns && later.ns - clock.ns < 1_000_000_000);
        let at = clock.instant + Duration::from_millis(1_500);
        assert_eq!(clock.ns(at), clock.ns + 1_500_000_000);
        assert_eq!(clock.instant(clock.ns(at)), at);
        let before = clock.instant - Duration::from_millis(3);
        assert_eq!(clock.instant(clock.ns(before)), before);
    }
}
