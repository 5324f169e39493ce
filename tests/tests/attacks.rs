//! Attacks on the media of a call, in every phase of it, fifty thousand packets a second: strangers get nothing, bring
//! nothing, and harm nobody. The attacker knows everything that can be known: ports, SSRC, sequence number.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use proxy_common::verdict::Counters as Verdicts;
use serde_json::Value;
use testbed::call::{audio, dropped};
use testbed::flood::{self, Flooded};
use testbed::rtp::{Sink, Stream};
use testbed::{
    Counters, Direction, Flood, Kamailio, KamailioConfig, LATCH, Latch, LatchConfig, MediaCall, Namespace, NatConfig,
    Scene, SixScene, Testbed, TestbedConfig, address, in_testbed, wait_until,
};

/// How long anything may take that has to happen: much longer than it does.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Packets of one flood, and how many of them a second.
const PACKETS: u64 = 25_000;
const RATE: u64 = 50_000;
/// A second phone behind the NAT of the victim, and an attacker's host in the core network.
const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 20);
const INTRUDER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 66);

/// Somebody who must not get anything from Latch, and his way to it.
struct Attacker<'testbed> {
    name: &'static str,
    flood: Flood,
    /// Hardware address of Latch, or of the gateway to it.
    towards: [u8; 6],
    /// Where the packets come from, by their headers.
    source: SocketAddr,
    counters: Counters<'testbed>,
}

impl<'testbed> Attacker<'testbed> {
    /// At a host's interface, across which no packet of Latch may come in.
    fn new(
        name: &'static str,
        host: &'testbed Namespace,
        towards: [u8; 6],
        source: impl Into<SocketAddr>,
        latch: &str,
    ) -> Result<Self> {
        let counters = Counters::add(host, &[("got", Direction::In, latch)])?;
        Ok(Self { name, flood: Flood::new(host, "eth0")?, towards, source: source.into(), counters })
    }

    /// The same host with another address in its packets.
    fn spoofs(&self, source: impl Into<SocketAddr>) -> Spoofed<'_, 'testbed> {
        Spoofed { attacker: self, source: source.into() }
    }

    fn attacks(&self, victims: &[Victim]) -> Result<Flooded> {
        self.spoofs(self.source).attacks(victims)
    }

    fn got_nothing(&self) -> Result<()> {
        let got = self.counters.get("got")?;
        ensure!(got.bytes == 0, "the attacker {} got something of Latch: {got:?}", self.name);
        Ok(())
    }
}

struct Spoofed<'a, 'testbed> {
    attacker: &'a Attacker<'testbed>,
    source: SocketAddr,
}

impl Spoofed<'_, '_> {
    fn attacks(&self, victims: &[Victim]) -> Result<Flooded> {
        let each = (4_096 / victims.len().max(1)).clamp(8, 1_024) as u16;
        let volleys =
            victims.iter().map(|victim| flood::volley(self.source, victim.relay, victim.ssrc, victim.sequence, each));
        let frames = self.attacker.flood.frames(self.attacker.towards, volleys.flatten());
        let flooded = self.attacker.flood.send(&frames, PACKETS, RATE)?;
        println!("{} as {}: {flooded}", self.attacker.name, self.source);
        Ok(flooded)
    }
}

/// An open leg as the attacker knows it.
#[derive(Clone, Copy, Debug)]
struct Victim {
    relay: SocketAddr,
    ssrc: u32,
    sequence: u16,
}

/// Every leg of a realm, with what went through it so far. The realms have `ports` pairs of ports each.
fn victims(latch: &Latch, realm: u32, own: impl Into<std::net::IpAddr>, ports: (u16, u16)) -> Result<Vec<Victim>> {
    let (own, pairs) = (own.into(), u32::from((ports.1 - ports.0) / 2 + 1));
    let of_realm = latch.legs()?.into_iter().map(|(index, _)| index).filter(|index| index / pairs == realm);
    let victim = |index: u32| -> Result<Victim> {
        let quality = latch.state(index)?.quality;
        let port = u32::from(ports.0) + 2 * (index % pairs);
        Ok(Victim {
            relay: SocketAddr::new(own, u16::try_from(port)?),
            ssrc: quality.ssrc,
            sequence: (quality.highest & 0xffff) as u16,
        })
    };
    of_realm.map(victim).collect()
}

