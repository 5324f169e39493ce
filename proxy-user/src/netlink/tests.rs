use super::{
    monitor::{Event, Monitor},
    worker::{Fact, Question, Worker},
    *,
};
use crate::media::RealmId;
use nix::sched::{CloneFlags, unshare};
use std::{
    net::{Ipv4Addr, Ipv6Addr},
    process::Command,
    time::Instant,
};

const NEIGHBOUR: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 77));
const MAC: Mac = [2, 0, 0, 0, 0, 7];

fn lo(netlink: &mut Netlink) -> Link {
    netlink.links().unwrap().into_iter().find(|link| link.name == "lo").unwrap()
}

/// Runs `test` in a network namespace of its own, which has a pair of interfaces `near` and `far`, both up. Says so
/// where that is not granted.
fn in_namespace(test: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            if unshare(CloneFlags::CLONE_NEWNET).is_err() {
                eprintln!("SKIPPED: a network namespace needs root");
                return;
            }
            for arguments in [
                "link set lo up",
                "link add near address 02:00:00:00:00:01 type veth peer name far",
                "addr add 192.0.2.1/24 dev near",
                "addr add 2001:db8::1/64 dev near nodad",
                "link set near up",
                "link set far up",
            ] {
                ip(arguments);
            }
            test();
        });
    });
}

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split_whitespace()).status().unwrap();
    assert!(status.success(), "ip {arguments}");
}

fn neighbours_shown(address: IpAddr) -> String {
    let shown = Command::new("ip").args(["neigh", "show", &address.to_string()]).output().unwrap();
    String::from_utf8_lossy(&shown.stdout).into_owned()
}

fn near(netlink: &mut Netlink) -> u32 {
    netlink.links().unwrap().into_iter().find(|link| link.name == "near").unwrap().index
}

/// Waits until something has been reported that `wanted` accepts.
fn wait_for(monitor: &mut Monitor, wanted: impl Fn(&Event) -> bool) {
    let (end, mut events) = (Instant::now() + Duration::from_secs(5), Vec::new());
    while !events.iter().any(&wanted) {
        assert!(Instant::now() < end, "only {events:?}");
        std::thread::sleep(Duration::from_millis(1));
        monitor.drain(&mut events).unwrap();
    }
}

#[test]
fn loopback_is_found_with_its_address() {
    let mut netlink = Netlink::open().unwrap();
    let lo = lo(&mut netlink);
    assert!(lo.mtu >= 1_280, "{lo:?}");
    let addresses = netlink.addresses().unwrap();
    // A namespace may have its loopback down and bare.
    if lo.up {
        assert!(addresses.contains(&(lo.index, IpAddr::V4(Ipv4Addr::LOCALHOST))), "{addresses:?}");
    }
}

#[test]
fn own_addresses_and_unknown_neighbours_are_no_way_out() {
    let mut netlink = Netlink::open().unwrap();
    let lo = lo(&mut netlink);
    for own in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        assert_eq!(netlink.route(own, own, lo.index).unwrap(), None);
    }
    for unknown in [NEIGHBOUR, "2001:db8::77".parse().unwrap()] {
        assert_eq!(netlink.neighbour(lo.index, unknown).unwrap(), None);
    }
}

#[test]
fn routes_of_both_families_and_gateways_of_the_other_are_found() {
    in_namespace(|| {
        ip("route add 198.51.100.0/24 via 192.0.2.9");
        ip("route add 203.0.113.0/24 via inet6 fe80::9 dev near");
        ip("route add 2001:db8:1::/48 via fe80::9 dev near");
        ip("route add blackhole 198.18.0.0/15");
        let mut netlink = Netlink::open().unwrap();
        let interface = near(&mut netlink);
        for (destination, neighbour) in [
            ("192.0.2.77", Some("192.0.2.77")),
            ("198.51.100.7", Some("192.0.2.9")),
            ("203.0.113.7", Some("fe80::9")),
            ("198.18.0.1", None),
            ("192.0.2.255", None),
            ("192.0.3.1", None),
            ("2001:db8::77", Some("2001:db8::77")),
            ("2001:db8:1::7", Some("fe80::9")),
            ("2001:db8:2::7", None),
        ] {
            let destination: IpAddr = destination.parse().unwrap();
            let source = if destination.is_ipv4() { "192.0.2.1" } else { "2001:db8::1" };
            let found = netlink.route(destination, source.parse().unwrap(), interface).unwrap();
            let expected = neighbour.map(|neighbour| Route { interface, neighbour: neighbour.parse().unwrap() });
            assert_eq!(found, expected, "{destination}");
        }
    });
}

