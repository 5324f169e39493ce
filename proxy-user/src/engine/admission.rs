//! Whether one more call, or more media in a call, is within what its realms and its user may have at once.
//!
//! Every call has a [`Charge`]: what it is counted with in both of its realms and, in the realm of its terminal, for
//! the user. It follows the call's offers and answers, and is zero when the call has ended.

use super::{
    session::Flows,
    sides::{CallSide, PerSide},
};
use crate::{
    config::{AdmissionLimits, Realm},
    media::{PerRealm, RealmId},
};
use serde::{Deserialize, Serialize};
use std::{collections::HashMap, time::Instant};

/// The present load of a realm or of a user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Load {
    calls: u32,
    media: Flows,
}

/// What a call is counted with. Side 0 is the caller.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Charge {
    realms: PerSide<RealmId>,
    /// The side of its terminal, and its user; `None` where users have no limits.
    pub(super) user: Option<(CallSide, String)>,
    /// Only in this process: a later one starts from zero.
    #[serde(skip)]
    pub(super) calls: u32,
    #[serde(skip)]
    pub(super) media: PerSide<Flows>,
}

/// All that is counted.
#[derive(Debug, Default)]
pub(super) struct Admission {
    realms: HashMap<RealmId, Load>,
    users: HashMap<(RealmId, String), Load>,
    /// When a refusal was last logged.
    pub(super) last_log: Option<Instant>,
}

/// A limit that would be exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Excess {
    pub(super) realm: RealmId,
    pub(super) limit: &'static str,
    /// Status code that says so to a new call.
    pub(super) code: u16,
}

impl Charge {
    pub(super) fn new(realms: PerSide<RealmId>, user: Option<(CallSide, String)>) -> Self {
        Self { realms, user, calls: 0, media: PerSide::default() }
    }

    pub(super) fn calls(&self) -> u32 {
        self.calls
    }
}

impl Admission {
    /// Whether a call may be counted with this from now on. What does not grow is allowed, whatever the limits are.
    pub(super) fn check(
        &self,
        realms: &PerRealm<Realm>,
        charge: &Charge,
        calls: u32,
        media: PerSide<Flows>,
    ) -> Result<(), Excess> {
        for side in CallSide::BOTH {
            let id = charge.realms[side];
            let Some(limits) = realms.get(id).map(|realm| &realm.policy.admission) else { continue };
            let AdmissionLimits { max_calls, max_kbps, max_calls_per_user, max_kbps_per_user, refuse_with } = *limits;
            let user = charge.user.as_ref().filter(|(of, _)| *of == side);
            let of_realm = self.realms.get(&id).copied().unwrap_or_default();
            let of_user = user.and_then(|(_, user)| self.users.get(&(id, user.clone()))).copied().unwrap_or_default();
            let too_many = |load: Load, most: Option<u32>| {
                let grows = calls > charge.calls;
                grows && most.is_some_and(|most| load.calls - charge.calls + calls > most)
            };
            let too_much = |load: Load, most: Option<u32>| {
                let Some(most) = most.map(|kbps| u64::from(kbps) * 125) else { return false };
                let (now, then) = (charge.media[side], media[side]);
                let exceeds = |load: u64, now: u64, then: u64| then > now && load - now + then > most;
                exceeds(load.media.arriving, now.arriving, then.arriving)
                    || exceeds(load.media.leaving, now.leaving, then.leaving)
            };
            let limit = match () {
                () if too_many(of_realm, max_calls) => "max_calls",
                () if user.is_some() && too_many(of_user, max_calls_per_user) => "max_calls_per_user",
                () if too_much(of_realm, max_kbps) => "max_kbps",
                () if user.is_some() && too_much(of_user, max_kbps_per_user) => "max_kbps_per_user",
                () => continue,
            };
            return Err(Excess { realm: id, limit, code: refuse_with });
        }
        Ok(())
    }

    /// Counts a call with this from now on.
    pub(super) fn charge(&mut self, charge: &mut Charge, calls: u32, media: PerSide<Flows>) {
        if (charge.calls, charge.media) == (calls, media) {
            return;
        }
        for side in CallSide::BOTH {
            let (before, after) = (charge.media[side], media[side]);
            let change = |load: &mut Load| {
                load.calls = load.calls - charge.calls + calls;
                load.media.arriving = load.media.arriving - before.arriving + after.arriving;
                load.media.leaving = load.media.leaving - before.leaving + after.leaving;
                *load != Load::default()
            };
            let realm = charge.realms[side];
            change(self.realms.entry(realm).or_default());
            if let Some((_, user)) = charge.user.as_ref().filter(|(of, _)| *of == side) {
                let key = (realm, user.clone());
                if !change(self.users.entry(key.clone()).or_default()) {
                    self.users.remove(&key);
                }
            }
        }
        charge.calls = calls;
        charge.media = media;
    }
}
