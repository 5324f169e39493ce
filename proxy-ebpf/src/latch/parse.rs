//! From a frame to a datagram on one of the relay's ports.
//!
//! Whatever is not one is passed to the host untouched, as early as possible: for most of the host's own traffic that is
//! at the protocol or at one look into the table of media addresses.

use crate::frame::{Frame, Window};
use crate::maps::{self, Spot};
use core::mem::offset_of;
use network_types::{
    eth::{EthHdr, EtherType},
    ip::{IpProto, Ipv4Hdr},
    udp::UdpHdr,
};
use proxy_common::{
    media::{self, Kind},
    verdict::Verdict,
};

/// Offsets of the fields that are read or written. VLAN tags will move them all: a second set, not a second parser.
pub(crate) mod at {
    use super::{EthHdr, Ipv4Hdr, UdpHdr, offset_of};

    pub(crate) const ETHER_TYPE: usize = offset_of!(EthHdr, ether_type);
    const IPV4: usize = EthHdr::LEN;
    pub(crate) const VERSION: usize = IPV4 + offset_of!(Ipv4Hdr, vihl);
    pub(crate) const TOTAL_LENGTH: usize = IPV4 + offset_of!(Ipv4Hdr, tot_len);
    pub(crate) const FRAGMENT: usize = IPV4 + offset_of!(Ipv4Hdr, frags);
    /// TTL and, above it, the protocol: one word of the checksum.
    pub(crate) const TTL: usize = IPV4 + offset_of!(Ipv4Hdr, ttl);
    pub(crate) const PROTOCOL: usize = IPV4 + offset_of!(Ipv4Hdr, proto);
    pub(crate) const IP_CHECKSUM: usize = IPV4 + offset_of!(Ipv4Hdr, check);
    pub(crate) const SOURCE: usize = IPV4 + offset_of!(Ipv4Hdr, src_addr);
    pub(crate) const DESTINATION: usize = IPV4 + offset_of!(Ipv4Hdr, dst_addr);
    pub(crate) const UDP: usize = IPV4 + Ipv4Hdr::LEN;
    /// Source port and, above it, destination port.
    pub(crate) const PORTS: usize = UDP + offset_of!(UdpHdr, src);
    pub(crate) const UDP_LENGTH: usize = UDP + offset_of!(UdpHdr, len);
    pub(crate) const UDP_CHECKSUM: usize = UDP + offset_of!(UdpHdr, check);
    pub(crate) const PAYLOAD: usize = UDP + UdpHdr::LEN;
}

/// All headers, Ethernet to UDP.
pub(crate) type Headers = Window<{ at::PAYLOAD }>;

/// A datagram on a relay port.
pub(crate) struct Arrival {
    /// Where its bytes are.
    pub(crate) headers: Headers,
    /// What they say.
    pub(crate) datagram: Datagram,
    /// Whose port it is.
    pub(crate) spot: Spot,
}

/// What a decision needs to know of a datagram. Addresses in memory order, ports in host order.
#[derive(Clone, Copy)]
pub(crate) struct Datagram {
    pub(crate) source: u32,
    pub(crate) source_port: u16,
    pub(crate) ttl: u8,
    /// Of the IP packet, bytes.
    pub(crate) total_length: u16,
    pub(crate) kind: Kind,
}

/// Finds the relay's datagrams among what arrives by the interface `ingress`; any other frame has its verdict.
#[inline(always)]
pub(crate) fn parse(frame: &Frame, ingress: u32) -> Result<Arrival, Verdict> {
    let network = frame.window::<{ at::UDP }>().ok_or(Verdict::PassedOther)?;
    if network.u16::<{ at::ETHER_TYPE }>() != EtherType::Ipv4 as u16 {
        return Err(Verdict::PassedOther);
    }
    let version = network.u8::<{ at::VERSION }>();
    if version >> 4 != 4 {
        return Err(Verdict::PassedOther);
    }
    if network.u8::<{ at::PROTOCOL }>() != IpProto::Udp as u8 {
        return Err(Verdict::PassedHost);
    }
    let local = maps::local(network.u32::<{ at::DESTINATION }>()).ok_or(Verdict::PassedHost)?;
    if network.u16::<{ at::FRAGMENT }>() & FRAGMENTED != 0 {
        return Err(Verdict::PassedFragment);
    }
    if version != WITHOUT_OPTIONS {
        return Err(Verdict::PassedOptions);
    }

    let headers = frame.window::<{ at::PAYLOAD }>().ok_or(Verdict::PassedHost)?;
    let ports = headers.u32::<{ at::PORTS }>();
    let spot = local.spot(u16::from_be((ports >> 16) as u16)).ok_or(Verdict::PassedHost)?;
    // From one network nobody speaks in the name of another's hosts.
    if local.interface() != ingress {
        return Err(Verdict::DroppedInterface);
    }
    let total_length = u16::from_be(headers.u16::<{ at::TOTAL_LENGTH }>());
    let udp_length = u16::from_be(headers.u16::<{ at::UDP_LENGTH }>());
    // A frame may be longer than its packet (padding), a packet not longer than its frame.
    if (udp_length as usize) < UdpHdr::LEN
        || udp_length as usize + Ipv4Hdr::LEN != total_length as usize
        || !frame.holds(EthHdr::LEN + total_length as usize)
    {
        return Err(Verdict::DroppedMalformed);
    }

    let datagram = Datagram {
        source: headers.u32::<{ at::SOURCE }>(),
        source_port: u16::from_be(ports as u16),
        ttl: headers.u8::<{ at::TTL }>(),
        total_length,
        kind: kind(frame, udp_length as usize - UdpHdr::LEN),
    };
    Ok(Arrival { headers, datagram, spot })
}

/// More fragments follow, or some went before.
const FRAGMENTED: u16 = 0x3fff_u16.to_be();
/// Version 4 and a header of five words.
const WITHOUT_OPTIONS: u8 = 0x45;

#[inline(always)]
fn kind(frame: &Frame, length: usize) -> Kind {
    // A payload that is shorter than these two bytes is neither RTP nor RTCP; padding may not be mistaken for it.
    match frame.window::<{ at::PAYLOAD + 2 }>() {
        Some(start) => media::classify(start.u8::<{ at::PAYLOAD }>(), start.u8::<{ at::PAYLOAD + 1 }>(), length),
        None => Kind::Other,
    }
}
