use super::{
    refresh::{OPEN, PAUSE, PERIOD},
    *,
};
use crate::{
    config::{Config, PortRange, Realm, RealmPolicy, Side, Trust},
    media::RealmId,
    netlink::Route,
};
use std::{cell::RefCell, collections::BTreeMap, net::SocketAddr, rc::Rc};

pub(in super::super) const ACCESS: RealmId = RealmId::new(0);
pub(in super::super) const CORE: RealmId = RealmId::new(1);
pub(in super::super) const GATEWAY: IpAddr = v4([203, 0, 113, 1]);
pub(in super::super) const GATEWAY_MAC: Mac = [2, 0, 0, 0, 0, 1];
const OTHER: IpAddr = v4([203, 0, 113, 2]);
const OTHER_MAC: Mac = [2, 0, 0, 0, 0, 2];
const FAR: IpAddr = v4([198, 51, 100, 7]);
const FURTHER: IpAddr = v4([198, 51, 100, 8]);

const fn v4(octets: [u8; 4]) -> IpAddr {
    IpAddr::V4(std::net::Ipv4Addr::new(octets[0], octets[1], octets[2], octets[3]))
}

/// A kernel that routes everything to the gateway of the test's choice.
#[derive(Clone, Default)]
pub(in super::super) struct FakeKernel(pub(in super::super) Rc<RefCell<View>>);

#[derive(Default)]
pub(in super::super) struct View {
    pub(in super::super) gateway: Option<IpAddr>,
    pub(in super::super) on_link: Vec<IpAddr>,
    pub(in super::super) neighbours: BTreeMap<IpAddr, Neighbour>,
    /// Neighbours that it was asked to find.
    pub(in super::super) used: Vec<IpAddr>,
    pub(in super::super) routes_asked: usize,
}

impl FakeKernel {
    /// Answers questions until there are none.
    pub(in super::super) fn answer(&self, hops: &mut NextHops, now: Instant) {
        loop {
            let questions = hops.take_questions();
            if questions.is_empty() {
                return;
            }
            for question in questions {
                let fact = self.fact(question);
                hops.learn(fact, now);
            }
        }
    }

    fn fact(&self, question: Question) -> Fact {
        let mut view = self.0.borrow_mut();
        match question {
            Question::Links => Fact::Links(Ok(Vec::new())),
            Question::Route { realm, destination, interface, .. } => {
                view.routes_asked += 1;
                let neighbour = if view.on_link.contains(&destination) { Some(destination) } else { view.gateway };
                Fact::Route { realm, destination, route: Ok(neighbour.map(|neighbour| Route { interface, neighbour })) }
            }
            Question::Neighbour { interface, address } => {
                let known = view.neighbours.get(&address).copied();
                if known.is_none_or(|known| !known.confirmed) {
                    view.used.push(address);
                }
                Fact::Neighbour { interface, address, known: Ok(known) }
            }
        }
    }

    /// Has another gateway from now on; says that something changed.
    pub(in super::super) fn reroute(&self, hops: &mut NextHops, gateway: Option<IpAddr>, now: Instant) {
        self.0.borrow_mut().gateway = gateway;
        hops.learn(Fact::Event(Event::Routes), now);
        self.answer(hops, now);
    }

    /// Knows this of a neighbour of the first realm from now on, and says so.
    fn tell(&self, hops: &mut NextHops, address: IpAddr, known: Option<Neighbour>, now: Instant) {
        match known {
            Some(known) => self.0.borrow_mut().neighbours.insert(address, known),
            None => self.0.borrow_mut().neighbours.remove(&address),
        };
        hops.learn(Fact::Event(Event::Neighbour { interface: 7, address, known }), now);
        self.answer(hops, now);
    }
}

fn confirmed(mac: Mac) -> Option<Neighbour> {
    Some(Neighbour { mac, confirmed: true })
}

