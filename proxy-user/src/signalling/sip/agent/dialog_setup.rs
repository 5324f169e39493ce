//! How dialogs begin: from the first request, and from the first message of each party that answers it; how long
//! dialogs last that are not calls; and where the parties are reached.

use super::{
    calls::Call,
    dialogs::{Dialog, DialogId, Identities, Party, Usage},
    identity::Identity,
    kept,
    plan::ForwardPlan,
    reading::{contact_uri, route_set},
    state::{InDialog, Timer, Turn},
    topology::AddressMapper,
    transactions::{Server, ServerTxId},
};
use crate::{
    config::Side,
    engine::{
        PerSide, Standing,
        budgets::{Amounts, Held, Refusal},
    },
    flow::Flow,
    media::RealmId,
    signalling::sip::{Message, Name, Params},
};
use std::time::{Duration, Instant};

/// How long a subscription's dialog is kept where nobody says how long it lasts.
const SUBSCRIPTION: Duration = Duration::from_secs(3600);

impl Turn<'_> {
    /// Whether one more dialog may begin. Calls and other dialogs must not use up each other's room; calls that ended
    /// are kept for a while.
    pub(super) fn has_room_for_dialog(&mut self, is_call: bool, now: Instant) -> bool {
        let limit = self.core.config.limits.max_calls;
        let (calls, subscriptions) = self.dialogs.counts();
        let has_room = if is_call { calls < limit.saturating_mul(2) } else { subscriptions < limit };
        if !has_room {
            self.core.limited("max_calls", now);
        }
        has_room
    }

    /// What a new dialog of a stranger takes of the share of all strangers; nothing for a known party.
    pub(super) fn take_dialog(
        &mut self,
        realm: RealmId,
        source: Flow,
        request: &Message,
        now: Instant,
    ) -> Result<Option<Held>, Refusal> {
        let bytes = kept::of_dialog(request).try_into().unwrap_or(u32::MAX);
        let one = if request.method() == Some("INVITE") {
            Amounts { dialogs: 1, ..Amounts::default() }
        } else {
            Amounts { subscriptions: 1, ..Amounts::default() }
        };
        self.core.take(realm, source, Amounts { bytes, ..one }, now)
    }

    /// A new dialog, begun by `request`; `call` is given if it is one.
    pub(super) fn new_dialog(
        &mut self,
        realm: RealmId,
        request: &Message,
        plan: &ForwardPlan,
        source: Flow,
        call: Option<Call>,
        now: Instant,
    ) -> Option<DialogId> {
        let mapper = AddressMapper::new(&self.core.config, realm, plan.realm)?;
        let identity = |name| request.value(name).unwrap_or_default().into_owned();
        let (from, to) = (identity(Name::From), identity(Name::To));
        let anonymous = Identity::new(&self.core.config, realm, plan.realm)?.anonymous_from(request);
        let shown = anonymous.unwrap_or_else(|| mapper.value(&from).into_owned());
        let identities = PerSide::new(
            Identities { originator: from.clone(), answerer: to.clone() },
            Identities { originator: shown, answerer: mapper.value(&to).into_owned() },
        );
        let originator = Party {
            token: self.core.random_token(),
            tag: request.from_tag().unwrap_or_default().into_owned(),
            standing: Standing::new(realm, source, self.terminal_behind(realm, source, request)),
            target: target(request, source),
            routes: route_set(request, false),
            cseq: request.cseq().map(|cseq| cseq.number).unwrap_or_default(),
            acknowledged: None,
            moved_at: None,
        };
        let is_call = call.is_some();
        let usage = match call {
            Some(call) => Usage::Call(Box::new(call)),
            None => Usage::Subscription { ends_at: now },
        };
        let originator = self.routed(originator);
        let terminal = plan.terminal.and_then(|id| self.core.terminals().get(id));
        let mut called = Standing::new(plan.realm, plan.destination, plan.terminal);
        // It is shown the secret in Contact.
        let is_shown = request.values(Name::Contact).next().is_some();
        called.names_secrets = is_shown && terminal.is_some_and(|terminal| terminal.names_secrets);
        let id = self.dialogs.insert(Dialog {
            call_id: request.call_id().unwrap_or_default().into_owned(),
            realms: PerSide::new(realm, plan.realm),
            originator,
            called,
            answerers: Vec::new(),
            identities,
            usage,
            forget_at: None,
            held: None,
        });
        if !is_call {
            // Until its answer says for how long.
            self.keep_subscription(id, 64 * self.timing.t1, now);
        }
        Some(id)
    }

    /// A party that answers a dialog's first request, known by the first message with its tag, and reached where that
    /// came from or, if it is a response, where the request went.
    pub(super) fn new_answerer(&mut self, id: DialogId, message: &Message, tag: &str, flow: Flow) -> Option<usize> {
        let called = self.dialogs.get(id)?.called.clone();
        let party = Party {
            token: self.core.random_token(),
            tag: tag.to_owned(),
            standing: Standing { flow, ..called },
            target: target(message, flow),
            routes: route_set(message, message.code().is_some()),
            cseq: 0,
            acknowledged: None,
            moved_at: None,
        };
        let party = self.routed(party);
        let kept = kept::of_answerer(self.dialogs.get(id)?, &party);
        let index = self.dialogs.add_answerer(id, party)?;
        if let Some(held) = self.dialogs.held_mut(id) {
            self.core.add_bytes(held, kept);
        }
        Some(index)
    }

    /// In a core realm requests follow the route set; a terminal is reached only through the NAT mapping that its own
    /// packets made.
    fn routed(&self, mut party: Party) -> Party {
        if let Some(flow) = self.core_destination(&party) {
            party.standing.flow = flow;
        }
        party
    }

    pub(super) fn core_destination(&self, party: &Party) -> Option<Flow> {
        let realm = party.standing.realm;
        (self.core.side(realm)? == Side::Core).then_some(())?;
        self.core_flow(realm, party.routes.first().unwrap_or(&party.target))
    }

    /// What a response means for a dialog that is not a call: it lasts as long as its subscription.
    pub(super) fn after_subscription(
        &mut self,
        place: &InDialog,
        server: ServerTxId,
        method: &str,
        expires: Option<u32>,
        code: u16,
        now: Instant,
    ) {
        // The dialog of a call, which may be over and forgotten.
        let is_subscription =
            self.dialogs.get(place.id).is_some_and(|dialog| matches!(dialog.usage, Usage::Subscription { .. }));
        if code < 200 || !is_subscription {
            return;
        }
        let Some(request) = self.transactions.server(server).map(Server::request) else {
            return self.core.inconsistent("no server transaction of a subscription");
        };
        let lasts = |seconds: Option<u32>| {
            seconds.map_or(SUBSCRIPTION, |seconds| Duration::from_secs(u64::from(seconds.min(86_400))))
        };
        match (method, code) {
            ("SUBSCRIBE" | "REFER", 200..300) => {
                self.dialogs.accepted(place.id);
                let lasts = lasts(expires.or(request.expires()));
                self.keep_subscription(place.id, lasts, now);
            }
            // The first request failed, or the other side knows no such dialog (RFC 5057 §5.1).
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

    /// A dialog that is not a call ends after `lasts`, and is kept a little longer for late messages.
    fn keep_subscription(&mut self, id: DialogId, lasts: Duration, now: Instant) {
        let at = now + lasts + 64 * self.timing.t1;
        if let Some(Dialog { usage: Usage::Subscription { ends_at }, .. }) = self.dialogs.get_mut(id) {
            *ends_at = at;
            self.timers.set(at, Timer::Dialog(id));
        }
    }
}

/// The URI by which a party wants to be reached; where a broken peer states none, the address that it is at.
fn target(message: &Message, flow: Flow) -> String {
    let stated = message.values(Name::Contact).next().and_then(|value| contact_uri(&value));
    stated.unwrap_or_else(|| format!("sip:{}", flow.remote))
}
