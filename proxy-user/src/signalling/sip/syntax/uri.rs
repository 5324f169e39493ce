//! SIP URIs (RFC 3261 §19.1, §25.1): a view over the text, and changes that keep every other byte.

use std::borrow::Cow;

use super::malformed::Malformed;
use super::name::Name;
use super::params::Params;
use super::scan::{find_outside_quotes, is_space, part, quoted_end, slice, trim};

/// A view of a URI. Of schemes other than `sip` and `sips` only the scheme is taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uri<'a> {
    text: &'a str,
    scheme_end: usize,
    /// Where `host[:port]` begins and ends; empty for other schemes.
    host_start: usize,
    host_end: usize,
    /// Past the port.
    hostport_end: usize,
    /// Where `?headers` begin; the end of the text without.
    params_end: usize,
    port: Option<u16>,
}

/// The text of a host and its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostPort<'a> {
    /// A name, an IPv4 address, or an IPv6 address in brackets.
    pub host: &'a str,
    /// The port, where written.
    pub port: Option<u16>,
}

impl<'a> HostPort<'a> {
    /// Reads `host[:port]`; white space around the colon is allowed as in Via (RFC 3261 §25.1, `sent-by`).
    ///
    /// # Errors
    /// [`Malformed`] when the host is neither a name, an IPv4 nor a bracketed IPv6 address, or the port is not a port.
    pub fn parse(text: &'a str, within: Name) -> Result<Self, Malformed> {
        let malformed = Malformed(within);
        let (host, rest) = if text.starts_with('[') {
            text.split_at(text.find(']').ok_or(malformed)? + 1)
        } else {
            text.split_at(text.find(':').unwrap_or(text.len()))
        };
        let host = trim(host);
        if !is_host(host) {
            return Err(malformed);
        }
        let rest = trim(rest);
        let port = match rest.strip_prefix(':') {
            Some(digits) => Some(port_number(trim(digits)).ok_or(malformed)?),
            None if rest.is_empty() => None,
            None => return Err(malformed),
        };
        Ok(Self { host, port })
    }
}

impl<'a> Uri<'a> {
    /// Takes a URI apart.
    ///
    /// # Errors
    /// [`Malformed`] without a scheme, with white space, quotes or angle brackets, or, for `sip` and `sips`, with an
    /// empty user part or a malformed host or port.
    pub fn parse(text: &'a str) -> Result<Self, Malformed> {
        Self::parse_within(text, Name::Other)
    }

    pub(super) fn parse_within(text: &'a str, within: Name) -> Result<Self, Malformed> {
        let malformed = Malformed(within);
        let scheme_end = text.find(':').ok_or(malformed)?;
        let scheme = part(text, 0, scheme_end);
        let legal = scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'));
        if !scheme.starts_with(|first: char| first.is_ascii_alphabetic()) || !legal {
            return Err(malformed);
        }
        if text.bytes().any(|byte| is_space(byte) || matches!(byte, b'<' | b'>' | b'"') || byte.is_ascii_control()) {
            return Err(malformed);
        }
        let end = text.len();
        let mut uri =
            Self { text, scheme_end, host_start: end, host_end: end, hostport_end: end, params_end: end, port: None };
        if !uri.is_sip() {
            return Ok(uri);
        }
        let rest = scheme_end + 1;
        // `;`, `?` and `/` may be in the user part, `@` may not: the first one ends it.
        uri.host_start = match part(text, rest, end).find('@') {
            Some(0) => return Err(malformed),
            Some(at) => rest + at + 1,
            None => rest,
        };
        let after = part(text, uri.host_start, end);
        uri.hostport_end = uri.host_start + after.find([';', '?']).unwrap_or(after.len());
        let hostport = HostPort::parse(part(text, uri.host_start, uri.hostport_end), within)?;
        uri.host_end = uri.host_start + hostport.host.len();
        uri.port = hostport.port;
        let tail = part(text, uri.hostport_end, end);
        uri.params_end = uri.hostport_end + tail.find('?').unwrap_or(tail.len());
        Ok(uri)
    }

