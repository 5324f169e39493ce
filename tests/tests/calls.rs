//! Calls of real phones through Latch: registration, set-up, rejection, hold, hang-up, and what the far ends see.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Result, ensure};
use testbed::{
    Baresip, Capture, Counters, Direction, KamailioConfig, LatchConfig, NatConfig, NatKind, Scenario, Scene, Sipp,
    SippConfig, Testbed, TestbedConfig, address, in_testbed, wait_until,
};

/// How long anything may take that has to happen: much longer than it does.
const TIMEOUT: Duration = Duration::from_secs(20);

fn scene(testbed: &Testbed) -> Result<Scene<'_>> {
    Scene::start(testbed, &KamailioConfig::default(), &LatchConfig::default())
}

/// Counts the RTP that comes to a phone's baresip from Latch.
fn rtp_from_latch<'testbed>(testbed: &'testbed Testbed, phone: usize) -> Result<Counters<'testbed>> {
    let matching = format!("ip saddr {} udp dport 16384-16484", address::LATCH_ACCESS);
    Counters::add(testbed.phone(phone)?, &[("rtp", Direction::In, &matching)])
}

/// Waits until `packets` more have come than there were at the call.
fn hear(counter: &Counters<'_>, packets: u64) -> Result<()> {
    let before = counter.get("rtp")?.packets;
    wait_until(&format!("{packets} packets are heard"), TIMEOUT, || Ok(counter.get("rtp")?.packets >= before + packets))
}

