//! Transactions (RFC 3261 §17, with RFC 6026's Accepted state): retransmissions end here.
//!
//! The machines only keep state and time; what a message means is decided elsewhere.

use super::exemption::Exempt;
use crate::{
    engine::budgets::Held,
    flow::{Flow, Transport},
    media::RealmId,
    signalling::sip::Message,
};
use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

/// Names a server transaction: a request that somebody sent us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ServerTxId(u64);

/// Names a client transaction: a request that we sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ClientTxId(u64);

/// All transactions, and what finds them: the key of a request that comes, the branch of a response.
#[derive(Debug)]
pub(super) struct Transactions<P> {
    servers: HashMap<ServerTxId, Server>,
    by_key: HashMap<ServerKey, ServerTxId>,
    clients: HashMap<ClientTxId, Client<P>>,
    /// By branch and method: a CANCEL has the branch of its INVITE (RFC 3261 §17.1.3).
    by_branch: HashMap<(String, String), ClientTxId>,
    last: u64,
}

impl<P> Default for Transactions<P> {
    fn default() -> Self {
        Self {
            servers: HashMap::new(),
            by_key: HashMap::new(),
            clients: HashMap::new(),
            by_branch: HashMap::new(),
            last: 0,
        }
    }
}

impl<P> Transactions<P> {
    /// How many there are of both kinds.
    pub(super) fn len(&self) -> usize {
        self.servers.len() + self.clients.len()
    }

    pub(super) fn server(&self, id: ServerTxId) -> Option<&Server> {
        self.servers.get(&id)
    }

    pub(super) fn server_mut(&mut self, id: ServerTxId) -> Option<&mut Server> {
        self.servers.get_mut(&id)
    }

    /// The transaction that a request with this key is of.
    pub(super) fn server_with_key(&self, key: &ServerKey) -> Option<ServerTxId> {
        self.by_key.get(key).copied()
    }

    /// The INVITE transaction that an ACK or CANCEL with this key is for.
    pub(super) fn invite_of(&self, key: &ServerKey) -> Option<ServerTxId> {
        self.server_with_key(&ServerKey { method: "INVITE".into(), ..key.clone() })
    }

    pub(super) fn insert_server(&mut self, server: Server) -> ServerTxId {
        self.last += 1;
        let id = ServerTxId(self.last);
        self.by_key.insert(server.key.clone(), id);
        self.servers.insert(id, server);
        id
    }

    pub(super) fn remove_server(&mut self, id: ServerTxId) -> Option<Server> {
        let server = self.servers.remove(&id)?;
        self.by_key.remove(&server.key);
        Some(server)
    }

    pub(super) fn client(&self, id: ClientTxId) -> Option<&Client<P>> {
        self.clients.get(&id)
    }

    pub(super) fn client_mut(&mut self, id: ClientTxId) -> Option<&mut Client<P>> {
        self.clients.get_mut(&id)
    }

    /// The transaction that a response with this branch and CSeq method answers.
    pub(super) fn client_with_branch(&self, branch: &str, method: &str) -> Option<ClientTxId> {
        self.by_branch.get(&(branch.to_owned(), method.to_owned())).copied()
    }

    pub(super) fn insert_client(&mut self, client: Client<P>) -> ClientTxId {
        self.last += 1;
        let id = ClientTxId(self.last);
        self.by_branch.insert((client.branch.clone(), client.method.clone()), id);
        self.clients.insert(id, client);
        id
    }

    pub(super) fn remove_client(&mut self, id: ClientTxId) -> Option<Client<P>> {
        let client = self.clients.remove(&id)?;
        self.by_branch.remove(&(client.branch.clone(), client.method.clone()));
        Some(client)
    }

    /// All that we sent, in no order.
    pub(super) fn clients(&self) -> impl Iterator<Item = (ClientTxId, &Client<P>)> {
        self.clients.iter().map(|(id, client)| (*id, client))
    }
}

/// T4: how long a message may stay in the network (RFC 3261 §17.1.1.1).
pub(super) const T4: Duration = Duration::from_secs(5);

/// What tells one server transaction from another (RFC 3261 §17.2.3). An ACK for a non-2xx and a CANCEL carry
/// the branch of their INVITE.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct ServerKey {
    pub(super) realm: RealmId,
    /// Who sent it, from whatever port and over whatever connection.
    pub(super) peer: IpAddr,
    pub(super) transport: Transport,
    pub(super) branch: String,
    pub(super) method: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ServerState {
    /// No final response yet.
    Proceeding,
    /// A final response was sent; for INVITE, not a 2xx and not acknowledged yet.
    Completed,
    /// INVITE: a 2xx was sent.
    Accepted,
    /// INVITE: the non-2xx was acknowledged.
    Confirmed,
}

