//! The search for left-behind BPF objects finds what is there and notices what is gone.
//!
//! One test alone in its process: the objects looked for are those that its own testbed holds.

use std::time::Duration;

use anyhow::{Result, ensure};
use testbed::leftovers::{BpfObjects, no_xdp};
use testbed::{Testbed, TestbedConfig};

#[test]
fn bpf_objects_of_a_process_are_found_and_their_end_is_noticed() -> Result<()> {
    if !testbed::available() {
        return Ok(());
    }
    let testbed = Testbed::new(TestbedConfig { nats: Vec::new(), ..TestbedConfig::default() })?;
    let objects = BpfObjects::of(std::process::id())?;
    // Program and link of `pass`, at the far ends of Latch's two interfaces.
    ensure!(objects.len() >= 4, "found only {objects:?}");
    ensure!(no_xdp(testbed.inet()).is_err(), "the program on the bridge's port was not seen");
    ensure!(objects.wait_gone(Duration::from_millis(100)).is_err(), "living objects were taken for gone");
    no_xdp(testbed.latch())?;

    drop(testbed);
    objects.wait_gone(Duration::from_secs(5))?;
    ensure!(BpfObjects::of(std::process::id())?.is_empty());
    Ok(())
}