#[test]
fn neighbours_of_both_families_are_known_and_looked_for() {
    in_namespace(|| {
        let mut netlink = Netlink::open().unwrap();
        let mut monitor = Monitor::open().unwrap();
        let interface = near(&mut netlink);
        for address in ["192.0.2.77", "2001:db8::77"] {
            let address: IpAddr = address.parse().unwrap();
            ip(&format!("neigh add {address} lladdr 02:00:00:00:00:07 nud permanent dev near"));
            assert_eq!(netlink.neighbour(interface, address).unwrap(), Some(Neighbour { mac: MAC, confirmed: true }));
            ip(&format!("neigh change {address} lladdr 02:00:00:00:00:07 nud stale dev near"));
            let stale = Some(Neighbour { mac: MAC, confirmed: false });
            assert_eq!(netlink.neighbour(interface, address).unwrap(), stale);
            wait_for(&mut monitor, |event| *event == Event::Neighbour { interface, address, known: stale });
            ip(&format!("neigh del {address} dev near"));
            wait_for(&mut monitor, |event| *event == Event::Neighbour { interface, address, known: None });
            assert_eq!(netlink.neighbour(interface, address).unwrap(), None);
            netlink.use_neighbour(interface, address).unwrap();
            let shown = neighbours_shown(address);
            assert!(shown.contains("INCOMPLETE"), "nobody looks for {address}: {shown}");
        }
    });
}

#[test]
fn changes_of_links_routes_rules_and_addresses_are_told() {
    in_namespace(|| {
        let mut netlink = Netlink::open().unwrap();
        let mut monitor = Monitor::open().unwrap();
        let interface = near(&mut netlink);
        for change in [
            "route add 198.51.100.0/24 via 192.0.2.9",
            "route add 2001:db8:1::/48 via fe80::9 dev near",
            "addr add 192.0.2.2/24 dev near",
            "rule add from 192.0.2.1 lookup 100",
        ] {
            monitor.drain(&mut Vec::new()).unwrap();
            ip(change);
            wait_for(&mut monitor, |event| *event == Event::Routes);
        }
        let is = |wanted: fn(&Link) -> bool| move |event: &Event| matches!(event, Event::Link(link) if link.index == interface && wanted(link));
        ip("link set near address 02:00:00:00:00:02");
        wait_for(&mut monitor, is(|link| link.mac == Some([2, 0, 0, 0, 0, 2])));
        ip("link set far down");
        wait_for(&mut monitor, is(|link| link.up && !link.carrier));
        ip("link set near down");
        wait_for(&mut monitor, is(|link| !link.up));
        ip("link del near");
        wait_for(&mut monitor, |event| *event == Event::LinkGone(interface));
    });
}

#[test]
fn a_monitor_that_could_not_keep_up_says_so() {
    in_namespace(|| {
        let mut monitor = Monitor::open().unwrap();
        monitor.limit_buffer(4_096);
        for last in 10..60 {
            ip(&format!("neigh add 192.0.2.{last} lladdr 02:00:00:00:00:07 nud permanent dev near"));
        }
        wait_for(&mut monitor, |event| *event == Event::Lost);
    });
}

#[test]
fn the_worker_answers_everything_and_passes_on_what_changes() {
    in_namespace(|| {
        let interface = near(&mut Netlink::open().unwrap());
        let worker = Worker::start().unwrap();
        let (source, many) = (IpAddr::from([192, 0, 2, 1]), 1_000u32);
        worker.ask([Question::Links]);
        worker.ask((0..many).map(|_| Question::Route {
            realm: RealmId::new(3),
            destination: NEIGHBOUR,
            source,
            interface,
            waiting: false,
        }));
        worker.ask([Question::Neighbour { interface, address: NEIGHBOUR }]);
        ip("neigh replace 192.0.2.78 lladdr 02:00:00:00:00:07 nud permanent dev near");
        let (mut links, mut routes, mut neighbours, mut changed) = (0, 0, 0, false);
        let end = Instant::now() + Duration::from_secs(5);
        while (links, routes, neighbours, changed) != (1, many, 1, true) {
            assert!(Instant::now() < end, "{links} {routes} {neighbours} {changed}");
            let mut ready = [nix::poll::PollFd::new(worker.fd(), nix::poll::PollFlags::POLLIN)];
            nix::poll::poll(&mut ready, 1_000u16).unwrap();
            for fact in worker.facts() {
                match fact {
                    Fact::Links(found) => {
                        assert!(found.unwrap().iter().any(|link| link.index == interface));
                        links += 1;
                    }
                    Fact::Route { realm, destination, route } => {
                        assert_eq!((realm, destination), (RealmId::new(3), NEIGHBOUR));
                        assert_eq!(route.unwrap(), Some(Route { interface, neighbour: NEIGHBOUR }));
                        routes += 1;
                    }
                    Fact::Neighbour { address, known, .. } => {
                        assert_eq!((address, known.unwrap()), (NEIGHBOUR, None));
                        neighbours += 1;
                    }
                    Fact::Event(Event::Neighbour { known: Some(known), .. }) => changed |= known.mac == MAC,
                    Fact::Event(_) => {}
                }
            }
        }
        let destination = IpAddr::from([192, 0, 2, 79]);
        worker.ask([Question::Route { realm: RealmId::new(0), destination, source, interface, waiting: true }]);
        while !neighbours_shown(destination).contains("INCOMPLETE") {
            assert!(Instant::now() < end, "nobody looks for {destination}");
            std::thread::sleep(Duration::from_millis(1));
        }
    });
}
