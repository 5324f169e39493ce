//! `cargo xtask bench`: how many packets a second Latch relays, compared with the least that a program can do, the
//! kernel's own NAT and a relay in user space. `docs/benchmark.md` says how it is measured and how to read it.
//!
//! - [`cases`] makes the four relays, each in a chain of its own ([`testbed::Chain`]): [`latch`] and [`rtpengine`] (which
//!   speaks [`ng`]) have a file each;
//! - [`rate`] finds out how many packets a second a chain takes without loss, [`program`] how long a program takes;
//! - [`rounds`] has everybody take turns, [`report`] prints what came out;
//! - [`core`] keeps one core for the measurement.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use testbed::interrupt;

mod cases;
mod core;
mod latch;
mod ng;
mod program;
mod rate;
mod report;
mod rounds;
mod rtpengine;

const USAGE: &str = "usage: bench [--json FILE]";

fn main() -> ExitCode {
    match arguments().and_then(|json| run(json.as_deref())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(json: Option<&std::path::Path>) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("network namespaces and XDP programs need root");
    }
    interrupt::catch()?;
    let results = rounds::run()?;
    print!("{}", report::Report::of(&results));
    if let Some(path) = json {
        let object = serde_json::to_string_pretty(&report::flat(&results))?;
        std::fs::write(path, object + "\n").with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// The file for the figures, if one is asked for.
fn arguments() -> Result<Option<PathBuf>> {
    let mut arguments = std::env::args_os().skip(1);
    match (arguments.next(), arguments.next(), arguments.next()) {
        (None, _, _) => Ok(None),
        (Some(flag), Some(file), None) if flag == "--json" => Ok(Some(file.into())),
        _ => bail!(USAGE),
    }
}
