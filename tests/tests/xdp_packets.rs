//! Packets one by one through the XDP program: verdict, action, bytes and counters of each.

use anyhow::Result;
use proptest::{prelude::*, test_runner::TestRunner};
use proxy_common::{
    layout::{Drops, Leg, leg_flags},
    locals::mapped,
    verdict::{Action, Verdict},
};
use std::{cell::RefCell, collections::BTreeSet};
use testbed::xdp::{
    A, ACCESS, B, CORE, HOP_ACCESS, HOP_CORE, HOP_LOCAL, HOP_NARROW, HOP_NO_DEVICE, LEGS, NAT, Packet, SOFTSWITCH,
    TERMINAL, World, leg_a, leg_b, local_slot,
};

const PHONE: ([u8; 4], u16) = (NAT, 61_000);
const PHONE_RTCP: ([u8; 4], u16) = (NAT, 61_001);
const SWITCH: ([u8; 4], u16) = (SOFTSWITCH, 20_000);
const SWITCH_RTCP: ([u8; 4], u16) = (SOFTSWITCH, 20_001);
/// The ports of leg A.
const A_RTP: ([u8; 4], u16) = (ACCESS, 30_002);
const A_RTCP: ([u8; 4], u16) = (ACCESS, 30_003);
/// The ports of leg B.
const B_RTP: ([u8; 4], u16) = (CORE, 40_002);
const B_RTCP: ([u8; 4], u16) = (CORE, 40_003);

/// One row: what the world is, what arrives, what becomes of it.
struct Row {
    name: &'static str,
    setup: fn(&mut World) -> Result<()>,
    frame: Vec<u8>,
    verdict: Verdict,
    /// The frame afterwards; `None` where it must not have changed.
    out: Option<Vec<u8>>,
}

fn row(name: &'static str, frame: Vec<u8>, verdict: Verdict) -> Row {
    Row { name, setup: |_| Ok(()), frame, verdict, out: None }
}

fn after(name: &'static str, setup: fn(&mut World) -> Result<()>, frame: Vec<u8>, verdict: Verdict) -> Row {
    Row { name, setup, frame, verdict, out: None }
}

/// The terminal's RTP is latched.
fn phone_latched(world: &mut World) -> Result<()> {
    world.run(&Packet::rtp(PHONE, A_RTP).frame()).map(drop)
}

fn a_with(world: &mut World, change: impl FnOnce(&mut Leg)) -> Result<()> {
    let mut leg = leg_a();
    change(&mut leg);
    world.leg(A, leg)
}

/// A frame with some bytes overwritten.
fn edited(packet: &Packet, edits: &[(usize, &[u8])]) -> Vec<u8> {
    let mut frame = packet.frame();
    for (at, bytes) in edits {
        frame[*at..at + bytes.len()].copy_from_slice(bytes);
    }
    frame
}

