//! What happens over time: NATs that forget, terminals that vanish, registrations that end, and many calls at once.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use anyhow::ensure;
use nix::sys::signal::Signal;
use serde_json::Value;
use testbed::{
    Capture, Counters, Direction, KamailioConfig, Latch, LatchConfig, NatConfig, NatKind, Scenario, Scene, Sipp,
    SippConfig, TestbedConfig, address, in_testbed, leftovers, wait_until,
};

const SOFTSWITCH: SocketAddrV4 = SocketAddrV4::new(address::SOFTSWITCH, 5060);

/// How long anything may take that has to happen: much longer than it does.
const TIMEOUT: Duration = Duration::from_secs(20);

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// NATs that forget a mapping after three silent seconds.
fn forgetful() -> TestbedConfig {
    let nat = NatConfig { udp_timeout: Some(seconds(3)), ..NatConfig::default() };
    TestbedConfig { nats: vec![nat; 2], ..TestbedConfig::default() }
}

#[test]
fn keep_alive_holds_the_nats_mapping_open() {
    for (period_s, reachable) in [(1, true), (60, false)] {
        in_testbed(forgetful(), |testbed| {
            let latch = LatchConfig { keepalive_period_s: period_s, ..LatchConfig::default() };
            let scene = Scene::start(testbed, &KamailioConfig::default(), &latch)?;
            let mut bob = scene.baresip(2, "bob", |config| config.auto_answer = true)?;
            std::thread::sleep(seconds(8));
            let mut alice = scene.baresip(1, "alice", |_| {})?;
            alice.dial("bob")?;
            let patience = if reachable { TIMEOUT } else { seconds(4) };
            let reached = alice.wait_for("CALL_ESTABLISHED", patience).is_ok();
            ensure!(reached == reachable, "with a keep-alive every {period_s} s, bob was reached: {reached}");
            alice.hang_up()?;
            if reachable {
                bob.wait_for("CALL_CLOSED", TIMEOUT)?;
            }
            Ok(())
        });
    }
}

#[test]
fn keep_alive_notices_a_terminal_that_vanishes_and_one_that_comes_back() {
    in_testbed(TestbedConfig::default(), |testbed| {
        // A request counts as unanswered after 64 × t1.
        let extra = "[sip]\nt1_ms = 50\n".into();
        let latch = LatchConfig { keepalive_period_s: 1, keepalive_failures: 2, extra, ..LatchConfig::default() };
        let mut scene = Scene::start(testbed, &KamailioConfig::default(), &latch)?;
        let _alice = scene.baresip(1, "alice", |_| {})?;
        let bob = scene.baresip(2, "bob", |_| {})?;
        bob.peer.signal(Signal::SIGSTOP)?;
        let warning = scene.latch.peer.wait_for_line("no longer answers keep-alives", TIMEOUT)?;
        ensure!(warning.contains("bob@") && warning.contains(&testbed.nat(2)?.public().to_string()), "{warning}");
        ensure!(!scene.latch.peer.output().contains("terminal answers again"), "bob was never heard again");
        bob.peer.signal(Signal::SIGCONT)?;
        scene.latch.peer.wait_for_line("terminal answers again", TIMEOUT)?;
        let of_alice =
            scene.latch.peer.output().lines().any(|line| line.contains("no longer") && line.contains("alice"));
        ensure!(!of_alice, "alice answered all the time");
        scene.finish(0).map(drop)
    });
}

#[test]
fn a_call_without_media_is_ended_by_a_bye_to_both_sides() {
    let gateway = Ipv4Addr::new(10, 9, 0, 30);
    let config = TestbedConfig {
        core_hosts: vec![("gateway", gateway)],
        ..TestbedConfig::with_nats(&[NatKind::PortRestricted])
    };
    in_testbed(config, |testbed| {
        let latch = LatchConfig { silence_timeout_s: 3, ..LatchConfig::default() };
        let scene = Scene::start(testbed, &KamailioConfig::default(), &latch)?;
        scene.register(1, "alice")?;
        let carol = SippConfig { remote: SOFTSWITCH, ..scene.sipp(Scenario::Register, "carol", gateway) };
        Sipp::run(testbed, "register-carol", testbed.host("gateway")?, &carol, TIMEOUT)?;
        let captures = [
            Capture::start(testbed, "access", testbed.inet(), "latch", "")?,
            Capture::start(testbed, "core", testbed.softswitch(), "latch", "")?,
        ];
        // Neither scenario ever says BYE: both wait for one.
        let carol = SippConfig { scenario: Scenario::Answer, ..carol };
        let callee = Sipp::start(testbed, "callee", testbed.host("gateway")?, &carol)?;
        let alice = scene.sipp(Scenario::CallUntilHungUp, "alice", address::PHONE).calling("carol");
        Sipp::run(testbed, "caller", testbed.phone(1)?, &alice, TIMEOUT)?;
        callee.expect_success(TIMEOUT)?;
        let records = scene.finish(1)?;
        ensure!(records.iter().all(|record| record["end_cause"] == "media_silence"), "{records:#?}");

        // Each side's BYE is Latch's own, and was answered.
        for (capture, own) in captures.into_iter().zip([address::LATCH_ACCESS, address::LATCH_CORE]) {
            let capture = capture.stop()?;
            let byes = capture.count(&format!("sip.Method == \"BYE\" && ip.src == {own}"))?;
            let others = capture.count(&format!("sip.Method == \"BYE\" && ip.dst == {own}"))?;
            let answers =
                capture.count(&format!("sip.CSeq.method == \"BYE\" && sip.Status-Code == 200 && ip.dst == {own}"))?;
            ensure!(byes > 0 && others == 0 && answers > 0, "{own}: {:?}", capture.sip_messages()?);
        }
        Ok(())
    });
}

