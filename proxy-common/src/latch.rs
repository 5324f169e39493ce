//! Which source a leg accepts, and which it learns (the relay's answer to RFC 7362's latching and its attacks).
//!
//! A component of a leg is closed, learning or locked:
//!
//! - An **exact** candidate, whose address and port are those of the session description, locks at once.
//! - An **address** candidate, whose address is that of the session description or of the signalling, locks on its
//!   first valid packet; an exact one may still replace it until the window ends.
//! - Anybody else is refused; and once locked, so is every other address or port.
//! - RTCP follows RTP: it may only come from the address that the leg's RTP latched.

use crate::layout::{Leg, Remote};

/// What the datapath needs to know of a leg to learn its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// [`Leg::remote_address`], where it is IPv4.
    pub remote_address: Option<[u8; 4]>,
    /// [`Leg::signalling_address`], where it is IPv4.
    pub signalling_address: Option<[u8; 4]>,
    /// [`Leg::remote_port`].
    pub remote_port: u16,
    /// [`Leg::remote_rtcp_port`].
    pub remote_rtcp_port: u16,
    /// [`Leg::payload_types`].
    pub payload_types: [u32; 4],
    /// [`Leg::window_end_ns`].
    pub window_end_ns: u64,
    /// [`Leg::peer`].
    pub peer: u32,
    /// [`Leg::flags`].
    pub flags: u32,
}

impl From<&Leg> for Terms {
    fn from(leg: &Leg) -> Self {
        Self {
            remote_address: v4(&leg.remote_address),
            signalling_address: v4(&leg.signalling_address),
            remote_port: leg.remote_port,
            remote_rtcp_port: leg.remote_rtcp_port,
            payload_types: leg.payload_types,
            window_end_ns: leg.window_end_ns,
            peer: leg.peer,
            flags: leg.flags,
        }
    }
}

/// How well a source fits what signalling said. A better rank is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u16)]
pub enum Rank {
    /// The address of the session description or of the signalling, another port.
    Address = 1,
    /// Address and port of the session description.
    Exact = 2,
}

/// What to do with a packet from a source that is not the latched one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Candidate {
    /// It may be latched.
    Latch {
        /// How well it fits.
        rank: Rank,
        /// Its address is the signalling's and not the session description's: the way to it is `next_hop_signalling`.
        via_signalling: bool,
    },
    /// It may not send here.
    Refuse,
    /// It might, with a payload type that was negotiated.
    PayloadType,
}

/// Judges an RTP packet whose source is not the latched one.
///
/// `current` is the latched source under the leg's generation, if there is one; `payload_type` is 0 to 127. `now_ns`
/// is asked only where the answer depends on it.
#[inline(always)]
pub fn judge_rtp(
    leg: &Terms,
    current: Option<Remote>,
    address: [u8; 4],
    port: u16,
    payload_type: u8,
    now_ns: impl FnOnce() -> u64,
) -> Candidate {
    let candidate = rank(leg, leg.remote_port, address, port);
    let Candidate::Latch { rank: offered, .. } = candidate else { return candidate };
    if let Some(current) = current {
        let held = rank(leg, leg.remote_port, current.address, current.port);
        let better = match held {
            Candidate::Latch { rank: held, .. } => offered > held,
            _ => true,
        };
        if !better || now_ns() >= leg.window_end_ns {
            return Candidate::Refuse;
        }
    }
    if !has_payload_type(&leg.payload_types, payload_type) {
        return Candidate::PayloadType;
    }
    candidate
}

/// Judges an RTCP packet whose source is not the latched one. `rtp` is the leg's latched RTP source, `current` its
/// latched RTCP source, both under the leg's generation.
#[inline(always)]
pub fn judge_rtcp(
    leg: &Terms,
    rtp: Option<Remote>,
    current: Option<Remote>,
    address: [u8; 4],
    port: u16,
    now_ns: impl FnOnce() -> u64,
) -> Candidate {
    match rtp {
        Some(rtp) if rtp.address == address => {}
        _ => return Candidate::Refuse,
    }
    let candidate = rank(leg, leg.remote_rtcp_port, address, port);
    let Candidate::Latch { rank: offered, .. } = candidate else { return candidate };
    if let Some(current) = current {
        // An RTCP source that RTP has since moved away from has no claim.
        if current.address == address {
            let held = rank(leg, leg.remote_rtcp_port, current.address, current.port);
            let better = match held {
                Candidate::Latch { rank: held, .. } => offered > held,
                _ => true,
            };
            if !better || now_ns() >= leg.window_end_ns {
                return Candidate::Refuse;
            }
        }
    }
    candidate
}

/// Whether `payload_type` (0 to 127) is in the set.
#[inline(always)]
pub const fn has_payload_type(set: &[u32; 4], payload_type: u8) -> bool {
    let word = match payload_type >> 5 {
        0 => set[0],
        1 => set[1],
        2 => set[2],
        _ => set[3],
    };
    word >> (payload_type & 31) & 1 == 1
}

