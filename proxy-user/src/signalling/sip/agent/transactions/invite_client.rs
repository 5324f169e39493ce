//! The INVITE client transaction (RFC 3261 §17.1.1.2, figure 5; RFC 6026 §8.4), with its CANCEL (RFC 3261 §9.1) and the
//! proxy's timer C (§16.6, step 11).
//!
//! ```text
//! Calling ──1xx──▶ Proceeding ──CANCEL──▶ Cancelled      2xx from any of the three ──▶ Accepted ──timer M──▶ ended
//!                                                        3xx-6xx from any of them ───▶ Completed ──timer D──▶ ended
//! ```

use super::{
    outcome::{ClientDue, Ending, Received},
    timing::{Context, Retransmission, earlier},
};
use std::time::Instant;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct InviteClient {
    state: State,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// Nothing came back. Timers A and B. A CANCEL that is wanted waits for a provisional response.
    Calling { retransmission: Option<Retransmission>, ends_at: Instant, cancel_wanted: bool },
    /// A provisional response came. Timer C: then it is cancelled.
    Proceeding { cancel_at: Instant },
    /// The CANCEL was sent: a final response has to come soon.
    Cancelled { ends_at: Instant },
    /// A refusal came, and every copy of it is acknowledged. Timer D.
    Completed { ends_at: Instant },
    /// A 2xx came, and others may come. Timer M.
    Accepted { ends_at: Instant },
    /// Nobody can be reached there.
    Lost { since: Instant },
}

impl InviteClient {
    /// The INVITE is sent.
    pub(super) fn new(context: &Context) -> Self {
        let retransmission = Retransmission::begin(context);
        Self { state: State::Calling { retransmission, ends_at: context.after_64_t1(), cancel_wanted: false } }
    }

    /// Whether nothing came back.
    pub(super) fn is_calling(&self) -> bool {
        matches!(self.state, State::Calling { .. })
    }

    /// Whether a provisional response came, and no final one.
    pub(super) fn is_proceeding(&self) -> bool {
        matches!(self.state, State::Proceeding { .. } | State::Cancelled { .. })
    }

    /// Whether it has to be cancelled, and no final response has come.
    pub(super) fn is_given_up(&self) -> bool {
        matches!(self.state, State::Calling { cancel_wanted: true, .. } | State::Cancelled { .. })
    }

    /// Whether no final response has come.
    pub(super) fn waits(&self) -> bool {
        !matches!(self.state, State::Completed { .. } | State::Accepted { .. })
    }

    pub(super) fn received(&mut self, code: u16, context: &Context) -> Received {
        let mut received = Received { is_new: true, acknowledge: false, cancel: false };
        self.state = match (&self.state, code) {
            (State::Calling { cancel_wanted: true, .. }, ..200) => {
                received.cancel = true;
                State::Cancelled { ends_at: context.after_64_t1() }
            }
            (State::Calling { .. } | State::Proceeding { .. }, ..200) => {
                State::Proceeding { cancel_at: context.now + context.timing.invite }
            }
            (State::Cancelled { ends_at }, ..200) => State::Cancelled { ends_at: *ends_at },
            (State::Calling { .. } | State::Proceeding { .. } | State::Cancelled { .. }, 200..300) => {
                State::Accepted { ends_at: context.after_64_t1() }
            }
            (State::Calling { .. } | State::Proceeding { .. } | State::Cancelled { .. }, _) => {
                received.acknowledge = true;
                // Timer D: over a reliable transport no refusal comes twice.
                State::Completed { ends_at: if context.reliable { context.now } else { context.after_64_t1() } }
            }
            // Each is acknowledged from end to end.
            (State::Accepted { ends_at }, 200..300) => State::Accepted { ends_at: *ends_at },
            (State::Completed { .. } | State::Accepted { .. } | State::Lost { .. }, _) => {
                let acknowledge = matches!(self.state, State::Completed { .. }) && code >= 300;
                return Received { is_new: false, acknowledge, cancel: false };
            }
        };
        received
    }

    /// It must be cancelled. Returns whether to send the CANCEL now; else it waits for a provisional response, or comes
    /// too late.
    pub(super) fn cancel(&mut self, context: &Context) -> bool {
        match &mut self.state {
            State::Calling { cancel_wanted, .. } => {
                *cancel_wanted = true;
                false
            }
            State::Proceeding { .. } => {
                self.state = State::Cancelled { ends_at: context.after_64_t1() };
                true
            }
            State::Cancelled { .. } | State::Completed { .. } | State::Accepted { .. } | State::Lost { .. } => false,
        }
    }

