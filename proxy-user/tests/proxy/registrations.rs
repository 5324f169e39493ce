//! REGISTER, bindings, keep-alive, and requests that find a terminal through its binding.

use crate::lab::*;
use proxy_user::{config::Config, signalling::sip::Name};
use std::time::Duration;

/// A REGISTER of a terminal; both terminals state the same private contact.
pub(crate) fn register(user: &str, cseq: u32, contact: &str, more: &str) -> String {
    sip(&format!(
        "REGISTER sip:example.test SIP/2.0
        Via: SIP/2.0/UDP {PRIVATE}:5060;branch=z9hG4bKreg{user}{cseq};rport
        Max-Forwards: 70
        From: <sip:{user}@example.test>;tag={user}r
        To: <sip:{user}@example.test>
        Call-ID: reg-{user}
        CSeq: {cseq} REGISTER
        {contact}
        {more}"
    ))
}

pub(crate) fn contact(user: &str) -> String {
    format!("Contact: \"{user}\" <sip:{user}@{PRIVATE}:5060;ob>;q=0.7;+sip.instance=\"<urn:uuid:1>\"\nExpires: 600")
}

/// Registers and returns the contact that the softswitch knows.
pub(crate) fn registered(lab: &mut Lab, user: &str, source: &str) -> String {
    let sent = lab.access(source, &register(user, 1, &contact(user), ""));
    let request = only(&sent, "REGISTER").clone();
    let shown = request.header(Name::Contact);
    let sent = lab.core(&answer(&request, "200 OK", "r", &format!("Contact: {shown};expires=600\n"), ""));
    assert_eq!(kinds(&sent), ["access 200"]);
    request.contact()
}

/// A request of the softswitch outside of dialogs.
pub(crate) fn outside(method: &str, uri: &str, branch: &str, more: &str, body: &str) -> String {
    sip(&format!(
        "{method} {uri} SIP/2.0
        Via: SIP/2.0/UDP {SOFTSWITCH};branch=z9hG4bK{branch}
        Via: SIP/2.0/UDP 10.9.0.30:5060;branch=z9hG4bKdeep{branch};received=10.9.0.31
        Record-Route: <sip:10.9.0.20;lr;ftag=x>
        Max-Forwards: 69
        From: \"Carol\" <sip:carol@10.9.0.20>;tag=c1
        To: <sip:alice@example.test>
        Call-ID: out-1
        CSeq: 7 {method}
        Contact: <sip:carol@10.9.0.30:5060>
        {more}\n\n{body}"
    ))
}

#[test]
fn a_terminal_is_challenged_and_registers() {
    let mut lab = Lab::default();
    let sent = lab.access(ALICE, &register("alice", 1, &contact("alice"), ""));
    let request = only(&sent, "REGISTER").clone();
    assert_eq!((request.realm, request.uri().as_str()), (CORE, "sip:example.test"));
    let shown = request.header(Name::Contact);
    assert!(shown.starts_with("\"alice\" <sip:"), "{shown}");
    assert!(shown.ends_with("@10.9.0.10:5060>;q=0.7;+sip.instance=\"<urn:uuid:1>\""), "{shown}");
    let challenge = "WWW-Authenticate: Digest realm=\"example.test\", nonce=\"n\"\n";
    let sent = lab.core(&answer(&request, "401 Unauthorized", "r", challenge, ""));
    let refused = only(&sent, "401");
    assert_eq!(refused.destination.to_string(), ALICE);
    assert_eq!(refused.header(Name::WwwAuthenticate), "Digest realm=\"example.test\", nonce=\"n\"");
    assert_eq!(lab.proxy.registrations().count(), 0);

    let credentials = "Authorization: Digest username=\"alice\", uri=\"sip:example.test\", response=\"0\"";
    let sent = lab.access(ALICE, &register("alice", 2, &contact("alice"), credentials));
    let request = only(&sent, "REGISTER").clone();
    assert!(request.text.contains(credentials));
    let shown = request.header(Name::Contact);
    let sent = lab.core(&answer(&request, "200 OK", "r", &format!("Contact: {shown};expires=300\n"), ""));
    let ok = only(&sent, "200");
    assert_eq!(
        ok.header(Name::Contact),
        format!("\"alice\" <sip:alice@{PRIVATE}:5060;ob>;q=0.7;+sip.instance=\"<urn:uuid:1>\";expires=300")
    );
    let binding = lab.proxy.registrations().next().unwrap();
    assert_eq!((binding.flow.to_string().as_str(), binding.user.as_str()), (ALICE, "alice@example.test"));
    lab.wait(Duration::from_secs(306));
    assert_eq!(lab.proxy.registrations().count(), 0, "expired");
    lab.assert_empty();
}

