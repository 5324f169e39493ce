//! `cargo xtask COMMAND`: every developer command of Latch, one file each. A person and CI use the same ones.
//!
//! The commands stand on three rooms: [`shell`] starts other programs and says so, [`debian`] knows which packages
//! a machine needs, [`toolchain`] finds the compiler and the linker for the XDP program.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bench;
mod build;
mod debian;
mod demo;
mod exec;
mod imports;
mod lint;
mod run;
mod setup;
mod shell;
mod test;
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
    /// Prepare the machine, build, and tell a real call through Latch, in network namespaces that are removed again.
    Demo(demo::Options),
    /// Build Latch and run it on this host, as root: `cargo xtask run -- --config latch.toml`.
    Run(run::Options),
    /// Compare Latch's relay with a bare XDP redirect, the kernel's NAT and rtpengine, as root.
    Bench(bench::Options),
    /// Check format, warnings, documentation, and which files import which.
    Lint(lint::Options),
    /// Prepare the machine, build everything and run every test.
    Test(test::Options),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Setup(options) => setup::run(&options),
        Command::Bench(options) => bench::run(&options),
        Command::Build(options) => build::run(&options),
        Command::Demo(options) => demo::run(&options),
        Command::Run(options) => run::run(&options),
        Command::Lint(options) => lint::run(&options),
        Command::Test(options) => test::run(&options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The whole chain of causes, and no backtrace: these errors are for the person at the terminal.
            shell::say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
