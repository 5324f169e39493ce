//! What is measured on a leg's packets: their rate, against the allowed rate, and how well RTP arrives.

use super::{
    entries::{LegEntry, QualityEntry, RTCP, StateEntry},
    maps,
    packet_scratch::Datagram,
};
use proxy_common::latch::TICK_NS;

/// Token bucket units: 1/256 bytes, and 65,536 ns.
const TIME_SHIFT: u32 = 16;
const BYTE_SHIFT: u32 = 8;

/// Takes a packet of `length` bytes from the leg's bucket; false if it does not hold as much. RTCP leaves half of the
/// bucket to RTP: a source that is mistaken for its sender must not cut off the phone's voice.
///
/// CPUs that take at the same time may both take the same bytes; that is accepted, as a stream's packets come by one of
/// them.
#[inline(always)]
pub(crate) fn allowed(state: StateEntry, component: u32, rate: u32, burst: u32, length: u16, now_ns: u64) -> bool {
    let bucket = state.bucket();
    let (held, then) = (bucket as u32 as u64, (bucket >> 32) as u32);
    let now = (now_ns >> TIME_SHIFT) as u32;
    let full = (burst as u64) << BYTE_SHIFT;
    let filled = held + now.wrapping_sub(then) as u64 * rate as u64;
    let filled = if filled > full { full } else { filled };
    let needed = (length as u64) << BYTE_SHIFT;
    let left = if component == RTCP { full >> 1 } else { 0 };
    let (held, allowed) = if filled >= needed + left { (filled - needed, true) } else { (filled, false) };
    state.set_bucket(held | (now as u64) << 32);
    allowed
}

/// How far ahead a sequence number may be before the stream counts as restarted (RFC 3550 appendix A.1).
const MAX_DROPOUT: u16 = 3_000;
/// How far behind the highest sequence number a late packet may be.
const MAX_MISORDER: u16 = 100;

/// Measures an RTP packet that was forwarded (RFC 3550, appendices A.1, A.3 and A.8).
#[inline(always)]
pub(crate) fn packet(leg: LegEntry, quality: QualityEntry, rtp: Datagram, now_ns: u64) {
    // 0 says that none came, so no time is 0.
    let now = (now_ns / TICK_NS) as u32 | 1;
    quality.set_last(now);
    if quality.first() == 0 {
        quality.set_first(now);
        quality.set_ssrc(rtp.ssrc());
        return begin(leg, quality, rtp);
    }
    if quality.ssrc() != rtp.ssrc() {
        quality.set_ssrc(rtp.ssrc());
        quality.set_ssrc_changes(quality.ssrc_changes().wrapping_add(1));
        return begin(leg, quality, rtp);
    }
    let ahead = rtp.sequence().wrapping_sub(quality.highest() as u16);
    if ahead == 0 {
        quality.set_duplicates(quality.duplicates().wrapping_add(1));
        return;
    }
    if ahead > 0u16.wrapping_sub(MAX_MISORDER) {
        quality.set_reordered(quality.reordered().wrapping_add(1));
        return;
    }
    if ahead > MAX_DROPOUT {
        return begin(leg, quality, rtp);
    }
    quality.set_highest(rtp.sequence() as u32);
    quality.set_expected(quality.expected().wrapping_add(ahead as u32));
    // Two packets in sixteen are enough, and reading the clock for each would cost more than all the rest.
    let phase = rtp.sequence() % SAMPLED;
    if phase < 2 && ahead == 1 && maps::measures() {
        jitter(leg.clock(), quality, rtp, phase == 1);
    }
}

/// The first two of this many packets are timed.
const SAMPLED: u16 = 16;

/// Times the first packet of a pair, or the second and the change between them.
#[inline(always)]
fn jitter(clock: u32, quality: QualityEntry, rtp: Datagram, second: bool) {
    let transit = transit(clock, rtp, maps::now_ns());
    let difference = (transit.wrapping_sub(quality.transit()) as i32).unsigned_abs();
    quality.set_transit(transit);
    // Timestamps that leap (another clock, a pause without a marker) say nothing about the network.
    if second && clock != 0 && difference < LEAP {
        let jitter = quality.jitter();
        quality.set_jitter(jitter.wrapping_add(difference).wrapping_sub(jitter.wrapping_add(8) >> 4));
    }
}

/// Some 20 s of audio, 10 s of video.
const LEAP: u32 = 1 << 20;

/// A stream begins or restarts.
#[inline(always)]
fn begin(leg: LegEntry, quality: QualityEntry, rtp: Datagram) {
    quality.set_highest(rtp.sequence() as u32);
    quality.set_expected(quality.expected().wrapping_add(1));
    quality.set_transit(transit(leg.clock(), rtp, maps::now_ns()));
}

/// Arrival less timestamp, in timestamp units; only its differences mean something.
#[inline(always)]
fn transit(clock: u32, rtp: Datagram, now_ns: u64) -> u32 {
    // The product's low 64 bits contain bits 32 to 63, whatever overflows.
    ((now_ns.wrapping_mul(clock as u64) >> 32) as u32).wrapping_sub(rtp.timestamp())
}
