//! A changed copy of a message: lines that nobody touched keep their bytes.

use std::borrow::Cow;

use super::fields::Line;
use super::message::Message;
use super::name::{Key, Name};
use super::scan::{all_token, one_line, slice};
use super::uri::rewrite_hosts_bytes;

/// Changes to a message, made in memory line by line and written by [`finish`](Self::finish).
///
/// Values are written on one line: line ends inside them become spaces. A key that is no token, such as
/// [`Name::Other`]'s, adds nothing.
#[derive(Clone, Debug)]
pub struct Editor<'m> {
    message: &'m Message,
    uri: Option<String>,
    lines: Vec<EditedLine<'m>>,
    body: Option<Vec<u8>>,
    states_length: bool,
}

#[derive(Clone, Debug)]
struct EditedLine<'m> {
    name: Name,
    name_length: usize,
    /// The whole line with its line end.
    bytes: Cow<'m, [u8]>,
}

impl Message {
    /// Begins a changed copy.
    #[must_use]
    pub fn edit(&self) -> Editor<'_> {
        Editor::new(self)
    }
}

impl<'m> Editor<'m> {
    pub(super) fn new(message: &'m Message) -> Self {
        let raw = message.raw.as_slice();
        let lines = message.fields.iter().map(|field| EditedLine {
            name: field.name,
            name_length: (field.name_end - field.start) as usize,
            bytes: Cow::Borrowed(slice(raw, field.start as usize, field.end as usize)),
        });
        // Room for what a proxy usually adds.
        let mut edited = Vec::with_capacity(message.fields.len() + 4);
        edited.extend(lines);
        Self { message, uri: None, lines: edited, body: None, states_length: false }
    }

    /// Replaces the Request-URI; nothing happens to a response.
    pub fn request_uri(&mut self, uri: &str) -> &mut Self {
        self.uri = Some(one_line(uri).into_owned());
        self
    }

