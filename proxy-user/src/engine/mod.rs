//! The core: calls, terminals, media, ports, limits and records. It knows the syntax of no protocol.
//!
//! It touches no socket, no clock and no map: time and randomness are arguments, and what is to be done comes out as
//! [`Output`]. Protocols (`signalling/`) stand in front of it: they read messages, ask the core, and write messages.
//!
//! ```text
//! agent ──begin, offer, answer, answered, end──▶ Core ──Send, Media, Record──▶ io
//!   ▲  └──may_act, bind, rebind, unbind───────▶   │
//!   └──────────── CallEvent ──────────────────────┘
//! ```
//!
//! | file | what it decides |
//! |---|---|
//! | `trust` | who may act for a party |
//! | `terminals` | who is registered, and over which flow each is reached |
//! | `calls` | one call and its record |
//! | `life` | how calls begin, are answered and end |
//! | `media` | offers and answers of a call, and what the datapath reports |
//! | `session`, `description` | the media of one call; what offer and answer agree on |
//! | `admission` | whether one more call, or more media, is within the limits |
//! | `budgets`, `strangers` | what strangers may use, and what may be sent to an unproved address |
//! | `restore` | what is journalled, and how a later process takes it up |
//! | `timers`, `tracked`, `sides` | what is due, what was touched, what each side has |

mod admission;
pub mod budgets;
mod calls;
mod description;
mod life;
mod media;
mod restore;
mod session;
mod sides;
mod strangers;
mod terminals;
pub(crate) mod timers;
pub(crate) mod tracked;
mod trust;

use crate::{
    accounting::{Cdr, WallClock},
    config::{Config, Side, Trust},
    flow::{Flow, Transport},
    media::{
        MediaCommand, MediaEvent, RealmId, StreamId,
        allocator::{PortAllocator, UnusableRange},
    },
};
use calls::Call;
use rand::{RngCore, SeedableRng, rngs::StdRng};
use serde::{Deserialize, Serialize};
use std::{
    borrow::Cow,
    collections::{HashMap, VecDeque},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};
use timers::Timers;
use tracing::warn;
use tracked::Tracked;

pub use calls::{CallEvent, CallStart, Refusal};
pub use restore::{Media, NotRestored, Restored};
pub(crate) use restore::{Written, read};
pub use sides::{CallSide, PerSide};
pub use terminals::{Terminal, TerminalId, Terminals};
pub use trust::{Standing, Verdict};

/// Names a call while it is there, and over restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CallId(pub u64);

/// Names a signalling protocol: in the journal, and where calls find their agent.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Protocol(Cow<'static, str>);

impl Protocol {
    /// The protocol of this name: lower-case letters and digits.
    pub const fn new(name: &'static str) -> Self {
        Self(Cow::Borrowed(name))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0
    }
}

/// Something that happened.
#[allow(clippy::large_enum_variant, reason = "made where it is handled")]
#[derive(Debug)]
pub enum Input<'a> {
    /// A datagram arrived at a realm's signalling address.
    Datagram {
        /// Of which protocol the listener is.
        protocol: Protocol,
        /// The realm.
        realm: RealmId,
        /// Source of its IP and UDP headers.
        source: SocketAddr,
        /// Its payload.
        bytes: &'a [u8],
    },
    /// A message arrived over a connection.
    Message {
        /// Of which protocol the listener is.
        protocol: Protocol,
        /// The realm.
        realm: RealmId,
        /// The connection and its other end.
        source: Flow,
        /// The message, from its start line to the end of its body.
        bytes: &'a [u8],
    },
    /// A connection that messages came over is gone. Its number will not come again.
    Closed {
        /// Of which protocol the listener is.
        protocol: Protocol,
        /// The realm.
        realm: RealmId,
        /// The connection and its other end.
        flow: Flow,
    },
    /// What was sent there without naming a connection is lost: none could be made.
    Unreachable {
        /// Of which protocol the listener is.
        protocol: Protocol,
        /// The realm.
        realm: RealmId,
        /// The destination, as it was in [`Output::Send`].
        flow: Flow,
    },
    /// The datapath reports.
    Media(MediaEvent),
}

