//! Media through the relay, packet by packet: nothing is lost, everything is counted, and strangers get nothing.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use proxy_common::verdict::{Action, Verdict};
use serde_json::Value;
use testbed::call::{self, audio, number, recorded};
use testbed::rtp::{Sink, Stream};
use testbed::{
    Counters, Direction, End, KamailioConfig, LatchConfig, MediaCall, NatKind, Scenario, Scene, Sipp, SippConfig,
    Stranger, Testbed, TestbedConfig, address, in_testbed, wait_until,
};

/// How long anything may take that has to happen: much longer than it does.
const TIMEOUT: Duration = Duration::from_secs(20);

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// From a wrong source, of a wrong format, without a destination, for other reasons.
fn dropped(flow: &Value) -> [u64; 4] {
    ["source", "format", "no_destination", "other"].map(|reason| call::dropped(flow, reason))
}

/// Nothing of Latch but its two signalling sockets can see a packet, and the host's stack saw none on the media ports.
fn user_space_has_no_media(scene: &Scene<'_>, stack: &Counters<'_>) -> Result<()> {
    let latch = scene.testbed.latch();
    let sockets = |file: &str| -> Result<Vec<String>> {
        let text = latch.run("cat", &format!("/proc/net/{file}"))?;
        Ok(text.lines().skip(1).map(str::to_owned).collect())
    };
    // The local address is the second column: hexadecimal, the port behind the colon.
    let signalling = format!(":{:04X}", 5060);
    let (udp, raw) = (sockets("udp")?, [sockets("raw")?, sockets("packet")?].concat());
    let only_signalling =
        udp.iter().all(|line| line.split_whitespace().nth(1).is_some_and(|local| local.ends_with(&signalling)));
    ensure!(udp.len() == 2 && only_signalling && raw.is_empty(), "sockets of Latch: {udp:#?} {raw:#?}");
    let seen = stack.read()?;
    ensure!(seen.values().all(|count| count.packets == 0), "media passed through the host's stack: {seen:?}");
    Ok(())
}

fn count_media_in_the_stack<'testbed>(testbed: &'testbed Testbed) -> Result<Counters<'testbed>> {
    let ports = |end| format!("udp {end} 30000-39999");
    Counters::add(
        testbed.latch(),
        &[("media_in", Direction::In, &ports("dport")), ("media_out", Direction::Out, &ports("sport"))],
    )
}

/// Ten seconds of a call between two terminals, every packet of which passes through both of their legs.
fn talk_for_ten_seconds(kind: NatKind) {
    in_testbed(TestbedConfig::with_nats(&[kind; 2]), |testbed| {
        let scene = Scene::start(testbed, &KamailioConfig::default(), &LatchConfig::default())?;
        ensure!(scene.latch.peer.output().contains("native mode on access, core"), "the program is not in native mode");
        let stack = count_media_in_the_stack(testbed)?;
        let call = MediaCall::start(&scene, seconds(20))?;
        let (alice, bob) = (&call.alice, &call.bob);
        let (at_alice, at_bob) = (Sink::start(&alice.rtp)?, Sink::start(&bob.rtp)?);
        let (reports_at_alice, reports_at_bob) = (Sink::start(&alice.rtcp)?, Sink::start(&bob.rtcp)?);

        call.latch(&scene)?;
        bob.send_report()?;
        wait_until("bob's first report is dropped", TIMEOUT, || Ok(scene.latch.counters()?.dropped_destination == 2))?;
        alice.send_report()?;
        bob.wait_for("rtcp_in", 1)?;
        let (from_alice, from_bob) = (
            Stream { packets: 500, ssrc: 1, ..Stream::default() },
            Stream { packets: 500, ssrc: 2, ..Stream::default() },
        );
        let sending = from_bob.spawn(&bob.rtp, bob.relay)?;
        from_alice.send(&alice.rtp, alice.relay)?;
        sending.join().map_err(|_| anyhow!("bob's sender panicked"))??;
        bob.send_report()?;
        alice.wait_for("rtcp_in", 1)?;

        let (heard, heard_by_bob) = (at_alice.stop()?, at_bob.stop()?);
        let (from_bob, from_alice) = (heard.stream(2)?, heard_by_bob.stream(1)?);
        ensure!((from_bob.packets, from_bob.lost()) == (500, 0), "alice heard {heard:?}");
        ensure!((from_alice.packets, from_alice.lost()) == (500, 0), "bob heard {heard_by_bob:?}");
        ensure!(reports_at_bob.stop()?.rtcp.values().sum::<u64>() == 1, "bob got no report of alice");
        ensure!(reports_at_alice.stop()?.rtcp.values().sum::<u64>() == 1, "alice got no report of bob");
        let (alices, bobs) = (alice.totals()?, bob.totals()?);
        let mut counters = scene.latch.counters()?;
        user_space_has_no_media(&scene, &stack)?;
        call.end()?;

        let records = scene.finish(2)?;
        // What bob sent before there was a way to alice was dropped on its way to her.
        for (nat, (sent, received), drops) in [(1, alices, [0, 0, 2, 0]), (2, bobs, [0; 4])] {
            let stream = audio(&records, testbed, nat)?;
            let (up, down) = (&stream["access_to_core"], &stream["core_to_access"]);
            ensure!(recorded(up) == sent && dropped(up) == [0; 4], "phone {nat} sent {sent:?}: {up:#}");
            ensure!(recorded(down) == received && dropped(down) == drops, "phone {nat} got {received:?}: {down:#}");
        }
        let arrived = [alices, bobs].iter().map(|(_, [rtp, rtcp])| rtp.packets + rtcp.packets).sum::<u64>();
        ensure!((counters.forwarded_same, counters.forwarded_other) == (arrived, 0), "{arrived} arrived: {counters:?}");
        for verdict in Verdict::ALL.iter().filter(|verdict| verdict.action() == Action::Drop) {
            let expected = if *verdict == Verdict::DroppedDestination { 2 } else { 0 };
            ensure!(*counters.of(*verdict) == expected, "{}: {counters:?}", verdict.name());
        }
        Ok(())
    });
}