#[test]
fn a_terminal_leaves() {
    for all in [false, true] {
        let mut lab = Lab::default();
        registered(&mut lab, "alice", ALICE);
        let leave = match all {
            true => "Contact: *\nExpires: 0".to_owned(),
            false => format!("Contact: <sip:alice@{PRIVATE}:5060;ob>;expires=0"),
        };
        let sent = lab.access(ALICE, &register("alice", 2, &leave, ""));
        let request = only(&sent, "REGISTER").clone();
        assert_eq!(request.header(Name::Contact) == "*", all);
        assert_eq!(lab.proxy.registrations().count(), 1, "not before the softswitch has said yes");
        assert_eq!(kinds(&lab.core(&answer(&request, "200 OK", "r", "", ""))), ["access 200"]);
        assert_eq!(lab.proxy.registrations().count(), 0);
    }
}

#[test]
fn a_wildcard_without_expires_zero_is_refused() {
    let mut lab = Lab::default();
    for contact in ["Contact: *", "Contact: *\nExpires: 60", "Contact: *, <sip:alice@192.168.1.10>\nExpires: 0"] {
        let sent = lab.access(
            ALICE,
            &register("alice", 1, contact, "").replace("regalice1", contact.rsplit(' ').next().unwrap()),
        );
        assert_eq!(kinds(&sent), ["access 400"], "{contact}");
    }
}

#[test]
fn terminals_with_the_same_private_address_are_told_apart() {
    let mut lab = Lab::default();
    let alice = registered(&mut lab, "alice", ALICE);
    let bob = registered(&mut lab, "bob", BOB);
    for (uri, source, user, branch) in [(&alice, ALICE, "alice", "m1"), (&bob, BOB, "bob", "m2")] {
        let sent = lab.core(&outside("MESSAGE", uri, branch, "Content-Type: text/plain", "hello"));
        let message = only(&sent, "MESSAGE").clone();
        assert_eq!(message.destination.to_string(), source);
        assert_eq!(message.uri(), format!("sip:{user}@{PRIVATE}:5060;ob"));
        assert_eq!(message.header(Name::From), format!("\"Carol\" <sip:carol@{OWN_ACCESS}>;tag=c1"));
        assert!(!message.has(Name::RecordRoute));
        let sent = lab.access(source, &answer(&message, "200 OK", "t", "", ""));
        let ok = only(&sent, "200");
        let vias: Vec<_> = ok.message().values(Name::Via).map(|via| via.into_owned()).collect();
        assert_eq!(
            vias,
            [
                format!("SIP/2.0/UDP {SOFTSWITCH};branch=z9hG4bK{branch};received=10.9.0.20"),
                format!("SIP/2.0/UDP 10.9.0.30:5060;branch=z9hG4bKdeep{branch};received=10.9.0.31"),
            ]
        );
        assert_eq!(ok.header(Name::From), "\"Carol\" <sip:carol@10.9.0.20>;tag=c1");
    }
    lab.assert_empty();
}

