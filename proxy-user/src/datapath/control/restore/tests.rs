use super::super::{
    next_hops::{UNRESOLVED, tests::kernel},
    streams::tests::{ACCESS, CORE, answered, control, settle},
};
use super::*;
use crate::media::MediaEvent;
use proxy_common::layout::{Component, LegState};
use std::{collections::BTreeMap, time::Duration};

/// The map `NEXT_HOPS` and the journal: what outlives the process.
#[derive(Default)]
struct Kept {
    hops: BTreeMap<HopIndex, NextHop>,
    journal: BTreeMap<String, Vec<u8>>,
}

impl Kept {
    fn take(&mut self, control: &mut Control) {
        self.hops.extend(control.hops.take_writes());
        for change in control.take_changes() {
            match change.value {
                Some(value) => self.journal.insert(change.key, value),
                None => self.journal.remove(&change.key),
            };
        }
    }

    fn entries(&self) -> Vec<Entry> {
        let entry =
            |(key, value): (&String, &Vec<u8>)| Entry { table: Table::Streams, key: key.clone(), value: value.clone() };
        self.journal.iter().map(entry).collect()
    }

    fn hop(&self) -> impl Fn(HopIndex) -> NextHop + '_ {
        |index| self.hops.get(&index).copied().unwrap_or_default()
    }
}

/// The next process: the same memory, nothing else.
fn next(control: Control) -> Control {
    let mut next = self::control();
    (next.legs, next.states) = (control.legs, control.states);
    next
}

fn counted(packets: u64) -> LegState {
    LegState { rtp: Component { packets, octets: 200 * packets, ..Component::default() }, ..LegState::default() }
}

#[test]
fn a_stream_that_did_not_change_notices_nothing() {
    let (now, kernel, mut kept) = (Instant::now(), kernel(), Kept::default());
    let mut control = control();
    control.states.set(ACCESS, &counted(1_000));
    control.apply(answered(), now).unwrap();
    settle(&mut control, &kernel, now);
    kept.take(&mut control);
    let before = [ACCESS, CORE].map(|index| control.legs.get(index));
    assert_ne!(HopIndex(before[0].next_hop_remote), UNRESOLVED);
    for round in 1..=3u64 {
        control = next(control);
        control.states.set(ACCESS, &counted(1_000 + round));
        let closed = control.restore((&[answered()], &[]), &kept.entries(), kept.hop(), now);
        assert_eq!(closed, 0);
        assert_eq!(control.hops.take_writes(), [], "the ways are as they were");
        assert_eq!(settle(&mut control, &kernel, now), []);
        assert_eq!(control.hops.take_writes(), [], "and the kernel says so too");
        assert_eq!([ACCESS, CORE].map(|index| control.legs.get(index)), before);
        kept.take(&mut control);
    }
    control.release(answered().id, now);
    let events = settle(&mut control, &kernel, now + Duration::from_secs(1));
    let [MediaEvent::Released { counters, .. }] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!((counters[0].rtp_packets, counters[0].rtp_octets), (3, 600), "since the call began");
    kept.take(&mut control);
    assert!(kept.journal.is_empty());
    assert_eq!(control.hops.len(), 0);
}

#[test]
fn legs_of_no_call_are_closed_and_their_ways_cleared() {
    let (now, kernel, mut kept) = (Instant::now(), kernel(), Kept::default());
    let mut control = control();
    control.apply(answered(), now).unwrap();
    settle(&mut control, &kernel, now);
    kept.take(&mut control);
    let mut control = next(control);
    assert_eq!(control.restore((&[], &[]), &kept.entries(), kept.hop(), now), 2);
    assert!(!control.legs.is_used(ACCESS) && !control.legs.is_used(CORE));
    settle(&mut control, &kernel, now);
    kept.take(&mut control);
    assert!(kept.journal.is_empty());
    assert!(kept.hops.values().all(|hop| *hop == NextHop::default()), "{:?}", kept.hops);
}

#[test]
fn a_stream_whose_end_was_under_way_still_tells_its_counters() {
    let (now, kernel, mut kept) = (Instant::now(), kernel(), Kept::default());
    let mut control = control();
    control.apply(answered(), now).unwrap();
    settle(&mut control, &kernel, now);
    control.states.set(CORE, &counted(7));
    control.release(answered().id, now);
    kept.take(&mut control);
    let mut control = next(control);
    control.restore((&[], &[answered()]), &kept.entries(), kept.hop(), now);
    assert!(!control.legs.is_used(ACCESS));
    control.release(answered().id, now);
    let events = settle(&mut control, &kernel, now + Duration::from_secs(1));
    let [MediaEvent::Released { counters, .. }] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!(counters[1].rtp_packets, 7);
}

#[test]
fn a_stream_that_was_to_change_changes_and_an_unknown_one_is_made() {
    let (now, kernel, mut kept) = (Instant::now(), kernel(), Kept::default());
    let mut control = control();
    control.apply(answered(), now).unwrap();
    settle(&mut control, &kernel, now);
    kept.take(&mut control);
    let before = control.legs.get(ACCESS);
    let mut changed = answered();
    changed.legs[0].payload_types.insert(8);
    let mut control = next(control);
    control.restore((&[changed.clone()], &[]), &kept.entries(), kept.hop(), now);
    let after = control.legs.get(ACCESS);
    assert_eq!(after.generation, before.generation, "it learned its source, and keeps it");
    assert_ne!(after.payload_types, before.payload_types);
    let mut control = next(control);
    control.restore((&[changed], &[]), &[], kept.hop(), now);
    assert!(control.legs.is_used(ACCESS) && control.legs.is_used(CORE));
}

#[test]
fn a_stream_that_cannot_be_read_begins_anew_and_its_record_is_replaced() {
    let (now, kernel, mut kept) = (Instant::now(), kernel(), Kept::default());
    let mut control = control();
    control.apply(answered(), now).unwrap();
    settle(&mut control, &kernel, now);
    kept.take(&mut control);
    let (key, whole) = kept.journal.first_key_value().map(|(key, value)| (key.clone(), value.clone())).unwrap();
    let elsewhere = String::from_utf8(whole).unwrap().replace("\"index\":", "\"index\":1");
    for unreadable in [b"{}".to_vec(), elsewhere.into_bytes()] {
        control = next(control);
        kept.journal = BTreeMap::from([(key.clone(), unreadable.clone()), ("no number".into(), Vec::new())]);
        assert_eq!(control.restore((&[answered()], &[]), &kept.entries(), kept.hop(), now), 0);
        assert!(control.legs.is_used(ACCESS) && control.legs.is_used(CORE));
        settle(&mut control, &kernel, now);
        kept.take(&mut control);
        assert_ne!(kept.journal[&key], unreadable);
    }
}
