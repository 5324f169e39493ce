//! What happens over time: NATs that forget, terminals that vanish, registrations that end, and many calls at once.

use std::time::Duration;

use anyhow::ensure;
use lab::{
    KamailioConfig, LabConfig, Latch, LatchConfig, NatConfig, Scenario, Scene, Sipp, SippConfig, address, lab_test,
    leftovers, wait_until,
};

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// NATs that forget a mapping after three silent seconds.
fn forgetful() -> LabConfig {
    let nat = NatConfig { udp_timeout: Some(seconds(3)), ..NatConfig::default() };
    LabConfig { nats: vec![nat; 2], ..LabConfig::default() }
}

#[test]
fn keep_alive_holds_the_nats_mapping_open() {
    for (period_s, reachable) in [(1, true), (60, false)] {
        lab_test(forgetful(), |lab| {
            let latch = LatchConfig { keepalive_period_s: period_s, ..LatchConfig::default() };
            let scene = Scene::start(lab, &KamailioConfig::default(), &latch)?;
            let mut bob = scene.baresip(2, "bob", |config| config.auto_answer = true)?;
            std::thread::sleep(seconds(8));
            let mut alice = scene.baresip(1, "alice", |_| {})?;
            alice.dial("bob")?;
            let reached = alice.wait_for("CALL_ESTABLISHED", seconds(4)).is_ok();
            ensure!(reached == reachable, "with a keep-alive every {period_s} s, bob was reached: {reached}");
            alice.hang_up()?;
            if reachable {
                bob.wait_for("CALL_CLOSED", seconds(4))?;
            }
            Ok(())
        });
    }
}

#[test]
fn a_call_without_media_is_ended_by_a_bye_to_both_sides() {
    lab_test(LabConfig::default(), |lab| {
        let latch = LatchConfig { silence_timeout_s: 3, ..LatchConfig::default() };
        let scene = Scene::start(lab, &KamailioConfig::default(), &latch)?;
        scene.register(1, "alice")?;
        scene.register(2, "bob")?;
        // Neither scenario ever says BYE: both wait for one.
        let bob = scene.sipp(Scenario::Answer, "bob", address::PHONE);
        let callee = Sipp::start(lab, "callee", lab.phone(2)?, &bob)?;
        let alice = scene.sipp(Scenario::CallUntilHungUp, "alice", address::PHONE).calling("bob");
        Sipp::run(lab, "caller", lab.phone(1)?, &alice, seconds(12))?;
        callee.expect_success(seconds(5))?;
        let records = scene.finish(2)?;
        ensure!(records.iter().any(|record| record["end_cause"] == "media_silence"), "{records:#?}");
        Ok(())
    });
}

#[test]
fn calls_of_terminals_that_vanish_are_ended() {
    lab_test(LabConfig::default(), |lab| {
        let latch = LatchConfig { silence_timeout_s: 3, ..LatchConfig::default() };
        let scene = Scene::start(lab, &KamailioConfig::default(), &latch)?;
        let mut alice = scene.baresip(1, "alice", |_| {})?;
        let mut bob = scene.baresip(2, "bob", |config| config.auto_answer = true)?;
        alice.dial("bob")?;
        alice.wait_for("CALL_ESTABLISHED", seconds(5))?;
        bob.wait_for("CALL_ESTABLISHED", seconds(5))?;
        wait_until("the call's legs are open", seconds(2), || Ok(scene.open_legs()? == 4))?;
        alice.peer.kill()?;
        bob.peer.kill()?;
        // The BYEs to nobody take their 32 s; the legs do not wait for them.
        wait_until("the legs are closed", seconds(10), || Ok(scene.open_legs()? == 0))?;
        Ok(())
    });
}

#[test]
fn registrations_end_when_they_are_removed_or_run_out() {
    lab_test(LabConfig::default(), |lab| {
        let scene = Scene::start(lab, &KamailioConfig::default(), &LatchConfig::default())?;
        scene.register(1, "alice")?;
        let removing = SippConfig { expires_s: 0, ..scene.sipp(Scenario::Register, "alice", address::PHONE) };
        Sipp::run(lab, "unregister-alice", lab.phone(1)?, &removing, seconds(5))?;
        scene.kamailio.wait_for_contacts("alice", 0, seconds(2))?;

        let short = SippConfig { expires_s: 3, ..scene.sipp(Scenario::Register, "bob", address::PHONE) };
        Sipp::run(lab, "register-bob", lab.phone(2)?, &short, seconds(5))?;
        let contacts = scene.kamailio.wait_for_contacts("bob", 1, seconds(1))?;
        ensure!(contacts.iter().all(|contact| contact.uri.contains("@10.9.0.10:5060")), "{contacts:?}");
        scene.kamailio.wait_for_contacts("bob", 0, seconds(60))?;
        scene.finish(0).map(drop)
    });
}

#[test]
fn a_thousand_concurrent_calls_are_set_up_held_and_torn_down() {
    lab_test(LabConfig::default(), |lab| {
        let scene = Scene::start(lab, &KamailioConfig::default(), &LatchConfig::default())?;
        scene.register(1, "alice")?;
        scene.register(2, "bob")?;
        let bob = SippConfig { calls: 0, ..scene.sipp(Scenario::Answer, "bob", address::PHONE) };
        let answering = Sipp::start(lab, "callee", lab.phone(2)?, &bob)?;
        let alice = scene.sipp(Scenario::Call, "alice", address::PHONE).calling("bob");
        let calling = SippConfig { calls: 1_000, rate: 150, hold: seconds(10), ..alice };
        let calling = Sipp::start(lab, "caller", lab.phone(1)?, &calling)?;
        wait_until("a thousand calls are up", seconds(15), || Ok(scene.open_legs()? == 4_000))?;
        let report = calling.expect_success(seconds(40))?;
        ensure!(report.successful == 1_000, "{report:?}");
        let answered = answering.finish(seconds(10))?;
        ensure!(answered.successful >= 1_000 && answered.failed == 0, "{answered:?}");
        scene.finish(2_000).map(drop)
    });
}

#[test]
fn latch_leaves_nothing_behind_and_starts_again() {
    lab_test(LabConfig::default(), |lab| {
        for _ in 0..2 {
            let latch = Latch::start(lab, &LatchConfig::default())?;
            ensure!(!latch.bpf_objects()?.is_empty(), "a running Latch holds no BPF objects");
            ensure!(leftovers::no_xdp(lab.latch()).is_err(), "a running Latch has no program at its interfaces");
            latch.stop(lab)?;
        }
        Ok(())
    });
}
