//! Typed views of single header values: Via, addresses, CSeq; and the division of lists.
//!
//! The views read folded text in place; what they change keeps every other byte.

use std::fmt::Display;

use super::malformed::Malformed;
use super::name::Name;
use super::params::Params;
use super::scan::{
    all_token, delta_seconds, find_outside_quotes, is_space, number, part, quoted_end, slice, trim, trim_bytes,
};
use super::uri::{HostPort, Uri};

/// Divides a list at its commas: those outside quoted strings and angle brackets. Empty elements are skipped.
pub fn split_list(value: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(value.as_bytes());
    // Divided at ASCII bytes only, so every piece is UTF-8 again.
    std::iter::from_fn(move || next_element(&mut rest, false).map(|raw| std::str::from_utf8(raw).unwrap_or_default()))
}

/// Takes the next non-empty element off a list, trimmed. `comments`: parentheses hide commas too, as RFC 2543's Via
/// allows them; elsewhere a parenthesis is an ordinary character of a user name.
pub(super) fn next_element<'a>(rest: &mut Option<&'a [u8]>, comments: bool) -> Option<&'a [u8]> {
    loop {
        let bytes = (*rest)?;
        let mut at = 0;
        let mut comment_depth = 0_usize;
        while let Some(&byte) = bytes.get(at) {
            match byte {
                b',' if comment_depth == 0 => break,
                b'"' if comment_depth == 0 => at = quoted_end(bytes, at).unwrap_or(bytes.len()),
                b'<' if comment_depth == 0 => {
                    let tail = slice(bytes, at, bytes.len());
                    at += tail.iter().position(|&byte| byte == b'>').unwrap_or(tail.len());
                }
                b'\\' if comment_depth > 0 => at += 2,
                b'(' if comments => {
                    comment_depth += 1;
                    at += 1;
                }
                b')' if comments => {
                    comment_depth = comment_depth.saturating_sub(1);
                    at += 1;
                }
                _ => at += 1,
            }
        }
        let at = at.min(bytes.len());
        *rest = (at < bytes.len()).then(|| slice(bytes, at + 1, bytes.len()));
        let element = trim_bytes(slice(bytes, 0, at));
        if !element.is_empty() {
            return Some(element);
        }
    }
}

/// CSeq (RFC 3261 §20.16).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CSeq<'a> {
    /// Below 2**31 (RFC 3261 §8.1.1.5).
    pub number: u32,
    /// The method; case matters.
    pub method: &'a str,
}

impl<'a> CSeq<'a> {
    /// Reads a value, folded or not.
    ///
    /// # Errors
    /// [`Malformed`] unless it is a number below 2**31, white space and a method.
    pub fn parse(raw: &'a [u8]) -> Result<Self, Malformed> {
        let malformed = Malformed(Name::CSeq);
        let raw = trim_bytes(raw);
        let digits = raw.iter().position(|&byte| is_space(byte)).ok_or(malformed)?;
        let method = trim_bytes(slice(raw, digits, raw.len()));
        let number = number(slice(raw, 0, digits)).filter(|&number| number < 1 << 31).ok_or(malformed)?;
        if !all_token(method) {
            return Err(malformed);
        }
        Ok(Self { number, method: std::str::from_utf8(method).map_err(|_| malformed)? })
    }
}

/// One Via value (RFC 3261 §20.42, RFC 3581).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Via<'a> {
    text: &'a str,
    /// `UDP`, `TCP`, `TLS`, ... as spelled.
    pub transport: &'a str,
    /// The sent-by host: a name, an IPv4 address, or an IPv6 address in brackets.
    pub host: &'a str,
    /// The sent-by port, where written.
    pub port: Option<u16>,
    /// Where the parameters begin in the text.
    params_start: usize,
}

/// Via's `rport` parameter (RFC 3581 §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rport {
    /// Not there.
    Absent,
    /// Present without a value: the response must go to the source port.
    Asked,
    /// Filled in.
    Port(u16),
}

