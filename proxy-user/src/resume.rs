//! How a process continues where an earlier one ended: journal, pins, and whether both belong to this configuration.

use crate::cli::{Down, State};
use anyhow::{Result, bail};
use proxy_user::{
    accounting::RecordId,
    clock::Clock,
    config::{self, Config, Overrides, Relay, Side},
    datapath::{
        MediaRelay, Mode,
        kernel::{Pins, StartMode},
    },
    engine::{EarlierStreams, Restored},
    journal::{Changes, Entry, Head, Journal, Keeper, SetAside, Table, boot_id, wall_ms},
    proxy::Proxy,
};
use std::{
    collections::HashSet,
    time::{Instant, SystemTime},
};

/// What an earlier process left, and how to continue from there.
pub(crate) struct PreviousRun {
    journal: Journal,
    pins: Pins,
    pinned: Option<Mode>,
    /// The clock by which to read the journal's records.
    clock: Clock,
    entries: Vec<Entry>,
    head: Head,
}

impl PreviousRun {
    /// Looks for it, and removes what is useless.
    pub(crate) fn find(config: &Config, fresh: bool) -> Result<Self> {
        let pins = Pins::new(&config.state.pins);
        if fresh {
            let known = Journal::remove(&config.state.directory)?;
            let removed = pins.remove()?;
            if known || !removed.is_empty() {
                eprintln!("fresh start: forgot the journal, removed {}", listed(&removed));
            }
        }
        let journal = Journal::open(&config.state.directory)?;
        let (now, wall, here) = (Instant::now(), SystemTime::now(), Clock::now());
        let boot = boot_id()?;
        let head = Head {
            boot: boot.clone(),
            clock: (here.ns(now), wall_ms(wall)),
            signalling: config.realms.iter().map(signalling).collect(),
            datapath: MediaRelay::made_for(config)?,
            whole: false,
            generic: false,
        };
        if let Some(unusable) = journal.set_aside() {
            go_on_without(unusable, &journal, &head, &pins)?;
        }
        pins.refuse_other_layouts()?;
        if config.media.relay == Relay::UserSpace && pins.exist() {
            bail!(
                "{} holds the relay of an earlier process, in the kernel, which the relay in user space cannot go on from: start \
                 without relay = \"user\"; or `latch run --fresh` starts over and ends the calls; `latch down` only removes \
                 what is there",
                pins.directory().display()
            );
        }
        let before = journal.head()?;
        let pinned = match &before {
            _ if !pins.exist() => None,
            Some(before) if before.boot == boot && before.whole => {
                pins.refuse(&differences(&before.datapath, &head.datapath))?;
                Some(if before.generic { Mode::Generic } else { Mode::Native })
            }
            Some(before) if before.boot == boot => {
                tracing::warn!("an earlier start or end was interrupted: removed {}", listed(&pins.remove()?));
                None
            }
            _ => bail!(
                "{} holds maps of which the journal {} knows nothing: name the right --state, or start without them: \
                 `latch run --fresh` starts over; `latch down` only removes what is there",
                pins.directory().display(),
                journal.path().display()
            ),
        };
        let clock = before.as_ref().map_or(here, |before| before.clock(&boot, here, now, wall));
        let mut entries = journal.entries()?;
        if let Some(before) = before {
            let stale = stale(&before, &head, pinned.is_some());
            journal.clear(&stale)?;
            entries.retain(|entry| !stale.contains(&entry.table));
            if pinned.is_none() {
                journal.commit(Some(&Head { whole: false, ..before }), &Changes::default())?;
            }
        } else {
            journal.commit(Some(&head), &Changes::default())?;
        }
        Ok(Self { journal, pins, pinned, clock, entries, head })
    }

    /// How the datapath must start.
    pub(crate) fn start_mode(&self) -> StartMode {
        match self.pinned {
            Some(mode) => StartMode::Resume(self.pins.clone(), mode),
            None => StartMode::Begin(self.pins.clone()),
        }
    }

    /// A new engine and the datapath take over what there was; from then on the journal is kept for them.
    pub(crate) fn resume(
        mut self,
        new: &dyn Fn() -> Result<Proxy>,
        datapath: &mut MediaRelay,
        recorded: &HashSet<RecordId>,
        now: Instant,
    ) -> Result<(Proxy, Keeper, Pins)> {
        let restored = self.restore(new, recorded, now);
        if restored.is_err() && self.pinned.is_none() {
            // Nothing continues from what was only just created.
            self.pins.remove()?;
        }
        let (engine, restored) = restored?;
        let closed = match self.pinned {
            Some(_) => datapath.restore(&restored.streams, &restored.leaving, &self.entries, now)?,
            None => 0,
        };
        tell(&restored, self.pinned.is_some(), closed);
        let head = Head { whole: true, generic: datapath.mode() == Mode::Generic, ..self.head };
        Ok((engine, Keeper::new(self.journal, Clock::now(), head), self.pins))
    }

