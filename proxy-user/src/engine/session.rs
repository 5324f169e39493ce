//! The media of one call: offers and answers (RFC 3264) become streams, legs and ports.
//!
//! An offer reserves what is new in it and opens nothing but that; only the answer moves a stream that is running, so
//! that a refused re-INVITE leaves the session as it was (RFC 6141). Reading the same answer twice changes nothing.

use super::{
    description::{Agreed, Exchange},
    sides::{CallSide, PerSide},
    slot::{OfferError, Resources, Side, Slot, StreamReport},
};
use crate::{
    config::Realm,
    media::{
        Description, LegCounters, MediaCommand, MediaPlan, PerRealm, RealmId, StreamId, StreamSpec,
        allocator::PortPair, bandwidth::Estimate,
    },
};
use serde::{Deserialize, Serialize};
use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

/// How long a call on hold may be silent: nothing else would show that both parties are gone.
pub(super) const LONGEST_HOLD: Duration = Duration::from_secs(3600);

/// Bytes that a stream takes outside of its session: its entry in the map of all streams, and what the allocator adds.
const ENTRIES_OF_A_STREAM: usize = 128;

/// The media of one call.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct MediaSession {
    sides: PerSide<Side>,
    /// One for each media description, by position; `None` where it is not relayed.
    slots: Vec<Option<Slot>>,
    offer: Option<Offer>,
    /// Streams that were given up and whose last counters have not come.
    leaving: Vec<Slot>,
    /// Streams that are gone.
    ended: Vec<StreamReport>,
}

/// The latest offer.
#[derive(Debug, Serialize, Deserialize)]
struct Offer {
    from: CallSide,
    answered: bool,
    /// Its transaction ended with an earlier process: it does not prevent a new offer. An ACK may still answer it.
    #[serde(default)]
    orphan: bool,
    media: Vec<Description>,
    /// Slots that did not exist before it.
    fresh: Vec<usize>,
    /// What the others agreed on before it.
    before: Vec<(usize, Agreed)>,
}

/// Media in the two directions of a realm, bytes a second of IP packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Flows {
    pub(super) arriving: u64,
    pub(super) leaving: u64,
}

impl MediaSession {
    pub(super) fn new(sides: PerSide<Side>) -> Self {
        Self { sides, slots: Vec::new(), offer: None, leaving: Vec::new(), ended: Vec::new() }
    }

    /// The bytes that an offer takes: its descriptions, and a slot for each, whether it is relayed or not.
    pub(super) fn memory_of_offer(media: &[Description]) -> usize {
        let of_stream = size_of::<Description>() + size_of::<Option<Slot>>() + ENTRIES_OF_A_STREAM;
        let of_text = |description: &Description| 2 * description.kind.len() + size_of_val(&*description.formats);
        media.iter().map(|description| of_stream + of_text(description)).sum()
    }

    /// The side whose offer waits for its answer, if there is one.
    pub(super) fn open_offer(&self) -> Option<CallSide> {
        self.offer.as_ref().filter(|offer| !offer.answered && !offer.orphan).map(|offer| offer.from)
    }

    /// Takes an offer that side `from` made; returns what is offered to the other side. One that is open and comes once
    /// more, as in several responses to one request, changes nothing.
    pub(super) fn offer(
        &mut self,
        from: CallSide,
        media: Vec<Description>,
        resources: &mut Resources<'_>,
    ) -> Result<Vec<MediaPlan>, OfferError> {
        let to = from.other();
        let open = |offer: &&Offer| offer.from == from && !offer.answered && !offer.orphan;
        if self.offer.as_ref().filter(open).is_some_and(|offer| offer.media == media) {
            return Ok(self.plans(to, &media, Exchange::Offer));
        }
        self.roll_back(resources);
        if media.iter().any(|description| description.stated) && !media.iter().any(|description| description.relayed) {
            return Err(OfferError::NothingToRelay);
        }
        let mut fresh = Vec::new();
        if self.slots.len() < media.len() {
            self.slots.resize_with(media.len(), || None);
        }
        for (index, description) in media.iter().enumerate() {
            if !description.relayed || self.slots.get(index).is_some_and(Option::is_some) {
                continue;
            }
            match self.reserve(index, description, resources) {
                Ok(slot) => {
                    if let Some(place) = self.slots.get_mut(index) {
                        *place = Some(slot);
                        fresh.push(index);
                    }
                }
                Err(error) => {
                    self.give_up(&fresh, resources);
                    return Err(error);
                }
            }
        }
        for &index in &fresh {
            let slot = self.slots.get_mut(index).and_then(Option::as_mut);
            if let (Some(slot), Some(description)) = (slot, media.get(index)) {
                slot.agreed.set_remote(from, description.remote);
                let open = PerSide::new(to == CallSide::Caller, to == CallSide::Callee);
                slot.apply(&self.sides, resources, open);
            }
        }
        let plans = self.plans(to, &media, Exchange::Offer);
        let old = self.slots.iter().enumerate().filter(|(index, _)| !fresh.contains(index));
        let before = old.filter_map(|(index, slot)| Some((index, slot.as_ref()?.agreed.clone()))).collect();
        self.offer = Some(Offer { from, answered: false, orphan: false, media, fresh, before });
        Ok(plans)
    }

