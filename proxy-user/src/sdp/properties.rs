//! What holds for every body.

use super::*;
use proptest::prelude::*;
use std::net::IpAddr;

fn plan(media: usize) -> Rewrite {
    Rewrite {
        address: "203.0.113.10".parse().unwrap(),
        media: (0..media as u16)
            .map(|index| match index % 3 {
                2 => MediaPlan::Reject,
                _ => MediaPlan::Relay {
                    rtp_port: 30_000 + 2 * index,
                    rtcp_port: 30_001 + 2 * index,
                    rtcp_mux: index % 2 == 1,
                },
            })
            .collect(),
    }
}

/// Addresses of peers; none is a part of another, or of one in the plan.
fn address() -> impl Strategy<Value = String> {
    prop_oneof![
        (1..250u8, 1..250u8).prop_map(|(a, b)| format!("IN IP4 10.77.{a}.{b}")),
        (1..0xffffu16).prop_map(|a| format!("IN IP6 2001:db8::{a:x}")),
        Just("IN IP4 phone.example.com".to_owned()),
        Just("IN IP4 0.0.0.0".to_owned()),
    ]
}

/// A line that the proxy has no business with.
fn foreign() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ybkzritpeu]=[ -~]{0,30}",
        "a=(rtpmap|fmtp|ptime|label|x-[a-z]{1,5}):[a-zA-Z ;=/]{0,20}",
        "a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:[a-zA-Z0-9+/]{40}",
        Just("a=sendonly".to_owned()),
        Just(String::new()),
    ]
}

/// A line that has to be changed or removed.
fn owned() -> impl Strategy<Value = String> {
    prop_oneof![
        address().prop_map(|address| format!("c={address}")),
        address().prop_map(|address| format!("o=- 1 2 {address}")),
        (any::<u16>(), "(/[1-3])?", "(RTP/AVP|RTP/SAVPF|udptl|TCP/MSRP)", "( [0-9]{1,3}){0,4}")
            .prop_map(|(port, count, protocol, formats)| format!("m=audio {port}{count} {protocol}{formats}")),
        (any::<u16>(), prop::option::of(address()))
            .prop_map(|(port, address)| format!("a=rtcp:{port} {}", address.unwrap_or_default())),
        address().prop_map(|address| format!("a=candidate:1 1 udp 1 {address} typ host")),
        address().prop_map(|address| format!("a=source-filter: incl {address}")),
        (address(), any::<u16>()).prop_map(|(address, port)| format!("a=x-seen:{address}:{port}")),
        Just("a=ice-ufrag:abcd".to_owned()),
        Just("a=rtcp-mux".to_owned()),
        Just("a=group:BUNDLE 0 1".to_owned()),
    ]
}

fn body(line: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    prop::collection::vec((line, prop_oneof![Just("\r\n"), Just("\n")]), 0..30)
        .prop_map(|lines| lines.into_iter().fold("v=0\r\n".to_owned(), |body, (line, end)| body + &line + end))
}

fn rewrite(body: &[u8]) -> Option<Vec<u8>> {
    let session = Session::parse(body).ok()?;
    Some(session.rewrite(&plan(session.media().len())))
}