fn rows() -> Vec<Row> {
    use Verdict::*;
    let rtp = Packet::rtp(PHONE, A_RTP);
    let rtcp = Packet::rtcp(PHONE_RTCP, A_RTCP);
    let back = Packet::rtp(SWITCH, B_RTP);
    let out = |packet: &Packet, by, source, destination| Some(packet.relayed(by, source, destination).frame());
    let with = |change: fn(&mut Packet)| {
        let mut packet = Packet::rtp(PHONE, A_RTP);
        change(&mut packet);
        packet
    };
    let payload = |bytes: &[u8]| Packet { payload: bytes.to_vec(), ..Packet::rtp(PHONE, A_RTP) };
    let padded = |packet: &Packet, more: usize| [packet.frame(), vec![0; more]].concat();

    vec![
        // The way through.
        Row {
            out: out(&rtp, HOP_CORE, B_RTP, SWITCH),
            ..row("RTP from behind a NAT latches and goes to the softswitch", rtp.frame(), ForwardedOther)
        },
        Row {
            out: out(&back, HOP_ACCESS, A_RTP, PHONE),
            ..after("RTP comes back to where it was latched", phone_latched, back.frame(), ForwardedSame)
        },
        Row {
            out: out(&rtcp, HOP_CORE, B_RTCP, SWITCH_RTCP),
            ..after("RTCP follows latched RTP", phone_latched, rtcp.frame(), ForwardedOther)
        },
        Row {
            out: {
                let packet = with(|p| p.checksum = false);
                out(&packet, HOP_CORE, B_RTP, SWITCH)
            },
            ..row("no UDP checksum stays none", with(|p| p.checksum = false).frame(), ForwardedOther)
        },
        Row {
            out: Some([rtp.relayed(HOP_CORE, B_RTP, SWITCH).frame(), vec![0; 6]].concat()),
            ..row("padding of the frame stays", padded(&rtp, 6), ForwardedOther)
        },
        Row {
            out: out(&with(|p| p.ttl = 2), HOP_CORE, B_RTP, SWITCH),
            ..row("a TTL of 2 is one hop more", with(|p| p.ttl = 2).frame(), ForwardedOther)
        },
        Row {
            out: {
                let packet = with(|p| p.payload.truncate(12));
                out(&packet, HOP_CORE, B_RTP, SWITCH)
            },
            ..row("RTP without a payload", with(|p| p.payload.truncate(12)).frame(), ForwardedOther)
        },
        // The host's own traffic.
        row("ARP", edited(&rtp, &[(12, &[0x08, 0x06])]), PassedOther),
        row("IPv6", edited(&rtp, &[(12, &[0x86, 0xdd])]), PassedOther),
        row("a VLAN tag", edited(&rtp, &[(12, &[0x81, 0x00])]), PassedOther),
        row("a frame too short for IPv4", rtp.frame()[..33].to_vec(), PassedOther),
        row("the shortest frame", rtp.frame()[..14].to_vec(), PassedOther),
        row("another IP version", edited(&rtp, &[(14, &[0x65])]), PassedOther),
        row("TCP to a media address", edited(&rtp, &[(23, &[6])]), PassedHost),
        row("UDP to another address", Packet::rtp(PHONE, ([203, 0, 113, 11], 30_002)).frame(), PassedHost),
        row("UDP below the range", Packet::rtp(PHONE, (ACCESS, 29_999)).frame(), PassedHost),
        row("UDP above the range", Packet::rtp(PHONE, (ACCESS, 30_064)).frame(), PassedHost),
        row("signalling to the media address", Packet::rtp(PHONE, (ACCESS, 5_060)).frame(), PassedHost),
        row("a frame that ends in the UDP header", rtp.frame()[..41].to_vec(), PassedHost),
        row("a first fragment", edited(&rtp, &[(20, &[0x20, 0])]), PassedFragment),
        row("a later fragment", edited(&rtp, &[(20, &[0, 0x40])]), PassedFragment),
        row(
            "a fragment to another address",
            edited(&Packet::rtp(PHONE, ([203, 0, 113, 11], 30_002)), &[(20, &[0x20, 0])]),
            PassedHost,
        ),
        row("IPv4 options", edited(&rtp, &[(14, &[0x46])]), PassedOptions),
        // Contradictions.
        row("UDP length below its header", edited(&rtp, &[(38, &[0, 7])]), DroppedMalformed),
        row("UDP length above the packet", edited(&rtp, &[(38, &[0, 181])]), DroppedMalformed),
        row("UDP length below the packet", edited(&rtp, &[(38, &[0, 179])]), DroppedMalformed),
        row("total length above the frame", edited(&rtp, &[(16, &[0, 201]), (38, &[0, 181])]), DroppedMalformed),
        row("total length above any frame", edited(&rtp, &[(16, &[255, 255]), (38, &[255, 235])]), DroppedMalformed),
        row("total length below the headers", edited(&rtp, &[(16, &[0, 27]), (38, &[0, 7])]), DroppedMalformed),
        // Ports and formats.
        after("by another interface", |world| world.move_local(ACCESS), rtp.frame(), DroppedInterface),
        after(
            "by another interface, not a media port",
            |world| world.move_local(ACCESS),
            Packet::rtp(PHONE, (ACCESS, 5060)).frame(),
            PassedHost,
        ),
        row("a port without a call", Packet::rtp(PHONE, (ACCESS, 30_004)).frame(), DroppedClosed),
        row("the last port of the range", Packet::rtp(PHONE, (ACCESS, 30_063)).frame(), DroppedClosed),
        row("RTCP on the RTP port", Packet::rtcp(PHONE, A_RTP).frame(), DroppedFormat),
        row("RTP on the RTCP port", Packet::rtp(PHONE, A_RTCP).frame(), DroppedFormat),
        row(
            "STUN",
            payload(&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).frame(),
            DroppedStun,
        ),
        row("DTLS", payload(&[22; 60]).frame(), DroppedDtls),
        row("ZRTP", payload(&[16; 60]).frame(), DroppedZrtp),
        row("a datagram without a payload", payload(&[]).frame(), DroppedKeepalive),
        row("a datagram without a payload, padded", padded(&payload(&[]), 18), DroppedKeepalive),
        row("one byte", payload(&[0x80]).frame(), DroppedKeepalive),
        row("RTP one byte short", payload(&[0x80; 11]).frame(), DroppedFormat),
        row("RTP one byte short, padded with more", padded(&payload(&[0x80; 11]), 7), DroppedFormat),
        row("a payload type that was not negotiated", rtp.clone().payload_type(3).frame(), DroppedPayloadType),
        // Sources.
        row("a stranger before the latch", Packet::rtp(([203, 0, 113, 66], 61_000), A_RTP).frame(), DroppedSource),
        after(
            "a stranger after it",
            phone_latched,
            Packet::rtp(([203, 0, 113, 66], 61_000), A_RTP).frame(),
            DroppedSource,
        ),
        after(
            "another port of the NAT after it",
            phone_latched,
            Packet::rtp((NAT, 61_002), A_RTP).frame(),
            DroppedSource,
        ),
        row("source port 0", Packet::rtp((NAT, 0), A_RTP).frame(), DroppedSource),
        row("RTCP before RTP", rtcp.frame(), DroppedRtcpSource),
        after(
            "RTCP from another address than RTP",
            phone_latched,
            Packet::rtcp((TERMINAL, 4_001), A_RTCP).frame(),
            DroppedRtcpSource,
        ),
        after(
            "RTCP from another port than latched RTCP",
            |world| {
                phone_latched(world)?;
                world.run(&Packet::rtcp(PHONE_RTCP, A_RTCP).frame()).map(drop)
            },
            Packet::rtcp((NAT, 61_003), A_RTCP).frame(),
            DroppedSource,
        ),
        // Ways out.
        row("to a terminal that has not sent yet", back.frame(), DroppedDestination),
        after(
            "to a softswitch whose address is not known",
            |world| world.leg(B, Leg { remote_address: [0; 16], ..leg_b() }),
            rtp.frame(),
            DroppedDestination,
        ),
        after(
            "to a softswitch without an RTP port",
            |world| world.leg(B, Leg { remote_port: 0, ..leg_b() }),
            rtp.frame(),
            DroppedDestination,
        ),
        after(
            "to a leg that is closed",
            |world| world.leg(B, Leg { generation: 0, ..leg_b() }),
            rtp.frame(),
            DroppedDestination,
        ),
        after(
            "to a leg of another call",
            |world| world.leg(B, Leg { generation: 6, ..leg_b() }),
            rtp.frame(),
            DroppedDestination,
        ),
        after("without a peer", |world| a_with(world, |leg| leg.peer_generation = 0), rtp.frame(), DroppedDestination),
        row("a TTL of 1", with(|p| p.ttl = 1).frame(), DroppedTtl),
        row("a TTL of 0", with(|p| p.ttl = 0).frame(), DroppedTtl),
        after("no next hop", |world| a_with(world, |leg| leg.next_hop_remote = 0), rtp.frame(), DroppedNextHop),
        after(
            "a next hop beyond the table",
            |world| a_with(world, |leg| leg.next_hop_remote = u16::MAX),
            rtp.frame(),
            DroppedNextHop,
        ),
        after(
            "a next hop without a device",
            |world| a_with(world, |leg| leg.next_hop_remote = HOP_NO_DEVICE),
            rtp.frame(),
            DroppedNextHop,
        ),
        after(
            "a local next hop whose destination is not local",
            |world| a_with(world, |leg| leg.next_hop_remote = HOP_LOCAL),
            rtp.frame(),
            DroppedNextHop,
        ),
        after(
            "larger than the way out takes",
            |world| a_with(world, |leg| leg.next_hop_remote = HOP_NARROW),
            with(|p| p.payload.push(0)).frame(),
            DroppedSize,
        ),
        Row {
            out: out(&rtp, HOP_NARROW, B_RTP, SWITCH),
            ..after(
                "as large as the way out takes",
                |world| a_with(world, |leg| leg.next_hop_remote = HOP_NARROW),
                rtp.frame(),
                ForwardedOther,
            )
        },
        // What the policy says.
        after(
            "more than the burst",
            |world| a_with(world, |leg| (leg.rate, leg.burst) = (1, 199)),
            rtp.frame(),
            DroppedRate,
        ),
        Row {
            out: out(&rtp, HOP_CORE, B_RTP, SWITCH),
            ..after(
                "as much as the burst",
                |world| a_with(world, |leg| (leg.rate, leg.burst) = (1, 200)),
                rtp.frame(),
                ForwardedOther,
            )
        },
        after(
            "a stranger where anybody may latch",
            |world| a_with(world, |leg| leg.flags |= leg_flags::LATCH_ANY),
            Packet::rtp(([203, 0, 113, 66], 61_000), A_RTP).frame(),
            DroppedTrial,
        ),
        after(
            "two legs that send to each other",
            |world| {
                let loop_to = |port: u16| Leg { remote_address: mapped(CORE), remote_port: port, ..leg_b() };
                a_with(world, |leg| leg.next_hop_remote = HOP_LOCAL)?;
                // B's address is the relay's own port 40004, where a leg waits that would send back to it.
                world.leg(B, loop_to(40_004))?;
                world.leg(
                    B + 1,
                    Leg {
                        generation: 9,
                        peer: B,
                        next_hop_remote: HOP_LOCAL,
                        signalling_address: mapped(CORE),
                        peer_generation: leg_b().generation,
                        out_local: local_slot(CORE),
                        out_port: 40_002,
                        ..leg_b()
                    },
                )
            },
            rtp.frame(),
            DroppedLoop,
        ),
    ]
}

