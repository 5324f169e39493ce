//! Ways out of the host that change under a running call: neighbours, routes, links. Media follow, and what the kernel
//! itself would not lose is not lost.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use testbed::rtp::{Sink, Stream};
use testbed::{
    Counters, Direction, KamailioConfig, LatchConfig, NatKind, Scenario, Scene, Sipp, SippConfig, Testbed,
    TestbedConfig, address, in_testbed, wait_until,
};

/// How long anything may take that has to happen: much longer than it does.
const TIMEOUT: Duration = Duration::from_secs(20);
/// From one packet to the next.
const INTERVAL: Duration = Duration::from_millis(20);
/// Of a direction that somebody's own change cut off for a moment, as long as it was not announced: at most the packet
/// that was under way.
const UNDER_WAY: u64 = 1;

/// Carol's host in the core network, and her own address, which is behind it.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 30);
const CAROL: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 30);
/// A router in the core network that leads there as well.
const DETOUR: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 31);

/// Packets lost from alice to carol, and from carol to alice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lost {
    to_carol: u64,
    to_alice: u64,
}

const NOTHING: Lost = Lost { to_carol: 0, to_alice: 0 };

/// A call of alice, behind a NAT in the access network, to carol, whose media is made here.
struct Call<'testbed> {
    scene: Scene<'testbed>,
    caller: Sipp,
    callee: Sipp,
    alice: (UdpSocket, SocketAddrV4),
    carol: (UdpSocket, SocketAddrV4),
}

impl<'testbed> Call<'testbed> {
    fn start(testbed: &'testbed Testbed, hold: Duration) -> Result<Self> {
        let (gateway, detour) = (testbed.host("gateway")?, testbed.host("detour")?);
        gateway.ip(&format!("addr add {CAROL}/32 dev lo"))?;
        // A host that changes its hardware address tells its neighbours.
        for host in [gateway, testbed.latch()] {
            host.sysctl("net/ipv4/conf/all/arp_notify", "1")?;
        }
        detour.sysctl("net/ipv4/ip_forward", "1")?;
        for scope in ["all", "eth0"] {
            detour.sysctl(&format!("net/ipv4/conf/{scope}/send_redirects"), "0")?;
        }
        for host in [testbed.latch(), testbed.softswitch(), detour] {
            host.ip(&format!("route add 10.77.0.0/24 via {GATEWAY}"))?;
        }

        let scene = Scene::start(testbed, &KamailioConfig::default(), &LatchConfig::default())?;
        scene.register(1, "alice")?;
        let softswitch = SocketAddrV4::new(address::SOFTSWITCH, 5060);
        let carol = SippConfig { remote: softswitch, ..scene.sipp(Scenario::Register, "carol", CAROL) };
        Sipp::run(testbed, "register-carol", gateway, &carol, TIMEOUT)?;
        let carol = SippConfig { scenario: Scenario::Answer, ..carol };
        let callee = Sipp::start(testbed, "callee", gateway, &carol)?;
        let alice = SippConfig { hold, ..scene.sipp(Scenario::Call, "alice", address::PHONE) };
        let caller = Sipp::start(testbed, "caller", testbed.phone(1)?, &alice.calling("carol"))?;
        let end = |host: &testbed::Namespace, own, relay| -> Result<_> {
            Ok((host.udp(SocketAddrV4::new(own, 6_000))?, relay))
        };
        let alice = end(testbed.phone(1)?, address::PHONE, caller.wait_for_remote_media(TIMEOUT)?)?;
        let carol = end(gateway, CAROL, callee.wait_for_remote_media(TIMEOUT)?)?;
        let call = Self { scene, caller, callee, alice, carol };
        // The phone behind the NAT begins; nobody on the way needs to know carol's neighbours yet.
        wait_until("carol hears alice", TIMEOUT, || {
            let heard = Sink::start(&call.carol.0)?;
            Stream { packets: 2, ssrc: 1, ..Stream::default() }.send(&call.alice.0, call.alice.1)?;
            Ok(heard.stop()?.rtp_packets() == 2)
        })?;
        ensure!(call.talk(1, || Ok(()))? == NOTHING, "packets are lost already");
        Ok(call)
    }

    /// Both talk for some seconds; after half of one, between two packets, something happens.
    fn talk(&self, seconds: u32, happens: impl FnOnce() -> Result<()> + Send) -> Result<Lost> {
        let packets = seconds * 50;
        let (at_alice, at_carol) = (Sink::start(&self.alice.0)?, Sink::start(&self.carol.0)?);
        let stream = |ssrc| Stream { packets, ssrc, interval: INTERVAL, ..Stream::default() };
        let senders = [stream(7).spawn(&self.alice.0, self.alice.1)?, stream(8).spawn(&self.carol.0, self.carol.1)?];
        std::thread::sleep(INTERVAL * 25 + INTERVAL / 10);
        happens()?;
        for sender in senders {
            sender.join().map_err(|_| anyhow!("a sender panicked"))??;
        }
        let lost = |received: testbed::rtp::Received| u64::from(packets) - received.packets;
        let (at_alice, at_carol) = (at_alice.stop()?, at_carol.stop()?);
        Ok(Lost { to_carol: lost(at_carol.stream(7)?), to_alice: lost(at_alice.stream(8)?) })
    }

    fn end(self) -> Result<()> {
        self.caller.expect_success(Duration::from_secs(40))?;
        self.callee.expect_success(TIMEOUT)?;
        self.scene.finish(1).map(drop)
    }
}

