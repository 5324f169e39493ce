//! The streams: which entries they hold, what they have counted, and when they fell silent.

use super::{
    indices::LegIndex,
    legs::{self, Locals, Placed},
    mapped::{Legs, States},
    next_hops::{Destination, NextHops, UNRESOLVED},
};
use crate::{
    clock::Clock,
    datapath::DatapathError,
    media::{LegCounters, LegSpec, MediaEvent, Quality, StreamId, StreamSpec},
};
use proxy_common::layout::{LatchEvent, LegState, Remote};
use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

/// A packet is handled within this time: then a closed leg's counters no longer change.
const GRACE: Duration = Duration::from_millis(20);
/// How often the counters of all streams are read.
const SCAN: Duration = Duration::from_secs(1);

/// Turns the engine's commands into map entries.
pub(in crate::datapath) struct Control {
    pub(in crate::datapath) hops: NextHops,
    locals: Locals,
    pub(super) legs: Legs,
    pub(super) states: States,
    clock: Clock,
    learning_window: Duration,
    silence_timeout: Duration,
    pub(super) streams: HashMap<StreamId, Stream>,
    /// Which streams use a way.
    pub(super) users: BTreeSet<(Destination, StreamId)>,
    /// Which stream has each pair of ports, by index in `LEGS`.
    pub(super) owners: HashMap<LegIndex, (StreamId, usize)>,
    /// The last generation of each index; 0 where there was none yet.
    pub(super) generations: Vec<u16>,
    pub(super) closing: VecDeque<Closing>,
    pub(super) ready: Vec<MediaEvent>,
    scan_at: Option<Instant>,
    /// Latches whose events did not come.
    pub(in crate::datapath) events_lost: u64,
    /// Streams that changed since the last changes were taken for the journal.
    pub(super) touched: BTreeSet<StreamId>,
}

pub(super) struct Stream {
    pub(super) spec: StreamSpec,
    pub(super) placed: [Placed; 2],
    pub(super) ways: Vec<Destination>,
    pub(super) window_end_ns: u64,
    /// The counters when the stream began.
    pub(super) baseline: [LegState; 2],
    /// Packets of strangers that were reported, by leg.
    pub(super) strangers: [u64; 2],
    /// The sources that were reported, by leg and component.
    pub(super) reported: [[ReportedSource; 2]; 2],
    /// Packets forwarded at the last scan, and since when the number has been the same.
    pub(super) packets: u64,
    pub(super) quiet_since: Instant,
}

/// What is known of a component's source.
#[derive(Clone, Copy, Default)]
pub(super) struct ReportedSource {
    /// The source that was reported.
    source: Remote,
    /// One that was not there at the last scan: its event may be under way.
    missing: Remote,
}

impl ReportedSource {
    /// All of a leg is known.
    pub(super) fn of(state: &LegState) -> [Self; 2] {
        [state.rtp.source, state.rtcp.source].map(|source| Self { source, missing: source })
    }

    /// Whether the program latched this source under this generation without an event.
    fn misses(&mut self, source: Remote, generation: u16) -> bool {
        if source.port == 0 || source.generation() != generation || source == self.source {
            return false;
        }
        let before = std::mem::replace(&mut self.missing, source);
        if before == source {
            self.source = source;
        }
        before == source
    }
}

pub(super) struct Closing {
    pub(super) id: StreamId,
    pub(super) stream: Stream,
    pub(super) at: Instant,
}

impl Control {
    pub(in crate::datapath) fn new(
        hops: NextHops,
        locals: Locals,
        (legs, states): (Legs, States),
        max_legs: u32,
        media: &crate::config::Media,
    ) -> Self {
        Self {
            hops,
            locals,
            legs,
            states,
            clock: Clock::now(),
            learning_window: media.learning_window,
            silence_timeout: media.silence_timeout,
            streams: HashMap::new(),
            users: BTreeSet::new(),
            owners: HashMap::new(),
            generations: vec![0; max_legs as usize],
            closing: VecDeque::new(),
            ready: Vec::new(),
            scan_at: None,
            events_lost: 0,
            touched: BTreeSet::new(),
        }
    }

