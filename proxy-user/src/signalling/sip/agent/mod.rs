//! What SIP messages do: registrations, transactions, dialogs, calls and their media.
//!
//! The engine touches no socket, no clock and no map. Whoever drives it hands it what came in ([`Input`]) and the time,
//! carries out what it puts out ([`Output`]), and calls it again at its next timeout. The whole proxy can so be tested
//! and simulated in one process.
//!
//! | file | what it decides |
//! |---|---|
//! | `inbound` | what a message is: garbage, a retransmission, a request, a response |
//! | `requests` | where a request goes and what it looks like there |
//! | `responses` | the same for responses |
//! | `registrar` | REGISTER and its answers |
//! | `invite` | INVITE, ACK, CANCEL, BYE: the life of a call |
//! | `admission` | whose call it is, and whether it is admitted |
//! | `bodies` | which session descriptions are offers and answers |
//! | `establish` | what a dialog knows at its beginning, and how long it lasts |
//! | `keepalive` | requests that keep NAT mappings alive |
//! | `transactions`, `dialogs`, `registrations`, `calls` | the state behind them |
//! | `topology` | addresses that must not cross |
//! | `flows` | over what messages leave, and what a lost connection means |
//! | `restore` | what is journalled, and how a later engine takes it up |

mod admission;
mod bodies;
mod calls;
mod dialogs;
mod establish;
mod flows;
mod inbound;
mod invite;
mod keepalive;
mod originate;
mod registrar;
mod registrations;
mod requests;
mod responses;
mod restore;
mod topology;
mod transactions;

use crate::{
    accounting::WallClock,
    config::{Config, Side},
    engine::{Input, Load, Output, Statistics, admission::Admission, session, timers::Timers, tracked::Tracked},
    flow::{ConnectionId, Flow, Transport},
    media::{
        MediaCommand, RealmId,
        allocator::{PortAllocator, UnusableRange},
    },
};
use dialogs::{Dialog, Role};
use rand::{RngCore, SeedableRng, rngs::StdRng};
use registrations::Registrations;
use std::{
    collections::{HashMap, VecDeque},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Instant, SystemTime},
};
use transactions::{Client, Server, ServerKey, Timing};

pub use registrations::Binding;
pub use restore::{Media, NotRestored, Restored};

/// The whole proxy, but for sockets, clocks and maps.
pub struct Engine {
    config: Arc<Config>,
    timing: Timing,
    media_addresses: Vec<IpAddr>,
    /// When the log last told of media from strangers.
    strangers_told: Option<Instant>,
    /// When the log last told of a limit, and how many requests had been refused by then.
    limited_told: Option<(Instant, u64)>,
    clock: WallClock,
    random: StdRng,
    outputs: VecDeque<Output>,
    timers: Timers<Alarm>,
    servers: HashMap<u64, Server>,
    server_ids: HashMap<ServerKey, u64>,
    clients: HashMap<u64, Client<Purpose>>,
    /// Connections that messages came over, and what hangs on each.
    connections: HashMap<ConnectionId, flows::Open>,
    client_ids: HashMap<String, u64>,
    next_id: u64,
    registrations: Registrations,
    dialogs: Tracked<Dialog>,
    /// What stands in the journal.
    journalled: restore::Journalled,
    calls: usize,
    /// Dialogs that are no calls.
    subscriptions: usize,
    /// Dialogs by Call-ID; a call that passes through twice has two with the same.
    by_call_id: HashMap<String, Vec<u64>>,
    tokens: HashMap<String, Token>,
    allocators: Vec<PortAllocator>,
    admission: Admission,
    next_stream: u64,
    streams: HashMap<crate::media::StreamId, u64>,
    statistics: Statistics,
}

/// Whose time has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Alarm {
    Server(u64),
    Client(u64),
    Binding(u64),
    Dialog(u64),
}

/// What a token in a Request-URI stands for.
#[derive(Clone, Copy, Debug)]
enum Token {
    Binding(u64),
    Party(u64, Role),
}

/// What a request of ours was sent for.
#[derive(Debug)]
enum Purpose {
    /// On behalf of a request that came in.
    Forward(Forward),
    /// Keep a terminal's NAT mapping alive.
    KeepAlive(u64),
    /// End a dialog; nobody waits for the answer.
    Hangup,
}

/// What has to be known when the answer to a forwarded request comes.
#[derive(Debug)]
struct Forward {
    server: u64,
    dialog: Option<InDialog>,
    register: Option<Box<registrations::Pending>>,
    /// Of the session description exchange in this transaction.
    media: MediaPhase,
}

/// A forwarded request's place in a dialog.
#[derive(Clone, Debug)]
struct InDialog {
    id: u64,
    from: Role,
    /// `None` in the request that makes the dialog: the answer tells who answered.
    to: Option<Role>,
    /// The requester's new contact, to be taken over when the request succeeds.
    target: Option<String>,
}

/// Where the offer and answer of a transaction stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MediaPhase {
    /// The request held no offer.
    None,
    /// The request held an offer that this transaction's responses answer.
    Offered,
    /// The answer came in a provisional response; it may be repeated.
    Answered,
    /// A response held an offer; ACK or PRACK will answer it.
    OfferedInResponse,
}

