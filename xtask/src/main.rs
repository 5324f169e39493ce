//! `cargo xtask COMMAND`: every developer command of Latch, one file each. A person and CI use the same ones.
//!
//! The commands stand on three rooms: [`shell`] starts other programs and says so, [`debian`] knows which packages
//! a machine needs, [`toolchain`] finds the compiler and the linker for the XDP program.

use clap::{Parser, Subcommand};

mod build;
mod debian;
mod setup;
mod shell;
mod toolchain;
mod workspace;

/// Every developer command of Latch.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what the other commands need and this machine lacks.
    Setup(setup::Options),
    /// Build the XDP objects, then the `latch` binary.
    Build(build::Options),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Setup(options) => setup::run(&options),
        Command::Build(options) => build::run(&options),
    }
}
