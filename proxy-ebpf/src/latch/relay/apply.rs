//! The rewriting of a packet that leaves: link addresses and tags, IP addresses, ports, TTL, and checksums by their
//! difference (RFC 1624), so that a packet that arrived damaged leaves damaged and its receiver notices.
//!
//! A packet that leaves with the same headers as it came is changed in place. Another IP version or another number of
//! VLAN tags moves the front of the frame and rewrites the headers (RFC 7915 for what the fields become).

use super::{
    decide::{KEPT, Route},
    frame::{self, Context, Frame, Window},
    parse::{Arrival, IPV4, IPV6, OUTER_TAG, TAG, TAG_LENGTH, v4, v6},
};
use network_types::{
    eth::EthHdr,
    ip::{IpProto, Ipv4Hdr, Ipv6Hdr},
    udp::UdpHdr,
};
use proxy_common::{
    address::Address,
    checksum::{self, Delta},
    verdict::Verdict,
};

/// Rewrites the datagram as the route says.
#[inline(always)]
pub(crate) fn apply(context: &Context, arrival: &Arrival, route: &Route) -> Result<(), Verdict> {
    let frame = Frame::of(context);
    let same = (arrival.datagram.came_v6() != 0) == route.v6 && (arrival.datagram.tags() & 3) == route.hop.tags();
    if !same {
        return rebuild(context, frame, arrival, route).ok_or(Verdict::DroppedSize);
    }
    let start = link(frame, route).ok_or(Verdict::DroppedMalformed)?;
    let done = if route.v6 {
        frame.window(start).map(|headers| in_place_v6(headers, route))
    } else {
        frame.window(start).map(|headers| in_place_v4(headers, route))
    };
    done.ok_or(Verdict::DroppedMalformed)
}

/// Writes link addresses and tags (not the EtherType behind them); the offset of the IP header.
#[inline(always)]
fn link(frame: Frame<'_>, route: &Route) -> Option<usize> {
    let header = frame.window::<{ EthHdr::LEN }>(0)?;
    let [first, second, third] = route.hop.macs();
    header.set_u32::<0>(first);
    header.set_u32::<4>(second);
    header.set_u32::<8>(third);
    match route.hop.tags() {
        0 => Some(EthHdr::LEN),
        1 => {
            let tagged = frame.window::<{ EthHdr::LEN + TAG_LENGTH }>(0)?;
            tagged.set_u16::<12>(TAG);
            tagged.set_u16::<14>(route.hop.vlan()[0]);
            Some(EthHdr::LEN + TAG_LENGTH)
        }
        _ => {
            let tagged = frame.window::<{ EthHdr::LEN + 2 * TAG_LENGTH }>(0)?;
            let [outer, inner] = route.hop.vlan();
            tagged.set_u16::<12>(OUTER_TAG);
            tagged.set_u16::<14>(outer);
            tagged.set_u16::<16>(TAG);
            tagged.set_u16::<18>(inner);
            Some(EthHdr::LEN + 2 * TAG_LENGTH)
        }
    }
}

/// Traffic class with the route's DSCP; the two bits of ECN stay.
#[inline(always)]
fn traffic_class(old: u8, route: &Route) -> u8 {
    if route.dscp == KEPT { old } else { route.dscp << 2 | old & 3 }
}

#[inline(always)]
fn ports(route: &Route) -> u32 {
    route.source_port.to_be() as u32 | (route.destination_port.to_be() as u32) << 16
}

#[inline(always)]
fn in_place_v4(headers: Window<'_, { v4::PAYLOAD }>, route: &Route) {
    let source = route.local.v4();
    let addresses = Delta::new()
        .pair(headers.u32::<{ v4::SOURCE }>(), source)
        .pair(headers.u32::<{ v4::DESTINATION }>(), route.destination);
    headers.set_u32::<{ v4::SOURCE }>(source);
    headers.set_u32::<{ v4::DESTINATION }>(route.destination);

    let ttl = headers.u8::<{ v4::TTL }>();
    // The other byte of the word, the protocol, stays: zero on both sides changes nothing of the difference.
    let mut network = addresses.word(u16::from_ne_bytes([ttl, 0]), u16::from_ne_bytes([route.ttl, 0]));
    headers.set_u8::<{ v4::TTL }>(route.ttl);
    if route.dscp != KEPT {
        let old = headers.u8::<{ v4::VERSION + 1 }>();
        let new = traffic_class(old, route);
        network = network.word(u16::from_ne_bytes([0, old]), u16::from_ne_bytes([0, new]));
        headers.set_u8::<{ v4::VERSION + 1 }>(new);
    }
    headers.set_u16::<{ v4::CHECKSUM }>(network.apply(headers.u16::<{ v4::CHECKSUM }>()));

    let ports = ports(route);
    let transport = addresses.pair(headers.u32::<{ v4::PORTS }>(), ports);
    headers.set_u32::<{ v4::PORTS }>(ports);
    headers.set_u16::<{ v4::UDP_CHECKSUM }>(transport.apply_udp(headers.u16::<{ v4::UDP_CHECKSUM }>()));
}

