//! What crosses and what must not, field by field.

use crate::{calls::*, lab::*, registrations::*};
use proxy_user::signalling::sip::Name;

const BOB_URI: &str = "sip:bob@example.test";
const BOB: &str = "<sip:bob@example.test>";

#[test]
fn descriptions_that_are_no_offers_lose_addresses_and_ports() {
    let mut lab = Lab::default();
    let sent = lab.access(ALICE, &from_alice("OPTIONS", BOB_URI, BOB, 1, "o1", "Accept: application/sdp", ""));
    let options = only(&sent, "OPTIONS").clone();
    let sent = lab.core(&answer(&options, "200 OK", "b", "Allow: INVITE\n", &sdp("10.9.0.30", 6000)));
    assert_eq!(only(&sent, "200").media(0), (OWN_ACCESS.into(), 0));
    // In a call, and with a refusal.
    let call = answered(&mut lab);
    let before = lab.datapath.streams.clone();
    for (method, branch, status) in [("OPTIONS", "o2", "200 OK"), ("INFO", "n1", "488 Not Acceptable Here")] {
        let sent = lab.access(ALICE, &from_alice(method, &call.bob, BOBS_TAG, 2, branch, "", &sdp(PRIVATE, 4000)));
        let request = only(&sent, method).clone();
        assert_eq!(request.media(0), (OWN_CORE.into(), 0));
        lab.core(&answer(&request, status, "", "", &sdp("10.9.0.30", 6000)));
    }
    let sent = lab.access(ALICE, &from_alice("INVITE", &call.bob, BOBS_TAG, 4, "r1", "", &sdp(PRIVATE, 4000)));
    let invite = only(&sent, "INVITE").clone();
    let sent = lab.core(&answer(&invite, "488 Not Acceptable Here", "", "", &sdp("10.9.0.30", 0)));
    assert_eq!(only(&sent, "488").media(0), (OWN_ACCESS.into(), 0));
    assert_eq!(lab.datapath.streams, before);
}

#[test]
fn bodies_that_cannot_be_read_do_not_cross() {
    let mut lab = Lab::default();
    let part = format!("--x\nContent-Type: application/sdp\n\n{}--x--\n", sdp(PRIVATE, 4000));
    let more = "Content-Type: multipart/mixed;boundary=x";
    let sent = lab.access(ALICE, &from_alice("INVITE", BOB_URI, BOB, 1, "i1", more, &part));
    assert!(only(&sent, "415").text.contains("Accept: application/sdp"));
    let sent = lab.access(ALICE, &from_alice("INVITE", BOB_URI, BOB, 1, "i2", "", "v=0\no=nonsense\n"));
    assert_eq!(kinds(&sent), ["access 400"]);
    assert!(lab.records.is_empty());
    // In a response there is nobody to refuse it to.
    let sent = lab.access(ALICE, &from_alice("OPTIONS", BOB_URI, BOB, 1, "o1", "", ""));
    let options = only(&sent, "OPTIONS").clone();
    let part = part.replace(PRIVATE, "10.9.0.30");
    let sent = lab.core(&answer(&options, "200 OK", "b", &format!("{more}\n"), &part));
    let ok = only(&sent, "200");
    assert!(ok.body().is_empty() && !ok.has(Name::ContentType));
    // Parts that are no session descriptions are the ends' own affair.
    let sent = lab.access(ALICE, &from_alice("MESSAGE", BOB_URI, BOB, 1, "m1", more, "--x\n\nhello\n--x--\n"));
    assert!(only(&sent, "MESSAGE").body().contains("hello"));
}

