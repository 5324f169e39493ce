//! Entries that an earlier process left in the map.
//!
//! Legs refer to entries by index, so a destination gets back the entry that it had, as it is in the map. The kernel is
//! asked about it as about any other; until it answers, packets keep their next hop.

use super::{super::indices::HopIndex, Destination, Entry, Key, NextHops, RETRY, Routed, UNRESOLVED};
use proxy_common::layout::{NextHop, next_hop_kind};
use std::time::Instant;

impl NextHops {
    /// What the entry at an index is for, to be journalled.
    pub(in super::super) fn key_of(&self, index: HopIndex) -> Option<Key> {
        self.key(index)
    }

    /// Adds a user of a destination, which had the entry at `index` for `key`; `held` is what the map holds there.
    /// False where that is impossible: then it must be acquired like a new one.
    pub(in super::super) fn adopt(
        &mut self,
        destination: Destination,
        index: HopIndex,
        key: Key,
        held: NextHop,
        now: Instant,
    ) -> bool {
        if let Some(routed) = self.destinations.get_mut(&destination) {
            routed.users += 1;
            return true;
        }
        let Some(egress) = self.egress.get(destination.0).copied() else { return false };
        let fits = match key {
            Key::Local => self.locals.contains(destination.1),
            Key::Neighbour { interface, .. } => interface == egress.neighbour_interface,
        };
        let there = index.place();
        if !fits || index == UNRESOLVED || there >= self.entries.len() {
            return false;
        }
        match (self.by_key.get(&key), self.entries.get_mut(there)) {
            (Some(known), Some(Some(entry))) if *known == index => entry.users += 1,
            (None, Some(slot @ None)) => {
                let local = key == Key::Local;
                let mac = (!local && held.kind == next_hop_kind::NEIGHBOUR).then_some(held.destination_mac);
                let entry = Entry {
                    key,
                    users: 1,
                    egress: (!local).then_some(egress),
                    mac,
                    unknown_since: (!local && mac.is_none()).then_some(now),
                    due: None,
                    pause: RETRY.0,
                    waiting: Vec::new(),
                };
                let kind = if local { next_hop_kind::LOCAL } else { next_hop_kind::UNRESOLVED };
                let value = entry.value().unwrap_or(NextHop { kind, ..NextHop::default() });
                *slot = Some(entry);
                self.free.retain(|free| *free != index);
                self.cleared.retain(|cleared| *cleared != index);
                self.by_key.insert(key, index);
                if value != held {
                    self.writes.push((index, value));
                }
                self.ask_neighbour(key);
            }
            _ => return false,
        }
        self.destinations.insert(destination, Routed { users: 1, entry: index, coming: None, known: true });
        self.refresh.wanted(now);
        if key != Key::Local {
            self.ask_route(destination);
        }
        true
    }

    /// An entry that was in use and was not adopted: to be cleared.
    pub(in super::super) fn abandon(&mut self, index: HopIndex) {
        if index != UNRESOLVED && self.entries.get(index.place()).is_some_and(Option::is_none) {
            self.cleared.push(index);
        }
    }
}
