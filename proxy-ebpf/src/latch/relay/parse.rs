//! From a frame to a datagram on one of the relay's ports.
//!
//! Everything else is passed to the host untouched, as early as possible: for most of the host's own traffic that is at
//! the protocol, or after one lookup in the table of media addresses.
//!
//! Up to two VLAN tags may precede the IP header; they move everything behind them, so offsets are counted from the IP
//! header.

use super::{
    entries::{self, LegPort, LocalEntry},
    frame::Frame,
    packet_scratch::Datagram,
};
use core::mem::offset_of;
use network_types::{
    eth::{EthHdr, EtherType},
    ip::{IpProto, Ipv4Hdr, Ipv6Hdr},
    udp::UdpHdr,
};
use proxy_common::{media, verdict::Verdict};

/// Offsets in an IPv4 packet with a UDP datagram.
pub(crate) mod v4 {
    use super::{Ipv4Hdr, UdpHdr, offset_of};

    pub(crate) const VERSION: usize = offset_of!(Ipv4Hdr, vihl);
    pub(crate) const TOTAL_LENGTH: usize = offset_of!(Ipv4Hdr, tot_len);
    /// Identification and, above it, flags and fragment offset.
    pub(crate) const IDENTIFICATION: usize = offset_of!(Ipv4Hdr, id);
    pub(crate) const FRAGMENT: usize = offset_of!(Ipv4Hdr, frags);
    /// TTL and, above it, the protocol: one word of the checksum.
    pub(crate) const TTL: usize = offset_of!(Ipv4Hdr, ttl);
    pub(crate) const PROTOCOL: usize = offset_of!(Ipv4Hdr, proto);
    pub(crate) const CHECKSUM: usize = offset_of!(Ipv4Hdr, check);
    pub(crate) const SOURCE: usize = offset_of!(Ipv4Hdr, src_addr);
    pub(crate) const DESTINATION: usize = offset_of!(Ipv4Hdr, dst_addr);
    pub(crate) const UDP: usize = Ipv4Hdr::LEN;
    /// Source port and, above it, destination port.
    pub(crate) const PORTS: usize = UDP + offset_of!(UdpHdr, src);
    pub(crate) const UDP_LENGTH: usize = UDP + offset_of!(UdpHdr, len);
    pub(crate) const UDP_CHECKSUM: usize = UDP + offset_of!(UdpHdr, check);
    pub(crate) const PAYLOAD: usize = UDP + UdpHdr::LEN;
}

/// Offsets in an IPv6 packet with a UDP datagram.
pub(crate) mod v6 {
    use super::{Ipv6Hdr, UdpHdr, offset_of};

    /// Version, traffic class and flow label.
    pub(crate) const VERSION: usize = offset_of!(Ipv6Hdr, vcf);
    pub(crate) const PAYLOAD_LENGTH: usize = offset_of!(Ipv6Hdr, payload_len);
    pub(crate) const NEXT_HEADER: usize = offset_of!(Ipv6Hdr, next_hdr);
    pub(crate) const HOP_LIMIT: usize = offset_of!(Ipv6Hdr, hop_limit);
    pub(crate) const SOURCE: usize = offset_of!(Ipv6Hdr, src_addr);
    pub(crate) const DESTINATION: usize = offset_of!(Ipv6Hdr, dst_addr);
    pub(crate) const UDP: usize = Ipv6Hdr::LEN;
    pub(crate) const PORTS: usize = UDP + offset_of!(UdpHdr, src);
    pub(crate) const UDP_LENGTH: usize = UDP + offset_of!(UdpHdr, len);
    pub(crate) const UDP_CHECKSUM: usize = UDP + offset_of!(UdpHdr, check);
    pub(crate) const PAYLOAD: usize = UDP + UdpHdr::LEN;
}

/// Tag protocol identifiers, network order.
pub(crate) const TAG: u16 = EtherType::Ieee8021q as u16;
/// Of the outer one of two tags.
pub(crate) const OUTER_TAG: u16 = EtherType::Ieee8021ad as u16;
pub(crate) const IPV4: u16 = EtherType::Ipv4 as u16;
pub(crate) const IPV6: u16 = EtherType::Ipv6 as u16;
/// Bytes of one tag.
pub(crate) const TAG_LENGTH: usize = 4;

/// A datagram on a relay port.
pub(crate) struct Arrival {
    /// What it says.
    pub(crate) datagram: Datagram,
    /// Index of the leg whose port it is for.
    pub(crate) leg: u32,
}

