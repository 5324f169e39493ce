//! Refusals by the softswitch because of a terminal's identity: the log names where each request came from, as the
//! softswitch only sees Latch's address and cannot keep out those who guess passwords.

use super::state::Turn;
use crate::{
    flow::Flow,
    signalling::sip::{Message, Name},
};
use std::time::{Duration, Instant};
use tracing::{debug, warn};

/// At most one log line a second.
const LOG_PERIOD: Duration = Duration::from_secs(1);

impl Turn<'_> {
    /// The softswitch answers 401, 403 or 407 to a terminal. A challenge to a request without credentials, or to one
    /// with a nonce that is only too old, is how digest authentication begins (RFC 3261 §22, RFC 7616 §3.3), and only
    /// counted.
    pub(super) fn refused_by_softswitch(
        &mut self,
        source: Flow,
        request: &Message,
        response: &Message,
        code: u16,
        now: Instant,
    ) {
        let credentials = match code {
            401 => Some(Name::Authorization),
            407 => Some(Name::ProxyAuthorization),
            _ => None,
        };
        if credentials.is_some_and(|name| request.value(name).is_none() || is_stale(response)) {
            self.core.statistics.challenges += 1;
            return debug!(%source, code, "challenged");
        }
        self.core.statistics.credentials_refused += 1;
        if self.refusals.last_log.is_some_and(|(at, _)| now.saturating_duration_since(at) < LOG_PERIOD) {
            return;
        }
        let count = self.core.statistics.credentials_refused;
        let before = self.refusals.last_log.replace((now, count)).map_or(0, |(_, count)| count);
        let method = request.method().unwrap_or_default();
        let from = request.value(Name::From).unwrap_or_default();
        warn!(%source, code, method, from = &*from, refused = count - before, "the softswitch refused a terminal");
    }
}

/// Whether a challenge says that only the nonce was too old.
fn is_stale(response: &Message) -> bool {
    let says_so = |param: &str| {
        param.split_once('=').is_some_and(|(name, value)| {
            let name = name.trim().rsplit(char::is_whitespace).next().unwrap_or_default();
            name.eq_ignore_ascii_case("stale") && value.trim().trim_matches('"').eq_ignore_ascii_case("true")
        })
    };
    let mut challenges = response.lines(Name::WwwAuthenticate).chain(response.lines(Name::ProxyAuthenticate));
    challenges.any(|challenge| challenge.value().split(',').any(says_so))
}
