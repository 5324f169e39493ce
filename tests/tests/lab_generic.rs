//! Interfaces whose driver has no XDP of its own.

use std::time::Duration;

use anyhow::{Result, ensure};
use lab::{KamailioConfig, Lab, LabConfig, Latch, LatchConfig, Scene, address, lab_test};

/// Puts a bridge, which has no native XDP, in the place of Latch's access interface.
fn bridge_the_access_interface(lab: &Lab) -> Result<()> {
    let latch = lab.latch();
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
    lab_test(LabConfig::default(), |lab| {
        bridge_the_access_interface(lab)?;
        let scene = Scene::start(lab, &KamailioConfig::default(), &LatchConfig::default())?;
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
    lab_test(LabConfig { nats: Vec::new(), ..LabConfig::default() }, |lab| {
        bridge_the_access_interface(lab)?;
        Latch::start(lab, &LatchConfig::default())?.kill()?;
        let latch = Latch::start(lab, &LatchConfig::default())?;
        let log = latch.peer.output();
        ensure!(log.contains("resumed: ") && log.contains("GENERIC mode on access, core"), "{log}");
        latch.stop(lab).map(drop)
    });
}