    /// See [`crate::datapath::Datapath::apply`].
    pub(in crate::datapath) fn apply(&mut self, spec: StreamSpec, now: Instant) -> Result<(), DatapathError> {
        let indices = self.admit(&spec)?;
        // The new next hops are acquired before the old ones are released: what both use stays.
        let ways = self.take_ways(&spec, now)?;
        let before = self.streams.remove(&spec.id);
        let anew = |leg: usize| match &before {
            Some(before) => {
                before.placed.get(leg).map(|placed| placed.index) != indices.get(leg).copied()
                    || match (before.spec.legs.get(leg), spec.legs.get(leg)) {
                        (Some(before), Some(after)) => legs::learns_anew(before, after),
                        _ => true,
                    }
            }
            None => true,
        };
        let mut placed = [0, 1].map(|leg| Placed {
            index: indices.get(leg).copied().unwrap_or_default(),
            generation: self.generation(indices.get(leg).copied().unwrap_or_default(), anew(leg)),
            ..Placed::default()
        });
        self.place(&spec, &mut placed);
        for placed in &placed {
            // Generations are counted by pair of ports and wrap around: what an earlier call left here could have the
            // generation of this stream's own legs, and lead its media to that call's parties.
            if before.as_ref().is_none_or(|before| before.placed.iter().all(|old| old.index != placed.index)) {
                self.states.forget(placed.index);
            }
        }
        let mut baseline = placed.map(|placed| self.states.get(placed.index));
        if let Some(before) = &before {
            self.give_back(before);
            for leg in [0, 1] {
                if let (Some(old), Some(new)) = (before.placed.get(leg), placed.get(leg))
                    && old.index == new.index
                    && let (Some(kept), Some(slot)) = (before.baseline.get(leg), baseline.get_mut(leg))
                {
                    *slot = *kept;
                } else if let Some(old) = before.placed.get(leg) {
                    self.legs.close(old.index);
                }
            }
        }
        for (leg, placed) in placed.iter().enumerate() {
            self.owners.insert(placed.index, (spec.id, leg));
        }
        let window_end_ns = self.clock.ns(now + self.learning_window);
        let packets = before.as_ref().map_or(0, |before| before.packets);
        let strangers = before.as_ref().map_or([0; 2], |before| before.strangers);
        let reported = before.as_ref().map_or_else(Default::default, |before| before.reported);
        let stream =
            Stream { spec, placed, ways, window_end_ns, baseline, strangers, reported, packets, quiet_since: now };
        self.write(&stream);
        self.users.extend(stream.ways.iter().map(|way| (*way, stream.spec.id)));
        self.touched.insert(stream.spec.id);
        self.streams.insert(stream.spec.id, stream);
        self.scan_soon(now);
        Ok(())
    }

    /// See [`crate::datapath::Datapath::release`].
    pub(in crate::datapath) fn release(&mut self, id: StreamId, now: Instant) {
        let Some(stream) = self.streams.remove(&id) else {
            self.ready.push(MediaEvent::Released { stream: id, counters: Default::default() });
            return;
        };
        for placed in &stream.placed {
            self.legs.close(placed.index);
        }
        self.closing.push_back(Closing { id, stream, at: now + GRACE });
    }

    /// A leg latched, says the XDP program.
    pub(in crate::datapath) fn latched(&mut self, event: &LatchEvent, events: &mut Vec<MediaEvent>) {
        let Some(&(stream, leg)) = self.owners.get(&LegIndex(event.leg)) else { return };
        let Some(current) = self.streams.get_mut(&stream) else { return };
        // The event of a leg that has since begun to learn again is obsolete.
        if current.placed.get(leg).is_none_or(|placed| placed.generation != event.source.generation()) {
            return;
        }
        if let Some(reported) =
            current.reported.get_mut(leg).and_then(|reported| reported.get_mut(usize::from(event.component != 0)))
        {
            reported.source = event.source;
        }
        events.push(MediaEvent::Latched {
            stream,
            leg,
            rtcp: event.component != 0,
            source: SocketAddr::new(ip(event.address), event.source.port),
            at: self.clock.instant(event.time_ns),
        });
    }

    /// Does what is due and appends what happened.
    pub(in crate::datapath) fn poll(&mut self, now: Instant, events: &mut Vec<MediaEvent>) {
        events.append(&mut self.ready);
        while self.closing.front().is_some_and(|closing| closing.at <= now) {
            let Some(Closing { id, stream, .. }) = self.closing.pop_front() else { break };
            self.touched.insert(id);
            events.push(MediaEvent::Released { stream: id, counters: self.counters(&stream) });
            self.give_back(&stream);
        }
        if self.scan_at.is_some_and(|at| at <= now) {
            self.scan(now, events);
            self.scan_at = (!self.streams.is_empty()).then_some(now + SCAN);
        }
        self.hops.poll(now);
        self.move_ways();
        self.refuse(events);
    }