#[test]
fn literal_addresses_in_uris_are_mapped() {
    let mut lab = Lab::default();
    let text = from_alice(
        "INVITE",
        &format!("sip:bob@{OWN_ACCESS}"),
        &format!("<sip:bob@{OWN_ACCESS}>"),
        1,
        "i1",
        "",
        &sdp(PRIVATE, 4000),
    )
    .replace("sip:alice@example.test", &format!("sip:alice@{OWN_ACCESS}"));
    let invite = only(&lab.access(ALICE, &text), "INVITE").clone();
    assert_eq!(invite.uri(), "sip:bob@10.9.0.20");
    assert_eq!(invite.header(Name::From), "<sip:alice@10.9.0.20>;tag=a1");
    let more =
        format!("{ROUTE}P-Asserted-Identity: \"Bob\" <sip:bob@10.9.0.20>\nWarning: 392 10.9.0.20:5060 \"noise\"\n");
    let sent = lab.core(&answer(&invite, "200 OK", "b1", &more, &sdp("10.9.0.30", 6000)));
    let ok = only(&sent, "200");
    assert_eq!(ok.header(Name::To), format!("<sip:bob@{OWN_ACCESS}>;tag=b1"));
    assert_eq!(ok.header(Name::From), format!("<sip:alice@{OWN_ACCESS}>;tag=a1"));
    assert_eq!(ok.header(Name::PAssertedIdentity), format!("\"Bob\" <sip:bob@{OWN_ACCESS}>"));
    // Inside the dialog, each side is spoken to in its own terms.
    let bye = from_core("BYE", &invite.contact(), 1, "y1", "", "")
        .replace("sip:alice@example.test", "sip:alice@10.9.0.20")
        .replace("sip:bob@example.test", "sip:bob@10.9.0.20");
    let sent = lab.core(&bye);
    let bye = only(&sent, "BYE");
    assert_eq!(bye.header(Name::From), format!("<sip:bob@{OWN_ACCESS}>;tag=b1"));
    assert_eq!(bye.header(Name::To), format!("<sip:alice@{OWN_ACCESS}>;tag=a1"));
}

#[test]
fn unknown_fields_with_addresses_of_the_core_do_not_cross() {
    let mut lab = Lab::default();
    let more =
        "P-Charging-Vector: icid-value=1;icid-generated-at=10.9.0.20\nX-Kept: 110.9.0.20\nServer: switch (10.9.0.20)";
    let sent = lab.access(ALICE, &from_alice("MESSAGE", BOB_URI, BOB, 1, "m1", "X-Seen: 203.0.113.10:5060;a", ""));
    let message = only(&sent, "MESSAGE").clone();
    assert!(!message.text.contains("X-Seen"));
    lab.strict = false;
    let sent = lab.core(&answer(&message, "200 OK", "b", more, ""));
    let ok = only(&sent, "200");
    assert!(!ok.text.contains("P-Charging-Vector") && !ok.text.contains("Server"), "{}", ok.text);
    assert!(ok.text.contains("X-Kept: 110.9.0.20"));
}

#[test]
fn strict_routers_get_their_way() {
    let mut lab = Lab::default();
    let text = from_alice("INVITE", BOB_URI, BOB, 1, "i1", "", &sdp(PRIVATE, 4000));
    let invite = only(&lab.access(ALICE, &text), "INVITE").clone();
    let route = "Record-Route: <sip:10.9.0.21;lr>, <sip:10.9.0.20>\nContact: <sip:bob@10.9.0.30>\n";
    // What the early dialog said is only a guess.
    lab.core(&answer(&invite, "180 Ringing", "b1", ROUTE, ""));
    let sent = lab.core(&answer(&invite, "200 OK", "b1", route, &sdp("10.9.0.30", 6000)));
    let bob = only(&sent, "200").contact();
    for (method, branch) in [("ACK", "k1"), ("BYE", "y1")] {
        let sent = lab.access(ALICE, &from_alice(method, &bob, BOBS_TAG, 1, branch, "", ""));
        let request = only(&sent, method);
        assert_eq!(
            (request.uri().as_str(), request.destination.to_string().as_str()),
            ("sip:10.9.0.20", "10.9.0.20:5060")
        );
        let routes: Vec<_> = request.message().values(Name::Route).map(|route| route.into_owned()).collect();
        assert_eq!(routes, ["<sip:10.9.0.21;lr>", "<sip:bob@10.9.0.30>"]);
    }
}

