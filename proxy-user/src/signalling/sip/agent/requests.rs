//! Where a request goes, and what it looks like there.
//!
//! A request for a token of ours goes to the party or terminal behind it; a terminal's other requests go to its
//! softswitch. On the way the Via stack stays behind, Contact becomes one of the proxy's own, the route set is that of
//! the other side, and literal addresses are mapped.

use super::{
    Forward, InDialog, MediaPhase, Purpose, Timer, Token, Turn,
    dialogs::{DialogId, Role},
    identity::Identity,
    offer_answer::{Refused, session_of},
    registrations::BindingId,
    topology::{Crossing, INTERNAL_HEADERS, URI_HEADERS},
    transactions::{Client, ClientTxId, Due, ServerTxId},
};
use crate::{
    addresses::literal,
    config::Side,
    engine::TerminalId,
    flow::{Flow, Transport},
    media::RealmId,
    signalling::sip::{Message, Name, NameAddr, Uri},
};
use std::time::Instant;

/// Methods that Latch answers for itself about.
pub(super) const ALLOW: &str =
    "INVITE, ACK, CANCEL, BYE, OPTIONS, REGISTER, PRACK, UPDATE, SUBSCRIBE, NOTIFY, REFER, MESSAGE, INFO, PUBLISH";

/// With 480, to a request that may only travel encrypted (RFC 5630, section 5.3).
const SIPS_NOT_ALLOWED: (&str, &str) = ("Warning", "380 latch \"SIPS Not Allowed\"");

/// Where a request goes.
#[derive(Clone, Debug)]
pub(super) struct Way {
    pub(super) realm: RealmId,
    pub(super) destination: Flow,
    /// The registered terminal there, where it is one.
    pub(super) terminal: Option<TerminalId>,
    /// Status code that tells the requester that nobody can be reached there any more.
    pub(super) lost_code: u16,
    /// Request-URI there.
    pub(super) uri: String,
    pub(super) routes: Vec<String>,
    /// Contact values there; `None` leaves out Contact.
    pub(super) contacts: Option<Vec<String>>,
    /// From and To there, where they are not just what they were with mapped addresses.
    pub(super) identities: Option<(String, String)>,
    /// Content-Type and body there, where it is not what it was.
    pub(super) body: Option<Vec<u8>>,
}

impl Way {
    /// A way without a route set; Contact is left out, all else stays.
    pub(super) fn to(realm: RealmId, destination: Flow, uri: String) -> Self {
        let (routes, contacts, identities, body) = (Vec::new(), None, None, None);
        Self { realm, destination, terminal: None, lost_code: 503, uri, routes, contacts, identities, body }
    }
}

