//! Hosts as they appear in texts of other parties.

use std::net::{IpAddr, Ipv6Addr};

/// Hosts that a text must not name: literal addresses and names.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hidden {
    words: Vec<String>,
    /// Those of them that can be written in many ways.
    v6: Vec<Ipv6Addr>,
}

impl Hidden {
    /// Whether one of them is in `text`: as a word, or as another way to write the same IPv6 address.
    pub(crate) fn stands_in(&self, text: &[u8]) -> bool {
        self.words.iter().any(|word| contains_word(text, word.as_bytes()))
            || (!self.v6.is_empty() && v6_in(text).any(|address| self.v6.contains(&address)))
    }
}

impl FromIterator<String> for Hidden {
    fn from_iter<I: IntoIterator<Item = String>>(hosts: I) -> Self {
        let words: Vec<_> = hosts.into_iter().filter(|host| !host.is_empty()).collect();
        let v6 = words.iter().filter_map(|host| host.parse().ok()).collect();
        Self { words, v6 }
    }
}

/// The address that a host is, with or without brackets.
pub(crate) fn literal(host: &str) -> Option<IpAddr> {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    bare.unwrap_or(host).parse().ok()
}

/// Whether `word` is in `text` with no letter or digit on either side of it, whatever the case.
fn contains_word(text: &[u8], word: &[u8]) -> bool {
    let is_end = |byte: Option<&u8>| !byte.is_some_and(u8::is_ascii_alphanumeric);
    text.windows(word.len()).enumerate().any(|(start, window)| {
        window.eq_ignore_ascii_case(word)
            && is_end(start.checked_sub(1).and_then(|before| text.get(before)))
            && is_end(text.get(start + word.len()))
    })
}

/// The IPv6 addresses in a text.
fn v6_in(text: &[u8]) -> impl Iterator<Item = Ipv6Addr> {
    let may_be = |byte: &u8| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.');
    text.split(move |byte| !may_be(byte)).filter(|run| run.len() <= LONGEST_RUN).flat_map(|run| {
        // In `host:2001:db8::1` and `2001:db8::1.` the address is a part of the run.
        let run = std::str::from_utf8(run).unwrap_or_default();
        let starts = std::iter::once(0).chain(run.match_indices(':').map(|(at, _)| at + 1)).take(STARTS);
        starts.filter_map(move |start| {
            let rest = run.get(start..)?;
            rest.parse().or_else(|_| rest.trim_end_matches(['.', ':']).parse()).ok()
        })
    })
}

/// The longest way to write an IPv6 address is 45 characters; a little more for what may touch it.
const LONGEST_RUN: usize = 64;
/// How many places of a run are tried as the beginning of an address: a bound on what a text of colons costs.
const STARTS: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    fn hidden(host: &str) -> Hidden {
        [host.to_owned()].into_iter().collect()
    }

    #[test]
    fn an_address_is_found_as_a_word_only() {
        for (text, found) in [
            ("a=alt:1 1 : 10.0.0.5 5004", true),
            ("a=path:msrp://10.0.0.5:2855/x;tcp", true),
            ("a=x:110.0.0.5", false),
            ("a=x:10.0.0.51", false),
            ("10.0.0.5", true),
            ("", false),
        ] {
            assert_eq!(hidden("10.0.0.5").stands_in(text.as_bytes()), found, "{text}");
        }
    }

    #[test]
    fn an_ipv6_address_is_found_however_it_is_written() {
        for (text, found) in [
            ("a=x:2001:db8::5 5004", true),
            ("<sip:[2001:DB8:0:0::5]:5060>", true),
            ("seen at 2001:0db8:0000:0000:0000:0000:0000:0005.", true),
            ("2001:db8::0.0.0.5", true),
            ("2001:db8::5:", true),
            ("2001:db8::51", false),
            ("2001:db8:5::", false),
            ("12001:db8::5", false),
            ("::::::::", false),
            ("", false),
        ] {
            assert_eq!(hidden("2001:db8::5").stands_in(text.as_bytes()), found, "{text}");
        }
    }

    #[test]
    fn a_host_is_an_address_with_or_without_brackets() {
        for (host, address) in [
            ("[2001:DB8::1]", Some("2001:db8::1")),
            ("2001:db8:0::1", Some("2001:db8::1")),
            ("10.0.0.1", Some("10.0.0.1")),
            ("example.com", None),
            ("[2001:db8::1", None),
        ] {
            assert_eq!(literal(host), address.map(|address| address.parse().unwrap()), "{host}");
        }
    }
}
