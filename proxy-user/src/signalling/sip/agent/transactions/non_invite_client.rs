//! The client transaction of every other request (RFC 3261 §17.1.2.2, figure 6).
//!
//! ```text
//! Trying ──1xx──▶ Proceeding ──2xx-6xx──▶ Completed ──timer K──▶ ended
//! ```

use super::{
    outcome::{ClientDue, Ending, Received},
    timing::{Context, Retransmission, earlier},
};
use std::time::Instant;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct NonInviteClient {
    state: State,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// Nothing came back. Timers E and F.
    Trying { retransmission: Option<Retransmission>, ends_at: Instant },
    /// A provisional response came. Timers E and F: it is still sent again.
    Proceeding { retransmission: Option<Retransmission>, ends_at: Instant },
    /// A final response came. Timer K.
    Completed { ends_at: Instant },
    /// Nobody can be reached there.
    Lost { since: Instant },
}

impl NonInviteClient {
    /// The request is sent.
    pub(super) fn new(context: &Context) -> Self {
        let retransmission = Retransmission::begin(context);
        Self { state: State::Trying { retransmission, ends_at: context.after_64_t1() } }
    }

    /// Whether nothing came back.
    pub(super) fn is_trying(&self) -> bool {
        matches!(self.state, State::Trying { .. })
    }

    /// Whether a provisional response came, and no final one.
    pub(super) fn is_proceeding(&self) -> bool {
        matches!(self.state, State::Proceeding { .. })
    }

    /// Whether no final response has come.
    pub(super) fn waits(&self) -> bool {
        !matches!(self.state, State::Completed { .. })
    }

    pub(super) fn received(&mut self, code: u16, context: &Context) -> Received {
        let is_new = match self.state {
            State::Trying { retransmission, ends_at } | State::Proceeding { retransmission, ends_at } => {
                self.state = match code {
                    ..200 => State::Proceeding { retransmission, ends_at },
                    _ => State::Completed { ends_at: context.after_stragglers() },
                };
                true
            }
            State::Completed { .. } | State::Lost { .. } => false,
        };
        Received { is_new, acknowledge: false, cancel: false }
    }

    /// Nobody can be reached there (RFC 3261 §17.1.4). Returns whether it still waited for an answer.
    pub(super) fn lose(&mut self, context: &Context) -> bool {
        let waited = self.is_trying() || self.is_proceeding();
        if waited {
            self.state = State::Lost { since: context.now };
        }
        waited
    }

    /// It goes as datagrams from now on, with its first retransmission to come.
    pub(super) fn begin_again(&mut self, context: &Context) {
        if let State::Trying { retransmission, .. } = &mut self.state {
            *retransmission = Retransmission::begin(context);
        }
    }

    pub(super) fn next(&self) -> Instant {
        match &self.state {
            State::Trying { retransmission, ends_at } | State::Proceeding { retransmission, ends_at } => {
                earlier(retransmission, *ends_at)
            }
            State::Completed { ends_at: at } | State::Lost { since: at } => *at,
        }
    }

