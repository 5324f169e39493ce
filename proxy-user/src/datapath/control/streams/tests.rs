use super::{
    super::{
        indices::HopIndex,
        next_hops::tests::{
            ACCESS as ACCESS_REALM, CORE as CORE_REALM, FakeKernel, GATEWAY_MAC, config, egress, kernel,
        },
    },
    *,
};
use crate::media::{LegPolicy, RemoteMedia};
use proxy_common::layout::{self, Component, Drops, Remote, RtcpComponent};

pub(in super::super) const ACCESS: LegIndex = LegIndex(1);
pub(in super::super) const CORE: LegIndex = LegIndex(12);

pub(in super::super) fn control() -> Control {
    let config = config();
    let locals = Locals::new(&config).unwrap();
    let hops = NextHops::new(locals.clone(), egress(), 16);
    Control::new(hops, locals, (Legs::anonymous(32), States::anonymous(32)), 32, &config.media)
}

fn remote(address: &str) -> Option<RemoteMedia> {
    let rtp: SocketAddr = address.parse().unwrap();
    Some(RemoteMedia { rtp, rtcp: SocketAddr::new(rtp.ip(), rtp.port() + 1) })
}

/// A call whose offer came from the access side and has been sent on to the core side.
fn offered() -> StreamSpec {
    let access = LegSpec {
        realm: ACCESS_REALM,
        local: "203.0.113.10:30002".parse().unwrap(),
        open: false,
        epoch: 0,
        remote: remote("192.168.1.10:4000"),
        signalling: Some("198.51.100.7".parse().unwrap()),
        payload_types: [0].into_iter().collect(),
        send_before_latch: false,
        rtcp_mux: false,
        policy: LegPolicy::default(),
    };
    let core = LegSpec {
        realm: CORE_REALM,
        local: "10.9.0.10:30004".parse().unwrap(),
        open: true,
        remote: None,
        signalling: None,
        ..access.clone()
    };
    StreamSpec { id: StreamId(1), legs: [access, core] }
}

pub(in super::super) fn answered() -> StreamSpec {
    let mut spec = offered();
    spec.legs[0].open = true;
    spec.legs[1].remote = remote("10.9.0.30:16384");
    spec.legs[1].send_before_latch = true;
    spec
}

fn poll(control: &mut Control, now: Instant) -> Vec<MediaEvent> {
    let mut events = Vec::new();
    control.poll(now, &mut events);
    events
}

/// Lets the kernel answer, and the entries be reported.
pub(in super::super) fn settle(control: &mut Control, kernel: &FakeKernel, now: Instant) -> Vec<MediaEvent> {
    kernel.answer(&mut control.hops, now);
    poll(control, now)
}

#[test]
fn a_leg_opens_when_its_address_is_sent_out() {
    let (now, kernel) = (Instant::now(), kernel());
    let mut control = control();
    control.apply(offered(), now).unwrap();
    assert_eq!(control.legs.get(ACCESS).generation, 0);
    let core = control.legs.get(CORE);
    assert_ne!(core.generation, 0);
    control.apply(answered(), now).unwrap();
    settle(&mut control, &kernel, now);
    let (access, core) = (control.legs.get(ACCESS), control.legs.get(CORE));
    assert_ne!(access.generation, 0);
    assert_eq!([access.peer, core.peer].map(LegIndex), [CORE, ACCESS]);
    assert_eq!((access.peer_generation, core.peer_generation), (core.generation, access.generation));
    assert_eq!(HopIndex(access.next_hop_remote), control.hops.of((CORE_REALM, "10.9.0.30".parse().unwrap())));
    assert_eq!(HopIndex(core.next_hop_signalling), control.hops.of((ACCESS_REALM, "198.51.100.7".parse().unwrap())));
    assert_ne!(HopIndex(core.next_hop_signalling), UNRESOLVED);
    assert!(control.hops.take_writes().iter().any(|(_, hop)| hop.destination_mac == GATEWAY_MAC));
}

