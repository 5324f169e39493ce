//! The state of SIP, and one input with access to all of it.

use super::{
    connections::Connections,
    dialogs::{DialogId, Dialogs},
    registrations::{self, BindingId, Registrations},
    roles::Role,
    transactions::{ClientTxId, ServerTxId, Timing, Transactions},
};
use crate::{
    config::Config,
    engine::{Core, Protocol, Written, timers::Timers},
    flow::Flow,
};
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// The protocol's name: in inputs and in the journal.
pub const PROTOCOL: Protocol = Protocol::new("sip");

/// SIP, as a protocol in front of the core.
pub struct Sip {
    pub(super) timing: Timing,
    pub(super) transactions: Transactions<Purpose>,
    pub(super) dialogs: Dialogs,
    pub(super) registrations: Registrations,
    pub(super) connections: Connections,
    pub(super) refusals: Refusals,
    pub(super) timers: Timers<Timer>,
    pub(super) written: Written,
}

/// One input, with all that it may touch.
pub(super) struct Turn<'a> {
    pub(super) core: &'a mut Core,
    pub(super) now: Instant,
    pub(super) timing: Timing,
    pub(super) transactions: &'a mut Transactions<Purpose>,
    pub(super) dialogs: &'a mut Dialogs,
    pub(super) registrations: &'a mut Registrations,
    pub(super) connections: &'a mut Connections,
    pub(super) refusals: &'a mut Refusals,
    pub(super) timers: &'a mut Timers<Timer>,
}

/// What a timer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Timer {
    Server(ServerTxId),
    Client(ClientTxId),
    Binding(BindingId),
    Dialog(DialogId),
}

/// What a token in a Request-URI names.
#[derive(Clone, Copy, Debug)]
pub(super) enum Token {
    Binding(BindingId),
    Party(DialogId, Role),
}

/// What a request of ours was sent for.
#[derive(Debug)]
pub(super) enum Purpose {
    /// On behalf of a request that came in.
    Forward(Forward),
    /// Keep a terminal's NAT mapping alive.
    KeepAlive(BindingId),
    /// End a dialog; nobody waits for the answer.
    Hangup,
}

/// What is needed when the answer to a forwarded request comes.
#[derive(Debug)]
pub(super) struct Forward {
    pub(super) server: ServerTxId,
    pub(super) dialog: Option<InDialog>,
    pub(super) register: Option<Box<registrations::Pending>>,
    /// Of the session description exchange in this transaction.
    pub(super) media: MediaPhase,
}

/// A forwarded request's place in a dialog.
#[derive(Clone, Debug)]
pub(super) struct InDialog {
    pub(super) id: DialogId,
    pub(super) from: Role,
    /// `None` in the request that makes the dialog: the answer tells who answered.
    pub(super) to: Option<Role>,
    /// The requester's new contact, to be taken over when the request succeeds.
    pub(super) target: Option<String>,
    /// Where the requester spoke from, and when, if it was elsewhere before: it has moved there when the request
    /// succeeds.
    pub(super) moves: Option<(Flow, Instant)>,
}

/// Where the offer and answer of a transaction stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum MediaPhase {
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
    /// SIP that has received nothing yet.
    pub fn new(config: &Config) -> Self {
        let timing = Timing { t1: config.sip.t1, t2: config.sip.t2, invite: config.sip.invite_timeout };
        Self {
            timing,
            transactions: Transactions::new(timing),
            dialogs: Dialogs::default(),
            registrations: Registrations::default(),
            connections: Connections::default(),
            refusals: Refusals::default(),
            timers: Timers::new(),
            written: Written::default(),
        }
    }

    pub(super) fn turn<'a>(&'a mut self, core: &'a mut Core, now: Instant) -> Turn<'a> {
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

/// What was logged about refusals by the softswitch.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    /// When one was last logged, and how many there had been by then.
    pub(super) last_log: Option<(Instant, u64)>,
}
