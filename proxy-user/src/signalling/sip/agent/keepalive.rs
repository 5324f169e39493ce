//! Requests that keep terminals' NAT mappings alive, and bindings whose time is up.
//!
//! A mapping is only refreshed for sure by a packet from inside (RFC 4787, REQ-6): hence a request, which the terminal
//! answers whatever it thinks of it.

use super::{
    plan::ForwardPlan,
    registrations::BindingId,
    state::{Purpose, Timer, Turn},
};
use crate::signalling::sip::{Name, Request};
use std::time::Instant;
use tracing::{info, warn};

impl Turn<'_> {
    pub(super) fn binding_due(&mut self, id: BindingId, now: Instant) {
        let Some(binding) = self.registrations.get(id) else { return };
        let Some(terminal) = self.core.terminals().get(binding.terminal) else {
            return self.core.inconsistent("a binding of no terminal");
        };
        if binding.next() > now {
            return self.timers.set(binding.next(), Timer::Binding(id));
        }
        if binding.expires_at <= now {
            info!(aor = binding.aor, source = %terminal.flow, "registration expired");
            return self.unbind(id);
        }
        // Where its connection is gone, there is no mapping to keep alive.
        if self.reaches(terminal.realm, terminal.flow) {
            self.send_keepalive(id, now);
        }
        let next = self.next_keepalive(now);
        if let Some(binding) = self.registrations.get_mut(id) {
            binding.keepalive_at = next;
            let at = binding.next();
            self.timers.set(at, Timer::Binding(id));
        }
    }

    /// When to send the next: within the last fifth of the period, so that not all terminals are asked at once.
    pub(super) fn next_keepalive(&mut self, now: Instant) -> Option<Instant> {
        let period = self.core.config.keepalive.period?;
        let part = (self.core.random() % 200) as u32;
        Some(now + period - period * part / 1000)
    }

    fn send_keepalive(&mut self, id: BindingId, now: Instant) {
        let branch = self.new_branch();
        let (tag, call_id) = (self.core.random_token(), self.core.random_token());
        let Some(binding) = self.registrations.get(id) else {
            return self.core.inconsistent("no binding to keep alive");
        };
        let Some(terminal) = self.core.terminals().get(binding.terminal) else {
            return self.core.inconsistent("a binding of no terminal");
        };
        let (realm, flow, by) = (terminal.realm, terminal.flow, terminal.flow.transport);
        let (Some(own), Some(via)) = (self.core.own(realm, by), self.via(realm, by, &branch)) else {
            return self.core.inconsistent("a keep-alive by a transport that the realm has not");
        };
        let Some(contact) = self.own_contact("", None, realm, by) else {
            return self.core.inconsistent("a keep-alive without a contact");
        };
        let method = self.core.config.keepalive.method.clone();
        let bytes = Request::new(&method, &binding.contact)
            .header(Name::Via, &via)
            .header(Name::From, &format!("<sip:{own}>;tag={tag}"))
            .header(Name::To, &format!("<{}>", binding.contact))
            .header(Name::CallId, &call_id)
            .cseq(1, &method)
            .header(Name::Contact, &contact)
            .finish();
        let plan = ForwardPlan::to(realm, flow, String::new());
        self.start_client(branch, method, &plan, bytes, Purpose::KeepAlive(id), now);
    }

    pub(super) fn keepalive_answered(&mut self, id: BindingId) {
        let failures = self.core.config.keepalive.failures;
        if let Some(binding) = self.registrations.get_mut(id) {
            if !binding.is_reachable(failures) {
                info!(aor = binding.aor, "terminal answers again");
            }
            binding.unanswered = 0;
        }
    }

    pub(super) fn keepalive_unanswered(&mut self, id: BindingId) {
        let failures = self.core.config.keepalive.failures;
        if let Some(binding) = self.registrations.get_mut(id) {
            binding.unanswered = binding.unanswered.saturating_add(1);
            if binding.unanswered == failures {
                let source = self.core.terminals().get(binding.terminal).map(|terminal| terminal.flow.to_string());
                let source = source.unwrap_or_default();
                warn!(aor = binding.aor, source, failures, "terminal no longer answers keep-alives");
            }
        }
    }
}