/// Finds the relay's datagrams among what arrives by the interface `ingress`; any other frame has its verdict.
#[inline(always)]
pub(crate) fn parse(frame: &Frame<'_>, ingress: u32) -> Result<Arrival, Verdict> {
    let link = frame.window::<{ EthHdr::LEN }>(0).ok_or(Verdict::PassedOther)?;
    match link.u16::<{ offset_of!(EthHdr, ether_type) }>() {
        IPV4 => ipv4(frame, [0; 2], 0, ingress),
        IPV6 => ipv6(frame, [0; 2], 0, ingress),
        TAG | OUTER_TAG => tagged(frame, ingress),
        _ => Err(Verdict::PassedOther),
    }
}

#[inline(always)]
fn tagged(frame: &Frame<'_>, ingress: u32) -> Result<Arrival, Verdict> {
    let outer = frame.window::<TAG_LENGTH>(EthHdr::LEN).ok_or(Verdict::PassedOther)?;
    let id = u16::from_be(outer.u16::<0>()) & VLAN_ID;
    match outer.u16::<2>() {
        IPV4 => ipv4(frame, [id, 0], 1, ingress),
        IPV6 => ipv6(frame, [id, 0], 1, ingress),
        TAG => {
            let inner = frame.window::<TAG_LENGTH>(EthHdr::LEN + TAG_LENGTH).ok_or(Verdict::PassedOther)?;
            let ids = [id, u16::from_be(inner.u16::<0>()) & VLAN_ID];
            match inner.u16::<2>() {
                IPV4 => ipv4(frame, ids, 2, ingress),
                IPV6 => ipv6(frame, ids, 2, ingress),
                _ => Err(Verdict::PassedOther),
            }
        }
        _ => Err(Verdict::PassedOther),
    }
}

#[inline(always)]
fn ipv4(frame: &Frame<'_>, vlan: [u16; 2], tags: u16, ingress: u32) -> Result<Arrival, Verdict> {
    let start = EthHdr::LEN + TAG_LENGTH * tags as usize;
    let network = frame.window::<{ v4::UDP }>(start).ok_or(Verdict::PassedOther)?;
    let version = network.u8::<{ v4::VERSION }>();
    if version >> 4 != 4 {
        return Err(Verdict::PassedOther);
    }
    if network.u8::<{ v4::PROTOCOL }>() != IpProto::Udp as u8 {
        return Err(Verdict::PassedHost);
    }
    let local = entries::local_v4(network.u32::<{ v4::DESTINATION }>()).ok_or(Verdict::PassedHost)?;
    if network.u16::<{ v4::FRAGMENT }>() & FRAGMENTED != 0 {
        return Err(Verdict::PassedFragment);
    }
    if version != WITHOUT_OPTIONS {
        return Err(Verdict::PassedOptions);
    }

    let headers = frame.window::<{ v4::PAYLOAD }>(start).ok_or(Verdict::PassedHost)?;
    let ports = headers.u32::<{ v4::PORTS }>();
    let leg_port = place(local, ports, vlan, ingress)?;
    let length = u16::from_be(headers.u16::<{ v4::TOTAL_LENGTH }>());
    let udp_length = u16::from_be(headers.u16::<{ v4::UDP_LENGTH }>());
    // A frame may be longer than its packet (padding), a packet not longer than its frame.
    if (udp_length as usize) < UdpHdr::LEN
        || udp_length as usize + Ipv4Hdr::LEN != length as usize
        || !frame.holds(start + length as usize)
    {
        return Err(Verdict::DroppedMalformed);
    }
    let datagram = Datagram::begin().ok_or(Verdict::DroppedClosed)?;
    payload(datagram, frame, start + v4::PAYLOAD, udp_length as usize - UdpHdr::LEN);
    datagram.set_source(headers.u32::<{ v4::SOURCE }>());
    datagram.set_source_port(u16::from_be(ports as u16));
    datagram.set_ttl(headers.u8::<{ v4::TTL }>());
    datagram.set_length(length);
    datagram.arrived(false, tags, leg_port.component);
    Ok(Arrival { datagram, leg: leg_port.leg })
}

