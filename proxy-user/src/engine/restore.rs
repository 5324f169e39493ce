//! What the journal holds, and how a later process takes it over.
//!
//! The core journals calls with their media; each protocol journals what it needs to go on with them. Most transactions
//! and the like are too short to be worth it: the client sends its request again.

use super::{
    CallEvent, CallId, Output,
    calls::{Call, State},
    core::Core,
    journalled::{NotRestored, read},
    session::LONGEST_HOLD,
    sides::PerSide,
};
use crate::{
    accounting::{EndCause, RecordId},
    clock::Clock,
    journal::{Change, Entry, Table},
    media::{MediaCommand, RealmId, StreamSpec, allocator::PortPair},
};
use std::{
    collections::{BTreeMap, HashSet},
    time::Instant,
};

/// Whether the datapath still has the calls' streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EarlierStreams {
    /// It relays them.
    Kept,
    /// They are gone, and their counters with them: the calls end.
    Lost,
}

/// What a process took up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Registered terminals.
    pub registrations: usize,
    /// Calls that go on.
    pub calls: usize,
    /// Calls that end now: they were being hung up, or their media is gone.
    pub ended: usize,
    /// As the datapath has them, or must have them.
    pub streams: Vec<StreamSpec>,
    /// Those whose last counters the datapath has to tell.
    pub leaving: Vec<StreamSpec>,
}

impl Core {
    /// What changed in calls since the last time, for the journal. Its times are readings of `clock`.
    pub fn take_changes(&mut self, clock: &Clock) -> Vec<Change> {
        let mut changes = self.written.take_stale();
        for id in self.calls.take_touched() {
            let call = self.calls.get(&id).filter(|call| !matches!(call.state, State::Withdrawn));
            changes.extend(self.written.change(Table::Calls, id.0.to_string(), call, clock));
        }
        changes
    }

    /// Takes up the calls that an earlier process with the same realms left. Only for a core that has seen nothing yet.
    /// `recorded` are records that were written already, though the journal may not know yet.
    ///
    /// # Errors
    ///
    /// A record cannot be read, or is not of these realms.
    pub fn restore(
        &mut self,
        entries: &[Entry],
        clock: Clock,
        media: EarlierStreams,
        recorded: &HashSet<RecordId>,
    ) -> Result<(), NotRestored> {
        for entry in entries.iter().filter(|entry| entry.table == Table::Calls) {
            let id = CallId(entry.key.parse().map_err(|_| entry.refused("its key is not a number"))?);
            let mut call: Call = read(entry, clock)?;
            let known = call.realms.map(|realm| self.config.realms.has(realm)) == PerSide::new(true, true);
            if !known || call.realms.caller == call.realms.callee {
                return Err(entry.refused("it is not of these realms"));
            }
            if recorded.contains(&RecordId(call.record)) {
                self.written.stale(entry);
                continue;
            }
            if media == EarlierStreams::Lost {
                call.media.lose();
            }
            self.streams.extend(call.media.streams().map(|stream| (stream, id)));
            self.last_stream = call.media.streams().map(|stream| stream.0).fold(self.last_stream, u64::max);
            self.counted += 1;
            self.calls.insert(id, call);
            self.charge_again(id);
            self.written.found(entry);
        }
        let streams = entries.iter().filter(|entry| entry.table == Table::Streams);
        self.last_stream = streams.filter_map(|entry| entry.key.parse().ok()).fold(self.last_stream, u64::max);
        self.claim_ports()
    }

    /// The ports of all calls are in use.
    fn claim_ports(&mut self) -> Result<(), NotRestored> {
        let mut wanted: BTreeMap<RealmId, Vec<PortPair>> = BTreeMap::new();
        for (realm, pair) in self.calls.values().flat_map(|call| call.media.ports()) {
            wanted.entry(realm).or_default().push(pair);
        }
        for (realm, pairs) in wanted {
            if self.allocators.get_mut(realm).is_none_or(|allocator| allocator.claim(&pairs) != 0) {
                let problem = format!("{} ports of realm {realm} are not free or not of its range", pairs.len());
                return Err(NotRestored { table: Table::Calls, key: String::new(), problem });
            }
        }
        Ok(())
    }

    /// Calls continue or end; their protocols get an event. Returns those that have continued so far, and what the
    /// datapath must have.
    pub fn resume(&mut self, media: EarlierStreams, now: Instant) -> (Vec<CallId>, Restored) {
        let mut ids: Vec<_> = self.calls.keys().copied().collect();
        ids.sort_unstable();
        let mut restored = Restored::default();
        for &id in &ids {
            let Some(call) = self.calls.get(&id) else { continue };
            restored.streams.extend(call.media.live_specs().cloned());
            restored.leaving.extend(call.media.leaving_specs().cloned());
            // Their last counters had not come, or had not been taken note of.
            for stream in call.media.leaving() {
                self.outputs.push_back(Output::Media(MediaCommand::Release(stream)));
            }
            if !call.is_live() {
                self.record_if_over(id);
            } else if media == EarlierStreams::Lost {
                self.hang_up(id, EndCause::Error);
            } else {
                let owner = call.owner.clone();
                if call.is_answered() {
                    self.timers.set(now + LONGEST_HOLD, id);
                }
                self.events.push_back((owner, id, CallEvent::Resumed));
            }
        }
        ids.retain(|id| self.is_live(*id));
        (ids, restored)
    }

    /// The transaction of the last offer ended with an earlier process: it does not prevent a new offer. An ACK may
    /// still answer it.
    pub fn orphan_offer(&mut self, id: CallId) {
        if let Some(call) = self.calls.get_mut(&id) {
            call.media.orphan_offer();
        }
    }
}
