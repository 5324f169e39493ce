//! The cold half of a decision: what to do while a leg's source or the other side's address is not known.
//!
//! A source is learned by one compare-and-swap of [`Component::source`](proxy_common::layout::Component), whose tag is
//! the leg's generation, so that a port that is used again begins unlatched. The winner publishes the source as the
//! destination of the peer leg before its own packet is forwarded: the reverse direction follows the latch at once.
//!
//! The published destination is a copy. Who finds none that is valid takes it from the source of the peer leg instead
//! ([`destination`]), so a peer that is attached later, or a late write of an earlier call, costs one look and no packet.

use crate::maps::{self, ComponentEntry, LegEntry, StateEntry};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use proxy_common::{
    latch::{self, Candidate, Rank, Terms},
    layout::{GENERATION_MASK, LatchEvent, Remote, leg_flags},
    verdict::Verdict,
};

const RTP: u32 = 0;
const RTCP: u32 = 1;

/// Judges a source that is not the latched one and latches it if it may be. `source` is the word of a [`Remote`] whose
/// tag is the leg's generation; `payload_type` counts for RTP only.
///
/// Out of line: it runs once a call, or under attack.
#[inline(never)]
pub(crate) fn source(index: u32, component: u32, source: u64, payload_type: u8) -> Result<(), Verdict> {
    let remote = Remote::from_word(source);
    let (entry, state) = maps::leg(index).ok_or(Verdict::DroppedClosed)?;
    let leg = consistent(entry, remote.generation()).ok_or(Verdict::DroppedClosed)?;

    let own = state.component(component);
    let rtp = || of_generation(state.component(RTP).source(), remote.generation());
    let held = own.source();
    let current = of_generation(held, remote.generation());
    let candidate = if component == RTP {
        latch::judge_rtp(&leg, current, remote.address, remote.port, payload_type, now_ns)
    } else {
        let rtp = rtp();
        if !rtp.is_some_and(|rtp| rtp.address == remote.address) {
            return Err(Verdict::DroppedRtcpSource);
        }
        latch::judge_rtcp(&leg, rtp, current, remote.address, remote.port, now_ns)
    };
    let rank = match candidate {
        Candidate::Latch { rank, .. } => rank,
        Candidate::Refuse => return Err(Verdict::DroppedSource),
        Candidate::PayloadType => return Err(Verdict::DroppedPayloadType),
    };

    let seen = own.swap_source(held, source);
    if seen == source {
        return Ok(());
    }
    if seen != held {
        return Err(Verdict::DroppedSource);
    }
    publish(&leg, own, component, source);
    if component == RTP {
        forget_rtcp_of_others(&leg, state, remote);
    } else if !rtp().is_some_and(|rtp| rtp.address == remote.address) {
        // RTP moved while this was decided. Either it saw our claim and took it back, or we see its move and do.
        own.swap_source(source, 0);
        return Err(Verdict::DroppedRtcpSource);
    }
    tell(index, component, remote, rank);
    Ok(())
}

/// Where packets that arrive at a leg go, as the word of a [`Remote`]; 0 where that is not known. Asked when the leg's
/// own copy is not valid under the peer's generation.
#[inline(never)]
pub(crate) fn destination(index: u32, component: u32, peer_generation: u16) -> u64 {
    find_destination(index, component, peer_generation).unwrap_or(0)
}

#[inline(always)]
fn find_destination(index: u32, component: u32, peer_generation: u16) -> Option<u64> {
    if peer_generation == 0 {
        return None;
    }
    let (entry, state) = maps::leg(index)?;
    let own = state.component(component);
    let copy = own.destination();
    let (peer_entry, peer_state) = maps::leg(entry.peer())?;
    let peer = consistent(peer_entry, peer_generation)?;
    if let Some(latched) = of_generation(peer_state.component(component).source(), peer_generation) {
        let word = as_destination(&peer, latched);
        // Whoever was faster has published the same latch or a better one.
        let seen = own.swap_destination(copy, word);
        return if seen == copy { Some(word) } else { of_generation(seen, peer_generation).map(|_| seen) };
    }
    if peer.flags & leg_flags::SEND_BEFORE_LATCH == 0 {
        return None;
    }
    let address = peer.remote_address?;
    let port = if component == RTP { peer.remote_port } else { peer.remote_rtcp_port };
    (port != 0).then_some(Remote { address, port, tag: peer_generation }.to_word())
}

/// A copy of an entry under this generation: control closes an entry before it changes anything of it and opens it last,
/// so one that has the same generation after the copy was taken is whole.
#[inline(always)]
fn consistent(entry: LegEntry, generation: u16) -> Option<Terms> {
    let open = entry.generation() == generation;
    let leg = entry.terms();
    (open && entry.generation() == generation).then_some(leg)
}

#[inline(always)]
fn of_generation(word: u64, generation: u16) -> Option<Remote> {
    let remote = Remote::from_word(word);
    (remote.generation() == generation).then_some(remote)
}

/// Makes the latched source the destination of the other direction.
#[inline(always)]
fn publish(leg: &Terms, own: ComponentEntry, component: u32, source: u64) {
    let Some((_, peer)) = maps::leg(leg.peer) else { return };
    let peer = peer.component(component);
    peer.set_destination(as_destination(leg, Remote::from_word(source)));
    // A better candidate that latched meanwhile may have published before we did: the last to write writes the latest.
    let latest = own.source();
    if latest != source
        && let Some(latest) = of_generation(latest, Remote::from_word(source).generation())
    {
        peer.set_destination(as_destination(leg, latest));
    }
}

/// RTCP may only come from the address of RTP: when RTP latches elsewhere, an earlier claim lapses.
#[inline(always)]
fn forget_rtcp_of_others(leg: &Terms, state: StateEntry, rtp: Remote) {
    let own = state.component(RTCP);
    let held = own.source();
    if of_generation(held, rtp.generation()).is_some_and(|rtcp| rtcp.address != rtp.address)
        && own.swap_source(held, 0) == held
        && let Some((_, peer)) = maps::leg(leg.peer)
    {
        peer.component(RTCP).set_destination(0);
    }
}

/// A source that `leg` latched, as the destination of its peer.
#[inline(always)]
fn as_destination(leg: &Terms, latched: Remote) -> u64 {
    let via_signalling = leg.remote_address != Some(latched.address);
    let tag = latched.tag & GENERATION_MASK | if via_signalling { Remote::VIA_SIGNALLING } else { 0 };
    Remote { tag, ..latched }.to_word()
}

#[inline(always)]
fn tell(index: u32, component: u32, source: Remote, rank: Rank) {
    maps::tell(&LatchEvent { source, time_ns: now_ns(), leg: index, component: component as u16, rank: rank as u16 });
}

/// `CLOCK_MONOTONIC`.
#[inline(always)]
fn now_ns() -> u64 {
    // SAFETY: the helper takes nothing and only reads a clock.
    unsafe { bpf_ktime_get_ns() }
}
