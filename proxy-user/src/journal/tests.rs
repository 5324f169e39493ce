use super::{backend::Disk, migrate::Step, *};
use serde_json::json;
use std::{path::PathBuf, sync::Arc, time::Duration};

pub(crate) mod full_disk;

const FILE: &str = "journal.redb";

/// A directory of its own, gone afterwards.
pub(crate) struct Directory(pub(crate) PathBuf);

impl Directory {
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("latch-journal-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn put(table: Table, key: &str, value: &[u8]) -> Change {
    Change { table, key: key.into(), value: Some(value.into()) }
}

fn entry(table: Table, key: &str, value: &[u8]) -> Entry {
    Entry { table, key: key.into(), value: value.into() }
}

fn commit(journal: &Journal, head: Option<&Head>, changes: &[Change]) {
    journal.commit(head, &changes.iter().cloned().collect()).unwrap();
}

/// What was set aside, oldest first.
fn broken(directory: &Directory) -> Vec<PathBuf> {
    let all = std::fs::read_dir(&directory.0).unwrap().map(|entry| entry.unwrap().path());
    let mut all: Vec<_> = all.filter(|path| path.to_string_lossy().contains("journal.redb.broken-")).collect();
    all.sort();
    all
}

pub(crate) fn head() -> Head {
    Head {
        boot: "a".into(),
        clock: (5_000_000_000, 1_790_000_000_000),
        signalling: vec!["access 203.0.113.10:5060".into()],
        datapath: vec!["access".into()],
        whole: true,
        generic: false,
    }
}

#[test]
fn what_was_committed_is_found_again() {
    let directory = Directory::new("round-trip");
    let journal = Journal::open(&directory.0).unwrap();
    assert_eq!((journal.head().unwrap(), journal.entries().unwrap()), (None, Vec::new()));
    commit(&journal, Some(&head()), &[put(Table::Registrations, "t", b"1"), put(Table::Dialogs, "7", b"2")]);
    commit(&journal, None, &[put(Table::Streams, "1", b"3"), put(Table::Dialogs, "7", b"4")]);
    commit(&journal, None, &[Change { table: Table::Registrations, key: "t".into(), value: None }]);
    drop(journal);
    let journal = Journal::open(&directory.0).unwrap();
    assert_eq!(journal.head().unwrap(), Some(head()));
    let all = [entry(Table::Dialogs, "7", b"4"), entry(Table::Streams, "1", b"3")];
    assert_eq!(journal.entries().unwrap(), all);
    journal.clear(&[Table::Dialogs]).unwrap();
    assert_eq!(journal.entries().unwrap(), all[1..]);
}

/// What a process that is killed leaves is what it had written, without closing anything: a copy of the file at that
/// moment.
#[test]
fn every_commit_outlives_the_process() {
    let (directory, copy) = (Directory::new("killed"), Directory::new("killed-copy"));
    let journal = Journal::open(&directory.0).unwrap();
    std::fs::create_dir_all(&copy.0).unwrap();
    for n in 0..200u32 {
        let value = vec![b'x'; 1 + (n as usize * 97) % 5_000];
        commit(&journal, None, &[put(Table::Dialogs, &(n % 50).to_string(), &value)]);
        if n % 20 == 19 {
            std::fs::copy(directory.0.join(FILE), copy.0.join(FILE)).unwrap();
            let found = Journal::open(&copy.0).unwrap().entries().unwrap();
            assert_eq!(found, journal.entries().unwrap(), "after {n}");
        }
    }
}

#[test]
fn what_is_no_journal_is_set_aside_and_named() {
    let directory = Directory::new("garbage");
    std::fs::create_dir_all(&directory.0).unwrap();
    std::fs::write(directory.0.join(FILE), vec![0x5a; 64 << 10]).unwrap();
    std::fs::write(directory.0.join("journal.redb.new"), b"half of one").unwrap();
    let journal = Journal::open(&directory.0).unwrap();
    assert_eq!((journal.head().unwrap(), journal.entries().unwrap()), (None, Vec::new()));
    let aside = journal.set_aside().unwrap();
    assert_eq!(std::fs::read(&aside.path).unwrap(), vec![0x5a; 64 << 10]);
    let name = aside.path.file_name().unwrap().to_str().unwrap();
    let time = name.strip_prefix("journal.redb.broken-").unwrap();
    assert!(time.len() == "20260131T235959.999Z".len() && time.starts_with("20") && time.ends_with('Z'), "{name}");
    assert!(!directory.0.join("journal.redb.new").exists());
    commit(&journal, Some(&head()), &[put(Table::Dialogs, "1", b"1")]);
    drop(journal);
    let journal = Journal::open(&directory.0).unwrap();
    assert_eq!((journal.set_aside(), journal.entries().unwrap().len()), (None, 1));
    drop(journal);
    assert!(Journal::remove(&directory.0).unwrap() && !Journal::remove(&directory.0).unwrap());
}

#[test]
fn only_the_last_few_are_kept() {
    let directory = Directory::new("few");
    for n in 0..6u8 {
        drop(Journal::open(&directory.0).unwrap());
        std::fs::write(directory.0.join(FILE), [n; 8_192]).unwrap();
    }
    assert!(Journal::open(&directory.0).unwrap().set_aside().is_some());
    let kept: Vec<u8> = broken(&directory).iter().map(|path| std::fs::read(path).unwrap()[0]).collect();
    assert_eq!(kept, [3, 4, 5]);
}

/// Whatever a power cut or a bad disk does to the file: the start continues, with what was there after the last commit
/// or the one before, or with nothing.
#[test]
fn no_damage_to_the_file_stops_a_start_or_is_believed() {
    let (directory, copy) = (Directory::new("damage"), Directory::new("damage-copy"));
    std::fs::create_dir_all(&copy.0).unwrap();
    let journal = Journal::open(&directory.0).unwrap();
    for n in 0..60u32 {
        commit(&journal, Some(&head()), &[put(Table::Dialogs, &n.to_string(), &vec![b'x'; 40 * n as usize])]);
    }
    let (open, entries) = (std::fs::read(directory.0.join(FILE)).unwrap(), journal.entries().unwrap());
    let before: Vec<_> = entries.iter().filter(|entry| entry.key != "59").cloned().collect();
    drop(journal);
    let closed = std::fs::read(directory.0.join(FILE)).unwrap();
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % below as u64) as usize
    };
    let mut set_aside = 0;
    for round in 0..240 {
        let mut bytes = if round % 2 == 0 { open.clone() } else { closed.clone() };
        // The beginning says what the rest is: a third of the damage goes there.
        let from = if round % 3 == 0 { next(512) } else { next(bytes.len()) };
        let to = (from + 1 + next(if round % 5 == 0 { 65_536 } else { 64 })).min(bytes.len());
        match round % 4 {
            0 => bytes[from..to].fill(0),
            1 => bytes[from..to].iter_mut().for_each(|byte| *byte ^= 0x41),
            2 => bytes[from..to].iter_mut().for_each(|byte| *byte = byte.wrapping_add(1)),
            _ => bytes.truncate(from),
        }
        std::fs::write(copy.0.join(FILE), &bytes).unwrap();
        let journal = Journal::open(&copy.0).unwrap();
        let found = journal.entries().unwrap();
        let (whole, one_less) = (found == entries, found == before);
        match journal.set_aside() {
            Some(_) => set_aside += 1,
            None if bytes.is_empty() => {}
            None => assert!(
                journal.head().unwrap() == Some(head()) && (whole || one_less),
                "round {round}: {} of {} entries",
                found.len(),
                entries.len()
            ),
        }
        commit(&journal, Some(&head()), &[put(Table::Dialogs, "next", b"1")]);
    }
    assert!((40..240).contains(&set_aside), "{set_aside}: some damage has to show, and some to be harmless");
}

