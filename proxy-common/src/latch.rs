//! Which source a leg accepts, and which it learns (the relay's answer to RFC 7362's latching and its attacks).
//!
//! A component of a leg is closed, learning or locked:
//!
//! - An **exact** candidate, whose address and port are those of the session description, locks immediately.
//! - An **address** candidate, whose address agrees with that of the session description or of the signalling, locks on
//!   its first valid packet; an exact one may still replace it until the window ends.
//! - Any **other** is refused, unless the leg says `LATCH_ANY`: then it locks after a [`Trial`], and a better one may
//!   replace it until the window ends.
//! - Once locked, every other address or port is refused. Only the same address with another port may take the place of
//!   a source that has fallen silent, if it continues the same stream ([`may_rebind`]).
//! - RTCP follows RTP: it may only come from the address that the leg's RTP latched.

use crate::{
    address::{Address, Mask},
    layout::{Leg, leg_flags},
};

/// Who may send to a component of a leg, according to signalling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignalledRemote {
    /// [`Leg::remote_address`].
    pub remote_address: Address,
    /// [`Leg::signalling_address`].
    pub signalling_address: Address,
    /// [`Leg::address_bits_v4`] or [`Leg::address_bits_v6`].
    pub mask: Mask,
    /// [`Leg::remote_port`] or [`Leg::remote_rtcp_port`].
    pub port: u16,
    /// [`leg_flags::LATCH_ANY`]; of RTCP: whatever RTP latched.
    pub any: bool,
}

impl SignalledRemote {
    /// Of RTP at a leg.
    pub fn rtp(leg: &Leg) -> Self {
        Self {
            remote_address: Address::from_bytes(leg.remote_address),
            signalling_address: Address::from_bytes(leg.signalling_address),
            mask: Mask::new(leg.flags & leg_flags::V6 != 0, leg.address_bits_v4, leg.address_bits_v6),
            port: leg.remote_port,
            any: leg.flags & leg_flags::LATCH_ANY != 0,
        }
    }

    /// Of RTCP at a leg, from the address that RTP latched there.
    pub fn rtcp(leg: &Leg) -> Self {
        Self { port: leg.remote_rtcp_port, any: true, ..Self::rtp(leg) }
    }

    /// Whether the route to an address is that of the signalling's, not that of the session description's.
    #[inline(always)]
    pub fn via_signalling(&self, address: Address) -> bool {
        self.remote_address != address
            && (self.signalling_address == address || !self.remote_address.agrees(address, self.mask))
    }

    /// The rank of a source as a number; 0 where it has none. `hide_from_verifier`: see [`judge`].
    #[inline(always)]
    fn rank(&self, source: Source, hide_from_verifier: impl Fn(u64) -> u64) -> u64 {
        let named = self.remote_address == source.address && source.address.is_some();
        let exact = hide_from_verifier((named && source.port == self.port) as u64);
        let stated = hide_from_verifier(self.remote_address.agrees(source.address, self.mask) as u64);
        let signalled = hide_from_verifier(self.signalling_address.agrees(source.address, self.mask) as u64);
        // RFC 768: source port 0 means that no answer is wanted.
        if source.port == 0 {
            0
        } else if exact != 0 {
            EXACT
        } else if stated | signalled != 0 {
            ADDRESS
        } else if self.any {
            OTHER
        } else {
            0
        }
    }
}

/// A transport address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// IP address.
    pub address: Address,
    /// Port, host order.
    pub port: u16,
}

/// How well a source fits what signalling said. A better rank is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u16)]
pub enum Rank {
    /// Nothing of it was named.
    Other = 1,
    /// The address of the session description or of the signalling, another port.
    Address = 2,
    /// Address and port of the session description.
    Exact = 3,
}

/// [`crate::layout::LatchEvent::rank`] where the source came back with another port.
pub const REBOUND: u16 = 4;