    /// Makes the lines of a header field those of `values`: at the place of the first, in its spelling; at the end
    /// where there was none. No values: the field is removed.
    pub fn replace<'k, V>(&mut self, key: impl Into<Key<'k>>, values: V) -> &mut Self
    where
        V: IntoIterator,
        V::Item: AsRef<str>,
    {
        let key = key.into();
        let place = self.first(key);
        let spelling = place.and_then(|at| self.lines.get(at)).map_or(&[][..], EditedLine::raw_name);
        let values: Vec<_> =
            values.into_iter().filter_map(|value| EditedLine::new(key, spelling, value.as_ref())).collect();
        self.lines.retain(|line| !line.is(key));
        let place = place.unwrap_or(self.lines.len()).min(self.lines.len());
        self.lines.splice(place..place, values);
        self
    }

    /// Makes a header field a single line with this value.
    pub fn set<'k>(&mut self, key: impl Into<Key<'k>>, value: &str) -> &mut Self {
        self.replace(key, [value])
    }

    /// Removes every line of a header field.
    pub fn remove<'k>(&mut self, key: impl Into<Key<'k>>) -> &mut Self {
        let key = key.into();
        self.lines.retain(|line| !line.is(key));
        self
    }

    /// Adds a line before the field's first, or before all others where there is none.
    pub fn prepend<'k>(&mut self, key: impl Into<Key<'k>>, value: &str) -> &mut Self {
        let key = key.into();
        let place = self.first(key).unwrap_or(0);
        self.lines.splice(place..place, EditedLine::new(key, &[], value));
        self
    }

    /// Adds a line after the field's last, or after all others where there is none.
    pub fn append<'k>(&mut self, key: impl Into<Key<'k>>, value: &str) -> &mut Self {
        let key = key.into();
        let last = self.lines.iter().rposition(|line| line.is(key));
        let place = last.map_or(self.lines.len(), |at| at + 1);
        self.lines.splice(place..place, EditedLine::new(key, &[], value));
        self
    }

    /// Rewrites the hosts of the SIP URIs in every line of a header field, see [`super::rewrite_hosts`]; folds and
    /// bytes that are not UTF-8 survive.
    pub fn rewrite_hosts<'k>(
        &mut self,
        key: impl Into<Key<'k>>,
        mut map: impl FnMut(&str, Option<u16>) -> Option<String>,
    ) -> &mut Self {
        let key = key.into();
        for line in self.lines.iter_mut().filter(|line| line.is(key)) {
            let Some(colon) = line.bytes.iter().position(|&byte| byte == b':') else {
                continue;
            };
            let value = slice(&line.bytes, colon + 1, line.bytes.len());
            if let Cow::Owned(value) = rewrite_hosts_bytes(value, &mut map) {
                let mut bytes = slice(&line.bytes, 0, colon + 1).to_vec();
                bytes.extend_from_slice(&value);
                line.bytes = Cow::Owned(bytes);
            }
        }
        self
    }

    /// Replaces the body, and Content-Type where one is given. Content-Length follows.
    pub fn body(&mut self, content_type: Option<&str>, body: Vec<u8>) -> &mut Self {
        if let Some(content_type) = content_type {
            self.set(Name::ContentType, content_type);
        }
        self.body = Some(body);
        self
    }

    /// Adds Content-Length where it is missing, as it may be in a datagram and in a WebSocket's message, but not in a
    /// stream (RFC 3261 §20.14).
    pub fn state_length(&mut self) -> &mut Self {
        self.states_length = true;
        self
    }

    /// Writes the changed message: without excess bytes, and without the line ends before the start line.
    #[must_use]
    pub fn finish(&self) -> Vec<u8> {
        let raw = self.message.raw.as_slice();
        let body = self.body.as_deref().unwrap_or_else(|| self.message.body());
        let length: usize = self.lines.iter().map(|line| line.bytes.len()).sum();
        let uri_length = self.uri.as_ref().map_or(0, String::len);
        let mut out = Vec::with_capacity(length + body.len() + uri_length + self.message.fields_start + 64);
        self.write_start(raw, &mut out);
        let mut counted = self.body.is_none() && !self.states_length;
        for line in &self.lines {
            if self.body.is_some() && line.name == Name::ContentLength {
                write_content_length(&line.bytes, body.len(), &mut out);
                counted = true;
            } else {
                counted |= line.name == Name::ContentLength;
                out.extend_from_slice(&line.bytes);
            }
        }
        if !counted {
            out.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
        }
        let empty_line = slice(raw, self.message.fields_end, raw.len() - self.message.body().len());
        out.extend_from_slice(if empty_line.is_empty() { b"\r\n" } else { empty_line });
        out.extend_from_slice(body);
        out
    }

    fn write_start(&self, raw: &[u8], out: &mut Vec<u8>) {
        let end = self.message.fields_start;
        match (&self.message.line, &self.uri) {
            (Line::Request { uri, .. }, Some(replacement)) => {
                out.extend_from_slice(slice(raw, self.message.start, uri.start));
                out.extend_from_slice(replacement.as_bytes());
                out.extend_from_slice(slice(raw, uri.end, end));
            }
            _ => out.extend_from_slice(slice(raw, self.message.start, end)),
        }
    }

    fn first(&self, key: Key<'_>) -> Option<usize> {
        self.lines.iter().position(|line| line.is(key))
    }
}

impl EditedLine<'_> {
    /// A new line; an empty `spelling` takes the full name. `None` where the name is no token.
    fn new(key: Key<'_>, spelling: &[u8], value: &str) -> Option<Self> {
        let value = one_line(value);
        let raw_name = if spelling.is_empty() { key.text().as_bytes() } else { spelling };
        if !all_token(raw_name) {
            return None;
        }
        let mut bytes = Vec::with_capacity(raw_name.len() + value.len() + 4);
        bytes.extend_from_slice(raw_name);
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
        let name = match key {
            Key::Known(name) => name,
            Key::Text(_) => Name::Other,
        };
        Some(Self { name, name_length: raw_name.len(), bytes: Cow::Owned(bytes) })
    }

    fn raw_name(&self) -> &[u8] {
        slice(&self.bytes, 0, self.name_length)
    }

    fn is(&self, key: Key<'_>) -> bool {
        key.matches(self.name, self.raw_name())
    }
}

/// The line with another number in the place of its digits.
fn write_content_length(line: &[u8], length: usize, out: &mut Vec<u8>) {
    let colon = line.iter().position(|&byte| byte == b':').unwrap_or_default();
    let digit = |at: usize| line.get(at).is_some_and(u8::is_ascii_digit);
    let start = (colon..line.len()).find(|&at| digit(at)).unwrap_or(line.len());
    let end = (start..line.len()).find(|&at| !digit(at)).unwrap_or(line.len());
    out.extend_from_slice(slice(line, 0, start));
    out.extend_from_slice(length.to_string().as_bytes());
    out.extend_from_slice(slice(line, end, line.len()));
}
