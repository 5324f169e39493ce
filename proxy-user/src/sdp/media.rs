//! What the engine wants to know of a media description.

use crate::media::{
    Carry, Description, PayloadTypes, RemoteMedia,
    bandwidth::{Format, Stated},
};
use std::net::{IpAddr, SocketAddr};

/// One media description: an `m=` line and what follows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MediaSection {
    /// First field of `m=`.
    pub kind: MediaKind,
    /// Third field of `m=`.
    pub protocol: Protocol,
    /// RTP port; 0: rejected or no longer used (RFC 3264 §6, §8.2).
    pub port: u16,
    /// Number behind the port and a slash; 1 where there is none.
    pub port_count: u16,
    /// Where the media is wanted: the media's own `c=`, else the session's.
    pub address: Option<Host>,
    /// `a=rtcp`, where there is one.
    pub rtcp: Option<Rtcp>,
    /// The formats of `m=` that are payload types; empty where the protocol is not RTP.
    pub payload_types: PayloadTypes,
    /// The same in their order, each once, with what `a=rtpmap` and `a=fmtp` say of them, else what RFC 3551 says.
    pub formats: Vec<Format>,
    /// What `b=`, `a=ptime` and `a=maxprate` say.
    pub bandwidth: Stated,
    /// The media's direction, else the session's, else [`Direction::SendRecv`].
    pub direction: Direction,
    /// Whether RTP and RTCP may share the port: `a=rtcp-mux` (RFC 5761) or `a=rtcp-mux-only` (RFC 8858).
    pub rtcp_mux: bool,
    /// Whether `a=zrtp-hash` (RFC 6189) is there.
    pub zrtp: bool,
    /// Whether this is an alternative (RFC 4091, `group:ANAT`) to another description, which is used instead.
    pub superseded: bool,
}

/// What kind of media.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MediaKind {
    /// `audio`
    Audio,
    /// `video`
    Video,
    /// Another, as written: `image`, `text`, `application`, `message`.
    Other(String),
}

/// How media is transported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// `RTP/AVP` (RFC 3551)
    RtpAvp,
    /// `RTP/AVPF` (RFC 4585)
    RtpAvpf,
    /// `RTP/SAVP` (RFC 3711)
    RtpSavp,
    /// `RTP/SAVPF` (RFC 5124)
    RtpSavpf,
    /// `UDP/TLS/RTP/SAVP` (RFC 5764)
    DtlsSavp,
    /// `UDP/TLS/RTP/SAVPF` (RFC 5764)
    DtlsSavpf,
    /// `udptl` (ITU-T T.38, annex D)
    Udptl,
    /// Another, as written: `TCP/RTP/AVP`, `TCP/MSRP`.
    Other(String),
}

/// A connection address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// A literal address.
    Address(IpAddr),
    /// `0.0.0.0` or `::`: media is not wanted now (hold, RFC 3264 §8.4).
    Unspecified,
    /// A domain name.
    Name(String),
}

/// `a=rtcp` (RFC 3605).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rtcp {
    /// RTCP port.
    pub port: u16,
    /// RTCP address, where it is not the media's.
    pub address: Option<Host>,
}

/// Which way media flows, as the author of the description sees it (RFC 3264 §5.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direction {
    /// Both ways.
    #[default]
    SendRecv,
    /// The author only sends.
    SendOnly,
    /// The author only receives.
    RecvOnly,
    /// Neither way.
    Inactive,
}

impl MediaSection {
    /// Whether the relay can carry it: RTP or UDPTL over UDP with one pair of ports, and not an alternative to another
    /// description. What cannot be relayed goes out with port 0, which rejects it (RFC 3264 §6): media over TCP, MSRP,
    /// BFCP, data channels, layered RTP with several pairs of ports.
    pub fn relayable(&self) -> bool {
        let known = self.protocol.is_rtp() || self.protocol == Protocol::Udptl;
        known && self.port_count == 1 && !self.superseded
    }

