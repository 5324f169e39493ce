//! The testbed proves itself: its NATs, peers, counters and checkers, without Latch in between.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use anyhow::ensure;
use testbed::rtp::{Sink, Stream, sender_report};
use testbed::{
    Baresip, BaresipConfig, Capture, Counters, Direction, Kamailio, KamailioConfig, NatConfig, NatKind, Scenario, Sipp,
    SippConfig, Stranger, Testbed, TestbedConfig, address, in_testbed, leftovers,
};

const SOFTSWITCH: SocketAddrV4 = SocketAddrV4::new(address::SOFTSWITCH, 5060);
/// Two phones with public addresses: media between them needs no relay.
const PUBLIC: [(&str, Ipv4Addr); 2] =
    [("ann", Ipv4Addr::new(203, 0, 113, 51)), ("ben", Ipv4Addr::new(203, 0, 113, 52))];

fn without_latch() -> TestbedConfig {
    TestbedConfig { plain_router: true, access_hosts: PUBLIC.to_vec(), ..TestbedConfig::default() }
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[test]
fn a_testbed_leaves_nothing_behind_even_after_a_panic() {
    if !testbed::available() {
        return;
    }
    let (mut prefix, mut directory) = (String::new(), std::path::PathBuf::new());
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let testbed = Testbed::new(TestbedConfig::default()).expect("a testbed");
        (prefix, directory) = (testbed.prefix().to_owned(), testbed.directory().to_owned());
        let mut sleeper = testbed.phone(1).unwrap().command("sleep").unwrap();
        let sleeper = testbed::Peer::start(
            "sleeper",
            {
                sleeper.arg("600");
                sleeper
            },
            &testbed.logs(),
        )
        .unwrap();
        assert_eq!(leftovers::namespaces(&prefix).len(), 8, "the testbed's namespaces");
        // Not even dropped: the testbed ends whatever is in its namespaces.
        std::mem::forget(sleeper);
        panic!("on purpose");
    }));
    assert!(panicked.is_err());
    assert_eq!(leftovers::namespaces(&prefix), Vec::<String>::new());
    assert!(!directory.exists());
}

#[test]
fn a_port_restricted_nat_keeps_one_port_and_a_symmetric_one_does_not() {
    in_testbed(
        TestbedConfig {
            plain_router: true,
            ..TestbedConfig::with_nats(&[NatKind::PortRestricted, NatKind::Symmetric])
        },
        |testbed| {
            let near = testbed.host("stranger")?.udp(SocketAddrV4::new(address::STRANGER, 7000))?;
            let far = testbed.softswitch().udp(SocketAddrV4::new(address::SOFTSWITCH, 7000))?;
            let mut outside = Vec::new();
            for number in [1, 2] {
                let phone = testbed.phone(number)?.udp(SocketAddrV4::new(address::PHONE, 5060))?;
                let mut buffer = [0; 16];
                phone.send_to(b"near", (address::STRANGER, 7000))?;
                let first = near.recv_from(&mut buffer)?.1;
                phone.send_to(b"far", SocketAddrV4::new(address::SOFTSWITCH, 7000))?;
                let second = far.recv_from(&mut buffer)?.1;
                ensure!(first.ip() == testbed.nat(number)?.public() && second.ip() == first.ip(), "{first} {second}");
                // Answers come back, a third party's packet does not.
                near.send_to(b"back", first)?;
                ensure!(phone.recv_from(&mut buffer)?.0 == 4, "no answer through NAT {number}");
                let third = testbed.host("stranger")?.udp(SocketAddrV4::new(address::STRANGER, 7001))?;
                third.send_to(b"intruder", first)?;
                ensure!(phone.recv_from(&mut buffer).is_err(), "NAT {number} let a stranger in");
                outside.push((first.port(), second.port()));
            }
            let [kept, random] = outside[..] else { anyhow::bail!("two NATs") };
            ensure!(kept == (5060, 5060), "the port-restricted NAT mapped 5060 to {kept:?}");
            ensure!(random.0 != random.1, "the symmetric NAT mapped both to {random:?}");
            Ok(())
        },
    );
}

