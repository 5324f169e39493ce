//! What happens to the journal where the disk refuses, or the file is changed behind its back.

use super::*;
use crate::journal::backend::PageCache;
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};
use std::{
    fs::File,
    io,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

/// What a disk refuses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Refuses {
    #[default]
    Nothing,
    /// A longer file: as where the room of each file is taken when it grows.
    Growth,
    /// Every byte.
    Writes,
}

/// A disk that can be made full, and counts what is asked of it.
#[derive(Debug, Default)]
pub(crate) struct TestDisk {
    refuses: Mutex<Refuses>,
    asked: AtomicUsize,
}

impl TestDisk {
    pub(crate) fn refuse(&self, refuses: Refuses) {
        *self.refuses.lock().unwrap() = refuses;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    fn admit(&self, refused: impl Fn(Refuses) -> bool) -> io::Result<()> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if refused(*self.refuses.lock().unwrap()) { Err(nix::errno::Errno::ENOSPC.into()) } else { Ok(()) }
    }
}

impl Disk for TestDisk {
    fn set_len(&self, file: &File, len: u64) -> io::Result<()> {
        let grows = file.metadata()?.len() < len;
        self.admit(|refuses| grows && refuses != Refuses::Nothing)?;
        PageCache.set_len(file, len)
    }

    fn write(&self, file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.admit(|refuses| refuses == Refuses::Writes)?;
        PageCache.write(file, offset, bytes)
    }
}

/// A journal on a disk of its own.
pub(crate) fn on_disk(directory: &Directory) -> (Journal, Arc<TestDisk>) {
    let disk = Arc::new(TestDisk::default());
    let journal = Journal::open_on(&directory.0, Arc::clone(&disk) as Arc<dyn Disk>, VERSION, &[]).unwrap();
    (journal, disk)
}

fn keeper(directory: &Directory) -> (Keeper, Arc<TestDisk>) {
    let (journal, disk) = on_disk(directory);
    (Keeper::new(journal, Clock::now(), head()), disk)
}

fn gone(table: Table, key: &str) -> Change {
    Change { table, key: key.into(), value: None }
}

fn dialogs(keys: std::ops::Range<u32>, size: usize) -> Vec<Change> {
    keys.map(|key| put(Table::Dialogs, &key.to_string(), &vec![b'x'; size])).collect()
}

/// The keys of a table, as the next process finds them.
fn found(directory: &Directory, table: Table) -> Vec<String> {
    let journal = Journal::open(&directory.0).unwrap();
    assert_eq!(journal.set_aside(), None);
    assert_eq!(journal.head().unwrap(), Some(head()));
    let mut keys: Vec<_> =
        journal.entries().unwrap().into_iter().filter(|entry| entry.table == table).map(|entry| entry.key).collect();
    keys.sort_by_key(|key| key.parse::<u32>().unwrap_or_default());
    keys
}

fn keys(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|key| key.to_string()).collect()
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn once_there_is_room_again_no_ended_call_is_known_and_every_new_one_is() {
    for refuses in [Refuses::Growth, Refuses::Writes] {
        let directory = Directory::new(&format!("full-{refuses:?}"));
        let (mut keeper, disk) = keeper(&directory);
        let now = Instant::now();
        keeper.note(dialogs(0..40, 2_000));
        keeper.commit(now).unwrap();
        disk.refuse(refuses);
        // More than the room that the file has.
        keeper.note(dialogs(40..60, 200_000));
        let error = format!("{:#}", keeper.commit(now).unwrap_err());
        assert!(error.contains("No space left on device"), "{refuses:?}: {error}");
        keeper.note((0..30).map(|key| gone(Table::Dialogs, &key.to_string())).collect());
        keeper.note((45..60).map(|key| gone(Table::Dialogs, &key.to_string())).collect());
        keeper.commit(now + SECOND / 2).unwrap();
        keeper.commit(now + SECOND).unwrap_err();
        disk.refuse(Refuses::Nothing);
        assert_eq!(keeper.status(now + 3 * SECOND)["written"], false, "not yet tried");
        keeper.commit(now + 3 * SECOND).unwrap();
        assert_eq!((keeper.retry_at(), &keeper.status(now)["written"]), (None, &json!(true)));
        // And it continues as before.
        keeper.note(vec![put(Table::Dialogs, "60", b"new")]);
        keeper.commit(now + 3 * SECOND).unwrap();
        drop(keeper);
        assert_eq!(found(&directory, Table::Dialogs), [keys(30..45), keys(60..61)].concat(), "{refuses:?}");
    }
}

