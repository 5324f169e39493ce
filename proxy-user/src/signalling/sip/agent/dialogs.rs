//! Dialogs (RFC 3261, section 12) as seen from between the two parties.
//!
//! Each party is shown to the other as a contact of the proxy's own, with a token that names the dialog and the party:
//! a request with that token in its Request-URI is for that party. Call-ID and tags pass unchanged.

use super::calls::Call;
use crate::{flow::Flow, journal::moment, media::RealmId, signalling::sip::NameAddr};
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// Which party of a dialog.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Role {
    /// Sent the request that began it.
    Originator,
    /// Answered it; a forked request may be answered by several.
    Answerer(usize),
}

impl Role {
    /// 0 for the originator, 1 for an answerer.
    pub(super) fn side(self) -> usize {
        match self {
            Self::Originator => 0,
            Self::Answerer(_) => 1,
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Party {
    /// User part of the contact by which the other side reaches this party.
    pub(super) token: String,
    pub(super) tag: String,
    /// Where requests to it are sent.
    pub(super) destination: Flow,
    /// Its contact: the Request-URI of requests to it.
    pub(super) target: String,
    /// Its side's route set.
    pub(super) routes: Vec<String>,
    /// Highest CSeq number that it used.
    pub(super) cseq: u32,
    /// The last ACK to it: sender, CSeq number, branch.
    pub(super) acknowledged: Option<(Role, u32, String)>,
}

impl Party {
    /// Request-URI and Route of a request to it (RFC 3261, section 12.2.1.1): a strict router wants itself in the
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

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Usage {
    /// Begun by INVITE.
    Call(Box<Call>),
    /// Begun by another method that makes a dialog (SUBSCRIBE, REFER); ends by itself.
    Subscription {
        #[serde(with = "moment")]
        ends_at: Instant,
    },
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Dialog {
    pub(super) call_id: String,
    pub(super) realms: [RealmId; 2],
    pub(super) originator: Party,
    /// One for each To tag seen.
    pub(super) answerers: Vec<Party>,
    /// As side 0 and as side 1 know them.
    pub(super) identities: [Identities; 2],
    pub(super) usage: Usage,
    /// Ended: kept for stragglers until then.
    #[serde(with = "moment")]
    pub(super) forget_at: Option<Instant>,
}

impl Dialog {
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
        self.identities[0] != self.identities[1]
    }

    /// From and To of a request from `from` to `to`, as `to` knows them.
    pub(super) fn identities_for(&self, from: Role, to: Role) -> Option<(String, String)> {
        let view = self.identities.get(to.side())?;
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
