//! The life of a call: INVITE, ACK, CANCEL, BYE and what ends it without them.

use super::{
    calls::Call,
    dialogs::{Dialog, DialogId},
    plan::ForwardPlan,
    reading::{Refused, address_of_record, contact_uri},
    roles::Role,
    state::{Forward, InDialog, MediaPhase, PROTOCOL, Purpose, Timer, Token, Turn},
    transactions::{ClientTxId, Server, ServerKey, ServerTxId},
};
use crate::{
    accounting::{EndCause, Terminal},
    config::Side,
    engine::{CallId, CallSide, CallStart, PerSide, Refusal, budgets::Amounts},
    flow::Flow,
    media::RealmId,
    signalling::sip::{Message, Name, NameAddr, cancel_for},
};
use std::time::Instant;
use tracing::debug;

impl Turn<'_> {
    /// An INVITE outside of dialogs.
    pub(super) fn invite(
        &mut self,
        server: ServerTxId,
        request: &Message,
        mut plan: ForwardPlan,
        source: Flow,
        now: Instant,
    ) {
        let Some(realm) = self.transactions.server(server).map(Server::realm) else {
            return self.core.inconsistent("no server transaction for an INVITE");
        };
        if !self.has_room_for_dialog(true, now) {
            return self.refuse(server, 503, now);
        }
        let Ok(held) = self.take_dialog(realm, source, request, now) else { return self.refuse(server, 503, now) };
        let one_call = Amounts { calls: 1, ..Amounts::default() };
        let Ok(held_by_call) = self.core.take(realm, source, one_call, now) else {
            return self.refuse(server, 503, now);
        };
        let call = match self.core.begin(self.call_start(request, realm, source, &plan), now) {
            Ok(call) => call,
            Err(Refusal::NotAdmitted(code)) => return self.refuse(server, code, now),
            Err(_) => return self.refuse(server, 503, now),
        };
        if let Some(held) = held_by_call {
            self.core.is_strangers(call, source.ip(), held);
        }
        self.reply(server, 100, None, now);
        let cseq = request.cseq().map(|cseq| cseq.number).unwrap_or_default();
        let dialog = Call::new(call, cseq, server);
        let Some(id) = self.new_dialog(realm, request, &plan, source, Some(dialog), now) else {
            self.core.inconsistent("a call between realms that are not there");
            return self.core.end(call, EndCause::Error, Some(500), now);
        };
        self.dialogs.hold(id, held);
        let phase = match self.request_media(id, CallSide::Caller, request, &mut plan, now) {
            Ok(phase) => phase,
            Err(Refused(code)) => {
                self.refuse(server, code, now);
                return self.end_call(id, EndCause::Rejected, Some(code), now);
            }
        };
        plan.contacts = self.party_contact(id, Role::Originator, request, plan.realm, plan.destination.transport);
        let place = InDialog { id, from: Role::Originator, to: None, target: None, moves: None };
        self.forward(server, request, plan, Some(place), phase, now);
    }

    /// What the core needs to know about a call that an INVITE begins.
    fn call_start(&self, request: &Message, realm: RealmId, source: Flow, plan: &ForwardPlan) -> CallStart {
        let uri = |name| {
            let value = request.value(name).unwrap_or_default();
            NameAddr::parse(&value).map_or_else(|_| value.clone().into_owned(), |address| address.uri.to_owned())
        };
        let from_access = self.core.side(realm) == Some(Side::Access);
        let terminal = if from_access {
            let contact = request.values(Name::Contact).next();
            let contact = contact.and_then(|value| contact_uri(&value));
            (CallSide::Caller, Terminal { source: source.remote, contact })
        } else {
            (CallSide::Callee, Terminal { source: plan.destination.remote, contact: Some(plan.uri.clone()) })
        };
        let user = if from_access && self.core.limits_users(realm) {
            let stated = address_of_record(request, Name::From);
            Some((CallSide::Caller, self.core.user_at(realm, source, stated.as_deref())))
        } else if !from_access && self.core.limits_users(plan.realm) {
            let terminal = plan.terminal.and_then(|id| self.core.terminals().get(id));
            terminal.map(|terminal| (CallSide::Callee, terminal.user.clone()))
        } else {
            None
        };
        CallStart {
            owner: PROTOCOL,
            name: request.call_id().unwrap_or_default().into_owned(),
            sides: PerSide::new((realm, source.ip()), (plan.realm, plan.destination.ip())),
            caller: uri(Name::From),
            callee: uri(Name::To),
            terminal,
            user,
        }
    }

    /// A request inside a call.
    pub(super) fn in_call(
        &mut self,
        server: ServerTxId,
        request: &Message,
        mut plan: ForwardPlan,
        place: InDialog,
        now: Instant,
    ) {
        let method = request.method().unwrap_or_default();
        if !self.is_live(place.id) {
            match method {
                "BYE" => return self.reply(server, 200, None, now),
                // Those of a transfer outlive the call that asked for it (RFC 5057 §4.1).
                "NOTIFY" | "SUBSCRIBE" => {}
                _ => return self.reply(server, 481, None, now),
            }
        }
        if let ("BYE", Some(to), Some(call)) = (method, place.to, self.dialogs.call_mut(place.id)) {
            call.bye = Some((place.from, to));
        }
        let mut phase = MediaPhase::None;
        if matches!(method, "INVITE" | "UPDATE" | "PRACK") {
            if method == "INVITE" {
                self.reply(server, 100, None, now);
            }
            phase = match self.request_media(place.id, place.from.side(), request, &mut plan, now) {
                Ok(phase) => phase,
                Err(Refused(code)) => return self.refuse(server, code, now),
            };
        }
        self.forward(server, request, plan, Some(place), phase, now);
    }

    /// Whether the call of a dialog is live.
    pub(super) fn is_live(&self, id: DialogId) -> bool {
        self.dialogs.call(id).is_some_and(|call| self.core.is_live(call.id))
    }

    pub(super) fn refuse(&mut self, server: ServerTxId, code: u16, now: Instant) {
        let header = match code {
            415 => Some(("Accept", "application/sdp")),
            500 | 503 => Some(("Retry-After", "5")),
            _ => None,
        };
        self.reply(server, code, header, now);
    }

    /// The ACK of a non-2xx ends here; that of a 2xx goes from end to end.
    pub(super) fn ack(&mut self, key: ServerKey, source: Flow, request: Message, now: Instant) {
        if let Some(id) = self.transactions.invite_of(&key).map(|(id, _)| id)
            && self.transactions.acknowledge(id, now)
        {
            // A tag of the INVITE's own, its sender chose or knew before.
            let server = self.transactions.server(id).filter(|server| server.request().to_tag().is_none());
            let response = server.and_then(|server| Message::parse(server.response()).ok());
            let tag = response.as_ref().and_then(Message::to_tag);
            // Only a party that got the response can know its tag.
            if tag.is_some_and(|tag| request.to_tag().is_some_and(|stated| stated == tag)) {
                self.core.proved(key.realm, source, now);
            }
            return self.wake_server(id);
        }
        if self.ack_in_dialog(key.realm, source, &request, now).is_none() {
            self.core.statistics.stray_acks += 1;
        }
    }

    fn ack_in_dialog(&mut self, realm: RealmId, source: Flow, request: &Message, now: Instant) -> Option<()> {
        let (id, to, secret) = match self.token_of(realm, request)? {
            (Token::Party(id, to), secret) => (id, to, secret),
            (Token::Binding(_), _) => return None,
        };
        if request.max_forwards().ok().flatten() == Some(0) {
            return None;
        }
        let (from, _) = self.sender_in_dialog(request, (id, to), secret, source, now)?;
        self.vouch(id, to);
        let mut plan = self.plan_to(id, from, to, request)?;
        let cseq = request.cseq().ok()?.number;
        plan.body = self.ack_body(id, from, cseq, plan.realm, request, now);
        let branch = self.ack_branch(id, from, to, cseq)?;
        let bytes = self.rewrite_request(realm, source, request, &plan, &branch)?;
        self.send(plan.realm, plan.destination, bytes);
        Some(())
    }

    /// The ACK of a 2xx is sent on without a transaction: one that is sent again must look the same again, or the other
    /// party takes it for another (RFC 3261 §16.11).
    fn ack_branch(&mut self, id: DialogId, from: Role, to: Role, cseq: u32) -> Option<String> {
        let last = self.dialogs.party(id, to)?.acknowledged.as_ref();
        if let Some((_, _, branch)) = last.filter(|(sender, number, _)| (*sender, *number) == (from, cseq)) {
            return Some(branch.clone());
        }
        let branch = self.new_branch();
        self.dialogs.party_mut(id, to)?.acknowledged = Some((from, cseq, branch.clone()));
        Some(branch)
    }

    /// CANCEL: answered here, and sent on hop by hop (RFC 3261 §9.2 and §16.10).
    pub(super) fn cancel(&mut self, server: ServerTxId, now: Instant) {
        let Some(entry) = self.transactions.server(server) else {
            return self.core.inconsistent("no server transaction for a CANCEL");
        };
        let source = entry.source();
        let Some((invite, _)) = self.transactions.invite_of(entry.key()) else {
            return self.reply(server, 481, None, now);
        };
        self.reply(server, 200, None, now);
        self.invite_moved(invite, source);
        let ringing = self.transactions.server(invite).filter(|entry| entry.is_ringing());
        if let Some(client) = ringing.and_then(Server::client) {
            self.cancel_client(client, now);
        }
    }

    pub(super) fn cancel_client(&mut self, id: ClientTxId, now: Instant) {
        let Some(client) = self.transactions.client(id) else {
            return self.core.inconsistent("no client transaction to cancel");
        };
        if let Purpose::Forward(Forward { dialog: Some(place), .. }) = client.purpose()
            && let (Some(call), None) = (self.dialogs.call_mut(place.id), place.to)
        {
            call.cancelled = true;
        }
        if self.transactions.cancel(id, now) {
            self.wake_client(id);
            self.send_cancel(id, now);
        }
    }

    /// The CANCEL of an INVITE of ours, whose transaction says that it is time.
    pub(super) fn send_cancel(&mut self, id: ClientTxId, now: Instant) {
        let Some(client) = self.transactions.client(id) else {
            return self.core.inconsistent("no INVITE to cancel");
        };
        let plan = ForwardPlan::to(client.realm(), client.destination(), String::new());
        let branch = client.branch().to_owned();
        let Ok(cancel) = Message::parse(client.request()).map(|invite| cancel_for(&invite)) else {
            return self.core.inconsistent("an INVITE of ours that cannot be read");
        };
        self.start_client(branch, "CANCEL".into(), &plan, cancel, Purpose::Hangup, now);
    }

    /// What a response means for its dialog.
    pub(super) fn after_response(
        &mut self,
        place: &InDialog,
        method: &str,
        code: u16,
        responder: Option<Role>,
        now: Instant,
    ) {
        if code < 200 || self.dialogs.call(place.id).is_none() {
            return;
        }
        let success = code < 300;
        match method {
            "INVITE" if place.to.is_none() => {
                if let Some(call) = self.dialogs.call_mut(place.id) {
                    call.invite = None;
                }
                if success { self.answered(place.id, responder, now) } else { self.refused(place.id, code, now) }
            }
            // The other side knows no such dialog any more (RFC 5057 §5.1).
            "INVITE" | "UPDATE" if code == 481 || (code == 408 && method == "INVITE") => {
                self.lost_dialog(place, now);
            }
            // A challenge is answered with the same request once more.
            "BYE" if matches!(code, 401 | 407) => {
                if let Some(call) = self.dialogs.call_mut(place.id) {
                    call.bye = None;
                }
            }
            "BYE" => self.hung_up(place, now),
            _ => {}
        }
    }

    /// The other side no longer knows the dialog of one answerer: that ends the call if it was the only one, and
    /// otherwise only that dialog. A dialog that is only early leaves the rest to the INVITE's final response.
    fn lost_dialog(&mut self, place: &InDialog, now: Instant) {
        let Some(call) = self.dialogs.call(place.id).filter(|call| call.answered) else { return };
        let answerer = [Some(place.from), place.to].into_iter().flatten().find(|role| *role != Role::Originator);
        match (answerer, call.confirmed.as_slice()) {
            (Some(Role::Answerer(index)), confirmed) if !confirmed.contains(&index) => {}
            (Some(Role::Answerer(index)), confirmed) if confirmed.len() > 1 => {
                self.send_bye(place.id, Role::Originator, Role::Answerer(index), now);
                self.send_bye(place.id, Role::Answerer(index), Role::Originator, now);
                if let Some(call) = self.dialogs.call_mut(place.id) {
                    call.confirmed.retain(|confirmed| *confirmed != index);
                }
            }
            _ => self.hang_up_dialog(place.id, EndCause::Timeout, now),
        }
    }

    /// A BYE ended the dialog of one answerer: the call, where it was the last (RFC 3261 §13.2.2.4). One in an early
    /// dialog leaves the rest to the INVITE's final response.
    pub(super) fn hung_up(&mut self, place: &InDialog, now: Instant) {
        let Some(call) = self.dialogs.call_mut(place.id) else { return };
        call.bye = None;
        let index = match (place.from, place.to) {
            (Role::Answerer(index), _) | (_, Some(Role::Answerer(index))) => Some(index),
            _ => None,
        };
        call.confirmed.retain(|confirmed| Some(*confirmed) != index);
        if call.answered && call.confirmed.is_empty() {
            let cause = if place.from == Role::Originator { EndCause::ByeCaller } else { EndCause::ByeCallee };
            self.end_call(place.id, cause, Some(200), now);
        }
    }

    fn answered(&mut self, id: DialogId, responder: Option<Role>, now: Instant) {
        let live = self.is_live(id);
        let Some(call) = self.dialogs.call_mut(id) else { return };
        let mut fresh = false;
        if let Some(Role::Answerer(index)) = responder
            && !call.confirmed.contains(&index)
        {
            call.confirmed.push(index);
            fresh = true;
        }
        if !live {
            // It was given up while the answer was under way: the answerer is sent a BYE.
            let cseq = call.cseq;
            if let Some(role) = responder {
                self.send_ack(id, Role::Originator, role, cseq);
                if fresh {
                    self.send_bye(id, role, Role::Originator, now);
                }
            }
            return;
        }
        call.answered = true;
        let call = call.id;
        self.dialogs.accepted(id);
        self.core.answered(call, now);
    }

    fn refused(&mut self, id: DialogId, code: u16, now: Instant) {
        let Some(call) = self.dialogs.call(id).filter(|call| !call.answered) else { return };
        if matches!(code, 401 | 407) {
            // Not the call yet, only a challenge; the next INVITE is the call.
            self.core.withdraw(call.id, now);
            return self.let_go(id, now);
        }
        let cause = match (call.cancelled, code) {
            (true, _) | (_, 487) => EndCause::Cancelled,
            (_, 408) => EndCause::Timeout,
            _ => EndCause::Rejected,
        };
        self.end_call(id, cause, Some(code), now);
    }

    /// Ends a call: both sides are sent a BYE.
    pub(super) fn hang_up(&mut self, call: CallId, cause: EndCause, now: Instant) {
        match self.dialogs.of_call(call) {
            Some(id) => self.hang_up_dialog(id, cause, now),
            None => self.core.end(call, cause, None, now),
        }
    }

    pub(super) fn hang_up_dialog(&mut self, id: DialogId, cause: EndCause, now: Instant) {
        let Some(call) = self.dialogs.call(id).filter(|call| self.core.is_live(call.id)) else { return };
        if !call.answered {
            if let Some(server) = call.invite {
                if let Some(client) = self.transactions.server(server).and_then(Server::client) {
                    self.cancel_client(client, now);
                }
                self.reply(server, 503, None, now);
            }
            return self.end_call(id, cause, Some(503), now);
        }
        let confirmed = call.confirmed.clone();
        for answerer in confirmed.into_iter().map(Role::Answerer) {
            self.send_bye(id, Role::Originator, answerer, now);
            self.send_bye(id, answerer, Role::Originator, now);
        }
        self.end_call(id, cause, Some(200), now);
    }

    fn end_call(&mut self, id: DialogId, cause: EndCause, code: Option<u16>, now: Instant) {
        let Some(call) = self.dialogs.call(id).map(|call| call.id) else {
            return self.core.inconsistent("the end of no call");
        };
        self.core.end(call, cause, code, now);
        self.let_go(id, now);
    }

    /// A call is over: its dialog is kept for late messages.
    pub(super) fn let_go(&mut self, id: DialogId, now: Instant) {
        let forget_at = now + 64 * self.timing.t1;
        if let Some(dialog) = self.dialogs.get_mut(id).filter(|dialog| dialog.forget_at.is_none()) {
            dialog.forget_at = Some(forget_at);
            self.timers.set(forget_at, Timer::Dialog(id));
        }
    }

    /// A call of an earlier process continues, or what was under way is completed.
    pub(super) fn resume(&mut self, call: CallId, now: Instant) {
        let Some(id) = self.dialogs.of_call(call) else {
            return self.core.end(call, EndCause::Error, None, now);
        };
        let Some(state) = self.dialogs.call(id) else {
            return self.core.inconsistent("a dialog of no call");
        };
        if !state.answered {
            // It rings on, if its INVITE was taken up.
            if state.invite.is_none() {
                self.hang_up_dialog(id, EndCause::Error, now);
            }
            return;
        }
        debug!(?call, "a call continues");
        let bye = state.bye;
        let parties = self.dialogs.get(id).into_iter().flat_map(Dialog::proved_parties);
        for party in parties {
            self.core.met(party.standing.realm, party.standing.flow, now);
        }
        self.core.orphan_offer(call);
        if let Some((from, to)) = bye {
            // There may be no other party to send it again.
            self.send_bye(id, to, from, now);
            self.hung_up(&InDialog { id, from, to: Some(to), target: None, moves: None }, now);
        }
    }
}
