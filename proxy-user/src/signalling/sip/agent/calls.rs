//! One call: who, when, why it ended, and its media; and the record of it.

use super::{Engine, dialogs::Role};
use crate::{
    accounting::{CallDirection, Cdr, FlowRecord, Latched, RecordId, SCHEMA, StreamRecord, Terminal},
    config::Side,
    engine::{admission::Charge, session::MediaSession},
    journal::moment,
};
use serde::{Deserialize, Serialize};
use std::{net::SocketAddr, time::Instant};

pub(super) use crate::accounting::EndCause;

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Call {
    /// Names its record.
    pub(super) record: u128,
    pub(super) media: MediaSession,
    /// What it is counted with.
    pub(super) charge: Charge,
    /// URIs in From and To.
    pub(super) caller: String,
    pub(super) callee: String,
    /// The terminal's recorded signalling addresses: of the IP header and in Contact.
    pub(super) terminal: Terminal,
    /// Number in CSeq of its INVITE.
    pub(super) cseq: u32,
    #[serde(with = "moment")]
    pub(super) started: Instant,
    #[serde(with = "moment")]
    pub(super) answered: Option<Instant>,
    /// The answerers that sent a 2xx.
    pub(super) confirmed: Vec<usize>,
    pub(super) ended: Option<Ending>,
    /// The INVITE that began it, until it has a final response.
    #[serde(skip)]
    pub(super) invite: Option<u64>,
    /// The BYE that is under way, from and to: whoever takes up the call ends it.
    #[serde(default)]
    pub(super) bye: Option<(Role, Role)>,
    /// The INVITE whose 2xx made an offer that its ACK is to answer: who sent it, and its CSeq number.
    #[serde(default)]
    pub(super) ack_answers: Option<(Role, u32)>,
    /// Nothing was relayed when it was looked at last.
    pub(super) idle: bool,
    /// The caller cancelled it.
    pub(super) cancelled: bool,
    /// Its record was written, or it needs none.
    pub(super) recorded: bool,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Ending {
    #[serde(with = "moment")]
    pub(super) at: Instant,
    pub(super) cause: EndCause,
    /// Status code of the final response to the first INVITE.
    pub(super) code: Option<u16>,
}

impl Engine {
    /// The record of a call that has ended.
    pub(super) fn cdr(&self, dialog: u64) -> Option<Cdr> {
        let dialog = self.dialogs.get(&dialog)?;
        let call = dialog.call()?;
        let ended = call.ended?;
        let timestamp = |at: Instant| self.clock.at(at);
        let latched =
            |source: Option<(SocketAddr, Instant)>| source.map(|(address, at)| Latched { address, at: timestamp(at) });
        let [first, second] = dialog.realms;
        let from_access = self.side(first) == Some(Side::Access);
        debug_assert_ne!(self.side(first), self.side(second));
        let (access, core) = if from_access { (0, 1) } else { (1, 0) };
        let streams = call
            .media
            .reports()
            .iter()
            .map(|report| {
                let flow = |side: usize| {
                    let [rtp, rtcp] = report.latched[side];
                    FlowRecord::new(&report.counters[side], report.codec, latched(rtp), latched(rtcp))
                };
                StreamRecord {
                    index: report.index,
                    kind: report.kind.clone(),
                    access_to_core: flow(access),
                    core_to_access: flow(core),
                }
            })
            .collect();
        let duration = call.answered.map(|answered| ended.at.saturating_duration_since(answered));
        Some(Cdr {
            schema: SCHEMA,
            id: RecordId(call.record),
            call_id: dialog.call_id.clone(),
            caller: call.caller.clone(),
            callee: call.callee.clone(),
            direction: if from_access { CallDirection::AccessToCore } else { CallDirection::CoreToAccess },
            terminal: call.terminal.clone(),
            start: timestamp(call.started),
            answer: call.answered.map(timestamp),
            end: timestamp(ended.at),
            duration_ms: duration.map_or(0, |duration| duration.as_millis() as u64),
            end_cause: ended.cause,
            final_code: ended.code,
            streams,
        })
    }
}
