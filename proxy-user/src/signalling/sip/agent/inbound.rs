//! What a datagram is: garbage, a retransmission, a new request, a response.

use super::{
    exemption::Exempt,
    kept,
    state::{Timer, Token, Turn},
    transactions::{Server, ServerDue, ServerKey, ServerTxId},
};
use crate::{
    config::Side,
    engine::budgets::Amounts,
    flow::{Flow, Transport},
    media::RealmId,
    signalling::sip::{Datagram, Message, Name, Response, check_request},
};
use std::time::Instant;
use tracing::debug;

/// Bytes of a final response besides what it repeats of the request: To tag, Contact, Allow, Supported, the name of the
/// software, session timers. What common softswitches and phones send has 300 to 450.
const FINAL_HEADERS: usize = 500;
/// Bytes of the session description in a 2xx to an INVITE without an offer: five audio codecs with their parameters,
/// and telephone events.
const OFFER_IN_FINAL: usize = 700;
/// Bytes that an answer may be longer than its offer. It has the same streams and no more codecs (RFC 3264 §6.1).
const ANSWER_BEYOND_OFFER: usize = 150;

impl Turn<'_> {
    pub(super) fn datagram(&mut self, realm: RealmId, source: Flow, bytes: &[u8], now: Instant) {
        if Datagram::of(bytes) == Datagram::KeepAlive {
            self.core.statistics.keepalives_received += 1;
            return;
        }
        self.message(realm, source, bytes, now);
    }

    pub(super) fn message(&mut self, realm: RealmId, source: Flow, bytes: &[u8], now: Instant) {
        let Some(config) = self.core.config.realms.get(realm) else {
            return self.core.inconsistent("a message in no realm");
        };
        // A call between two terminals may come straight back where the softswitch does not stay in its path.
        let ourselves = match source.transport {
            Transport::Udp => source == config.signalling,
            _ => source.ip() == config.signalling.ip(),
        };
        let expected = ourselves || config.softswitch.is_some_and(|softswitch| softswitch.ip() == source.ip());
        let stranger = config.side == Side::Core && !expected;
        self.connections.heard(source);
        let (dialogs, lingers) = (&mut *self.dialogs, 64 * self.timing.t1);
        let exempt = || first_token(bytes).is_some_and(|token| dialogs.exempts_message(token, lingers, now));
        if !self.core.hears(realm, source, bytes.len(), exempt, now) {
            return;
        }
        match Message::parse(bytes) {
            Ok(message) if stranger && !self.is_of_a_dialog(realm, source, &message) => {
                self.core.statistics.foreign += 1
            }
            Err(_) if stranger => self.core.statistics.foreign += 1,
            Ok(message) if message.method().is_some() => self.request(realm, source, message, now),
            Ok(message) => self.response(realm, source, message, now),
            Err(error) => {
                self.core.statistics.unparsable += 1;
                debug!(%source, %error, "not a SIP message");
                if let Some(request) = error.answerable() {
                    let response = plain_response(request, error.fault.code(), None, source, None);
                    self.send(realm, source, response);
                }
            }
        }
    }

    /// Whether a message belongs to a dialog: a request by its token, a response by coming from where its request went.
    fn is_of_a_dialog(&self, realm: RealmId, source: Flow, message: &Message) -> bool {
        match message.method() {
            Some(_) => matches!(self.token_of(realm, message), Some((Token::Party(..), _))),
            None => self.client_of(message).is_some_and(|(_, client)| client.destination().ip() == source.ip()),
        }
    }

    fn request(&mut self, realm: RealmId, source: Flow, request: Message, now: Instant) {
        let method = request.method().unwrap_or_default().to_owned();
        let key = server_key(realm, source, &request, &method);
        if method == "ACK" {
            return self.ack(key, source, request, now);
        }
        if let Some((id, server)) = self.transactions.server_with_key(&key) {
            self.core.statistics.retransmissions_received += 1;
            let response = server.response().to_vec();
            // The sender's NAT may have given it another port in the meantime: answers go to the present one.
            self.invite_moved(id, source);
            if !response.is_empty() {
                self.core.statistics.retransmissions_sent += 1;
                self.send_keeping(self.kept_for_final(id), realm, source, response);
            }
            return;
        }
        if let Err(reject) = check_request(&request) {
            self.core.statistics.refused += 1;
            let tag = self.core.random_token();
            let response = returned(reject.response(&request), &request, source, Some(&tag)).finish();
            self.send(realm, source, response);
            return;
        }
        // A tenth more is for the softswitch, and for existing calls, which must be able to end.
        let most = self.core.config.limits.max_transactions;
        let exempt = self.exempt(realm, &request, now);
        let reserve = self.core.is_core(realm) || exempt.is_some();
        if self.transactions.len() >= if reserve { most.saturating_add(most / 10) } else { most } {
            self.core.limited("max_transactions", now);
            let headers = Some(("Retry-After", "5"));
            self.send(realm, source, plain_response(&request, 503, headers, source, None));
            return;
        }
        // The request as it came and as it is forwarded, and its answer; and a transaction for each side.
        let bytes = kept::of_request(&request);
        let amounts = Amounts { transactions: 2, bytes: bytes.try_into().unwrap_or(u32::MAX), ..Amounts::default() };
        let held = if exempt.is_some() { Ok(None) } else { self.core.take(realm, source, amounts, now) };
        let Ok(held) = held else {
            let headers = Some(("Retry-After", "5"));
            self.send(realm, source, plain_response(&request, 503, headers, source, None));
            return;
        };
        let tag = self.core.random_token();
        let server = Server::new(key, source, request, tag).with_share(held, exempt);
        let Some(id) = self.transactions.open_server(server) else {
            return self.core.inconsistent("two requests with one key");
        };
        if let Some(open) = self.connections.of(source).filter(|_| method == "INVITE") {
            open.invites.insert(id);
        }
        if method == "CANCEL" {
            self.cancel(id, now)
        } else {
            self.route(id, now)
        }
        self.count_kept(id);
        // A request that was neither answered nor forwarded would never end.
        let idle = |server: &Server| !server.is_answered() && server.client().is_none();
        if self.transactions.server(id).is_some_and(idle) {
            self.drop_server(id);
        }
    }

    /// Exempts a request from the budgets of strangers if it names a party of a dialog by the token that only the other
    /// party was shown, up to what a dialog needs.
    fn exempt(&mut self, realm: RealmId, request: &Message, now: Instant) -> Option<Exempt> {
        if self.core.is_core(realm) {
            return None;
        }
        let Some((Token::Party(dialog, to), true)) = self.token_of(realm, request) else { return None };
        self.dialogs.exempt_request(dialog, to, request, 64 * self.timing.t1, now)
    }

    /// Answers a request with a response of our own.
    pub(super) fn reply(&mut self, server: ServerTxId, code: u16, header: Option<(&str, &str)>, now: Instant) {
        let Some(entry) = self.transactions.server(server) else {
            return self.core.inconsistent("no server transaction to reply to");
        };
        let tag = (code > 100).then_some(entry.tag());
        let bytes = plain_response(entry.request(), code, header, entry.source(), tag);
        self.respond(server, code, bytes, now);
    }

    /// Sends a response to a request and lets its transaction know. Nothing happens where the request had its final
    /// response already.
    pub(super) fn respond(&mut self, server: ServerTxId, code: u16, bytes: Vec<u8>, now: Instant) {
        if !self.transactions.respond(server, code, &bytes, now) {
            return;
        }
        let Some(entry) = self.transactions.server(server) else {
            return self.core.inconsistent("a response ended its transaction");
        };
        let (realm, source) = (entry.realm(), entry.source());
        self.wake_server(server);
        self.count_kept(server);
        if code >= 200 {
            self.untrack_invite(source, server);
        }
        self.send_keeping(self.kept_for_final(server), realm, source, bytes);
    }

    /// How many bytes of a stranger's credit the last response to a request must leave: where not all may be sent, the
    /// final response matters most. A caller that has a provisional one no longer repeats its INVITE (RFC 3261
    /// §17.1.1.2) and so brings no more credit; one that has none does. So a 100 leaves enough for a ringing response
    /// as well. A response that PRACK answers is not held back: the PRACK brings credit and proves the address.
    fn kept_for_final(&self, id: ServerTxId) -> usize {
        let Some(server) = self.transactions.server(id).filter(|server| !server.is_answered()) else { return 0 };
        if self.core.is_known(server.realm(), server.source()) || is_reliable(server.response()) {
            return 0;
        }
        let headers =
            plain_response(server.request(), 200, None, server.source(), Some(server.tag())).len() + FINAL_HEADERS;
        let description = match server.request().body().len() {
            _ if !server.is_ringing() => 0,
            0 => OFFER_IN_FINAL,
            offer => offer + ANSWER_BEYOND_OFFER,
        };
        let ringing = if server.response().starts_with(b"SIP/2.0 100") { headers } else { 0 };
        ringing + headers + description
    }

    pub(super) fn drop_server(&mut self, id: ServerTxId) {
        if let Some(server) = self.transactions.close_server(id) {
            self.untrack_invite(server.source(), id);
        }
    }

    /// The sender of a request has moved: its answers go to its new place.
    pub(super) fn invite_moved(&mut self, id: ServerTxId, to: Flow) {
        let Some(before) = self.transactions.move_server(id, to) else { return };
        if before != to && self.transactions.server(id).is_some_and(Server::is_ringing) {
            self.untrack_invite(before, id);
            if let Some(open) = self.connections.of(to) {
                open.invites.insert(id);
            }
        }
    }

    /// An INVITE that came over a connection has its final response.
    fn untrack_invite(&mut self, flow: Flow, id: ServerTxId) {
        if let Some(open) = self.connections.of(flow) {
            open.invites.remove(&id);
        }
    }

    pub(super) fn server_due(&mut self, id: ServerTxId, now: Instant) {
        match self.transactions.server_due(id, now) {
            ServerDue::End(server) => {
                if server.is_unacknowledged() {
                    debug!("no ACK for a refused INVITE");
                }
                return self.untrack_invite(server.source(), id);
            }
            ServerDue::Retransmit => {
                let Some(server) = self.transactions.server(id) else {
                    return self.core.inconsistent("no response to send again");
                };
                let (realm, source, bytes) = (server.realm(), server.source(), server.response().to_vec());
                self.core.statistics.retransmissions_sent += 1;
                self.send(realm, source, bytes);
            }
            ServerDue::Nothing => {}
        }
        self.wake_server(id);
    }

    /// Sees to a server transaction when it next wants that.
    pub(super) fn wake_server(&mut self, id: ServerTxId) {
        if let Some(at) = self.transactions.server(id).and_then(Server::next) {
            self.timers.set(at, Timer::Server(id));
        }
    }
}