    /// Takes the answer of side `from`; returns what is answered to the party that offered. `last` says that no other
    /// answer to this offer can come, so what it refuses is given up.
    pub(super) fn answer(
        &mut self,
        from: CallSide,
        media: &[Description],
        last: bool,
        resources: &mut Resources<'_>,
    ) -> Vec<MediaPlan> {
        let to = from.other();
        let offered = self.offer.as_ref().map(|offer| offer.media.clone()).unwrap_or_default();
        if let Some(offer) = &mut self.offer {
            offer.answered = true;
        }
        let mut plans = Vec::new();
        for (index, answered) in media.iter().enumerate() {
            let agreed = answered.relayed && offered.get(index).is_some_and(|offered| offered.relayed);
            let slot = self.slots.get_mut(index).and_then(Option::as_mut);
            plans.push(match (slot, offered.get(index)) {
                (Some(slot), Some(offered)) if agreed => {
                    slot.answered = true;
                    slot.agreed.agree(from, offered, answered);
                    slot.apply(&self.sides, resources, PerSide::new(true, true));
                    slot.plan(to, offered, Exchange::Answer)
                }
                _ => MediaPlan::Reject,
            });
            if last && !agreed {
                self.give_up(&[index], resources);
            }
        }
        if last {
            let refused: Vec<_> = (media.len()..self.slots.len()).collect();
            self.give_up(&refused, resources);
        }
        plans
    }

    /// Whether side `from` is the one to answer the last offer, for the first time or once more.
    pub(super) fn is_answerer(&self, from: CallSide) -> bool {
        self.offer.as_ref().is_some_and(|offer| offer.from != from)
    }

    /// What goes to side `to` for descriptions that change nothing: the ports that its media have anyway.
    pub(super) fn restate(&self, to: CallSide, media: &[Description]) -> Vec<MediaPlan> {
        self.plans(to, media, Exchange::Answer)
    }

    /// Forgets an offer that nobody answered.
    pub(super) fn roll_back(&mut self, resources: &mut Resources<'_>) {
        if let Some(offer) = self.offer.take_if(|offer| !offer.answered) {
            self.give_up(&offer.fresh, resources);
        }
    }

    /// The request with the last offer failed, though a provisional response had answered it: as it was before (RFC
    /// 3261, section 14.1).
    pub(super) fn undo(&mut self, resources: &mut Resources<'_>) {
        let Some(offer) = self.offer.take() else { return };
        self.give_up(&offer.fresh, resources);
        for (index, agreed) in offer.before {
            if let Some(slot) = self.slots.get_mut(index).and_then(Option::as_mut) {
                slot.agreed = agreed;
                slot.apply(&self.sides, resources, PerSide::new(true, true));
            }
        }
    }

    /// Ends all streams.
    pub(super) fn close(&mut self, resources: &mut Resources<'_>) {
        let all: Vec<_> = (0..self.slots.len()).collect();
        self.give_up(&all, resources);
        self.offer = None;
    }

    /// Media of each side, bytes a second of IP packets, as [`Flows`]; those that an open offer asks for are among
    /// them.
    pub(super) fn demand(&self, realms: &PerRealm<Realm>) -> PerSide<Flows> {
        let offer = self.offer.as_ref().filter(|offer| !offer.answered && !offer.orphan);
        self.demand_beside(offer.map_or(&[], |offer| &offer.media), realms)
    }

    /// The same, if this offer were taken.
    pub(super) fn demand_with(&self, media: &[Description], realms: &PerRealm<Realm>) -> PerSide<Flows> {
        self.demand_beside(media, realms)
    }

