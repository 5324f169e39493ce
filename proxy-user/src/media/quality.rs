//! An estimate of a listener's opinion: a simplified E-model (ITU-T G.107) for what arrived at the proxy.
//!
//! `R = 93.2 - Id - Ie,eff`: of the model's terms those that a relay can know, with the default of every other one. It
//! includes neither the path from the proxy to the listener nor the delay of the network before the proxy.

use super::{Quality, bandwidth::Codec};

/// Mean opinion score in hundredths: 100 to 450.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mos(pub u16);

/// The score of what arrived in `packets`; `None` where nothing did, or where ITU-T G.113 knows no values of the codec
/// for narrow-band telephony.
pub fn mos(codec: Codec, packets: u64, quality: &Quality) -> Option<Mos> {
    let (impairment, robustness) = impairment(codec)?;
    let arrived = packets.saturating_sub(quality.duplicates);
    let expected = arrived + quality.lost;
    if arrived == 0 {
        return None;
    }
    let loss_percent = 100.0 * quality.lost as f64 / expected as f64;
    let effective = impairment + (95.0 - impairment) * loss_percent / (loss_percent + robustness);
    // A jitter buffer of twice the jitter, and what packets and codec take themselves.
    let jitter_ms = quality.jitter_us.unwrap_or(0) as f64 / 1_000.0;
    let delay_ms = CODEC_DELAY_MS + 2.0 * jitter_ms;
    let delay = 0.024 * delay_ms + 0.11 * (delay_ms - 177.3).max(0.0);
    Some(score(93.2 - delay - effective))
}

/// ITU-T G.107, annex B.
fn score(r: f64) -> Mos {
    let mos = match r {
        _ if r <= 0.0 => 1.0,
        _ if r >= 100.0 => 4.5,
        _ => 1.0 + 0.035 * r + r * (r - 60.0) * (100.0 - r) * 7e-6,
    };
    Mos((mos.clamp(1.0, 4.5) * 100.0).round() as u16)
}

/// `Ie` and, for random losses, `Bpl` (ITU-T G.113, appendix I; G.711 with concealment of losses). iLBC is not in it:
/// its values are those in common use.
fn impairment(codec: Codec) -> Option<(f64, f64)> {
    Some(match codec {
        Codec::G711 => (0.0, 25.1),
        Codec::G726(40) => (2.0, NO_CONCEALMENT),
        Codec::G726(32) => (7.0, NO_CONCEALMENT),
        Codec::G726(24) => (25.0, NO_CONCEALMENT),
        Codec::G726(_) => (50.0, NO_CONCEALMENT),
        Codec::G728 => (7.0, NO_CONCEALMENT),
        Codec::G729 => (11.0, 19.0),
        Codec::G723 => (15.0, 16.1),
        Codec::Gsm => (20.0, NO_CONCEALMENT),
        Codec::GsmEfr | Codec::Amr => (5.0, 10.0),
        Codec::Ilbc => (11.0, 32.0),
        _ => return None,
    })
}

/// `Bpl` of G.711 without concealment, for codecs that have no value of their own.
const NO_CONCEALMENT: f64 = 4.3;
/// Packets of 20 ms, and the same again for coding and playing.
const CODEC_DELAY_MS: f64 = 40.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_those_of_the_model() {
        let quality = |lost, jitter_us| Quality { lost, jitter_us, ..Quality::default() };
        for (codec, packets, quality, expected) in [
            (Codec::G711, 1_000, quality(0, Some(0)), Some(439)),
            (Codec::G711, 1_000, quality(0, None), Some(439)),
            (Codec::G711, 990, quality(10, Some(2_000)), Some(430)),
            (Codec::G711, 950, quality(50, Some(5_000)), Some(387)),
            (Codec::G711, 500, quality(500, Some(5_000)), Some(156)),
            (Codec::G711, 1, quality(1_000_000, Some(0)), Some(115)),
            (Codec::G711, 1_000, quality(0, Some(150_000)), Some(346)),
            (Codec::G711, 1_000, quality(0, Some(u64::MAX)), Some(100)),
            (Codec::G729, 1_000, quality(0, Some(0)), Some(407)),
            (Codec::G729, 980, quality(20, Some(0)), Some(375)),
            (Codec::Amr, 1_000, quality(0, Some(0)), Some(427)),
            (Codec::G711, 0, quality(5, None), None),
            (Codec::Opus, 1_000, quality(0, Some(0)), None),
            (Codec::Unknown, 1_000, quality(0, Some(0)), None),
        ] {
            assert_eq!(mos(codec, packets, &quality), expected.map(Mos), "{codec:?} {packets} {quality:?}");
        }
    }

    #[test]
    fn what_came_twice_is_not_what_was_lost() {
        let quality = Quality { lost: 10, duplicates: 10, ..Quality::default() };
        assert_eq!(mos(Codec::G711, 1_000, &quality), mos(Codec::G711, 990, &Quality { duplicates: 0, ..quality }));
    }
}
