//! Interfaces with several queues: packets of one leg arrive on several CPUs at the same time, and none is lost,
//! counted twice or let through beyond the rate.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use testbed::call::{audio, dropped, number};
use testbed::feed::Generator;
use testbed::rtp::{Sink, Stream};
use testbed::xdp::Packet;
use testbed::{
    GATEWAY, KamailioConfig, LatchConfig, MediaCall, Namespace, NatKind, Scene, TestbedConfig, in_testbed, wait_until,
};

/// How long anything may take that has to happen: much longer than it does.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Packets on each CPU, and from one to the next.
const PACKETS: u64 = 5_000;
const INTERVAL_NS: u64 = 50_000;
/// Bytes of an IP packet of the streams.
const OCTETS: u64 = 20 + 8 + 172;
/// What a stream of G.711 may bring in: bytes a second with the margin, and at once.
const RATE: f64 = 15_000.0;
const BURST: f64 = 16_384.0;

/// CPUs that this test may use, at most four of them.
fn cpus() -> Result<Vec<usize>> {
    let mine = sched_getaffinity(Pid::from_raw(0))?;
    let mine = (0..CpuSet::count()).filter(|cpu| mine.is_set(*cpu).unwrap_or(false));
    Ok(mine.take(4).collect())
}

/// One stream, sent into an interface from every one of these CPUs at the same time; how many packets in how long.
fn on_every_cpu(cpus: &[usize], host: &Namespace, interface: &str, packet: &Packet) -> Result<(u64, Duration)> {
    let begun = Instant::now();
    let send = |cpu: usize, place: usize| -> Result<u64> {
        let mut only = CpuSet::new();
        only.set(cpu)?;
        sched_setaffinity(Pid::from_raw(0), &only)?;
        // Each its own part of the sequence.
        let packet = packet.clone().of_stream(1, u16::try_from(place * 16_000)?);
        let ports = [(packet.source.port(), packet.destination.port())];
        let mut generator = Generator::new(host, interface, packet.frame(), &ports)?;
        let mut sent = 0;
        while sent < PACKETS {
            sent += generator.run(100_000, INTERVAL_NS)?.packets;
        }
        Ok(sent)
    };
    let sent = std::thread::scope(|scope| {
        let threads: Vec<_> = cpus.iter().zip(0..).map(|(cpu, place)| scope.spawn(move || send(*cpu, place))).collect();
        let sent = threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("a generator panicked"))?);
        sent.sum::<Result<u64>>()
    })?;
    Ok((sent, begun.elapsed()))
}

