//! Transports with connections: towards terminals, towards the softswitch, and what happens when they are gone.

use crate::{
    lab::*,
    registrations::{contact, outside, register},
};
use proxy_user::{
    accounting::EndCause,
    config::Config,
    engine::EarlierStreams,
    flow::{ConnectionId, Flow, Transport},
    signalling::sip::Name,
};
use std::time::Duration;

fn flow(transport: Transport, address: &str, connection: u64) -> Flow {
    Flow { connection: Some(ConnectionId(connection)), ..Flow::to(transport, address.parse().unwrap()) }
}

/// Every transport in the access realm; `softswitch` towards the core, which listens for it.
fn config_with(softswitch: Transport) -> Config {
    let mut config = config();
    let streams = &mut config.realms.get_mut(ACCESS).unwrap().streams;
    (streams.tcp, streams.tls, streams.ws, streams.wss) = (Some(5060), Some(5061), Some(80), Some(443));
    let streams = &mut config.realms.get_mut(CORE).unwrap().streams;
    (streams.tcp, streams.tls, streams.softswitch) = (Some(5060), Some(5061), softswitch);
    config
}

fn lab_with(softswitch: Transport) -> Lab {
    Lab::new(config_with(softswitch))
}

/// The only message of this kind goes over this flow.
fn over<'a>(sent: &'a [Sent], kind: &str, flow: Flow) -> &'a Sent {
    let found = only(sent, kind);
    assert_eq!(format!("{:?}", found.destination), format!("{flow:?}"), "{}", found.text);
    found
}

/// Registers over a connection; the contact that the softswitch, spoken to by UDP, knows.
fn registers(lab: &mut Lab, user: &str, cseq: u32, source: Flow, contact: &str) -> String {
    let text =
        register(user, cseq, contact, "").replace("SIP/2.0/UDP", &format!("SIP/2.0/{}", source.transport.in_via()));
    let sent = lab.over(ACCESS, source, &text);
    let request = only(&sent, "REGISTER").clone();
    let shown = request.header(Name::Contact);
    let sent = lab.core(&answer(&request, "200 OK", "r", &format!("Contact: {shown};expires=600\n"), ""));
    over(&sent, "200", source);
    request.contact()
}

fn invite(uri: &str, via: &str) -> String {
    sip(&format!(
        "INVITE {uri} SIP/2.0
        Via: SIP/2.0/{via} {PRIVATE}:5060;branch=z9hG4bKi1;rport
        Max-Forwards: 70
        From: <sip:alice@example.test>;tag=a
        To: <sip:bob@example.test>
        Call-ID: c1
        CSeq: 1 INVITE
        Contact: <sip:alice@{PRIVATE}:5060;transport=tcp>\n\n{}",
        sdp(PRIVATE, 4_000)
    ))
}

#[test]
fn a_terminal_is_reached_over_its_own_connection_and_told_of_its_own_transport() {
    for (transport, via, uri) in [
        (Transport::Tcp, "SIP/2.0/TCP 203.0.113.10:5060;", "@203.0.113.10:5060;transport=tcp"),
        (Transport::Tls, "SIP/2.0/TLS 203.0.113.10:5061;", "@203.0.113.10:5061;transport=tls"),
        (Transport::Ws, "SIP/2.0/WS 203.0.113.10:80;", "@203.0.113.10:80;transport=ws"),
        (Transport::Wss, "SIP/2.0/WSS 203.0.113.10:443;", "@203.0.113.10:443;transport=ws"),
    ] {
        let mut lab = lab_with(Transport::Udp);
        let alice = flow(transport, ALICE, 1);
        let known = registers(&mut lab, "alice", 1, alice, &contact("alice"));
        assert!(known.ends_with("@10.9.0.10:5060"), "the softswitch sees nothing of it: {known}");
        let sent = lab.core(&outside("SUBSCRIBE", &known, "s1", "Event: presence", ""));
        let request = over(&sent, "SUBSCRIBE", alice);
        assert!(request.header(Name::Via).starts_with(via), "{}", request.text);
        assert!(request.contact().ends_with(uri), "{}", request.text);
        let text = answer(request, "200 OK", "t", "Contact: <sip:alice@192.168.1.10>\nExpires: 60\n", "");
        let sent = lab.over(ACCESS, alice, &text);
        let ok = only(&sent, "200");
        assert_eq!(ok.destination, Flow::udp(SOFTSWITCH.parse().unwrap()));
        assert!(ok.contact().ends_with("@10.9.0.10:5060"));
    }
}

