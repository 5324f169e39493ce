//! Registrations: which terminal address belongs to a contact that the softswitch knows.
//!
//! A binding records both addresses of a terminal: the one that it loaded into Contact and the one in the IP header of
//! its REGISTER. The softswitch sees neither but a contact of the proxy's own with a token in it.

use crate::{
    engine::{TerminalId, Terminals, tracked::Tracked},
    flow::Flow,
    journal::moment,
    media::RealmId,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// Names a binding for the life of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct BindingId(u64);

impl BindingId {
    /// Its number, by which it is found again after a restart.
    pub(super) fn number(self) -> u64 {
        self.0
    }
}

/// One contact of one user, as the softswitch accepted it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Binding {
    /// The terminal behind it: whose it is, and where its last REGISTER came from.
    pub(super) terminal: TerminalId,
    /// The user, `user@host`.
    pub(super) aor: String,
    /// User part of the contact that the softswitch sees.
    pub(super) token: String,
    /// URI in the terminal's Contact.
    pub(super) contact: String,
    /// Call-ID of its REGISTERs.
    pub(super) call_id: String,
    /// What names this flow of this device, whatever its addresses are: `+sip.instance` and `reg-id` (RFC 5626).
    #[serde(default)]
    pub(super) instance: Option<String>,
    /// When the softswitch removes it.
    #[serde(with = "moment")]
    pub(super) expires_at: Instant,
    /// Keep-alives in a row without an answer.
    #[serde(skip)]
    pub(super) unanswered: u32,
    #[serde(skip)]
    pub(super) keepalive_at: Option<Instant>,
}

impl Binding {
    /// Whether it has answered recent keep-alives.
    pub(super) fn is_reachable(&self, failures: u32) -> bool {
        self.unanswered < failures
    }

    pub(super) fn next(&self) -> Instant {
        self.keepalive_at.map_or(self.expires_at, |at| at.min(self.expires_at))
    }
}

/// What a REGISTER asks for, until its answer comes.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) aor: String,
    pub(super) source: Flow,
    /// When it came.
    pub(super) since: Instant,
    pub(super) realm: RealmId,
    pub(super) core: RealmId,
    pub(super) call_id: String,
    pub(super) contacts: Vec<Stated>,
    /// `Contact: *` with `Expires: 0`.
    pub(super) all: bool,
    /// In case the answer does not say.
    pub(super) expires: Option<u32>,
}

/// A contact as a terminal states it.
#[derive(Debug)]
pub(super) struct Stated {
    /// User part of the contact that represents it.
    pub(super) token: String,
    pub(super) uri: String,
    /// See [`Binding::instance`].
    pub(super) instance: Option<String>,
    /// Seconds that it asks for, where it says so itself.
    pub(super) expires: Option<u32>,
}

/// All bindings, and what finds them: the token in the contact that the softswitch sees, and the user.
#[derive(Debug, Default)]
pub(super) struct Registrations {
    bindings: Tracked<BindingId, Binding>,
    by_token: HashMap<String, BindingId>,
    by_aor: HashMap<String, Vec<BindingId>>,
    last: u64,
}

impl Registrations {
    pub(super) fn len(&self) -> usize {
        self.bindings.len()
    }

    pub(super) fn get(&self, id: BindingId) -> Option<&Binding> {
        self.bindings.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: BindingId) -> Option<&mut Binding> {
        self.bindings.get_mut(&id)
    }

    pub(super) fn with_token(&self, token: &str) -> Option<BindingId> {
        self.by_token.get(token).copied()
    }

