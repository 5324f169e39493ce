//! Ways out of the host: the entries of `NEXT_HOPS`, one a gateway or neighbour, shared by all legs that use it.
//!
//! A destination is routed when its first leg needs it, and looked after as long as one does: neighbours that the kernel
//! does not know are asked for, routes and hardware addresses are compared with the kernel's every second.

use super::legs::Locals;
use crate::netlink::{Mac, Netlink, Route};
use proxy_common::layout::{NextHop, next_hop_kind};
use std::{
    collections::HashMap,
    io,
    net::Ipv4Addr,
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

/// What is asked of the kernel.
pub(super) trait Neighbourhood {
    /// See [`Netlink::route`].
    fn route(&mut self, destination: Ipv4Addr, source: Ipv4Addr, interface: u32) -> io::Result<Option<Route>>;
    /// See [`Netlink::neighbour`].
    fn neighbour(&mut self, interface: u32, address: Ipv4Addr) -> io::Result<Option<crate::netlink::Neighbour>>;
    /// See [`Netlink::use_neighbour`].
    fn use_neighbour(&mut self, interface: u32, address: Ipv4Addr) -> io::Result<()>;
}

impl Neighbourhood for Netlink {
    fn route(&mut self, destination: Ipv4Addr, source: Ipv4Addr, interface: u32) -> io::Result<Option<Route>> {
        self.route(destination, source, interface)
    }

    fn neighbour(&mut self, interface: u32, address: Ipv4Addr) -> io::Result<Option<crate::netlink::Neighbour>> {
        self.neighbour(interface, address)
    }

    fn use_neighbour(&mut self, interface: u32, address: Ipv4Addr) -> io::Result<()> {
        self.use_neighbour(interface, address)
    }
}

/// The interface of a realm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Egress {
    /// Its index.
    pub(super) interface: u32,
    /// Its slot in `DEVICES`.
    pub(super) device: u32,
    /// Its hardware address.
    pub(super) mac: Mac,
    /// The realm's media address.
    pub(super) source: Ipv4Addr,
}

/// A destination in a realm.
pub(super) type Destination = (usize, Ipv4Addr);

