//! Transactions (RFC 3261 §17, with RFC 6026's Accepted state): retransmissions end here.
//!
//! The machines only keep state and time; what a message means is decided elsewhere.
//!
//! - `invite_client`, `non_invite_client`, `invite_server`, `non_invite_server`: the four machines, each with the states
//!   and timers of its own figure in the RFC;
//! - `client` and `server`: what a transaction of each kind has besides its machine;
//! - `timing`: what the timers have in common; `outcome`: what the machines say;
//! - here: all transactions, and what finds them. No key is without its transaction and no transaction without its key,
//!   as both only come and go here.

use crate::{engine::budgets::Held, flow::Flow};
use std::{collections::HashMap, time::Instant};
use timing::Context;

mod client;
mod ids;
mod invite_client;
mod invite_server;
mod non_invite_client;
mod non_invite_server;
mod outcome;
mod server;
#[cfg(test)]
mod tests;
mod timing;

pub(super) use client::{Client, Outgoing};
pub(super) use ids::{ClientTxId, ServerTxId};
pub(super) use outcome::{ClientDue, Ending, Received, ServerDue};
pub(super) use server::{Server, ServerKey};
pub(super) use timing::Timing;

/// All transactions, and what finds them: the key of a request that comes, the branch of a response.
#[derive(Debug)]
pub(super) struct Transactions<P> {
    timing: Timing,
    servers: HashMap<ServerTxId, Server>,
    by_key: HashMap<ServerKey, ServerTxId>,
    clients: HashMap<ClientTxId, Client<P>>,
    /// By branch and method: a CANCEL has the branch of its INVITE (RFC 3261 §17.1.3).
    by_branch: HashMap<(String, String), ClientTxId>,
    last: u64,
}

impl<P> Transactions<P> {
    pub(super) fn new(timing: Timing) -> Self {
        Self {
            timing,
            servers: HashMap::new(),
            by_key: HashMap::new(),
            clients: HashMap::new(),
            by_branch: HashMap::new(),
            last: 0,
        }
    }

    /// How many there are of both kinds.
    pub(super) fn len(&self) -> usize {
        self.servers.len() + self.clients.len()
    }

    /// A request came. `None` where one with the same key came before, which is then to be found by it.
    pub(super) fn open_server(&mut self, server: Server) -> Option<ServerTxId> {
        if let Some(other) = self.by_key.get(server.key()) {
            // One of an earlier process, whose address the sender of another one moved to.
            self.servers.get_mut(other).filter(|other| other.key() != server.key())?.is_at(None);
        }
        self.last += 1;
        let id = ServerTxId(self.last);
        self.by_key.insert(server.key().clone(), id);
        self.servers.insert(id, server);
        Some(id)
    }

    /// `None` for one that is over.
    pub(super) fn server(&self, id: ServerTxId) -> Option<&Server> {
        self.servers.get(&id)
    }

    /// The transaction that a request with this key is of.
    pub(super) fn server_with_key(&self, key: &ServerKey) -> Option<(ServerTxId, &Server)> {
        let id = *self.by_key.get(key)?;
        Some((id, self.servers.get(&id)?))
    }

    /// The INVITE transaction that an ACK or CANCEL with this key is for.
    pub(super) fn invite_of(&self, key: &ServerKey) -> Option<(ServerTxId, &Server)> {
        self.server_with_key(&ServerKey { method: "INVITE".into(), ..key.clone() })
    }

    /// A response is about to be sent. False where none may be any more.
    pub(super) fn respond(&mut self, id: ServerTxId, code: u16, response: &[u8], now: Instant) -> bool {
        self.with_server(id, now, |server, context| server.respond(code, response, context)).unwrap_or(false)
    }

    /// A 2xx to an INVITE was sent: what repeats it, by its To tag, is answered with the same bytes.
    pub(super) fn remember_accepted(&mut self, id: ServerTxId, tag: String, bytes: Vec<u8>) {
        if let Some(server) = self.servers.get_mut(&id) {
            server.remember_accepted(tag, bytes);
        }
    }

    /// An ACK came, whose INVITE has this transaction. False where it is the one of a 2xx, which goes from end to end.
    pub(super) fn acknowledge(&mut self, id: ServerTxId, now: Instant) -> bool {
        self.with_server(id, now, Server::acknowledge).unwrap_or(false)
    }

    /// The sender of a request has moved. Returns where it was before. What it sends again, and an ACK or CANCEL, are
    /// of the transaction from there too.
    pub(super) fn move_server(&mut self, id: ServerTxId, to: Flow) -> Option<Flow> {
        let server = self.servers.get_mut(&id)?;
        let before = server.move_to(to);
        let key = ServerKey { peer: to.ip(), transport: to.transport, ..server.key().clone() };
        if !self.by_key.contains_key(&key) {
            self.by_key.insert(key.clone(), id);
            if let Some(last) = server.is_at(Some(key)) {
                self.by_key.remove(&last);
            }
        }
        Some(before)
    }

    /// A request was forwarded as another one.
    pub(super) fn sent_on(&mut self, id: ServerTxId, client: ClientTxId) {
        if let Some(server) = self.servers.get_mut(&id) {
            server.sent_on(client);
        }
    }

    /// What it takes of the share of strangers.
    pub(super) fn held_mut(&mut self, id: ServerTxId) -> Option<&mut Held> {
        self.servers.get_mut(&id)?.held_mut()
    }

