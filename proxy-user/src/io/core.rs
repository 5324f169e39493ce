//! What the loop drives.

use crate::{
    clock::Clock,
    engine::{Input, Output},
    journal::Change,
    proxy::Proxy,
};
use serde_json::{Value, json};
use std::time::Instant;

/// A sans-IO core, as the loop drives it.
pub trait Core {
    /// Something happened.
    fn handle_input(&mut self, input: Input<'_>, now: Instant);
    /// The time of [`Core::poll_timeout`] has come.
    fn handle_timeout(&mut self, now: Instant);
    /// The next thing to do.
    fn poll_output(&mut self) -> Option<Output>;
    /// When [`Core::handle_timeout`] must be called.
    fn poll_timeout(&self) -> Option<Instant>;
    /// What changed since the last call that a later process has to know. Its times are readings of `clock`.
    fn take_changes(&mut self, _clock: &Clock) -> Vec<Change> {
        Vec::new()
    }
    /// Ends every call.
    fn shutdown(&mut self, now: Instant);
    /// Whether calls are still to be ended, after [`Core::shutdown`]: they are some at a time.
    fn is_ending(&self) -> bool {
        false
    }
    /// Whether nothing is under way any more.
    fn is_idle(&self) -> bool;
    /// The state for an operator: how much is under way, and the counters.
    fn status(&self, _now: Instant) -> (Value, Value) {
        (Value::Null, Value::Null)
    }
}

impl Core for Proxy {
    fn handle_input(&mut self, input: Input<'_>, now: Instant) {
        self.handle_input(input, now);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.handle_timeout(now);
    }

    fn poll_output(&mut self) -> Option<Output> {
        self.poll_output()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.poll_timeout()
    }

    fn take_changes(&mut self, clock: &Clock) -> Vec<Change> {
        self.take_changes(clock)
    }

    fn shutdown(&mut self, now: Instant) {
        self.shutdown(now);
    }

    fn is_ending(&self) -> bool {
        self.is_ending()
    }

    fn is_idle(&self) -> bool {
        self.is_idle()
    }

    fn status(&self, now: Instant) -> (Value, Value) {
        (json!(self.load(now)), json!(self.statistics()))
    }
}
