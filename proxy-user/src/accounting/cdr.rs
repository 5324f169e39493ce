//! The call detail record.
//!
//! One record a call, written at its end as one line of JSON. Field names and their meaning do not change within a
//! [`SCHEMA`]; new fields may be added.

use super::Timestamp;
use crate::media::{
    LegCounters,
    bandwidth::Codec,
    quality::{Mos, mos},
};
use serde::{Deserialize, Serialize, Serializer};
use std::{fmt, net::SocketAddr};

/// Version of the record's form.
pub const SCHEMA: u32 = 2;

/// One call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cdr {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Names this record; two records never have the same.
    pub id: RecordId,
    /// SIP `Call-ID`. A call between two terminals of the same proxy has one record for each of them.
    pub call_id: String,
    /// URI in `From` of the first INVITE.
    pub caller: String,
    /// URI in `To` of the first INVITE.
    pub callee: String,
    /// Which side called.
    pub direction: CallDirection,
    /// The terminal on the access side.
    pub terminal: Terminal,
    /// When the first INVITE arrived.
    pub start: Timestamp,
    /// When its 2xx arrived; none where the call was not answered.
    pub answer: Option<Timestamp>,
    /// When the call was over.
    pub end: Timestamp,
    /// From answer to end, milliseconds; 0 where the call was not answered.
    pub duration_ms: u64,
    /// Why the call ended.
    pub end_cause: EndCause,
    /// Final status code of the first INVITE; none where there was none.
    pub final_code: Option<u16>,
    /// One for each media description that had a relay, in their order.
    pub streams: Vec<StreamRecord>,
}

/// Names a record: shown as 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RecordId(pub u128);

/// Which side called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CallDirection {
    /// The terminal called.
    AccessToCore,
    /// The terminal was called.
    CoreToAccess,
}

/// A terminal's signalling addresses at the time of the call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terminal {
    /// Source of the IP and UDP headers: its NAT's, where there is one.
    pub source: SocketAddr,
    /// URI in its `Contact`; none where it sent none.
    pub contact: Option<String>,
}

/// Why a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndCause {
    /// The caller hung up.
    ByeCaller,
    /// The callee hung up.
    ByeCallee,
    /// The caller gave up before an answer.
    Cancelled,
    /// The INVITE was answered with 3xx to 6xx: [`Cdr::final_code`].
    Rejected,
    /// One side did not answer a request any more.
    Timeout,
    /// No media for the configured time; the proxy hung up.
    MediaSilence,
    /// The proxy was stopped.
    Shutdown,
    /// Anything else; the log says what.
    Error,
}

/// One media description of a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StreamRecord {
    /// Position of its `m=` line, from 0.
    pub index: usize,
    /// First field of `m=`: `audio`, `video`.
    pub kind: String,
    /// What came from the terminal.
    pub access_to_core: FlowRecord,
    /// What came from the core.
    pub core_to_access: FlowRecord,
}

/// One direction of a stream: what arrived from one side. Octets are IP total lengths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FlowRecord {
    /// Where its RTP came from.
    pub rtp_source: Option<Latched>,
    /// Where its RTCP came from.
    pub rtcp_source: Option<Latched>,
    /// RTP packets forwarded.
    pub rtp_packets: u64,
    /// Their octets.
    pub rtp_octets: u64,
    /// RTCP packets forwarded.
    pub rtcp_packets: u64,
    /// Their octets.
    pub rtcp_octets: u64,
    /// How its RTP arrived.
    pub quality: QualityRecord,
    /// Packets dropped, by reason.
    pub dropped: Dropped,
}

/// How the RTP of one direction arrived at the proxy (RFC 3550).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct QualityRecord {
    /// Packets that the sequence numbers promise.
    pub expected: u64,
    /// Packets that never came.
    pub lost: u64,
    /// Packets that came late.
    pub reordered: u64,
    /// Packets that came again.
    pub duplicates: u64,
    /// How often another SSRC took over.
    pub ssrc_changes: u64,
    /// Interarrival jitter at the end of the call, microseconds; none where it is not known.
    pub jitter_us: Option<u64>,
    /// Estimate of the mean opinion score; none where nothing came or the codec has no values for it.
    #[serde(serialize_with = "score")]
    pub mos: Option<Mos>,
}

/// A remote address that a leg latched, the last one where it changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Latched {
    /// The address and port.
    pub address: SocketAddr,
    /// When it was latched.
    pub at: Timestamp,
}

/// Packets dropped, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Dropped {
    /// From an address or port that may not send here.
    pub source: u64,
    /// Neither RTP nor RTCP, on the wrong port, or of a payload type that was not negotiated.
    pub format: u64,
    /// The other side's address was not known yet.
    pub no_destination: u64,
    /// More than the rate allows.
    pub rate: u64,
    /// Too large for the way out.
    pub size: u64,
    /// TTL used up, no next hop, or a loop inside the host.
    pub other: u64,
}

impl Cdr {
    /// The record as one line of JSON, line feed included.
    ///
    /// # Errors
    /// Never for the present record, which has no map keys and no foreign serialisers; the type does not show that.
    pub fn to_json_line(&self) -> serde_json::Result<Vec<u8>> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        Ok(line)
    }
}

