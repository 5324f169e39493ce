//! The media of one call: offers and answers (RFC 3264) become streams, legs and ports.
//!
//! An offer reserves what is new in it and opens nothing but that; only the answer moves a stream that is running, so
//! that a refused re-INVITE leaves the session as it was (RFC 6141). Reading the same answer twice changes nothing.

use super::{
    description::{Agreed, Exchange},
    sides::CallSide,
};
use crate::{
    config::Realm,
    journal::moment,
    media::{
        Carry, Description, LegCounters, LegPolicy, LegSpec, MediaCommand, MediaPlan, RealmId, RemoteMedia, StreamId,
        StreamSpec,
        allocator::{PortAllocator, PortPair},
        bandwidth::{Codec, Estimate},
    },
};
use serde::{Deserialize, Serialize};
use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

/// A call on hold may be silent, but not for ever: nothing else would tell that both parties are gone.
pub(super) const LONGEST_HOLD: Duration = Duration::from_secs(3600);

/// What a session needs from the engine around it.
pub(super) struct Resources<'a> {
    /// One for each realm.
    pub(super) allocators: &'a mut [PortAllocator],
    /// The media address of each realm.
    pub(super) addresses: &'a [IpAddr],
    /// What each realm says of its legs.
    pub(super) realms: &'a [Realm],
    pub(super) next_stream: &'a mut u64,
    pub(super) random: &'a mut dyn FnMut() -> u64,
    pub(super) commands: &'a mut Vec<MediaCommand>,
    pub(super) now: Instant,
}

impl Resources<'_> {
    fn allocate(&mut self, realm: RealmId) -> Result<PortPair, OfferError> {
        let random = (self.random)();
        let allocator = self.allocators.get_mut(realm).ok_or(OfferError::PortsExhausted(realm))?;
        allocator.allocate(random, self.now).map_err(|_| OfferError::PortsExhausted(realm))
    }
}

/// Why an offer can't be passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OfferError {
    /// No pair of ports is left in the realm.
    PortsExhausted(RealmId),
    /// It holds media, but none that can be relayed.
    NothingToRelay,
}

/// The media of one call. Side 0 is the party that began the call, side 1 the one that was called.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct MediaSession {
    sides: [Side; 2],
    /// One for each media description, by position; `None` where it is not relayed.
    slots: Vec<Option<Slot>>,
    offer: Option<Offer>,
    /// Streams that were given up and whose last counters have not come.
    leaving: Vec<Slot>,
    /// Streams that are gone.
    ended: Vec<StreamReport>,
}

/// One party, as far as media go.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Side {
    pub(super) realm: RealmId,
    /// Where its signalling comes from.
    pub(super) signalling: IpAddr,
    /// Its realm is trusted: its session descriptions tell the truth about its addresses.
    pub(super) trusted: bool,
    /// Its realm is not, but the addresses of its media count all the same.
    #[serde(default)]
    pub(super) believed: bool,
}

