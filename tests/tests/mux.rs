//! RTP and RTCP on one port with one phone, on two with the other.

use anyhow::ensure;
use std::time::Duration;
use testbed::{
    Counters, Direction, KamailioConfig, LatchConfig, Scene, TestbedConfig, address, in_testbed, wait_until,
};

/// How long anything may take that has to happen: much longer than it does.
const TIMEOUT: Duration = Duration::from_secs(20);
/// RTCP by its second byte: the UDP header is 8 bytes long (RFC 5761 §4).
const RTCP: &str = "@th,72,8 200-207";

#[test]
fn reports_reach_a_phone_on_the_port_of_its_media_and_the_other_on_its_own() {
    in_testbed(TestbedConfig::default(), |testbed| {
        let scene = Scene::start(testbed, &KamailioConfig::default(), &LatchConfig::default())?;
        let latch = address::LATCH_ACCESS;
        let counters = |number| {
            let of = |parity: u8| format!("ip saddr {latch} udp dport 16384-16484 udp dport & 1 == {parity} {RTCP}");
            let rules = [("even", of(0)), ("odd", of(1)), ("media", format!("ip saddr {latch} udp dport 16384-16484"))];
            let rules: Vec<_> = rules.iter().map(|(name, rule)| (*name, Direction::In, rule.as_str())).collect();
            Counters::add(testbed.phone(number)?, &rules)
        };
        let (at_alice, at_bob) = (counters(1)?, counters(2)?);
        let mut alice = scene.baresip(1, "alice", |config| config.rtcp_mux = true)?;
        let mut bob = scene.baresip(2, "bob", |_| {})?;
        // The caller.
        for bob_calls in [false, true] {
            let (caller, callee, name) =
                if bob_calls { (&mut bob, &mut alice, "alice") } else { (&mut alice, &mut bob, "bob") };
            let before = [at_alice.read()?, at_bob.read()?];
            caller.dial(name)?;
            callee.wait_for("CALL_INCOMING", TIMEOUT)?;
            callee.accept()?;
            caller.wait_for("CALL_ESTABLISHED", TIMEOUT)?;
            callee.wait_for("CALL_ESTABLISHED", TIMEOUT)?;
            // A phone that is not offered one port does not use it.
            let alices = if bob_calls { "odd" } else { "even" };
            for (counters, name, before) in [(&at_alice, alices, &before[0]), (&at_bob, "odd", &before[1])] {
                wait_until("a report comes", TIMEOUT, || Ok(counters.get(name)?.packets > before[name].packets))?;
                ensure!(counters.get("media")?.packets > before["media"].packets + 50, "no media");
            }
            caller.hang_up()?;
            callee.wait_for("CALL_CLOSED", TIMEOUT)?;
        }
        ensure!(at_bob.get("even")?.packets == 0, "RTCP on the port of RTP, for a phone that did not ask for it");
        let records = scene.finish(4)?;
        let lost =
            |direction: &str| records.iter().any(|record| record["streams"][0][direction]["dropped"]["rate"] != 0);
        ensure!(
            !lost("access_to_core") && !lost("core_to_access"),
            "media that was negotiated was dropped: {records:#?}"
        );
        let mos = |record: &serde_json::Value| record["streams"][0]["access_to_core"]["quality"]["mos"].as_f64();
        ensure!(records.iter().all(|record| mos(record).is_some_and(|mos| mos > 4.0)), "{records:#?}");
        Ok(())
    });
}
