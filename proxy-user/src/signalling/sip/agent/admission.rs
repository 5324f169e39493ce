//! Whether one more call, or more media in one, is admitted; and whose call it is.

use super::{Engine, registrar::address_of_record};
use crate::{
    config::{AdmissionLimits, Side},
    engine::{admission::Excess, session::Flows},
    media::RealmId,
    sdp::Session,
    signalling::sip::{Message, Name},
};
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};
use tracing::warn;

impl Engine {
    /// Counts a new call, or says which limit it would pass.
    pub(crate) fn admit_call(&mut self, id: u64, now: Instant) -> Result<(), Excess> {
        let Some(call) = self.dialogs.get_mut(&id).and_then(|dialog| dialog.call_mut()) else { return Ok(()) };
        let media = call.charge.media;
        match self.admission.check(&self.config.realms, &call.charge, 1, media) {
            Ok(()) => {
                self.admission.charge(&mut call.charge, 1, media);
                Ok(())
            }
            Err(excess) => Err(self.not_admitted(id, excess, now)),
        }
    }

    /// Counts a call that an earlier engine had admitted, whatever the limits are now.
    pub(crate) fn charge_again(&mut self, id: u64) {
        let Some(call) = self.dialogs.get_mut(&id).and_then(|dialog| dialog.call_mut()) else { return };
        if call.ended.is_none() {
            let media = call.media.demand(&self.config.realms);
            self.admission.charge(&mut call.charge, 1, media);
        }
    }

    /// Whether the media of this offer may be added to a call; it is counted when the offer is taken.
    pub(crate) fn admit_offer(&mut self, id: u64, session: &Session, now: Instant) -> Result<(), Excess> {
        let Some(call) = self.call(id) else { return Ok(()) };
        let media = call.media.demand_with(&session.descriptions(), &self.config.realms);
        let checked = self.admission.check(&self.config.realms, &call.charge, call.charge.calls, media);
        checked.map_err(|excess| self.not_admitted(id, excess, now))
    }

    /// A call that has ended is not counted.
    pub(crate) fn discharge(&mut self, id: u64) {
        if let Some(call) = self.dialogs.get_mut(&id).and_then(|dialog| dialog.call_mut()) {
            self.admission.charge(&mut call.charge, 0, [Flows::default(); 2]);
        }
    }

    /// Counts a refusal and tells of it, at most once a second.
    fn not_admitted(&mut self, id: u64, excess: Excess, now: Instant) -> Excess {
        self.statistics.not_admitted += 1;
        let lately = |told: Instant| now.saturating_duration_since(told) < Duration::from_secs(1);
        if !self.admission.told.is_some_and(lately) {
            self.admission.told = Some(now);
            let realm = self.config.realms.get(excess.realm).map_or("", |realm| realm.name.as_str());
            let dialog = self.dialogs.get(&id);
            let call_id = dialog.map_or("", |dialog| dialog.call_id.as_str());
            let user = dialog.and_then(|dialog| Some(dialog.call()?.charge.user.as_ref()?.1.as_str()));
            warn!(call_id, realm, limit = excess.limit, user, "a call, or more media of one, is not admitted");
        }
        excess
    }

    /// The user whose terminal is in a call, where the realm has limits for users: as registered; a terminal that is not
    /// counts as who it says it is.
    pub(crate) fn user_of(
        &self,
        realms: [RealmId; 2],
        request: &Message,
        source: SocketAddr,
        binding: Option<&super::Binding>,
    ) -> Option<(usize, String)> {
        let of_users = |limits: &AdmissionLimits| limits.max_calls_per_user.or(limits.max_kbps_per_user).is_some();
        let side = realms.iter().position(|&realm| {
            let realm = self.config.realms.get(realm);
            realm.is_some_and(|realm| realm.side == Side::Access && of_users(&realm.policy.admission))
        })?;
        if side == 1 {
            let registered = binding.map(|binding| binding.aor.clone());
            return Some((side, registered.or_else(|| address_of_record(request, Name::To))?));
        }
        let stated = address_of_record(request, Name::From)?;
        let here = |binding: &super::Binding| binding.realm == realms[0] && binding.source == source;
        let ids = self.registrations.of(&stated);
        if ids.iter().filter_map(|id| self.registrations.get(*id)).any(here) {
            return Some((side, stated));
        }
        // Under another name: not to get around its limits.
        let registered = self.registrations.iter().filter(|binding| here(binding)).map(|binding| &binding.aor).min();
        Some((side, registered.unwrap_or(&stated).clone()))
    }
}