impl FlowRecord {
    /// A direction with what arrived at its leg, in `codec`, and the sources that the leg latched.
    pub fn new(
        counters: &LegCounters,
        codec: Codec,
        rtp_source: Option<Latched>,
        rtcp_source: Option<Latched>,
    ) -> Self {
        let quality = &counters.quality;
        Self {
            rtp_source,
            rtcp_source,
            rtp_packets: counters.rtp_packets,
            rtp_octets: counters.rtp_octets,
            rtcp_packets: counters.rtcp_packets,
            rtcp_octets: counters.rtcp_octets,
            quality: QualityRecord {
                expected: counters.rtp_packets.saturating_sub(quality.duplicates).saturating_add(quality.lost),
                lost: quality.lost,
                reordered: quality.reordered,
                duplicates: quality.duplicates,
                ssrc_changes: quality.ssrc_changes,
                jitter_us: quality.jitter_us,
                mos: mos(codec, counters.rtp_packets, quality),
            },
            dropped: Dropped {
                source: counters.dropped_source,
                format: counters.dropped_format,
                no_destination: counters.dropped_destination,
                rate: counters.dropped_rate,
                size: counters.dropped_size,
                other: counters.dropped_path,
            },
        }
    }
}

/// As a number with two decimals.
#[allow(clippy::ref_option, reason = "the form that serde asks for")]
fn score<S: Serializer>(mos: &Option<Mos>, serializer: S) -> Result<S::Ok, S::Error> {
    mos.map(|Mos(hundredths)| f64::from(hundredths) / 100.0).serialize(serializer)
}

impl fmt::Display for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl Serialize for RecordId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::Quality;

    fn flow(n: u64) -> FlowRecord {
        let counters = LegCounters {
            rtp_packets: n,
            rtp_octets: 200 * n,
            rtcp_packets: 2,
            rtcp_octets: 160,
            dropped_source: 3,
            dropped_format: 4,
            dropped_destination: 5,
            dropped_path: 6,
            dropped_rate: 7,
            dropped_size: 8,
            quality: Quality { lost: 9, reordered: 10, duplicates: 11, ssrc_changes: 12, jitter_us: Some(13) },
        };
        let source = Latched { address: "198.51.100.7:40000".parse().unwrap(), at: Timestamp(1_790_000_001_250) };
        FlowRecord::new(&counters, Codec::G711, Some(source), None)
    }

    #[test]
    fn a_record_is_one_line_of_json() {
        let cdr = Cdr {
            schema: SCHEMA,
            id: RecordId(0xabc),
            call_id: "f81d4fae@\"10.0.0.5\"\n".into(),
            caller: "sip:alice@example.com".into(),
            callee: "sip:bob@example.com".into(),
            direction: CallDirection::AccessToCore,
            terminal: Terminal {
                source: "198.51.100.7:5062".parse().unwrap(),
                contact: Some("sip:alice@192.168.1.5:5060".into()),
            },
            start: Timestamp(1_790_000_000_000),
            answer: Some(Timestamp(1_790_000_001_000)),
            end: Timestamp(1_790_000_011_500),
            duration_ms: 10_500,
            end_cause: EndCause::ByeCallee,
            final_code: Some(200),
            streams: vec![StreamRecord {
                index: 0,
                kind: "audio".into(),
                access_to_core: flow(500),
                core_to_access: FlowRecord::default(),
            }],
        };
        let line = String::from_utf8(cdr.to_json_line().unwrap()).unwrap();
        assert_eq!(line.matches('\n').count(), 1);
        assert!(line.ends_with('\n'));
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&line).unwrap(),
            serde_json::json!({
                "schema": 2,
                "id": "00000000000000000000000000000abc",
                "call_id": "f81d4fae@\"10.0.0.5\"\n",
                "caller": "sip:alice@example.com",
                "callee": "sip:bob@example.com",
                "direction": "access_to_core",
                "terminal": {"source": "198.51.100.7:5062", "contact": "sip:alice@192.168.1.5:5060"},
                "start": "2026-09-21T14:13:20.000Z",
                "answer": "2026-09-21T14:13:21.000Z",
                "end": "2026-09-21T14:13:31.500Z",
                "duration_ms": 10_500,
                "end_cause": "bye_callee",
                "final_code": 200,
                "streams": [{
                    "index": 0,
                    "kind": "audio",
                    "access_to_core": {
                        "rtp_source": {"address": "198.51.100.7:40000", "at": "2026-09-21T14:13:21.250Z"},
                        "rtcp_source": null,
                        "rtp_packets": 500, "rtp_octets": 100_000, "rtcp_packets": 2, "rtcp_octets": 160,
                        "quality": {
                            "expected": 498, "lost": 9, "reordered": 10, "duplicates": 11, "ssrc_changes": 12,
                            "jitter_us": 13, "mos": 4.22,
                        },
                        "dropped": {"source": 3, "format": 4, "no_destination": 5, "rate": 7, "size": 8, "other": 6},
                    },
                    "core_to_access": {
                        "rtp_source": null, "rtcp_source": null,
                        "rtp_packets": 0, "rtp_octets": 0, "rtcp_packets": 0, "rtcp_octets": 0,
                        "quality": {
                            "expected": 0, "lost": 0, "reordered": 0, "duplicates": 0, "ssrc_changes": 0,
                            "jitter_us": null, "mos": null,
                        },
                        "dropped": {"source": 0, "format": 0, "no_destination": 0, "rate": 0, "size": 0, "other": 0},
                    },
                }],
            })
        );
    }
}
