//! `cargo xtask lint`: format, warnings and documentation of both worlds, and imports, all of it as errors.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::build::bpf_cargo;
use crate::imports;
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
    setup::ensure(&workspace, &[Group::Build], options.no_install)?;
    let toolchain = Toolchain::find(&workspace).context("no BPF toolchain; run `cargo xtask setup`")?;

    // Every check is made, whatever the ones before it found.
    let mut failed = Vec::new();
    for (what, mut command) in checks(&workspace, &toolchain) {
        if let Err(error) = shell::run(&format!("checking {what}"), &mut command) {
            shell::say(&format!("{error:#}"));
            failed.push(what);
        }
    }
    shell::say("checking which files import which");
    if let Err(error) = imports::check(&workspace) {
        shell::say(&format!("{error:#}"));
        failed.push("the imports");
    }
    if !failed.is_empty() {
        bail!("not in order: {}", failed.join("; "));
    }
    shell::say("nothing to complain about");
    Ok(())
}

/// What is checked, and how.
fn checks(workspace: &Workspace, toolchain: &Toolchain) -> Vec<(&'static str, Command)> {
    let cargo = |folder: &Path, arguments: &[&str]| {
        let mut cargo = Command::new(shell::cargo());
        cargo.args(arguments).current_dir(folder);
        cargo
    };
    let (root, ebpf) = (&workspace.root, &workspace.ebpf_crate());
    let mut documentation = cargo(root, &["doc", "--workspace", "--no-deps", "--locked"]);
    documentation.env("RUSTDOCFLAGS", "--deny warnings");
    vec![
        ("the format (`cargo fmt` mends it)", cargo(root, &["fmt", "--all", "--check"])),
        ("the XDP program's format (`cargo fmt` in proxy-ebpf mends it)", cargo(ebpf, &["fmt", "--check"])),
        (
            "user space for warnings",
            cargo(root, &["clippy", "--workspace", "--all-targets", "--locked", "--", "--deny", "warnings"]),
        ),
        // Not every BPF compiler comes with clippy: the compiler's own warnings have to do.
        ("the XDP program for warnings", bpf_cargo(workspace, toolchain, "check", &["--deny=warnings"])),
        ("the documentation", documentation),
    ]
}
