//! Where a response goes, and what it looks like there.

use super::{
    dialogs::{DialogId, Usage},
    identity::Identity,
    inbound::response_vias,
    reading::{contact_uri, route_set},
    roles::Role,
    state::{Forward, InDialog, MediaPhase, Purpose, Timer, Turn},
    topology::{AddressMapper, INTERNAL_HEADERS, URI_HEADERS},
    transactions::{Client, ClientTxId, Ending, ServerTxId},
};
use crate::{
    accounting::EndCause,
    engine::Standing,
    flow::Flow,
    media::RealmId,
    signalling::sip::{Message, Name, ack_for, check_response},
};
use std::time::Instant;

impl Turn<'_> {
    pub(super) fn response(&mut self, realm: RealmId, source: Flow, response: Message, now: Instant) {
        let Some(code) = response.code() else {
            return self.core.inconsistent("a response without a status code");
        };
        let answered = self.client_of(&response).filter(|(_, client)| client.realm() == realm).map(|(id, _)| id);
        let Some(id) = answered.filter(|_| check_response(&response).is_ok()) else {
            self.core.statistics.stray_responses += 1;
            return;
        };
        let Some(received) = self.transactions.received(id, code, now) else {
            return self.core.inconsistent("no client transaction for a response");
        };
        self.wake_client(id);
        self.proved_by_response(id, source, now);
        if received.acknowledge {
            self.acknowledge(id, &response);
        }
        if !received.is_new {
            return;
        }
        if received.cancel {
            self.send_cancel(id, now);
        }
        match self.transactions.client(id).map(Client::purpose) {
            Some(Purpose::Forward(forward)) if code > 100 => {
                let forward = Forward {
                    server: forward.server,
                    dialog: forward.dialog.clone(),
                    register: None,
                    media: forward.media,
                };
                self.forward_response(id, forward, &response, source, code, now);
            }
            Some(Purpose::KeepAlive(binding)) => self.keepalive_answered(*binding),
            Some(Purpose::Forward(_) | Purpose::Hangup) => {}
            None => self.core.inconsistent("a response ended its transaction"),
        }
    }

    /// A response that comes from where its request was sent proves that address: nobody else knows the branch.
    fn proved_by_response(&mut self, id: ClientTxId, source: Flow, now: Instant) {
        let Some(client) = self.transactions.client(id).filter(|client| client.destination() == source) else { return };
        self.core.proved(client.realm(), source, now);
        let Purpose::Forward(Forward { dialog: Some(InDialog { id, to: Some(to), .. }), .. }) = client.purpose() else {
            return;
        };
        let is_there = |standing: &Standing| standing.unproved && standing.flow == source;
        if self.dialogs.party(*id, *to).is_some_and(|party| is_there(&party.standing))
            && let Some(party) = self.dialogs.party_mut(*id, *to)
        {
            party.standing.unproved = false;
        }
    }

    /// Sends the ACK of a refusal (RFC 3261 §17.1.1.3).
    fn acknowledge(&mut self, id: ClientTxId, refusal: &Message) {
        let Some(client) = self.transactions.client(id) else {
            return self.core.inconsistent("a refusal of no INVITE");
        };
        let (realm, destination) = (client.realm(), client.destination());
        if let Ok(invite) = Message::parse(client.request()) {
            self.send(realm, destination, ack_for(&invite, refusal));
        }
    }

    /// The request of ours that a response answers.
    pub(super) fn client_of(&self, response: &Message) -> Option<(ClientTxId, &Client<Purpose>)> {
        let via = response.top_via().ok()?;
        let cseq = response.cseq().ok()?;
        self.transactions.client_with_branch(via.branch(), cseq.method)
    }

    fn forward_response(
        &mut self,
        client: ClientTxId,
        forward: Forward,
        response: &Message,
        source: Flow,
        code: u16,
        now: Instant,
    ) {
        let Some(entry) = self.transactions.server(forward.server) else {
            return self.late_answer(client, &forward, response, code, now);
        };
        let (upstream, source_of_request) = (entry.realm(), entry.source());
        let (by, method) = (source_of_request.transport, entry.key().method.clone());
        let tag = response.to_tag().unwrap_or_default().into_owned();
        if let Some(repeated) = entry.accepted(&tag).filter(|_| (200..300).contains(&code)) {
            // Read once: an offer may have been made since.
            let bytes = repeated.to_vec();
            self.core.statistics.retransmissions_sent += 1;
            return self.send(upstream, source_of_request, bytes);
        }
        if matches!(code, 401 | 403 | 407) && !self.core.is_core(upstream) {
            let request = entry.request().clone();
            self.refused_by_softswitch(source_of_request, &request, response, code, now);
        }
        let sent = self.transactions.client(client).map(|client| (client.realm(), client.destination()));
        let Some((from, sent_to)) = sent else {
            return self.core.inconsistent("no client transaction for a response that goes on");
        };
        if method == "REGISTER" {
            let contacts = self.registered(client, response, code, now);
            let bytes = self.rewrite_response(forward.server, from, response, contacts, None);
            if let Some(bytes) = bytes {
                self.respond(forward.server, code, bytes, now);
            }
            return;
        }
        let responder = forward.dialog.as_ref().and_then(|place| self.responder(place, sent_to, response, code));
        if let (Some(place), Some(responder)) = (&forward.dialog, responder)
            && (200..300).contains(&code)
        {
            self.refresh_targets(place, responder, response, &method);
            self.settle_places(place, responder, sent_to, source, now);
        }
        let contacts = match (&forward.dialog, responder, code) {
            (Some(place), Some(responder), ..300) => self.party_contact(place.id, responder, response, upstream, by),
            (_, _, 300..400 | 485) => self.redirect_contacts(from, upstream, response),
            _ => self.plain_contact(response, upstream, by),
        };
        let body = self.response_body(client, &forward, responder, response, code, now);
        if let Some(bytes) = self.rewrite_response(forward.server, from, response, contacts, body) {
            self.respond(forward.server, code, bytes.clone(), now);
            if (200..300).contains(&code) {
                self.transactions.remember_accepted(forward.server, tag, bytes);
            }
        }
        if let Some(place) = forward.dialog {
            if code >= 200 {
                let phase = self.media_phase(client).unwrap_or(MediaPhase::None);
                self.close_offer(&place, phase, code, now);
                if let ("INVITE", MediaPhase::OfferedInResponse, 200..300) = (method.as_str(), phase, code)
                    && let (Ok(cseq), Some(call)) = (response.cseq(), self.dialogs.call_mut(place.id))
                {
                    call.ack_answers = Some((place.from, cseq.number));
                }
            }
            self.after_subscription(&place, forward.server, &method, response.expires(), code, now);
            self.after_response(&place, &method, code, responder, now);
        }
    }

    /// A final response to a request whose own transaction is over: nobody waits for it. A 2xx to an INVITE is
    /// acknowledged nevertheless, and a call that begins so late is hung up (RFC 3261 §13.2.2.4).
    fn late_answer(&mut self, client: ClientTxId, forward: &Forward, response: &Message, code: u16, now: Instant) {
        let Some(sent) = self.transactions.client(client).filter(|client| client.is_invite()) else { return };
        let (Some(place), 200..300, sent_to) = (&forward.dialog, code, sent.destination()) else { return };
        let Some(responder) = self.responder(place, sent_to, response, code) else { return };
        if place.to.is_none() {
            if let Some(call) = self.dialogs.call(place.id).map(|call| call.id) {
                self.core.end(call, EndCause::Error, None, now);
            }
            return self.after_response(place, "INVITE", code, Some(responder), now);
        }
        let Ok(cseq) = response.cseq() else { return };
        self.send_ack(place.id, place.from, responder, cseq.number);
    }

    /// Which party of the dialog answered.
    fn responder(&mut self, place: &InDialog, sent_to: Flow, response: &Message, code: u16) -> Option<Role> {
        if place.to.is_some() {
            return place.to;
        }
        let tag = match response.to_tag() {
            Some(tag) => tag.into_owned(),
            // RFC 2543 knew dialogs without it.
            None if (200..300).contains(&code) => String::new(),
            None => return None,
        };
        let known = self.dialogs.get(place.id)?.answerer_with_tag(&tag);
        known.or_else(|| self.new_answerer(place.id, response, &tag, sent_to)).map(Role::Answerer)
    }

    /// A 2xx settles where both parties are: the requester where it spoke from with its secret, the responder at the
    /// port of its address that the response came from. The branch that it answers is known to nobody else.
    fn settle_places(&mut self, place: &InDialog, responder: Role, sent_to: Flow, source: Flow, now: Instant) {
        if let Some(to) = place.moves {
            self.party_moved(place.id, place.from, to, now);
        }
        if source != sent_to && source.ip() == sent_to.ip() && source.transport == sent_to.transport {
            self.party_moved(place.id, responder, (source, now), now);
        }
    }

    /// A 2xx to a request that refreshes targets moves both parties to the contacts that they stated (RFC 3261
    /// §12.2; RFC 3311 §5.1; RFC 6665 §4.4.1).
    fn refresh_targets(&mut self, place: &InDialog, responder: Role, response: &Message, method: &str) {
        if !matches!(method, "INVITE" | "UPDATE" | "SUBSCRIBE" | "NOTIFY" | "REFER") {
            return;
        }
        let stated = response.values(Name::Contact).next().and_then(|value| contact_uri(&value));
        for (role, target) in [(place.from, place.target.clone()), (responder, stated)] {
            let Some(target) = target else { continue };
            let Some(party) = self.dialogs.party_mut(place.id, role) else { continue };
            party.target = target;
            if role == responder && place.to.is_none() {
                // The route set of an early dialog is only a guess (RFC 3261 §13.2.2.4).
                party.routes = route_set(response, true);
            }
            let flow = self.dialogs.party(place.id, role).and_then(|party| self.core_destination(party));
            if let (Some(party), Some(flow)) = (self.dialogs.party_mut(place.id, role), flow) {
                party.standing.flow = flow;
            }
        }
    }

    fn redirect_contacts(&self, from: RealmId, to: RealmId, response: &Message) -> Option<Vec<String>> {
        let mapper = AddressMapper::new(&self.core.config, from, to)?;
        let contacts: Vec<_> = response.values(Name::Contact).map(|value| mapper.value(&value).into_owned()).collect();
        (!contacts.is_empty()).then_some(contacts)
    }

    /// The response as it goes out.
    fn rewrite_response(
        &self,
        server: ServerTxId,
        from: RealmId,
        response: &Message,
        contacts: Option<Vec<String>>,
        body: Option<Vec<u8>>,
    ) -> Option<Vec<u8>> {
        let entry = self.transactions.server(server)?;
        let request = entry.request();
        let mapper = AddressMapper::new(&self.core.config, from, entry.realm())?;
        let mut editor = response.edit();
        editor.replace(Name::Via, response_vias(request, entry.source()));
        for &name in URI_HEADERS {
            if let Some(values) = mapper.header(response, name) {
                editor.replace(name, &values);
            }
        }
        // From and To go back as they came (RFC 3261 §8.2.6.2).
        editor.set(Name::From, &request.value(Name::From)?);
        let to = request.value(Name::To)?;
        let to = match (request.to_tag(), response.to_tag()) {
            (None, Some(tag)) => format!("{to};tag={tag}"),
            _ => to.into_owned(),
        };
        editor.set(Name::To, &to);
        match contacts {
            Some(contacts) => editor.replace(Name::Contact, &contacts),
            None => editor.remove(Name::Contact),
        };
        for &name in INTERNAL_HEADERS {
            editor.remove(name);
        }
        for header in response.headers().filter(|header| mapper.leaks_address(header)) {
            editor.remove(header.raw_name);
        }
        Identity::new(&self.core.config, from, entry.realm())?.filter(response, &mut editor);
        if response.code().is_some_and(|code| (101..300).contains(&code)) {
            // The requester's side made its own route set; like any server, the proxy states it (RFC 3261
            // §12.1.1).
            editor.replace(Name::RecordRoute, request.values(Name::RecordRoute));
        }
        if let Some(body) = body {
            if body.is_empty() {
                editor.remove(Name::ContentType);
            }
            editor.body(None, self.dialogs.without_tokens(&body).unwrap_or(body));
        } else if let Some(body) = self.dialogs.without_tokens(response.body()) {
            editor.body(None, body);
        }
        if entry.source().transport.is_reliable() {
            editor.state_length();
        }
        Some(editor.finish())
    }

    /// A transaction of ours is over.
    pub(super) fn client_ended(&mut self, id: ClientTxId, client: Client<Purpose>, ending: Ending, now: Instant) {
        if let Some(open) = self.connections.of(client.destination()) {
            open.clients.remove(&id);
        }
        let code = match ending {
            Ending::Answered => return,
            Ending::TimedOut => 408,
            Ending::Unreachable => client.unreachable_status(),
        };
        let method = client.method().to_owned();
        match client.into_purpose() {
            Purpose::KeepAlive(binding) => self.keepalive_unanswered(binding),
            Purpose::Forward(forward) => {
                let server = forward.server;
                if let Some(place) = &forward.dialog {
                    self.close_offer(place, forward.media, code, now);
                    self.after_subscription(place, server, &method, None, code, now);
                }
                if method == "INVITE" || ending == Ending::Unreachable {
                    // Who asked may have been refused long before, and that transaction be over.
                    if self.transactions.server(server).is_some() {
                        self.reply(server, code, None, now);
                    }
                } else {
                    // A 408 would come too late to be useful (RFC 4320 §4.2).
                    self.drop_server(server);
                }
                if let Some(place) = forward.dialog {
                    self.after_response(&place, &method, code, None, now);
                }
            }
            Purpose::Hangup => {}
        }
    }

    pub(super) fn dialog_due(&mut self, id: DialogId, now: Instant) {
        let Some(dialog) = self.dialogs.get(id) else { return };
        let ends_at = match (&dialog.usage, dialog.forget_at) {
            (Usage::Call(_), None) => return,
            (Usage::Call(_), Some(at)) => at,
            (Usage::Subscription { ends_at }, _) => *ends_at,
        };
        if ends_at > now {
            return self.timers.set(ends_at, Timer::Dialog(id));
        }
        self.dialogs.remove(id);
    }
}
