//! Calls between IPv6 and IPv4: a phone that has only IPv6, a softswitch that has only IPv4.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;
use testbed::{Capture, Latch, LatchConfig, SixScene, address, in_testbed};

#[test]
fn a_phone_on_ipv6_and_one_on_ipv4_hear_each_other_and_the_records_agree_with_both() {
    in_testbed(SixScene::testbed(), |testbed| {
        let mut six = SixScene::start(testbed, LatchConfig::default())?;
        let signalling = Capture::start(testbed, "core", testbed.softswitch(), "latch", "udp port 5060")?;
        six.call(true)?;
        six.hear(100)?;
        six.carol.hang_up()?;
        six.alice.wait_for("CALL_CLOSED", TIMEOUT)?;
        // The other way round: IPv6 is called.
        six.call(false)?;
        six.hear(50)?;
        six.alice.hang_up()?;
        six.carol.wait_for("CALL_CLOSED", TIMEOUT)?;
        ensure!(six.at_alice.get("four")?.packets == 0, "IPv4 reached a phone that has none");

        let recording = signalling.stop()?;
        ensure!(recording.malformed(None)?.is_empty(), "tshark finds malformed SIP in the core");
        let told = recording.forbidden(&["2001:db8"], |_| true)?;
        ensure!(told.is_empty(), "an IPv6 address reached the core: {told:#?}");
        let records = six.scene.finish(2)?;
        SixScene::agree(&records, [six.at_alice.get("in")?, six.at_carol.get("in")?])?;
        let source = records[0]["streams"][0]["access_to_core"]["rtp_source"]["address"].as_str().unwrap_or_default();
        ensure!(source.starts_with(&format!("[{}]:", address::PHONE_V6)), "{source}");
        Ok(())
    });
}

#[test]
fn a_call_between_ipv6_and_ipv4_outlives_kills_without_a_loss() {
    const KILLS: u64 = 5;
    in_testbed(SixScene::testbed(), |testbed| {
        let config = LatchConfig { ports: (30_000, 30_999), ..LatchConfig::default() };
        let mut six = SixScene::start(testbed, config.clone())?;
        six.call(true)?;
        six.hear(50)?;
        let again = LatchConfig { access: address::LATCH_ACCESS_V6.into(), ..config };
        for kill in 1..=KILLS {
            six.scene.latch.kill_now()?;
            // Now and then it is away for a while.
            std::thread::sleep(Duration::from_millis(kill % 3 * 300));
            six.scene.latch = Latch::start(testbed, &again)?;
            let log = six.scene.latch.peer.output();
            ensure!(log.contains("resumed: 1 calls and 1 registrations go on"), "start {kill}:\n{log}");
            six.hear(10)?;
        }
        // The BYE comes through a Latch that knows of the call by its journal alone.
        six.carol.hang_up()?;
        six.alice.wait_for("CALL_CLOSED", TIMEOUT)?;
        let records = six.scene.finish(1)?;
        SixScene::agree(&records, [six.at_alice.get("in")?, six.at_carol.get("in")?])?;
        for direction in ["access_to_core", "core_to_access"] {
            let quality = &records[0]["streams"][0][direction]["quality"];
            let number = |key: &str| quality[key].as_u64().with_context(|| format!("{key} in {quality}"));
            println!("figure: {direction}, {KILLS} kills: {} expected, {} lost", number("expected")?, number("lost")?);
            ensure!(number("lost")? == 0 && number("expected")? > 50 + 10 * KILLS, "{direction}: {quality}");
        }
        ensure!(records.iter().all(|record: &Value| record["end_cause"] == "bye_callee"), "{records:#?}");
        Ok(())
    });
}

/// How long anything may take that has to happen: much longer than it does.
const TIMEOUT: Duration = Duration::from_secs(20);