pub(in super::super) fn config() -> Config {
    let realm = |name: &str, side, media: &str, softswitch: Option<&str>| Realm {
        name: name.into(),
        side,
        interface: "eth0".into(),
        signalling: SocketAddr::new(media.parse().unwrap(), 5060),
        media: media.parse().unwrap(),
        ports: PortRange { first: 30_000, last: 30_019 },
        vlan: Vec::new(),
        trust: Trust::of(side),
        policy: RealmPolicy::default(),
        softswitch: softswitch.map(|address| address.parse().unwrap()),
        streams: Default::default(),
    };
    Config::new(vec![
        realm("access", Side::Access, "203.0.113.10", None),
        realm("core", Side::Core, "10.9.0.10", Some("10.9.0.20:5060")),
    ])
}

pub(in super::super) fn egress() -> PerRealm<Egress> {
    [(7, v4([203, 0, 113, 10])), (8, v4([10, 9, 0, 10]))]
        .into_iter()
        .enumerate()
        .map(|(device, (interface, source))| Egress {
            interface,
            neighbour_interface: interface,
            device: device as u32,
            mac: [2, 0, 0, 0, 1, device as u8],
            source,
            vlan: Tags::default(),
            mtu: 1_500,
        })
        .collect()
}

fn next_hops(max: u32) -> NextHops {
    NextHops::new(Locals::new(&config()).unwrap(), egress(), max)
}

pub(in super::super) fn kernel() -> FakeKernel {
    let kernel = FakeKernel::default();
    kernel.0.borrow_mut().gateway = Some(GATEWAY);
    kernel.0.borrow_mut().neighbours.insert(GATEWAY, Neighbour { mac: GATEWAY_MAC, confirmed: true });
    kernel
}

/// Acquires, and lets the kernel answer.
fn acquire(hops: &mut NextHops, kernel: &FakeKernel, destination: Destination, now: Instant) -> HopIndex {
    hops.acquire(destination, now).unwrap();
    kernel.answer(hops, now);
    hops.of(destination)
}

fn through_gateway(mac: Mac) -> NextHop {
    let source_mac = egress().get(ACCESS).unwrap().mac;
    NextHop {
        kind: next_hop_kind::NEIGHBOUR,
        interface: 7,
        device: 0,
        destination_mac: mac,
        source_mac,
        mtu: 1_500,
        ..NextHop::default()
    }
}

/// What the map would hold now.
fn written(hops: &mut NextHops, table: &mut BTreeMap<HopIndex, NextHop>) {
    table.extend(hops.take_writes());
    hops.take_moved();
    table.extend(hops.take_writes());
}

fn link(index: u32, mac: Mac, up: bool) -> Link {
    Link { index, name: "eth0".into(), mac: Some(mac), up, carrier: up, mtu: 1_500 }
}

/// Lets time pass until `end`, the kernel answering.
fn pass(hops: &mut NextHops, kernel: &FakeKernel, end: Instant) {
    while let Some(at) = hops.poll_timeout().filter(|at| *at <= end) {
        hops.poll(at);
        kernel.answer(hops, at);
    }
}

#[test]
fn destinations_behind_one_gateway_share_its_entry() {
    let (now, kernel, mut hops) = (Instant::now(), kernel(), next_hops(8));
    let mut table = BTreeMap::new();
    let index = acquire(&mut hops, &kernel, (ACCESS, FAR), now);
    assert_eq!(hops.take_moved(), [(ACCESS, FAR)]);
    assert_eq!(acquire(&mut hops, &kernel, (ACCESS, FURTHER), now), index);
    assert_ne!(acquire(&mut hops, &kernel, (CORE, FAR), now), index, "another interface");
    written(&mut hops, &mut table);
    assert_eq!(table[&index], through_gateway(GATEWAY_MAC));
    hops.release((ACCESS, FAR));
    assert_eq!(hops.len(), 2);
    hops.release((ACCESS, FURTHER));
    hops.release((CORE, FAR));
    assert_eq!(hops.len(), 0);
    written(&mut hops, &mut table);
    assert!(table.values().all(|value| *value == NextHop::default()));
    pass(&mut hops, &kernel, now + PERIOD);
    assert_eq!(hops.poll_timeout(), None, "nothing to look after");
}

