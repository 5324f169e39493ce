//! Ways out of the host: the entries of `NEXT_HOPS`, one a gateway or neighbour, shared by all legs that use it.
//!
//! A destination is routed when its first leg needs it, and looked after as long as one does: neighbours that the kernel
//! does not know are asked for, routes and hardware addresses are compared with the kernel's every second.

use super::legs::Locals;
use crate::config::VlanTag;
use crate::datapath::DatapathError;
use crate::netlink::{Mac, Netlink, Route};
use proxy_common::layout::{NextHop, next_hop_kind};
use std::{
    collections::{HashMap, VecDeque},
    io,
    net::IpAddr,
    time::{Duration, Instant},
};

/// Index of the entry for what is not known yet.
pub(super) const UNRESOLVED: u16 = 0;

/// So often everything in use is compared with the kernel's view.
const REFRESH: Duration = Duration::from_secs(1);
/// First and longest pause before an unknown neighbour is looked for again; it doubles in between.
const RETRY: (Duration, Duration) = (Duration::from_millis(5), REFRESH);
/// At most so many destinations are routed anew each second; the others have their turn in the next ones.
const ROUTES_A_REFRESH: usize = 1_024;
const FULL: DatapathError = DatapathError::Full("NEXT_HOPS (raise max_next_hops in [maps] or --max-next-hops)");

/// What is asked of the kernel.
pub(super) trait Neighbourhood {
    /// See [`Netlink::route`].
    fn route(&mut self, destination: IpAddr, source: IpAddr, interface: u32) -> io::Result<Option<Route>>;
    /// See [`Netlink::neighbour`].
    fn neighbour(&mut self, interface: u32, address: IpAddr) -> io::Result<Option<crate::netlink::Neighbour>>;
    /// See [`Netlink::use_neighbour`].
    fn use_neighbour(&mut self, interface: u32, address: IpAddr) -> io::Result<()>;
}

impl Neighbourhood for Netlink {
    fn route(&mut self, destination: IpAddr, source: IpAddr, interface: u32) -> io::Result<Option<Route>> {
        self.route(destination, source, interface)
    }

    fn neighbour(&mut self, interface: u32, address: IpAddr) -> io::Result<Option<crate::netlink::Neighbour>> {
        self.neighbour(interface, address)
    }

    fn use_neighbour(&mut self, interface: u32, address: IpAddr) -> io::Result<()> {
        self.use_neighbour(interface, address)
    }
}

/// The interface of a realm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Egress {
    /// Its index: where frames leave.
    pub(super) interface: u32,
    /// Index of the interface that has the realm's addresses: where the kernel is asked for routes and neighbours. Of a
    /// realm on a VLAN it is the VLAN's device.
    pub(super) asked: u32,
    /// Its slot in `DEVICES`.
    pub(super) device: u32,
    /// Its hardware address.
    pub(super) mac: Mac,
    /// The realm's media address.
    pub(super) source: IpAddr,
    /// VLAN tags of its frames.
    pub(super) vlan: Tags,
    /// The largest IP packet, bytes; 0: not known.
    pub(super) mtu: u16,
}

/// VLAN tags as [`NextHop`] has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Tags {
    count: u16,
    control: [u16; 2],
}

impl Tags {
    /// `tags` are at most two.
    pub(super) fn new(tags: &[VlanTag]) -> Self {
        let control = |tag: &VlanTag| (u16::from(tag.priority) << 13 | tag.id & 0xfff).to_be();
        let mut values = tags.iter().map(control);
        Self { count: tags.len().min(2) as u16, control: [values.next().unwrap_or(0), values.next().unwrap_or(0)] }
    }
}

/// A destination in a realm.
pub(super) type Destination = (usize, IpAddr);

