//! What strangers may use together, and how much may be sent to an unproved address.
//!
//! A stranger is a party that the engine does not know: it has no binding and no established dialog, and is not the
//! softswitch. Strangers share scarce resources by where they are: all of them together, those of one network (/24 of
//! IPv4, /48 of IPv6), and those of one source (/32, /64: what one subscriber has). Each level has its bounds, so that
//! one host or one network cannot use up what all share, and all strangers together leave a reserve to the known.
//!
//! ```text
//!   received(source, bytes) ─→ messages a second ─→ credit of 3 × bytes
//!   may_send(source, bytes) ─→ has it proved its address, or credit enough?
//!   take(source, amounts)   ─→ Held, given back when it is dropped
//! ```
//!
//! A source of a datagram may be forged. Until it has [proved](Budgets::proved) its address it gets no more than three
//! times the bytes that came from there, retransmissions included, as a QUIC server sends to an unvalidated address
//! (RFC 9000 §8.1).
//!
//! Memory is bounded by [`Limits::prefixes`] alone ([`Budgets::memory_bound`]): sources and networks are in two tables
//! of fixed size. A source that holds something is never removed; others are removed in the order of their last
//! message, those that have proved their address last. A removed source loses only its credit and its proof. Nothing is
//! allocated for a message.

mod amounts;
mod table;
#[cfg(test)]
mod tests;

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use table::{Entry, Table};

pub use amounts::{Amounts, Resource};

/// What may be sent to an address that has not proved itself, for each byte that came from there (RFC 9000 §8.1).
pub const AMPLIFICATION: u32 = 3;
/// How long a proof of an address holds: then somebody else may have it.
pub const PROOF: Duration = Duration::from_secs(300);
/// Credit beyond this is not kept, bytes: what several of the largest datagrams bring.
const MOST_CREDIT: u32 = 1 << 20;

/// What one level of strangers may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// At once.
    pub amounts: Amounts,
    /// Messages a second; a second's worth may come at once.
    pub messages_per_s: u32,
}

/// All bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Of everybody, the known included. What it is above `strangers` is the reserve of the known.
    pub everybody: Amounts,
    /// Of all strangers together.
    pub strangers: Share,
    /// Of the strangers in one network: /24 of IPv4, /48 of IPv6.
    pub network: Share,
    /// Of one source: an IPv4 address, a /64 of IPv6.
    pub source: Share,
    /// How many sources, and how many networks, are tracked. Above what strangers can hold together, so that each that
    /// holds something has its place.
    pub prefixes: u32,
}

/// Whose bound was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// That of one source.
    Source,
    /// That of its network.
    Network,
    /// That of all strangers.
    Strangers,
    /// That of everybody.
    Everybody,
    /// Every place for a source or network is taken by one that holds something.
    Prefixes,
}

impl Scope {
    /// Its name in the log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Source => "one source",
            Self::Network => "one network",
            Self::Strangers => "all strangers",
            Self::Everybody => "all",
            Self::Prefixes => "sources at once",
        }
    }
}

/// Why something was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Whose bound.
    pub scope: Scope,
    /// Of what; `None` where there was no place to count it.
    pub resource: Option<Resource>,
}

/// What to do with a message of a stranger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Read it.
    Accept,
    /// Drop it unread: there are too many.
    Drop(Scope),
}

/// Something taken from the budgets. It is given back when it is dropped.
#[must_use = "it is given back at once where nobody keeps it"]
#[derive(Debug)]
pub struct Held {
    taken: Taken,
    returned: Arc<Mutex<Vec<Taken>>>,
}

impl Held {
    /// How much it is.
    pub fn amounts(&self) -> Amounts {
        self.taken.amounts
    }

    /// Whether it counts as that of a stranger.
    pub fn is_strangers(&self) -> bool {
        self.taken.place.is_some()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        lock(&self.returned).push(self.taken);
    }
}

/// What is held, and where it is counted: positions of the source and its network in their tables, which do not move
/// while something is held there. `None` for the known.
#[derive(Clone, Copy, Debug)]
struct Taken {
    amounts: Amounts,
    place: Option<(u32, u32)>,
}