    /// Nobody can be reached there (RFC 3261 §17.1.4). Returns whether it still waited for an answer.
    pub(super) fn lose(&mut self, context: &Context) -> bool {
        let waited = self.is_calling() || self.is_proceeding();
        if waited {
            self.state = State::Lost { since: context.now };
        }
        waited
    }

    /// It goes as datagrams from now on, with its first retransmission to come.
    pub(super) fn begin_again(&mut self, context: &Context) {
        if let State::Calling { retransmission, .. } = &mut self.state {
            *retransmission = Retransmission::begin(context);
        }
    }

    pub(super) fn next(&self) -> Instant {
        match &self.state {
            State::Calling { retransmission, ends_at, .. } => earlier(retransmission, *ends_at),
            State::Proceeding { cancel_at: at }
            | State::Cancelled { ends_at: at }
            | State::Completed { ends_at: at }
            | State::Accepted { ends_at: at }
            | State::Lost { since: at } => *at,
        }
    }

    pub(super) fn due(&mut self, context: &Context) -> ClientDue<Ending> {
        let now = context.now;
        match &mut self.state {
            State::Calling { ends_at, .. } if *ends_at <= now => ClientDue::End(Ending::TimedOut),
            State::Calling { retransmission: Some(retransmission), .. } => {
                let is_due = retransmission.is_due(now, |interval| 2 * interval);
                if is_due { ClientDue::Retransmit } else { ClientDue::Nothing }
            }
            State::Proceeding { cancel_at } if *cancel_at <= now => {
                self.state = State::Cancelled { ends_at: context.after_64_t1() };
                ClientDue::Cancel
            }
            State::Cancelled { ends_at } if *ends_at <= now => ClientDue::End(Ending::TimedOut),
            State::Completed { ends_at } | State::Accepted { ends_at } if *ends_at <= now => {
                ClientDue::End(Ending::Answered)
            }
            State::Lost { .. } => ClientDue::End(Ending::Unreachable),
            _ => ClientDue::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::timing::tests::{again, context},
        *,
    };
    use std::time::Duration;

    enum Event {
        Response(u16),
        Cancel,
        Lose,
        Time,
    }
    use Event::*;

    /// Figure 5, with RFC 6026 §8.4: what is done, and the state after it, 1,000 ms after the INVITE was sent.
    #[test]
    fn what_happens_moves_it_on_as_in_the_figure() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let calling = |cancel_wanted| State::Calling {
            retransmission: again(start, 500, 500),
            ends_at: at(32_000),
            cancel_wanted,
        };
        let by_stream = State::Calling { retransmission: None, ends_at: at(32_000), cancel_wanted: false };
        let proceeding = State::Proceeding { cancel_at: at(180_000) };
        let cancelled = State::Cancelled { ends_at: at(32_000) };
        let completed = State::Completed { ends_at: at(32_000) };
        let accepted = State::Accepted { ends_at: at(32_000) };
        let lost = State::Lost { since: at(0) };
        let (ignored, new, refused, and_cancel) = ("ignored", "new", "new, acknowledged", "new, CANCEL");
        let (ends_c, ends_64_t1) = (at(181_000), at(33_000));
        for (from, event, done, to) in [
            (calling(false), Response(100), new, State::Proceeding { cancel_at: ends_c }),
            (calling(true), Response(180), and_cancel, State::Cancelled { ends_at: ends_64_t1 }),
            (calling(false), Response(200), new, State::Accepted { ends_at: ends_64_t1 }),
            (calling(true), Response(200), new, State::Accepted { ends_at: ends_64_t1 }),
            (calling(false), Response(486), refused, State::Completed { ends_at: ends_64_t1 }),
            (by_stream.clone(), Response(486), refused, State::Completed { ends_at: at(1_000) }),
            (proceeding.clone(), Response(183), new, State::Proceeding { cancel_at: ends_c }),
            (proceeding.clone(), Response(200), new, State::Accepted { ends_at: ends_64_t1 }),
            (proceeding.clone(), Response(302), refused, State::Completed { ends_at: ends_64_t1 }),
            (cancelled.clone(), Response(180), new, cancelled.clone()),
            (cancelled.clone(), Response(200), new, State::Accepted { ends_at: ends_64_t1 }),
            (cancelled.clone(), Response(487), refused, State::Completed { ends_at: ends_64_t1 }),
            (completed.clone(), Response(487), "acknowledged", completed.clone()),
            (completed.clone(), Response(180), ignored, completed.clone()),
            (completed.clone(), Response(200), ignored, completed.clone()),
            (accepted.clone(), Response(200), new, accepted.clone()),
            (accepted.clone(), Response(180), ignored, accepted.clone()),
            (accepted.clone(), Response(486), ignored, accepted.clone()),
            (lost.clone(), Response(200), ignored, lost.clone()),
            (calling(false), Cancel, "", calling(true)),
            (proceeding.clone(), Cancel, "CANCEL", State::Cancelled { ends_at: ends_64_t1 }),
            (cancelled.clone(), Cancel, "", cancelled.clone()),
            (completed.clone(), Cancel, "", completed.clone()),
            (accepted.clone(), Cancel, "", accepted.clone()),
            (lost.clone(), Cancel, "", lost.clone()),
            (calling(false), Lose, "lost", State::Lost { since: at(1_000) }),
            (cancelled.clone(), Lose, "lost", State::Lost { since: at(1_000) }),
            (completed.clone(), Lose, "", completed.clone()),
            (accepted.clone(), Lose, "", accepted.clone()),
            (lost.clone(), Lose, "", lost.clone()),
            (
                calling(false),
                Time,
                "Retransmit",
                State::Calling {
                    retransmission: again(start, 1_000, 2_000),
                    ends_at: at(32_000),
                    cancel_wanted: false,
                },
            ),
            (by_stream.clone(), Time, "Nothing", by_stream.clone()),
            (
                State::Calling { retransmission: again(start, 500, 1_000), ends_at: at(1_000), cancel_wanted: false },
                Time,
                "End(TimedOut)",
                State::Calling { retransmission: again(start, 500, 1_000), ends_at: at(1_000), cancel_wanted: false },
            ),
            (proceeding.clone(), Time, "Nothing", proceeding.clone()),
            (State::Proceeding { cancel_at: at(1_000) }, Time, "Cancel", State::Cancelled { ends_at: ends_64_t1 }),
            (cancelled.clone(), Time, "Nothing", cancelled.clone()),
            (State::Cancelled { ends_at: at(1_000) }, Time, "End(TimedOut)", State::Cancelled { ends_at: at(1_000) }),
            (completed.clone(), Time, "Nothing", completed.clone()),
            (State::Completed { ends_at: at(1_000) }, Time, "End(Answered)", State::Completed { ends_at: at(1_000) }),
            (State::Accepted { ends_at: at(1_000) }, Time, "End(Answered)", State::Accepted { ends_at: at(1_000) }),
            (lost.clone(), Time, "End(Unreachable)", lost.clone()),
        ] {
            let reliable = matches!(from, State::Calling { retransmission: None, .. });
            let context = context(start, 1_000, reliable);
            let mut machine = InviteClient { state: from.clone() };
            let (found, event) = match event {
                Response(code) => (machine.received(code, &context).to_string(), code.to_string()),
                Cancel => (if machine.cancel(&context) { "CANCEL".into() } else { String::new() }, "cancel".into()),
                Lose => (if machine.lose(&context) { "lost".into() } else { String::new() }, "lose".into()),
                Time => (format!("{:?}", machine.due(&context)), "time".into()),
            };
            assert_eq!((found.as_str(), &machine.state), (done, &to), "{event} in {from:?}");
        }
    }

    #[test]
    fn it_is_sent_again_after_ever_longer_and_given_up_after_32_seconds() {
        let start = Instant::now();
        let mut machine = InviteClient::new(&context(start, 0, false));
        let mut sent = Vec::new();
        let ended = loop {
            let ms = (machine.next() - start).as_millis() as u64;
            match machine.due(&context(start, ms, false)) {
                ClientDue::Retransmit => sent.push(ms),
                due => break (ms, due),
            }
        };
        assert_eq!(sent, [500, 1_500, 3_500, 7_500, 15_500, 31_500]);
        assert_eq!(ended, (32_000, ClientDue::End(Ending::TimedOut)));
    }

    #[test]
    fn one_that_goes_as_datagrams_after_all_is_sent_again_too() {
        let start = Instant::now();
        let mut machine = InviteClient::new(&context(start, 0, true));
        assert_eq!(machine.next(), start + Duration::from_secs(32));
        machine.begin_again(&context(start, 100, false));
        assert_eq!(machine.next(), start + Duration::from_millis(600));
    }
}