/// Something to do.
#[allow(clippy::large_enum_variant, reason = "moved once, from the queue to whoever does it")]
#[derive(Debug)]
pub enum Output {
    /// Send a message from a realm's signalling address.
    Send {
        /// The realm.
        realm: RealmId,
        /// Where to, and how.
        destination: Flow,
        /// The message.
        bytes: Vec<u8>,
    },
    /// Change the datapath.
    Media(MediaCommand),
    /// Write a call's record.
    Record(Box<Cdr>),
}

/// What the engine counted since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Statistics {
    /// Datagrams that were keep-alives.
    pub keepalives_received: u64,
    /// Datagrams that were no SIP message.
    pub unparsable: u64,
    /// Requests refused because they break the protocol.
    pub refused: u64,
    /// Datagrams in a core realm from another address than the softswitch's.
    pub foreign: u64,
    /// Responses to nothing that was asked.
    pub stray_responses: u64,
    /// ACKs that belong to nothing.
    pub stray_acks: u64,
    /// Requests that were retransmissions.
    pub retransmissions_received: u64,
    /// Messages that were retransmitted.
    pub retransmissions_sent: u64,
    /// Requests refused because a limit was reached.
    pub limited: u64,
    /// Calls, and more media in calls, refused because a realm or a user would have too much.
    pub not_admitted: u64,
    /// Streams for which the datapath had no room, or that it could not serve: their calls ended.
    pub media_failed: u64,
    /// Media packets of calls that came from an address or port that may not send there.
    pub strangers: u64,
    /// Messages to a terminal whose connection is gone.
    pub undeliverable: u64,
    /// Messages in calls and dialogs from an address that may not act there.
    pub strangers_refused: u64,
    /// Messages of strangers that were dropped unread, as there were too many.
    pub strangers_dropped: u64,
    /// Messages that were not sent to an address that has not proved itself, as more than three times what came from there.
    pub withheld: u64,
    /// States that cannot be; each is a fault of this program.
    pub inconsistencies: u64,
}

/// How much is going on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Load {
    /// Calls, from INVITE until the last counters came.
    pub calls: usize,
    /// Dialogs, those included that are kept for stragglers.
    pub dialogs: usize,
    /// Bindings.
    pub registrations: usize,
    /// Transactions of both kinds.
    pub transactions: usize,
    /// Connections that messages came over.
    pub connections: usize,
    /// Port pairs in use, resting ones left out.
    pub port_pairs: usize,
    /// Entries of the alarm clock.
    pub alarms: usize,
}

/// Everything that calls have in common.
pub struct Core {
    pub(crate) config: Arc<Config>,
    pub(crate) statistics: Statistics,
    clock: WallClock,
    random: StdRng,
    outputs: VecDeque<Output>,
    events: VecDeque<(Protocol, CallId, CallEvent)>,
    timers: Timers<CallId>,
    calls: Tracked<CallId, Call>,
    /// Calls that are or will be in a record: all but those that were withdrawn.
    counted: usize,
    last_call: u64,
    terminals: Terminals,
    allocators: Vec<PortAllocator>,
    media_addresses: Vec<IpAddr>,
    last_stream: u64,
    streams: HashMap<StreamId, CallId>,
    admission: admission::Admission,
    /// No call begins any more.
    stopped: bool,
    budgets: budgets::Budgets,
    acquaintances: strangers::Acquaintances,
    /// Calls that are still to be hung up because the proxy is stopping.
    stopping: VecDeque<CallId>,
    /// When the next of them are.
    stop_at: Option<Instant>,
    written: restore::Written,
    /// When the log last spoke of strangers who have their share.
    last_crowd_log: Option<Instant>,
    /// When the log last spoke of media from strangers.
    last_stranger_log: Option<Instant>,
    /// When the log last spoke of messages from strangers, and how many had come by then.
    last_refusal_log: Option<(Instant, u64)>,
    /// When the log last spoke of a limit, and how many requests had been refused by then.
    last_limit_log: Option<(Instant, u64)>,
}

/// A line of the log a second, at most, for what strangers can cause.
const LOG_PERIOD: Duration = Duration::from_secs(1);

