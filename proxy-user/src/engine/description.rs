//! What an offer and its answer agree on.

use super::sides::{CallSide, PerSide};
use crate::media::{
    Carry, Description, PayloadTypes, RemoteMedia,
    bandwidth::{Codec, Estimate, Format},
};
use serde::{Deserialize, Serialize};

/// What offer and answer made of a slot.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Agreed {
    pub(super) kind: String,
    pub(super) remotes: PerSide<Option<RemoteMedia>>,
    /// Of each side, how often what it states in `remotes` has changed.
    #[serde(default)]
    pub(super) epochs: PerSide<u32>,
    pub(super) payload_types: PayloadTypes,
    /// Of each side, whether RTP and RTCP share a port there.
    pub(super) rtcp_mux: PerSide<bool>,
    /// What the session descriptions want relayed besides RTP and RTCP.
    pub(super) carry: Carry,
    /// RTP clock, Hz; 0: not known.
    pub(super) clock_rate: u32,
    /// The first that is the media itself.
    pub(super) codec: Codec,
    /// The most that each side sends, where that is known.
    pub(super) sends: PerSide<Option<Estimate>>,
    pub(super) on_hold: bool,
}

/// Whether a session description that goes out is an offer or an answer there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exchange {
    Offer,
    Answer,
}

impl Agreed {
    /// Before there is an answer: what is offered.
    pub(super) fn offered(description: &Description) -> Self {
        Self {
            kind: description.kind.clone(),
            remotes: PerSide::default(),
            epochs: PerSide::default(),
            payload_types: description.payload_types,
            rtcp_mux: PerSide::default(),
            carry: description.carry,
            clock_rate: description.clock_rate(),
            codec: description.codec(),
            sends: PerSide::new(description.asks_for(), description.asks_for()),
            on_hold: false,
        }
    }

    pub(super) fn set_remote(&mut self, side: CallSide, remote: Option<RemoteMedia>) {
        if remote.is_some() && self.remotes[side] != remote {
            self.remotes[side] = remote;
            self.epochs[side] = self.epochs[side].wrapping_add(1);
        }
    }

    /// Side `from` answered.
    pub(super) fn agree(&mut self, from: CallSide, offered: &Description, answered: &Description) {
        let to = from.other();
        self.set_remote(to, offered.remote);
        self.set_remote(from, answered.remote);
        self.kind.clone_from(&offered.kind);
        self.payload_types = offered.payload_types.union(answered.payload_types);
        // What was offered to the answerer is in the session description that it got.
        self.rtcp_mux[from] = answered.rtcp_mux && (offered.rtcp_mux || self.rtcp_mux[from]);
        self.rtcp_mux[to] = offered.rtcp_mux;
        self.carry = Carry {
            zrtp: offered.carry.zrtp || answered.carry.zrtp,
            udptl: answered.carry.udptl,
            dtls: answered.carry.dtls,
            stun: false,
        };
        self.clock_rate = answered.clock_rate();
        self.codec = answered.codec();
        // What a description says, it says of what its author wants to receive.
        let both = |format: &&Format| {
            let same = |other: &Format| (other.codec, other.clock_rate) == (format.codec, format.clock_rate);
            answered.formats.iter().any(same)
        };
        let common: Vec<_> = offered.formats.iter().filter(both).copied().collect();
        let common = if common.is_empty() { &answered.formats } else { &common };
        self.sends[from] = offered.receives(common, answered);
        self.sends[to] = answered.receives(&answered.formats, offered);
        self.on_hold = offered.held || answered.held;
    }
}
