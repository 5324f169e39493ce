//! Reading: what each line means to the proxy.

use super::{
    lines::{Span, split, tokens},
    media::{Direction, Host, MediaKind, MediaSection, Protocol, Rtcp},
};
use crate::media::{
    Description, PayloadTypes,
    bandwidth::{Codec, Format, Stated},
};
use std::{net::IpAddr, ops::Range};

/// A session description as it arrived.
#[derive(Clone, Debug)]
pub struct Session {
    pub(super) body: Vec<u8>,
    pub(super) lines: Vec<Line>,
    pub(super) media: Vec<MediaSection>,
    /// Literal addresses and names in `c=`, `o=` and `a=rtcp`, as written, each once; without unspecified ones.
    pub(super) addresses: Vec<String>,
}

/// Why a body cannot be rewritten with certainty. Lines count from 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SdpError {
    /// The first line is not `v=`.
    #[error("not a session description: it does not begin with v=")]
    Version,
    /// Without this error, a reader that ends lines at CR would see lines that were not rewritten.
    #[error("line {line}: carriage return inside the line")]
    CarriageReturn {
        /// Number of the line.
        line: usize,
    },
    /// `o=` without `IN IP4|IP6 address`.
    #[error("line {line}: o= without an Internet address")]
    Origin {
        /// Number of the line.
        line: usize,
    },
    /// `c=` without `IN IP4|IP6 address`.
    #[error("line {line}: c= without an Internet address")]
    Connection {
        /// Number of the line.
        line: usize,
    },
    /// `m=` without kind, port (0 to 65535) and protocol.
    #[error("line {line}: m= without kind, port and protocol")]
    Media {
        /// Number of the line.
        line: usize,
    },
    /// More than [`MAX_MEDIA`] media descriptions or [`MAX_ADDRESSES`] different addresses.
    #[error("line {line}: too many media descriptions or addresses")]
    TooMany {
        /// Number of the line.
        line: usize,
    },
}

/// A line and what it means to the proxy.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) span: Span,
    /// Index of the media description it belongs to; none at session level.
    pub(super) media: Option<usize>,
    pub(super) role: LineKind,
}

/// What a line means to the proxy; ranges are into the body.
#[derive(Clone, Debug)]
pub(super) enum LineKind {
    /// Nothing: it stays.
    Foreign,
    /// An attribute that stays unless it contains an address.
    Attribute,
    /// It goes.
    Removed,
    /// `o=` or `c=`: from the address type to the last token.
    Address(Range<usize>),
    /// `m=`: the port token.
    Media(Range<usize>),
    /// `a=rtcp`: all behind the colon.
    Rtcp(Range<usize>),
    /// `a=rtcp-mux`, the first of a media description.
    RtcpMux,
}

impl Session {
    /// Reads a body. Lines may end in LF, the last one in nothing; order, unknown lines and missing ones do not matter.
    ///
    /// # Errors
    /// Where it cannot be said with certainty which bytes are addresses and ports.
    pub fn parse(body: &[u8]) -> Result<Self, SdpError> {
        if !body.starts_with(b"v=") {
            return Err(SdpError::Version);
        }
        let mut reader = Reader::new(body);
        for (index, span) in split(body).enumerate() {
            reader.line(span, index + 1)?;
        }
        Ok(reader.finish())
    }

    /// The media descriptions, in order.
    pub fn media(&self) -> &[MediaSection] {
        &self.media
    }

    /// The same in words that every protocol has.
    pub fn descriptions(&self) -> Vec<Description> {
        self.media.iter().map(MediaSection::description).collect()
    }
}

/// Goes through the lines once and keeps what later lines depend on.
struct Reader<'a> {
    body: &'a [u8],
    lines: Vec<Line>,
    media: Vec<MediaSection>,
    addresses: Vec<String>,
    /// What the session level says for media that say nothing themselves.
    address: Option<Host>,
    direction: Option<Direction>,
    /// Per media description: its own direction, its `a=mid`.
    directions: Vec<Option<Direction>>,
    mids: Vec<Option<&'a [u8]>>,
    /// The media description (counted from 1) that had the last `a=rtcp-mux`.
    muxed: Option<usize>,
    /// The identifications of each `a=group:ANAT`.
    alternatives: Vec<Vec<&'a [u8]>>,
}

impl<'a> Reader<'a> {
    fn new(body: &'a [u8]) -> Self {
        Self {
            body,
            lines: Vec::new(),
            media: Vec::new(),
            addresses: Vec::new(),
            address: None,
            direction: None,
            directions: Vec::new(),
            mids: Vec::new(),
            muxed: None,
            alternatives: Vec::new(),
        }
    }

