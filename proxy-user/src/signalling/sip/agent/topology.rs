//! Address hiding: no literal address of one network is shown to the other.
//!
//! Names stay: they mean the same on both sides, and digest responses are computed over them. A literal address in a
//! URI that travels between realms becomes one that means something where it arrives.

use super::reading::host_text;
use crate::{
    addresses::{Hidden, literal},
    config::{Config, Side},
    media::RealmId,
    signalling::sip::{Header, Message, Name, Uri, rewrite_hosts},
};
use std::{borrow::Cow, net::SocketAddr};

/// Headers whose URIs may hold addresses and that are not rebuilt anyway.
pub(super) const URI_HEADERS: &[Name] = &[
    Name::From,
    Name::To,
    Name::ReplyTo,
    Name::PAssertedIdentity,
    Name::PPreferredIdentity,
    Name::PAssociatedUri,
    Name::PCalledPartyId,
    Name::RemotePartyId,
    Name::Diversion,
    Name::HistoryInfo,
    Name::ReferredBy,
    Name::ReferTo,
    Name::CallInfo,
    Name::AlertInfo,
    Name::ErrorInfo,
];

/// Headers that tell of one network's inside and mean nothing in the other.
pub(super) const INTERNAL_HEADERS: &[Name] = &[Name::RecordRoute, Name::Path, Name::ServiceRoute, Name::Warning];

/// Maps addresses in what travels from one realm to another.
#[derive(Clone, Debug)]
pub(super) struct AddressMapper {
    from_own: SocketAddr,
    /// Its further ports.
    from_ports: Vec<u16>,
    to_own: SocketAddr,
    /// What the other side knows the receiving network's server as.
    to_server: SocketAddr,
    /// Addresses of the network that the message comes from: our own there, and its server's.
    hidden: Hidden,
}

impl AddressMapper {
    pub(super) fn new(config: &Config, from: RealmId, to: RealmId) -> Option<Self> {
        let from = config.realms.get(from)?;
        let softswitch = from.softswitch.map(|softswitch| softswitch.ip());
        let hidden = [from.signalling.ip(), from.media].into_iter().chain(softswitch);
        let hidden = hidden.map(|address| address.to_string()).collect();
        let to = config.realms.get(to)?;
        let to_server = match to.side {
            Side::Core => to.softswitch.unwrap_or(to.signalling),
            Side::Access => to.signalling,
        };
        let from_ports = from.streams.listening().map(|(_, port)| port).collect();
        Some(Self { from_own: from.signalling, from_ports, to_own: to.signalling, to_server, hidden })
    }

    /// The host and port that replace a literal address: the proxy itself represents the server behind it, any other
    /// address becomes the proxy's own.
    fn map(&self, host: &str, port: Option<u16>) -> Option<String> {
        let address = literal(host)?;
        let own = address == self.from_own.ip() && port.is_none_or(|port| self.is_own(port));
        let place = if own { self.to_server } else { self.to_own };
        Some(if place.port() == 5060 { host_text(place.ip()) } else { place.to_string() })
    }

    fn is_own(&self, port: u16) -> bool {
        port == self.from_own.port() || self.from_ports.contains(&port)
    }

    /// The Request-URI of a terminal's request, as the softswitch sees it. How the terminal reaches the proxy is not
    /// its concern.
    pub(super) fn request_uri(&self, uri: &str) -> String {
        let own = |uri: &Uri<'_>| literal(uri.host()) == Some(self.from_own.ip());
        match Uri::parse(uri) {
            Ok(parsed) if own(&parsed) => self.value(&parsed.without_param("transport")).into_owned(),
            _ => self.value(uri).into_owned(),
        }
    }

    /// The header value with mapped addresses; borrowed where there was none.
    pub(super) fn value<'a>(&self, value: &'a str) -> Cow<'a, str> {
        rewrite_hosts(value, |host, port| self.map(host, port))
    }

    /// Whether a header that is neither rebuilt nor mapped names an address of the network it comes from. Credentials
    /// may: what was signed has to stay, and a challenge's realm is only a name.
    pub(super) fn leaks_address(&self, header: &Header<'_>) -> bool {
        let free = match header.name {
            Name::Other => !header.raw_name.to_ascii_lowercase().contains("auth"),
            Name::Server | Name::UserAgent | Name::Subject | Name::Organization => true,
            _ => false,
        };
        free && self.hidden.stands_in(header.value().as_bytes())
    }

    /// The values of a header whose addresses have to be mapped, or `None` where it can stay as it is.
    pub(super) fn header(&self, message: &Message, name: Name) -> Option<Vec<String>> {
        let mut changed = false;
        let values = message
            .lines(name)
            .map(|header| {
                let value = header.value();
                let mapped = self.value(&value);
                changed |= mapped != value;
                mapped.into_owned()
            })
            .collect();
        changed.then_some(values)
    }
}