#[test]
fn nothing_is_sent_again_over_a_reliable_transport() {
    let mut lab = lab_with(Transport::Udp);
    let alice = flow(Transport::Tcp, ALICE, 1);
    let known = registers(&mut lab, "alice", 1, alice, &contact("alice"));
    let sent = lab.core(&outside("INVITE", &known, "i1", "", &sdp("10.9.0.30", 6_000)));
    over(&sent, "INVITE", alice);
    lab.wait(Duration::from_secs(31));
    assert!(lab.take().is_empty(), "timer A is off");
    lab.wait(Duration::from_secs(2));
    let sent = lab.take();
    assert_eq!(kinds(&sent)[0], "core 408", "timer B is not");
    lab.core(&outside("ACK", &known, "i1", "", ""));

    // A refusal of ours is not repeated either, and its transaction is over with its ACK.
    let sent = lab.over(ACCESS, alice, &invite("sip:bob@example.test", "TCP"));
    let forwarded = only(&sent, "INVITE").clone();
    let sent = lab.core(&answer(&forwarded, "486 Busy Here", "b", "", ""));
    let busy = over(&sent, "486", alice);
    lab.wait(Duration::from_secs(20));
    assert!(lab.take().iter().all(|sent| sent.realm == CORE), "timer G is off");
    let to = busy.header(Name::To);
    let ack = invite("sip:bob@example.test", "TCP")
        .replace("INVITE", "ACK")
        .replace("To: <sip:bob@example.test>", &format!("To: {to}"));
    lab.over(ACCESS, alice, &ack);
    lab.assert_empty();
}

#[test]
fn who_waits_for_a_terminal_hears_at_once_that_its_connection_is_gone() {
    for (extra, code) in [("", "480"), (";reg-id=1", "430")] {
        let mut lab = lab_with(Transport::Udp);
        let alice = flow(Transport::Tls, ALICE, 1);
        let stated = format!("Contact: <sip:alice@{PRIVATE}:5060>;+sip.instance=\"<urn:uuid:1>\"{extra}");
        let known = registers(&mut lab, "alice", 1, alice, &stated);
        let sent = lab.core(&outside("INVITE", &known, "i1", "", &sdp("10.9.0.30", 6_000)));
        let request = over(&sent, "INVITE", alice).clone();
        lab.over(ACCESS, alice, &answer(&request, "180 Ringing", "t", "Contact: <sip:alice@192.168.1.10>\n", ""));
        let sent = lab.close(ACCESS, alice);
        only(&sent, code);
        assert!(!lab.proxy.registrations().next().unwrap().reachable);
        // And so does who asks later: nothing is sent anywhere.
        let sent = lab.core(&outside("MESSAGE", &known, "m1", "Content-Type: text/plain", "hello"));
        lab.wait(Duration::ZERO);
        let sent = [sent, lab.take()].concat();
        assert_eq!(kinds(&sent), [format!("core {code}")]);
        lab.assert_empty();
        assert_eq!(lab.records[0].end_cause, EndCause::Rejected);
    }
}

/// A call from the core to alice over `alice`, answered: the INVITE and the 200 as they left.
fn answered(lab: &mut Lab, known: &str, alice: Flow) -> (Sent, Sent) {
    let sent = lab.core(&outside("INVITE", known, "i1", "", &sdp("10.9.0.30", 6_000)));
    let request = over(&sent, "INVITE", alice).clone();
    let text = answer(&request, "200 OK", "t", "Contact: <sip:alice@192.168.1.10>\n", &sdp(PRIVATE, 4_000));
    let sent = lab.over(ACCESS, alice, &text);
    (request, only(&sent, "200").clone())
}

