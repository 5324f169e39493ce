//! Calls of real phones through Latch: registration, set-up, rejection, hold, hang-up, and what the far ends see.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Result, ensure};
use lab::{
    Baresip, Capture, Counters, Direction, KamailioConfig, Lab, LabConfig, LatchConfig, NatConfig, NatKind, Scenario,
    Scene, Sipp, SippConfig, address, lab_test,
};

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn scene(lab: &Lab) -> Result<Scene<'_>> {
    Scene::start(lab, &KamailioConfig::default(), &LatchConfig::default())
}

/// Counts the RTP that comes to a phone's baresip from Latch.
fn rtp_from_latch<'lab>(lab: &'lab Lab, phone: usize) -> Result<Counters<'lab>> {
    let matching = format!("ip saddr {} udp dport 16384-16484", address::LATCH_ACCESS);
    Counters::add(lab.phone(phone)?, &[("rtp", Direction::In, &matching)])
}

/// `caller` calls `user`, both hear the other for a second, `callee` or `caller` hangs up.
fn talk(
    caller: &mut Baresip,
    callee: &mut Baresip,
    user: &str,
    callee_ends: bool,
    counters: &[Counters<'_>],
) -> Result<()> {
    caller.dial(user)?;
    callee.wait_for("CALL_INCOMING", seconds(5))?;
    callee.accept()?;
    caller.wait_for("CALL_ESTABLISHED", seconds(5))?;
    callee.wait_for("CALL_ESTABLISHED", seconds(5))?;
    let before: Vec<_> = counters.iter().map(|c| c.get("rtp")).collect::<Result<_>>()?;
    std::thread::sleep(seconds(2));
    for (number, (counter, before)) in counters.iter().zip(before).enumerate() {
        let heard = counter.get("rtp")?.packets - before.packets;
        ensure!(heard >= 50, "phone {} heard {heard} packets in 2 s", number + 1);
    }
    let (ending, other) = if callee_ends { (callee, caller) } else { (caller, callee) };
    ending.hang_up()?;
    other.wait_for("CALL_CLOSED", seconds(5)).map(drop)
}

#[test]
fn two_phones_with_the_same_private_address_call_each_other_in_both_directions() {
    for nats in [[NatKind::PortRestricted; 2], [NatKind::Symmetric; 2], [NatKind::Symmetric, NatKind::PortRestricted]] {
        lab_test(LabConfig::with_nats(&nats), |lab| {
            let scene = scene(lab)?;
            let counters = [rtp_from_latch(lab, 1)?, rtp_from_latch(lab, 2)?];
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
}

#[test]
fn digest_authentication_of_the_softswitch_works_through_latch() {
    lab_test(LabConfig::default(), |lab| {
        let kamailio = KamailioConfig { digest: true, ..KamailioConfig::default() };
        let scene = Scene::start(lab, &kamailio, &LatchConfig::default())?;
        let counters = [rtp_from_latch(lab, 1)?, rtp_from_latch(lab, 2)?];
        let mut alice = scene.baresip(1, "alice", |_| {})?;
        let mut bob = scene.baresip(2, "bob", |_| {})?;
        talk(&mut alice, &mut bob, "bob", false, &counters)?;
        drop((alice, bob));

        let wrong = scene.sipp(Scenario::Register, "alice", address::PHONE).password("wrong");
        ensure!(Sipp::run(lab, "wrong", lab.phone(1)?, &wrong, seconds(10)).is_err(), "a wrong password was accepted");
        scene.finish(2).map(drop)
    });
}

#[test]
fn calls_are_cancelled_rejected_held_and_ended_by_either_side() {
    lab_test(LabConfig::default(), |lab| {
        let scene = scene(lab)?;
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
            let answer = Sipp::start(lab, &format!("answer{number}"), lab.phone(2)?, &bob)?;
            let alice = scene.sipp(calling, "alice", address::PHONE).calling("bob");
            let alice = SippConfig { hold: Duration::from_millis(500), ..alice };
            Sipp::run(lab, &format!("call{number}"), lab.phone(1)?, &alice, seconds(10))?;
            answer.expect_success(seconds(5))?;
            let records = scene.latch.wait_for_cdrs(2 * (number + 1), seconds(5))?;
            for record in records.iter().rev().take(2) {
                ensure!(record["end_cause"] == cause && record["final_code"] == serde_json::json!(code), "{record:#}");
            }
        }
        scene.finish(8).map(drop)
    });
}

#[test]
fn requests_without_a_dialog_pass_whatever_their_method() {
    lab_test(LabConfig::default(), |lab| {
        let scene = scene(lab)?;
        scene.register(2, "bob")?;
        for method in ["OPTIONS", "MESSAGE", "INFO", "LABTEST"] {
            let with =
                |scenario, user| SippConfig { method: method.into(), ..scene.sipp(scenario, user, address::PHONE) };
            let bob = with(Scenario::AnswerRequest, "bob");
            let answer = Sipp::start(lab, &format!("answer-{method}"), lab.phone(2)?, &bob)?;
            let alice = with(Scenario::Request, "alice").calling("bob");
            Sipp::run(lab, &format!("request-{method}"), lab.phone(1)?, &alice, seconds(10))?;
            answer.expect_success(seconds(5))?;
        }
        scene.finish(0).map(drop)
    });
}

#[test]
fn hold_silences_the_held_side_and_resume_brings_it_back() {
    lab_test(LabConfig::default(), |lab| {
        let scene = scene(lab)?;
        let counter = rtp_from_latch(lab, 1)?;
        let heard = |for_s| -> Result<u64> {
            let before = counter.get("rtp")?.packets;
            std::thread::sleep(seconds(for_s));
            Ok(counter.get("rtp")?.packets - before)
        };
        let mut alice = scene.baresip(1, "alice", |_| {})?;
        let mut bob = scene.baresip(2, "bob", |config| config.auto_answer = true)?;
        alice.dial("bob")?;
        alice.wait_for("CALL_ESTABLISHED", seconds(5))?;
        bob.wait_for("CALL_ESTABLISHED", seconds(5))?;
        let talking = heard(1)?;
        alice.hold()?;
        std::thread::sleep(Duration::from_millis(500));
        let held = heard(1)?;
        alice.resume()?;
        std::thread::sleep(Duration::from_millis(500));
        let resumed = heard(1)?;
        // Latch counts RTCP ports too: a report or two may come while the call is held.
        ensure!(talking > 40 && held < 5 && resumed > 40, "talking {talking}, held {held}, resumed {resumed}");
        alice.hang_up()?;
        bob.wait_for("CALL_CLOSED", seconds(5))?;
        scene.finish(2).map(drop)
    });
}

#[test]
fn neither_side_sees_an_address_of_the_other_and_every_frame_is_well_formed() {
    let other_phone = Ipv4Addr::new(192, 168, 1, 20);
    let nats = vec![NatConfig::default(), NatConfig { phones: vec![other_phone], ..NatConfig::default() }];
    lab_test(LabConfig { nats, ..LabConfig::default() }, |lab| {
        let scene = scene(lab)?;
        let access = Capture::start(lab, "access", lab.inet(), "latch", "")?;
        let core = Capture::start(lab, "core", lab.softswitch(), "latch", "")?;
        let mut alice = scene.baresip(1, "alice", |_| {})?;
        let mut bob = scene.baresip(2, "bob", |config| config.listen.set_ip(other_phone))?;
        talk(&mut alice, &mut bob, "bob", false, &[])?;
        talk(&mut bob, &mut alice, "alice", false, &[])?;
        drop((alice, bob));
        scene.finish(4)?;

        let (access, core) = (access.stop()?, core.stop()?);
        for (side, recording) in [("access", &access), ("core", &core)] {
            let malformed = recording.malformed(Some("30000-39999"))?;
            ensure!(malformed.is_empty(), "malformed on the {side} side: {malformed:#?}");
        }
        ensure!(access.sip_messages()?.len() > 30 && core.sip_messages()?.len() > 30);
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
