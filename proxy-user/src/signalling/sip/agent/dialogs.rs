//! Dialogs (RFC 3261 §12) as seen from between the two parties.
//!
//! Each party is shown to the other as a contact of the proxy's own, with a token that names the dialog and the party:
//! a request with that token in its Request-URI is for that party. Call-ID and tags pass unchanged.

use super::{
    calls::Call,
    exemption::{Exempt, Exemption, Phase},
    roles::Role,
};
use crate::{
    engine::{CallId, PerSide, Standing, TerminalId, budgets::Held, tracked::Tracked},
    flow::Flow,
    journal::moment,
    media::RealmId,
    signalling::sip::{Message, NameAddr},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

/// Names a dialog, and over restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(super) struct DialogId(pub(super) u64);

/// Takes a token's place where nobody may see it, and is as long.
pub(super) const UNNAMED_PARTY: &str = "unnamed-party";
const NO_TOKEN: &[u8] = UNNAMED_PARTY.as_bytes();

/// What a token stands for.
#[derive(Debug)]
struct TokenHolder {
    /// The party that requests with it are for.
    party: (DialogId, Role),
    /// What requests with it get beyond the share of strangers.
    exemption: Exemption,
}

impl TokenHolder {
    fn of(party: (DialogId, Role)) -> Self {
        Self { party, exemption: Exemption::default() }
    }
}

/// What identifies a dialog between two parties: Call-ID and both tags (RFC 3261 §12).
#[derive(Debug, PartialEq, Eq, Hash)]
struct Tags {
    call_id: String,
    originator: String,
    answerer: String,
}

impl Tags {
    fn of(dialog: &Dialog, answerer: &Party) -> Self {
        let (originator, answerer) = (dialog.originator.tag.clone(), answerer.tag.clone());
        Self { call_id: dialog.call_id.clone(), originator, answerer }
    }
}

/// All dialogs, and what finds them: the token of a party, the tags of both, a call, a terminal.
#[derive(Debug, Default)]
pub(super) struct Dialogs {
    dialogs: Tracked<DialogId, Dialog>,
    tokens: HashMap<String, TokenHolder>,
    /// Answerers. A call that passes through twice has two with the same tags. Call-IDs alone find nothing: a stranger
    /// can begin any number of dialogs with one.
    by_tags: HashMap<Tags, Vec<(DialogId, usize)>>,
    by_call: HashMap<CallId, DialogId>,
    by_terminal: HashMap<TerminalId, BTreeSet<DialogId>>,
    /// Dialogs that are not calls.
    subscriptions: usize,
    last: u64,
}

impl Dialogs {
    pub(super) fn len(&self) -> usize {
        self.dialogs.len()
    }

    /// How many are calls, and how many are not.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.dialogs.len() - self.subscriptions, self.subscriptions)
    }

    pub(super) fn get(&self, id: DialogId) -> Option<&Dialog> {
        self.dialogs.get(&id)
    }

    /// Where a party speaks from is changed by [`Dialogs::insert`] and [`Dialogs::add_answerer`] alone.
    pub(super) fn get_mut(&mut self, id: DialogId) -> Option<&mut Dialog> {
        self.dialogs.get_mut(&id)
    }

    /// The call that a dialog is of, if it is of one.
    pub(super) fn call(&self, id: DialogId) -> Option<&Call> {
        self.dialogs.get(&id)?.call()
    }

    pub(super) fn call_mut(&mut self, id: DialogId) -> Option<&mut Call> {
        self.dialogs.get_mut(&id)?.call_mut()
    }

    pub(super) fn party(&self, id: DialogId, role: Role) -> Option<&Party> {
        self.dialogs.get(&id)?.party(role)
    }

    pub(super) fn party_mut(&mut self, id: DialogId, role: Role) -> Option<&mut Party> {
        self.dialogs.get_mut(&id)?.party_mut(role)
    }

    /// The party whose token this is.
    pub(super) fn with_token(&self, token: &str) -> Option<(DialogId, Role)> {
        self.tokens.get(token).map(|holder| holder.party)
    }

    /// Exempts a request for a party, which names it by its token, from the budgets of strangers. `lingers` is how long
    /// subscriptions are kept after their end.
    pub(super) fn exempt_request(
        &mut self,
        id: DialogId,
        to: Role,
        request: &Message,
        lingers: Duration,
        now: Instant,
    ) -> Option<Exempt> {
        let dialog = self.dialogs.get(&id)?;
        let holder = self.tokens.get_mut(&dialog.party(to)?.token)?;
        let is_bye = request.method() == Some("BYE");
        holder.exemption.request(dialog.phase(lingers, now), is_bye, request.bytes().len())
    }

    /// Whether a message that names this token is exempt from the limit of strangers' messages.
    pub(super) fn exempts_message(&mut self, token: &str, lingers: Duration, now: Instant) -> bool {
        let Some(holder) = self.tokens.get_mut(token) else { return false };
        let dialog = self.dialogs.get(&holder.party.0);
        dialog.is_some_and(|dialog| holder.exemption.message(dialog.phase(lingers, now), now))
    }

    /// A body that names no token, where this one does: an endpoint that publishes the contacts of its calls (RFC 4235)
    /// would give away what lets others act for it. The rest stays as it is, its length too.
    pub(super) fn without_tokens(&self, body: &[u8]) -> Option<Vec<u8>> {
        let mut clean: Option<Vec<u8>> = None;
        for end in memchr::memchr_iter(b'@', body) {
            let Some(token) = end.checked_sub(NO_TOKEN.len()).and_then(|start| body.get(start..end)) else { continue };
            if std::str::from_utf8(token).is_ok_and(|token| self.tokens.contains_key(token)) {
                let clean = clean.get_or_insert_with(|| body.to_vec());
                if let Some(place) = clean.get_mut(end - NO_TOKEN.len()..end) {
                    place.copy_from_slice(NO_TOKEN);
                }
            }
        }
        clean
    }

    /// The parties that a request with these tags may be for, each with its dialog.
    pub(super) fn with_tags<'a>(
        &'a self,
        call_id: &str,
        from: &str,
        to: &str,
    ) -> impl Iterator<Item = (DialogId, Role)> + use<'a> {
        let find = |originator: &str, answerer: &str| {
            let [call_id, originator, answerer] = [call_id, originator, answerer].map(str::to_owned);
            self.by_tags.get(&Tags { call_id, originator, answerer }).map_or(&[][..], Vec::as_slice).iter()
        };
        let answerers = find(from, to).map(|&(id, index)| (id, Role::Answerer(index)));
        answerers.chain(find(to, from).map(|&(id, _)| (id, Role::Originator)))
    }

    pub(super) fn of_call(&self, call: CallId) -> Option<DialogId> {
        self.by_call.get(&call).copied()
    }

    /// The parties that a registered terminal is.
    pub(super) fn of_terminal(&self, terminal: TerminalId) -> Vec<(DialogId, Role)> {
        let ids = self.by_terminal.get(&terminal).into_iter().flatten();
        let parties = ids.filter_map(|id| Some((*id, self.dialogs.get(id)?))).flat_map(|(id, dialog)| {
            dialog
                .roles()
                .filter_map(move |role| (dialog.party(role)?.standing.terminal == Some(terminal)).then_some((id, role)))
        });
        parties.collect()
    }

    pub(super) fn insert(&mut self, dialog: Dialog) -> DialogId {
        let id = DialogId(self.last + 1);
        self.restore(id, dialog);
        id
    }

    /// Takes in a dialog under the number that it had.
    pub(super) fn restore(&mut self, id: DialogId, dialog: Dialog) {
        self.last = self.last.max(id.0);
        for role in dialog.roles() {
            let Some(party) = dialog.party(role) else { continue };
            self.tokens.insert(party.token.clone(), TokenHolder::of((id, role)));
            if let Some(terminal) = party.standing.terminal {
                self.by_terminal.entry(terminal).or_default().insert(id);
            }
        }
        for (index, answerer) in dialog.answerers.iter().enumerate() {
            self.by_tags.entry(Tags::of(&dialog, answerer)).or_default().push((id, index));
        }
        match dialog.call() {
            Some(call) => {
                self.by_call.insert(call.id, id);
            }
            None => self.subscriptions += 1,
        }
        self.dialogs.insert(id, dialog);
    }

    /// A dialog takes this of the share of strangers until its first request is accepted.
    pub(super) fn hold(&mut self, id: DialogId, held: Option<Held>) {
        if let Some(dialog) = self.get_mut(id) {
            dialog.held = held.map(Arc::new);
        }
    }

    /// What a dialog takes of the share of strangers, if it does.
    pub(super) fn held_mut(&mut self, id: DialogId) -> Option<&mut Held> {
        self.get(id).filter(|dialog| dialog.held.is_some())?;
        self.get_mut(id)?.held.as_mut().and_then(Arc::get_mut)
    }

    /// The first request of a dialog was accepted: it no longer counts as a stranger's.
    pub(super) fn accepted(&mut self, id: DialogId) {
        if self.get(id).is_some_and(|dialog| dialog.held.is_some())
            && let Some(dialog) = self.get_mut(id)
        {
            dialog.held = None;
        }
    }

    /// One more party answered the dialog's first request; `None` where there are too many.
    pub(super) fn add_answerer(&mut self, id: DialogId, party: Party) -> Option<usize> {
        /// More branches than any fork has: a bound on what one request can make us keep.
        const MOST: usize = 32;
        let dialog = self.dialogs.get_mut(&id)?;
        let index = dialog.answerers.len();
        if index >= MOST {
            return None;
        }
        self.tokens.insert(party.token.clone(), TokenHolder::of((id, Role::Answerer(index))));
        if let Some(terminal) = party.standing.terminal {
            self.by_terminal.entry(terminal).or_default().insert(id);
        }
        self.by_tags.entry(Tags::of(dialog, &party)).or_default().push((id, index));
        dialog.answerers.push(party);
        Some(index)
    }

    pub(super) fn remove(&mut self, id: DialogId) -> Option<Dialog> {
        let dialog = self.dialogs.remove(&id)?;
        for tags in dialog.answerers.iter().map(|answerer| Tags::of(&dialog, answerer)) {
            let Some(parties) = self.by_tags.get_mut(&tags) else { continue };
            parties.retain(|(other, _)| *other != id);
            if parties.is_empty() {
                self.by_tags.remove(&tags);
            }
        }
        match dialog.call() {
            Some(call) => {
                if self.by_call.get(&call.id) == Some(&id) {
                    self.by_call.remove(&call.id);
                }
            }
            None => self.subscriptions -= 1,
        }
        for party in dialog.roles().filter_map(|role| dialog.party(role)) {
            self.tokens.remove(&party.token);
            let Some(terminal) = party.standing.terminal else { continue };
            if let Some(ids) = self.by_terminal.get_mut(&terminal) {
                ids.remove(&id);
                if ids.is_empty() {
                    self.by_terminal.remove(&terminal);
                }
            }
        }
        Some(dialog)
    }

    /// Those that may have changed since the last call.
    pub(super) fn take_touched(&mut self) -> Vec<DialogId> {
        self.dialogs.take_touched()
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Party {
    /// User part of the contact by which the other side reaches this party.
    pub(super) token: String,
    pub(super) tag: String,
    /// Where it is, and so who may act for it; requests to it go there.
    pub(super) standing: Standing,
    /// Its contact: the Request-URI of requests to it.
    pub(super) target: String,
    /// Its side's route set.
    pub(super) routes: Vec<String>,
    /// Highest CSeq number that it used.
    pub(super) cseq: u32,
    /// The last ACK to it: sender, CSeq number, branch.
    pub(super) acknowledged: Option<(Role, u32, String)>,
    /// When it sent that by which it has moved to where it is.
    #[serde(skip)]
    pub(super) moved_at: Option<Instant>,
}

impl Party {
    /// Where requests to it are sent.
    pub(super) fn destination(&self) -> Flow {
        self.standing.flow
    }

    /// Request-URI and Route of a request to it (RFC 3261 §12.2.1.1): a strict router wants itself in the
    /// Request-URI and the target at the end of Route.
    pub(super) fn route(&self) -> (String, Vec<String>) {
        let strict = self.routes.first().and_then(|first| {
            let route = NameAddr::parse(first).ok()?;
            let uri = route.uri().ok()?;
            (!uri.params().has("lr")).then(|| uri.without_headers().to_owned())
        });
        match strict {
            None => (self.target.clone(), self.routes.clone()),
            Some(uri) => {
                let target = format!("<{}>", self.target);
                (uri, self.routes.iter().skip(1).cloned().chain([target]).collect())
            }
        }
    }
}

/// From and To of the first request as one side knows them, without the To tag.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identities {
    pub(super) originator: String,
    pub(super) answerer: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Usage {
    /// Begun by INVITE.
    Call(Box<Call>),
    /// Begun by another method that makes a dialog (SUBSCRIBE, REFER); has no end of its own.
    Subscription {
        #[serde(with = "moment")]
        ends_at: Instant,
    },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Dialog {
    pub(super) call_id: String,
    pub(super) realms: PerSide<RealmId>,
    pub(super) originator: Party,
    /// Where the first request went: its answerers are there.
    pub(super) called: Standing,
    /// One for each To tag seen.
    pub(super) answerers: Vec<Party>,
    /// As each side knows them.
    pub(super) identities: PerSide<Identities>,
    pub(super) usage: Usage,
    /// Ended: kept for late messages until then.
    #[serde(with = "moment")]
    pub(super) forget_at: Option<Instant>,
    /// What it takes of the share of strangers, until its first request is accepted.
    #[serde(skip)]
    pub(super) held: Option<Arc<Held>>,
}

impl Dialog {
    /// The parties of an answered call that have shown to be where they are: the callees by their answers, the caller
    /// by an ACK or by its token.
    pub(super) fn proved_parties(&self) -> impl Iterator<Item = &Party> {
        let acknowledged = self
            .answerers
            .iter()
            .any(|callee| callee.acknowledged.as_ref().is_some_and(|(sender, ..)| *sender == Role::Originator));
        let caller = Some(&self.originator).filter(|caller| acknowledged || caller.standing.named_secret);
        caller.into_iter().chain(&self.answerers).filter(|party| !party.standing.unproved)
    }

    /// Its parties.
    pub(super) fn roles(&self) -> impl Iterator<Item = Role> + use<> {
        (0..self.answerers.len()).map(Role::Answerer).chain([Role::Originator])
    }

    /// How far it has come; `lingers` is how long a subscription is kept after its end.
    fn phase(&self, lingers: Duration, now: Instant) -> Phase {
        let ended = match &self.usage {
            Usage::Call(_) => self.forget_at.is_some(),
            Usage::Subscription { ends_at } => *ends_at <= now + lingers,
        };
        match (&self.held, ended) {
            (Some(_), _) => Phase::Strangers,
            (None, true) => Phase::Ended,
            (None, false) => Phase::Live,
        }
    }

    /// The realm that a party is in.
    pub(super) fn realm_of(&self, role: Role) -> RealmId {
        self.realms[role.side()]
    }

    pub(super) fn party(&self, role: Role) -> Option<&Party> {
        match role {
            Role::Originator => Some(&self.originator),
            Role::Answerer(index) => self.answerers.get(index),
        }
    }

    pub(super) fn party_mut(&mut self, role: Role) -> Option<&mut Party> {
        match role {
            Role::Originator => Some(&mut self.originator),
            Role::Answerer(index) => self.answerers.get_mut(index),
        }
    }

    pub(super) fn answerer_with_tag(&self, tag: &str) -> Option<usize> {
        self.answerers.iter().position(|party| party.tag == tag)
    }

    /// The party that sent a request with these tags to the party `to`, or `None` if no such dialog is known.
    pub(super) fn sender(&self, to: Role, from_tag: &str, to_tag: &str) -> Option<Role> {
        if self.party(to)?.tag != to_tag {
            return None;
        }
        match to {
            Role::Originator => self.answerer_with_tag(from_tag).map(Role::Answerer),
            Role::Answerer(_) => (self.originator.tag == from_tag).then_some(Role::Originator),
        }
    }

    /// Whether addresses were mapped in From or To, so that requests inside the dialog need the other side's view.
    pub(super) fn identities_differ(&self) -> bool {
        self.identities.caller != self.identities.callee
    }

    /// From and To of a request from `from` to `to`, as `to` knows them.
    pub(super) fn identities_for(&self, from: Role, to: Role) -> Option<(String, String)> {
        let view = &self.identities[to.side()];
        let value = |role: Role| {
            let party = self.party(role)?;
            Some(match role {
                Role::Originator => view.originator.clone(),
                Role::Answerer(_) if party.tag.is_empty() => view.answerer.clone(),
                Role::Answerer(_) => format!("{};tag={}", view.answerer, party.tag),
            })
        };
        Some((value(from)?, value(to)?))
    }

    /// From or To of the first request, whichever is that of this party, as its own side knows it.
    pub(super) fn identity_of(&self, role: Role) -> &str {
        let view = &self.identities[role.side()];
        match role {
            Role::Originator => &view.originator,
            Role::Answerer(_) => &view.answerer,
        }
    }

    pub(super) fn call(&self) -> Option<&Call> {
        match &self.usage {
            Usage::Call(call) => Some(call),
            Usage::Subscription { .. } => None,
        }
    }

    pub(super) fn call_mut(&mut self) -> Option<&mut Call> {
        match &mut self.usage {
            Usage::Call(call) => Some(call),
            Usage::Subscription { .. } => None,
        }
    }
}
