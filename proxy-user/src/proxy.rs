//! The whole proxy except sockets, clocks and maps: the core, and the protocols in front of it.
//!
//! Its driver passes in what arrived ([`Input`]) and the time, carries out its [`Output`], and calls it again at its
//! next timeout. So it can be tested, simulated and attacked in one process.

use crate::{
    accounting::{EndCause, RecordId},
    clock::Clock,
    config::Config,
    engine::{CallId, Core, EarlierStreams, Input, Load, NotRestored, Output, Protocol, Restored, Statistics},
    flow::Flow,
    journal::{Change, Entry},
    media::{RealmId, allocator::UnusableRange},
    signalling::{Agent, Arrival, Registration, agents},
};
use std::{
    collections::HashSet,
    sync::Arc,
    time::{Instant, SystemTime},
};

/// The core, and the protocols in front of it.
pub struct Proxy {
    core: Core,
    agents: Vec<Box<dyn Agent>>,
}

impl Proxy {
    /// A proxy that begins at `now`, which is `wall` on the clock. `seed` must be unpredictable in production: the
    /// tokens that keep strangers out of calls are drawn from it.
    ///
    /// # Errors
    /// Where a realm's port range holds no pairs; a configuration that was read from a file has none such.
    pub fn new(config: Arc<Config>, wall: SystemTime, now: Instant, seed: [u8; 32]) -> Result<Self, UnusableRange> {
        let agents = agents(&config);
        Ok(Self::with_agents(Core::new(config, wall, now, seed)?, agents))
    }

    /// A proxy of these protocols.
    pub fn with_agents(core: Core, agents: Vec<Box<dyn Agent>>) -> Self {
        Self { core, agents }
    }

    /// Takes in something that happened at `now`.
    pub fn handle_input(&mut self, input: Input<'_>, now: Instant) {
        match input {
            Input::Datagram { protocol, realm, source, bytes } => {
                self.arrived(&protocol, realm, Flow::udp(source), Arrival::Datagram(bytes), now);
            }
            Input::Message { protocol, realm, source, bytes } => {
                self.arrived(&protocol, realm, source, Arrival::Message(bytes), now);
            }
            Input::Closed { protocol, realm, flow } => self.arrived(&protocol, realm, flow, Arrival::Closed, now),
            Input::Unreachable { protocol, realm, flow } => {
                self.arrived(&protocol, realm, flow, Arrival::Unreachable, now);
            }
            Input::Media(event) => self.core.media_event(event, now),
        }
        self.deliver(now);
    }

    fn arrived(&mut self, protocol: &Protocol, realm: RealmId, flow: Flow, arrival: Arrival<'_>, now: Instant) {
        match self.agents.iter_mut().find(|agent| agent.protocol() == *protocol) {
            Some(agent) => agent.handle_input(&mut self.core, realm, flow, arrival, now),
            None => self.core.inconsistent("a message of a protocol that nobody speaks"),
        }
    }

    /// Passes the core's events about their calls to the protocols.
    fn deliver(&mut self, now: Instant) {
        while let Some((owner, call, event)) = self.core.poll_event() {
            match self.agents.iter_mut().find(|agent| agent.protocol() == owner) {
                Some(agent) => agent.handle_event(&mut self.core, call, event, now),
                // Of an earlier process that spoke one more.
                None => self.core.end(call, EndCause::Error, None, now),
            }
        }
    }

    /// The next thing to do, in order.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.core.poll_output()
    }

    /// When [`Proxy::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.agents.iter().filter_map(|agent| agent.poll_timeout()).chain(self.core.poll_timeout()).min()
    }

    /// Does what is due by `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.core.handle_timeout(now);
        self.deliver(now);
        for agent in &mut self.agents {
            agent.handle_timeout(&mut self.core, now);
        }
        self.deliver(now);
    }

    /// Begins to end all calls; [`Proxy::is_idle`] tells when their records are written and their parties notified.
    pub fn shutdown(&mut self, now: Instant) {
        self.core.shutdown(now);
        self.deliver(now);
    }

    /// Whether calls are still to be ended, after [`Proxy::shutdown`].
    pub fn is_ending(&self) -> bool {
        self.core.is_ending()
    }

    /// Whether no call waits for its end, and no party still has to be notified of one.
    pub fn is_idle(&self) -> bool {
        self.core.is_idle() && self.agents.iter().all(|agent| agent.is_idle())
    }

    /// How much is going on.
    pub fn load(&self, now: Instant) -> Load {
        let mut load = self.core.load(now);
        for agent in &self.agents {
            agent.add_load(&mut load);
        }
        load
    }

    /// What was counted since the beginning.
    pub fn statistics(&self) -> Statistics {
        self.core.statistics
    }

    /// The registered terminals, in no order.
    pub fn registrations(&self) -> impl Iterator<Item = Registration> {
        self.agents.iter().flat_map(|agent| agent.registrations(&self.core))
    }

    /// What changed since the last call, for the journal. Its times are readings of `clock`.
    pub fn take_changes(&mut self, clock: &Clock) -> Vec<Change> {
        let mut changes = self.core.take_changes(clock);
        for agent in &mut self.agents {
            changes.extend(agent.take_changes(&self.core, clock));
        }
        changes
    }

    /// Takes up what an earlier process with the same realms left. Only for a proxy that has seen nothing yet; what has
    /// to be done about it comes out as usual. `recorded` are records that were written already, though the journal may
    /// not know yet.
    ///
    /// # Errors
    ///
    /// A record cannot be read, or is not of these realms.
    pub fn restore(
        &mut self,
        entries: &[Entry],
        clock: Clock,
        media: EarlierStreams,
        recorded: &HashSet<RecordId>,
        now: Instant,
    ) -> Result<Restored, NotRestored> {
        self.core.restore(entries, clock, media, recorded)?;
        for agent in &mut self.agents {
            agent.restore(&mut self.core, entries, clock, now)?;
        }
        let (calls, mut restored): (Vec<CallId>, Restored) = self.core.resume(media, now);
        self.deliver(now);
        restored.registrations = self.registrations().count();
        restored.calls = calls.iter().filter(|call| self.core.is_live(**call)).count();
        restored.ended = calls.len() - restored.calls;
        Ok(restored)
    }
}
