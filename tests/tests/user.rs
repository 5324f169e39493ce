//! Hosts where BPF is refused: the relay in user space.

use std::time::Duration;

use anyhow::{anyhow, ensure};
use testbed::call::{audio, dropped, recorded};
use testbed::rtp::{Sink, Stream};
use testbed::{
    Counters, Direction, KamailioConfig, LatchConfig, MediaCall, NatKind, Scene, SixScene, Stranger, TestbedConfig,
    address, in_testbed, wait_until,
};

const TIMEOUT: Duration = Duration::from_secs(20);

fn in_user_space() -> LatchConfig {
    LatchConfig {
        arguments: vec!["--relay".into(), "user".into()],
        ports: (30_000, 30_999),
        learning_window_s: 20,
        ..LatchConfig::default()
    }
}

#[test]
fn a_call_in_user_space_loses_nothing_and_strangers_get_nothing() {
    in_testbed(TestbedConfig::with_nats(&[NatKind::Symmetric, NatKind::PortRestricted]), |testbed| {
        let scene = Scene::start(testbed, &KamailioConfig::default(), &in_user_space())?;
        let log = scene.latch.peer.output();
        ensure!(log.contains("relay: USER SPACE on access, core"), "the mode is not stated:\n{log}");
        let status = scene.latch.status(testbed)?;
        ensure!(status["relay"]["mode"] == "user", "{status:#}");
        let objects = scene.latch.bpf_objects()?;
        // The filter of the signalling socket is not the relay's.
        ensure!(objects.program("latch").is_none() && objects.map("LEGS").is_none(), "there is BPF: {objects:?}");
        ensure!(objects.program("signalling").is_some(), "there is no filter: {objects:?}");
        let stranger = Stranger::start(testbed)?;
        let spray = |rounds| stranger.spray(address::LATCH_ACCESS, 30_000..=30_999, rounds);
        spray(1)?;

        let call = MediaCall::start(&scene, Duration::from_secs(15))?;
        let (alice, bob) = (&call.alice, &call.bob);
        let (at_alice, at_bob) = (Sink::start(&alice.rtp)?, Sink::start(&bob.rtp)?);
        spray(2)?;
        call.latch(&scene)?;
        let (from_alice, from_bob) = (
            Stream { packets: 250, ssrc: 1, ..Stream::default() },
            Stream { packets: 250, ssrc: 2, ..Stream::default() },
        );
        let senders = [from_alice.spawn(&alice.rtp, alice.relay)?, from_bob.spawn(&bob.rtp, bob.relay)?];
        spray(3)?;
        for sender in senders {
            sender.join().map_err(|_| anyhow!("a sender panicked"))??;
        }
        // Bob's opens the way for alice's.
        let before = scene.latch.counters()?.dropped_destination;
        bob.send_report()?;
        wait_until("bob's report is dropped", TIMEOUT, || Ok(scene.latch.counters()?.dropped_destination > before))?;
        alice.send_report()?;
        bob.wait_for("rtcp_in", 1)?;
        let (heard, heard_by_bob) = (at_alice.stop()?, at_bob.stop()?);
        for tally in [&heard, &heard_by_bob] {
            ensure!(tally.stream(Stranger::SSRC).is_err() && tally.other.is_empty(), "{tally:?}");
        }
        let (to_alice, to_bob) = (heard.stream(2)?, heard_by_bob.stream(1)?);
        ensure!((to_alice.packets, to_alice.lost()) == (250, 0), "alice heard {heard:?}");
        ensure!((to_bob.packets, to_bob.lost()) == (250, 0), "bob heard {heard_by_bob:?}");
        let (alices, bobs) = (alice.totals()?, bob.totals()?);
        call.end()?;
        let report = stranger.stop()?;
        ensure!(report.ip.bytes == 0, "the stranger received something: {report:?}");

        let records = scene.finish(2)?;
        for (nat, (sent, received)) in [(1, alices), (2, bobs)] {
            let stream = audio(&records, testbed, nat)?;
            let (up, down) = (&stream["access_to_core"], &stream["core_to_access"]);
            ensure!(recorded(up) == sent, "phone {nat} sent {sent:?}: {up:#}");
            ensure!(recorded(down) == received, "phone {nat} got {received:?}: {down:#}");
            ensure!(dropped(up, "source") + dropped(up, "format") >= 8, "{up:#}");
        }
        Ok(())
    });
}

#[test]
fn where_bpf_is_refused_user_space_relays_and_latch_says_so() {
    in_testbed(TestbedConfig { nats: Vec::new(), ..TestbedConfig::default() }, |testbed| {
        let config =
            LatchConfig { arguments: Vec::new(), without: vec!["bpf", "sys_admin", "perfmon"], ..in_user_space() };
        let latch = testbed::Latch::start(testbed, &config)?;
        let log = latch.peer.output();
        ensure!(log.contains("relay: USER SPACE on access, core"), "the mode is not stated:\n{log}");
        ensure!(log.contains("WARN this host refuses XDP: "), "no reason is given:\n{log}");
        ensure!(log.contains("WARN no filter before the signalling sockets, "), "its absence is not stated:\n{log}");
        let status = latch.status(testbed)?;
        ensure!(status["relay"]["mode"] == "user" && status["filter"].is_null(), "the status says {status}");
        latch.stop(testbed)?;
        let config = LatchConfig { arguments: vec!["--relay".into(), "native".into()], ..config };
        let error = testbed::Latch::start_in_vain(testbed, &config)?;
        ensure!(error.contains("Operation not permitted"), "{error}");
        Ok(())
    });
}

#[test]
fn a_call_between_ip_versions_goes_through_user_space() {
    in_testbed(SixScene::testbed(), |testbed| {
        let mut six = SixScene::start(testbed, in_user_space())?;
        six.call(true)?;
        six.hear(50)?;
        six.carol.hang_up()?;
        six.alice.wait_for("CALL_CLOSED", TIMEOUT)?;
        let records = six.scene.finish(1)?;
        SixScene::agree(&records, [six.at_alice.get("in")?, six.at_carol.get("in")?])
    });
}

/// What else the host does at its interfaces goes on: the relay only listens in.
#[test]
fn the_hosts_own_traffic_is_its_own() {
    in_testbed(TestbedConfig { nats: Vec::new(), ..TestbedConfig::default() }, |testbed| {
        let latch = testbed::Latch::start(testbed, &in_user_space())?;
        let host = testbed.host("stranger")?;
        let own = testbed.latch().udp(std::net::SocketAddrV4::new(address::LATCH_ACCESS, 9_000))?;
        let far = host.udp(std::net::SocketAddrV4::new(address::STRANGER, 9_000))?;
        let answers = Counters::add(host, &[("unreachable", Direction::In, "icmp type destination-unreachable")])?;
        far.send_to(b"hello", (address::LATCH_ACCESS, 9_000))?;
        let mut buffer = [0; 16];
        ensure!(own.recv_from(&mut buffer)?.0 == 5, "another port of the host is deaf");
        // A media port that no call has says nothing at all, as in the kernel.
        far.send_to(b"hello", (address::LATCH_ACCESS, 30_000))?;
        std::thread::sleep(Duration::from_millis(300));
        ensure!(answers.get("unreachable")?.packets == 0, "the host answered for a media port");
        let counters = latch.counters()?;
        ensure!(counters.dropped_closed == 1, "{counters:?}");
        latch.stop(testbed).map(drop)
    });
}
