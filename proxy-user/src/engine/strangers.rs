//! Who is a stranger, and what strangers may use: the core's [`budgets`](super::budgets), by the configuration.
//!
//! The servers of a core realm are known, a registered terminal at its flow, and, except for scarce resources, the
//! parties of answered calls. A connection proves an address; a datagram's source is proved by an answer to what was
//! sent there.

use super::{
    budgets::{self, Amounts, Held, Refusal, Verdict},
    core::{Core, LOG_PERIOD},
    ids::CallId,
    inputs::Output,
};
use crate::{
    flow::{Flow, Transport},
    media::RealmId,
};
use std::{net::IpAddr, time::Instant};
use tracing::warn;

impl Core {
    /// Whether the sender at this flow is known: a server of a core realm, or a registered terminal.
    pub fn is_known(&self, realm: RealmId, flow: Flow) -> bool {
        self.is_core(realm) || self.terminals.at(realm, flow).next().is_some()
    }

    /// A message came; returns whether to read it. Strangers may send too many: then `exempt` says whether this one
    /// names a secret that no stranger knows. Over a connection the source is genuine, and connections have limits of
    /// their own.
    pub fn hears(
        &mut self,
        realm: RealmId,
        flow: Flow,
        bytes: usize,
        exempt: impl FnOnce() -> bool,
        now: Instant,
    ) -> bool {
        let apart = flow.transport.is_reliable();
        if apart || self.is_known(realm, flow) || self.acquaintances.has(realm, flow, now) {
            return true;
        }
        match self.budgets.received(flow.ip(), bytes, now) {
            Verdict::Accept => true,
            Verdict::Drop(_) if exempt() => {
                self.budgets.received_exempt(flow.ip(), bytes, now);
                true
            }
            Verdict::Drop(scope) => {
                self.statistics.strangers_dropped += 1;
                self.tell_of_strangers("messages", flow.ip(), scope, now);
                false
            }
        }
    }

    /// Whether this many bytes may be sent over a flow. An unproved address gets at most three times the bytes that
    /// came from there, and `keep` bytes of that must be left for what matters more.
    pub fn may_send(&mut self, realm: RealmId, flow: Flow, bytes: usize, keep: usize, now: Instant) -> bool {
        let may = flow.transport.is_reliable()
            || self.is_known(realm, flow)
            || self.acquaintances.has(realm, flow, now)
            || self.budgets.may_send(flow.ip(), bytes, keep, now);
        self.statistics.withheld += u64::from(!may);
        may
    }

    /// The sender at this flow has shown that it receives what is sent there.
    pub fn proved(&mut self, realm: RealmId, flow: Flow, now: Instant) {
        if !flow.transport.is_reliable() && !self.is_known(realm, flow) {
            self.budgets.proved(flow.ip(), now);
        }
    }

    /// The sender at this flow is a party of an answered call.
    pub fn met(&mut self, realm: RealmId, flow: Flow, now: Instant) {
        if !self.is_known(realm, flow) {
            let most = self.config.limits.max_calls;
            let forgotten = self.tell_known(realm, flow, |core| core.acquaintances.met(realm, flow, most, now));
            for (realm, flow) in forgotten {
                // It may have registered in the meantime.
                if !self.is_always_read(realm, flow) {
                    self.tell(realm, flow, false);
                }
            }
        }
    }

    /// Changes what is known about a flow, and reports whether that makes its datagrams always be read.
    pub(super) fn tell_known<R>(&mut self, realm: RealmId, flow: Flow, change: impl FnOnce(&mut Self) -> R) -> R {
        let before = self.is_always_read(realm, flow);
        let result = change(self);
        if self.is_always_read(realm, flow) != before {
            self.tell(realm, flow, !before);
        }
        result
    }

    fn is_always_read(&self, realm: RealmId, flow: Flow) -> bool {
        self.terminals.at(realm, flow).next().is_some() || self.acquaintances.remembers(realm, flow)
    }

    fn tell(&mut self, realm: RealmId, flow: Flow, known: bool) {
        if flow.transport == Transport::Udp {
            self.outputs.push_back(Output::Known { realm, remote: flow.remote, known });
        }
    }

    /// Takes something for a stranger; `None` for a known party, which only the limits of all apply to.
    ///
    /// # Errors
    /// Where strangers have too much already; that is counted and logged.
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

    /// Adds this many bytes to what is held.
    pub fn add_bytes(&mut self, held: &mut Held, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.budgets.add(held, Amounts { bytes, ..Amounts::default() });
    }

    /// A stranger at this address began a call, for which it has taken `held`: until it is answered, the call and its
    /// ports are of the share of strangers.
    pub fn is_strangers(&mut self, call: CallId, source: IpAddr, held: Held) {
        if let Some(call) = self.calls.get_mut(&call).filter(|call| !call.is_answered()) {
            call.stranger = Some(source);
            call.held.push(held);
        }
    }

    /// Takes pairs of ports and bytes for an offer of a stranger's call.
    ///
    /// # Errors
    /// Where strangers have too many already.
    pub(super) fn take_offer(&mut self, id: CallId, pairs: usize, bytes: usize, now: Instant) -> Result<(), Refusal> {
        let Some(source) = self.calls.get(&id).and_then(|call| call.stranger) else { return Ok(()) };
        let [port_pairs, bytes] = [pairs, bytes].map(|amount| u32::try_from(amount).unwrap_or(u32::MAX));
        let held = self.take_for_stranger(source, Amounts { port_pairs, bytes, ..Amounts::default() }, now)?;
        if let Some(call) = self.calls.get_mut(&id) {
            call.held.push(held);
        }
        Ok(())
    }

    fn take_for_stranger(&mut self, source: IpAddr, amounts: Amounts, now: Instant) -> Result<Held, Refusal> {
        self.budgets.take(source, amounts, false, now).inspect_err(|refusal| {
            self.statistics.limited += 1;
            let what = refusal.resource.map_or("sources", budgets::Resource::name);
            self.tell_of_strangers(what, source, refusal.scope, now);
        })
    }

    /// At most one log line a second.
    fn tell_of_strangers(&mut self, what: &'static str, source: IpAddr, scope: budgets::Scope, now: Instant) {
        if self.last_crowd_log.is_some_and(|at| now.saturating_duration_since(at) < LOG_PERIOD) {
            return;
        }
        self.last_crowd_log = Some(now);
        warn!(what, %source, share = scope.name(), "strangers have used up their share: more is refused or dropped");
    }
}
