//! How many bytes a stranger's request makes Latch keep, as the budgets count them: the lengths of all that is copied
//! from it. What has the same size for each transaction or dialog is counted with these (`engine::strangers_memory`).

use super::{
    dialogs::{Dialog, Party},
    registrations::{Pending, Stated},
    state::{Forward, Purpose, Turn},
    transactions::{Client, Server, ServerTxId},
};
use crate::signalling::sip::{Message, Name};

/// Bytes of a response besides the header fields that it repeats of the request. More than that comes from the
/// softswitch, not from a stranger.
const RESPONSE: usize = 2_048;
/// Bytes of each string besides its text: itself, and what the allocator adds.
const STRING: usize = size_of::<String>() + 32;
/// Bytes of a token and its entry in the map of all.
const TOKEN: usize = 384;
/// Bytes of an entry in the map of tags besides their text.
const TAGS: usize = 384;

impl Turn<'_> {
    /// Counts what a request takes, after it was forwarded or answered, beyond what was reserved for it. It is too late
    /// to refuse it; the next request is refused.
    pub(super) fn count_kept(&mut self, id: ServerTxId) {
        let Some(server) = self.transactions.server(id) else { return };
        let client = server.client().and_then(|client| self.transactions.client(client));
        let kept = of_server(server) + client.map_or(0, of_client);
        if let Some(held) = self.transactions.held_mut(id) {
            let more = kept.saturating_sub(held.amounts().bytes as usize);
            self.core.add_bytes(held, more);
        }
    }
}

/// What both transactions of a request take, as far as known before it is forwarded.
pub(super) fn of_request(request: &Message) -> usize {
    request.memory() + request.bytes().len() + of_response(request)
}

/// What a dialog takes that a request begins, with its call: the parties as each side knows them, their names in the
/// record, where they are reached.
pub(super) fn of_dialog(request: &Message) -> usize {
    let length = |name| request.value(name).map_or(0, |value| value.len());
    let contact = request.values(Name::Contact).next().map_or(0, |value| value.len());
    let routes: usize = request.values(Name::RecordRoute).map(|route| route.len() + STRING + size_of::<String>()).sum();
    // From: twice in the identities, tag and caller, the user twice.
    5 * length(Name::From) + 3 * length(Name::To) + 3 * length(Name::CallId) + 2 * contact + routes
}

/// What a party takes that answers a dialog's first request, of which a fork has several.
pub(super) fn of_answerer(dialog: &Dialog, party: &Party) -> usize {
    let routes: usize = party.routes.iter().map(|route| route.len() + STRING).sum();
    // With the room for as many again.
    let state = 2 * size_of::<Party>() + TOKEN + party.tag.len() + party.target.len() + routes;
    // It is found by Call-ID and tags.
    state + TAGS + dialog.call_id.len() + dialog.originator.tag.len() + party.tag.len()
}

fn of_server(server: &Server) -> usize {
    let key: usize = server.keys().map(|key| key.branch.len() + key.method.len()).sum();
    server.request().memory() + 2 * key + server.response().len().max(of_response(server.request()))
}

fn of_client(client: &Client<Purpose>) -> usize {
    let key = client.branch().len() + client.method().len();
    let purpose = match client.purpose() {
        Purpose::Forward(Forward { register: Some(pending), .. }) => of_registration(pending),
        _ => 0,
    };
    client.request().len() + 2 * key + purpose
}

fn of_registration(pending: &Pending) -> usize {
    let of_contact = |stated: &Stated| {
        let instance = stated.instance.as_ref().map_or(0, String::len);
        size_of::<Stated>() + 3 * STRING + stated.token.len() + stated.uri.len() + instance
    };
    pending.aor.len() + pending.call_id.len() + pending.contacts.iter().map(of_contact).sum::<usize>()
}

/// The largest response to be expected.
fn of_response(request: &Message) -> usize {
    request.bytes().len() - request.body().len() + RESPONSE
}
