//! The command line.

use clap::{Args, Parser, Subcommand};
use proxy_user::config::{Overrides, Relay};
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
    /// Run the proxy on this host, until SIGTERM or SIGINT. Takes root. Goes on with the calls of a process that was
    /// killed.
    Run(Run),
    /// Say how the running proxy is doing: what relays, how much is going on, what became of packets.
    Status(Status),
    /// Remove what a process that is gone left in the kernel: program, maps, and with them the media of its calls.
    Down(Down),
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
    /// What relays the media: native, generic, user, or auto. Overrides the file's.
    #[arg(long, value_name = "MODE")]
    relay: Option<Relay>,
    #[command(flatten)]
    pub(crate) state: State,
    /// Start without what an earlier process left: no calls and no registrations.
    #[arg(long)]
    pub(crate) fresh: bool,
    /// What is logged to standard error: error, warn, info, debug or trace. Overrides RUST_LOG.
    #[arg(long, value_name = "LEVEL")]
    pub(crate) log: Option<tracing::Level>,
}

impl Run {
    pub(crate) fn overrides(&self) -> Overrides {
        Overrides { relay: self.relay, ..self.maps.overrides() }
    }
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
    /// Entries of SIG_SOURCES and SIG_NETWORKS: strangers whose rate of messages is limited one by one, 176 bytes each.
    #[arg(long, value_name = "N")]
    max_sources: Option<u32>,
}

impl Maps {
    pub(crate) fn overrides(&self) -> Overrides {
        let Self { max_legs, max_next_hops, events_bytes, max_sources } = *self;
        Overrides { max_legs, max_next_hops, events_bytes, max_sources, relay: None }
    }
}

/// What outlives the process; they win over the file's.
#[derive(Debug, Args)]
pub(crate) struct State {
    /// Directory of the journal.
    #[arg(long = "state", value_name = "DIR")]
    directory: Option<PathBuf>,
    /// Directory for the maps and links, in a BPF file system.
    #[arg(long, value_name = "DIR")]
    pins: Option<PathBuf>,
}

impl State {
    pub(crate) fn override_in(&self, state: &mut proxy_user::config::State) {
        for (given, place) in [(&self.directory, &mut state.directory), (&self.pins, &mut state.pins)] {
            if let Some(given) = given {
                // Where it is relative, to where the command was given.
                *place = std::path::absolute(given).unwrap_or_else(|_| given.clone());
            }
        }
    }

    /// Whether nothing of the file is needed.
    pub(crate) fn is_whole(&self) -> bool {
        self.directory.is_some() && self.pins.is_some()
    }
}

#[derive(Debug, Args)]
pub(crate) struct Down {
    /// The configuration file, for its section state.
    #[arg(long, value_name = "FILE", default_value = "/etc/latch/latch.toml")]
    pub(crate) config: PathBuf,
    #[command(flatten)]
    pub(crate) state: State,
}

/// Which running Latch is meant.
#[derive(Debug, Args)]
pub(crate) struct Which {
    /// The configuration file, for its section state.
    #[arg(long, value_name = "FILE", default_value = "/etc/latch/latch.toml")]
    pub(crate) config: PathBuf,
    /// Directory of its journal; wins over the file's.
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    #[command(flatten)]
    pub(crate) which: Which,
    /// Everything, as one line of JSON.
    #[arg(long)]
    pub(crate) json: bool,
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
        let cli = Cli::try_parse_from([
            "latch",
            "run",
            "--config",
            "f",
            "--max-legs",
            "7",
            "--max-sources",
            "2048",
            "--relay",
            "user",
            "--log",
            "debug",
        ])
        .unwrap();
        let Command::Run(run) = cli.command else { panic!("not run") };
        let expected = Overrides {
            max_legs: Some(7),
            max_sources: Some(2_048),
            relay: Some(Relay::UserSpace),
            ..Overrides::default()
        };
        assert_eq!(run.overrides(), expected);
        assert_eq!(run.log, Some(tracing::Level::DEBUG));
        let down = Cli::try_parse_from(["latch", "down", "--state", "/s", "--pins", "/sys/fs/bpf/x"]).unwrap();
        let Command::Down(down) = down.command else { panic!("not down") };
        let mut state = proxy_user::config::State::default();
        down.state.override_in(&mut state);
        let expected = proxy_user::config::State { directory: "/s".into(), pins: "/sys/fs/bpf/x".into(), keep: false };
        assert!(down.state.is_whole());
        assert_eq!(state, expected);
    }
}
