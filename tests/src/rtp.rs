//! RTP and RTCP made and counted here, packet by packet (RFC 3550).

use std::collections::BTreeMap;
use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

/// Bytes of an RTP header without contributing sources and extension.
pub const HEADER: usize = 12;

/// Pitch of a tone in G.711 at 8 kHz, in Hz: half as many as its changes of sign, which is the top bit of each sample
/// in both A-law and mu-law. 0 where there is nothing.
pub fn pitch_hz(payloads: &[Vec<u8>]) -> f64 {
    let signs: Vec<bool> = payloads.iter().flatten().map(|sample| sample & 0x80 != 0).collect();
    let changes = signs.windows(2).filter(|pair| pair.first() != pair.last()).count();
    if signs.is_empty() { 0.0 } else { changes as f64 / 2.0 * 8000.0 / signs.len() as f64 }
}

/// A stream to send. The default is G.711 A-law at 20 ms: 160 bytes of payload, 50 packets a second.
#[derive(Clone, Copy, Debug)]
pub struct Stream {
    /// 7 bits.
    pub payload_type: u8,
    /// Synchronisation source.
    pub ssrc: u32,
    /// Sequence number of the first packet.
    pub sequence: u16,
    /// How many packets.
    pub packets: u32,
    /// From one packet to the next.
    pub interval: Duration,
    /// Payload bytes a packet.
    pub payload: usize,
}

impl Default for Stream {
    fn default() -> Self {
        Self {
            payload_type: 8,
            ssrc: 0x1a7c_0001,
            sequence: 1,
            packets: 50,
            interval: Duration::from_millis(20),
            payload: 160,
        }
    }
}

impl Stream {
    /// Packet `index` of the stream: the sequence number wraps, the timestamp counts 8 kHz samples.
    pub fn packet(&self, index: u32) -> Vec<u8> {
        let sequence = self.sequence.wrapping_add((index & 0xffff) as u16);
        let samples = u32::try_from(self.interval.as_millis() * 8).unwrap_or(0);
        let mut packet = Vec::with_capacity(HEADER + self.payload);
        packet.extend([0x80, self.payload_type & 0x7f]);
        packet.extend(sequence.to_be_bytes());
        packet.extend(samples.wrapping_mul(index).to_be_bytes());
        packet.extend(self.ssrc.to_be_bytes());
        packet.resize(HEADER + self.payload, 0xd5);
        packet
    }

    /// Sends the whole stream at its pace, against a fixed schedule so that late packets do not delay the rest.
    /// Returns how many were handed to the kernel.
    pub fn send(&self, socket: &UdpSocket, to: SocketAddrV4) -> Result<u32> {
        let start = Instant::now();
        for index in 0..self.packets {
            let due = start + self.interval * index;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            socket.send_to(&self.packet(index), to).with_context(|| format!("send RTP to {to}"))?;
        }
        Ok(self.packets)
    }

    /// [`Stream::send`] on a thread of its own.
    pub fn spawn(self, socket: &UdpSocket, to: SocketAddrV4) -> Result<JoinHandle<Result<u32>>> {
        let socket = socket.try_clone()?;
        Ok(std::thread::spawn(move || self.send(&socket, to)))
    }
}

/// An RTCP sender report without report blocks (RFC 3550 §6.4.1): 28 bytes.
pub fn sender_report(ssrc: u32, packets: u32, octets: u32) -> Vec<u8> {
    let mut report = vec![0x80, 200, 0, 6];
    report.extend(ssrc.to_be_bytes());
    report.extend([0; 12]);
    report.extend(packets.to_be_bytes());
    report.extend(octets.to_be_bytes());
    report
}

/// What one source sent with one SSRC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Packets, duplicates included.
    pub packets: u64,
    /// UDP payload bytes.
    pub bytes: u64,
    /// Sequence number of the first packet.
    pub first: u16,
    /// Highest sequence number, counted through its wraps from `first`.
    pub highest: u32,
}

impl Received {
    /// Packets missing between the first and the highest (duplicates hide losses).
    pub fn lost(&self) -> u64 {
        (u64::from(self.highest) + 1).saturating_sub(self.packets)
    }
}

/// All that arrived at a sink.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// RTP by source address and SSRC.
    pub rtp: BTreeMap<(SocketAddr, u32), Received>,
    /// RTCP packets by source address.
    pub rtcp: BTreeMap<SocketAddr, u64>,
    /// Anything else by source address.
    pub other: BTreeMap<SocketAddr, u64>,
}