/// The user of the first URI in what may be a request, which may be the token of a party: that can be seen without
/// parsing it.
fn first_token(bytes: &[u8]) -> Option<&str> {
    let line = bytes.get(..bytes.len().min(128))?;
    let word = line.split(|byte| *byte == b':').nth(1)?.split(|byte| *byte == b'@').next()?;
    std::str::from_utf8(word).ok()
}

/// What makes a request that of a transaction: who sent it, from whatever port, as a NAT may give it another one; the
/// branch, with sent-by to tell hosts behind one address apart, and the Call-ID, which strangers would have to know too
/// (RFC 3261 §17.2.3).
pub(super) fn server_key(realm: RealmId, source: Flow, request: &Message, method: &str) -> ServerKey {
    let call_id = request.call_id().unwrap_or_default();
    let branch = request
        .top_via()
        .ok()
        .filter(|via| via.has_cookie())
        .map(|via| format!("{} {}:{} {call_id}", via.branch(), via.host, via.port.unwrap_or(5060)));
    // A peer that knows only RFC 2543.
    let branch = branch.unwrap_or_else(|| {
        let cseq = request.cseq().map(|cseq| cseq.number).unwrap_or_default();
        let from_tag = request.from_tag().unwrap_or_default();
        format!("{call_id} {from_tag} {cseq} {}", request.request_uri().unwrap_or_default())
    });
    ServerKey { realm, peer: source.ip(), transport: source.transport, branch, method: method.to_owned() }
}