fn bye_from_core(ok: &Sent, branch: &str) -> String {
    outside("BYE", &ok.contact(), branch, "", "")
        .replace("To: <sip:alice@example.test>", &format!("To: {}", ok.header(Name::To)))
        .replace("CSeq: 7", "CSeq: 8")
}

#[test]
fn a_terminal_that_comes_back_takes_its_dialogs_along() {
    for restart in [false, true] {
        let mut lab = lab_with(Transport::Udp);
        let alice = flow(Transport::Tcp, ALICE, 1);
        let known = registers(&mut lab, "alice", 1, alice, &contact("alice"));
        let (_, ok) = answered(&mut lab, &known, alice);
        if restart {
            assert_eq!(lab.restart(EarlierStreams::Kept).calls, 1);
            assert_eq!(
                lab.proxy.registrations().next().unwrap().flow,
                Flow::to(Transport::Tcp, ALICE.parse().unwrap())
            );
        } else {
            lab.close(ACCESS, alice);
        }
        // It cannot be reached, and nobody tries to connect to it; the call goes on.
        let sent = lab.core(&bye_from_core(&ok, "b0").replace("BYE", "INFO"));
        lab.wait(Duration::ZERO);
        assert_eq!(kinds(&[sent, lab.take()].concat()), ["core 430"]);
        let back = flow(Transport::Tcp, "198.51.100.1:47000", 2);
        assert_eq!(registers(&mut lab, "alice", 2, back, &contact("alice")), known);
        let sent = lab.core(&bye_from_core(&ok, "b1").replace("CSeq: 8", "CSeq: 9"));
        let bye = over(&sent, "BYE", back).clone();
        lab.over(ACCESS, back, &answer(&bye, "200 OK", "", "", ""));
        lab.assert_empty();
        assert_eq!(lab.records[0].end_cause, EndCause::ByeCaller);
    }
}

#[test]
fn a_terminal_whose_transport_is_configured_no_more_is_out_of_reach() {
    let mut lab = lab_with(Transport::Udp);
    let alice = flow(Transport::Tcp, ALICE, 1);
    let known = registers(&mut lab, "alice", 1, alice, &contact("alice"));
    let (_, ok) = answered(&mut lab, &known, alice);
    lab.configure(|config| config.realms.get_mut(ACCESS).unwrap().streams.tcp = None);
    assert_eq!(lab.restart(EarlierStreams::Kept).calls, 1);
    for (request, expected) in [
        (outside("INVITE", &known, "i2", "", &sdp("10.9.0.30", 6_002)), &["core 100", "core 480"][..]),
        (bye_from_core(&ok, "b0").replace("BYE", "INFO"), &["core 430"]),
        (bye_from_core(&ok, "b1").replace("CSeq: 8", "CSeq: 9"), &["core 430"]),
    ] {
        let sent = lab.core(&request);
        lab.wait(Duration::ZERO);
        assert_eq!(kinds(&[sent, lab.take()].concat()), expected);
    }
    lab.assert_empty();
}

#[test]
fn a_request_inside_a_dialog_brings_its_new_connection_with_it() {
    let mut lab = lab_with(Transport::Udp);
    let alice = flow(Transport::Tcp, ALICE, 1);
    let known = registers(&mut lab, "alice", 1, alice, &contact("alice"));
    let (request, ok) = answered(&mut lab, &known, alice);
    lab.close(ACCESS, alice);
    let back = flow(Transport::Tcp, "198.51.100.1:47000", 2);
    let info = sip(&format!(
        "INFO {} SIP/2.0
        Via: SIP/2.0/TCP {PRIVATE}:5060;branch=z9hG4bKn1;rport
        Max-Forwards: 70
        From: {};tag=t
        To: {}
        Call-ID: out-1
        CSeq: 1 INFO",
        request.contact(),
        request.header(Name::To),
        request.header(Name::From)
    ));
    let sent = lab.over(ACCESS, back, &info);
    let info = only(&sent, "INFO").clone();
    over(&lab.core(&answer(&info, "200 OK", "", "", "")), "200", back);
    over(&lab.core(&bye_from_core(&ok, "b1")), "BYE", back);
}

