//! What stands in the journal, and how a later engine takes it up.
//!
//! Registrations, dialogs and calls are journalled; transactions are not: they are short, and whoever asked sends again.
//! So a call goes on if it was answered, and one that was still being set up ends with its record.

use super::{Alarm, Engine, InDialog, Token, calls::EndCause, dialogs::Dialog, dialogs::Role, dialogs::Usage};
use crate::{
    accounting::RecordId,
    clock::Clock,
    engine::Output,
    journal::{Change, Entry, Table, moment},
    media::{MediaCommand, StreamSpec, allocator::PortPair},
};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    collections::{HashMap, HashSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    time::Instant,
};
use tracing::error;

/// What the journal holds, so that only what changed is written.
#[derive(Debug, Default)]
pub(super) struct Journalled {
    /// Key and hash of each record.
    written: HashMap<(Table, u64), (String, u64)>,
    /// To be removed: what was found and is nobody's.
    stale: Vec<Change>,
}

/// Whether the datapath still has the calls' streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Media {
    /// It relays them.
    Kept,
    /// They are gone, and their counters with them: the calls end.
    Lost,
}

/// What an engine took up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Bindings.
    pub registrations: usize,
    /// Calls that go on.
    pub calls: usize,
    /// Calls that end now: they were being set up or hung up, or their media is gone.
    pub ended: usize,
    /// As the datapath has or is to have them.
    pub streams: Vec<StreamSpec>,
    /// Those whose last counters the datapath has to tell.
    pub leaving: Vec<StreamSpec>,
}

/// A record of the journal is not what it should be.
#[derive(Debug, thiserror::Error)]
#[error("{table:?} {key} in the journal cannot be taken up: {problem}; `latch run --fresh` starts without it")]
pub struct NotRestored {
    table: Table,
    key: String,
    problem: String,
}

impl Engine {
    /// What changed since the last call, for the journal. Its times are readings of `clock`.
    pub fn take_changes(&mut self, clock: &Clock) -> Vec<Change> {
        let mut changes = std::mem::take(&mut self.journalled.stale);
        for id in self.registrations.take_touched() {
            let binding = self.registrations.get(id);
            let new = binding.and_then(|binding| Some((binding.token.clone(), json(binding, clock)?)));
            changes.extend(self.journalled.change(Table::Registrations, id, new));
        }
        for id in self.dialogs.take_touched() {
            let dialog = self.dialogs.get(&id).filter(|dialog| matters(dialog));
            let new = dialog.and_then(|dialog| Some((id.to_string(), json(dialog, clock)?)));
            changes.extend(self.journalled.change(Table::Dialogs, id, new));
        }
        changes
    }

    /// Takes up what an earlier engine with the same realms left. Only for an engine that has seen nothing yet; what is
    /// to be done about it comes out as usual. `recorded` are records that were written already, though the journal may
    /// not know yet.
    ///
    /// # Errors
    ///
    /// A record cannot be read, or is not of these realms.
    pub fn restore(
        &mut self,
        entries: &[Entry],
        clock: Clock,
        media: Media,
        recorded: &HashSet<RecordId>,
        now: Instant,
    ) -> Result<Restored, NotRestored> {
        let mut restored = Restored::default();
        for entry in entries.iter().filter(|entry| entry.table == Table::Registrations) {
            restored.registrations += usize::from(self.restore_binding(entry, clock, now)?);
        }
        let mut ids = Vec::new();
        for entry in entries.iter().filter(|entry| entry.table == Table::Dialogs) {
            ids.extend(self.restore_dialog(entry, clock, media, recorded)?);
        }
        let streams = entries.iter().filter(|entry| entry.table == Table::Streams);
        self.next_stream = streams.filter_map(|entry| entry.key.parse().ok()).fold(self.next_stream, u64::max);
        self.claim_ports()?;
        ids.sort_unstable();
        for id in ids {
            self.go_on(id, media, now, &mut restored);
        }
        Ok(restored)
    }

    /// False for one that has expired meanwhile.
    fn restore_binding(&mut self, entry: &Entry, clock: Clock, now: Instant) -> Result<bool, NotRestored> {
        let mut binding: super::Binding = read(entry, clock)?;
        if binding.realm.max(binding.core) >= self.config.realms.len() {
            return Err(entry.refused("there is no such realm"));
        }
        if binding.expires_at <= now {
            self.journalled.stale.push(entry.removed());
            return Ok(false);
        }
        if binding.source.transport.is_reliable() {
            // Its connection ended with the process: it cannot be reached before it is back.
            binding.unanswered = self.config.keepalive.failures;
        }
        binding.keepalive_at = self.next_keepalive(now);
        let (token, at) = (binding.token.clone(), binding.next());
        let id = self.registrations.insert(binding);
        self.journalled.found(id, entry);
        self.tokens.insert(token, Token::Binding(id));
        self.timers.set(at, Alarm::Binding(id));
        Ok(true)
    }

