//! The cold half of a decision: what to do while a leg's source or the other side's address is not known.
//!
//! A source is learned by one compare-and-swap of [`Component::source`](proxy_common::layout::Component), whose tag is
//! the leg's generation, so that a port that is used again begins unlatched. An IPv6 address does not fit into that
//! word: the winner swaps in a word with port 0, writes the address into the field beside it, and then stores the port.
//! The winner publishes the source as the destination of the peer leg before its own packet is forwarded: the reverse
//! direction follows the latch at once.
//!
//! The published destination is a copy. A packet that finds no valid one takes it from the source of the peer leg
//! instead ([`destination`]), so a peer that is attached later, or a late write of an earlier call, costs one lookup
//! and no packet. RTCP to an IPv6 address is routed in this way each time it is not that of RTP.

use super::{
    entries::{self, LegEntry, QualityEntry, RTCP, RTP, StateEntry},
    maps,
    packet_scratch::Datagram,
};
use proxy_common::{
    address::Address,
    latch::{self, Candidate, Continuation, REBOUND, Rank, Source, TICK_NS, Trial},
    layout::{LatchEvent, Remote, leg_flags},
    media::class,
    verdict::Verdict,
};

/// Judges a datagram whose source is not the latched one, and latches the source if it may be.
///
/// Out of line: it runs once per call, or under attack.
#[inline(never)]
pub(crate) fn source(index: u32, datagram: Datagram, generation: u16, now_ns: u64) -> Result<(), Verdict> {
    let (leg, state) = entries::leg(index).ok_or(Verdict::DroppedClosed)?;
    let component = datagram.port() as u32;
    let from = Source { address: datagram.address(), port: datagram.source_port() };
    let own = state.component(component);
    let held = own.source();
    let mut current = latched(held, state, generation, datagram.is_v6());
    if current.holds && current.source == from {
        return Ok(());
    }
    if current.holds && current.source.port == 0 {
        // Another CPU is about to latch.
        return Err(Verdict::DroppedSource);
    }
    if component == RTCP {
        if !is_of_rtp(state, from.address, generation, datagram.is_v6()) {
            return Err(Verdict::DroppedRtcpSource);
        }
        // A source that RTP has since moved away from has no claim.
        current.holds &= current.source.address == from.address;
    }
    let rank = rank(leg, state, component, current, from, datagram, now_ns)?;
    // Everything that was read of the leg was of one call: control closes it before it changes anything else of it.
    if leg.generation() != generation {
        return Err(Verdict::DroppedClosed);
    }
    if rank == 0 {
        return Ok(());
    }
    lock(leg, state, component, held, datagram, generation)?;
    maps::tell(&LatchEvent {
        source: Remote::from_word(word(datagram.source(), from.port, generation)),
        address: from.address.to_bytes(),
        time_ns: maps::now_ns(),
        leg: index,
        component: component as u16,
        rank,
    });
    Ok(())
}

/// Judges a source: what it latches as, or 0 where its packet is accepted and latches nothing.
#[inline(always)]
fn rank(
    leg: LegEntry,
    state: StateEntry,
    component: u32,
    current: Latched,
    from: Source,
    datagram: Datagram,
    now_ns: u64,
) -> Result<u16, Verdict> {
    let class = datagram.class();
    if current.holds
        && component == RTP
        && rebinds(leg.flags(), state.quality(), current.source, from, datagram, now_ns)
    {
        return Ok(REBOUND);
    }
    let hide_from_verifier = |number| datagram.hide_from_verifier(number);
    let in_window = maps::now_ns() < leg.window_end_ns();
    let rank = match latch::judge(
        &leg.signalled_remote(component, hide_from_verifier),
        current.holds,
        current.source,
        from,
        in_window,
        hide_from_verifier,
    ) {
        Candidate::Latch(rank) => hide_from_verifier(rank as u64) as u16,
        Candidate::Refuse => return Err(Verdict::DroppedSource),
    };
    if component == RTCP {
        // Other datagrams that are carried there must come from what latched.
        return if class == class::RTCP || !current.holds { Ok(rank) } else { Err(Verdict::DroppedSource) };
    }
    if leg.flags() & leg_flags::CARRY_UDPTL == 0 && class != class::DTLS_HANDSHAKE {
        if class != class::RTP {
            // As above, and before that only from where signalling said.
            return match class {
                class::RTCP => Err(Verdict::DroppedRtcpSource),
                _ if rank == OTHER || current.holds => Err(Verdict::DroppedSource),
                _ => Ok(0),
            };
        }
        if !leg.negotiated(datagram.payload_type()) {
            return Err(Verdict::DroppedPayloadType);
        }
    }
    // What was measured of a latched source must not be taken for a trial.
    if rank == OTHER && (class != class::RTP || current.holds || !tried(state.quality(), datagram, now_ns)) {
        return Err(Verdict::DroppedTrial);
    }
    Ok(rank)
}