#[test]
fn a_device_that_names_its_flow_is_known_by_it() {
    let mut lab = lab_with(Transport::Udp);
    let stated =
        |host: &str, id: u32| format!("Contact: <sip:alice@{host}:5060;ob>;reg-id={id};+sip.instance=\"<urn:uuid:1>\"");
    let first = registers(&mut lab, "alice", 1, flow(Transport::Tcp, ALICE, 1), &stated(PRIVATE, 1));
    // Another Call-ID, another contact, another address: a phone that restarted elsewhere.
    let again = register("alice", 1, &stated("192.168.7.7", 1), "").replace("reg-alice", "reg-anew");
    let elsewhere = flow(Transport::Tcp, "198.51.100.9:5555", 2);
    let sent = lab.over(ACCESS, elsewhere, &again);
    let request = only(&sent, "REGISTER").clone();
    assert_eq!(request.contact(), first, "the same binding");
    let shown = request.header(Name::Contact);
    assert!(shown.contains(";reg-id=1;+sip.instance=\"<urn:uuid:1>\""), "{shown}");
    lab.core(&answer(&request, "200 OK", "r", &format!("Contact: {shown};expires=600\n"), ""));
    let sent = lab.core(&outside("MESSAGE", &first, "m1", "Content-Type: text/plain", "hello"));
    assert_eq!(over(&sent, "MESSAGE", elsewhere).uri(), "sip:alice@192.168.7.7:5060;ob");
    // A second flow of the same device is another binding.
    let second = registers(&mut lab, "alice", 2, flow(Transport::Tcp, ALICE, 3), &stated(PRIVATE, 2));
    assert_ne!(second, first);
    assert_eq!(lab.proxy.registrations().count(), 2);
}

#[test]
fn the_softswitch_is_spoken_to_by_the_configured_transport() {
    for (transport, port) in [(Transport::Tcp, 5060), (Transport::Tls, 5061)] {
        let mut lab = lab_with(transport);
        let softswitch = Flow::to(transport, SOFTSWITCH.parse().unwrap());
        let name = transport.name();
        let sent = lab.access(ALICE, &register("alice", 1, &contact("alice"), ""));
        let request = over(&sent, "REGISTER", softswitch).clone();
        let via = format!("SIP/2.0/{} 10.9.0.10:{port};", transport.in_via());
        assert!(request.header(Name::Via).starts_with(&via), "{}", request.text);
        assert!(request.contact().ends_with(&format!("@10.9.0.10:{port};transport={name}")), "{}", request.text);
        lab.wait(Duration::from_secs(5));
        assert!(lab.take().is_empty(), "timer E is off");
        // The answer comes over the connection that was made.
        let made = Flow { connection: Some(ConnectionId(9)), ..softswitch };
        let shown = request.header(Name::Contact);
        let text = answer(&request, "200 OK", "r", &format!("Contact: {shown};expires=600\n"), "");
        only(&lab.over(CORE, made, &text), "200");

        // A request of the softswitch comes over a connection of its own, and so does its answer, which leaves over any
        // other one where that one is gone.
        for closed in [false, true] {
            let theirs = flow(transport, "10.9.0.20:41000", 10 + u64::from(closed));
            let request =
                outside("MESSAGE", &request.contact(), &format!("m{closed}"), "Content-Type: text/plain", "hi");
            let sent =
                lab.over(CORE, theirs, &request.replace("SIP/2.0/UDP", &format!("SIP/2.0/{}", transport.in_via())));
            let message = only(&sent, "MESSAGE").clone();
            if closed {
                lab.close(CORE, theirs);
            }
            let sent = lab.access(ALICE, &answer(&message, "200 OK", "t", "", ""));
            over(&sent, "200", if closed { softswitch } else { theirs });
        }
    }
}

