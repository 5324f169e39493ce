//! Who may act for a party of a call or of a dialog: decided here, for all protocols.
//!
//! A party belongs to its terminal's binding, or to the flow that it sent from. Its secret, a token that only its own
//! side was ever shown, lets it send from another place; whether it has moved there is settled when the other side
//! accepts what it said. What everybody can know about a call (its identifiers, its tags, who calls whom) gives no
//! right to act.

use super::{Core, terminals::TerminalId};
use crate::{flow::Flow, media::RealmId};
use serde::{Deserialize, Serialize};

/// Where a party is: what decides who may act for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// The realm that it is in.
    pub realm: RealmId,
    /// Over which it is reached.
    pub flow: Flow,
    /// Its registered terminal, if it has one.
    pub terminal: Option<TerminalId>,
    /// It has named its secret: a message without it is not from this party, whatever source its packets show.
    pub named_secret: bool,
    /// It is a terminal that names its secrets: the same.
    #[serde(default)]
    pub names_secrets: bool,
    /// It was shown its secret elsewhere, and has not answered from where it is what was only sent there: to name the
    /// secret does not prove that it is there.
    #[serde(default)]
    pub unproved: bool,
}

/// Whether a message comes from the party that it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// From the party, where it was.
    Same,
    /// From the party, in another place: it has moved there when the other side accepts what it says.
    Moves,
    /// From somebody else: nothing may come of it.
    Stranger,
}

impl Standing {
    /// A party that was heard over this flow.
    pub fn new(realm: RealmId, flow: Flow, terminal: Option<TerminalId>) -> Self {
        Self { realm, flow, terminal, named_secret: false, names_secrets: false, unproved: false }
    }
}

impl Core {
    /// Whether a message that came into the party's realm over `from` may act for it. `secret` says that it named what
    /// only this party can know.
    pub fn may_act(&self, party: &Standing, from: Flow, secret: bool) -> Verdict {
        if self.is_core(party.realm) {
            // A network of servers: they send from any port, and for each other.
            let known = from.ip() == party.flow.ip() || self.is_server(party.realm, from.ip());
            return if known || secret { Verdict::Same } else { Verdict::Stranger };
        }
        let bound = party.terminal.and_then(|id| self.terminals.get(id));
        // The source of a datagram can be forged; a connection's cannot.
        let names_it = party.named_secret || party.names_secrets;
        let believed = secret || !names_it || from.transport.is_reliable();
        match bound.is_some_and(|terminal| terminal.flow == from) {
            _ if from == party.flow && believed => Verdict::Same,
            // Where its registration came from, but not where it sent from last.
            true if believed => Verdict::Moves,
            _ if secret => Verdict::Moves,
            _ => Verdict::Stranger,
        }
    }
}
