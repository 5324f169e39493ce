//! Connections: TCP, TLS and WebSocket, towards terminals and softswitch.
//!
//! ```text
//! listener ─accept─▶ task of a connection ──whole messages──▶ loop ──▶ engine
//!                    task of a connection ◀──bounded queue─── loop ◀── engine
//! ```
//!
//! Each connection has a task (`connection`, and `websocket` in it, with what is in `task`), which stops reading while
//! the engine has not taken what it read before. What may wait for a peer is bounded; a peer that does not take it
//! loses the connection. Towards terminals, connections are only accepted. Towards a core realm they are made as they
//! are needed, one to each address, and made again after they ended.

mod connection;
mod listen;
mod reason;
mod task;
#[cfg(test)]
mod tests;
mod websocket;

use crate::{
    config::{Config, Connections as ConnectionLimits, Side},
    engine::{Input, Protocol},
    flow::{ConnectionId, Flow, Transport},
    media::{PerRealm, RealmId},
    signalling::{self, Wire},
    tls::Tls,
};
use anyhow::{Context as _, Result};
use connection::Origin;
use listen::Listener;
use proxy_common::signalling::Prefix;
pub use reason::ConnectionStatistics;
use reason::Reason;
use std::{
    collections::{HashMap, VecDeque},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use task::{Connection, ConnectionEvent, Queue};
use tokio::{net::TcpStream, sync::mpsc, task::AbortHandle};

/// Messages of all connections that wait for the engine: a connection whose message finds no room reads no further.
const INBOX: usize = 64;
/// Connections that Latch makes, and that the softswitch may have made, whatever terminals have: a bound on what a core
/// can make us hold.
const MOST_IN_CORE: usize = 100;
/// Connections accepted at one listener before others have their turn.
const BATCH: usize = 16;
/// How long the last messages may take to leave.
const FLUSH: Duration = Duration::from_secs(1);

/// What happened on connections, for the engine.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    Message { protocol: Protocol, realm: RealmId, source: Flow, bytes: Vec<u8> },
    Closed { protocol: Protocol, realm: RealmId, flow: Flow },
    Unreachable { protocol: Protocol, realm: RealmId, flow: Flow },
}

impl Event {
    pub(super) fn input(&self) -> Input<'_> {
        match self {
            Self::Message { protocol, realm, source, bytes } => {
                Input::Message { protocol: protocol.clone(), realm: *realm, source: *source, bytes }
            }
            Self::Closed { protocol, realm, flow } => {
                Input::Closed { protocol: protocol.clone(), realm: *realm, flow: *flow }
            }
            Self::Unreachable { protocol, realm, flow } => {
                Input::Unreachable { protocol: protocol.clone(), realm: *realm, flow: *flow }
            }
        }
    }
}

/// All connections and the sockets that they come to.
pub struct Connections {
    config: Arc<Config>,
    /// Connections at once: as configured, or as many as the operating system allows.
    max: usize,
    /// The interfaces of the protocols to sockets.
    wires: Vec<Wire>,
    listeners: Vec<Listener>,
    tls: PerRealm<Tls>,
    open: HashMap<ConnectionId, Open>,
    /// By address, and in an access realm over IPv6 by what one subscriber has.
    per_source: HashMap<(RealmId, IpAddr), usize>,
    /// Connections that Latch made, by destination.
    pool: HashMap<(Protocol, RealmId, Transport, SocketAddr), ConnectionId>,
    last_id: u64,
    tell: mpsc::Sender<ConnectionEvent>,
    events: mpsc::Receiver<ConnectionEvent>,
    inbox: Vec<ConnectionEvent>,
    statistics: ConnectionStatistics,
}

/// What is known of a connection outside of its task.
struct Open {
    protocol: Protocol,
    realm: RealmId,
    flow: Flow,
    accepted: bool,
    queue: Queue,
    task: AbortHandle,
}

