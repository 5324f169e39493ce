//! How much media a session description promises: what a codec sends, or what `b=` says, as IP packets.
//!
//! Two things follow: what a leg lets in (a rate, with a margin), and what a call is counted with when it asks to be
//! admitted (the same without the margin). Both are of the most demanding format that was agreed on.

use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// A codec by its name in `a=rtpmap`, as far as it is known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Codec {
    /// PCMU and PCMA.
    G711,
    /// G.722.
    G722,
    /// G.722.1.
    G7221,
    /// G.723.1.
    G723,
    /// G.726 at 16, 24, 32 or 40 kbit/s.
    G726(u8),
    /// G.728.
    G728,
    /// G.729 with its annexes A and B, or D.
    G729,
    /// G.729 annex E.
    G729E,
    /// GSM 06.10.
    Gsm,
    /// GSM enhanced full rate.
    GsmEfr,
    /// iLBC.
    Ilbc,
    /// AMR.
    Amr,
    /// AMR-WB.
    AmrWb,
    /// EVS.
    Evs,
    /// Opus.
    Opus,
    /// Speex.
    Speex,
    /// Samples of 16 bits.
    L16,
    /// DVI4.
    Dvi4,
    /// MPEG audio.
    Mpa,
    /// Keys (RFC 4733): always together with another format.
    TelephoneEvent,
    /// Comfort noise (RFC 3389): always together with another format.
    ComfortNoise,
    /// Several generations of another format in one packet (RFC 2198).
    Redundancy,
    /// Any other.
    Unknown,
}

/// One format of an `m=` line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Format {
    /// Its payload type.
    pub payload_type: u8,
    /// Its codec.
    pub codec: Codec,
    /// RTP clock, Hz; 0: not known.
    pub clock_rate: u32,
    /// Channels; 1 where the description is silent.
    pub channels: u8,
    /// `maxaveragebitrate` of its `a=fmtp` (RFC 7587), bit/s.
    pub bit_rate: Option<u32>,
}

/// What a media description says about bandwidth and packets that its author receives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stated {
    /// `b=AS` (RFC 8866), kbit/s with the headers of IP, UDP and RTP.
    pub as_kbps: Option<u32>,
    /// `b=TIAS` (RFC 3890), bit/s without the headers below RTP.
    pub tias_bps: Option<u32>,
    /// `a=maxprate` (RFC 3890), packets in a thousand seconds.
    pub packets_per_1000_s: Option<u32>,
    /// `a=ptime`, milliseconds.
    pub ptime_ms: Option<u32>,
}

/// Media of one direction: payload, and how many packets it is cut into.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Estimate {
    /// Bytes a second above IP and UDP: RTP headers are among them.
    pub bytes_per_s: u32,
    /// Packets a second, for the headers of IP and UDP; 0 where `bytes_per_s` holds these too.
    pub packets_per_s: u32,
}

/// T.38 over UDPTL: V.34 at 33.6 kbit/s, each packet with three earlier ones for redundancy.
pub const UDPTL: Estimate = Estimate { bytes_per_s: 4 * 4_200, packets_per_s: 50 };

impl Estimate {
    /// IP packets to or from `address`, bytes a second.
    pub fn on(self, address: IpAddr) -> u64 {
        let headers = if address.is_ipv4() { 28 } else { 48 };
        u64::from(self.bytes_per_s) + u64::from(self.packets_per_s) * headers
    }

    fn largest(self, other: Self) -> Self {
        let size = |estimate: Self| u64::from(estimate.bytes_per_s) + 28 * u64::from(estimate.packets_per_s);
        if size(other) > size(self) { other } else { self }
    }
}

