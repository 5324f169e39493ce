//! Whether one more call, or more media in one, is admitted, and for which user it counts.

use super::{
    admission::Excess,
    core::{Core, LOG_PERIOD},
    ids::CallId,
    sides::PerSide,
};
use crate::{
    flow::Flow,
    media::{Description, RealmId},
};
use std::time::Instant;
use tracing::warn;

impl Core {
    /// Counts a new call, or says which limit it would exceed.
    pub(super) fn admit_call(&mut self, id: CallId, now: Instant) -> Result<(), Excess> {
        let Some(call) = self.calls.get_mut(&id) else { return Ok(()) };
        let media = call.charge.media;
        match self.admission.check(&self.config.realms, &call.charge, 1, media) {
            Ok(()) => {
                self.admission.charge(&mut call.charge, 1, media);
                Ok(())
            }
            Err(excess) => Err(self.not_admitted(id, excess, now)),
        }
    }

    /// Counts a call that an earlier process had admitted, whatever the limits are now.
    pub(super) fn charge_again(&mut self, id: CallId) {
        let Some(call) = self.calls.get_mut(&id).filter(|call| call.is_live()) else { return };
        let media = call.media.demand(&self.config.realms);
        self.admission.charge(&mut call.charge, 1, media);
    }

    /// Whether the media of this offer may be added to a call; it is counted when the offer is taken.
    pub(super) fn admit_offer(&mut self, id: CallId, media: &[Description], now: Instant) -> Result<(), Excess> {
        let Some(call) = self.calls.get(&id) else { return Ok(()) };
        let media = call.media.demand_with(media, &self.config.realms);
        let checked = self.admission.check(&self.config.realms, &call.charge, call.charge.calls, media);
        checked.map_err(|excess| self.not_admitted(id, excess, now))
    }

    /// A call that has ended is not counted.
    pub(super) fn discharge(&mut self, id: CallId) {
        if let Some(call) = self.calls.get_mut(&id) {
            self.admission.charge(&mut call.charge, 0, PerSide::default());
        }
    }

    /// Counts a refusal, and logs it at most once a second.
    fn not_admitted(&mut self, id: CallId, excess: Excess, now: Instant) -> Excess {
        self.statistics.not_admitted += 1;
        if self.admission.last_log.is_none_or(|at| now.saturating_duration_since(at) >= LOG_PERIOD) {
            self.admission.last_log = Some(now);
            let realm = self.config.realms.get(excess.realm).map_or("", |realm| realm.name.as_str());
            let call = self.calls.get(&id);
            let user = call.and_then(|call| Some(call.charge.user.as_ref()?.1.as_str()));
            let call = call.map_or("", |call| call.name.as_str());
            warn!(call, realm, limit = excess.limit, user, "a call, or more media of one, is not admitted");
        }
        excess
    }

    /// Whether users of a realm have limits.
    pub fn limits_users(&self, realm: RealmId) -> bool {
        let limits = self.config.realms.get(realm).map(|realm| &realm.policy.admission);
        limits.is_some_and(|limits| limits.max_calls_per_user.or(limits.max_kbps_per_user).is_some())
    }

    /// The user whose limits a message over this flow counts for: the user of a terminal registered there, `stated` if
    /// it is one of several; where nobody is registered, the address itself, as the message could name anybody.
    pub fn user_at(&self, realm: RealmId, flow: Flow, stated: Option<&str>) -> String {
        let users = || self.terminals.at(realm, flow).map(|(_, terminal)| terminal.user.as_str());
        let user = users().find(|user| Some(*user) == stated).or_else(|| users().min());
        user.map_or_else(|| flow.ip().to_string(), str::to_owned)
    }
}