/// The IPv4 address that an IPv4-mapped one stands for.
#[inline(always)]
pub const fn v4(mapped: &[u8; 16]) -> Option<[u8; 4]> {
    match *mapped {
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d] => Some([a, b, c, d]),
        _ => None,
    }
}

#[inline(always)]
fn rank(leg: &Terms, stated_port: u16, address: [u8; 4], port: u16) -> Candidate {
    // RFC 768: source port 0 means that no answer is wanted.
    if port == 0 {
        return Candidate::Refuse;
    }
    let stated = leg.remote_address == Some(address);
    if stated && port == stated_port {
        Candidate::Latch { rank: Rank::Exact, via_signalling: false }
    } else if stated || leg.signalling_address == Some(address) {
        Candidate::Latch { rank: Rank::Address, via_signalling: !stated }
    } else {
        Candidate::Refuse
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::locals::mapped;

    const SDP: [u8; 4] = [192, 168, 1, 10];
    const NAT: [u8; 4] = [203, 0, 113, 101];
    const STRANGER: [u8; 4] = [203, 0, 113, 66];

    fn leg() -> Leg {
        Leg {
            generation: 3,
            remote_address: mapped(SDP),
            remote_port: 4000,
            remote_rtcp_port: 4001,
            signalling_address: mapped(NAT),
            payload_types: [1 << 0 | 1 << 8, 0, 0, 1 << (101 - 96)],
            window_end_ns: 1_000,
            ..Leg::default()
        }
    }

    fn at(address: [u8; 4], port: u16) -> Option<Remote> {
        Some(Remote { address, port, tag: 3 })
    }

    fn latch(rank: Rank, via_signalling: bool) -> Candidate {
        Candidate::Latch { rank, via_signalling }
    }

    #[test]
    fn candidates_by_rank_state_and_time() {
        let exact = latch(Rank::Exact, false);
        let by_sdp = latch(Rank::Address, false);
        let by_signalling = latch(Rank::Address, true);
        for (name, current, address, port, payload_type, now, expected) in [
            ("exact", None, SDP, 4000, 0, 0, exact),
            ("exact after the window, nothing held", None, SDP, 4000, 0, 2_000, exact),
            ("SDP address, other port", None, SDP, 4002, 8, 0, by_sdp),
            ("signalling address", None, NAT, 61_000, 101, 0, by_signalling),
            ("signalling address, port of the SDP", None, NAT, 4000, 0, 0, by_signalling),
            ("no source port", None, NAT, 0, 0, 0, Candidate::Refuse),
            ("stranger", None, STRANGER, 4000, 0, 0, Candidate::Refuse),
            ("payload type not negotiated", None, NAT, 61_000, 3, 0, Candidate::PayloadType),
            ("stranger with a strange payload type", None, STRANGER, 4000, 3, 0, Candidate::Refuse),
            ("exact replaces address in the window", at(NAT, 61_000), SDP, 4000, 0, 999, exact),
            ("not after it", at(NAT, 61_000), SDP, 4000, 0, 1_000, Candidate::Refuse),
            ("equal rank does not replace", at(NAT, 61_000), NAT, 61_001, 0, 0, Candidate::Refuse),
            ("worse rank does not replace", at(SDP, 4000), NAT, 61_000, 0, 0, Candidate::Refuse),
            ("stranger in the window", at(NAT, 61_000), STRANGER, 61_000, 0, 0, Candidate::Refuse),
        ] {
            assert_eq!(judge_rtp(&(&leg()).into(), current, address, port, payload_type, || now), expected, "{name}");
        }
    }

    #[test]
    fn a_leg_without_remote_addresses_accepts_nobody() {
        let leg = Leg { remote_address: [0; 16], signalling_address: [0; 16], ..leg() };
        assert_eq!(judge_rtp(&(&leg).into(), None, [0; 4], 0, 0, || 0), Candidate::Refuse);
        assert_eq!(judge_rtp(&(&leg).into(), None, NAT, 61_000, 0, || 0), Candidate::Refuse);
    }

    #[test]
    fn rtcp_follows_rtp() {
        let by_signalling = latch(Rank::Address, true);
        for (name, rtp, current, address, port, now, expected) in [
            ("before RTP", None, None, NAT, 61_001, 0, Candidate::Refuse),
            ("exact before RTP", None, None, SDP, 4001, 0, Candidate::Refuse),
            ("beside RTP", at(NAT, 61_000), None, NAT, 61_001, 0, by_signalling),
            ("after the window, nothing held", at(NAT, 61_000), None, NAT, 61_001, 9_999, by_signalling),
            ("exact", at(SDP, 4000), None, SDP, 4001, 0, latch(Rank::Exact, false)),
            ("another address", at(NAT, 61_000), None, SDP, 4001, 0, Candidate::Refuse),
            ("another port, held", at(NAT, 61_000), at(NAT, 61_001), NAT, 61_003, 0, Candidate::Refuse),
            ("RTP moved away", at(NAT, 61_000), at(SDP, 4001), NAT, 61_001, 9_999, by_signalling),
        ] {
            assert_eq!(judge_rtcp(&(&leg()).into(), rtp, current, address, port, || now), expected, "{name}");
        }
    }
}
