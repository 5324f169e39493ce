//! Packets of every form (IP version, VLAN tags, kinds of payload) one by one through the XDP program: verdict and
//! bytes.

use anyhow::Result;
use proptest::{prelude::*, test_runner::TestRunner};
use proxy_common::{
    layout::{Leg, leg_flags},
    verdict::{Action, Verdict},
};
use std::{
    cell::RefCell,
    net::{Ipv6Addr, SocketAddr},
};
use testbed::xdp::{
    A, A_V6, ACCESS, ACCESS_V6, B, B_V6, CORE, CORE_V6, GENERATION_A, HOP_ACCESS, HOP_CORE, HOP_LOCAL, HOP_TAGGED,
    HOP_TAGGED_TWICE, NAT, Packet, SOFTSWITCH, SOFTSWITCH_V6, TAGS, TERMINAL_V6, World, bytes, leg_a, leg_a_v6, leg_b,
    leg_b_v6,
};

const STRANGER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xbad, 0, 0, 0, 0, 1);

fn v4(address: [u8; 4], port: u16) -> SocketAddr {
    (address, port).into()
}

fn v6(address: Ipv6Addr, port: u16) -> SocketAddr {
    (address, port).into()
}

/// One stream: its two legs, and the addresses on the wire.
struct Stream {
    legs: [(u32, Leg); 2],
    /// Where the terminal sends from; of IPv4 its NAT, of IPv6 another port than its session description says.
    terminal: SocketAddr,
    softswitch: SocketAddr,
    /// The relay's RTP ports.
    near: SocketAddr,
    far: SocketAddr,
}

/// The four pairs of IP versions: terminal, then softswitch.
fn streams() -> [Stream; 4] {
    let (four, six) = (v4(NAT, 61_000), v6(TERMINAL_V6, 61_000));
    let (switch, switch_v6) = (v4(SOFTSWITCH, 20_000), v6(SOFTSWITCH_V6, 20_000));
    let (near, near_v6) = (v4(ACCESS, 30_002), v6(ACCESS_V6, 30_002));
    let (far, far_v6) = (v4(CORE, 40_002), v6(CORE_V6, 40_002));
    let across = Leg { peer: B_V6, flags: leg_flags::PEER_V6, ..leg_a() };
    let across = Leg { out_local: leg_a_v6(B_V6).out_local, ..across };
    let back = Leg { peer: A_V6, out_local: leg_b_v6(A_V6).out_local, ..leg_b() };
    let back = Leg { flags: back.flags | leg_flags::PEER_V6, next_hop_remote: HOP_ACCESS, ..back };
    [
        Stream { legs: [(A, leg_a()), (B, leg_b())], terminal: four, softswitch: switch, near, far },
        Stream {
            legs: [(A_V6, leg_a_v6(B_V6)), (B_V6, leg_b_v6(A_V6))],
            terminal: six,
            softswitch: switch_v6,
            near: near_v6,
            far: far_v6,
        },
        Stream { legs: [(A_V6, leg_a_v6(B)), (B, back)], terminal: six, softswitch: switch, near: near_v6, far },
        Stream { legs: [(A, across), (B_V6, leg_b_v6(A))], terminal: four, softswitch: switch_v6, near, far: far_v6 },
    ]
}

impl Stream {
    fn world(&self) -> Result<World> {
        let mut world = World::new()?;
        self.write(&mut world)?;
        Ok(world)
    }

    fn write(&self, world: &mut World) -> Result<()> {
        self.legs.iter().try_for_each(|(index, leg)| world.leg(*index, *leg))
    }

    /// The same with both legs changed.
    fn with(mut self, change: impl Fn(&mut Leg)) -> Self {
        self.legs.iter_mut().for_each(|(_, leg)| change(leg));
        self
    }

    fn name(&self) -> String {
        format!("{} to {}", self.terminal, self.softswitch)
    }
}

fn above(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip(), address.port() + 1)
}

