//! `cargo xtask run`: builds Latch and becomes it.

use std::ffi::OsString;

use anyhow::Result;
use clap::Args;

use crate::workspace::Workspace;
use crate::{build, exec};

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
    exec::ensure_privileged("Latch loads an XDP program")?;
    let workspace = Workspace::locate()?;
    let how = build::Options { release: !options.debug, no_install: options.no_install };
    let latch = build::build(&workspace, &how)?;
    let arguments = [OsString::from("run")].into_iter().chain(options.arguments.iter().cloned());
    exec::replace_this_process(&workspace, "starting Latch", &latch, arguments)
}
