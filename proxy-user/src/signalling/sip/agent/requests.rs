//! Where a request goes, and what it looks like there.
//!
//! A request for a token of ours goes to the party or terminal behind it; a terminal's other requests go to its
//! softswitch. On the way the Via stack stays behind, Contact becomes one of the proxy's own, the route set is that of
//! the other side, and literal addresses are mapped.

use super::{
    dialogs::{DialogId, UNNAMED_PARTY},
    identity::Identity,
    plan::ForwardPlan,
    reading::{Refused, session_of},
    registrations::BindingId,
    roles::Role,
    state::{Forward, InDialog, MediaPhase, Purpose, Token, Turn},
    topology::{AddressMapper, INTERNAL_HEADERS, URI_HEADERS},
    transactions::{ClientDue, ClientTxId, Outgoing, Server, ServerTxId},
};
use crate::{
    addresses::literal,
    config::Side,
    flow::{Flow, Transport},
    media::RealmId,
    signalling::sip::{Message, Name, NameAddr, Uri},
};
use std::time::Instant;
use tracing::debug;

/// The methods in Latch's own answers to OPTIONS.
pub(super) const ALLOW: &str =
    "INVITE, ACK, CANCEL, BYE, OPTIONS, REGISTER, PRACK, UPDATE, SUBSCRIBE, NOTIFY, REFER, MESSAGE, INFO, PUBLISH";

/// With 480, to a request that may only travel encrypted (RFC 5630 §5.3).
const SIPS_NOT_ALLOWED: (&str, &str) = ("Warning", "380 latch \"SIPS Not Allowed\"");

