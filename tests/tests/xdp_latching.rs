//! Who may send to a leg, and where its answers go: sequences of packets through the XDP program.

use anyhow::Result;
use proxy_common::{
    latch::Rank,
    layout::{LatchEvent, Leg, LegState, Remote},
    locals::mapped,
    verdict::Verdict::{self, *},
};
use std::sync::Barrier;
use testbed::xdp::{
    A, ACCESS, B, CORE, GENERATION_A, HOP_ACCESS, HOP_CORE, NAT, Packet, Platform, SOFTSWITCH, TERMINAL, World, leg_a,
    leg_b,
};

type Endpoint = ([u8; 4], u16);

const PHONE: Endpoint = (NAT, 61_000);
const PHONE_RTCP: Endpoint = (NAT, 61_001);
const EXACT: Endpoint = (TERMINAL, 4_000);
const STRANGER: Endpoint = ([203, 0, 113, 66], 61_000);
const SWITCH: Endpoint = (SOFTSWITCH, 20_000);
const A_RTP: Endpoint = (ACCESS, 30_002);
const A_RTCP: Endpoint = (ACCESS, 30_003);
const B_RTP: Endpoint = (CORE, 40_002);
const B_RTCP: Endpoint = (CORE, 40_003);

fn rtp(source: Endpoint) -> Packet {
    Packet::rtp(source, A_RTP)
}

fn rtcp(source: Endpoint) -> Packet {
    Packet::rtcp(source, A_RTCP)
}

/// A leg whose learning window is over.
fn closed_window() -> Leg {
    Leg { window_end_ns: 0, ..leg_a() }
}

/// What arrives at leg A, one after the other, and which RTP source it has then.
struct Sequence {
    name: &'static str,
    leg: Leg,
    packets: Vec<(Packet, Verdict)>,
    latched: Option<Endpoint>,
    /// Ranks of the RTP latches reported to user space.
    told: Vec<Rank>,
}

