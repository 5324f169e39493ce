//! Next hops: the entries of `NEXT_HOPS`, one for each gateway or neighbour, shared by all legs that use it.
//!
//! A destination is routed when its first leg needs it, and kept up to date as long as one does. The table itself
//! performs no requests and never waits: it emits [`Question`]s and learns [`Fact`]s, in any order.
//!
//! What may still work stays until something better is known: a neighbour that the kernel has lost keeps its hardware
//! address while it is looked for again, and a destination with another route moves when its new neighbour is known.

use super::{indices::HopIndex, legs::Locals};
use crate::{
    config::VlanTag,
    datapath::DatapathError,
    media::PerRealm,
    netlink::{
        Link, Mac, Neighbour,
        monitor::Event,
        worker::{Fact, Question},
    },
};
use proxy_common::layout::{NextHop, next_hop_kind};
use refresh::Refresh;
use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    net::IpAddr,
    time::{Duration, Instant},
};

mod adopt;
mod key;
mod refresh;

pub(super) use key::{Destination, Key};

/// Index of the entry for destinations that are not known yet.
pub(super) const UNRESOLVED: HopIndex = HopIndex(0);

/// How long at least, and until the next [`RETRY`], what worked is used while the kernel looks for a neighbour. The
/// kernel asks three times, a second apart.
const HOLD: Duration = Duration::from_secs(5);
/// First and longest pause before the kernel is asked again to look for a neighbour; it doubles in between.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(8));
pub(super) const FULL: DatapathError =
    DatapathError::Full("NEXT_HOPS (raise max_next_hops in [maps] or --max-next-hops)");

/// The interface of a realm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::datapath) struct Egress {
    /// Index of the one that frames leave by.
    pub(in crate::datapath) interface: u32,
    /// Index of the interface with the realm's routes and neighbours in the kernel: a VLAN's, where there is one.
    pub(super) neighbour_interface: u32,
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tags {
    count: u16,
    control: [u16; 2],
}

impl Tags {
    /// `tags` are at most two.
    pub(in crate::datapath) fn new(tags: &[VlanTag]) -> Self {
        let control = |tag: &VlanTag| (u16::from(tag.priority) << 13 | tag.id & 0xfff).to_be();
        let mut values = tags.iter().map(control);
        Self { count: tags.len().min(2) as u16, control: [values.next().unwrap_or(0), values.next().unwrap_or(0)] }
    }
}

/// The table. What must be done is collected in [`NextHops::take_writes`] and [`NextHops::take_questions`].
pub(in crate::datapath) struct NextHops {
    locals: Locals,
    egress: PerRealm<Egress>,
    /// Whether interfaces are up and have a carrier, as far as that matters and is known.
    links: HashMap<u32, (bool, bool)>,
    /// Index 0 is [`UNRESOLVED`] and holds nothing.
    entries: Vec<Option<Entry>>,
    /// Free indices; the one that is free for longest is used first, so that no packet under way finds another's entry.
    free: VecDeque<HopIndex>,
    by_key: HashMap<Key, HopIndex>,
    destinations: HashMap<Destination, Routed>,
    /// When to look again for the neighbour of an entry.
    due: BTreeSet<(Instant, HopIndex)>,
    refresh: Refresh,
    questions: Vec<Question>,
    writes: Vec<(HopIndex, NextHop)>,
    /// Entries that became free, until nothing refers to them any more.
    cleared: Vec<HopIndex>,
    moved: Vec<Destination>,
    refused: Vec<Destination>,
}

#[derive(Debug)]
struct Entry {
    key: Key,
    users: usize,
    egress: Option<Egress>,
    mac: Option<Mac>,
    /// Since when the kernel does not know the neighbour; `None` while it does.
    unknown_since: Option<Instant>,
    /// When to look again; also in [`NextHops::due`].
    due: Option<Instant>,
    pause: Duration,
    /// Destinations that move here once the neighbour is known.
    waiting: Vec<Destination>,
}

#[derive(Debug)]
struct Routed {
    users: usize,
    entry: HopIndex,
    /// Where it moves to.
    coming: Option<HopIndex>,
    /// Whether the kernel has answered.
    known: bool,
}

impl NextHops {
    /// `max` is the number of entries of the map.
    pub(in crate::datapath) fn new(locals: Locals, egress: PerRealm<Egress>, max: u32) -> Self {
        let max = u16::try_from(max.saturating_sub(1)).unwrap_or(u16::MAX);
        let entries = std::iter::repeat_with(|| None).take(usize::from(max) + 1).collect();
        Self {
            locals,
            egress,
            links: HashMap::new(),
            entries,
            free: (1..=max).map(HopIndex).collect(),
            by_key: HashMap::new(),
            destinations: HashMap::new(),
            due: BTreeSet::new(),
            refresh: Refresh::default(),
            questions: Vec::new(),
            writes: Vec::new(),
            cleared: Vec::new(),
            moved: Vec::new(),
            refused: Vec::new(),
        }
    }

