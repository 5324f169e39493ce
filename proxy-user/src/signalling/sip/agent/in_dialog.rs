//! Requests inside dialogs: whose they are, whether they may act, and what they mean for where the party is.
//!
//! Whether a request may act is decided by the core alone; this file says how a SIP request names its party: secretly,
//! by the token in its Request-URI, or by Call-ID and tags, which many may know.

use super::{
    dialogs::DialogId,
    reading::{address_of_record, contact_uri},
    roles::Role,
    state::{InDialog, MediaPhase, Token, Turn},
    transactions::{Server, ServerTxId},
};
use crate::{
    config::Side,
    engine::{TerminalId, Verdict},
    flow::Flow,
    media::RealmId,
    signalling::sip::{Message, Name, Uri},
};
use std::time::Instant;
use tracing::debug;

impl Turn<'_> {
    /// What a request is for: by the token in its Request-URI, or else by the tags of the dialog that it is in; and
    /// whether it named it by the token, which only those it was given to can know.
    pub(super) fn token_of(&self, realm: RealmId, request: &Message) -> Option<(Token, bool)> {
        let uri = request.request_uri().and_then(|uri| Uri::parse(uri).ok());
        let user = uri.as_ref().and_then(Uri::user);
        if let Some((dialog, role)) = user.and_then(|user| self.dialogs.with_token(user)) {
            // A party's token is known on the other party's side only.
            let known_here = self.dialogs.get(dialog)?.realms[role.side().other()] == realm;
            return known_here.then_some((Token::Party(dialog, role), true));
        }
        let named = user.and_then(|user| self.registrations.with_token(user)).map(|id| (Token::Binding(id), true));
        self.dialog_of(realm, request).map(|token| (token, false)).or(named)
    }

    /// The party that a request inside a dialog is for, where its sender did not put the other's contact into the
    /// Request-URI as RFC 3261 §12.2.1.1 has it.
    fn dialog_of(&self, realm: RealmId, request: &Message) -> Option<Token> {
        let (from_tag, to_tag) = (request.from_tag()?, request.to_tag()?);
        let mut parties = self.dialogs.with_tags(&request.call_id()?, &from_tag, &to_tag);
        let from_here =
            |id, to: Role| self.dialogs.get(id).is_some_and(|dialog| dialog.realms[to.side().other()] == realm);
        parties.find(|&(id, to)| from_here(id, to)).map(|(id, to)| Token::Party(id, to))
    }

    /// A request inside a dialog, for the party `to`; `secret` says that it named it by its token.
    pub(super) fn in_dialog(
        &mut self,
        server: ServerTxId,
        request: &Message,
        (id, to): (DialogId, Role),
        secret: bool,
        now: Instant,
    ) {
        let Some(source) = self.transactions.server(server).map(Server::source) else {
            return self.core.inconsistent("no server transaction for a request in a dialog");
        };
        let Some((from, verdict)) = self.sender_in_dialog(request, (id, to), secret, source, now) else {
            return self.reply(server, 481, None, now);
        };
        if let Some(party) = self.dialogs.party_mut(id, from) {
            party.cseq = party.cseq.max(request.cseq().map(|cseq| cseq.number).unwrap_or_default());
        }
        self.vouch(id, to);
        let Some(plan) = self.plan_to(id, from, to, request) else {
            return self.core.inconsistent("no way to a party of a dialog");
        };
        let target = request.values(Name::Contact).next().and_then(|value| contact_uri(&value));
        let moves = (verdict == Verdict::Moves).then_some((source, now));
        let place = InDialog { id, from, to: Some(to), target, moves };
        if self.dialogs.call(id).is_some() {
            return self.in_call(server, request, plan, place, now);
        }
        self.forward(server, request, plan, Some(place), MediaPhase::None, now);
    }

    /// The party that a request inside a dialog is from, and whether it is where it was; `None` if there is no such
    /// party, or the request is not from it.
    pub(super) fn sender_in_dialog(
        &mut self,
        request: &Message,
        (id, to): (DialogId, Role),
        secret: bool,
        source: Flow,
        now: Instant,
    ) -> Option<(Role, Verdict)> {
        let (from_tag, to_tag) = (request.from_tag()?, request.to_tag()?);
        let dialog = self.dialogs.get(id)?;
        if request.call_id()? != dialog.call_id {
            return None;
        }
        let sender = dialog.sender(to, &from_tag, &to_tag);
        let newcomer = to == Role::Originator && to_tag == dialog.originator.tag && !from_tag.is_empty();
        let standing = match sender {
            Some(from) => &dialog.party(from)?.standing,
            // A NOTIFY may overtake the answer to its SUBSCRIBE, and a forked one may come from several (RFC 6665
            // §4.4.1).
            None if newcomer && request.method() == Some("NOTIFY") => &dialog.called,
            None => return None,
        };
        let verdict = self.core.may_act(standing, source, secret);
        if verdict == Verdict::Stranger {
            let (realm, call_id) = (standing.realm, dialog.call_id.clone());
            self.core.stranger(realm, source, request.method().unwrap_or_default(), &call_id, now);
            return None;
        }
        // The tag, or the secret, was sent there; not to where it has moved, as far as is known.
        if verdict == Verdict::Same && !standing.unproved && (secret || !to_tag.is_empty()) {
            self.core.proved(standing.realm, source, now);
            if dialog.call().is_some_and(|call| self.core.is_answered(call.id)) {
                self.core.met(standing.realm, source, now);
            }
        }
        let from = match sender {
            Some(from) => from,
            None => Role::Answerer(self.new_answerer(id, request, &from_tag, source)?),
        };
        self.spoke(id, from, source, secret, verdict);
        Some((from, verdict))
    }

    /// A request goes to a party that has named its secret, which was sent to where it is: it may be sent everything.
    pub(super) fn vouch(&mut self, id: DialogId, to: Role) {
        let Some(standing) = self.dialogs.party(id, to).map(|party| &party.standing) else {
            return self.core.inconsistent("a request to no party");
        };
        if standing.named_secret && !standing.unproved {
            self.core.proved(standing.realm, standing.flow, self.now);
        }
    }

    /// A party spoke. A party that has named its secret once is not believed without it.
    fn spoke(&mut self, id: DialogId, role: Role, source: Flow, secret: bool, verdict: Verdict) {
        let Some(standing) = self.dialogs.party(id, role).map(|party| &party.standing) else {
            return self.core.inconsistent("a request of no party");
        };
        if let Some(id) = standing.terminal.filter(|_| secret)
            && self.core.terminal_named_secret(id)
        {
            let user = self.core.terminals().get(id).map(|terminal| terminal.user.as_str());
            self.registrations.touch(user.unwrap_or_default(), id);
        }
        let named_secret = standing.named_secret || secret;
        // A server in a core realm speaks from any port; requests to it follow the route set.
        let stays = verdict == Verdict::Moves || self.core.is_core(standing.realm);
        let flow = if stays { standing.flow } else { source };
        if (standing.named_secret, standing.flow) == (named_secret, flow) {
            return;
        }
        if let Some(party) = self.dialogs.party_mut(id, role) {
            (party.standing.named_secret, party.standing.flow) = (named_secret, flow);
        }
    }

    /// A party is in another place, from where it sent at `since`: what is for it goes there, and its media is let in
    /// from there. What it sent later from elsewhere may have been accepted before.
    pub(super) fn party_moved(&mut self, id: DialogId, role: Role, (to, since): (Flow, Instant), now: Instant) {
        // Its dialog may be forgotten while a request in it is still under way.
        let Some(party) = self.dialogs.party(id, role).filter(|party| party.moved_at.is_none_or(|at| at <= since))
        else {
            return;
        };
        let before = party.standing.flow;
        if before == to || self.core.is_core(party.standing.realm) {
            return;
        }
        debug!(%before, %to, "a terminal's signalling comes from another place now");
        // A datagram's source can be forged, by the party itself too: it may want another host to be sent what is for
        // it.
        let is_proved = to.transport.is_reliable() || self.core.is_known(party.standing.realm, to);
        if let Some(party) = self.dialogs.party_mut(id, role) {
            party.moved_at = Some(since);
            party.standing.flow = to;
            party.standing.unproved = !is_proved && (party.standing.unproved || before.ip() != to.ip());
        }
        let Some(call) = self.dialogs.call(id) else { return };
        let (call, invite) = (call.id, call.invite.filter(|_| role == Role::Originator));
        self.core.moved(call, role.side(), to, now);
        if let Some(invite) = invite {
            self.invite_moved(invite, to);
        }
    }

    /// The registered terminal that a request outside of dialogs is from: it comes over the terminal's flow, and names
    /// its user; of several of one user, the one whose contact it states. Otherwise it is the terminal that has the
    /// address: anybody can state a contact.
    pub(super) fn terminal_behind(&self, realm: RealmId, flow: Flow, request: &Message) -> Option<TerminalId> {
        if self.core.side(realm) != Some(Side::Access) {
            return None;
        }
        let user = address_of_record(request, Name::From);
        let contact = request.values(Name::Contact).next().and_then(|value| contact_uri(&value));
        let states = |id: TerminalId, user: &str| {
            let bindings = self.registrations.of(user).iter().filter_map(|id| self.registrations.get(*id));
            bindings.into_iter().any(|binding| binding.terminal == id && Some(&binding.contact) == contact.as_ref())
        };
        let here = || self.core.terminals().at(realm, flow);
        let named = || here().filter(|(_, terminal)| Some(&terminal.user) == user.as_ref());
        let exactly = named().find(|(id, terminal)| states(*id, &terminal.user)).or_else(|| named().next());
        exactly.map(|(id, _)| id)
    }
}
