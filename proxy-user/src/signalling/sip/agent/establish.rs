//! How dialogs begin: from the first request, and from the first message of everyone who answers it; how long those
//! last that are no calls; and where the parties are reached.

use super::{
    Alarm, Engine, InDialog, Token,
    dialogs::{Dialog, Identities, Party, Role, Usage},
    requests::{Way, contact_uri},
    topology::Crossing,
};
use crate::{
    addresses::literal,
    config::Side,
    flow::{Flow, Transport},
    media::RealmId,
    signalling::sip::{Message, Name, NameAddr, Params, Uri},
};
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

/// How long a subscription's dialog is kept where nobody says how long it lasts.
const SUBSCRIPTION: Duration = Duration::from_secs(3600);

impl Engine {
    /// A new dialog, begun by `request`. Answers with 503 and returns `None` if there are too many.
    pub(super) fn new_dialog(
        &mut self,
        server: u64,
        request: &Message,
        way: &Way,
        source: Flow,
        call: Option<Box<super::calls::Call>>,
        now: Instant,
    ) -> Option<u64> {
        // Calls and what is no call must not crowd each other out; calls that ended are kept for a while.
        let limit = self.config.limits.max_calls;
        let full = match call {
            Some(_) => self.dialogs.len() - self.subscriptions >= limit.saturating_mul(2),
            None => self.subscriptions >= limit,
        };
        if full {
            self.limited("max_calls", now);
            self.reply(server, 503, Some(("Retry-After", "5")), now);
            return None;
        }
        let realm = self.servers.get(&server)?.key.realm;
        let crossing = Crossing::new(&self.config, realm, way.realm)?;
        let identity = |name| request.value(name).unwrap_or_default().into_owned();
        let (from, to) = (identity(Name::From), identity(Name::To));
        let identities = [
            Identities { originator: from.clone(), answerer: to.clone() },
            Identities { originator: crossing.value(&from).into_owned(), answerer: crossing.value(&to).into_owned() },
        ];
        let token = self.random_token();
        let id = self.new_id();
        self.tokens.insert(token.clone(), Token::Party(id, Role::Originator));
        let originator = Party {
            token,
            tag: request.from_tag().unwrap_or_default().into_owned(),
            destination: source,
            target: target(request, source),
            routes: route_set(request, false),
            cseq: request.cseq().map(|cseq| cseq.number).unwrap_or_default(),
            acknowledged: None,
        };
        let usage = match call {
            Some(call) => Usage::Call(call),
            None => Usage::Subscription { ends_at: now },
        };
        let call_id = request.call_id().unwrap_or_default().into_owned();
        self.by_call_id.entry(call_id.clone()).or_default().push(id);
        self.dialogs.insert(
            id,
            Dialog {
                call_id,
                realms: [realm, way.realm],
                originator: self.routed(realm, originator),
                answerers: Vec::new(),
                identities,
                usage,
                forget_at: None,
            },
        );
        if self.call(id).is_none() {
            self.subscriptions += 1;
            // Until its answer says for how long.
            self.keep_subscription(id, 64 * self.timing.t1, now);
        }
        Some(id)
    }

    /// A party that answers a dialog's first request, known by the first message with its tag.
    pub(super) fn new_answerer(&mut self, id: u64, server: u64, message: &Message, tag: &str) -> Option<usize> {
        /// More branches than any fork has: a bound on what one request can make us keep.
        const MOST: usize = 32;
        let token = self.random_token();
        let dialog = self.dialogs.get(&id)?;
        let realm = *dialog.realms.get(1)?;
        let index = dialog.answerers.len();
        if index >= MOST {
            return None;
        }
        // A response comes from where our request went; a request from where it came.
        let destination = match message.code() {
            Some(_) => {
                let client = self.servers.get(&server)?.client?;
                self.clients.get(&client)?.destination
            }
            None => self.servers.get(&server)?.source,
        };
        let party = Party {
            token: token.clone(),
            tag: tag.to_owned(),
            destination,
            target: target(message, destination),
            routes: route_set(message, message.code().is_some()),
            cseq: 0,
            acknowledged: None,
        };
        let party = self.routed(realm, party);
        self.dialogs.get_mut(&id)?.answerers.push(party);
        self.tokens.insert(token, Token::Party(id, Role::Answerer(index)));
        Some(index)
    }

    /// In a core realm requests follow the route set; a terminal is reached only through the NAT mapping that its own
    /// packets made.
    pub(super) fn routed(&self, realm: RealmId, mut party: Party) -> Party {
        if let Some(address) = self.core_destination(realm, &party) {
            party.destination = address;
        }
        party
    }

    pub(super) fn core_destination(&self, realm: RealmId, party: &Party) -> Option<Flow> {
        (self.side(realm)? == Side::Core).then_some(())?;
        self.core_flow(realm, party.routes.first().unwrap_or(&party.target))
    }