impl Engine {
    /// A proxy that begins at `now`, which is `wall` on the clock. `seed` must be unpredictable in production: the tokens
    /// that keep strangers out of dialogs are drawn from it.
    ///
    /// # Errors
    /// Where a realm's port range holds no pairs; a configuration that was read from a file has none such.
    pub fn new(config: Arc<Config>, wall: SystemTime, now: Instant, seed: [u8; 32]) -> Result<Self, UnusableRange> {
        let allocators = config
            .realms
            .iter()
            .map(|realm| PortAllocator::new(realm.ports, config.media.hold_time))
            .collect::<Result<_, _>>()?;
        let timing = Timing { t1: config.sip.t1, t2: config.sip.t2, invite: config.sip.invite_timeout };
        Ok(Self {
            timing,
            strangers_told: None,
            limited_told: None,
            media_addresses: config.realms.iter().map(|realm| realm.media).collect(),
            config,
            clock: WallClock::new(now, wall),
            random: StdRng::from_seed(seed),
            outputs: VecDeque::new(),
            timers: Timers::new(),
            servers: HashMap::new(),
            server_ids: HashMap::new(),
            clients: HashMap::new(),
            connections: HashMap::new(),
            client_ids: HashMap::new(),
            next_id: 0,
            registrations: Registrations::default(),
            dialogs: Tracked::default(),
            journalled: restore::Journalled::default(),
            calls: 0,
            subscriptions: 0,
            by_call_id: HashMap::new(),
            tokens: HashMap::new(),
            allocators,
            admission: Admission::default(),
            next_stream: 0,
            streams: HashMap::new(),
            statistics: Statistics::default(),
        })
    }

    /// Takes in something that happened at `now`.
    pub fn handle_input(&mut self, input: Input<'_>, now: Instant) {
        match input {
            Input::Datagram { realm, source, bytes } => self.datagram(realm, source, bytes, now),
            Input::Message { realm, source, bytes } => self.message(realm, source, bytes, now),
            Input::Closed { realm, flow } => self.connection_closed(realm, flow, now),
            Input::Unreachable { realm, flow } => self.unreachable(realm, flow, now),
            Input::Media(event) => self.media_event(event, now),
        }
    }

    /// The next thing to do, in order.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Engine::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Does what is due by `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(alarm) = self.timers.pop(now) {
            match alarm {
                Alarm::Server(id) => self.server_due(id, now),
                Alarm::Client(id) => self.client_due(id, now),
                Alarm::Binding(id) => self.binding_due(id, now),
                Alarm::Dialog(id) => self.dialog_due(id, now),
            }
        }
    }

    /// Ends all calls; [`Engine::is_idle`] tells when their records are written.
    pub fn shutdown(&mut self, now: Instant) {
        let mut ids: Vec<_> = self.dialogs.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            self.hang_up(id, calls::EndCause::Shutdown, now);
        }
    }

    /// Whether no call waits for its end.
    pub fn is_idle(&self) -> bool {
        self.calls == 0
    }

    /// How much is going on.
    pub fn load(&self) -> Load {
        Load {
            calls: self.calls,
            dialogs: self.dialogs.len(),
            registrations: self.registrations.len(),
            transactions: self.servers.len() + self.clients.len(),
            connections: self.connections.len(),
            port_pairs: self.allocators.iter().map(PortAllocator::in_use).sum(),
            alarms: self.timers.len(),
        }
    }

    /// What was counted since the beginning.
    pub fn statistics(&self) -> Statistics {
        self.statistics
    }

    /// The bindings, in no order.
    pub fn bindings(&self) -> impl Iterator<Item = &Binding> {
        self.registrations.iter()
    }

    fn side(&self, realm: RealmId) -> Option<Side> {
        self.config.realms.get(realm).map(|realm| realm.side)
    }

    /// The core realm that an access realm is paired with.
    fn core_of(&self, _access: RealmId) -> Option<(RealmId, Flow)> {
        let core = self.config.realms.iter().enumerate().find(|(_, realm)| realm.side == Side::Core);
        core.and_then(|(id, realm)| Some((id, realm.softswitch_flow()?)))
    }

    fn own(&self, realm: RealmId, transport: Transport) -> Option<SocketAddr> {
        self.config.realms.get(realm)?.own(transport)
    }

    /// A word that nobody can guess: 64 bits in 13 letters and digits.
    fn random_token(&mut self) -> String {
        const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
        let word = self.random.next_u64();
        (0..13).rev().map(|place| char::from(DIGITS[(word >> (5 * place) & 31) as usize])).collect()
    }

    fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Runs `work` on the media of a call and passes on what it asks of the datapath.
    fn with_media<T>(
        &mut self,
        dialog: u64,
        now: Instant,
        work: impl FnOnce(&mut session::MediaSession, &mut session::Resources<'_>) -> T,
    ) -> Option<T> {
        let call = self.dialogs.get_mut(&dialog)?.call_mut()?;
        let mut commands = Vec::new();
        let random = &mut self.random;
        let mut resources = session::Resources {
            allocators: &mut self.allocators,
            addresses: &self.media_addresses,
            realms: &self.config.realms,
            next_stream: &mut self.next_stream,
            random: &mut || random.next_u64(),
            commands: &mut commands,
            now,
        };
        let result = work(&mut call.media, &mut resources);
        if call.ended.is_none() {
            let demand = call.media.demand(&self.config.realms);
            let calls = call.charge.calls();
            self.admission.charge(&mut call.charge, calls, demand);
        }
        for command in commands {
            if let MediaCommand::Apply(spec) = &command {
                self.streams.insert(spec.id, dialog);
            }
            self.outputs.push_back(Output::Media(command));
        }
        Some(result)
    }
}