#[test]
fn only_the_leg_that_changed_learns_anew() {
    let (now, mut control) = (Instant::now(), control());
    control.apply(answered(), now).unwrap();
    let (access, core) = (control.legs.get(ACCESS), control.legs.get(CORE));
    let mut changed = answered();
    changed.legs[1].remote = remote("10.9.0.31:20000");
    control.apply(changed.clone(), now + Duration::from_secs(30)).unwrap();
    let (access_after, core_after) = (control.legs.get(ACCESS), control.legs.get(CORE));
    assert_eq!(access_after.generation, access.generation);
    assert_ne!(core_after.generation, core.generation);
    assert_eq!(access_after.peer_generation, core_after.generation);
    assert!(access_after.window_end_ns > access.window_end_ns, "the window of both starts again");
    // More payload types are no reason to forget.
    changed.legs[0].payload_types.insert(8);
    control.apply(changed.clone(), now).unwrap();
    assert_eq!(control.legs.get(ACCESS).generation, access.generation);
    assert_eq!(control.legs.get(CORE).generation, core_after.generation);
    // A terminal behind a NAT stated another port: its addresses here are as they were.
    changed.legs[0].epoch += 1;
    control.apply(changed, now).unwrap();
    assert_ne!(control.legs.get(ACCESS).generation, access.generation);
    assert_eq!(control.legs.get(CORE).generation, core_after.generation);
}

#[test]
fn counters_are_those_of_the_call_alone() {
    let (now, mut control) = (Instant::now(), control());
    let component = |packets, octets| Component { packets, octets, ..Component::default() };
    let before = LegState { rtp: component(u64::MAX, 1_000), ..LegState::default() };
    control.states.set(ACCESS, &before);
    control.apply(offered(), now).unwrap();
    control.apply(answered(), now).unwrap();
    let drops = Drops { source: 4, format: 3, destination: 2, path: 1, rate: 0, size: 0 };
    let after = LegState {
        rtp: component(9, 3_000),
        rtcp: RtcpComponent { packets: 1, octets: 100, ..RtcpComponent::default() },
        drops,
        ..LegState::default()
    };
    control.states.set(ACCESS, &after);
    control.release(StreamId(1), now);
    assert_eq!(control.legs.get(ACCESS).generation, 0);
    assert_eq!(control.legs.get(CORE).generation, 0);
    assert_eq!(poll(&mut control, now), []);
    // A packet that was under way when the leg closed still counts.
    control.states.set(ACCESS, &LegState { rtp: component(10, 3_200), ..after });
    let at = control.poll_timeout(now).unwrap();
    let released = poll(&mut control, at);
    let access = LegCounters {
        rtp_packets: 11,
        rtp_octets: 2_200,
        rtcp_packets: 1,
        rtcp_octets: 100,
        dropped_source: 4,
        dropped_format: 3,
        dropped_destination: 2,
        dropped_path: 1,
        ..LegCounters::default()
    };
    assert_eq!(released, [MediaEvent::Released { stream: StreamId(1), counters: [access, LegCounters::default()] }]);
}

#[test]
fn strangers_are_told_of_once_a_scan() {
    let (now, mut control) = (Instant::now(), control());
    control.states.set(CORE, &LegState { drops: Drops { source: 100, ..Drops::default() }, ..LegState::default() });
    control.apply(answered(), now).unwrap();
    assert_eq!(poll(&mut control, now + SCAN), [], "those of a call before");
    let dropped = |source| LegState { drops: Drops { source, ..Drops::default() }, ..LegState::default() };
    control.states.set(CORE, &dropped(107));
    let told = MediaEvent::Strangers { stream: StreamId(1), leg: 1, packets: 7 };
    assert_eq!(poll(&mut control, now + 2 * SCAN), [told]);
    assert_eq!(poll(&mut control, now + 3 * SCAN), []);
    control.states.set(CORE, &dropped(108));
    let told = MediaEvent::Strangers { stream: StreamId(1), leg: 1, packets: 1 };
    assert_eq!(poll(&mut control, now + 4 * SCAN), [told]);
}

