//! Where a response goes, and what it looks like there.

use super::{
    dialogs::{DialogId, Usage},
    identity::Identity,
    inbound::response_vias,
    reading::{contact_uri, route_set},
    roles::Role,
    state::{Forward, InDialog, MediaPhase, Purpose, Timer, Turn},
    topology::{AddressMapper, INTERNAL_HEADERS, URI_HEADERS},
    transactions::{Cancel, ClientState, ClientTxId, ServerState, ServerTxId},
};
use crate::{
    accounting::EndCause,
    flow::Flow,
    media::RealmId,
    signalling::sip::{Message, Name, ack_for, check_response},
};
use std::time::Instant;
use tracing::debug;

impl Turn<'_> {
    pub(super) fn response(&mut self, realm: RealmId, source: Flow, response: Message, now: Instant) {
        let Some(code) = response.code() else { return };
        let Some(id) = self.client_of(&response).filter(|_| check_response(&response).is_ok()) else {
            self.core.statistics.stray_responses += 1;
            return;
        };
        let Some(client) = self.transactions.client_mut(id) else {
            return self.core.inconsistent("a branch of no client transaction");
        };
        if client.realm != realm {
            self.core.statistics.stray_responses += 1;
            return;
        }
        let fresh = client.received(code, self.timing, now);
        self.timers.set(client.next(), Timer::Client(id));
        if client.is_invite() && client.state == ClientState::Completed && code >= 300 {
            // Hop by hop: every copy of a non-2xx is acknowledged here (RFC 3261 §17.1.1.2).
            let (realm, destination) = (client.realm, client.destination);
            if let Ok(invite) = Message::parse(&client.request) {
                self.send(realm, destination, ack_for(&invite, &response));
            }
        }
        if !fresh {
            return;
        }
        let Some(client) = self.transactions.client(id) else {
            return self.core.inconsistent("no client transaction for a response");
        };
        if client.cancel == Cancel::Wanted && client.state == ClientState::Proceeding {
            self.send_cancel(id, now);
        }
        let Some(client) = self.transactions.client(id) else {
            return self.core.inconsistent("no client transaction for a response");
        };
        match &client.purpose {
            Purpose::Forward(forward) if code > 100 => {
                let forward = Forward {
                    server: forward.server,
                    dialog: forward.dialog.clone(),
                    register: None,
                    media: forward.media,
                };
                self.forward_response(id, forward, &response, source, code, now);
            }
            Purpose::KeepAlive(binding) => self.keepalive_answered(*binding),
            Purpose::Forward(_) | Purpose::Hangup => {}
        }
    }

    pub(super) fn client_of(&self, response: &Message) -> Option<ClientTxId> {
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
        let (upstream, by) = (entry.key.realm, entry.source.transport);
        let method = entry.key.method.clone();
        if matches!(code, 401 | 403 | 407) && !self.core.is_core(upstream) {
            let (source, request) = (entry.source, entry.request.clone());
            self.refused_by_softswitch(source, &request, response, code, now);
        }
        let Some(entry) = self.transactions.server(forward.server) else { return };
        let tag = response.to_tag().unwrap_or_default().into_owned();
        if let Some(repeated) = entry.accepted(&tag).filter(|_| (200..300).contains(&code)) {
            // Read once: an offer may have been made since.
            let (source, bytes) = (entry.source, repeated.to_vec());
            self.core.statistics.retransmissions_sent += 1;
            return self.send(upstream, source, bytes);
        }
        let Some((from, sent_to)) = self.transactions.client(client).map(|client| (client.realm, client.destination))
        else {
            return;
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
            if let Some(entry) = self.transactions.server_mut(forward.server)
                && entry.state == ServerState::Accepted
                && entry.takes(code)
            {
                entry.remember_accepted(tag, bytes);
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

    /// A final response to a request whose own transaction is over: nobody waits for it. A 2xx to an INVITE is acknowledged
    /// all the same, and a call that begins so late is hung up (RFC 3261 §13.2.2.4).
    fn late_answer(&mut self, client: ClientTxId, forward: &Forward, response: &Message, code: u16, now: Instant) {
        let Some(sent) = self.transactions.client(client).filter(|client| client.is_invite()) else { return };
        let (Some(place), 200..300, sent_to) = (&forward.dialog, code, sent.destination) else { return };
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

    /// A 2xx settles where both parties are: the requester where it spoke from with its secret, the responder at the port
    /// of its address that the response came from. The branch that it answers is known to nobody else.
    fn settle_places(&mut self, place: &InDialog, responder: Role, sent_to: Flow, source: Flow, now: Instant) {
        if let Some(to) = place.moves {
            self.party_moved(place.id, place.from, to, now);
        }
        if source != sent_to && source.ip() == sent_to.ip() && source.transport == sent_to.transport {
            self.party_moved(place.id, responder, source, now);
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
        let request = &entry.request;
        let mapper = AddressMapper::new(&self.core.config, from, entry.key.realm)?;
        let mut editor = response.edit();
        editor.replace(Name::Via, response_vias(request, entry.source));
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
        Identity::new(&self.core.config, from, entry.key.realm)?.filter(response, &mut editor);
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
        if entry.source.transport.is_reliable() {
            editor.state_length();
        }
        Some(editor.finish())
    }

    /// Time is up for a transaction of ours.
    pub(super) fn client_ends(&mut self, id: ClientTxId, now: Instant) {
        let Some(client) = self.transactions.client(id) else { return };
        let goes_on = client.is_invite() && client.state == ClientState::Proceeding && client.cancel != Cancel::Sent;
        if goes_on && client.failed.is_none() {
            debug!("no final response to an INVITE in time");
            return self.send_cancel(id, now);
        }
        let Some(client) = self.transactions.remove_client(id) else { return };
        if let Some(open) = self.connections.of(client.destination) {
            open.clients.remove(&id);
        }
        let unanswered = matches!(client.state, ClientState::Calling | ClientState::Proceeding);
        let code = client.failed.unwrap_or(408);
        match client.purpose {
            Purpose::KeepAlive(binding) if unanswered => self.keepalive_unanswered(binding),
            Purpose::Forward(forward) if unanswered => {
                let server = forward.server;
                if let Some(place) = &forward.dialog {
                    self.close_offer(place, forward.media, code, now);
                    self.after_subscription(place, server, &client.method, None, code, now);
                }
                if client.method == "INVITE" || client.failed.is_some() {
                    self.reply(forward.server, code, None, now);
                } else {
                    // A 408 would come too late to be of use to anybody (RFC 4320 §4.2).
                    self.drop_server(forward.server);
                }
                if let Some(place) = forward.dialog {
                    self.after_response(&place, &client.method, code, None, now);
                }
            }
            _ => {}
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
