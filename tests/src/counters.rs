//! Exact packet counts at the far ends: nftables counters in a peer's namespace.

use std::collections::BTreeMap;

use anyhow::{Context, Result, anyhow};
use serde_json::Value;

use crate::netns::Namespace;

/// Which way a counted packet goes, seen from the namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Arriving, before anything else looks at it.
    In,
    /// Leaving, after everything.
    Out,
}

/// One counter's value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Bytes, IP header included.
    pub bytes: u64,
}

impl Count {
    /// Bytes of UDP payload: IPv4 without options and UDP take 28 a packet.
    pub fn udp_payload(self) -> u64 {
        self.bytes.saturating_sub(28 * self.packets)
    }
}

/// Named counters in one namespace; they stay until the namespace goes.
#[derive(Debug)]
pub struct Counters<'testbed> {
    namespace: &'testbed Namespace,
}

impl<'testbed> Counters<'testbed> {
    /// Adds counters: name (letters, digits, `_`), direction, and an nftables match, e.g.
    /// `ip saddr 203.0.113.10 udp sport 30000-39999`. A packet that several match counts in each.
    pub fn add(namespace: &'testbed Namespace, counters: &[(&str, Direction, &str)]) -> Result<Self> {
        let mut ruleset = String::from(
            "table inet testbed {
               chain arriving { type filter hook prerouting priority -500; }
               chain leaving { type filter hook postrouting priority 500; }
             }\n",
        );
        for (name, direction, matching) in counters {
            let chain = match direction {
                Direction::In => "arriving",
                Direction::Out => "leaving",
            };
            ruleset += &format!(
                "add counter inet testbed {name}\nadd rule inet testbed {chain} {matching} counter name {name}\n"
            );
        }
        namespace.nft(&ruleset)?;
        Ok(Self { namespace })
    }

    /// Every counter's value.
    pub fn read(&self) -> Result<BTreeMap<String, Count>> {
        let text = self.namespace.run("nft", "-j list counters table inet testbed")?;
        let json: Value = serde_json::from_str(&text).context("JSON from nft")?;
        let objects = json["nftables"].as_array().ok_or_else(|| anyhow!("nft listed no objects"))?;
        let counters = objects.iter().filter_map(|object| {
            let counter = object.get("counter")?;
            let count = Count { packets: counter["packets"].as_u64()?, bytes: counter["bytes"].as_u64()? };
            Some((counter["name"].as_str()?.to_owned(), count))
        });
        Ok(counters.collect())
    }

    /// One counter's value.
    pub fn get(&self, name: &str) -> Result<Count> {
        self.read()?.get(name).copied().ok_or_else(|| anyhow!("no counter {name} in {}", self.namespace.name()))
    }
}