/// What to do with a packet from a source that is not the latched one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Candidate {
    /// It may be latched.
    Latch(Rank),
    /// It may not send here.
    Refuse,
}

/// Judges a packet whose source is not the latched one, `current`, which counts where something is `held`; a better one
/// may take its place only `in_window`.
///
/// `hide_from_verifier` returns what it is given. The XDP program passes one whose result its verifier knows nothing
/// about, so that the verifier does not follow each reason for an answer on a path of its own.
#[inline(always)]
pub fn judge(
    named: &SignalledRemote,
    held: bool,
    current: Source,
    source: Source,
    in_window: bool,
    hide_from_verifier: impl Fn(u64) -> u64,
) -> Candidate {
    let offered = hide_from_verifier(named.rank(source, &hide_from_verifier));
    let worth = hide_from_verifier(named.rank(current, &hide_from_verifier));
    if held && (offered <= worth || !in_window) {
        return Candidate::Refuse;
    }
    match offered {
        OTHER => Candidate::Latch(Rank::Other),
        ADDRESS => Candidate::Latch(Rank::Address),
        EXACT => Candidate::Latch(Rank::Exact),
        _ => Candidate::Refuse,
    }
}

const OTHER: u64 = Rank::Other as u64;
const ADDRESS: u64 = Rank::Address as u64;
const EXACT: u64 = Rank::Exact as u64;

/// What the last packet of a latched RTP source was, and a packet that may continue it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Continuation {
    /// Of the latched source.
    pub ssrc: u32,
    /// Its highest sequence number.
    pub highest: u16,
    /// Time since its last packet, units of [`TICK_NS`].
    pub silence: u32,
    /// Of the packet.
    pub offered_ssrc: u32,
    /// Of the packet.
    pub offered_sequence: u16,
}

/// The unit of short times in the maps, ns: 2^20.
pub const TICK_NS: u64 = 1 << 20;
/// A source that was silent for this long may have got another port: 2 s.
pub const SILENCE: u32 = (2_000_000_000 / TICK_NS) as u32;
/// How far a stream may have advanced without being heard: about five minutes at 50 packets a second.
const FARTHEST: u16 = 0x4000;

/// Whether a packet from another port of the latched address continues the stream of a source that fell silent.
#[inline(always)]
pub const fn may_rebind(flags: u32, stream: Continuation) -> bool {
    flags & leg_flags::REBIND != 0
        && stream.silence >= SILENCE
        && stream.silence < 1 << 31
        && stream.offered_ssrc == stream.ssrc
        && stream.offered_sequence.wrapping_sub(stream.highest).wrapping_sub(1) < FARTHEST
}

/// The trial of a source that signalling did not name: four packets of one SSRC in sequence over at least 20 ms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trial {
    /// Whose: [`Trial::whose`].
    pub whose: u32,
    /// Of its packets.
    pub ssrc: u32,
    /// Of its last packet.
    pub sequence: u16,
    /// Packets in a row.
    pub count: u16,
    /// When the first one came, units of [`TICK_NS`].
    pub since: u32,
}

impl Trial {
    /// Packets that it takes.
    const PACKETS: u16 = 4;
    /// Time that it takes: 20 ms, rounded up.
    const TIME: u32 = 20;

    /// Names a source, whose address is folded, in 32 bits. Sources with the same 32 bits share a trial, and still have
    /// to send what continues it.
    #[inline(always)]
    pub const fn whose(folded: u32, port: u16) -> u32 {
        folded ^ (port as u32) << 16
    }

