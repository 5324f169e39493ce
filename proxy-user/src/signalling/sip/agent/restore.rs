//! What SIP keeps in the journal, and how a later process takes it up.
//!
//! Registrations and dialogs are journalled; of transactions only the INVITEs of calls that ring (`setup`): the others
//! are short, and the client sends its request again.

use super::{
    dialogs::{Dialog, DialogId, Usage},
    registrations::Binding,
    setup::Setup,
    state::{PROTOCOL, Sip, Timer},
};
use crate::{
    clock::Clock,
    engine::{Core, NotRestored, Terminal, read},
    journal::{Change, Entry, Table},
};
use serde::{Deserialize, Serialize};
use std::{borrow::Cow, time::Instant};

/// A binding, and the terminal behind it.
#[derive(Serialize, Deserialize)]
struct Registered<'a> {
    binding: Cow<'a, Binding>,
    terminal: Cow<'a, Terminal>,
}

/// A dialog, and the INVITE of a call that rings.
#[derive(Serialize, Deserialize)]
struct Kept<'a> {
    dialog: Cow<'a, Dialog>,
    setup: Option<Setup>,
}

impl Sip {
    /// What changed since the last call, for the journal.
    pub(super) fn changes(&mut self, core: &Core, clock: &Clock) -> Vec<Change> {
        let mut changes = self.written.take_stale();
        for id in self.registrations.take_touched() {
            let key = key(id.number());
            let registered = self.registrations.get(id).and_then(|binding| {
                let terminal = Cow::Borrowed(core.terminals().get(binding.terminal)?);
                Some(Registered { binding: Cow::Borrowed(binding), terminal })
            });
            changes.extend(self.written.change(Table::Registrations, key, registered.as_ref(), clock));
        }
        for id in self.dialogs.take_touched() {
            let dialog = self.dialogs.get(id).filter(|dialog| matters(core, dialog));
            let record = dialog.map(|dialog| {
                let invite = dialog.call().and_then(|call| call.invite);
                let setup = invite.and_then(|invite| Setup::of(&self.transactions, invite));
                Kept { dialog: Cow::Borrowed(dialog), setup }
            });
            changes.extend(self.written.change(Table::Dialogs, key(id.0), record.as_ref(), clock));
        }
        changes
    }

    /// Takes up what an earlier process left.
    pub(super) fn resume(
        &mut self,
        core: &mut Core,
        entries: &[Entry],
        clock: Clock,
        now: Instant,
    ) -> Result<(), NotRestored> {
        for (entry, number) in ours(entries, Table::Registrations) {
            self.restore_binding(core, entry, number, clock, now)?;
        }
        for (entry, number) in ours(entries, Table::Dialogs) {
            self.restore_dialog(core, entry, number, clock, now)?;
        }
        Ok(())
    }

    fn restore_binding(
        &mut self,
        core: &mut Core,
        entry: &Entry,
        number: Option<u64>,
        clock: Clock,
        now: Instant,
    ) -> Result<(), NotRestored> {
        let number = number.ok_or_else(|| entry.refused("its key is not a number"))?;
        let Registered { binding, terminal } = read(entry, clock)?;
        let (mut binding, terminal) = (binding.into_owned(), terminal.into_owned());
        if [terminal.realm, terminal.core].iter().any(|realm| !core.config.realms.has(*realm)) {
            return Err(entry.refused("there is no such realm"));
        }
        if binding.expires_at <= now {
            self.written.stale(entry);
            return Ok(());
        }
        if terminal.flow.transport.is_reliable() {
            // Its connection ended with the process: it cannot be reached before it is back.
            binding.unanswered = core.config.keepalive.failures;
        }
        core.restore_terminal(binding.terminal, terminal);
        binding.keepalive_at = self.turn(core, now).next_keepalive(now);
        let at = binding.next();
        let id = self.registrations.restore(number, binding);
        self.written.found(entry);
        self.timers.set(at, Timer::Binding(id));
        Ok(())
    }

    fn restore_dialog(
        &mut self,
        core: &mut Core,
        entry: &Entry,
        number: Option<u64>,
        clock: Clock,
        now: Instant,
    ) -> Result<(), NotRestored> {
        let id = DialogId(number.ok_or_else(|| entry.refused("its key is not a number"))?);
        let Kept { dialog, setup } = read(entry, clock)?;
        let mut dialog = dialog.into_owned();
        let [first, second] = dialog.realms.map(|realm| core.side(realm)).into_array();
        if first.is_none() || second.is_none() || first == second {
            return Err(entry.refused("it is not of these realms"));
        }
        if let Usage::Call(call) = &dialog.usage
            && !core.is_live(call.id)
            && dialog.forget_at.is_none()
        {
            // Its call ended, and the process with it before it could say so here.
            dialog.forget_at = Some(now + 64 * self.timing.t1);
        }
        let at = match &dialog.usage {
            Usage::Call(_) => dialog.forget_at,
            Usage::Subscription { ends_at } => Some(*ends_at),
        };
        self.dialogs.restore(id, dialog);
        if let Some(at) = at {
            self.timers.set(at, Timer::Dialog(id));
        }
        self.written.found(entry);
        if let Some(setup) = setup {
            self.turn(core, now).ring_on(id, setup, now);
        }
        Ok(())
    }
}

/// The name of a record in the journal.
fn key(number: u64) -> String {
    format!("{}/{number}", PROTOCOL.name())
}

/// The records of a table that are SIP's, with their numbers.
fn ours(entries: &[Entry], table: Table) -> impl Iterator<Item = (&Entry, Option<u64>)> {
    entries.iter().filter(move |entry| entry.table == table).filter_map(|entry| {
        let number = entry.key.strip_prefix(PROTOCOL.name())?.strip_prefix('/')?;
        Some((entry, number.parse().ok()))
    })
}

/// Whether a later process has to know about a dialog: not if it was only challenged.
fn matters(core: &Core, dialog: &Dialog) -> bool {
    match &dialog.usage {
        Usage::Call(call) => call.answered || core.is_live(call.id),
        Usage::Subscription { .. } => !dialog.answerers.is_empty(),
    }
}