/// Packets that went from leg to leg, and those of sources that had no right to.
fn seen(counters: &Verdicts) -> (u64, u64) {
    (counters.forwarded_same + counters.forwarded_other, counters.dropped_source + counters.dropped_rtcp_source)
}

/// alice and bob behind their NATs, an attacker each in the access network, behind alice's NAT, and in the core
/// network.
fn testbed_of_attackers() -> TestbedConfig {
    let nats =
        vec![NatConfig { phones: vec![address::PHONE, NEIGHBOUR], ..NatConfig::default() }, NatConfig::default()];
    TestbedConfig { nats, core_hosts: vec![("intruder", INTRUDER)], ..TestbedConfig::default() }
}

/// A call under attack from everywhere, all the time.
fn call_under_attack(testbed: &Testbed, config: &LatchConfig, locked: bool) -> Result<()> {
    let scene = Scene::start(testbed, &KamailioConfig::default(), config)?;
    let (access, core) = (testbed.latch().mac("access")?, testbed.latch().mac("core")?);
    let (latch, latch_core) = (address::LATCH_ACCESS, address::LATCH_CORE);
    let anything = "meta nfproto ipv4";
    let stranger = Attacker::new("stranger", testbed.host("stranger")?, access, (address::STRANGER, 40_000), anything)?;
    let gateway = testbed.nat(1)?.namespace().mac("lan")?;
    let from_latch = format!("ip saddr {latch}");
    let neighbour = Attacker::new("neighbour", testbed.phone(2)?, gateway, (NEIGHBOUR, 6_000), &from_latch)?;
    let intruder = Attacker::new("intruder", testbed.host("intruder")?, core, (INTRUDER, 40_000), anything)?;
    // What a spoofed packet brings would come here.
    let spoofed = (testbed.nat(1)?.public(), 7_777);
    let at_nat = Counters::add(
        testbed.nat(1)?.namespace(),
        &[("spoofed", Direction::In, "udp dport 7777"), ("strange", Direction::In, strange_from_outside().as_str())],
    )?;

    // Before signalling: every port is closed.
    let whole_range = |own: Ipv4Addr| -> Vec<Victim> {
        let (low, high) = config.ports;
        let ports = (low..high).step_by(2);
        ports.map(|port| Victim { relay: (own, port).into(), ssrc: 1, sequence: 1 }).collect()
    };
    stranger.attacks(&whole_range(latch))?;
    intruder.attacks(&whole_range(latch_core))?;
    let counters = scene.latch.counters()?;
    ensure!(seen(&counters) == (0, 0) && counters.dropped_closed > PACKETS, "{counters:?}");

    // The ports are known, no phone has sent anything: each leg learns.
    let call = MediaCall::between(&scene, (1, "alice"), (3, "bob"))?;
    let (alice, bob) = (&call.alice, &call.bob);
    let legs = |realm: u32, own: Ipv4Addr| victims(&scene.latch, realm, own, config.ports);
    ensure!(legs(0, latch)?.len() == 2 && legs(1, latch_core)?.len() == 2, "four legs are open");
    stranger.attacks(&legs(0, latch)?)?;
    intruder.attacks(&legs(1, latch_core)?)?;
    for end in [alice, bob] {
        ensure!(end.counters.get("media_in")?.packets == 0, "a phone got something before anybody spoke");
    }
    let counters = scene.latch.counters()?;
    ensure!(seen(&counters).0 == 0 && seen(&counters).1 > PACKETS, "{counters:?}");

    // Both talk, in the learning window or after it.
    let (at_alice, at_bob) = (Sink::start(&alice.rtp)?, Sink::start(&bob.rtp)?);
    call.latch(&scene)?;
    // Reports as well: until the first, RTCP may come from every sender with the phone's address.
    bob.send_report()?;
    wait_until("bob's report goes nowhere", TIMEOUT, || Ok(scene.latch.counters()?.dropped_destination == 2))?;
    alice.send_report()?;
    bob.wait_for("rtcp_in", 1)?;
    if locked {
        std::thread::sleep(Duration::from_secs(u64::from(config.learning_window_s)) + Duration::from_millis(300));
    }
    let alices = alice.relay;
    let (from_alice, from_bob) =
        (Stream { packets: 300, ssrc: 1, ..Stream::default() }, Stream { packets: 300, ssrc: 2, ..Stream::default() });
    let senders = [from_alice.spawn(&alice.rtp, alice.relay)?, from_bob.spawn(&bob.rtp, bob.relay)?];
    wait_until("both are heard", TIMEOUT, || {
        Ok(alice.counters.get("rtp_in")?.packets > 10 && bob.counters.get("rtp_in")?.packets > 10)
    })?;
    let her_leg = || -> Result<Vec<Victim>> {
        Ok(legs(0, latch)?.into_iter().filter(|victim| victim.relay == SocketAddr::from(alices)).collect())
    };
    stranger.attacks(&legs(0, latch)?)?;
    stranger.spoofs(spoofed).attacks(&her_leg()?)?;
    neighbour.attacks(&her_leg()?)?;
    intruder.attacks(&legs(1, latch_core)?)?;
    for sender in senders {
        sender.join().map_err(|_| anyhow!("a sender panicked"))??;
    }

    // alice is silent for longer than a NAT's new port has to wait for; then she goes on.
    std::thread::sleep(Duration::from_millis(2_300));
    stranger.attacks(&her_leg()?)?;
    if locked {
        // This realm does not follow a NAT to another port.
        stranger.spoofs(spoofed).attacks(&her_leg()?)?;
        neighbour.attacks(&her_leg()?)?;
    }
    Stream { packets: 50, ssrc: 1, sequence: 301, ..Stream::default() }.send(&alice.rtp, alice.relay)?;

    let (heard, heard_by_bob) = (at_alice.stop()?, at_bob.stop()?);
    let (to_alice, to_bob) = (heard.stream(2)?, heard_by_bob.stream(1)?);
    ensure!((to_alice.packets, to_alice.lost()) == (300, 0), "alice heard {heard:?}");
    ensure!((to_bob.packets, to_bob.lost()) == (350, 0), "bob heard {heard_by_bob:?}");
    // Bob's first packets went nowhere, alice's arrived.
    let (seen_by_alice, seen_by_bob) = (alice.counters.get("media_in")?.packets, bob.counters.get("media_in")?.packets);
    ensure!((seen_by_alice, seen_by_bob) == (300, 352), "the interfaces saw {seen_by_alice} and {seen_by_bob}");
    let strange = [&alice.counters, &bob.counters, &at_nat].map(|counters| counters.get("strange"));
    for strange in strange {
        ensure!(strange?.packets == 0, "a packet of an attacker reached a phone or its NAT");
    }

    let told = told(&scene.latch);
    call.end()?;
    // The ports rest: packets of those who still know them reach nobody.
    let counters = scene.latch.counters()?;
    stranger.attacks(&[Victim { relay: alices.into(), ssrc: 1, sequence: 350 }])?;
    let after = scene.latch.counters()?;
    ensure!(seen(&after) == seen(&counters) && after.dropped_closed > counters.dropped_closed, "{after:?}");
    [&stranger, &neighbour, &intruder].iter().try_for_each(|attacker| attacker.got_nothing())?;
    ensure!(at_nat.get("spoofed")?.packets == 0, "a spoofed source got something");

    // What is logged and recorded.
    ensure!(told >= 1, "the log tells nothing of the attack:\n{}", scene.latch.peer.output());
    let records = scene.finish(2)?;
    let recorded: u64 = [1, 2]
        .iter()
        .try_fold(0, |sum, nat| -> Result<u64> { Ok(sum + strangers(audio(&records, testbed, *nat)?)) })?;
    println!("{recorded} packets of strangers in the records, {told} lines in the log");
    ensure!(recorded == seen(&after).1, "the records have {recorded}, the kernel counted {after:?}");
    Ok(())
}