fn sequences() -> Vec<Sequence> {
    let sequence = |name, leg, packets, latched, told| Sequence { name, leg, packets, latched, told };
    let ok = ForwardedOther;
    vec![
        sequence("exact locks at once", leg_a(), vec![(rtp(EXACT), ok)], Some(EXACT), vec![Rank::Exact]),
        sequence(
            "nobody replaces exact",
            leg_a(),
            vec![
                (rtp(EXACT), ok),
                (rtp(PHONE), DroppedSource),
                (rtp((TERMINAL, 4_002)), DroppedSource),
                (rtp(EXACT), ok),
            ],
            Some(EXACT),
            vec![Rank::Exact],
        ),
        sequence(
            "the session's address, another port",
            leg_a(),
            vec![(rtp((TERMINAL, 4_002)), ok)],
            Some((TERMINAL, 4_002)),
            vec![Rank::Address],
        ),
        sequence(
            "the signalling's address",
            leg_a(),
            vec![(rtp(PHONE), ok), (rtp(PHONE), ok)],
            Some(PHONE),
            vec![Rank::Address],
        ),
        sequence(
            "exact replaces address within the window",
            leg_a(),
            vec![(rtp(PHONE), ok), (rtp(EXACT), ok), (rtp(PHONE), DroppedSource)],
            Some(EXACT),
            vec![Rank::Address, Rank::Exact],
        ),
        sequence(
            "and not after it",
            closed_window(),
            vec![(rtp(PHONE), ok), (rtp(EXACT), DroppedSource), (rtp(PHONE), ok)],
            Some(PHONE),
            vec![Rank::Address],
        ),
        sequence(
            "a lock holds against every other address and port",
            leg_a(),
            vec![
                (rtp(PHONE), ok),
                (rtp((NAT, 61_002)), DroppedSource),
                (rtp((TERMINAL, 61_000)), DroppedSource),
                (rtp(STRANGER), DroppedSource),
                (rtp(PHONE), ok),
            ],
            Some(PHONE),
            vec![Rank::Address],
        ),
        sequence("strangers never latch", leg_a(), vec![(rtp(STRANGER), DroppedSource); 5], None, vec![]),
        sequence(
            "only a negotiated payload type latches, any passes then",
            leg_a(),
            vec![(rtp(PHONE).payload_type(3), DroppedPayloadType), (rtp(PHONE), ok), (rtp(PHONE).payload_type(13), ok)],
            Some(PHONE),
            vec![Rank::Address],
        ),
        sequence(
            "STUN and RTCP do not latch RTP",
            leg_a(),
            vec![
                (Packet { payload: vec![0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42], ..rtp(PHONE) }, DroppedStun),
                (Packet::rtcp(PHONE, A_RTP), DroppedFormat),
                (rtcp(PHONE_RTCP), DroppedRtcpSource),
            ],
            None,
            vec![],
        ),
        sequence(
            "learning from the signalling's address can be refused",
            Leg { signalling_address: [0; 16], ..leg_a() },
            vec![(rtp(PHONE), DroppedSource)],
            None,
            vec![],
        ),
        sequence(
            "an address that was stated and does not count has no rank",
            Leg { remote_address: [0; 16], remote_port: 0, remote_rtcp_port: 0, ..leg_a() },
            vec![
                (rtp(EXACT), DroppedSource),
                (rtp(PHONE), ok),
                (rtp(EXACT), DroppedSource),
                (rtp((TERMINAL, 4_002)), DroppedSource),
                (rtp(PHONE), ok),
            ],
            Some(PHONE),
            vec![Rank::Address],
        ),
        sequence(
            "nothing is learned without a session description",
            Leg { remote_address: [0; 16], signalling_address: [0; 16], remote_port: 0, ..leg_a() },
            vec![(rtp(PHONE), DroppedSource), (rtp(([0; 4], 4_000)), DroppedSource)],
            None,
            vec![],
        ),
        sequence(
            "a closed leg learns nothing",
            Leg { generation: 0, ..leg_a() },
            vec![(rtp(EXACT), DroppedClosed), (rtcp(PHONE_RTCP), DroppedClosed)],
            None,
            vec![],
        ),
        sequence(
            "a packet latches even where it cannot be forwarded",
            Leg { peer_generation: 0, ..leg_a() },
            vec![(rtp(PHONE), DroppedDestination), (rtp(STRANGER), DroppedSource)],
            Some(PHONE),
            vec![Rank::Address],
        ),
    ]
}

#[test]
fn a_leg_learns_who_may_send_to_it() -> Result<()> {
    if !testbed::available() {
        return Ok(());
    }
    for Sequence { name, leg, packets, latched, told } in sequences() {
        let mut world = World::new()?;
        world.leg(A, leg)?;
        for (number, (packet, verdict)) in packets.iter().enumerate() {
            assert_eq!(world.judge(&packet.frame())?.0, *verdict, "{name}, packet {number}");
        }
        let expected = match latched {
            Some((address, port)) => Remote { address, port, tag: GENERATION_A },
            None => Remote::default(),
        };
        assert_eq!(world.state(A)?.rtp.source, expected, "{name}");
        let events = world.events();
        let ranks: Vec<_> = events.iter().map(|event| event.rank).collect();
        assert_eq!(ranks, told.iter().map(|rank| *rank as u16).collect::<Vec<_>>(), "{name}");
        if let Some(last) = events.last() {
            assert_eq!((last.leg, last.component, last.source), (A, 0, expected), "{name}");
            assert!(last.time_ns > 0, "{name}");
        }
    }
    Ok(())
}