#[test]
fn a_stream_goes_both_ways_whatever_the_ip_versions() -> Result<()> {
    if !testbed::available() {
        return Ok(());
    }
    for stream in streams() {
        let world = stream.world()?;
        let name = stream.name();
        let there = Packet::rtp(stream.terminal, stream.near);
        let (verdict, outcome) = world.judge(&there.frame())?;
        assert_eq!(verdict, Verdict::ForwardedOther, "{name}");
        assert_eq!(outcome.frame, there.relayed(HOP_CORE, stream.far, stream.softswitch).frame(), "{name}");
        // The second time from what was learned.
        let (_, outcome) = world.judge(&there.frame())?;
        assert_eq!(outcome.frame, there.relayed(HOP_CORE, stream.far, stream.softswitch).frame(), "{name}");

        let back = Packet { tos: 0x17, ..Packet::rtp(stream.softswitch, stream.far) };
        for _ in 0..3 {
            let (verdict, outcome) = world.judge(&back.frame())?;
            assert_eq!(verdict, Verdict::ForwardedSame, "{name}");
            assert_eq!(outcome.frame, back.relayed(HOP_ACCESS, stream.near, stream.terminal).frame(), "{name}");
        }
        let report = Packet::rtcp(above(stream.terminal), above(stream.near));
        let (verdict, outcome) = world.judge(&report.frame())?;
        assert_eq!(verdict, Verdict::ForwardedOther, "{name}");
        let expected = report.relayed(HOP_CORE, above(stream.far), above(stream.softswitch));
        assert_eq!(outcome.frame, expected.frame(), "{name}");
        let report = Packet::rtcp(above(stream.softswitch), above(stream.far));
        for _ in 0..2 {
            let (verdict, outcome) = world.judge(&report.frame())?;
            assert_eq!(verdict, Verdict::ForwardedSame, "{name}");
            let expected = report.relayed(HOP_ACCESS, above(stream.near), above(stream.terminal));
            assert_eq!(outcome.frame, expected.frame(), "{name}");
        }
        let [near, far] = [world.state(stream.legs[0].0)?, world.state(stream.legs[1].0)?];
        assert_eq!((near.rtp.packets, near.rtp.octets), (2, 2 * there.octets()), "{name}");
        assert_eq!((far.rtp.packets, far.rtp.octets), (3, 3 * back.octets()), "{name}");
        assert_eq!((near.rtcp.packets, far.rtcp.packets), (1, 2), "{name}");
    }
    Ok(())
}

#[test]
fn ipv6_is_learned_like_ipv4() -> Result<()> {
    use Verdict::*;
    if !testbed::available() {
        return Ok(());
    }
    let [_, stream, ..] = streams();
    let (phone, exact, near) = (stream.terminal, v6(TERMINAL_V6, 4_000), stream.near);
    let other_host = v6(Ipv6Addr::new(0x2001, 0xdb8, 1, 7, 0, 0, 0, 0x21), 61_000);
    let rtp = |from| Packet::rtp(from, near);
    let rtcp = |from| Packet::rtcp(from, above(near));
    for (name, change, packets) in [
        (
            "an address locks against other ports and hosts",
            (|_| ()) as fn(&mut Leg),
            vec![
                (rtcp(above(phone)), DroppedRtcpSource),
                (rtp(v6(STRANGER_V6, 61_000)), DroppedSource),
                (rtp(phone), ForwardedOther),
                (rtp(v6(TERMINAL_V6, 61_002)), DroppedSource),
                (rtp(other_host), DroppedSource),
                (rtcp(v6(STRANGER_V6, 61_001)), DroppedRtcpSource),
                (rtcp(above(phone)), ForwardedOther),
                (rtcp(v6(TERMINAL_V6, 61_003)), DroppedSource),
            ],
        ),
        (
            "an exact one replaces it",
            |_| (),
            vec![(rtp(phone), ForwardedOther), (rtp(exact), ForwardedOther), (rtp(phone), DroppedSource)],
        ),
        (
            "not after the window",
            |leg| leg.window_end_ns = 0,
            vec![(rtp(phone), ForwardedOther), (rtp(exact), DroppedSource), (rtp(phone), ForwardedOther)],
        ),
        (
            "a host of the same /64, where that is enough",
            |leg| leg.address_bits_v6 = 64,
            vec![(rtp(v6(STRANGER_V6, 61_000)), DroppedSource), (rtp(other_host), ForwardedOther)],
        ),
        (
            "nobody without a session description",
            |leg| (leg.remote_address, leg.signalling_address) = ([0; 16], [0; 16]),
            vec![(rtp(phone), DroppedSource), (rtp(v6(Ipv6Addr::UNSPECIFIED, 4_000)), DroppedSource)],
        ),
    ] {
        let mut world = stream.world()?;
        let (index, mut leg) = stream.legs[0];
        change(&mut leg);
        world.leg(index, leg)?;
        for (number, (packet, verdict)) in packets.iter().enumerate() {
            assert_eq!(world.judge(&packet.frame())?.0, *verdict, "{name}, packet {number}");
        }
    }
    Ok(())
}

