//! The server transaction of every other request (RFC 3261 §17.2.2, figure 8).
//!
//! ```text
//! Trying ──1xx──▶ Proceeding ──2xx-6xx──▶ Completed ──timer J──▶ ended
//! ```

use super::{outcome::ServerDue, timing::Context};
use std::time::Instant;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct NonInviteServer {
    state: State,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// No response yet.
    Trying,
    /// A provisional response was sent.
    Proceeding,
    /// A final response was sent. Timer J.
    Completed { ends_at: Instant },
}

impl NonInviteServer {
    pub(super) fn new() -> Self {
        Self { state: State::Trying }
    }

    /// Whether a final response was sent.
    pub(super) fn is_answered(&self) -> bool {
        matches!(self.state, State::Completed { .. })
    }

    /// Whether a response may be sent now: none may after a final one. One that may is about to be.
    pub(super) fn respond(&mut self, code: u16, context: &Context) -> bool {
        self.state = match (&self.state, code) {
            (State::Trying | State::Proceeding, ..200) => State::Proceeding,
            (State::Trying | State::Proceeding, _) => {
                // Nothing comes twice over a reliable transport.
                State::Completed { ends_at: if context.reliable { context.now } else { context.after_64_t1() } }
            }
            (State::Completed { .. }, _) => return false,
        };
        true
    }

    pub(super) fn next(&self) -> Option<Instant> {
        match self.state {
            State::Trying | State::Proceeding => None,
            State::Completed { ends_at } => Some(ends_at),
        }
    }

    pub(super) fn due(&mut self, context: &Context) -> ServerDue<()> {
        if self.next().is_some_and(|at| at <= context.now) { ServerDue::End(()) } else { ServerDue::Nothing }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::timing::tests::context, *};
    use std::time::Duration;

    enum Event {
        Respond(u16),
        Time,
    }
    use Event::*;

    /// Figure 8: what is done, and the state after it, 1,000 ms after the request came.
    #[test]
    fn what_happens_moves_it_on_as_in_the_figure() {
        let start = Instant::now();
        let completed = |ms| State::Completed { ends_at: start + Duration::from_millis(ms) };
        for (from, event, reliable, done, to) in [
            (State::Trying, Respond(100), false, "sent", State::Proceeding),
            (State::Trying, Respond(200), false, "sent", completed(33_000)),
            (State::Trying, Respond(404), true, "sent", completed(1_000)),
            (State::Proceeding, Respond(182), false, "sent", State::Proceeding),
            (State::Proceeding, Respond(500), false, "sent", completed(33_000)),
            (completed(32_000), Respond(100), false, "", completed(32_000)),
            (completed(32_000), Respond(200), false, "", completed(32_000)),
            (State::Trying, Time, false, "Nothing", State::Trying),
            (State::Proceeding, Time, false, "Nothing", State::Proceeding),
            (completed(32_000), Time, false, "Nothing", completed(32_000)),
            (completed(1_000), Time, false, "End(())", completed(1_000)),
        ] {
            let context = context(start, 1_000, reliable);
            let mut machine = NonInviteServer { state: from.clone() };
            let found = match event {
                Respond(code) if machine.respond(code, &context) => "sent".into(),
                Respond(_) => String::new(),
                Time => format!("{:?}", machine.due(&context)),
            };
            assert_eq!((found.as_str(), &machine.state), (done, &to), "in {from:?}");
        }
    }
}
