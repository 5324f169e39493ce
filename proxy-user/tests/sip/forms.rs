//! The many forms of one header field: compact, folded, listed, odd in case and spacing.

use proxy_user::signalling::sip::{
    CSeq, Datagram, Fault, MAX_FIELDS, Message, Name, NameAddr, Rport, Start, Via, split_list,
};

/// A message with these lines after its start line.
fn with(lines: &str) -> Message {
    let text = format!("INVITE sip:b@example.com SIP/2.0\r\n{lines}\r\n\r\n");
    Message::parse(text.as_bytes()).unwrap()
}

#[test]
fn one_value_reads_the_same_in_every_form() {
    // Name, forms of its lines, the values they all mean.
    let table: [(Name, &[&str], &[&str]); 8] = [
        (
            Name::Via,
            &[
                "Via: SIP/2.0/UDP a;branch=1\r\nVia: SIP/2.0/UDP b;branch=2",
                "v:SIP/2.0/UDP a;branch=1\r\nV : SIP/2.0/UDP b;branch=2",
                "vIa: SIP/2.0/UDP a;branch=1, SIP/2.0/UDP b;branch=2",
                "Via:\r\n SIP/2.0/UDP a;branch=1\r\n\t,SIP/2.0/UDP\r\n b;branch=2  ",
                "v: SIP/2.0/UDP a;branch=1,,\r\nX: y\r\nVIA: ,SIP/2.0/UDP b;branch=2",
            ],
            &["SIP/2.0/UDP a;branch=1", "SIP/2.0/UDP b;branch=2"],
        ),
        (
            Name::Contact,
            &[
                "Contact: \"a, b\" <sip:a@h;x=\"1,2\">\r\nm: <sip:c,d@h>",
                "M: \"a, b\" <sip:a@h;x=\"1,2\">,<sip:c,d@h>",
                "contact :\"a, b\"\r\n <sip:a@h;x=\"1,2\">\r\n , <sip:c,d@h>",
            ],
            &["\"a, b\" <sip:a@h;x=\"1,2\">", "<sip:c,d@h>"],
        ),
        (
            Name::Contact,
            &["m: \"a\\\",\\\\\" <sip:a@h>", "Contact:\t\"a\\\",\\\\\" <sip:a@h>"],
            &["\"a\\\",\\\\\" <sip:a@h>"],
        ),
        (Name::CallId, &["Call-ID: a@b", "i:a@b", "CALL-id  :  a@b", "I:\r\n a@b\r\n "], &["a@b"]),
        (Name::Subject, &["Subject: x, y", "s: x,\r\n  y", "S:x,  \r\n\ty"], &["x, y"]),
        (Name::ContentType, &["Content-Type: application/sdp", "c:application/sdp"], &["application/sdp"]),
        (
            Name::Supported,
            &["Supported: 100rel,timer", "k: 100rel\r\nk: timer", "K:100rel\r\n ,timer"],
            &["100rel", "timer"],
        ),
        (
            Name::ProxyAuthorization,
            &[
                "Proxy-Authorization: Digest username=\"a, b\", uri=\"sip:h\"",
                "proxy-authorization:Digest username=\"a, b\", uri=\"sip:h\"",
            ],
            &["Digest username=\"a, b\", uri=\"sip:h\""],
        ),
    ];
    for (name, forms, values) in table {
        for form in forms {
            assert_eq!(with(form).values(name).collect::<Vec<_>>(), values, "{form}");
        }
    }
}

#[test]
fn every_compact_form_is_its_header_field() {
    for name in Name::all() {
        if let Some(compact) = name.compact() {
            let message = with(&format!("{compact}: 0"));
            assert_eq!(message.value(name).as_deref(), Some("0"), "{compact}");
            assert_eq!(message.headers().next().unwrap().raw_name, compact);
        }
    }
}