#[test]
fn vlan_tags_come_and_go() -> Result<()> {
    if !testbed::available() {
        return Ok(());
    }
    let [outer, inner] = TAGS;
    let forms = [
        (vec![], [0, 0], HOP_CORE),
        (vec![outer], [100, 0], HOP_TAGGED),
        (vec![outer, inner], [100, 7], HOP_TAGGED_TWICE),
    ];
    for stream in streams() {
        for (arriving, expected, _) in &forms {
            for (_, _, hop) in &forms {
                let mut world = stream.world()?;
                world.tag_locals(*expected)?;
                let (index, leg) = stream.legs[0];
                world.leg(index, Leg { next_hop_remote: *hop, ..leg })?;
                let packet = Packet { tags: arriving.clone(), ..Packet::rtp(stream.terminal, stream.near) };
                let name = format!("{}: {arriving:?} out by {hop}", stream.name());
                let (verdict, outcome) = world.judge(&packet.frame())?;
                assert_eq!(verdict, Verdict::ForwardedOther, "{name}");
                let out = packet.relayed(*hop, stream.far, stream.softswitch);
                assert_eq!(outcome.frame, out.frame(), "{name}");
                // Those of any other VLAN are somebody else's.
                for (others, _, _) in forms.iter().filter(|(others, _, _)| others != arriving) {
                    let other = Packet { tags: others.clone(), ..packet.clone() };
                    assert_eq!(world.judge(&other.frame())?.0, Verdict::DroppedInterface, "{name}: {others:?}");
                }
                let other = Packet { tags: vec![101], ..packet };
                assert_eq!(world.judge(&other.frame())?.0, Verdict::DroppedInterface, "{name}");
            }
        }
    }
    Ok(())
}

#[test]
fn labels_are_set_and_congestion_marks_kept() -> Result<()> {
    if !testbed::available() {
        return Ok(());
    }
    for stream in streams() {
        let stream = stream.with(|leg| leg.flags |= leg_flags::SET_DSCP | 46 << leg_flags::DSCP_SHIFT);
        let world = stream.world()?;
        for (tos, expected) in [(0, 0xb8), (0xff, 0xbb), (0x28 | 1, 0xb9)] {
            let packet = Packet { tos, ..Packet::rtp(stream.terminal, stream.near) };
            let expected = Packet { tos: expected, ..packet.relayed(HOP_CORE, stream.far, stream.softswitch) };
            assert_eq!(world.run(&packet.frame())?.frame, expected.frame(), "{}: {tos:#x}", stream.name());
        }
    }
    Ok(())
}

#[test]
fn with_rtcp_mux_both_use_one_port_on_that_side() -> Result<()> {
    if !testbed::available() {
        return Ok(());
    }
    for mut stream in streams() {
        let name = stream.name();
        stream.legs[0].1.flags |= leg_flags::RTCP_MUX;
        stream.legs[1].1.flags |= leg_flags::PEER_RTCP_MUX;
        let world = stream.world()?;
        let report = Packet::rtcp(stream.terminal, stream.near);
        assert_eq!(world.judge(&report.frame())?.0, Verdict::DroppedRtcpSource, "{name}: before RTP");
        assert_eq!(world.judge(&Packet::rtp(stream.terminal, stream.near).frame())?.0, Verdict::ForwardedOther);
        let (verdict, outcome) = world.judge(&report.frame())?;
        assert_eq!(verdict, Verdict::ForwardedOther, "{name}");
        let expected = report.relayed(HOP_CORE, above(stream.far), above(stream.softswitch));
        assert_eq!(outcome.frame, expected.frame(), "{name}");
        world.run(&Packet::rtp(stream.softswitch, stream.far).frame())?;
        let back = Packet::rtcp(above(stream.softswitch), above(stream.far));
        for _ in 0..2 {
            let (verdict, outcome) = world.judge(&back.frame())?;
            assert_eq!(verdict, Verdict::ForwardedSame, "{name}");
            assert_eq!(outcome.frame, back.relayed(HOP_ACCESS, stream.near, stream.terminal).frame(), "{name}");
        }
        let odd = Packet::rtcp(above(stream.terminal), above(stream.near));
        assert_eq!(world.judge(&odd.frame())?.0, Verdict::DroppedFormat, "{name}: the odd port is not used");
        let state = world.state(stream.legs[0].0)?;
        assert_eq!((state.rtp.packets, state.rtcp.packets), (1, 1), "{name}");
    }
    Ok(())
}