    /// Takes another packet; returns whether the trial is passed.
    #[inline(always)]
    pub const fn packet(self, whose: u32, ssrc: u32, sequence: u16, now: u32) -> (Self, bool) {
        let goes_on =
            self.count > 0 && self.whose == whose && self.ssrc == ssrc && sequence == self.sequence.wrapping_add(1);
        if !goes_on {
            return (Self { whose, ssrc, sequence, count: 1, since: now }, false);
        }
        let count = self.count.saturating_add(1);
        let passed = count >= Self::PACKETS && now.wrapping_sub(self.since) >= Self::TIME;
        (Self { sequence, count, ..self }, passed)
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::locals::mapped;

    const SDP: [u8; 4] = [192, 168, 1, 10];
    const NAT: [u8; 4] = [203, 0, 113, 101];
    const NEIGHBOUR: [u8; 4] = [203, 0, 113, 100];
    const STRANGER: [u8; 4] = [198, 51, 100, 66];

    fn leg() -> Leg {
        Leg {
            generation: 3,
            remote_address: mapped(SDP),
            remote_port: 4000,
            remote_rtcp_port: 4001,
            signalling_address: mapped(NAT),
            address_bits_v4: 32,
            address_bits_v6: 128,
            ..Leg::default()
        }
    }

    fn source(address: [u8; 4], port: u16) -> Source {
        Source { address: Address::from_bytes(mapped(address)), port }
    }

    fn at(address: [u8; 4], port: u16) -> Option<Source> {
        Some(source(address, port))
    }

    fn judged(named: &SignalledRemote, current: Option<Source>, source: Source, in_window: bool) -> Candidate {
        judge(named, current.is_some(), current.unwrap_or_default(), source, in_window, |same| same)
    }

    #[test]
    fn candidates_by_rank_state_and_time() {
        let refuse = Candidate::Refuse;
        let [other, address, exact] = [Rank::Other, Rank::Address, Rank::Exact].map(Candidate::Latch);
        let named = SignalledRemote::rtp(&leg());
        let any = SignalledRemote { any: true, ..named };
        let net = SignalledRemote { mask: Mask::new(false, 24, 128), ..named };
        for (name, named, current, from, in_window, expected) in [
            ("exact", named, None, source(SDP, 4000), true, exact),
            ("exact after the window, nothing held", named, None, source(SDP, 4000), false, exact),
            ("SDP address, other port", named, None, source(SDP, 4002), true, address),
            ("signalling address", named, None, source(NAT, 61_000), true, address),
            ("signalling address, port of the SDP", named, None, source(NAT, 4000), true, address),
            ("no source port", named, None, source(NAT, 0), true, refuse),
            ("stranger", named, None, source(STRANGER, 4000), true, refuse),
            ("exact replaces address in the window", named, at(NAT, 61_000), source(SDP, 4000), true, exact),
            ("not after it", named, at(NAT, 61_000), source(SDP, 4000), false, refuse),
            ("equal rank does not replace", named, at(NAT, 61_000), source(NAT, 61_001), true, refuse),
            ("worse rank does not replace", named, at(SDP, 4000), source(NAT, 61_000), true, refuse),
            ("stranger in the window", named, at(NAT, 61_000), source(STRANGER, 61_000), true, refuse),
            ("next to it", named, None, source(NEIGHBOUR, 61_000), true, refuse),
            ("in its network", net, None, source(NEIGHBOUR, 61_000), true, address),
            ("outside its network", net, None, source(STRANGER, 61_000), true, refuse),
            ("any", any, None, source(STRANGER, 61_000), true, other),
            ("any, something better held", any, at(NAT, 61_000), source(STRANGER, 61_000), true, refuse),
            ("any, another other held", any, at(NEIGHBOUR, 61_000), source(STRANGER, 61_000), true, refuse),
            ("address replaces other", any, at(STRANGER, 61_000), source(NAT, 61_000), true, address),
            ("any without a port", any, None, source(STRANGER, 0), true, refuse),
        ] {
            assert_eq!(judged(&named, current, from, in_window), expected, "{name}");
        }
    }

    #[test]
    fn a_leg_without_remote_addresses_accepts_nobody() {
        let named = SignalledRemote {
            remote_address: Address::NONE,
            signalling_address: Address::NONE,
            ..SignalledRemote::rtp(&leg())
        };
        let nobody = Source { address: Address::NONE, port: 7 };
        assert_eq!(judged(&named, None, nobody, true), Candidate::Refuse);
        assert_eq!(judged(&SignalledRemote { port: 7, ..named }, None, nobody, true), Candidate::Refuse);
        assert_eq!(judged(&named, None, source(NAT, 61_000), true), Candidate::Refuse);
    }

    #[test]
    fn rtcp_follows_rtp() {
        let refuse = Candidate::Refuse;
        let [other, address, exact] = [Rank::Other, Rank::Address, Rank::Exact].map(Candidate::Latch);
        for (name, current, from, in_window, expected) in [
            ("beside RTP", None, source(NAT, 61_001), true, address),
            ("after the window, nothing held", None, source(NAT, 61_001), false, address),
            ("exact", None, source(SDP, 4001), true, exact),
            ("another port, held", at(NAT, 61_001), source(NAT, 61_003), true, refuse),
            ("what RTP latched by trial", None, source(STRANGER, 9), true, other),
        ] {
            let named = SignalledRemote::rtcp(&leg());
            assert_eq!(judged(&named, current, from, in_window), expected, "{name}");
        }
    }

    #[test]
    fn only_the_same_stream_after_a_silence_rebinds() {
        let on = leg_flags::REBIND;
        let stream =
            Continuation { ssrc: 7, highest: 65_530, silence: SILENCE, offered_ssrc: 7, offered_sequence: 65_531 };
        for (name, flags, stream, expected) in [
            ("goes on", on, stream, true),
            ("switched off", 0, stream, false),
            ("too early", on, Continuation { silence: SILENCE - 1, ..stream }, false),
            (
                "its last packet came just after the clock was read",
                on,
                Continuation { silence: u32::MAX, ..stream },
                false,
            ),
            ("another stream", on, Continuation { offered_ssrc: 8, ..stream }, false),
            ("100 packets later", on, Continuation { offered_sequence: 94, ..stream }, true),
            ("the same packet", on, Continuation { offered_sequence: 65_530, ..stream }, false),
            ("an older one", on, Continuation { offered_sequence: 65_000, ..stream }, false),
            ("far away", on, Continuation { offered_sequence: 30_000, ..stream }, false),
        ] {
            assert_eq!(may_rebind(flags, stream), expected, "{name}");
        }
    }

    #[test]
    fn a_trial_takes_four_packets_in_a_row_over_20_ms() {
        let run = |packets: &[(u32, u32, u16, u32)]| {
            packets.iter().fold((Trial::default(), false), |(trial, _), &(whose, ssrc, sequence, now)| {
                trial.packet(whose, ssrc, sequence, now)
            })
        };
        let good = [(1, 9, 65_534, 100), (1, 9, 65_535, 120), (1, 9, 0, 140), (1, 9, 1, 160)];
        assert!(run(&good).1);
        assert!(!run(&good[..3]).1, "three");
        assert!(!run(&[(1, 9, 1, 100), (1, 9, 2, 101), (1, 9, 3, 102), (1, 9, 4, 103)]).1, "too fast");
        assert!(!run(&[(1, 9, 1, 100), (1, 9, 2, 120), (2, 9, 3, 130), (1, 9, 4, 160)]).1, "another in between");
        assert!(!run(&[(1, 9, 1, 100), (1, 9, 2, 120), (1, 8, 3, 130), (1, 9, 4, 160)]).1, "another SSRC");
        assert!(!run(&[(1, 9, 1, 100), (1, 9, 2, 120), (1, 9, 4, 140), (1, 9, 5, 160)]).1, "a gap");
    }

    #[test]
    fn the_way_is_that_of_the_address_that_fits() {
        for (address, expected) in [(SDP, false), (NAT, true), (STRANGER, true)] {
            assert_eq!(
                SignalledRemote::rtp(&leg()).via_signalling(source(address, 0).address),
                expected,
                "{address:?}"
            );
        }
    }
}
