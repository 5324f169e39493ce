//! What a datagram is: garbage, a retransmission, a new request, a response.

use super::{
    Alarm, Engine, Token,
    transactions::{Due, Server, ServerKey, ServerState},
};
use crate::{
    accounting::EndCause,
    config::Side,
    flow::{Flow, Transport},
    media::{MediaEvent, RealmId},
    signalling::sip::{Datagram, Message, Name, Response, check_request},
};
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};
use tracing::{debug, warn};

impl Engine {
    pub(super) fn datagram(&mut self, realm: RealmId, source: SocketAddr, bytes: &[u8], now: Instant) {
        if Datagram::of(bytes) == Datagram::KeepAlive {
            self.statistics.keepalives_received += 1;
            return;
        }
        self.message(realm, Flow::udp(source), bytes, now);
    }

    pub(super) fn message(&mut self, realm: RealmId, source: Flow, bytes: &[u8], now: Instant) {
        let Some(config) = self.config.realms.get(realm) else { return };
        // A call between two terminals may come straight back where the softswitch does not stay in its path.
        let ourselves = match source.transport {
            Transport::Udp => source == config.signalling,
            _ => source.ip() == config.signalling.ip(),
        };
        let expected = ourselves || config.softswitch.is_some_and(|softswitch| softswitch.ip() == source.ip());
        let stranger = config.side == Side::Core && !expected;
        self.note_connection(source);
        match Message::parse(bytes) {
            Ok(message) if stranger && !self.is_of_a_dialog(realm, source, &message) => self.statistics.foreign += 1,
            Err(_) if stranger => self.statistics.foreign += 1,
            Ok(message) if message.method().is_some() => self.request(realm, source, message, now),
            Ok(message) => self.response(realm, message, now),
            Err(error) => {
                self.statistics.unparsable += 1;
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
            Some(_) => matches!(self.token_of(realm, message), Some(Token::Party(..))),
            None => {
                let client = self.client_of(message).and_then(|id| self.clients.get(&id));
                client.is_some_and(|client| client.destination.ip() == source.ip())
            }
        }
    }

    pub(super) fn media_event(&mut self, event: MediaEvent, now: Instant) {
        match event {
            MediaEvent::Latched { stream, leg, rtcp, source, at } => {
                let Some(&dialog) = self.streams.get(&stream) else { return };
                debug!(dialog, ?stream, leg, rtcp, %source, "latched");
                self.with_media(dialog, now, |media, _| media.latched(stream, leg, rtcp, source, at));
            }
            MediaEvent::Failed { stream } => {
                self.statistics.media_failed += 1;
                let Some(&dialog) = self.streams.get(&stream) else { return };
                self.hang_up(dialog, EndCause::Error, now);
            }
            MediaEvent::Silent { stream } => {
                let Some(&dialog) = self.streams.get(&stream) else { return };
                self.media_silent(dialog, stream, now);
            }
            MediaEvent::Strangers { stream, leg, packets } => {
                self.statistics.strangers += packets;
                let Some(&dialog) = self.streams.get(&stream) else { return };
                self.strangers(dialog, leg, packets, now);
            }
            MediaEvent::Released { stream, counters } => {
                let Some(dialog) = self.streams.remove(&stream) else { return };
                self.with_media(dialog, now, |media, resources| media.released(stream, counters, resources));
                self.record_if_over(dialog, now);
            }
        }
    }

    /// Tells the operator of media that others sent to a call's ports: an attack, or a NAT that gave the terminal another
    /// port. One line a second at most, however many calls it hits.
    fn strangers(&mut self, dialog: u64, leg: usize, packets: u64, now: Instant) {
        if self.strangers_told.is_some_and(|told| now.saturating_duration_since(told) < Duration::from_secs(1)) {
            return;
        }
        self.strangers_told = Some(now);
        let Some(dialog) = self.dialogs.get(&dialog) else { return };
        let from = if leg == 0 { "caller's" } else { "callee's" };
        warn!(call_id = %dialog.call_id, packets, "dropped media that did not come from the {from} media address");
    }

    /// Counts a request that is refused because of a limit and tells of it: one line a second at most, with how many there
    /// were since the last.
    pub(super) fn limited(&mut self, limit: &str, now: Instant) {
        self.statistics.limited += 1;
        if self.limited_told.is_some_and(|(told, _)| now.saturating_duration_since(told) < Duration::from_secs(1)) {
            return;
        }
        let before = self.limited_told.replace((now, self.statistics.limited)).map_or(0, |(_, count)| count);
        let refused = self.statistics.limited - before;
        warn!(limit, refused, "a limit is reached: what goes beyond it is refused");
    }

    fn request(&mut self, realm: RealmId, source: Flow, request: Message, now: Instant) {
        let method = request.method().unwrap_or_default().to_owned();
        let key = server_key(realm, self.peer(realm, source), &request, &method);
        if method == "ACK" {
            return self.ack(key, source, request, now);
        }
        if let Some(id) = self.server_ids.get(&key) {
            self.statistics.retransmissions_received += 1;
            let response = self.servers.get(id).map(|server| server.response.clone()).unwrap_or_default();
            if !response.is_empty() {
                self.statistics.retransmissions_sent += 1;
                self.send(realm, source, response);
            }
            return;
        }
        if let Err(reject) = check_request(&request) {
            self.statistics.refused += 1;
            let tag = self.random_token();
            let response = returned(reject.response(&request), &request, source, Some(&tag)).finish();
            self.send(realm, source, response);
            return;
        }
        if self.servers.len() + self.clients.len() >= self.config.limits.max_transactions {
            self.limited("max_transactions", now);
            let headers = Some(("Retry-After", "5"));
            self.send(realm, source, plain_response(&request, 503, headers, source, None));
            return;
        }
        let id = self.new_id();
        self.server_ids.insert(key.clone(), id);
        let tag = self.random_token();
        self.servers.insert(id, Server::new(key, source, request, tag));
        if method == "INVITE" {
            self.note_invite(source, id);
        }
        if method == "CANCEL" {
            self.cancel(id, now)
        } else {
            self.route(id, now)
        }
        // What could neither be answered nor sent on has no one to end it.
        let idle = |server: &Server| server.state == ServerState::Proceeding && server.client.is_none();
        if self.servers.get(&id).is_some_and(idle) {
            self.drop_server(id);
        }
    }

    /// The key of the INVITE transaction that an ACK or CANCEL with this key is for.
    pub(super) fn invite_of(&self, key: &ServerKey) -> Option<u64> {
        let key = ServerKey { method: "INVITE".into(), ..key.clone() };
        self.server_ids.get(&key).copied()
    }

    /// Answers a request with a response of our own.
    pub(super) fn reply(&mut self, server: u64, code: u16, header: Option<(&str, &str)>, now: Instant) {
        let Some(entry) = self.servers.get(&server) else { return };
        let tag = (code > 100).then_some(entry.tag.as_str());
        let bytes = plain_response(&entry.request, code, header, entry.source, tag);
        self.respond(server, code, bytes, now);
    }

    /// Sends a response to a request and lets its transaction know. Nothing happens where the request had its final
    /// response already.
    pub(super) fn respond(&mut self, server: u64, code: u16, bytes: Vec<u8>, now: Instant) {
        let Some(entry) = self.servers.get_mut(&server).filter(|entry| entry.takes(code)) else { return };
        entry.respond(code, &bytes, self.timing, now);
        let (realm, source) = (entry.key.realm, entry.source);
        if let Some(at) = entry.next() {
            self.timers.set(at, Alarm::Server(server));
        }
        if code >= 200 {
            self.invite_over(source, server);
        }
        self.send(realm, source, bytes);
    }

    pub(super) fn drop_server(&mut self, id: u64) {
        if let Some(server) = self.servers.remove(&id) {
            self.server_ids.remove(&server.key);
            self.invite_over(server.source, id);
        }
    }

    pub(super) fn server_due(&mut self, id: u64, now: Instant) {
        let Some(server) = self.servers.get_mut(&id) else { return };
        match server.due(self.timing, now) {
            Due::End => {
                if server.state == ServerState::Completed && server.is_invite() {
                    debug!("no ACK for a refused INVITE");
                }
                return self.drop_server(id);
            }
            Due::Retransmit => {
                let (realm, source, bytes) = (server.key.realm, server.source, server.response.clone());
                self.statistics.retransmissions_sent += 1;
                self.send(realm, source, bytes);
            }
            Due::Nothing => {}
        }
        if let Some(at) = self.servers.get(&id).and_then(Server::next) {
            self.timers.set(at, Alarm::Server(id));
        }
    }
}

fn server_key(realm: RealmId, peer: Flow, request: &Message, method: &str) -> ServerKey {
    let branch = request.top_via().ok().filter(|via| via.has_cookie()).map(|via| {
        // The same branch from two hosts behind one address is told apart by sent-by (RFC 3261, section 17.2.3).
        format!("{} {}:{}", via.branch(), via.host, via.port.unwrap_or(5060))
    });
    // A peer that knows only RFC 2543: what makes a transaction there (RFC 3261, section 17.2.3).
    let branch = branch.unwrap_or_else(|| {
        let cseq = request.cseq().map(|cseq| cseq.number).unwrap_or_default();
        let call_id = request.call_id().unwrap_or_default();
        let from_tag = request.from_tag().unwrap_or_default();
        format!("{call_id} {from_tag} {cseq} {}", request.request_uri().unwrap_or_default())
    });
    ServerKey { realm, peer, branch, method: method.to_owned() }
}

/// The Via values of a request as they go back in a response: the topmost says where it came from (RFC 3261, section
/// 18.2.1; RFC 3581, section 4).
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