impl<'a> Via<'a> {
    /// Reads one value of a Via list, folded or not.
    ///
    /// # Errors
    /// [`Malformed`] unless it is `SIP/2.0/transport host[:port]` with well-formed parameters.
    pub fn parse(text: &'a str) -> Result<Self, Malformed> {
        let malformed = Malformed(Name::Via);
        let text = trim(text);
        let (protocol, rest) = text.split_once('/').ok_or(malformed)?;
        let (version, rest) = rest.split_once('/').ok_or(malformed)?;
        if !trim(protocol).eq_ignore_ascii_case("SIP") || trim(version) != "2.0" {
            return Err(malformed);
        }
        let rest = rest.trim_start_matches([' ', '\t', '\r', '\n']);
        let (transport, rest) = rest.split_at(rest.find([' ', '\t', '\r', '\n']).ok_or(malformed)?);
        let sent_by_end = find_outside_quotes(rest.as_bytes(), 0, |byte| byte == b';');
        let (sent_by, params) = rest.split_at_checked(sent_by_end).ok_or(malformed)?;
        let HostPort { host, port } = HostPort::parse(trim(sent_by), Name::Via)?;
        if !all_token(transport.as_bytes()) || !Params::new(params).well_formed() {
            return Err(malformed);
        }
        Ok(Self { text, transport, host, port, params_start: text.len() - params.len() })
    }

    /// The value as it came.
    #[must_use]
    pub fn text(&self) -> &'a str {
        self.text
    }

    /// All parameters.
    #[must_use]
    pub fn params(&self) -> Params<'a> {
        Params::new(part(self.text, self.params_start, self.text.len()))
    }

    /// The transaction identifier; empty when absent.
    #[must_use]
    pub fn branch(&self) -> &'a str {
        self.params().get("branch").unwrap_or_default()
    }

    /// Whether the branch was made by RFC 3261's rules, and so identifies the transaction (§8.1.1.7).
    #[must_use]
    pub fn has_cookie(&self) -> bool {
        self.branch().get(..7).is_some_and(|cookie| cookie.eq_ignore_ascii_case("z9hG4bK"))
    }

    /// The address that the request came from, where noted; IPv6 with or without brackets.
    #[must_use]
    pub fn received(&self) -> Option<&'a str> {
        self.params().get("received")
    }

    /// The port that the request came from.
    #[must_use]
    pub fn rport(&self) -> Rport {
        match self.params().get("rport") {
            None => Rport::Absent,
            Some(value) => match number(value.as_bytes()).and_then(|port| u16::try_from(port).ok()) {
                Some(port) => Rport::Port(port),
                None => Rport::Asked,
            },
        }
    }

    /// The value with one parameter set; an empty value writes a flag.
    #[must_use]
    pub fn with_param(&self, name: &str, value: &str) -> String {
        format!("{}{}", part(self.text, 0, self.params_start), self.params().with(name, value))
    }

    /// The value with the packet's source noted: `received` and, where asked for, `rport` (RFC 3581 §4).
    #[must_use]
    pub fn with_source(&self, address: impl Display, port: u16) -> String {
        let head = part(self.text, 0, self.params_start);
        let params = self.params().with("received", &address.to_string());
        match self.rport() {
            Rport::Absent => format!("{head}{params}"),
            Rport::Asked | Rport::Port(_) => format!("{head}{}", Params::new(&params).with("rport", &port.to_string())),
        }
    }
}

/// A name-addr or addr-spec with its parameters: From, To, Contact, Route, ... (RFC 3261 §20.10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameAddr<'a> {
    text: &'a str,
    display: &'a str,
    /// The URI without its angle brackets; `*` for Contact's wildcard.
    pub uri: &'a str,
    /// Where the URI is, brackets included.
    uri_start: usize,
    uri_end: usize,
}

impl<'a> NameAddr<'a> {
    /// Reads one value, folded or not.
    ///
    /// # Errors
    /// [`Malformed`] when quotes or angle brackets do not close, when the display name holds what only quotes
    /// allow (`,`, `;`, `"`, `>`), when the URI is empty or holds white space, or the parameters are malformed.
    pub fn parse(text: &'a str) -> Result<Self, Malformed> {
        Self::parse_within(text, Name::Other)
    }