#[inline(always)]
fn in_place_v6(headers: Window<'_, { v6::PAYLOAD }>, route: &Route) {
    let source = route.local.address();
    let ports = ports(route);
    let transport = Delta::new()
        .address(headers.address::<{ v6::SOURCE }>(), source)
        .address(headers.address::<{ v6::DESTINATION }>(), route.datagram.destination_v6())
        .pair(headers.u32::<{ v6::PORTS }>(), ports);
    headers.set_address::<{ v6::SOURCE }>(source);
    headers.set_address::<{ v6::DESTINATION }>(route.datagram.destination_v6());
    headers.set_u8::<{ v6::HOP_LIMIT }>(route.ttl);
    if route.dscp != KEPT {
        let word = headers.u16::<{ v6::VERSION }>();
        let class = traffic_class((u16::from_be(word) >> 4) as u8, route);
        headers.set_u16::<{ v6::VERSION }>(word & 0xf00f_u16.to_be() | ((class as u16) << 4).to_be());
    }
    headers.set_u32::<{ v6::PORTS }>(ports);
    headers.set_u16::<{ v6::UDP_CHECKSUM }>(transport.apply_udp(headers.u16::<{ v6::UDP_CHECKSUM }>()));
}

/// What the new headers take from the old ones.
struct Kept {
    traffic_class: u8,
    /// Identification, flags and fragment offset, in memory order; of IPv6 none.
    identification: u32,
    /// Length of the UDP datagram, bytes.
    udp_length: u16,
    /// The new checksum of UDP.
    checksum: u16,
}

/// RFC 7915 §5.1: packets from IPv6 may not be fragmented where they are too large for 1,280 bytes.
const DO_NOT_FRAGMENT: u32 = u32::from_ne_bytes([0, 0, 0x40, 0]);

#[inline(always)]
fn rebuild(context: &Context, frame: Frame<'_>, arrival: &Arrival, route: &Route) -> Option<()> {
    let old_start = EthHdr::LEN + TAG_LENGTH * (arrival.datagram.tags() & 3) as usize;
    let new_start = EthHdr::LEN + TAG_LENGTH * route.hop.tags() as usize;
    let (kept, old_length) = if arrival.datagram.came_v6() != 0 {
        (kept_of_v6(frame.window(old_start)?, route), old_start + Ipv6Hdr::LEN)
    } else {
        (kept_of_v4(frame, old_start, route)?, old_start + Ipv4Hdr::LEN)
    };
    let new_length = new_start + if route.v6 { Ipv6Hdr::LEN } else { Ipv4Hdr::LEN };
    if !frame::grow(context, new_length as i32 - old_length as i32) {
        return None;
    }
    let frame = Frame::of(context);
    let start = link(frame, route)?;
    let ethernet = frame.window::<2>(start - 2)?;
    ethernet.set_u16::<0>(if route.v6 { IPV6 } else { IPV4 });
    if route.v6 {
        write_v6(frame.window(start)?, &kept, route);
    } else {
        write_v4(frame.window(start)?, &kept, route);
    }
    Some(())
}

#[inline(always)]
fn kept_of_v6(headers: Window<'_, { v6::PAYLOAD }>, route: &Route) -> Kept {
    let transport = Delta::new()
        .without(headers.address::<{ v6::SOURCE }>())
        .without(headers.address::<{ v6::DESTINATION }>())
        .pair(headers.u32::<{ v6::PORTS }>(), ports(route));
    let transport = with_new_addresses(transport, route);
    Kept {
        traffic_class: traffic_class((u16::from_be(headers.u16::<{ v6::VERSION }>()) >> 4) as u8, route),
        identification: DO_NOT_FRAGMENT,
        udp_length: u16::from_be(headers.u16::<{ v6::UDP_LENGTH }>()),
        checksum: transport.apply_udp(headers.u16::<{ v6::UDP_CHECKSUM }>()),
    }
}

