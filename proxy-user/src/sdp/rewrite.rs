//! Writing: the same lines with the proxy's addresses and ports.

use super::session::{Line, LineKind, Session};
use crate::{addresses::Hidden, media::MediaPlan};
use std::net::IpAddr;

/// What a session description must say when it goes out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewrite {
    /// The proxy's media address in the realm that the description goes to.
    pub address: IpAddr,
    /// For each media description, in order; one that is missing is rejected.
    pub media: Vec<MediaPlan>,
}

impl Session {
    /// The description as it goes out. The same description and plan always give the same bytes, and rewriting the
    /// result once more with that plan changes nothing.
    pub fn rewrite(&self, plan: &Rewrite) -> Vec<u8> {
        let address = match plan.address {
            IpAddr::V4(address) => format!("IP4 {address}"),
            IpAddr::V6(address) => format!("IP6 {address}"),
        };
        // The own address too: else an attribute that names it would survive once and not twice.
        let hidden: Hidden = self.addresses.iter().cloned().chain([plan.address.to_string()]).collect();
        let mut out = Vec::with_capacity(self.body.len() + 64);
        for (number, line) in self.lines.iter().enumerate() {
            let relay = line.media.and_then(|index| self.relay(index, plan));
            match &line.role {
                LineKind::Foreign => self.copy(&mut out, line),
                LineKind::Attribute if hidden.stands_in(self.text(line)) => {}
                LineKind::Attribute => self.copy(&mut out, line),
                LineKind::Removed => {}
                LineKind::Address(range) => self.replace(&mut out, line, range.clone(), &address),
                LineKind::Media(range) => match relay {
                    Some((rtp_port, ..)) => {
                        let length = self.digits(range.clone());
                        self.replace(&mut out, line, range.start..range.start + length, &rtp_port.to_string());
                    }
                    None if line.media.and_then(|index| self.media.get(index)).is_some_and(|media| media.port == 0) => {
                        self.copy(&mut out, line);
                    }
                    None => self.replace(&mut out, line, range.clone(), "0"),
                },
                LineKind::Rtcp(range) => {
                    let has_address = self
                        .body
                        .get(range.clone())
                        .is_some_and(|text| text.trim_ascii().iter().any(u8::is_ascii_whitespace));
                    match relay {
                        Some((_, port, _)) if has_address => {
                            self.replace(&mut out, line, range.clone(), &format!("{port} IN {address}"));
                        }
                        Some((_, port, _)) => self.replace(&mut out, line, range.clone(), &port.to_string()),
                        None => {}
                    }
                }
                LineKind::RtcpMux if relay.is_some_and(|(.., rtcp_mux)| rtcp_mux) => self.copy(&mut out, line),
                LineKind::RtcpMux => {}
            }
            if relay.is_some_and(|(.., rtcp_mux)| rtcp_mux) && self.lacks_mux_after(number) {
                self.insert(&mut out, line, b"a=rtcp-mux");
            }
        }
        out
    }

    /// RTP and RTCP port of a media description that goes through the relay, and whether it says `a=rtcp-mux`.
    fn relay(&self, index: usize, plan: &Rewrite) -> Option<(u16, u16, bool)> {
        self.media.get(index).filter(|media| media.port != 0 && media.relayable())?;
        match plan.media.get(index) {
            Some(&MediaPlan::Relay { rtp_port, rtcp_port, rtcp_mux }) if rtp_port != 0 => {
                Some((rtp_port, rtcp_port, rtcp_mux))
            }
            _ => None,
        }
    }

    /// Whether this is the last line of a media description that has no `a=rtcp-mux`; empty lines behind it do not
    /// count.
    fn lacks_mux_after(&self, number: usize) -> bool {
        let Some(media) = self.lines.get(number).and_then(|line| line.media) else { return false };
        let of_media = |line: &&Line| line.media == Some(media);
        let is_last = |line: &Line| !line.span.text.is_empty();
        let rest = self.lines.iter().skip(number + 1).take_while(of_media);
        self.lines.get(number).is_some_and(is_last)
            && !rest.clone().any(is_last)
            && !self.lines.iter().filter(of_media).any(|line| matches!(line.role, LineKind::RtcpMux))
    }

    /// A line behind one that has been dealt with, with an ending if that has one.
    fn insert(&self, out: &mut Vec<u8>, behind: &Line, text: &[u8]) {
        let ending = self.body.get(behind.span.text.end..behind.span.next).filter(|ending| !ending.is_empty());
        if !out.ends_with(b"\n") {
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(text);
        out.extend_from_slice(ending.unwrap_or_default());
    }

    fn text(&self, line: &Line) -> &[u8] {
        self.body.get(line.span.text.clone()).unwrap_or_default()
    }

    fn digits(&self, range: std::ops::Range<usize>) -> usize {
        self.body.get(range).unwrap_or_default().iter().take_while(|byte| byte.is_ascii_digit()).count()
    }

    fn copy(&self, out: &mut Vec<u8>, line: &Line) {
        out.extend_from_slice(self.body.get(line.span.text.start..line.span.next).unwrap_or_default());
    }

    fn replace(&self, out: &mut Vec<u8>, line: &Line, range: std::ops::Range<usize>, with: &str) {
        out.extend_from_slice(self.body.get(line.span.text.start..range.start).unwrap_or_default());
        out.extend_from_slice(with.as_bytes());
        out.extend_from_slice(self.body.get(range.end..line.span.next).unwrap_or_default());
    }
}