impl Turn<'_> {
    /// Finds out what a new request is for.
    pub(super) fn route(&mut self, server: ServerTxId, now: Instant) {
        let Some(entry) = self.transactions.server(server) else {
            return self.core.inconsistent("no server transaction to route");
        };
        let realm = entry.realm();
        let request = entry.request().clone();
        let Some(side) = self.core.side(realm) else {
            return self.core.inconsistent("a request in no realm");
        };
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
        let Some(entry) = self.transactions.server(server) else {
            return self.core.inconsistent("no server transaction for a request to the softswitch");
        };
        let (realm, source) = (entry.realm(), entry.source());
        let Some((core, softswitch)) = self.core.core_of(realm) else {
            return self.reply(server, 503, None, now);
        };
        let Some(mapper) = AddressMapper::new(&self.core.config, realm, core) else {
            return self.core.inconsistent("no mapping between realms");
        };
        let plan = ForwardPlan::to(core, softswitch, mapper.request_uri(request.request_uri().unwrap_or_default()));
        if self.would_expose(request, &plan) {
            return self.reply(server, 480, Some(SIPS_NOT_ALLOWED), now);
        }
        match request.method() {
            Some("REGISTER") => self.register(server, request, plan, now),
            _ => self.begin(server, request, plan, source, now),
        }
    }

    fn toward_terminal(&mut self, server: ServerTxId, request: &Message, binding: BindingId, now: Instant) {
        let binding = self.registrations.get(binding);
        let terminal = binding.and_then(|binding| self.core.terminals().get(binding.terminal));
        let (Some(binding), Some(terminal)) = (binding, terminal) else {
            return self.reply(server, 404, None, now);
        };
        let mut plan = ForwardPlan::to(terminal.realm, terminal.flow, binding.contact.clone());
        plan.terminal = Some(binding.terminal);
        // The registrar may know another flow of such a terminal (RFC 5626 §5.3.1).
        plan.unreachable_status = if binding.instance.is_some() { 430 } else { 480 };
        let Some(entry) = self.transactions.server(server) else {
            return self.core.inconsistent("no server transaction for a request to a terminal");
        };
        let source = entry.source();
        if request.method() == Some("REGISTER") {
            return self.reply(server, 403, None, now);
        }
        if self.would_expose(request, &plan) {
            return self.reply(server, 480, Some(SIPS_NOT_ALLOWED), now);
        }
        self.begin(server, request, plan, source, now);
    }

    /// Whether a request that may only travel encrypted would leave otherwise (RFC 5630 §5.3).
    fn would_expose(&self, request: &Message, plan: &ForwardPlan) -> bool {
        let is_sips = |uri: &str| Uri::parse(uri).is_ok_and(|uri| uri.scheme().eq_ignore_ascii_case("sips"));
        !plan.destination.transport.is_secure() && request.request_uri().is_some_and(is_sips)
    }

    /// A request outside of dialogs.
    fn begin(&mut self, server: ServerTxId, request: &Message, mut plan: ForwardPlan, source: Flow, now: Instant) {
        match request.method() {
            Some("INVITE") => self.invite(server, request, plan, source, now),
            Some("SUBSCRIBE" | "REFER") => {
                let Some(realm) = self.transactions.server(server).map(Server::realm) else {
                    return self.core.inconsistent("no server transaction for a subscription");
                };
                if !self.has_room_for_dialog(false, now) {
                    return self.refuse(server, 503, now);
                }
                let Ok(held) = self.take_dialog(realm, source, request, now) else {
                    return self.refuse(server, 503, now);
                };
                let Some(dialog) = self.new_dialog(realm, request, &plan, source, None, now) else {
                    return self.core.inconsistent("no dialog between realms");
                };
                self.dialogs.hold(dialog, held);
                plan.contacts =
                    self.party_contact(dialog, Role::Originator, request, plan.realm, plan.destination.transport);
                let in_dialog = InDialog { id: dialog, from: Role::Originator, to: None, target: None, moves: None };
                self.forward(server, request, plan, Some(in_dialog), MediaPhase::None, now);
            }
            _ => {
                plan.contacts = self.plain_contact(request, plan.realm, plan.destination.transport);
                self.forward(server, request, plan, None, MediaPhase::None, now);
            }
        }
    }

    /// The plan of a request from one party of a dialog to the other.
    pub(super) fn plan_to(&self, id: DialogId, from: Role, to: Role, request: &Message) -> Option<ForwardPlan> {
        let dialog = self.dialogs.get(id)?;
        let party = dialog.party(to)?;
        let realm = dialog.realm_of(to);
        let identities = if dialog.identities_differ() { dialog.identities_for(from, to) } else { None };
        let (uri, routes) = party.route();
        Some(ForwardPlan {
            realm,
            destination: party.destination(),
            terminal: party.standing.terminal,
            unreachable_status: if self.core.side(realm) == Some(Side::Core) { 503 } else { 430 },
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
        plan: ForwardPlan,
        dialog: Option<InDialog>,
        media: MediaPhase,
        now: Instant,
    ) {
        self.forward_for(server, request, plan, Forward { server, dialog, register: None, media }, now);
    }

    pub(super) fn forward_for(
        &mut self,
        server: ServerTxId,
        request: &Message,
        mut plan: ForwardPlan,
        purpose: Forward,
        now: Instant,
    ) {
        if plan.body.is_none()
            && let Ok(Some(session)) = session_of(request)
        {
            plan.body = Some(self.written(&session, plan.realm, Vec::new()));
        }
        let branch = self.new_branch();
        let Some(entry) = self.transactions.server(server) else {
            return self.core.inconsistent("no server transaction to forward");
        };
        let Some(bytes) = self.rewrite_request(entry.realm(), entry.source(), request, &plan, &branch) else {
            return self.core.inconsistent("a request between no realms");
        };
        let method = request.method().unwrap_or_default().to_owned();
        if let Some(client) = self.start_client(branch, method, &plan, bytes, Purpose::Forward(purpose), now) {
            self.transactions.sent_on(server, client);
        }
    }

    /// The request as it goes out.
    pub(super) fn rewrite_request(
        &self,
        from: RealmId,
        source: Flow,
        request: &Message,
        plan: &ForwardPlan,
        branch: &str,
    ) -> Option<Vec<u8>> {
        let mapper = AddressMapper::new(&self.core.config, from, plan.realm)?;
        let mut editor = request.edit();
        editor.request_uri(&plan.uri);
        editor.set(Name::Via, &self.via(plan.realm, plan.destination.transport, branch)?);
        let hops = request.max_forwards().ok().flatten().unwrap_or(70);
        editor.set(Name::MaxForwards, &hops.saturating_sub(1).to_string());
        match plan.routes.as_slice() {
            [] => editor.remove(Name::Route),
            routes => editor.replace(Name::Route, routes),
        };
        match &plan.contacts {
            Some(contacts) => editor.replace(Name::Contact, contacts),
            None => editor.remove(Name::Contact),
        };
        for &name in INTERNAL_HEADERS {
            editor.remove(name);
        }
        for header in request.headers().filter(|header| mapper.leaks_address(header)) {
            editor.remove(header.raw_name);
        }
        for &name in URI_HEADERS {
            if let Some(values) = mapper.header(request, name) {
                editor.replace(name, &values);
            }
        }
        if let Some(target) = self.referred(from, plan.realm, &mapper, request) {
            editor.set(Name::ReferTo, &target);
        }
        // Nobody else may state it.
        if let Some(name) = self.core.config.sip.source_header.as_deref().filter(|_| !self.core.is_core(from)) {
            editor.remove(name).set(name, &source.remote.to_string());
        }
        let identity = Identity::new(&self.core.config, from, plan.realm)?;
        identity.filter(request, &mut editor);
        if let Some(from) = identity.anonymous_from(request) {
            editor.set(Name::From, &from);
        }
        if let Some((from, to)) = &plan.identities {
            editor.set(Name::From, from);
            editor.set(Name::To, to);
        }
        if let Some(body) = &plan.body {
            if body.is_empty() {
                editor.remove(Name::ContentType);
            }
            editor.body(None, self.dialogs.without_tokens(body).unwrap_or_else(|| body.clone()));
        } else if let Some(body) = self.dialogs.without_tokens(request.body()) {
            editor.body(None, body);
        }
        if plan.destination.transport.is_reliable() {
            editor.state_length();
        }
        Some(editor.finish())
    }

    /// The Refer-To of a request that names a party of a call by its token, as in an attended transfer (RFC 5589 §7):
    /// the party's user in its place. The token would let whoever is asked to call that party act for the one that
    /// asks.
    fn referred(&self, from: RealmId, to: RealmId, mapper: &AddressMapper, request: &Message) -> Option<String> {
        let value = request.value(Name::ReferTo)?;
        let address = NameAddr::parse(&value).ok()?;
        let stated = address.uri().ok()?;
        let token = stated.user()?;
        let (id, role) = self.dialogs.with_token(token)?;
        let dialog = self.dialogs.get(id).filter(|dialog| dialog.realm_of(role) == to && to != from);
        let user = dialog.and_then(|dialog| {
            let identity = dialog.identity_of(role);
            Some(NameAddr::parse(identity).ok()?.uri().ok()?.without_headers().to_owned())
        });
        let Some(user) = user else { return Some(mapper.value(&value).replace(token, UNNAMED_PARTY)) };
        let headers = stated.headers().map(|headers| format!("?{headers}")).unwrap_or_default();
        Some(address.with_uri(&format!("{user}{headers}")))
    }

    pub(super) fn start_client(
        &mut self,
        branch: String,
        method: String,
        plan: &ForwardPlan,
        bytes: Vec<u8>,
        purpose: Purpose,
        now: Instant,
    ) -> Option<ClientTxId> {
        let by_stream = self.by_stream(plan.realm, plan.destination, &branch, &bytes);
        let udp_fallback_allowed = by_stream.is_some();
        let (destination, bytes) = by_stream.unwrap_or((plan.destination, bytes));
        let outgoing = Outgoing {
            branch,
            method,
            realm: plan.realm,
            destination,
            request: bytes.clone(),
            purpose,
            unreachable_status: plan.unreachable_status,
            udp_fallback_allowed,
        };
        let Some(id) = self.transactions.open_client(outgoing, now) else {
            self.core.inconsistent("two requests with one branch");
            return None;
        };
        self.wake_client(id);
        if let Some(open) = self.connections.of(destination) {
            open.clients.insert(id);
        }
        if self.reaches(plan.realm, destination) {
            self.send(plan.realm, destination, bytes);
        } else {
            self.lose(id, now);
        }
        Some(id)
    }

    pub(super) fn client_due(&mut self, id: ClientTxId, now: Instant) {
        match self.transactions.client_due(id, now) {
            ClientDue::End((client, ending)) => return self.client_ended(id, client, ending, now),
            ClientDue::Retransmit => self.send_again(id),
            ClientDue::Cancel => {
                debug!("no final response to an INVITE in time");
                self.send_cancel(id, now);
            }
            ClientDue::Nothing => {}
        }
        self.wake_client(id);
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

    /// Contact of a message outside of dialogs: no request will be sent there.
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
        // A party that asked for encryption from end to end gets it (RFC 5630 §5.1.2).
        let sips = by.is_secure() && stated.as_ref().is_ok_and(is_sips);
        let scheme = if sips { "sips" } else { "sip" };
        let transport = match by.in_uri() {
            // The scheme says it already.
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

    /// Via of a request of ours. A terminal of an earlier process may have come by a transport that the realm no longer
    /// has: what is for it names another own address, and cannot be sent.
    pub(super) fn via(&self, realm: RealmId, by: Transport, branch: &str) -> Option<String> {
        let own = self.core.own(realm, by).or_else(|| self.core.own(realm, Transport::Udp))?;
        Some(format!("SIP/2.0/{} {own};branch={branch}", by.in_via()))
    }
}