/// A request that somebody sent us.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) key: ServerKey,
    /// Where it came from, and its responses go.
    pub(super) source: Flow,
    pub(super) request: Message,
    pub(super) state: ServerState,
    /// The last response that was sent.
    pub(super) response: Vec<u8>,
    pub(super) client: Option<ClientTxId>,
    /// To tag of our own responses.
    pub(super) tag: String,
    /// What it takes of the share of strangers.
    #[allow(dead_code, reason = "given back with the transaction")]
    pub(super) held: Option<Held>,
    /// It takes nothing of that share, because it names the token of a party.
    #[allow(dead_code, reason = "given back with the transaction")]
    pub(super) exempt: Option<Exempt>,
    /// INVITE: the 2xx that were sent, by To tag.
    accepted: Vec<(String, Vec<u8>)>,
    interval: Duration,
    retransmit_at: Option<Instant>,
    ends_at: Option<Instant>,
}

/// What time asks of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    Retransmit,
    End,
}

impl Server {
    pub(super) fn new(key: ServerKey, source: Flow, request: Message, tag: String) -> Self {
        Self {
            key,
            source,
            request,
            state: ServerState::Proceeding,
            response: Vec::new(),
            client: None,
            tag,
            held: None,
            exempt: None,
            accepted: Vec::new(),
            interval: Duration::ZERO,
            retransmit_at: None,
            ends_at: None,
        }
    }

    pub(super) fn is_invite(&self) -> bool {
        self.key.method == "INVITE"
    }

    /// Whether a final response was sent.
    pub(super) fn is_answered(&self) -> bool {
        self.state != ServerState::Proceeding
    }

    /// Whether a response may be sent now: after a final one only another 2xx to INVITE (RFC 6026 §7.1).
    pub(super) fn takes(&self, code: u16) -> bool {
        match self.state {
            ServerState::Proceeding => true,
            ServerState::Accepted => (200..300).contains(&code),
            ServerState::Completed | ServerState::Confirmed => false,
        }
    }

    /// The 2xx that was sent with this To tag: each is repeated from end to end until its ACK comes.
    pub(super) fn accepted(&self, tag: &str) -> Option<&[u8]> {
        self.accepted.iter().find_map(|(known, bytes)| (known == tag).then_some(bytes.as_slice()))
    }

    pub(super) fn remember_accepted(&mut self, tag: String, bytes: Vec<u8>) {
        // More than any fork has: a bound on what a callee can make us keep.
        const MOST: usize = 32;
        if self.accepted.len() < MOST {
            self.accepted.push((tag, bytes));
        }
    }

    /// A response is about to be sent.
    pub(super) fn respond(&mut self, code: u16, response: &[u8], timing: Timing, now: Instant) {
        self.response = response.to_vec();
        if code < 200 {
            return;
        }
        let reliable = self.source.transport.is_reliable();
        // Timer J: nothing comes twice over a reliable transport.
        self.ends_at = Some(if reliable && !self.is_invite() { now } else { now + 64 * timing.t1 });
        self.state = match (self.is_invite(), code) {
            (true, 200..300) => ServerState::Accepted,
            (true, _) => {
                self.interval = timing.t1;
                self.retransmit_at = (!reliable).then_some(now + self.interval);
                ServerState::Completed
            }
            (false, _) => ServerState::Completed,
        };
    }

    /// The ACK of a non-2xx came.
    pub(super) fn acknowledged(&mut self, now: Instant) {
        if self.state == ServerState::Completed && self.is_invite() {
            self.state = ServerState::Confirmed;
            self.retransmit_at = None;
            self.ends_at = Some(now + linger(self.source));
        }
    }

    pub(super) fn next(&self) -> Option<Instant> {
        [self.retransmit_at, self.ends_at].into_iter().flatten().min()
    }

    pub(super) fn due(&mut self, timing: Timing, now: Instant) -> Due {
        if self.ends_at.is_some_and(|at| at <= now) {
            return Due::End;
        }
        if self.retransmit_at.is_some_and(|at| at <= now) {
            self.interval = (self.interval * 2).min(timing.t2);
            self.retransmit_at = Some(now + self.interval);
            return Due::Retransmit;
        }
        Due::Nothing
    }
}

/// Timers I and K: how long stragglers may come.
fn linger(flow: Flow) -> Duration {
    if flow.transport.is_reliable() { Duration::ZERO } else { T4 }
}