    fn demand_beside(&self, offered: &[Description], realms: &PerRealm<Realm>) -> PerSide<Flows> {
        let mut demand = PerSide::<Flows>::default();
        for index in 0..self.slots.len().max(offered.len()) {
            let slot = self.slots.get(index).and_then(Option::as_ref);
            let offered = offered.get(index).filter(|description| description.relayed);
            if slot.is_none() && offered.is_none() {
                continue;
            }
            for side in CallSide::BOTH {
                let Some(realm) = realms.get(self.sides[side].realm) else { continue };
                // Where nothing is known, the most that the realm lets in.
                let unknown = |sender: CallSide| {
                    let sender = realms.get(self.sides[sender].realm);
                    sender.and_then(|realm| realm.policy.stream_kbps).map_or(0, |kbps| u64::from(kbps) * 125)
                };
                let size = |estimate: Option<Estimate>, sender: CallSide| {
                    estimate.map_or_else(|| unknown(sender), |estimate| estimate.on(realm.media))
                };
                let of = |sender: CallSide| {
                    let now = slot.map_or(0, |slot| size(slot.agreed.sends[sender], sender));
                    now.max(offered.map_or(0, |description| size(description.asks_for(), sender)))
                };
                demand[side].arriving += of(side);
                demand[side].leaving += of(side.other());
            }
        }
        demand
    }

    /// Whether the last counters of every stream have come.
    pub(super) fn is_closed(&self) -> bool {
        self.leaving.is_empty() && self.slots.iter().all(Option::is_none)
    }

    /// Streams that are or were relayed.
    pub(super) fn reports(&self) -> &[StreamReport] {
        &self.ended
    }

    /// A leg latched.
    pub(super) fn latched(&mut self, stream: StreamId, leg: usize, rtcp: bool, source: SocketAddr, at: Instant) {
        let component = usize::from(rtcp);
        let place = self.slot_mut(stream).and_then(|slot| slot.latched.get_mut(leg)?.get_mut(component));
        if let Some(place) = place {
            *place = Some((source, at));
        }
    }

    /// A stream was silent for `timeout`. Returns whether the whole session is: every stream, and those on hold for
    /// [`LONGEST_HOLD`].
    pub(super) fn silent(&mut self, stream: StreamId, now: Instant, timeout: Duration) -> bool {
        // Every stream reports once in `timeout` while it is silent; half of it more covers the time between reports.
        let horizon = timeout + timeout / 2;
        let lasts = |last: Instant| now.saturating_duration_since(last) < horizon;
        if let Some(slot) = self.slot_mut(stream) {
            let since = slot.silent.filter(|(_, last)| lasts(*last)).map_or(now, |(since, _)| since);
            slot.silent = Some((since, now));
        }
        self.slots.iter().flatten().all(|slot| {
            slot.silent.is_some_and(|(since, last)| {
                lasts(last) && (!slot.agreed.on_hold || now.saturating_duration_since(since) >= LONGEST_HOLD)
            })
        })
    }

    /// The signalling of a side comes from another address now, and so may its media.
    pub(super) fn moved(&mut self, side: CallSide, signalling: IpAddr, resources: &mut Resources<'_>) {
        if std::mem::replace(&mut self.sides[side].signalling, signalling) == signalling {
            return;
        }
        for slot in self.slots.iter_mut().flatten() {
            let open = slot.applied.as_ref().map(|spec| PerSide::new(spec.legs[0].open, spec.legs[1].open));
            if let Some(open) = open {
                slot.apply(&self.sides, resources, open);
            }
        }
    }

    /// Whether no stream is relayed now.
    pub(super) fn is_idle(&self) -> bool {
        self.slots.iter().all(Option::is_none)
    }

    /// The last counters of a stream came: its ports may rest. Returns false for a stream of another session.
    pub(super) fn released(
        &mut self,
        stream: StreamId,
        counters: [LegCounters; 2],
        resources: &mut Resources<'_>,
    ) -> bool {
        let Some(position) = self.leaving.iter().position(|slot| slot.id == stream) else { return false };
        let slot = self.leaving.swap_remove(position);
        for side in CallSide::BOTH {
            let (realm, port) = (self.sides[side].realm, slot.ports[side]);
            if let Some(allocator) = resources.allocators.get_mut(realm) {
                // No source was accepted before an answer, so no late packet can come.
                let released = match slot.answered {
                    true => allocator.release(port, resources.now),
                    false => allocator.release_unused(port),
                };
                // Taken from it and released once: it can't refuse.
                debug_assert!(released.is_ok());
            }
        }
        let Slot { index, agreed: Agreed { kind, codec, .. }, latched, .. } = slot;
        self.report(StreamReport { index, kind, codec, latched, counters });
        true
    }

