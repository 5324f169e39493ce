//! `cargo xtask demo`: prepares the machine, builds Latch and the demo of the package `tests`, and becomes the demo.

use anyhow::Result;
use clap::Args;

use crate::setup::{self, Group};
use crate::workspace::Workspace;
use crate::{build, exec};

/// `cargo xtask demo [--no-install]`
#[derive(Args)]
pub(crate) struct Options {
    /// Where a tool or a package is missing, say how to install it instead of doing so.
    #[arg(long)]
    no_install: bool,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    exec::ensure_privileged("the demo makes network namespaces")?;
    let workspace = Workspace::locate()?;
    setup::ensure(&workspace, &[Group::Build, Group::Testbed], options.no_install)?;
    let demo = build::build_for_demo(&workspace)?;
    exec::replace_this_process(&workspace, "starting the demo", &demo, [""; 0])
}