    /// Those that may have changed since the last call.
    pub(super) fn take_touched(&mut self) -> Vec<BindingId> {
        self.bindings.take_touched()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Binding> {
        self.bindings.values()
    }

    pub(super) fn of(&self, aor: &str) -> &[BindingId] {
        self.by_aor.get(aor).map_or(&[], Vec::as_slice)
    }

    /// The binding that a REGISTER means. Terminals behind different NATs may state the same private contact for one
    /// user: only the source of the packet, or the Call-ID that a terminal keeps for all its REGISTERs (RFC 3261
    /// §10.2.4), tells them apart. One that comes from the same address as before, with another port and another
    /// Call-ID, has been switched off and on. A device that names itself and its flow is known by these alone, with
    /// whatever contact it comes back (RFC 5626 §6).
    pub(super) fn find(
        &self,
        terminals: &Terminals,
        aor: &str,
        contact: &str,
        instance: Option<&str>,
        source: Flow,
        call_id: &str,
    ) -> Option<(BindingId, &Binding)> {
        let flow = |binding: &Binding| terminals.get(binding.terminal).map(|terminal| terminal.flow);
        let known = || self.of(aor).iter().filter_map(|id| Some((*id, self.bindings.get(id)?)));
        let same = |binding: &Binding| match (instance, binding.instance.as_deref()) {
            (Some(one), Some(other)) => one == other,
            _ => binding.contact == contact && (flow(binding) == Some(source) || binding.call_id == call_id),
        };
        let rebooted = |binding: &Binding| {
            let unnamed = instance.is_none() && binding.instance.is_none();
            unnamed && binding.contact == contact && flow(binding).is_some_and(|flow| flow.ip() == source.ip())
        };
        let exactly = known().find(|(_, binding)| same(binding));
        exactly.or_else(|| known().find(|(_, binding)| rebooted(binding)))
    }

    /// Something changed about a user's terminal, which the journal has with its binding.
    pub(super) fn touch(&mut self, user: &str, terminal: TerminalId) {
        let of_terminal = |id: &BindingId| self.bindings.get(id).is_some_and(|binding| binding.terminal == terminal);
        if let Some(id) = self.of(user).iter().copied().find(of_terminal) {
            self.bindings.get_mut(&id);
        }
    }

    pub(super) fn insert(&mut self, binding: Binding) -> BindingId {
        self.restore(self.last + 1, binding)
    }

    /// Takes in a binding under the number that it had.
    pub(super) fn restore(&mut self, number: u64, binding: Binding) -> BindingId {
        self.last = self.last.max(number);
        let id = BindingId(number);
        self.by_aor.entry(binding.aor.clone()).or_default().push(id);
        self.by_token.insert(binding.token.clone(), id);
        self.bindings.insert(id, binding);
        id
    }

    pub(super) fn remove(&mut self, id: BindingId) -> Option<Binding> {
        let binding = self.bindings.remove(&id)?;
        self.by_token.remove(&binding.token);
        if let Some(ids) = self.by_aor.get_mut(&binding.aor) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.by_aor.remove(&binding.aor);
            }
        }
        Some(binding)
    }
}

/// The seconds for which a contact is bound: its own `expires`, else the header's, else what was asked for, else an
/// hour (RFC 3261 §10.2.1.1).
pub(super) fn lifetime(contact: Option<&str>, header: Option<u32>, asked: Option<u32>) -> Duration {
    let seconds = contact.and_then(|text| text.trim().parse().ok()).or(header).or(asked).unwrap_or(3600);
    // At most a year; longer times would overflow clocks.
    Duration::from_secs(u64::from(seconds.min(31_536_000)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Terminal;

    const ALICE: &str = "alice@example.test";

    fn binding(terminals: &mut Terminals, contact: &str, source: &str, call_id: &str) -> Binding {
        let flow = Flow::udp(source.parse().unwrap());
        Binding {
            terminal: terminals.bind(Terminal {
                user: ALICE.into(),
                realm: RealmId::new(0),
                core: RealmId::new(1),
                flow,
                names_secrets: false,
            }),
            aor: ALICE.into(),
            token: "t".into(),
            contact: contact.into(),
            call_id: call_id.into(),
            instance: None,
            expires_at: Instant::now(),
            unanswered: 0,
            keepalive_at: None,
        }
    }

    #[test]
    fn the_same_private_contact_behind_two_nats_is_two_bindings() {
        let (mut all, mut terminals) = (Registrations::default(), Terminals::default());
        let contact = "sip:alice@192.168.1.10:5060";
        let first = all.insert(binding(&mut terminals, contact, "203.0.113.101:61000", "a"));
        let second = all.insert(binding(&mut terminals, contact, "203.0.113.102:61000", "b"));
        let find = |source: &str, call_id| {
            let source = Flow::udp(source.parse().unwrap());
            all.find(&terminals, ALICE, contact, None, source, call_id).map(|(id, _)| id)
        };
        assert_eq!(find("203.0.113.101:61000", "x"), Some(first));
        assert_eq!(find("203.0.113.102:61000", "x"), Some(second));
        assert_eq!(find("203.0.113.102:61999", "b"), Some(second), "the NAT gave it another port");
        assert_eq!(find("203.0.113.102:61999", "x"), Some(second), "it was switched off and on");
        assert_eq!(find("203.0.113.103:61000", "c"), None);
        all.remove(first);
        assert_eq!(all.of(ALICE), &[second]);
        all.remove(second);
        assert!(all.by_aor.is_empty());
    }

    #[test]
    fn lifetimes() {
        assert_eq!(lifetime(Some("60"), Some(120), Some(3600)).as_secs(), 60);
        assert_eq!(lifetime(None, Some(120), Some(3600)).as_secs(), 120);
        assert_eq!(lifetime(None, None, Some(600)).as_secs(), 600);
        assert_eq!(lifetime(Some("many"), None, None).as_secs(), 3600);
        assert_eq!(lifetime(Some("4294967295"), None, None).as_secs(), 31_536_000);
    }
}
