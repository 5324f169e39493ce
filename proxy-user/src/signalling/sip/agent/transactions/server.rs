//! A request that somebody sent us: the record around its machine.

use super::{
    super::exemption::Exempt, ids::ClientTxId, invite_server::InviteServer, non_invite_server::NonInviteServer,
    outcome::ServerDue, timing::Context,
};
use crate::{
    engine::budgets::Held,
    flow::{Flow, Transport},
    media::RealmId,
    signalling::sip::Message,
};
use std::{net::IpAddr, time::Instant};

/// What tells one server transaction from another (RFC 3261 §17.2.3). An ACK for a non-2xx and a CANCEL carry
/// the branch of their INVITE.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in super::super) struct ServerKey {
    pub(in super::super) realm: RealmId,
    /// Who sent it, from whatever port and over whatever connection.
    pub(in super::super) peer: IpAddr,
    pub(in super::super) transport: Transport,
    pub(in super::super) branch: String,
    pub(in super::super) method: String,
}

/// What a request takes of the share of strangers, or that it is exempt. It is given back when this is dropped.
pub(super) type Share = (Option<Held>, Option<Exempt>);

/// A request that somebody sent us.
#[derive(Debug)]
pub(in super::super) struct Server {
    key: ServerKey,
    /// The same where its sender has moved to.
    moved: Option<ServerKey>,
    /// Where it came from, and its responses go.
    source: Flow,
    request: Message,
    /// The last response that was sent.
    response: Vec<u8>,
    /// As what it went on.
    client: Option<ClientTxId>,
    /// To tag of our own responses.
    tag: String,
    /// What it takes of the share of strangers.
    held: Option<Held>,
    /// It takes nothing of that share, because it names the token of a party.
    exempt: Option<Exempt>,
    machine: Machine,
}

#[derive(Debug)]
enum Machine {
    Invite(InviteServer),
    NonInvite(NonInviteServer),
}

impl Server {
    /// One that has just come.
    pub(in super::super) fn new(key: ServerKey, source: Flow, request: Message, tag: String) -> Self {
        let machine = match key.method.as_str() {
            "INVITE" => Machine::Invite(InviteServer::new()),
            _ => Machine::NonInvite(NonInviteServer::new()),
        };
        let (response, client, moved, held, exempt) = (Vec::new(), None, None, None, None);
        Self { key, moved, source, request, response, client, tag, held, exempt, machine }
    }

    /// One that takes this of the share of strangers, or nothing because it is exempt.
    #[must_use]
    pub(in super::super) fn with_share(self, held: Option<Held>, exempt: Option<Exempt>) -> Self {
        Self { held, exempt, ..self }
    }

    /// One to which an earlier process has sent this provisional response.
    #[must_use]
    pub(in super::super) fn with_response(self, response: Vec<u8>) -> Self {
        Self { response, ..self }
    }

    pub(in super::super) fn key(&self) -> &ServerKey {
        &self.key
    }

    /// What finds it.
    pub(in super::super) fn keys(&self) -> impl Iterator<Item = &ServerKey> {
        self.moved.iter().chain([&self.key])
    }

    /// It is found by this key too, and no longer by the one that is returned.
    pub(super) fn is_at(&mut self, key: Option<ServerKey>) -> Option<ServerKey> {
        std::mem::replace(&mut self.moved, key)
    }

    /// The realm that it came from.
    pub(in super::super) fn realm(&self) -> RealmId {
        self.key.realm
    }

    /// Where it came from, and its responses go.
    pub(in super::super) fn source(&self) -> Flow {
        self.source
    }

    pub(in super::super) fn request(&self) -> &Message {
        &self.request
    }

    /// The last response that was sent; empty where none was.
    pub(in super::super) fn response(&self) -> &[u8] {
        &self.response
    }

    /// To tag of our own responses.
    pub(in super::super) fn tag(&self) -> &str {
        &self.tag
    }

    /// As what it went on, if it did.
    pub(in super::super) fn client(&self) -> Option<ClientTxId> {
        self.client
    }

    /// Whether it is an INVITE without a final response.
    pub(in super::super) fn is_ringing(&self) -> bool {
        matches!(&self.machine, Machine::Invite(machine) if !machine.is_answered())
    }

    /// Whether a final response was sent.
    pub(in super::super) fn is_answered(&self) -> bool {
        match &self.machine {
            Machine::Invite(machine) => machine.is_answered(),
            Machine::NonInvite(machine) => machine.is_answered(),
        }
    }

    /// Whether it is an INVITE with a refusal that nobody has acknowledged.
    pub(in super::super) fn is_unacknowledged(&self) -> bool {
        matches!(&self.machine, Machine::Invite(machine) if machine.is_unacknowledged())
    }

    /// The 2xx to an INVITE that was sent with this To tag.
    pub(in super::super) fn accepted(&self, tag: &str) -> Option<&[u8]> {
        match &self.machine {
            Machine::Invite(machine) => machine.accepted(tag),
            Machine::NonInvite(_) => None,
        }
    }

    /// When time asks something of it.
    pub(in super::super) fn next(&self) -> Option<Instant> {
        match &self.machine {
            Machine::Invite(machine) => machine.next(),
            Machine::NonInvite(machine) => machine.next(),
        }
    }

    pub(super) fn is_reliable(&self) -> bool {
        self.source.transport.is_reliable()
    }

    pub(super) fn held_mut(&mut self) -> Option<&mut Held> {
        self.held.as_mut()
    }

    /// What it takes of the share of strangers, or that it takes nothing, for a transaction that is still there.
    pub(super) fn take_share(&mut self) -> Share {
        (self.held.take(), self.exempt.take())
    }

    pub(super) fn move_to(&mut self, flow: Flow) -> Flow {
        std::mem::replace(&mut self.source, flow)
    }

    pub(super) fn sent_on(&mut self, client: ClientTxId) {
        self.client = Some(client);
    }

    pub(super) fn respond(&mut self, code: u16, response: &[u8], context: &Context) -> bool {
        let taken = match &mut self.machine {
            Machine::Invite(machine) => machine.respond(code, context),
            Machine::NonInvite(machine) => machine.respond(code, context),
        };
        if taken {
            self.response = response.to_vec();
        }
        taken
    }

    pub(super) fn remember_accepted(&mut self, tag: String, bytes: Vec<u8>) {
        if let Machine::Invite(machine) = &mut self.machine {
            machine.remember_accepted(tag, bytes);
        }
    }

    pub(super) fn acknowledge(&mut self, context: &Context) -> bool {
        match &mut self.machine {
            Machine::Invite(machine) => machine.acknowledge(context),
            Machine::NonInvite(_) => false,
        }
    }

    pub(super) fn due(&mut self, context: &Context) -> ServerDue<()> {
        match &mut self.machine {
            Machine::Invite(machine) => machine.due(context),
            Machine::NonInvite(machine) => machine.due(context),
        }
    }
}