/// The most that media of these formats is, towards a receiver that stated `receiver`. `secured`: SRTP's tags are
/// there. `None` where no format's rate is known and nothing is stated.
///
/// Where both are known, the larger one counts: many devices write the rate of the codec alone into `b=AS`, and many
/// ignore it when they send.
pub fn estimate(formats: &[Format], receiver: &Stated, secured: bool) -> Option<Estimate> {
    let packets_per_s = 1_000_u32.div_ceil(receiver.ptime_ms.unwrap_or(PTIME_MS).clamp(5, PTIME_MS));
    // A format of unknown rate may need more than any known one.
    let main = formats.iter().filter(|format| !format.codec.is_aside());
    let known =
        main.clone().all(|format| format.bits_per_s().is_some()).then(|| main.filter_map(Format::bits_per_s).max());
    let generations = if formats.iter().any(|format| format.codec == Codec::Redundancy) { 2 } else { 1 };
    let overhead = RTP_HEADER + if secured { SRTP_TAG } else { 0 };
    let of_codec = known.flatten().map(|bits| Estimate {
        bytes_per_s: (bits / 8).saturating_mul(generations).saturating_add(packets_per_s * overhead),
        packets_per_s,
    });
    let of_codec = of_codec.or_else(|| {
        // Nothing but keys and comfort noise.
        let aside = !formats.is_empty() && formats.iter().all(|format| format.codec.is_aside());
        aside.then_some(Estimate { bytes_per_s: 250 + packets_per_s * overhead, packets_per_s })
    });
    let stated = match (receiver.tias_bps, receiver.as_kbps) {
        (Some(bits), _) => {
            let packets = receiver.packets_per_1000_s.map(|packets| packets.div_ceil(1_000));
            // Without a=maxprate: packets of audio at their pace, larger ones as full as those of video.
            let packets_per_s = packets.unwrap_or(packets_per_s.max(bits / 8 / 1_000));
            let bytes_per_s = (bits / 8).saturating_add(packets_per_s.saturating_mul(overhead));
            Some(Estimate { bytes_per_s, packets_per_s })
        }
        (None, Some(kbps)) => Some(Estimate { bytes_per_s: kbps.saturating_mul(125), packets_per_s: 0 }),
        (None, None) => None,
    };
    match (of_codec, stated.filter(|stated| stated.bytes_per_s > 0)) {
        (Some(one), Some(other)) => Some(one.largest(other)),
        (one, other) => one.or(other),
    }
}

impl Format {
    /// A payload type as RFC 3551 §6, has it; `a=rtpmap` may say otherwise.
    pub fn of_payload_type(payload_type: u8) -> Self {
        let (codec, clock_rate) = match payload_type {
            0 | 8 => (Codec::G711, 8_000),
            2 => (Codec::G726(32), 8_000),
            3 => (Codec::Gsm, 8_000),
            4 => (Codec::G723, 8_000),
            5 => (Codec::Dvi4, 8_000),
            6 => (Codec::Dvi4, 16_000),
            7 | 12 => (Codec::Unknown, 8_000),
            9 => (Codec::G722, 8_000),
            10 | 11 => (Codec::L16, 44_100),
            13 => (Codec::ComfortNoise, 8_000),
            14 => (Codec::Mpa, 90_000),
            15 => (Codec::G728, 8_000),
            16 => (Codec::Dvi4, 11_025),
            17 => (Codec::Dvi4, 22_050),
            18 => (Codec::G729, 8_000),
            25 | 26 | 28 | 31..=34 => (Codec::Unknown, 90_000),
            _ => (Codec::Unknown, 0),
        };
        let channels = if payload_type == 10 { 2 } else { 1 };
        Self { payload_type, codec, clock_rate, channels, bit_rate: None }
    }

