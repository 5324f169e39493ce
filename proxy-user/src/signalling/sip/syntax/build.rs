//! Messages that Latch originates: responses of its own, requests of its own, and the ACK and CANCEL that belong to
//! an INVITE it sent.
//!
//! What they repeat of another message is copied as bytes.

use super::fields::MOST_VIAS;
use super::message::Message;
use super::name::{Key, Name};
use super::scan::{one_line, slice, trim_bytes};
use super::values::Via;

/// A response to a request (RFC 3261 §8.2.6).
#[derive(Clone, Debug)]
pub struct Response<'m> {
    request: &'m Message,
    code: u16,
    reason: Option<String>,
    to_tag: Option<String>,
    top_via: Option<String>,
    lines: Vec<u8>,
    body: Vec<u8>,
}

impl<'m> Response<'m> {
    /// Begins a response with the usual reason phrase.
    #[must_use]
    pub fn to(request: &'m Message, code: u16) -> Self {
        Self { request, code, reason: None, to_tag: None, top_via: None, lines: Vec::new(), body: Vec::new() }
    }

    /// Another reason phrase than the usual one.
    pub fn reason(&mut self, reason: &str) -> &mut Self {
        self.reason = Some(one_line(reason).into_owned());
        self
    }

    /// The tag that To gets where the request's has none; a 100 has none.
    pub fn to_tag(&mut self, tag: &str) -> &mut Self {
        self.to_tag = Some(one_line(tag).into_owned());
        self
    }

    /// What replaces the topmost Via: the same with the source added, see [`super::Via::with_source`].
    pub fn top_via(&mut self, via: &str) -> &mut Self {
        self.top_via = Some(one_line(via).into_owned());
        self
    }

    /// Adds a header field.
    pub fn header<'k>(&mut self, key: impl Into<Key<'k>>, value: &str) -> &mut Self {
        write_line(&mut self.lines, key.into().text(), one_line(value).as_bytes());
        self
    }

    /// Gives it a body.
    pub fn body(&mut self, content_type: &str, body: &[u8]) -> &mut Self {
        self.header(Name::ContentType, content_type);
        self.body = body.to_vec();
        self
    }

    /// Writes the message.
    #[must_use]
    pub fn finish(&self) -> Vec<u8> {
        let reason = self.reason.as_deref().unwrap_or_else(|| reason_phrase(self.code));
        let mut out = Vec::with_capacity(512 + self.lines.len() + self.body.len());
        out.extend_from_slice(format!("SIP/2.0 {} {reason}\r\n", self.code).as_bytes());
        self.write_vias(&mut out);
        copy_lines(self.request, Name::From, &mut out);
        self.write_to(&mut out);
        copy_lines(self.request, Name::CallId, &mut out);
        copy_lines(self.request, Name::CSeq, &mut out);
        if self.code == 100 {
            copy_lines(self.request, Name::Timestamp, &mut out);
        }
        out.extend_from_slice(&self.lines);
        write_end(&mut out, &self.body);
        out
    }

    fn write_vias(&self, out: &mut Vec<u8>) {
        let Some(top) = &self.top_via else {
            return copy_lines(self.request, Name::Via, out);
        };
        write_line(out, Name::Via.text(), top.as_bytes());
        // What is no Via leads nowhere, and each would be a line of its own.
        let readable = |raw: &&[u8]| std::str::from_utf8(raw).is_ok_and(|via| Via::parse(via).is_ok());
        for via in self.request.raw_values(Name::Via).take(MOST_VIAS).skip(1).take_while(readable) {
            write_line(out, Name::Via.text(), via);
        }
    }

    fn write_to(&self, out: &mut Vec<u8>) {
        let tag = self.to_tag.as_deref().filter(|_| self.code > 100 && self.request.to_tag().is_none());
        let Some(tag) = tag else {
            return copy_lines(self.request, Name::To, out);
        };
        if let Some(to) = self.request.lines(Name::To).next() {
            let mut value = trim_bytes(to.raw_value).to_vec();
            value.extend_from_slice(b";tag=");
            value.extend_from_slice(tag.as_bytes());
            write_line(out, Name::To.text(), &value);
        }
    }
}

/// A request that Latch originates (RFC 3261 §8.1.1).
#[derive(Clone, Debug)]
pub struct Request {
    start: String,
    lines: Vec<u8>,
    has_max_forwards: bool,
    body: Vec<u8>,
}

impl Request {
    /// Begins a request. Via, From, To, Call-ID and CSeq are the caller's; Max-Forwards is 70 unless given.
    #[must_use]
    pub fn new(method: &str, uri: &str) -> Self {
        let start = format!("{} {} SIP/2.0\r\n", one_line(method), one_line(uri));
        Self { start, lines: Vec::new(), has_max_forwards: false, body: Vec::new() }
    }