#[test]
fn a_nat_forgets_a_silent_mapping() {
    let nat = NatConfig { udp_timeout: Some(seconds(2)), ..NatConfig::default() };
    in_testbed(TestbedConfig { nats: vec![nat], ..TestbedConfig::default() }, |testbed| {
        let outside = testbed.host("stranger")?.udp(SocketAddrV4::new(address::STRANGER, 7000))?;
        let phone = testbed.phone(1)?.udp(SocketAddrV4::new(address::PHONE, 5060))?;
        let mut buffer = [0; 16];
        phone.send_to(b"hello", (address::STRANGER, 7000))?;
        let from = outside.recv_from(&mut buffer)?.1;
        outside.send_to(b"in time", from)?;
        ensure!(phone.recv_from(&mut buffer).is_ok(), "the mapping was not there");
        std::thread::sleep(seconds(4));
        outside.send_to(b"too late", from)?;
        ensure!(phone.recv_from(&mut buffer).is_err(), "the mapping outlived its time");
        Ok(())
    });
}

#[test]
fn baresip_registers_with_digest_through_a_nat() {
    in_testbed(without_latch(), |testbed| {
        let kamailio =
            Kamailio::start(testbed, &KamailioConfig { digest: true, nat_aware: true, ..KamailioConfig::default() })?;
        for (number, user, password) in [(1, "alice", "wonderland"), (2, "bob", "builder")] {
            let config = BaresipConfig {
                password: Some(password.to_owned()),
                ..BaresipConfig::new(user, address::PHONE, SOFTSWITCH)
            };
            let mut phone = Baresip::start(testbed, user, testbed.phone(number)?, &config)?;
            phone.wait_registered(seconds(5))?;
            let contacts = kamailio.contacts_of(user)?;
            ensure!(contacts.len() == 1 && contacts[0].uri.contains("192.168.1.10"), "{contacts:?}");
        }
        let wrong = BaresipConfig {
            password: Some("wrong".to_owned()),
            ..BaresipConfig::new("carol", PUBLIC[0].1, SOFTSWITCH)
        };
        let mut phone = Baresip::start(testbed, "carol", testbed.host("ann")?, &wrong)?;
        phone.peer.wait_for_line("401 Unauthorized", seconds(5))?;
        ensure!(kamailio.contacts_of("carol")?.is_empty());
        Ok(())
    });
}

#[test]
fn two_baresips_talk_hold_and_hang_up() {
    in_testbed(without_latch(), |testbed| {
        let kamailio = Kamailio::start(testbed, &KamailioConfig::default())?;
        let [(_, ann), (_, ben)] = PUBLIC;
        let counters = Counters::add(
            testbed.host("ben")?,
            &[("in", Direction::In, &format!("ip saddr {ann} udp dport 16384-16484"))],
        )?;
        let mut alice =
            Baresip::start(testbed, "alice", testbed.host("ann")?, &BaresipConfig::new("alice", ann, SOFTSWITCH))?;
        let mut bob =
            Baresip::start(testbed, "bob", testbed.host("ben")?, &BaresipConfig::new("bob", ben, SOFTSWITCH))?;
        alice.wait_registered(seconds(5))?;
        bob.wait_registered(seconds(5))?;
        kamailio.wait_for_contacts("bob", 1, seconds(1))?;

        alice.dial("bob")?;
        bob.wait_for("CALL_INCOMING", seconds(5))?;
        bob.accept()?;
        alice.wait_for("CALL_ESTABLISHED", seconds(5))?;
        bob.wait_for("CALL_ESTABLISHED", seconds(5))?;
        std::thread::sleep(seconds(2));
        let talked = counters.get("in")?;
        ensure!((60..200).contains(&talked.packets), "2 s of G.711 are about 100 packets: {talked:?}");

        alice.hold()?;
        std::thread::sleep(seconds(1));
        alice.resume()?;
        std::thread::sleep(Duration::from_millis(500));
        bob.hang_up()?;
        alice.wait_for("CALL_CLOSED", seconds(5))?;
        Ok(())
    });
}