/// How much is held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// By everybody.
    pub everybody: Amounts,
    /// By strangers.
    pub strangers: Amounts,
    /// Sources that are tracked.
    pub sources: usize,
}

/// The budgets of all strangers.
#[derive(Debug)]
pub struct Budgets {
    limits: Limits,
    sources: Table,
    networks: Table,
    everybody: Amounts,
    strangers: Entry,
    /// What was dropped since the last call of `collect`.
    returned: Arc<Mutex<Vec<Taken>>>,
}

impl Budgets {
    /// Empty budgets.
    pub fn new(limits: &Limits, now: Instant) -> Self {
        Self {
            limits: *limits,
            sources: Table::new(limits.prefixes),
            networks: Table::new(limits.prefixes),
            everybody: Amounts::default(),
            strangers: Entry::new(0, now),
            returned: Arc::default(),
        }
    }

    /// The most bytes that the tables take, whatever arrives. What is held is not in it: [`Held`] is kept elsewhere.
    pub const fn memory_bound(prefixes: u32) -> usize {
        2 * Table::memory_bound(prefixes)
    }

    /// A message of a stranger came: whether to read it. What it brings may be answered.
    pub fn received(&mut self, source: IpAddr, bytes: usize, now: Instant) -> Verdict {
        self.collect();
        let Some((source, network)) = self.place(source, now) else { return Verdict::Drop(Scope::Prefixes) };
        let [of_source, of_network] = [&mut self.sources, &mut self.networks];
        let levels = [
            (of_source.get_mut(source), self.limits.source, Scope::Source),
            (of_network.get_mut(network), self.limits.network, Scope::Network),
            (Some(&mut self.strangers), self.limits.strangers, Scope::Strangers),
        ];
        for (entry, share, scope) in &levels {
            if entry.as_ref().is_some_and(|entry| !entry.may_message(share.messages_per_s, now)) {
                return Verdict::Drop(*scope);
            }
        }
        // Only accepted messages count: a refused one takes nothing from the others.
        for (entry, share, _) in levels {
            if let Some(entry) = entry {
                entry.message(share.messages_per_s, now);
            }
        }
        self.credit(source, bytes);
        Verdict::Accept
    }

    /// A message came that is read although its source sends too many: it may be answered.
    pub fn received_exempt(&mut self, source: IpAddr, bytes: usize, now: Instant) {
        if let Some((source, _)) = self.place(source, now) {
            self.credit(source, bytes);
        }
    }

    fn credit(&mut self, source: u32, bytes: usize) {
        if let Some(entry) = self.sources.get_mut(source) {
            let brings = u32::try_from(bytes).unwrap_or(u32::MAX).saturating_mul(AMPLIFICATION);
            entry.credit = entry.credit.saturating_add(brings).min(MOST_CREDIT);
        }
    }

    /// Whether this many bytes may be sent to a stranger. If so, they count as sent. `keep` is credit that must be left
    /// afterwards, for what matters more than this.
    pub fn may_send(&mut self, source: IpAddr, bytes: usize, keep: usize, now: Instant) -> bool {
        let Some(entry) = self.sources.find(table::source(source)).and_then(|place| self.sources.get_mut(place)) else {
            return false;
        };
        if entry.is_proved(now) {
            return true;
        }
        let needed = bytes.saturating_add(keep);
        let Some(left) = u32::try_from(bytes).ok().and_then(|bytes| entry.credit.checked_sub(bytes)) else {
            return false;
        };
        if (entry.credit as usize) < needed {
            return false;
        }
        entry.credit = left;
        true
    }

    /// A source proved that it receives what is sent to it.
    pub fn proved(&mut self, source: IpAddr, now: Instant) {
        self.collect();
        if let Some((source, _)) = self.place(source, now) {
            self.sources.prove(source, now + PROOF, now);
        }
    }

