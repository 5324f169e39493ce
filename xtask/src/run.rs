//! `cargo xtask run`: builds Latch and becomes it.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::build;
use crate::shell::{self, Privilege};
use crate::workspace::Workspace;

/// What reaches Latch of our environment through sudo.
const PRESERVED: &str = "--preserve-env=RUST_LOG,RUST_BACKTRACE,LATCH_BPF_OBJECT";

/// `cargo xtask run [--debug] [--no-install] -- ARGUMENTS`
#[derive(Args)]
pub(crate) struct Options {
    /// Build `latch` unoptimised: quicker to build, slower in signalling. The XDP program is the same.
    #[arg(long)]
    debug: bool,
    /// Where a tool is missing, say how to install it instead of doing so.
    #[arg(long)]
    no_install: bool,
    /// Arguments of `latch run`, for example `--config latch.toml`.
    #[arg(last = true)]
    arguments: Vec<OsString>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let how = build::Options { release: !options.debug, no_install: options.no_install };
    let latch = build::build(&Workspace::locate()?, &how)?;

    let mut command = match Privilege::of_this_process() {
        Privilege::Root => Command::new(&latch),
        Privilege::Sudo => {
            let mut sudo = Command::new("sudo");
            sudo.args([PRESERVED, "--"]).arg(&latch);
            sudo
        }
        Privilege::None => bail!(
            "Latch loads an XDP program, which takes root, and there is no sudo here; run as root:\n    {}",
            shell::render(Command::new(&latch).arg("run").args(&options.arguments))
        ),
    };
    command.arg("run").args(&options.arguments);
    shell::announce("starting Latch", &command);
    // Becoming the other program leaves signals, the terminal and the exit code to it alone.
    Err(command.exec()).with_context(|| format!("could not start {}", latch.display()))
}