const OTHER: u16 = Rank::Other as u16;

/// Latches a source, if nobody was faster.
#[inline(always)]
fn lock(
    leg: LegEntry,
    state: StateEntry,
    component: u32,
    held: u64,
    datagram: Datagram,
    generation: u16,
) -> Result<(), Verdict> {
    let own = state.component(component);
    let word = word(datagram.source(), datagram.source_port(), generation);
    // RTCP comes from the address of RTP, which is there already.
    let beside = datagram.is_v6() && component == RTP;
    let claim = if beside { self::word(datagram.source(), 0, generation) } else { word };
    let seen = own.swap_source(held, claim);
    if seen != held {
        return if seen == word && !beside { Ok(()) } else { Err(Verdict::DroppedSource) };
    }
    if beside {
        state.set_source_address(datagram.source_v6());
        own.set_source(word);
    }
    publish(leg, component);
    if component == RTP {
        if leg.flags() & leg_flags::RTCP_MUX == 0 {
            forget_rtcp(leg, state, generation);
        }
    } else if !is_of_rtp(state, datagram.address(), generation, datagram.is_v6()) {
        // RTP moved while this was decided. Either it saw our claim and withdrew it, or we see its move and withdraw
        // the claim.
        own.swap_source(word, 0);
        return Err(Verdict::DroppedRtcpSource);
    }
    Ok(())
}

/// Whether an address is that of the leg's latched RTP source.
#[inline(always)]
fn is_of_rtp(state: StateEntry, address: Address, generation: u16, v6: bool) -> bool {
    let rtp = latched(state.component(RTP).source(), state, generation, v6);
    rtp.holds && rtp.source.address == address && rtp.source.port != 0
}

/// Where packets that arrive at a leg go, as the word of a [`Remote`]; 0 where that is not known. An IPv6 address is
/// written into the datagram. Called when the leg's own copy is not valid under the peer's generation.
#[inline(never)]
pub(crate) fn destination(index: u32, component: u32, peer_generation: u16, datagram: Datagram) -> u64 {
    find_destination(index, component, peer_generation, datagram).unwrap_or(0)
}

#[inline(always)]
fn find_destination(index: u32, component: u32, peer_generation: u16, datagram: Datagram) -> Option<u64> {
    if peer_generation == 0 {
        return None;
    }
    let (entry, state) = entries::leg(index)?;
    let (peer, peer_state) = entries::leg(entry.peer())?;
    let flags = peer.flags();
    let v6 = flags & leg_flags::V6 != 0;
    let muxed = flags & leg_flags::RTCP_MUX != 0;
    let own = state.component(component);
    let copy = own.destination();
    let theirs = peer_state.component(if muxed { RTP } else { component });
    let source = theirs.source();
    let latched = latched(source, peer_state, peer_generation, v6);
    let via = peer.signalled_remote(RTP, |same| same).via_signalling(latched.source.address) as u64;
    let before_latch = flags & leg_flags::SEND_BEFORE_LATCH != 0;
    let stated = peer.remote_address();
    let port = peer.remote_port(if muxed { RTP } else { component });
    if peer.generation() != peer_generation {
        return None;
    }
    if latched.holds && latched.source.port != 0 {
        if v6 {
            datagram.set_destination_v6(latched.source.address);
            if component == RTP {
                state.set_destination_address(latched.source.address);
            }
        }
        let word = source | via << 63;
        own.swap_destination(copy, word);
        // A better one that latched meanwhile may have made the copy void before it was written.
        if theirs.source() != source {
            own.swap_destination(word, 0);
        }
        return Some(word);
    }
    if !before_latch || port == 0 || !stated.is_some() {
        return None;
    }
    let folded = if v6 {
        datagram.set_destination_v6(stated);
        stated.fold_v6()
    } else {
        let [_, _, _, v4] = stated.words();
        v4
    };
    Some(word(folded, port, peer_generation))
}