    /// The whole URI as it came.
    #[must_use]
    pub fn text(&self) -> &'a str {
        self.text
    }

    /// The scheme as spelled.
    #[must_use]
    pub fn scheme(&self) -> &'a str {
        part(self.text, 0, self.scheme_end)
    }

    /// Whether the scheme is `sip` or `sips`.
    #[must_use]
    pub fn is_sip(&self) -> bool {
        self.scheme().eq_ignore_ascii_case("sip") || self.is_sips()
    }

    /// Whether the scheme is `sips`.
    #[must_use]
    pub fn is_sips(&self) -> bool {
        self.scheme().eq_ignore_ascii_case("sips")
    }

    /// User and password, escapes as they came.
    #[must_use]
    pub fn userinfo(&self) -> Option<&'a str> {
        let info = part(self.text, self.scheme_end + 1, self.host_start);
        info.strip_suffix('@')
    }

    /// The user without a password, escapes as they came.
    #[must_use]
    pub fn user(&self) -> Option<&'a str> {
        self.userinfo().map(|info| info.split_once(':').map_or(info, |(user, _)| user))
    }

    /// The host: a name, an IPv4 address, or an IPv6 address in brackets; empty for other schemes.
    #[must_use]
    pub fn host(&self) -> &'a str {
        part(self.text, self.host_start, self.host_end)
    }

    /// The port, where written.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// The URI's own parameters.
    #[must_use]
    pub fn params(&self) -> Params<'a> {
        Params::new(part(self.text, self.hostport_end, self.params_end))
    }

    /// The value of a URI parameter; empty for a flag.
    #[must_use]
    pub fn param(&self, name: &str) -> Option<&'a str> {
        self.params().get(name)
    }

    /// What follows `?`.
    #[must_use]
    pub fn headers(&self) -> Option<&'a str> {
        part(self.text, self.params_end, self.text.len()).strip_prefix('?')
    }

    /// The URI with another host and port; `host` may carry brackets. Other schemes stay as they are.
    #[must_use]
    pub fn with_host_port(&self, host: &str, port: Option<u16>) -> String {
        if !self.is_sip() {
            return self.text.to_owned();
        }
        let head = part(self.text, 0, self.host_start);
        let tail = part(self.text, self.hostport_end, self.text.len());
        match port {
            Some(port) => format!("{head}{host}:{port}{tail}"),
            None => format!("{head}{host}{tail}"),
        }
    }

    /// The URI with one of its parameters set; an empty value writes a flag.
    #[must_use]
    pub fn with_param(&self, name: &str, value: &str) -> String {
        self.around(&self.params().with(name, value))
    }

    /// The URI without the parameters of that name.
    #[must_use]
    pub fn without_param(&self, name: &str) -> String {
        self.around(&self.params().without(name))
    }

    /// The URI without `?headers`, as required in a Request-URI (RFC 3261 §19.1.1).
    #[must_use]
    pub fn without_headers(&self) -> &'a str {
        part(self.text, 0, self.params_end)
    }

    fn around(&self, params: &str) -> String {
        let head = part(self.text, 0, self.hostport_end);
        let tail = part(self.text, self.params_end, self.text.len());
        format!("{head}{params}{tail}")
    }
}

/// Rewrites the host and port of every SIP URI inside a header value: name-addr and addr-spec, single and listed.
///
/// `map` gets host and port and returns what replaces them (`host` or `host:port`), or `None` to keep them. Everything
/// else keeps its bytes: display names, users, parameters, tags, `?headers`, folds.
pub fn rewrite_hosts(value: &str, map: impl FnMut(&str, Option<u16>) -> Option<String>) -> Cow<'_, str> {
    match rewrite_hosts_bytes(value.as_bytes(), map) {
        Cow::Borrowed(_) => Cow::Borrowed(value),
        // Only whole UTF-8 pieces were exchanged, so nothing is lost here.
        Cow::Owned(bytes) => Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()),
    }
}

/// As [`rewrite_hosts`], for values that need not be UTF-8.
pub fn rewrite_hosts_bytes(value: &[u8], mut map: impl FnMut(&str, Option<u16>) -> Option<String>) -> Cow<'_, [u8]> {
    let mut out: Option<Vec<u8>> = None;
    let mut copied = 0;
    let mut at = 0;
    // Whether a URI without angle brackets may begin here: at the start and after a comma.
    let mut fresh = true;
    while let Some(&byte) = value.get(at) {
        let (start, end) = match byte {
            b'"' => {
                at = quoted_end(value, at).unwrap_or(value.len());
                fresh = false;
                continue;
            }
            b'<' => {
                let rest = slice(value, at + 1, value.len());
                (at + 1, at + 1 + rest.iter().position(|&byte| byte == b'>').unwrap_or(rest.len()))
            }
            b',' => {
                fresh = true;
                at += 1;
                continue;
            }
            _ if is_space(byte) || !fresh => {
                at += 1;
                continue;
            }
            _ => {
                (at, find_outside_quotes(value, at, |byte| is_space(byte) || matches!(byte, b';' | b',' | b'<' | b'"')))
            }
        };
        fresh = false;
        let uri = std::str::from_utf8(slice(value, start, end)).unwrap_or_default();
        if let Ok(uri) = Uri::parse(trim(uri))
            && uri.is_sip()
            && let Some(replacement) = map(uri.host(), uri.port())
        {
            let lead = slice(value, start, end).iter().take_while(|&&byte| is_space(byte)).count();
            let out = out.get_or_insert_with(|| Vec::with_capacity(value.len() + 32));
            out.extend_from_slice(slice(value, copied, start + lead + uri.host_start));
            out.extend_from_slice(replacement.as_bytes());
            copied = start + lead + uri.hostport_end;
        }
        at = end.max(at + 1);
    }
    match out {
        Some(mut out) => {
            out.extend_from_slice(slice(value, copied, value.len()));
            Cow::Owned(out)
        }
        None => Cow::Borrowed(value),
    }
}

