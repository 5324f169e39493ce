//! A SIP message as it arrived: the bytes, and where in them the start line and the header fields are.
//!
//! Parsing finds boundaries only (RFC 3261 §7, §25.1); values are read on demand. A message that cannot be taken
//! is parsed as far as it goes, so that it can be answered where the RFC wants an answer.

use std::borrow::Cow;
use std::ops::Range;

use super::fields::{Fault, Field, Line, MAX_BYTES, MAX_FIELDS};
use super::malformed::Malformed;
use super::name::{Key, Name, Shape};
use super::parse::{content_length, line_end, parse_field, parse_start};
use super::scan::{delta_seconds, number, slice, trim_bytes, unfold};
use super::values::{CSeq, NameAddr, Via, next_element};

/// What came in one UDP datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datagram {
    /// Nothing but line ends or zero bytes: keeps a NAT's mapping alive, wants no answer over UDP.
    KeepAlive,
    /// Something to parse.
    Message,
}

impl Datagram {
    /// Tells keep-alives from messages.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        if bytes.iter().all(|byte| matches!(byte, b'\r' | b'\n' | 0)) { Self::KeepAlive } else { Self::Message }
    }
}

/// A parsed message; owns its bytes.
#[derive(Clone, Debug)]
pub struct Message {
    pub(super) raw: Vec<u8>,
    pub(super) line: Line,
    pub(super) fields: Vec<Field>,
    /// Where the start line begins: after leading line ends.
    pub(super) start: usize,
    /// Past the start line's line end.
    pub(super) fields_start: usize,
    /// Where the empty line begins, and with it the end of the last header field.
    pub(super) fields_end: usize,
    body: Range<usize>,
}

/// The start line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start<'m> {
    /// A request; the method in the case it came in.
    Request {
        /// The method, a token: case matters (RFC 3261 §7.1).
        method: &'m str,
        /// The Request-URI as it came.
        uri: &'m str,
    },
    /// A response.
    Response {
        /// 100 to 699.
        code: u16,
        /// The reason phrase, any bytes.
        reason: &'m [u8],
    },
}

/// One header field of a message.
#[derive(Clone, Copy, Debug)]
pub struct Header<'m> {
    /// The name, or [`Name::Other`].
    pub name: Name,
    /// The name as spelled in the message.
    pub raw_name: &'m str,
    /// The value as it came: with folds and surrounding white space.
    pub raw_value: &'m [u8],
}

impl<'m> Header<'m> {
    /// The value on one line, trimmed; bytes that are not UTF-8 become U+FFFD.
    #[must_use]
    pub fn value(&self) -> Cow<'m, str> {
        unfold(self.raw_value)
    }
}

/// A datagram that was refused, with whatever could be read of it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{fault}")]
pub struct ParseError {
    /// The first fault found.
    pub fault: Fault,
    partial: Option<Box<Message>>,
}

impl ParseError {
    /// What could be read of a request that must be answered with [`Fault::code`].
    ///
    /// `None` when it must be dropped: no SIP start line, a response, an ACK, or no Via to answer to (RFC 3261 §8.2.6,
    /// §18.3).
    #[must_use]
    pub fn answerable(&self) -> Option<&Message> {
        let message = self.partial.as_deref()?;
        let answerable = !matches!(message.method(), None | Some("ACK")) && message.value(Name::Via).is_some();
        answerable.then_some(message)
    }
}