#[test]
fn ten_seconds_through_port_restricted_nats_lose_nothing_and_the_records_agree_with_the_far_ends() {
    talk_for_ten_seconds(NatKind::PortRestricted);
}

#[test]
fn ten_seconds_through_symmetric_nats_lose_nothing_and_the_records_agree_with_the_far_ends() {
    talk_for_ten_seconds(NatKind::Symmetric);
}

#[test]
fn media_between_a_terminal_and_the_core_is_redirected_and_counted() {
    let gateway = Ipv4Addr::new(10, 9, 0, 30);
    let config =
        TestbedConfig { core_hosts: vec![("gateway", gateway)], ..TestbedConfig::with_nats(&[NatKind::Symmetric]) };
    in_testbed(config, |testbed| {
        let scene = Scene::start(testbed, &KamailioConfig::default(), &LatchConfig::default())?;
        let stack = count_media_in_the_stack(testbed)?;
        scene.register(1, "alice")?;
        let softswitch = SocketAddrV4::new(address::SOFTSWITCH, 5060);
        let carol = SippConfig { remote: softswitch, ..scene.sipp(Scenario::Register, "carol", gateway) };
        Sipp::run(testbed, "register-carol", testbed.host("gateway")?, &carol, TIMEOUT)?;
        let carol = SippConfig { scenario: Scenario::Answer, ..carol };
        let callee = Sipp::start(testbed, "callee", testbed.host("gateway")?, &carol)?;
        let alice = SippConfig { hold: seconds(10), ..scene.sipp(Scenario::Call, "alice", address::PHONE) };
        let caller = Sipp::start(testbed, "caller", testbed.phone(1)?, &alice.calling("carol"))?;
        let alice = End::open(testbed.phone(1)?, address::PHONE, caller.wait_for_remote_media(TIMEOUT)?)?;
        let carol = End::open(testbed.host("gateway")?, gateway, callee.wait_for_remote_media(TIMEOUT)?)?;

        // The phone behind the NAT begins.
        for (near, far) in [(&alice, &carol), (&carol, &alice)] {
            Stream { packets: 50, ..Stream::default() }.send(&near.rtp, near.relay)?;
            far.wait_for("rtp_in", 50)?;
            near.send_report()?;
            far.wait_for("rtcp_in", 1)?;
        }
        let counters = scene.latch.counters()?;
        ensure!((counters.forwarded_other, counters.forwarded_same) == (102, 0), "{counters:?}");
        user_space_has_no_media(&scene, &stack)?;
        let ((sent, received), (sent_by_carol, received_by_carol)) = (alice.totals()?, carol.totals()?);
        ensure!(sent == received_by_carol && received == sent_by_carol, "lost on the way");
        caller.expect_success(seconds(30))?;
        callee.expect_success(TIMEOUT)?;

        let records = scene.finish(1)?;
        let stream = audio(&records, testbed, 1)?;
        for (flow, ends) in [("access_to_core", sent), ("core_to_access", received)] {
            ensure!(recorded(&stream[flow]) == ends && dropped(&stream[flow]) == [0; 4], "{flow}: {ends:?} {stream:#}");
        }
        Ok(())
    });
}

