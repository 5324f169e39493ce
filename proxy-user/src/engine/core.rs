//! What the core has, and what all its operations use.

use super::{
    acquaintances::{self, Acquaintances},
    admission::Admission,
    budgets::Budgets,
    calls::{Call, CallEvent},
    ids::{CallId, Protocol},
    inputs::Output,
    journalled::Written,
    statistics::{Load, Statistics},
    terminals::{Terminal, TerminalId, Terminals},
    timers::Timers,
    tracked::Tracked,
};
use crate::{
    accounting::WallClock,
    config::{Config, Side, Trust},
    flow::{Flow, Transport},
    media::{
        PerRealm, RealmId, StreamId,
        allocator::{PortAllocator, UnusableRange},
    },
};
use rand::{RngCore, SeedableRng, rngs::StdRng};
use std::{
    collections::{HashMap, VecDeque},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};
use tracing::warn;

/// Everything that calls have in common.
pub struct Core {
    pub(crate) config: Arc<Config>,
    pub(crate) statistics: Statistics,
    pub(super) clock: WallClock,
    pub(super) random: StdRng,
    pub(super) outputs: VecDeque<Output>,
    pub(super) events: VecDeque<(Protocol, CallId, CallEvent)>,
    pub(super) timers: Timers<CallId>,
    pub(super) calls: Tracked<CallId, Call>,
    /// Calls that are or will be in a record: all but those that were withdrawn.
    pub(super) counted: usize,
    pub(super) last_call: u64,
    pub(super) terminals: Terminals,
    pub(super) allocators: PerRealm<PortAllocator>,
    pub(super) media_addresses: PerRealm<IpAddr>,
    pub(super) last_stream: u64,
    pub(super) streams: HashMap<StreamId, CallId>,
    pub(super) admission: Admission,
    /// No call begins any more.
    pub(super) stopped: bool,
    pub(super) budgets: Budgets,
    pub(super) acquaintances: Acquaintances,
    /// Calls that are still to be hung up because the proxy is stopping.
    pub(super) stopping: VecDeque<CallId>,
    /// When the next of them are.
    pub(super) stop_at: Option<Instant>,
    pub(super) written: Written,
    /// When the log last reported that strangers have used up their share.
    pub(super) last_crowd_log: Option<Instant>,
    /// When the log last reported media from strangers.
    pub(super) last_stranger_log: Option<Instant>,
    /// When the log last reported messages from strangers, and how many had come by then.
    pub(super) last_refusal_log: Option<(Instant, u64)>,
    /// When the log last reported a limit, and how many requests had been refused by then.
    pub(super) last_limit_log: Option<(Instant, u64)>,
}

/// At most one log line a second for what strangers can cause.
pub(super) const LOG_PERIOD: Duration = Duration::from_secs(1);

impl Core {
    /// A core that begins at `now`, which is `wall` on the clock. `seed` must be unpredictable in production: the
    /// tokens that keep strangers out of calls are drawn from it.
    ///
    /// # Errors
    /// Where a realm's port range holds no pairs; a configuration that was read from a file has none such.
    pub fn new(config: Arc<Config>, wall: SystemTime, now: Instant, seed: [u8; 32]) -> Result<Self, UnusableRange> {
        let allocators = config
            .realms
            .iter()
            .map(|realm| PortAllocator::new(realm.ports, config.media.hold_time))
            .collect::<Result<_, _>>()?;
        let mut random = StdRng::from_seed(seed);
        // What is named in the journal must never come to mean something else: each process numbers from a place of its
        // own, too far from any other's to reach it.
        let [first_call, first_terminal] = [random.next_u64() >> 2, random.next_u64() >> 2];
        Ok(Self {
            budgets: Budgets::new(&acquaintances::limits(&config), now),
            acquaintances: Acquaintances::default(),
            media_addresses: config.realms.iter().map(|realm| realm.media).collect(),
            config,
            statistics: Statistics::default(),
            clock: WallClock::new(now, wall),
            random,
            outputs: VecDeque::new(),
            events: VecDeque::new(),
            timers: Timers::new(),
            calls: Tracked::default(),
            counted: 0,
            last_call: first_call,
            terminals: Terminals::numbered_from(first_terminal),
            allocators,
            last_stream: 0,
            streams: HashMap::new(),
            admission: Admission::default(),
            stopped: false,
            stopping: VecDeque::new(),
            stop_at: None,
            written: Written::default(),
            last_crowd_log: None,
            last_stranger_log: None,
            last_refusal_log: None,
            last_limit_log: None,
        })
    }

    /// The next thing to do, in order.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// The next thing that the protocol of a call has to do.
    pub fn poll_event(&mut self) -> Option<(Protocol, CallId, CallEvent)> {
        self.events.pop_front()
    }

