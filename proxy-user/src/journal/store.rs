//! The journal's file: open, locked by its directory, and whole or set aside.

use super::{
    Head, VERSION,
    aside::{self, SetAside},
    backend::{Disk, PageCache, Unsynced},
    migrate::{self, Step},
    records::{Changes, Entry, Table},
};
use anyhow::{Context as _, Result, bail};
use redb::{Database, Error, ReadableDatabase as _, ReadableTable as _, TableDefinition, TableError};
use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, ErrorKind},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

/// The file's name in the state directory.
const FILE: &str = "journal.redb";
/// A new one has this name until it is whole.
const NEW: &str = "journal.redb.new";
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const VERSION_KEY: &str = "version";
const HEAD_KEY: &str = "head";
/// What redb may keep of the file in memory, bytes.
const CACHE: usize = 16 << 20;
/// How long to wait for another process to release the lock.
const LOCK_WAIT: Duration = Duration::from_millis(200);

/// The file, open. Its directory stays locked for that time.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    /// The directory, locked: the file may be replaced, and nobody else takes it in between.
    _lock: File,
    file: File,
    disk: Arc<dyn Disk>,
    /// Missing after an error, until it is opened again.
    database: Option<Database>,
    set_aside: Option<SetAside>,
}

/// How a journal that could not be written came to be written again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recovered {
    /// By opening the same file again.
    Reopened,
    /// In a new file, with all that the old one held.
    Rewritten,
    /// In a new file, with less than the old one held, which could not be read.
    Incomplete(SetAside),
}

/// Why a file is not taken as the journal.
enum Refused {
    /// Any other file would fare the same.
    Disk(Error),
    /// Its contents.
    Content(String),
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        if is_disk_full(&error) { Self::Disk(error) } else { Self::Content(error.to_string()) }
    }
}

impl Journal {
    /// Opens the journal in `directory`, which is made where there is none. A file that cannot be read, or of another
    /// version, is set aside ([`Journal::set_aside`]), and a new one begun.
    ///
    /// # Errors
    ///
    /// Another process has it open, or the file system's.
    pub fn open(directory: &Path) -> Result<Self> {
        Self::open_on(directory, Arc::new(PageCache), VERSION, migrate::STEPS)
    }