    /// A terminal registered again from another address: its NAT gave it another mapping. Its dialogs follow.
    pub(super) fn move_terminal(&mut self, realm: RealmId, before: Flow, now: Flow) {
        let concerns = |dialog: &Dialog| {
            let parties = std::iter::once(&dialog.originator).chain(&dialog.answerers);
            dialog.realms.contains(&realm) && parties.into_iter().any(|party| party.destination == before)
        };
        let ids: Vec<_> = self.dialogs.iter().filter(|(_, dialog)| concerns(dialog)).map(|(id, _)| *id).collect();
        for id in ids {
            let Some(dialog) = self.dialogs.get_mut(&id) else { continue };
            let [first, second] = dialog.realms.map(|other| other == realm);
            let originator = std::iter::once(&mut dialog.originator).filter(|_| first);
            let answerers = dialog.answerers.iter_mut().filter(|_| second);
            for party in originator.chain(answerers).filter(|party| party.destination == before) {
                party.destination = now;
            }
        }
    }

    /// What a response means for a dialog that is no call: it lasts as long as its subscription.
    pub(super) fn after_subscription(
        &mut self,
        place: &InDialog,
        server: u64,
        method: &str,
        expires: Option<u32>,
        code: u16,
        now: Instant,
    ) {
        if code < 200 || self.call(place.id).is_some() {
            return;
        }
        let Some(request) = self.servers.get(&server).map(|entry| &entry.request) else { return };
        let lasts = |seconds: Option<u32>| {
            seconds.map_or(SUBSCRIPTION, |seconds| Duration::from_secs(u64::from(seconds.min(86_400))))
        };
        match (method, code) {
            ("SUBSCRIBE" | "REFER", 200..300) => {
                let lasts = lasts(expires.or(request.expires()));
                self.keep_subscription(place.id, lasts, now);
            }
            // The first request failed, or the other side knows no such dialog (RFC 5057, section 5.1).
            ("SUBSCRIBE" | "REFER", _) if place.to.is_none() || code == 481 => {
                self.keep_subscription(place.id, Duration::ZERO, now);
            }
            ("NOTIFY", _) => {
                let state = request.value("Subscription-State").unwrap_or_default().into_owned();
                let (state, params) = state.split_at(state.find(';').unwrap_or(state.len()));
                let seconds = Params::new(params).get("expires").and_then(|text| text.parse().ok());
                match state.trim() {
                    _ if code == 481 => self.keep_subscription(place.id, Duration::ZERO, now),
                    state if state.eq_ignore_ascii_case("terminated") => {
                        self.keep_subscription(place.id, Duration::ZERO, now);
                    }
                    _ if seconds.is_some() && code < 300 => self.keep_subscription(place.id, lasts(seconds), now),
                    _ => {}
                }
            }
            _ => {}
        }
    }

    /// A dialog that is no call ends after `lasts`, and a little later for stragglers.
    fn keep_subscription(&mut self, id: u64, lasts: Duration, now: Instant) {
        let at = now + lasts + 64 * self.timing.t1;
        if let Some(Dialog { usage: Usage::Subscription { ends_at }, .. }) = self.dialogs.get_mut(&id) {
            *ends_at = at;
            self.timers.set(at, Alarm::Dialog(id));
        }
    }
}

/// The URI by which a party wants to be reached; a broken peer that states none, where it is.
fn target(message: &Message, flow: Flow) -> String {
    let stated = message.values(Name::Contact).next().and_then(|value| contact_uri(&value));
    stated.unwrap_or_else(|| format!("sip:{}", flow.remote))
}

/// The route set that a message's Record-Route makes: for who sent the request in its order, for who gets the response
/// in reverse (RFC 3261, sections 12.1.1 and 12.1.2).
pub(super) fn route_set(message: &Message, from_response: bool) -> Vec<String> {
    let mut routes: Vec<String> = message.values(Name::RecordRoute).map(|value| value.into_owned()).collect();
    if from_response {
        routes.reverse();
    }
    routes
}

/// The transport that a URI or name-addr asks for, if it asks for one, and its address, where its host is one (RFC 3263,
/// sections 4.1 and 4.2).
pub(super) fn route_flow(value: &str) -> Option<(Option<Transport>, SocketAddr)> {
    let contact = NameAddr::parse(value).ok();
    let uri = Uri::parse(contact.as_ref().map_or(value, |contact| contact.uri)).ok()?;
    let named = uri.params().get("transport").and_then(|name| Transport::named(&name.to_ascii_lowercase()));
    let transport = if uri.scheme().eq_ignore_ascii_case("sips") { Some(Transport::Tls) } else { named };
    let port = if transport == Some(Transport::Tls) { 5061 } else { 5060 };
    Some((transport, SocketAddr::new(literal(uri.host())?, uri.port().unwrap_or(port))))
}