    /// Adds a header field.
    pub fn header<'k>(&mut self, key: impl Into<Key<'k>>, value: &str) -> &mut Self {
        let key = key.into();
        self.has_max_forwards |= key == Key::Known(Name::MaxForwards);
        write_line(&mut self.lines, key.text(), one_line(value).as_bytes());
        self
    }

    /// Adds CSeq.
    pub fn cseq(&mut self, number: u32, method: &str) -> &mut Self {
        self.header(Name::CSeq, &format!("{number} {method}"))
    }

    /// Gives it a body.
    pub fn body(&mut self, content_type: &str, body: &[u8]) -> &mut Self {
        self.header(Name::ContentType, content_type);
        self.body = body.to_vec();
        self
    }

    /// Writes the message.
    #[must_use]
    pub fn finish(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.start.len() + self.lines.len() + self.body.len() + 64);
        out.extend_from_slice(self.start.as_bytes());
        out.extend_from_slice(&self.lines);
        if !self.has_max_forwards {
            write_line(&mut out, Name::MaxForwards.text(), b"70");
        }
        write_end(&mut out, &self.body);
        out
    }
}

/// The ACK for a final response other than 2xx to `invite`, which is the INVITE as sent (RFC 3261 §17.1.1.3).
#[must_use]
pub fn ack_for(invite: &Message, response: &Message) -> Vec<u8> {
    of_transaction(invite, "ACK", response)
}

/// The CANCEL for `invite`, which is the INVITE as sent (RFC 3261 §9.1).
#[must_use]
pub fn cancel_for(invite: &Message) -> Vec<u8> {
    of_transaction(invite, "CANCEL", invite)
}

/// The reason phrase that the RFCs give a status code.
#[must_use]
pub fn reason_phrase(code: u16) -> &'static str {
    match code {
        100 => "Trying",
        180 => "Ringing",
        181 => "Call Is Being Forwarded",
        182 => "Queued",
        183 => "Session Progress",
        200 => "OK",
        202 => "Accepted",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        410 => "Gone",
        413 => "Request Entity Too Large",
        415 => "Unsupported Media Type",
        416 => "Unsupported URI Scheme",
        420 => "Bad Extension",
        423 => "Interval Too Brief",
        430 => "Flow Failed",
        480 => "Temporarily Unavailable",
        481 => "Call/Transaction Does Not Exist",
        482 => "Loop Detected",
        483 => "Too Many Hops",
        486 => "Busy Here",
        487 => "Request Terminated",
        488 => "Not Acceptable Here",
        491 => "Request Pending",
        500 => "Server Internal Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Server Time-out",
        505 => "Version Not Supported",
        513 => "Message Too Large",
        600 => "Busy Everywhere",
        603 => "Decline",
        606 => "Not Acceptable",
        _ => match code / 100 {
            0 | 1 => "Progress",
            2 => "Success",
            3 => "Redirection",
            4 => "Request Failure",
            5 => "Server Failure",
            _ => "Global Failure",
        },
    }
}

/// A request within the INVITE's transaction: its Request-URI, topmost Via, Route, From, Call-ID and CSeq number,
/// and To from `to_of`.
fn of_transaction(invite: &Message, method: &str, to_of: &Message) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    let uri = invite.request_uri().unwrap_or_default();
    out.extend_from_slice(format!("{method} {uri} SIP/2.0\r\n").as_bytes());
    if let Some(via) = invite.raw_values(Name::Via).next() {
        write_line(&mut out, Name::Via.text(), via);
    }
    copy_lines(invite, Name::Route, &mut out);
    write_line(&mut out, Name::MaxForwards.text(), b"70");
    copy_lines(invite, Name::From, &mut out);
    copy_lines(to_of, Name::To, &mut out);
    copy_lines(invite, Name::CallId, &mut out);
    let number = invite.cseq().map_or(0, |cseq| cseq.number);
    write_line(&mut out, Name::CSeq.text(), format!("{number} {method}").as_bytes());
    write_end(&mut out, &[]);
    out
}

/// The lines of one header field, byte for byte.
fn copy_lines(message: &Message, name: Name, out: &mut Vec<u8>) {
    for field in message.fields.iter().filter(|field| field.name == name) {
        out.extend_from_slice(slice(&message.raw, field.start as usize, field.end as usize));
    }
}

/// One line; the value may be folded.
fn write_line(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn write_end(out: &mut Vec<u8>, body: &[u8]) {
    write_line(out, Name::ContentLength.text(), body.len().to_string().as_bytes());
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(body);
}