#[inline(always)]
fn kept_of_v4(frame: Frame<'_>, start: usize, route: &Route) -> Option<Kept> {
    let headers = frame.window::<{ v4::PAYLOAD }>(start)?;
    let udp_length = u16::from_be(headers.u16::<{ v4::UDP_LENGTH }>());
    let old = headers.u16::<{ v4::UDP_CHECKSUM }>();
    let checksum = if old == 0 && route.v6 {
        // IPv6 wants one (RFC 8200 §8.1): over the payload, the new header and the new pseudo-header.
        let payload = frame.sum(start + v4::PAYLOAD, udp_length as usize - UdpHdr::LEN)?;
        let length = udp_length.to_be() as u64;
        let pseudo = length + (IpProto::Udp as u16).to_be() as u64;
        let header = ports(route) as u64 + length;
        match !checksum::fold(
            payload + pseudo + header + route.local.address().sum() + route.datagram.destination_v6().sum(),
        ) {
            0 => 0xffff,
            sum => sum,
        }
    } else {
        let transport = Delta::new()
            .without(Address::from_v4(headers.u32::<{ v4::SOURCE }>()).only_v4())
            .without(Address::from_v4(headers.u32::<{ v4::DESTINATION }>()).only_v4())
            .pair(headers.u32::<{ v4::PORTS }>(), ports(route));
        with_new_addresses(transport, route).apply_udp(old)
    };
    Some(Kept {
        traffic_class: traffic_class(headers.u8::<{ v4::VERSION + 1 }>(), route),
        identification: headers.u32::<{ v4::IDENTIFICATION }>(),
        udp_length,
        checksum,
    })
}

/// The pseudo-headers of both IP versions have the same sum except for their addresses.
#[inline(always)]
fn with_new_addresses(delta: Delta, route: &Route) -> Delta {
    if route.v6 {
        delta.with(route.local.address()).with(route.datagram.destination_v6())
    } else {
        let only = |word| Address::from_v4(word).only_v4();
        delta.with(only(route.local.v4())).with(only(route.destination))
    }
}

#[inline(always)]
fn write_v6(headers: Window<'_, { v6::PAYLOAD }>, kept: &Kept, route: &Route) {
    let first = 6u32 << 28 | (kept.traffic_class as u32) << 20;
    headers.set_u32::<{ v6::VERSION }>(first.to_be());
    headers.set_u16::<{ v6::PAYLOAD_LENGTH }>(kept.udp_length.to_be());
    headers.set_u8::<{ v6::NEXT_HEADER }>(IpProto::Udp as u8);
    headers.set_u8::<{ v6::HOP_LIMIT }>(route.ttl);
    headers.set_address::<{ v6::SOURCE }>(route.local.address());
    headers.set_address::<{ v6::DESTINATION }>(route.datagram.destination_v6());
    headers.set_u32::<{ v6::PORTS }>(ports(route));
    headers.set_u16::<{ v6::UDP_CHECKSUM }>(kept.checksum);
}

#[inline(always)]
fn write_v4(headers: Window<'_, { v4::PAYLOAD }>, kept: &Kept, route: &Route) {
    let total = kept.udp_length.wrapping_add(Ipv4Hdr::LEN as u16);
    let first = u16::from_ne_bytes([0x45, kept.traffic_class]) as u32 | (total.to_be() as u32) << 16;
    let third = u16::from_ne_bytes([route.ttl, IpProto::Udp as u8]);
    let (source, destination) = (route.local.v4(), route.destination);
    let sum = first as u64 + kept.identification as u64 + third as u64 + source as u64 + destination as u64;
    headers.set_u32::<{ v4::VERSION }>(first);
    headers.set_u32::<{ v4::IDENTIFICATION }>(kept.identification);
    headers.set_u16::<{ v4::TTL }>(third);
    headers.set_u16::<{ v4::CHECKSUM }>(!checksum::fold(sum));
    headers.set_u32::<{ v4::SOURCE }>(source);
    headers.set_u32::<{ v4::DESTINATION }>(destination);
    headers.set_u32::<{ v4::PORTS }>(ports(route));
    headers.set_u16::<{ v4::UDP_CHECKSUM }>(kept.checksum);
}
