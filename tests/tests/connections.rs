//! Connections that are hostile, and softswitches that go away and come back.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use testbed::{
    Kamailio, KamailioConfig, LatchConfig, Scenario, Scene, Sipp, Testbed, TestbedConfig, address, in_testbed,
    wait_until,
};

/// How long anything may take that has to happen: much longer than it does.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Connections of the stranger to Latch.
fn connect(testbed: &Testbed, count: usize) -> Result<Vec<TcpStream>> {
    let latch = SocketAddr::from((address::LATCH_ACCESS, 5060));
    testbed.host("stranger")?.enter(|| {
        let connect = |_| {
            let stream = TcpStream::connect_timeout(&latch, TIMEOUT)?;
            stream.set_read_timeout(Some(TIMEOUT))?;
            Ok(stream)
        };
        (0..count).map(connect).collect()
    })
}

/// Waits until the other end has closed it.
fn is_closed(stream: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => true,
        Err(error) => !matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut),
    }
}

#[test]
fn a_stranger_with_many_connections_keeps_no_phone_away_and_loses_each_for_a_counted_reason() {
    in_testbed(TestbedConfig::default(), |testbed| {
        let realms = ["tcp_port = 5060\n".into(), String::new()];
        let extra = "[connections]\nmax_per_source = 50\nmessage_timeout_s = 3\nmax_message_bytes = 4000\n".into();
        let latch = LatchConfig { realms, extra, ..LatchConfig::default() };
        let mut scene = Scene::start(testbed, &KamailioConfig::default(), &latch)?;
        let mut hostile = connect(testbed, 70)?;
        let half = "REGISTER sip:example.test SIP/2.0\r\nX: ";
        for (number, stream) in hostile.iter_mut().take(50).enumerate() {
            let sent = match number % 5 {
                0 => String::new(),
                1 => half.to_owned(),
                2 => "GET / HTTP/1.1\r\n\r\n".to_owned(),
                3 => format!("{half}{}", "x".repeat(5_000)),
                _ => "REGISTER sip:example.test SIP/2.0\r\nVia: SIP/2.0/TCP x\r\n\r\n".to_owned(),
            };
            stream.write_all(sent.as_bytes())?;
        }
        // While all of that is going on.
        let mut alice = scene.baresip(1, "alice", |config| config.transport = proxy_user::flow::Transport::Tcp)?;
        let closed = hostile.iter_mut().filter_map(|stream| is_closed(stream).then_some(())).count();
        ensure!(closed == hostile.len(), "{closed} of {} were closed", hostile.len());
        alice.peer.stop(TIMEOUT)?;

        scene.latch.peer.signal(Signal::SIGTERM)?;
        let counted = scene.latch.peer.wait_for_line("connections: ", TIMEOUT)?;
        let expected = [
            "accepted: 51,",
            "refused_source: 20,",
            "closed_slow: 20,",
            "closed_not_sip: 20,",
            "closed_too_large: 10,",
        ];
        for count in expected {
            ensure!(counted.contains(count), "{count} is not in {counted}");
        }
        Ok(())
    });
}

#[test]
fn a_softswitch_on_tcp_that_comes_back_is_connected_to_again() {
    in_testbed(TestbedConfig::default(), |testbed| {
        let config = KamailioConfig { tcp: true, ..KamailioConfig::default() };
        let realms = [String::new(), "tcp_port = 5060\ntransport = \"tcp\"\n".into()];
        let mut scene = Scene::start(testbed, &config, &LatchConfig { realms, ..LatchConfig::default() })?;
        scene.register(1, "alice")?;
        scene.kamailio.peer.kill()?;
        let register = scene.sipp(Scenario::Register, "alice", address::PHONE);
        let again = |name: &str| {
            let mut sipp = Sipp::start(testbed, name, testbed.phone(1)?, &register)?;
            sipp.wait(TIMEOUT)?;
            anyhow::Ok(sipp.received())
        };
        let received = again("in-vain")?;
        ensure!(received.iter().any(|message| message.starts_with("SIP/2.0 503 ")), "{received:?}");
        scene.kamailio =
            Kamailio::start_at(testbed, "kamailio-again", testbed.softswitch(), address::SOFTSWITCH, &config)?;
        wait_until("alice is registered again", TIMEOUT, || {
            let received = again(&format!("again-{}", std::fs::read_dir(testbed.logs())?.count()))?;
            Ok(received.iter().any(|message| message.starts_with("SIP/2.0 200 ")))
        })?;
        scene.kamailio.wait_for_contacts("alice", 1, TIMEOUT)?;
        scene.finish(0).map(drop)
    });
}