    /// When [`Control::poll`] is due.
    pub(in crate::datapath) fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        let ready = (!self.ready.is_empty()).then_some(now);
        let closing = self.closing.front().map(|closing| closing.at);
        [ready, closing, self.scan_at, self.hops.poll_timeout()].into_iter().flatten().min()
    }

    /// Where both legs stand, if they may.
    pub(super) fn admit(&self, spec: &StreamSpec) -> Result<[LegIndex; 2], DatapathError> {
        let [one, other] = &spec.legs;
        let indices = [self.locals.index_of(one)?, self.locals.index_of(other)?];
        for (leg, index) in spec.legs.iter().zip(indices) {
            legs::check(leg)?;
            if self.owners.get(&index).is_some_and(|(owner, _)| *owner != spec.id) {
                return Err(DatapathError::InUse(leg.local));
            }
        }
        if indices.first() == indices.last() {
            return Err(DatapathError::InUse(other.local));
        }
        if self.closing.iter().any(|closing| closing.id == spec.id) {
            return Err(DatapathError::InUse(one.local));
        }
        Ok(indices)
    }

    fn take_ways(&mut self, spec: &StreamSpec, now: Instant) -> Result<Vec<Destination>, DatapathError> {
        let ways = ways(spec);
        for (taken, way) in ways.iter().enumerate() {
            if let Err(full) = self.hops.acquire(*way, now) {
                ways.iter().take(taken).for_each(|way| self.hops.release(*way));
                return Err(full);
            }
        }
        Ok(ways)
    }

    fn generation(&mut self, index: LegIndex, anew: bool) -> u16 {
        let Some(generation) = self.generations.get_mut(index.0 as usize) else { return 0 };
        if anew {
            *generation = legs::next_generation(*generation);
        }
        *generation
    }

    pub(super) fn place(&self, spec: &StreamSpec, placed: &mut [Placed; 2]) {
        for (leg, placed) in spec.legs.iter().zip(placed) {
            let way = |destination: Option<Destination>| destination.map_or(UNRESOLVED, |way| self.hops.of(way));
            placed.to_remote = way(to_remote(leg));
            placed.to_signalling = way(to_signalling(leg));
        }
    }

    pub(super) fn write(&self, stream: &Stream) {
        for (leg, placed) in stream.placed.iter().enumerate() {
            self.legs
                .put(placed.index, &legs::entry(&self.locals, &stream.spec, leg, &stream.placed, stream.window_end_ns));
        }
    }

    fn give_back(&mut self, stream: &Stream) {
        for placed in &stream.placed {
            self.owners.remove(&placed.index);
        }
        for way in &stream.ways {
            self.users.remove(&(*way, stream.spec.id));
            self.hops.release(*way);
        }
    }

    /// Next hops became known or changed: updates the entries.
    fn move_ways(&mut self) {
        let moved = self.hops.take_moved();
        let streams: BTreeSet<_> = moved.into_iter().flat_map(|way| self.users_of(way)).collect();
        for id in streams {
            let Some(mut stream) = self.streams.remove(&id) else { continue };
            let before = stream.placed;
            self.place(&stream.spec, &mut stream.placed);
            if stream.placed != before {
                self.touched.insert(id);
                self.write(&stream);
            }
            self.streams.insert(id, stream);
        }
    }

    /// There is no room for the next hops of some streams: they have no media.
    fn refuse(&mut self, events: &mut Vec<MediaEvent>) {
        let refused = self.hops.take_refused();
        let streams: BTreeSet<_> = refused.into_iter().flat_map(|way| self.users_of(way)).collect();
        let known = events.len();
        events.extend(
            streams.into_iter().filter(|id| self.streams.contains_key(id)).map(|stream| MediaEvent::Failed { stream }),
        );
        let refused = events.len() - known;
        if refused > 0 {
            tracing::error!(streams = refused, "no media, and calls end: {}", super::next_hops::FULL);
        }
    }

    fn users_of(&self, way: Destination) -> impl Iterator<Item = StreamId> + '_ {
        self.users.range((way, StreamId(0))..=(way, StreamId(u64::MAX))).map(|(_, stream)| *stream)
    }

    pub(super) fn scan_soon(&mut self, now: Instant) {
        self.scan_at.get_or_insert(now + SCAN);
    }

    fn scan(&mut self, now: Instant, events: &mut Vec<MediaEvent>) {
        let mut lost = 0;
        for (id, stream) in &mut self.streams {
            let mut packets = 0u64;
            let legs = stream.placed.iter().zip(&stream.baseline).zip(&mut stream.strangers).zip(&mut stream.reported);
            for (leg, (((placed, baseline), told), sources)) in legs.enumerate() {
                let state = self.states.get(placed.index);
                for (rtcp, reported) in [false, true].into_iter().zip(sources) {
                    let source = if rtcp { state.rtcp.source } else { state.rtp.source };
                    if reported.misses(source, placed.generation) {
                        let v6 = stream.spec.legs.get(leg).is_some_and(|leg| leg.local.is_ipv6());
                        let address = if v6 { ip(state.source_address) } else { source.address.into() };
                        let source = SocketAddr::new(address, source.port);
                        events.push(MediaEvent::Latched { stream: *id, leg, rtcp, source, at: now });
                        lost += 1;
                    }
                }
                let counters = counters(&state, baseline, 0);
                packets = packets.wrapping_add(counters.rtp_packets).wrapping_add(counters.rtcp_packets);
                let fresh = counters.dropped_source.saturating_sub(*told);
                *told = counters.dropped_source;
                if fresh > 0 {
                    events.push(MediaEvent::Strangers { stream: *id, leg, packets: fresh });
                }
            }
            if packets != stream.packets {
                stream.packets = packets;
                stream.quiet_since = now;
            } else if now.duration_since(stream.quiet_since) >= self.silence_timeout {
                stream.quiet_since = now;
                events.push(MediaEvent::Silent { stream: *id });
            }
        }
        if lost > 0 {
            self.events_lost += lost;
            tracing::warn!(
                latches = lost,
                "EVENTS was full: latches were found late (raise events_bytes in [maps] or --events-bytes)"
            );
        }
    }

    pub(super) fn counters(&self, stream: &Stream) -> [LegCounters; 2] {
        let [one, other] = &stream.placed;
        let [first, second] = &stream.baseline;
        let clock = |leg: usize| stream.spec.legs.get(leg).map_or(0, |leg| leg.policy.clock_rate);
        [
            counters(&self.states.get(one.index), first, clock(0)),
            counters(&self.states.get(other.index), second, clock(1)),
        ]
    }
}