    pub(super) fn parse_within(text: &'a str, within: Name) -> Result<Self, Malformed> {
        let malformed = Malformed(within);
        let text = trim(text);
        let bytes = text.as_bytes();
        let open = find_outside_quotes(bytes, 0, |byte| matches!(byte, b'<' | b';' | b','));
        let parsed = if bytes.get(open) == Some(&b'<') {
            let close = open + part(text, open, text.len()).find('>').ok_or(malformed)?;
            let display = trim(part(text, 0, open));
            if !is_display_name(display) {
                return Err(malformed);
            }
            Self { text, display, uri: part(text, open + 1, close), uri_start: open, uri_end: close + 1 }
        } else {
            // Without brackets, parameters belong to the header field (RFC 3261 §20).
            let uri = trim(part(text, 0, open));
            Self { text, display: "", uri, uri_start: 0, uri_end: uri.len() }
        };
        let blank = |byte: u8| is_space(byte) || byte.is_ascii_control();
        let foul = parsed.uri.is_empty() || parsed.uri.bytes().any(|byte| blank(byte) || matches!(byte, b'"' | b'<'));
        if foul || !parsed.params().well_formed() {
            return Err(malformed);
        }
        Ok(parsed)
    }

    /// The value as it came.
    #[must_use]
    pub fn text(&self) -> &'a str {
        self.text
    }

    /// The display name as it came, quotes included; empty when absent.
    #[must_use]
    pub fn display(&self) -> &'a str {
        self.display
    }

    /// Whether this is Contact's `*`.
    #[must_use]
    pub fn is_wildcard(&self) -> bool {
        self.uri == "*"
    }

    /// Whether the URI is in angle brackets.
    #[must_use]
    pub fn is_bracketed(&self) -> bool {
        part(self.text, self.uri_start, self.uri_end).starts_with('<')
    }

    /// The URI, taken apart.
    ///
    /// # Errors
    /// [`Malformed`] as [`Uri::parse`] finds it.
    pub fn uri(&self) -> Result<Uri<'a>, Malformed> {
        Uri::parse(self.uri)
    }

    /// The parameters after the URI.
    #[must_use]
    pub fn params(&self) -> Params<'a> {
        Params::new(part(self.text, self.uri_end, self.text.len()))
    }

    /// The value of a parameter after the URI; empty for a flag.
    #[must_use]
    pub fn param(&self, name: &str) -> Option<&'a str> {
        self.params().get(name)
    }

    /// The `tag` parameter.
    #[must_use]
    pub fn tag(&self) -> Option<&'a str> {
        self.param("tag").filter(|tag| !tag.is_empty())
    }

    /// Contact's `expires` parameter in seconds; absent when unreadable (RFC 3261 §10.3).
    #[must_use]
    pub fn expires(&self) -> Option<u32> {
        delta_seconds(self.param("expires")?.as_bytes())
    }

    /// The value with another URI, always in angle brackets.
    #[must_use]
    pub fn with_uri(&self, uri: &str) -> String {
        let head = part(self.text, 0, self.uri_start);
        let tail = part(self.text, self.uri_end, self.text.len());
        format!("{head}<{uri}>{tail}")
    }

    /// The value with one parameter set; an empty value writes a flag.
    #[must_use]
    pub fn with_param(&self, name: &str, value: &str) -> String {
        format!("{}{}", part(self.text, 0, self.uri_end), self.params().with(name, value))
    }

    /// The value without the parameters of that name.
    #[must_use]
    pub fn without_param(&self, name: &str) -> String {
        format!("{}{}", part(self.text, 0, self.uri_end), self.params().without(name))
    }
}

/// One quoted string, or words. Words need not be tokens (names in UTF-8 without quotes are common), but they must not
/// contain what separates values.
fn is_display_name(text: &str) -> bool {
    if text.starts_with('"') {
        return quoted_end(text.as_bytes(), 0) == Some(text.len());
    }
    !text.bytes().any(|byte| matches!(byte, b'"' | b',' | b';' | b'>'))
}
