//! Calls of real phones over TCP and TLS: with each other and with phones on UDP, the softswitch on any of the three.

use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use proxy_user::flow::Transport;
use testbed::{
    Authority, Baresip, Counters, Direction, Identity, KamailioConfig, KamailioTls, Latch, LatchConfig, NatKind, Scene,
    Testbed, TestbedConfig, address, in_testbed, wait_until,
};

/// How long anything may take that has to happen: much longer than it does.
const TIMEOUT: Duration = Duration::from_secs(20);

/// A Latch that listens for TCP on both sides, and speaks so to the softswitch.
fn latch(softswitch: &str) -> LatchConfig {
    let core = format!("tcp_port = 5060\ntransport = \"{softswitch}\"\n");
    LatchConfig { realms: ["tcp_port = 5060\n".into(), core], ..LatchConfig::default() }
}

/// Counts what comes to a phone from Latch: RTP, and signalling by each transport.
fn at_phone<'testbed>(testbed: &'testbed Testbed, phone: usize) -> Result<Counters<'testbed>> {
    let from = format!("ip saddr {}", address::LATCH_ACCESS);
    let counted = [
        ("rtp", Direction::In, format!("{from} udp dport 16384-16484")),
        ("by_udp", Direction::In, format!("{from} udp sport 5060")),
        ("by_tcp", Direction::In, format!("{from} tcp sport 5060")),
        // Nobody connects to it.
        ("connects", Direction::In, format!("{from} tcp flags & (syn | ack) == syn")),
    ];
    let counted: Vec<_> = counted.iter().map(|(name, direction, rule)| (*name, *direction, rule.as_str())).collect();
    Counters::add(testbed.phone(phone)?, &counted)
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
    in_testbed(TestbedConfig::with_nats(&[NatKind::Symmetric, NatKind::PortRestricted]), |testbed| {
        let kamailio = KamailioConfig { digest: true, tcp: true, ..KamailioConfig::default() };
        let scene = Scene::start(testbed, &kamailio, &latch(softswitch))?;
        let at = [at_phone(testbed, 1)?, at_phone(testbed, 2)?];
        let core = Counters::add(
            testbed.softswitch(),
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

/// TOML that names these files.
fn files(identity: &Identity) -> String {
    format!("certificate = \"{}\"\nkey = \"{}\"\n", identity.certificate.display(), identity.key.display())
}

#[test]
fn phones_on_tls_call_through_a_softswitch_on_tls_and_certificates_change_without_a_restart() {
    in_testbed(TestbedConfig::with_nats(&[NatKind::PortRestricted, NatKind::Symmetric]), |testbed| {
        let (access, core) =
            (Authority::new(testbed.directory(), "access-ca")?, Authority::new(testbed.directory(), "core-ca")?);
        let own = access.issue("latch-access", &[&address::LATCH_ACCESS.to_string()])?;
        let in_core = core.issue("latch-core", &[&address::LATCH_CORE.to_string()])?;
        let switch = core.issue("switch", &[&address::SOFTSWITCH.to_string()])?;
        // Each asks the other who it is.
        let tls = KamailioTls { identity: switch, ca: core.file(), mutual: true };
        let kamailio = KamailioConfig { digest: true, tls: Some(tls), ..KamailioConfig::default() };
        let core = format!(
            "tls_port = 5061\ntransport = \"tls\"\nserver_ca = \"{}\"\n{}",
            core.file().display(),
            files(&in_core)
        );
        let realms = [format!("tls_port = 5061\n{}", files(&own)), core];
        let mut scene = Scene::start(testbed, &kamailio, &LatchConfig { realms, ..LatchConfig::default() })?;
        let readable = Counters::add(
            testbed.latch(),
            &[
                ("in_access", Direction::In, "iifname access udp dport 5060"),
                ("in_core", Direction::In, "iifname core meta l4proto { tcp, udp } th dport 5060"),
                ("out_core", Direction::Out, "oifname core meta l4proto { tcp, udp } th dport 5060"),
            ],
        )?;
        let at = [at_phone(testbed, 1)?, at_phone(testbed, 2)?];
        let by_tls = |config: &mut testbed::BaresipConfig, ca: &Authority| {
            config.transport = Transport::Tls;
            config.outbound.set_port(5061);
            config.ca = Some(ca.file());
        };
        let mut alice = scene.baresip(1, "alice", |config| by_tls(config, &access))?;

        // Latch gets another certificate, of an authority that only bob trusts.
        let later = Authority::new(testbed.directory(), "later-ca")?;
        later.issue("latch-access", &[&address::LATCH_ACCESS.to_string()])?;
        scene.latch.peer.signal(Signal::SIGHUP)?;
        scene.latch.peer.wait_for_line("certificates read again", TIMEOUT)?;
        let mut bob = scene.baresip(2, "bob", |config| by_tls(config, &later))?;
        talk(&mut alice, &mut bob, "bob", false, &at)?;
        talk(&mut bob, &mut alice, "alice", true, &at)?;
        for name in ["in_access", "in_core", "out_core"] {
            ensure!(readable.get(name)?.packets == 0, "{name}: signalling that anybody can read");
        }
        let known = scene.kamailio.contacts_of("alice")?;
        ensure!(known[0].uri.ends_with("@10.9.0.10:5061;transport=tls"), "{known:?}");
        scene.finish(4).map(drop)
    });
}

#[test]
fn a_phone_that_lost_its_connection_is_out_of_reach_until_it_is_back() {
    in_testbed(TestbedConfig::default(), |testbed| {
        let config = LatchConfig { keepalive_period_s: 2, ..latch("udp") };
        let mut scene = Scene::start(testbed, &KamailioConfig::default(), &config)?;
        let at = [at_phone(testbed, 1)?, at_phone(testbed, 2)?];
        let mut bob = scene.baresip(2, "bob", |_| {})?;
        let refused = |bob: &mut Baresip, user: &str| -> Result<()> {
            bob.dial(user)?;
            let closed = bob.wait_for("CALL_CLOSED", TIMEOUT)?;
            ensure!(closed.parameter.contains("480"), "{closed:?}");
            Ok(())
        };

        // The phone's process is gone.
        let mut carol = scene.baresip(1, "carol", |config| config.transport = Transport::Tcp)?;
        carol.peer.kill()?;
        scene.latch.peer.wait_for_line("terminal is out of reach", TIMEOUT)?;
        refused(&mut bob, "carol")?;

        // Latch is killed: no connection outlives it, and nobody connects to the phone, which connects on its own.
        let mut alice = scene.baresip(1, "alice", |config| {
            (config.transport, config.expires_s) = (Transport::Tcp, 20);
        })?;
        talk(&mut bob, &mut alice, "alice", true, &at)?;
        scene.latch.kill()?;
        scene.latch = Latch::start(testbed, &config)?;
        scene.latch.peer.wait_for_line("registrations go on", TIMEOUT)?;
        refused(&mut bob, "alice")?;
        scene.latch.peer.wait_for_line("terminal is back", 3 * TIMEOUT)?;
        talk(&mut bob, &mut alice, "alice", true, &at)?;

        // Its NAT forgets it without a word: what is sent is not acknowledged any more.
        testbed.nat(1)?.namespace().nft("insert rule ip guard through drop")?;
        scene.latch.peer.wait_for_line("terminal is out of reach", 3 * TIMEOUT)?;
        ensure!(at[0].get("connects")?.packets == 0, "nobody connects to a phone");
        Ok(())
    });
}
