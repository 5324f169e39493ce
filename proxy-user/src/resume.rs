//! Where one process ended and the next one begins: journal, pins, and whether both belong to this configuration.

use crate::cli::{Down, State};
use anyhow::{Context as _, Result, bail};
use proxy_user::{
    accounting::RecordId,
    clock::Clock,
    config::{self, Config, Overrides, Relay, Side},
    datapath::xdp::{Life, Mode, Pins, Xdp},
    engine::{Media, Restored},
    io::Keeper,
    journal::{Entry, Head, Journal, Table, boot_id, wall_ms},
    proxy::Proxy,
};
use std::{
    collections::HashSet,
    time::{Instant, SystemTime},
};

/// What an earlier process left, and how to go on from there.
pub(crate) struct Legacy {
    journal: Journal,
    pins: Pins,
    resume: Option<Mode>,
    /// By which clock the journal's records are to be read.
    clock: Clock,
    entries: Vec<Entry>,
    head: Head,
}

impl Legacy {
    /// Looks, and removes what is of no use to anybody.
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
        pins.refuse_other_layouts()?;
        if config.media.relay == Relay::UserSpace && pins.exist() {
            bail!(
                "{} holds the relay of an earlier process, in the kernel, which the relay in user space cannot go on from: start \
                 without relay = \"user\"; or `latch run --fresh` starts anew and ends the calls; `latch down` only removes \
                 what is there",
                pins.directory().display()
            );
        }
        let (now, wall, here) = (Instant::now(), SystemTime::now(), Clock::now());
        let boot = boot_id()?;
        let head = Head {
            boot: boot.clone(),
            clock: (here.ns(now), wall_ms(wall)),
            signalling: config.realms.iter().map(signalling).collect(),
            datapath: Xdp::made_for(config)?,
            whole: false,
            generic: false,
        };
        let before = journal.head()?;
        let resume = match &before {
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
                 `latch run --fresh` starts anew; `latch down` only removes what is there",
                pins.directory().display(),
                journal.path().display()
            ),
        };
        let clock = before.as_ref().map_or(here, |before| before.clock(&boot, here, now, wall));
        let mut entries = journal.entries()?;
        if let Some(before) = before {
            let stale = stale(&before, &head, resume.is_some());
            journal.clear(&stale)?;
            entries.retain(|entry| !stale.contains(&entry.table));
            if resume.is_none() {
                journal.commit(Some(&Head { whole: false, ..before }), &[])?;
            }
        } else {
            journal.commit(Some(&head), &[])?;
        }
        Ok(Self { journal, pins, resume, clock, entries, head })
    }

    /// How the datapath is to begin.
    pub(crate) fn life(&self) -> Life {
        match self.resume {
            Some(mode) => Life::Resume(self.pins.clone(), mode),
            None => Life::Begin(self.pins.clone()),
        }
    }

    /// Engine and datapath take up what there was; from then on the journal is kept for them.
    pub(crate) fn take_up(
        self,
        engine: &mut Proxy,
        datapath: &mut Xdp,
        recorded: &HashSet<RecordId>,
        now: Instant,
    ) -> Result<(Keeper, Pins)> {
        let media = if self.resume.is_some() { Media::Kept } else { Media::Lost };
        let restored = engine.restore(&self.entries, self.clock, media, recorded, now);
        if restored.is_err() && self.resume.is_none() {
            // Nobody goes on from what was only just made.
            self.pins.remove()?;
        }
        let restored = restored?;
        let closed = if self.resume.is_some() {
            let taken = datapath.restore(&restored.streams, &restored.leaving, &self.entries, now);
            taken.context("the streams of calls cannot be taken up; `latch run --fresh` starts without them")?
        } else {
            0
        };
        tell(&restored, self.resume.is_some(), closed);
        let head = Head { whole: true, generic: datapath.mode() == Mode::Generic, ..self.head };
        Ok((Keeper::new(self.journal, Clock::now(), head), self.pins))
    }
}

/// All is over: nothing stays in the kernel, and the journal says so.
pub(crate) fn end(keeper: &Keeper, pins: &Pins, datapath: Xdp) -> Result<()> {
    let journal = keeper.journal();
    if let Some(head) = journal.head()? {
        journal.commit(Some(&Head { whole: false, ..head }), &[])?;
    }
    pins.remove()?;
    drop(datapath);
    journal.clear(&[Table::Streams])
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
        println!("calls that were going on have no media any more; the next start tells their parties");
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
            format!("realm[{index}] was {}, and is to be {}", of(before), of(now))
        })
        .collect()
}

/// Which records mean nothing any more.
fn stale(before: &Head, now: &Head, resume: bool) -> Vec<Table> {
    let mut stale = Vec::new();
    if !resume {
        stale.push(Table::Streams);
    }
    if before.signalling != now.signalling {
        tracing::warn!("the signalling addresses are others than before: registrations are forgotten");
        stale.push(Table::Registrations);
    }
    if !before.signalling.iter().map(|line| side(line)).eq(now.signalling.iter().map(|line| side(line))) {
        tracing::error!("the realms are others than before: calls that were going on have no record");
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

    #[test]
    fn what_differs_is_named() {
        let lines = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        assert!(differences(&lines(&["a", "b"]), &lines(&["a", "b"])).is_empty());
        let found = differences(&lines(&["a", "b"]), &lines(&["a", "c"]));
        assert_eq!(found, ["realm[1] was b, and is to be c"]);
        assert_eq!(differences(&lines(&["a"]), &[]), ["realm[0] was a, and is to be nothing"]);
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
