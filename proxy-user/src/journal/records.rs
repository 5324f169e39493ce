//! What is in the journal, and what has to be there.

use redb::TableDefinition;
use std::collections::BTreeMap;

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Table {
    /// A registration, by its protocol and what the protocol calls it.
    Registrations,
    /// A call, by its number.
    Calls,
    /// What a protocol keeps of calls and the like, by its protocol and what the protocol calls it.
    Dialogs,
    /// A stream of the datapath, by its number.
    Streams,
}

impl Table {
    /// All of them.
    pub(super) const ALL: [Self; 4] = [Self::Registrations, Self::Calls, Self::Dialogs, Self::Streams];

    pub(super) fn definition(self) -> TableDefinition<'static, &'static str, &'static [u8]> {
        TableDefinition::new(match self {
            Self::Registrations => "registrations",
            Self::Calls => "calls",
            Self::Dialogs => "dialogs",
            Self::Streams => "streams",
        })
    }
}

/// A record to be written like this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What it is about.
    pub table: Table,
    /// Its name in the table.
    pub key: String,
    /// The record; `None` removes it.
    pub value: Option<Vec<u8>>,
}

/// A record as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is about.
    pub table: Table,
    /// Its name in the table.
    pub key: String,
    /// The record.
    pub value: Vec<u8>,
}

/// Changes that are written together: of each record the last form, in the order of the tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes(BTreeMap<(Table, String), Option<Vec<u8>>>);

impl Changes {
    /// How many records they touch.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Table, &str, Option<&[u8]>)> {
        self.0.iter().map(|((table, key), value)| (*table, key.as_str(), value.as_deref()))
    }

    /// Adds others that come later.
    pub(super) fn overlay(&mut self, later: &Self) {
        self.0.extend(later.0.iter().map(|(key, value)| (key.clone(), value.clone())));
    }

    /// Keeps what `wanted` accepts.
    pub(super) fn retain(&mut self, mut wanted: impl FnMut(Table, &str, Option<&[u8]>) -> bool) {
        self.0.retain(|(table, key), value| wanted(*table, key, value.as_deref()));
    }
}

impl Extend<Change> for Changes {
    fn extend<I: IntoIterator<Item = Change>>(&mut self, changes: I) {
        self.0.extend(changes.into_iter().map(|change| ((change.table, change.key), change.value)));
    }
}

impl Extend<Entry> for Changes {
    fn extend<I: IntoIterator<Item = Entry>>(&mut self, entries: I) {
        self.0.extend(entries.into_iter().map(|entry| ((entry.table, entry.key), Some(entry.value))));
    }
}

impl<T> FromIterator<T> for Changes
where
    Self: Extend<T>,
{
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        let mut changes = Self::default();
        changes.extend(items);
        changes
    }
}