#[test]
fn calls_of_terminals_that_vanish_are_ended() {
    in_testbed(TestbedConfig::default(), |testbed| {
        let latch = LatchConfig { silence_timeout_s: 3, ..LatchConfig::default() };
        let scene = Scene::start(testbed, &KamailioConfig::default(), &latch)?;
        let mut alice = scene.baresip(1, "alice", |_| {})?;
        let mut bob = scene.baresip(2, "bob", |config| config.auto_answer = true)?;
        alice.dial("bob")?;
        alice.wait_for("CALL_ESTABLISHED", TIMEOUT)?;
        bob.wait_for("CALL_ESTABLISHED", TIMEOUT)?;
        wait_until("the call's legs are open", TIMEOUT, || Ok(scene.latch.open_legs()? == 4))?;
        alice.peer.kill()?;
        bob.peer.kill()?;
        // The BYEs to nobody take their 32 s; the legs do not wait for them.
        wait_until("the legs are closed", TIMEOUT, || Ok(scene.latch.open_legs()? == 0))?;
        Ok(())
    });
}

#[test]
fn registrations_end_when_they_are_removed_or_run_out() {
    in_testbed(TestbedConfig::default(), |testbed| {
        let extra = "[sip]\nt1_ms = 50\n".into();
        let latch = LatchConfig { keepalive_period_s: 1, extra, ..LatchConfig::default() };
        let scene = Scene::start(testbed, &KamailioConfig::default(), &latch)?;
        for (phone, user, expires_s) in [(1, "alice", 3_600), (2, "bob", 4)] {
            let asked = Counters::add(
                testbed.phone(phone)?,
                &[(
                    "asked",
                    Direction::In,
                    &format!("ip saddr {} udp sport 5060 udp dport 5060", address::LATCH_ACCESS),
                )],
            )?;
            let asked = || Ok::<_, anyhow::Error>(asked.get("asked")?.packets);
            let register = |name: &str, expires_s| {
                let registering = SippConfig { expires_s, ..scene.sipp(Scenario::Register, user, address::PHONE) };
                Sipp::run(testbed, name, testbed.phone(phone)?, &registering, TIMEOUT)
            };
            register(user, expires_s)?;
            let registered = asked()?;
            let contacts = scene.kamailio.wait_for_contacts(user, 1, seconds(1))?;
            ensure!(contacts.iter().all(|contact| contact.uri.contains("@10.9.0.10:5060")), "{contacts:?}");
            wait_until("the terminal is asked for a sign of life", TIMEOUT, || Ok(asked()? > registered))?;
            if expires_s == 3_600 {
                register("unregister", 0)?;
            }
            scene.kamailio.wait_for_contacts(user, 0, seconds(60))?;
            // Latch has forgotten it as well. What was asked before is repeated for 64 × t1.
            wait_until("the terminal is left in peace for three seconds", TIMEOUT, || {
                let before = asked()?;
                std::thread::sleep(seconds(3));
                Ok(asked()? == before)
            })?;
        }
        scene.finish(0).map(drop)
    });
}

#[test]
fn a_thousand_concurrent_calls_are_set_up_held_and_torn_down() {
    in_testbed(TestbedConfig::default(), |testbed| {
        let scene = Scene::start(testbed, &KamailioConfig::default(), &LatchConfig::default())?;
        scene.register(1, "alice")?;
        scene.register(2, "bob")?;
        let bob = SippConfig { calls: 0, ..scene.sipp(Scenario::Answer, "bob", address::PHONE) };
        let answering = Sipp::start(testbed, "callee", testbed.phone(2)?, &bob)?;
        let alice = scene.sipp(Scenario::Call, "alice", address::PHONE).calling("bob");
        // The first call is held until long after the last should be up, even where the machine is slow.
        let calling = SippConfig { calls: 1_000, rate: 150, hold: seconds(25), ..alice };
        let calling = Sipp::start(testbed, "caller", testbed.phone(1)?, &calling)?;
        wait_until("a thousand calls are up", seconds(40), || {
            std::thread::sleep(Duration::from_millis(200));
            // Two legs for each terminal of each call.
            Ok(scene.latch.open_legs()? == 4_000)
        })?;
        let report = calling.expect_success(seconds(90))?;
        ensure!(report.successful == 1_000, "{report:?}");
        let answered = answering.finish(TIMEOUT)?;
        ensure!(answered.successful >= 1_000 && answered.failed == 0, "{answered:?}");
        let records = scene.finish(2_000)?;
        let in_order = |record: &&Value| record["end_cause"] == "bye_caller" && record["final_code"] == 200;
        ensure!(records.iter().filter(in_order).count() == 2_000, "some calls did not end by the caller's BYE");
        Ok(())
    });
}

#[test]
fn latch_leaves_nothing_behind_and_starts_again() {
    in_testbed(TestbedConfig::default(), |testbed| {
        for _ in 0..2 {
            let latch = Latch::start(testbed, &LatchConfig::default())?;
            ensure!(!latch.bpf_objects()?.is_empty(), "a running Latch holds no BPF objects");
            ensure!(leftovers::no_xdp(testbed.latch()).is_err(), "a running Latch has no program at its interfaces");
            latch.stop(testbed)?;
        }
        Ok(())
    });
}