    pub(super) fn open_on(directory: &Path, disk: Arc<dyn Disk>, version: u32, steps: &[Step]) -> Result<Self> {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("cannot make the state directory {} (--state DIR)", directory.display()))?;
        let path = directory.join(FILE);
        let shown = path.display();
        let Some(lock) = lock(directory)? else {
            bail!("another Latch runs with the journal {shown}: stop it, or give this one its own --state and --pins");
        };
        // What a process left that was killed while it wrote a new one.
        let _ = std::fs::remove_file(directory.join(NEW));
        let file = open_file(&path).with_context(|| format!("cannot open the journal {shown}"))?;
        let mut journal = Self { _lock: lock, file, disk, database: None, set_aside: None, path: path.clone() };
        match journal.examine(version, steps) {
            Ok(()) => {}
            Err(Refused::Disk(error)) => {
                return Err(error).with_context(|| format!("the journal {shown} cannot be opened for writing"));
            }
            Err(Refused::Content(why)) => journal.begin_another(why, version)?,
        }
        Ok(journal)
    }

    /// Removes the journal in `directory`, if there is one that no process has open. Tells whether there was.
    ///
    /// # Errors
    ///
    /// A process has it open, or the file system's.
    pub fn remove(directory: &Path) -> Result<bool> {
        let path = directory.join(FILE);
        if !directory.exists() {
            return Ok(false);
        }
        let Some(_lock) = lock(directory)? else {
            bail!("a Latch runs with the journal {}: stop it first", path.display());
        };
        match std::fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error).with_context(|| format!("cannot remove the journal {}", path.display())),
        }
    }

    /// Whether a process has the journal in `directory` open.
    ///
    /// # Errors
    ///
    /// The file system's.
    pub fn in_use(directory: &Path) -> Result<bool> {
        Ok(directory.exists() && lock(directory)?.is_none())
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file that was found at the start and could not be used, if there was one.
    pub fn set_aside(&self) -> Option<&SetAside> {
        self.set_aside.as_ref()
    }

    /// Keeps a copy of the file next to it, like one that is set aside. Returns its path.
    ///
    /// # Errors
    ///
    /// The file system's.
    pub fn copy_aside(&self) -> Result<PathBuf> {
        let place = aside::place(&self.path, SystemTime::now());
        std::fs::copy(&self.path, &place).with_context(|| format!("cannot copy {}", self.path.display()))?;
        let _ = aside::prune(&self.path);
        Ok(place)
    }

    /// Its owner; `None` in a new one.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub fn head(&self) -> Result<Option<Head>> {
        let bytes = self.meta(HEAD_KEY).with_context(|| self.unreadable())?;
        bytes.map(|bytes| serde_json::from_slice(&bytes)).transpose().with_context(|| self.unreadable())
    }

    /// All records.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub fn entries(&self) -> Result<Vec<Entry>> {
        self.read(&Table::ALL).with_context(|| self.unreadable())
    }

    /// Makes all of these changes or, whatever happens, none. Where there is a head, the journal is kept for it from
    /// now on.
    ///
    /// # Errors
    ///
    /// The file system's. From then on it refuses everything, until it is [recovered](Self::recover).
    pub fn commit(&self, head: Option<&Head>, changes: &Changes) -> Result<()> {
        let head = head.map(head_bytes).transpose()?;
        self.write(&of_head(&head), changes).with_context(|| self.unwritable())
    }

    /// Forgets all records of these tables.
    ///
    /// # Errors
    ///
    /// The file system's.
    pub fn clear(&self, tables: &[Table]) -> Result<()> {
        let clear = || -> Result<(), Error> {
            let transaction = self.database()?.begin_write()?;
            for table in tables {
                transaction.delete_table(table.definition())?;
            }
            Ok(transaction.commit()?)
        };
        clear().with_context(|| self.unwritable())
    }

    /// After an error: opens the file again and makes these changes; where the file cannot be used any more, writes a
    /// new one of what it held and these changes. Removals of what the file does not hold are taken out of `changes`.
    ///
    /// # Errors
    ///
    /// The file system's: there is still no room, for one. It can be tried again.
    pub fn recover(&mut self, head: &Head, changes: &mut Changes) -> Result<Recovered> {
        self.reopen(head, changes).with_context(|| self.unwritable())
    }

    /// Empties the file and writes what it held of these tables, with these changes, for this head. Takes no more room
    /// than the file had: this works on a full disk too.
    ///
    /// # Errors
    ///
    /// The file system's. Then the file holds nothing.
    pub fn start_over(&mut self, head: &Head, tables: &[Table], changes: &Changes) -> Result<()> {
        self.database = None;
        self.database = open_database(&self.file, &self.disk).ok();
        let mut kept: Changes = self.read(tables).unwrap_or_default().into_iter().collect();
        kept.overlay(changes);
        kept.retain(|table, _, value| tables.contains(&table) && value.is_some());
        let head = Some(head_bytes(head)?);
        let mut write = || -> Result<(), Error> {
            self.database = None;
            self.file.set_len(0)?;
            self.database = Some(open_database(&self.file, &self.disk)?);
            self.write(&[&of_version(VERSION)[..], &of_head(&head)].concat(), &kept)
        };
        let written = write();
        written.with_context(|| self.unwritable())
    }

    /// Opens the file and looks whether it can be used as it is, or after a migration.
    fn examine(&mut self, wanted: u32, steps: &[Step]) -> Result<(), Refused> {
        self.database = Some(open_database(&self.file, &self.disk)?);
        let Some(found) = self.meta(VERSION_KEY)? else {
            return Ok(self.write(&of_version(wanted), &Changes::default())?);
        };
        let found = String::from_utf8_lossy(&found).into_owned();
        if found != wanted.to_string() {
            let version = format!("it is of version {found}, and this Latch reads version {wanted}");
            let way = found.parse().ok().and_then(|found| migrate::way(steps, found, wanted));
            let Some(way) = way else { return Err(Refused::Content(version)) };
            let changes = migrate::changes(&way, self.read(&Table::ALL)?);
            let changes = changes.map_err(|error| Refused::Content(format!("{version}: {error:#}")))?;
            self.write(&of_version(wanted), &changes)?;
        }
        if let Some(head) = self.meta(HEAD_KEY)? {
            serde_json::from_slice::<Head>(&head).map_err(|error| Refused::Content(format!("its head: {error}")))?;
        }
        Ok(())
    }

    /// Moves the file aside and begins a new one.
    fn begin_another(&mut self, why: String, version: u32) -> Result<()> {
        self.database = None;
        let place = aside::place(&self.path, SystemTime::now());
        let mut begin = || -> Result<(), Error> {
            std::fs::rename(&self.path, &place)?;
            self.file = open_file(&self.path)?;
            self.database = Some(open_database(&self.file, &self.disk)?);
            self.write(&of_version(version), &Changes::default())
        };
        let begun = begin();
        begun.with_context(|| {
            format!("the journal {} cannot be read ({why}), and not be replaced", self.path.display())
        })?;
        // Too many of them are no reason not to start.
        let _ = aside::prune(&self.path);
        self.set_aside = Some(SetAside { path: place, why });
        Ok(())
    }

    fn reopen(&mut self, head: &Head, changes: &mut Changes) -> Result<Recovered> {
        self.database = None;
        let head = Some(head_bytes(head)?);
        let unusable = match open_database(&self.file, &self.disk) {
            Ok(database) => {
                self.database = Some(database);
                let written = self.forget_unknown(changes).and_then(|()| self.write(&of_head(&head), changes));
                match written {
                    Ok(()) if self.is_in_place() => return Ok(Recovered::Reopened),
                    Ok(()) => None,
                    Err(error) => Some(error),
                }
            }
            Err(error) => Some(error),
        };
        match unusable {
            Some(error) if is_disk_full(&error) => Err(error.into()),
            unusable => self.rewrite(&of_head(&head), changes, unusable),
        }
    }

    /// Writes a new file and puts it in the place of this one.
    fn rewrite(&mut self, head: &[Meta<'_>], changes: &Changes, unusable: Option<Error>) -> Result<Recovered> {
        self.database = None;
        self.database = open_database(&self.file, &self.disk).ok();
        let new = self.path.with_file_name(NEW);
        let written = self.copy_to(&new, head, changes);
        let (file, database, complete) = written.inspect_err(|_| drop(std::fs::remove_file(&new)))?;
        let why = unusable.map(|error| error.to_string()).unwrap_or_default();
        let aside = (!complete && self.is_in_place()).then(|| aside::place(&self.path, SystemTime::now()));
        if let Some(place) = &aside {
            std::fs::hard_link(&self.path, place).context("cannot keep the old file")?;
            let _ = aside::prune(&self.path);
        }
        std::fs::rename(&new, &self.path).context("cannot replace the old file")?;
        (self.file, self.database) = (file, Some(database));
        if complete {
            return Ok(Recovered::Rewritten);
        }
        Ok(Recovered::Incomplete(SetAside { path: aside.unwrap_or_default(), why }))
    }

    /// Writes what can be read of this file, with these changes, to another one. Tells whether all could be read.
    fn copy_to(&self, path: &Path, head: &[Meta<'_>], changes: &Changes) -> Result<(File, Database, bool), Error> {
        let _ = std::fs::remove_file(path);
        let file = open_file(path)?;
        let database = open_database(&file, &self.disk)?;
        let transaction = database.begin_write()?;
        let mut complete = true;
        for table in Table::ALL {
            let mut to = transaction.open_table(table.definition())?;
            let mut copied = Ok(());
            let read = self.each(table, &mut |key, value| {
                copied = to.insert(key, value).map(drop);
                copied.is_ok()
            });
            copied?;
            complete &= read.is_ok();
        }
        put(&transaction, &[&of_version(VERSION)[..], head].concat(), changes)?;
        transaction.commit()?;
        Ok((file, database, complete))
    }

    /// Takes the removals of what the file does not hold out of `changes`: after days without room they would be many.
    fn forget_unknown(&self, changes: &mut Changes) -> Result<(), Error> {
        let transaction = self.database()?.begin_read()?;
        for table in Table::ALL {
            let open = match transaction.open_table(table.definition()) {
                Ok(open) => Some(open),
                Err(TableError::TableDoesNotExist(_)) => None,
                Err(error) => return Err(error.into()),
            };
            let is_held = |key: &str| open.as_ref().is_some_and(|open| !matches!(open.get(key), Ok(None)));
            changes.retain(|of, key, value| of != table || value.is_some() || is_held(key));
        }
        Ok(())
    }

    /// Whether the path still leads to the open file.
    fn is_in_place(&self) -> bool {
        let identity = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
        let (named, open) = (std::fs::metadata(&self.path), self.file.metadata());
        named.is_ok_and(|named| open.is_ok_and(|open| identity(named) == identity(open)))
    }

    fn database(&self) -> Result<&Database, Error> {
        self.database.as_ref().ok_or(Error::PreviousIo)
    }

    /// All records of these tables.
    fn read(&self, tables: &[Table]) -> Result<Vec<Entry>, Error> {
        let mut entries = Vec::new();
        for table in tables {
            self.each(*table, &mut |key, value| {
                entries.push(Entry { table: *table, key: key.to_owned(), value: value.to_vec() });
                true
            })?;
        }
        Ok(entries)
    }

    /// Shows every record of a table, until `show` has had enough.
    fn each(&self, table: Table, show: &mut dyn FnMut(&str, &[u8]) -> bool) -> Result<(), Error> {
        let transaction = self.database()?.begin_read()?;
        let open = match transaction.open_table(table.definition()) {
            Ok(open) => open,
            Err(TableError::TableDoesNotExist(_)) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        for item in open.iter()? {
            let (key, value) = item?;
            if !show(key.value(), value.value()) {
                break;
            }
        }
        Ok(())
    }

    fn meta(&self, key: &str) -> Result<Option<Vec<u8>>, Error> {
        let transaction = self.database()?.begin_read()?;
        let table = match transaction.open_table(META) {
            Ok(table) => table,
            Err(TableError::TableDoesNotExist(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        Ok(table.get(key)?.map(|value| value.value().to_vec()))
    }

    pub(super) fn write(&self, meta: &[Meta<'_>], changes: &Changes) -> Result<(), Error> {
        let transaction = self.database()?.begin_write()?;
        put(&transaction, meta, changes)?;
        Ok(transaction.commit()?)
    }

    fn unreadable(&self) -> String {
        format!("the journal {} cannot be read; `latch run --fresh` starts without it", self.path.display())
    }

    fn unwritable(&self) -> String {
        format!("cannot write the journal {}", self.path.display())
    }
}

/// An entry of the table that says what the others are.
type Meta<'a> = (&'a str, Vec<u8>);

fn of_version(version: u32) -> [Meta<'static>; 1] {
    [(VERSION_KEY, version.to_string().into_bytes())]
}

fn of_head(bytes: &Option<Vec<u8>>) -> Vec<Meta<'static>> {
    bytes.iter().map(|bytes| (HEAD_KEY, bytes.clone())).collect()
}

fn head_bytes(head: &Head) -> Result<Vec<u8>> {
    serde_json::to_vec(head).context("the journal's head cannot be written")
}

fn put(transaction: &redb::WriteTransaction, meta: &[Meta<'_>], changes: &Changes) -> Result<(), Error> {
    for (key, value) in meta {
        transaction.open_table(META)?.insert(*key, value.as_slice())?;
    }
    for table in Table::ALL {
        let mut of_table = changes.iter().filter(|(of, ..)| *of == table).peekable();
        if of_table.peek().is_none() {
            continue;
        }
        let mut open = transaction.open_table(table.definition())?;
        for (_, key, value) in of_table {
            match value {
                Some(value) => drop(open.insert(key, value)?),
                None => drop(open.remove(key)?),
            }
        }
    }
    Ok(())
}

/// Locks the state directory; `None` where another process has. A process that is just ending, or a child of this one
/// that has not become another program yet, may hold it for a moment longer.
fn lock(directory: &Path) -> Result<Option<File>> {
    let file = File::open(directory);
    let file = file.with_context(|| format!("cannot open the state directory {}", directory.display()))?;
    let end = Instant::now() + LOCK_WAIT;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Some(file)),
            Err(TryLockError::WouldBlock) if Instant::now() < end => std::thread::sleep(LOCK_WAIT / 20),
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock the state directory {}", directory.display()));
            }
        }
    }
}

/// Who calls whom is confidential.
fn open_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Opens the file as a database, made where it is empty. Its checksums are compared: what was changed by anything but
/// this module, a power cut for one, is an error and not read.
fn open_database(file: &File, disk: &Arc<dyn Disk>) -> Result<Database, Error> {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE).set_check_integrity_on_open(true);
    Ok(builder.create_with_backend(Unsynced::new(file.try_clone()?, Arc::clone(disk)))?)
}

/// Whether there is no room, or no permission to write any more: nothing that is wrong with the file.
fn is_disk_full(error: &Error) -> bool {
    use ErrorKind::{FileTooLarge, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(error, Error::Io(io) if matches!(io.kind(), StorageFull | QuotaExceeded | FileTooLarge | ReadOnlyFilesystem))
}
