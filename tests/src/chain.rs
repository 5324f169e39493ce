//! The chain of a bench: a generator, the relay under test, and a sink, each in a namespace of its own.
//!
//! ```text
//!  generator           relay                       sink
//!  out ──────── access │ core ──────────────────── in
//!  203.0.113.66   203.0.113.10 10.9.0.10           10.9.0.20
//! ```
//!
//! Every chain has the same links and the same addresses, also the hardware ones, and knows its neighbours beforehand:
//! what differs is what the relay's namespace does with the packets.

use std::collections::BTreeSet;
use std::net::{SocketAddrV4, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use proxy_common::checksum;

use crate::netns::{self, Namespace, link};
use crate::rtp;
use crate::topology::address;

/// Where the generator's packets come from: those of its first stream.
pub const SOURCE: SocketAddrV4 = SocketAddrV4::new(address::STRANGER, 40_000);
/// Where the sink wants them.
pub const SINK: SocketAddrV4 = SocketAddrV4::new(address::SOFTSWITCH, 20_000);

/// Hardware addresses in the order of the picture.
const OUT: &str = "02:00:00:00:01:01";
const ACCESS: &str = "02:00:00:00:01:02";
const CORE: &str = "02:00:00:00:02:01";
const IN: &str = "02:00:00:00:02:02";

/// The namespaces of one chain; dropped, they are removed.
#[derive(Debug)]
pub struct Chain {
    generator: Namespace,
    relay: Namespace,
    sink: Namespace,
}

impl Chain {
    /// Builds a chain; `name` must be unique in the process. No interface of it has an XDP program, and those that
    /// packets arrive by take frames of XDP programs because receive offload (GRO) is on. What chains of dead processes
    /// left behind is removed.
    pub fn new(name: &str) -> Result<Self> {
        netns::prune();
        let namespace =
            |role: &str| Namespace::create(format!("{}{}-{name}-{role}", netns::PREFIX, std::process::id()));
        let chain = Self { generator: namespace("generator")?, relay: namespace("relay")?, sink: namespace("sink")? };
        let Self { generator, relay, sink } = &chain;
        link((generator, "out"), (relay, "access"))?;
        link((relay, "core"), (sink, "in"))?;

        let neighbours = [
            (generator, "out", OUT, address::STRANGER, address::LATCH_ACCESS, ACCESS),
            (relay, "access", ACCESS, address::LATCH_ACCESS, address::STRANGER, OUT),
            (relay, "core", CORE, address::LATCH_CORE, address::SOFTSWITCH, IN),
            (sink, "in", IN, address::SOFTSWITCH, address::LATCH_CORE, CORE),
        ];
        for (namespace, interface, mac, own, neighbour, neighbour_mac) in neighbours {
            namespace.ip(&format!("link set {interface} address {mac}"))?;
            namespace.ip(&format!("address add {own}/24 dev {interface}"))?;
            namespace.ip(&format!("neighbour add {neighbour} lladdr {neighbour_mac} dev {interface} nud permanent"))?;
            namespace.run("ethtool", &format!("-K {interface} gro on"))?;
        }
        Ok(chain)
    }

    /// Where the packets are made.
    pub fn generator(&self) -> &Namespace {
        &self.generator
    }

    /// The place of the relay under test.
    pub fn relay(&self) -> &Namespace {
        &self.relay
    }

    /// Where the packets end.
    pub fn sink(&self) -> &Namespace {
        &self.sink
    }

    /// Destination and source hardware address of frames from the relay to the sink.
    pub fn macs_to_sink(&self) -> Result<[u8; 12]> {
        macs(IN, CORE)
    }

    /// A frame as `access` receives it: a packet of G.711 at 20 ms from [`SOURCE`] to `relay`, 214 bytes, its checksums
    /// right.
    pub fn frame(&self, relay: SocketAddrV4) -> Result<Vec<u8>> {
        let payload = rtp::Stream::default().packet(0);
        let udp_length = u16::try_from(8 + payload.len())?;
        let mut udp = Vec::new();
        udp.extend(SOURCE.port().to_be_bytes());
        udp.extend(relay.port().to_be_bytes());
        udp.extend(udp_length.to_be_bytes());
        udp.extend([0, 0]);
        udp.extend(payload);
        let mut covered = [SOURCE.ip().octets(), relay.ip().octets()].concat();
        covered.extend([0, 17]);
        covered.extend(udp_length.to_be_bytes());
        covered.extend(&udp);
        set(&mut udp, 6, checksum::full(&covered))?;

        let mut ip = vec![0x45, 0];
        ip.extend((20 + udp_length).to_be_bytes());
        ip.extend([0x12, 0x34, 0x40, 0, 64, 17, 0, 0]);
        ip.extend(SOURCE.ip().octets());
        ip.extend(relay.ip().octets());
        let sum = checksum::full(&ip);
        set(&mut ip, 10, sum)?;
        Ok([macs(ACCESS, OUT)?.to_vec(), vec![0x08, 0x00], ip, udp].concat())
    }

    /// Proves that the chain relays this many streams: `send` has the next packet made, which must arrive at the sink's
    /// socket from the relay's core address and a port that is the stream's own; then the sink answers, so that both
    /// directions have seen a packet. Only before the sink counts by XDP.
    pub fn prove(&self, streams: u16, mut send: impl FnMut() -> Result<()>) -> Result<()> {
        let socket: UdpSocket = self.sink.udp(SINK)?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        let mut ports = BTreeSet::new();
        for stream in 0..streams {
            send()?;
            let mut packet = [0; 2048];
            let arrived = socket.recv_from(&mut packet);
            let (length, from) =
                arrived.with_context(|| format!("no packet of stream {stream} arrived at the sink"))?;
            ensure!(packet.get(..length) == Some(&rtp::Stream::default().packet(0)[..]), "another packet arrived");
            ensure!(from.ip() == address::LATCH_CORE, "a packet came from {from}, not from the relay's core address");
            ensure!(ports.insert(from.port()), "two streams come from {from}");
            socket.send_to(&rtp::Stream::default().packet(0), from).context("the sink's answer")?;
        }
        Ok(())
    }
}

fn macs(destination: &str, source: &str) -> Result<[u8; 12]> {
    let mut bytes = [0; 12];
    let digits = destination.split(':').chain(source.split(':'));
    for (byte, digits) in bytes.iter_mut().zip(digits) {
        *byte = u8::from_str_radix(digits, 16)?;
    }
    Ok(bytes)
}

fn set(bytes: &mut [u8], at: usize, word: u16) -> Result<()> {
    let Some(place) = bytes.get_mut(at..at + 2) else { bail!("a header without its checksum") };
    place.copy_from_slice(&word.to_be_bytes());
    Ok(())
}
