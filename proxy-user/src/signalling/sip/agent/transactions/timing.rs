//! The timers of RFC 3261 §17 and appendix A, as far as the four machines have them in common.

use std::time::{Duration, Instant};

/// T4: how long a message may stay in the network (RFC 3261 §17.1.2.2).
const T4: Duration = Duration::from_secs(5);

/// T1 and T2 of RFC 3261, and timer C.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Timing {
    pub(in super::super) t1: Duration,
    pub(in super::super) t2: Duration,
    pub(in super::super) invite: Duration,
}

/// What a machine needs to know besides the event itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Context {
    pub(super) timing: Timing,
    /// Whether the transport retransmits what was lost.
    pub(super) reliable: bool,
    pub(super) now: Instant,
}

impl Context {
    /// After 64 times T1: timers B, F, H, J, L, M, and D over an unreliable transport.
    pub(super) fn after_64_t1(&self) -> Instant {
        self.now + 64 * self.timing.t1
    }

    /// When timers I and K end: how long late messages may come, of which a reliable transport has none.
    pub(super) fn after_stragglers(&self) -> Instant {
        if self.reliable { self.now } else { self.now + T4 }
    }
}

/// Sends a message again and again over an unreliable transport: timers A, E and G.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Retransmission {
    pub(super) interval: Duration,
    pub(super) at: Instant,
}

impl Retransmission {
    /// Begins after T1; `None` over a reliable transport.
    pub(super) fn begin(context: &Context) -> Option<Self> {
        let interval = context.timing.t1;
        (!context.reliable).then_some(Self { interval, at: context.now + interval })
    }

    /// Whether it is time, and then when it will be again: after what `next` makes of the interval.
    pub(super) fn is_due(&mut self, now: Instant, next: impl FnOnce(Duration) -> Duration) -> bool {
        if self.at > now {
            return false;
        }
        self.interval = next(self.interval);
        self.at = now + self.interval;
        true
    }
}

/// The earlier of a retransmission, if there is one, and the end.
pub(super) fn earlier(retransmission: &Option<Retransmission>, ends_at: Instant) -> Instant {
    retransmission.as_ref().map_or(ends_at, |retransmission| retransmission.at.min(ends_at))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The defaults of RFC 3261, and timer C of 180 s.
    pub(in super::super) fn context(start: Instant, ms: u64, reliable: bool) -> Context {
        let timing =
            Timing { t1: Duration::from_millis(500), t2: Duration::from_secs(4), invite: Duration::from_secs(180) };
        Context { timing, reliable, now: start + Duration::from_millis(ms) }
    }

    /// A retransmission of this interval at this time, ms.
    pub(in super::super) fn again(start: Instant, interval: u64, at: u64) -> Option<Retransmission> {
        let [interval, at] = [interval, at].map(Duration::from_millis);
        Some(Retransmission { interval, at: start + at })
    }
}
