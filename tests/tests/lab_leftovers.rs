//! The search for left-behind BPF objects finds what is there and notices what is gone.
//!
//! One test alone in its process: the objects looked for are those that its own lab holds.

use std::time::Duration;

use anyhow::{Result, ensure};
use lab::leftovers::{BpfObjects, no_xdp};
use lab::{Lab, LabConfig};

#[test]
fn bpf_objects_of_a_process_are_found_and_their_end_is_noticed() -> Result<()> {
    if !lab::available() {
        return Ok(());
    }
    let lab = Lab::new(LabConfig { nats: Vec::new(), ..LabConfig::default() })?;
    let objects = BpfObjects::of(std::process::id())?;
    // Program and link of `pass`, at the far ends of Latch's two interfaces.
    ensure!(objects.len() >= 4, "found only {objects:?}");
    ensure!(no_xdp(lab.inet()).is_err(), "the program on the bridge's port was not seen");
    ensure!(objects.wait_gone(Duration::from_millis(100)).is_err(), "living objects were taken for gone");
    no_xdp(lab.latch())?;

    drop(lab);
    objects.wait_gone(Duration::from_secs(5))?;
    ensure!(BpfObjects::of(std::process::id())?.is_empty());
    Ok(())
}