impl Side {
    /// Whether a media address that it states may be sent to and learned from. Behind a NAT it states a private one, and
    /// whoever has that in the access network is somebody else.
    fn may_state(&self, address: IpAddr) -> bool {
        self.trusted || self.believed || address == self.signalling
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Slot {
    id: StreamId,
    index: usize,
    ports: [PortPair; 2],
    agreed: Agreed,
    /// As the datapath has it.
    applied: Option<StreamSpec>,
    /// Of the silence that lasts: its first and its last report.
    #[serde(with = "moment")]
    silent: Option<(Instant, Instant)>,
    /// Of each side the source of RTP and of RTCP.
    #[serde(with = "moment")]
    latched: [[Option<(SocketAddr, Instant)>; 2]; 2],
}

/// The latest offer.
#[derive(Debug, Serialize, Deserialize)]
struct Offer {
    from: usize,
    answered: bool,
    /// Its transaction ended with an earlier process: it keeps nobody from offering anew. An ACK may still answer it.
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

/// What became of a stream.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct StreamReport {
    pub(super) index: usize,
    pub(super) kind: String,
    pub(super) codec: Codec,
    #[serde(with = "moment")]
    pub(super) latched: [[Option<(SocketAddr, Instant)>; 2]; 2],
    pub(super) counters: [LegCounters; 2],
}

impl MediaSession {
    pub(super) fn new(sides: [Side; 2]) -> Self {
        Self { sides, slots: Vec::new(), offer: None, leaving: Vec::new(), ended: Vec::new() }
    }

    /// Whether the last offer waits for its answer, and from whom the offer came.
    pub(super) fn open_offer(&self) -> Option<usize> {
        self.offer.as_ref().filter(|offer| !offer.answered && !offer.orphan).map(|offer| offer.from)
    }

    /// Takes an offer that side `from` made; returns what is offered to the other side. One that is open and comes once
    /// more, as in several responses to one request, changes nothing.
    pub(super) fn offer(
        &mut self,
        from: usize,
        media: Vec<Description>,
        resources: &mut Resources<'_>,
    ) -> Result<Vec<MediaPlan>, OfferError> {
        let to = 1 - from;
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
                let open = if to == 0 { [true, false] } else { [false, true] };
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
        from: usize,
        media: &[Description],
        last: bool,
        resources: &mut Resources<'_>,
    ) -> Vec<MediaPlan> {
        let to = 1 - from;
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
                    slot.agreed.agree(from, offered, answered);
                    slot.apply(&self.sides, resources, [true, true]);
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
    pub(super) fn is_answerer(&self, from: usize) -> bool {
        self.offer.as_ref().is_some_and(|offer| offer.from != from)
    }

    /// What goes to side `to` for descriptions that change nothing: the ports that its media have anyway.
    pub(super) fn restate(&self, to: usize, media: &[Description]) -> Vec<MediaPlan> {
        self.plans(to, media, Exchange::Answer)
    }

    /// Forgets an offer that nobody answered.
    pub(super) fn roll_back(&mut self, resources: &mut Resources<'_>) {
        if let Some(offer) = self.offer.take_if(|offer| !offer.answered) {
            self.give_up(&offer.fresh, resources);
        }
    }

    /// The request with the last offer failed, though a provisional response had answered it: as it was before (RFC 3261,
    /// section 14.1).
    pub(super) fn undo(&mut self, resources: &mut Resources<'_>) {
        let Some(offer) = self.offer.take() else { return };
        self.give_up(&offer.fresh, resources);
        for (index, agreed) in offer.before {
            if let Some(slot) = self.slots.get_mut(index).and_then(Option::as_mut) {
                slot.agreed = agreed;
                slot.apply(&self.sides, resources, [true, true]);
            }
        }
    }

    /// Ends all streams.
    pub(super) fn close(&mut self, resources: &mut Resources<'_>) {
        let all: Vec<_> = (0..self.slots.len()).collect();
        self.give_up(&all, resources);
        self.offer = None;
    }

    /// Media of each side, bytes a second of IP packets, as [`Flows`]; those that an open offer asks for are among them.
    pub(super) fn demand(&self, realms: &[Realm]) -> [Flows; 2] {
        let offer = self.offer.as_ref().filter(|offer| !offer.answered && !offer.orphan);
        self.demand_beside(offer.map_or(&[], |offer| &offer.media), realms)
    }

    /// The same, if this offer were taken.
    pub(super) fn demand_with(&self, media: &[Description], realms: &[Realm]) -> [Flows; 2] {
        self.demand_beside(media, realms)
    }

    fn demand_beside(&self, offered: &[Description], realms: &[Realm]) -> [Flows; 2] {
        let mut demand = [Flows::default(); 2];
        for index in 0..self.slots.len().max(offered.len()) {
            let slot = self.slots.get(index).and_then(Option::as_ref);
            let offered = offered.get(index).filter(|description| description.relayed);
            if slot.is_none() && offered.is_none() {
                continue;
            }
            for (side, flows) in demand.iter_mut().enumerate() {
                let Some(realm) = realms.get(self.sides[side].realm) else { continue };
                // Where nothing is known, the most that the realm lets in.
                let unknown = |sender: usize| {
                    let sender = realms.get(self.sides[sender].realm);
                    sender.and_then(|realm| realm.policy.stream_kbps).map_or(0, |kbps| u64::from(kbps) * 125)
                };
                let size = |estimate: Option<Estimate>, sender: usize| {
                    estimate.map_or_else(|| unknown(sender), |estimate| estimate.on(realm.media))
                };
                let of = |sender: usize| {
                    let now = slot.map_or(0, |slot| size(slot.agreed.sends[sender], sender));
                    now.max(offered.map_or(0, |description| size(description.asks_for(), sender)))
                };
                flows.arriving += of(side);
                flows.leaving += of(1 - side);
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
        if std::mem::replace(&mut self.sides[side.index()].signalling, signalling) == signalling {
            return;
        }
        for slot in self.slots.iter_mut().flatten() {
            let open = slot.applied.as_ref().map(|spec| [spec.legs[0].open, spec.legs[1].open]);
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
        for (side, port) in self.sides.iter().zip(slot.ports) {
            if let Some(allocator) = resources.allocators.get_mut(side.realm) {
                // Taken from it and released once: it can't refuse.
                let released = allocator.release(port, resources.now);
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

    /// Those that are relayed, as the datapath was told.
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
        self.held().flat_map(|slot| self.sides.iter().map(|side| side.realm).zip(slot.ports))
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

    /// Notes a stream that is gone. What was offered again and again at the same place with the same codec is one report,
    /// so that there are never more than a call has had kinds of streams.
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
        let [first, second] = self.sides.map(|side| side.realm);
        let one = resources.allocate(first)?;
        let other = resources.allocate(second).inspect_err(|_| {
            if let Some(allocator) = resources.allocators.get_mut(first) {
                let released = allocator.release(one, resources.now);
                debug_assert!(released.is_ok());
            }
        })?;
        let ports = [one, other];
        *resources.next_stream += 1;
        Ok(Slot {
            id: StreamId(*resources.next_stream),
            index,
            ports,
            agreed: Agreed::offered(description),
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

    fn plans(&self, to: usize, media: &[Description], exchange: Exchange) -> Vec<MediaPlan> {
        let plan = |(index, description): (usize, &Description)| match self.slots.get(index) {
            Some(Some(slot)) if description.relayed => slot.plan(to, description, exchange),
            _ => MediaPlan::Reject,
        };
        media.iter().enumerate().map(plan).collect()
    }
}

impl StreamReport {
    /// The same stream once more, later.
    fn add(&mut self, later: &Self) {
        for (counters, more) in self.counters.iter_mut().zip(&later.counters) {
            counters.add(more);
        }
        for (known, later) in self.latched.iter_mut().flatten().zip(later.latched.iter().flatten()) {
            *known = later.or(*known);
        }
    }
}

impl Slot {
    /// How the media goes into a session description for side `to`.
    ///
    /// Whether RTP and RTCP share a port is agreed on with each side by itself: an offer of one side is taken whatever
    /// the other side can do, and passed on.
    fn plan(&self, to: usize, offered: &Description, exchange: Exchange) -> MediaPlan {
        let (rtp_port, rtcp_port) = (self.ports[to].rtp(), self.ports[to].rtcp());
        let shares = self.agreed.rtcp_mux[to];
        match exchange {
            // The port for RTCP is that of the case that the other side can't (RFC 5761, section 5.1.1). Who could
            // before may still rely on it.
            Exchange::Offer => MediaPlan::Relay { rtp_port, rtcp_port, rtcp_mux: offered.rtcp_mux || shares },
            Exchange::Answer if shares => MediaPlan::Relay { rtp_port, rtcp_port: rtp_port, rtcp_mux: true },
            Exchange::Answer => MediaPlan::Relay { rtp_port, rtcp_port, rtcp_mux: false },
        }
    }

    fn local(&self, side: usize, sides: &[Side; 2], resources: &Resources<'_>) -> SocketAddr {
        let address = resources.addresses.get(sides[side].realm).copied();
        SocketAddr::new(address.unwrap_or(IpAddr::from([0, 0, 0, 0])), self.ports[side].rtp())
    }

    /// What the realm and the media say of the leg of a side.
    fn policy(&self, side: usize, realm: RealmId, resources: &Resources<'_>) -> LegPolicy {
        let Some(realm) = resources.realms.get(realm) else { return LegPolicy::default() };
        let agreed = &self.agreed;
        let policy = realm.policy.of_leg(&agreed.kind, agreed.sends[side].map(|sends| sends.on(realm.media)));
        let carry = Carry {
            stun: policy.carry.stun || agreed.carry.stun,
            dtls: policy.carry.dtls || agreed.carry.dtls,
            zrtp: policy.carry.zrtp || agreed.carry.zrtp,
            udptl: agreed.carry.udptl,
        };
        LegPolicy { carry, clock_rate: agreed.clock_rate, ..policy }
    }

    /// Where a side wants its media, as far as what it states counts.
    fn remote(&self, side: usize, party: &Side, local: SocketAddr) -> Option<RemoteMedia> {
        let RemoteMedia { rtp, rtcp } = self.agreed.remotes[side]?;
        // Of the other IP version it cannot be reached here.
        let counts = |stated: SocketAddr| stated.is_ipv4() == local.is_ipv4() && party.may_state(stated.ip());
        let beside = || rtp.port().checked_add(1).map_or(rtp, |port| SocketAddr::new(rtp.ip(), port));
        let rtcp = match rtcp {
            _ if self.agreed.rtcp_mux[side] => rtp,
            stated if counts(stated) => stated,
            _ => beside(),
        };
        counts(rtp).then_some(RemoteMedia { rtp, rtcp })
    }

    fn apply(&mut self, sides: &[Side; 2], resources: &mut Resources<'_>, open: [bool; 2]) {
        let leg = |side: usize| {
            let party = &sides[side];
            let local = self.local(side, sides, resources);
            let remote = self.remote(side, party, local);
            LegSpec {
                realm: party.realm,
                local,
                open: open[side],
                epoch: self.agreed.epochs[side],
                remote,
                signalling: Some(party.signalling),
                payload_types: self.agreed.payload_types,
                send_before_latch: remote.is_some(),
                rtcp_mux: self.agreed.rtcp_mux[side],
                policy: self.policy(side, party.realm, resources),
            }
        };
        let spec = StreamSpec { id: self.id, legs: [leg(0), leg(1)] };
        if self.applied.as_ref() != Some(&spec) {
            self.applied = Some(spec.clone());
            self.silent = None;
            resources.commands.push(MediaCommand::Apply(spec));
        }
    }
}