#[test]
fn a_known_destination_needs_no_answer() {
    let (now, kernel, mut hops) = (Instant::now(), kernel(), next_hops(8));
    let index = acquire(&mut hops, &kernel, (ACCESS, FAR), now);
    assert_eq!(hops.acquire((ACCESS, FAR), now), Ok(index));
    assert_eq!(hops.take_questions(), []);
}

#[test]
fn both_families_have_ways_out_also_through_each_other() {
    let (now, kernel, mut hops) = (Instant::now(), kernel(), next_hops(8));
    let gateway: IpAddr = "fe80::9".parse().unwrap();
    kernel.0.borrow_mut().gateway = Some(gateway);
    kernel.0.borrow_mut().neighbours.insert(gateway, Neighbour { mac: OTHER_MAC, confirmed: true });
    let six = acquire(&mut hops, &kernel, (ACCESS, "2001:db8:1::7".parse().unwrap()), now);
    assert_ne!(six, UNRESOLVED);
    assert_eq!(acquire(&mut hops, &kernel, (ACCESS, FAR), now), six, "the same gateway");
    assert_eq!(hops.take_writes().last(), Some(&(six, through_gateway(OTHER_MAC))));
}

#[test]
fn an_unknown_neighbour_is_looked_for_until_it_answers() {
    let (now, kernel, mut hops) = (Instant::now(), kernel(), next_hops(8));
    kernel.0.borrow_mut().neighbours.clear();
    let index = acquire(&mut hops, &kernel, (ACCESS, FAR), now);
    assert_eq!(kernel.0.borrow().used, [GATEWAY]);
    assert_eq!(hops.take_writes(), [(index, NextHop::default())]);
    // The kernel gives up, and says so.
    kernel.tell(&mut hops, GATEWAY, None, now + RETRY.0 / 2);
    pass(&mut hops, &kernel, now + Duration::from_secs(60));
    let used = kernel.0.borrow().used.len();
    assert!((7..=15).contains(&used), "{used} times in a minute");
    kernel.tell(&mut hops, GATEWAY, confirmed(GATEWAY_MAC), now + Duration::from_secs(61));
    assert_eq!(hops.take_writes(), [(index, through_gateway(GATEWAY_MAC))]);
    pass(&mut hops, &kernel, now + Duration::from_secs(120));
    assert_eq!(kernel.0.borrow().used.len(), used, "it is known");
}

#[test]
fn a_neighbour_that_changes_is_followed_at_once_and_kept_from_being_forgotten() {
    let (now, kernel, mut hops) = (Instant::now(), kernel(), next_hops(8));
    let index = acquire(&mut hops, &kernel, (ACCESS, FAR), now);
    hops.take_writes();
    kernel.tell(&mut hops, GATEWAY, Some(Neighbour { mac: OTHER_MAC, confirmed: false }), now);
    assert_eq!(hops.take_writes(), [(index, through_gateway(OTHER_MAC))]);
    assert_eq!(kernel.0.borrow().used, [GATEWAY], "once: the answer is no reason to ask again");
    kernel.tell(&mut hops, OTHER, confirmed(OTHER_MAC), now);
    assert_eq!(hops.take_writes(), [], "nobody's neighbour");
}

#[test]
fn a_neighbour_that_is_lost_keeps_its_address_while_it_is_looked_for() {
    let (now, kernel, mut hops) = (Instant::now(), kernel(), next_hops(8));
    let index = acquire(&mut hops, &kernel, (ACCESS, FAR), now);
    hops.take_writes();
    kernel.tell(&mut hops, GATEWAY, None, now);
    assert_eq!(kernel.0.borrow().used, [GATEWAY]);
    pass(&mut hops, &kernel, now + HOLD - Duration::from_millis(1));
    assert_eq!(hops.take_writes(), []);
    assert!(kernel.0.borrow().used.len() > 1, "again and again");
    // Found again: as if nothing had been.
    kernel.tell(&mut hops, GATEWAY, confirmed(GATEWAY_MAC), now + HOLD);
    assert_eq!(hops.take_writes(), []);
    // Not found: some seconds later it is given up.
    kernel.tell(&mut hops, GATEWAY, None, now + HOLD);
    pass(&mut hops, &kernel, now + 3 * HOLD);
    assert_eq!(hops.take_writes(), [(index, NextHop::default())]);
}

