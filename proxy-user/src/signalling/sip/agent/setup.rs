//! A call that rings when the process ends: the two transactions of its INVITE are journalled with its dialog, so that
//! the next process can ring on, answer, or give up in order.

use super::{
    dialogs::DialogId,
    inbound::server_key,
    roles::Role,
    state::{Forward, InDialog, MediaPhase, Purpose, Turn},
    transactions::{Outgoing, Server, ServerTxId, Transactions},
};
use crate::{config::Side, flow::Flow, media::RealmId, signalling::sip::Message};
use serde::{Deserialize, Serialize};
use std::{net::SocketAddr, time::Instant};

/// Both transactions of an INVITE without a final response.
#[derive(Serialize, Deserialize)]
pub(super) struct Setup {
    realm: RealmId,
    source: Flow,
    /// From which address it came first, and by which transport; from any port.
    #[serde(default)]
    first: Option<Flow>,
    #[serde(with = "octets")]
    request: Vec<u8>,
    tag: String,
    /// The last response that was sent.
    #[serde(with = "octets")]
    response: Vec<u8>,
    forwarded: Option<Forwarded>,
}

/// The INVITE as it went on.
#[derive(Serialize, Deserialize)]
struct Forwarded {
    realm: RealmId,
    destination: Flow,
    branch: String,
    #[serde(with = "octets")]
    request: Vec<u8>,
    unreachable_status: u16,
    /// A provisional response came.
    proceeding: bool,
    media: MediaPhase,
}

impl Setup {
    /// Of the INVITE of this transaction, while it has no final response.
    pub(super) fn of(transactions: &Transactions<Purpose>, invite: ServerTxId) -> Option<Self> {
        let server = transactions.server(invite).filter(|server| !server.is_answered())?;
        let client = server.client().and_then(|id| transactions.client(id)).filter(|client| client.waits());
        let forwarded = client.and_then(|client| {
            let Purpose::Forward(forward) = client.purpose() else { return None };
            Some(Forwarded {
                realm: client.realm(),
                destination: client.destination(),
                branch: client.branch().to_owned(),
                request: client.request().to_vec(),
                unreachable_status: client.unreachable_status(),
                proceeding: client.is_proceeding(),
                media: forward.media,
            })
        });
        Some(Self {
            realm: server.realm(),
            source: server.source(),
            first: Some(Flow::to(server.key().transport, SocketAddr::new(server.key().peer, 0))),
            request: server.request().bytes().to_vec(),
            tag: server.tag().to_owned(),
            response: server.response().to_vec(),
            forwarded,
        })
    }
}

impl Turn<'_> {
    /// Takes up the transactions of a call that was ringing. One whose caller was on a connection, which ended with the
    /// process, is given up.
    pub(super) fn ring_on(&mut self, id: DialogId, setup: Setup, now: Instant) {
        let Setup { realm: from, source, first, request, tag, response, forwarded } = setup;
        let Ok(request) = Message::parse(&request) else { return };
        // Only the earlier process knew how much may still be sent to an unproved address.
        self.core.hears(from, source, request.bytes().len(), || false, now);
        let key = server_key(from, first.unwrap_or(source), &request, "INVITE");
        let server = Server::new(key, source, request, tag).with_response(response);
        let Some(server) = self.transactions.open_server(server) else {
            return self.core.inconsistent("one INVITE of two dialogs");
        };
        self.transactions.move_server(server, source);
        if let Some(call) = self.dialogs.call_mut(id) {
            call.invite = Some(server);
        }
        let Some(Forwarded { realm, destination, branch, request, unreachable_status, proceeding, media }) = forwarded
        else {
            return;
        };
        let place = InDialog { id, from: Role::Originator, to: None, target: None, moves: None };
        let purpose = Purpose::Forward(Forward { server, dialog: Some(place), register: None, media });
        let outgoing = Outgoing {
            branch,
            method: "INVITE".into(),
            realm,
            destination,
            request: request.clone(),
            purpose,
            unreachable_status,
            udp_fallback_allowed: false,
        };
        let Some(client) = self.transactions.open_client(outgoing, now) else {
            return self.core.inconsistent("one INVITE of two dialogs");
        };
        if proceeding {
            self.transactions.received(client, 100, now);
        }
        self.wake_client(client);
        self.transactions.sent_on(server, client);
        if !self.reaches(realm, destination) {
            // Over a connection, which ended with the process.
            self.lose(client, now);
        } else if !proceeding {
            self.send(realm, destination, request);
        }
        let cancelled = self.dialogs.call(id).is_some_and(|call| call.cancelled);
        if cancelled || (source.transport.is_reliable() && self.core.side(from) == Some(Side::Access)) {
            // It was cancelled, or to the caller its call has failed: no terminal must ring for it.
            self.cancel_client(client, now);
        }
    }
}

/// Octets as text, each as the character of its number: short where they are mostly ASCII, and whole whatever they are.
mod octets {
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(octets: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&octets.iter().map(|octet| char::from(*octet)).collect::<String>())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let octets = text.chars().map(|character| u8::try_from(u32::from(character))).collect::<Result<_, _>>();
        octets.map_err(|_| de::Error::custom("a character that is not an octet"))
    }
}
