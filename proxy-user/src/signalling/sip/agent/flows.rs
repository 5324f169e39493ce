//! Over which flow messages leave, and what it means when a connection is gone.
//!
//! A terminal is reached over the connection that it made and over no other: nobody can connect to it through its NAT.
//! With the connection, the way to it is gone until it comes back with a REGISTER, or with a request inside its dialog
//! (RFC 5626 §5.3.1). In a core realm, addresses can be connected to, and all connections to one are equivalent.

use super::{
    reading::route_flow,
    state::{PROTOCOL, Purpose, Timer, Turn},
    transactions::{Client, ClientTxId, Server},
};
use crate::{
    config::Side,
    flow::{Flow, Transport},
    media::RealmId,
    signalling::sip::{Message, Name},
};
use std::net::SocketAddr;
use std::time::Instant;
use tracing::{debug, info};

/// A request of more bytes goes over a stream, where there is one (RFC 3261 §18.1.1).
const LARGEST_DATAGRAM: usize = 1_300;

impl Turn<'_> {
    /// Whether anything sent there can arrive.
    pub(super) fn reaches(&self, realm: RealmId, flow: Flow) -> bool {
        !flow.transport.is_reliable()
            || self.core.side(realm) == Some(Side::Core)
            || self.connections.is_open(flow.connection)
    }

    /// The flow by which a message for `destination` really goes; `None` where there is none any more.
    fn route_out(&self, realm: RealmId, destination: Flow) -> Option<Flow> {
        if !destination.transport.is_reliable() || self.connections.is_open(destination.connection) {
            return Some(destination);
        }
        let config = self.core.config.realms.get(realm).filter(|config| config.side == Side::Core)?;
        // The port of a connection that came from there is not an address to connect to (RFC 3261 §18.2.2).
        let softswitch = config.softswitch_flow().filter(|softswitch| softswitch.ip() == destination.ip());
        match (destination.connection, softswitch) {
            (None, _) => Some(destination),
            (Some(_), Some(softswitch)) if softswitch.transport == destination.transport => Some(softswitch),
            (Some(_), _) => {
                let port = if destination.transport == Transport::Tls { 5061 } else { 5060 };
                Some(Flow::to(destination.transport, SocketAddr::new(destination.ip(), port)))
            }
        }
    }

    pub(super) fn send(&mut self, realm: RealmId, destination: Flow, bytes: Vec<u8>) {
        self.send_keeping(0, realm, destination, bytes);
    }

    /// Sends something that may be withheld. An address that may be forged gets at most three times the bytes that came
    /// from there, and `keep` bytes of that are left for what matters more.
    pub(super) fn send_keeping(&mut self, keep: usize, realm: RealmId, destination: Flow, bytes: Vec<u8>) {
        if !self.core.may_send(realm, destination, bytes.len(), keep, self.now) {
            return;
        }
        match self.route_out(realm, destination) {
            Some(destination) => self.core.send(PROTOCOL, realm, destination, bytes),
            None => self.core.statistics.undeliverable += 1,
        }
    }

    /// What a request to a softswitch by UDP becomes where it is too large for a datagram.
    pub(super) fn by_stream(
        &self,
        realm: RealmId,
        destination: Flow,
        branch: &str,
        request: &[u8],
    ) -> Option<(Flow, Vec<u8>)> {
        let config = self.core.config.realms.get(realm)?;
        let fits = request.len() <= LARGEST_DATAGRAM || destination.transport.is_reliable();
        if fits || config.side != Side::Core || config.streams.tcp.is_none() {
            return None;
        }
        let changed = self.with_transport(realm, Transport::Tcp, branch, request)?;
        Some((Flow::to(Transport::Tcp, destination.remote), changed))
    }

    fn with_transport(&self, realm: RealmId, transport: Transport, branch: &str, request: &[u8]) -> Option<Vec<u8>> {
        let message = Message::parse(request).ok()?;
        let via = self.via(realm, transport, branch)?;
        Some(message.edit().set(Name::Via, &via).state_length().finish())
    }

    /// A connection is gone: requests over it get no answer, and the terminals behind it are unreachable.
    pub(super) fn connection_closed(&mut self, realm: RealmId, flow: Flow, now: Instant) {
        // The softswitch may have closed one over which it never sent anything.
        let open = self.connections.close(flow).unwrap_or_default();
        for id in open.bindings {
            let failures = self.core.config.keepalive.failures;
            let Some(binding) = self.registrations.get_mut(id) else { continue };
            let over = self.core.terminals().get(binding.terminal).and_then(|terminal| terminal.flow.connection);
            if over == flow.connection {
                binding.unanswered = binding.unanswered.max(failures);
                info!(aor = binding.aor, source = %flow, "terminal is out of reach: its connection is gone");
            }
        }
        if self.core.side(realm) != Some(Side::Core) {
            for id in open.clients {
                self.lose(id, now);
            }
            // To the caller its call has failed: no terminal must ring for it.
            for server in open.invites {
                if let Some(client) = self.transactions.server(server).and_then(Server::client) {
                    self.cancel_client(client, now);
                }
            }
            return;
        }
        // Nothing tells whether the other end has read what was sent last, so it goes once more: a peer that has it
        // already recognises its branch.
        let lost = |client: &Client<Purpose>| {
            let pooled = Flow { connection: None, ..flow };
            let there = client.destination() == flow || client.destination() == pooled;
            client.realm() == realm && client.is_unheard() && there
        };
        let mut again: Vec<_> =
            self.transactions.clients().filter(|(_, client)| lost(client)).map(|(id, _)| id).collect();
        again.sort_unstable();
        for id in again {
            if self.transactions.take_second_try(id) {
                self.send_again(id);
            } else {
                // A peer that closes every connection is not asked again and again.
                self.lose(id, now);
            }
        }
    }

    /// No connection could be made: requests to there get no answer.
    pub(super) fn unreachable(&mut self, realm: RealmId, flow: Flow, now: Instant) {
        let waits = |client: &Client<Purpose>| {
            client.realm() == realm && self.route_out(realm, client.destination()) == Some(flow)
        };
        let mut ids: Vec<_> =
            self.transactions.clients().filter(|(_, client)| waits(client)).map(|(id, _)| id).collect();
        ids.sort_unstable();
        for id in ids {
            self.lose(id, now);
        }
    }

    /// A request cannot reach its destination: its transaction ends at the next turn, if it still waits.
    pub(super) fn lose(&mut self, id: ClientTxId, now: Instant) {
        if let Some(client) = self.transactions.client(id).filter(|client| client.may_fall_back_to_udp()) {
            let (realm, destination) = (client.realm(), Flow::udp(client.destination().remote));
            let request = self.with_transport(realm, Transport::Udp, client.branch(), client.request());
            if let Some(request) = request {
                debug!(%destination, "no stream for a large request: it goes as a datagram");
                self.transactions.fall_back_to_udp(id, request.clone(), destination, now);
                self.wake_client(id);
                return self.send(realm, destination, request);
            }
        }
        if self.transactions.lose(id, now) {
            self.wake_client(id);
        }
    }

    /// What was sent goes once more.
    pub(super) fn send_again(&mut self, id: ClientTxId) {
        let Some(client) = self.transactions.client(id) else {
            return self.core.inconsistent("nothing to send again");
        };
        let (realm, destination, bytes) = (client.realm(), client.destination(), client.request().to_vec());
        self.core.statistics.retransmissions_sent += 1;
        self.send(realm, destination, bytes);
    }

    /// Sets the timer for what a client transaction has to do next.
    pub(super) fn wake_client(&mut self, id: ClientTxId) {
        if let Some(client) = self.transactions.client(id) {
            self.timers.set(client.next(), Timer::Client(id));
        }
    }

    /// Where a core realm's URI leads to: by the transport that it names, if the realm has that one, else by UDP; to
    /// the softswitch as configured, where the URI names none.
    pub(super) fn core_flow(&self, realm: RealmId, value: &str) -> Option<Flow> {
        let config = self.core.config.realms.get(realm)?;
        let (transport, address) = route_flow(value)?;
        let softswitch = config.softswitch_flow()?;
        let transport = match transport {
            Some(transport) if config.own(transport).is_some() => transport,
            Some(_) | None if address.ip() == softswitch.ip() => softswitch.transport,
            _ => Transport::Udp,
        };
        Some(Flow::to(transport, address))
    }
}