#[test]
fn the_core_calls_a_terminal() {
    let mut lab = Lab::default();
    let alice = registered(&mut lab, "alice", ALICE);
    let sent = lab.core(&outside("INVITE", &alice, "i9", "", &sdp("10.9.0.30", 6000)));
    assert_eq!(kinds(&sent), ["core 100", "access INVITE"]);
    let invite = sent[1].clone();
    assert_eq!((invite.destination.to_string().as_str(), invite.media(0).0.as_str()), (ALICE, OWN_ACCESS));
    let contact = format!("Contact: <sip:alice@{PRIVATE}:5060>\n");
    let sent = lab.access(ALICE, &answer(&invite, "180 Ringing", "a9", &contact, ""));
    assert_eq!(only(&sent, "180").header(Name::RecordRoute), "<sip:10.9.0.20;lr;ftag=x>");
    let sent = lab.access(ALICE, &answer(&invite, "200 OK", "a9", &contact, &sdp(PRIVATE, 4000)));
    let ok = only(&sent, "200").clone();
    assert_eq!(ok.media(0).0, OWN_CORE);
    assert_eq!(ok.header(Name::RecordRoute), "<sip:10.9.0.20;lr;ftag=x>");
    let tagged = |text: String| text.replace("To: <sip:alice@example.test>", "To: <sip:alice@example.test>;tag=a9");
    let sent = lab.core(&tagged(outside("ACK", &ok.contact(), "k9", "", "")));
    let ack = only(&sent, "ACK");
    assert_eq!((ack.destination.to_string(), ack.uri()), (ALICE.into(), format!("sip:alice@{PRIVATE}:5060")));
    assert_eq!(ack.header(Name::From), format!("\"Carol\" <sip:carol@{OWN_ACCESS}>;tag=c1"));

    // Alice hangs up: From and To reach the core as the core knows them.
    let bye = sip(&format!(
        "BYE {} SIP/2.0
        Via: SIP/2.0/UDP {PRIVATE}:5060;branch=z9hG4bKy9;rport
        Max-Forwards: 70
        From: {}
        To: {}
        Call-ID: out-1
        CSeq: 1 BYE",
        invite.contact(),
        ack.header(Name::To),
        ack.header(Name::From)
    ));
    let sent = lab.access(ALICE, &bye);
    let bye = only(&sent, "BYE").clone();
    assert_eq!(bye.header(Name::To), "\"Carol\" <sip:carol@10.9.0.20>;tag=c1");
    assert_eq!(bye.header(Name::From), "<sip:alice@example.test>;tag=a9");
    assert_eq!(
        (bye.uri().as_str(), bye.header(Name::Route).as_str()),
        ("sip:carol@10.9.0.30:5060", "<sip:10.9.0.20;lr;ftag=x>")
    );
    lab.core(&answer(&bye, "200 OK", "", "", ""));
    assert_eq!(lab.records.len(), 1);
    lab.wait(Duration::from_secs(700));
    lab.assert_empty();
}

#[test]
fn keepalives_go_out_and_are_counted() {
    let mut config: Config = config();
    config.keepalive.period = Some(Duration::from_secs(25));
    let mut lab = Lab::new(config);
    registered(&mut lab, "alice", ALICE);
    lab.wait(Duration::from_secs(26));
    let sent = lab.take();
    let options = sent[0].clone();
    assert_eq!(options.kind(), "OPTIONS");
    assert_eq!(
        (options.destination.to_string(), options.uri()),
        (ALICE.into(), format!("sip:alice@{PRIVATE}:5060;ob"))
    );
    assert_eq!(kinds(&lab.access(ALICE, &answer(&options, "200 OK", "o", "", ""))), [""; 0]);
    lab.wait(Duration::from_secs(130));
    let binding = lab.proxy.registrations().next().unwrap();
    assert!(binding.unanswered >= 3 && !binding.reachable, "{binding:?}");
    let last = lab.take().pop().unwrap();
    lab.access(ALICE, &answer(&last, "501 Not Implemented", "o", "", ""));
    assert_eq!(lab.proxy.registrations().next().unwrap().unanswered, 0, "any answer will do");
}