    /// An engine with all that the journal holds; where that is impossible, with the registrations; or else with
    /// nothing.
    fn restore(
        &mut self,
        new: &dyn Fn() -> Result<Proxy>,
        recorded: &HashSet<RecordId>,
        now: Instant,
    ) -> Result<(Proxy, Restored)> {
        let media = if self.pinned.is_some() { EarlierStreams::Kept } else { EarlierStreams::Lost };
        let calls = [Table::Calls, Table::Dialogs, Table::Streams];
        let all = [Table::Registrations, Table::Calls, Table::Dialogs, Table::Streams];
        for (given_up, what) in [(&calls[..], "calls"), (&all[..], "calls and registrations")] {
            let mut engine = new()?;
            match engine.restore(&self.entries, self.clock, media, recorded, now) {
                Ok(restored) => return Ok((engine, restored)),
                Err(error) => {
                    let copy = match self.journal.copy_aside() {
                        Ok(path) => format!("a copy of the journal is kept as {}", path.display()),
                        Err(error) => format!("no copy of the journal is kept: {error:#}"),
                    };
                    tracing::error!(
                        "{error}. This start gives up the {what} of the journal: media that went on stops, without a record, \
                         and nobody is told; {copy}"
                    );
                }
            }
            self.journal.clear(given_up)?;
            self.entries.retain(|entry| !given_up.contains(&entry.table));
        }
        Ok((new()?, Restored::default()))
    }
}

/// Starts over after a journal that cannot be used. What it named is unknown: legs that are still in the kernel would
/// relay for calls that nobody ends, on ports that the next call may get; so they are removed.
fn go_on_without(unusable: &SetAside, journal: &Journal, head: &Head, pins: &Pins) -> Result<()> {
    tracing::error!(
        "the journal {} cannot be used: {}. It is kept as {}, and Latch starts with an empty one: phones have to register \
         again",
        journal.path().display(),
        unusable.why,
        unusable.path.display()
    );
    // If this process is killed before the pins are gone, the next start knows whose they are.
    journal.commit(Some(head), &Changes::default())?;
    let removed = pins.remove()?;
    if !removed.is_empty() {
        tracing::error!(
            "running calls end now: only the journal knew whose they are. Their media stops, their parties are not \
             notified, and they have no record. Removed {}",
            listed(&removed)
        );
    }
    Ok(())
}

/// The end: nothing stays in the kernel, and the journal says so.
pub(crate) fn end(mut keeper: Keeper, pins: &Pins, datapath: MediaRelay) -> Result<()> {
    let written = keeper.finish(Instant::now());
    pins.remove()?;
    drop(datapath);
    written
}

/// `latch down`.
pub(crate) fn down(options: &Down) -> Result<()> {
    let state = state_of(&options.config, &options.state)?;
    if Journal::in_use(&state.directory)? {
        bail!("Latch is running with the state in {}: stop it first", state.directory.display());
    }
    let removed = Pins::new(&state.pins).remove()?;
    if removed.is_empty() {
        println!("there was nothing of Latch in {}", state.pins.display());
    } else {
        println!("removed from {}: {}", state.pins.display(), listed(&removed));
        println!("running calls have lost their media; the next start ends them");
    }
    Ok(())
}

/// The file's, if it is needed; where there is no file, the defaults.
fn state_of(file: &std::path::Path, given: &State) -> Result<config::State> {
    let mut state = if given.is_whole() || !file.exists() {
        config::State::default()
    } else {
        Config::load(file, Overrides::default())?.state
    };
    given.override_in(&mut state);
    Ok(state)
}

fn signalling(realm: &config::Realm) -> String {
    let side = match realm.side {
        Side::Access => "access",
        Side::Core => "core",
    };
    format!("{side} {}", realm.signalling)
}

fn side(line: &str) -> &str {
    line.split(' ').next().unwrap_or_default()
}

fn differences(before: &[String], now: &[String]) -> Vec<String> {
    let longest = before.len().max(now.len());
    (0..longest)
        .filter(|index| before.get(*index) != now.get(*index))
        .map(|index| {
            let of = |lines: &[String]| lines.get(index).cloned().unwrap_or_else(|| "nothing".into());
            format!("realm[{index}] was {}, and is now {}", of(before), of(now))
        })
        .collect()
}

/// Which records mean nothing any more.
fn stale(before: &Head, now: &Head, is_resumed: bool) -> Vec<Table> {
    let mut stale = Vec::new();
    if !is_resumed {
        stale.push(Table::Streams);
    }
    if before.signalling != now.signalling {
        tracing::warn!("the signalling addresses have changed: registrations are forgotten");
        stale.push(Table::Registrations);
    }
    if !before.signalling.iter().map(|line| side(line)).eq(now.signalling.iter().map(|line| side(line))) {
        tracing::error!("the realms have changed: running calls have no record");
        stale.extend([Table::Calls, Table::Dialogs]);
    }
    stale
}

