//! Calls of real phones over TCP and TLS: with each other and with phones on UDP, the softswitch on any of the three.

use std::time::Duration;

use anyhow::{Result, ensure};
use lab::{
    Baresip, Counters, Direction, KamailioConfig, Lab, LabConfig, LatchConfig, NatKind, Scene, address, lab_test,
    wait_until,
};
use proxy_user::flow::Transport;

/// How long anything may take that has to happen: much longer than it does.
const TIMEOUT: Duration = Duration::from_secs(20);

/// A Latch that listens for TCP on both sides, and speaks so to the softswitch.
fn latch(softswitch: &str) -> LatchConfig {
    let core = format!("tcp_port = 5060\ntransport = \"{softswitch}\"\n");
    LatchConfig { realms: ["tcp_port = 5060\n".into(), core], ..LatchConfig::default() }
}

/// Counts what comes to a phone from Latch: RTP, and signalling by each transport.
fn at_phone<'lab>(lab: &'lab Lab, phone: usize) -> Result<Counters<'lab>> {
    let from = format!("ip saddr {}", address::LATCH_ACCESS);
    let counted = [
        ("rtp", Direction::In, format!("{from} udp dport 16384-16484")),
        ("by_udp", Direction::In, format!("{from} udp sport 5060")),
        ("by_tcp", Direction::In, format!("{from} tcp sport 5060")),
        // Who connects to it: nobody.
        ("connects", Direction::In, format!("{from} tcp flags & (syn | ack) == syn")),
    ];
    let counted: Vec<_> = counted.iter().map(|(name, direction, rule)| (*name, *direction, rule.as_str())).collect();
    Counters::add(lab.phone(phone)?, &counted)
}

/// `caller` calls `user`; both hear the other; one of them hangs up.
fn talk(caller: &mut Baresip, callee: &mut Baresip, user: &str, callee_ends: bool, at: &[Counters<'_>]) -> Result<()> {
    caller.dial(user)?;
    callee.wait_for("CALL_INCOMING", TIMEOUT)?;
    callee.accept()?;
    caller.wait_for("CALL_ESTABLISHED", TIMEOUT)?;
    callee.wait_for("CALL_ESTABLISHED", TIMEOUT)?;
    for counter in at {
        let before = counter.get("rtp")?.packets;
        wait_until("50 packets are heard", TIMEOUT, || Ok(counter.get("rtp")?.packets >= before + 50))?;
    }
    let (ending, other) = if callee_ends { (callee, caller) } else { (caller, callee) };
    ending.hang_up()?;
    other.wait_for("CALL_CLOSED", TIMEOUT).map(drop)
}

/// A phone on TCP and one on UDP behind NATs call each other through a softswitch that is spoken to like this.
fn call_between_transports(softswitch: &'static str) {
    lab_test(LabConfig::with_nats(&[NatKind::Symmetric, NatKind::PortRestricted]), |lab| {
        let kamailio = KamailioConfig { digest: true, tcp: true, ..KamailioConfig::default() };
        let scene = Scene::start(lab, &kamailio, &latch(softswitch))?;
        let at = [at_phone(lab, 1)?, at_phone(lab, 2)?];
        let core = Counters::add(
            lab.softswitch(),
            &[
                ("by_udp", Direction::In, "udp dport 5060"),
                ("by_tcp", Direction::In, "tcp dport 5060 tcp flags & psh == psh"),
            ],
        )?;
        let mut alice = scene.baresip(1, "alice", |config| config.transport = Transport::Tcp)?;
        let mut bob = scene.baresip(2, "bob", |_| {})?;
        talk(&mut alice, &mut bob, "bob", false, &at)?;
        talk(&mut bob, &mut alice, "alice", false, &at)?;
        talk(&mut bob, &mut alice, "alice", true, &at)?;
        // Each is spoken to by its own transport only.
        let [at_alice, at_bob] = &at;
        ensure!(at_alice.get("by_udp")?.packets == 0 && at_alice.get("by_tcp")?.packets > 0, "alice speaks TCP");
        ensure!(at_alice.get("connects")?.packets == 0, "nobody connects to a phone");
        ensure!(at_bob.get("by_tcp")?.packets == 0 && at_bob.get("by_udp")?.packets > 0, "bob speaks UDP");
        let (udp, tcp) = (core.get("by_udp")?.packets, core.get("by_tcp")?.packets);
        ensure!((udp > 0, tcp > 0) == (softswitch == "udp", softswitch == "tcp"), "{softswitch}: {udp} UDP, {tcp} TCP");
        scene.finish(6).map(drop)
    });
}

#[test]
fn phones_on_tcp_and_udp_call_each_other_through_a_softswitch_on_udp() {
    call_between_transports("udp");
}

#[test]
fn phones_on_tcp_and_udp_call_each_other_through_a_softswitch_on_tcp() {
    call_between_transports("tcp");
}