    /// Adds a user of a destination, and returns its entry's index. Until its next hop is known, that is
    /// [`UNRESOLVED`].
    ///
    /// # Errors
    ///
    /// There is no room in the table. If that turns out only when the next hop is known, see
    /// [`NextHops::take_refused`].
    pub(super) fn acquire(&mut self, destination: Destination, now: Instant) -> Result<HopIndex, DatapathError> {
        if let Some(routed) = self.destinations.get_mut(&destination) {
            routed.users += 1;
            return Ok(routed.entry);
        }
        let (realm, address) = destination;
        let (mut entry, mut known) = (UNRESOLVED, false);
        if self.egress.get(realm).is_some() && self.locals.contains(address) {
            (entry, known) = (self.share(Key::Local, None, now).ok_or(FULL)?, true);
        } else {
            self.ask_route(destination);
        }
        self.destinations.insert(destination, Routed { users: 1, entry, coming: None, known });
        self.refresh.wanted(now);
        Ok(entry)
    }

    /// One user less.
    pub(super) fn release(&mut self, destination: Destination) {
        let Some(routed) = self.destinations.get_mut(&destination) else { return };
        routed.users -= 1;
        if routed.users == 0 {
            let (entry, coming) = (routed.entry, routed.coming);
            self.destinations.remove(&destination);
            self.release_entry(entry);
            coming.into_iter().for_each(|coming| self.release_entry(coming));
        }
    }

    /// The index of a destination's entry; [`UNRESOLVED`] for one that was not acquired.
    pub(super) fn of(&self, destination: Destination) -> HopIndex {
        self.destinations.get(&destination).map_or(UNRESOLVED, |routed| routed.entry)
    }

    /// The kernel said something.
    pub(in crate::datapath) fn learn(&mut self, fact: Fact, now: Instant) {
        match fact {
            Fact::Route { realm, destination, route } => {
                self.refresh.answered();
                match route {
                    Ok(route) => {
                        let interface = self.egress.get(realm).map(|egress| egress.neighbour_interface);
                        let route = route.filter(|route| Some(route.interface) == interface);
                        self.routed((realm, destination), route.map(|route| route.neighbour), now);
                    }
                    Err(error) => {
                        tracing::warn!(%destination, %error, "cannot ask the kernel for a route");
                        self.refresh.request(false, now + RETRY.0);
                    }
                }
            }
            Fact::Neighbour { interface, address, known } => {
                self.refresh.answered();
                match known {
                    Ok(known) => self.neighbour(interface, address, known, true, now),
                    Err(error) => {
                        tracing::warn!(%address, %error, "cannot ask the kernel for a neighbour");
                        self.refresh.request(true, now + RETRY.0);
                    }
                }
            }
            Fact::Event(Event::Neighbour { interface, address, known }) => {
                self.neighbour(interface, address, known, false, now);
            }
            Fact::Links(Ok(links)) => links.iter().for_each(|link| self.link(link, now)),
            Fact::Links(Err(error)) => tracing::warn!(%error, "cannot list the network interfaces"),
            Fact::Event(Event::Link(link)) => self.link(&link, now),
            Fact::Event(Event::LinkGone(index)) => {
                if self.links.remove(&index).is_some() {
                    self.refresh.request(false, now);
                }
            }
            Fact::Event(Event::Routes) => self.refresh.request(false, now),
            Fact::Event(Event::Lost) => self.refresh.request(true, now),
        }
        self.refresh(now);
    }

    /// Does what is due.
    pub(super) fn poll(&mut self, now: Instant) {
        while let Some(&(at, index)) = self.due.first().filter(|(at, _)| *at <= now) {
            self.due.remove(&(at, index));
            self.look_again(index, now);
        }
        self.refresh(now);
    }

