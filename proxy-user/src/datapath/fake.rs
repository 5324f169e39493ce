//! A datapath that relays nothing and records everything, for tests of the layers above it.

use super::{Datapath, DatapathError};
use crate::media::{LegCounters, MediaEvent, StreamId, StreamSpec};
use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    time::Instant,
};

/// Streams as they were last applied, every command in order, and events that the test triggers.
#[derive(Debug, Default)]
pub struct Fake {
    /// Live streams, as last applied.
    pub streams: BTreeMap<StreamId, StreamSpec>,
    /// Every specification that was applied, in order.
    pub applied: Vec<StreamSpec>,
    /// Refuses every specification from now on.
    pub full: bool,
    /// Every stream that was released, in order.
    pub released: Vec<StreamId>,
    counters: HashMap<StreamId, [LegCounters; 2]>,
    events: Vec<MediaEvent>,
}

impl Fake {
    /// One that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Local addresses of the live streams' legs: what would leak if it were not released.
    pub fn locals(&self) -> Vec<SocketAddr> {
        self.streams.values().flat_map(|spec| spec.legs.iter().map(|leg| leg.local)).collect()
    }

    /// A packet of a leg's component arrives first from `source`, and is learned.
    pub fn latch(&mut self, stream: StreamId, leg: usize, rtcp: bool, source: SocketAddr, at: Instant) {
        self.events.push(MediaEvent::Latched { stream, leg, rtcp, source, at });
    }

    /// The silence timeout of a stream passes.
    pub fn silence(&mut self, stream: StreamId) {
        self.events.push(MediaEvent::Silent { stream });
    }

    /// What the stream's final counters will be.
    pub fn count(&mut self, stream: StreamId, counters: [LegCounters; 2]) {
        self.counters.insert(stream, counters);
    }
}

impl Datapath for Fake {
    fn apply(&mut self, spec: StreamSpec, _now: Instant) -> Result<(), DatapathError> {
        if self.full {
            return Err(DatapathError::Full("the fake"));
        }
        for leg in &spec.legs {
            let taken = self
                .streams
                .values()
                .filter(|other| other.id != spec.id)
                .any(|other| other.legs.iter().any(|theirs| theirs.local == leg.local));
            if taken {
                return Err(DatapathError::InUse(leg.local));
            }
        }
        self.applied.push(spec.clone());
        self.streams.insert(spec.id, spec);
        Ok(())
    }

    fn release(&mut self, stream: StreamId, _now: Instant) {
        self.released.push(stream);
        self.streams.remove(&stream);
        let counters = self.counters.remove(&stream).unwrap_or_default();
        self.events.push(MediaEvent::Released { stream, counters });
    }

    fn poll_events(&mut self, _now: Instant, events: &mut Vec<MediaEvent>) {
        events.append(&mut self.events);
    }

    fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        (!self.events.is_empty()).then_some(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::{LegPolicy, LegSpec, PayloadTypes, RealmId};

    fn spec(id: u64, ports: [u16; 2]) -> StreamSpec {
        let leg = |realm, port| LegSpec {
            realm: RealmId::new(realm),
            local: SocketAddr::from(([10, 0, 0, 1], port)),
            open: true,
            epoch: 0,
            remote: None,
            signalling: None,
            payload_types: PayloadTypes::default(),
            send_before_latch: false,
            rtcp_mux: false,
            policy: LegPolicy::default(),
        };
        StreamSpec { id: StreamId(id), legs: [leg(0, ports[0]), leg(1, ports[1])] }
    }

    #[test]
    fn a_port_pair_has_one_stream_at_a_time() {
        let (mut fake, now) = (Fake::new(), Instant::now());
        fake.apply(spec(1, [4000, 4002]), now).unwrap();
        fake.apply(spec(1, [4000, 4002]), now).unwrap();
        assert!(matches!(fake.apply(spec(2, [4004, 4002]), now), Err(DatapathError::InUse(_))));
        fake.release(StreamId(1), now);
        fake.apply(spec(2, [4004, 4002]), now).unwrap();
        let mut events = Vec::new();
        fake.poll_events(now, &mut events);
        assert_eq!(events, [MediaEvent::Released { stream: StreamId(1), counters: Default::default() }]);
    }
}
