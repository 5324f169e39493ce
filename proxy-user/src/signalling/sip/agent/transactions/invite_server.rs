//! The INVITE server transaction (RFC 3261 §17.2.1, figure 7; RFC 6026 §8.7).
//!
//! ```text
//! Proceeding ──2xx──────▶ Accepted ──timer L──▶ ended
//!            ──3xx-6xx──▶ Completed ──ACK──▶ Confirmed ──timer I──▶ ended
//!                                   ──timer H──▶ ended
//! ```

use super::{
    outcome::ServerDue,
    timing::{Context, Retransmission, earlier},
};
use std::time::Instant;

/// More 2xx than any fork has: a bound on what a callee can make Latch keep.
const MOST_ACCEPTED: usize = 32;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct InviteServer {
    state: State,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// No final response yet.
    Proceeding,
    /// A refusal was sent, and its ACK has not come. Timers G and H.
    Completed { retransmission: Option<Retransmission>, ends_at: Instant },
    /// The ACK of the refusal came. Timer I.
    Confirmed { ends_at: Instant },
    /// A 2xx was sent. Timer L. `sent` has each of them, by To tag.
    Accepted { sent: Vec<(String, Vec<u8>)>, ends_at: Instant },
}

impl InviteServer {
    pub(super) fn new() -> Self {
        Self { state: State::Proceeding }
    }

    /// Whether a final response was sent.
    pub(super) fn is_answered(&self) -> bool {
        self.state != State::Proceeding
    }

    /// Whether it is a refusal that nobody has acknowledged.
    pub(super) fn is_unacknowledged(&self) -> bool {
        matches!(self.state, State::Completed { .. })
    }

    /// Whether a response may be sent now: after a final one only another 2xx (RFC 6026 §7.1). One that may is about to
    /// be.
    pub(super) fn respond(&mut self, code: u16, context: &Context) -> bool {
        match (&mut self.state, code) {
            (State::Proceeding, ..200) => {}
            (State::Proceeding, 200..300) => {
                self.state = State::Accepted { sent: Vec::new(), ends_at: context.after_64_t1() };
            }
            (State::Proceeding, _) => {
                let retransmission = Retransmission::begin(context);
                self.state = State::Completed { retransmission, ends_at: context.after_64_t1() };
            }
            (State::Accepted { ends_at, .. }, 200..300) => *ends_at = context.after_64_t1(),
            (State::Accepted { .. } | State::Completed { .. } | State::Confirmed { .. }, _) => return false,
        }
        true
    }

    /// The 2xx that was sent with this To tag: each is repeated from end to end until its ACK comes.
    pub(super) fn accepted(&self, tag: &str) -> Option<&[u8]> {
        let State::Accepted { sent, .. } = &self.state else { return None };
        sent.iter().find_map(|(known, bytes)| (known == tag).then_some(bytes.as_slice()))
    }

    /// The response that was sent must be repeated as it is, if it was a 2xx.
    pub(super) fn remember_accepted(&mut self, tag: String, bytes: Vec<u8>) {
        if let State::Accepted { sent, .. } = &mut self.state
            && sent.len() < MOST_ACCEPTED
        {
            sent.push((tag, bytes));
        }
    }

    /// An ACK came. Returns whether it is of this transaction: that of a 2xx is not (RFC 3261 §13.3.1.4).
    pub(super) fn acknowledge(&mut self, context: &Context) -> bool {
        match self.state {
            State::Completed { .. } => self.state = State::Confirmed { ends_at: context.after_stragglers() },
            State::Accepted { .. } => return false,
            State::Proceeding | State::Confirmed { .. } => {}
        }
        true
    }

    pub(super) fn next(&self) -> Option<Instant> {
        match &self.state {
            State::Proceeding => None,
            State::Completed { retransmission, ends_at } => Some(earlier(retransmission, *ends_at)),
            State::Confirmed { ends_at } | State::Accepted { ends_at, .. } => Some(*ends_at),
        }
    }