#[test]
fn out_of_hops() {
    let mut lab = Lab::default();
    let last = |text: String| text.replace("Max-Forwards: 70", "Max-Forwards: 0");
    let sent = lab.access(ALICE, &last(from_alice("INVITE", BOB_URI, BOB, 1, "i1", "", &sdp(PRIVATE, 4000))));
    assert_eq!(kinds(&sent), ["access 483"]);
    let call = answered(&mut lab);
    assert_eq!(kinds(&lab.access(ALICE, &last(from_alice("ACK", &call.bob, BOBS_TAG, 1, "k2", "", "")))), [""; 0]);
}

#[test]
fn tokens_are_good_on_their_own_side_and_in_their_own_dialog_only() {
    let mut lab = Lab::default();
    let binding = registered(&mut lab, "alice", ALICE);
    let call = answered(&mut lab);
    // Alice's own token, from her side: it is a user like any other.
    let sent = lab.access(super::lab::BOB, &from_alice("MESSAGE", &binding, BOB, 1, "m1", "", ""));
    assert_eq!(only(&sent, "MESSAGE").realm, CORE);
    let wrong = |text: String, a: &str, b: &str| text.replace(a, b);
    for (text, from, to) in [
        (from_core("BYE", &call.bob, 1, "y1", "", ""), "x", "x"),
        (from_core("BYE", &call.alice, 1, "y2", "", ""), "call-1", "call-2"),
        (from_core("BYE", &call.alice, 1, "y3", "", ""), "tag=b1", "tag=b2"),
        (from_core("BYE", &call.alice, 1, "y4", "", ""), "tag=a1", "tag=a2"),
    ] {
        assert_eq!(kinds(&lab.core(&wrong(text, from, to))), ["core 481"]);
    }
    assert_eq!(lab.load().calls, 1);
}

#[test]
fn strangers_in_the_core_are_not_heard() {
    let mut lab = Lab::default();
    let alice = registered(&mut lab, "alice", ALICE);
    lab.receive(CORE, "10.9.0.66:5060", &outside("INVITE", &alice, "i1", "", &sdp("10.9.0.66", 6000)));
    assert!(lab.take().is_empty());
    assert_eq!(lab.proxy.statistics().foreign, 1);
    // But who is in a call may speak for himself where the softswitch does not stay in the path.
    let text = from_alice("INVITE", BOB_URI, BOB, 1, "i1", "", &sdp(PRIVATE, 4000));
    let invite = only(&lab.access(ALICE, &text), "INVITE").clone();
    let direct = "Contact: <sip:bob@10.9.0.30:5070>\n";
    let sent = lab.core(&answer(&invite, "200 OK", "b1", direct, &sdp("10.9.0.30", 6000)));
    let bob = only(&sent, "200").contact();
    let sent = lab.access(ALICE, &from_alice("INFO", &bob, BOBS_TAG, 2, "n1", "", ""));
    let info = only(&sent, "INFO").clone();
    assert_eq!(info.destination.to_string(), "10.9.0.30:5070");
    lab.receive(CORE, "10.9.0.30:5070", &answer(&info, "200 OK", "", "", ""));
    assert_eq!(kinds(&lab.take()), ["access 200"]);
    lab.receive(CORE, "10.9.0.30:5070", &from_core("BYE", &invite.contact(), 1, "y1", "", ""));
    assert_eq!(only(&lab.take(), "BYE").destination.to_string(), ALICE);
    // Still nobody else.
    let sent = lab.access(ALICE, &from_alice("INFO", BOB_URI, BOB, 2, "n2", "", ""));
    let info = only(&sent, "INFO").clone();
    lab.receive(CORE, "10.9.0.66:5060", &answer(&info, "200 OK", "", "", ""));
    assert!(lab.take().is_empty());
}
