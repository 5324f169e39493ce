//! What holds for any input: no panic, no byte lost, edits that read back as written.

use std::borrow::Cow;

use proptest::prelude::*;
use proxy_user::signalling::sip::{
    Datagram, Message, Name, NameAddr, Params, Response, Uri, Via, ack_for, cancel_for, check_request, check_response,
    rewrite_hosts_bytes, split_list,
};

use crate::torture;

/// Calls everything that reads or writes a message; returns what an edit of nothing writes.
fn exercise(message: &Message) -> Vec<u8> {
    let _ = (message.start(), message.call_id(), message.cseq(), message.from_tag(), message.to_tag());
    let _ = (message.max_forwards(), message.expires(), message.content_type(), message.body());
    let _ = (check_request(message), check_response(message));
    for via in message.vias().flatten() {
        let _ = (via.branch(), via.has_cookie(), via.received(), via.rport());
        let noted = via.with_source("192.0.2.1", 1);
        assert!(Via::parse(&noted).is_ok(), "{noted}");
    }
    for header in message.headers() {
        for value in message.values(header.raw_name) {
            if let Ok(address) = NameAddr::parse(&value) {
                let _ = (address.uri(), address.tag(), address.expires());
                let changed = address.with_uri("sip:t@h");
                assert_eq!(NameAddr::parse(&changed).map(|address| address.uri), Ok("sip:t@h"));
            }
            let _ = rewrite_hosts_bytes(value.as_bytes(), |_, _| Some("h".to_owned()));
        }
    }
    let _ = Response::to(message, 400).to_tag("t").top_via("x").finish();
    let _ = (ack_for(message, message), cancel_for(message));
    let mut editor = message.edit();
    editor.request_uri("sip:x").set(Name::Via, "v").append("X-New", "1").prepend(Name::Route, "<sip:r>");
    editor.rewrite_hosts(Name::From, |_, _| Some("h".to_owned())).body(Some("a/b"), vec![1, 2, 3]);
    let edited = Message::parse(&editor.finish());
    if let Ok(edited) = &edited {
        assert_eq!(edited.body(), [1, 2, 3]);
        assert_eq!(edited.value("X-New").as_deref(), Some("1"));
    }
    message.edit().finish()
}

/// Anything that arrives: refused, or read so that writing it again gives the same bytes.
fn take(bytes: &[u8]) {
    let _ = Datagram::of(bytes);
    match Message::parse(bytes) {
        Ok(message) => {
            let output = exercise(&message);
            assert_eq!(output, message.bytes());
            let again = Message::parse(&output).unwrap();
            assert_eq!(again.start(), message.start());
            assert_eq!(again.body(), message.body());
            assert_eq!(check_request(&again), check_request(&message));
        }
        Err(error) => {
            if let Some(message) = error.answerable() {
                let _ = exercise(message);
                let answer = Response::to(message, error.fault.code()).to_tag("t").finish();
                assert!(Message::parse(&answer).is_ok(), "{}", String::from_utf8_lossy(&answer));
            }
        }
    }
}

/// Bytes that parsers trip over, more often than chance brings them.
fn telling_byte() -> impl Strategy<Value = u8> {
    prop_oneof![proptest::sample::select(b"\r\n \t\"\\<>;,:=?@()[]/*%\0\xff9z".to_vec()), any::<u8>()]
}

/// One of the torture messages with some bytes replaced, inserted, doubled or cut.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let edits = proptest::collection::vec((any::<proptest::sample::Index>(), telling_byte(), 0..4_u8), 0..12);
    (0..torture::MESSAGES.len(), edits).prop_map(|(which, edits)| {
        let mut bytes = torture::file(torture::MESSAGES[which].0);
        for (index, byte, kind) in edits {
            if bytes.is_empty() {
                break;
            }
            let at = index.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                2 => drop(bytes.remove(at)),
                _ => bytes.truncate(at),
            }
        }
        bytes
    })
}

/// A header line: name in some spelling, value in some layout, and what it means on one line.
fn line() -> impl Strategy<Value = (Name, String, String)> {
    let names: Vec<Name> = Name::all().filter(|&name| name != Name::ContentLength).collect();
    let gap = proptest::sample::select(vec!["", " ", "  ", "\t"]);
    let fold = proptest::sample::select(vec![" ", "\r\n ", " \r\n\t"]);
    (proptest::sample::select(names), any::<bool>(), any::<bool>(), gap.clone(), gap, fold, "[a-z0-9<>@:;=.]{1,12}")
        .prop_map(|(name, compact, upper, before, after, fold, word)| {
            let spelling = name.compact().filter(|_| compact).unwrap_or(name.text());
            let spelling = if upper { spelling.to_uppercase() } else { spelling.to_owned() };
            (name, format!("{spelling}{before}:{after}{word}{fold}x\r\n"), format!("{word} x"))
        })
}

/// A change and what it does to a list of (name, value).
#[derive(Clone, Debug)]
enum Change {
    Replace(Name, Vec<String>),
    Remove(Name),
    Prepend(Name, String),
    Append(Name, String),
}

