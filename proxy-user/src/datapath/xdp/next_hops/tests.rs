use super::*;
use crate::{
    config::{Config, PortRange, Realm, RealmPolicy, Side},
    netlink::Neighbour,
};
use std::{
    cell::RefCell,
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    rc::Rc,
};

pub(in super::super) const GATEWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1));
pub(in super::super) const GATEWAY_MAC: Mac = [2, 0, 0, 0, 0, 1];
const FAR: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7));
const FURTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 8));

/// A kernel that routes everything to the gateway of the test's choice.
#[derive(Clone, Default)]
pub(in super::super) struct FakeKernel(pub(in super::super) Rc<RefCell<View>>);

#[derive(Default)]
pub(in super::super) struct View {
    pub(in super::super) gateway: Option<IpAddr>,
    pub(in super::super) on_link: Vec<IpAddr>,
    pub(in super::super) neighbours: BTreeMap<IpAddr, Neighbour>,
    pub(in super::super) used: Vec<IpAddr>,
}

impl Neighbourhood for FakeKernel {
    fn route(&mut self, to: IpAddr, _: IpAddr, interface: u32) -> io::Result<Option<Route>> {
        let view = self.0.borrow();
        let neighbour = if view.on_link.contains(&to) { Some(to) } else { view.gateway };
        Ok(neighbour.map(|neighbour| Route { interface, neighbour }))
    }

    fn neighbour(&mut self, _: u32, address: IpAddr) -> io::Result<Option<Neighbour>> {
        Ok(self.0.borrow().neighbours.get(&address).copied())
    }

    fn use_neighbour(&mut self, _: u32, address: IpAddr) -> io::Result<()> {
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
        vlan: Vec::new(),
        policy: RealmPolicy::default(),
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
            asked: interface,
            device: device as u32,
            mac: [2, 0, 0, 0, 1, device as u8],
            source: source.into(),
            vlan: Tags::default(),
            mtu: 1_500,
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

#[test]
fn destinations_behind_one_gateway_share_its_entry() {
    let (now, kernel) = (Instant::now(), kernel());
    let mut hops = next_hops(&kernel, 8);
    let index = hops.acquire((0, FAR), now).unwrap();
    assert_eq!(hops.acquire((0, FURTHER), now).unwrap(), index);
    assert_ne!(hops.acquire((1, FAR), now).unwrap(), index, "another interface");
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
    let index = hops.acquire((0, FAR), now).unwrap();
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
fn neighbours_that_never_answer_are_asked_for_rarely_and_delay_nobody() {
    let (mut now, kernel) = (Instant::now(), kernel());
    let mut hops = next_hops(&kernel, 16);
    hops.acquire((1, FAR), now).unwrap();
    let dead: Vec<_> = (1..=5).map(|last| IpAddr::V4(Ipv4Addr::new(203, 0, 113, 100 + last))).collect();
    kernel.0.borrow_mut().on_link = [dead.as_slice(), &[FURTHER]].concat();
    for &address in &dead {
        hops.acquire((0, address), now).unwrap();
    }
    assert!(hops.poll_timeout().unwrap() <= now + RETRY.0);
    let end = now + 60 * REFRESH;
    while let Some(at) = hops.poll_timeout().filter(|at| *at < end) {
        now = at;
        hops.poll(now);
    }
    let asked = kernel.0.borrow().used.iter().filter(|address| **address == dead[0]).count();
    assert!((50..=150).contains(&asked), "{asked} times in a minute");
    hops.acquire((0, FURTHER), now).unwrap();
    assert!(hops.poll_timeout().unwrap() <= now + RETRY.0, "one that somebody waits for");
}

#[test]
fn a_neighbour_that_changes_or_dies_is_followed() {
    let (now, kernel) = (Instant::now(), kernel());
    let mut hops = next_hops(&kernel, 8);
    let index = hops.acquire((0, FAR), now).unwrap();
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
    assert_eq!(hops.acquire((0, FAR), now).unwrap(), UNRESOLVED);
    assert!(!hops.poll(now + REFRESH));
    kernel.0.borrow_mut().gateway = Some(GATEWAY);
    assert!(hops.poll(now + 2 * REFRESH));
    let index = hops.of((0, FAR));
    assert_ne!(index, UNRESOLVED);
    kernel.0.borrow_mut().gateway = Some(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 2)));
    assert!(hops.poll(now + 3 * REFRESH));
    assert_ne!(hops.of((0, FAR)), index);
    assert_eq!(hops.len(), 1, "the entry of the old gateway is free");
}

#[test]
fn own_addresses_are_handled_inside() {
    let (now, kernel) = (Instant::now(), kernel());
    let mut hops = next_hops(&kernel, 8);
    let index = hops.acquire((1, IpAddr::V4(Ipv4Addr::new(10, 9, 0, 10))), now).unwrap();
    assert_eq!(hops.take_writes(), [(index, NextHop { kind: next_hop_kind::LOCAL, ..NextHop::default() })]);
    hops.poll(now + REFRESH);
    assert!(kernel.0.borrow().used.is_empty());
}

#[test]
fn a_full_table_refuses_and_what_became_free_is_used() {
    let (now, kernel) = (Instant::now(), kernel());
    let mut hops = next_hops(&kernel, 2);
    assert_eq!(hops.acquire((0, FAR), now), Ok(1));
    assert_eq!(hops.acquire((0, FURTHER), now), Ok(1), "behind the same gateway");
    assert_eq!(hops.acquire((1, FAR), now), Err(FULL));
    hops.release((1, FAR));
    hops.release((0, FAR));
    assert_eq!(hops.acquire((1, FAR), now), Err(FULL), "it has another user");
    hops.release((0, FURTHER));
    assert_eq!(hops.acquire((1, FAR), now), Ok(1));
}

#[test]
fn a_route_that_changes_is_followed_however_many_destinations_have_none() {
    let (mut now, kernel) = (Instant::now(), kernel());
    let mut hops = next_hops(&kernel, 8);
    hops.acquire((0, FAR), now).unwrap();
    kernel.0.borrow_mut().gateway = None;
    for last in 0..2 * ROUTES_A_REFRESH as u32 {
        hops.acquire((1, Ipv4Addr::from(0x0a00_0000 + last).into()), now).unwrap();
    }
    now += REFRESH;
    assert!(hops.poll(now), "its route has gone");
    assert_eq!(hops.of((0, FAR)), UNRESOLVED);
}

#[test]
fn frames_of_a_vlan_have_its_tags_and_the_kernel_is_asked_on_its_device() {
    let (now, kernel) = (Instant::now(), kernel());
    let tags = Tags::new(&[VlanTag { id: 100, priority: 5 }, VlanTag { id: 7, priority: 0 }]);
    let tagged = Egress { asked: 70, vlan: tags, mtu: 1_400, ..egress()[0] };
    let mut hops = NextHops::new(kernel, Locals::new(&config()).unwrap(), vec![egress()[0], tagged], 8);
    let plain = hops.acquire((0, FAR), now).unwrap();
    let index = hops.acquire((1, FAR), now).unwrap();
    assert_ne!(index, plain, "the same gateway in another VLAN is another one");
    let expected = NextHop {
        tags: 2,
        vlan: [(5u16 << 13 | 100).to_be(), 7u16.to_be()],
        mtu: 1_400,
        ..through_gateway(GATEWAY_MAC)
    };
    assert_eq!(hops.take_writes().last(), Some(&(index, expected)));
}
