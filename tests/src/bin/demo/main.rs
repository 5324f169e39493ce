//! A real call through Latch, explained as it happens: what `cargo xtask demo` runs, as root.
//!
//! [`story`] makes the call and checks every sentence before it is printed; [`tell`] prints; [`fold`] cuts what other
//! programs printed to size. Here: the testbed around it, and its removal, whatever happens.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tell::Teller;
use testbed::leftovers::{self, BpfObjects};
use testbed::{Testbed, TestbedConfig, interrupt};

mod fold;
mod story;
mod tell;

/// Last lines shown of each program's log where a step fails.
const LOG_LINES: usize = 15;

fn main() -> ExitCode {
    let mut teller = Teller::new();
    match run(&mut teller) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            teller.failed(&format!("{error:#}"));
            // 130 is what a shell tells of a program that SIGINT ended.
            if interrupt::happened() { ExitCode::from(130) } else { ExitCode::FAILURE }
        }
    }
}

fn run(teller: &mut Teller) -> Result<()> {
    let started = Instant::now();
    interrupt::catch()?;
    story::title(teller)?;
    if !nix::unistd::geteuid().is_root() {
        bail!("a testbed of network namespaces takes root: run `cargo xtask demo`");
    }
    teller.begin("Network", "making namespaces, links and NATs")?;
    let testbed = Testbed::new(TestbedConfig::with_nats(&story::NATS)).context("the testbed could not be made")?;
    let prefix = testbed.prefix().to_owned();
    let directory = testbed.directory().to_owned();
    let mut objects = Vec::new();
    let told = story::tell(&testbed, teller, &mut objects);
    match &told {
        Ok(()) => teller.begin("Clean-up", "removing everything")?,
        Err(_) if interrupt::happened() => {}
        Err(error) => {
            teller.failed(&format!("{error:#}"));
            testbed.print_logs(LOG_LINES);
            eprintln!("---");
        }
    }
    // The testbed's own programs at the far ends of Latch's links.
    objects.push(BpfObjects::of(std::process::id())?);
    let namespaces = leftovers::namespaces(&prefix).len();
    drop(testbed);

    let left = leftovers::namespaces(&prefix);
    ensure!(left.is_empty(), "namespaces are left: {left:?}");
    ensure!(!directory.exists(), "{} is left", directory.display());
    objects.iter().try_for_each(|objects| objects.wait_gone(Duration::from_secs(5)))?;
    if told.is_err() {
        // Why, has been said above the logs.
        bail!("{}; everything was removed again", if interrupt::happened() { "interrupted" } else { "ended early" });
    }
    let count: usize = objects.iter().map(BpfObjects::len).sum();
    teller.done(&format!("{namespaces} namespaces and {count} BPF programs, maps and links: all gone again"))?;
    teller.line(&format!("\nAll of this really happened, in {:.1} s.", started.elapsed().as_secs_f32()))
}
