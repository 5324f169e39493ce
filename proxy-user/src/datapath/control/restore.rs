//! Streams that an earlier process left in the maps: journalled while they are live, taken over when the process has
//! ended.
//!
//! Nothing is written to an entry that is as it should be, so a stream that did not change is not disturbed.

use super::{
    indices::{HopIndex, LegIndex},
    legs::Placed,
    mapped,
    next_hops::{Destination, Key},
    streams::{Control, ReportedSource, Stream, ways},
};
use crate::{
    datapath::DatapathError,
    journal::{Change, Entry, Table},
    media::{MediaEvent, StreamId, StreamSpec},
};
use anyhow::{Context as _, Result, ensure};
use proxy_common::layout::NextHop;
use serde::{Deserialize, Serialize};
use std::{
    collections::{HashMap, HashSet},
    time::Instant,
};

/// A stream in the journal.
#[derive(Serialize, Deserialize)]
struct Saved {
    spec: StreamSpec,
    placed: [Placed; 2],
    ways: Vec<SavedHop>,
    window_end_ns: u64,
    /// `LegState` by its words.
    baseline: [Vec<u64>; 2],
}

/// A destination, and the entry of `NEXT_HOPS` that leads there.
#[derive(Clone, Serialize, Deserialize)]
struct SavedHop {
    destination: Destination,
    index: HopIndex,
    /// `None`: not known yet.
    key: Option<Key>,
}

impl Control {
    /// What changed since the last call, for the journal.
    pub(in crate::datapath) fn take_changes(&mut self) -> Vec<Change> {
        let touched = std::mem::take(&mut self.touched);
        let change = |id: StreamId| {
            let closing = || self.closing.iter().find(|closing| closing.id == id).map(|closing| &closing.stream);
            let stream = self.streams.get(&id).or_else(closing);
            let saved = stream.map(|stream| serde_json::to_vec(&self.saved(stream)));
            let value = saved.transpose().inspect_err(|error| tracing::error!(%error, "a stream is not journalled"));
            Change { table: Table::Streams, key: id.0.to_string(), value: value.unwrap_or_default() }
        };
        touched.into_iter().map(change).collect()
    }

    fn saved(&self, stream: &Stream) -> Saved {
        let way = |destination: &Destination| {
            let index = self.hops.of(*destination);
            SavedHop { destination: *destination, index, key: self.hops.key_of(index) }
        };
        Saved {
            spec: stream.spec.clone(),
            placed: stream.placed,
            ways: stream.ways.iter().map(way).collect(),
            window_end_ns: stream.window_end_ns,
            baseline: stream.baseline.each_ref().map(|state| mapped::words_of_state(state).to_vec()),
        }
    }

    /// Takes over the streams of calls that continue (`live`) and those whose last counters have not been reported
    /// (`leaving`), and closes every other leg. `hop` reads an entry of `NEXT_HOPS`. Returns how many legs were closed.
    ///
    /// A stream whose journal record is invalid starts again, if its call continues: with counters of 0, and both sides
    /// have to be learned again.
    pub(in crate::datapath) fn restore(
        &mut self,
        (live, leaving): (&[StreamSpec], &[StreamSpec]),
        entries: &[Entry],
        hop: impl Fn(HopIndex) -> NextHop,
        now: Instant,
    ) -> usize {
        let mut saved = HashMap::new();
        for entry in entries.iter().filter(|entry| entry.table == Table::Streams) {
            let Ok(id) = entry.key.parse().map(StreamId) else {
                tracing::error!("stream {} in the journal: its key is not a number", entry.key);
                continue;
            };
            self.touched.insert(id);
            match serde_json::from_slice::<Saved>(&entry.value) {
                Ok(stream) => drop(saved.insert(id, stream)),
                Err(error) => tracing::error!("stream {} in the journal: {error}", id.0),
            }
        }
        let indexes: HashSet<HopIndex> =
            saved.values().flat_map(|saved| saved.ways.iter().map(|way| way.index)).collect();
        for spec in live {
            if let Some(saved) = saved.remove(&spec.id) {
                let same = saved.spec == *spec;
                match self.resume(saved, true, &hop, now) {
                    Ok(()) if same => continue,
                    Ok(()) => {}
                    Err(error) => tracing::error!("stream {} in the journal: {error:#}; it starts again", spec.id.0),
                }
            }
            if let Err(error) = self.apply(spec.clone(), now) {
                tracing::error!("stream {} has no media, its call ends: {error}", spec.id.0);
                self.ready.push(MediaEvent::Failed { stream: spec.id });
            }
        }
        for spec in leaving {
            if let Some(saved) = saved.remove(&spec.id)
                && let Err(error) = self.resume(saved, false, &hop, now)
            {
                tracing::error!("stream {} in the journal: {error:#}; its counters are lost", spec.id.0);
            }
        }
        indexes.into_iter().for_each(|index| self.hops.abandon(index));
        let others = (0..self.generations.len() as u32).map(LegIndex).filter(|index| !self.owners.contains_key(index));
        let closed: Vec<_> = others.filter(|index| self.legs.is_used(*index)).collect();
        closed.iter().for_each(|index| self.legs.close(*index));
        closed.len()
    }

    fn resume(&mut self, saved: Saved, live: bool, hop: impl Fn(HopIndex) -> NextHop, now: Instant) -> Result<()> {
        let Saved { spec, mut placed, ways: known, window_end_ns, baseline } = saved;
        let indices = self.admit(&spec)?;
        ensure!(indices == placed.map(|placed| placed.index), "stream {} had other entries of LEGS", spec.id.0);
        let [one, other] = baseline.map(|words| words.try_into().ok().map(mapped::state_of_words));
        let baseline = [one, other].map(|state| state.context("counters in the journal are of another size"));
        let [one, other] = baseline;
        let baseline = [one?, other?];
        let ways = ways(&spec);
        for way in &ways {
            self.have_back(*way, &known, &hop, now)?;
        }
        for placed in &placed {
            if let Some(generation) = self.generations.get_mut(placed.index.0 as usize) {
                *generation = placed.generation;
            }
        }
        self.place(&spec, &mut placed);
        for (leg, placed) in placed.iter().enumerate() {
            self.owners.insert(placed.index, (spec.id, leg));
        }
        self.users.extend(ways.iter().map(|way| (*way, spec.id)));
        // What has latched by now was reported to the previous process, or its events are still to be read.
        let reported = placed.map(|placed| ReportedSource::of(&self.states.get(placed.index)));
        let (id, strangers, packets) = (spec.id, [0; 2], 0);
        let mut stream =
            Stream { spec, placed, ways, window_end_ns, baseline, strangers, reported, packets, quiet_since: now };
        stream.strangers = self.counters(&stream).map(|counters| counters.dropped_source);
        if live {
            self.write(&stream);
        } else {
            placed.iter().for_each(|placed| self.legs.close(placed.index));
        }
        self.streams.insert(id, stream);
        self.scan_soon(now);
        Ok(())
    }

    fn have_back(
        &mut self,
        destination: Destination,
        known: &[SavedHop],
        hop: impl Fn(HopIndex) -> NextHop,
        now: Instant,
    ) -> Result<(), DatapathError> {
        let known = known.iter().find(|way| way.destination == destination);
        let adopted = known.is_some_and(|way| {
            way.key.is_some_and(|key| self.hops.adopt(destination, way.index, key, hop(way.index), now))
        });
        if adopted { Ok(()) } else { self.hops.acquire(destination, now).map(drop) }
    }
}

#[cfg(test)]
mod tests;
