//! Connections that messages came over, and what depends on each.

use super::{
    registrations::BindingId,
    transactions::{ClientTxId, ServerTxId},
};
use crate::flow::{ConnectionId, Flow};
use std::collections::{HashMap, HashSet};

/// All connections.
#[derive(Debug, Default)]
pub(super) struct Connections {
    open: HashMap<ConnectionId, Open>,
}

/// What depends on a connection.
#[derive(Debug, Default)]
pub(super) struct Open {
    /// Transactions of ours that wait for an answer.
    pub(super) clients: HashSet<ClientTxId>,
    /// INVITEs that came over it and have no final response.
    pub(super) invites: HashSet<ServerTxId>,
    /// Bindings that were made over it; some may have moved on.
    pub(super) bindings: HashSet<BindingId>,
}

impl Connections {
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// A message came over it.
    pub(super) fn heard(&mut self, flow: Flow) {
        if let Some(id) = flow.connection {
            self.open.entry(id).or_default();
        }
    }

    pub(super) fn is_open(&self, connection: Option<ConnectionId>) -> bool {
        connection.is_some_and(|id| self.open.contains_key(&id))
    }

    /// What depends on a flow's connection; `None` where it has none, or it is gone.
    pub(super) fn of(&mut self, flow: Flow) -> Option<&mut Open> {
        flow.connection.and_then(|id| self.open.get_mut(&id))
    }

    /// It is gone.
    pub(super) fn close(&mut self, flow: Flow) -> Option<Open> {
        flow.connection.and_then(|id| self.open.remove(&id))
    }
}
