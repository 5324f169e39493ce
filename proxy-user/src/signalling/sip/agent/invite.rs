//! The life of a call: INVITE, ACK, CANCEL, BYE and what ends it without them.

use super::{
    Alarm, Engine, InDialog, MediaPhase, Output, Purpose,
    bodies::Refused,
    calls::{Call, EndCause, Ending},
    dialogs::Role,
    requests::Way,
    transactions::{Cancel, ClientState, ServerKey, ServerState},
};
use crate::{
    accounting::Terminal,
    config::Side,
    engine::{
        admission::Charge,
        session::{LONGEST_HOLD, MediaSession, Side as MediaSide},
    },
    flow::Flow,
    media::{RealmId, StreamId},
    signalling::sip::{Message, Name, NameAddr, cancel_for},
};
use rand::RngCore;
use std::time::Instant;
use tracing::{debug, info};

impl Engine {
    /// An INVITE outside of dialogs.
    pub(super) fn invite(&mut self, server: u64, request: &Message, mut way: Way, source: Flow, now: Instant) {
        let Some(entry) = self.servers.get(&server) else { return };
        let realm = entry.key.realm;
        if self.calls >= self.config.limits.max_calls {
            self.limited("max_calls", now);
            return self.reply(server, 503, Some(("Retry-After", "5")), now);
        }
        self.reply(server, 100, None, now);
        let mut call = self.new_call(request, realm, source, &way, now);
        call.record = u128::from(self.random.next_u64()) << 64 | u128::from(self.random.next_u64());
        let Some(id) = self.new_dialog(server, request, &way, source, Some(Box::new(call)), now) else { return };
        self.calls += 1;
        if let Some(call) = self.call_mut(id) {
            call.invite = Some(server);
        }
        let call_id = request.call_id().unwrap_or_default().into_owned();
        let (from, to) = (request.value(Name::From).unwrap_or_default(), request.value(Name::To).unwrap_or_default());
        info!(call_id, from = &*from, to = &*to, %source, "call begins");
        let admitted = self.admit_call(id, now).map_err(|excess| Refused(excess.code));
        let phase = match admitted.and_then(|()| self.request_media(id, 0, request, &mut way, now)) {
            Ok(phase) => phase,
            Err(Refused(code)) => {
                self.refuse(server, code, now);
                return self.end_call(id, EndCause::Rejected, Some(code), now);
            }
        };
        way.contacts = self.party_contact(id, Role::Originator, request, way.realm, way.destination.transport);
        let place = InDialog { id, from: Role::Originator, to: None, target: None };
        self.forward(server, request, way, Some(place), phase, now);
    }

    /// A request inside a call.
    pub(super) fn in_call(&mut self, server: u64, request: &Message, mut way: Way, place: InDialog, now: Instant) {
        let method = request.method().unwrap_or_default();
        if self.call(place.id).is_some_and(|call| call.ended.is_some()) {
            match method {
                "BYE" => return self.reply(server, 200, None, now),
                // Those of a transfer outlive the call that asked for it (RFC 5057, section 4.1).
                "NOTIFY" | "SUBSCRIBE" => {}
                _ => return self.reply(server, 481, None, now),
            }
        }
        if let ("BYE", Some(to), Some(call)) = (method, place.to, self.call_mut(place.id)) {
            call.bye = Some((place.from, to));
        }
        let mut phase = MediaPhase::None;
        if matches!(method, "INVITE" | "UPDATE" | "PRACK") {
            if method == "INVITE" {
                self.reply(server, 100, None, now);
            }
            phase = match self.request_media(place.id, place.from.side(), request, &mut way, now) {
                Ok(phase) => phase,
                Err(Refused(code)) => return self.refuse(server, code, now),
            };
        }
        self.forward(server, request, way, Some(place), phase, now);
    }

    pub(super) fn refuse(&mut self, server: u64, code: u16, now: Instant) {
        let header = match code {
            415 => Some(("Accept", "application/sdp")),
            500 | 503 => Some(("Retry-After", "5")),
            _ => None,
        };
        self.reply(server, code, header, now);
    }