fn strange_from_outside() -> String {
    format!("iifname wan meta l4proto udp {}", flood::STRANGE)
}

/// Packets of wrong sources in a record's stream, both directions.
fn strangers(stream: &Value) -> u64 {
    ["access_to_core", "core_to_access"].iter().map(|direction| dropped(&stream[direction], "source")).sum()
}

/// How many lines tell of media of strangers.
fn told(latch: &Latch) -> usize {
    let output = latch.peer.output();
    output.lines().filter(|line| line.contains("WARN") && line.contains("dropped media that did not come from")).count()
}

#[test]
fn a_call_that_still_learns_is_attacked_from_everywhere_and_neither_harmed_nor_heard() {
    in_testbed(testbed_of_attackers(), |testbed| {
        let config = LatchConfig { learning_window_s: 60, ports: (30_000, 30_999), ..LatchConfig::default() };
        call_under_attack(testbed, &config, false)
    });
}

#[test]
fn a_locked_call_is_attacked_from_everywhere_and_neither_harmed_nor_heard() {
    in_testbed(testbed_of_attackers(), |testbed| {
        let config = LatchConfig {
            learning_window_s: 1,
            ports: (30_000, 30_999),
            realm: ["rebind = \"never\"".into(), "rebind = \"never\"".into()],
            ..LatchConfig::default()
        };
        call_under_attack(testbed, &config, true)
    });
}