    /// Takes this, for a stranger at `source`, or for a known party.
    ///
    /// # Errors
    /// Where a bound would be exceeded; nothing is taken then.
    pub fn take(&mut self, source: IpAddr, amounts: Amounts, known: bool, now: Instant) -> Result<Held, Refusal> {
        self.collect();
        let refuse = |scope, resource| Refusal { scope, resource: Some(resource) };
        let place = if known {
            None
        } else {
            let place = self.place(source, now).ok_or(Refusal { scope: Scope::Prefixes, resource: None })?;
            self.admits(place, &amounts).map_err(|(scope, resource)| refuse(scope, resource))?;
            Some(place)
        };
        if let Some(resource) = self.limits.everybody.exceeded(&self.everybody, &amounts) {
            return Err(refuse(Scope::Everybody, resource));
        }
        self.charge(place, amounts);
        Ok(Held { taken: Taken { amounts, place }, returned: Arc::clone(&self.returned) })
    }

    /// Adds to what is held.
    ///
    /// # Errors
    /// Where a bound would be exceeded; nothing is taken then.
    pub fn take_more(&mut self, held: &mut Held, amounts: Amounts) -> Result<(), Refusal> {
        self.collect();
        let refuse = |(scope, resource)| Refusal { scope, resource: Some(resource) };
        if let Some(place) = held.taken.place {
            self.admits(place, &amounts).map_err(refuse)?;
        }
        if let Some(resource) = self.limits.everybody.exceeded(&self.everybody, &amounts) {
            return Err(refuse((Scope::Everybody, resource)));
        }
        self.charge(held.taken.place, amounts);
        held.taken.amounts += amounts;
        Ok(())
    }

    /// Adds something that exists already: it is not refused, but the next request for more may be.
    pub fn add(&mut self, held: &mut Held, amounts: Amounts) {
        self.charge(held.taken.place, amounts);
        held.taken.amounts += amounts;
    }

    /// The holder is known from now on: what it holds no longer counts as that of strangers.
    pub fn adopt(&mut self, held: &mut Held) {
        self.collect();
        if let Some(place) = held.taken.place.take() {
            self.discharge(place, held.taken.amounts);
        }
    }

    /// How much is held.
    pub fn usage(&mut self) -> Usage {
        self.collect();
        Usage { everybody: self.everybody, strangers: self.strangers.held, sources: self.sources.len() }
    }

    /// The places of a source and its network, which are made where there is room.
    fn place(&mut self, source: IpAddr, now: Instant) -> Option<(u32, u32)> {
        let network = self.networks.place(table::network(source), now)?;
        let source = self.sources.place(table::source(source), now)?;
        Some((source, network))
    }

    fn admits(&self, (source, network): (u32, u32), wanted: &Amounts) -> Result<(), (Scope, Resource)> {
        let levels = [
            (self.sources.get(source), &self.limits.source, Scope::Source),
            (self.networks.get(network), &self.limits.network, Scope::Network),
            (Some(&self.strangers), &self.limits.strangers, Scope::Strangers),
        ];
        for (entry, share, scope) in levels {
            let held = entry.map(|entry| entry.held).unwrap_or_default();
            if let Some(resource) = share.amounts.exceeded(&held, wanted) {
                return Err((scope, resource));
            }
        }
        Ok(())
    }

    fn charge(&mut self, place: Option<(u32, u32)>, amounts: Amounts) {
        self.everybody += amounts;
        if let Some((source, network)) = place {
            self.strangers.held += amounts;
            self.sources.charge(source, amounts);
            self.networks.charge(network, amounts);
        }
    }

    fn discharge(&mut self, (source, network): (u32, u32), amounts: Amounts) {
        self.strangers.held -= amounts;
        self.sources.discharge(source, amounts);
        self.networks.discharge(network, amounts);
    }

    /// Counts what was dropped since the last call.
    fn collect(&mut self) {
        // Taken out during the loop, and put back with its capacity.
        let mut dropped = std::mem::take(&mut *lock(&self.returned));
        for Taken { amounts, place } in dropped.drain(..) {
            self.everybody -= amounts;
            if let Some(place) = place {
                self.discharge(place, amounts);
            }
        }
        let mut returned = lock(&self.returned);
        if returned.is_empty() {
            *returned = dropped;
        }
    }
}

fn lock(returned: &Mutex<Vec<Taken>>) -> MutexGuard<'_, Vec<Taken>> {
    // Nothing that holds the lock can panic half-way.
    returned.lock().unwrap_or_else(PoisonError::into_inner)
}