    /// When [`NextHops::poll`] is due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.refresh.poll_timeout().into_iter().chain(self.due.first().map(|(at, _)| *at)).min()
    }

    /// What to ask the kernel.
    pub(in crate::datapath) fn take_questions(&mut self) -> Vec<Question> {
        std::mem::take(&mut self.questions)
    }

    /// Values to be written to the map, in order.
    pub(in crate::datapath) fn take_writes(&mut self) -> Vec<(HopIndex, NextHop)> {
        std::mem::take(&mut self.writes)
    }

    /// Destinations that may have another entry than before. Once they have been reported, what they had is cleared: so
    /// the writes taken before this must have been made, and those after it come after the report.
    pub(super) fn take_moved(&mut self) -> Vec<Destination> {
        self.writes.extend(self.cleared.drain(..).map(|index| (index, NextHop::default())));
        std::mem::take(&mut self.moved)
    }

    /// New destinations whose route is known, but which the table has no room for.
    pub(super) fn take_refused(&mut self) -> Vec<Destination> {
        std::mem::take(&mut self.refused)
    }

    /// Entries in use.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.iter().flatten().count()
    }

    fn ask_route(&mut self, (realm, destination): Destination) {
        let Some(egress) = self.egress.get(realm) else { return };
        let (source, interface) = (egress.source, egress.neighbour_interface);
        let waiting = self.of((realm, destination)) == UNRESOLVED;
        self.refresh.asked();
        self.questions.push(Question::Route { realm, destination, source, interface, waiting });
    }

    fn ask_neighbour(&mut self, key: Key) {
        let Key::Neighbour { interface, address } = key else { return };
        self.refresh.asked();
        self.questions.push(Question::Neighbour { interface, address });
    }

    /// Asks again for those whose turn it is.
    fn refresh(&mut self, now: Instant) {
        if self.refresh.begins(now) {
            if self.destinations.is_empty() {
                return self.refresh.rest();
            }
            let destinations = self.destinations.keys().copied().collect();
            let entries = self.by_key.values().copied().collect();
            self.refresh.begin(destinations, entries, now);
        }
        while let Some(turn) = self.refresh.next() {
            match turn {
                refresh::Turn::Destination(destination) => {
                    if self
                        .destinations
                        .get(&destination)
                        .is_some_and(|routed| self.key(routed.entry) != Some(Key::Local))
                    {
                        self.ask_route(destination);
                    }
                }
                refresh::Turn::Entry(index) => {
                    if let Some(key) = self.key(index) {
                        self.ask_neighbour(key);
                    }
                }
            }
        }
    }

    fn key(&self, index: HopIndex) -> Option<Key> {
        Some(self.entries.get(index.place())?.as_ref()?.key)
    }

    fn entry(&mut self, index: HopIndex) -> Option<&mut Entry> {
        self.entries.get_mut(index.place())?.as_mut()
    }

    /// The kernel sends a destination to this neighbour, or has no route to it.
    fn routed(&mut self, destination: Destination, neighbour: Option<IpAddr>, now: Instant) {
        let Some(egress) = self.egress.get(destination.0).copied() else { return };
        let Some(routed) = self.destinations.get_mut(&destination) else { return };
        let (before, coming, first) = (routed.entry, routed.coming, !routed.known);
        routed.known = true;
        let Some(address) = neighbour else { return self.switch(destination, UNRESOLVED) };
        let key = Key::Neighbour { interface: egress.neighbour_interface, address };
        let is = |index: HopIndex| self.key(index) == Some(key);
        if is(before) {
            return self.forget_coming(destination);
        }
        if coming.is_some_and(is) {
            return;
        }
        self.forget_coming(destination);
        let Some(index) = self.share(key, Some(egress), now) else {
            if first {
                self.refused.push(destination);
            } else {
                tracing::warn!("{FULL}: media of some calls goes where it went before the route changed");
            }
            return;
        };
        let works = |index: HopIndex| {
            let entry = self.entries.get(index.place()).and_then(Option::as_ref);
            entry.is_some_and(|entry| entry.mac.is_some())
        };
        if works(index) || !works(before) {
            return self.switch(destination, index);
        }
        if let Some(routed) = self.destinations.get_mut(&destination) {
            routed.coming = Some(index);
        }
        if let Some(entry) = self.entry(index) {
            entry.waiting.push(destination);
        }
    }

    /// Moves a destination to an entry that it already has a share in.
    fn switch(&mut self, destination: Destination, index: HopIndex) {
        let Some(routed) = self.destinations.get_mut(&destination) else { return };
        let before = std::mem::replace(&mut routed.entry, index);
        let coming = routed.coming.take().filter(|coming| *coming != index);
        if before != index {
            self.moved.push(destination);
            self.release_entry(before);
        }
        coming.into_iter().for_each(|coming| self.release_entry(coming));
    }

    fn forget_coming(&mut self, destination: Destination) {
        let coming = self.destinations.get_mut(&destination).and_then(|routed| routed.coming.take());
        coming.into_iter().for_each(|coming| self.release_entry(coming));
    }

    /// Takes a share in the entry; `None` where the table is full.
    fn share(&mut self, key: Key, egress: Option<Egress>, now: Instant) -> Option<HopIndex> {
        if let Some(&index) = self.by_key.get(&key) {
            self.entry(index)?.users += 1;
            return Some(index);
        }
        let index = self.free.pop_front()?;
        self.cleared.retain(|cleared| *cleared != index);
        let local = key == Key::Local;
        *self.entries.get_mut(index.place())? = Some(Entry {
            key,
            users: 1,
            egress,
            mac: None,
            unknown_since: (!local).then_some(now),
            due: None,
            pause: RETRY.0,
            waiting: Vec::new(),
        });
        self.by_key.insert(key, index);
        let kind = if local { next_hop_kind::LOCAL } else { next_hop_kind::UNRESOLVED };
        self.writes.push((index, NextHop { kind, ..NextHop::default() }));
        self.ask_neighbour(key);
        Some(index)
    }

    fn release_entry(&mut self, index: HopIndex) {
        let Some(slot) = self.entries.get_mut(index.place()) else { return };
        let Some(entry) = slot else { return };
        entry.users -= 1;
        if entry.users == 0 {
            self.by_key.remove(&entry.key);
            if let Some(at) = entry.due {
                self.due.remove(&(at, index));
            }
            *slot = None;
            self.free.push_back(index);
            self.cleared.push(index);
        }
    }

    /// What the kernel knows about a neighbour, asked or not.
    fn neighbour(&mut self, interface: u32, address: IpAddr, known: Option<Neighbour>, asked: bool, now: Instant) {
        let key = Key::Neighbour { interface, address };
        let Some(&index) = self.by_key.get(&key) else { return };
        let Some(entry) = self.entries.get_mut(index.place()).and_then(Option::as_mut) else { return };
        if let Some(Neighbour { mac, confirmed }) = known {
            entry.unknown_since = None;
            entry.pause = RETRY.0;
            if let Some(at) = entry.due.take() {
                self.due.remove(&(at, index));
            }
            let waiting = std::mem::take(&mut entry.waiting);
            if entry.mac != Some(mac) {
                entry.mac = Some(mac);
                self.writes.extend(entry.value().map(|value| (index, value)));
            }
            self.arrive(waiting, index);
            // Packets that XDP sends do not count as use: without this the kernel would forget the neighbour.
            if !confirmed && !asked {
                self.ask_neighbour(key);
            }
            return;
        }
        entry.unknown_since.get_or_insert(now);
        if entry.due.is_none() {
            let at = now + entry.pause;
            entry.due = Some(at);
            self.due.insert((at, index));
            if !asked {
                self.ask_neighbour(key);
            }
        }
    }

    /// A neighbour is still not known: lets the kernel look for it again, and ends what waits for it.
    fn look_again(&mut self, index: HopIndex, now: Instant) {
        let Some(entry) = self.entries.get_mut(index.place()).and_then(Option::as_mut) else { return };
        let key = entry.key;
        let mut waiting = Vec::new();
        let at = now + entry.pause;
        entry.pause = (entry.pause * 2).min(RETRY.1);
        entry.due = Some(at);
        if entry.unknown_since.is_some_and(|since| now.duration_since(since) >= HOLD) {
            waiting = std::mem::take(&mut entry.waiting);
            if entry.mac.take().is_some() {
                self.writes.push((index, NextHop::default()));
            }
        }
        self.due.insert((at, index));
        self.arrive(waiting, index);
        self.ask_neighbour(key);
    }

    fn arrive(&mut self, waiting: Vec<Destination>, index: HopIndex) {
        for destination in waiting {
            // Some have another way by now.
            if self.destinations.get(&destination).is_some_and(|routed| routed.coming == Some(index)) {
                self.switch(destination, index);
            }
        }
    }

    /// An interface is like this.
    fn link(&mut self, link: &Link, now: Instant) {
        if !self.egress.iter().any(|egress| egress.neighbour_interface == link.index) {
            return;
        }
        // The kernel removes the routes over an interface that goes down without reporting each.
        let state = (link.up, link.carrier);
        if self.links.insert(link.index, state).is_some_and(|before| before != state) {
            self.refresh.request(true, now);
        }
        let Some(mac) = link.mac else { return };
        let other = |egress: &&mut Egress| egress.neighbour_interface == link.index && egress.mac != mac;
        self.egress.iter_mut().filter(other).for_each(|egress| egress.mac = mac);
        for (index, entry) in (0..).map(HopIndex).zip(&mut self.entries) {
            let Some(entry) = entry else { continue };
            if let Some(egress) = entry.egress.as_mut().filter(other) {
                egress.mac = mac;
                self.writes.extend(entry.value().map(|value| (index, value)));
            }
        }
    }
}

impl Entry {
    /// The map's value, if the neighbour is known.
    fn value(&self) -> Option<NextHop> {
        let (egress, mac) = (self.egress?, self.mac?);
        Some(NextHop {
            kind: next_hop_kind::NEIGHBOUR,
            interface: egress.interface,
            device: egress.device,
            destination_mac: mac,
            source_mac: egress.mac,
            vlan: egress.vlan.control,
            tags: egress.vlan.count,
            mtu: egress.mtu,
        })
    }
}

#[cfg(test)]
pub(super) mod tests;