#[test]
fn requests_in_a_dialog_follow_the_transport_of_their_route() {
    for (record_route, expected) in [
        ("<sip:10.9.0.20;transport=tcp;lr>", Flow::to(Transport::Tcp, "10.9.0.20:5060".parse().unwrap())),
        ("<sip:10.9.0.21;transport=tls;lr>", Flow::to(Transport::Tls, "10.9.0.21:5061".parse().unwrap())),
        ("<sips:10.9.0.21;lr>", Flow::to(Transport::Tls, "10.9.0.21:5061".parse().unwrap())),
        ("<sip:10.9.0.21:5070;lr>", Flow::udp("10.9.0.21:5070".parse().unwrap())),
        ("<sip:10.9.0.20;lr>", Flow::udp("10.9.0.20:5060".parse().unwrap())),
        ("<sip:10.9.0.20;transport=sctp;lr>", Flow::udp("10.9.0.20:5060".parse().unwrap())),
    ] {
        let mut lab = lab_with(Transport::Udp);
        let alice = flow(Transport::Tcp, ALICE, 1);
        let sent = lab.over(ACCESS, alice, &invite("sip:bob@example.test", "TCP"));
        let request = only(&sent, "INVITE").clone();
        let more = format!("Record-Route: {record_route}\nContact: <sip:bob@10.9.0.30>\n");
        let sent = lab.core(&answer(&request, "200 OK", "b", &more, &sdp("10.9.0.30", 6_000)));
        let ok = over(&sent, "200", alice);
        assert!(ok.contact().ends_with("@203.0.113.10:5060;transport=tcp"), "{}", ok.text);
        let ack = invite(&ok.contact(), "TCP").replace("INVITE", "ACK").replace("z9hG4bKi1", "z9hG4bKa1");
        let ack = ack.replace("To: <sip:bob@example.test>", "To: <sip:bob@example.test>;tag=b");
        over(&lab.over(ACCESS, alice, &ack), "ACK", expected);
    }
}

#[test]
fn where_the_softswitch_cannot_be_reached_terminals_hear_of_it() {
    let mut lab = lab_with(Transport::Tcp);
    let softswitch = Flow::to(Transport::Tcp, SOFTSWITCH.parse().unwrap());
    lab.access(ALICE, &register("alice", 1, &contact("alice"), ""));
    lab.access(BOB, &invite("sip:carol@example.test", "UDP"));
    let sent = lab.refuse(CORE, softswitch);
    assert_eq!(kinds(&sent), ["access 503", "access 503"]);
    lab.assert_empty();
}

#[test]
fn what_the_softswitch_may_not_have_read_goes_once_more_when_its_connection_ends() {
    let mut lab = lab_with(Transport::Tcp);
    let softswitch = Flow::to(Transport::Tcp, SOFTSWITCH.parse().unwrap());
    let made = Flow { connection: Some(ConnectionId(9)), ..softswitch };
    let sent = lab.access(ALICE, &register("alice", 1, &contact("alice"), ""));
    let first = over(&sent, "REGISTER", softswitch).text.clone();
    assert_eq!(over(&lab.close(CORE, made), "REGISTER", softswitch).text, first);
    // One that the softswitch had made for itself has nothing to do with it.
    assert!(lab.close(CORE, flow(Transport::Tcp, "10.9.0.20:41000", 10)).is_empty());
    // But not again and again to one that closes every connection.
    let again = Flow { connection: Some(ConnectionId(11)), ..softswitch };
    assert_eq!(kinds(&lab.close(CORE, again)), ["access 503"]);
}

