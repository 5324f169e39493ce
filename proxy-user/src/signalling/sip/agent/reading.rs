//! What is read of a message in several places.

use crate::{
    addresses::literal,
    flow::Transport,
    sdp::Session,
    signalling::sip::{Message, Name, NameAddr, Uri},
};
use std::net::{IpAddr, SocketAddr};

/// What is wrong with a session description in a request: the status code that says so.
#[derive(Debug)]
pub(super) struct Refused(pub(super) u16);

/// The URI in a Contact value.
pub(super) fn contact_uri(value: &str) -> Option<String> {
    NameAddr::parse(value).ok().map(|contact| contact.uri.to_owned())
}

/// The user in From or To: its URI without parameters. A REGISTER is about the one in To (RFC 3261 §10.3, step 5).
pub(super) fn address_of_record(request: &Message, header: Name) -> Option<String> {
    let value = request.value(header)?;
    let address = NameAddr::parse(&value).ok()?;
    let uri: Uri<'_> = address.uri().ok()?;
    let host = literal(uri.host()).map_or_else(|| uri.host().to_ascii_lowercase(), host_text);
    Some(match (uri.user(), uri.port()) {
        (Some(user), Some(port)) => format!("{user}@{host}:{port}"),
        (Some(user), None) => format!("{user}@{host}"),
        (None, _) => host,
    })
}

/// An address as written in a URI.
pub(super) fn host_text(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}

/// The route set that a message's Record-Route makes: for the request's receiver in its order, for the response's
/// receiver in reverse (RFC 3261 §12.1.1 and §12.1.2).
pub(super) fn route_set(message: &Message, from_response: bool) -> Vec<String> {
    let mut routes: Vec<String> = message.values(Name::RecordRoute).map(|value| value.into_owned()).collect();
    if from_response {
        routes.reverse();
    }
    routes
}

/// The transport that a URI or name-addr asks for, if it asks for one, and its address, where its host is one (RFC
/// 3263, sections 4.1 and 4.2).
pub(super) fn route_flow(value: &str) -> Option<(Option<Transport>, SocketAddr)> {
    let contact = NameAddr::parse(value).ok();
    let uri = Uri::parse(contact.as_ref().map_or(value, |contact| contact.uri)).ok()?;
    let named = uri.params().get("transport").and_then(|name| Transport::named(&name.to_ascii_lowercase()));
    let transport = if uri.scheme().eq_ignore_ascii_case("sips") { Some(Transport::Tls) } else { named };
    let port = if transport == Some(Transport::Tls) { 5061 } else { 5060 };
    Some((transport, SocketAddr::new(literal(uri.host())?, uri.port().unwrap_or(port))))
}

/// The session description in a message, if it has one.
pub(super) fn session_of(message: &Message) -> Result<Option<Session>, Refused> {
    if message.body().is_empty() {
        return Ok(None);
    }
    let content_type = message.content_type().unwrap_or_default();
    if !content_type.eq_ignore_ascii_case("application/sdp") {
        // A part of a multipart body may be one that must be read.
        let several = content_type.get(..10).is_some_and(|start| start.eq_ignore_ascii_case("multipart/"));
        return if several && names_sdp(message.body()) { Err(Refused(415)) } else { Ok(None) };
    }
    let encoded = message.values(Name::ContentEncoding).any(|encoding| !encoding.eq_ignore_ascii_case("identity"));
    if encoded {
        return Err(Refused(415));
    }
    Session::parse(message.body()).map(Some).map_err(|_| Refused(400))
}

/// Whether a part of a multipart body may be a session description.
fn names_sdp(body: &[u8]) -> bool {
    const TYPE: &[u8] = b"application/sdp";
    body.windows(TYPE.len()).any(|window| window.eq_ignore_ascii_case(TYPE))
}