impl Core {
    /// A core that begins at `now`, which is `wall` on the clock. `seed` must be unpredictable in production: the tokens
    /// that keep strangers out of calls are drawn from it.
    ///
    /// # Errors
    /// Where a realm's port range holds no pairs; a configuration that was read from a file has none such.
    pub fn new(config: Arc<Config>, wall: SystemTime, now: Instant, seed: [u8; 32]) -> Result<Self, UnusableRange> {
        let allocators = config
            .realms
            .iter()
            .map(|realm| PortAllocator::new(realm.ports, config.media.hold_time))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            budgets: budgets::Budgets::new(&strangers::limits(&config), now),
            acquaintances: strangers::Acquaintances::default(),
            media_addresses: config.realms.iter().map(|realm| realm.media).collect(),
            config,
            statistics: Statistics::default(),
            clock: WallClock::new(now, wall),
            random: StdRng::from_seed(seed),
            outputs: VecDeque::new(),
            events: VecDeque::new(),
            timers: Timers::new(),
            calls: Tracked::default(),
            counted: 0,
            last_call: 0,
            terminals: Terminals::default(),
            allocators,
            last_stream: 0,
            streams: HashMap::new(),
            admission: admission::Admission::default(),
            stopped: false,
            stopping: VecDeque::new(),
            stop_at: None,
            written: restore::Written::default(),
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

    /// Sends a message from a realm's signalling address.
    pub fn send(&mut self, realm: RealmId, destination: Flow, bytes: Vec<u8>) {
        self.outputs.push_back(Output::Send { realm, destination, bytes });
    }

    /// Which side a realm is on.
    pub fn side(&self, realm: RealmId) -> Option<Side> {
        self.config.realms.get(realm).map(|realm| realm.side)
    }

    /// Whether a realm is a network of servers, where its softswitch is.
    pub fn is_core(&self, realm: RealmId) -> bool {
        self.side(realm) == Some(Side::Core)
    }

    /// How far what a realm's hosts say of themselves is believed.
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
        let core = self.config.realms.iter().enumerate().find(|(_, realm)| realm.side == Side::Core);
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

    /// A random number that nobody can guess.
    pub fn random(&mut self) -> u64 {
        self.random.next_u64()
    }

    /// A word that nobody can guess: 64 bits in 13 letters and digits.
    pub fn random_token(&mut self) -> String {
        const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
        let word = self.random();
        (0..13).rev().map(|place| char::from(DIGITS[(word >> (5 * place) & 31) as usize])).collect()
    }

    /// How much is going on in the core.
    pub fn load(&self) -> Load {
        Load {
            calls: self.counted,
            port_pairs: self.allocators.iter().map(PortAllocator::in_use).sum(),
            alarms: self.timers.len(),
            ..Load::default()
        }
    }

    /// A terminal is registered, which was not known before.
    pub fn bind(&mut self, terminal: Terminal) -> TerminalId {
        self.terminals.bind(terminal)
    }

    /// A registered terminal is known again after a restart, by the number that it had.
    pub fn restore_terminal(&mut self, id: TerminalId, terminal: Terminal) {
        self.terminals.restore(id, terminal);
    }

    /// A registered terminal is reached over another flow from now on. Returns whether it was over another one before.
    pub fn rebind(&mut self, id: TerminalId, flow: Flow) -> bool {
        self.terminals.rebind(id, flow)
    }

    /// A terminal is registered no more.
    pub fn unbind(&mut self, id: TerminalId) {
        self.terminals.unbind(id);
    }

    /// The registered terminals.
    pub fn terminals(&self) -> &Terminals {
        &self.terminals
    }

    /// Counts a request that is refused because of a limit and tells of it: one line a second at most, with how many there
    /// were since the last.
    pub fn limited(&mut self, limit: &str, now: Instant) {
        self.statistics.limited += 1;
        if self.last_limit_log.is_some_and(|(at, _)| now.saturating_duration_since(at) < LOG_PERIOD) {
            return;
        }
        let before = self.last_limit_log.replace((now, self.statistics.limited)).map_or(0, |(_, count)| count);
        let refused = self.statistics.limited - before;
        warn!(limit, refused, "a limit is reached: what goes beyond it is refused");
    }

    /// Counts a message that came from somebody who may not act there and tells of it: one line a second at most, with how
    /// many there were since the last.
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

    /// Counts something that cannot be, and stops where that is tried out.
    pub(crate) fn inconsistent(&mut self, what: &'static str) {
        self.statistics.inconsistencies += 1;
        debug_assert!(false, "{what}");
        tracing::error!(what, "this should not be possible: please report it");
    }
}