impl Connections {
    /// Listens at the protocols' addresses for connections, and reads the realms' certificates. Must be called within a
    /// tokio runtime.
    ///
    /// # Errors
    ///
    /// An address is not the host's or is in use, or a file of TLS cannot be used.
    pub fn open(config: Arc<Config>, wires: Vec<Wire>) -> Result<Self> {
        let mut tls = Vec::new();
        for settings in &config.realms {
            let loaded = Tls::load(settings).map_err(anyhow::Error::from);
            tls.push(loaded.with_context(|| format!("TLS of realm {}", settings.name))?);
        }
        let wanted = wires.iter().flat_map(|wire| wire.listeners.iter().map(|at| (&wire.protocol, *at)));
        let reliable = wanted.filter(|(_, at)| at.transport.is_reliable());
        let listeners = reliable.map(|(protocol, at)| Listener::bind(protocol, at)).collect::<Result<Vec<_>>>()?;
        let (tell, events) = mpsc::channel(INBOX);
        let wanted = config.connections.max;
        Ok(Self {
            max: if listeners.is_empty() { wanted } else { listen::make_room(wanted) },
            config,
            wires,
            listeners,
            tls: tls.into(),
            open: HashMap::new(),
            per_source: HashMap::new(),
            pool: HashMap::new(),
            last_id: 0,
            tell,
            events,
            inbox: Vec::new(),
            statistics: ConnectionStatistics::default(),
        })
    }

    /// Reads the files of TLS again: what is connected stays as it is, new connections have the new ones. Where one
    /// cannot be used, its realm's old ones stay.
    pub fn reload(&mut self) {
        for (settings, tls) in self.config.realms.iter().zip(self.tls.iter_mut()) {
            if settings.streams.certificate.is_none() && settings.streams.server_ca.is_none() {
                continue;
            }
            match Tls::load(settings) {
                Ok(new) => {
                    *tls = new;
                    tracing::info!(realm = settings.name, "certificates read again");
                }
                Err(unusable) => {
                    let error = anyhow::Error::from(unusable);
                    tracing::error!(realm = settings.name, "the old certificates stay: {error:#}");
                }
            }
        }
    }

    /// The addresses that are listened at, with the ports that the kernel gave where none was named.
    pub fn listeners(&self) -> impl Iterator<Item = (&Protocol, signalling::Listener)> {
        self.listeners.iter().map(|listener| (&listener.protocol, listener.at))
    }

    /// What happened so far.
    pub fn statistics(&self) -> ConnectionStatistics {
        self.statistics
    }

