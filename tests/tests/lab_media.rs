//! Media through the relay, packet by packet: nothing is lost, everything is counted, and strangers get nothing.

use std::net::{SocketAddrV4, UdpSocket};
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use lab::rtp::{Sink, Stream, sender_report};
use lab::{
    Counters, Direction, KamailioConfig, Lab, LabConfig, LatchConfig, NatKind, Scenario, Scene, Sipp, SippConfig,
    Stranger, address, lab_test,
};
use serde_json::Value;

const RTP: SocketAddrV4 = SocketAddrV4::new(address::PHONE, 6_000);
const RTCP: SocketAddrV4 = SocketAddrV4::new(address::PHONE, 6_001);

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// One phone's side of a call: its media sockets, where it sends, and what nftables counts at its interface.
struct Side<'lab> {
    rtp: UdpSocket,
    rtcp: UdpSocket,
    relay: SocketAddrV4,
    counters: Counters<'lab>,
}

impl<'lab> Side<'lab> {
    fn open(lab: &'lab Lab, phone: usize, relay: SocketAddrV4) -> Result<Self> {
        ensure!(*relay.ip() == address::LATCH_ACCESS && relay.port().is_multiple_of(2), "no relay port: {relay}");
        let namespace = lab.phone(phone)?;
        let latch = address::LATCH_ACCESS;
        let counters = Counters::add(
            namespace,
            &[
                ("rtp_in", Direction::In, &format!("ip saddr {latch} udp dport 6000")),
                ("rtcp_in", Direction::In, &format!("ip saddr {latch} udp dport 6001")),
                ("rtp_out", Direction::Out, &format!("ip daddr {latch} udp sport 6000")),
                ("rtcp_out", Direction::Out, &format!("ip daddr {latch} udp sport 6001")),
                ("media_in", Direction::In, "udp dport 6000-6001"),
            ],
        )?;
        Ok(Self { rtp: namespace.udp(RTP)?, rtcp: namespace.udp(RTCP)?, relay, counters })
    }

    fn send_report(&self) -> Result<()> {
        let relay = SocketAddrV4::new(*self.relay.ip(), self.relay.port() + 1);
        self.rtcp.send_to(&sender_report(1, 1, 160), relay)?;
        Ok(())
    }

    fn send_one(&self, ssrc: u32) -> Result<()> {
        Stream { packets: 1, ssrc, sequence: 0, ..Stream::default() }.send(&self.rtp, self.relay)?;
        std::thread::sleep(Duration::from_millis(50));
        Ok(())
    }
}

/// A call of alice at phone 1 to bob at phone 2, whose media is made here. The caller hangs up after `hold`.
struct MediaCall<'lab> {
    caller: Sipp,
    callee: Sipp,
    alice: Side<'lab>,
    bob: Side<'lab>,
}

impl<'lab> MediaCall<'lab> {
    fn start(scene: &Scene<'lab>, hold: Duration) -> Result<Self> {
        let lab = scene.lab;
        scene.register(1, "alice")?;
        scene.register(2, "bob")?;
        let callee = Sipp::start(lab, "callee", lab.phone(2)?, &scene.sipp(Scenario::Answer, "bob", address::PHONE))?;
        let alice = scene.sipp(Scenario::Call, "alice", address::PHONE).calling("bob");
        let caller = Sipp::start(lab, "caller", lab.phone(1)?, &SippConfig { hold, ..alice })?;
        let alice = Side::open(lab, 1, caller.wait_for_remote_media(seconds(5))?)?;
        let bob = Side::open(lab, 2, callee.wait_for_remote_media(seconds(5))?)?;
        Ok(Self { caller, callee, alice, bob })
    }

    fn end(self) -> Result<()> {
        self.caller.expect_success(seconds(20))?;
        self.callee.expect_success(seconds(5)).map(drop)
    }
}

/// The audio stream of the record whose terminal is behind this NAT.
fn audio<'r>(records: &'r [Value], lab: &Lab, nat: usize) -> Result<&'r Value> {
    let public = format!("{}:", lab.nat(nat)?.public());
    let of = |record: &&Value| record["terminal"]["source"].as_str().is_some_and(|source| source.starts_with(&public));
    let record = records.iter().find(of).ok_or_else(|| anyhow!("no record of {public} in {records:#?}"))?;
    Ok(&record["streams"][0])
}

fn number(flow: &Value, key: &str) -> u64 {
    flow[key].as_u64().unwrap_or(u64::MAX)
}

fn dropped(flow: &Value) -> u64 {
    ["source", "format", "no_destination", "other"].iter().map(|reason| number(&flow["dropped"], reason)).sum()
}

