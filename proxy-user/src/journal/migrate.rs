//! From one version of the records to the next.
//!
//! A change that raises [`VERSION`](super::VERSION) may add a [`Step`] to [`STEPS`], so that the calls of a running
//! Latch outlive its replacement by a newer one. Without it the older journal is set aside, and its calls end.

use super::records::{Change, Changes, Entry};
use anyhow::{Context as _, Result};

/// Makes a record of one version one of the next; `None` where the next version has no such record.
pub(super) struct Step {
    /// The version that it reads; it writes the one after.
    pub(super) from: u32,
    /// What it does with each record.
    pub(super) record: fn(Entry) -> Result<Option<Entry>>,
}

/// Every step that there is, in their order. Version 1 is the first one.
pub(super) const STEPS: &[Step] = &[];

/// The steps that lead from the version `found` to `wanted`; `None` where there is no way.
pub(super) fn way(steps: &[Step], found: u32, wanted: u32) -> Option<Vec<&Step>> {
    (found..wanted)
        .map(|version| steps.iter().find(|step| step.from == version))
        .collect::<Option<Vec<_>>>()
        .filter(|way| !way.is_empty())
}

/// What has to change so that these records are of the version that `way` leads to.
pub(super) fn changes(way: &[&Step], entries: Vec<Entry>) -> Result<Changes> {
    let removed = |entry: &Entry| Change { table: entry.table, key: entry.key.clone(), value: None };
    let mut changes: Changes = entries.iter().map(removed).collect();
    for entry in entries {
        let name = format!("{:?} {}", entry.table, entry.key);
        let migrated = way.iter().try_fold(Some(entry), |entry, step| match entry {
            Some(entry) => (step.record)(entry).with_context(|| format!("{name}, from version {}", step.from)),
            None => Ok(None),
        })?;
        changes.extend(migrated);
    }
    Ok(changes)
}