/// T1 and T2 of RFC 3261, and timer C.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timing {
    pub(super) t1: Duration,
    pub(super) t2: Duration,
    pub(super) invite: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClientState {
    /// Nothing came back.
    Calling,
    /// A provisional response came.
    Proceeding,
    /// A final response came; for INVITE, not a 2xx.
    Completed,
    /// INVITE: a 2xx came.
    Accepted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cancel {
    No,
    /// To be sent once a provisional response has come (RFC 3261 §9.1).
    Wanted,
    Sent,
}

/// A request that we sent. `P` is what it was for.
#[derive(Debug)]
pub(super) struct Client<P> {
    pub(super) branch: String,
    pub(super) method: String,
    pub(super) realm: RealmId,
    pub(super) destination: Flow,
    pub(super) request: Vec<u8>,
    pub(super) state: ClientState,
    pub(super) cancel: Cancel,
    pub(super) purpose: P,
    /// What to answer for it where nobody can be reached there.
    pub(super) unreachable_status: u16,
    /// It could not be sent, or what it was sent over is gone: so it is to be answered.
    pub(super) failed: Option<u16>,
    /// It went over a stream because it is large, and may go as a datagram where there is no stream.
    pub(super) udp_fallback_allowed: bool,
    /// It went once more because the connection that it went over ended.
    pub(super) sent_again: bool,
    interval: Duration,
    retransmit_at: Option<Instant>,
    ends_at: Instant,
}

impl<P> Client<P> {
    #[allow(clippy::too_many_arguments, reason = "the parts of a request, each once")]
    pub(super) fn new(
        branch: String,
        method: String,
        realm: RealmId,
        destination: Flow,
        request: Vec<u8>,
        purpose: P,
        timing: Timing,
        now: Instant,
    ) -> Self {
        Self {
            branch,
            method,
            realm,
            destination,
            request,
            state: ClientState::Calling,
            cancel: Cancel::No,
            purpose,
            unreachable_status: 503,
            failed: None,
            udp_fallback_allowed: false,
            sent_again: false,
            interval: timing.t1,
            retransmit_at: (!destination.transport.is_reliable()).then_some(now + timing.t1),
            ends_at: now + 64 * timing.t1,
        }
    }

    pub(super) fn is_invite(&self) -> bool {
        self.method == "INVITE"
    }

    /// Whether a provisional response has come, and no final one.
    pub(super) fn is_proceeding(&self) -> bool {
        self.state == ClientState::Proceeding
    }

    /// Whether no final response has come.
    pub(super) fn waits(&self) -> bool {
        matches!(self.state, ClientState::Calling | ClientState::Proceeding)
    }

    /// A response came. Returns whether it is new: a final response that repeats an earlier one is not, but for the 2xx
    /// of an INVITE, which is repeated end to end.
    pub(super) fn received(&mut self, code: u16, timing: Timing, now: Instant) -> bool {
        match (self.state, code) {
            (ClientState::Calling | ClientState::Proceeding, ..200) => {
                self.state = ClientState::Proceeding;
                if self.is_invite() {
                    self.retransmit_at = None;
                    if self.cancel != Cancel::Sent {
                        self.ends_at = now + timing.invite;
                    }
                }
                true
            }
            (ClientState::Calling | ClientState::Proceeding, _) => {
                self.retransmit_at = None;
                self.state = match (self.is_invite(), code) {
                    (true, 200..300) => ClientState::Accepted,
                    _ => ClientState::Completed,
                };
                self.ends_at = now
                    + match self.state {
                        // Timer D: over a reliable transport no refusal comes twice.
                        ClientState::Completed if self.destination.transport.is_reliable() => Duration::ZERO,
                        _ if self.is_invite() => 64 * timing.t1,
                        _ => linger(self.destination),
                    };
                true
            }
            (ClientState::Accepted, 200..300) => true,
            _ => false,
        }
    }

    /// Nobody was reached. Its time is up; returns whether it still waited for an answer.
    pub(super) fn lose(&mut self, code: u16, now: Instant) -> bool {
        let waits = matches!(self.state, ClientState::Calling | ClientState::Proceeding);
        if waits {
            self.failed = Some(code);
            self.retransmit_at = None;
            self.ends_at = now;
        }
        waits
    }

    /// It goes as datagrams from now on.
    pub(super) fn fall_back_to_udp(&mut self, request: Vec<u8>, destination: Flow, timing: Timing, now: Instant) {
        self.request = request;
        self.destination = destination;
        self.udp_fallback_allowed = false;
        self.interval = timing.t1;
        self.retransmit_at = Some(now + timing.t1);
    }

    /// The CANCEL goes out: a final response has to come soon.
    pub(super) fn cancelled(&mut self, timing: Timing, now: Instant) {
        self.cancel = Cancel::Sent;
        self.ends_at = now + 64 * timing.t1;
    }

    pub(super) fn next(&self) -> Instant {
        self.retransmit_at.map_or(self.ends_at, |at| at.min(self.ends_at))
    }

    pub(super) fn due(&mut self, timing: Timing, now: Instant) -> Due {
        if self.ends_at <= now {
            return Due::End;
        }
        if self.retransmit_at.is_some_and(|at| at <= now) {
            self.interval *= 2;
            if !self.is_invite() {
                self.interval = self.interval.min(timing.t2);
                if self.state == ClientState::Proceeding {
                    self.interval = timing.t2;
                }
            }
            self.retransmit_at = Some(now + self.interval);
            return Due::Retransmit;
        }
        Due::Nothing
    }
}
