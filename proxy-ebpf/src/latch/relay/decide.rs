//! Where a datagram goes, if anywhere.
//!
//! A packet that arrives at a leg leaves it when its source is the latched one, its rate is allowed, the other side's
//! address is known, its TTL allows another hop, and there is a next hop that takes its size. It is then counted on
//! that leg, and only then; a packet that a leg drops is counted among the leg's drops.
//!
//! Where the destination is one of the relay's own ports (two calls joined by a softswitch), the packet is handled as
//! if it had arrived there, still before a byte is rewritten: each leg counts it and each takes one from its TTL.

use super::{
    entries::{self, Hop, LegEntry, LegPort, LocalEntry, RTCP, RTP, StateEntry},
    learn, maps, measure, memory,
    packet_scratch::Datagram,
};
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};
use proxy_common::{
    layout::{Remote, leg_flags, next_hop_kind},
    media::class,
    verdict::Verdict,
};

/// How often a packet may pass through the relay before it leaves: 2.
///
/// The compiler must not know the number, or it would unroll the loop and use more stack than there is.
#[inline(always)]
fn passes() -> u64 {
    memory::opaque::<2>()
}

/// How a packet leaves. Ports in host order.
pub(crate) struct Route {
    pub(crate) datagram: Datagram,
    pub(crate) v6: bool,
    /// The address that it leaves from.
    pub(crate) local: LocalEntry,
    pub(crate) source_port: u16,
    /// IPv4, in memory order; IPv6 is noted in the datagram.
    pub(crate) destination: u32,
    pub(crate) destination_port: u16,
    pub(crate) ttl: u8,
    /// The DSCP that it leaves with, or [`KEPT`].
    pub(crate) dscp: u8,
    pub(crate) hop: Hop,
    pub(crate) verdict: Verdict,
}

/// The DSCP stays.
pub(crate) const KEPT: u8 = 0xff;

/// Decides on a datagram that arrived at a leg by the interface `ingress`.
#[inline(always)]
pub(crate) fn decide(datagram: Datagram, leg: u32, ingress: u32) -> Result<Route, Verdict> {
    let now_ns = maps::tick_ns();
    let mut index = leg;
    let mut dscp = KEPT;
    let mut pass = 0;
    while pass < passes() {
        pass += 1;
        let (leg, state) = entries::leg(index).ok_or(Verdict::DroppedClosed)?;
        let generation = leg.generation();
        if generation == 0 {
            return Err(Verdict::DroppedClosed);
        }
        let flags = leg.flags();
        if flags & leg_flags::SET_DSCP != 0 {
            dscp = (flags >> leg_flags::DSCP_SHIFT) as u8 & DSCP;
        }
        let component = match component(datagram, flags) {
            Ok(component) => datagram.hide_from_verifier(component as u64) as u32 & 1,
            Err(verdict) => {
                state.dropped(verdict);
                return Err(verdict);
            }
        };
        let leg_context = LegContext { index, leg, state, generation, flags, component, ingress, now_ns, dscp };
        match forward(datagram, &leg_context, pass == passes()) {
            Ok(step) => {
                state.forwarded(component, datagram.length());
                if component == RTP && datagram.class() == class::RTP {
                    measure::packet(leg, state.quality(), datagram, now_ns);
                }
                match step {
                    Step::Leave(route) => return Ok(route),
                    Step::Hairpin(hairpin) => {
                        let length = (datagram.length() - header(datagram.is_v6())) + header(hairpin.v6);
                        let leg_port = hairpin.leg_port;
                        datagram.hairpin(
                            hairpin.v6,
                            hairpin.local.address(),
                            hairpin.source_port,
                            leg_port.component,
                            length,
                        );
                        index = leg_port.leg;
                    }
                }
            }
            Err(verdict) => {
                state.dropped(verdict);
                return Err(verdict);
            }
        }
    }
    Err(Verdict::DroppedLoop)
}

const DSCP: u8 = 0x3f;

/// Bytes of the IP header.
#[inline(always)]
const fn header(v6: bool) -> u16 {
    if v6 { Ipv6Hdr::LEN as u16 } else { Ipv4Hdr::LEN as u16 }
}

enum Step {
    Leave(Route),
    Hairpin(Hairpin),
}

/// The packet arrives at another of the relay's ports.
struct Hairpin {
    v6: bool,
    local: LocalEntry,
    source_port: u16,
    leg_port: LegPort,
}

/// Where and when a datagram passes through a leg.
#[derive(Clone, Copy)]
struct LegContext {
    index: u32,
    leg: LegEntry,
    state: StateEntry,
    generation: u16,
    flags: u32,
    component: u32,
    ingress: u32,
    now_ns: u64,
    dscp: u8,
}

