//! What outlives the process: the maps and the links, pinned in a directory of the BPF file system that is named after
//! the layout's version.
//!
//! Links are removed first: the program is off its interfaces before its maps lose their names.

use crate::config::Maps;
use crate::objects::RELAY;
use anyhow::{Context as _, Result, anyhow, bail};
use aya::maps::MapInfo;
use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{FsType, statfs},
};
use proxy_common::layout::LAYOUT_VERSION;
use std::{
    fs::File,
    io::ErrorKind,
    path::{Path, PathBuf},
};

/// Where the BPF file system belongs.
const BPFFS: &str = "/sys/fs/bpf";
/// `BPF_FS_MAGIC`.
const MAGIC: FsType = FsType(0xcafe_4a11);
/// The maps that are pinned. The program's other maps are only needed while it handles a packet.
const MAPS: [&str; 7] = ["LEGS", "LEG_STATE", "LOCALS", "NEXT_HOPS", "DEVICES", "COUNTERS", "EVENTS"];
const LINK: &str = "link-";
/// `BPF_F_RDONLY_PROG`, which the kernel adds to every device map.
const READ_ONLY: u32 = 1 << 7;
const REMEDY: &str = "`latch run --fresh` starts over and ends the calls; `latch down` only removes what is there";

/// A directory of pins.
#[derive(Clone, Debug)]
pub struct Pins {
    root: PathBuf,
    directory: PathBuf,
}

impl Pins {
    /// Those of this version's layout under `root`.
    pub fn new(root: &Path) -> Self {
        Self { root: root.into(), directory: root.join(format!("v{LAYOUT_VERSION}")) }
    }

    /// Where they are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Whether there is anything.
    pub fn exist(&self) -> bool {
        std::fs::read_dir(&self.directory).is_ok_and(|mut entries| entries.next().is_some())
    }

    /// Refuses where another version of the layout is in the kernel.
    ///
    /// # Errors
    ///
    /// One is; the message says what to do.
    pub fn refuse_other_layouts(&self) -> Result<()> {
        let other = versions(&self.root)?.into_iter().find(|version| *version != self.directory);
        let Some(other) = other.filter(|other| std::fs::read_dir(other).is_ok_and(|mut all| all.next().is_some()))
        else {
            return Ok(());
        };
        bail!(
            "{} holds the maps of another version of Latch: their layout is {}, and this version's is \
             v{LAYOUT_VERSION}. {REMEDY}",
            other.display(),
            other.file_name().unwrap_or_default().display(),
        )
    }

    /// Creates the directory, and mounts the BPF file system in its usual place if it is not mounted.
    pub(super) fn prepare(&self) -> Result<()> {
        if !on_bpffs(&self.root) && self.root.starts_with(BPFFS) {
            mount_bpffs()?;
        }
        if !on_bpffs(&self.root) {
            bail!(
                "{} is not on a BPF file system: name a directory under {BPFFS} (--pins DIR), or mount one \
                 (mount -t bpf bpf DIR)",
                self.root.display()
            );
        }
        std::fs::create_dir_all(&self.directory)
            .with_context(|| format!("cannot make {} (names there have no dots)", self.directory.display()))
    }

    /// Where a map is pinned, if it is one of those that are.
    pub(super) fn maps(&self) -> impl Iterator<Item = (&'static str, PathBuf)> {
        MAPS.into_iter().map(|name| (name, self.directory.join(name)))
    }

    /// Where the link on an interface is pinned.
    pub(super) fn link(&self, interface: u32) -> PathBuf {
        self.directory.join(format!("{LINK}{interface}"))
    }

    /// Compares the pinned maps with what this version's program and configuration want.
    pub(super) fn verify(&self, object: &[u8], maps: &Maps) -> Result<()> {
        let object = aya_obj::Object::parse(object).context("cannot read the XDP program")?;
        let mut differences = Vec::new();
        for (name, path) in self.maps() {
            let wanted = object.maps.get(name);
            let wanted = wanted.ok_or_else(|| anyhow!("the program {} has no map {name}", RELAY.program))?;
            let Ok(found) = MapInfo::from_pin(&path) else {
                differences.push(format!("{name} is not there"));
                continue;
            };
            let entries = match name {
                "LEGS" | "LEG_STATE" => maps.max_legs,
                "NEXT_HOPS" => maps.max_next_hops,
                "EVENTS" => maps.events_bytes,
                _ => wanted.max_entries(),
            };
            let kind = found.map_type().map_or(0, |kind| kind as u32);
            for (what, found, wanted) in [
                ("type", kind, wanted.map_type()),
                ("key size", found.key_size(), wanted.key_size()),
                ("value size", found.value_size(), wanted.value_size()),
                (size_name(name), found.max_entries(), entries),
                ("flags", found.map_flags() & !READ_ONLY, wanted.map_flags() & !READ_ONLY),
            ] {
                if found != wanted {
                    differences.push(format!("{name}: {what} is {found} in the kernel, and {wanted} is wanted"));
                }
            }
        }
        self.refuse(&differences)
    }