    pub(super) fn due(&mut self, context: &Context) -> ClientDue<Ending> {
        let (now, t2) = (context.now, context.timing.t2);
        match &mut self.state {
            State::Trying { ends_at, .. } | State::Proceeding { ends_at, .. } if *ends_at <= now => {
                ClientDue::End(Ending::TimedOut)
            }
            State::Trying { retransmission: Some(retransmission), .. } => {
                let is_due = retransmission.is_due(now, |interval| (2 * interval).min(t2));
                if is_due { ClientDue::Retransmit } else { ClientDue::Nothing }
            }
            State::Proceeding { retransmission: Some(retransmission), .. } => {
                if retransmission.is_due(now, |_| t2) {
                    ClientDue::Retransmit
                } else {
                    ClientDue::Nothing
                }
            }
            State::Completed { ends_at } if *ends_at <= now => ClientDue::End(Ending::Answered),
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
        Lose,
        Time,
    }
    use Event::*;

    /// Figure 6: what is done, and the state after it, 1,000 ms after the request was sent.
    #[test]
    fn what_happens_moves_it_on_as_in_the_figure() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let first = again(start, 500, 500);
        let trying = State::Trying { retransmission: first, ends_at: at(32_000) };
        let by_stream = State::Trying { retransmission: None, ends_at: at(32_000) };
        let proceeding = State::Proceeding { retransmission: first, ends_at: at(32_000) };
        let completed = State::Completed { ends_at: at(5_000) };
        let lost = State::Lost { since: at(0) };
        let timed_out = |retransmission| State::Trying { retransmission, ends_at: at(1_000) };
        for (from, event, done, to) in [
            (trying.clone(), Response(100), "new", proceeding.clone()),
            (trying.clone(), Response(200), "new", State::Completed { ends_at: at(6_000) }),
            (trying.clone(), Response(404), "new", State::Completed { ends_at: at(6_000) }),
            (by_stream.clone(), Response(200), "new", State::Completed { ends_at: at(1_000) }),
            (proceeding.clone(), Response(183), "new", proceeding.clone()),
            (proceeding.clone(), Response(500), "new", State::Completed { ends_at: at(6_000) }),
            (completed.clone(), Response(100), "ignored", completed.clone()),
            (completed.clone(), Response(200), "ignored", completed.clone()),
            (lost.clone(), Response(200), "ignored", lost.clone()),
            (trying.clone(), Lose, "lost", State::Lost { since: at(1_000) }),
            (proceeding.clone(), Lose, "lost", State::Lost { since: at(1_000) }),
            (completed.clone(), Lose, "", completed.clone()),
            (lost.clone(), Lose, "", lost.clone()),
            (
                trying.clone(),
                Time,
                "Retransmit",
                State::Trying { retransmission: again(start, 1_000, 2_000), ends_at: at(32_000) },
            ),
            (
                proceeding.clone(),
                Time,
                "Retransmit",
                State::Proceeding { retransmission: again(start, 4_000, 5_000), ends_at: at(32_000) },
            ),
            (by_stream.clone(), Time, "Nothing", by_stream.clone()),
            (timed_out(first), Time, "End(TimedOut)", timed_out(first)),
            (timed_out(None), Time, "End(TimedOut)", timed_out(None)),
            (completed.clone(), Time, "Nothing", completed.clone()),
            (State::Completed { ends_at: at(1_000) }, Time, "End(Answered)", State::Completed { ends_at: at(1_000) }),
            (lost.clone(), Time, "End(Unreachable)", lost.clone()),
        ] {
            let reliable = matches!(from, State::Trying { retransmission: None, .. });
            let context = context(start, 1_000, reliable);
            let mut machine = NonInviteClient { state: from.clone() };
            let (found, event) = match event {
                Response(code) => (machine.received(code, &context).to_string(), code.to_string()),
                Lose => (if machine.lose(&context) { "lost".into() } else { String::new() }, "lose".into()),
                Time => (format!("{:?}", machine.due(&context)), "time".into()),
            };
            assert_eq!((found.as_str(), &machine.state), (done, &to), "{event} in {from:?}");
        }
    }

    #[test]
    fn it_is_sent_again_at_most_every_t2_and_given_up_after_32_seconds() {
        let start = Instant::now();
        for (provisional, expected) in [
            (false, vec![500, 1_500, 3_500, 7_500, 11_500, 15_500, 19_500, 23_500, 27_500, 31_500]),
            (true, vec![500, 4_500, 8_500, 12_500, 16_500, 20_500, 24_500, 28_500]),
        ] {
            let mut machine = NonInviteClient::new(&context(start, 0, false));
            if provisional {
                machine.received(100, &context(start, 100, false));
            }
            let mut sent = Vec::new();
            let ended = loop {
                let ms = (machine.next() - start).as_millis() as u64;
                match machine.due(&context(start, ms, false)) {
                    ClientDue::Retransmit => sent.push(ms),
                    due => break (ms, due),
                }
            };
            assert_eq!((sent, ended), (expected, (32_000, ClientDue::End(Ending::TimedOut))));
        }
    }

    #[test]
    fn one_that_goes_as_datagrams_after_all_is_sent_again_too() {
        let start = Instant::now();
        let mut machine = NonInviteClient::new(&context(start, 0, true));
        assert_eq!(machine.next(), start + Duration::from_secs(32));
        machine.begin_again(&context(start, 100, false));
        assert_eq!(machine.next(), start + Duration::from_millis(600));
    }
}
