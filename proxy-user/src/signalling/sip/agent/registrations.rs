//! Registrations: which terminal address stands behind a contact that the softswitch knows.
//!
//! A binding records both addresses of a terminal: the one that it loaded into Contact and the one in the IP header of
//! its REGISTER. The softswitch sees neither but a contact of the proxy's own with a token in it.

use crate::{engine::tracked::Tracked, flow::Flow, journal::moment, media::RealmId};
use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// One contact of one user, as the softswitch accepted it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// The user, `user@host`.
    pub aor: String,
    /// User part of the contact that the softswitch sees.
    pub token: String,
    /// URI in the terminal's Contact.
    pub contact: String,
    /// Where its last REGISTER came from, and requests for it go: the address is that of the IP header.
    pub source: Flow,
    /// Realm it is in.
    pub realm: RealmId,
    /// Realm of its softswitch.
    pub core: RealmId,
    /// Call-ID of its REGISTERs.
    pub call_id: String,
    /// What names this flow of this device, whatever its addresses are: `+sip.instance` and `reg-id` (RFC 5626).
    #[serde(default)]
    pub instance: Option<String>,
    /// When the softswitch forgets it.
    #[serde(with = "moment")]
    pub expires_at: Instant,
    /// Keep-alives in a row without an answer.
    #[serde(skip)]
    pub unanswered: u32,
    #[serde(skip)]
    pub(super) keepalive_at: Option<Instant>,
}

impl Binding {
    /// Whether it answered keep-alives lately.
    pub fn is_reachable(&self, failures: u32) -> bool {
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
    /// User part of the contact that stands for it.
    pub(super) token: String,
    pub(super) uri: String,
    /// See [`Binding::instance`].
    pub(super) instance: Option<String>,
}

/// All bindings.
#[derive(Debug, Default)]
pub(super) struct Registrations {
    bindings: Tracked<Binding>,
    by_aor: HashMap<String, Vec<u64>>,
    next: u64,
}

impl Registrations {
    pub(super) fn len(&self) -> usize {
        self.bindings.len()
    }

    pub(super) fn get(&self, id: u64) -> Option<&Binding> {
        self.bindings.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: u64) -> Option<&mut Binding> {
        self.bindings.get_mut(&id)
    }

    /// Those that may have changed since the last call, by the token that they had.
    pub(super) fn take_touched(&mut self) -> Vec<u64> {
        self.bindings.take_touched()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Binding> {
        self.bindings.values()
    }

    pub(super) fn of(&self, aor: &str) -> &[u64] {
        self.by_aor.get(aor).map_or(&[], Vec::as_slice)
    }

    /// The binding that a REGISTER means. Terminals behind different NATs may state the same private contact for one
    /// user: only the source of the packet, or the Call-ID that a terminal keeps for all its REGISTERs (RFC 3261,
    /// section 10.2.4), tells them apart. A device that names itself and its flow is known by these alone, with whatever
    /// contact it comes back (RFC 5626, section 6).
    pub(super) fn find(
        &self,
        aor: &str,
        contact: &str,
        instance: Option<&str>,
        source: Flow,
        call_id: &str,
    ) -> Option<(u64, &Binding)> {
        let same = |binding: &Binding| match (instance, binding.instance.as_deref()) {
            (Some(one), Some(other)) => one == other,
            _ => binding.contact == contact && (binding.source == source || binding.call_id == call_id),
        };
        self.of(aor).iter().find_map(|id| self.bindings.get(id).filter(|binding| same(binding)).map(|b| (*id, b)))
    }

    pub(super) fn insert(&mut self, binding: Binding) -> u64 {
        self.next += 1;
        self.by_aor.entry(binding.aor.clone()).or_default().push(self.next);
        self.bindings.insert(self.next, binding);
        self.next
    }

    pub(super) fn remove(&mut self, id: u64) -> Option<Binding> {
        let binding = self.bindings.remove(&id)?;
        if let Some(ids) = self.by_aor.get_mut(&binding.aor) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.by_aor.remove(&binding.aor);
            }
        }
        Some(binding)
    }
}

/// The seconds for which a contact is bound: its own `expires`, else the header's, else what was asked for, else an hour
/// (RFC 3261, section 10.2.1.1).
pub(super) fn lifetime(contact: Option<&str>, header: Option<u32>, asked: Option<u32>) -> Duration {
    let seconds = contact.and_then(|text| text.trim().parse().ok()).or(header).or(asked).unwrap_or(3600);
    // A year is for ever; what is longer would overflow clocks.
    Duration::from_secs(u64::from(seconds.min(31_536_000)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binding(contact: &str, source: &str, call_id: &str) -> Binding {
        Binding {
            aor: "alice@example.test".into(),
            token: "t".into(),
            contact: contact.into(),
            source: Flow::udp(source.parse().unwrap()),
            realm: 0,
            core: 1,
            call_id: call_id.into(),
            instance: None,
            expires_at: Instant::now(),
            unanswered: 0,
            keepalive_at: None,
        }
    }

    #[test]
    fn the_same_private_contact_behind_two_nats_is_two_bindings() {
        let mut all = Registrations::default();
        let contact = "sip:alice@192.168.1.10:5060";
        let first = all.insert(binding(contact, "203.0.113.101:61000", "a"));
        let second = all.insert(binding(contact, "203.0.113.102:61000", "b"));
        let find = |source: &str, call_id| {
            let source = Flow::udp(source.parse().unwrap());
            all.find("alice@example.test", contact, None, source, call_id).map(|(id, _)| id)
        };
        assert_eq!(find("203.0.113.101:61000", "x"), Some(first));
        assert_eq!(find("203.0.113.102:61000", "x"), Some(second));
        assert_eq!(find("203.0.113.102:61999", "b"), Some(second), "the NAT gave it another port");
        assert_eq!(find("203.0.113.103:61000", "c"), None);
        all.remove(first);
        assert_eq!(all.of("alice@example.test"), &[second]);
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