#[test]
fn a_route_that_comes_changes_or_goes_is_followed() {
    let (now, kernel, mut hops) = (Instant::now(), kernel(), next_hops(8));
    kernel.0.borrow_mut().gateway = None;
    assert_eq!(acquire(&mut hops, &kernel, (ACCESS, FAR), now), UNRESOLVED);
    kernel.reroute(&mut hops, Some(GATEWAY), now);
    let index = hops.of((ACCESS, FAR));
    assert_ne!(index, UNRESOLVED);
    kernel.0.borrow_mut().neighbours.insert(OTHER, Neighbour { mac: OTHER_MAC, confirmed: true });
    kernel.reroute(&mut hops, Some(OTHER), now);
    assert_eq!(hops.of((ACCESS, FAR)), index, "too soon after the last time");
    pass(&mut hops, &kernel, now + PAUSE);
    assert_ne!(hops.of((ACCESS, FAR)), index);
    assert_eq!(hops.len(), 1, "the entry of the old gateway is free");
    kernel.reroute(&mut hops, None, now + 2 * PAUSE);
    assert_eq!(hops.of((ACCESS, FAR)), UNRESOLVED);
    assert_eq!(hops.len(), 0);
}

#[test]
fn a_change_that_was_not_told_is_found_in_the_end() {
    let (now, kernel, mut hops) = (Instant::now(), kernel(), next_hops(8));
    let index = acquire(&mut hops, &kernel, (ACCESS, FAR), now);
    hops.take_writes();
    kernel.0.borrow_mut().neighbours.insert(GATEWAY, Neighbour { mac: OTHER_MAC, confirmed: true });
    pass(&mut hops, &kernel, now + PERIOD);
    assert_eq!(hops.take_writes(), [(index, through_gateway(OTHER_MAC))]);
    // Or at once, where the kernel says that something was lost.
    kernel.0.borrow_mut().neighbours.insert(GATEWAY, Neighbour { mac: GATEWAY_MAC, confirmed: true });
    let later = now + PERIOD + PAUSE;
    hops.learn(Fact::Event(Event::Lost), later);
    kernel.answer(&mut hops, later);
    assert_eq!(hops.take_writes(), [(index, through_gateway(GATEWAY_MAC))]);
}

#[test]
fn a_question_that_fails_is_asked_again() {
    let (now, kernel, mut hops) = (Instant::now(), kernel(), next_hops(8));
    hops.acquire((ACCESS, FAR), now).unwrap();
    hops.take_questions();
    let failed = || std::io::Error::from(std::io::ErrorKind::TimedOut);
    hops.learn(Fact::Route { realm: ACCESS, destination: FAR, route: Err(failed()) }, now);
    let (at, mut asked) = (hops.poll_timeout().unwrap(), Vec::new());
    assert!(at <= now + RETRY.0);
    hops.poll(at);
    for question in hops.take_questions() {
        hops.learn(kernel.fact(question), at);
        asked.extend(hops.take_questions());
    }
    assert_eq!(asked, [Question::Neighbour { interface: 7, address: GATEWAY }]);
    hops.learn(Fact::Neighbour { interface: 7, address: GATEWAY, known: Err(failed()) }, at);
    pass(&mut hops, &kernel, at + RETRY.0);
    assert_eq!(hops.take_writes().last().map(|(_, hop)| *hop), Some(through_gateway(GATEWAY_MAC)));
}