#[test]
fn ten_seconds_of_media_pass_without_loss_and_the_records_agree_with_the_far_ends() {
    for nats in [[NatKind::PortRestricted; 2], [NatKind::Symmetric; 2]] {
        lab_test(LabConfig::with_nats(&nats), |lab| {
            let scene = Scene::start(lab, &KamailioConfig::default(), &LatchConfig::default())?;
            let call = MediaCall::start(&scene, seconds(13))?;
            let (alice, bob) = (&call.alice, &call.bob);
            let (at_alice, at_bob) = (Sink::start(&alice.rtp)?, Sink::start(&bob.rtp)?);
            let (reports_at_alice, reports_at_bob) = (Sink::start(&alice.rtcp)?, Sink::start(&bob.rtcp)?);

            // Bob's first packet has nowhere to go yet; alice's finds the way that bob's has opened.
            bob.send_one(3)?;
            alice.send_one(3)?;
            bob.send_report()?;
            std::thread::sleep(Duration::from_millis(50));
            alice.send_report()?;
            let (from_alice, from_bob) = (
                Stream { packets: 500, ssrc: 1, ..Stream::default() },
                Stream { packets: 500, ssrc: 2, ..Stream::default() },
            );
            let sending = from_bob.spawn(&bob.rtp, bob.relay)?;
            from_alice.send(&alice.rtp, alice.relay)?;
            sending.join().map_err(|_| anyhow!("bob's sender panicked"))??;
            bob.send_report()?;

            let (heard, heard_by_bob) = (at_alice.stop()?, at_bob.stop()?);
            let (from_bob, from_alice) = (heard.stream(2)?, heard_by_bob.stream(1)?);
            ensure!((from_bob.packets, from_bob.lost()) == (500, 0), "alice heard {heard:?}");
            ensure!((from_alice.packets, from_alice.lost()) == (500, 0), "bob heard {heard_by_bob:?}");
            ensure!(reports_at_bob.stop()?.rtcp.values().sum::<u64>() == 1, "bob got no report of alice");
            ensure!(reports_at_alice.stop()?.rtcp.values().sum::<u64>() == 1, "alice got no report of bob");
            let (counted, counted_by_bob) = (alice.counters.read()?, bob.counters.read()?);
            call.end()?;

            let records = scene.finish(2)?;
            for (nat, counted) in [(1, &counted), (2, &counted_by_bob)] {
                let stream = audio(&records, lab, nat)?;
                let (up, down) = (&stream["access_to_core"], &stream["core_to_access"]);
                for (key, name) in [("rtp", "rtp_in"), ("rtcp", "rtcp_in")] {
                    let far = counted[name];
                    let near = (number(down, &format!("{key}_packets")), number(down, &format!("{key}_octets")));
                    ensure!(near == (far.packets, far.bytes), "{key} to phone {nat}: record {near:?}, phone {far:?}");
                }
                let sent = counted["rtp_out"].packets + counted["rtcp_out"].packets;
                let arrived = number(up, "rtp_packets") + number(up, "rtcp_packets") + dropped(up);
                ensure!(sent == arrived, "phone {nat} sent {sent}, the record has {arrived}: {up:#}");
            }
            Ok(())
        });
    }
}

#[test]
fn a_stranger_who_sprays_the_relay_gets_nothing_and_brings_nothing() {
    lab_test(LabConfig::default(), |lab| {
        let scene = Scene::start(lab, &KamailioConfig::default(), &LatchConfig::default())?;
        let stranger = Stranger::start(lab)?;
        let spray = |rounds| stranger.spray(address::LATCH_ACCESS, 30_000..=39_999, rounds);
        spray(1)?;

        let call = MediaCall::start(&scene, seconds(12))?;
        let (alice, bob) = (&call.alice, &call.bob);
        let (at_alice, at_bob) = (Sink::start(&alice.rtp)?, Sink::start(&bob.rtp)?);
        // Before either phone has sent anything: every port still learns.
        spray(2)?;
        bob.send_one(3)?;
        alice.send_one(3)?;
        let (from_alice, from_bob) = (
            Stream { packets: 200, ssrc: 1, ..Stream::default() },
            Stream { packets: 200, ssrc: 2, ..Stream::default() },
        );
        let senders = [from_alice.spawn(&alice.rtp, alice.relay)?, from_bob.spawn(&bob.rtp, bob.relay)?];
        // And while they talk.
        spray(3)?;
        for sender in senders {
            sender.join().map_err(|_| anyhow!("a sender panicked"))??;
        }

        let (heard, heard_by_bob) = (at_alice.stop()?, at_bob.stop()?);
        for tally in [&heard, &heard_by_bob] {
            ensure!(tally.stream(Stranger::SSRC).is_err(), "the stranger was heard: {tally:?}");
            ensure!(tally.other.is_empty() && tally.rtcp.is_empty(), "{tally:?}");
        }
        ensure!((heard.stream(2)?.packets, heard_by_bob.stream(1)?.packets) == (200, 200), "the call suffered");
        // Bob's first packet went nowhere, alice's arrived: what the interfaces saw is what the phones sent.
        let (seen, seen_by_bob) = (alice.counters.get("media_in")?.packets, bob.counters.get("media_in")?.packets);
        ensure!((seen, seen_by_bob) == (200, 201), "the interfaces saw {seen} and {seen_by_bob}");
        call.end()?;

        let report = stranger.stop()?;
        ensure!(report.ip.bytes == 0 && report.tally.packets() == 0, "the stranger received something: {report:?}");
        let records = scene.finish(2)?;
        for nat in [1, 2] {
            let up = &audio(&records, lab, nat)?["access_to_core"];
            // Five rounds over the RTP and the RTCP port.
            ensure!(number(&up["dropped"], "source") + number(&up["dropped"], "format") >= 8, "{up:#}");
        }
        Ok(())
    });
}