#[test]
fn a_large_request_goes_over_a_stream_and_as_a_datagram_where_there_is_none() {
    let mut lab = lab_with(Transport::Udp);
    let large = register("alice", 1, &contact("alice"), &format!("X-Large: {}", "x".repeat(1_200)));
    let sent = lab.access(ALICE, &large);
    let stream = Flow::to(Transport::Tcp, SOFTSWITCH.parse().unwrap());
    let request = over(&sent, "REGISTER", stream).clone();
    assert!(request.header(Name::Via).starts_with("SIP/2.0/TCP 10.9.0.10:5060;"));
    let sent = lab.refuse(CORE, stream);
    let datagram = over(&sent, "REGISTER", Flow::udp(stream.remote)).clone();
    assert_eq!(datagram.header(Name::Via), request.header(Name::Via).replace("TCP", "UDP"));
    lab.wait(Duration::from_millis(500));
    only(&lab.take(), "REGISTER");
    let shown = datagram.header(Name::Contact);
    let sent = lab.core(&answer(&datagram, "200 OK", "r", &format!("Contact: {shown};expires=600\n"), ""));
    only(&sent, "200");

    // Where the core does not listen for TCP, nothing changes.
    let mut config = config_with(Transport::Udp);
    config.realms.get_mut(CORE).unwrap().streams.tcp = None;
    let sent = Lab::new(config).access(ALICE, &large);
    over(&sent, "REGISTER", Flow::udp(SOFTSWITCH.parse().unwrap()));
}

#[test]
fn sips_never_leaves_unencrypted() {
    let call =
        |lab: &mut Lab| lab.over(ACCESS, flow(Transport::Tls, ALICE, 1), &invite("sips:bob@example.test", "TLS"));
    for transport in [Transport::Udp, Transport::Tcp] {
        let sent = call(&mut lab_with(transport));
        assert_eq!(only(&sent, "480").header(Name::Warning), "380 latch \"SIPS Not Allowed\"");
        assert!(sent.iter().all(|sent| sent.realm == ACCESS));
    }
    let mut lab = lab_with(Transport::Tls);
    let sent = call(&mut lab);
    let request = only(&sent, "INVITE");
    assert_eq!(request.uri(), "sips:bob@example.test");

    // It does not reach a terminal in this way either.
    let mut lab = lab_with(Transport::Udp);
    let known = registers(&mut lab, "alice", 1, flow(Transport::Tcp, ALICE, 1), &contact("alice"));
    let sent =
        lab.core(&outside("MESSAGE", &known.replace("sip:", "sips:"), "m1", "Content-Type: text/plain", "hello"));
    assert_eq!(kinds(&sent), ["core 480"]);
}

#[test]
fn whoever_speaks_sips_over_tls_is_answered_with_sips() {
    let mut lab = lab_with(Transport::Tls);
    let alice = flow(Transport::Tls, ALICE, 1);
    let text = invite("sips:bob@example.test", "TLS")
        .replace("<sip:alice@192.168.1.10:5060;transport=tcp>", "<sips:alice@192.168.1.10:5061>");
    let sent = lab.over(ACCESS, alice, &text);
    let request = only(&sent, "INVITE").clone();
    let contact = request.contact();
    assert!(contact.starts_with("sips:") && contact.ends_with("@10.9.0.10:5061"), "{contact}");
    let made = Flow { connection: Some(ConnectionId(9)), ..request.destination };
    let text = answer(&request, "200 OK", "b", "Contact: <sips:bob@10.9.0.30>\n", &sdp("10.9.0.30", 6_000));
    let sent = lab.over(CORE, made, &text);
    let contact = over(&sent, "200", alice).contact();
    assert!(contact.starts_with("sips:") && contact.ends_with("@203.0.113.10:5061"), "{contact}");
}

#[test]
fn the_transport_of_one_side_is_not_shown_to_the_other() {
    let mut lab = lab_with(Transport::Udp);
    let alice = flow(Transport::Tls, ALICE, 1);
    let sent = lab.over(ACCESS, alice, &invite("sip:bob@203.0.113.10:5061;transport=tls", "TLS"));
    assert_eq!(only(&sent, "INVITE").uri(), "sip:bob@10.9.0.20");
}

