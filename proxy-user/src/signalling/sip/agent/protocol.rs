//! SIP as the rest of Latch sees it.

use super::{
    registrations::Binding,
    state::{PROTOCOL, Purpose, Sip, Timer},
    transactions::{Client, Server},
};
use crate::{
    clock::Clock,
    config::Config,
    engine::{CallEvent, CallId, Core, Load, NotRestored, Protocol},
    flow::Flow,
    journal::{Change, Entry},
    media::RealmId,
    signalling::{Agent, Arrival, Registration, Wire, sip::wire::wire},
};
use std::time::Instant;

impl Agent for Sip {
    fn protocol(&self) -> Protocol {
        PROTOCOL
    }

    fn wire(&self, config: &Config) -> Wire {
        wire(config)
    }

    fn handle_input(&mut self, core: &mut Core, realm: RealmId, flow: Flow, arrival: Arrival<'_>, now: Instant) {
        let mut turn = self.turn(core, now);
        match arrival {
            Arrival::Datagram(bytes) => turn.datagram(realm, flow, bytes, now),
            Arrival::Message(bytes) => turn.message(realm, flow, bytes, now),
            Arrival::Closed => turn.connection_closed(realm, flow, now),
            Arrival::Unreachable => turn.unreachable(realm, flow, now),
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    fn handle_timeout(&mut self, core: &mut Core, now: Instant) {
        while let Some(timer) = self.timers.pop(now) {
            let mut turn = self.turn(core, now);
            match timer {
                Timer::Server(id) => turn.server_due(id, now),
                Timer::Client(id) => turn.client_due(id, now),
                Timer::Binding(id) => turn.binding_due(id, now),
                Timer::Dialog(id) => turn.dialog_due(id, now),
            }
        }
    }

    fn handle_event(&mut self, core: &mut Core, call: CallId, event: CallEvent, now: Instant) {
        let mut turn = self.turn(core, now);
        match event {
            CallEvent::HangUp(cause) => turn.hang_up(call, cause, now),
            CallEvent::Resumed => turn.resume(call, now),
        }
    }

    fn is_idle(&self) -> bool {
        // Who is called may still ring, or answer; and a caller that has a provisional response does not ask again.
        let is_told = |client: &Client<Purpose>| client.waits() && matches!(client.purpose(), Purpose::Hangup);
        let called = self.transactions.clients().any(|(_, client)| is_told(client) || client.is_given_up());
        let calls = |server: &Server| server.client().is_some() && server.is_unacknowledged();
        !called && !self.transactions.servers().any(calls)
    }

    fn take_changes(&mut self, core: &Core, clock: &Clock) -> Vec<Change> {
        self.changes(core, clock)
    }

    fn restore(&mut self, core: &mut Core, entries: &[Entry], clock: Clock, now: Instant) -> Result<(), NotRestored> {
        self.resume(core, entries, clock, now)
    }

    fn add_load(&self, load: &mut Load) {
        load.dialogs += self.dialogs.len();
        load.registrations += self.registrations.len();
        load.transactions += self.transactions.len();
        load.connections += self.connections.len();
        load.timers += self.timers.len();
    }

    fn registrations(&self, core: &Core) -> Vec<Registration> {
        let failures = core.config.keepalive.failures;
        let registered = |binding: &Binding| {
            let terminal = core.terminals().get(binding.terminal)?;
            Some(Registration {
                user: terminal.user.clone(),
                contact: binding.contact.clone(),
                flow: terminal.flow,
                unanswered: binding.unanswered,
                reachable: binding.is_reachable(failures),
            })
        };
        self.registrations.iter().filter_map(registered).collect()
    }
}