#[test]
fn every_packet_has_its_verdict_action_and_bytes() -> Result<()> {
    if !testbed::available() {
        return Ok(());
    }
    let mut reached = BTreeSet::new();
    for row in rows() {
        let mut world = World::new()?;
        (row.setup)(&mut world)?;
        let (verdict, outcome) = world.judge(&row.frame)?;
        let action = match row.verdict.action() {
            Action::Drop => 1,
            Action::Pass => 2,
            Action::Transmit => 3,
            Action::Redirect => 4,
        };
        assert_eq!(verdict, row.verdict, "{}", row.name);
        assert_eq!(outcome.action, action, "{}", row.name);
        let expected = row.out.as_ref().unwrap_or(&row.frame);
        assert_eq!(&outcome.frame, expected, "{}", row.name);
        reached.insert(verdict.name());
    }
    let all: BTreeSet<_> = Verdict::ALL.iter().map(|verdict| verdict.name()).collect();
    assert_eq!(reached, all, "a verdict has no row");
    Ok(())
}

#[test]
fn legs_count_what_they_forward_and_why_they_drop() -> Result<()> {
    if !testbed::available() {
        return Ok(());
    }
    let world = World::new()?;
    let rtp = Packet::rtp(PHONE, A_RTP);
    let short = Packet { payload: vec![0x80; 12], ..rtp.clone() };
    let rtcp = Packet::rtcp(PHONE_RTCP, A_RTCP);
    let stranger = ([203, 0, 113, 66], 61_000);

    // Nobody knows the terminal yet, then it sends.
    world.run(&Packet::rtp(SWITCH, B_RTP).frame())?;
    for packet in [&rtp, &rtp, &short, &rtcp] {
        world.run(&packet.frame())?;
    }
    for dropped in [
        Packet::rtp(stranger, A_RTP),
        Packet::rtcp(stranger, A_RTCP),
        Packet::rtcp(PHONE, A_RTP),
        Packet { ttl: 1, ..rtp.clone() },
    ] {
        world.run(&dropped.frame())?;
    }
    world.run(&Packet::rtp(SWITCH, B_RTP).frame())?;

    let a = world.state(A)?;
    assert_eq!((a.rtp.packets, a.rtp.octets), (3, 2 * rtp.octets() + short.octets()));
    assert_eq!((a.rtcp.packets, a.rtcp.octets), (1, rtcp.octets() as u32));
    assert_eq!(a.drops, Drops { source: 2, format: 1, path: 1, ..Drops::default() });
    let b = world.state(B)?;
    assert_eq!((b.rtp.packets, b.rtp.octets), (1, rtp.octets()));
    assert_eq!(b.drops, Drops { destination: 1, ..Drops::default() });
    for other in (0..LEGS).filter(|&index| index != A && index != B) {
        assert_eq!(world.state(other)?, Default::default(), "leg {other} has nothing to do with this call");
    }
    Ok(())
}

