//! What SIP keeps of a call in addition to the core.

use super::{roles::Role, transactions::ServerTxId};
use crate::engine::CallId;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Call {
    /// As the core knows it.
    pub(super) id: CallId,
    /// Number in CSeq of its INVITE.
    pub(super) cseq: u32,
    /// It was answered: its end is announced by BYE.
    pub(super) answered: bool,
    /// The answerers that sent a 2xx.
    pub(super) confirmed: Vec<usize>,
    /// The INVITE that began it, until it has a final response.
    #[serde(skip)]
    pub(super) invite: Option<ServerTxId>,
    /// The BYE that is under way, from and to: the process that takes over the call ends it.
    #[serde(default)]
    pub(super) bye: Option<(Role, Role)>,
    /// The INVITE whose 2xx made an offer that its ACK has to answer: who sent it, and its CSeq number.
    #[serde(default)]
    pub(super) ack_answers: Option<(Role, u32)>,
    /// The caller cancelled it.
    pub(super) cancelled: bool,
}

impl Call {
    /// One whose INVITE has just come.
    pub(super) fn new(id: CallId, cseq: u32, invite: ServerTxId) -> Self {
        Self {
            id,
            cseq,
            answered: false,
            confirmed: Vec::new(),
            invite: Some(invite),
            bye: None,
            ack_answers: None,
            cancelled: false,
        }
    }
}