#[test]
fn what_else_is_carried_comes_from_where_signalling_said_and_latches_only_a_handshake() -> Result<()> {
    use Verdict::*;
    if !testbed::available() {
        return Ok(());
    }
    let carried = leg_flags::CARRY_STUN | leg_flags::CARRY_DTLS | leg_flags::CARRY_ZRTP;
    let [stream, ..] = streams();
    let payload = |bytes: &[u8]| Packet { payload: bytes.to_vec(), ..Packet::rtp(stream.terminal, stream.near) };
    let from = |packet: &Packet, source: SocketAddr| Packet { source, ..packet.clone() };
    let (stun, zrtp, data, handshake) = (payload(&[0; 20]), payload(&[16; 20]), payload(&[23; 20]), payload(&[22; 20]));
    let rtp = Packet::rtp(stream.terminal, stream.near);
    let stranger = v4([203, 0, 113, 66], 61_000);
    let other_port = v4(NAT, 61_002);
    for (name, flags, packets, latched) in [
        (
            "STUN and ZRTP pass and latch nothing",
            carried,
            vec![(&stun, ForwardedOther), (&zrtp, ForwardedOther)],
            false,
        ),
        ("nor does DTLS that is no handshake", carried, vec![(&data, ForwardedOther)], false),
        ("a handshake does", carried, vec![(&handshake, ForwardedOther), (&rtp, ForwardedOther)], true),
        ("nothing from strangers", carried, vec![(&from(&stun, stranger), DroppedSource)], false),
        ("not even a handshake", carried, vec![(&from(&handshake, stranger), DroppedSource)], false),
        (
            "nor from another port once latched",
            carried,
            vec![(&rtp, ForwardedOther), (&from(&stun, other_port), DroppedSource), (&stun, ForwardedOther)],
            true,
        ),
        (
            "unless asked for, each is dropped",
            0,
            vec![(&stun, DroppedStun), (&zrtp, DroppedZrtp), (&data, DroppedDtls), (&handshake, DroppedDtls)],
            false,
        ),
        (
            "T.38 is anything, and latches",
            leg_flags::CARRY_UDPTL,
            vec![
                (&from(&zrtp, stranger), DroppedSource),
                (&zrtp, ForwardedOther),
                (&from(&zrtp, other_port), DroppedSource),
            ],
            true,
        ),
    ] {
        let mut world = stream.world()?;
        world.leg(A, Leg { flags, ..leg_a() })?;
        for (number, (packet, verdict)) in packets.iter().enumerate() {
            let (found, outcome) = world.judge(&packet.frame())?;
            assert_eq!(found, *verdict, "{name}, packet {number}");
            if found.action() == Action::Redirect {
                let out = packet.relayed(HOP_CORE, stream.far, stream.softswitch);
                assert_eq!(outcome.frame, out.frame(), "{name}, packet {number}");
            }
        }
        assert_eq!(world.state(A)?.rtp.source.generation() == GENERATION_A, latched, "{name}");
    }
    Ok(())
}

#[test]
fn ipv6_that_is_not_the_relays_or_cannot_be_read_is_left_alone() -> Result<()> {
    use Verdict::*;
    if !testbed::available() {
        return Ok(());
    }
    let [_, stream, ..] = streams();
    let world = stream.world()?;
    let rtp = Packet::rtp(stream.terminal, stream.near);
    let edited = |edits: &[(usize, &[u8])]| {
        let mut frame = rtp.frame();
        for (at, bytes) in edits {
            frame[*at..at + bytes.len()].copy_from_slice(bytes);
        }
        frame
    };
    for (name, frame, verdict) in [
        ("another version", edited(&[(14, &[0x45])]), PassedOther),
        ("too short", rtp.frame()[..53].to_vec(), PassedOther),
        ("TCP", edited(&[(20, &[6])]), PassedHost),
        ("ICMPv6", edited(&[(20, &[58])]), PassedHost),
        ("another address", Packet::rtp(stream.terminal, v6(STRANGER_V6, 30_002)).frame(), PassedHost),
        ("another port", Packet::rtp(stream.terminal, v6(ACCESS_V6, 5_060)).frame(), PassedHost),
        ("a fragment", edited(&[(20, &[44])]), PassedFragment),
        ("hop-by-hop options", edited(&[(20, &[0])]), PassedOptions),
        ("a routing header", edited(&[(20, &[43])]), PassedOptions),
        ("destination options", edited(&[(20, &[60])]), PassedOptions),
        ("an extension to another address", edited(&[(20, &[44]), (38, &[0xff])]), PassedHost),
        ("no checksum", edited(&[(60, &[0, 0])]), DroppedMalformed),
        ("a UDP length below the payload's", edited(&[(58, &[0, 179])]), DroppedMalformed),
        ("a payload length above the frame", edited(&[(18, &[0, 181]), (58, &[0, 181])]), DroppedMalformed),
        ("the largest payload length", edited(&[(18, &[255, 255]), (58, &[255, 255])]), DroppedMalformed),
        ("a hop limit of 1", edited(&[(21, &[1])]), DroppedTtl),
    ] {
        let (found, outcome) = world.judge(&frame)?;
        assert_eq!(found, verdict, "{name}");
        assert_eq!(outcome.frame, frame, "{name}");
    }
    Ok(())
}