#[test]
fn a_packet_between_two_calls_is_handled_by_both_and_rewritten_once() -> Result<()> {
    if !testbed::available() {
        return Ok(());
    }
    // Terminal 1 - A - B - (the softswitch joined the calls) - C - D - terminal 2, where C is at core port 40010.
    let (c, d) = (B + 4, A + 4);
    let second = ([203, 0, 113, 102], 7_000);
    let mut world = World::new()?;
    world.leg(A, Leg { next_hop_remote: HOP_LOCAL, ..leg_a() })?;
    world.leg(B, Leg { remote_address: mapped(CORE), remote_port: 40_010, remote_rtcp_port: 40_011, ..leg_b() })?;
    world.leg(
        c,
        Leg {
            generation: 11,
            peer: d,
            peer_generation: 12,
            next_hop_remote: HOP_ACCESS,
            out_local: local_slot(ACCESS),
            out_port: 30_010,
            remote_address: mapped(CORE),
            remote_port: 40_002,
            remote_rtcp_port: 40_003,
            ..leg_a()
        },
    )?;
    world.leg(
        d,
        Leg {
            generation: 12,
            peer: c,
            peer_generation: 11,
            remote_address: mapped(second.0),
            remote_port: second.1,
            ..leg_b()
        },
    )?;

    let rtp = Packet::rtp(PHONE, A_RTP);
    let (verdict, outcome) = world.judge(&rtp.frame())?;
    assert_eq!(verdict, Verdict::ForwardedSame);
    let mut expected = rtp.relayed(HOP_ACCESS, (ACCESS, 30_010), second);
    expected.ttl = rtp.ttl - 2;
    assert_eq!(outcome.frame, expected.frame());
    for leg in [A, c] {
        let state = world.state(leg)?;
        assert_eq!((state.rtp.packets, state.rtp.octets), (1, rtp.octets()), "leg {leg}");
    }
    assert_eq!(world.state(c)?.rtp.source.address, CORE, "the second leg latched the first");

    // One hop is too few for two legs; the first has done its part.
    let (verdict, _) = world.judge(&Packet { ttl: 2, ..rtp }.frame())?;
    assert_eq!(verdict, Verdict::DroppedTtl);
    assert_eq!(world.state(A)?.rtp.packets, 2);
    assert_eq!((world.state(c)?.rtp.packets, world.state(c)?.drops.path), (1, 1));
    Ok(())
}

