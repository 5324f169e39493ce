//! What a later process needs to go on where this one ended: registrations, calls and streams, in a file.
//!
//! The file is a redb database. It has to survive the *process*, whatever ends it: for that, a write only has to reach
//! the kernel's page cache, so no commit waits for a disk (`backend`). It need not survive the host: with the host, the
//! kernel's maps and so all calls are gone. A power cut may therefore cost the registrations, or leave a file that is
//! refused; phones register again.
//!
//! Records are JSON: each field has its name, so that a record of another form is an error and never misread. Points in
//! time are readings of the kernel's monotonic clock (`moment`).
//!
//! One transaction holds everything that one turn of the loop changed, and is committed before the turn's datagrams
//! are sent: what a peer was told is known to the next process.

use crate::clock::Clock;
use anyhow::{Context as _, Result, bail};
use backend::Unsynced;
use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition, TableError};
use serde::{Deserialize, Serialize};
use std::{
    fs::OpenOptions,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

mod backend;
pub(crate) mod moment;

/// Version of the records' form. Whoever changes what a record means, or takes a field away, changes this number.
pub const VERSION: u32 = 2;

/// The file's name in the state directory.
const FILE: &str = "journal.redb";
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const VERSION_KEY: &str = "version";
const HEAD_KEY: &str = "head";
const REMEDY: &str = "`latch run --fresh` starts without it; calls that it knows of end without a record";

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
    const ALL: [Self; 4] = [Self::Registrations, Self::Calls, Self::Dialogs, Self::Streams];

    fn definition(self) -> TableDefinition<'static, &'static str, &'static [u8]> {
        TableDefinition::new(match self {
            Self::Registrations => "registrations",
            Self::Calls => "calls",
            Self::Dialogs => "dialogs",
            Self::Streams => "streams",
        })
    }
}

/// A record that is to be like this from now on.
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

/// For whom the journal was kept: what a later process has to have in common with this one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// `/proc/sys/kernel/random/boot_id`: readings of the monotonic clock mean something only within one.
    pub boot: String,
    /// The monotonic clock, ns, and the time of day, ms since 1970, at one moment.
    pub clock: (u64, u64),
    /// Of each realm: side and signalling address.
    pub signalling: Vec<String>,
    /// What the kernel's maps were made for, a line each.
    pub datapath: Vec<String>,
    /// Whether all of the datapath was in the kernel, and meant to stay.
    pub whole: bool,
    /// Whether the program was attached in generic mode.
    pub generic: bool,
}

/// Which host, and since when it runs.
///
/// # Errors
///
/// The kernel's.
pub fn boot_id() -> Result<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").context("cannot read the boot id")?;
    Ok(id.trim().to_owned())
}

impl Head {
    /// The clock by which records of this journal are read on a host with this boot id, `now` being `wall`: after another
    /// start of the host, the time of day bridges the gap.
    pub fn clock(&self, boot: &str, here: Clock, now: Instant, wall: SystemTime) -> Clock {
        if self.boot == boot {
            return here;
        }
        let (ns, ms) = self.clock;
        let since = wall_ms(wall).saturating_sub(ms);
        Clock::new(now, ns.saturating_add(since.saturating_mul(1_000_000)))
    }
}