#[inline(always)]
fn ipv6(frame: &Frame<'_>, vlan: [u16; 2], tags: u16, ingress: u32) -> Result<Arrival, Verdict> {
    let start = EthHdr::LEN + TAG_LENGTH * tags as usize;
    let network = frame.window::<{ v6::UDP }>(start).ok_or(Verdict::PassedOther)?;
    if network.u8::<{ v6::VERSION }>() >> 4 != 6 {
        return Err(Verdict::PassedOther);
    }
    let next_header = network.u8::<{ v6::NEXT_HEADER }>();
    if next_header != IpProto::Udp as u8 && !is_extension(next_header) {
        return Err(Verdict::PassedHost);
    }
    let local = entries::local_v6(network.address::<{ v6::DESTINATION }>()).ok_or(Verdict::PassedHost)?;
    if next_header == IpProto::Ipv6Frag as u8 {
        return Err(Verdict::PassedFragment);
    }
    if next_header != IpProto::Udp as u8 {
        return Err(Verdict::PassedOptions);
    }

    let headers = frame.window::<{ v6::PAYLOAD }>(start).ok_or(Verdict::PassedHost)?;
    let ports = headers.u32::<{ v6::PORTS }>();
    let leg_port = place(local, ports, vlan, ingress)?;
    let payload_length = u16::from_be(headers.u16::<{ v6::PAYLOAD_LENGTH }>());
    let udp_length = u16::from_be(headers.u16::<{ v6::UDP_LENGTH }>());
    // RFC 8200 §8.1: no UDP over IPv6 without a checksum.
    if (udp_length as usize) < UdpHdr::LEN
        || udp_length != payload_length
        || payload_length > u16::MAX - Ipv6Hdr::LEN as u16
        || headers.u16::<{ v6::UDP_CHECKSUM }>() == 0
        || !frame.holds(start + Ipv6Hdr::LEN + payload_length as usize)
    {
        return Err(Verdict::DroppedMalformed);
    }
    let source = headers.address::<{ v6::SOURCE }>();
    let datagram = Datagram::begin().ok_or(Verdict::DroppedClosed)?;
    payload(datagram, frame, start + v6::PAYLOAD, udp_length as usize - UdpHdr::LEN);
    datagram.set_source(source.fold_v6());
    datagram.set_source_v6(source);
    datagram.set_source_port(u16::from_be(ports as u16));
    datagram.set_ttl(headers.u8::<{ v6::HOP_LIMIT }>());
    datagram.set_length(payload_length + Ipv6Hdr::LEN as u16);
    datagram.arrived(true, tags, leg_port.component);
    Ok(Arrival { datagram, leg: leg_port.leg })
}

/// More fragments follow, or some went before.
const FRAGMENTED: u16 = 0x3fff_u16.to_be();
/// Version 4 and a header of five words.
const WITHOUT_OPTIONS: u8 = 0x45;
/// The identifier in tag control information.
const VLAN_ID: u16 = 0xfff;

/// Whose port a datagram is for, if it came by the interface and VLAN of that address: nobody in one network can send
/// in the name of another's hosts.
#[inline(always)]
fn place(local: LocalEntry, ports: u32, vlan: [u16; 2], ingress: u32) -> Result<LegPort, Verdict> {
    let leg_port = local.leg_port(u16::from_be((ports >> 16) as u16)).ok_or(Verdict::PassedHost)?;
    if local.interface() != ingress || local.vlan() != vlan {
        return Err(Verdict::DroppedInterface);
    }
    Ok(leg_port)
}

/// Headers that may be between IPv6 and UDP (RFC 8200 §4).
#[inline(always)]
fn is_extension(next_header: u8) -> bool {
    const HOP_BY_HOP: u8 = IpProto::HopOpt as u8;
    const ROUTING: u8 = IpProto::Ipv6Route as u8;
    const FRAGMENT: u8 = IpProto::Ipv6Frag as u8;
    const DESTINATION: u8 = IpProto::Ipv6Opts as u8;
    matches!(next_header, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION)
}

/// Notes what the payload is.
#[inline(always)]
fn payload(datagram: Datagram, frame: &Frame<'_>, start: usize, length: usize) {
    // A payload that is shorter than these bytes is not RTP; padding must not be mistaken for it.
    let kind = if length >= media::RTP_HEADER
        && let Some(header) = frame.unproven().window::<{ media::RTP_HEADER }>(start)
    {
        datagram.set_sequence(u16::from_be(header.u16::<2>()));
        datagram.set_timestamp(u32::from_be(header.u32::<4>()));
        datagram.set_ssrc(u32::from_be(header.u32::<8>()));
        media::classify(header.u8::<0>(), header.u8::<1>(), length)
    } else {
        match frame.unproven().window::<2>(start) {
            Some(header) => media::classify(header.u8::<0>(), header.u8::<1>(), length),
            None => media::classify(0, 0, length),
        }
    };
    datagram.set_kind(kind);
}
