//! What should be gone: BPF objects, attachments, namespaces, processes.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::netns::{self, Namespace, run};
use crate::peer::wait_until;

/// The BPF objects one process holds. Ids are not used again soon, so they can be looked for after its end, no matter
/// what other processes load in the meantime.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BpfObjects {
    maps: Vec<(u64, String)>,
    programs: Vec<(u64, String)>,
    links: Vec<(u64, String)>,
}

impl BpfObjects {
    /// Those that process `pid` has open, by `/proc/PID/fdinfo` (bpftool names no owner unless it can load a program),
    /// and the maps that its programs use: a map may be held by its mapped memory alone.
    ///
    /// A pin would keep them in existence too, so [`BpfObjects::wait_gone`] notices one that was left behind.
    pub fn of(pid: u32) -> Result<Self> {
        let mut ids = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fdinfo")).with_context(|| format!("process {pid}"))?;
        for descriptor in descriptors.flatten() {
            // It may have been closed in the meantime.
            let info = std::fs::read_to_string(descriptor.path()).unwrap_or_default();
            let id = |key: &str| info.lines().find_map(|line| line.strip_prefix(key)?.trim().parse::<u64>().ok());
            // A link tells its program as well, which is held as long as the link.
            ids.0.extend(id("map_id:"));
            ids.1.extend(id("prog_id:"));
            ids.2.extend(id("link_id:"));
        }
        let named = |objects: &[Value], ids: &BTreeSet<u64>| -> Vec<(u64, String)> {
            objects.iter().filter_map(id_and_name).filter(|(id, _)| ids.contains(id)).collect()
        };
        let programs = list("prog")?;
        let mine = programs.iter().filter(|program| program["id"].as_u64().is_some_and(|id| ids.1.contains(&id)));
        let used = mine.filter_map(|program| program["map_ids"].as_array()).flatten();
        ids.0.extend(used.filter_map(Value::as_u64));
        Ok(Self {
            maps: named(&list("map")?, &ids.0),
            programs: named(&programs, &ids.1),
            links: named(&list("link")?, &ids.2),
        })
    }

    /// The id of a map by its name.
    pub fn map(&self, name: &str) -> Option<u64> {
        self.maps.iter().find(|(_, map)| map == name).map(|(id, _)| *id)
    }

    /// What bpftool shows of each map of this name.
    pub fn dump(&self, name: &str) -> Result<Vec<Value>> {
        let ids = self.maps.iter().filter(|(_, map)| map == name).map(|(id, _)| id.to_string());
        ids.map(|id| {
            let output = Command::new("bpftool").args(["-j", "map", "dump", "id", &id]).output()?;
            serde_json::from_slice(&output.stdout).context("JSON from bpftool")
        })
        .collect()
    }

    /// The id of a program by its name.
    pub fn program(&self, name: &str) -> Option<u64> {
        self.programs.iter().find(|(_, program)| program == name).map(|(id, _)| *id)
    }

    /// How many maps, programs and links.
    pub fn len(&self) -> usize {
        self.maps.len() + self.programs.len() + self.links.len()
    }

    /// True where there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits until none of them exists any more (the kernel frees them a moment after the last user).
    pub fn wait_gone(&self, timeout: Duration) -> Result<()> {
        let mut left = Self::default();
        wait_until("the BPF objects are gone", timeout, || {
            left = self.existing()?;
            Ok(left.is_empty())
        })
        .with_context(|| format!("left behind: {left:?}"))
    }

    fn existing(&self) -> Result<Self> {
        let still = |kind, mine: &[(u64, String)]| -> Result<Vec<(u64, String)>> {
            let all: Vec<_> = list(kind)?.iter().filter_map(id_and_name).collect();
            Ok(mine.iter().filter(|object| all.contains(object)).cloned().collect())
        };
        Ok(Self {
            maps: still("map", &self.maps)?,
            programs: still("prog", &self.programs)?,
            links: still("link", &self.links)?,
        })
    }
}

/// An error if any interface of the namespace has an XDP program.
pub fn no_xdp(namespace: &Namespace) -> Result<()> {
    let links = namespace.ip("-j link show")?;
    let links: Vec<Value> = serde_json::from_str(&links).context("JSON from ip")?;
    let attached: Vec<_> = links.iter().filter(|link| link.get("xdp").is_some()).map(|link| &link["ifname"]).collect();
    ensure!(attached.is_empty(), "{} still has XDP on {attached:?}", namespace.name());
    Ok(())
}

/// Namespaces whose name begins with a testbed's prefix ([`crate::Testbed::prefix`]).
pub fn namespaces(prefix: &str) -> Vec<String> {
    netns::with_prefix(prefix)
}

fn list(kind: &str) -> Result<Vec<Value>> {
    let text = run(Command::new("bpftool").args(["-j", kind, "show"]))?;
    serde_json::from_str(&text).with_context(|| format!("JSON from `bpftool {kind} show`"))
}

fn id_and_name(object: &Value) -> Option<(u64, String)> {
    Some((object["id"].as_u64()?, object["name"].as_str().unwrap_or_default().to_owned()))
}