    /// The ACK of a non-2xx ends here; that of a 2xx goes from end to end.
    pub(super) fn ack(&mut self, key: ServerKey, source: Flow, request: Message, now: Instant) {
        if let Some(id) = self.invite_of(&key)
            && let Some(server) = self.servers.get_mut(&id)
            && server.state != ServerState::Accepted
        {
            server.acknowledged(now);
            if let Some(at) = server.next() {
                self.timers.set(at, Alarm::Server(id));
            }
            return;
        }
        if self.ack_in_dialog(key.realm, source, &request, now).is_none() {
            self.statistics.stray_acks += 1;
        }
    }

    fn ack_in_dialog(&mut self, realm: RealmId, _source: Flow, request: &Message, now: Instant) -> Option<()> {
        let (id, to) = match self.token_of(realm, request)? {
            super::Token::Party(id, to) => (id, to),
            super::Token::Binding(_) => return None,
        };
        let dialog = self.dialogs.get(&id)?;
        let hops_left = request.max_forwards().ok().flatten() != Some(0);
        if request.call_id()? != dialog.call_id || !hops_left {
            return None;
        }
        let from = dialog.sender(to, &request.from_tag()?, &request.to_tag()?)?;
        let mut way = self.way_to(id, from, to, request)?;
        let cseq = request.cseq().ok()?.number;
        way.body = self.ack_body(id, from, cseq, way.realm, request, now);
        let branch = self.ack_branch(id, from, to, cseq)?;
        let bytes = self.rewrite_request(realm, request, &way, &branch)?;
        self.send(way.realm, way.destination, bytes);
        Some(())
    }

    /// The ACK of a 2xx is sent on without a transaction: one that is sent again must look the same again, or the other
    /// party takes it for another (RFC 3261, section 16.11).
    fn ack_branch(&mut self, id: u64, from: Role, to: Role, cseq: u32) -> Option<String> {
        let last = self.dialogs.get(&id)?.party(to)?.acknowledged.as_ref();
        if let Some((_, _, branch)) = last.filter(|(sender, number, _)| (*sender, *number) == (from, cseq)) {
            return Some(branch.clone());
        }
        let branch = self.new_branch();
        self.dialogs.get_mut(&id)?.party_mut(to)?.acknowledged = Some((from, cseq, branch.clone()));
        Some(branch)
    }

    /// CANCEL: answered here, and sent on hop by hop (RFC 3261, sections 9.2 and 16.10).
    pub(super) fn cancel(&mut self, server: u64, now: Instant) {
        let Some(entry) = self.servers.get(&server) else { return };
        let Some(invite) = self.invite_of(&entry.key) else { return self.reply(server, 481, None, now) };
        self.reply(server, 200, None, now);
        let Some(entry) = self.servers.get(&invite).filter(|entry| entry.state == ServerState::Proceeding) else {
            return;
        };
        let Some(client) = entry.client else { return };
        self.cancel_client(client, now);
    }

