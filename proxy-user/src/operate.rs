//! An operator's requests to a running Latch from the command line.

use crate::cli::{Status, Which};
use anyhow::Result;
use proxy_user::{
    config::{self, Config, Overrides},
    ctl::{self, Request},
};
use serde_json::Value;
use std::path::PathBuf;

impl Which {
    /// The directory of its state: the one that was given, or else the file's, or else the default.
    fn directory(&self) -> Result<PathBuf> {
        Ok(match &self.state {
            Some(state) => std::path::absolute(state)?,
            None if self.config.exists() => Config::load(&self.config, Overrides::default())?.state.directory,
            None => config::State::default().directory,
        })
    }
}

/// `latch status`.
pub(crate) fn status(options: &Status) -> Result<()> {
    let (status, _) = ctl::ask(&options.which.directory()?, &Request::Status)?;
    if options.json {
        println!("{status}");
    } else {
        print!("{}", text(&status));
    }
    Ok(())
}

fn text(status: &Value) -> String {
    let relay = &status["relay"];
    let mode = match relay["mode"].as_str() {
        Some("native") => "XDP program in the driver (native)",
        Some("generic") => "XDP program in the network stack (generic): slower",
        Some("user") => "user space: slowest, and media stops with the process",
        _ => "unknown",
    };
    let interfaces: Vec<_> = relay["interfaces"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    format!(
        "latch {}, process {}, up {}\nrelay: {mode}, on {}\nload: {}\npackets: {}\nengine: {}\nsignalling: {}\nfilter: {}\njournal: {}\n",
        status["version"].as_str().unwrap_or_default(),
        status["pid"],
        duration(status["uptime_s"].as_u64().unwrap_or_default()),
        interfaces.join(", "),
        listed(&status["load"], true),
        listed(&relay["packets"], false),
        listed(&status["engine"], false),
        listed(&status["signalling"], false),
        if status["filter"].is_null() { "not attached".into() } else { listed(&status["filter"], false) },
        journal(&status["journal"]),
    )
}

/// Whether a later process can know what this one does.
fn journal(journal: &Value) -> String {
    if journal["written"] != false {
        return "written".into();
    }
    format!(
        "NOT WRITTEN for {}, {} changes pending: {}",
        duration(journal["failing_s"].as_u64().unwrap_or_default()),
        journal["pending"],
        journal["error"].as_str().unwrap_or_default(),
    )
}

/// Names and numbers; those that are 0 only if `all`.
fn listed(numbers: &Value, all: bool) -> String {
    let numbers = numbers.as_object().into_iter().flatten();
    let named: Vec<_> = numbers
        .filter(|(_, number)| all || number.as_u64() != Some(0))
        .map(|(name, number)| format!("{name} {number}"))
        .collect();
    if named.is_empty() { "none".into() } else { named.join(", ") }
}

fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_status_is_read_at_a_glance() {
        let status = json!({
            "version": "0.1.0", "pid": 7, "uptime_s": 7_390,
            "relay": { "mode": "user", "interfaces": ["eth0", "eth1"], "packets": { "passed_host": 3, "dropped_ttl": 0 } },
            "load": { "calls": 0, "port_pairs": 4 }, "engine": { "refused": 0 }, "signalling": { "sent": 1, "received": 2 },
            "filter": { "passed_known": 5, "dropped_source": 0 },
            "journal": { "written": true, "errors": 0, "pending": 0, "failing_s": 0, "error": null },
        });
        assert_eq!(
            text(&status),
            "latch 0.1.0, process 7, up 2 h 3 min\n\
             relay: user space: slowest, and media stops with the process, on eth0, eth1\n\
             load: calls 0, port_pairs 4\npackets: passed_host 3\nengine: none\nsignalling: received 2, sent 1\n\
             filter: passed_known 5\njournal: written\n"
        );
        let without = text(&json!({ "filter": null }));
        assert!(without.contains("\nfilter: not attached\n"), "{without}");
    }

    #[test]
    fn a_journal_that_is_not_written_stands_out() {
        let failing = json!({
            "written": false, "errors": 7, "pending": 12, "failing_s": 95, "error": "cannot write the journal: disk full",
        });
        assert_eq!(
            journal(&failing),
            "NOT WRITTEN for 1 min 35 s, 12 changes pending: cannot write the journal: disk full"
        );
    }

    #[test]
    fn durations_have_two_units() {
        for (seconds, expected) in [(59, "59 s"), (61, "1 min 1 s"), (3_600, "1 h 0 min"), (90_000, "1 d 1 h")] {
            assert_eq!(duration(seconds), expected);
        }
    }
}
