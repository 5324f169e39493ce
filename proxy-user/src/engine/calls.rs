//! One call: who, when, why it ended, and its media; and the record of it.

use super::{
    CallId, Protocol,
    admission::Charge,
    budgets::Held,
    session::MediaSession,
    sides::{CallSide, PerSide},
};
use crate::{
    accounting::{
        CallDirection, Cdr, EndCause, FlowRecord, Latched, RecordId, SCHEMA, StreamRecord, Terminal, WallClock,
    },
    journal::moment,
    media::RealmId,
};
use serde::{Deserialize, Serialize};
use std::{
    net::{IpAddr, SocketAddr},
    time::Instant,
};

/// One call of any protocol. Its protocol keeps its own state of the call under the same number.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Call {
    pub(super) owner: Protocol,
    /// What its protocol calls it.
    pub(super) name: String,
    pub(super) realms: PerSide<RealmId>,
    /// The side of the terminal that its record is about.
    pub(super) terminal_side: CallSide,
    /// Names its record.
    pub(super) record: u128,
    pub(super) media: MediaSession,
    /// What it is counted with.
    pub(super) charge: Charge,
    pub(super) caller: String,
    pub(super) callee: String,
    /// The terminal's recorded signalling addresses: of the IP header and in the message.
    pub(super) terminal: Terminal,
    #[serde(with = "moment")]
    pub(super) started: Instant,
    pub(super) state: State,
    /// Nothing was relayed when it was looked at last.
    pub(super) idle: bool,
    /// The address of the stranger who began it, until it is answered.
    #[serde(skip)]
    pub(super) stranger: Option<IpAddr>,
    /// The pairs of ports that it takes of the share of strangers until then.
    #[serde(skip)]
    pub(super) held: Vec<Held>,
}

/// How far a call has come.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) enum State {
    /// Nobody has answered.
    Setup,
    Answered {
        #[serde(with = "moment")]
        at: Instant,
    },
    /// Its last counters may still have to come.
    Ended {
        #[serde(with = "moment")]
        answered: Option<Instant>,
        #[serde(with = "moment")]
        at: Instant,
        cause: EndCause,
        /// What its protocol said in the end; in SIP the final status code of the first INVITE.
        code: Option<u16>,
    },
    /// It was no call after all, and needs no record.
    Withdrawn,
}

impl Call {
    /// Whether it is live: being set up, or answered.
    pub(super) fn is_live(&self) -> bool {
        matches!(self.state, State::Setup | State::Answered { .. })
    }

    pub(super) fn is_answered(&self) -> bool {
        matches!(self.state, State::Answered { .. })
    }

    /// Its record, once it has ended.
    pub(super) fn cdr(&self, clock: &WallClock) -> Option<Cdr> {
        let State::Ended { answered, at: ended, cause, code } = self.state else { return None };
        let timestamp = |at: Instant| clock.at(at);
        let latched =
            |source: Option<(SocketAddr, Instant)>| source.map(|(address, at)| Latched { address, at: timestamp(at) });
        let from_access = self.terminal_side == CallSide::Caller;
        let (access, core) = (self.terminal_side.index(), self.terminal_side.other().index());
        let streams = self
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
        let duration = answered.map(|answered| ended.saturating_duration_since(answered));
        Some(Cdr {
            schema: SCHEMA,
            id: RecordId(self.record),
            call_id: self.name.clone(),
            caller: self.caller.clone(),
            callee: self.callee.clone(),
            direction: if from_access { CallDirection::AccessToCore } else { CallDirection::CoreToAccess },
            terminal: self.terminal.clone(),
            start: timestamp(self.started),
            answer: answered.map(timestamp),
            end: timestamp(ended),
            duration_ms: duration.map_or(0, |duration| duration.as_millis() as u64),
            end_cause: cause,
            final_code: code,
            streams,
        })
    }
}

/// A call to begin.
#[derive(Clone, Debug)]
pub struct CallStart {
    /// The protocol that it belongs to.
    pub owner: Protocol,
    /// What the protocol calls it, for its record and the log.
    pub name: String,
    /// Each side's realm, and the address that its signalling comes from.
    pub sides: PerSide<(RealmId, std::net::IpAddr)>,
    /// The caller, as the protocol names it.
    pub caller: String,
    /// The callee.
    pub callee: String,
    /// The terminal of the call, and the side that it is on.
    pub terminal: (CallSide, Terminal),
    /// Whose limits it counts for, where users have limits: [`super::Core::user_at`].
    pub user: Option<(CallSide, String)>,
}

/// Why a call, or an offer in one, is refused; the protocol translates it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The proxy is stopping: no call begins any more.
    Stopping,
    /// There are as many calls as allowed.
    TooManyCalls,
    /// A realm or a user would exceed its limits; with the status code that the configuration wants.
    NotAdmitted(u16),
    /// No pair of ports is left in a realm.
    NoPorts,
    /// There are media, but none that can be relayed.
    NothingToRelay,
    /// There is no such call, or it has ended.
    NoCall,
}

/// What the core wants of the protocol that a call is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallEvent {
    /// Tell both sides that it is over, and end it.
    HangUp(EndCause),
    /// It was live when an earlier process ended, and continues.
    Resumed,
}

/// Names a call during its life, and over restarts.
impl From<CallId> for u64 {
    fn from(id: CallId) -> Self {
        id.0
    }
}
