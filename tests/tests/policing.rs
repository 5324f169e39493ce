//! Senders of more than was negotiated: each is held to its rate, and nobody else notices.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use testbed::call::{audio, dropped, number};
use testbed::rtp::{Sink, Stream};
use testbed::{KamailioConfig, LatchConfig, MediaCall, NatKind, Scene, TestbedConfig, in_testbed};

/// G.711 as the calls negotiate it: 50 packets of 200 bytes a second, bytes.
const NEGOTIATED: f64 = 10_000.0;
/// What may come: the margin on top, bytes a second, and at once.
const RATE: f64 = NEGOTIATED * 1.5;
const BURST: f64 = 16_384.0;
/// IPv4, UDP and RTP headers, and the payload.
const OCTETS: u64 = 20 + 8 + 12 + 160;

#[test]
fn a_sender_of_ten_times_its_rate_is_held_to_it_and_harms_nobody_else() {
    const SECONDS: u32 = 6;
    in_testbed(TestbedConfig::with_nats(&[NatKind::PortRestricted; 4]), |testbed| {
        let scene = Scene::start(testbed, &KamailioConfig::default(), &LatchConfig::default())?;
        let loud = MediaCall::between(&scene, (1, "alice"), (2, "bob"))?;
        let other = MediaCall::between(&scene, (3, "carol"), (4, "dave"))?;
        loud.latch(&scene)?;
        other.latch(&scene)?;
        let listening = [&loud.bob, &loud.alice, &other.bob, &other.alice].map(|end| Sink::start(&end.rtp));
        let normal = |ssrc| Stream { packets: 50 * SECONDS, ssrc, ..Stream::default() };
        let flood = Stream { packets: 500 * SECONDS, interval: Duration::from_millis(2), ..normal(11) };
        // The bucket is full of what the first packet left.
        std::thread::sleep(Duration::from_secs(2));
        let begun = Instant::now();
        let senders = [
            flood.spawn(&loud.alice.rtp, loud.alice.relay)?,
            normal(12).spawn(&loud.bob.rtp, loud.bob.relay)?,
            normal(13).spawn(&other.alice.rtp, other.alice.relay)?,
            normal(14).spawn(&other.bob.rtp, other.bob.relay)?,
        ];
        for sender in senders {
            sender.join().map_err(|_| anyhow!("a sender panicked"))??;
        }
        let time = begun.elapsed().as_secs_f64();
        let tallies: Result<Vec<_>> = listening.into_iter().map(|sink| sink?.stop()).collect();
        let heard: Result<Vec<_>> = tallies?.iter().zip(11..).map(|(tally, ssrc)| tally.stream(ssrc)).collect();
        let [loud_one, rest @ ..] = &heard?[..] else { return Err(anyhow!("nothing was heard")) };
        for received in rest {
            ensure!(
                (received.packets, received.lost()) == (u64::from(50 * SECONDS), 0),
                "somebody else suffers: {received:?}"
            );
        }
        let passed = (loud_one.packets * OCTETS) as f64;
        println!(
            "{} of {} packets in {time:.2} s: {:.0} bytes a second and a burst, of {:.0} sent",
            loud_one.packets,
            flood.packets,
            (passed - BURST) / time,
            f64::from(flood.packets) * OCTETS as f64 / time,
        );
        ensure!(passed <= BURST + RATE * (time + 0.1), "{passed} bytes passed in {time} s");
        // Where the machine is slow, the sender pauses and comes in bursts, of which the bucket holds one.
        ensure!(passed >= NEGOTIATED * f64::from(SECONDS), "only {passed} bytes passed in {time} s");

        let counters = scene.latch.counters()?;
        let excess = u64::from(flood.packets) - loud_one.packets;
        ensure!(counters.dropped_rate == excess, "{excess} were dropped: {counters:?}");
        loud.end()?;
        other.end()?;
        let records = scene.finish(4)?;
        for nat in 1..=4 {
            let stream = audio(&records, testbed, nat)?;
            let up = &stream["access_to_core"];
            let expected = if nat == 1 { excess } else { 0 };
            ensure!(
                dropped(up, "rate") == expected && dropped(&stream["core_to_access"], "rate") == 0,
                "{nat}: {stream:#}"
            );
            ensure!(nat != 1 || number(up, "rtp_packets") == loud_one.packets + 1, "{stream:#}");
        }
        records.first().context("no record").map(drop)
    });
}

#[test]
fn a_realms_ceiling_holds_whatever_was_negotiated() {
    const KBPS: u32 = 40;
    in_testbed(TestbedConfig::with_nats(&[NatKind::PortRestricted; 2]), |testbed| {
        let ceiling = format!("stream_kbps = {KBPS}\n");
        let latch = LatchConfig { realm: [ceiling, String::new()], ..LatchConfig::default() };
        let scene = Scene::start(testbed, &KamailioConfig::default(), &latch)?;
        let call = MediaCall::between(&scene, (1, "alice"), (2, "bob"))?;
        call.latch(&scene)?;
        let at_bob = Sink::start(&call.bob.rtp)?;
        let begun = Instant::now();
        let stream = Stream { packets: 300, ssrc: 1, ..Stream::default() };
        stream.send(&call.alice.rtp, call.alice.relay)?;
        let time = begun.elapsed().as_secs_f64();
        let passed = at_bob.stop()?.stream(1)?.packets;
        println!("{passed} of {} packets in {time:.2} s under a ceiling of {KBPS} kbit/s", stream.packets);
        let most = (BURST + f64::from(KBPS) * 125.0 * (time + 0.1)) / OCTETS as f64;
        ensure!((passed as f64) <= most && passed < u64::from(stream.packets), "{passed} passed, {most:.1} may");
        ensure!(passed as f64 >= 0.8 * most, "only {passed} of {most:.1} passed");
        call.end()?;
        let records = scene.finish(2)?;
        let up = &audio(&records, testbed, 1)?["access_to_core"];
        ensure!(dropped(up, "rate") == u64::from(stream.packets) - passed, "{up:#}");
        Ok(())
    });
}