    /// Ready when there is something for [`Connections::take`].
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let mut ready = !self.inbox.is_empty();
        let mut accepted = Vec::new();
        for listener in &mut self.listeners {
            for _ in 0..BATCH {
                match listener.poll_accept(context) {
                    Poll::Pending => break,
                    Poll::Ready(outcome) => accepted.push((listener.protocol.clone(), listener.at, outcome)),
                }
            }
        }
        ready |= !accepted.is_empty();
        for (protocol, at, outcome) in accepted {
            match outcome {
                Ok((stream, remote)) => self.accept(&protocol, at.realm, stream, Flow::to(at.transport, remote)),
                Err(_) => self.statistics.accept_errors += 1,
            }
        }
        let room = INBOX.saturating_sub(self.inbox.len());
        if room > 0 {
            ready |= self.events.poll_recv_many(context, &mut self.inbox, room).is_ready();
        }
        if ready { Poll::Ready(()) } else { Poll::Pending }
    }

    /// What came since the last call, in order.
    pub(super) fn take(&mut self) -> VecDeque<Event> {
        let mut events = VecDeque::new();
        for event in std::mem::take(&mut self.inbox) {
            match event {
                ConnectionEvent::Message(id, bytes) => {
                    if let Some(open) = self.open.get(&id) {
                        let (protocol, realm) = (open.protocol.clone(), open.realm);
                        events.push_back(Event::Message { protocol, realm, source: open.flow, bytes });
                    }
                }
                ConnectionEvent::Ended(id, reason) => events.extend(self.ended(id, reason)),
            }
        }
        events
    }

    /// Sends over a flow's connection, or over one that is made for it. False where the message is lost.
    pub(super) fn send(&mut self, protocol: &Protocol, realm: RealmId, flow: Flow, bytes: Vec<u8>) -> bool {
        let pooled = (protocol.clone(), realm, flow.transport, flow.remote);
        let id = match flow.connection.or_else(|| self.pool.get(&pooled).copied()) {
            Some(id) => id,
            None => match self.connect(protocol, realm, flow) {
                Some(id) => id,
                None => return false,
            },
        };
        let Some(open) = self.open.get(&id) else { return false };
        if open.queue.push(bytes) {
            return true;
        }
        // The peer does not read. Its task may hang in a write, which nothing but this ends.
        open.task.abort();
        self.inbox.push(ConnectionEvent::Ended(id, Reason::NotRead));
        false
    }

    /// Waits a little until what was sent has left.
    pub(super) async fn flush(&self) {
        let left = async {
            while self.open.values().any(|open| !open.queue.is_empty()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let _ = tokio::time::timeout(FLUSH, left).await;
    }

    fn accept(&mut self, protocol: &Protocol, realm: RealmId, stream: TcpStream, flow: Flow) {
        let ConnectionLimits { max_per_source, .. } = self.config.connections;
        let place = self.place(realm, flow);
        let from_there = self.per_source.get(&place).copied().unwrap_or_default();
        let settings = self.config.realms.get(realm);
        let is_softswitch = settings.and_then(|realm| realm.softswitch).is_some_and(|it| it.ip() == flow.ip());
        // Terminals must not use up the softswitch's connections.
        if self.open.len() >= self.max && !is_softswitch {
            self.statistics.refused_max += 1;
            return;
        }
        if from_there >= if is_softswitch { MOST_IN_CORE } else { max_per_source } {
            self.statistics.refused_source += 1;
            return;
        }
        let acceptor = self.tls.get(realm).and_then(|tls| tls.acceptor.clone());
        if self.begin(protocol, realm, flow, true, Origin::Accepted(stream, acceptor)).is_some() {
            self.statistics.accepted += 1;
            *self.per_source.entry(place).or_default() += 1;
        }
    }

    /// Where a connection comes from, as connections are counted: a subscriber of IPv6 has a /64, and all addresses in
    /// it.
    fn place(&self, realm: RealmId, flow: Flow) -> (RealmId, IpAddr) {
        let is_access = self.config.realms.get(realm).is_some_and(|settings| settings.side == Side::Access);
        let place = match flow.ip().to_canonical() {
            IpAddr::V6(address) if is_access => IpAddr::from(Prefix::source(address.octets()).address),
            address => address,
        };
        (realm, place)
    }

    /// Connects where connections may be made to: in a core realm.
    fn connect(&mut self, protocol: &Protocol, realm: RealmId, flow: Flow) -> Option<ConnectionId> {
        self.config.realms.get(realm).filter(|settings| settings.side == Side::Core)?;
        if !matches!(flow.transport, Transport::Tcp | Transport::Tls) || self.pool.len() >= MOST_IN_CORE {
            return None;
        }
        let connector = self.tls.get(realm).and_then(|tls| tls.connector(flow.ip()));
        let own = self.wire(protocol)?.listeners.iter().find(|listener| listener.realm == realm)?.address.ip();
        let id = self.begin(protocol, realm, flow, false, Origin::To(own, flow.remote, connector))?;
        self.pool.insert((protocol.clone(), realm, flow.transport, flow.remote), id);
        self.statistics.made += 1;
        Some(id)
    }

    fn wire(&self, protocol: &Protocol) -> Option<&Wire> {
        self.wires.iter().find(|wire| wire.protocol == *protocol)
    }

    /// `None` where the protocol has no connections.
    fn begin(
        &mut self,
        protocol: &Protocol,
        realm: RealmId,
        flow: Flow,
        accepted: bool,
        origin: Origin,
    ) -> Option<ConnectionId> {
        let limits = self.config.connections.clone();
        let &Wire { framer, subprotocol, .. } = self.wire(protocol)?;
        let framer = framer?(flow.transport, limits.max_message_bytes);
        self.last_id += 1;
        let id = ConnectionId(self.last_id);
        let (queue, outgoing) = Queue::new(limits.send_queue_bytes);
        let (transport, tell) = (flow.transport, self.tell.clone());
        let connection =
            Connection { id, transport, limits, framer, subprotocol, queue: queue.clone(), outgoing, tell };
        let task = tokio::spawn(connection.run(origin)).abort_handle();
        let flow = Flow { connection: Some(id), ..flow };
        self.open.insert(id, Open { protocol: protocol.clone(), realm, flow, accepted, queue, task });
        Some(id)
    }

    fn ended(&mut self, id: ConnectionId, reason: Reason) -> Option<Event> {
        let Open { protocol, realm, flow, accepted, .. } = self.open.remove(&id)?;
        self.statistics.ended(reason);
        tracing::debug!(%flow, ?reason, "connection ended");
        if accepted {
            let place = self.place(realm, flow);
            if let Some(count) = self.per_source.get_mut(&place) {
                *count -= 1;
                if *count == 0 {
                    self.per_source.remove(&place);
                }
            }
            return Some(Event::Closed { protocol, realm, flow });
        }
        self.pool.remove(&(protocol.clone(), realm, flow.transport, flow.remote));
        Some(match reason {
            Reason::Unreachable => Event::Unreachable { protocol, realm, flow: Flow { connection: None, ..flow } },
            _ => Event::Closed { protocol, realm, flow },
        })
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        self.open.values().for_each(|open| open.task.abort());
    }
}
