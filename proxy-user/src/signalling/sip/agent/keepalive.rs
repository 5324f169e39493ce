//! Requests that keep terminals' NAT mappings alive, and bindings whose time is up.
//!
//! A mapping is only refreshed for sure by a packet from inside (RFC 4787, REQ-6): hence a request, which the terminal
//! answers whatever it thinks of it.

use super::{Alarm, Engine, Purpose, requests::Way};
use crate::signalling::sip::{Name, Request};
use rand::RngCore;
use std::time::Instant;
use tracing::{info, warn};

impl Engine {
    pub(super) fn binding_due(&mut self, id: u64, now: Instant) {
        let Some(binding) = self.registrations.get(id) else { return };
        if binding.next() > now {
            return self.timers.set(binding.next(), Alarm::Binding(id));
        }
        if binding.expires_at <= now {
            info!(aor = binding.aor, source = %binding.source, "registration expired");
            return self.unbind(id);
        }
        // Where its connection is gone, there is no mapping to keep alive.
        if self.reaches(binding.realm, binding.source) {
            self.send_keepalive(id, now);
        }
        let next = self.next_keepalive(now);
        if let Some(binding) = self.registrations.get_mut(id) {
            binding.keepalive_at = next;
            let at = binding.next();
            self.timers.set(at, Alarm::Binding(id));
        }
    }

    /// When to send the next: within the last fifth of the period, so that not all terminals are asked at once.
    pub(super) fn next_keepalive(&mut self, now: Instant) -> Option<Instant> {
        let period = self.config.keepalive.period?;
        let part = self.random.next_u32() % 200;
        Some(now + period - period * part / 1000)
    }

    pub(super) fn unbind(&mut self, id: u64) {
        if let Some(binding) = self.registrations.remove(id) {
            self.tokens.remove(&binding.token);
        }
    }

    fn send_keepalive(&mut self, id: u64, now: Instant) {
        let branch = self.new_branch();
        let (tag, call_id) = (self.random_token(), self.random_token());
        let Some(binding) = self.registrations.get(id) else { return };
        let (realm, by) = (binding.realm, binding.source.transport);
        let (Some(own), Some(via)) = (self.own(realm, by), self.via(realm, by, &branch)) else { return };
        let Some(contact) = self.own_contact("", None, realm, by) else { return };
        let method = self.config.keepalive.method.clone();
        let bytes = Request::new(&method, &binding.contact)
            .header(Name::Via, &via)
            .header(Name::From, &format!("<sip:{own}>;tag={tag}"))
            .header(Name::To, &format!("<{}>", binding.contact))
            .header(Name::CallId, &call_id)
            .cseq(1, &method)
            .header(Name::Contact, &contact)
            .finish();
        let way = Way::to(realm, binding.source, String::new());
        self.start_client(branch, method, &way, bytes, Purpose::KeepAlive(id), now);
    }

    pub(super) fn keepalive_answered(&mut self, id: u64) {
        let failures = self.config.keepalive.failures;
        if let Some(binding) = self.registrations.get_mut(id) {
            if !binding.is_reachable(failures) {
                info!(aor = binding.aor, source = %binding.source, "terminal answers again");
            }
            binding.unanswered = 0;
        }
    }

    pub(super) fn keepalive_unanswered(&mut self, id: u64) {
        let failures = self.config.keepalive.failures;
        if let Some(binding) = self.registrations.get_mut(id) {
            binding.unanswered = binding.unanswered.saturating_add(1);
            if binding.unanswered == failures {
                warn!(aor = binding.aor, source = %binding.source, failures, "terminal no longer answers keep-alives");
            }
        }
    }
}
