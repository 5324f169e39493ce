//! What else the host does on Latch's interfaces, while media pass: TCP, UDP, ICMP, IPv6 and its neighbour discovery,
//! fragments, in both directions. The program lets all of it through as it is.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use proxy_common::verdict::{Action, Verdict};
use testbed::rtp::{Sink, Stream};
use testbed::{
    GATEWAY, KamailioConfig, LatchConfig, MediaCall, Namespace, NatKind, Scene, TestbedConfig, address, in_testbed,
};

/// How long anything may take that has to happen: much longer than it does.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Bytes that a TCP connection carries each way.
const BULK: usize = 1 << 20;
/// Another address of the host, whose ports are its own, and one of a host in the access network.
const SECOND: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 11);
const OUTSIDE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x66);

/// Bytes in which no two neighbourhoods are the same.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at ^ at >> 8 ^ at >> 16) as u8).collect()
}

/// A server at one host, a client at the other: as much goes there as comes back.
fn tcp(server: &Namespace, at: SocketAddr, client: &Namespace) -> Result<()> {
    let listener = server.enter(|| TcpListener::bind(at).with_context(|| format!("listen at {at}")))?;
    let patient = |stream: TcpStream| -> Result<TcpStream> {
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        Ok(stream)
    };
    let mut connection = patient(client.enter(|| Ok(TcpStream::connect_timeout(&at, TIMEOUT)?))?)?;
    let echo = std::thread::spawn(move || -> Result<()> {
        let mut stream = patient(listener.accept()?.0)?;
        let mut bytes = vec![0; BULK];
        stream.read_exact(&mut bytes)?;
        Ok(stream.write_all(&bytes)?)
    });
    let sent = pattern(BULK);
    connection.write_all(&sent)?;
    let mut received = vec![0; BULK];
    connection.read_exact(&mut received).with_context(|| format!("TCP with {at}"))?;
    ensure!(received == sent, "other bytes came back by TCP from {at}");
    echo.join().map_err(|_| anyhow!("the server panicked"))?
}

/// Datagrams of some sizes, the largest one in fragments, and their echoes.
fn udp(server: &Namespace, at: SocketAddr, client: &Namespace) -> Result<()> {
    let bind = |host: &Namespace, address: SocketAddr| -> Result<UdpSocket> {
        let socket = host.enter(|| UdpSocket::bind(address).with_context(|| format!("bind {address}")))?;
        socket.set_read_timeout(Some(TIMEOUT))?;
        Ok(socket)
    };
    let serving = bind(server, at)?;
    let any: IpAddr = if at.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let asking = bind(client, (any, 0).into())?;
    for size in [0, 1, 1_200, 1_472, 4_000] {
        let sent = pattern(size);
        let mut buffer = [0; 8_192];
        asking.send_to(&sent, at)?;
        let (length, from) = serving.recv_from(&mut buffer).with_context(|| format!("{size} bytes to {at}"))?;
        ensure!(buffer.get(..length) == Some(&sent[..]), "other bytes came to {at}");
        serving.send_to(&sent, from)?;
        let (length, from) = asking.recv_from(&mut buffer).with_context(|| format!("{size} bytes back from {at}"))?;
        ensure!(from == at && buffer.get(..length) == Some(&sent[..]), "other bytes came back from {at}");
    }
    Ok(())
}

/// ICMP echoes of some sizes, the largest one in fragments.
fn ping(host: &Namespace, to: IpAddr) -> Result<()> {
    let (family, protocol, request) = match to {
        IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp, 8),
        IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6, 128),
    };
    host.sysctl("net/ipv4/ping_group_range", "0 2147483647")?;
    let socket = host.enter(|| Ok(socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, protocol)?))?;
    let socket = UdpSocket::from(socket);
    socket.set_read_timeout(Some(TIMEOUT))?;
    socket.connect((to, 0))?;
    for (sequence, size) in [(1u8, 56), (2, 3_000)] {
        // The kernel fills in identifier and checksum.
        let message = [&[request, 0, 0, 0, 0, 0, 0, sequence], &pattern(size)[..]].concat();
        socket.send(&message)?;
        let mut answer = [0; 8_192];
        let length = socket.recv(&mut answer).with_context(|| format!("no answer to {size} bytes from {to}"))?;
        ensure!(answer.get(6..length) == message.get(6..), "{to} answered something else");
    }
    Ok(())
}