fn tell(restored: &Restored, resumed: bool, closed: usize) {
    if resumed {
        eprintln!(
            "resumed: {} calls and {} registrations go on, {} calls that were being set up or hung up end, {closed} legs closed",
            restored.calls, restored.registrations, restored.ended
        );
    } else if restored.ended + restored.registrations > 0 {
        eprintln!(
            "found: {} registrations go on, {} calls end, because their media is gone from the kernel",
            restored.registrations, restored.ended
        );
    }
}

fn listed(names: &[String]) -> String {
    if names.is_empty() { "nothing".into() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        cell::Cell,
        path::{Path, PathBuf},
        sync::Arc,
    };

    fn head(signalling: [&str; 2]) -> Head {
        Head {
            boot: String::new(),
            clock: (0, 0),
            signalling: signalling.map(str::to_owned).into(),
            datapath: Vec::new(),
            whole: true,
            generic: false,
        }
    }

    /// A directory of its own, gone afterwards.
    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("latch-resume-{}-{name}", std::process::id()));
            let _ = std::fs::remove_dir_all(&path);
            Self(path)
        }

        fn broken(&self) -> usize {
            let names = std::fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().file_name());
            names.filter(|name| name.to_string_lossy().contains(".broken-")).count()
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn engine() -> Result<Proxy> {
        let text = include_str!("../../deploy/latch.toml");
        let config = Config::parse(text, Path::new("latch.toml"), Overrides::default())?;
        Ok(Proxy::new(Arc::new(config), SystemTime::now(), Instant::now(), [0; 32])?)
    }

    #[test]
    fn a_journal_that_cannot_be_used_takes_the_pins_with_it() {
        let directory = Directory::new("aside");
        let pins = Pins::new(&directory.0.join("pins"));
        std::fs::create_dir_all(pins.directory()).unwrap();
        std::fs::write(pins.directory().join("LEGS"), "").unwrap();
        std::fs::write(directory.0.join("journal.redb"), [1; 4_096]).unwrap();
        let journal = Journal::open(&directory.0).unwrap();
        let now = head(["access a", "core b"]);
        go_on_without(journal.set_aside().unwrap(), &journal, &now, &pins).unwrap();
        assert_eq!((pins.exist(), journal.head().unwrap(), directory.broken()), (false, Some(now), 1));
    }

    #[test]
    fn a_record_that_cannot_be_read_costs_the_calls_and_then_the_registrations_but_not_the_start() {
        let entry = |table, key: &str| Entry { table, key: key.into(), value: b"{}".to_vec() };
        let calls = vec![entry(Table::Calls, "7"), entry(Table::Dialogs, "sip/7"), entry(Table::Streams, "7")];
        let all = [&calls[..], &[entry(Table::Registrations, "sip/1")]].concat();
        for (name, entries, engines) in [("none", Vec::new(), 1), ("calls", calls, 2), ("all", all, 3)] {
            let directory = Directory::new(name);
            let journal = Journal::open(&directory.0).unwrap();
            journal.commit(None, &entries.iter().cloned().collect()).unwrap();
            let mut before = PreviousRun {
                journal,
                pins: Pins::new(&directory.0.join("pins")),
                pinned: None,
                clock: Clock::now(),
                entries,
                head: head(["access a", "core b"]),
            };
            let made = Cell::new(0);
            let new = || {
                made.set(made.get() + 1);
                engine()
            };
            let (_, restored) = before.restore(&new, &HashSet::new(), Instant::now()).unwrap();
            assert_eq!((restored, made.get()), (Restored::default(), engines), "{name}");
            assert!(before.entries.is_empty() && before.journal.entries().unwrap().is_empty(), "{name}");
            assert_eq!(directory.broken(), engines - 1, "{name}: a copy each time");
        }
    }

    #[test]
    fn what_differs_is_named() {
        let lines = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        assert!(differences(&lines(&["a", "b"]), &lines(&["a", "b"])).is_empty());
        let found = differences(&lines(&["a", "b"]), &lines(&["a", "c"]));
        assert_eq!(found, ["realm[1] was b, and is now c"]);
        assert_eq!(differences(&lines(&["a"]), &[]), ["realm[0] was a, and is now nothing"]);
    }

    #[test]
    fn records_are_kept_as_long_as_they_mean_something() {
        let before = head(["access a", "core b"]);
        assert_eq!(stale(&before, &before, true), []);
        assert_eq!(stale(&before, &before, false), [Table::Streams]);
        let moved = head(["access a", "core c"]);
        assert_eq!(stale(&before, &moved, false), [Table::Streams, Table::Registrations]);
        let turned = head(["core b", "access a"]);
        assert_eq!(
            stale(&before, &turned, false),
            [Table::Streams, Table::Registrations, Table::Calls, Table::Dialogs]
        );
    }
}
