//! What a party of a dialog may have beyond the share of strangers, by naming the token that only it was shown.
//!
//! Under a flood of strangers, calls must continue and end, also where a party speaks from a place that Latch does not
//! know yet. But a token only says that its sender was a party once. So it exempts from the budgets only as much as a
//! dialog needs at once; the rest counts as a stranger's. A dialog that has ended needs retransmissions and a last BYE,
//! and one that counts as a stranger's itself gets nothing beyond the share of strangers.

use std::{
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

/// Requests of a party that are exempt at once: a re-INVITE or UPDATE, PRACK, REFER, and the INFOs of some twelve
/// digits. Over UDP each stays for 32 s after its answer (timer J).
const MOST_REQUESTS: usize = 16;
/// Bytes of a request that is exempt: most are below 2 KiB, descriptions with many ICE candidates up to three times as
/// long.
const MOST_BYTES: usize = 8 << 10;
/// Messages a second that are exempt: requests and ACKs, most of them twice.
const MOST_MESSAGES: u32 = 16;
/// The same of a dialog that has ended: repetitions, of which T1 allows two in the first second.
const MOST_LAST_MESSAGES: u32 = 2;

/// How far a dialog has come, for what its parties need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// It counts as a stranger's until its first request is accepted.
    Strangers,
    /// It has not ended.
    Live,
    /// It has ended, and is kept for repetitions.
    Ended,
}

/// A request that is exempt from the budgets, for as long as this is kept.
pub(super) type Exempt = Arc<()>;

/// What the holder of one token has in use beyond the share of strangers.
#[derive(Debug, Default)]
pub(super) struct Exemption {
    requests: Weak<()>,
    bye: Weak<()>,
    /// Messages in the second that began then.
    messages: Option<(Instant, u32)>,
}

impl Exemption {
    /// Exempts a request from the budgets of transactions and bytes. A BYE has a place of its own.
    pub(super) fn request(&mut self, phase: Phase, is_bye: bool, bytes: usize) -> Option<Exempt> {
        if bytes > MOST_BYTES {
            return None;
        }
        match (phase, is_bye) {
            (Phase::Strangers, _) | (Phase::Ended, false) => None,
            (Phase::Live | Phase::Ended, true) => one_more(&mut self.bye, 1),
            (Phase::Live, false) => one_more(&mut self.requests, MOST_REQUESTS),
        }
    }

    /// Whether a message is exempt from the limit of messages a second.
    pub(super) fn message(&mut self, phase: Phase, now: Instant) -> bool {
        let most = match phase {
            Phase::Strangers => 0,
            Phase::Live => MOST_MESSAGES,
            Phase::Ended => MOST_LAST_MESSAGES,
        };
        let this_second = |(since, _): &(Instant, u32)| now.saturating_duration_since(*since) < Duration::from_secs(1);
        let (since, count) = self.messages.filter(this_second).unwrap_or((now, 0));
        let exempt = count < most;
        self.messages = Some((since, count + u32::from(exempt)));
        exempt
    }
}

/// One more of those that are open, if there are fewer than `most`.
fn one_more(open: &mut Weak<()>, most: usize) -> Option<Exempt> {
    let one = open.upgrade().unwrap_or_else(|| {
        let first = Arc::new(());
        *open = Arc::downgrade(&first);
        first
    });
    (Arc::strong_count(&one) <= most).then_some(one)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_exempt_up_to_a_number_at_once() {
        let mut exemption = Exemption::default();
        let mut open: Vec<_> = (0..20).map_while(|_| exemption.request(Phase::Live, false, 500)).collect();
        assert_eq!(open.len(), MOST_REQUESTS);
        assert!(exemption.request(Phase::Live, true, 500).is_some(), "calls can end");
        drop(open.pop());
        open.extend(exemption.request(Phase::Live, false, 500));
        assert_eq!(open.len(), MOST_REQUESTS);
        assert!(exemption.request(Phase::Live, false, 500).is_none());
        open.clear();
        assert!(exemption.request(Phase::Live, false, MOST_BYTES + 1).is_none());
        assert!(exemption.request(Phase::Live, false, MOST_BYTES).is_some());
    }

    #[test]
    fn a_dialog_that_has_ended_needs_one_bye_and_repetitions() {
        let mut exemption = Exemption::default();
        let now = Instant::now();
        assert!(exemption.request(Phase::Ended, false, 500).is_none());
        let bye = exemption.request(Phase::Ended, true, 500);
        assert!(bye.is_some() && exemption.request(Phase::Ended, true, 500).is_none());
        let exempt = |exemption: &mut Exemption, phase, at| {
            (0..100).filter(|_| exemption.message(phase, now + Duration::from_millis(at))).count()
        };
        assert_eq!(exempt(&mut exemption, Phase::Live, 0), MOST_MESSAGES as usize);
        assert_eq!(exempt(&mut exemption, Phase::Live, 999), 0);
        assert_eq!(exempt(&mut exemption, Phase::Ended, 1_000), MOST_LAST_MESSAGES as usize);
    }

    #[test]
    fn a_dialog_of_the_share_of_strangers_has_nothing_beyond_it() {
        let mut exemption = Exemption::default();
        assert!(exemption.request(Phase::Strangers, true, 500).is_none());
        assert!(!exemption.message(Phase::Strangers, Instant::now()));
    }
}