impl Turn<'_> {
    /// Finds out what a new request is about.
    pub(super) fn route(&mut self, server: ServerTxId, now: Instant) {
        let Some(entry) = self.transactions.server(server) else { return };
        let realm = entry.key.realm;
        let request = entry.request.clone();
        let Some(side) = self.core.side(realm) else { return };
        if let Err(Refused(code)) = session_of(&request) {
            return self.refuse(server, code, now);
        }
        match self.token_of(realm, &request) {
            Some((Token::Party(dialog, to), secret)) => self.in_dialog(server, &request, (dialog, to), secret, now),
            Some((Token::Binding(binding), _)) if side == Side::Core => {
                self.toward_terminal(server, &request, binding, now);
            }
            _ if request.to_tag().is_some() => self.reply(server, 481, None, now),
            _ if self.is_for_us(realm, &request) => match request.method() {
                Some("OPTIONS") => self.reply(server, 200, Some(("Allow", ALLOW)), now),
                _ => self.reply(server, 404, None, now),
            },
            _ if side == Side::Access => self.toward_softswitch(server, &request, now),
            _ => self.reply(server, 404, None, now),
        }
    }

    /// Whether the Request-URI names the proxy itself and nobody behind it.
    fn is_for_us(&self, realm: RealmId, request: &Message) -> bool {
        let Some(uri) = request.request_uri().and_then(|uri| Uri::parse(uri).ok()) else { return false };
        let Some(own) = self.core.own(realm, Transport::Udp) else { return false };
        let method_of_a_server = request.method() != Some("REGISTER");
        method_of_a_server && uri.user().is_none() && literal(uri.host()) == Some(own.ip())
    }

    fn toward_softswitch(&mut self, server: ServerTxId, request: &Message, now: Instant) {
        let Some(entry) = self.transactions.server(server) else { return };
        let (realm, source) = (entry.key.realm, entry.source);
        let Some((core, softswitch)) = self.core.core_of(realm) else {
            return self.reply(server, 503, None, now);
        };
        let Some(crossing) = Crossing::new(&self.core.config, realm, core) else { return };
        let way = Way::to(core, softswitch, crossing.request_uri(request.request_uri().unwrap_or_default()));
        if self.would_expose(request, &way) {
            return self.reply(server, 480, Some(SIPS_NOT_ALLOWED), now);
        }
        match request.method() {
            Some("REGISTER") => self.register(server, request, way, now),
            _ => self.begin(server, request, way, source, now),
        }
    }

    fn toward_terminal(&mut self, server: ServerTxId, request: &Message, binding: BindingId, now: Instant) {
        let binding = self.registrations.get(binding);
        let terminal = binding.and_then(|binding| self.core.terminals().get(binding.terminal));
        let (Some(binding), Some(terminal)) = (binding, terminal) else {
            return self.reply(server, 404, None, now);
        };
        let mut way = Way::to(terminal.realm, terminal.flow, binding.contact.clone());
        way.terminal = Some(binding.terminal);
        // The registrar may know another flow of such a terminal (RFC 5626, section 5.3.1).
        way.lost_code = if binding.instance.is_some() { 430 } else { 480 };
        let Some(entry) = self.transactions.server(server) else { return };
        let source = entry.source;
        if request.method() == Some("REGISTER") {
            return self.reply(server, 403, None, now);
        }
        if self.would_expose(request, &way) {
            return self.reply(server, 480, Some(SIPS_NOT_ALLOWED), now);
        }
        self.begin(server, request, way, source, now);
    }

    /// Whether a request that may only travel encrypted would leave otherwise (RFC 5630, section 5.3).
    fn would_expose(&self, request: &Message, way: &Way) -> bool {
        let is_sips = |uri: &str| Uri::parse(uri).is_ok_and(|uri| uri.scheme().eq_ignore_ascii_case("sips"));
        !way.destination.transport.is_secure() && request.request_uri().is_some_and(is_sips)
    }

    /// A request outside of dialogs.
    fn begin(&mut self, server: ServerTxId, request: &Message, mut way: Way, source: Flow, now: Instant) {
        match request.method() {
            Some("INVITE") => self.invite(server, request, way, source, now),
            Some("SUBSCRIBE" | "REFER") => {
                let Some(realm) = self.transactions.server(server).map(|entry| entry.key.realm) else { return };
                if !self.has_room_for_dialog(false, now) {
                    return self.refuse(server, 503, now);
                }
                let Ok(held) = self.take_dialog(realm, source, now) else { return self.refuse(server, 503, now) };
                let Some(dialog) = self.new_dialog(realm, request, &way, source, None, now) else { return };
                self.dialogs.hold(dialog, held);
                way.contacts =
                    self.party_contact(dialog, Role::Originator, request, way.realm, way.destination.transport);
                let in_dialog = InDialog { id: dialog, from: Role::Originator, to: None, target: None, moves: None };
                self.forward(server, request, way, Some(in_dialog), MediaPhase::None, now);
            }
            _ => {
                way.contacts = self.plain_contact(request, way.realm, way.destination.transport);
                self.forward(server, request, way, None, MediaPhase::None, now);
            }
        }
    }

    /// The way of a request from one party of a dialog to the other.
    pub(super) fn way_to(&self, id: DialogId, from: Role, to: Role, request: &Message) -> Option<Way> {
        let dialog = self.dialogs.get(id)?;
        let party = dialog.party(to)?;
        let realm = dialog.realm_of(to);
        let identities = if dialog.identities_differ() { dialog.identities_for(from, to) } else { None };
        let (uri, routes) = party.route();
        Some(Way {
            realm,
            destination: party.destination(),
            terminal: party.standing.terminal,
            lost_code: if self.core.side(realm) == Some(Side::Core) { 503 } else { 430 },
            uri,
            routes,
            contacts: self.party_contact(id, from, request, realm, party.destination().transport),
            identities,
            body: None,
        })
    }

    /// Sends a request on, as a transaction of ours.
    pub(super) fn forward(
        &mut self,
        server: ServerTxId,
        request: &Message,
        way: Way,
        dialog: Option<InDialog>,
        media: MediaPhase,
        now: Instant,
    ) {
        self.forward_for(server, request, way, Forward { server, dialog, register: None, media }, now);
    }

    pub(super) fn forward_for(
        &mut self,
        server: ServerTxId,
        request: &Message,
        mut way: Way,
        purpose: Forward,
        now: Instant,
    ) {
        if way.body.is_none()
            && let Ok(Some(session)) = session_of(request)
        {
            way.body = Some(self.written(&session, way.realm, Vec::new()));
        }
        let branch = self.new_branch();
        let Some(entry) = self.transactions.server(server) else { return };
        let Some(bytes) = self.rewrite_request(entry.key.realm, request, &way, &branch) else { return };
        let method = request.method().unwrap_or_default().to_owned();
        let client = self.start_client(branch, method, &way, bytes, Purpose::Forward(purpose), now);
        if let Some(entry) = self.transactions.server_mut(server) {
            entry.client = Some(client);
        }
    }

    /// The request as it goes out.
    pub(super) fn rewrite_request(&self, from: RealmId, request: &Message, way: &Way, branch: &str) -> Option<Vec<u8>> {
        let crossing = Crossing::new(&self.core.config, from, way.realm)?;
        let mut editor = request.edit();
        editor.request_uri(&way.uri);
        editor.set(Name::Via, &self.via(way.realm, way.destination.transport, branch)?);
        let hops = request.max_forwards().ok().flatten().unwrap_or(70);
        editor.set(Name::MaxForwards, &hops.saturating_sub(1).to_string());
        match way.routes.as_slice() {
            [] => editor.remove(Name::Route),
            routes => editor.replace(Name::Route, routes),
        };
        match &way.contacts {
            Some(contacts) => editor.replace(Name::Contact, contacts),
            None => editor.remove(Name::Contact),
        };
        for &name in INTERNAL_HEADERS {
            editor.remove(name);
        }
        for header in request.headers().filter(|header| crossing.betrays(header)) {
            editor.remove(header.raw_name);
        }
        for &name in URI_HEADERS {
            if let Some(values) = crossing.header(request, name) {
                editor.replace(name, &values);
            }
        }
        let identity = Identity::new(&self.core.config, from, way.realm)?;
        identity.filter(request, &mut editor);
        if let Some(from) = identity.anonymous_from(request) {
            editor.set(Name::From, &from);
        }
        if let Some((from, to)) = &way.identities {
            editor.set(Name::From, from);
            editor.set(Name::To, to);
        }
        if let Some(body) = &way.body {
            if body.is_empty() {
                editor.remove(Name::ContentType);
            }
            editor.body(None, body.clone());
        }
        if way.destination.transport.is_reliable() {
            editor.state_length();
        }
        Some(editor.finish())
    }

    pub(super) fn start_client(
        &mut self,
        branch: String,
        method: String,
        way: &Way,
        bytes: Vec<u8>,
        purpose: Purpose,
        now: Instant,
    ) -> ClientTxId {
        let by_stream = self.by_stream(way.realm, way.destination, &branch, &bytes);
        let may_be_datagram = by_stream.is_some();
        let (destination, bytes) = by_stream.unwrap_or((way.destination, bytes));
        let mut client = Client::new(branch, method, way.realm, destination, bytes.clone(), purpose, self.timing, now);
        client.lost_code = way.lost_code;
        client.may_be_datagram = may_be_datagram;
        let next = client.next();
        let id = self.transactions.insert_client(client);
        self.timers.set(next, Timer::Client(id));
        if let Some(open) = self.connections.of(destination) {
            open.clients.insert(id);
        }
        if self.reaches(way.realm, destination) {
            self.send(way.realm, destination, bytes);
        } else {
            self.lose(id, now);
        }
        id
    }

    pub(super) fn client_due(&mut self, id: ClientTxId, now: Instant) {
        let Some(client) = self.transactions.client_mut(id) else { return };
        match client.due(self.timing, now) {
            Due::End => return self.client_ends(id, now),
            Due::Retransmit => {
                let (realm, destination, bytes) = (client.realm, client.destination, client.request.clone());
                self.core.statistics.retransmissions_sent += 1;
                self.send(realm, destination, bytes);
            }
            Due::Nothing => {}
        }
        if let Some(client) = self.transactions.client(id) {
            self.timers.set(client.next(), Timer::Client(id));
        }
    }

    /// Contact of a message from one party of a dialog, as the other side sees it.
    pub(super) fn party_contact(
        &self,
        id: DialogId,
        from: Role,
        message: &Message,
        to: RealmId,
        by: Transport,
    ) -> Option<Vec<String>> {
        let token = &self.dialogs.get(id)?.party(from)?.token;
        let first = message.values(Name::Contact).next()?;
        self.own_contact(&first, Some(token), to, by).map(|contact| vec![contact])
    }

    /// Contact of a message outside of dialogs: nobody will send a request there.
    pub(super) fn plain_contact(&self, message: &Message, to: RealmId, by: Transport) -> Option<Vec<String>> {
        let first = message.values(Name::Contact).next()?;
        self.own_contact(&first, None, to, by).map(|contact| vec![contact])
    }

    /// A Contact value with the proxy's own URI in it, by which it is reached over that transport; its parameters stay.
    pub(super) fn own_contact(
        &self,
        value: &str,
        token: Option<&str>,
        realm: RealmId,
        by: Transport,
    ) -> Option<String> {
        let own = self.core.own(realm, by)?;
        let stated = NameAddr::parse(value);
        let is_sips = |contact: &NameAddr<'_>| contact.uri().is_ok_and(|uri| uri.scheme().eq_ignore_ascii_case("sips"));
        // Whoever asked for encryption from end to end gets it (RFC 5630, section 5.1.2).
        let sips = by.is_secure() && stated.as_ref().is_ok_and(is_sips);
        let scheme = if sips { "sips" } else { "sip" };
        let transport = match by.in_uri() {
            // It goes without saying.
            Some("tls") if sips => String::new(),
            Some(transport) => format!(";transport={transport}"),
            None => String::new(),
        };
        let uri = match token {
            Some(token) => format!("{scheme}:{token}@{own}{transport}"),
            None => format!("{scheme}:{own}{transport}"),
        };
        Some(match stated {
            Ok(contact) if !contact.is_wildcard() => contact.with_uri(&uri),
            _ => format!("<{uri}>"),
        })
    }

    pub(super) fn new_branch(&mut self) -> String {
        format!("z9hG4bK{}", self.core.random_token())
    }

    pub(super) fn via(&self, realm: RealmId, by: Transport, branch: &str) -> Option<String> {
        Some(format!("SIP/2.0/{} {};branch={branch}", by.in_via(), self.core.own(realm, by)?))
    }
}

/// The URI in a Contact value.
pub(super) fn contact_uri(value: &str) -> Option<String> {
    NameAddr::parse(value).ok().map(|contact| contact.uri.to_owned())
}