    pub(super) fn due(&mut self, context: &Context) -> ServerDue<()> {
        let (now, t2) = (context.now, context.timing.t2);
        match &mut self.state {
            State::Completed { ends_at, .. } | State::Confirmed { ends_at } | State::Accepted { ends_at, .. }
                if *ends_at <= now =>
            {
                ServerDue::End(())
            }
            State::Completed { retransmission: Some(retransmission), .. } => {
                let is_due = retransmission.is_due(now, |interval| (2 * interval).min(t2));
                if is_due { ServerDue::Retransmit } else { ServerDue::Nothing }
            }
            _ => ServerDue::Nothing,
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
        Respond(u16),
        Ack,
        Time,
    }
    use Event::*;

    /// Figure 7, with RFC 6026 §8.7: what is done, and the state after it, 1,000 ms after the final response, if there
    /// was one.
    #[test]
    fn what_happens_moves_it_on_as_in_the_figure() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let completed = State::Completed { retransmission: again(start, 500, 500), ends_at: at(32_000) };
        let by_stream = State::Completed { retransmission: None, ends_at: at(32_000) };
        let confirmed = State::Confirmed { ends_at: at(5_000) };
        let accepted = |ms| State::Accepted { sent: Vec::new(), ends_at: at(ms) };
        let sent_again = State::Completed { retransmission: again(start, 1_000, 2_000), ends_at: at(32_000) };
        let given_up = State::Completed { retransmission: again(start, 500, 1_000), ends_at: at(1_000) };
        let refused = |retransmission| State::Completed { retransmission, ends_at: at(33_000) };
        for (from, event, reliable, done, to) in [
            (State::Proceeding, Respond(100), false, "sent", State::Proceeding),
            (State::Proceeding, Respond(183), false, "sent", State::Proceeding),
            (State::Proceeding, Respond(200), false, "sent", accepted(33_000)),
            (State::Proceeding, Respond(486), false, "sent", refused(again(start, 500, 1_500))),
            (State::Proceeding, Respond(302), true, "sent", refused(None)),
            (completed.clone(), Respond(180), false, "", completed.clone()),
            (completed.clone(), Respond(200), false, "", completed.clone()),
            (completed.clone(), Respond(500), false, "", completed.clone()),
            (confirmed.clone(), Respond(200), false, "", confirmed.clone()),
            (accepted(32_000), Respond(200), false, "sent", accepted(33_000)),
            (accepted(32_000), Respond(180), false, "", accepted(32_000)),
            (accepted(32_000), Respond(486), false, "", accepted(32_000)),
            (State::Proceeding, Ack, false, "taken", State::Proceeding),
            (completed.clone(), Ack, false, "taken", State::Confirmed { ends_at: at(6_000) }),
            (by_stream.clone(), Ack, true, "taken", State::Confirmed { ends_at: at(1_000) }),
            (confirmed.clone(), Ack, false, "taken", confirmed.clone()),
            (accepted(32_000), Ack, false, "", accepted(32_000)),
            (State::Proceeding, Time, false, "Nothing", State::Proceeding),
            (completed.clone(), Time, false, "Retransmit", sent_again),
            (by_stream.clone(), Time, true, "Nothing", by_stream.clone()),
            (given_up.clone(), Time, false, "End(())", given_up),
            (confirmed.clone(), Time, false, "Nothing", confirmed.clone()),
            (State::Confirmed { ends_at: at(1_000) }, Time, false, "End(())", State::Confirmed { ends_at: at(1_000) }),
            (accepted(32_000), Time, false, "Nothing", accepted(32_000)),
            (accepted(1_000), Time, false, "End(())", accepted(1_000)),
        ] {
            let context = context(start, 1_000, reliable);
            let mut machine = InviteServer { state: from.clone() };
            let (found, event) = match event {
                Respond(code) => (if machine.respond(code, &context) { "sent".into() } else { String::new() }, code),
                Ack => (if machine.acknowledge(&context) { "taken".into() } else { String::new() }, 0),
                Time => (format!("{:?}", machine.due(&context)), 1),
            };
            assert_eq!((found.as_str(), &machine.state), (done, &to), "{event} in {from:?}");
        }
    }

    #[test]
    fn a_refusal_is_sent_again_at_most_every_t2_until_32_seconds_are_over() {
        let start = Instant::now();
        let mut machine = InviteServer::new();
        assert_eq!(machine.next(), None);
        assert!(machine.respond(486, &context(start, 0, false)) && machine.is_unacknowledged());
        let mut sent = Vec::new();
        let ended = loop {
            let ms = (machine.next().unwrap() - start).as_millis() as u64;
            match machine.due(&context(start, ms, false)) {
                ServerDue::Retransmit => sent.push(ms),
                due => break (ms, due),
            }
        };
        assert_eq!(sent, [500, 1_500, 3_500, 7_500, 11_500, 15_500, 19_500, 23_500, 27_500, 31_500]);
        assert_eq!(ended, (32_000, ServerDue::End(())));
    }

    #[test]
    fn each_2xx_is_known_by_its_tag_and_only_so_many_are_kept() {
        let start = Instant::now();
        let mut machine = InviteServer::new();
        machine.remember_accepted("early".into(), b"early".to_vec());
        machine.respond(200, &context(start, 0, false));
        for tag in 0..MOST_ACCEPTED + 1 {
            machine.remember_accepted(tag.to_string(), tag.to_string().into_bytes());
        }
        let accepted = |tag: &str| machine.accepted(tag).map(<[u8]>::to_vec);
        assert_eq!(
            [accepted("early"), accepted("0"), accepted("31"), accepted("32")],
            [None, Some(b"0".to_vec()), Some(b"31".to_vec()), None]
        );
    }
}