/// A host name (underscores tolerated), an IPv4 address, or an IPv6 address in brackets.
fn is_host(text: &str) -> bool {
    match text.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').is_some_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok()),
        None => {
            !text.is_empty()
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'))
        }
    }
}

fn port_number(digits: &str) -> Option<u16> {
    super::scan::number(digits.as_bytes()).and_then(|port| u16::try_from(port).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_uris_apart() {
        // URI, userinfo, host, port, parameters, headers.
        let table = [
            ("sip:example.com", None, "example.com", None, "", None),
            ("SIP:alice@example.com:5070;lr", Some("alice"), "example.com", Some(5070), ";lr", None),
            ("sips:a:pw@10.0.0.1?Subject=x", Some("a:pw"), "10.0.0.1", None, "", Some("Subject=x")),
            ("sip:[2001:db8::1]:5060", None, "[2001:db8::1]", Some(5060), "", None),
            ("sip:u@[::1];transport=udp?a=b", Some("u"), "[::1]", None, ";transport=udp", Some("a=b")),
            (
                "sip:user;par=u%40example.net@example.com",
                Some("user;par=u%40example.net"),
                "example.com",
                None,
                "",
                None,
            ),
            ("sip:a@b?Replaces=x@y;z", Some("a"), "b", None, "", Some("Replaces=x@y;z")),
        ];
        for (text, userinfo, host, port, params, headers) in table {
            let uri = Uri::parse(text).unwrap();
            assert_eq!(uri.userinfo(), userinfo, "{text}");
            assert_eq!(uri.host(), host, "{text}");
            assert_eq!(uri.port(), port, "{text}");
            assert_eq!(uri.params().text(), params, "{text}");
            assert_eq!(uri.headers(), headers, "{text}");
            assert_eq!(uri.with_host_port(host, port), text);
        }
    }

    #[test]
    fn other_schemes_stay_whole() {
        for text in ["tel:+358-555-1234567;phone-context=x", "urn:service:sos", "soap.beep://192.0.2.103:3002"] {
            let uri = Uri::parse(text).unwrap();
            assert!(!uri.is_sip());
            assert_eq!(uri.host(), "");
            assert_eq!(uri.with_host_port("h", None), text);
        }
    }

    #[test]
    fn refuses_what_is_no_uri() {
        for text in [
            "",
            "alice",
            ":x",
            "sip:",
            "sip:@host",
            "sip:u@",
            "sip:u@host:",
            "sip:u@host:99999",
            "sip:u@host:5o",
            "sip:u@[::1",
            "sip:u@[::1]x",
            "sip:u@[10.0.0.1]",
            "sip:u@a b",
            "<sip:u@h>",
            "sip:u@h ;lr",
            "1sip:h",
        ] {
            assert!(Uri::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn changes_parameters_in_place() {
        let uri = Uri::parse("sip:u@h:1;transport=tcp;lr?x=y").unwrap();
        assert_eq!(uri.with_param("transport", "udp"), "sip:u@h:1;transport=udp;lr?x=y");
        assert_eq!(uri.with_param("ob", ""), "sip:u@h:1;transport=tcp;lr;ob?x=y");
        assert_eq!(uri.without_param("transport"), "sip:u@h:1;lr?x=y");
        assert_eq!(uri.without_headers(), "sip:u@h:1;transport=tcp;lr");
    }

    #[test]
    fn rewrites_literal_hosts_only_where_they_are_hosts() {
        let hide = |host: &str, port: Option<u16>| {
            (host == "10.0.0.1").then(|| port.map_or("h.example".to_owned(), |_| "h.example:5060".to_owned()))
        };
        let table = [
            ("sip:a@10.0.0.1", "sip:a@h.example"),
            ("sip:a@10.0.0.1:5070;tag=10.0.0.1", "sip:a@h.example:5060;tag=10.0.0.1"),
            ("\"sip:x@10.0.0.1\" <sip:a@10.0.0.1;lr>;tag=1", "\"sip:x@10.0.0.1\" <sip:a@h.example;lr>;tag=1"),
            ("A B <sips:10.0.0.1>\r\n ;tag=1", "A B <sips:h.example>\r\n ;tag=1"),
            (
                "<sip:1@10.0.0.1>,<tel:1>, sip:2@10.0.0.1 ,<sip:3@x>",
                "<sip:1@h.example>,<tel:1>, sip:2@h.example ,<sip:3@x>",
            ),
            ("< sip:1@10.0.0.1 >", "< sip:1@h.example >"),
            ("<http://10.0.0.1/>", "<http://10.0.0.1/>"),
            ("<sip:10.0.0.1@x?Replaces=10.0.0.1>", "<sip:10.0.0.1@x?Replaces=10.0.0.1>"),
            ("*", "*"),
        ];
        for (before, after) in table {
            assert_eq!(rewrite_hosts(before, hide), after);
        }
        assert!(matches!(rewrite_hosts("<sip:a@b>", hide), Cow::Borrowed(_)));
        assert_eq!(&*rewrite_hosts_bytes(b"\"\xe9\" <sip:a@10.0.0.1>", hide), b"\"\xe9\" <sip:a@h.example>");
    }
}
