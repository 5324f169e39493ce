//! The command line.

use clap::{Args, Parser, Subcommand};
use proxy_user::config::Overrides;
use std::path::PathBuf;

/// A SIP proxy that takes phones behind NATs to a softswitch and relays their media in the kernel.
#[derive(Debug, Parser)]
#[command(name = "latch", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the proxy on this host, until SIGTERM or SIGINT. Takes root.
    Run(Run),
    /// Say what is wrong with a configuration file.
    CheckConfig(CheckConfig),
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = "/etc/latch/latch.toml")]
    pub(crate) config: PathBuf,
    #[command(flatten)]
    pub(crate) maps: Maps,
    /// What is logged to standard error: error, warn, info, debug or trace. Overrides RUST_LOG.
    #[arg(long, value_name = "LEVEL")]
    pub(crate) log: Option<tracing::Level>,
}

/// Sizes of the BPF maps; they win over the file's.
#[derive(Debug, Args)]
pub(crate) struct Maps {
    /// Entries of LEGS and LEG_STATE: pairs of ports, 256 bytes each.
    #[arg(long, value_name = "N")]
    max_legs: Option<u32>,
    /// Entries of NEXT_HOPS: gateways and neighbours in use at once.
    #[arg(long, value_name = "N")]
    max_next_hops: Option<u32>,
    /// Bytes of the ring buffer EVENTS: a power of two.
    #[arg(long, value_name = "N")]
    events_bytes: Option<u32>,
}

impl Maps {
    pub(crate) fn overrides(&self) -> Overrides {
        Overrides { max_legs: self.max_legs, max_next_hops: self.max_next_hops, events_bytes: self.events_bytes }
    }
}

#[derive(Debug, Args)]
pub(crate) struct CheckConfig {
    /// The configuration file.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Compare it with this host too: interfaces, addresses, directories.
    #[arg(long)]
    pub(crate) host: bool,
    #[command(flatten)]
    pub(crate) maps: Maps,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_reach_the_configuration() {
        let cli = Cli::try_parse_from(["latch", "run", "--config", "f", "--max-legs", "7", "--log", "debug"]).unwrap();
        let Command::Run(run) = cli.command else { panic!("not run") };
        assert_eq!(run.maps.overrides(), Overrides { max_legs: Some(7), ..Overrides::default() });
        assert_eq!(run.log, Some(tracing::Level::DEBUG));
    }
}
