//! The rewriting of a packet that leaves: link addresses, IP addresses, ports, TTL, and both checksums by their
//! difference (RFC 1624), so that a packet that arrived damaged leaves damaged and its receiver notices.

use crate::decide::Route;
use crate::parse::{Arrival, at};
use proxy_common::checksum::Delta;

/// Rewrites the datagram as the route says.
#[inline(always)]
pub(crate) fn apply(arrival: &Arrival, route: &Route) {
    let headers = arrival.headers;
    let [first, second, third] = route.hop.macs();
    headers.set_u32::<0>(first);
    headers.set_u32::<4>(second);
    headers.set_u32::<8>(third);

    let addresses = Delta::new()
        .pair(headers.u32::<{ at::SOURCE }>(), route.source)
        .pair(headers.u32::<{ at::DESTINATION }>(), route.destination);
    headers.set_u32::<{ at::SOURCE }>(route.source);
    headers.set_u32::<{ at::DESTINATION }>(route.destination);

    let ttl = headers.u8::<{ at::TTL }>();
    // The other byte of the word, the protocol, stays: zero on both sides changes nothing of the difference.
    let network = addresses.word(u16::from_ne_bytes([ttl, 0]), u16::from_ne_bytes([route.ttl, 0]));
    let checksum = network.apply(headers.u16::<{ at::IP_CHECKSUM }>());
    headers.set_u8::<{ at::TTL }>(route.ttl);
    headers.set_u16::<{ at::IP_CHECKSUM }>(checksum);

    let ports = route.source_port.to_be() as u32 | (route.destination_port.to_be() as u32) << 16;
    let transport = addresses.pair(headers.u32::<{ at::PORTS }>(), ports);
    let checksum = transport.apply_udp(headers.u16::<{ at::UDP_CHECKSUM }>());
    headers.set_u32::<{ at::PORTS }>(ports);
    headers.set_u16::<{ at::UDP_CHECKSUM }>(checksum);
}
