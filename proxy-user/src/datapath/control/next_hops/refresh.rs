//! Which entries are compared with the kernel next: all of them from time to time, and when something has changed.
//!
//! Only a limited number of questions is open at a time, so that those of a new call do not wait for long.

use super::{super::indices::HopIndex, key::Destination};
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// How often everything in use is compared with the kernel's view, in case a change was not reported.
pub(super) const PERIOD: Duration = Duration::from_secs(30);
/// From the beginning of one round to that of the next, however fast routes change.
pub(super) const PAUSE: Duration = Duration::from_millis(100);
/// Questions that may be open before the next of a round is asked.
pub(super) const OPEN: usize = 128;

/// One to ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Its route.
    Destination(Destination),
    /// Its neighbour.
    Entry(HopIndex),
}

/// The rounds.
#[derive(Debug, Default)]
pub(super) struct Refresh {
    turns: VecDeque<Turn>,
    /// Questions without an answer yet, including those outside of rounds.
    open: usize,
    began: Option<Instant>,
    at: Option<Instant>,
    /// Whether the next round asks for neighbours too.
    neighbours: bool,
}

impl Refresh {
    /// There is something to look after.
    pub(super) fn wanted(&mut self, now: Instant) {
        self.at.get_or_insert(now + PERIOD);
    }

    /// Something changed: a round is wanted at this time, or as soon as the current one is over.
    pub(super) fn request(&mut self, neighbours: bool, wanted: Instant) {
        let Some(at) = self.at else { return };
        let soon = self.began.map_or(wanted, |began| wanted.max(began + PAUSE));
        self.at = Some(at.min(soon));
        self.neighbours |= neighbours;
    }

    pub(super) fn asked(&mut self) {
        self.open += 1;
    }

    pub(super) fn answered(&mut self) {
        self.open = self.open.saturating_sub(1);
    }

    /// Whether a round begins.
    pub(super) fn begins(&self, now: Instant) -> bool {
        self.turns.is_empty() && self.at.is_some_and(|at| at <= now)
    }

    /// Begins one.
    pub(super) fn begin(&mut self, destinations: Vec<Destination>, entries: Vec<HopIndex>, now: Instant) {
        // A round without a cause: the period is over.
        let all = self.neighbours || self.began.is_none_or(|began| now.duration_since(began) >= PERIOD);
        self.neighbours = false;
        self.turns.extend(destinations.into_iter().map(Turn::Destination));
        if all {
            self.turns.extend(entries.into_iter().map(Turn::Entry));
        }
        self.began = Some(now);
        self.at = Some(now + PERIOD);
    }

    /// There is nothing to look after.
    pub(super) fn rest(&mut self) {
        *self = Self { open: self.open, ..Self::default() };
    }

    /// The next one, if it may be asked for now.
    pub(super) fn next(&mut self) -> Option<Turn> {
        if self.open < OPEN { self.turns.pop_front() } else { None }
    }

    /// When a round may begin; during a round, its answers say when it ends.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.at.filter(|_| self.turns.is_empty())
    }
}