#[test]
fn quality_is_that_of_the_call_alone() {
    let (now, mut control) = (Instant::now(), control());
    let mut spec = answered();
    spec.legs[0].policy.clock_rate = 8_000;
    control.apply(spec, now).unwrap();
    // A call before may have counted as far as this.
    let state = control.states.get(ACCESS);
    let quality = layout::Quality {
        expected: state.quality.expected.wrapping_add(100),
        reordered: state.quality.reordered.wrapping_add(2),
        duplicates: state.quality.duplicates.wrapping_add(3),
        ssrc_changes: state.quality.ssrc_changes.wrapping_add(1),
        jitter: 80 << 4,
        first: 1,
        ..state.quality
    };
    let rtp = Component { packets: state.rtp.packets + 98, octets: 98 * 200, ..state.rtp };
    control.states.set(ACCESS, &LegState { rtp, quality, ..state });
    control.release(StreamId(1), now);
    let at = control.poll_timeout(now).unwrap();
    let released = poll(&mut control, at);
    let [MediaEvent::Released { counters: [access, _], .. }] = released.as_slice() else { panic!("{released:?}") };
    // Of 98 that came, 3 came twice: 5 of 100 are missing. 80 units at 8 kHz are 10 ms.
    let expected = Quality { lost: 5, reordered: 2, duplicates: 3, ssrc_changes: 1, jitter_us: Some(10_000) };
    assert_eq!(access.quality, expected);
}

#[test]
fn a_released_stream_leaves_nothing() {
    let (now, mut control) = (Instant::now(), control());
    control.apply(answered(), now).unwrap();
    control.release(StreamId(1), now);
    let mut other = answered();
    other.id = StreamId(2);
    assert!(matches!(control.apply(other.clone(), now), Err(DatapathError::InUse(_))), "packets may be under way");
    poll(&mut control, now + GRACE);
    assert!(control.owners.is_empty() && control.streams.is_empty() && control.users.is_empty());
    assert_eq!(control.hops.len(), 0);
    let later = now + Duration::from_secs(60);
    poll(&mut control, later);
    assert_eq!(control.poll_timeout(later), None);
    control.apply(other, now).unwrap();
}

#[test]
fn what_another_call_learned_at_a_port_is_forgotten_and_what_this_one_learned_is_kept() {
    let (now, mut control) = (Instant::now(), control());
    // Under every generation there is: that of the new peer may be the one that the last call's peer had.
    let learned = |tag| {
        let remote = Remote { address: [198, 51, 100, 99], port: 9_000, tag };
        LegState {
            rtp: Component { source: remote, destination: remote, packets: 5, octets: 500 },
            rtcp: RtcpComponent { source: remote, destination: remote, packets: 5, octets: 500 },
            ..LegState::default()
        }
    };
    for index in [ACCESS, CORE] {
        control.states.set(index, &learned(1));
    }
    control.apply(offered(), now).unwrap();
    for index in [ACCESS, CORE] {
        let counted = LegState {
            rtp: Component { packets: 5, octets: 500, ..Component::default() },
            rtcp: RtcpComponent { packets: 5, octets: 500, ..RtcpComponent::default() },
            ..LegState::default()
        };
        assert_eq!(control.states.get(index), counted);
    }
    control.states.set(CORE, &learned(1));
    control.apply(answered(), now).unwrap();
    assert_eq!(control.states.get(CORE), learned(1), "the generation tells whether that still counts");
}

#[test]
fn releasing_an_unknown_stream_is_answered() {
    let (now, mut control) = (Instant::now(), control());
    control.release(StreamId(9), now);
    assert_eq!(control.poll_timeout(now), Some(now));
    assert_eq!(poll(&mut control, now), [MediaEvent::Released { stream: StreamId(9), counters: Default::default() }]);
}

#[test]
fn a_refused_stream_changes_nothing() {
    let (now, kernel) = (Instant::now(), kernel());
    let mut control = control();
    control.apply(answered(), now).unwrap();
    settle(&mut control, &kernel, now);
    let before = (control.legs.get(ACCESS), control.legs.get(CORE), control.hops.len());
    let mut outside = answered();
    outside.legs[1].local = "10.9.0.10:40000".parse().unwrap();
    assert!(matches!(control.apply(outside, now), Err(DatapathError::NotLocal(_))));
    let mut six = answered();
    six.legs[1].remote = remote("[2001:db8::1]:4000");
    assert!(matches!(control.apply(six, now), Err(DatapathError::Family(_))));
    let mut other = answered();
    other.id = StreamId(2);
    assert!(matches!(control.apply(other, now), Err(DatapathError::InUse(_))));
    assert_eq!((control.legs.get(ACCESS), control.legs.get(CORE), control.hops.len()), before);
}