    fn restore_dialog(
        &mut self,
        entry: &Entry,
        clock: Clock,
        media: Media,
        recorded: &HashSet<RecordId>,
    ) -> Result<Option<u64>, NotRestored> {
        let id = entry.key.parse().map_err(|_| entry.refused("its key is no number"))?;
        let mut dialog: Dialog = read(entry, clock)?;
        let [first, second] = dialog.realms.map(|realm| self.side(realm));
        if first.is_none() || second.is_none() || first == second {
            return Err(entry.refused("it is not of these realms"));
        }
        if dialog.call().is_some_and(|call| recorded.contains(&RecordId(call.record)) && !call.recorded) {
            self.journalled.stale.push(entry.removed());
            return Ok(None);
        }
        if let Some(call) = dialog.call_mut() {
            if media == Media::Lost {
                call.media.lose();
            }
            self.streams.extend(call.media.streams().map(|stream| (stream, id)));
            self.next_stream = call.media.streams().map(|stream| stream.0).fold(self.next_stream, u64::max);
            self.calls += usize::from(!call.recorded);
        } else {
            self.subscriptions += 1;
        }
        let roles = (0..dialog.answerers.len()).map(Role::Answerer).chain([Role::Originator]);
        for role in roles {
            let token = dialog.party(role).map(|party| party.token.clone()).unwrap_or_default();
            self.tokens.insert(token, Token::Party(id, role));
        }
        self.by_call_id.entry(dialog.call_id.clone()).or_default().push(id);
        self.next_id = self.next_id.max(id);
        self.dialogs.insert(id, dialog);
        self.charge_again(id);
        self.journalled.found(id, entry);
        Ok(Some(id))
    }

    /// The ports of all calls are in use.
    fn claim_ports(&mut self) -> Result<(), NotRestored> {
        let mut wanted: Vec<Vec<PortPair>> = vec![Vec::new(); self.allocators.len()];
        for call in self.dialogs.values().filter_map(Dialog::call) {
            for (realm, pair) in call.media.ports() {
                wanted.get_mut(realm).into_iter().for_each(|pairs| pairs.push(pair));
            }
        }
        for (realm, (allocator, pairs)) in self.allocators.iter_mut().zip(&wanted).enumerate() {
            if allocator.claim(pairs) != 0 {
                let problem = format!("{} ports of realm {realm} are not free or not of its range", pairs.len());
                return Err(NotRestored { table: Table::Dialogs, key: String::new(), problem });
            }
        }
        Ok(())
    }

    /// A dialog goes on, or ends as it has to.
    fn go_on(&mut self, id: u64, media: Media, now: Instant, restored: &mut Restored) {
        let Some(dialog) = self.dialogs.get(&id) else { return };
        let at = match &dialog.usage {
            Usage::Call(_) => dialog.forget_at.unwrap_or(now + crate::engine::session::LONGEST_HOLD),
            Usage::Subscription { ends_at } => *ends_at,
        };
        self.timers.set(at, Alarm::Dialog(id));
        let Some(call) = dialog.call() else { return };
        restored.streams.extend(call.media.live_specs().cloned());
        restored.leaving.extend(call.media.leaving_specs().cloned());
        let (over, answered) = (call.ended.is_some(), call.answered.is_some());
        // Their last counters had not come, or had not been taken note of.
        for stream in call.media.leaving() {
            self.outputs.push_back(Output::Media(MediaCommand::Release(stream)));
        }
        match (over, answered, media) {
            (true, ..) => self.record_if_over(id, now),
            (false, true, Media::Kept) => {
                let bye = call.bye;
                self.with_media(id, now, |media, _| media.orphan_offer());
                if let Some((from, to)) = bye {
                    // Nobody else may be there to say it again.
                    self.send_bye(id, to, from, now);
                    self.hung_up(&InDialog { id, from, to: Some(to), target: None }, now);
                }
                let goes_on = self.call(id).is_some_and(|call| call.ended.is_none());
                restored.calls += usize::from(goes_on);
                restored.ended += usize::from(!goes_on);
            }
            (false, ..) => {
                restored.ended += 1;
                self.hang_up(id, EndCause::Error, now);
            }
        }
    }
}

/// Whether a later engine has to know of a dialog: not of the mere question who calls.
fn matters(dialog: &Dialog) -> bool {
    match &dialog.usage {
        Usage::Call(call) => call.answered.is_some() || !call.recorded,
        Usage::Subscription { .. } => !dialog.answerers.is_empty(),
    }
}

impl Journalled {
    fn found(&mut self, id: u64, entry: &Entry) {
        self.written.insert((entry.table, id), (entry.key.clone(), hash(&entry.value)));
    }

    /// What has to be written so that the record is `new`.
    fn change(&mut self, table: Table, id: u64, new: Option<(String, Vec<u8>)>) -> Option<Change> {
        let Some((key, value)) = new else {
            let (key, _) = self.written.remove(&(table, id))?;
            return Some(Change { table, key, value: None });
        };
        let written = (key.clone(), hash(&value));
        if self.written.get(&(table, id)) == Some(&written) {
            return None;
        }
        self.written.insert((table, id), written);
        Some(Change { table, key, value: Some(value) })
    }
}

impl Entry {
    fn removed(&self) -> Change {
        Change { table: self.table, key: self.key.clone(), value: None }
    }

    fn refused(&self, problem: impl ToString) -> NotRestored {
        NotRestored { table: self.table, key: self.key.clone(), problem: problem.to_string() }
    }
}

fn read<T: DeserializeOwned>(entry: &Entry, clock: Clock) -> Result<T, NotRestored> {
    moment::on(clock, || serde_json::from_slice(&entry.value)).map_err(|error| entry.refused(error))
}

/// `None` for what cannot be written: it lives on here, and a later engine does not know of it.
fn json<T: Serialize>(value: &T, clock: &Clock) -> Option<Vec<u8>> {
    let written = moment::on(*clock, || serde_json::to_vec(value));
    written.inspect_err(|problem| error!(%problem, "a record for the journal cannot be written")).ok()
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}
