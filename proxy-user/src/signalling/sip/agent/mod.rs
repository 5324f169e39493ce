//! What SIP messages do: registrations, transactions, dialogs, and the calls in them.
//!
//! [`Sip`] owns the state, in machines that each keep their own maps whole: [`transactions`], [`dialogs`],
//! [`registrations`], [`connections`]. What a message means is decided in a [`Turn`]: one input with the core and all
//! machines at hand, over as soon as the input is dealt with.
//!
//! | file | what it decides |
//! |---|---|
//! | `inbound` | what a message is: garbage, a retransmission, a request, a response |
//! | `requests` | where a request goes and what it looks like there |
//! | `in_dialog` | whether a request in a dialog is its party's, and what it does there |
//! | `responses` | where a response goes and what it means |
//! | `registrar` | REGISTER and its answers |
//! | `invite` | INVITE, ACK, CANCEL, BYE: the life of a call |
//! | `offer_answer` | which session descriptions are offers and answers |
//! | `dialog_setup` | what a dialog knows at its beginning, and how long it lasts |
//! | `keepalive` | requests that keep NAT mappings alive |
//! | `originate` | requests that the proxy sends inside a dialog by itself |
//! | `refusals` | who is told of as refused by the softswitch |
//! | `identity` | who may know who is calling |
//! | `topology` | addresses that must not cross |
//! | `flows` | over what messages leave, and what a lost connection means |
//! | `restore`, `setup` | what is journalled, and how a later process takes it up; a call that rings then |

mod calls;
mod connections;
mod dialog_setup;
mod dialogs;
mod flows;
mod identity;
mod in_dialog;
mod inbound;
mod invite;
mod keepalive;
mod offer_answer;
mod originate;
mod refusals;
mod registrar;
mod registrations;
mod requests;
mod responses;
mod restore;
mod setup;
mod topology;
mod transactions;

use crate::{
    clock::Clock,
    config::Config,
    engine::{CallEvent, CallId, Core, Load, NotRestored, Protocol, Written, timers::Timers},
    flow::Flow,
    journal::{Change, Entry},
    media::RealmId,
    signalling::{Agent, Arrival, Registration},
};
use connections::Connections;
use dialogs::{DialogId, Dialogs, Role};
use refusals::Refusals;
use registrations::{BindingId, Registrations};
use serde::{Deserialize, Serialize};
use std::time::Instant;
use transactions::{ClientTxId, ServerTxId, Timing, Transactions};

/// The protocol's name: in inputs and in the journal.
pub const PROTOCOL: Protocol = Protocol::new("sip");

/// SIP, as a protocol in front of the core.
pub struct Sip {
    timing: Timing,
    transactions: Transactions<Purpose>,
    dialogs: Dialogs,
    registrations: Registrations,
    connections: Connections,
    refusals: Refusals,
    timers: Timers<Timer>,
    written: Written,
}

/// One input, with all that it may touch.
struct Turn<'a> {
    core: &'a mut Core,
    now: Instant,
    timing: Timing,
    transactions: &'a mut Transactions<Purpose>,
    dialogs: &'a mut Dialogs,
    registrations: &'a mut Registrations,
    connections: &'a mut Connections,
    refusals: &'a mut Refusals,
    timers: &'a mut Timers<Timer>,
}

/// Whose time has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Timer {
    Server(ServerTxId),
    Client(ClientTxId),
    Binding(BindingId),
    Dialog(DialogId),
}

/// What a token in a Request-URI stands for.
#[derive(Clone, Copy, Debug)]
enum Token {
    Binding(BindingId),
    Party(DialogId, Role),
}

/// What a request of ours was sent for.
#[derive(Debug)]
enum Purpose {
    /// On behalf of a request that came in.
    Forward(Forward),
    /// Keep a terminal's NAT mapping alive.
    KeepAlive(BindingId),
    /// End a dialog; nobody waits for the answer.
    Hangup,
}

/// What has to be known when the answer to a forwarded request comes.
#[derive(Debug)]
struct Forward {
    server: ServerTxId,
    dialog: Option<InDialog>,
    register: Option<Box<registrations::Pending>>,
    /// Of the session description exchange in this transaction.
    media: MediaPhase,
}

/// A forwarded request's place in a dialog.
#[derive(Clone, Debug)]
struct InDialog {
    id: DialogId,
    from: Role,
    /// `None` in the request that makes the dialog: the answer tells who answered.
    to: Option<Role>,
    /// The requester's new contact, to be taken over when the request succeeds.
    target: Option<String>,
    /// Where the requester speaks from now, if it was elsewhere before: it has moved there when the request succeeds.
    moves: Option<Flow>,
}

/// Where the offer and answer of a transaction stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

impl Sip {
    /// SIP that has heard nothing yet.
    pub fn new(config: &Config) -> Self {
        Self {
            timing: Timing { t1: config.sip.t1, t2: config.sip.t2, invite: config.sip.invite_timeout },
            transactions: Transactions::default(),
            dialogs: Dialogs::default(),
            registrations: Registrations::default(),
            connections: Connections::default(),
            refusals: Refusals::default(),
            timers: Timers::new(),
            written: Written::default(),
        }
    }

    fn turn<'a>(&'a mut self, core: &'a mut Core, now: Instant) -> Turn<'a> {
        Turn {
            core,
            now,
            timing: self.timing,
            transactions: &mut self.transactions,
            dialogs: &mut self.dialogs,
            registrations: &mut self.registrations,
            connections: &mut self.connections,
            refusals: &mut self.refusals,
            timers: &mut self.timers,
        }
    }
}

impl Agent for Sip {
    fn protocol(&self) -> Protocol {
        PROTOCOL
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
        !self.transactions.clients().any(|(_, client)| client.waits() && matches!(client.purpose, Purpose::Hangup))
    }

    fn take_changes(&mut self, core: &Core, clock: &Clock) -> Vec<Change> {
        self.changes(core, clock)
    }

    fn restore(&mut self, core: &mut Core, entries: &[Entry], clock: Clock, now: Instant) -> Result<(), NotRestored> {
        self.take_up(core, entries, clock, now)
    }

    fn add_load(&self, load: &mut Load) {
        load.dialogs += self.dialogs.len();
        load.registrations += self.registrations.len();
        load.transactions += self.transactions.len();
        load.connections += self.connections.len();
        load.alarms += self.timers.len();
    }

    fn registrations(&self, core: &Core) -> Vec<Registration> {
        let failures = core.config.keepalive.failures;
        let registered = |binding: &registrations::Binding| {
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