#[test]
fn the_packet_that_latches_opens_the_way_back() -> Result<()> {
    if !testbed::available() {
        return Ok(());
    }
    let back = Packet::rtp(SWITCH, B_RTP);
    for (name, source, leg_b) in [
        ("by the way to the signalling", PHONE, leg_b()),
        (
            "by the way to the session's address",
            EXACT,
            Leg { next_hop_remote: HOP_ACCESS, next_hop_signalling: 0, ..leg_b() },
        ),
    ] {
        let mut world = World::new()?;
        world.leg(B, leg_b)?;
        assert_eq!(world.judge(&back.frame())?.0, DroppedDestination, "{name}");
        assert_eq!(world.judge(&rtp(source).frame())?.0, ForwardedOther, "{name}");
        let (verdict, outcome) = world.judge(&back.frame())?;
        assert_eq!(verdict, ForwardedSame, "{name}");
        assert_eq!(outcome.frame, back.relayed(HOP_ACCESS, A_RTP, source).frame(), "{name}");
    }

    // A better candidate turns the way back too, at once.
    let mut world = World::new()?;
    world.leg(B, Leg { next_hop_remote: HOP_ACCESS, ..leg_b() })?;
    for source in [PHONE, EXACT] {
        assert_eq!(world.judge(&rtp(source).frame())?.0, ForwardedOther);
        assert_eq!(world.run(&back.frame())?.frame, back.relayed(HOP_ACCESS, A_RTP, source).frame());
    }
    Ok(())
}

#[test]
fn a_latched_peer_is_answered_where_it_sends_from() -> Result<()> {
    if !testbed::available() {
        return Ok(());
    }
    // The softswitch sends from a port that is not in its session description: what it sends from wins.
    let world = World::new()?;
    world.run(&rtp(PHONE).frame())?;
    let other = (SOFTSWITCH, 20_004);
    assert_eq!(world.judge(&Packet::rtp(other, B_RTP).frame())?.0, ForwardedSame);
    assert_eq!(world.run(&rtp(PHONE).frame())?.frame, rtp(PHONE).relayed(HOP_CORE, B_RTP, other).frame());
    Ok(())
}

#[test]
fn rtcp_follows_rtp_and_goes_where_rtp_goes() -> Result<()> {
    if !testbed::available() {
        return Ok(());
    }
    let mut world = World::new()?;
    world.leg(B, Leg { next_hop_remote: HOP_ACCESS, ..leg_b() })?;
    let report = Packet::rtcp((SOFTSWITCH, 20_001), B_RTCP);
    world.run(&rtp(PHONE).frame())?;
    world.run(&Packet::rtp(SWITCH, B_RTP).frame())?;

    assert_eq!(world.judge(&report.frame())?.0, DroppedDestination, "the terminal's RTCP port is not known yet");
    assert_eq!(world.judge(&rtcp(PHONE_RTCP).frame())?.0, ForwardedOther);
    assert_eq!(world.run(&report.frame())?.frame, report.relayed(HOP_ACCESS, A_RTCP, PHONE_RTCP).frame());
    let components: Vec<_> = world.events().iter().map(|event| (event.leg, event.component)).collect();
    assert_eq!(components, [(A, 0), (B, 0), (B, 1), (A, 1)], "the report latched before it was dropped");

    // RTP latches at the address of the session description: the NAT's RTCP has lost its claim and its answers.
    assert_eq!(world.judge(&rtp(EXACT).frame())?.0, ForwardedOther);
    assert_eq!(world.judge(&rtcp(PHONE_RTCP).frame())?.0, DroppedRtcpSource);
    assert_eq!(world.judge(&report.frame())?.0, DroppedDestination);
    let exact_rtcp = (TERMINAL, 4_001);
    assert_eq!(world.judge(&rtcp(exact_rtcp).frame())?.0, ForwardedOther);
    assert_eq!(world.run(&report.frame())?.frame, report.relayed(HOP_ACCESS, A_RTCP, exact_rtcp).frame());
    Ok(())
}