/// The component that a datagram belongs to: by its port, and with rtcp-mux by what it is.
#[inline(always)]
fn component(datagram: Datagram, flags: u32) -> Result<u32, Verdict> {
    let port = datagram.port() as u32;
    let class = datagram.class();
    if port == RTP && flags & leg_flags::CARRY_UDPTL != 0 {
        return Ok(RTP);
    }
    let (flag, dropped) = match class {
        class::RTP => return if port == RTP { Ok(RTP) } else { Err(Verdict::DroppedFormat) },
        class::RTCP => {
            let expected = if flags & leg_flags::RTCP_MUX != 0 { RTP } else { RTCP };
            return if port == expected { Ok(RTCP) } else { Err(Verdict::DroppedFormat) };
        }
        class::STUN => (leg_flags::CARRY_STUN, Verdict::DroppedStun),
        class::DTLS | class::DTLS_HANDSHAKE => (leg_flags::CARRY_DTLS, Verdict::DroppedDtls),
        class::ZRTP => (leg_flags::CARRY_ZRTP, Verdict::DroppedZrtp),
        class::KEEPALIVE => (0, Verdict::DroppedKeepalive),
        _ => (0, Verdict::DroppedFormat),
    };
    if flags & flag != 0 { Ok(port) } else { Err(dropped) }
}

/// One pass through one leg.
#[inline(always)]
fn forward(datagram: Datagram, leg_context: &LegContext, last: bool) -> Result<Step, Verdict> {
    let LegContext { index, leg, state, generation, flags, component, ingress, now_ns, dscp } = *leg_context;
    // With rtcp-mux, what arrives on the even port has one source.
    let v6 = datagram.is_v6();
    let own = state.component(datagram.port() as u32);
    let source = Remote { address: datagram.source().to_ne_bytes(), port: datagram.source_port(), tag: generation };
    // RTCP of an IPv6 source comes from the address of RTP.
    let latched = own.source() == source.to_word() && (!v6 || state.source_address() == datagram.source_v6());
    if !latched {
        learn::source(index, datagram, generation, now_ns)?;
    }

    let (rate, burst) = leg.rate();
    if rate != 0 && !measure::allowed(state, component, rate, burst, datagram.length(), now_ns) {
        return Err(Verdict::DroppedRate);
    }

    let peer_v6 = flags & leg_flags::PEER_V6 != 0;
    let peer_generation = leg.peer_generation();
    let mut destination = Remote::from_word(state.component(component).destination());
    let mut known = destination.generation() == peer_generation && peer_generation != 0;
    if peer_v6 && known {
        let address = state.destination_address();
        datagram.set_destination_v6(address);
        // Otherwise not both were written, or it is not RTP's.
        known = address.fold_v6().to_ne_bytes() == destination.address;
    }
    if !known {
        destination = Remote::from_word(learn::destination(index, component, peer_generation, datagram));
        if destination.generation() == 0 {
            return Err(Verdict::DroppedDestination);
        }
    }

    if datagram.ttl() <= 1 {
        return Err(Verdict::DroppedTtl);
    }
    let hop = leg.next_hop(destination.tag & Remote::VIA_SIGNALLING != 0).ok_or(Verdict::DroppedNextHop)?;
    let local = leg.out().ok_or(Verdict::DroppedNextHop)?;
    let rtcp_port = component == RTCP && flags & leg_flags::PEER_RTCP_MUX == 0;
    let source_port = leg.out_port().wrapping_add(rtcp_port as u16);
    // Everything above was read of one call: control closes a leg before it changes anything else of it.
    if leg.generation() != generation {
        return Err(Verdict::DroppedClosed);
    }
    match hop.kind() {
        next_hop_kind::NEIGHBOUR => {
            let mtu = hop.mtu();
            if mtu != 0 && (datagram.length() - header(v6)) as u32 + header(peer_v6) as u32 > mtu as u32 {
                return Err(Verdict::DroppedSize);
            }
            let verdict = if hop.interface() == ingress {
                Verdict::ForwardedSame
            } else if maps::redirect(hop.device()) {
                Verdict::ForwardedOther
            } else {
                return Err(Verdict::DroppedNextHop);
            };
            Ok(Step::Leave(Route {
                datagram,
                v6: peer_v6,
                local,
                source_port,
                destination: u32::from_ne_bytes(destination.address),
                destination_port: destination.port,
                ttl: datagram.ttl() - 1,
                dscp,
                hop,
                verdict,
            }))
        }
        next_hop_kind::LOCAL if last => Err(Verdict::DroppedLoop),
        next_hop_kind::LOCAL => {
            let there = if peer_v6 {
                entries::local_v6(datagram.destination_v6())
            } else {
                entries::local_v4(u32::from_ne_bytes(destination.address))
            };
            let leg_port = there.and_then(|there| there.leg_port(destination.port)).ok_or(Verdict::DroppedNextHop)?;
            Ok(Step::Hairpin(Hairpin { v6: peer_v6, local, source_port, leg_port }))
        }
        _ => Err(Verdict::DroppedNextHop),
    }
}