#[test]
fn a_stream_without_room_for_its_ways_is_refused() {
    let (now, kernel) = (Instant::now(), kernel());
    let mut control = control();
    control.hops = NextHops::new(control.locals.clone(), egress(), 2);
    control.apply(answered(), now).unwrap();
    assert_eq!(
        settle(&mut control, &kernel, now),
        [MediaEvent::Failed { stream: StreamId(1) }],
        "two ways, room for one"
    );
    control.release(StreamId(1), now);
    poll(&mut control, now + GRACE);
    assert_eq!((control.hops.len(), control.streams.len(), control.owners.len(), control.users.len()), (0, 0, 0, 0));
    control.hops = NextHops::new(control.locals.clone(), egress(), 3);
    control.apply(answered(), now).unwrap();
    assert_eq!(settle(&mut control, &kernel, now), []);
    // A route inside the host is known immediately.
    let mut inside = answered();
    inside.legs[1].remote = remote("10.9.0.10:30010");
    let before = control.legs.get(CORE);
    assert!(matches!(control.apply(inside, now), Err(DatapathError::Full(_))));
    assert_eq!(control.legs.get(CORE), before);
}

#[test]
fn latches_are_told_while_they_matter() {
    let (now, mut control) = (Instant::now(), control());
    control.apply(answered(), now).unwrap();
    let generation = control.legs.get(ACCESS).generation;
    let event = LatchEvent {
        source: Remote { address: [198, 51, 100, 7], port: 61_000, tag: generation },
        address: proxy_common::locals::mapped([198, 51, 100, 7]),
        time_ns: control.clock.ns(now),
        leg: ACCESS.0,
        component: 1,
        rank: 1,
    };
    let mut events = Vec::new();
    control.latched(&event, &mut events);
    let source = "198.51.100.7:61000".parse().unwrap();
    assert_eq!(events, [MediaEvent::Latched { stream: StreamId(1), leg: 0, rtcp: true, source, at: now }]);
    events.clear();
    let stale = Remote { tag: generation + 1, ..event.source };
    control.latched(&LatchEvent { source: stale, ..event }, &mut events);
    control.latched(&LatchEvent { leg: 31, ..event }, &mut events);
    assert_eq!(events, []);
}

#[test]
fn silence_is_told_each_time_it_passes() {
    let (start, mut control) = (Instant::now(), control());
    control.apply(answered(), start).unwrap();
    let mut silent = Vec::new();
    for second in 1..=200u64 {
        let now = start + Duration::from_secs(second);
        if second == 30 {
            let rtp = Component { packets: 1, ..Component::default() };
            control.states.set(CORE, &LegState { rtp, ..LegState::default() });
        }
        for event in poll(&mut control, now) {
            assert_eq!(event, MediaEvent::Silent { stream: StreamId(1) });
            silent.push(second);
        }
    }
    assert_eq!(silent, [90, 150]);
}

#[test]
fn a_new_gateway_is_told_to_live_legs_without_forgetting() {
    let (now, kernel) = (Instant::now(), kernel());
    kernel.0.borrow_mut().gateway = None;
    let mut control = control();
    control.apply(answered(), now).unwrap();
    settle(&mut control, &kernel, now);
    let before = control.legs.get(ACCESS);
    assert_eq!(HopIndex(before.next_hop_remote), UNRESOLVED);
    kernel.reroute(&mut control.hops, Some("10.9.0.1".parse().unwrap()), now);
    poll(&mut control, now);
    let after = control.legs.get(ACCESS);
    assert_ne!(HopIndex(after.next_hop_remote), UNRESOLVED);
    assert_eq!((after.generation, after.window_end_ns), (before.generation, before.window_end_ns));
}

#[test]
fn a_latch_of_which_no_event_came_is_found_at_the_second_look() {
    let source = |port, tag| Remote { address: [192, 0, 2, 1], port, tag };
    let mut told = ReportedSource::default();
    assert!(!told.misses(source(0, 3), 3), "nothing latched");
    assert!(!told.misses(source(7, 2), 3), "under an earlier generation");
    assert_eq!([1, 2, 3].map(|_| told.misses(source(7, 3), 3)), [false, true, false], "told once");
    assert_eq!([1, 2].map(|_| told.misses(source(8, 3), 3)), [false, true], "a NAT's new port");
    let state = LegState { rtp: Component { source: source(9, 3), ..Component::default() }, ..LegState::default() };
    let [mut rtp, _] = ReportedSource::of(&state);
    assert!(![1, 2].map(|_| rtp.misses(source(9, 3), 3)).contains(&true), "known from the beginning");
}