#[test]
fn sipp_registers_calls_holds_cancels_and_is_rejected() {
    in_testbed(without_latch(), |testbed| {
        let kamailio = Kamailio::start(testbed, &KamailioConfig::default())?;
        let (caller, callee) = (testbed.host("ann")?, testbed.host("ben")?);
        let at_caller = SocketAddrV4::new(PUBLIC[0].1, 5060);
        let at_callee = SocketAddrV4::new(PUBLIC[1].1, 5060);
        let alice =
            |scenario| SippConfig::new(scenario, "alice", at_caller, SOFTSWITCH).calling("bob").password("wonderland");
        let bob = |scenario| SippConfig::new(scenario, "bob", at_callee, SOFTSWITCH).password("builder");
        Sipp::run(testbed, "register", callee, &bob(Scenario::Register), seconds(5))?;
        kamailio.wait_for_contacts("bob", 1, seconds(1))?;

        let capture = Capture::start(testbed, "core", testbed.softswitch(), "latch", "udp")?;
        for (index, (calling, answering)) in [
            (Scenario::Call, Scenario::Answer),
            (Scenario::CallWithHold, Scenario::Answer),
            (Scenario::CallUntilHungUp, Scenario::AnswerAndHangUp),
            (Scenario::CallAndCancel, Scenario::RingUntilCancelled),
            (Scenario::CallAndBeRejected, Scenario::Reject),
            (Scenario::Request, Scenario::AnswerRequest),
        ]
        .into_iter()
        .enumerate()
        {
            let answer = Sipp::start(testbed, &format!("answer{index}"), callee, &bob(answering))?;
            let call = SippConfig { hold: Duration::from_millis(300), ..alice(calling) };
            Sipp::run(testbed, &format!("call{index}"), caller, &call, seconds(10))?;
            answer.expect_success(seconds(5))?;
        }
        let recording = capture.stop()?;
        ensure!(recording.malformed(None)?.is_empty(), "{:?}", recording.malformed(None)?);
        ensure!(
            recording.count("sip.Method == \"CANCEL\"")? >= 2
                && recording.count("sdp.media_attr == \"sendonly\"")? >= 1
        );

        let gone = SippConfig { expires_s: 0, ..bob(Scenario::Register) };
        Sipp::run(testbed, "unregister", callee, &gone, seconds(5))?;
        kamailio.wait_for_contacts("bob", 0, seconds(3))?;
        Ok(())
    });
}

#[test]
fn sipp_answers_digest_challenges() {
    in_testbed(without_latch(), |testbed| {
        let kamailio = Kamailio::start(testbed, &KamailioConfig { digest: true, ..KamailioConfig::default() })?;
        let (caller, callee) = (testbed.host("ann")?, testbed.host("ben")?);
        let at_caller = SocketAddrV4::new(PUBLIC[0].1, 5060);
        let bob = SippConfig::new(Scenario::Register, "bob", SocketAddrV4::new(PUBLIC[1].1, 5060), SOFTSWITCH);
        ensure!(
            Sipp::run(testbed, "wrong", callee, &bob.clone().password("wrong"), seconds(5)).is_err(),
            "a wrong password was accepted"
        );
        Sipp::run(testbed, "right", callee, &bob.clone().password("builder"), seconds(5))?;
        kamailio.wait_for_contacts("bob", 1, seconds(1))?;
        let answer = SippConfig { scenario: Scenario::Answer, ..bob };
        let answer = Sipp::start(testbed, "answer", callee, &answer)?;
        let call =
            SippConfig::new(Scenario::Call, "alice", at_caller, SOFTSWITCH).calling("bob").password("wonderland");
        Sipp::run(testbed, "call", caller, &call, seconds(5))?;
        answer.expect_success(seconds(5)).map(drop)
    });
}

#[test]
fn streams_made_here_go_with_a_call_of_sipp() {
    in_testbed(without_latch(), |testbed| {
        let kamailio = Kamailio::start(testbed, &KamailioConfig::default())?;
        let [(_, ann), (_, ben)] = PUBLIC;
        let (caller, callee) = (testbed.host("ann")?, testbed.host("ben")?);
        let bob = |scenario| SippConfig {
            media_port: 6_100,
            ..SippConfig::new(scenario, "bob", SocketAddrV4::new(ben, 5060), SOFTSWITCH)
        };
        Sipp::run(testbed, "register", callee, &bob(Scenario::Register), seconds(5))?;
        kamailio.wait_for_contacts("bob", 1, seconds(1))?;
        let answer = Sipp::start(testbed, "answer", callee, &bob(Scenario::Answer))?;
        let alice = SippConfig::new(Scenario::Call, "alice", SocketAddrV4::new(ann, 5060), SOFTSWITCH).calling("bob");
        let call = Sipp::start(testbed, "call", caller, &SippConfig { hold: seconds(2), ..alice })?;

        let to_bob = call.wait_for_remote_media(seconds(5))?;
        let to_alice = answer.wait_for_remote_media(seconds(5))?;
        ensure!(to_bob == SocketAddrV4::new(ben, 6_100) && to_alice == SocketAddrV4::new(ann, 6_000));
        let (at_alice, at_bob) = (caller.udp(to_alice)?, callee.udp(to_bob)?);
        let (heard_by_alice, heard_by_bob) = (Sink::start(&at_alice)?, Sink::start(&at_bob)?);
        let (from_alice, from_bob) = (Stream { ssrc: 1, ..Stream::default() }, Stream { ssrc: 2, ..Stream::default() });
        let sending = from_bob.spawn(&at_bob, to_alice)?;
        from_alice.send(&at_alice, to_bob)?;
        let _ = sending.join();
        ensure!(heard_by_alice.stop()?.stream(2)?.packets == 50 && heard_by_bob.stop()?.stream(1)?.packets == 50);
        call.expect_success(seconds(5))?;
        answer.expect_success(seconds(5)).map(drop)
    });
}