impl Change {
    fn any() -> impl Strategy<Value = Self> {
        let name = proptest::sample::select(vec![Name::Via, Name::Contact, Name::To, Name::Route, Name::Subject]);
        let value = "[a-z]{1,8}";
        prop_oneof![
            (name.clone(), proptest::collection::vec(value, 0..3))
                .prop_map(|(name, values)| Self::Replace(name, values)),
            name.clone().prop_map(Self::Remove),
            (name.clone(), value).prop_map(|(name, value)| Self::Prepend(name, value)),
            (name, value).prop_map(|(name, value)| Self::Append(name, value)),
        ]
    }

    fn apply(&self, model: &mut Vec<(Name, String)>) {
        let (Self::Replace(name, _) | Self::Remove(name) | Self::Prepend(name, _) | Self::Append(name, _)) = self;
        let first = model.iter().position(|(found, _)| found == name);
        let last = model.iter().rposition(|(found, _)| found == name);
        match self {
            Self::Replace(name, values) => {
                model.retain(|(found, _)| found != name);
                let at = first.unwrap_or(model.len());
                model.splice(at..at, values.iter().map(|value| (*name, value.clone())));
            }
            Self::Remove(name) => model.retain(|(found, _)| found != name),
            Self::Prepend(name, value) => model.insert(first.unwrap_or(0), (*name, value.clone())),
            Self::Append(name, value) => model.insert(last.map_or(model.len(), |at| at + 1), (*name, value.clone())),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_taken(bytes in proptest::collection::vec(telling_byte(), 0..400)) {
        take(&bytes);
        let mut headed = b"INVITE sip:a@b SIP/2.0\r\nVia: ".to_vec();
        headed.extend_from_slice(&bytes);
        take(&headed);
        headed.extend_from_slice(b"\r\n\r\n");
        take(&headed);
    }

    #[test]
    fn broken_messages_are_taken(bytes in mutated()) {
        take(&bytes);
    }

    #[test]
    fn single_values_are_taken(bytes in proptest::collection::vec(telling_byte(), 0..60)) {
        let text = String::from_utf8_lossy(&bytes);
        let _ = (Via::parse(&text), NameAddr::parse(&text));
        if let Ok(uri) = Uri::parse(&text) {
            prop_assert!(uri.port().is_some() || uri.with_host_port(uri.host(), None) == text);
            let _ = (uri.user(), uri.headers(), uri.without_headers(), uri.without_param("a"));
        }
        let joined: usize = split_list(&text).map(str::len).sum();
        prop_assert!(joined <= text.len());
        prop_assert!(matches!(rewrite_hosts_bytes(&bytes, |_, _| None), Cow::Borrowed(_)));
    }

    #[test]
    fn a_parameter_reads_back_as_set(
        list in proptest::collection::vec(("[a-d]{1,2}", "[a-z0-9]{0,3}|\"[a-z;=,]{0,4}\""), 0..5),
        name in "[a-d]{1,2}",
        value in "[a-z0-9]{0,4}",
    ) {
        let text: String = list.iter().map(|(name, value)| format!(";{name}={value} ")).collect();
        let params = Params::new(&text);
        prop_assert!(params.well_formed());
        let with = params.with(&name, &value);
        prop_assert_eq!(Params::new(&with).get(&name), Some(value.as_str()));
        let others = |text: &str| {
            let kept = Params::new(text).iter().filter(|(found, _)| *found != name);
            kept.map(|(name, value)| (name.to_owned(), value.to_owned())).collect::<Vec<_>>()
        };
        prop_assert_eq!(others(&with), others(&text));
        let without = params.without(&name);
        prop_assert!(!Params::new(&without).has(&name));
        prop_assert_eq!(others(&without), others(&text));
    }

    #[test]
    fn edits_read_back_as_made(
        lines in proptest::collection::vec(line(), 0..12),
        changes in proptest::collection::vec(Change::any(), 0..6),
        body in proptest::collection::vec(any::<u8>(), 0..40),
        new_body in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..40)),
    ) {
        let head: String = lines.iter().map(|(_, text, _)| text.as_str()).collect();
        let mut bytes = format!("INFO sip:a@b SIP/2.0\r\n{head}L : {}\r\n\r\n", body.len()).into_bytes();
        bytes.extend_from_slice(&body);
        let message = Message::parse(&bytes).unwrap();
        prop_assert_eq!(message.edit().finish(), bytes);

        let mut model: Vec<(Name, String)> = lines.into_iter().map(|(name, _, value)| (name, value)).collect();
        model.push((Name::ContentLength, new_body.as_ref().unwrap_or(&body).len().to_string()));
        let mut editor = message.edit();
        for change in &changes {
            change.apply(&mut model);
            match change {
                Change::Replace(name, values) => editor.replace(*name, values),
                Change::Remove(name) => editor.remove(*name),
                Change::Prepend(name, value) => editor.prepend(*name, value),
                Change::Append(name, value) => editor.append(*name, value),
            };
        }
        if let Some(body) = &new_body {
            editor.body(None, body.clone());
        }
        let edited = Message::parse(&editor.finish()).unwrap();
        let read: Vec<_> = edited.headers().map(|header| (header.name, header.value().into_owned())).collect();
        prop_assert_eq!(read, model);
        prop_assert_eq!(edited.body(), new_body.unwrap_or(body));
    }
}
