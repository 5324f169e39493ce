//! REGISTER and its answers: what makes and ends a binding.
//!
//! Each contact of a terminal is registered as one of the proxy's own. Nothing changes before the softswitch has said
//! yes: its 2xx lists what is bound and for how long.

use super::{
    plan::ForwardPlan,
    reading::address_of_record,
    registrations::{Binding, BindingId, Pending, Stated, lifetime},
    state::{Forward, MediaPhase, Purpose, Timer, Turn},
    transactions::{ClientTxId, ServerTxId},
};
use crate::{
    engine::Terminal,
    signalling::sip::{Message, Name, NameAddr},
};
use std::time::{Duration, Instant};
use tracing::info;

/// More contacts than a REGISTER needs: a bound on what one request can make us keep.
const MOST_CONTACTS: usize = 16;

/// How long a binding is kept beyond its time: the terminal's clock may be slower, and the softswitch decides.
const GRACE: Duration = Duration::from_secs(5);

impl Turn<'_> {
    pub(super) fn register(&mut self, server: ServerTxId, request: &Message, mut plan: ForwardPlan, now: Instant) {
        let Some(entry) = self.transactions.server(server) else {
            return self.core.inconsistent("no server transaction for a REGISTER");
        };
        let (realm, source) = (entry.realm(), entry.source());
        let Some(aor) = address_of_record(request, Name::To) else { return self.reply(server, 400, None, now) };
        let call_id = request.call_id().unwrap_or_default().into_owned();
        let stated: Vec<String> = request.values(Name::Contact).map(|value| value.into_owned()).collect();
        let all = stated.iter().any(|value| value.trim() == "*");
        if all && (stated.len() > 1 || request.expires() != Some(0)) {
            return self.reply(server, 400, None, now);
        }
        let room = self.core.config.limits.max_registrations.saturating_sub(self.registrations.len());
        if stated.len() > MOST_CONTACTS {
            self.core.limited("contacts of one REGISTER", now);
            return self.reply(server, 403, None, now);
        }
        if room == 0 && self.registrations.of(&aor).is_empty() {
            self.core.limited("max_registrations", now);
            return self.reply(server, 503, Some(("Retry-After", "60")), now);
        }
        let mut contacts = Vec::new();
        let mut values = Vec::new();
        for value in stated.iter().filter(|_| !all) {
            let Ok(contact) = NameAddr::parse(value) else { return self.reply(server, 400, None, now) };
            let instance = instance_of(&contact);
            let terminals = self.core.terminals();
            let known = self.registrations.find(terminals, &aor, contact.uri, instance.as_deref(), source, &call_id);
            let token = known.map(|(_, binding)| binding.token.clone());
            let token = token.unwrap_or_else(|| self.core.random_token());
            if let Some(value) = self.own_contact(value, Some(&token), plan.realm, plan.destination.transport) {
                values.push(value);
            }
            let expires = contact.param("expires").and_then(|text| text.trim().parse().ok());
            contacts.push(Stated { token, uri: contact.uri.to_owned(), instance, expires });
        }
        plan.contacts = match (all, values.is_empty()) {
            (true, _) => Some(vec!["*".into()]),
            (false, true) => None,
            (false, false) => Some(values),
        };
        let pending = Pending {
            aor,
            source,
            since: now,
            realm,
            core: plan.realm,
            call_id,
            contacts,
            all,
            expires: request.expires(),
        };
        let purpose = Forward { server, dialog: None, register: Some(Box::new(pending)), media: MediaPhase::None };
        self.forward_for(server, request, plan, purpose, now);
    }

    /// Takes over what the softswitch bound; returns the Contact values for the terminal.
    pub(super) fn registered(
        &mut self,
        client: ClientTxId,
        response: &Message,
        code: u16,
        now: Instant,
    ) -> Option<Vec<String>> {
        let Some(Purpose::Forward(forward)) = self.transactions.purpose_mut(client) else { return None };
        if !(200..300).contains(&code) {
            return None;
        }
        let pending = forward.register.take()?;
        self.core.proved(pending.realm, pending.source, now);
        if pending.all {
            for id in self.registrations.of(&pending.aor).to_vec() {
                self.unbind(id);
            }
            info!(aor = pending.aor, source = %pending.source, "all contacts deregistered");
        }
        let mut listed: Vec<String> = response.values(Name::Contact).map(|value| value.into_owned()).collect();
        if listed.is_empty() && lifetime(None, response.expires(), pending.expires) > Duration::ZERO {
            // Some registrars do not list what they bound.
            let stated = pending.contacts.iter().map(|stated| (stated.expires, &stated.token));
            let bound = stated.map(|(expires, token)| match expires {
                Some(seconds) => format!("<sip:{token}@invalid>;expires={seconds}"),
                None => format!("<sip:{token}@invalid>"),
            });
            listed.extend(bound);
        }
        let mut bound = Vec::new();
        let mut shown = Vec::new();
        for value in &listed {
            let Ok(contact) = NameAddr::parse(value) else { continue };
            let Some(token) = contact.uri().ok().and_then(|uri| uri.user()) else { continue };
            let lasts = lifetime(contact.param("expires"), response.expires(), pending.expires);
            if let Some(stated) = pending.contacts.iter().find(|stated| stated.token == token) {
                bound.push(token.to_owned());
                shown.push(contact.with_uri(&stated.uri));
                self.bind(&pending, stated, lasts, now);
            } else if let Some(binding) = self.registrations.with_token(token).and_then(|id| self.registrations.get(id))
                && binding.aor == pending.aor
            {
                // Another terminal's contact of the same user: shown as that terminal stated it.
                shown.push(contact.with_uri(&binding.contact));
            }
        }
        for Stated { token, .. } in pending.contacts.iter().filter(|stated| !bound.contains(&stated.token)) {
            if let Some(id) = self.registrations.with_token(token) {
                info!(aor = pending.aor, source = %pending.source, "deregistered");
                self.unbind(id);
            }
        }
        (!shown.is_empty()).then_some(shown)
    }

    fn bind(&mut self, pending: &Pending, stated: &Stated, lasts: Duration, now: Instant) {
        let Stated { token, uri, instance, .. } = stated;
        let known = self.registrations.with_token(token);
        if lasts.is_zero() {
            if let Some(id) = known {
                self.unbind(id);
            }
            return;
        }
        let keepalive_at = self.next_keepalive(now);
        let expires_at = now + lasts + GRACE;
        let failures = self.core.config.keepalive.failures;
        let id = match known {
            Some(id) => {
                let Some(binding) = self.registrations.get_mut(id) else {
                    return self.core.inconsistent("a token of no binding");
                };
                binding.contact.clone_from(uri);
                binding.instance.clone_from(instance);
                binding.call_id.clone_from(&pending.call_id);
                binding.expires_at = expires_at;
                binding.keepalive_at = keepalive_at;
                if !binding.is_reachable(failures) {
                    info!(aor = binding.aor, source = %pending.source, "terminal is back");
                }
                binding.unanswered = 0;
                let terminal = binding.terminal;
                if self.core.rebind(terminal, pending.source) {
                    for (dialog, role) in self.dialogs.of_terminal(terminal) {
                        self.party_moved(dialog, role, (pending.source, pending.since), now);
                    }
                }
                id
            }
            None => {
                if self.registrations.len() >= self.core.config.limits.max_registrations {
                    self.core.limited("max_registrations", now);
                    return;
                }
                let terminal = Terminal {
                    user: pending.aor.clone(),
                    realm: pending.realm,
                    core: pending.core,
                    flow: pending.source,
                    names_secrets: false,
                };
                info!(aor = pending.aor, source = %pending.source, contact = uri, seconds = lasts.as_secs(), "registered");
                self.registrations.insert(Binding {
                    terminal: self.core.bind(terminal),
                    aor: pending.aor.clone(),
                    token: token.to_owned(),
                    contact: uri.clone(),
                    call_id: pending.call_id.clone(),
                    instance: instance.clone(),
                    expires_at,
                    unanswered: 0,
                    keepalive_at,
                })
            }
        };
        if let Some(open) = self.connections.of(pending.source) {
            open.bindings.insert(id);
        }
        if let Some(binding) = self.registrations.get(id) {
            self.timers.set(binding.next(), Timer::Binding(id));
        }
    }

    /// A binding is gone.
    pub(super) fn unbind(&mut self, id: BindingId) {
        if let Some(binding) = self.registrations.remove(id) {
            self.core.unbind(binding.terminal);
        }
    }
}

/// What names a device's flow in its Contact, if it names one (RFC 5626 §4.2).
fn instance_of(contact: &NameAddr<'_>) -> Option<String> {
    let (instance, flow) = (contact.param("+sip.instance")?, contact.param("reg-id")?);
    (!instance.is_empty() && !flow.is_empty()).then(|| format!("{instance} {flow}"))
}