#[test]
fn a_call_in_user_space_is_attacked_from_everywhere_and_neither_harmed_nor_heard() {
    in_testbed(testbed_of_attackers(), |testbed| {
        let arguments = vec!["--relay".into(), "user".into()];
        let config =
            LatchConfig { learning_window_s: 60, ports: (30_000, 30_999), arguments, ..LatchConfig::default() };
        call_under_attack(testbed, &config, false)
    });
}

/// Behind a NAT a phone states a private address. In the access network somebody else has it, or sends in its name.
#[test]
fn whoever_has_the_phones_private_address_in_the_access_network_neither_hears_nor_speaks() {
    in_testbed(testbed_of_attackers(), |testbed| {
        let host = testbed.host("stranger")?;
        host.ip(&format!("addr add {}/32 dev eth0", address::PHONE))?;
        testbed.latch().ip(&format!("route add {}/32 via {} dev access", address::PHONE, address::STRANGER))?;
        let config = LatchConfig { learning_window_s: 60, ports: (30_000, 30_999), ..LatchConfig::default() };
        let scene = Scene::start(testbed, &KamailioConfig::default(), &config)?;
        let stated = (address::PHONE, 6_000);
        let attacker = Attacker::new(
            "stranger",
            host,
            testbed.latch().mac("access")?,
            stated,
            "meta nfproto ipv4 meta l4proto udp",
        )?;
        let attack = |rounds: &str| -> Result<()> {
            println!("{rounds}");
            attacker.attacks(&victims(&scene.latch, 0, address::LATCH_ACCESS, config.ports)?).map(drop)
        };

        let call = MediaCall::between(&scene, (1, "alice"), (3, "bob"))?;
        attack("before anybody spoke")?;
        let counters = scene.latch.counters()?;
        ensure!(seen(&counters).0 == 0 && seen(&counters).1 > PACKETS / 2, "{counters:?}");
        call.latch(&scene)?;
        let (alice, bob) = (&call.alice, &call.bob);
        let sinks = [Sink::start(&alice.rtp)?, Sink::start(&bob.rtp)?];
        let streams = [(1, alice), (2, bob)]
            .map(|(ssrc, end)| Stream { packets: 200, ssrc, ..Stream::default() }.spawn(&end.rtp, end.relay));
        attack("in the learning window of a latched call")?;
        for stream in streams {
            stream?.join().map_err(|_| anyhow!("a sender panicked"))??;
        }
        for (sink, ssrc) in sinks.into_iter().zip([2, 1]) {
            let heard = sink.stop()?;
            let stream = heard.stream(ssrc)?;
            ensure!((stream.packets, stream.lost()) == (200, 0), "{heard:?}");
        }
        for end in [alice, bob] {
            ensure!(end.counters.get("strange")?.packets == 0, "a packet of the attacker reached a phone");
        }
        attacker.got_nothing()?;
        call.end()?;
        scene.finish(2).map(drop)
    });
}