#[test]
fn the_hosts_own_traffic_passes_untouched_while_media_are_relayed() {
    let config = TestbedConfig {
        core_hosts: vec![("gateway", GATEWAY)],
        ..TestbedConfig::with_nats(&[NatKind::PortRestricted])
    };
    in_testbed(config, |testbed| {
        let (latch, outside, inside) = (testbed.latch(), testbed.host("stranger")?, testbed.host("gateway")?);
        latch.ip(&format!("address add {SECOND}/24 dev access"))?;
        latch.ipv6("access", address::LATCH_ACCESS_V6)?;
        outside.ipv6("eth0", OUTSIDE_V6)?;
        let scene = Scene::start(testbed, &KamailioConfig::default(), &LatchConfig::default())?;
        let call = MediaCall::to_core(&scene)?;
        let (alice, carol) = (&call.alice, &call.bob);
        alice.send_one(3)?;
        carol.wait_for("rtp_in", 1)?;
        let before = scene.latch.counters()?;
        let listening = [(carol, 1), (alice, 2)].map(|(end, ssrc)| (Sink::start(&end.rtp), ssrc));
        let stream = |ssrc| Stream { packets: 200, ssrc, ..Stream::default() };
        let senders = [stream(1).spawn(&alice.rtp, alice.relay)?, stream(2).spawn(&carol.rtp, carol.relay)?];

        // Neighbours are found again, by ARP and by neighbour discovery.
        for host in [latch, outside, inside] {
            host.ip("neigh flush all")?;
        }
        let at = |address: IpAddr, port: u16| SocketAddr::new(address, port);
        let (access, core) = (IpAddr::from(address::LATCH_ACCESS), IpAddr::from(address::LATCH_CORE));
        let (access_v6, outside_v6) = (IpAddr::from(address::LATCH_ACCESS_V6), IpAddr::from(OUTSIDE_V6));
        for (host, own, other) in [
            (outside, access, IpAddr::from(address::STRANGER)),
            (outside, access_v6, outside_v6),
            (inside, core, IpAddr::from(GATEWAY)),
        ] {
            // The host serves, and asks; also at the numbers of media ports, where the protocol or the address is
            // another.
            tcp(latch, at(own, 8_080), host)?;
            tcp(latch, at(own, 30_500), host)?;
            tcp(host, at(other, 8_080), latch)?;
            udp(latch, at(own, 9_000), host)?;
            udp(host, at(other, 9_000), latch)?;
            ping(host, own)?;
            ping(latch, other)?;
        }
        udp(latch, at(SECOND.into(), 30_500), outside)?;

        for sender in senders {
            sender.join().map_err(|_| anyhow!("a sender panicked"))??;
        }
        for (sink, ssrc) in listening {
            let heard = sink?.stop()?.stream(ssrc)?;
            ensure!((heard.packets, heard.lost()) == (200, 0), "the call suffers: {heard:?}");
        }
        let mut counters = scene.latch.counters()?;
        let passed = |name: &str, before: u64, after: u64| {
            println!("{name}: {}", after - before);
            ensure!(after > before, "nothing was {name}: {counters:?}");
            Ok(())
        };
        passed("passed_host", before.passed_host, counters.passed_host)?;
        passed("passed_other", before.passed_other, counters.passed_other)?;
        passed("passed_fragment", before.passed_fragment, counters.passed_fragment)?;
        for verdict in Verdict::ALL.iter().filter(|verdict| verdict.action() == Action::Drop) {
            ensure!(*counters.of(*verdict) == 0, "{}: {counters:?}", verdict.name());
        }
        call.end()?;
        scene.finish(1).map(drop)
    });
}
