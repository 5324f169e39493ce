//! Who is a stranger, and what strangers may use: the core's [`budgets`](super::budgets), by the configuration.
//!
//! Known are the servers of a core realm, a registered terminal at its flow, and for what is not scarce the parties of
//! answered calls. A connection proves an address; a datagram's source is proved by an answer to what was sent there.

use super::{
    Core, LOG_PERIOD,
    budgets::{self, Amounts, Held, Refusal, Share, Verdict},
};
use crate::{config::Config, flow::Flow, media::RealmId};
use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};
use tracing::warn;

/// A party that said nothing for so long is an acquaintance no more.
const ACQUAINTANCE: Duration = Duration::from_secs(3600);
/// Bytes for each transaction that there may be: what a small request, the one that is sent on and the answer take.
const BYTES_A_TRANSACTION: u32 = 4_096;
/// Places for sources that hold nothing, besides one for each that does.
const IDLE_SOURCES: u32 = 16_384;

/// The flows of parties that took part in an answered call lately, by when.
#[derive(Debug, Default)]
pub(super) struct Acquaintances {
    last_heard: HashMap<(RealmId, Flow), Instant>,
    tidied: Option<Instant>,
}

impl Acquaintances {
    fn met(&mut self, realm: RealmId, flow: Flow, most: usize, now: Instant) {
        if self.last_heard.len() >= most && self.tidied.is_none_or(|at| now.saturating_duration_since(at) >= LOG_PERIOD)
        {
            self.tidied = Some(now);
            self.last_heard.retain(|_, heard| now.saturating_duration_since(*heard) < ACQUAINTANCE);
        }
        if self.last_heard.len() < most || self.last_heard.contains_key(&(realm, flow)) {
            self.last_heard.insert((realm, flow), now);
        }
    }

    fn has(&self, realm: RealmId, flow: Flow, now: Instant) -> bool {
        let heard = self.last_heard.get(&(realm, flow));
        heard.is_some_and(|heard| now.saturating_duration_since(*heard) < ACQUAINTANCE)
    }
}

impl Core {
    /// Whether who speaks over this flow is known: a server of a core realm, or a registered terminal.
    pub fn is_known(&self, realm: RealmId, flow: Flow) -> bool {
        self.is_core(realm) || self.terminals.at(realm, flow).next().is_some()
    }

    /// A message came; returns whether to read it. Of strangers there may be too many.
    pub fn hears(&mut self, realm: RealmId, flow: Flow, bytes: usize, now: Instant) -> bool {
        if self.is_known(realm, flow) || self.acquaintances.has(realm, flow, now) {
            return true;
        }
        match self.budgets.received(flow.ip(), bytes, now) {
            Verdict::Accept => true,
            Verdict::Drop(scope) => {
                self.statistics.strangers_dropped += 1;
                self.tell_of_strangers("messages", flow.ip(), scope, now);
                false
            }
        }
    }

    /// Whether so many bytes may be sent over a flow. To an address that nobody has proved to be its sender's, no more than
    /// three times what came from there, and `keep` bytes of that are to be left for what matters more.
    pub fn may_send(&mut self, realm: RealmId, flow: Flow, bytes: usize, keep: usize, now: Instant) -> bool {
        let may = flow.transport.is_reliable()
            || self.is_known(realm, flow)
            || self.acquaintances.has(realm, flow, now)
            || self.budgets.may_send(flow.ip(), bytes, keep, now);
        self.statistics.withheld += u64::from(!may);
        may
    }

    /// Who speaks over this flow has shown that it receives what is sent there.
    pub fn proved(&mut self, realm: RealmId, flow: Flow, now: Instant) {
        if !flow.transport.is_reliable() && !self.is_known(realm, flow) {
            self.budgets.proved(flow.ip(), now);
        }
    }

    /// Who speaks over this flow is a party of an answered call.
    pub fn met(&mut self, realm: RealmId, flow: Flow, now: Instant) {
        if !self.is_known(realm, flow) {
            let most = self.config.limits.max_calls;
            self.acquaintances.met(realm, flow, most, now);
        }
    }

    /// Takes something for a stranger; `None` for who is known, whom only the limits of all bind.
    ///
    /// # Errors
    /// Where strangers have too much already; that is counted and told.
    pub fn take(
        &mut self,
        realm: RealmId,
        flow: Flow,
        amounts: Amounts,
        now: Instant,
    ) -> Result<Option<Held>, Refusal> {
        if self.is_known(realm, flow) {
            return Ok(None);
        }
        self.take_for_stranger(flow.ip(), amounts, now).map(Some)
    }

    pub(super) fn take_for_stranger(
        &mut self,
        source: IpAddr,
        amounts: Amounts,
        now: Instant,
    ) -> Result<Held, Refusal> {
        self.budgets.take(source, amounts, false, now).inspect_err(|refusal| {
            self.statistics.limited += 1;
            let what = refusal.resource.map_or("sources", budgets::Resource::name);
            self.tell_of_strangers(what, source, refusal.scope, now);
        })
    }

    /// One line of the log a second at most.
    fn tell_of_strangers(&mut self, what: &'static str, source: IpAddr, scope: budgets::Scope, now: Instant) {
        if self.last_crowd_log.is_some_and(|at| now.saturating_duration_since(at) < LOG_PERIOD) {
            return;
        }
        self.last_crowd_log = Some(now);
        warn!(what, %source, share = scope.name(), "strangers have their share: what goes beyond it is refused or dropped");
    }
}

/// What strangers may have, by the configuration.
pub(super) fn limits(config: &Config) -> budgets::Limits {
    let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let [calls, transactions] = [config.limits.max_calls, config.limits.max_transactions].map(number);
    let all = Amounts {
        // Of calls, those that ended stay a while; and what is no call has as much again.
        dialogs: calls.saturating_mul(3),
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
    let holders = strangers.dialogs.saturating_add(strangers.transactions).saturating_add(strangers.port_pairs);
    budgets::Limits {
        everybody: Amounts::ANY,
        strangers: share(100),
        network: share(settings.network_percent),
        source: share(settings.source_percent),
        prefixes: holders.saturating_add(IDLE_SOURCES).min(MOST_PREFIXES),
    }
}

/// However large the limits are: 4 million sources take a gigabyte.
const MOST_PREFIXES: u32 = 1 << 22;
