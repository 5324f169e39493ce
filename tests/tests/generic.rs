//! Interfaces whose driver has no XDP of its own.

use std::time::Duration;

use anyhow::{Result, ensure};
use testbed::{KamailioConfig, Latch, LatchConfig, Scene, Testbed, TestbedConfig, address, in_testbed};

/// Puts a bridge, which has no native XDP, in the place of Latch's access interface.
fn bridge_the_access_interface(testbed: &Testbed) -> Result<()> {
    let latch = testbed.latch();
    for command in [
        "link set access down",
        "link set access name port",
        "address flush dev port",
        "link add access type bridge",
        "link set port master access",
        &format!("address add {}/24 dev access", address::LATCH_ACCESS),
        "link set port up",
        "link set access up",
    ] {
        latch.ip(command)?;
    }
    Ok(())
}

#[test]
fn where_native_mode_is_refused_generic_mode_relays_and_latch_says_so() {
    in_testbed(TestbedConfig::default(), |testbed| {
        bridge_the_access_interface(testbed)?;
        let scene = Scene::start(testbed, &KamailioConfig::default(), &LatchConfig::default())?;
        let log = scene.latch.peer.output();
        ensure!(log.contains("GENERIC mode on access, core"), "the mode is not stated:\n{log}");
        ensure!(log.contains("no native XDP"), "no reason is given:\n{log}");
        let mut alice = scene.baresip(1, "alice", |_| {})?;
        let mut bob = scene.baresip(2, "bob", |config| config.auto_answer = true)?;
        alice.dial("bob")?;
        alice.wait_for("CALL_ESTABLISHED", Duration::from_secs(5))?;
        std::thread::sleep(Duration::from_secs(2));
        alice.hang_up()?;
        bob.wait_for("CALL_CLOSED", Duration::from_secs(5))?;
        for record in scene.finish(2)? {
            for direction in ["access_to_core", "core_to_access"] {
                let packets = record["streams"][0][direction]["rtp_packets"].as_u64();
                ensure!(packets >= Some(50), "{direction}: {packets:?} in {record:#}");
            }
        }
        Ok(())
    });
}

#[test]
fn generic_mode_is_taken_up_as_it_was() {
    in_testbed(TestbedConfig { nats: Vec::new(), ..TestbedConfig::default() }, |testbed| {
        bridge_the_access_interface(testbed)?;
        Latch::start(testbed, &LatchConfig::default())?.kill()?;
        let latch = Latch::start(testbed, &LatchConfig::default())?;
        let log = latch.peer.output();
        ensure!(log.contains("resumed: ") && log.contains("GENERIC mode on access, core"), "{log}");
        latch.stop(testbed).map(drop)
    });
}