#[test]
fn another_version_is_set_aside_and_not_read() {
    let directory = Directory::new("version");
    let disk = || Arc::new(backend::PageCache) as Arc<dyn Disk>;
    let later = Journal::open_on(&directory.0, disk(), VERSION + 8, &[]).unwrap();
    commit(&later, Some(&head()), &[put(Table::Dialogs, "1", b"of another form")]);
    drop(later);
    let journal = Journal::open(&directory.0).unwrap();
    let (aside, entries) = (journal.set_aside().unwrap(), journal.entries().unwrap());
    let expected = format!("version {}, and this Latch reads version {VERSION}", VERSION + 8);
    assert!(aside.why.contains(&expected) && entries.is_empty(), "{aside:?}");
    drop(journal);
    assert_eq!(Journal::open(&directory.0).unwrap().set_aside(), None, "the new one is of this version");
}

#[test]
fn records_of_an_older_version_are_migrated_step_by_step() {
    fn renamed(entry: Entry) -> Entry {
        Entry { key: format!("r{}", entry.key), ..entry }
    }
    fn mark(entry: Entry, mark: &[u8]) -> Option<Entry> {
        Some(Entry { value: [&entry.value, mark].concat(), ..entry })
    }
    let to_2 = Step { from: 1, record: |entry| Ok(if entry.key == "old" { None } else { mark(entry, b"2") }) };
    let to_3 = Step { from: 2, record: |entry| Ok(mark(entry, b"3").map(renamed)) };
    let steps = [to_3, to_2];
    let directory = Directory::new("migrate");
    let disk = || Arc::new(backend::PageCache) as Arc<dyn Disk>;
    let first = Journal::open_on(&directory.0, disk(), 1, &[]).unwrap();
    let records = [put(Table::Dialogs, "7", b"1"), put(Table::Dialogs, "old", b"1"), put(Table::Streams, "9", b"1")];
    commit(&first, Some(&head()), &records);
    drop(first);
    let third = Journal::open_on(&directory.0, disk(), 3, &steps).unwrap();
    assert_eq!((third.set_aside(), third.head().unwrap()), (None, Some(head())));
    let expected = [entry(Table::Dialogs, "r7", b"123"), entry(Table::Streams, "r9", b"123")];
    assert_eq!(third.entries().unwrap(), expected);
    drop(third);
    assert_eq!(Journal::open_on(&directory.0, disk(), 3, &steps).unwrap().entries().unwrap(), expected, "once");
    // One step is missing, or fails: nothing is half migrated.
    let fourth = Journal::open_on(&directory.0, disk(), 5, &steps).unwrap();
    assert!(fourth.set_aside().is_some() && fourth.entries().unwrap().is_empty());
    commit(&fourth, None, &[put(Table::Dialogs, "7", b"1")]);
    drop(fourth);
    let fails = [Step { from: 5, record: |_| anyhow::bail!("no such thing") }];
    let sixth = Journal::open_on(&directory.0, disk(), 6, &fails).unwrap();
    let why = &sixth.set_aside().unwrap().why;
    assert!(why.contains("version 5") && why.contains("Dialogs 7") && why.contains("no such thing"), "{why}");
}

#[test]
fn two_processes_do_not_share_one() {
    let directory = Directory::new("lock");
    let _journal = Journal::open(&directory.0).unwrap();
    let error = Journal::open(&directory.0).err().unwrap().to_string();
    assert!(error.contains("another Latch"), "{error}");
    assert!(Journal::remove(&directory.0).is_err() && Journal::in_use(&directory.0).unwrap());
}

#[test]
fn after_a_start_of_the_host_the_time_of_day_bridges_the_gap() {
    let now = Instant::now();
    let here = Clock::new(now, 77);
    let wall = UNIX_EPOCH + Duration::from_millis(1_790_000_000_000 + 90_000);
    assert_eq!(head().clock("a", here, now, wall).ns(now), 77);
    // What was to end a minute after the head was written ended half a minute ago.
    let ended = head().clock("b", here, now, wall).instant(65_000_000_000);
    assert_eq!(now - ended, Duration::from_secs(30));
}