#[test]
fn requests_for_the_proxy_itself() {
    let mut lab = Lab::default();
    let sent = lab.core(&outside("OPTIONS", "sip:10.9.0.10:5060", "o1", "", ""));
    assert!(only(&sent, "200").has(Name::Allow));
    assert_eq!(kinds(&lab.core(&outside("FROBNICATE", "sip:10.9.0.10", "o2", "", ""))), ["core 404"]);
    assert_eq!(kinds(&lab.core(&outside("INVITE", "sip:nobody@10.9.0.10", "o3", "", ""))), ["core 404"]);
    lab.core(&outside("ACK", "sip:nobody@10.9.0.10", "o3", "", ""));
    assert!(lab.records.is_empty());
    lab.assert_empty();
}

#[test]
fn unknown_methods_pass() {
    let mut lab = Lab::default();
    let alice = registered(&mut lab, "alice", ALICE);
    let sent = lab.core(&outside("FROBNICATE", &alice, "f1", "X-Foo: bar", ""));
    let request = only(&sent, "FROBNICATE").clone();
    let sent = lab.access(ALICE, &answer(&request, "405 Method Not Allowed", "f", "Allow: INVITE\n", ""));
    assert_eq!(kinds(&sent), ["core 405"]);
}

/// One call between two terminals of the same proxy: it passes twice, with one Call-ID and the same tags.
#[test]
fn a_call_between_two_terminals() {
    let mut lab = Lab::default();
    registered(&mut lab, "alice", ALICE);
    let bob = registered(&mut lab, "bob", BOB);
    // The softswitch: puts the registered contact into the Request-URI, adds Via and Record-Route, and passes it back.
    let pass = |sent: &Sent, uri: Option<&str>, hop: &str| -> String {
        let message = sent.message();
        let mut editor = message.edit();
        editor.prepend(Name::Via, &format!("SIP/2.0/UDP {SOFTSWITCH};branch=z9hG4bK{hop}"));
        editor.remove(Name::Route);
        if let Some(uri) = uri {
            editor.request_uri(uri);
            editor.prepend(Name::RecordRoute, "<sip:10.9.0.20;lr>");
        }
        String::from_utf8(editor.finish()).unwrap()
    };
    let back = |sent: &Sent| -> String {
        let message = sent.message();
        let vias: Vec<_> = message.values(Name::Via).skip(1).map(|via| via.into_owned()).collect();
        String::from_utf8(message.edit().replace(Name::Via, &vias).finish()).unwrap()
    };
    use crate::calls::{BOBS_TAG, from_alice};
    let offer = sdp(PRIVATE, 4000);
    let sent =
        lab.access(ALICE, &from_alice("INVITE", "sip:bob@example.test", "<sip:bob@example.test>", 1, "i1", "", &offer));
    let sent = lab.core(&pass(only(&sent, "INVITE"), Some(&bob), "h1"));
    let invite = only(&sent, "INVITE").clone();
    assert_eq!(invite.destination.to_string(), BOB);
    assert_eq!(lab.load().calls, 2);
    let contact = format!("Contact: <sip:bob@{PRIVATE}:5060>\n");
    let sent = lab.access(BOB, &answer(&invite, "200 OK", "b1", &contact, &sdp(PRIVATE, 4000)));
    let sent = lab.core(&back(only(&sent, "200")));
    let ok = only(&sent, "200").clone();
    assert_eq!((ok.realm, ok.destination.to_string().as_str()), (ACCESS, ALICE));
    let sent = lab.access(ALICE, &from_alice("ACK", &ok.contact(), BOBS_TAG, 1, "k1", "", ""));
    let ack = only(&sent, "ACK");
    assert_eq!(ack.header(Name::Route), "<sip:10.9.0.20;lr>");
    let sent = lab.core(&pass(ack, None, "h2"));
    assert_eq!(only(&sent, "ACK").destination.to_string(), BOB);
    assert_eq!(lab.datapath.streams.len(), 2);
    // The core leg of each stream points to the other's core leg.
    let specs: Vec<_> = lab.datapath.streams.values().collect();
    let core = |spec: &proxy_user::media::StreamSpec| spec.legs.iter().find(|leg| leg.realm == CORE).unwrap().clone();
    assert_eq!(core(specs[0]).remote.unwrap().rtp, core(specs[1]).local);
    assert_eq!(core(specs[1]).remote.unwrap().rtp, core(specs[0]).local);

    let sent = lab.access(ALICE, &from_alice("BYE", &ok.contact(), BOBS_TAG, 2, "y1", "", ""));
    let sent = lab.core(&pass(only(&sent, "BYE"), None, "h3"));
    let bye = only(&sent, "BYE").clone();
    let sent = lab.access(BOB, &answer(&bye, "200 OK", "", "", ""));
    let sent = lab.core(&back(only(&sent, "200")));
    assert_eq!(kinds(&sent), ["access 200"]);
    assert_eq!(lab.records.len(), 2);
    assert_eq!(lab.records[0].call_id, lab.records[1].call_id);
    lab.assert_empty();
}