/// The table. Changes of entries are collected in [`NextHops::take_writes`].
pub(super) struct NextHops<N> {
    kernel: N,
    locals: Locals,
    egress: Vec<Egress>,
    /// Index 0 is [`UNRESOLVED`] and holds nothing.
    entries: Vec<Option<Entry>>,
    /// Free indices; the one that is free for longest is used first, so that no packet under way finds another's.
    free: VecDeque<u16>,
    by_key: HashMap<Key, u16>,
    destinations: HashMap<Destination, Routed>,
    writes: Vec<(u16, NextHop)>,
    refresh_at: Option<Instant>,
    retry_at: Option<Instant>,
    retry_pause: Duration,
    /// Where the next round of [`ROUTES_A_REFRESH`] begins.
    round: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key {
    Local,
    Neighbour { device: u32, vlan: Tags, address: IpAddr },
}

#[derive(Debug)]
struct Entry {
    key: Key,
    users: usize,
    egress: Option<Egress>,
    mac: Option<Mac>,
}

#[derive(Debug)]
struct Routed {
    users: usize,
    entry: u16,
}

impl<N: Neighbourhood> NextHops<N> {
    /// `egress` is by realm; `max` is the number of entries of the map.
    pub(super) fn new(kernel: N, locals: Locals, egress: Vec<Egress>, max: u32) -> Self {
        let max = u16::try_from(max.saturating_sub(1)).unwrap_or(u16::MAX);
        let entries = std::iter::repeat_with(|| None).take(usize::from(max) + 1).collect();
        Self {
            kernel,
            locals,
            egress,
            entries,
            free: (1..=max).collect(),
            by_key: HashMap::new(),
            destinations: HashMap::new(),
            writes: Vec::new(),
            refresh_at: None,
            retry_at: None,
            retry_pause: RETRY.0,
            round: 0,
        }
    }

    /// One more user of a destination; gives its entry's index. Where there is no way (yet), that is [`UNRESOLVED`].
    ///
    /// # Errors
    ///
    /// There is a way, but no room for another one in the table.
    pub(super) fn acquire(&mut self, destination: Destination, now: Instant) -> Result<u16, DatapathError> {
        if let Some(routed) = self.destinations.get_mut(&destination) {
            routed.users += 1;
            return Ok(routed.entry);
        }
        let entry = self.route(destination, now).ok_or(FULL)?;
        self.destinations.insert(destination, Routed { users: 1, entry });
        self.refresh_at.get_or_insert(now + REFRESH);
        Ok(entry)
    }

    /// One user less.
    pub(super) fn release(&mut self, destination: Destination) {
        let Some(routed) = self.destinations.get_mut(&destination) else { return };
        routed.users -= 1;
        if routed.users == 0 {
            let entry = routed.entry;
            self.destinations.remove(&destination);
            self.release_entry(entry);
        }
    }

    /// The index of a destination's entry; [`UNRESOLVED`] for one that nobody acquired.
    pub(super) fn of(&self, destination: Destination) -> u16 {
        self.destinations.get(&destination).map_or(UNRESOLVED, |routed| routed.entry)
    }

    /// Does what is due. Returns whether a destination has another entry than before.
    pub(super) fn poll(&mut self, now: Instant) -> bool {
        let mut moved = false;
        if self.refresh_at.is_some_and(|at| at <= now) {
            moved = self.refresh_routes(now);
            self.refresh_entries(now, true);
            self.refresh_at = (!self.destinations.is_empty()).then_some(now + REFRESH);
        }
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
            self.retry_pause = (self.retry_pause * 2).min(RETRY.1);
            self.refresh_entries(now, false);
        }
        moved
    }