#[test]
fn a_stranger_who_sprays_the_relay_gets_nothing_and_brings_nothing() {
    in_testbed(TestbedConfig::default(), |testbed| {
        // Long enough to spray into it even where the machine is slow.
        let latch = LatchConfig { learning_window_s: 20, ..LatchConfig::default() };
        let scene = Scene::start(testbed, &KamailioConfig::default(), &latch)?;
        let stranger = Stranger::start(testbed)?;
        let spray = |rounds| stranger.spray(address::LATCH_ACCESS, 30_000..=39_999, rounds);
        spray(1)?;

        let call = MediaCall::start(&scene, seconds(20))?;
        let (alice, bob) = (&call.alice, &call.bob);
        let (at_alice, at_bob) = (Sink::start(&alice.rtp)?, Sink::start(&bob.rtp)?);
        // Before either phone has sent anything: every port still learns.
        spray(2)?;
        call.latch(&scene)?;
        let (from_alice, from_bob) = (
            Stream { packets: 200, ssrc: 1, ..Stream::default() },
            Stream { packets: 200, ssrc: 2, ..Stream::default() },
        );
        let senders = [from_alice.spawn(&alice.rtp, alice.relay)?, from_bob.spawn(&bob.rtp, bob.relay)?];
        // And while they talk.
        spray(3)?;
        for sender in senders {
            sender.join().map_err(|_| anyhow!("a sender panicked"))??;
        }

        let (heard, heard_by_bob) = (at_alice.stop()?, at_bob.stop()?);
        for tally in [&heard, &heard_by_bob] {
            ensure!(tally.stream(Stranger::SSRC).is_err(), "the stranger was heard: {tally:?}");
            ensure!(tally.other.is_empty() && tally.rtcp.is_empty(), "{tally:?}");
        }
        ensure!((heard.stream(2)?.packets, heard_by_bob.stream(1)?.packets) == (200, 200), "the call suffered");
        // Bob's first packet went nowhere, alice's arrived: what the interfaces saw is what the phones sent.
        let (seen, seen_by_bob) = (alice.counters.get("media_in")?.packets, bob.counters.get("media_in")?.packets);
        ensure!((seen, seen_by_bob) == (200, 201), "the interfaces saw {seen} and {seen_by_bob}");
        call.end()?;

        let report = stranger.stop()?;
        ensure!(report.ip.bytes == 0 && report.tally.packets() == 0, "the stranger received something: {report:?}");
        let records = scene.finish(2)?;
        for nat in [1, 2] {
            let up = &audio(&records, testbed, nat)?["access_to_core"];
            // Five rounds over the RTP and the RTCP port.
            let [source, format, _, _] = dropped(up);
            ensure!(source + format >= 8, "{up:#}");
        }
        Ok(())
    });
}

#[test]
fn a_nat_that_gives_a_running_stream_another_port_costs_seconds_not_the_call() {
    in_testbed(TestbedConfig::default(), |testbed| {
        let scene = Scene::start(testbed, &KamailioConfig::default(), &LatchConfig::default())?;
        let call = MediaCall::start(&scene, seconds(20))?;
        let (alice, bob) = (&call.alice, &call.bob);
        call.latch(&scene)?;
        let first = Stream { packets: 50, ssrc: 1, sequence: 100, ..Stream::default() };
        first.send(&alice.rtp, alice.relay)?;
        bob.wait_for("rtp_in", 51)?;

        // Another socket is another mapping of the NAT; the phone knows nothing of that and goes on.
        let moved = testbed.phone(1)?.udp(SocketAddrV4::new(address::PHONE, 6_500))?;
        let at_moved = Sink::start(&moved)?;
        let from_bob = Stream { packets: 250, ssrc: 2, ..Stream::default() };
        let sending = from_bob.spawn(&bob.rtp, bob.relay)?;
        Stream { packets: 200, ssrc: 1, sequence: 150, ..Stream::default() }.send(&moved, alice.relay)?;
        sending.join().map_err(|_| anyhow!("bob's sender panicked"))??;
        // Of the four seconds that were sent at least the last arrives, and the other direction has followed. How many
        // went before, while the old port had the claim, is not the same where the machine is slow; the record knows
        // it.
        let heard_by_bob = bob.counters.get("rtp_in")?.packets - 51;
        ensure!((50..=200).contains(&heard_by_bob), "bob heard {heard_by_bob} of the 200 from the new port");
        let heard = at_moved.stop()?.stream(2)?.packets;
        ensure!(heard >= 50, "alice heard {heard} at the new port");

        // A stranger behind the same NAT has no such stream.
        let stranger = testbed.phone(1)?.udp(SocketAddrV4::new(address::PHONE, 6_600))?;
        std::thread::sleep(Duration::from_millis(2_300));
        let before = bob.counters.get("rtp_in")?.packets;
        Stream { packets: 50, ssrc: 99, sequence: 350, ..Stream::default() }.send(&stranger, alice.relay)?;
        ensure!(bob.counters.get("rtp_in")?.packets == before, "bob heard a stranger");
        call.end()?;

        let records = scene.finish(2)?;
        let up = &audio(&records, testbed, 1)?["access_to_core"];
        let quality = &up["quality"];
        ensure!(number(quality, "reordered") == 0 && number(quality, "duplicates") == 0, "{up:#}");
        // What was dropped while the new port had no claim is what the stream lacks.
        ensure!(number(quality, "lost") == 200 - heard_by_bob, "{heard_by_bob} heard: {up:#}");
        ensure!(number(quality, "jitter_us") < 20_000, "{up:#}");
        Ok(())
    });
}
