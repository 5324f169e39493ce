//! `cargo xtask demo`: prepares the machine, builds Latch and the demo of the package `tests`, and becomes the demo.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::build;
use crate::setup::{self, Group};
use crate::shell::{self, Privilege};
use crate::workspace::Workspace;

/// What reaches the demo, and Latch in it, of our environment through sudo.
const PRESERVED: &str = "--preserve-env=NO_COLOR,RUST_LOG,RUST_BACKTRACE,LATCH_BPF_OBJECT,LATCH_LAB_OBJECT";

/// `cargo xtask demo [--no-install]`
#[derive(Args)]
pub(crate) struct Options {
    /// Where a tool or a package is missing, say how to install it instead of doing so.
    #[arg(long)]
    no_install: bool,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let workspace = Workspace::locate()?;
    let privilege = Privilege::of_this_process();
    if privilege == Privilege::None {
        bail!("the demo makes network namespaces, which takes root, and there is no sudo here: run it as root");
    }
    setup::ensure(&workspace, &[Group::Build, Group::Lab], options.no_install)?;
    let demo = build::build_for_demo(&workspace)?;

    let mut command = match privilege {
        Privilege::Sudo => {
            let mut sudo = Command::new("sudo");
            sudo.args([PRESERVED, "--"]).arg(&demo);
            sudo
        }
        Privilege::Root | Privilege::None => Command::new(&demo),
    };
    if workspace.target != workspace.root.join("target") && std::env::var_os("LATCH_LAB_OBJECT").is_none() {
        command.env("LATCH_LAB_OBJECT", workspace.bpf().join("lab.o"));
    }
    shell::announce("starting the demo", &command);
    eprintln!();
    // Becoming the other program leaves signals, the terminal and the exit code to it alone.
    Err(command.exec()).with_context(|| format!("could not start {}", demo.display()))
}