#[test]
fn a_port_that_is_used_again_begins_unlatched() -> Result<()> {
    if !testbed::available() {
        return Ok(());
    }
    let mut world = World::new()?;
    world.run(&rtp(PHONE).frame())?;
    world.run(&Packet::rtp(SWITCH, B_RTP).frame())?;

    let other_nat = [203, 0, 113, 102];
    let second = Leg { generation: 7, peer_generation: 8, signalling_address: mapped(other_nat), ..leg_a() };
    world.leg(A, second)?;
    world.leg(B, Leg { generation: 8, peer_generation: 7, ..leg_b() })?;
    assert_eq!(world.judge(&rtp(PHONE).frame())?.0, DroppedSource, "a late packet of the last call");
    assert_eq!(
        world.judge(&Packet::rtp(SWITCH, B_RTP).frame())?.0,
        DroppedDestination,
        "no way to the last call's phone"
    );
    let phone = (other_nat, 7_000);
    assert_eq!(world.judge(&rtp(phone).frame())?.0, ForwardedOther);
    let back = Packet::rtp(SWITCH, B_RTP);
    assert_eq!(world.run(&back.frame())?.frame, back.relayed(HOP_ACCESS, A_RTP, phone).frame());
    Ok(())
}

#[test]
fn a_peer_that_comes_later_finds_what_was_latched() -> Result<()> {
    if !testbed::available() {
        return Ok(());
    }
    // The terminal latched while its peer was another leg, as when one of several answers is chosen.
    let mut world = World::new()?;
    world.leg(A, Leg { peer: B + 1, ..leg_a() })?;
    world.run(&rtp(PHONE).frame())?;
    world.leg(A, leg_a())?;
    let back = Packet::rtp(SWITCH, B_RTP);
    assert_eq!(world.run(&back.frame())?.frame, back.relayed(HOP_ACCESS, A_RTP, PHONE).frame());
    assert_eq!(world.state(B)?.rtp.destination.generation(), GENERATION_A, "and keeps it");
    Ok(())
}

#[test]
fn of_many_that_race_for_a_leg_one_wins() -> Result<()> {
    if !testbed::available() {
        return Ok(());
    }
    Platform::ALL.into_iter().try_for_each(|platform| race(&mut World::of(&[platform])?))
}

fn race(world: &mut World) -> Result<()> {
    const ROUNDS: u16 = 200;
    const RACERS: u16 = 8;
    const PACKETS: u64 = 20;
    for round in 1..=ROUNDS {
        world.leg(A, Leg { generation: round, ..leg_a() })?;
        world.leg(B, Leg { peer_generation: round, ..leg_b() })?;
        world.set_state(A, LegState::default())?;
        world.set_state(B, LegState::default())?;
        let start = Barrier::new(RACERS.into());
        let accepted: Vec<u64> = std::thread::scope(|scope| {
            let racers: Vec<_> = (0..RACERS)
                .map(|racer| {
                    let (frame, start) = (rtp((NAT, 61_000 + racer)).frame(), &start);
                    let thread = world.thread().expect("a thread of the test world");
                    scope.spawn(move || {
                        start.wait();
                        (0..PACKETS).filter(|_| thread.run(&frame).expect("a run of the program") == 4).count() as u64
                    })
                })
                .collect();
            racers.into_iter().map(|racer| racer.join().expect("a racing thread")).collect()
        });

        let winners: Vec<_> = (0..RACERS).filter(|&racer| accepted[usize::from(racer)] > 0).collect();
        assert_eq!(winners.len(), 1, "round {round}: {accepted:?}");
        let winner = Remote { address: NAT, port: 61_000 + winners[0], tag: round };
        let state = world.state(A)?;
        assert_eq!(state.rtp.source, winner);
        assert_eq!(state.rtp.packets, accepted[usize::from(winners[0])]);
        assert_eq!(state.rtp.packets + u64::from(state.drops.source), u64::from(RACERS) * PACKETS);
        // The next packet of the other direction looks for its destination, and keeps it.
        world.run(&Packet::rtp(SWITCH, B_RTP).frame())?;
        let destination = Remote { tag: round | Remote::VIA_SIGNALLING, ..winner };
        assert_eq!(world.state(B)?.rtp.destination, destination);
        let events: Vec<LatchEvent> = world.events().into_iter().filter(|event| event.leg == A).collect();
        assert_eq!(events.len(), 1, "round {round}");
        assert_eq!(events[0].source, winner);
    }
    Ok(())
}