    /// The same in words that every protocol has.
    pub fn description(&self) -> Description {
        Description {
            relayed: self.port != 0 && self.relayable(),
            carry: Carry {
                dtls: self.protocol.is_dtls(),
                zrtp: self.zrtp,
                udptl: self.protocol == Protocol::Udptl,
                stun: false,
            },
            secured: self.protocol.is_secured(),
            rtcp_mux: self.rtcp_mux && self.protocol.is_rtp(),
            stated: self.port != 0,
            kind: self.kind.as_str().to_owned(),
            remote: self.remote(),
            payload_types: self.payload_types,
            formats: self.formats.clone(),
            bandwidth: self.bandwidth,
            held: self.held(),
        }
    }

    /// RTP clock of the first payload type of `m=`, Hz; 0 where it is not known.
    pub fn clock_rate(&self) -> u32 {
        self.formats.first().map_or(0, |format| format.clock_rate)
    }

    /// Whether its author put it on hold, in today's style or with an unspecified address.
    pub fn held(&self) -> bool {
        matches!(self.direction, Direction::SendOnly | Direction::Inactive) || self.address == Some(Host::Unspecified)
    }

    /// Where media is wanted, where that is a literal address. RTCP: `a=rtcp`, else the next port up; port 0 where
    /// there is none.
    pub fn remote(&self) -> Option<RemoteMedia> {
        let literal = |host: Option<&Host>| match host {
            Some(Host::Address(address)) => Some(*address),
            _ => None,
        };
        let address = literal(self.address.as_ref()).filter(|_| self.port != 0)?;
        let rtcp_address = self.rtcp.as_ref().and_then(|rtcp| literal(rtcp.address.as_ref())).unwrap_or(address);
        let rtcp_port = self.rtcp.as_ref().map_or(self.port.checked_add(1).unwrap_or(0), |rtcp| rtcp.port);
        Some(RemoteMedia { rtp: SocketAddr::new(address, self.port), rtcp: SocketAddr::new(rtcp_address, rtcp_port) })
    }
}

impl MediaKind {
    /// As written in `m=`.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Audio => "audio",
            Self::Video => "video",
            Self::Other(text) => text,
        }
    }
}

impl From<&str> for MediaKind {
    fn from(text: &str) -> Self {
        match text {
            _ if text.eq_ignore_ascii_case("audio") => Self::Audio,
            _ if text.eq_ignore_ascii_case("video") => Self::Video,
            _ => Self::Other(text.to_owned()),
        }
    }
}

impl Protocol {
    /// Whether it is RTP over UDP.
    pub fn is_rtp(&self) -> bool {
        !matches!(self, Self::Udptl | Self::Other(_))
    }

    /// Whether its keys are agreed by DTLS on its own port (RFC 5764).
    pub fn is_dtls(&self) -> bool {
        matches!(self, Self::DtlsSavp | Self::DtlsSavpf)
    }

    /// Whether it is SRTP.
    pub fn is_secured(&self) -> bool {
        self.is_dtls() || matches!(self, Self::RtpSavp | Self::RtpSavpf)
    }
}

impl From<&str> for Protocol {
    fn from(text: &str) -> Self {
        match text.to_ascii_uppercase().as_str() {
            "RTP/AVP" => Self::RtpAvp,
            "RTP/AVPF" => Self::RtpAvpf,
            "RTP/SAVP" => Self::RtpSavp,
            "RTP/SAVPF" => Self::RtpSavpf,
            "UDP/TLS/RTP/SAVP" => Self::DtlsSavp,
            "UDP/TLS/RTP/SAVPF" => Self::DtlsSavpf,
            "UDPTL" => Self::Udptl,
            _ => Self::Other(text.to_owned()),
        }
    }
}

impl Host {
    /// Reads a connection address without `/ttl` and `/count`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Some(if address.is_unspecified() { Self::Unspecified } else { Self::Address(address) });
        }
        let legal = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'));
        (legal && text.bytes().any(|byte| byte.is_ascii_alphabetic())).then(|| Self::Name(text.to_owned()))
    }
}
