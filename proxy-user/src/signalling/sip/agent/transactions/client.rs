//! A request that we sent: the record around its machine.

use super::{
    invite_client::InviteClient,
    non_invite_client::NonInviteClient,
    outcome::{ClientDue, Ending, Received},
    server::Share,
    timing::Context,
};
use crate::{flow::Flow, media::RealmId};
use std::time::Instant;

/// A request to send, and what it is for.
#[derive(Debug)]
pub(in super::super) struct Outgoing<P> {
    pub(in super::super) branch: String,
    pub(in super::super) method: String,
    pub(in super::super) realm: RealmId,
    pub(in super::super) destination: Flow,
    pub(in super::super) request: Vec<u8>,
    pub(in super::super) purpose: P,
    /// What to answer for it where nobody can be reached there.
    pub(in super::super) unreachable_status: u16,
    /// It goes over a stream because it is large, and may go as a datagram where there is no stream.
    pub(in super::super) udp_fallback_allowed: bool,
}

/// A request that we sent. `P` is what it was for.
#[derive(Debug)]
pub(in super::super) struct Client<P> {
    sent: Outgoing<P>,
    /// It went once more because the connection that it went over ended.
    sent_again: bool,
    /// What the request takes for which it was sent, where that has ended.
    #[allow(dead_code, reason = "given back with the transaction")]
    share: Share,
    machine: Machine,
}

#[derive(Debug)]
enum Machine {
    Invite(InviteClient),
    NonInvite(NonInviteClient),
}

impl<P> Client<P> {
    pub(super) fn new(sent: Outgoing<P>, context: &Context) -> Self {
        let machine = match sent.method.as_str() {
            "INVITE" => Machine::Invite(InviteClient::new(context)),
            _ => Machine::NonInvite(NonInviteClient::new(context)),
        };
        Self { sent, sent_again: false, share: (None, None), machine }
    }

    pub(in super::super) fn branch(&self) -> &str {
        &self.sent.branch
    }

    pub(in super::super) fn method(&self) -> &str {
        &self.sent.method
    }

    pub(in super::super) fn realm(&self) -> RealmId {
        self.sent.realm
    }

    pub(in super::super) fn destination(&self) -> Flow {
        self.sent.destination
    }

    pub(in super::super) fn request(&self) -> &[u8] {
        &self.sent.request
    }

    /// What to answer for it where nobody can be reached there.
    pub(in super::super) fn unreachable_status(&self) -> u16 {
        self.sent.unreachable_status
    }

    pub(in super::super) fn purpose(&self) -> &P {
        &self.sent.purpose
    }

    pub(in super::super) fn into_purpose(self) -> P {
        self.sent.purpose
    }

    pub(in super::super) fn is_invite(&self) -> bool {
        matches!(self.machine, Machine::Invite(_))
    }

    /// Whether nothing came back.
    pub(in super::super) fn is_unheard(&self) -> bool {
        match &self.machine {
            Machine::Invite(machine) => machine.is_calling(),
            Machine::NonInvite(machine) => machine.is_trying(),
        }
    }

    /// Whether a provisional response has come, and no final one.
    pub(in super::super) fn is_proceeding(&self) -> bool {
        match &self.machine {
            Machine::Invite(machine) => machine.is_proceeding(),
            Machine::NonInvite(machine) => machine.is_proceeding(),
        }
    }

    /// Whether it is an INVITE that has to be cancelled, and no final response has come.
    pub(in super::super) fn is_given_up(&self) -> bool {
        matches!(&self.machine, Machine::Invite(machine) if machine.is_given_up())
    }

    /// Whether no final response has come.
    pub(in super::super) fn waits(&self) -> bool {
        match &self.machine {
            Machine::Invite(machine) => machine.waits(),
            Machine::NonInvite(machine) => machine.waits(),
        }
    }

    /// Whether it may go as a datagram: it went over a stream because it is large, and nothing came back.
    pub(in super::super) fn may_fall_back_to_udp(&self) -> bool {
        self.sent.udp_fallback_allowed && self.is_unheard()
    }

    /// When time asks something of it.
    pub(in super::super) fn next(&self) -> Instant {
        match &self.machine {
            Machine::Invite(machine) => machine.next(),
            Machine::NonInvite(machine) => machine.next(),
        }
    }

    pub(super) fn keep_share(&mut self, share: Share) {
        self.share = share;
    }

    pub(super) fn key(&self) -> (String, String) {
        (self.sent.branch.clone(), self.sent.method.clone())
    }

    pub(super) fn is_reliable(&self) -> bool {
        self.sent.destination.transport.is_reliable()
    }

    pub(super) fn purpose_mut(&mut self) -> &mut P {
        &mut self.sent.purpose
    }

    /// Whether it may go once more; it may once.
    pub(super) fn take_second_try(&mut self) -> bool {
        !std::mem::replace(&mut self.sent_again, true)
    }

    pub(super) fn received(&mut self, code: u16, context: &Context) -> Received {
        match &mut self.machine {
            Machine::Invite(machine) => machine.received(code, context),
            Machine::NonInvite(machine) => machine.received(code, context),
        }
    }

    pub(super) fn cancel(&mut self, context: &Context) -> bool {
        match &mut self.machine {
            Machine::Invite(machine) => machine.cancel(context),
            // Only an INVITE can be (RFC 3261 §9.1).
            Machine::NonInvite(_) => false,
        }
    }

    pub(super) fn lose(&mut self, context: &Context) -> bool {
        match &mut self.machine {
            Machine::Invite(machine) => machine.lose(context),
            Machine::NonInvite(machine) => machine.lose(context),
        }
    }

    pub(super) fn fall_back_to_udp(&mut self, request: Vec<u8>, destination: Flow) {
        self.sent.request = request;
        self.sent.destination = destination;
        self.sent.udp_fallback_allowed = false;
    }

    pub(super) fn begin_again(&mut self, context: &Context) {
        match &mut self.machine {
            Machine::Invite(machine) => machine.begin_again(context),
            Machine::NonInvite(machine) => machine.begin_again(context),
        }
    }

    pub(super) fn due(&mut self, context: &Context) -> ClientDue<Ending> {
        match &mut self.machine {
            Machine::Invite(machine) => machine.due(context),
            Machine::NonInvite(machine) => machine.due(context),
        }
    }
}
