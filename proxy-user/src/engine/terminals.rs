//! Terminals: who is registered, and over which flow each is reached.
//!
//! A protocol's registration keeps its own words for a terminal; what every protocol shares is here: the terminal's
//! user, and where it sends from. Both are true because the softswitch accepted them.

use crate::{flow::Flow, media::RealmId};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// Names a terminal, for as long as it is registered and over restarts. No other one ever has its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TerminalId(pub u64);

/// A registered terminal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terminal {
    /// Its user, as its protocol names users.
    pub user: String,
    /// The realm that it is in.
    pub realm: RealmId,
    /// The realm of its softswitch.
    pub core: RealmId,
    /// Where its last accepted registration came from, and messages for it go.
    pub flow: Flow,
    /// It has named the secret of a party in some call: it is a device that does so, in its next calls too.
    #[serde(default)]
    pub names_secrets: bool,
}

/// All registered terminals, by number and by flow.
#[derive(Debug, Default)]
pub struct Terminals {
    terminals: HashMap<TerminalId, Terminal>,
    by_flow: HashMap<(RealmId, Flow), Vec<TerminalId>>,
    last: u64,
}

impl Terminals {
    /// None; they are numbered from `first`, which no earlier process has reached.
    pub(crate) fn numbered_from(first: u64) -> Self {
        Self { last: first, ..Self::default() }
    }

    /// The terminal of this number.
    pub fn get(&self, id: TerminalId) -> Option<&Terminal> {
        self.terminals.get(&id)
    }

    /// Takes in a terminal that was not known.
    pub(crate) fn bind(&mut self, terminal: Terminal) -> TerminalId {
        self.last += 1;
        let id = TerminalId(self.last);
        self.restore(id, terminal);
        id
    }

    /// Takes in a terminal under the number that it had.
    pub(crate) fn restore(&mut self, id: TerminalId, terminal: Terminal) {
        self.by_flow.entry((terminal.realm, terminal.flow)).or_default().push(id);
        self.terminals.insert(id, terminal);
    }

    /// A terminal is reached over another flow from now on. Returns whether it was over another one before.
    pub(crate) fn rebind(&mut self, id: TerminalId, flow: Flow) -> bool {
        let Some(terminal) = self.terminals.get_mut(&id) else { return false };
        let before = std::mem::replace(&mut terminal.flow, flow);
        if before == flow {
            return false;
        }
        let realm = terminal.realm;
        self.leave(realm, before, id);
        self.by_flow.entry((realm, flow)).or_default().push(id);
        true
    }

    /// A terminal named the secret of a party. Returns whether it is the first time.
    pub(crate) fn named_secret(&mut self, id: TerminalId) -> bool {
        self.terminals.get_mut(&id).is_some_and(|terminal| !std::mem::replace(&mut terminal.names_secrets, true))
    }

    /// A terminal is no longer registered.
    pub(crate) fn unbind(&mut self, id: TerminalId) -> Option<Terminal> {
        let terminal = self.terminals.remove(&id)?;
        self.leave(terminal.realm, terminal.flow, id);
        Some(terminal)
    }

    /// Those at this flow: several users may share a terminal.
    pub fn at(&self, realm: RealmId, flow: Flow) -> impl Iterator<Item = (TerminalId, &Terminal)> {
        let ids = self.by_flow.get(&(realm, flow)).map_or(&[][..], Vec::as_slice);
        ids.iter().filter_map(|id| Some((*id, self.terminals.get(id)?)))
    }

    fn leave(&mut self, realm: RealmId, flow: Flow, id: TerminalId) {
        if let Some(ids) = self.by_flow.get_mut(&(realm, flow)) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.by_flow.remove(&(realm, flow));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terminal(user: &str, flow: &str) -> Terminal {
        Terminal {
            user: user.into(),
            realm: RealmId::new(0),
            core: RealmId::new(1),
            flow: Flow::udp(flow.parse().unwrap()),
            names_secrets: false,
        }
    }

    #[test]
    fn a_terminal_is_found_where_it_speaks_and_nowhere_else() {
        let mut terminals = Terminals::default();
        let [here, there] = ["203.0.113.7:5060", "203.0.113.8:5060"].map(|flow| Flow::udp(flow.parse().unwrap()));
        let alice = terminals.bind(terminal("alice", "203.0.113.7:5060"));
        let bob = terminals.bind(terminal("bob", "203.0.113.7:5060"));
        let at =
            |terminals: &Terminals, flow| terminals.at(RealmId::new(0), flow).map(|(id, _)| id).collect::<Vec<_>>();
        assert_eq!(at(&terminals, here), [alice, bob]);
        assert!(terminals.rebind(alice, there));
        assert!(!terminals.rebind(alice, there), "it was there already");
        assert_eq!((at(&terminals, here), at(&terminals, there)), (vec![bob], vec![alice]));
        assert_eq!(terminals.unbind(alice).unwrap().user, "alice");
        assert_eq!(at(&terminals, there), []);
        assert!(terminals.unbind(alice).is_none());
        assert!(!terminals.rebind(alice, here));
        assert!(terminals.by_flow.len() == 1, "nothing is left of who is gone");
    }
}