/// What a word means. Not an `Option`: in a `None` the rest has no value, and the verifier wants one.
#[derive(Clone, Copy)]
struct Latched {
    /// Whether it counts under the generation.
    holds: bool,
    source: Source,
}

/// The source that a word means. An IPv6 address is that of RTP.
#[inline(always)]
fn latched(word: u64, state: StateEntry, generation: u16, v6: bool) -> Latched {
    let remote = Remote::from_word(word);
    let address = if v6 { state.source_address() } else { Address::from_v4(u32::from_ne_bytes(remote.address)) };
    Latched { holds: remote.generation() == generation, source: Source { address, port: remote.port } }
}

#[inline(always)]
fn word(folded: u32, port: u16, tag: u16) -> u64 {
    Remote { address: folded.to_ne_bytes(), port, tag }.to_word()
}

/// Whether a latched source that fell silent comes back with another port.
#[inline(always)]
fn rebinds(flags: u32, quality: QualityEntry, current: Source, from: Source, datagram: Datagram, now_ns: u64) -> bool {
    if current.address != from.address || from.port == 0 || datagram.class() != class::RTP {
        return false;
    }
    let stream = Continuation {
        ssrc: quality.ssrc(),
        highest: quality.highest() as u16,
        silence: ((now_ns / TICK_NS) as u32).wrapping_sub(quality.last()),
        offered_ssrc: datagram.ssrc(),
        offered_sequence: datagram.sequence(),
    };
    quality.first() != 0 && latch::may_rebind(flags, stream)
}

/// Continues the trial of a source that signalling did not name; returns whether it has passed.
#[inline(always)]
fn tried(quality: QualityEntry, datagram: Datagram, now_ns: u64) -> bool {
    let highest = quality.highest();
    let trial = Trial {
        whose: quality.transit(),
        ssrc: quality.ssrc(),
        sequence: highest as u16,
        count: (highest >> 16) as u16,
        since: quality.last(),
    };
    let whose = Trial::whose(datagram.source(), datagram.source_port());
    let (trial, passed) = trial.packet(whose, datagram.ssrc(), datagram.sequence(), (now_ns / TICK_NS) as u32);
    quality.set_transit(trial.whose);
    quality.set_ssrc(trial.ssrc);
    quality.set_highest(trial.sequence as u32 | (trial.count as u32) << 16);
    quality.set_last(trial.since);
    passed
}

/// Makes what a leg just latched the destination of the other direction: the copy there is void, so the next packet
/// looks it up.
#[inline(always)]
fn publish(leg: LegEntry, component: u32) {
    let Some((_, peer)) = entries::leg(leg.peer()) else { return };
    peer.component(component).set_destination(0);
    if component == RTP && leg.flags() & leg_flags::RTCP_MUX != 0 {
        peer.component(RTCP).set_destination(0);
    }
}

/// RTCP may only come from the address of RTP: when RTP latches elsewhere, an earlier claim lapses. A NAT that gave RTP
/// another port gave RTCP another one too.
#[inline(always)]
fn forget_rtcp(leg: LegEntry, state: StateEntry, generation: u16) {
    let own = state.component(RTCP);
    let held = own.source();
    if Remote::from_word(held).generation() == generation
        && own.swap_source(held, 0) == held
        && let Some((_, peer)) = entries::leg(leg.peer())
    {
        peer.component(RTCP).set_destination(0);
    }
}
