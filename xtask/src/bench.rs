//! `cargo xtask bench`: prepares the machine, builds the bench of the package `tests`, and becomes it.

use std::ffi::OsStr;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::setup::{self, Group};
use crate::workspace::Workspace;
use crate::{build, exec};

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
    exec::ensure_privileged("the bench makes network namespaces")?;
    let workspace = Workspace::locate()?;
    setup::ensure(&workspace, &[Group::Build, Group::Bench], options.no_install)?;
    let bench = build::build_for_bench(&workspace)?;
    let json = options.json.iter().flat_map(|file| [OsStr::new("--json"), file.as_os_str()]);
    exec::replace_this_process(&workspace, "starting the bench", &bench, json)
}
