use super::*;
use std::time::Duration;

/// A directory of its own, gone afterwards.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
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

fn head() -> Head {
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
    journal.commit(Some(&head()), &[put(Table::Registrations, "t", b"1"), put(Table::Dialogs, "7", b"2")]).unwrap();
    journal.commit(None, &[put(Table::Streams, "1", b"3"), put(Table::Dialogs, "7", b"4")]).unwrap();
    journal.commit(None, &[Change { table: Table::Registrations, key: "t".into(), value: None }]).unwrap();
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
        journal.commit(None, &[put(Table::Dialogs, &(n % 50).to_string(), &value)]).unwrap();
        if n % 20 == 19 {
            std::fs::copy(directory.0.join(FILE), copy.0.join(FILE)).unwrap();
            let found = Journal::open(&copy.0).unwrap().entries().unwrap();
            assert_eq!(found, journal.entries().unwrap(), "after {n}");
        }
    }
}

#[test]
fn another_version_or_no_journal_at_all_is_refused_with_a_remedy() {
    let directory = Directory::new("version");
    let journal = Journal::open(&directory.0).unwrap();
    journal.set_meta(VERSION_KEY, b"999").unwrap();
    drop(journal);
    let error = format!("{:#}", Journal::open(&directory.0).err().unwrap());
    assert!(error.contains("version 999") && error.contains("--fresh"), "{error}");
    std::fs::write(directory.0.join(FILE), vec![0x5a; 64 << 10]).unwrap();
    let error = format!("{:#}", Journal::open(&directory.0).err().unwrap());
    assert!(error.contains("cannot be read") && error.contains("--fresh"), "{error}");
    assert!(Journal::remove(&directory.0).unwrap() && !Journal::remove(&directory.0).unwrap());
    Journal::open(&directory.0).unwrap();
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
