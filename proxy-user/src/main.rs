//! The `latch` binary: exit code 0 where all went well, 1 where running failed, 2 where command line or configuration
//! are wrong.

use anyhow::{Context as _, Result};
use clap::Parser as _;
use cli::{CheckConfig, Cli, Command};
use proxy_user::config::{Config, Problems, host};
use std::process::ExitCode;

mod cli;
mod operate;
mod resume;
mod run;

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run(options) => run::run(&options),
        Command::Status(options) => operate::status(&options),
        Command::Down(options) => resume::down(&options),
        Command::CheckConfig(options) => check_config(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<Problems>() => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
        Err(error) => {
            eprintln!("latch: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn check_config(options: &CheckConfig) -> Result<()> {
    let config = Config::load(&options.file, options.maps.overrides())?;
    if options.host {
        let findings = host::check(&config).context("cannot examine this host")?;
        for problem in findings.warnings {
            eprintln!("warning: {}", Problems::located(&options.file, vec![problem]));
        }
        if !findings.problems.is_empty() {
            return Err(Problems::located(&options.file, findings.problems).into());
        }
    }
    println!("{}: right", options.file.display());
    Ok(())
}