    /// Refuses where there are differences.
    ///
    /// # Errors
    ///
    /// Where there are differences; the message names them, and what to do.
    pub fn refuse(&self, differences: &[String]) -> Result<()> {
        if differences.is_empty() {
            return Ok(());
        }
        bail!(
            "what is pinned in {} was made for something else: {}. Start with what it was made for; or {REMEDY}",
            self.directory.display(),
            differences.join("; ")
        )
    }

    /// Removes the pins of every layout; what no other process holds is removed from the kernel. Returns the names of
    /// what was removed.
    ///
    /// # Errors
    ///
    /// The file system's.
    pub fn remove(&self) -> Result<Vec<String>> {
        let mut removed = Vec::new();
        for version in versions(&self.root)? {
            let mut names: Vec<_> = std::fs::read_dir(&version)?.flatten().map(|entry| entry.path()).collect();
            names.sort_by_key(|path| !is_link(path));
            for path in names {
                let name = path.file_name().unwrap_or_default().display().to_string();
                std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
                removed.push(match name.strip_prefix(LINK) {
                    Some(interface) => format!("the program on {}", interface_name(interface)),
                    None => format!("map {name}"),
                });
            }
            std::fs::remove_dir(&version).with_context(|| format!("cannot remove {}", version.display()))?;
        }
        // Others may have something there.
        let _ = std::fs::remove_dir(&self.root);
        Ok(removed)
    }
}

fn size_name(map: &str) -> &'static str {
    match map {
        "LEGS" | "LEG_STATE" => "max_legs",
        "NEXT_HOPS" => "max_next_hops",
        "EVENTS" => "events_bytes",
        _ => "number of entries",
    }
}

fn is_link(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(LINK.as_bytes()))
}

/// The name of the interface with this index, where there is one in this network namespace.
fn interface_name(index: &str) -> String {
    let name = index.parse().ok().and_then(|index| nix::net::if_::if_indextoname(index).ok());
    let name = name.and_then(|name| name.into_string().ok()).filter(|name| !name.is_empty());
    name.map_or_else(|| format!("interface {index}"), |name| format!("{name} (interface {index})"))
}

/// The directories of all layouts.
fn versions(root: &Path) -> Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", root.display())),
    };
    let version = |path: &Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.strip_prefix('v').is_some_and(|rest| rest.parse::<u32>().is_ok()) && path.is_dir()
    };
    let mut found: Vec<_> = entries.flatten().map(|entry| entry.path()).filter(|path| version(path)).collect();
    found.sort();
    Ok(found)
}

/// Whether a directory is on a BPF file system, or will be once it is created.
fn on_bpffs(directory: &Path) -> bool {
    let there = directory.ancestors().find(|ancestor| ancestor.exists());
    there.and_then(|there| statfs(there).ok()).is_some_and(|found| found.filesystem_type() == MAGIC)
}

fn mount_bpffs() -> Result<()> {
    let place = Path::new(BPFFS);
    let directory =
        File::open(place).with_context(|| format!("cannot open {BPFFS}, where the BPF file system belongs"))?;
    // Two mounts on each other would hide what the first one holds: the second process looks again.
    directory.lock().with_context(|| format!("cannot lock {BPFFS}"))?;
    if on_bpffs(place) {
        return Ok(());
    }
    tracing::info!("mounting the BPF file system at {BPFFS}");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("bpf"), place, Some("bpf"), flags, Some("mode=700"))
        .with_context(|| format!("cannot mount the BPF file system at {BPFFS} (mount -t bpf bpf {BPFFS})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_layout_is_refused_and_removed() {
        let root = std::env::temp_dir().join(format!("latch-pins-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&root);
        let pins = Pins::new(&root);
        assert!(!pins.exist() && pins.refuse_other_layouts().is_ok() && pins.remove().unwrap().is_empty());
        for directory in [root.join("v1"), pins.directory().to_owned()] {
            std::fs::create_dir_all(&directory).unwrap();
            std::fs::write(directory.join("LEGS"), "").unwrap();
            std::fs::write(directory.join("link-999999"), "").unwrap();
        }
        let error = pins.refuse_other_layouts().unwrap_err().to_string();
        assert!(pins.exist() && error.contains("v1") && error.contains("latch down"), "{error}");
        let removed = pins.remove().unwrap();
        let one = ["the program on interface 999999", "map LEGS"];
        assert_eq!(removed, [one, one].concat(), "links first");
        assert!(!root.exists());
    }

    #[test]
    fn other_places_are_refused_with_a_remedy() {
        let error = Pins::new(Path::new("/tmp/latch-nowhere")).prepare().unwrap_err().to_string();
        assert!(error.contains("not on a BPF file system") && error.contains("--pins"), "{error}");
    }

    #[test]
    fn differences_are_named_with_a_remedy() {
        let pins = Pins::new(Path::new("/sys/fs/bpf/latch"));
        assert!(pins.refuse(&[]).is_ok());
        let error =
            pins.refuse(&["LEGS: max_legs is 4 in the kernel, and 8 is wanted".into()]).unwrap_err().to_string();
        assert!(error.contains("max_legs is 4") && error.contains("--fresh"), "{error}");
    }
}