    /// Every stream that is relayed or whose last counters have not come.
    pub(super) fn streams(&self) -> impl Iterator<Item = StreamId> {
        self.held().map(|slot| slot.id)
    }

    /// The streams that are relayed, as they were given to the datapath.
    pub(super) fn live_specs(&self) -> impl Iterator<Item = &StreamSpec> {
        self.slots.iter().flatten().filter_map(|slot| slot.applied.as_ref())
    }

    /// Those whose last counters have not come.
    pub(super) fn leaving_specs(&self) -> impl Iterator<Item = &StreamSpec> {
        self.leaving.iter().filter_map(|slot| slot.applied.as_ref())
    }

    /// Streams that were given up and whose last counters have not come.
    pub(super) fn leaving(&self) -> impl Iterator<Item = StreamId> {
        self.leaving.iter().map(|slot| slot.id)
    }

    /// The ports in use, with their realms.
    pub(super) fn ports(&self) -> impl Iterator<Item = (RealmId, PortPair)> {
        self.held().flat_map(|slot| CallSide::BOTH.map(|side| (self.sides[side].realm, slot.ports[side])))
    }

    /// The transaction of the last offer ended with an earlier process.
    pub(super) fn orphan_offer(&mut self) {
        self.offer.iter_mut().for_each(|offer| offer.orphan = true);
    }

    /// All streams are gone, and nobody knows what they counted.
    pub(super) fn lose(&mut self) {
        let lost: Vec<_> = self.slots.drain(..).flatten().chain(self.leaving.drain(..)).collect();
        for slot in lost {
            let Slot { index, agreed: Agreed { kind, codec, .. }, latched, .. } = slot;
            self.report(StreamReport { index, kind, codec, latched, counters: Default::default() });
        }
        self.offer = None;
    }

    /// Notes a stream that is gone. What was offered again and again at the same place with the same codec is one
    /// report, so that there are never more than a call has had kinds of streams.
    fn report(&mut self, report: StreamReport) {
        /// More than any call has: beyond it, what is at one place is one report whatever it was.
        const MOST: usize = 64;
        let full = self.ended.len() >= MOST;
        let same = |known: &&mut StreamReport| {
            let kind = (&known.kind, known.codec) == (&report.kind, report.codec);
            known.index == report.index && (kind || full)
        };
        match self.ended.iter_mut().find(same) {
            Some(known) => known.add(&report),
            None => {
                self.ended.push(report);
                self.ended.sort_by_key(|report| report.index);
            }
        }
    }

    fn held(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter().flatten().chain(&self.leaving)
    }

    fn slot_mut(&mut self, stream: StreamId) -> Option<&mut Slot> {
        self.slots.iter_mut().flatten().chain(&mut self.leaving).find(|slot| slot.id == stream)
    }

    fn reserve(
        &self,
        index: usize,
        description: &Description,
        resources: &mut Resources<'_>,
    ) -> Result<Slot, OfferError> {
        let PerSide { caller: first, callee: second } = self.sides.map(|side| side.realm);
        let one = resources.allocate(first)?;
        let other = resources.allocate(second).inspect_err(|_| {
            if let Some(allocator) = resources.allocators.get_mut(first) {
                let released = allocator.release_unused(one);
                debug_assert!(released.is_ok());
            }
        })?;
        let ports = PerSide::new(one, other);
        *resources.next_stream += 1;
        Ok(Slot {
            id: StreamId(*resources.next_stream),
            index,
            ports,
            agreed: Agreed::offered(description),
            answered: false,
            applied: None,
            silent: None,
            latched: [[None; 2]; 2],
        })
    }

    fn give_up(&mut self, indexes: &[usize], resources: &mut Resources<'_>) {
        for &index in indexes {
            if let Some(slot) = self.slots.get_mut(index).and_then(Option::take) {
                resources.commands.push(MediaCommand::Release(slot.id));
                self.leaving.push(slot);
            }
        }
    }

    fn plans(&self, to: CallSide, media: &[Description], exchange: Exchange) -> Vec<MediaPlan> {
        let plan = |(index, description): (usize, &Description)| match self.slots.get(index) {
            Some(Some(slot)) if description.relayed => slot.plan(to, description, exchange),
            _ => MediaPlan::Reject,
        };
        media.iter().enumerate().map(plan).collect()
    }
}
