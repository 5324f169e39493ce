//! `cargo xtask lint`: format, warnings and documentation of both worlds, all of it as errors.

use std::process::Command;

use anyhow::{Context as _, Result};
use clap::Args;

use crate::build::bpf_cargo;
use crate::setup::{self, Group};
use crate::shell;
use crate::toolchain::Toolchain;
use crate::workspace::Workspace;

/// `cargo xtask lint [--no-install]`
#[derive(Args)]
pub(crate) struct Options {
    /// Where a tool is missing, say how to install it instead of doing so.
    #[arg(long)]
    no_install: bool,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let workspace = Workspace::locate()?;
    let cargo = |arguments: &[&str]| {
        let mut cargo = Command::new(shell::cargo());
        cargo.args(arguments).current_dir(&workspace.root);
        cargo
    };
    shell::run("checking the format (`cargo fmt` mends it)", &mut cargo(&["fmt", "--all", "--check"]))?;
    shell::run("checking the XDP program's format", cargo(&["fmt", "--check"]).current_dir(workspace.ebpf_crate()))?;
    let clippy = ["clippy", "--workspace", "--all-targets", "--locked", "--", "--deny", "warnings"];
    shell::run("looking for warnings", &mut cargo(&clippy))?;
    shell::run(
        "checking the documentation",
        cargo(&["doc", "--workspace", "--no-deps", "--locked"]).env("RUSTDOCFLAGS", "--deny warnings"),
    )?;

    setup::ensure(&workspace, &[Group::Build], options.no_install)?;
    let toolchain = Toolchain::find(&workspace).context("no BPF toolchain; run `cargo xtask setup`")?;
    // Not every BPF compiler comes with clippy: the compiler's own warnings have to do.
    let mut check = bpf_cargo(&workspace, &toolchain, "check", &["--deny=warnings"]);
    shell::run("looking for warnings in the XDP program", &mut check)?;
    shell::say("nothing to complain about");
    Ok(())
}