/// Milliseconds since 1970.
pub fn wall_ms(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// The file, open and locked.
pub struct Journal {
    database: Database,
    path: PathBuf,
}

impl Journal {
    /// Opens the journal in `directory`, which is made where there is none.
    ///
    /// # Errors
    ///
    /// Another process has it open, it is of another version, or it cannot be read.
    pub fn open(directory: &Path) -> Result<Self> {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("cannot make the state directory {} (--state DIR)", directory.display()))?;
        let path = directory.join(FILE);
        let shown = path.display();
        // Who calls whom is nobody else's business.
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = file.with_context(|| format!("cannot open the journal {shown}"))?;
        let Some(backend) = Unsynced::lock(file).with_context(|| format!("cannot lock the journal {shown}"))? else {
            bail!("another Latch runs with the journal {shown}: stop it, or give this one its own --state and --pins");
        };
        let mut builder = Database::builder();
        builder.set_cache_size(16 << 20);
        let database = builder
            .create_with_backend(backend)
            .with_context(|| format!("the journal {shown} cannot be read; {REMEDY}"))?;
        let journal = Self { database, path };
        journal.check_version()?;
        Ok(journal)
    }

    /// Removes the journal in `directory`, if there is one that no process has open. Tells whether there was.
    ///
    /// # Errors
    ///
    /// A process has it open, or the file system's.
    pub fn remove(directory: &Path) -> Result<bool> {
        let path = directory.join(FILE);
        let shown = path.display();
        let file = match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error).with_context(|| format!("cannot open the journal {shown}")),
        };
        let lock = Unsynced::lock(file).with_context(|| format!("cannot lock the journal {shown}"))?;
        if lock.is_none() {
            bail!("a Latch runs with the journal {shown}: stop it first");
        }
        std::fs::remove_file(&path).with_context(|| format!("cannot remove the journal {shown}"))?;
        Ok(true)
    }

    /// Whether a process has the journal in `directory` open.
    ///
    /// # Errors
    ///
    /// The file system's.
    pub fn in_use(directory: &Path) -> Result<bool> {
        let path = directory.join(FILE);
        match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => {
                let lock = Unsynced::lock(file);
                Ok(lock.with_context(|| format!("cannot lock the journal {}", path.display()))?.is_none())
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error).with_context(|| format!("cannot open the journal {}", path.display())),
        }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// For whom it was kept; `None` in a new one.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub fn head(&self) -> Result<Option<Head>> {
        let Some(bytes) = self.meta(HEAD_KEY)? else { return Ok(None) };
        let head = serde_json::from_slice(&bytes);
        head.map(Some).with_context(|| format!("the journal {} has an unknown head; {REMEDY}", self.path.display()))
    }

    /// All records.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub fn entries(&self) -> Result<Vec<Entry>> {
        let read = || -> Result<Vec<Entry>> {
            let transaction = self.database.begin_read()?;
            let mut entries = Vec::new();
            for table in Table::ALL {
                let open = match transaction.open_table(table.definition()) {
                    Ok(open) => open,
                    Err(TableError::TableDoesNotExist(_)) => continue,
                    Err(error) => return Err(error.into()),
                };
                for item in open.iter()? {
                    let (key, value) = item?;
                    entries.push(Entry { table, key: key.value().to_owned(), value: value.value().to_vec() });
                }
            }
            Ok(entries)
        };
        read().with_context(|| format!("the journal {} cannot be read; {REMEDY}", self.path.display()))
    }

    /// Makes all of these changes or, whatever happens, none. Where there is a head, the journal is kept for it from
    /// now on.
    ///
    /// # Errors
    ///
    /// The file system's.
    pub fn commit(&self, head: Option<&Head>, changes: &[Change]) -> Result<()> {
        let write = || -> Result<()> {
            let transaction = self.database.begin_write()?;
            if let Some(head) = head {
                transaction.open_table(META)?.insert(HEAD_KEY, serde_json::to_vec(head)?.as_slice())?;
            }
            for table in Table::ALL {
                let mut of_table = changes.iter().filter(|change| change.table == table).peekable();
                if of_table.peek().is_none() {
                    continue;
                }
                let mut open = transaction.open_table(table.definition())?;
                for change in of_table {
                    match &change.value {
                        Some(value) => drop(open.insert(change.key.as_str(), value.as_slice())?),
                        None => drop(open.remove(change.key.as_str())?),
                    }
                }
            }
            Ok(transaction.commit()?)
        };
        write().with_context(|| format!("cannot write the journal {}", self.path.display()))
    }

    /// Forgets all records of these tables.
    ///
    /// # Errors
    ///
    /// The file system's.
    pub fn clear(&self, tables: &[Table]) -> Result<()> {
        let clear = || -> Result<()> {
            let transaction = self.database.begin_write()?;
            for table in tables {
                transaction.delete_table(table.definition())?;
            }
            Ok(transaction.commit()?)
        };
        clear().with_context(|| format!("cannot write the journal {}", self.path.display()))
    }

    fn check_version(&self) -> Result<()> {
        let Some(bytes) = self.meta(VERSION_KEY)? else {
            return self.set_meta(VERSION_KEY, VERSION.to_string().as_bytes());
        };
        let found = String::from_utf8_lossy(&bytes);
        if found != VERSION.to_string() {
            let path = self.path.display();
            bail!("the journal {path} is of version {found}, and this Latch reads version {VERSION}; {REMEDY}");
        }
        Ok(())
    }

    fn meta(&self, key: &str) -> Result<Option<Vec<u8>>> {
        let read = || -> Result<Option<Vec<u8>>> {
            let transaction = self.database.begin_read()?;
            let table = match transaction.open_table(META) {
                Ok(table) => table,
                Err(TableError::TableDoesNotExist(_)) => return Ok(None),
                Err(error) => return Err(error.into()),
            };
            Ok(table.get(key)?.map(|value| value.value().to_vec()))
        };
        read().with_context(|| format!("the journal {} cannot be read; {REMEDY}", self.path.display()))
    }

    fn set_meta(&self, key: &str, value: &[u8]) -> Result<()> {
        let write = || -> Result<()> {
            let transaction = self.database.begin_write()?;
            transaction.open_table(META)?.insert(key, value)?;
            Ok(transaction.commit()?)
        };
        write().with_context(|| format!("cannot write the journal {}", self.path.display()))
    }
}

#[cfg(test)]
mod tests;