/// An address as the maps hold it.
fn ip(mapped: [u8; 16]) -> IpAddr {
    IpAddr::from(mapped).to_canonical()
}

/// What was counted since the baseline. Counters wrap around at 2^64, those of RTCP and of drops at 2^32.
fn counters(state: &LegState, baseline: &LegState, clock_rate: u32) -> LegCounters {
    let since = |now: u64, then: u64| now.wrapping_sub(then);
    let short = |now: u32, then: u32| u64::from(now.wrapping_sub(then));
    LegCounters {
        rtp_packets: since(state.rtp.packets, baseline.rtp.packets),
        rtp_octets: since(state.rtp.octets, baseline.rtp.octets),
        rtcp_packets: short(state.rtcp.packets, baseline.rtcp.packets),
        rtcp_octets: short(state.rtcp.octets, baseline.rtcp.octets),
        dropped_source: short(state.drops.source, baseline.drops.source),
        dropped_format: short(state.drops.format, baseline.drops.format),
        dropped_destination: short(state.drops.destination, baseline.drops.destination),
        dropped_path: short(state.drops.path, baseline.drops.path),
        dropped_rate: short(state.drops.rate, baseline.drops.rate),
        dropped_size: short(state.drops.size, baseline.drops.size),
        quality: quality(state, baseline, clock_rate),
    }
}

fn quality(state: &LegState, baseline: &LegState, clock_rate: u32) -> Quality {
    let (now, then) = (&state.quality, &baseline.quality);
    let since = |now: u32, then: u32| u64::from(now.wrapping_sub(then));
    let duplicates = since(now.duplicates, then.duplicates);
    let arrived = state.rtp.packets.wrapping_sub(baseline.rtp.packets).saturating_sub(duplicates);
    // Kept times 16, in timestamp units.
    let jitter_us = u64::from(now.jitter >> 4) * 1_000_000 / u64::from(clock_rate).max(1);
    Quality {
        lost: since(now.expected, then.expected).saturating_sub(arrived),
        reordered: since(now.reordered, then.reordered),
        duplicates,
        ssrc_changes: since(now.ssrc_changes, then.ssrc_changes),
        jitter_us: (clock_rate != 0 && now.first != 0).then_some(jitter_us),
    }
}

pub(super) fn ways(spec: &StreamSpec) -> Vec<Destination> {
    spec.legs.iter().flat_map(|leg| to_remote(leg).into_iter().chain(to_signalling(leg))).collect()
}

fn to_remote(leg: &LegSpec) -> Option<Destination> {
    destination(leg, leg.remote.map(|remote| remote.rtp.ip()))
}

fn to_signalling(leg: &LegSpec) -> Option<Destination> {
    destination(leg, leg.signalling)
}

fn destination(leg: &LegSpec, address: Option<IpAddr>) -> Option<Destination> {
    address.filter(|address| !address.is_unspecified()).map(|address| (leg.realm, address))
}

#[cfg(test)]
pub(super) mod tests;