#[test]
fn the_capture_checks_find_a_planted_address_and_a_malformed_message() {
    in_testbed(without_latch(), |testbed| {
        let (ann, _ben) = (testbed.host("ann")?, testbed.host("ben")?);
        let capture = Capture::start(testbed, "ben", testbed.host("ben")?, "eth0", "udp")?;
        let from = ann.udp(SocketAddrV4::new(PUBLIC[0].1, 5060))?;
        let to = (PUBLIC[1].1, 5060);
        let good = "OPTIONS sip:ben@203.0.113.52 SIP/2.0\r\nVia: SIP/2.0/UDP 203.0.113.51;branch=z9hG4bK1\r\n\
                    From: <sip:ann@example.test>;tag=1\r\nTo: <sip:ben@example.test>\r\nCall-ID: 1\r\nCSeq: 1 OPTIONS\r\n\
                    Max-Forwards: 70\r\nContent-Length: 0\r\n\r\n";
        from.send_to(good.as_bytes(), to)?;
        let big = good
            .replace("Max-Forwards", &format!("X-Big: {}\r\nX-Route: 10.9.0.20\r\nMax-Forwards", "x".repeat(2_000)));
        from.send_to(big.as_bytes(), to)?;
        // RTCP that claims to be longer than it is.
        let mut report = sender_report(1, 1, 1);
        report.truncate(12);
        ann.udp(SocketAddrV4::new(PUBLIC[0].1, 30_001))?.send_to(&report, (PUBLIC[1].1, 30_001))?;
        let recording = capture.stop()?;

        let messages = recording.sip_messages()?;
        ensure!(messages.len() == 2 && messages[0].bytes == good.as_bytes(), "{messages:?}");
        ensure!(messages[1].bytes == big.as_bytes(), "fragments were not put together");
        ensure!(recording.forbidden(&["10.9.0.2", "192.168.1.10"], |_| true)?.is_empty());
        let found = recording.forbidden(&["10.9.0.20"], |message| message.from == PUBLIC[0].1)?;
        ensure!(found.len() == 1 && found[0].contains("10.9.0.20"), "{found:?}");
        ensure!(recording.malformed(Some("30000-30001"))?.len() == 1, "the truncated report was not noticed");
        Ok(())
    });
}

#[test]
fn streams_counters_and_the_stranger_agree() {
    in_testbed(without_latch(), |testbed| {
        let [(_, ann), (_, ben)] = PUBLIC;
        let counters = Counters::add(testbed.host("ben")?, &[("rtp", Direction::In, "udp dport 30000")])?;
        let sending = testbed.host("ann")?.udp(SocketAddrV4::new(ann, 30_000))?;
        let receiving = testbed.host("ben")?.udp(SocketAddrV4::new(ben, 30_000))?;
        let back = Stream { packets: 3, ssrc: 7, interval: Duration::ZERO, ..Stream::default() };
        let sink = Sink::start(&receiving)?;
        let stranger = Stranger::start(testbed)?;

        let stream = Stream { packets: 50, ..Stream::default() };
        let begun = Instant::now();
        stream.send(&sending, SocketAddrV4::new(ben, 30_000))?;
        ensure!(begun.elapsed() > Duration::from_millis(970), "50 packets at 20 ms took {:?}", begun.elapsed());
        let sprayed = stranger.spray(ben, 30_000..=30_099, 2)?;
        back.send(&receiving, SocketAddrV4::new(address::STRANGER, 40_000))?;

        let tally = sink.stop()?;
        let received = tally.stream(stream.ssrc)?;
        ensure!((received.packets, received.lost(), received.bytes) == (50, 0, 50 * 172), "{received:?}");
        ensure!(sprayed == 200 && tally.stream(Stranger::SSRC)?.packets == 2, "{tally:?}");
        let counted = counters.get("rtp")?;
        ensure!((counted.packets, counted.udp_payload()) == (52, 52 * 172), "{counted:?}");
        let report = stranger.stop()?;
        ensure!(report.tally.stream(7)?.packets == 3, "{report:?}");
        ensure!(report.ip.packets > 3, "the ICMP errors from closed ports were not counted: {report:?}");
        Ok(())
    });
}