/// `caller` calls `user`, each hears the other, `callee` or `caller` hangs up.
fn talk(
    caller: &mut Baresip,
    callee: &mut Baresip,
    user: &str,
    callee_ends: bool,
    counters: &[Counters<'_>],
) -> Result<()> {
    caller.dial(user)?;
    callee.wait_for("CALL_INCOMING", TIMEOUT)?;
    callee.accept()?;
    caller.wait_for("CALL_ESTABLISHED", TIMEOUT)?;
    callee.wait_for("CALL_ESTABLISHED", TIMEOUT)?;
    counters.iter().try_for_each(|counter| hear(counter, 50))?;
    let (ending, other) = if callee_ends { (callee, caller) } else { (caller, callee) };
    ending.hang_up()?;
    other.wait_for("CALL_CLOSED", TIMEOUT).map(drop)
}

/// Two phones with the same private address behind these NATs call each other, and either ends the call.
fn call_in_both_directions(nats: [NatKind; 2]) {
    in_testbed(TestbedConfig::with_nats(&nats), |testbed| {
        let scene = scene(testbed)?;
        let counters = [rtp_from_latch(testbed, 1)?, rtp_from_latch(testbed, 2)?];
        let mut alice = scene.baresip(1, "alice", |_| {})?;
        let mut bob = scene.baresip(2, "bob", |_| {})?;
        talk(&mut alice, &mut bob, "bob", false, &counters)?;
        talk(&mut bob, &mut alice, "alice", false, &counters)?;
        talk(&mut alice, &mut bob, "bob", true, &counters)?;
        // One record for each terminal of each call.
        let records = scene.finish(6)?;
        let causes: Vec<_> = records.iter().filter_map(|record| record["end_cause"].as_str()).collect();
        ensure!(causes.iter().filter(|cause| **cause == "bye_caller").count() == 4, "{causes:?}");
        ensure!(causes.iter().filter(|cause| **cause == "bye_callee").count() == 2, "{causes:?}");
        Ok(())
    });
}

#[test]
fn two_phones_with_the_same_private_address_call_each_other_through_port_restricted_nats() {
    call_in_both_directions([NatKind::PortRestricted; 2]);
}

#[test]
fn two_phones_with_the_same_private_address_call_each_other_through_symmetric_nats() {
    call_in_both_directions([NatKind::Symmetric; 2]);
}

#[test]
fn two_phones_with_the_same_private_address_call_each_other_through_nats_of_both_kinds() {
    call_in_both_directions([NatKind::Symmetric, NatKind::PortRestricted]);
}

#[test]
fn digest_authentication_of_the_softswitch_works_through_latch() {
    in_testbed(TestbedConfig::default(), |testbed| {
        let kamailio = KamailioConfig { digest: true, ..KamailioConfig::default() };
        let scene = Scene::start(testbed, &kamailio, &LatchConfig::default())?;
        let counters = [rtp_from_latch(testbed, 1)?, rtp_from_latch(testbed, 2)?];
        let core = Capture::start(testbed, "core", testbed.softswitch(), "latch", "")?;
        let mut alice = scene.baresip(1, "alice", |_| {})?;
        let mut bob = scene.baresip(2, "bob", |_| {})?;
        talk(&mut alice, &mut bob, "bob", false, &counters)?;
        drop((alice, bob));
        // REGISTER was challenged and so was INVITE.
        let core = core.stop()?;
        for code in [401, 407] {
            ensure!(core.count(&format!("sip.Status-Code == {code}"))? > 0, "nothing was challenged with {code}");
        }

        let wrong = scene.sipp(Scenario::Register, "alice", address::PHONE).password("wrong");
        let mut wrong = Sipp::start(testbed, "wrong", testbed.phone(1)?, &wrong)?;
        let report = wrong.wait(TIMEOUT)?;
        let refused = wrong.received().iter().filter(|message| message.starts_with("SIP/2.0 401 ")).count();
        ensure!(report.successful == 0 && refused >= 2, "a wrong password: refused {refused} times, {report:?}");
        scene.finish(2).map(drop)
    });
}

#[test]
fn calls_are_cancelled_rejected_held_and_ended_by_either_side() {
    in_testbed(TestbedConfig::default(), |testbed| {
        let scene = scene(testbed)?;
        scene.register(1, "alice")?;
        scene.register(2, "bob")?;
        let cases = [
            (Scenario::CallAndCancel, Scenario::RingUntilCancelled, "cancelled", Some(487)),
            (Scenario::CallAndBeRejected, Scenario::Reject, "rejected", Some(486)),
            (Scenario::CallWithHold, Scenario::Answer, "bye_caller", Some(200)),
            (Scenario::CallUntilHungUp, Scenario::AnswerAndHangUp, "bye_callee", Some(200)),
        ];
        for (number, (calling, answering, cause, code)) in cases.into_iter().enumerate() {
            let bob = scene.sipp(answering, "bob", address::PHONE);
            let answer = Sipp::start(testbed, &format!("answer{number}"), testbed.phone(2)?, &bob)?;
            let alice = scene.sipp(calling, "alice", address::PHONE).calling("bob");
            let alice = SippConfig { hold: Duration::from_millis(500), ..alice };
            Sipp::run(testbed, &format!("call{number}"), testbed.phone(1)?, &alice, TIMEOUT)?;
            answer.expect_success(TIMEOUT)?;
            let records = scene.latch.wait_for_cdrs(2 * (number + 1), TIMEOUT)?;
            for record in records.iter().rev().take(2) {
                ensure!(record["end_cause"] == cause && record["final_code"] == serde_json::json!(code), "{record:#}");
            }
        }
        scene.finish(8).map(drop)
    });
}

#[test]
fn requests_without_a_dialog_pass_whatever_their_method() {
    in_testbed(TestbedConfig::default(), |testbed| {
        let scene = scene(testbed)?;
        scene.register(2, "bob")?;
        for method in ["OPTIONS", "MESSAGE", "INFO", "LABTEST"] {
            let with =
                |scenario, user| SippConfig { method: method.into(), ..scene.sipp(scenario, user, address::PHONE) };
            let bob = with(Scenario::AnswerRequest, "bob");
            let answer = Sipp::start(testbed, &format!("answer-{method}"), testbed.phone(2)?, &bob)?;
            let alice = with(Scenario::Request, "alice").calling("bob");
            Sipp::run(testbed, &format!("request-{method}"), testbed.phone(1)?, &alice, TIMEOUT)?;
            answer.expect_success(TIMEOUT)?;
        }
        scene.finish(0).map(drop)
    });
}

#[test]
fn requests_inside_a_dialog_pass_whatever_their_method() {
    in_testbed(TestbedConfig::default(), |testbed| {
        let scene = scene(testbed)?;
        scene.register(2, "bob")?;
        for method in ["INFO", "LABTEST"] {
            let with =
                |scenario, user| SippConfig { method: method.into(), ..scene.sipp(scenario, user, address::PHONE) };
            let bob = with(Scenario::AnswerWithRequest, "bob");
            let answer = Sipp::start(testbed, &format!("answer-{method}"), testbed.phone(2)?, &bob)?;
            let alice = with(Scenario::CallWithRequest, "alice").calling("bob");
            Sipp::run(testbed, &format!("call-{method}"), testbed.phone(1)?, &alice, TIMEOUT)?;
            answer.expect_success(TIMEOUT)?;
        }
        scene.finish(4).map(drop)
    });
}

#[test]
fn hold_silences_the_held_side_and_resume_brings_it_back() {
    in_testbed(TestbedConfig::default(), |testbed| {
        let scene = scene(testbed)?;
        let counter = rtp_from_latch(testbed, 1)?;
        let mut alice = scene.baresip(1, "alice", |_| {})?;
        let mut bob = scene.baresip(2, "bob", |config| config.auto_answer = true)?;
        alice.dial("bob")?;
        alice.wait_for("CALL_ESTABLISHED", TIMEOUT)?;
        bob.wait_for("CALL_ESTABLISHED", TIMEOUT)?;
        hear(&counter, 50)?;
        alice.hold()?;
        wait_until("bob is silent for a second", TIMEOUT, || {
            let before = counter.get("rtp")?.packets;
            std::thread::sleep(Duration::from_secs(1));
            // The RTCP ports are counted too: a report or two may come while the call is held.
            Ok(counter.get("rtp")?.packets < before + 5)
        })?;
        alice.resume()?;
        hear(&counter, 50)?;
        alice.hang_up()?;
        bob.wait_for("CALL_CLOSED", TIMEOUT)?;
        scene.finish(2).map(drop)
    });
}

#[test]
fn neither_side_sees_an_address_of_the_other_and_every_frame_is_well_formed() {
    let other_phone = Ipv4Addr::new(192, 168, 1, 20);
    let nats = vec![NatConfig::default(), NatConfig { phones: vec![other_phone], ..NatConfig::default() }];
    in_testbed(TestbedConfig { nats, ..TestbedConfig::default() }, |testbed| {
        let scene = scene(testbed)?;
        let access = Capture::start(testbed, "access", testbed.inet(), "latch", "")?;
        let core = Capture::start(testbed, "core", testbed.softswitch(), "latch", "")?;
        let mut alice = scene.baresip(1, "alice", |_| {})?;
        let mut bob = scene.baresip(2, "bob", |config| config.listen.set_ip(other_phone.into()))?;
        talk(&mut alice, &mut bob, "bob", false, &[])?;
        talk(&mut bob, &mut alice, "alice", false, &[])?;
        drop((alice, bob));
        scene.finish(4)?;

        let (access, core) = (access.stop()?, core.stop()?);
        for (side, recording) in [("access", &access), ("core", &core)] {
            let malformed = recording.malformed(Some("30000-39999"))?;
            ensure!(malformed.is_empty(), "malformed on the {side} side: {malformed:#?}");
            let wrong = recording.bad_checksums()?;
            ensure!(wrong == 0, "{wrong} wrong checksums on the {side} side");
        }
        // Nothing was missed: each phone registered, called and was called, as seen on both sides.
        for side in [&access, &core] {
            let calls = side.count("sip.Method == \"INVITE\"")?;
            let ends = side.count("sip.Method == \"BYE\"")?;
            let registrations = side.count("sip.Method == \"REGISTER\"")?;
            ensure!(calls >= 4 && ends >= 4 && registrations >= 2, "{:?}", side.sip_messages()?);
        }
        ensure!(access.count("rtp && rtp.p_type == 8")? > 0, "the dissector found no RTP");
        let of_core = access.forbidden(&["10.9.0.10", "10.9.0.20"], |_| true)?;
        ensure!(of_core.is_empty(), "{of_core:#?}");
        let of_access = ["203.0.113.10", "203.0.113.101", "203.0.113.102", "192.168.1.10", "192.168.1.20"];
        let of_access = core.forbidden(&of_access, |_| true)?;
        ensure!(of_access.is_empty(), "{of_access:#?}");
        let of_bob = access.forbidden(&["192.168.1.20", "203.0.113.102"], |message| message.to == address::nat(1))?;
        ensure!(of_bob.is_empty(), "{of_bob:#?}");
        let of_alice = access.forbidden(&["192.168.1.10", "203.0.113.101"], |message| message.to == address::nat(2))?;
        ensure!(of_alice.is_empty(), "{of_alice:#?}");
        Ok(())
    });
}