    /// The most that it sends, bit/s without any header.
    fn bits_per_s(&self) -> Option<u32> {
        let samples = self.clock_rate.max(8_000).saturating_mul(u32::from(self.channels.max(1)));
        Some(match self.codec {
            Codec::G711 => samples.saturating_mul(8),
            Codec::G722 => 64_000,
            Codec::G7221 => {
                if self.clock_rate > 16_000 {
                    48_000
                } else {
                    32_000
                }
            }
            Codec::G723 => 6_400,
            Codec::G726(kbps) => u32::from(kbps) * 1_000,
            Codec::G728 => 16_000,
            Codec::G729 => 8_000,
            Codec::G729E => 12_000,
            Codec::Gsm => 13_200,
            Codec::GsmEfr => 12_400,
            Codec::Ilbc => 15_200,
            // The highest mode with its header and table of contents, byte-aligned.
            Codec::Amr => 13_200,
            Codec::AmrWb => 24_800,
            Codec::Evs => 128_000,
            // Without a=fmtp, the most that RFC 7587 §3.1.1, recommends for any use.
            Codec::Opus => self.bit_rate.unwrap_or(128_000).clamp(6_000, 510_000),
            Codec::Speex if self.clock_rate > 16_000 => 44_000,
            Codec::Speex if self.clock_rate > 8_000 => 42_200,
            Codec::Speex => 24_600,
            Codec::L16 => samples.saturating_mul(16),
            Codec::Dvi4 => samples.saturating_mul(4),
            Codec::Mpa => 320_000,
            Codec::TelephoneEvent | Codec::ComfortNoise | Codec::Redundancy | Codec::Unknown => return None,
        })
    }
}

impl Codec {
    /// By the name in `a=rtpmap`, whatever its case.
    pub fn named(name: &str) -> Self {
        let known = NAMES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        known.map_or(Self::Unknown, |(_, codec)| *codec)
    }

    /// Whether it only accompanies formats that are the media itself.
    pub fn is_aside(self) -> bool {
        matches!(self, Self::TelephoneEvent | Self::ComfortNoise | Self::Redundancy)
    }
}

const NAMES: &[(&str, Codec)] = &[
    ("PCMU", Codec::G711),
    ("PCMA", Codec::G711),
    ("G722", Codec::G722),
    ("G7221", Codec::G7221),
    ("G723", Codec::G723),
    ("G726-16", Codec::G726(16)),
    ("AAL2-G726-16", Codec::G726(16)),
    ("G726-24", Codec::G726(24)),
    ("AAL2-G726-24", Codec::G726(24)),
    ("G726-32", Codec::G726(32)),
    ("AAL2-G726-32", Codec::G726(32)),
    ("G726-40", Codec::G726(40)),
    ("AAL2-G726-40", Codec::G726(40)),
    ("G721", Codec::G726(32)),
    ("G728", Codec::G728),
    ("G729", Codec::G729),
    ("G729A", Codec::G729),
    ("G729D", Codec::G729),
    ("G729E", Codec::G729E),
    ("GSM", Codec::Gsm),
    ("GSM-EFR", Codec::GsmEfr),
    ("iLBC", Codec::Ilbc),
    ("AMR", Codec::Amr),
    ("AMR-WB", Codec::AmrWb),
    ("EVS", Codec::Evs),
    ("opus", Codec::Opus),
    ("speex", Codec::Speex),
    ("L16", Codec::L16),
    ("DVI4", Codec::Dvi4),
    ("MPA", Codec::Mpa),
    ("telephone-event", Codec::TelephoneEvent),
    ("CN", Codec::ComfortNoise),
    ("red", Codec::Redundancy),
];

