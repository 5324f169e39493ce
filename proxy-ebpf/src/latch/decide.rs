//! Where a datagram goes, if anywhere.
//!
//! A packet that arrives at a leg leaves it when its source is the latched one, the other side's address is known, its
//! TTL allows another hop, and there is a way. It is then counted on that leg, and on no other occasion; a packet that a
//! leg drops is counted among the leg's drops.
//!
//! Where the way leads to one of the relay's own ports (two calls joined by a softswitch), the packet is handled as if
//! it had arrived there, still before a byte is rewritten: each leg counts it and each takes one from its TTL.

use crate::learn;
use crate::maps::{self, ComponentEntry, Hop, LegEntry, Spot};
use crate::parse::Datagram;
use proxy_common::{
    layout::{Remote, next_hop_kind},
    media::Kind,
    verdict::Verdict,
};

/// How often a packet may pass through the relay before it leaves.
const PASSES: usize = 2;

/// How a packet leaves. Addresses in memory order, ports in host order.
pub(crate) struct Route {
    pub(crate) source: u32,
    pub(crate) source_port: u16,
    pub(crate) destination: u32,
    pub(crate) destination_port: u16,
    pub(crate) ttl: u8,
    pub(crate) hop: Hop,
    pub(crate) verdict: Verdict,
}

/// Decides on a datagram that arrived at `spot` by the interface `ingress`.
#[inline(always)]
pub(crate) fn decide(arrived: &Datagram, spot: Spot, ingress: u32) -> Result<Route, Verdict> {
    let mut datagram = *arrived;
    let mut spot = spot;
    for pass in 1..=PASSES {
        let (leg, state) = maps::leg(spot.leg).ok_or(Verdict::DroppedClosed)?;
        let generation = leg.generation();
        if generation == 0 {
            return Err(Verdict::DroppedClosed);
        }
        let component = state.component(spot.component);
        match forward(&datagram, spot, leg, component, generation, ingress, pass == PASSES) {
            Ok(Step::Leave(route)) => {
                component.forwarded(datagram.total_length);
                return Ok(route);
            }
            Ok(Step::Again(again)) => {
                component.forwarded(datagram.total_length);
                datagram = Datagram {
                    source: again.source,
                    source_port: again.source_port,
                    ttl: datagram.ttl - 1,
                    ..datagram
                };
                spot = again.spot;
            }
            Err(verdict) => {
                state.dropped(verdict);
                return Err(verdict);
            }
        }
    }
    Err(Verdict::DroppedLoop)
}

enum Step {
    Leave(Route),
    Again(Again),
}

/// The packet arrives at another of the relay's ports.
struct Again {
    source: u32,
    source_port: u16,
    spot: Spot,
}

/// One pass through one leg.
#[inline(always)]
fn forward(
    datagram: &Datagram,
    spot: Spot,
    leg: LegEntry,
    state: ComponentEntry,
    generation: u16,
    ingress: u32,
    last: bool,
) -> Result<Step, Verdict> {
    let payload_type = match (spot.component, datagram.kind) {
        (0, Kind::Rtp(payload_type)) => payload_type,
        (1, Kind::Rtcp) => 0,
        _ => return Err(Verdict::DroppedFormat),
    };

    let source = Remote { address: datagram.source.to_ne_bytes(), port: datagram.source_port, tag: generation };
    if state.source() != source.to_word() {
        learn::source(spot.leg, spot.component, source.to_word(), payload_type)?;
    }

    let peer_generation = leg.peer_generation();
    let mut destination = Remote::from_word(state.destination());
    if destination.generation() != peer_generation || peer_generation == 0 {
        destination = Remote::from_word(learn::destination(spot.leg, spot.component, peer_generation));
        if destination.generation() == 0 {
            return Err(Verdict::DroppedDestination);
        }
    }

    if datagram.ttl <= 1 {
        return Err(Verdict::DroppedTtl);
    }
    let hop = leg.next_hop(destination.tag & Remote::VIA_SIGNALLING != 0).ok_or(Verdict::DroppedNextHop)?;
    let (out_address, out_port) = leg.out(spot.component);
    let address = u32::from_ne_bytes(destination.address);
    // Everything above was read of one call: control closes a leg before it changes anything else of it.
    if leg.generation() != generation {
        return Err(Verdict::DroppedClosed);
    }
    match hop.kind() {
        next_hop_kind::NEIGHBOUR => {
            let verdict = if hop.interface() == ingress {
                Verdict::ForwardedSame
            } else if maps::redirect(hop.device()) {
                Verdict::ForwardedOther
            } else {
                return Err(Verdict::DroppedNextHop);
            };
            Ok(Step::Leave(Route {
                source: out_address,
                source_port: out_port,
                destination: address,
                destination_port: destination.port,
                ttl: datagram.ttl - 1,
                hop,
                verdict,
            }))
        }
        next_hop_kind::LOCAL if last => Err(Verdict::DroppedLoop),
        next_hop_kind::LOCAL => {
            let local = maps::local(address).ok_or(Verdict::DroppedNextHop)?;
            let spot = local.spot(destination.port).ok_or(Verdict::DroppedNextHop)?;
            Ok(Step::Again(Again { source: out_address, source_port: out_port, spot }))
        }
        _ => Err(Verdict::DroppedNextHop),
    }
}
