//! What one media description says, in any protocol: the engine makes streams from it, and decides what goes out in its
//! place.

use super::{
    Carry, PayloadTypes, RemoteMedia,
    bandwidth::{self, Codec, Estimate, Format, Stated},
};
use serde::{Deserialize, Serialize};

/// What one media description says of the party that sent it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// The relay can carry it, and its author wants it.
    pub relayed: bool,
    /// Besides RTP and RTCP.
    pub carry: Carry,
    /// As SRTP.
    pub secured: bool,
    /// RTP and RTCP may share the port (RFC 5761).
    pub rtcp_mux: bool,
    /// Its author wants it: the port is not 0.
    pub stated: bool,
    /// `audio`, `video`, or another as written.
    pub kind: String,
    /// `None` keeps the address that was there before: old-style hold, or one that the relay can't send to.
    pub remote: Option<RemoteMedia>,
    /// Its payload types, where it is RTP.
    pub payload_types: PayloadTypes,
    /// The same in their order, with codec and clock.
    pub formats: Vec<Format>,
    /// What it says of bandwidth and packet time.
    pub bandwidth: Stated,
    /// Its author put it on hold.
    pub held: bool,
}

/// What happens to a media description. One with port 0 keeps port 0 whatever is planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MediaPlan {
    /// Through the relay's ports.
    Relay {
        /// RTP.
        rtp_port: u16,
        /// RTCP; where it is RTP's, the description says so (RFC 8035).
        rtcp_port: u16,
        /// Whether RTP and RTCP share the port (RFC 5761).
        rtcp_mux: bool,
    },
    /// Rejected: port 0 (RFC 3264 §6).
    Reject,
}

impl Description {
    /// RTP clock of the first format, Hz; 0 where it is not known.
    pub fn clock_rate(&self) -> u32 {
        self.formats.first().map_or(0, |format| format.clock_rate)
    }

    /// The first codec that is the media itself.
    pub fn codec(&self) -> Codec {
        self.formats.iter().map(|format| format.codec).find(|codec| !codec.is_aside()).unwrap_or(Codec::Unknown)
    }

    /// The most that its author gets in these formats from a party with that description.
    pub fn receives(&self, formats: &[Format], sender: &Self) -> Option<Estimate> {
        if self.carry.udptl {
            return Some(bandwidth::UDPTL);
        }
        let ptime_ms = self.bandwidth.ptime_ms.into_iter().chain(sender.bandwidth.ptime_ms).min();
        bandwidth::estimate(formats, &Stated { ptime_ms, ..self.bandwidth }, self.secured)
    }

    /// The most that it asks for, before there is an answer.
    pub fn asks_for(&self) -> Option<Estimate> {
        self.receives(&self.formats, self)
    }
}
