//! The interface between a protocol and the rest of Latch.

use super::wire::Wire;
use crate::{
    clock::Clock,
    config::Config,
    engine::{CallEvent, CallId, Core, Load, NotRestored, Protocol},
    flow::Flow,
    journal::{Change, Entry},
    media::RealmId,
};
use std::time::Instant;

/// Something that happened to a protocol's messages.
#[derive(Clone, Copy, Debug)]
pub enum Arrival<'a> {
    /// A datagram came over a flow.
    Datagram(&'a [u8]),
    /// A message came over a flow with a connection: from its start to its end.
    Message(&'a [u8]),
    /// The connection of a flow is gone. Its number will not come again.
    Closed,
    /// What was sent to a flow without naming a connection is lost: none could be made.
    Unreachable,
}

/// One signalling protocol. It has no socket and no clock, and acts only through the core.
pub trait Agent {
    /// Which.
    fn protocol(&self) -> Protocol;
    /// Where its messages come to, and what they look like in a stream of bytes.
    fn wire(&self, config: &Config) -> Wire;
    /// Something happened in a realm.
    fn handle_input(&mut self, core: &mut Core, realm: RealmId, flow: Flow, arrival: Arrival<'_>, now: Instant);
    /// When [`Agent::handle_timeout`] wants to be called.
    fn poll_timeout(&self) -> Option<Instant>;
    /// Does what is due by `now`.
    fn handle_timeout(&mut self, core: &mut Core, now: Instant);
    /// The core wants something of one of its calls.
    fn handle_event(&mut self, core: &mut Core, call: CallId, event: CallEvent, now: Instant);
    /// Whether none of its own requests waits for an answer.
    fn is_idle(&self) -> bool;
    /// What changed since the last time that a later process has to know. Its times are readings of `clock`.
    fn take_changes(&mut self, core: &Core, clock: &Clock) -> Vec<Change>;
    /// Takes up what an earlier process left; the core has taken up its calls already.
    ///
    /// # Errors
    ///
    /// A record cannot be read, or is not of these realms.
    fn restore(&mut self, core: &mut Core, entries: &[Entry], clock: Clock, now: Instant) -> Result<(), NotRestored>;
    /// Adds how much is going on.
    fn add_load(&self, load: &mut Load);
    /// The registrations, in no order.
    fn registrations(&self, core: &Core) -> Vec<Registration>;
}

/// A registered terminal, for display.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// The user.
    pub user: String,
    /// The address that it loaded in its messages.
    pub contact: String,
    /// Where they came from.
    pub flow: Flow,
    /// Keep-alives in a row without an answer.
    pub unanswered: u32,
    /// Whether it can be reached, as far as is known.
    pub reachable: bool,
}