#[test]
fn whatever_crosses_has_right_checksums() -> Result<()> {
    if !testbed::available() {
        return Ok(());
    }
    let worlds = streams().map(|stream| RefCell::new((stream.world().unwrap(), stream)));
    let case =
        (0..4usize, any::<(u128, u128, u128)>(), 1..=u16::MAX, 1..=u16::MAX, any::<u16>(), any::<(bool, u8)>(), {
            prop::collection::vec(any::<u8>(), 0..1_400)
        });
    TestRunner::default().run(&case, |(which, addresses, from_port, to_port, out_port, (checksum, tos), body)| {
        let (world, stream) = &mut *worlds[which].borrow_mut();
        let address = |like: SocketAddr, number: u128, port| match like {
            SocketAddr::V4(_) => v4((number as u32 | 1).to_be_bytes(), port),
            // Not one that says it is IPv4.
            SocketAddr::V6(_) => v6(Ipv6Addr::from(number | 1 << 127), port),
        };
        let from = address(stream.terminal, addresses.0, from_port);
        let to = address(stream.softswitch, addresses.1, to_port);
        let out = address(stream.softswitch, addresses.2, out_port);
        let mut packet = Packet::rtp(from, stream.near);
        packet.payload.truncate(12);
        packet.payload.extend(body);
        packet.checksum = checksum || from.is_ipv6();
        packet.tos = tos;
        let [(near, leg), (far, peer)] = stream.legs;
        let generation = world.state(near).unwrap().rtp.source.generation() % 0x7fff + 1;
        let out_local = world.out_local(out.ip()).unwrap();
        let (remote_address, remote_port) = (bytes(from.ip()), from.port());
        world.leg(near, Leg { generation, remote_address, remote_port, out_local, out_port, ..leg }).unwrap();
        world.leg(far, Leg { remote_address: bytes(to.ip()), remote_port: to.port(), ..peer }).unwrap();
        let (verdict, outcome) = world.judge(&packet.frame()).unwrap();
        prop_assert_eq!(verdict, Verdict::ForwardedOther);
        prop_assert_eq!(outcome.frame, packet.relayed(HOP_CORE, out, to).frame());
        Ok(())
    })?;
    Ok(())
}

#[test]
fn two_calls_that_a_softswitch_joins_may_be_of_different_ip_versions() -> Result<()> {
    if !testbed::available() {
        return Ok(());
    }
    // Terminal (IPv6) - A_V6 - B - (joined over IPv4) - C - D - terminal 2 (IPv4).
    let (c, d) = (B + 4, A + 4);
    let [_, _, stream, _] = streams();
    let second = v4([203, 0, 113, 102], 7_000);
    let mut world = stream.world()?;
    let [(near, leg), (far, peer)] = stream.legs;
    world.leg(near, Leg { next_hop_remote: HOP_LOCAL, ..leg })?;
    world.leg(far, Leg { remote_address: bytes(CORE.into()), remote_port: 40_010, ..peer })?;
    let joined = Leg { generation: 11, peer: d, peer_generation: 12, next_hop_remote: HOP_ACCESS, ..leg_b() };
    let joined = Leg { out_port: 30_010, remote_address: bytes(CORE.into()), remote_port: 40_002, ..joined };
    world.leg(c, joined)?;
    let last = Leg { generation: 12, peer: c, peer_generation: 11, remote_address: bytes(second.ip()), ..leg_b() };
    world.leg(d, Leg { remote_port: second.port(), ..last })?;

    let rtp = Packet::rtp(stream.terminal, stream.near);
    let (verdict, outcome) = world.judge(&rtp.frame())?;
    assert_eq!(verdict, Verdict::ForwardedSame);
    let expected = Packet { ttl: rtp.ttl - 2, ..rtp.relayed(HOP_ACCESS, v4(ACCESS, 30_010), second) };
    assert_eq!(outcome.frame, expected.frame());
    assert_eq!(world.state(near)?.rtp.octets, rtp.octets());
    assert_eq!(world.state(c)?.rtp.octets, rtp.octets() - 20, "it is an IPv4 packet there");
    Ok(())
}
