//! What a datagram on a relay port is, by its first bytes (RFC 7983, RFC 5761).

/// Shortest RTP packet: the fixed header (RFC 3550 §5.1), bytes.
pub const RTP_HEADER: usize = 12;
/// Shortest RTCP packet: header and sender's SSRC (RFC 3550 §6.4.2), bytes.
pub const RTCP_HEADER: usize = 8;

/// Longest datagram that is taken for a keep-alive, bytes (RFC 6263 section 4.1: empty; some phones send CRLF or
/// zeros).
pub const KEEPALIVE: usize = 4;
/// Shortest DTLS record: its header (RFC 6347 §4.1), bytes.
pub const DTLS_HEADER: usize = 13;

/// The kind of a datagram on a relay port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// RTP with this payload type (0 to 127).
    Rtp(u8),
    /// RTCP, by the packet types 192 to 223 of RFC 5761 §4.
    Rtcp,
    /// STUN.
    Stun,
    /// ZRTP.
    Zrtp,
    /// DTLS; whether it is a handshake.
    Dtls(bool),
    /// At most [`KEEPALIVE`] bytes.
    Keepalive,
    /// Anything else: TURN channels, garbage.
    Other,
}

/// The kinds as numbers, without what they hold.
pub mod class {
    /// [`super::Kind::Rtp`]
    pub const RTP: u8 = 0;
    /// [`super::Kind::Rtcp`]
    pub const RTCP: u8 = 1;
    /// [`super::Kind::Stun`]
    pub const STUN: u8 = 2;
    /// [`super::Kind::Zrtp`]
    pub const ZRTP: u8 = 3;
    /// [`super::Kind::Dtls`], not a handshake
    pub const DTLS: u8 = 4;
    /// [`super::Kind::Dtls`], a handshake
    pub const DTLS_HANDSHAKE: u8 = 5;
    /// [`super::Kind::Keepalive`]
    pub const KEEPALIVE: u8 = 6;
    /// [`super::Kind::Other`]
    pub const OTHER: u8 = 7;
}

impl Kind {
    /// One of [`class`], and the payload type of RTP.
    #[inline(always)]
    pub const fn class(self) -> (u8, u8) {
        match self {
            Self::Rtp(payload_type) => (class::RTP, payload_type),
            Self::Rtcp => (class::RTCP, 0),
            Self::Stun => (class::STUN, 0),
            Self::Zrtp => (class::ZRTP, 0),
            Self::Dtls(false) => (class::DTLS, 0),
            Self::Dtls(true) => (class::DTLS_HANDSHAKE, 0),
            Self::Keepalive => (class::KEEPALIVE, 0),
            Self::Other => (class::OTHER, 0),
        }
    }
}

/// Classifies by the first two bytes and the length of the UDP payload.
#[inline(always)]
pub const fn classify(first: u8, second: u8, length: usize) -> Kind {
    // Version 2 in the two top bits is the range 128 to 191 of RFC 7983.
    if first & 0xc0 == 0x80 {
        if second & 0xe0 == 0xc0 {
            if length >= RTCP_HEADER {
                return Kind::Rtcp;
            }
        } else if length >= RTP_HEADER {
            return Kind::Rtp(second & 0x7f);
        }
    }
    if length <= KEEPALIVE {
        return Kind::Keepalive;
    }
    match first {
        0..=3 => Kind::Stun,
        16..=19 => Kind::Zrtp,
        20..=63 if length >= DTLS_HEADER => Kind::Dtls(first == 22),
        _ => Kind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_byte_separates_protocols() {
        for (first, second, length, expected) in [
            (0x80, 0x00, 172, Kind::Rtp(0)),
            (0x80, 0x88, 172, Kind::Rtp(8)), // marker bit set
            (0x90, 0x60, 12, Kind::Rtp(96)),
            (0x80, 0x00, 11, Kind::Other),
            (0x80, 200, 28, Kind::Rtcp),
            (0x81, 192, 8, Kind::Rtcp),
            (0x81, 223, 8, Kind::Rtcp),
            (0x81, 201, 7, Kind::Other),
            (0x80, 224, 12, Kind::Rtp(96)),
            (0x00, 0x01, 20, Kind::Stun),
            (0x10, 0x00, 20, Kind::Zrtp),
            (22, 254, 60, Kind::Dtls(true)),
            (23, 254, 60, Kind::Dtls(false)),
            (22, 254, 12, Kind::Other),
            (0x80, 0x00, 4, Kind::Keepalive),
            (0x0d, 0x0a, 4, Kind::Keepalive),
            (0x40, 0x00, 60, Kind::Other), // TURN channel
            (0xc0, 0x00, 60, Kind::Other), // version 3
            (0x00, 0x00, 0, Kind::Keepalive),
        ] {
            assert_eq!(classify(first, second, length), expected, "{first:#x} {second} {length}");
        }
    }
}