#[test]
fn packets_of_a_leg_on_every_cpu_are_relayed_counted_and_policed_as_on_one() {
    let config = TestbedConfig {
        core_hosts: vec![("gateway", GATEWAY)],
        ..TestbedConfig::with_nats(&[NatKind::PortRestricted])
    };
    in_testbed(config, |testbed| {
        let cpus = cpus()?;
        let queues = cpus.len();
        for (host, interface) in [
            (testbed.inet(), "latch"),
            (testbed.latch(), "access"),
            (testbed.softswitch(), "latch"),
            (testbed.latch(), "core"),
        ] {
            host.run("ethtool", &format!("-L {interface} rx {queues} tx {queues}"))?;
        }
        // alice's side without a rate, carol's with what is negotiated.
        let latch = LatchConfig { realm: ["rate = \"off\"".into(), String::new()], ..LatchConfig::default() };
        let scene = Scene::start(testbed, &KamailioConfig::default(), &latch)?;
        let call = MediaCall::to_core(&scene)?;
        let (alice, carol) = (&call.alice, &call.bob);
        alice.send_one(3)?;
        carol.wait_for("rtp_in", 1)?;
        carol.send_one(3)?;
        alice.wait_for("rtp_in", 1)?;
        let legs = scene.latch.legs()?;
        let [(hers, _), (carols, _)] = legs[..] else { return Err(anyhow!("two legs are open: {legs:?}")) };
        let forwarded = || -> Result<Vec<u64>> {
            Ok(scene.latch.counters_by_cpu()?.iter().map(|cpu| cpu.forwarded_other).collect())
        };

        // What alice's NAT sends, on every CPU.
        let source = scene.latch.state(hers)?.rtp.source;
        let packet = Packet {
            macs: [testbed.latch().mac("access")?, testbed.nat(1)?.namespace().mac("wan")?],
            ..Packet::rtp(SocketAddr::from((source.address, source.port)), alice.relay).payload_type(8)
        };
        let (before, rtp) = (forwarded()?, scene.latch.state(hers)?.rtp);
        let (sent, time) = on_every_cpu(&cpus, testbed.inet(), "latch", &packet)?;
        let by_cpu: Vec<u64> = forwarded()?.iter().zip(before).map(|(after, before)| after - before).collect();
        println!("{sent} packets in {time:.2?}, on each CPU: {by_cpu:?}");
        ensure!(by_cpu.iter().sum::<u64>() == sent, "of {sent} packets, {by_cpu:?} were forwarded");
        ensure!(cpus.iter().all(|cpu| by_cpu.get(*cpu).is_some_and(|packets| *packets > 0)), "{by_cpu:?}");
        let after = scene.latch.state(hers)?.rtp;
        ensure!(after.packets - rtp.packets == sent && after.octets - rtp.octets == OCTETS * sent, "{after:?}");
        wait_until("all have arrived at carol", TIMEOUT, || Ok(carol.counters.get("rtp_in")?.packets == sent + 1))?;

        // And what carol sends, of which her rate is a small part.
        std::thread::sleep(Duration::from_secs(2));
        let packet = Packet {
            macs: [testbed.latch().mac("core")?, testbed.host("gateway")?.mac("eth0")?],
            ..Packet::rtp((GATEWAY, 6_000), carol.relay).payload_type(8)
        };
        let rtp = scene.latch.state(carols)?.rtp;
        let (sent, time) = on_every_cpu(&cpus, testbed.softswitch(), "latch", &packet)?;
        let state = scene.latch.state(carols)?;
        let passed = state.rtp.packets - rtp.packets;
        println!("{passed} of {sent} packets in {time:.2?} under a rate");
        ensure!(passed + u64::from(state.drops.rate) == sent, "{state:?}");
        ensure!(scene.latch.counters()?.dropped_rate == u64::from(state.drops.rate), "{state:?}");
        let most = BURST + RATE * (time.as_secs_f64() + 0.1);
        // Two CPUs may take the same bytes, once in many times.
        ensure!((passed * OCTETS) as f64 <= 1.1 * most, "{passed} passed in {time:?}, {most:.0} bytes may");
        ensure!((passed * OCTETS) as f64 >= BURST, "only {passed} passed");

        // The call has taken no harm.
        std::thread::sleep(Duration::from_secs(1));
        for (near, far, ssrc) in [(alice, carol, 7), (carol, alice, 8)] {
            let heard = Sink::start(&far.rtp)?;
            Stream { packets: 50, ssrc, ..Stream::default() }.send(&near.rtp, near.relay)?;
            ensure!(heard.stop()?.stream(ssrc)?.packets == 50, "packets are lost");
        }
        let (up, down) = (scene.latch.state(hers)?.rtp.packets, scene.latch.state(carols)?.rtp.packets);
        call.end()?;
        let records = scene.finish(1)?;
        let stream = audio(&records, testbed, 1)?;
        let (there, back) = (&stream["access_to_core"], &stream["core_to_access"]);
        ensure!(number(there, "rtp_packets") == up && number(back, "rtp_packets") == down, "{stream:#}");
        ensure!(dropped(back, "rate") == u64::from(state.drops.rate), "{stream:#}");
        records.first().context("no record").map(drop)
    });
}
