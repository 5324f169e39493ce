//! A call between IPv6 and IPv4 where the phone's signalling is over TCP.

use anyhow::{Result, ensure};
use proxy_user::flow::Transport;
use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};
use testbed::{
    Baresip, BaresipConfig, Capture, Counters, Direction, KamailioConfig, LatchConfig, Scene, TestbedConfig, address,
    in_testbed, wait_until,
};

/// How long anything may take that has to happen: much longer than it does.
const TIMEOUT: Duration = Duration::from_secs(20);

#[test]
fn a_phone_on_ipv6_and_tcp_and_one_on_ipv4_and_udp_hear_each_other() {
    call_across_families(Transport::Tcp);
}

fn call_across_families(transport: Transport) {
    let gateway = Ipv4Addr::new(10, 9, 0, 30);
    let config = TestbedConfig {
        nats: Vec::new(),
        access_hosts: vec![("six", Ipv4Addr::new(203, 0, 113, 50))],
        core_hosts: vec![("gateway", gateway)],
        ..TestbedConfig::default()
    };
    in_testbed(config, |testbed| {
        let (six, gateway_host) = (testbed.host("six")?, testbed.host("gateway")?);
        testbed.latch().ipv6("access", address::LATCH_ACCESS_V6)?;
        six.ipv6("eth0", address::PHONE_V6)?;
        // It has no other.
        six.ip("addr flush dev eth0 scope global")?;
        six.ipv6("eth0", address::PHONE_V6)?;
        let realms = ["tcp_port = 5060\n".into(), String::new()];
        let latch = LatchConfig { access: address::LATCH_ACCESS_V6.into(), realms, ..LatchConfig::default() };
        let scene = Scene::start(testbed, &KamailioConfig::default(), &latch)?;
        let signalling = Capture::start(testbed, "core", testbed.softswitch(), "latch", "udp port 5060")?;
        let latch_v6 = address::LATCH_ACCESS_V6;
        let at_six = Counters::add(
            six,
            &[
                ("in", Direction::In, &format!("ip6 saddr {latch_v6} udp dport 16384-16484")),
                ("out", Direction::Out, &format!("ip6 daddr {latch_v6} udp sport 16384-16484")),
                ("four", Direction::In, "iifname eth0 meta nfproto ipv4"),
            ],
        )?;
        let latch_v4 = address::LATCH_CORE;
        let at_gateway = Counters::add(
            gateway_host,
            &[
                ("in", Direction::In, &format!("ip saddr {latch_v4} udp dport 16384-16484")),
                ("out", Direction::Out, &format!("ip daddr {latch_v4} udp sport 16384-16484")),
            ],
        )?;

        let alice = BaresipConfig::new("alice", address::PHONE_V6, SocketAddr::from((latch_v6, 5060)));
        let alice = BaresipConfig { transport, ..alice };
        let mut alice = phone(&scene, "alice", "six", alice)?;
        let carol = BaresipConfig::new("carol", gateway, SocketAddr::from((address::SOFTSWITCH, 5060)));
        let mut carol = phone(&scene, "carol", "gateway", carol)?;

        alice.dial("carol")?;
        carol.wait_for("CALL_INCOMING", TIMEOUT)?;
        carol.accept()?;
        alice.wait_for("CALL_ESTABLISHED", TIMEOUT)?;
        carol.wait_for("CALL_ESTABLISHED", TIMEOUT)?;
        for counters in [&at_six, &at_gateway] {
            wait_until("100 packets are heard", TIMEOUT, || Ok(counters.get("in")?.packets >= 100))?;
        }
        carol.hang_up()?;
        alice.wait_for("CALL_CLOSED", TIMEOUT)?;

        // The other way round: IPv6 is called.
        carol.dial("alice")?;
        alice.wait_for("CALL_INCOMING", TIMEOUT)?;
        alice.accept()?;
        carol.wait_for("CALL_ESTABLISHED", TIMEOUT)?;
        let before = [at_six.get("in")?.packets, at_gateway.get("in")?.packets];
        for (counters, before) in [&at_six, &at_gateway].into_iter().zip(before) {
            wait_until("50 more are heard", TIMEOUT, || Ok(counters.get("in")?.packets >= before + 50))?;
        }
        alice.hang_up()?;
        carol.wait_for("CALL_CLOSED", TIMEOUT)?;
        ensure!(at_six.get("four")?.packets == 0, "IPv4 reached a phone that has none");

        let recording = signalling.stop()?;
        ensure!(recording.malformed(None)?.is_empty(), "tshark finds malformed SIP in the core");
        let told = recording.forbidden(&["2001:db8"], |_| true)?;
        ensure!(told.is_empty(), "an IPv6 address reached the core: {told:#?}");
        let records = scene.finish(2)?;
        let sum = |direction: &str, key: &str| -> u64 {
            records.iter().map(|record| record["streams"][0][direction][key].as_u64().unwrap_or(u64::MAX)).sum()
        };
        // What Latch forwarded arrived; an IPv6 packet is 20 bytes longer than its IPv4 half.
        let packets = |direction: &str| sum(direction, "rtp_packets") + sum(direction, "rtcp_packets");
        let octets = |direction: &str| sum(direction, "rtp_octets") + sum(direction, "rtcp_octets");
        let (there, back) = (at_gateway.get("in")?, at_six.get("in")?);
        ensure!(packets("access_to_core") == there.packets, "{there:?} {records:#?}");
        ensure!(packets("core_to_access") == back.packets, "{back:?} {records:#?}");
        ensure!(octets("access_to_core") == there.bytes + 20 * there.packets, "{there:?} {records:#?}");
        ensure!(octets("core_to_access") == back.bytes - 20 * back.packets, "{back:?} {records:#?}");
        let source = records[0]["streams"][0]["access_to_core"]["rtp_source"]["address"].as_str().unwrap_or_default();
        ensure!(source.starts_with("[2001:db8:1::20]:"), "{source}");
        Ok(())
    });
}

/// A baresip that has registered.
fn phone(scene: &Scene<'_>, user: &str, host: &str, config: BaresipConfig) -> Result<Baresip> {
    let config = BaresipConfig { password: Some(scene.password(user)), ..config };
    let mut phone = Baresip::start(scene.testbed, user, scene.testbed.host(host)?, &config)?;
    phone.wait_registered(TIMEOUT)?;
    Ok(phone)
}
