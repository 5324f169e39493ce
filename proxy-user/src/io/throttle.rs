//! Messages that come as often as their cause does, which may be anybody on the network: at most one a period, with the
//! number of those left out.

use std::time::{Duration, Instant};

#[derive(Debug)]
pub(super) struct Throttle {
    period: Duration,
    next: Option<Instant>,
    left_out: u64,
}

impl Throttle {
    pub(super) fn new(period: Duration) -> Self {
        Self { period, next: None, left_out: 0 }
    }

    /// Logs an error, unless one was logged less than a period ago.
    pub(super) fn error(&mut self, now: Instant, message: impl FnOnce() -> String) {
        match self.admit(now) {
            Some(0) => tracing::error!("{}", message()),
            Some(left_out) => tracing::error!(left_out, "{}", message()),
            None => {}
        }
    }

    /// Logs a warning, unless one was logged less than a period ago.
    pub(super) fn warn(&mut self, now: Instant, message: impl FnOnce() -> String) {
        match self.admit(now) {
            Some(0) => tracing::warn!("{}", message()),
            Some(left_out) => tracing::warn!(left_out, "{}", message()),
            None => {}
        }
    }

    /// How many were left out since the last one, if this one may be logged.
    pub(super) fn admit(&mut self, now: Instant) -> Option<u64> {
        if self.next.is_some_and(|next| now < next) {
            self.left_out += 1;
            return None;
        }
        self.next = Some(now + self.period);
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_a_period_passes_and_tells_of_the_others() {
        let start = Instant::now();
        let mut throttle = Throttle::new(Duration::from_secs(1));
        let admitted: Vec<_> =
            (0..25).map(|tenth| throttle.admit(start + tenth * Duration::from_millis(100))).collect();
        let expected = |tenth| match tenth {
            0 => Some(0),
            10 | 20 => Some(9),
            _ => None,
        };
        assert_eq!(admitted, (0..25).map(expected).collect::<Vec<_>>());
    }
}
