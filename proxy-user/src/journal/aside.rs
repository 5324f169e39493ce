//! Journals that cannot be used: moved aside for inspection, a few at most.

use crate::accounting::Timestamp;
use std::{
    io,
    path::{Path, PathBuf},
    time::SystemTime,
};

/// How many are kept; the oldest are removed first.
pub(super) const KEPT: usize = 3;

/// A journal that was found and could not be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetAside {
    /// Where it is now.
    pub path: PathBuf,
    /// What is wrong with it.
    pub why: String,
}

/// Where the journal `path` goes at this time: `journal.redb.broken-20260131T235959.999Z`.
pub(super) fn place(path: &Path, now: SystemTime) -> PathBuf {
    let named = |time: Timestamp| {
        let time = time.to_string().replace(['-', ':'], "");
        path.with_file_name(format!("{}{time}", prefix(path)))
    };
    let mut time = Timestamp::from(now);
    while named(time).exists() {
        time.0 += 1;
    }
    named(time)
}

/// Removes the oldest of those that were moved aside from `path`, so that [`KEPT`] are left.
pub(super) fn prune(path: &Path) -> io::Result<()> {
    let Some(directory) = path.parent() else { return Ok(()) };
    let prefix = prefix(path);
    let is_one = |found: &PathBuf| found.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix));
    let entries = std::fs::read_dir(directory)?.flatten();
    let mut all: Vec<_> = entries.map(|entry| entry.path()).filter(is_one).collect();
    all.sort();
    let too_many = all.len().saturating_sub(KEPT);
    all.iter().take(too_many).try_for_each(std::fs::remove_file)
}

fn prefix(path: &Path) -> String {
    format!("{}.broken-", path.file_name().unwrap_or_default().to_string_lossy())
}