/// If no other is stated. A longer one is not counted on: the sender need not follow it.
const PTIME_MS: u32 = 20;
/// Bytes.
const RTP_HEADER: u32 = 12;
/// Bytes of SRTP's tag: 10 by default, 16 with AES-GCM.
const SRTP_TAG: u32 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn named(codec: &str, clock_rate: u32) -> Format {
        Format { payload_type: 96, codec: Codec::named(codec), clock_rate, channels: 1, bit_rate: None }
    }

    fn kbps(formats: &[Format], stated: Stated, secured: bool, address: &str) -> Option<f64> {
        let estimate = estimate(formats, &stated, secured)?;
        Some(estimate.on(address.parse().unwrap()) as f64 * 8.0 / 1_000.0)
    }

    #[test]
    fn codecs_are_what_they_are_on_the_wire() {
        let (v4, v6) = ("10.0.0.1", "2001:db8::1");
        let pcmu = Format::of_payload_type(0);
        let g729 = Format::of_payload_type(18);
        let dtmf = named("telephone-event", 8_000);
        let none = Stated::default();
        let ptime = |ms| Stated { ptime_ms: Some(ms), ..none };
        let opus = |bit_rate| Format { bit_rate, channels: 2, ..named("OPUS", 48_000) };
        let video = named("H264", 90_000);
        for (case, formats, stated, secured, address, expected) in [
            ("G.711", &[pcmu][..], none, false, v4, Some(80.0)),
            ("G.711 over IPv6", &[pcmu], none, false, v6, Some(88.0)),
            ("G.711 as SRTP", &[pcmu], none, true, v4, Some(86.4)),
            ("G.711 in packets of 10 ms", &[pcmu], ptime(10), false, v4, Some(96.0)),
            ("G.711 in packets of 30 ms: not reckoned with", &[pcmu], ptime(30), false, v4, Some(80.0)),
            ("a ptime of 0", &[pcmu], ptime(0), false, v4, Some(128.0)),
            ("G.729 with keys", &[g729, dtmf], none, false, v4, Some(24.0)),
            ("the most demanding counts", &[g729, pcmu], none, false, v4, Some(80.0)),
            ("GSM", &[Format::of_payload_type(3)], none, false, v4, Some(29.2)),
            ("G.723", &[Format::of_payload_type(4)], none, false, v4, Some(22.4)),
            ("G.722", &[Format::of_payload_type(9)], none, false, v4, Some(80.0)),
            ("iLBC", &[named("ilbc", 8_000)], none, false, v4, Some(31.2)),
            ("AMR", &[named("AMR", 8_000)], none, false, v4, Some(29.2)),
            ("AMR-WB", &[named("AMR-WB", 16_000)], none, false, v4, Some(40.8)),
            ("speex", &[named("speex", 16_000)], none, false, v4, Some(58.2)),
            ("L16 in stereo", &[Format::of_payload_type(10)], none, false, v4, Some(1_427.2)),
            ("Opus", &[opus(None)], none, false, v4, Some(144.0)),
            ("Opus with a bound", &[opus(Some(24_000))], none, false, v4, Some(40.0)),
            ("Opus with redundancy", &[opus(Some(24_000)), named("red", 48_000)], none, false, v4, Some(64.0)),
            ("keys only", &[dtmf], none, false, v4, Some(18.0)),
            ("unknown video", &[video], none, false, v4, None),
            ("unknown beside known", &[pcmu, named("X-NEW", 8_000)], none, false, v4, None),
            ("no formats", &[], none, false, v4, None),
            ("video with AS", &[video], Stated { as_kbps: Some(512), ..none }, false, v6, Some(512.0)),
            ("AS of the codec alone", &[pcmu], Stated { as_kbps: Some(64), ..none }, false, v4, Some(80.0)),
            ("AS above the codec", &[g729], Stated { as_kbps: Some(100), ..none }, false, v4, Some(100.0)),
            ("AS of 0", &[video], Stated { as_kbps: Some(0), ..none }, false, v4, None),
            ("video with TIAS", &[video], Stated { tias_bps: Some(800_000), ..none }, false, v4, Some(832.0)),
            (
                "video with TIAS and maxprate",
                &[video],
                Stated { tias_bps: Some(800_000), packets_per_1000_s: Some(149_500), as_kbps: Some(1), ..none },
                false,
                v6,
                Some(872.0),
            ),
        ] {
            assert_eq!(kbps(formats, stated, secured, address), expected, "{case}");
        }
    }

    #[test]
    fn no_numbers_are_too_large() {
        let most = Stated {
            as_kbps: Some(u32::MAX),
            tias_bps: Some(u32::MAX),
            packets_per_1000_s: Some(u32::MAX),
            ptime_ms: Some(u32::MAX),
        };
        let format = Format { clock_rate: u32::MAX, channels: 255, ..named("L16", 0) };
        assert!(estimate(&[format], &most, true).is_some());
        assert!(estimate(&[format], &Stated { tias_bps: None, ..most }, true).is_some());
    }
}