    fn line(&mut self, span: Span, line: usize) -> Result<(), SdpError> {
        let text = self.slice(span.text.clone());
        if text.contains(&b'\r') {
            return Err(SdpError::CarriageReturn { line });
        }
        let value = (span.text.start + 2).min(span.text.end)..span.text.end;
        let role = match text {
            [b'o', b'=', ..] => {
                let (range, _) = self.connection(value, line)?.ok_or(SdpError::Origin { line })?;
                LineKind::Address(range)
            }
            [b'c', b'=', ..] => {
                let (range, host) = self.connection(value, line)?.ok_or(SdpError::Connection { line })?;
                let unspecified = host == Host::Unspecified;
                match self.media.last_mut() {
                    Some(media) => media.address.get_or_insert(host),
                    None => self.address.get_or_insert(host),
                };
                if unspecified { LineKind::Foreign } else { LineKind::Address(range) }
            }
            [b'm', b'=', ..] => LineKind::Media(self.media_line(value).ok_or(SdpError::Media { line })?),
            [b'a', b'=', ..] => self.attribute(value, line)?,
            [b'b', b'=', ..] => {
                self.bandwidth(value);
                LineKind::Foreign
            }
            _ => LineKind::Foreign,
        };
        if self.media.len() > MAX_MEDIA || self.addresses.len() > MAX_ADDRESSES {
            return Err(SdpError::TooMany { line });
        }
        self.lines.push(Line { span, media: self.media.len().checked_sub(1), role });
        Ok(())
    }

    /// `IN IP4|IP6 address` at the end of a value: what must be replaced, and the address.
    fn connection(&mut self, value: Range<usize>, line: usize) -> Result<Option<(Range<usize>, Host)>, SdpError> {
        let tokens = tokens(self.body, value);
        let is = |token: &Range<usize>, names: &[&[u8]]| {
            self.body.get(token.clone()).is_some_and(|text| names.iter().any(|name| text.eq_ignore_ascii_case(name)))
        };
        // From behind: a user name in `o=` may contain spaces.
        let found = tokens.windows(3).rev().find(
            |window| matches!(window, [network, kind, _] if is(network, &[b"IN"]) && is(kind, &[b"IP4", b"IP6"])),
        );
        let (Some([_, kind, address]), Some(last)) = (found, tokens.last()) else { return Ok(None) };
        let Some(text) = std::str::from_utf8(self.slice(address.clone())).ok().and_then(|text| text.split('/').next())
        else {
            return Ok(None);
        };
        let Some(host) = Host::parse(text) else { return Ok(None) };
        self.note_address(text, &host, line)?;
        Ok(Some((kind.start..last.end, host)))
    }

    fn note_address(&mut self, text: &str, host: &Host, line: usize) -> Result<(), SdpError> {
        let telling = match host {
            Host::Address(_) => true,
            Host::Unspecified => false,
            // A name of one label is too likely to be a word of some attribute.
            Host::Name(name) => name.contains('.'),
        };
        if telling && !self.addresses.iter().any(|known| known.eq_ignore_ascii_case(text)) {
            if self.addresses.len() == MAX_ADDRESSES {
                return Err(SdpError::TooMany { line });
            }
            self.addresses.push(text.to_owned());
        }
        Ok(())
    }

    fn media_line(&mut self, value: Range<usize>) -> Option<Range<usize>> {
        let tokens = tokens(self.body, value);
        let (kind, port_range, protocol, formats) = match tokens.as_slice() {
            [kind, port, protocol, formats @ ..] => (self.text(kind)?, port.clone(), self.text(protocol)?, formats),
            _ => return None,
        };
        let (port, port_count) = match self.text(&port_range)?.split_once('/') {
            Some((port, count)) => (number(port)?, number(count)?),
            None => (number(self.text(&port_range)?)?, 1),
        };
        let protocol = Protocol::from(protocol);
        let mut payload_types = PayloadTypes::default();
        let numbers =
            formats.iter().filter(|_| protocol.is_rtp()).filter_map(|format| self.text(format).and_then(number));
        let mut formats = Vec::new();
        for payload_type in numbers.filter_map(|number| u8::try_from(number).ok()).filter(|number| *number < 128) {
            if !payload_types.contains(payload_type) {
                payload_types.insert(payload_type);
                formats.push(Format::of_payload_type(payload_type));
            }
        }
        self.media.push(MediaSection {
            kind: MediaKind::from(kind),
            protocol,
            port,
            port_count,
            address: None,
            rtcp: None,
            payload_types,
            formats,
            bandwidth: Stated::default(),
            direction: Direction::default(),
            rtcp_mux: false,
            zrtp: false,
            superseded: false,
        });
        self.directions.push(None);
        self.mids.push(None);
        Some(port_range)
    }