    /// It will not be answered any more.
    pub(super) fn close_server(&mut self, id: ServerTxId) -> Option<Server> {
        let mut server = self.servers.remove(&id)?;
        for key in server.keys() {
            self.by_key.remove(key);
        }
        // Over a connection it ends as soon as it is answered; what it was sent on as lasts longer.
        if let Some(client) = server.client().and_then(|client| self.clients.get_mut(&client)) {
            client.keep_share(server.take_share());
        }
        Some(server)
    }

    /// What is due by now.
    pub(super) fn server_due(&mut self, id: ServerTxId, now: Instant) -> ServerDue<Server> {
        match self.with_server(id, now, Server::due) {
            Some(ServerDue::Retransmit) => ServerDue::Retransmit,
            Some(ServerDue::End(())) => self.close_server(id).map_or(ServerDue::Nothing, ServerDue::End),
            Some(ServerDue::Nothing) | None => ServerDue::Nothing,
        }
    }

    fn with_server<T>(
        &mut self,
        id: ServerTxId,
        now: Instant,
        work: impl FnOnce(&mut Server, &Context) -> T,
    ) -> Option<T> {
        let server = self.servers.get_mut(&id)?;
        let context = Context { timing: self.timing, reliable: server.is_reliable(), now };
        Some(work(server, &context))
    }

    /// A request is sent. `None` where one with the same branch and method was.
    pub(super) fn open_client(&mut self, request: Outgoing<P>, now: Instant) -> Option<ClientTxId> {
        let reliable = request.destination.transport.is_reliable();
        let client = Client::new(request, &Context { timing: self.timing, reliable, now });
        let key = client.key();
        if self.by_branch.contains_key(&key) {
            return None;
        }
        self.last += 1;
        let id = ClientTxId(self.last);
        self.by_branch.insert(key, id);
        self.clients.insert(id, client);
        Some(id)
    }

    /// `None` for one that is over.
    pub(super) fn client(&self, id: ClientTxId) -> Option<&Client<P>> {
        self.clients.get(&id)
    }

    /// The transaction that a response with this branch and CSeq method answers.
    pub(super) fn client_with_branch(&self, branch: &str, method: &str) -> Option<(ClientTxId, &Client<P>)> {
        let id = *self.by_branch.get(&(branch.to_owned(), method.to_owned()))?;
        Some((id, self.clients.get(&id)?))
    }

    /// All that we sent, in no order.
    pub(super) fn clients(&self) -> impl Iterator<Item = (ClientTxId, &Client<P>)> {
        self.clients.iter().map(|(id, client)| (*id, client))
    }

    /// All that was sent to us, in no order.
    pub(super) fn servers(&self) -> impl Iterator<Item = &Server> {
        self.servers.values()
    }

    /// What a request was for, to be changed.
    pub(super) fn purpose_mut(&mut self, id: ClientTxId) -> Option<&mut P> {
        self.clients.get_mut(&id).map(Client::purpose_mut)
    }

    /// A response came.
    pub(super) fn received(&mut self, id: ClientTxId, code: u16, now: Instant) -> Option<Received> {
        self.with_client(id, now, |client, context| client.received(code, context))
    }

    /// A request must be cancelled. Returns whether to send its CANCEL now; else it waits for a provisional response,
    /// or there is nothing to cancel any more.
    pub(super) fn cancel(&mut self, id: ClientTxId, now: Instant) -> bool {
        self.with_client(id, now, Client::cancel).unwrap_or(false)
    }

    /// The destination is unreachable: the transaction is over when its timer fires. Returns whether it still waited
    /// for an answer.
    pub(super) fn lose(&mut self, id: ClientTxId, now: Instant) -> bool {
        self.with_client(id, now, Client::lose).unwrap_or(false)
    }

    /// It goes as datagrams from now on.
    pub(super) fn fall_back_to_udp(&mut self, id: ClientTxId, request: Vec<u8>, destination: Flow, now: Instant) {
        if let Some(client) = self.clients.get_mut(&id) {
            client.fall_back_to_udp(request, destination);
        }
        self.with_client(id, now, Client::begin_again);
    }

    /// Whether it may go once more over another connection; it may once.
    pub(super) fn take_second_try(&mut self, id: ClientTxId) -> bool {
        self.clients.get_mut(&id).is_some_and(Client::take_second_try)
    }

    /// What is due by now.
    pub(super) fn client_due(&mut self, id: ClientTxId, now: Instant) -> ClientDue<(Client<P>, Ending)> {
        match self.with_client(id, now, Client::due) {
            Some(ClientDue::Retransmit) => ClientDue::Retransmit,
            Some(ClientDue::Cancel) => ClientDue::Cancel,
            Some(ClientDue::End(ending)) => {
                let client = self.close_client(id);
                client.map_or(ClientDue::Nothing, |client| ClientDue::End((client, ending)))
            }
            Some(ClientDue::Nothing) | None => ClientDue::Nothing,
        }
    }

    fn close_client(&mut self, id: ClientTxId) -> Option<Client<P>> {
        let client = self.clients.remove(&id)?;
        self.by_branch.remove(&client.key());
        Some(client)
    }

    fn with_client<T>(
        &mut self,
        id: ClientTxId,
        now: Instant,
        work: impl FnOnce(&mut Client<P>, &Context) -> T,
    ) -> Option<T> {
        let client = self.clients.get_mut(&id)?;
        let context = Context { timing: self.timing, reliable: client.is_reliable(), now };
        Some(work(client, &context))
    }
}