    /// When [`NextHops::poll`] is due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.refresh_at.into_iter().chain(self.retry_at).min()
    }

    /// Values that the map is to hold, in order.
    pub(super) fn take_writes(&mut self) -> Vec<(u16, NextHop)> {
        std::mem::take(&mut self.writes)
    }

    /// Entries in use.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.iter().flatten().count()
    }

    /// Finds the way of a destination and takes a share in its entry; `None` where the table is full.
    fn route(&mut self, (realm, address): Destination, now: Instant) -> Option<u16> {
        let Some(&egress) = self.egress.get(realm) else { return Some(UNRESOLVED) };
        if self.locals.contains(address) {
            return self.share(Key::Local, None, now);
        }
        match self.kernel.route(address, egress.source, egress.asked) {
            Ok(Some(route)) if route.interface == egress.asked => {
                let key = Key::Neighbour { device: egress.device, vlan: egress.vlan, address: route.neighbour };
                self.share(key, Some(egress), now)
            }
            Ok(_) => Some(UNRESOLVED),
            Err(error) => {
                tracing::warn!(%address, %error, "cannot ask the kernel for a route");
                Some(UNRESOLVED)
            }
        }
    }

    fn share(&mut self, key: Key, egress: Option<Egress>, now: Instant) -> Option<u16> {
        if let Some(&index) = self.by_key.get(&key) {
            if let Some(Some(entry)) = self.entries.get_mut(usize::from(index)) {
                entry.users += 1;
            }
            return Some(index);
        }
        let index = self.free.pop_front()?;
        *self.entries.get_mut(usize::from(index))? = Some(Entry { key, users: 1, egress, mac: None });
        self.by_key.insert(key, index);
        if key == Key::Local {
            self.writes.push((index, NextHop { kind: next_hop_kind::LOCAL, ..NextHop::default() }));
        } else {
            // Somebody waits for this one, unlike for those that have not answered for long.
            self.retry_pause = RETRY.0;
            self.resolve(index, now);
        }
        Some(index)
    }

    fn release_entry(&mut self, index: u16) {
        let Some(slot) = self.entries.get_mut(usize::from(index)) else { return };
        let Some(entry) = slot else { return };
        entry.users -= 1;
        if entry.users == 0 {
            self.by_key.remove(&entry.key);
            *slot = None;
            self.free.push_back(index);
            self.writes.push((index, NextHop::default()));
        }
    }

    /// Routes destinations anew: those without a way, and the next ones of the round.
    fn refresh_routes(&mut self, now: Instant) -> bool {
        let all: Vec<_> = self.destinations.iter().map(|(destination, routed)| (*destination, routed.entry)).collect();
        let unknown = all.iter().filter(|(_, entry)| *entry == UNRESOLVED);
        let known: Vec<_> = all.iter().filter(|(_, entry)| *entry != UNRESOLVED).collect();
        // Iteration order stays as long as nothing is inserted, so that over the rounds everyone has a turn: half of
        // each round is theirs, however many have no way.
        let start = if self.round < known.len() { self.round } else { 0 };
        let mut turn: Vec<_> = unknown.take(ROUTES_A_REFRESH / 2).copied().collect();
        let unknown = turn.len();
        turn.extend(known.into_iter().skip(start).take(ROUTES_A_REFRESH - unknown));
        self.round = start + turn.len() - unknown;
        let (mut moved, mut full) = (false, false);
        for (destination, before) in turn {
            let after = self.route(destination, now);
            full |= after.is_none();
            let after = after.unwrap_or(UNRESOLVED);
            self.release_entry(before);
            if let Some(routed) = self.destinations.get_mut(&destination) {
                moved |= routed.entry != after;
                routed.entry = after;
            }
        }
        if full {
            tracing::warn!("{FULL}: media of some calls has no way out");
        }
        moved
    }

    /// Compares hardware addresses with the kernel's: all, or only those that are not known.
    fn refresh_entries(&mut self, now: Instant, all: bool) {
        let wanted = |entry: &Entry| entry.key != Key::Local && (all || entry.mac.is_none());
        let indices = self.entries.iter().enumerate().filter(|(_, entry)| entry.as_ref().is_some_and(wanted));
        let indices: Vec<_> = indices.filter_map(|(index, _)| u16::try_from(index).ok()).collect();
        for index in indices {
            self.resolve(index, now);
        }
    }

    /// Takes over the kernel's view of one neighbour; asks it to find out where it has none.
    fn resolve(&mut self, index: u16, now: Instant) {
        let Some(Some(entry)) = self.entries.get_mut(usize::from(index)) else { return };
        let (Key::Neighbour { address, .. }, Some(egress)) = (entry.key, entry.egress) else { return };
        let known = self.kernel.neighbour(egress.asked, address).unwrap_or_else(|error| {
            tracing::warn!(%address, %error, "cannot ask the kernel for a neighbour");
            None
        });
        // Packets that XDP sends do not count as use: without this the kernel would forget the neighbour.
        if known.is_none_or(|known| !known.confirmed)
            && let Err(error) = self.kernel.use_neighbour(egress.asked, address)
        {
            tracing::warn!(%address, %error, "the kernel does not look for a neighbour");
        }
        let mac = known.map(|known| known.mac);
        if mac != entry.mac {
            entry.mac = mac;
            self.writes.push((index, value(egress, mac)));
            self.retry_pause = RETRY.0;
        }
        if mac.is_none() {
            let at = now + self.retry_pause;
            self.retry_at = Some(self.retry_at.map_or(at, |earlier| earlier.min(at)));
        }
    }
}

fn value(egress: Egress, mac: Option<Mac>) -> NextHop {
    match mac {
        Some(mac) => NextHop {
            kind: next_hop_kind::NEIGHBOUR,
            interface: egress.interface,
            device: egress.device,
            destination_mac: mac,
            source_mac: egress.mac,
            vlan: egress.vlan.control,
            tags: egress.vlan.count,
            mtu: egress.mtu,
        },
        None => NextHop::default(),
    }
}

#[cfg(test)]
pub(super) mod tests;