    fn attribute(&mut self, value: Range<usize>, line: usize) -> Result<LineKind, SdpError> {
        let text = self.slice(value.clone());
        let (name, content) = match text.iter().position(|&byte| byte == b':') {
            Some(colon) => (text.get(..colon).unwrap_or_default(), value.start + colon + 1..value.end),
            None => (text, value.end..value.end),
        };
        let name = name.trim_ascii().to_ascii_lowercase();
        let direction = match name.as_slice() {
            b"sendrecv" => Some(Direction::SendRecv),
            b"sendonly" => Some(Direction::SendOnly),
            b"recvonly" => Some(Direction::RecvOnly),
            b"inactive" => Some(Direction::Inactive),
            _ => None,
        };
        if let Some(direction) = direction {
            self.directions.last_mut().unwrap_or(&mut self.direction).get_or_insert(direction);
            return Ok(LineKind::Foreign);
        }
        Ok(match name.as_slice() {
            b"rtcp" => self.rtcp(content, line)?,
            b"rtcp-mux" => {
                let repeated = self.muxed.replace(self.media.len()) == Some(self.media.len());
                match self.media.last_mut() {
                    Some(media) if !repeated => {
                        media.rtcp_mux = true;
                        LineKind::RtcpMux
                    }
                    _ => LineKind::Removed,
                }
            }
            // As an answer, it would be none (RFC 8858 §3).
            b"rtcp-mux-only" => {
                if let Some(media) = self.media.last_mut() {
                    media.rtcp_mux = true;
                }
                LineKind::Removed
            }
            b"zrtp-hash" => {
                if let Some(media) = self.media.last_mut() {
                    media.zrtp = true;
                }
                LineKind::Foreign
            }
            b"rtpmap" => {
                self.rtpmap(content);
                LineKind::Attribute
            }
            b"fmtp" => {
                self.fmtp(content);
                LineKind::Attribute
            }
            b"ptime" | b"maxprate" => {
                let text = self.text(&content).unwrap_or_default().trim().to_owned();
                if let Some(media) = self.media.last_mut() {
                    match name.as_slice() {
                        b"ptime" => media.bandwidth.ptime_ms = thousandths(&text).map(|number| number.div_ceil(1_000)),
                        _ => media.bandwidth.packets_per_1000_s = thousandths(&text),
                    }
                }
                LineKind::Attribute
            }
            b"group" => self.group(content),
            b"mid" => {
                let mid = self.slice(content).trim_ascii();
                if let Some(slot) = self.mids.last_mut() {
                    slot.get_or_insert(mid);
                }
                LineKind::Attribute
            }
            b"crypto" | b"fingerprint" => LineKind::Foreign,
            name if REMOVED.contains(&name) || REMOVED_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) => {
                LineKind::Removed
            }
            _ => LineKind::Attribute,
        })
    }

    /// What is not understood here is removed: it may hold an address, and RTCP then goes to the port next to RTP's,
    /// which is the relay's RTCP port.
    fn rtcp(&mut self, content: Range<usize>, line: usize) -> Result<LineKind, SdpError> {
        let tokens = tokens(self.body, content.clone());
        let port = tokens.first().and_then(|token| self.text(token)).and_then(number);
        let address = match tokens.len() {
            1 => None,
            _ => match self.connection(content.clone(), line)? {
                Some((_, host)) => Some(host),
                None => return Ok(LineKind::Removed),
            },
        };
        let (Some(port), Some(media)) = (port, self.media.last_mut()) else { return Ok(LineKind::Removed) };
        media.rtcp.get_or_insert(Rtcp { port, address });
        Ok(LineKind::Rtcp(content))
    }

    /// `a=rtpmap:TYPE NAME/CLOCK/CHANNELS` (RFC 8866 §6.6).
    fn rtpmap(&mut self, content: Range<usize>) {
        let Some((payload_type, codec)) = self.text(&content).and_then(|text| text.trim().split_once(' ')) else {
            return;
        };
        let mut parts = codec.trim().split('/');
        let name = parts.next().unwrap_or_default();
        let Some(clock_rate) = parts.next().and_then(|clock| clock.trim().parse().ok()) else { return };
        let channels = parts.next().and_then(|channels| channels.trim().parse().ok()).unwrap_or(1);
        if let Some(format) = format(&mut self.media, payload_type) {
            *format = Format { codec: Codec::named(name), clock_rate, channels, ..*format };
        }
    }

    /// `a=fmtp:TYPE PARAMETERS`: what bounds the bit rate.
    fn fmtp(&mut self, content: Range<usize>) {
        let Some((payload_type, parameters)) = self.text(&content).and_then(|text| text.trim().split_once(' ')) else {
            return;
        };
        let bit_rate = parameters.split(';').find_map(|parameter| {
            let (name, value) = parameter.split_once('=')?;
            name.trim().eq_ignore_ascii_case("maxaveragebitrate").then(|| value.trim().parse().ok())?
        });
        if let (Some(bit_rate), Some(format)) = (bit_rate, format(&mut self.media, payload_type)) {
            format.bit_rate = Some(bit_rate);
        }
    }

    /// `b=AS:` (RFC 8866 §5.8) and `b=TIAS:` (RFC 3890) of a media description.
    fn bandwidth(&mut self, value: Range<usize>) {
        let Some((kind, number)) = self.text(&value).and_then(|text| text.split_once(':')) else { return };
        let number = number.trim().parse::<u32>().ok();
        if let Some(media) = self.media.last_mut() {
            match kind.trim().to_ascii_uppercase().as_str() {
                "AS" => media.bandwidth.as_kbps = media.bandwidth.as_kbps.or(number),
                "TIAS" => media.bandwidth.tias_bps = media.bandwidth.tias_bps.or(number),
                _ => {}
            }
        }
    }

    fn group(&mut self, content: Range<usize>) -> LineKind {
        let words: Vec<_> =
            tokens(self.body, content).into_iter().map(|token| self.body.get(token).unwrap_or_default()).collect();
        match words.as_slice() {
            [semantics, ..] if semantics.eq_ignore_ascii_case(b"BUNDLE") => LineKind::Removed,
            [semantics, members @ ..] if semantics.eq_ignore_ascii_case(b"ANAT") => {
                self.alternatives.push(members.to_vec());
                LineKind::Removed
            }
            _ => LineKind::Attribute,
        }
    }

    fn finish(mut self) -> Session {
        for (media, own) in self.media.iter_mut().zip(&self.directions) {
            media.direction = own.or(self.direction).unwrap_or_default();
            if media.address.is_none() {
                media.address.clone_from(&self.address);
            }
        }
        for group in &self.alternatives {
            supersede(&mut self.media, &self.mids, group);
        }
        Session { body: self.body.to_vec(), lines: self.lines, media: self.media, addresses: self.addresses }
    }

    fn slice(&self, range: Range<usize>) -> &'a [u8] {
        self.body.get(range).unwrap_or_default()
    }

    fn text(&self, range: &Range<usize>) -> Option<&'a str> {
        std::str::from_utf8(self.body.get(range.clone())?).ok()
    }
}

