//! Parties that the core knows besides the registered terminals, and what all others may have.

use super::budgets::{self, Amounts, Budgets, Share};
use crate::{config::Config, flow::Flow, media::RealmId};
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// A party that said nothing for this long is no longer an acquaintance.
const ACQUAINTANCE: Duration = Duration::from_secs(3600);
/// Bytes for each transaction that there may be: what a small request, the one that is sent on and the answer take.
const BYTES_A_TRANSACTION: u32 = 4_096;
/// Places for sources that hold nothing, besides one for each that does.
const IDLE_SOURCES: u32 = 16_384;

/// What a transaction takes besides the bytes that are counted: itself, its entries in maps that have just grown, its
/// timers, what the allocator adds.
const STATE_OF_A_TRANSACTION: usize = 2 << 10;
/// The same of a dialog and its call.
const STATE_OF_A_DIALOG: usize = 8 << 10;
/// How often entries that are too old are removed.
const TIDY_PERIOD: Duration = Duration::from_secs(1);

/// The flows of parties of recent answered calls, and when each was last heard.
#[derive(Debug, Default)]
pub(super) struct Acquaintances {
    last_heard: HashMap<(RealmId, Flow), Instant>,
    tidied: Option<Instant>,
}

impl Acquaintances {
    /// A party took part. Returns those that are forgotten, to make room.
    pub(super) fn met(&mut self, realm: RealmId, flow: Flow, most: usize, now: Instant) -> Vec<(RealmId, Flow)> {
        let mut forgotten = Vec::new();
        if self.last_heard.len() >= most
            && self.tidied.is_none_or(|at| now.saturating_duration_since(at) >= TIDY_PERIOD)
        {
            self.tidied = Some(now);
            let is_old = |heard: &Instant| now.saturating_duration_since(*heard) >= ACQUAINTANCE;
            forgotten.extend(self.last_heard.extract_if(|_, heard| is_old(heard)).map(|(at, _)| at));
        }
        if self.last_heard.len() < most || self.last_heard.contains_key(&(realm, flow)) {
            self.last_heard.insert((realm, flow), now);
        }
        forgotten
    }

    /// Whether there is an entry for the party, however old.
    pub(super) fn remembers(&self, realm: RealmId, flow: Flow) -> bool {
        self.last_heard.contains_key(&(realm, flow))
    }

    pub(super) fn has(&self, realm: RealmId, flow: Flow, now: Instant) -> bool {
        let heard = self.last_heard.get(&(realm, flow));
        heard.is_some_and(|heard| now.saturating_duration_since(*heard) < ACQUAINTANCE)
    }
}

/// What strangers may have, by the configuration.
pub(super) fn limits(config: &Config) -> budgets::Limits {
    let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let [calls, transactions] = [config.limits.max_calls, config.limits.max_transactions].map(number);
    let all = Amounts {
        calls,
        // Those of calls that ended are kept for a while.
        dialogs: calls.saturating_mul(2),
        subscriptions: calls,
        transactions,
        port_pairs: config.realms.iter().map(|realm| realm.ports.pairs()).min().unwrap_or_default(),
        bytes: transactions.saturating_mul(BYTES_A_TRANSACTION),
    };
    let settings = &config.strangers;
    let messages = |percent: u32| u32::try_from(u64::from(settings.messages_per_s) * u64::from(percent) / 100);
    let strangers = all.percent(settings.percent);
    let share = |percent: u32| Share {
        amounts: strangers.percent(percent),
        messages_per_s: messages(percent).unwrap_or(u32::MAX).max(1),
    };
    let Amounts { dialogs, subscriptions, transactions, port_pairs, .. } = strangers;
    let holders = [subscriptions, transactions, port_pairs].into_iter().fold(dialogs, u32::saturating_add);
    budgets::Limits {
        everybody: Amounts::ANY,
        strangers: share(100),
        network: share(settings.network_percent),
        source: share(settings.source_percent),
        prefixes: holders.saturating_add(IDLE_SOURCES).min(MOST_PREFIXES),
    }
}

/// The most bytes that all strangers together make Latch keep. All that is as long as strangers make it is counted as
/// [`Amounts::bytes`]: messages, names and routes, session descriptions. `tests/memory` floods Latch and measures.
///
/// What is counted after it was kept may be one request too much, and responses with more than 2 KiB of the
/// softswitch's own go beyond it.
pub fn strangers_memory(config: &Config) -> usize {
    let budgets::Limits { strangers, prefixes, .. } = limits(config);
    let Amounts { dialogs, subscriptions, transactions, bytes, .. } = strangers.amounts;
    Budgets::memory_bound(prefixes)
        + bytes as usize
        + transactions as usize * STATE_OF_A_TRANSACTION
        + (dialogs as usize + subscriptions as usize) * STATE_OF_A_DIALOG
}

/// The most, however large the limits are: 4 million sources take a gigabyte.
const MOST_PREFIXES: u32 = 1 << 22;