#[test]
fn unknown_names_are_found_by_their_spelling() {
    let message = with("X-Billing : a\r\nx-billing: b");
    assert_eq!(message.values("x-BILLING").collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(message.value("X-Other"), None);
    assert_eq!(message.value(Name::Other), None);
}

#[test]
fn edits_touch_their_lines_only() {
    let message = with("v: SIP/2.0/UDP a\r\nX :  1\r\n  2\r\nVia: SIP/2.0/UDP b\r\nm:<sip:a@h>\r\nl :  0 ");
    let start = "INVITE sip:b@example.com SIP/2.0\r\n";
    let after = |edit: &dyn Fn(&mut proxy_user::signalling::sip::Editor<'_>)| {
        let mut editor = message.edit();
        edit(&mut editor);
        let text = String::from_utf8(editor.finish()).unwrap();
        text.strip_prefix(start).map_or(text.clone(), str::to_owned)
    };
    let x = "X :  1\r\n  2\r\n";
    let rest = "m:<sip:a@h>\r\nl :  0 \r\n\r\n";
    assert_eq!(
        after(&|e| {
            e.replace(Name::Via, ["c", "d"]);
        }),
        format!("v: c\r\nv: d\r\n{x}{rest}")
    );
    assert_eq!(
        after(&|e| {
            e.remove(Name::Via);
        }),
        format!("{x}{rest}")
    );
    assert_eq!(
        after(&|e| {
            e.prepend(Name::Via, "c");
        }),
        format!("Via: c\r\nv: SIP/2.0/UDP a\r\n{x}Via: SIP/2.0/UDP b\r\n{rest}")
    );
    assert_eq!(
        after(&|e| {
            e.append(Name::Via, "c");
        }),
        format!("v: SIP/2.0/UDP a\r\n{x}Via: SIP/2.0/UDP b\r\nVia: c\r\n{rest}")
    );
    assert_eq!(
        after(&|e| {
            e.remove(Name::Via).set("x", "3").set("Z", "4").set("z", "5").append(Name::Other, "6").append("a:b", "7");
        }),
        format!("X: 3\r\nm:<sip:a@h>\r\nl :  0 \r\nZ: 5\r\n\r\n")
    );
    assert_eq!(
        after(&|e| {
            e.remove(Name::Via).body(Some("text/plain"), b"hello world".to_vec());
        }),
        format!("{x}m:<sip:a@h>\r\nl :  11 \r\nContent-Type: text/plain\r\n\r\nhello world")
    );
    assert_eq!(
        after(&|e| {
            e.request_uri("sip:c@d").remove(Name::Via);
        }),
        format!("INVITE sip:c@d SIP/2.0\r\n{x}{rest}")
    );
}

#[test]
fn a_new_body_brings_the_missing_content_length() {
    let message = with("Call-ID: a");
    let output = message.edit().body(None, b"x".to_vec()).finish();
    assert!(output.ends_with(b"\r\nCall-ID: a\r\nContent-Length: 1\r\n\r\nx"));
}

#[test]
fn a_missing_content_length_is_stated_where_it_has_to_be() {
    let message = Message::parse(b"MESSAGE sip:a SIP/2.0\r\nCall-ID: a\r\n\r\nbody").unwrap();
    let output = message.edit().state_length().finish();
    assert!(output.ends_with(b"\r\nCall-ID: a\r\nContent-Length: 4\r\n\r\nbody"));
    let again = Message::parse(&output).unwrap();
    assert_eq!(again.edit().state_length().finish(), output, "once");
}

#[test]
fn a_value_cannot_bring_a_line_of_its_own() {
    let message = with("Call-ID: a");
    let output = message.edit().set(Name::Subject, "x\r\nRoute: <sip:evil>").request_uri("sip:a\r\nB: c").finish();
    let edited = Message::parse(&output);
    assert!(edited.is_err(), "the Request-URI has a space now");
    let output = message.edit().set(Name::Subject, "x\r\nRoute: <sip:evil>").finish();
    assert_eq!(Message::parse(&output).unwrap().value(Name::Route), None);
}

#[test]
fn hosts_are_rewritten_in_folded_lines_that_are_not_utf8() {
    let text = b"INVITE sip:b@h SIP/2.0\r\nf : \"J\xf6rg\"\r\n <sip:j@10.0.0.1:5070>\r\n ;tag=10.0.0.1\r\n\r\n";
    let message = Message::parse(text).unwrap();
    assert_eq!(message.from_tag().as_deref(), Some("10.0.0.1"));
    let output = message.edit().rewrite_hosts(Name::From, |_, _| Some("example.com".to_owned())).finish();
    let expected = b"INVITE sip:b@h SIP/2.0\r\nf : \"J\xf6rg\"\r\n <sip:j@example.com>\r\n ;tag=10.0.0.1\r\n\r\n";
    assert_eq!(output, expected);
}

#[test]
fn via_is_read_in_every_form() {
    let via =
        Via::parse("SIP  / 2.0  / TCP     spindle.example.com : 5070  ;\r\n  branch  =   z9hG4bK9ikj8  ").unwrap();
    assert_eq!((via.transport, via.host, via.port), ("TCP", "spindle.example.com", Some(5070)));
    assert_eq!(via.branch(), "z9hG4bK9ikj8");
    assert!(via.has_cookie());

    // Text, host, port, rport.
    let table = [
        ("SIP/2.0/UDP 10.0.0.1;branch=x", "10.0.0.1", None, Rport::Absent),
        ("SIP/2.0/UDP 10.0.0.1:5060;rport;branch=x", "10.0.0.1", Some(5060), Rport::Asked),
        ("sip/2.0/udp 10.0.0.1;rport=;branch=x", "10.0.0.1", None, Rport::Asked),
        ("SIP/2.0/UDP [2001:db8::9:1]:5060;branch=x;RPORT=1024", "[2001:db8::9:1]", Some(5060), Rport::Port(1024)),
    ];
    for (text, host, port, rport) in table {
        let via = Via::parse(text).unwrap();
        assert_eq!((via.host, via.port, via.rport(), via.branch()), (host, port, rport, "x"), "{text}");
        assert!(!via.has_cookie());
    }
    for text in [
        "",
        "SIP/2.0/UDP",
        "SIP/2.0 UDP h",
        "SIP/3.0/UDP h",
        "HTTP/2.0/UDP h",
        "SIP/2.0/UDP h:x",
        "SIP/2.0/UDP h:70000",
        "SIP/2.0/UDP h;;",
        "SIP/2.0/UDP h;=1",
        "SIP/2.0/UDP h h",
        "SIP/2.0/U\"P h",
        "SIP/2.0/UDP [::1",
        "SIP/2.0/UDP ;branch=x",
    ] {
        assert!(Via::parse(text).is_err(), "{text}");
    }
}

#[test]
fn a_requests_source_is_noted_in_via() {
    let address = std::net::Ipv4Addr::new(192, 0, 2, 1);
    let noted = |text| Via::parse(text).unwrap().with_source(address, 1024);
    assert_eq!(noted("SIP/2.0/UDP h;branch=x"), "SIP/2.0/UDP h;branch=x;received=192.0.2.1");
    assert_eq!(noted("SIP/2.0/UDP h;rport;branch=x"), "SIP/2.0/UDP h;rport=1024;branch=x;received=192.0.2.1");
    // What a terminal claims about itself does not stand.
    assert_eq!(noted("SIP/2.0/UDP h;received=1.1.1.1 ;rport=1"), "SIP/2.0/UDP h;received=192.0.2.1 ;rport=1024");
}

#[test]
fn addresses_are_read_and_changed_in_every_form() {
    // Text, display name, URI, tag.
    let table = [
        ("sip:a@h;tag=1", "", "sip:a@h", Some("1")),
        ("<sip:a@h;tag=2>", "", "sip:a@h;tag=2", None),
        ("A. Bell<sip:a@h> ;\r\n tag = 3", "A. Bell", "sip:a@h", Some("3")),
        ("\"<x>, \\\"\" <sip:a@h;lr>;tag=4;x=\"a;b,c\"", "\"<x>, \\\"\"", "sip:a@h;lr", Some("4")),
        ("Jörg <sip:j@h>;TAG=5", "Jörg", "sip:j@h", Some("5")),
        ("<tel:+1;phone-context=x>", "", "tel:+1;phone-context=x", None),
        ("*", "", "*", None),
    ];
    for (text, display, uri, tag) in table {
        let address = NameAddr::parse(text).unwrap();
        assert_eq!((address.display(), address.uri, address.tag()), (display, uri, tag), "{text}");
        assert_eq!(address.is_wildcard(), text == "*");
    }
    for text in [
        "",
        ";tag=1",
        "<>",
        "\"a <sip:a@h>",
        "<sip:a@h",
        "a, b <sip:a@h>",
        "a\"b\" <sip:a@h>",
        "< sip:a@h >",
        "<sip:a@h>x",
        "<sip:a@h>;;",
        "sip:a@h b",
        "<sip:<a@h>",
    ] {
        assert!(NameAddr::parse(text).is_err(), "{text}");
    }
    let contact =
        NameAddr::parse("\"A\" <sip:a@h;ob>;q=0.5;expires=60 ;+sip.instance=\"<urn:uuid:1>\";reg-id=1").unwrap();
    assert_eq!(contact.expires(), Some(60));
    let moved = contact.with_uri("sip:t@192.0.2.1:5060");
    let moved = NameAddr::parse(&moved).unwrap().with_param("expires", "3600");
    assert_eq!(moved, "\"A\" <sip:t@192.0.2.1:5060>;q=0.5;expires=3600 ;+sip.instance=\"<urn:uuid:1>\";reg-id=1");
    assert_eq!(NameAddr::parse("sip:a@h;expires=5").unwrap().with_uri("sip:t@h;x"), "<sip:t@h;x>;expires=5");
    assert_eq!(NameAddr::parse("<sip:a@h>;a;expires=5").unwrap().without_param("a"), "<sip:a@h>;expires=5");
}

#[test]
fn numbers_have_their_limits() {
    assert_eq!(CSeq::parse(b" 0009\r\n  INVITE "), Ok(CSeq { number: 9, method: "INVITE" }));
    assert_eq!(CSeq::parse(b"2147483647 A").unwrap().number, 2_147_483_647);
    for text in ["", "1", "INVITE", "-1 A", "1 A B", "2147483648 A", "4294967297 A", "1A"] {
        assert!(CSeq::parse(text.as_bytes()).is_err(), "{text}");
    }
    assert_eq!(with("Max-Forwards: 0068").max_forwards(), Ok(Some(68)));
    assert_eq!(with("X: y").max_forwards(), Ok(None));
    assert!(with("Max-Forwards: 256").max_forwards().is_err());
    assert!(with("Max-Forwards:").max_forwards().is_err());
    assert_eq!(with("Expires: 3600").expires(), Some(3600));
    assert_eq!(with("Expires: 99999999999").expires(), Some(u32::MAX));
    assert_eq!(with("Expires: soon").expires(), None);
}

#[test]
fn lists_divide_outside_quotes_and_brackets() {
    let elements = |text| split_list(text).collect::<Vec<_>>();
    assert_eq!(elements("a, b ,,c"), ["a", "b", "c"]);
    assert_eq!(elements("\"a,\\\",b\" <sip:c,d>, e"), ["\"a,\\\",b\" <sip:c,d>", "e"]);
    assert_eq!(elements("sip:a(b@h, sip:c@h"), ["sip:a(b@h", "sip:c@h"]);
    assert_eq!(elements(" , "), [""; 0]);
    // A comment in Via hides a comma, as in RFC 2543.
    let message = with("Via: SIP/2.0/UDP a (first, \\) and last), SIP/2.0/UDP b");
    assert_eq!(message.values(Name::Via).count(), 2);
}

#[test]
fn datagrams_are_cut_as_the_rfc_says() {
    for bytes in [&b""[..], b"\r\n\r\n", b"\0", b"\0\0\0\0", b"\n"] {
        assert_eq!(Datagram::of(bytes), Datagram::KeepAlive);
        assert!(Message::parse(bytes).is_err());
    }
    let text = b"\r\n\r\nOPTIONS sip:h SIP/2.0\r\nl:3\r\n\r\nabcdef";
    assert_eq!(Datagram::of(text), Datagram::Message);
    let message = Message::parse(text).unwrap();
    assert_eq!(message.start(), Start::Request { method: "OPTIONS", uri: "sip:h" });
    assert_eq!(message.body(), b"abc");
    assert_eq!(message.edit().finish(), text[4..text.len() - 3]);
    assert_eq!(message.bytes(), &text[4..text.len() - 3]);
    // Without Content-Length the body is the rest.
    assert_eq!(Message::parse(b"OPTIONS sip:h SIP/2.0\r\nX: y\r\n\r\nabc").unwrap().body(), b"abc");
    // Line feeds alone end lines too, and stay what they are.
    let text = b"OPTIONS sip:h SIP/2.0\nX: y\nl: 1\n\na";
    assert_eq!(Message::parse(text).unwrap().edit().finish(), text);
}

#[test]
fn faults_are_told_apart() {
    let many = format!("OPTIONS sip:h SIP/2.0\r\n{}\r\n", "a: b\r\n".repeat(MAX_FIELDS + 1));
    let large = format!("OPTIONS sip:h SIP/2.0\r\nX: {}\r\n\r\n", "x".repeat(65_535));
    // Bytes, fault, status code of the answer.
    let table: [(&[u8], Fault, u16); 20] = [
        (b"hello", Fault::StartLine, 400),
        (b"GET / HTTP/1.1\r\n\r\n", Fault::StartLine, 400),
        (b"OPTIONS sip:h\r\n\r\n", Fault::StartLine, 400),
        (b"OPT(IONS sip:h SIP/2.0\r\n\r\n", Fault::StartLine, 400),
        (b"OPTIONS  SIP/2.0\r\n\r\n", Fault::StartLine, 400),
        (b"OPTIONS sip:h SIP/3.0\r\n\r\n", Fault::Version, 505),
        (b"SIP/3.0 200 OK\r\n\r\n", Fault::Version, 505),
        (b"SIP/2.0 20 OK\r\n\r\n", Fault::StatusCode, 400),
        (b"SIP/2.0 099 OK\r\n\r\n", Fault::StatusCode, 400),
        (b"SIP/2.0 700 OK\r\n\r\n", Fault::StatusCode, 400),
        (b"SIP/2.0 2000 OK\r\n\r\n", Fault::StatusCode, 400),
        (b"OPTIONS sip:h SIP/2.0\r\nno colon\r\n\r\n", Fault::HeaderField, 400),
        (b"OPTIONS sip:h SIP/2.0\r\na b: c\r\n\r\n", Fault::HeaderField, 400),
        (b"OPTIONS sip:h SIP/2.0\r\na: b\rc\r\n\r\n", Fault::HeaderField, 400),
        (b"OPTIONS sip:h SIP/2.0\r\n folded: first\r\n\r\n", Fault::HeaderField, 400),
        (b"OPTIONS sip:h SIP/2.0\r\na: b\r\n", Fault::Truncated, 400),
        (b"OPTIONS sip:h SIP/2.0\r\nl: 1\r\nl: 2\r\n\r\nab", Fault::ContentLength, 400),
        (b"OPTIONS sip:h SIP/2.0\r\nl: 3\r\n\r\nab", Fault::ShortBody, 400),
        (many.as_bytes(), Fault::TooManyFields, 513),
        (large.as_bytes(), Fault::TooLarge, 513),
    ];
    for (bytes, fault, code) in table {
        let error = Message::parse(bytes).unwrap_err();
        assert_eq!(
            (error.fault, error.fault.code()),
            (fault, code),
            "{}",
            String::from_utf8_lossy(&bytes[..bytes.len().min(60)])
        );
        assert!(error.answerable().is_none(), "without Via there is nowhere to answer to");
    }
}