#[test]
fn the_old_way_is_used_until_the_new_neighbour_is_known() {
    let (now, kernel, mut hops) = (Instant::now(), kernel(), next_hops(8));
    let mut table = BTreeMap::new();
    let index = acquire(&mut hops, &kernel, (ACCESS, FAR), now);
    kernel.reroute(&mut hops, Some(OTHER), now);
    written(&mut hops, &mut table);
    assert_eq!((hops.of((ACCESS, FAR)), table[&index]), (index, through_gateway(GATEWAY_MAC)));
    kernel.tell(&mut hops, OTHER, confirmed(OTHER_MAC), now);
    let after = hops.of((ACCESS, FAR));
    assert_ne!(after, index);
    // First there is somewhere to go, then all go there, then the old entry is cleared.
    assert_eq!(hops.take_writes(), [(after, through_gateway(OTHER_MAC))]);
    assert_eq!(hops.take_moved(), [(ACCESS, FAR)]);
    assert_eq!(hops.take_writes(), [(index, NextHop::default())]);
    assert_eq!(hops.len(), 1);
}

#[test]
fn a_new_neighbour_that_never_answers_is_obeyed_in_the_end_and_one_that_was_a_mistake_is_forgotten() {
    let (now, kernel, mut hops) = (Instant::now(), kernel(), next_hops(8));
    let index = acquire(&mut hops, &kernel, (ACCESS, FAR), now);
    kernel.reroute(&mut hops, Some(OTHER), now);
    assert_eq!(hops.len(), 2);
    pass(&mut hops, &kernel, now + PAUSE);
    kernel.reroute(&mut hops, Some(GATEWAY), now + PAUSE);
    assert_eq!((hops.of((ACCESS, FAR)), hops.len()), (index, 1));
    kernel.reroute(&mut hops, Some(OTHER), now + 2 * PAUSE);
    pass(&mut hops, &kernel, now + 3 * HOLD);
    assert_ne!(hops.of((ACCESS, FAR)), index);
    hops.release((ACCESS, FAR));
    assert_eq!((hops.len(), hops.due.len()), (0, 0));
}

#[test]
fn another_hardware_address_of_an_interface_is_taken_over() {
    let (now, kernel, mut hops) = (Instant::now(), kernel(), next_hops(8));
    let index = acquire(&mut hops, &kernel, (ACCESS, FAR), now);
    let other = acquire(&mut hops, &kernel, (CORE, FAR), now);
    hops.take_writes();
    let mac = [2, 0, 0, 0, 1, 9];
    hops.learn(Fact::Event(Event::Link(link(7, mac, true))), now);
    let expected = NextHop { source_mac: mac, ..through_gateway(GATEWAY_MAC) };
    assert_eq!(hops.take_writes(), [(index, expected)], "and not that of {other:?}");
    hops.learn(Fact::Event(Event::Link(link(7, mac, true))), now);
    hops.learn(Fact::Event(Event::Link(link(99, GATEWAY_MAC, true))), now);
    hops.learn(Fact::Event(Event::Link(Link { mac: None, ..link(7, mac, true) })), now);
    assert_eq!(hops.take_writes(), []);
    kernel.0.borrow_mut().on_link.push(FURTHER);
    kernel.0.borrow_mut().neighbours.insert(FURTHER, Neighbour { mac: OTHER_MAC, confirmed: true });
    acquire(&mut hops, &kernel, (ACCESS, FURTHER), now);
    assert_eq!(hops.take_writes().last().map(|(_, hop)| hop.source_mac), Some(mac), "nor the one of the start");
}

#[test]
fn an_interface_that_goes_down_and_up_takes_its_routes_along() {
    let (now, kernel, mut hops) = (Instant::now(), kernel(), next_hops(8));
    hops.learn(Fact::Links(Ok(vec![link(7, egress().get(ACCESS).unwrap().mac, true)])), now);
    acquire(&mut hops, &kernel, (ACCESS, FAR), now);
    for (round, up) in [false, true, false, true].into_iter().enumerate() {
        let now = now + PERIOD / 8 * (round as u32 + 1);
        // The kernel tells of no route.
        kernel.0.borrow_mut().gateway = up.then_some(GATEWAY);
        hops.learn(Fact::Event(Event::Link(link(7, egress().get(ACCESS).unwrap().mac, up))), now);
        kernel.answer(&mut hops, now);
        assert_eq!(hops.of((ACCESS, FAR)) != UNRESOLVED, up);
    }
}