#[test]
fn a_full_disk_is_tried_ever_more_rarely_and_not_at_each_turn() {
    let directory = Directory::new("back-off");
    let (mut keeper, disk) = keeper(&directory);
    let begun = Instant::now();
    disk.refuse(Refuses::Writes);
    let (mut tries, mut asked) = (Vec::new(), disk.asked());
    for tenth in 0..1_500u32 {
        keeper.note(dialogs(0..1, 100 + tenth as usize));
        let now = begun + SECOND / 10 * tenth;
        let failed = keeper.commit(now).is_err();
        assert_eq!(failed, disk.asked() != asked, "at {tenth}: the disk hears of tries only");
        if failed {
            tries.push(tenth / 10);
            asked = disk.asked();
        }
    }
    assert_eq!(tries, [0, 1, 3, 7, 15, 31, 61, 91, 121]);
    let status = keeper.status(begun + 150 * SECOND);
    assert_eq!((&status["errors"], &status["failing_s"], &status["pending"]), (&json!(9), &json!(150), &json!(1)));
    assert!(status["error"].as_str().unwrap().contains("No space left on device"), "{status}");
}

#[test]
fn what_is_pending_is_bounded_by_the_records_there_are() {
    let directory = Directory::new("bounded");
    let (mut keeper, disk) = keeper(&directory);
    let mut now = Instant::now();
    keeper.note(dialogs(0..10, 10));
    keeper.commit(now).unwrap();
    disk.refuse(Refuses::Growth);
    // Always ten calls at once, of which each turn ends the oldest; the last of them is too large for the file.
    keeper.note(vec![put(Table::Dialogs, "large", &vec![0; 4 << 20])]);
    keeper.commit(now).unwrap_err();
    for call in 10..10_000 {
        keeper.note(dialogs(call..call + 1, 10));
        keeper.note(vec![gone(Table::Dialogs, &(call - 10).to_string())]);
    }
    now += SECOND;
    keeper.commit(now).unwrap_err();
    assert_eq!(keeper.status(now)["pending"], 1 + 10 + 10, "large, the live ones, and removals of those in the file");
    disk.refuse(Refuses::Nothing);
    keeper.note(vec![gone(Table::Dialogs, "large")]);
    keeper.commit(now + 2 * SECOND).unwrap();
    drop(keeper);
    assert_eq!(found(&directory, Table::Dialogs), keys(9_990..10_000));
}

#[test]
fn a_file_that_is_removed_while_it_is_used_comes_back_whole() {
    let directory = Directory::new("removed");
    let (mut keeper, disk) = keeper(&directory);
    let now = Instant::now();
    keeper.note(dialogs(0..20, 100));
    keeper.commit(now).unwrap();
    disk.refuse(Refuses::Writes);
    keeper.note(vec![gone(Table::Dialogs, "0")]);
    keeper.commit(now).unwrap_err();
    // So an operator makes room.
    std::fs::remove_file(directory.0.join(FILE)).unwrap();
    disk.refuse(Refuses::Nothing);
    keeper.commit(now + SECOND).unwrap();
    keeper.note(vec![gone(Table::Dialogs, "1")]);
    keeper.commit(now + SECOND).unwrap();
    drop(keeper);
    assert_eq!(found(&directory, Table::Dialogs), keys(2..20));
}

#[test]
fn a_file_that_breaks_while_it_is_used_is_replaced_and_kept() {
    let directory = Directory::new("breaks");
    let (mut keeper, disk) = keeper(&directory);
    let now = Instant::now();
    keeper.note(dialogs(0..20, 100));
    keeper.commit(now).unwrap();
    disk.refuse(Refuses::Writes);
    keeper.note(dialogs(20..30, 100));
    keeper.commit(now).unwrap_err();
    std::fs::write(directory.0.join(FILE), vec![0x5a; 1 << 20]).unwrap();
    disk.refuse(Refuses::Nothing);
    keeper.commit(now + SECOND).unwrap();
    drop(keeper);
    assert_eq!(found(&directory, Table::Dialogs), keys(20..30));
    let old = broken(&directory);
    assert_eq!(old.len(), 1);
    assert_eq!(std::fs::read(&old[0]).unwrap(), vec![0x5a; 1 << 20]);
    assert!(!directory.0.join("journal.redb.new").exists());
}