#[test]
fn a_stranger_in_the_core_gets_nowhere_by_connecting() {
    let mut lab = lab_with(Transport::Tcp);
    let stranger = flow(Transport::Tcp, "10.9.0.66:40000", 3);
    let request = outside("OPTIONS", "sip:10.9.0.10", "o1", "", "");
    assert!(lab.over(CORE, stranger, &request).is_empty());
    assert_eq!(lab.proxy.statistics().foreign, 1);
}

#[test]
fn nobody_rings_for_a_caller_whose_connection_is_gone() {
    let mut lab = lab_with(Transport::Udp);
    let alice = flow(Transport::Tcp, ALICE, 1);
    let sent = lab.over(ACCESS, alice, &invite("sip:bob@example.test", "TCP"));
    let request = only(&sent, "INVITE").clone();
    lab.core(&answer(&request, "180 Ringing", "b", "Contact: <sip:bob@10.9.0.30>\n", ""));
    let sent = lab.close(ACCESS, alice);
    let cancel = only(&sent, "CANCEL").clone();
    lab.core(&answer(&cancel, "200 OK", "", "", ""));
    let sent = lab.core(&answer(&request, "487 Request Terminated", "b", "", ""));
    assert_eq!(kinds(&sent), ["core ACK"], "nobody is there to be told");
    lab.assert_empty();
    assert_eq!((lab.records.len(), lab.records[0].end_cause), (1, EndCause::Cancelled));
}

#[test]
fn ipv6_is_spoken_over_connections_too() {
    let mut config = networks("2001:db8:a::10", OWN_CORE, SOFTSWITCH);
    config.realms.get_mut(ACCESS).unwrap().streams.tls = Some(5061);
    let mut lab = Lab::new(config);
    let alice = flow(Transport::Tls, "[2001:db8:a:1::1]:40000", 1);
    let known = registers(&mut lab, "alice", 1, alice, "Contact: <sip:alice@[2001:db8:a:1::1]:40000;transport=tls>");
    let sent = lab.core(&outside("INVITE", &known, "i1", "", &sdp("10.9.0.30", 6_000)));
    let request = over(&sent, "INVITE", alice);
    assert!(request.header(Name::Via).starts_with("SIP/2.0/TLS [2001:db8:a::10]:5061;"), "{}", request.text);
    assert!(request.contact().ends_with("@[2001:db8:a::10]:5061;transport=tls"), "{}", request.text);
    assert_eq!(request.media(0).0, "2001:db8:a::10");
}

#[test]
fn a_length_that_a_datagram_need_not_state_is_stated_in_a_stream() {
    // The lab takes every message apart that is sent over a stream.
    let without = |text: String| text.replace("Content-Length: 0\r\n", "");
    for softswitch in [Transport::Udp, Transport::Tcp] {
        let mut lab = lab_with(softswitch);
        let text = without(register("alice", 1, &contact("alice"), ""));
        let sent = lab.over(ACCESS, flow(Transport::Ws, ALICE, 1), &text);
        let request = only(&sent, "REGISTER").clone();
        let shown = request.header(Name::Contact);
        let ok = without(answer(&request, "200 OK", "r", &format!("Contact: {shown};expires=600\n"), ""));
        only(&lab.over(CORE, flow(Transport::Tcp, SOFTSWITCH, 2), &ok), "200");
        let bob = flow(Transport::Tls, BOB, 3);
        let known = registers_at(&mut lab, "bob", bob);
        let message = without(outside("MESSAGE", &known, "m1", "", ""));
        over(&lab.over(CORE, flow(Transport::Tcp, SOFTSWITCH, 2), &message), "MESSAGE", bob);
    }
}

/// Registers, whatever the softswitch speaks.
fn registers_at(lab: &mut Lab, user: &str, source: Flow) -> String {
    let sent = lab.over(ACCESS, source, &register(user, 1, &contact(user), ""));
    let request = only(&sent, "REGISTER").clone();
    let shown = request.header(Name::Contact);
    lab.core(&answer(&request, "200 OK", "r", &format!("Contact: {shown};expires=600\n"), ""));
    request.contact()
}