/// A caller that is not registered asks for calls with many streams, as many as it can.
#[test]
fn invites_of_a_stranger_leave_ports_to_the_registered() {
    const INVITES: usize = 300;
    in_testbed(testbed_of_attackers(), |testbed| {
        // 100 pairs in each realm; what no answer opened does not rest.
        let config = LatchConfig { ports: (30_000, 30_199), hold_time_s: 60, ..LatchConfig::default() };
        let scene = Scene::start(testbed, &KamailioConfig::default(), &config)?;
        let stranger = testbed.host("stranger")?.udp(SocketAddrV4::new(address::STRANGER, 5_060))?;
        let media: String = (0..16).map(|stream| format!("m=audio {} RTP/AVP 0\r\n", 4_000 + 2 * stream)).collect();
        let own = address::STRANGER;
        let body = format!("v=0\r\no=- 1 1 IN IP4 {own}\r\ns=-\r\nc=IN IP4 {own}\r\nt=0 0\r\n{media}");
        for number in 0..INVITES {
            let invite = format!(
                "INVITE sip:nobody@{domain} SIP/2.0\r\nVia: SIP/2.0/UDP {own}:5060;branch=z9hG4bK{number}\r\n\
                 Max-Forwards: 70\r\nFrom: <sip:eve@{domain}>;tag={number}\r\nTo: <sip:nobody@{domain}>\r\n\
                 Call-ID: {number}\r\nCSeq: 1 INVITE\r\nContact: <sip:eve@{own}>\r\n\
                 Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{body}",
                body.len(),
                domain = Kamailio::DOMAIN,
            );
            stranger.send_to(invite.as_bytes(), LATCH)?;
            std::thread::sleep(Duration::from_millis(2));
        }
        let call = MediaCall::between(&scene, (1, "alice"), (3, "bob"))?;
        call.latch(&scene)?;
        call.end()?;
        // It got at most three times what it sent.
        stranger.set_read_timeout(Some(Duration::from_millis(200)))?;
        let (mut got, mut datagram) = (0, [0; 65_536]);
        while let Ok(length) = stranger.recv(&mut datagram) {
            got += length;
        }
        println!("{got} bytes for {INVITES} INVITEs of {} and more", body.len());
        ensure!(got > 0 && got <= 3 * INVITES * (body.len() + 500), "{got} bytes came back");
        scene.latch.stop(testbed).map(drop)
    });
}

/// A phone on IPv6, without a NAT, speaks with one on IPv4.
#[test]
fn a_call_over_ipv6_is_attacked_and_neither_harmed_nor_heard() {
    const WINDOW_S: u32 = 4;
    in_testbed(SixScene::testbed(), |testbed| {
        let config = LatchConfig { learning_window_s: WINDOW_S, ports: (30_000, 30_999), ..LatchConfig::default() };
        let ports = config.ports;
        let mut six = SixScene::start(testbed, config)?;
        let (access, latch) = (testbed.latch().mac("access")?, address::LATCH_ACCESS_V6);
        let host = testbed.host("stranger")?;
        let address = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x66);
        host.ipv6("eth0", address)?;
        let stranger = Attacker::new("stranger", host, access, (address, 40_000), &format!("ip6 saddr {latch}"))?;
        let legs = |six: &SixScene<'_>| victims(&six.scene.latch, 0, latch, ports);
        stranger.attacks(&[Victim { relay: (latch, ports.0).into(), ssrc: 1, sequence: 1 }])?;
        let counters = six.scene.latch.counters()?;
        ensure!(seen(&counters) == (0, 0) && counters.dropped_closed >= PACKETS, "{counters:?}");

        six.call(true)?;
        six.hear(10)?;
        stranger.attacks(&legs(&six)?)?;
        std::thread::sleep(Duration::from_secs(WINDOW_S.into()));
        stranger.attacks(&legs(&six)?)?;
        // Its reports come from another port, of which nothing is known before the first.
        wait_until("alice's first report came", TIMEOUT, || {
            let (index, _) = six.scene.latch.legs()?.into_iter().next().context("no leg is open")?;
            Ok(six.scene.latch.state(index)?.rtcp.packets > 0)
        })?;
        stranger.spoofs((address::PHONE_V6, 7_777)).attacks(&legs(&six)?)?;
        six.hear(10)?;
        six.carol.hang_up()?;
        six.alice.wait_for("CALL_CLOSED", TIMEOUT)?;
        let counters = six.scene.latch.counters()?;
        ensure!(told(&six.scene.latch) >= 1, "the log tells nothing of the attack");

        let records = six.scene.finish(1)?;
        stranger.got_nothing()?;
        for counters in [&six.at_alice, &six.at_carol] {
            ensure!(counters.get("strange")?.packets == 0, "a packet of the attacker reached a phone");
        }
        SixScene::agree(&records, [six.at_alice.get("in")?, six.at_carol.get("in")?])?;
        let stream = &records[0]["streams"][0];
        for direction in ["access_to_core", "core_to_access"] {
            let flow = &stream[direction];
            ensure!(flow["quality"]["lost"] == 0 && dropped(flow, "rate") == 0, "{direction}: {flow:#}");
        }
        let strangers = strangers(stream);
        println!("{strangers} packets of strangers in the record");
        ensure!(strangers == seen(&counters).1 && strangers > PACKETS, "the record has {strangers}: {counters:?}");
        Ok(())
    });
}
