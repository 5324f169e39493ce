//! `cargo xtask bench`: prepares the machine, builds the bench of the package `tests`, and becomes it.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::build;
use crate::setup::{self, Group};
use crate::shell::{self, Privilege};
use crate::workspace::Workspace;

/// What reaches the bench of our environment through sudo.
const PRESERVED: &str = "--preserve-env=RUST_LOG,RUST_BACKTRACE,LATCH_BPF_OBJECT,LATCH_LAB_OBJECT";

/// `cargo xtask bench [--json FILE] [--no-install]`
#[derive(Args)]
pub(crate) struct Options {
    /// Write the figures to this file too: one flat object of numbers, `<case>.<metric>`.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Where a tool or a package is missing, say how to install it instead of doing so.
    #[arg(long)]
    no_install: bool,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let workspace = Workspace::locate()?;
    let privilege = Privilege::of_this_process();
    if privilege == Privilege::None {
        bail!("the bench makes network namespaces, which takes root, and there is no sudo here: run it as root");
    }
    setup::ensure(&workspace, &[Group::Build, Group::Bench], options.no_install)?;
    let bench = build::build_for_bench(&workspace)?;

    let mut command = match privilege {
        Privilege::Sudo => {
            let mut sudo = Command::new("sudo");
            sudo.args([PRESERVED, "--"]).arg(&bench);
            sudo
        }
        Privilege::Root | Privilege::None => Command::new(&bench),
    };
    if let Some(file) = &options.json {
        command.args([OsStr::new("--json"), file.as_os_str()]);
    }
    if workspace.target != workspace.root.join("target") && std::env::var_os("LATCH_LAB_OBJECT").is_none() {
        command.env("LATCH_LAB_OBJECT", workspace.bpf().join("lab.o"));
    }
    shell::announce("starting the bench", &command);
    // Becoming the other program leaves signals, the terminal and the exit code to it alone.
    Err(command.exec()).with_context(|| format!("could not start {}", bench.display()))
}
