//! Where a request goes.

use crate::{engine::TerminalId, flow::Flow, media::RealmId};

/// Where a request goes.
#[derive(Clone, Debug)]
pub(super) struct ForwardPlan {
    pub(super) realm: RealmId,
    pub(super) destination: Flow,
    /// The registered terminal there, where it is one.
    pub(super) terminal: Option<TerminalId>,
    /// Status code that tells the requester that nobody can be reached there any more.
    pub(super) unreachable_status: u16,
    /// Request-URI there.
    pub(super) uri: String,
    pub(super) routes: Vec<String>,
    /// Contact values there; `None` leaves out Contact.
    pub(super) contacts: Option<Vec<String>>,
    /// From and To there, where they are not just what they were with mapped addresses.
    pub(super) identities: Option<(String, String)>,
    /// Content-Type and body there, where it is not what it was.
    pub(super) body: Option<Vec<u8>>,
}

impl ForwardPlan {
    /// A plan without a route set; Contact is left out, all else stays.
    pub(super) fn to(realm: RealmId, destination: Flow, uri: String) -> Self {
        let (routes, contacts, identities, body) = (Vec::new(), None, None, None);
        Self { realm, destination, terminal: None, unreachable_status: 503, uri, routes, contacts, identities, body }
    }
}