#[test]
fn an_orderly_end_on_a_full_disk_leaves_registrations_and_no_call() {
    let directory = Directory::new("end");
    let (mut keeper, disk) = keeper(&directory);
    let now = Instant::now();
    keeper.note(dialogs(0..20, 2_000));
    keeper.note(vec![put(Table::Registrations, "1", b"old"), put(Table::Registrations, "2", b"old")]);
    keeper.note(vec![put(Table::Streams, "7", b"stream")]);
    keeper.commit(now).unwrap();
    disk.refuse(Refuses::Writes);
    keeper.note((0..20).map(|key| gone(Table::Dialogs, &key.to_string())).collect());
    keeper.note(vec![gone(Table::Registrations, "1"), put(Table::Registrations, "3", b"new")]);
    keeper.commit(now).unwrap_err();
    // Not even what is freed can be written to: then nothing is left, and least of all a call.
    let error = format!("{:#}", keeper.finish(now).unwrap_err());
    assert!(error.contains("registrations are forgotten") && error.contains("No space"), "{error}");
    drop(keeper);
    assert_eq!(Journal::open(&directory.0).unwrap().entries().unwrap(), []);

    let directory = Directory::new("end-growth");
    let (mut keeper, disk) = self::keeper(&directory);
    keeper.note(dialogs(0..20, 2_000));
    keeper.note(vec![put(Table::Registrations, "1", b"old"), put(Table::Registrations, "2", b"old")]);
    keeper.commit(now).unwrap();
    disk.refuse(Refuses::Growth);
    keeper.note(vec![put(Table::Dialogs, "large", &vec![0; 4 << 20])]);
    keeper.commit(now).unwrap_err();
    keeper.note((0..20).map(|key| gone(Table::Dialogs, &key.to_string())).collect());
    keeper.note(vec![gone(Table::Dialogs, "large"), gone(Table::Registrations, "1")]);
    keeper.finish(now).unwrap();
    drop(keeper);
    let journal = Journal::open(&directory.0).unwrap();
    assert_eq!(journal.entries().unwrap(), [entry(Table::Registrations, "2", b"old")]);
    assert!(!journal.head().unwrap().unwrap().whole);
}

/// On a real file system of 4 MiB, which fills up and is emptied again.
#[test]
fn a_small_file_system_fills_up_and_is_emptied() {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            if unshare(CloneFlags::CLONE_NEWNS).is_err() {
                assert!(std::env::var_os("LATCH_LAB_REQUIRED").is_none(), "a mount namespace needs root");
                eprintln!("SKIPPED: a mount namespace needs root");
                return;
            }
            let directory = Directory::new("tmpfs");
            std::fs::create_dir_all(&directory.0).unwrap();
            let none: Option<&str> = None;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
            mount(Some("tmpfs"), &directory.0, Some("tmpfs"), MsFlags::empty(), Some("size=4m")).unwrap();
            fill_and_empty(&directory);
            umount2(&directory.0, MntFlags::MNT_DETACH).unwrap();
        });
    });
}

fn fill_and_empty(directory: &Directory) {
    let mut keeper = Keeper::new(Journal::open(&directory.0).unwrap(), Clock::now(), head());
    let mut now = Instant::now();
    keeper.note(dialogs(0..100, 2_000));
    keeper.commit(now).unwrap();
    // Something else on the disk takes all that is left.
    let hog = directory.0.join("hog");
    let mut file = File::create(&hog).unwrap();
    while io::Write::write_all(&mut file, &[1; 4_096]).is_ok() {}
    let mut next = 100;
    while keeper.commit(now).is_ok() {
        keeper.note(dialogs(next..next + 20, 2_000));
        next += 20;
        assert!(next < 10_000, "the disk is full");
    }
    keeper.note((0..next - 5).map(|key| gone(Table::Dialogs, &key.to_string())).collect());
    for _ in 0..3 {
        now = keeper.retry_at().unwrap();
        if keeper.commit(now).is_ok() {
            break;
        }
    }
    std::fs::remove_file(&hog).unwrap();
    if let Some(at) = keeper.retry_at() {
        keeper.commit(at).unwrap();
    }
    drop(keeper);
    assert_eq!(found(directory, Table::Dialogs), keys(next - 5..next));
}
