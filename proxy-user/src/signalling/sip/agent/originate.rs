//! Requests of the proxy's own inside a dialog, each sent to one party on behalf of the other.

use super::{
    dialogs::DialogId,
    plan::ForwardPlan,
    roles::Role,
    state::{Purpose, Turn},
};
use crate::signalling::sip::{Name, Request};
use std::time::Instant;

impl Turn<'_> {
    /// A BYE to the party `to`.
    pub(super) fn send_bye(&mut self, id: DialogId, to: Role, other: Role, now: Instant) {
        self.vouch(id, to);
        let branch = self.new_branch();
        let Some((plan, mut request)) = self.own_request(id, "BYE", other, to, &branch) else {
            return self.core.inconsistent("a BYE in no dialog");
        };
        let Some(cseq) = self.dialogs.party_mut(id, other).map(|party| {
            party.cseq += 1;
            party.cseq
        }) else {
            return self.core.inconsistent("a BYE of no party");
        };
        request.cseq(cseq, "BYE");
        self.start_client(branch, "BYE".into(), &plan, request.finish(), Purpose::Hangup, now);
    }

    /// The ACK of a 2xx that came too late for the caller.
    pub(super) fn send_ack(&mut self, id: DialogId, from: Role, to: Role, cseq: u32) {
        let branch = self.new_branch();
        let Some((plan, mut request)) = self.own_request(id, "ACK", from, to, &branch) else {
            return self.core.inconsistent("an ACK in no dialog");
        };
        request.cseq(cseq, "ACK");
        self.send(plan.realm, plan.destination, request.finish());
    }

    fn own_request(
        &self,
        id: DialogId,
        method: &str,
        from: Role,
        to: Role,
        branch: &str,
    ) -> Option<(ForwardPlan, Request)> {
        let dialog = self.dialogs.get(id)?;
        let party = dialog.party(to)?;
        let realm = dialog.realm_of(to);
        let (from_value, to_value) = dialog.identities_for(from, to)?;
        let (uri, routes) = party.route();
        let mut request = Request::new(method, &uri);
        request.header(Name::Via, &self.via(realm, party.destination().transport, branch)?);
        for route in &routes {
            request.header(Name::Route, route);
        }
        request.header(Name::From, &from_value);
        request.header(Name::To, &to_value);
        request.header(Name::CallId, &dialog.call_id);
        let plan = ForwardPlan::to(realm, party.destination(), String::new());
        Some((plan, request))
    }
}