fn routes_test(hold_s: u64, test: impl FnOnce(&Testbed, &Call<'_>) -> Result<()>) {
    let config = TestbedConfig {
        core_hosts: vec![("gateway", GATEWAY), ("detour", DETOUR)],
        ..TestbedConfig::with_nats(&[NatKind::PortRestricted])
    };
    in_testbed(config, |testbed| {
        let call = Call::start(testbed, Duration::from_secs(hold_s))?;
        test(testbed, &call)?;
        call.end()
    });
}

#[test]
fn a_neighbour_that_announces_another_hardware_address_is_followed_at_once() {
    routes_test(15, |testbed, call| {
        for other in ["02:00:00:00:77:01", "02:00:00:00:77:02"] {
            let lost =
                call.talk(3, || testbed.host("gateway")?.ip(&format!("link set eth0 address {other}")).map(drop))?;
            ensure!(lost.to_carol <= UNDER_WAY && lost.to_alice <= UNDER_WAY, "{lost:?}");
        }
        ensure!(call.talk(1, || Ok(()))? == NOTHING, "not all arrives after the change");
        Ok(())
    });
}

#[test]
fn another_hardware_address_of_an_own_interface_is_used_at_once() {
    routes_test(15, |testbed, call| {
        let other = "02:00:00:00:77:10";
        let from_other = format!("ether saddr {other} ip saddr {} udp dport 6000", address::LATCH_CORE);
        let counters = Counters::add(testbed.host("gateway")?, &[("from_other", Direction::In, &from_other)])?;
        let lost = call.talk(3, || testbed.latch().ip(&format!("link set core address {other}")).map(drop))?;
        ensure!(lost.to_carol <= UNDER_WAY && lost.to_alice <= UNDER_WAY, "{lost:?}");
        let from_other = counters.get("from_other")?.packets;
        // All but the first half second, and a little more.
        ensure!(from_other >= 150 - 25 - 10, "only {from_other} came with the new address");
        ensure!(call.talk(1, || Ok(()))? == NOTHING, "not all arrives after the change");
        Ok(())
    });
}

#[test]
fn neighbours_that_somebody_deletes_are_found_again_without_a_loss() {
    routes_test(15, |testbed, call| {
        let nat = testbed.nat(1)?.public();
        let lost = call.talk(4, || {
            for _ in 0..5 {
                testbed.latch().ip(&format!("neigh del {GATEWAY} dev core"))?;
                testbed.latch().ip(&format!("neigh del {nat} dev access"))?;
                std::thread::sleep(Duration::from_millis(500));
            }
            Ok(())
        })?;
        ensure!(lost == NOTHING, "{lost:?}");
        // As for any packet of its own, the kernel knows them again.
        for (neighbour, interface) in [(GATEWAY, "core"), (nat, "access")] {
            let shown = testbed.latch().ip(&format!("neigh show {neighbour} dev {interface}"))?;
            ensure!(shown.contains("lladdr"), "{neighbour}: {shown}");
        }
        Ok(())
    });
}

#[test]
fn media_follow_a_changed_route_without_a_loss() {
    routes_test(20, |testbed, call| {
        let through = format!("ip saddr {} ip daddr {CAROL}", address::LATCH_CORE);
        let counters = Counters::add(testbed.host("detour")?, &[("through", Direction::In, &through)])?;
        let passed = || Ok::<_, anyhow::Error>(counters.get("through")?.packets);
        // To a neighbour that nobody knows yet, and back.
        testbed.latch().ip("neigh flush all")?;
        for (via, least, most) in [(DETOUR, 150 - 25 - 50, 150), (GATEWAY, 0, 25 + 50)] {
            let before = passed()?;
            let lost =
                call.talk(3, || testbed.latch().ip(&format!("route replace 10.77.0.0/24 via {via}")).map(drop))?;
            ensure!(lost == NOTHING, "{via}: {lost:?}");
            let passed = passed()? - before;
            ensure!((least..=most).contains(&passed), "{passed} of 150 went by the detour after: via {via}");
        }
        // A more specific one, for a while.
        let before = passed()?;
        let lost = call.talk(3, || {
            testbed.latch().ip(&format!("route add {CAROL} via {DETOUR}"))?;
            std::thread::sleep(Duration::from_secs(1));
            testbed.latch().ip(&format!("route del {CAROL} via {DETOUR}")).map(drop)
        })?;
        ensure!(lost == NOTHING, "{lost:?}");
        let passed = passed()? - before;
        ensure!((25..=100).contains(&passed), "{passed} packets went by the detour of one second");
        Ok(())
    });
}

#[test]
fn media_go_on_when_an_interface_comes_back() {
    routes_test(40, |testbed, call| {
        let latch = testbed.latch();
        let lost = call.talk(8, || {
            latch.ip("link set core down")?;
            std::thread::sleep(Duration::from_secs(1));
            latch.ip("link set core up")?;
            // The kernel forgets it with the interface; whatever sets the host's network up adds it again.
            latch.ip(&format!("route add 10.77.0.0/24 via {GATEWAY}")).map(drop)
        })?;
        // While it was down, and as long as the kernel looks for its neighbours again: seconds, of which it has five
        // here.
        ensure!((40..350).contains(&lost.to_carol) && (40..350).contains(&lost.to_alice), "{lost:?}");
        wait_until("all arrives again", TIMEOUT, || Ok(call.talk(1, || Ok(()))? == NOTHING))?;
        let output = call.scene.latch.peer.output();
        ensure!(output.contains("interface core is up again"), "nothing is said of the interface: {output}");

        // Only the carrier: the cable.
        let lost = call.talk(8, || {
            testbed.softswitch().ip("link set latch down")?;
            std::thread::sleep(Duration::from_secs(1));
            testbed.softswitch().ip("link set latch up").map(drop)
        })?;
        ensure!(lost.to_carol < 350 && lost.to_alice < 350, "{lost:?}");
        wait_until("all arrives again", TIMEOUT, || Ok(call.talk(1, || Ok(()))? == NOTHING))
    });
}