proptest! {
    #[test]
    fn any_bytes_are_taken(body in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = rewrite(&body);
        let _ = rewrite(&[b"v=0\n", &body[..]].concat());
    }

    /// Pieces of session descriptions in any order reach further into the reader than bytes do.
    #[test]
    fn any_pieces_are_taken(pieces in prop::collection::vec(prop_oneof![
        Just("v=0"), Just("o="), Just("c="), Just("m="), Just("a="), Just("rtcp:"), Just("group:"), Just("ANAT"),
        Just("mid:"), Just("IN"), Just(" IP4"), Just(" IP6"), Just(" "), Just("\t"), Just("\n"), Just("\r"), Just("/"),
        Just("10.0.0.5"), Just("::1"), Just("65536"), Just("0"), Just("audio "), Just(" RTP/AVP"), Just("é"), Just(":"),
    ], 0..60)) {
        let body = format!("v=0\n{}", pieces.concat());
        if let Some(once) = rewrite(body.as_bytes()) {
            prop_assert_eq!(rewrite(&once), Some(once));
        }
    }

    #[test]
    fn rewriting_twice_is_rewriting_once(body in body(prop_oneof![foreign(), owned()])) {
        let once = rewrite(body.as_bytes()).unwrap();
        prop_assert_eq!(rewrite(&once).unwrap(), once);
    }

    #[test]
    fn foreign_lines_stay_byte_for_byte(body in body(foreign())) {
        prop_assert_eq!(rewrite(body.as_bytes()).unwrap(), body.as_bytes());
    }

    /// Between lines that change, the others stay, in their order.
    #[test]
    fn foreign_lines_stay_among_owned_ones(lines in prop::collection::vec(
        prop_oneof!["a=x-keep:[a-z]{3}".prop_map(|line| (true, line)), owned().prop_map(|line| (false, line))], 0..30,
    )) {
        let body: String = lines.iter().fold("v=0\n".to_owned(), |body, (_, line)| body + line + "\n");
        let out = String::from_utf8(rewrite(body.as_bytes()).unwrap()).unwrap();
        let kept: Vec<&str> = out.lines().filter(|line| line.starts_with("a=x-keep:")).collect();
        let expected: Vec<&str> = lines.iter().filter(|(keep, _)| *keep).map(|(_, line)| line.as_str()).collect();
        prop_assert_eq!(kept, expected);
    }

    #[test]
    fn no_address_of_a_peer_survives(body in body(owned())) {
        let session = Session::parse(body.as_bytes()).unwrap();
        let out = String::from_utf8(session.rewrite(&plan(session.media().len()))).unwrap();
        for line in out.lines().filter(|line| !line.starts_with("a=x-seen")) {
            for peer in ["10.77.", "2001:db8", "example.com"] {
                prop_assert!(!line.contains(peer), "{}", line);
            }
        }
        // An unknown attribute goes where its address is one that is replaced.
        for named in body.lines().filter(|line| line.starts_with("c=") && !line.contains("0.0.0.0")) {
            let address = named.rsplit(' ').next().unwrap();
            prop_assert!(!out.contains(&format!("{address}:")), "{} in {}", address, out);
        }
    }

    /// The reader against a crate that models session descriptions, on bodies in canonical form.
    #[test]
    fn the_reader_agrees_with_another(
        session_address in prop::option::of(address()),
        media in prop::collection::vec((
            "(audio|video|text)", any::<u16>(), "(RTP/AVP|RTP/SAVP|udptl)",
            prop::collection::vec(0..=127u8, 1..5), prop::option::of(address()),
            prop_oneof![Just(None), Just(Some("sendonly")), Just(Some("inactive"))],
        ), 0..4),
    ) {
        let mut body = "v=0\r\no=- 1 2 IN IP4 10.77.1.1\r\ns=-\r\n".to_owned();
        if let Some(address) = &session_address {
            body += &format!("c={address}\r\n");
        }
        body += "t=0 0\r\n";
        for (kind, port, protocol, formats, address, direction) in &media {
            let formats: Vec<String> = formats.iter().map(u8::to_string).collect();
            body += &format!("m={kind} {port} {protocol} {}\r\n", formats.join(" "));
            if let Some(address) = address {
                body += &format!("c={address}\r\n");
            }
            if let Some(direction) = direction {
                body += &format!("a={direction}\r\n");
            }
        }
        let ours = Session::parse(body.as_bytes()).unwrap();
        let theirs = sdp_types::Session::parse(body.as_bytes()).unwrap();
        prop_assert_eq!(ours.media().len(), theirs.medias.len());
        for (ours, media) in ours.media().iter().zip(&theirs.medias) {
            prop_assert_eq!(ours.kind.as_str(), media.media.as_str());
            prop_assert_eq!(ours.port, media.port);
            prop_assert_eq!(ours.port_count, media.num_ports.unwrap_or(1));
            prop_assert_eq!(ours.protocol.is_rtp(), media.proto.starts_with("RTP/"));
            let formats = media.fmt.split(' ').filter(|_| ours.protocol.is_rtp()).map(|format| format.parse().unwrap());
            prop_assert_eq!(ours.payload_types, formats.collect());
            let address = media.connections.first().or(theirs.connection.as_ref());
            prop_assert_eq!(text(ours.address.as_ref()), address.map(|address| address.connection_address.clone()));
            let has = |name: &str| media.attributes.iter().any(|attribute| attribute.attribute == name);
            prop_assert_eq!(ours.direction == Direction::SendOnly, has("sendonly"));
            prop_assert_eq!(ours.direction == Direction::Inactive, has("inactive"));
        }
        // What goes out can be read by it too, and names one address only.
        let out = sdp_types::Session::parse(&ours.rewrite(&plan(media.len()))).unwrap();
        prop_assert_eq!(out.medias.len(), media.len());
        prop_assert_eq!(out.origin.unicast_address, "203.0.113.10");
        for address in out.connection.iter().chain(out.medias.iter().flat_map(|media| &media.connections)) {
            let address: IpAddr = address.connection_address.parse().unwrap();
            prop_assert!(address.is_unspecified() || address == plan(0).address);
        }
    }
}

fn text(host: Option<&Host>) -> Option<String> {
    host.map(|host| match host {
        Host::Address(address) => address.to_string(),
        Host::Unspecified => "0.0.0.0".to_owned(),
        Host::Name(name) => name.clone(),
    })
}
