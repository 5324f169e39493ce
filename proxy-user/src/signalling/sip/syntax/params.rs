//! `;name=value` parameters as Via, addresses and URIs carry them: reading, and changing one while the others
//! keep their bytes (RFC 3261 §25.1, `generic-param`).

use super::scan::{find_outside_quotes, is_space, part, trim};

/// A view of a parameter list: empty, or text that begins with `;`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Params<'a>(&'a str);

/// One parameter and its place in the list.
struct Param<'a> {
    name: &'a str,
    value: &'a str,
    /// From its `;` to before white space that follows.
    start: usize,
    end: usize,
}

impl<'a> Params<'a> {
    /// Views `text`, which begins with `;` or is empty.
    #[must_use]
    pub fn new(text: &'a str) -> Self {
        Self(trim(text))
    }

    /// The list as it came.
    #[must_use]
    pub fn text(&self) -> &'a str {
        self.0
    }

    /// Names and values in their order; a parameter without `=` has an empty value. Quotes stay.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        scan(self.0).map(|param| (param.name, param.value))
    }

    /// The value of the first parameter of that name in any case; empty where it has none.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&'a str> {
        self.iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// Whether a parameter of that name is there.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Whether every parameter has a name and nothing but parameters is there.
    #[must_use]
    pub fn well_formed(&self) -> bool {
        (self.0.is_empty() || self.0.starts_with(';'))
            && scan(self.0).all(|param| {
                let foul = |byte| is_space(byte) || matches!(byte, b'"' | b'<' | b'>' | b',');
                let name_ok = !param.name.is_empty() && !param.name.bytes().any(foul);
                name_ok
                    && (param.value.starts_with('"') || !param.value.bytes().any(|byte| matches!(byte, b'"' | b',')))
            })
    }

    /// The list with one parameter set: in place where it is there, else at the end. An empty value writes a flag.
    #[must_use]
    pub fn with(&self, name: &str, value: &str) -> String {
        let (head, tail) = match self.find(name) {
            Some(param) => (part(self.0, 0, param.start), part(self.0, param.end, self.0.len())),
            None => (self.0, ""),
        };
        let equals = if value.is_empty() { "" } else { "=" };
        format!("{head};{name}{equals}{value}{tail}")
    }

    /// The list without the parameters of that name.
    #[must_use]
    pub fn without(&self, name: &str) -> String {
        let mut kept = String::with_capacity(self.0.len());
        let mut at = 0;
        for param in scan(self.0).filter(|param| param.name.eq_ignore_ascii_case(name)) {
            kept.push_str(part(self.0, at, param.start));
            at = param.end;
        }
        kept.push_str(part(self.0, at, self.0.len()));
        kept
    }

    fn find(&self, name: &str) -> Option<Param<'a>> {
        scan(self.0).find(|param| param.name.eq_ignore_ascii_case(name))
    }
}

fn scan(text: &str) -> impl Iterator<Item = Param<'_>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        if at >= text.len() {
            return None;
        }
        let start = at;
        // Text that does not begin with `;` yields one parameter from its first byte on.
        let inner = if text.as_bytes().get(at) == Some(&b';') { at + 1 } else { at };
        let end = find_outside_quotes(text.as_bytes(), inner, |byte| byte == b';');
        at = end;
        let whole = part(text, inner, end);
        let (name, value) = whole.split_once('=').unwrap_or((whole, ""));
        let trimmed_end = start + part(text, start, end).trim_end_matches([' ', '\t', '\r', '\n']).len();
        Some(Param { name: trim(name), value: trim(value), start, end: trimmed_end })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_flags_values_and_quoted_values() {
        let params = Params::new(";lr ; q = 0.33;x=\"a;b\";+sip.instance=\"<urn:uuid:1>\"");
        assert_eq!(params.get("LR"), Some(""));
        assert_eq!(params.get("q"), Some("0.33"));
        assert_eq!(params.get("x"), Some("\"a;b\""));
        assert_eq!(params.get("+SIP.instance"), Some("\"<urn:uuid:1>\""));
        assert_eq!(params.get("b\""), None);
    }

    #[test]
    fn changes_one_and_keeps_the_others() {
        let params = Params::new(";a = 1 ;expires=60\r\n ;b");
        assert_eq!(params.with("expires", "3600"), ";a = 1 ;expires=3600\r\n ;b");
        assert_eq!(params.with("c", "x"), ";a = 1 ;expires=60\r\n ;b;c=x");
        assert_eq!(params.with("c", ""), ";a = 1 ;expires=60\r\n ;b;c");
        assert_eq!(params.without("EXPIRES"), ";a = 1 \r\n ;b");
        assert_eq!(params.without("b"), ";a = 1 ;expires=60\r\n ");
        assert_eq!(Params::new("").with("lr", ""), ";lr");
    }
}