impl Message {
    /// Finds the parts of the message in a UDP datagram.
    ///
    /// Line ends before the start line are skipped; bytes after Content-Length are dropped; without Content-Length
    /// the body is the rest of the datagram (RFC 3261 §7.5, §18.3). A lone line feed ends a line as CRLF does.
    ///
    /// # Errors
    /// The first [`Fault`], with what could be read.
    pub fn parse(datagram: &[u8]) -> Result<Self, ParseError> {
        let drop = |fault| Err(ParseError { fault, partial: None });
        if datagram.len() > MAX_BYTES {
            return drop(Fault::TooLarge);
        }
        let start = datagram.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).unwrap_or(datagram.len());
        let (line_end, fields_start) = line_end(datagram, start);
        let (line, mut fault) = match parse_start(datagram, start, line_end) {
            Ok(parsed) => parsed,
            Err(fault) => return drop(fault),
        };
        let mut message = Self {
            raw: Vec::new(),
            line,
            fields: Vec::with_capacity(24),
            start,
            fields_start,
            fields_end: fields_start,
            body: 0..0,
        };
        let mut note = |found: Fault| {
            fault.get_or_insert(found);
        };
        let body_start = message.parse_fields(datagram, &mut note);
        let body_end = match (content_length(datagram, &message.fields), body_start) {
            (_, None) => {
                note(Fault::Truncated);
                datagram.len()
            }
            (Err(()), _) => {
                note(Fault::ContentLength);
                datagram.len()
            }
            (Ok(None), _) => datagram.len(),
            (Ok(Some(length)), Some(body_start)) => match body_start.checked_add(length) {
                Some(end) if end <= datagram.len() => end,
                _ => {
                    note(if length > MAX_BYTES { Fault::TooLarge } else { Fault::ShortBody });
                    datagram.len()
                }
            },
        };
        message.body = body_start.unwrap_or(body_end)..body_end;
        message.raw = slice(datagram, 0, body_end).to_vec();
        match fault {
            None => Ok(message),
            Some(fault) => Err(ParseError { fault, partial: Some(Box::new(message)) }),
        }
    }

    /// The bytes that it takes on the heap.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.raw.capacity() + self.fields.capacity() * size_of::<Field>()
    }

    /// The start line.
    #[must_use]
    pub fn start(&self) -> Start<'_> {
        match &self.line {
            Line::Request { method, uri } => Start::Request { method: self.text(method), uri: self.text(uri) },
            Line::Response { code, reason } => {
                Start::Response { code: *code, reason: slice(&self.raw, reason.start, reason.end) }
            }
        }
    }

    /// The method of a request.
    #[must_use]
    pub fn method(&self) -> Option<&str> {
        match self.start() {
            Start::Request { method, .. } => Some(method),
            Start::Response { .. } => None,
        }
    }

    /// The Request-URI of a request.
    #[must_use]
    pub fn request_uri(&self) -> Option<&str> {
        match self.start() {
            Start::Request { uri, .. } => Some(uri),
            Start::Response { .. } => None,
        }
    }

    /// The status code of a response.
    #[must_use]
    pub fn code(&self) -> Option<u16> {
        match self.start() {
            Start::Response { code, .. } => Some(code),
            Start::Request { .. } => None,
        }
    }

    /// The message as it came, leading line ends and excess bytes aside.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        slice(&self.raw, self.start, self.raw.len())
    }

    /// All header fields in their order.
    pub fn headers(&self) -> impl Iterator<Item = Header<'_>> {
        self.fields.iter().map(|field| self.header(field))
    }

    /// The lines of one header field, in their order.
    pub fn lines<'a>(&'a self, key: impl Into<Key<'a>>) -> impl Iterator<Item = Header<'a>> {
        let key = key.into();
        let fields = self.fields.iter().filter(move |field| match key {
            // The hot case needs no spelling.
            Key::Known(name) => field.name == name && name != Name::Other,
            Key::Text(_) => key.matches(field.name, slice(&self.raw, field.start as usize, field.name_end as usize)),
        });
        fields.map(|field| self.header(field))
    }

    /// The value of the field's first line: on one line, trimmed, bytes that are not UTF-8 as U+FFFD.
    #[must_use]
    pub fn value<'a>(&'a self, key: impl Into<Key<'a>>) -> Option<Cow<'a, str>> {
        self.lines(key).next().map(|header| header.value())
    }

    /// Every value of the field across all its lines: divided at commas where the field is a list.
    pub fn values<'a>(&'a self, key: impl Into<Key<'a>>) -> impl Iterator<Item = Cow<'a, str>> {
        self.raw_values(key).map(unfold)
    }

    /// As [`values`](Self::values), still folded and as bytes.
    pub fn raw_values<'a>(&'a self, key: impl Into<Key<'a>>) -> impl Iterator<Item = &'a [u8]> {
        self.lines(key).flat_map(|header| {
            let list = header.name.shape() == Shape::List;
            let comments = header.name == Name::Via;
            let mut rest = Some(header.raw_value);
            std::iter::from_fn(
                move || {
                    if list { next_element(&mut rest, comments) } else { rest.take().map(trim_bytes) }
                },
            )
        })
    }

    /// The body, Content-Length applied.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        slice(&self.raw, self.body.start, self.body.end)
    }

    /// The media type of Content-Type without its parameters, as spelled.
    #[must_use]
    pub fn content_type(&self) -> Option<Cow<'_, str>> {
        let header = self.lines(Name::ContentType).next()?;
        let media_type = header.raw_value.split(|&byte| byte == b';').next()?;
        Some(unfold(media_type))
    }

    /// Call-ID, as bytes would compare: case matters (RFC 3261 §8.1.1.4).
    #[must_use]
    pub fn call_id(&self) -> Option<Cow<'_, str>> {
        self.value(Name::CallId).filter(|value| !value.is_empty())
    }

    /// CSeq's number and method.
    ///
    /// # Errors
    /// [`Malformed`] when absent, not a number below 2**31 (RFC 3261 §8.1.1.5), or without a method.
    pub fn cseq(&self) -> Result<CSeq<'_>, Malformed> {
        let header = self.lines(Name::CSeq).next().ok_or(Malformed(Name::CSeq))?;
        CSeq::parse(header.raw_value)
    }

    /// From's tag.
    #[must_use]
    pub fn from_tag(&self) -> Option<Cow<'_, str>> {
        self.tag(Name::From)
    }

    /// To's tag.
    #[must_use]
    pub fn to_tag(&self) -> Option<Cow<'_, str>> {
        self.tag(Name::To)
    }

    /// The Via values, topmost first.
    pub fn vias(&self) -> impl Iterator<Item = Result<Via<'_>, Malformed>> {
        self.raw_values(Name::Via).map(|raw| {
            let text = std::str::from_utf8(raw).map_err(|_| Malformed(Name::Via))?;
            Via::parse(text)
        })
    }

    /// The topmost Via.
    ///
    /// # Errors
    /// [`Malformed`] when absent or unreadable.
    pub fn top_via(&self) -> Result<Via<'_>, Malformed> {
        self.vias().next().unwrap_or(Err(Malformed(Name::Via)))
    }

    /// Max-Forwards, where present.
    ///
    /// # Errors
    /// [`Malformed`] when not a number up to 255 (RFC 3261 §20.22).
    pub fn max_forwards(&self) -> Result<Option<u8>, Malformed> {
        let malformed = Malformed(Name::MaxForwards);
        let Some(header) = self.lines(Name::MaxForwards).next() else {
            return Ok(None);
        };
        let count = number(trim_bytes(header.raw_value)).ok_or(malformed)?;
        u8::try_from(count).map(Some).map_err(|_| malformed)
    }

    /// Expires in seconds. A value that cannot be read counts as absent, one too large as 2**32-1 (RFC 3261 §20.19).
    #[must_use]
    pub fn expires(&self) -> Option<u32> {
        let header = self.lines(Name::Expires).next()?;
        delta_seconds(trim_bytes(header.raw_value))
    }

    /// Which of `names` occurs on more than one line.
    pub(super) fn repeated(&self, names: &[Name]) -> Option<Name> {
        let mut seen = 0_u128;
        self.fields.iter().map(|field| field.name).find(|name| {
            let bit = 1_u128.checked_shl(*name as u32).unwrap_or_default();
            let again = seen & bit != 0;
            seen |= bit;
            again && names.contains(name)
        })
    }

    pub(super) fn header(&self, field: &Field) -> Header<'_> {
        let name = slice(&self.raw, field.start as usize, field.name_end as usize);
        Header {
            name: field.name,
            // Names are tokens, and tokens are ASCII.
            raw_name: std::str::from_utf8(name).unwrap_or_default(),
            raw_value: slice(&self.raw, field.value_start as usize, field.value_end as usize),
        }
    }

    fn tag(&self, name: Name) -> Option<Cow<'_, str>> {
        let header = self.lines(name).next()?;
        let tag = match std::str::from_utf8(header.raw_value) {
            Ok(text) => Cow::Borrowed(NameAddr::parse(text).ok()?.param("tag")?),
            Err(_) => {
                let text = String::from_utf8_lossy(header.raw_value);
                Cow::Owned(NameAddr::parse(&text).ok()?.param("tag")?.to_owned())
            }
        };
        Some(tag).filter(|tag| !tag.is_empty())
    }

    fn text(&self, range: &Range<usize>) -> &str {
        // Checked to be UTF-8 when the start line was parsed.
        std::str::from_utf8(slice(&self.raw, range.start, range.end)).unwrap_or_default()
    }

    /// Fills `fields`; returns where the body begins, or `None` where the empty line is missing.
    fn parse_fields(&mut self, bytes: &[u8], note: &mut impl FnMut(Fault)) -> Option<usize> {
        let mut at = self.fields_start;
        loop {
            self.fields_end = at;
            match bytes.get(at..)? {
                [b'\r', b'\n', ..] => return Some(at + 2),
                [b'\n', ..] => return Some(at + 1),
                [] => return None,
                _ => {}
            }
            let (mut value_end, mut end) = line_end(bytes, at);
            while matches!(bytes.get(end), Some(b' ' | b'\t')) {
                (value_end, end) = line_end(bytes, end);
            }
            if end == value_end {
                // The datagram ends within this line.
                return None;
            }
            if self.fields.len() == MAX_FIELDS {
                note(Fault::TooManyFields);
            } else {
                match parse_field(bytes, at, value_end, end) {
                    Some(field) => self.fields.push(field),
                    None => note(Fault::HeaderField),
                }
            }
            at = end;
        }
    }
}