#[test]
fn too_many_contacts_are_refused_for_good() {
    let mut lab = Lab::default();
    let contacts: Vec<_> = (0..17).map(|n| format!("<sip:alice{n}@{PRIVATE}>")).collect();
    let sent = lab.access(ALICE, &register("alice", 1, &format!("Contact: {}", contacts.join(", ")), ""));
    assert_eq!(kinds(&sent), ["access 403"]);
    lab.assert_empty();
}

/// The NAT gave the terminal another port during a call: the first that is heard of it is its next REGISTER.
#[test]
fn a_call_follows_its_terminals_registration() {
    let mut lab = Lab::default();
    let alice = registered(&mut lab, "alice", ALICE);
    let sent = lab.core(&outside("INVITE", &alice, "i9", "", &sdp("10.9.0.30", 6000)));
    let invite = only(&sent, "INVITE").clone();
    let contact_of_alice = format!("Contact: <sip:alice@{PRIVATE}:5060>\n");
    let sent = lab.access(ALICE, &answer(&invite, "200 OK", "a9", &contact_of_alice, &sdp(PRIVATE, 4000)));
    let ok = only(&sent, "200").clone();
    let moved = "198.51.100.1:50505";
    let sent = lab.access(moved, &register("alice", 2, &contact("alice"), ""));
    let request = only(&sent, "REGISTER").clone();
    assert_eq!(request.contact(), alice, "the same binding");
    let shown = request.header(Name::Contact);
    lab.core(&answer(&request, "200 OK", "r", &format!("Contact: {shown};expires=600\n"), ""));
    let bye = outside("BYE", &ok.contact(), "y9", "", "")
        .replace("To: <sip:alice@example.test>", "To: <sip:alice@example.test>;tag=a9");
    assert_eq!(only(&lab.core(&bye), "BYE").destination.to_string(), moved);
}

/// A response that lacks what responses have is none.
#[test]
fn broken_responses_are_dropped() {
    let mut lab = Lab::default();
    let sent = lab.access(ALICE, &register("alice", 1, &contact("alice"), ""));
    let request = only(&sent, "REGISTER").clone();
    let whole = answer(&request, "200 OK", "r", "", "");
    for field in ["To: ", "From: ", "Call-ID: "] {
        let broken: Vec<_> = whole.split("\r\n").filter(|line| !line.starts_with(field)).collect();
        assert_eq!(kinds(&lab.core(&broken.join("\r\n"))), [""; 0], "{field}");
    }
    assert_eq!(lab.proxy.statistics().stray_responses, 3);
    assert_eq!(kinds(&lab.core(&whole)), ["access 200"]);
}
