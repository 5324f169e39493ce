//! Frames whose checksums are computed in full, so an equal frame is a right frame.

use super::{HOP_CORE, HOP_NARROW, HOP_TAGGED, HOP_TAGGED_TWICE, MAC_RELAY, MAC_TERMINAL, MACS_CORE, TAGS};
use proxy_common::checksum;
use std::net::{IpAddr, SocketAddr};

/// An Ethernet frame with a UDP datagram.
#[derive(Clone, Debug)]
pub struct Packet {
    /// Destination and source MAC address.
    pub macs: [[u8; 6]; 2],
    /// Tag control information of VLAN tags, outermost first.
    pub tags: Vec<u16>,
    /// Source address and port.
    pub source: SocketAddr,
    /// Destination address and port, of the same IP version.
    pub destination: SocketAddr,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// Type of service, or traffic class.
    pub tos: u8,
    /// Identification, flags and fragment offset of IPv4.
    pub identification: [u8; 4],
    /// UDP payload.
    pub payload: Vec<u8>,
    /// Whether the UDP checksum is computed, not zero.
    pub checksum: bool,
}

impl Packet {
    /// RTP, 172 bytes, as it arrives.
    pub fn rtp(source: impl Into<SocketAddr>, destination: impl Into<SocketAddr>) -> Self {
        let mut payload = vec![0x80, 0, 0, 17, 0, 0, 0, 160, 0xca, 0xfe, 0xba, 0xbe];
        payload.extend((0..160).map(|n| n as u8));
        Self {
            macs: [MAC_RELAY, MAC_TERMINAL],
            tags: Vec::new(),
            source: source.into(),
            destination: destination.into(),
            ttl: 64,
            tos: 0xb8,
            identification: [0x12, 0x34, 0x40, 0],
            payload,
            checksum: true,
        }
    }

    /// An RTCP receiver report, as it arrives.
    pub fn rtcp(source: impl Into<SocketAddr>, destination: impl Into<SocketAddr>) -> Self {
        let mut payload = vec![0x81, 201, 0, 7];
        payload.extend((0..28).map(|n| n as u8));
        Self { payload, ..Self::rtp(source, destination) }
    }

    /// The same with another payload type.
    pub fn payload_type(mut self, payload_type: u8) -> Self {
        self.payload[1] = payload_type;
        self
    }

    /// RTP with this SSRC and sequence number.
    pub fn of_stream(mut self, ssrc: u32, sequence: u16) -> Self {
        self.payload[2..4].copy_from_slice(&sequence.to_be_bytes());
        self.payload[8..12].copy_from_slice(&ssrc.to_be_bytes());
        self
    }

    /// The same as it leaves: by a next hop, from and to other addresses, one hop on. Into another IP version it leaves
    /// as RFC 7915 says, and without a checksum it does not.
    pub fn relayed(&self, by: u16, source: impl Into<SocketAddr>, destination: impl Into<SocketAddr>) -> Self {
        let [outer, inner] = TAGS;
        let (macs, tags) = match by {
            HOP_CORE | HOP_NARROW => (MACS_CORE, vec![]),
            HOP_TAGGED => (MACS_CORE, vec![outer]),
            HOP_TAGGED_TWICE => (MACS_CORE, vec![outer, inner]),
            _ => ([MAC_TERMINAL, MAC_RELAY], vec![]),
        };
        let (source, destination) = (source.into(), destination.into());
        let identification = if self.source.is_ipv6() { [0, 0, 0x40, 0] } else { self.identification };
        let checksum = self.checksum || destination.is_ipv6();
        let ttl = self.ttl.wrapping_sub(1);
        Self { macs, tags, source, destination, identification, checksum, ttl, ..self.clone() }
    }

    /// Length of the IP packet, bytes.
    pub fn octets(&self) -> u64 {
        let header = if self.source.is_ipv6() { 40 } else { 20 };
        header + 8 + self.payload.len() as u64
    }

    /// Its bytes, checksums computed in full.
    pub fn frame(&self) -> Vec<u8> {
        let udp = self.udp();
        let length = udp.len() as u16;
        let ip = match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut ip = vec![0x45, self.tos];
                ip.extend((20 + length).to_be_bytes());
                ip.extend(self.identification);
                ip.extend([self.ttl, 17, 0, 0]);
                ip.extend(source.octets());
                ip.extend(destination.octets());
                let sum = checksum::full(&ip);
                ip[10..12].copy_from_slice(&sum.to_be_bytes());
                ip
            }
            _ => {
                let mut ip = vec![0x60 | self.tos >> 4, self.tos << 4, 0, 0];
                ip.extend(length.to_be_bytes());
                ip.extend([17, self.ttl]);
                ip.extend(self.addresses());
                ip
            }
        };
        let tags: Vec<u8> = self
            .tags
            .iter()
            .enumerate()
            .flat_map(|(depth, tag)| {
                let protocol: u16 = if depth + 1 < self.tags.len() { 0x88a8 } else { 0x8100 };
                [protocol.to_be_bytes(), tag.to_be_bytes()].concat()
            })
            .collect();
        let protocol: u16 = if self.source.is_ipv6() { 0x86dd } else { 0x0800 };
        [self.macs.concat(), tags, protocol.to_be_bytes().to_vec(), ip, udp].concat()
    }

    fn addresses(&self) -> Vec<u8> {
        [self.source.ip(), self.destination.ip()]
            .iter()
            .flat_map(|address| match address {
                IpAddr::V4(v4) => v4.octets().to_vec(),
                IpAddr::V6(v6) => v6.octets().to_vec(),
            })
            .collect()
    }

    fn udp(&self) -> Vec<u8> {
        let length = 8 + self.payload.len() as u16;
        let mut udp = Vec::new();
        udp.extend(self.source.port().to_be_bytes());
        udp.extend(self.destination.port().to_be_bytes());
        udp.extend(length.to_be_bytes());
        udp.extend([0, 0]);
        udp.extend(&self.payload);
        if self.checksum {
            // RFC 768 and RFC 8200 §8.1: over a pseudo header too.
            let mut covered = self.addresses();
            covered.extend([0, 17]);
            covered.extend(length.to_be_bytes());
            covered.extend(&udp);
            let sum = match checksum::full(&covered) {
                0 => 0xffff,
                sum => sum,
            };
            udp[6..8].copy_from_slice(&sum.to_be_bytes());
        }
        udp
    }
}
