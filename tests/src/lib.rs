//! The testbed: a network of namespaces on this machine, in which Latch and real peers meet.
//!
//! ```text
//!  phone1 192.168.1.10 ── nat1 203.0.113.101 ─┐
//!  phone2 192.168.1.10 ── nat2 203.0.113.102 ─┤ inet          latch            softswitch
//!  stranger            203.0.113.66 ──────────┼─(bridge)── access │ core ──(bridge) 10.9.0.20
//!  further hosts       203.0.113.x ───────────┘       203.0.113.10 10.9.0.10  └── further hosts 10.9.0.x
//! ```
//!
//! - [`Testbed`] makes the namespaces, links and NATs and removes them again, whatever happens; several testbeds run side by side.
//! - Peers are structs with a start, a typed control and their output in a log: [`Kamailio`], [`Baresip`], [`Sipp`],
//!   [`Latch`], [`rtp`] for streams made here, [`Stranger`] for the attacker and [`Flood`] for many packets of one;
//!   [`MediaCall`] is a call whose media the test makes.
//! - [`Counters`] count packets at the far ends, [`Capture`] records them and lets tshark judge, [`leftovers`] looks
//!   for what should be gone.
//! - [`interrupt`] lets a program with a testbed clean up after Ctrl-C: `cargo xtask demo` is one (`src/bin/demo`).
//! - [`Chain`] and [`feed`] are for benches: a generator, a relay and a sink in a row, and packets through it.
//! - [`xdp`] needs no network: it feeds single packets to the XDP program.
//!
//! A test is a function from a testbed to a result, run by [`in_testbed`], which skips where there is no root and
//! prints every peer's log where the test fails.

mod baresip;
pub mod call;
mod capture;
mod certificates;
pub mod chain;
mod counters;
pub mod feed;
pub mod flood;
pub mod interrupt;
mod kamailio;
mod latch;
pub mod leftovers;
mod nat;
mod netns;
mod pass;
mod peer;
pub mod rtp;
mod scene;
mod sipp;
mod stranger;
mod topology;
mod vlan;
pub mod xdp;

use std::io::Write as _;

pub use baresip::{Baresip, BaresipConfig, Event};
pub use call::{End, MediaCall};
pub use capture::{Capture, Recording, SipMessage};
pub use certificates::{Authority, Identity};
pub use chain::Chain;
pub use counters::{Count, Counters, Direction};
pub use flood::Flood;
pub use kamailio::{Contact, Kamailio, KamailioConfig, KamailioTls, User};
pub use latch::{Latch, LatchConfig};
pub use nat::{Nat, NatKind};
pub use netns::Namespace;
pub use peer::{Peer, wait_until};
pub use scene::{GATEWAY, LATCH, Scene, SixScene};
pub use sipp::{Scenario, Sipp, SippConfig, SippReport};
pub use stranger::{Stranger, StrangerReport};
pub use topology::{NatConfig, Testbed, TestbedConfig, address};
pub use vlan::Vlan;

/// True where a testbed can be made: needs root and the testbed's XDP programs. Says why a test is skipped where not.
///
/// With `LATCH_TESTBED_REQUIRED` in the environment (`cargo xtask test` sets it) nothing is skipped: then the testbed
/// is tried and fails loudly.
pub fn available() -> bool {
    if std::env::var_os("LATCH_TESTBED_REQUIRED").is_some() {
        return true;
    }
    if !nix::unistd::geteuid().is_root() {
        return skipped("a testbed of network namespaces needs root (run `cargo xtask test`)");
    }
    if !pass::object().exists() {
        return skipped(&format!("the testbed needs {} (run `cargo xtask build`)", pass::object().display()));
    }
    true
}

/// Says so past the test runner, which keeps to itself what a test that passes prints by the macros.
fn skipped(why: &str) -> bool {
    let thread = std::thread::current();
    let line = format!("SKIPPED {}: {why}\n", thread.name().unwrap_or("a test"));
    // That nobody receives it is no reason to fail.
    let _ = std::io::stderr().write_all(line.as_bytes());
    false
}

/// Runs `test`, which needs root and the BPF objects but no testbed. On an error it panics.
///
/// # Panics
/// Where the test fails: this is the assertion of a `#[test]`.
#[allow(clippy::panic)]
pub fn as_root(test: impl FnOnce() -> anyhow::Result<()>) {
    if available()
        && let Err(error) = test()
    {
        panic!("{error:#}");
    }
}

/// Runs `test` in a testbed of its own. On an error it prints the error and every peer's log, removes the testbed, and
/// panics.
///
/// # Panics
/// Where the testbed can't be made or the test fails: this is the assertion of a `#[test]`.
#[allow(clippy::panic)]
pub fn in_testbed(config: TestbedConfig, test: impl FnOnce(&Testbed) -> anyhow::Result<()>) {
    if !available() {
        return;
    }
    let testbed = match Testbed::new(config) {
        Ok(testbed) => testbed,
        Err(error) => panic!("the testbed could not be made: {error:#}"),
    };
    if let Err(error) = test(&testbed) {
        // The panic unwinds through the testbed, which prints the logs and removes everything.
        panic!("{error:#}");
    }
}