    /// When [`Core::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next().into_iter().chain(self.stop_at).min()
    }

    /// Does what is due by `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.stop_at.is_some_and(|at| at <= now) {
            self.stop_some(now);
        }
        while let Some(call) = self.timers.pop(now) {
            self.look_after(call, now);
        }
    }

    /// Sends a message of a protocol from its own address in a realm.
    pub fn send(&mut self, protocol: Protocol, realm: RealmId, destination: Flow, bytes: Vec<u8>) {
        self.outputs.push_back(Output::Send { protocol, realm, destination, bytes });
    }

    /// Which side a realm is on.
    pub fn side(&self, realm: RealmId) -> Option<Side> {
        self.config.realms.get(realm).map(|realm| realm.side)
    }

    /// Whether a realm is a network of servers, where its softswitch is.
    pub fn is_core(&self, realm: RealmId) -> bool {
        self.side(realm) == Some(Side::Core)
    }

    /// How far a realm's hosts are trusted in what they say about themselves.
    pub fn trust(&self, realm: RealmId) -> Trust {
        self.config.realms.get(realm).map_or(Trust::of(Side::Access), |realm| realm.trust)
    }

    /// Whether this is the address of a realm's softswitch, or our own there: a call between two terminals may come
    /// straight back where the softswitch does not stay in its path.
    pub fn is_server(&self, realm: RealmId, address: IpAddr) -> bool {
        self.config.realms.get(realm).is_some_and(|realm| {
            realm.signalling.ip() == address || realm.softswitch.is_some_and(|softswitch| softswitch.ip() == address)
        })
    }

    /// The core realm that an access realm is paired with, and its softswitch.
    pub fn core_of(&self, _access: RealmId) -> Option<(RealmId, Flow)> {
        let core = self.config.realms.with_ids().find(|(_, realm)| realm.side == Side::Core);
        core.and_then(|(id, realm)| Some((id, realm.softswitch_flow()?)))
    }

    /// Our own signalling address in a realm, for a transport that it has.
    pub fn own(&self, realm: RealmId, transport: Transport) -> Option<SocketAddr> {
        self.config.realms.get(realm)?.own(transport)
    }

    /// Our own media address in a realm.
    pub fn media_address(&self, realm: RealmId) -> IpAddr {
        self.media_addresses.get(realm).copied().unwrap_or_else(|| [0, 0, 0, 0].into())
    }

    /// A random number that cannot be guessed.
    pub fn random(&mut self) -> u64 {
        self.random.next_u64()
    }

    /// A word that cannot be guessed: 64 bits in 13 letters and digits.
    pub fn random_token(&mut self) -> String {
        const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
        let word = self.random();
        (0..13).rev().map(|place| char::from(DIGITS[(word >> (5 * place) & 31) as usize])).collect()
    }

    /// How much is going on in the core.
    pub fn load(&self, now: Instant) -> Load {
        Load {
            calls: self.counted,
            port_pairs: self.allocators.iter().map(PortAllocator::in_use).sum(),
            resting_port_pairs: self.allocators.iter().map(|allocator| allocator.resting(now)).sum(),
            timers: self.timers.len(),
            ..Load::default()
        }
    }

    /// A terminal is registered, which was not known before.
    pub fn bind(&mut self, terminal: Terminal) -> TerminalId {
        let (realm, flow) = (terminal.realm, terminal.flow);
        self.tell_known(realm, flow, |core| core.terminals.bind(terminal))
    }

    /// A registered terminal is known again after a restart, by the number that it had.
    pub fn restore_terminal(&mut self, id: TerminalId, terminal: Terminal) {
        let (realm, flow) = (terminal.realm, terminal.flow);
        self.tell_known(realm, flow, |core| core.terminals.restore(id, terminal));
    }

    /// A registered terminal is reached over another flow from now on. Returns whether it was over another one before.
    pub fn rebind(&mut self, id: TerminalId, flow: Flow) -> bool {
        let Some(Terminal { realm, flow: before, .. }) = self.terminals.get(id) else { return false };
        let (realm, before) = (*realm, *before);
        self.tell_known(realm, flow, |core| core.tell_known(realm, before, |core| core.terminals.rebind(id, flow)))
    }

    /// A terminal is no longer registered.
    pub fn unbind(&mut self, id: TerminalId) {
        let Some(Terminal { realm, flow, .. }) = self.terminals.get(id) else {
            return self.inconsistent("no terminal to unbind");
        };
        let (realm, flow) = (*realm, *flow);
        self.tell_known(realm, flow, |core| core.terminals.unbind(id));
    }

    /// A terminal named the secret of a party. Returns whether it is the first time.
    pub fn terminal_named_secret(&mut self, id: TerminalId) -> bool {
        self.terminals.named_secret(id)
    }

    /// The registered terminals.
    pub fn terminals(&self) -> &Terminals {
        &self.terminals
    }

    /// Counts and logs a request that is refused because of a limit: at most one line a second, with how many there
    /// were since the last.
    pub fn limited(&mut self, limit: &str, now: Instant) {
        self.statistics.limited += 1;
        if self.last_limit_log.is_some_and(|(at, _)| now.saturating_duration_since(at) < LOG_PERIOD) {
            return;
        }
        let before = self.last_limit_log.replace((now, self.statistics.limited)).map_or(0, |(_, count)| count);
        let refused = self.statistics.limited - before;
        warn!(limit, refused, "a limit is reached: more is refused");
    }

    /// Counts and logs a message from somebody who may not act there: at most one line a second, with how many there
    /// were since the last.
    pub fn stranger(&mut self, realm: RealmId, source: Flow, what: &str, call: &str, now: Instant) {
        self.statistics.strangers_refused += 1;
        if self.last_refusal_log.is_some_and(|(at, _)| now.saturating_duration_since(at) < LOG_PERIOD) {
            return;
        }
        let count = self.statistics.strangers_refused;
        let before = self.last_refusal_log.replace((now, count)).map_or(0, |(_, count)| count);
        let realm = self.config.realms.get(realm).map_or("", |realm| realm.name.as_str());
        warn!(%source, realm, what, call, refused = count - before, "refused: it may not act for this call");
    }

    /// Counts an impossible state, and panics in debug builds.
    pub(crate) fn inconsistent(&mut self, what: &'static str) {
        self.statistics.inconsistencies += 1;
        debug_assert!(false, "{what}");
        // Logged at the first, the second, the fourth, and so on: the cause must not fill the log.
        let times = self.statistics.inconsistencies;
        if times.is_power_of_two() {
            tracing::error!(what, times, "this should not be possible: please report it");
        }
    }
}
