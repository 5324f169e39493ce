//! Writes the journal, turn by turn, and keeps what could not be written yet.

use super::{
    Head,
    records::{Change, Changes, Table},
    store::{Journal, Recovered},
};
use crate::clock::Clock;
use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// After an error, the next try comes this much later;
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// each further one twice as late as the last, but no later than this.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// The journal, and what it does not hold yet.
///
/// While nothing can be written, changes are collected: only the latest form of each record, so at most as many as
/// there are live records, and removals of those that the file still holds. At each try, what the file does not hold
/// any more is left out.
#[derive(Debug)]
pub struct Keeper {
    journal: Journal,
    clock: Clock,
    head: Head,
    /// Whether the file has the head: it is written with the first changes, and from then on they are read by its
    /// clock.
    has_head: bool,
    pending: Changes,
    trouble: Option<Trouble>,
    errors: u64,
}

/// The journal cannot be written.
#[derive(Debug)]
struct Trouble {
    since: Instant,
    error: String,
    wait: Duration,
    retry_at: Instant,
}

impl Keeper {
    /// Keeps `journal` for `head`; its times are readings of `clock`.
    pub fn new(journal: Journal, clock: Clock, head: Head) -> Self {
        Self { journal, clock, head, has_head: false, pending: Changes::default(), trouble: None, errors: 0 }
    }

    /// The clock of the records' times.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Takes note of changes, to be written by the next [`Keeper::commit`].
    pub fn note(&mut self, changes: Vec<Change>) {
        self.pending.extend(changes);
    }

    /// Writes what is pending, in one transaction; after an error not before the time for the next try has come.
    ///
    /// # Errors
    ///
    /// The try failed.
    pub fn commit(&mut self, now: Instant) -> Result<()> {
        if self.trouble.as_ref().is_some_and(|trouble| now < trouble.retry_at) {
            return Ok(());
        }
        self.write(now)
    }

    /// When [`Keeper::commit`] has to be called though nothing changed.
    pub fn retry_at(&self) -> Option<Instant> {
        self.trouble.as_ref().map(|trouble| trouble.retry_at)
    }

    /// Writes what is pending now: another process continues from here.
    ///
    /// # Errors
    ///
    /// It cannot be written. The message says what becomes of the calls.
    pub fn hand_over(&mut self, now: Instant) -> Result<()> {
        self.write(now).context("the next start restores calls that have ended, and not those that began since")
    }

    /// All calls have ended and nothing is in the kernel any more: says so in the journal, even where the disk is full.
    ///
    /// # Errors
    ///
    /// It cannot be written at all. Then it is empty.
    pub fn finish(&mut self, now: Instant) -> Result<()> {
        (self.head.whole, self.has_head) = (false, false);
        let written = self.write(now).and_then(|()| self.journal.clear(&[Table::Streams]));
        written.or_else(|_| {
            let registrations = [Table::Registrations];
            let written = self.journal.start_over(&self.head, &registrations, &self.pending);
            written.context("registrations are forgotten, and phones have to register again")
        })
    }

    /// How it is going, for an operator.
    pub fn status(&self, now: Instant) -> Value {
        let trouble = self.trouble.as_ref();
        json!({
            "written": trouble.is_none(),
            "errors": self.errors,
            "pending": self.pending.len(),
            "failing_s": trouble.map_or(0, |trouble| now.saturating_duration_since(trouble.since).as_secs()),
            "error": trouble.map(|trouble| &trouble.error),
        })
    }

    fn write(&mut self, now: Instant) -> Result<()> {
        let done = match self.trouble {
            None if self.pending.is_empty() && self.has_head => return Ok(()),
            None => {
                let head = (!self.has_head).then_some(&self.head);
                self.journal.commit(head, &self.pending).map(|()| None)
            }
            Some(_) => self.journal.recover(&self.head, &mut self.pending).map(Some),
        };
        match done {
            Ok(recovered) => {
                if let (Some(trouble), Some(recovered)) = (self.trouble.take(), recovered) {
                    announce(&recovered, &trouble, self.pending.len(), now);
                }
                self.has_head = true;
                self.pending.clear();
                Ok(())
            }
            Err(error) => {
                self.errors += 1;
                let before = self.trouble.take();
                let wait = before.as_ref().map_or(FIRST_WAIT, |before| (before.wait * 2).min(LONGEST_WAIT));
                let since = before.map_or(now, |before| before.since);
                self.trouble = Some(Trouble { since, error: format!("{error:#}"), wait, retry_at: now + wait });
                Err(error)
            }
        }
    }
}

fn announce(recovered: &Recovered, trouble: &Trouble, changes: usize, now: Instant) {
    let for_s = now.saturating_duration_since(trouble.since).as_secs();
    match recovered {
        Recovered::Reopened => tracing::warn!("the journal is written again, after {for_s} s: {changes} changes"),
        Recovered::Rewritten => {
            tracing::warn!("the journal is written again, after {for_s} s, in a new file: {changes} changes");
        }
        Recovered::Incomplete(old) => tracing::error!(
            "the journal could not be read any more ({}) and is written again, after {for_s} s, in a new file: calls and \
             registrations that do not change until the next start are unknown to it, and such calls lose their media then; \
             the old file: {}",
            old.why,
            old.path.display()
        ),
    }
}