    pub(super) fn cancel_client(&mut self, id: u64, now: Instant) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        if let Purpose::Forward(super::Forward { dialog: Some(place), .. }) = &client.purpose {
            let call = self.dialogs.get_mut(&place.id).and_then(|dialog| dialog.call_mut());
            if let (Some(call), None) = (call, place.to) {
                call.cancelled = true;
            }
        }
        match client.state {
            ClientState::Calling => client.cancel = Cancel::Wanted,
            ClientState::Proceeding if client.cancel != Cancel::Sent => self.send_cancel(id, now),
            _ => {}
        }
    }

    pub(super) fn send_cancel(&mut self, id: u64, now: Instant) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        client.cancelled(self.timing, now);
        self.timers.set(client.next(), Alarm::Client(id));
        let way = Way::to(client.realm, client.destination, String::new());
        let branch = client.branch.clone();
        let Ok(cancel) = Message::parse(&client.request).map(|invite| cancel_for(&invite)) else { return };
        self.start_client(branch, "CANCEL".into(), &way, cancel, Purpose::Hangup, now);
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
        if code < 200 || self.call(place.id).is_none() {
            return;
        }
        let success = code < 300;
        match method {
            "INVITE" if place.to.is_none() => {
                if let Some(call) = self.call_mut(place.id) {
                    call.invite = None;
                }
                if success { self.answered(place.id, responder, now) } else { self.refused(place.id, code, now) }
            }
            // The other side knows no such dialog any more (RFC 5057, section 5.1).
            "INVITE" | "UPDATE" if code == 481 || (code == 408 && method == "INVITE") => {
                self.hang_up(place.id, EndCause::Timeout, now);
            }
            // A challenge is answered with the same request once more.
            "BYE" if matches!(code, 401 | 407) => {
                if let Some(call) = self.call_mut(place.id) {
                    call.bye = None;
                }
            }
            "BYE" => self.hung_up(place, now),
            _ => {}
        }
    }

    /// A BYE ended the dialog of one answerer: the call, where it was the last (RFC 3261, section 13.2.2.4). One in an
    /// early dialog leaves the rest to the INVITE's final response.
    pub(super) fn hung_up(&mut self, place: &InDialog, now: Instant) {
        let Some(call) = self.call_mut(place.id) else { return };
        call.bye = None;
        let index = match (place.from, place.to) {
            (Role::Answerer(index), _) | (_, Some(Role::Answerer(index))) => Some(index),
            _ => None,
        };
        call.confirmed.retain(|confirmed| Some(*confirmed) != index);
        if call.answered.is_some() && call.confirmed.is_empty() {
            let cause = if place.from == Role::Originator { EndCause::ByeCaller } else { EndCause::ByeCallee };
            self.end_call(place.id, cause, Some(200), now);
        }
    }

    fn answered(&mut self, id: u64, responder: Option<Role>, now: Instant) {
        let Some(call) = self.call_mut(id) else { return };
        let mut fresh = false;
        if let Some(Role::Answerer(index)) = responder
            && !call.confirmed.contains(&index)
        {
            call.confirmed.push(index);
            fresh = true;
        }
        if call.ended.is_some() {
            // It was given up while the answer was under way: whoever answered is told.
            if let Some(role) = responder {
                self.send_ack(id, role);
                if fresh {
                    self.send_bye(id, role, Role::Originator, now);
                }
            }
            return;
        }
        if call.answered.is_none() {
            call.answered = Some(now);
            info!(call_id = self.call_id(id), "call answered");
            self.timers.set(now + LONGEST_HOLD, Alarm::Dialog(id));
        }
    }

    fn call_id(&self, id: u64) -> &str {
        self.dialogs.get(&id).map_or("", |dialog| dialog.call_id.as_str())
    }

    fn refused(&mut self, id: u64, code: u16, now: Instant) {
        let Some(call) = self.call_mut(id) else { return };
        if call.answered.is_some() || call.ended.is_some() {
            return;
        }
        if matches!(code, 401 | 407) {
            // Not the call yet, only the question who calls; the next INVITE is the call.
            call.recorded = true;
            self.calls -= 1;
        }
        let cause = match (call_cancelled(self.call(id)), code) {
            (true, _) | (_, 487) => EndCause::Cancelled,
            (_, 408) => EndCause::Timeout,
            _ => EndCause::Rejected,
        };
        self.end_call(id, cause, Some(code), now);
    }

    /// Ends a call from here: both sides are told.
    pub(super) fn hang_up(&mut self, id: u64, cause: EndCause, now: Instant) {
        let Some(call) = self.call(id).filter(|call| call.ended.is_none()) else { return };
        if call.answered.is_none() {
            if let Some(server) = call.invite {
                let client = self.servers.get(&server).and_then(|entry| entry.client);
                if let Some(client) = client {
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

    fn end_call(&mut self, id: u64, cause: EndCause, code: Option<u16>, now: Instant) {
        let Some(call) = self.call_mut(id).filter(|call| call.ended.is_none()) else { return };
        call.ended = Some(Ending { at: now, cause, code });
        match code {
            // A challenge only asks who calls.
            Some(401 | 407) => debug!(call_id = self.call_id(id), code, "challenged"),
            _ => info!(call_id = self.call_id(id), ?cause, code, "call ends"),
        }
        self.with_media(id, now, |media, resources| media.close(resources));
        self.discharge(id);
        let forget_at = now + 64 * self.timing.t1;
        if let Some(dialog) = self.dialogs.get_mut(&id) {
            dialog.forget_at = Some(forget_at);
        }
        self.timers.set(forget_at, Alarm::Dialog(id));
        self.record_if_over(id, now);
    }

    /// Writes the record of a call that ended and whose last counters have come.
    pub(super) fn record_if_over(&mut self, id: u64, now: Instant) {
        let Some(dialog) = self.dialogs.get(&id) else { return };
        let Some(call) = dialog.call() else { return };
        if call.ended.is_none() || !call.media.is_closed() {
            return;
        }
        let late = dialog.forget_at.is_some_and(|at| at <= now);
        if !call.recorded {
            if let Some(cdr) = self.cdr(id) {
                self.outputs.push_back(Output::Record(Box::new(cdr)));
            }
            self.calls -= 1;
            if let Some(call) = self.call_mut(id) {
                call.recorded = true;
            }
        }
        if late {
            self.forget(id);
        }
    }

    pub(super) fn media_silent(&mut self, id: u64, stream: StreamId, now: Instant) {
        let timeout = self.config.media.silence_timeout;
        let answered = self.call(id).is_some_and(|call| call.answered.is_some() && call.ended.is_none());
        let silent = self.with_media(id, now, |media, _| media.silent(stream, now, timeout)) == Some(true);
        if answered && silent {
            self.hang_up(id, EndCause::MediaSilence, now);
        }
    }

    /// A call whose media the relay does not carry is never silent. It ends when it is found without any twice, as
    /// nothing tells whether its parties are still there.
    pub(super) fn look_after(&mut self, id: u64, now: Instant) {
        let Some(call) = self.call_mut(id).filter(|call| call.ended.is_none()) else { return };
        let was_idle = std::mem::replace(&mut call.idle, call.media.is_idle());
        if was_idle && call.idle {
            return self.hang_up(id, EndCause::MediaSilence, now);
        }
        self.timers.set(now + LONGEST_HOLD, Alarm::Dialog(id));
    }

    fn new_call(&self, request: &Message, realm: RealmId, source: Flow, way: &Way, now: Instant) -> Call {
        let uri = |name| {
            let value = request.value(name).unwrap_or_default();
            NameAddr::parse(&value).map_or_else(|_| value.clone().into_owned(), |address| address.uri.to_owned())
        };
        let terminal = match self.side(realm) {
            Some(Side::Access) => {
                let contact = request.values(Name::Contact).next();
                Terminal {
                    source: source.remote,
                    contact: contact.and_then(|value| super::requests::contact_uri(&value)),
                }
            }
            _ => Terminal { source: way.destination.remote, contact: Some(way.uri.clone()) },
        };
        let side = |realm: RealmId, flow: Flow| MediaSide {
            realm,
            signalling: flow.ip(),
            trusted: self.side(realm) == Some(Side::Core),
        };
        let binding = match self.token_of(realm, request) {
            Some(super::Token::Binding(id)) => self.registrations.get(id),
            _ => None,
        };
        let realms = [realm, way.realm];
        Call {
            charge: Charge::new(realms, self.user_of(realms, request, source.remote, binding)),
            record: 0,
            media: MediaSession::new([side(realm, source), side(way.realm, way.destination)]),
            caller: uri(Name::From),
            callee: uri(Name::To),
            terminal,
            cseq: request.cseq().map(|cseq| cseq.number).unwrap_or_default(),
            started: now,
            answered: None,
            confirmed: Vec::new(),
            ended: None,
            invite: None,
            bye: None,
            ack_answers: None,
            idle: false,
            cancelled: false,
            recorded: false,
        }
    }

    pub(super) fn call(&self, id: u64) -> Option<&Call> {
        self.dialogs.get(&id)?.call()
    }

    pub(super) fn call_mut(&mut self, id: u64) -> Option<&mut Call> {
        self.dialogs.get_mut(&id)?.call_mut()
    }
}

fn call_cancelled(call: Option<&Call>) -> bool {
    call.is_some_and(|call| call.cancelled)
}
