//! What a proxy must find right before it handles a message (RFC 3261 §16.3), beyond what parsing needs.
//!
//! Only what Latch itself reads or routes by is checked. Values that belong to the ends (Date, Accept, bodies,
//! schemes in From and To) are theirs to refuse.

use super::build::Response;
use super::fields::MOST_VIAS;
use super::malformed::Malformed;
use super::message::Message;
use super::name::Name;
use super::uri::Uri;
use super::values::NameAddr;

/// A request that must be refused.
///
/// An ACK is never answered: it is dropped (RFC 3261 §8.2.6, §17.1.1.3).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code} {reason}")]
pub struct Reject {
    /// The status code to answer with.
    pub code: u16,
    /// The reason phrase to answer with.
    pub reason: String,
    /// A header field that the answer has to carry.
    pub header: Option<(Name, String)>,
}

impl Reject {
    /// The answer to `request`, ready for a To tag and to be written.
    #[must_use]
    pub fn response<'m>(&self, request: &'m Message) -> Response<'m> {
        let mut response = Response::to(request, self.code);
        response.reason(&self.reason);
        if let Some((name, value)) = &self.header {
            response.header(*name, value);
        }
        response
    }

    fn new(code: u16, reason: impl Into<String>) -> Self {
        Self { code, reason: reason.into(), header: None }
    }
}

impl From<Malformed> for Reject {
    fn from(malformed: Malformed) -> Self {
        Self::new(400, format!("Malformed {}", malformed.0.text()))
    }
}

/// Checks a request in the order of RFC 3261 §16.3: syntax and mandatory fields (400), the Request-URI's scheme
/// (416), Max-Forwards (483), Proxy-Require (420).
///
/// A missing Max-Forwards, From tag or branch is allowed: RFC 2543 had none. To an OPTIONS that is out of hops a
/// proxy may answer 200 in place of the 483 (§16.3).
///
/// # Errors
/// What to answer.
pub fn check_request(request: &Message) -> Result<(), Reject> {
    let uri = request.request_uri().ok_or_else(|| Reject::new(400, "Not a Request"))?;
    let uri = Uri::parse(uri).map_err(|_| Reject::new(400, "Malformed Request-URI"))?;
    if uri.is_sip() && uri.headers().is_some() {
        return Err(Reject::new(400, "Header Fields in Request-URI"));
    }
    check_common(request)?;
    let mut vias = 0;
    for via in request.vias() {
        via?;
        vias += 1;
    }
    if vias > MOST_VIAS {
        return Err(Reject::new(400, "Too Many Vias"));
    }
    let via = request.top_via()?;
    if via.has_cookie() && via.branch().len() == COOKIE_LENGTH {
        return Err(Reject::new(400, "Empty Branch in Via"));
    }
    if Some(request.cseq()?.method) != request.method() {
        return Err(Reject::new(400, "CSeq Method Does Not Match"));
    }
    for value in request.values(Name::Contact) {
        let contact = NameAddr::parse_within(&value, Name::Contact)?;
        // Without brackets, a `?` could belong to the URI or not (RFC 3261 §20.10).
        let ambiguous = !contact.is_bracketed() && contact.uri.contains('?');
        if ambiguous {
            return Err(Malformed(Name::Contact).into());
        }
    }
    for value in request.values(Name::Route) {
        NameAddr::parse_within(&value, Name::Route)?;
    }
    let hops = request.max_forwards()?;
    if !SCHEMES.iter().any(|scheme| uri.scheme().eq_ignore_ascii_case(scheme)) {
        return Err(Reject::new(416, "Unsupported URI Scheme"));
    }
    if hops == Some(0) {
        return Err(Reject::new(483, "Too Many Hops"));
    }
    let required: Vec<_> = request.values(Name::ProxyRequire).collect();
    // RFC 3261 §8.2.2.3: neither can be refused on account of an extension.
    if !required.is_empty() && !matches!(request.method(), Some("ACK" | "CANCEL")) {
        let mut reject = Reject::new(420, "Bad Extension");
        reject.header = Some((Name::Unsupported, required.join(", ")));
        return Err(reject);
    }
    Ok(())
}

/// Checks a response; one that fails is dropped (RFC 3261 §18.1.2, §8.1.3).
///
/// # Errors
/// What is wrong with it.
pub fn check_response(response: &Message) -> Result<(), Malformed> {
    if let Some(name) = response.repeated(&ONCE) {
        return Err(Malformed(name));
    }
    response.top_via()?;
    response.cseq()?;
    response.call_id().ok_or(Malformed(Name::CallId))?;
    for name in [Name::From, Name::To] {
        let value = response.value(name).ok_or(Malformed(name))?;
        NameAddr::parse_within(&value, name)?;
    }
    Ok(())
}

/// Mandatory fields, fields that may occur once only, From and To.
fn check_common(request: &Message) -> Result<(), Reject> {
    for name in MANDATORY {
        if request.lines(name).next().is_none() {
            return Err(Reject::new(400, format!("Missing {}", name.text())));
        }
    }
    if let Some(name) = request.repeated(&ONCE) {
        return Err(Reject::new(400, format!("Several {}", name.text())));
    }
    request.call_id().ok_or(Malformed(Name::CallId))?;
    for name in [Name::From, Name::To] {
        let value = request.value(name).ok_or(Malformed(name))?;
        let address = NameAddr::parse_within(&value, name)?;
        Uri::parse_within(address.uri, name)?;
    }
    Ok(())
}

const COOKIE_LENGTH: usize = "z9hG4bK".len();

/// RFC 3261 §8.1.1, without Max-Forwards (§16.3 point 3).
const MANDATORY: [Name; 5] = [Name::Via, Name::From, Name::To, Name::CallId, Name::CSeq];

/// Fields whose repetition leaves open what is meant.
const ONCE: [Name; 10] = [
    Name::From,
    Name::To,
    Name::CallId,
    Name::CSeq,
    Name::MaxForwards,
    Name::ContentLength,
    Name::ContentType,
    Name::Expires,
    Name::ReferTo,
    Name::Replaces,
];

/// Request-URIs that go on to the softswitch: RFC 3261 §19.1, RFC 3966, RFC 5031.
const SCHEMES: [&str; 4] = ["sip", "sips", "tel", "urn"];