#[test]
fn whatever_is_forwarded_has_right_checksums() -> Result<()> {
    if !testbed::available() {
        return Ok(());
    }
    let world = RefCell::new(World::new()?);
    let address = any::<[u8; 4]>();
    let case = (address, 1..=u16::MAX, address, 1..=u16::MAX, address, any::<u16>(), 2..=255_u8, any::<bool>(), {
        prop::collection::vec(any::<u8>(), 0..300)
    });
    TestRunner::default().run(&case, |(from, from_port, to, to_port, out, out_port, ttl, checksum, body)| {
        let mut world = world.borrow_mut();
        let last_generation = world.state(A).unwrap().rtp.source.generation();
        let mut packet = Packet::rtp((from, from_port), A_RTP);
        packet.payload.truncate(12);
        packet.payload.extend(body);
        (packet.ttl, packet.checksum) = (ttl, checksum);
        let out_local = world.out_local(out.into()).unwrap();
        let leg = Leg {
            // Another generation each time: nothing is latched.
            generation: last_generation % 0x7fff + 1,
            remote_address: mapped(from),
            remote_port: from_port,
            out_local,
            out_port,
            ..leg_a()
        };
        world.leg(A, leg).unwrap();
        world.leg(B, Leg { remote_address: mapped(to), remote_port: to_port, ..leg_b() }).unwrap();
        let (verdict, outcome) = world.judge(&packet.frame()).unwrap();
        prop_assert_eq!(verdict, Verdict::ForwardedOther);
        let expected = packet.relayed(HOP_CORE, (out, out_port), (to, to_port));
        prop_assert_eq!(outcome.frame, expected.frame());
        Ok(())
    })?;
    Ok(())
}

#[test]
fn other_traffic_passes_byte_for_byte() -> Result<()> {
    if !testbed::available() {
        return Ok(());
    }
    let world = World::new()?;
    TestRunner::default().run(&prop::collection::vec(any::<u8>(), 14..200), |mut frame| {
        // Anything but IPv4 to one of the two media addresses.
        if frame.len() >= 34 && [ACCESS, CORE].contains(&[frame[30], frame[31], frame[32], frame[33]]) {
            frame[30] ^= 0xff;
        }
        if frame.len() % 2 == 0 {
            frame[12..14].copy_from_slice(&[0x08, 0x00]);
        }
        let (verdict, outcome) = world.judge(&frame).unwrap();
        prop_assert_eq!(verdict.action(), Action::Pass);
        prop_assert_eq!(outcome.frame, frame);
        Ok(())
    })?;
    Ok(())
}
