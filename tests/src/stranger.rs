//! The attacker: sprays RTP over a relay's whole port range and counts whatever comes back.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::ops::RangeInclusive;
use std::time::Duration;

use anyhow::Result;

use crate::counters::{Count, Counters, Direction};
use crate::rtp::{Sink, Stream, Tally};
use crate::topology::{Testbed, address};

/// The SSRC of everything the stranger sends: nobody else uses it.
const SSRC: u32 = 0xbad0_bad0;

/// A host at 203.0.113.66 with one socket, which listens all the time.
#[derive(Debug)]
pub struct Stranger<'testbed> {
    socket: UdpSocket,
    sink: Sink,
    counters: Counters<'testbed>,
}

/// What the stranger got out of it.
#[derive(Clone, Debug)]
pub struct StrangerReport {
    /// What arrived at its socket.
    pub tally: Tally,
    /// What arrived at its interface, any protocol and port: ICMP errors too.
    pub ip: Count,
}

impl<'testbed> Stranger<'testbed> {
    /// The SSRC of the packets it sends, to look for at the victims.
    pub const SSRC: u32 = SSRC;

    /// Opens the socket (port 40000) and begins to listen.
    pub fn start(testbed: &'testbed Testbed) -> Result<Self> {
        let namespace = testbed.host("stranger")?;
        let counters = Counters::add(namespace, &[("ip_in", Direction::In, "ip version 4")])?;
        let socket = namespace.udp(SocketAddrV4::new(address::STRANGER, 40_000))?;
        Ok(Self { sink: Sink::start(&socket)?, socket, counters })
    }

    /// Sends one valid RTP packet (payload type 8) to every port of the range, `rounds` times, at about 20,000 packets
    /// a second. Returns how many were sent.
    pub fn spray(&self, to: Ipv4Addr, ports: RangeInclusive<u16>, rounds: u32) -> Result<u64> {
        let stream = Stream { ssrc: SSRC, ..Stream::default() };
        let mut sent = 0u64;
        for round in 0..rounds {
            let packet = stream.packet(round);
            for port in ports.clone() {
                // An ICMP port unreachable of an earlier packet surfaces here, once; the packet is then sent again.
                if self.socket.send_to(&packet, (to, port)).is_err() {
                    self.socket.send_to(&packet, (to, port))?;
                }
                sent += 1;
                if sent.is_multiple_of(100) {
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        }
        Ok(sent)
    }

    /// Stops listening; what arrived.
    pub fn stop(self) -> Result<StrangerReport> {
        let tally = self.sink.stop()?;
        Ok(StrangerReport { tally, ip: self.counters.get("ip_in")? })
    }
}