#[test]
fn own_addresses_are_handled_inside() {
    let (now, kernel, mut hops) = (Instant::now(), kernel(), next_hops(8));
    let index = hops.acquire((CORE, v4([10, 9, 0, 10])), now).unwrap();
    assert_eq!(hops.take_writes(), [(index, NextHop { kind: next_hop_kind::LOCAL, ..NextHop::default() })]);
    pass(&mut hops, &kernel, now + PERIOD);
    assert_eq!((hops.take_questions(), kernel.0.borrow().routes_asked), (Vec::new(), 0));
}

#[test]
fn a_full_table_refuses_and_what_became_free_is_used() {
    let (now, kernel, mut hops) = (Instant::now(), kernel(), next_hops(2));
    assert_eq!(acquire(&mut hops, &kernel, (ACCESS, FAR), now), HopIndex(1));
    assert_eq!(acquire(&mut hops, &kernel, (ACCESS, FURTHER), now), HopIndex(1), "behind the same gateway");
    assert_eq!(acquire(&mut hops, &kernel, (CORE, FAR), now), UNRESOLVED);
    assert_eq!(hops.take_refused(), [(CORE, FAR)]);
    assert_eq!(hops.acquire((CORE, v4([10, 9, 0, 10])), now), Err(FULL), "this is known at once");
    hops.release((CORE, FAR));
    hops.release((ACCESS, FAR));
    assert_eq!(acquire(&mut hops, &kernel, (CORE, FAR), now), UNRESOLVED, "it has another user");
    hops.release((CORE, FAR));
    hops.release((ACCESS, FURTHER));
    // An entry that is used again before it was cleared is not cleared any more.
    assert_eq!(acquire(&mut hops, &kernel, (CORE, FAR), now), HopIndex(1));
    let mut table = BTreeMap::new();
    written(&mut hops, &mut table);
    assert_eq!(table[&HopIndex(1)].interface, 8);
}

#[test]
fn a_change_of_all_routes_leaves_room_for_the_questions_of_a_new_call() {
    let (now, kernel, mut hops) = (Instant::now(), kernel(), next_hops(8));
    for last in 0..20_000 {
        hops.acquire((CORE, IpAddr::from(std::net::Ipv4Addr::from(0x0a00_0000 + last))), now).unwrap();
    }
    kernel.answer(&mut hops, now);
    let later = now + PAUSE;
    for _ in 0..100 {
        hops.learn(Fact::Event(Event::Routes), later);
    }
    hops.acquire((ACCESS, FAR), later).unwrap();
    let open = hops.take_questions();
    assert_eq!(open.len(), OPEN + 1);
    let before = kernel.0.borrow().routes_asked;
    for question in open {
        let fact = kernel.fact(question);
        hops.learn(fact, later);
    }
    kernel.answer(&mut hops, later);
    assert_ne!(hops.of((ACCESS, FAR)), UNRESOLVED);
    assert_eq!(kernel.0.borrow().routes_asked - before, 20_000 + 1, "everybody once");
}

#[test]
fn frames_of_a_vlan_have_its_tags_and_the_kernel_is_asked_on_its_device() {
    let (now, kernel) = (Instant::now(), kernel());
    let tags = Tags::new(&[VlanTag { id: 100, priority: 5 }, VlanTag { id: 7, priority: 0 }]);
    let egress = egress();
    let plain = egress.get(ACCESS).unwrap();
    let tagged = Egress { neighbour_interface: 70, vlan: tags, mtu: 1_400, ..*plain };
    let mut hops = NextHops::new(Locals::new(&config()).unwrap(), vec![*plain, tagged].into(), 8);
    let plain = acquire(&mut hops, &kernel, (ACCESS, FAR), now);
    hops.take_writes();
    let index = acquire(&mut hops, &kernel, (CORE, FAR), now);
    assert_ne!(index, plain, "the same gateway in another VLAN is another one");
    let expected = NextHop {
        tags: 2,
        vlan: [(5u16 << 13 | 100).to_be(), 7u16.to_be()],
        mtu: 1_400,
        ..through_gateway(GATEWAY_MAC)
    };
    assert_eq!(hops.take_writes().last(), Some(&(index, expected)));
}
