//! A table of sources or networks: a fixed number of places, found by prefix.
//!
//! Places whose source holds nothing are in one of two lists, in the order of their last use: those that have proved
//! their address, and the others. A newcomer without a free place gets the oldest of the others, or else of the first.

use super::amounts::Amounts;
use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

/// No place.
const NONE: u32 = u32::MAX;

/// What is known about a source or network.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    prefix: u128,
    pub(super) held: Amounts,
    /// Bytes that may be sent there without a proof.
    pub(super) credit: u32,
    /// When the next message is due at an even rate (ITU-T I.371, the generic cell rate algorithm).
    expected: Instant,
    proved_until: Option<Instant>,
    list: Option<List>,
    before: u32,
    after: u32,
}

/// Which list a place is in that holds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum List {
    Unproved,
    Proved,
}

impl Entry {
    pub(super) fn new(prefix: u128, now: Instant) -> Self {
        Self {
            prefix,
            held: Amounts::default(),
            credit: 0,
            expected: now,
            proved_until: None,
            list: None,
            before: NONE,
            after: NONE,
        }
    }

    /// Whether another message is within the rate, of which a second's worth may come at once.
    pub(super) fn may_message(&self, per_s: u32, now: Instant) -> bool {
        let most = Duration::from_secs(1).saturating_sub(interval(per_s));
        per_s > 0 && self.expected.saturating_duration_since(now) <= most
    }

    /// A message came.
    pub(super) fn message(&mut self, per_s: u32, now: Instant) {
        self.expected = self.expected.max(now) + interval(per_s);
    }

    pub(super) fn is_proved(&self, now: Instant) -> bool {
        self.proved_until.is_some_and(|until| now < until)
    }
}

fn interval(per_s: u32) -> Duration {
    Duration::from_secs(1) / per_s.max(1)
}

/// The places.
#[derive(Debug)]
pub(super) struct Table {
    capacity: u32,
    index: HashMap<u128, u32>,
    entries: Vec<Entry>,
    /// First and last of each list.
    lists: [(u32, u32); 2],
}

impl Table {
    pub(super) fn new(capacity: u32) -> Self {
        let places = capacity as usize;
        Self {
            capacity,
            // Twice the room: where at most half is used, a hash map cleans itself up in place and never grows.
            index: HashMap::with_capacity(2 * places),
            entries: Vec::with_capacity(places),
            lists: [(NONE, NONE); 2],
        }
    }

    /// The most bytes that it takes: its entries, and a hash map of a power of two of slots, at most 7/8 of them used,
    /// each with a byte of its own.
    pub(super) const fn memory_bound(capacity: u32) -> usize {
        let places = capacity as usize;
        let slots = (2 * places * 8 / 7 + 16).next_power_of_two();
        places * size_of::<Entry>() + slots * (size_of::<(u128, u32)>() + 1) + 64
    }

    /// The bytes that it has taken.
    #[cfg(test)]
    pub(super) fn memory(&self) -> usize {
        let slots = (self.index.capacity() * 8 / 7).next_power_of_two();
        self.entries.capacity() * size_of::<Entry>() + slots * (size_of::<(u128, u32)>() + 1)
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn get(&self, place: u32) -> Option<&Entry> {
        self.entries.get(place as usize)
    }

    pub(super) fn get_mut(&mut self, place: u32) -> Option<&mut Entry> {
        self.entries.get_mut(place as usize)
    }

    pub(super) fn find(&self, prefix: u128) -> Option<u32> {
        self.index.get(&prefix).copied()
    }

    /// The place of a prefix, as the one that was used last. `None` where all are taken by others that hold something.
    pub(super) fn place(&mut self, prefix: u128, now: Instant) -> Option<u32> {
        let place = match self.find(prefix) {
            Some(place) => place,
            None => self.new_place(prefix, now)?,
        };
        self.unlist(place);
        self.list(place, now);
        Some(place)
    }

    pub(super) fn prove(&mut self, place: u32, until: Instant, now: Instant) {
        if let Some(entry) = self.get_mut(place) {
            entry.proved_until = Some(until);
        }
        self.unlist(place);
        self.list(place, now);
    }

    pub(super) fn charge(&mut self, place: u32, amounts: Amounts) {
        if let Some(entry) = self.get_mut(place) {
            entry.held += amounts;
        }
        self.relist(place);
    }

    pub(super) fn discharge(&mut self, place: u32, amounts: Amounts) {
        if let Some(entry) = self.get_mut(place) {
            entry.held -= amounts;
        }
        self.relist(place);
    }

    fn new_place(&mut self, prefix: u128, now: Instant) -> Option<u32> {
        let fresh = Entry::new(prefix, now);
        let place = match u32::try_from(self.entries.len()) {
            Ok(place) if place < self.capacity => {
                self.entries.push(fresh);
                place
            }
            _ => {
                let oldest = self.lists.iter().map(|(first, _)| *first).find(|first| *first != NONE)?;
                self.unlist(oldest);
                let entry = self.get_mut(oldest)?;
                let gone = std::mem::replace(entry, fresh);
                self.index.remove(&gone.prefix);
                oldest
            }
        };
        self.index.insert(prefix, place);
        Some(place)
    }

    /// Puts a place into the list where it belongs, or takes it out of its list, as what it holds has changed.
    fn relist(&mut self, place: u32) {
        let Some(entry) = self.get(place) else { return };
        match (entry.held.is_zero(), entry.list) {
            (false, Some(_)) => self.unlist(place),
            (true, None) => {
                let list = if entry.proved_until.is_some() { List::Proved } else { List::Unproved };
                self.append(place, list);
            }
            _ => {}
        }
    }

    fn list(&mut self, place: u32, now: Instant) {
        let Some(entry) = self.get(place) else { return };
        if entry.held.is_zero() {
            let list = if entry.is_proved(now) { List::Proved } else { List::Unproved };
            self.append(place, list);
        }
    }

    fn append(&mut self, place: u32, list: List) {
        let last = self.lists[list as usize].1;
        if let Some(entry) = self.get_mut(place) {
            (entry.list, entry.before, entry.after) = (Some(list), last, NONE);
        }
        match self.get_mut(last) {
            Some(last) => last.after = place,
            None => self.lists[list as usize].0 = place,
        }
        self.lists[list as usize].1 = place;
    }

    fn unlist(&mut self, place: u32) {
        let Some(entry) = self.get_mut(place) else { return };
        let Some(list) = entry.list.take() else { return };
        let (before, after) = (entry.before, entry.after);
        match self.get_mut(before) {
            Some(before) => before.after = after,
            None => self.lists[list as usize].0 = after,
        }
        match self.get_mut(after) {
            Some(after) => after.before = before,
            None => self.lists[list as usize].1 = before,
        }
    }
}

/// The prefix of one source: an IPv4 address, a /64 of IPv6.
pub(super) fn source(address: IpAddr) -> u128 {
    prefix(address, 32, 64)
}

/// The prefix of its network: a /24 of IPv4, a /48 of IPv6.
pub(super) fn network(address: IpAddr) -> u128 {
    prefix(address, 24, 48)
}

/// IPv4 addresses are mapped into IPv6 at ::ffff:0:0/96.
fn prefix(address: IpAddr, v4_bits: u32, v6_bits: u32) -> u128 {
    let (bits, length) = match address.to_canonical() {
        IpAddr::V4(v4) => (v4.to_ipv6_mapped(), 96 + v4_bits),
        IpAddr::V6(v6) => (v6, v6_bits),
    };
    let bits = Ipv6Addr::to_bits(bits);
    bits >> (128 - length) << (128 - length)
}
