//! Records of the journal: what is there, and what has to be written.

use crate::{
    clock::Clock,
    journal::{Change, Entry, Table, moment},
};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
};
use tracing::error;

/// A record of the journal is not what it should be.
#[derive(Debug, thiserror::Error)]
#[error("{table:?} {key} in the journal cannot be restored: {problem}")]
pub struct NotRestored {
    pub(super) table: Table,
    pub(super) key: String,
    pub(super) problem: String,
}

/// What the journal holds of somebody's, so that only what changed is written.
#[derive(Debug, Default)]
pub(crate) struct Written {
    /// A hash of each record, by its key.
    records: HashMap<(Table, String), u64>,
    /// To be removed: records that were found and belong to nothing.
    stale: Vec<Change>,
}

impl Written {
    /// This record was found, and is in use.
    pub(crate) fn found(&mut self, entry: &Entry) {
        self.records.insert((entry.table, entry.key.clone()), hash(&entry.value));
    }

    /// This record was found, and is useless.
    pub(crate) fn stale(&mut self, entry: &Entry) {
        self.stale.push(Change { table: entry.table, key: entry.key.clone(), value: None });
    }

    /// What must be removed.
    pub(crate) fn take_stale(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.stale)
    }

    /// What has to be written so that the record is `new`.
    pub(crate) fn change<T: Serialize>(
        &mut self,
        table: Table,
        key: String,
        new: Option<&T>,
        clock: &Clock,
    ) -> Option<Change> {
        let name = (table, key);
        let Some(value) = new.and_then(|new| written(new, clock)) else {
            self.records.remove(&name)?;
            return Some(Change { table, key: name.1, value: None });
        };
        let hash = hash(&value);
        if self.records.get(&name) == Some(&hash) {
            return None;
        }
        self.records.insert(name.clone(), hash);
        Some(Change { table, key: name.1, value: Some(value) })
    }
}

impl Entry {
    /// Says that this record cannot be taken up.
    pub fn refused(&self, problem: impl ToString) -> NotRestored {
        NotRestored { table: self.table, key: self.key.clone(), problem: problem.to_string() }
    }
}

/// Reads a record of the journal.
pub(crate) fn read<T: DeserializeOwned>(entry: &Entry, clock: Clock) -> Result<T, NotRestored> {
    moment::on(clock, || serde_json::from_slice(&entry.value)).map_err(|error| entry.refused(error))
}

/// A record for the journal. `None` for what cannot be written: it lives on here, and a later process does not know of
/// it.
fn written<T: Serialize>(value: &T, clock: &Clock) -> Option<Vec<u8>> {
    let written = moment::on(*clock, || serde_json::to_vec(value));
    written.inspect_err(|problem| error!(%problem, "a record for the journal cannot be written")).ok()
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}
