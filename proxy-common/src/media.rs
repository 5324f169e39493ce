//! What a datagram on a relay port is, told from its first bytes (RFC 7983, RFC 5761).

/// Shortest RTP packet: the fixed header (RFC 3550, section 5.1), bytes.
pub const RTP_HEADER: usize = 12;
/// Shortest RTCP packet: header and sender's SSRC (RFC 3550, section 6.4.2), bytes.
pub const RTCP_HEADER: usize = 8;

/// The kind of a datagram on a relay port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// RTP with this payload type (0 to 127).
    Rtp(u8),
    /// RTCP, by the packet types 192 to 223 of RFC 5761, section 4.
    Rtcp,
    /// Anything else: STUN, DTLS, ZRTP, TURN channels, empty keep-alives, garbage.
    Other,
}

/// Classifies by the first two bytes and the length of the UDP payload.
#[inline(always)]
pub const fn classify(first: u8, second: u8, length: usize) -> Kind {
    // Version 2 in the two top bits is the range 128 to 191 of RFC 7983.
    if first & 0xc0 != 0x80 {
        return Kind::Other;
    }
    if second & 0xe0 == 0xc0 {
        if length >= RTCP_HEADER { Kind::Rtcp } else { Kind::Other }
    } else if length >= RTP_HEADER {
        Kind::Rtp(second & 0x7f)
    } else {
        Kind::Other
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
            (0x00, 0x01, 20, Kind::Other), // STUN
            (0x10, 0x00, 20, Kind::Other), // ZRTP
            (22, 254, 60, Kind::Other),    // DTLS
            (0x40, 0x00, 60, Kind::Other), // TURN channel
            (0xc0, 0x00, 60, Kind::Other), // version 3
            (0x00, 0x00, 0, Kind::Other),
        ] {
            assert_eq!(classify(first, second, length), expected, "{first:#x} {second} {length}");
        }
    }
}