/// The Via values of a request as they go back in a response: the topmost says where it came from (RFC 3261
/// §18.2.1; RFC 3581 §4).
pub(super) fn response_vias(request: &Message, source: Flow) -> Vec<String> {
    let mut vias: Vec<String> = request.values(Name::Via).map(|via| via.into_owned()).collect();
    if let (Some(first), Ok(via)) = (vias.first_mut(), request.top_via()) {
        *first = via.with_source(source.ip(), source.port());
    }
    vias
}

/// A response of the proxy's own, which goes back to where the request came from.
fn returned<'m>(mut response: Response<'m>, request: &Message, source: Flow, tag: Option<&str>) -> Response<'m> {
    if let Ok(via) = request.top_via() {
        response.top_via(&via.with_source(source.ip(), source.port()));
    }
    if let Some(tag) = tag {
        response.to_tag(tag);
    }
    response
}

/// Whether a provisional response is answered by PRACK (RFC 3262 §3).
fn is_reliable(response: &[u8]) -> bool {
    Message::parse(response).is_ok_and(|response| response.value(Name::RSeq).is_some())
}

/// A response without a body. The tag goes into To where there is none.
fn plain_response(
    request: &Message,
    code: u16,
    header: Option<(&str, &str)>,
    source: Flow,
    tag: Option<&str>,
) -> Vec<u8> {
    let mut response = returned(Response::to(request, code), request, source, tag);
    if let Some((name, value)) = header {
        response.header(name, value);
    }
    response.finish()
}
