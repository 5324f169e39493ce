//! Streams of packets through the XDP program and the relay in user space, in the time that they take: trials, new
//! ports, rates, and what is measured.

use anyhow::Result;
use proxy_common::{
    latch::{REBOUND, Rank},
    layout::{Leg, leg_flags},
    verdict::Verdict::{self, *},
};
use std::{net::SocketAddr, time::Duration};
use testbed::xdp::{A, ACCESS, B, CORE, HOP_ACCESS, NAT, Packet, Platform, SOFTSWITCH, World, leg_a, leg_b};

const SSRC: u32 = 0xcafe;

fn at(address: [u8; 4], port: u16) -> SocketAddr {
    (address, port).into()
}

fn phone() -> SocketAddr {
    at(NAT, 61_000)
}

fn stranger() -> SocketAddr {
    at([203, 0, 113, 66], 61_000)
}

/// RTP to leg A.
fn rtp(from: SocketAddr, ssrc: u32, sequence: u16) -> Packet {
    Packet::rtp(from, at(ACCESS, 30_002)).of_stream(ssrc, sequence)
}

fn verdict(world: &World, packet: &Packet) -> Result<Verdict> {
    Ok(world.judge(&packet.frame())?.0)
}

fn wait(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

/// The two relays read their clocks at other moments, so each has a world of its own.
fn on_each(test: impl Fn(Platform) -> Result<()>) -> Result<()> {
    test(Platform::User)?;
    if testbed::available() { test(Platform::Kernel) } else { Ok(()) }
}

fn with(platform: Platform, change: impl FnOnce(&mut Leg)) -> Result<World> {
    let mut world = World::of(&[platform])?;
    let mut leg = leg_a();
    change(&mut leg);
    world.leg(A, leg)?;
    world.leg(B, leg_b())?;
    Ok(world)
}

#[test]
fn a_source_that_fell_silent_comes_back_with_another_port_and_its_stream() -> Result<()> {
    on_each(|platform| {
        let moved = at(NAT, 61_500);
        let mut world = with(platform, |leg| leg.flags |= leg_flags::REBIND)?;
        for sequence in 10..15 {
            assert_eq!(verdict(&world, &rtp(phone(), SSRC, sequence))?, ForwardedOther);
        }
        let back = Packet::rtp(at(SOFTSWITCH, 20_000), at(CORE, 40_002));
        assert_eq!(verdict(&world, &back)?, ForwardedSame);
        assert_eq!(verdict(&world, &rtp(moved, SSRC, 15))?, DroppedSource, "the old source is not silent");
        wait(2_100);
        for (name, packet) in [
            ("another SSRC", rtp(moved, SSRC + 1, 16)),
            ("a sequence number from before", rtp(moved, SSRC, 14)),
            ("far away", rtp(moved, SSRC, 40_000)),
            ("another host", rtp(stranger(), SSRC, 16)),
            ("RTCP", Packet::rtcp(moved, at(ACCESS, 30_002))),
        ] {
            let found = verdict(&world, &packet)?;
            assert!([DroppedSource, DroppedFormat].contains(&found), "{name}: {found:?}");
        }
        assert_eq!(verdict(&world, &rtp(moved, SSRC, 16))?, ForwardedOther);
        assert_eq!(verdict(&world, &rtp(phone(), SSRC, 17))?, DroppedSource, "the old port has no claim");
        let (_, outcome) = world.judge(&back.frame())?;
        let expected = back.relayed(HOP_ACCESS, at(ACCESS, 30_002), moved);
        assert_eq!(outcome.frame, expected.frame(), "the other direction follows at once");
        let told: Vec<_> = world.events().iter().filter(|event| event.leg == A).map(|event| event.rank).collect();
        assert_eq!(told, [Rank::Address as u16, REBOUND]);
        Ok(())
    })
}

#[test]
fn nobody_comes_back_where_that_is_switched_off() -> Result<()> {
    on_each(|platform| {
        let world = with(platform, |_| ())?;
        assert_eq!(verdict(&world, &rtp(phone(), SSRC, 10))?, ForwardedOther);
        wait(2_100);
        assert_eq!(verdict(&world, &rtp(at(NAT, 61_500), SSRC, 11))?, DroppedSource);
        Ok(())
    })
}

#[test]
fn anybody_may_latch_after_a_trial_and_makes_way_for_whom_signalling_named() -> Result<()> {
    on_each(|platform| {
        let mut world = with(platform, |leg| leg.flags |= leg_flags::LATCH_ANY)?;
        // Too fast: packets of one moment are a spray.
        for sequence in 0..6 {
            assert_eq!(verdict(&world, &rtp(stranger(), SSRC, sequence))?, DroppedTrial);
        }
        for (sequence, expected) in
            [(100, DroppedTrial), (101, DroppedTrial), (102, DroppedTrial), (103, ForwardedOther)]
        {
            assert_eq!(verdict(&world, &rtp(stranger(), SSRC, sequence))?, expected, "{sequence}");
            wait(20);
        }
        assert_eq!(verdict(&world, &rtp(at([198, 51, 100, 1], 5), SSRC, 104))?, DroppedSource, "one is enough");
        assert_eq!(verdict(&world, &rtp(phone(), SSRC, 104))?, ForwardedOther, "the window is open");
        assert_eq!(verdict(&world, &rtp(stranger(), SSRC, 105))?, DroppedSource);
        let told: Vec<_> = world.events().iter().map(|event| event.rank).collect();
        assert_eq!(told, [Rank::Other as u16, Rank::Address as u16]);
        Ok(())
    })
}

#[test]
fn a_rate_lets_its_share_through_and_refills() -> Result<()> {
    on_each(|platform| {
        // 10,000 bytes a second, five packets at once.
        let world = with(platform, |leg| (leg.rate, leg.burst) = (168, 1_000))?;
        let flood = |first: u16, packets: u16| -> Result<usize> {
            let verdicts: Result<Vec<_>> =
                (first..first + packets).map(|sequence| verdict(&world, &rtp(phone(), SSRC, sequence))).collect();
            Ok(verdicts?.iter().filter(|verdict| **verdict == ForwardedOther).count())
        };
        let passed = flood(0, 50)?;
        assert!((5..=6).contains(&passed), "{passed}");
        wait(300);
        // 3,000 bytes came in, of which the bucket holds 1,000.
        let passed = flood(50, 50)?;
        assert!((5..=6).contains(&passed), "{passed}");
        let state = world.state(A)?;
        assert_eq!(u64::from(state.drops.rate) + state.rtp.packets, 100);
        // The other direction has a bucket of its own.
        assert_eq!(verdict(&world, &Packet::rtp(at(SOFTSWITCH, 20_000), at(CORE, 40_002)))?, ForwardedSame);
        Ok(())
    })
}

/// Until the phone's first report, another behind its NAT may be taken for the sender of its RTCP.
#[test]
fn reports_leave_media_its_share_of_the_rate() -> Result<()> {
    on_each(|platform| {
        // 15,000 bytes a second.
        let world = with(platform, |leg| (leg.rate, leg.burst) = (252, 16_384))?;
        assert_eq!(verdict(&world, &rtp(phone(), SSRC, 0))?, ForwardedOther);
        let flood = |packets: usize| -> Result<usize> {
            let report = Packet::rtcp(at(NAT, 7_777), at(ACCESS, 30_003)).frame();
            let forwarded = |_: &usize| world.judge(&report).is_ok_and(|(verdict, _)| verdict == ForwardedOther);
            Ok((0..packets).filter(forwarded).count())
        };
        let passed = flood(1_000)?;
        assert!((1..1_000).contains(&passed), "{passed}");
        // 50 packets a second of 200 bytes, and more reports than could ever pass.
        for sequence in 1..50 {
            assert_eq!(verdict(&world, &rtp(phone(), SSRC, sequence))?, ForwardedOther, "{sequence}");
            flood(100)?;
            wait(20);
        }
        assert_eq!(world.state(A)?.rtp.packets, 50);
        Ok(())
    })
}

#[test]
fn what_arrives_is_measured() -> Result<()> {
    on_each(|platform| {
        let world = with(platform, |leg| leg.clock = (8_000u64 << 32).div_euclid(1_000_000_000) as u32)?;
        // 3 is lost, 6 comes twice, 8 and 9 change places; the sequence goes round.
        let base = 65_530u16;
        for number in [0, 1, 2, 4, 5, 6, 6, 7, 9, 8, 10] {
            assert_eq!(verdict(&world, &rtp(phone(), SSRC, base.wrapping_add(number)))?, ForwardedOther);
        }
        let quality = world.state(A)?.quality;
        assert_eq!((quality.expected, quality.duplicates, quality.reordered, quality.ssrc_changes), (11, 1, 1, 0));
        assert_eq!((quality.ssrc, quality.highest), (SSRC, u32::from(base.wrapping_add(10))));
        assert!(quality.first != 0 && quality.last >= quality.first);
        assert_eq!(verdict(&world, &rtp(phone(), SSRC + 1, 7))?, ForwardedOther);
        let quality = world.state(A)?.quality;
        assert_eq!((quality.expected, quality.ssrc_changes, quality.highest), (12, 1, 7));
        Ok(())
    })
}

#[test]
fn jitter_is_that_of_packets_that_come_late() -> Result<()> {
    on_each(|platform| {
        let world = with(platform, |leg| leg.clock = (8_000u64 << 32).div_euclid(1_000_000_000) as u32)?;
        // Timestamps go on by 160, 20 ms; every other packet comes 10 ms late.
        for number in 0..130u16 {
            let mut packet = rtp(phone(), SSRC, number);
            packet.payload[4..8].copy_from_slice(&(u32::from(number) * 160).to_be_bytes());
            assert_eq!(verdict(&world, &packet)?, ForwardedOther);
            wait(if number % 2 == 0 { 30 } else { 10 });
        }
        let quality = world.state(A)?.quality;
        // Each change is 80 units; 8 of them have been seen, each a sixteenth: 80 * (1 - (15/16)^8). Sleep is never too
        // short.
        let jitter = quality.jitter >> 4;
        assert!(jitter >= 28, "{jitter}");
        Ok(())
    })
}