/// The table. Changes of entries are collected in [`NextHops::take_writes`].
pub(super) struct NextHops<N> {
    kernel: N,
    locals: Locals,
    egress: Vec<Egress>,
    /// Index 0 is [`UNRESOLVED`] and holds nothing.
    entries: Vec<Option<Entry>>,
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
    Neighbour { device: u32, address: Ipv4Addr },
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
        let entries = std::iter::repeat_with(|| None).take(max.min(65_536) as usize).collect();
        Self {
            kernel,
            locals,
            egress,
            entries,
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
    pub(super) fn acquire(&mut self, destination: Destination, now: Instant) -> u16 {
        if let Some(routed) = self.destinations.get_mut(&destination) {
            routed.users += 1;
            return routed.entry;
        }
        let entry = self.route(destination, now);
        self.destinations.insert(destination, Routed { users: 1, entry });
        self.refresh_at.get_or_insert(now + REFRESH);
        entry
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

    /// Finds the way of a destination and takes a share in its entry.
    fn route(&mut self, (realm, address): Destination, now: Instant) -> u16 {
        let Some(&egress) = self.egress.get(realm) else { return UNRESOLVED };
        if self.locals.contains(address) {
            return self.share(Key::Local, None, now);
        }
        match self.kernel.route(address, egress.source, egress.interface) {
            Ok(Some(route)) if route.interface == egress.interface => {
                let key = Key::Neighbour { device: egress.device, address: route.neighbour };
                self.share(key, Some(egress), now)
            }
            Ok(_) => UNRESOLVED,
            Err(error) => {
                tracing::warn!(%address, %error, "cannot ask the kernel for a route");
                UNRESOLVED
            }
        }
    }

    fn share(&mut self, key: Key, egress: Option<Egress>, now: Instant) -> u16 {
        if let Some(&index) = self.by_key.get(&key) {
            if let Some(Some(entry)) = self.entries.get_mut(usize::from(index)) {
                entry.users += 1;
            }
            return index;
        }
        let free = self.entries.iter_mut().enumerate().skip(1).find(|(_, entry)| entry.is_none());
        let Some((index, slot)) = free else {
            tracing::warn!("NEXT_HOPS is full: raise --max-next-hops");
            return UNRESOLVED;
        };
        let index = u16::try_from(index).unwrap_or(UNRESOLVED);
        *slot = Some(Entry { key, users: 1, egress, mac: None });
        self.by_key.insert(key, index);
        if key == Key::Local {
            self.writes.push((index, NextHop { kind: next_hop_kind::LOCAL, ..NextHop::default() }));
        } else {
            self.resolve(index, now);
        }
        index
    }

    fn release_entry(&mut self, index: u16) {
        let Some(slot) = self.entries.get_mut(usize::from(index)) else { return };
        let Some(entry) = slot else { return };
        entry.users -= 1;
        if entry.users == 0 {
            self.by_key.remove(&entry.key);
            *slot = None;
            self.writes.push((index, NextHop::default()));
        }
    }

    /// Routes destinations anew: those without a way, and the next ones of the round.
    fn refresh_routes(&mut self, now: Instant) -> bool {
        let all: Vec<_> = self.destinations.iter().map(|(destination, routed)| (*destination, routed.entry)).collect();
        let unknown = all.iter().filter(|(_, entry)| *entry == UNRESOLVED);
        let known = all.iter().filter(|(_, entry)| *entry != UNRESOLVED);
        // Iteration order stays as long as nothing is inserted, so that over the rounds everyone has a turn.
        let start = if self.round < all.len() { self.round } else { 0 };
        let turn: Vec<_> = unknown.chain(known.skip(start)).take(ROUTES_A_REFRESH).copied().collect();
        self.round = start + turn.len();
        let mut moved = false;
        for (destination, before) in turn {
            let after = self.route(destination, now);
            self.release_entry(before);
            if let Some(routed) = self.destinations.get_mut(&destination) {
                moved |= routed.entry != after;
                routed.entry = after;
            }
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
        let known = self.kernel.neighbour(egress.interface, address).unwrap_or_else(|error| {
            tracing::warn!(%address, %error, "cannot ask the kernel for a neighbour");
            None
        });
        // Packets that XDP sends do not count as use: without this the kernel would forget the neighbour.
        if known.is_none_or(|known| !known.confirmed)
            && let Err(error) = self.kernel.use_neighbour(egress.interface, address)
        {
            tracing::warn!(%address, %error, "the kernel does not look for a neighbour");
        }
        let mac = known.map(|known| known.mac);
        if mac != entry.mac {
            entry.mac = mac;
            self.writes.push((index, value(egress, mac)));
        }
        match mac {
            Some(_) => self.retry_pause = RETRY.0,
            None => {
                self.retry_at.get_or_insert(now + self.retry_pause);
                self.retry_pause = (self.retry_pause * 2).min(RETRY.1);
            }
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
        },
        None => NextHop::default(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::{
        config::{Config, PortRange, Realm, Side},
        netlink::Neighbour,
    };
    use std::{cell::RefCell, collections::BTreeMap, net::SocketAddr, rc::Rc};

    pub(in super::super) const GATEWAY: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
    pub(in super::super) const GATEWAY_MAC: Mac = [2, 0, 0, 0, 0, 1];
    const FAR: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
    const FURTHER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 8);

    /// A kernel that routes everything to the gateway of the test's choice.
    #[derive(Clone, Default)]
    pub(in super::super) struct FakeKernel(pub(in super::super) Rc<RefCell<View>>);

    #[derive(Default)]
    pub(in super::super) struct View {
        pub(in super::super) gateway: Option<Ipv4Addr>,
        pub(in super::super) neighbours: BTreeMap<Ipv4Addr, Neighbour>,
        pub(in super::super) used: Vec<Ipv4Addr>,
    }

    impl Neighbourhood for FakeKernel {
        fn route(&mut self, _: Ipv4Addr, _: Ipv4Addr, interface: u32) -> io::Result<Option<Route>> {
            Ok(self.0.borrow().gateway.map(|neighbour| Route { interface, neighbour }))
        }

        fn neighbour(&mut self, _: u32, address: Ipv4Addr) -> io::Result<Option<Neighbour>> {
            Ok(self.0.borrow().neighbours.get(&address).copied())
        }

        fn use_neighbour(&mut self, _: u32, address: Ipv4Addr) -> io::Result<()> {
            self.0.borrow_mut().used.push(address);
            Ok(())
        }
    }

    pub(in super::super) fn config() -> Config {
        let realm = |name: &str, side, media: &str, softswitch: Option<&str>| Realm {
            name: name.into(),
            side,
            interface: "eth0".into(),
            signalling: SocketAddr::new(media.parse().unwrap(), 5060),
            media: media.parse().unwrap(),
            ports: PortRange { first: 30_000, last: 30_019 },
            softswitch: softswitch.map(|address| address.parse().unwrap()),
        };
        Config::new(vec![
            realm("access", Side::Access, "203.0.113.10", None),
            realm("core", Side::Core, "10.9.0.10", Some("10.9.0.20:5060")),
        ])
    }

    pub(in super::super) fn egress() -> Vec<Egress> {
        [(7, Ipv4Addr::new(203, 0, 113, 10)), (8, Ipv4Addr::new(10, 9, 0, 10))]
            .into_iter()
            .enumerate()
            .map(|(device, (interface, source))| Egress {
                interface,
                device: device as u32,
                mac: [2, 0, 0, 0, 1, device as u8],
                source,
            })
            .collect()
    }

    fn next_hops(kernel: &FakeKernel, max: u32) -> NextHops<FakeKernel> {
        NextHops::new(kernel.clone(), Locals::new(&config()).unwrap(), egress(), max)
    }

    pub(in super::super) fn kernel() -> FakeKernel {
        let kernel = FakeKernel::default();
        kernel.0.borrow_mut().gateway = Some(GATEWAY);
        kernel.0.borrow_mut().neighbours.insert(GATEWAY, Neighbour { mac: GATEWAY_MAC, confirmed: true });
        kernel
    }

    fn through_gateway(mac: Mac) -> NextHop {
        let source_mac = egress()[0].mac;
        NextHop { kind: next_hop_kind::NEIGHBOUR, interface: 7, device: 0, destination_mac: mac, source_mac }
    }

    #[test]
    fn destinations_behind_one_gateway_share_its_entry() {
        let (now, kernel) = (Instant::now(), kernel());
        let mut hops = next_hops(&kernel, 8);
        let index = hops.acquire((0, FAR), now);
        assert_eq!(hops.acquire((0, FURTHER), now), index);
        assert_ne!(hops.acquire((1, FAR), now), index, "another interface");
        assert_eq!(hops.take_writes()[0], (index, through_gateway(GATEWAY_MAC)));
        hops.release((0, FAR));
        assert_eq!(hops.len(), 2);
        hops.release((0, FURTHER));
        hops.release((1, FAR));
        assert_eq!(hops.len(), 0);
        assert_eq!(hops.take_writes().last().map(|(_, value)| *value), Some(NextHop::default()));
        hops.poll(now + REFRESH);
        assert_eq!(hops.poll_timeout(), None, "nothing to look after");
    }

    #[test]
    fn an_unknown_neighbour_is_looked_for_until_it_answers() {
        let (mut now, kernel) = (Instant::now(), kernel());
        kernel.0.borrow_mut().neighbours.clear();
        let mut hops = next_hops(&kernel, 8);
        let index = hops.acquire((0, FAR), now);
        assert_eq!(kernel.0.borrow().used, [GATEWAY]);
        assert!(hops.take_writes().is_empty(), "a free entry is unresolved already");
        for _ in 0..20 {
            let next = hops.poll_timeout().unwrap();
            assert!(next > now && next <= now + REFRESH);
            now = next;
            hops.poll(now);
        }
        kernel.0.borrow_mut().neighbours.insert(GATEWAY, Neighbour { mac: GATEWAY_MAC, confirmed: true });
        hops.poll(hops.poll_timeout().unwrap());
        assert_eq!(hops.take_writes(), [(index, through_gateway(GATEWAY_MAC))]);
    }

    #[test]
    fn a_neighbour_that_changes_or_dies_is_followed() {
        let (now, kernel) = (Instant::now(), kernel());
        let mut hops = next_hops(&kernel, 8);
        let index = hops.acquire((0, FAR), now);
        hops.take_writes();
        let other = Neighbour { mac: [2, 0, 0, 0, 0, 9], confirmed: false };
        kernel.0.borrow_mut().neighbours.insert(GATEWAY, other);
        assert!(!hops.poll(now + REFRESH));
        assert_eq!(hops.take_writes(), [(index, through_gateway(other.mac))]);
        assert_eq!(kernel.0.borrow().used, [GATEWAY], "it is kept from being forgotten");
        kernel.0.borrow_mut().neighbours.clear();
        hops.poll(now + 2 * REFRESH);
        assert_eq!(hops.take_writes(), [(index, NextHop::default())]);
    }

    #[test]
    fn a_route_that_comes_or_changes_is_followed() {
        let (now, kernel) = (Instant::now(), kernel());
        kernel.0.borrow_mut().gateway = None;
        let mut hops = next_hops(&kernel, 8);
        assert_eq!(hops.acquire((0, FAR), now), UNRESOLVED);
        assert!(!hops.poll(now + REFRESH));
        kernel.0.borrow_mut().gateway = Some(GATEWAY);
        assert!(hops.poll(now + 2 * REFRESH));
        let index = hops.of((0, FAR));
        assert_ne!(index, UNRESOLVED);
        kernel.0.borrow_mut().gateway = Some(Ipv4Addr::new(203, 0, 113, 2));
        assert!(hops.poll(now + 3 * REFRESH));
        assert_ne!(hops.of((0, FAR)), index);
        assert_eq!(hops.len(), 1, "the entry of the old gateway is free");
    }

    #[test]
    fn own_addresses_are_handled_inside() {
        let (now, kernel) = (Instant::now(), kernel());
        let mut hops = next_hops(&kernel, 8);
        let index = hops.acquire((1, Ipv4Addr::new(10, 9, 0, 10)), now);
        assert_eq!(hops.take_writes(), [(index, NextHop { kind: next_hop_kind::LOCAL, ..NextHop::default() })]);
        hops.poll(now + REFRESH);
        assert!(kernel.0.borrow().used.is_empty());
    }

    #[test]
    fn a_full_table_leaves_the_rest_without_a_way() {
        let (now, kernel) = (Instant::now(), kernel());
        let mut hops = next_hops(&kernel, 2);
        assert_eq!(hops.acquire((0, FAR), now), 1);
        assert_eq!(hops.acquire((1, FAR), now), UNRESOLVED);
        hops.release((0, FAR));
        assert!(hops.poll(now + REFRESH), "room again");
        assert_eq!(hops.of((1, FAR)), 1);
    }
}