impl Tally {
    /// RTP packets of all sources.
    pub fn rtp_packets(&self) -> u64 {
        self.rtp.values().map(|received| received.packets).sum()
    }

    /// Packets of every kind and source.
    pub fn packets(&self) -> u64 {
        self.rtp_packets() + self.rtcp.values().sum::<u64>() + self.other.values().sum::<u64>()
    }

    /// What came with this SSRC, if exactly one source sent it.
    pub fn stream(&self, ssrc: u32) -> Result<Received> {
        let mut found = self.rtp.iter().filter(|((_, seen), _)| *seen == ssrc);
        match (found.next(), found.next()) {
            (Some((_, received)), None) => Ok(*received),
            (None, _) => Err(anyhow!("nothing came with SSRC {ssrc:#x}: {self:?}")),
            (Some(_), Some(_)) => Err(anyhow!("several sources sent SSRC {ssrc:#x}: {self:?}")),
        }
    }

    fn count(&mut self, from: SocketAddr, packet: &[u8]) {
        let word = |at: usize| packet.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes);
        let version = packet.first().map(|byte| byte >> 6);
        match (version, packet.get(1), word(0), word(8)) {
            (Some(2), Some(192..=223), _, _) => *self.rtcp.entry(from).or_default() += 1,
            (Some(2), Some(_), Some(head), Some(ssrc)) => {
                let sequence = (head & 0xffff) as u16;
                let received =
                    self.rtp.entry((from, ssrc)).or_insert(Received { first: sequence, ..Received::default() });
                received.packets += 1;
                received.bytes += packet.len() as u64;
                let expected = received.first.wrapping_add((received.highest & 0xffff) as u16);
                let ahead = sequence.wrapping_sub(expected);
                if ahead < 0x8000 {
                    received.highest += u32::from(ahead);
                }
            }
            _ => *self.other.entry(from).or_default() += 1,
        }
    }
}

/// Counts everything that arrives at a socket, on a thread of its own.
#[derive(Debug)]
pub struct Sink {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Tally>>,
}

impl Sink {
    /// Starts counting what arrives at `socket`, which stays usable for sending. The socket must have a read timeout,
    /// as those of [`crate::Namespace::udp`] have.
    pub fn start(socket: &UdpSocket) -> Result<Self> {
        let socket = socket.try_clone()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut tally = Tally::default();
            let mut buffer = [0; 2048];
            loop {
                match socket.recv_from(&mut buffer) {
                    Ok((length, from)) => tally.count(from, buffer.get(..length).unwrap_or_default()),
                    // A timeout, or an ICMP error that an earlier send provoked; the queue is empty.
                    Err(_) if stopped.load(Ordering::Relaxed) => return tally,
                    Err(_) => {}
                }
            }
        });
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Stops once nothing has arrived for the socket's read timeout; what arrived.
    pub fn stop(mut self) -> Result<Tally> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().ok_or_else(|| anyhow!("the sink was stopped before"))?;
        thread.join().map_err(|_| anyhow!("the sink's thread panicked"))
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pitch_of_a_tone_is_heard_and_silence_has_none() {
        let sample =
            |n: u32| if (f64::from(n) / 8000.0 * 440.0 * std::f64::consts::TAU).sin() >= 0.0 { 0xd5 } else { 0x55 };
        let packets: Vec<Vec<u8>> =
            (0..50).map(|packet| (0..160).map(|n| sample(packet * 160 + n)).collect()).collect();
        assert!((pitch_hz(&packets) - 440.0).abs() < 1.0);
        assert_eq!(pitch_hz(&[vec![0xd5; 160]]), 0.0);
        assert_eq!(pitch_hz(&[]), 0.0);
    }

    #[test]
    fn a_tally_knows_streams_losses_and_kinds() {
        let from: SocketAddr = "10.0.0.1:7078".parse().unwrap();
        let stream = Stream { sequence: 65_530, ..Stream::default() };
        let mut tally = Tally::default();
        for index in (0..20).filter(|index| *index != 7) {
            tally.count(from, &stream.packet(index));
        }
        tally.count(from, &sender_report(stream.ssrc, 20, 3200));
        tally.count(from, b"\x00\x01\x00\x00");
        let received = tally.stream(stream.ssrc).unwrap();
        assert_eq!((received.packets, received.bytes, received.lost()), (19, 19 * 172, 1));
        assert_eq!((tally.rtcp[&from], tally.other[&from], tally.packets()), (1, 1, 21));
        assert!(tally.stream(1).is_err());
    }
}