/// Keeps one of a group of alternatives: the first with an IPv4 address, else the first.
fn supersede(media: &mut [MediaSection], mids: &[Option<&[u8]>], group: &[&[u8]]) {
    let members: Vec<usize> =
        group.iter().filter_map(|member| mids.iter().position(|mid| mid.is_some_and(|mid| mid == *member))).collect();
    let is_ipv4 = |&&index: &&usize| {
        matches!(media.get(index).and_then(|media| media.address.as_ref()), Some(Host::Address(IpAddr::V4(_))))
    };
    let Some(&kept) = members.iter().find(is_ipv4).or(members.first()) else { return };
    for index in members {
        if let Some(media) = media.get_mut(index) {
            media.superseded |= index != kept;
        }
    }
}

/// The format that an attribute of the last media description is about.
fn format<'m>(media: &'m mut [MediaSection], payload_type: &str) -> Option<&'m mut Format> {
    let payload_type: u8 = payload_type.parse().ok()?;
    media.last_mut()?.formats.iter_mut().find(|format| format.payload_type == payload_type)
}

/// A number with or without a fraction, times 1,000 and rounded up.
fn thousandths(text: &str) -> Option<u32> {
    let number = text.parse::<f64>().ok().filter(|number| (0.0..4_000_000.0).contains(number))?;
    Some((number * 1_000.0).ceil() as u32)
}

/// Digits only: `parse` alone would take a sign.
fn number(text: &str) -> Option<u16> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// Most media descriptions in a body.
pub const MAX_MEDIA: usize = 32;
/// Most different addresses in a body.
pub const MAX_ADDRESSES: usize = 32;

/// Attributes that go; the reasons stand at the head of the module `sdp`.
const REMOVED: &[&[u8]] = &[
    b"alt",
    b"altc",
    b"bundle-only",
    b"candidate",
    b"ccap",
    b"end-of-candidates",
    b"path",
    b"remote-candidates",
    b"secondary-realm",
    b"source-filter",
    b"visited-realm",
    b"x-alt",
];
/// Beginnings of attributes that go.
const REMOVED_PREFIXES: &[&[u8]] = &[b"ice-", b"omr-"];
