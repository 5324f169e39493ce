//! Who may act: a stranger who knows everything about a call except its secret changes nothing in it; a party may send
//! from another place, and has moved there when the other side accepts what it sent.

use crate::{calls::*, lab::*, registrations::*};
use proxy_user::{
    config::AdmissionLimits,
    engine::EarlierStreams,
    flow::{ConnectionId, Flow, Transport},
    media::LegSpec,
    signalling::sip::Name,
};
use std::time::Duration;

const MALLORY: &str = "203.0.113.66:5060";
/// Alice's NAT has more ports than hers.
const ALICES_NEIGHBOUR: &str = "198.51.100.1:40999";
const ALICE_MOBILE: &str = "198.51.100.77:31000";
/// By which nobody in particular is named: what a device would use that ignores Contact.
const ADDRESS_OF_BOB: &str = "sip:bob@example.test";

/// A request of Alice in her call with these sources and Request-URIs.
fn forged(method: &str, uri: &str, cseq: u32) -> String {
    let branch = format!("forged{method}{cseq}");
    let body = if matches!(method, "INVITE" | "UPDATE") { sdp("203.0.113.66", 4000) } else { String::new() };
    from_alice(method, uri, BOBS_TAG, cseq, &branch, "", &body)
}

fn legs(lab: &Lab) -> Vec<LegSpec> {
    lab.datapath.streams.values().flat_map(|stream| stream.legs.clone()).collect()
}

/// Alice hangs up as she would have.
fn hangs_up(lab: &mut Lab, source: &str, bob: &str, cseq: u32) {
    let sent = lab.access(source, &from_alice("BYE", bob, BOBS_TAG, cseq, &format!("bye{cseq}"), "", ""));
    let bye = only(&sent, "BYE").clone();
    let sent = lab.core(&answer(&bye, "200 OK", "", "", ""));
    assert_eq!(only(&sent, "200").destination.to_string(), source);
    lab.assert_empty();
}

#[test]
fn call_id_and_tags_entitle_a_stranger_to_nothing() {
    // From its own address, from another port of Alice's, and with her very source forged.
    for source in [MALLORY, ALICES_NEIGHBOUR, ALICE] {
        let mut lab = Lab::default();
        let call = answered(&mut lab);
        let before = legs(&lab);
        for (n, method) in
            ["INVITE", "UPDATE", "BYE", "INFO", "REFER", "OPTIONS", "PRACK", "MESSAGE", "NOTIFY", "SUBSCRIBE"]
                .into_iter()
                .enumerate()
        {
            let sent = lab.access(source, &forged(method, ADDRESS_OF_BOB, 1000));
            let expected = [["access 481"].as_slice(), &["access 100", "access 481"]];
            assert!(
                expected.contains(&kinds(&sent).iter().map(String::as_str).collect::<Vec<_>>().as_slice()),
                "{sent:?}"
            );
            assert_eq!(lab.proxy.statistics().strangers_refused, n as u64 + 1, "{method} from {source}");
        }
        assert!(lab.access(source, &forged("ACK", ADDRESS_OF_BOB, 1)).is_empty(), "{source}");
        assert_eq!(legs(&lab), before, "{source}");
        // What the core has for Alice goes to her, and she can hang up.
        let sent = lab.core(&from_core("INFO", &call.alice, 7, "i7", "", ""));
        let info = only(&sent, "INFO").clone();
        assert_eq!(info.destination.to_string(), ALICE, "{source}");
        lab.access(ALICE, &answer(&info, "200 OK", "", "", ""));
        hangs_up(&mut lab, ALICE, &call.bob, 2);
    }
}

#[test]
fn nor_does_the_token_of_the_stranger_itself_or_one_of_the_other_network() {
    let mut lab = Lab::default();
    let call = answered(&mut lab);
    let mallory = registered(&mut lab, "mallory", MALLORY);
    for uri in [&mallory, &call.alice] {
        let uri = uri.replace(OWN_CORE, OWN_ACCESS);
        let sent = lab.access(MALLORY, &forged("BYE", &uri, 1000));
        assert!(kinds(&sent).iter().all(|kind| kind == "access 481" || kind == "access 404"), "{uri}: {sent:?}");
    }
    hangs_up(&mut lab, ALICE, &call.bob, 2);
}

#[test]
fn a_device_that_ignores_contact_may_act_from_where_it_is() {
    let mut lab = Lab::default();
    let offer = sdp(PRIVATE, 4000);
    let sent = lab.access(ALICE, &from_alice("INVITE", ADDRESS_OF_BOB, "<sip:bob@example.test>", 1, "i1", "", &offer));
    let invite = only(&sent, "INVITE").clone();
    lab.core(&answer(&invite, "200 OK", "b1", ROUTE, &sdp("10.9.0.30", 6000)));
    assert_eq!(kinds(&lab.access(MALLORY, &from_alice("ACK", ADDRESS_OF_BOB, BOBS_TAG, 1, "k", "", ""))), [""; 0]);
    let sent = lab.access(ALICE, &from_alice("ACK", ADDRESS_OF_BOB, BOBS_TAG, 1, "k1", "", ""));
    assert_eq!(kinds(&sent), ["core ACK"]);
    assert_eq!(kinds(&lab.access(ALICES_NEIGHBOUR, &forged("BYE", ADDRESS_OF_BOB, 2))), ["access 481"]);
    hangs_up(&mut lab, ALICE, ADDRESS_OF_BOB, 3);
}

#[test]
fn it_is_found_by_its_tags_among_others_with_the_same_call_id() {
    let mut lab = Lab::default();
    let invite = |tag: &str, branch: &str| {
        let offer = sdp(PRIVATE, 4000);
        from_alice("INVITE", ADDRESS_OF_BOB, "<sip:bob@example.test>", 1, branch, "", &offer).replace(";tag=a1", tag)
    };
    let begin = |lab: &mut Lab, source: &str, tag: &str, branch: &str| {
        only(&lab.access(source, &invite(tag, branch)), "INVITE").clone()
    };
    // Strangers with her Call-ID, one with her tag too.
    let others = [(";tag=m1", "m1"), (";tag=a1", "m2"), (";tag=a1", "m3")];
    let others = others.map(|(tag, branch)| begin(&mut lab, MALLORY, tag, branch));
    let request = begin(&mut lab, ALICE, ";tag=a1", "i1");
    for (n, other) in others.iter().enumerate() {
        lab.core(&answer(other, "180 Ringing", &format!("m{n}"), ROUTE, ""));
    }
    for tag in ["b0", "b1"] {
        lab.core(&answer(&request, "180 Ringing", tag, ROUTE, ""));
    }
    lab.core(&answer(&request, "200 OK", "b1", ROUTE, &sdp("10.9.0.30", 6000)));
    assert_eq!(kinds(&lab.access(ALICE, &from_alice("ACK", ADDRESS_OF_BOB, BOBS_TAG, 1, "k1", "", ""))), ["core ACK"]);
    let info = from_alice("INFO", ADDRESS_OF_BOB, &BOBS_TAG.replace("b1", "m0"), 2, "i2", "", "");
    assert_eq!(kinds(&lab.access(ALICE, &info)), ["access 481"], "no such dialog");
    // The softswitch names her by her tags too.
    let sent = lab.core(&from_core("INFO", "sip:alice@10.9.0.10", 7, "i7", "", ""));
    assert_eq!(only(&sent, "INFO").destination.to_string(), ALICE);
    let sent = lab.access(ALICE, &from_alice("BYE", ADDRESS_OF_BOB, BOBS_TAG, 3, "y3", "", ""));
    assert_eq!(kinds(&lab.core(&answer(only(&sent, "BYE"), "200 OK", "", "", ""))), ["access 200"]);
    assert_eq!(lab.load().calls, 3, "hers is over");
}

#[test]
fn so_may_one_over_its_own_connection_and_nobody_over_another() {
    let mut config = config();
    config.realms.get_mut(ACCESS).unwrap().streams.tcp = Some(5060);
    let mut lab = Lab::new(config);
    let over = |number, address: &str| Flow {
        connection: Some(ConnectionId(number)),
        ..Flow::to(Transport::Tcp, address.parse().unwrap())
    };
    let tcp = |text: String| text.replace("SIP/2.0/UDP", "SIP/2.0/TCP");
    let offer = sdp(PRIVATE, 4000);
    let invite = from_alice("INVITE", ADDRESS_OF_BOB, "<sip:bob@example.test>", 1, "i1", "", &offer);
    let sent = lab.over(ACCESS, over(1, ALICE), &tcp(invite));
    let invite = only(&sent, "INVITE").clone();
    let sent = lab.core(&answer(&invite, "200 OK", "b1", ROUTE, &sdp("10.9.0.30", 6000)));
    let bob = only(&sent, "200").contact();
    lab.over(ACCESS, over(1, ALICE), &tcp(from_alice("ACK", &bob, BOBS_TAG, 1, "k1", "", "")));
    let sent = lab.over(ACCESS, over(2, ALICES_NEIGHBOUR), &tcp(forged("BYE", ADDRESS_OF_BOB, 1000)));
    assert_eq!(kinds(&sent), ["access 481"]);
    let sent = lab.over(ACCESS, over(1, ALICE), &tcp(forged("BYE", ADDRESS_OF_BOB, 2)));
    assert_eq!(kinds(&sent), ["core BYE"]);
}

#[test]
fn a_party_has_moved_once_its_request_is_accepted() {
    for (status, moved) in [("200 OK", true), ("488 Not Acceptable Here", false)] {
        let mut lab = Lab::default();
        let call = answered(&mut lab);
        let before = legs(&lab);
        let offer = from_alice("INVITE", &call.bob, BOBS_TAG, 2, "m2", "", &sdp("192.168.77.5", 4000));
        let sent = lab.access(ALICE_MOBILE, &offer.replace(PRIVATE, "192.168.77.5"));
        let invite = only(&sent, "INVITE").clone();
        // As long as nobody has said yes, she is where she was.
        let sent = lab.core(&from_core("INFO", &call.alice, 7, "i7", "", ""));
        let info = only(&sent, "INFO").clone();
        assert_eq!(info.destination.to_string(), ALICE);
        lab.access(ALICE, &answer(&info, "200 OK", "", "", ""));
        let body = if moved { sdp("10.9.0.30", 6000) } else { String::new() };
        let sent = lab.core(&answer(&invite, status, "", if moved { ROUTE } else { "" }, &body));
        let place = if moved { ALICE_MOBILE } else { ALICE };
        assert_eq!(only(&sent, &status[..3]).destination.to_string(), ALICE_MOBILE, "who asked is answered");
        let sent = lab.core(&from_core("INFO", &call.alice, 8, "i8", "", ""));
        assert_eq!(only(&sent, "INFO").destination.to_string(), place, "{status}");
        let legs = legs(&lab);
        let signalling = legs[0].signalling.unwrap().to_string();
        assert_eq!(place.split(':').next().unwrap(), signalling, "her media come from there too");
        assert_eq!(legs[0].local, before[0].local);
        assert!(legs.iter().all(|leg| leg.open));
    }
}

#[test]
fn a_terminal_moves_with_its_own_registration_and_takes_its_calls_along() {
    let mut lab = Lab::default();
    registered(&mut lab, "alice", ALICE);
    let call = answered(&mut lab);
    let sent = lab.access(ALICE_MOBILE, &register("alice", 2, &contact("alice"), ""));
    let request = only(&sent, "REGISTER").clone();
    let to = |lab: &mut Lab, cseq: u32| {
        let sent = lab.core(&from_core("INFO", &call.alice, cseq, &format!("i{cseq}"), "", ""));
        only(&sent, "INFO").destination.to_string()
    };
    assert_eq!(to(&mut lab, 7), ALICE);
    let shown = request.header(Name::Contact);
    lab.core(&answer(&request, "200 OK", "r", &format!("Contact: {shown};expires=600\n"), ""));
    assert_eq!(to(&mut lab, 8), ALICE_MOBILE);
    assert_eq!(legs(&lab)[0].signalling.unwrap().to_string(), "198.51.100.77");
}

#[test]
fn what_a_phone_sent_last_says_where_it_is_whatever_is_accepted_last() {
    const LATER: &str = "198.51.100.99:32000";
    for registers_last in [true, false] {
        let mut lab = Lab::default();
        registered(&mut lab, "alice", ALICE);
        let call = answered(&mut lab);
        let sends = |lab: &mut Lab, source: &str, registers: bool| {
            let text = match registers {
                true => register("alice", 2, &contact("alice"), ""),
                false => from_alice("INFO", &call.bob, BOBS_TAG, 2, "i2", "", ""),
            };
            lab.access(source, &text).iter().find(|sent| sent.realm == CORE).unwrap().clone()
        };
        let first = sends(&mut lab, ALICE_MOBILE, !registers_last);
        lab.wait(Duration::from_millis(100));
        let second = sends(&mut lab, LATER, registers_last);
        for request in [second, first] {
            let more = match request.kind().as_str() {
                "REGISTER" => format!("Contact: {};expires=600\n", request.header(Name::Contact)),
                _ => String::new(),
            };
            lab.core(&answer(&request, "200 OK", "r", &more, ""));
        }
        let sent = lab.core(&from_core("INFO", &call.alice, 7, "i7", "", ""));
        assert_eq!(only(&sent, "INFO").destination.to_string(), LATER, "{registers_last}");
        assert_eq!(legs(&lab)[0].signalling.unwrap().to_string(), "198.51.100.99");
    }
}

#[test]
fn a_registration_moves_nobody_elses_calls() {
    let mut lab = Lab::default();
    registered(&mut lab, "alice", ALICE);
    let call = answered(&mut lab);
    let before = legs(&lab);
    // With Alice's source forged, and with her contact stated, Mallory makes a binding of his own where she is, ...
    let stated = contact("mallory").replace("sip:mallory@", "sip:alice@").replace("urn:uuid:1", "urn:uuid:2");
    for (cseq, source) in [(1, ALICE), (2, MALLORY)] {
        let sent = lab.access(source, &register("mallory", cseq, &stated, ""));
        let request = only(&sent, "REGISTER").clone();
        let shown = request.header(Name::Contact);
        lab.core(&answer(&request, "200 OK", "r", &format!("Contact: {shown};expires=600\n"), ""));
    }
    // ... and moves it away: hers stays.
    let sent = lab.core(&from_core("INFO", &call.alice, 7, "i7", "", ""));
    assert_eq!(only(&sent, "INFO").destination.to_string(), ALICE);
    assert_eq!(legs(&lab), before);
}

#[test]
fn a_terminal_that_answers_from_another_port_is_there_from_then_on() {
    let mut lab = Lab::default();
    let alice = registered(&mut lab, "alice", ALICE);
    let sent = lab.core(&outside("INVITE", &alice, "o1", "", &sdp("10.9.0.30", 6000)));
    let invite = only(&sent, "INVITE").clone();
    let contact = format!("Contact: <sip:alice@{PRIVATE}:5060>\n");
    let sent = lab.access(ALICES_NEIGHBOUR, &answer(&invite, "200 OK", "a1", &contact, &sdp(PRIVATE, 4000)));
    let ok = only(&sent, "200").clone();
    let ack = outside("ACK", &ok.contact(), "o2", "", "")
        .replace("<sip:alice@example.test>", "<sip:alice@example.test>;tag=a1");
    let sent = lab.core(&ack);
    assert_eq!(only(&sent, "ACK").destination.to_string(), ALICES_NEIGHBOUR);
}

#[test]
fn a_transaction_follows_a_terminal_to_another_port() {
    const ELSEWHERE: &str = "198.51.100.1:41001";
    let mut lab = Lab::default();
    let invite = from_alice("INVITE", ADDRESS_OF_BOB, "<sip:bob@example.test>", 1, "i1", "", &sdp(PRIVATE, 4000));
    let sent = lab.access(ALICE, &invite);
    let forwarded = only(&sent, "INVITE").clone();
    lab.core(&answer(&forwarded, "180 Ringing", "b1", ROUTE, ""));
    let sent = lab.access(ALICES_NEIGHBOUR, &invite);
    assert_eq!(kinds(&sent), ["access 180"], "no second call");
    assert_eq!(sent[0].destination.to_string(), ALICES_NEIGHBOUR);
    assert_eq!(lab.load().calls, 1);
    // From another address it is none of its business.
    let cancel = from_alice("CANCEL", ADDRESS_OF_BOB, "<sip:bob@example.test>", 1, "i1", "", "");
    assert_eq!(kinds(&lab.access(MALLORY, &cancel)), ["access 481"]);
    let sent = lab.access(ELSEWHERE, &cancel);
    assert_eq!(kinds(&sent), ["access 200", "core CANCEL"]);
    let sent = lab.core(&answer(&forwarded, "487 Request Terminated", "b1", "", ""));
    assert_eq!(only(&sent, "487").destination.to_string(), ELSEWHERE, "where it was heard of last");
}

#[test]
fn a_caller_that_registered_elsewhere_is_still_the_one_whose_call_rings() {
    for restarts in [false, true] {
        let mut lab = Lab::default();
        registered(&mut lab, "alice", ALICE);
        let invite = from_alice("INVITE", ADDRESS_OF_BOB, "<sip:bob@example.test>", 1, "i1", "", &sdp(PRIVATE, 4000));
        let forwarded = only(&lab.access(ALICE, &invite), "INVITE").clone();
        lab.core(&answer(&forwarded, "180 Ringing", "b1", ROUTE, ""));
        let request = only(&lab.access(ALICE_MOBILE, &register("alice", 2, &contact("alice"), "")), "REGISTER").clone();
        let bound = format!("Contact: {};expires=600\n", request.header(Name::Contact));
        lab.core(&answer(&request, "200 OK", "r", &bound, ""));
        if restarts {
            lab.restart(EarlierStreams::Kept);
        }
        for source in [ALICE_MOBILE, ALICE, ALICE_MOBILE] {
            let sent = lab.access(source, &invite);
            assert_eq!((kinds(&sent), lab.load().calls), (vec!["access 180".into()], 1), "no second call");
            assert_eq!(sent[0].destination.to_string(), source);
        }
        let cancel = from_alice("CANCEL", ADDRESS_OF_BOB, "<sip:bob@example.test>", 1, "i1", "", "");
        assert_eq!(kinds(&lab.access(MALLORY, &cancel)), ["access 481"]);
        assert_eq!(kinds(&lab.access(ALICE_MOBILE, &cancel)), ["access 200", "core CANCEL"], "{restarts}");
        let sent = lab.core(&answer(&forwarded, "487 Request Terminated", "b1", "", ""));
        assert_eq!(only(&sent, "487").destination.to_string(), ALICE_MOBILE);
        lab.wait(Duration::from_secs(40));
        assert_eq!((lab.load().calls, lab.load().transactions), (0, 0));
    }
}

#[test]
fn one_invite_from_two_addresses_that_become_one_is_two_calls_after_a_restart_too() {
    let mut lab = Lab::default();
    registered(&mut lab, "alice", ALICE);
    let invite = from_alice("INVITE", ADDRESS_OF_BOB, "<sip:bob@example.test>", 1, "i1", "", &sdp(PRIVATE, 4000));
    for source in [ALICE, ALICE_MOBILE] {
        let forwarded = only(&lab.access(source, &invite), "INVITE").clone();
        lab.core(&answer(&forwarded, "180 Ringing", "b1", ROUTE, ""));
    }
    let request = only(&lab.access(ALICE_MOBILE, &register("alice", 2, &contact("alice"), "")), "REGISTER").clone();
    let bound = format!("Contact: {};expires=600\n", request.header(Name::Contact));
    lab.core(&answer(&request, "200 OK", "r", &bound, ""));
    assert_eq!(lab.restart(EarlierStreams::Kept).calls, 2);
    lab.take();
    lab.proxy.shutdown(lab.now);
    lab.settle();
    assert_eq!(lab.take().iter().filter(|sent| sent.kind() == "CANCEL").count(), 2, "nobody rings on for either");
}

/// The core calls Alice, who answers: her token, with which the core reaches her, and Carol's, which she is shown.
fn called(lab: &mut Lab, alice: &str, n: u32) -> (String, String) {
    let call_id = |text: String| text.replace("out-1", &format!("out-{n}"));
    let sent = lab.core(&call_id(outside("INVITE", alice, &format!("o{n}"), "", &sdp("10.9.0.30", 6000))));
    let invite = only(&sent, "INVITE").clone();
    let contact = format!("Contact: <sip:alice@{PRIVATE}:5060>\n");
    let ok = lab.access(ALICE, &answer(&invite, "200 OK", "a1", &contact, &sdp(PRIVATE, 4000)));
    let ack = outside("ACK", &only(&ok, "200").contact(), &format!("k{n}"), "", "");
    let sent = lab.core(&call_id(ack.replace("<sip:alice@example.test>", "<sip:alice@example.test>;tag=a1")));
    assert_eq!(kinds(&sent), ["access ACK"]);
    (ok[0].contact(), invite.contact())
}

/// What Alice sends in the call in which she is called.
fn of_the_called(method: &str, uri: &str, n: u32, cseq: u32) -> String {
    let text = from_alice(method, uri, "<sip:carol@203.0.113.10>;tag=c1", cseq, &format!("c{n}-{cseq}"), "", "");
    text.replace("call-1", &format!("out-{n}"))
}

#[test]
fn a_phone_that_has_named_tokens_before_is_not_believed_without_in_its_next_calls() {
    for restarts in [false, true] {
        let mut lab = Lab::default();
        let alice = registered(&mut lab, "alice", ALICE);
        let (_, carol) = called(&mut lab, &alice, 1);
        let sent = lab.access(ALICE, &of_the_called("BYE", &carol, 1, 1));
        assert_eq!(kinds(&lab.core(&answer(only(&sent, "BYE"), "200 OK", "", "", ""))), ["access 200"]);
        if restarts {
            lab.restart(EarlierStreams::Kept);
        }
        // All that she does in her next call is to answer; somebody who knows its tags forges her source.
        let (_, carol) = called(&mut lab, &alice, 2);
        for (n, method) in ["BYE", "INVITE", "UPDATE", "INFO"].into_iter().enumerate() {
            let sent = lab.access(ALICE, &of_the_called(method, ADDRESS_OF_BOB, 2, 1_000 + n as u32));
            assert!(kinds(&sent).iter().all(|kind| kind.starts_with("access")), "{method}: {sent:?}");
        }
        assert_eq!((lab.load().calls, lab.proxy.statistics().strangers_refused), (1, 4), "{restarts}");
        let sent = lab.access(ALICE, &of_the_called("BYE", &carol, 2, 1));
        assert_eq!(kinds(&lab.core(&answer(only(&sent, "BYE"), "200 OK", "", "", ""))), ["access 200"]);
        assert_eq!(lab.load().calls, 0);
    }
}

#[test]
fn a_phone_that_has_never_named_one_may_act_in_each_of_its_calls() {
    let mut lab = Lab::default();
    let alice = registered(&mut lab, "alice", ALICE);
    for n in 1..4 {
        called(&mut lab, &alice, n);
        let sent = lab.access(ALICE, &of_the_called("BYE", ADDRESS_OF_BOB, n, 1));
        assert_eq!(kinds(&sent), ["core BYE"], "{n}");
    }
}

#[test]
fn a_phone_that_was_switched_off_and_on_replaces_its_binding() {
    let mut lab = Lab::default();
    let plain = format!("Contact: <sip:alice@{PRIVATE}:5060>\nExpires: 600");
    let mut tokens = Vec::new();
    for (call_id, source) in [("reg-1", ALICE), ("reg-2", ALICES_NEIGHBOUR)] {
        let request = register("alice", 1, &plain, "").replace("reg-alice", call_id).replace("z9hG4bKreg", call_id);
        let sent =
            lab.access(source, &request.replace(&format!("branch={call_id}"), &format!("branch=z9hG4bK{call_id}")));
        let request = only(&sent, "REGISTER").clone();
        tokens.push(request.contact());
        let shown = request.header(Name::Contact);
        lab.core(&answer(&request, "200 OK", "r", &format!("Contact: {shown};expires=600\n"), ""));
    }
    assert_eq!(tokens[0], tokens[1]);
    let registrations: Vec<_> = lab.proxy.registrations().collect();
    assert_eq!(registrations.len(), 1);
    assert_eq!(registrations[0].flow.to_string(), ALICES_NEIGHBOUR);
}

#[test]
fn a_registrar_that_lists_nothing_has_bound_what_it_was_asked_to() {
    let mut lab = Lab::default();
    let sent = lab.access(ALICE, &register("alice", 1, &contact("alice"), ""));
    let request = only(&sent, "REGISTER").clone();
    let sent = lab.core(&answer(&request, "200 OK", "r", "Expires: 300\n", ""));
    assert_eq!(kinds(&sent), ["access 200"]);
    assert_eq!(lab.proxy.registrations().count(), 1);
    let sent = lab.core(&outside("MESSAGE", &request.contact(), "m1", "", ""));
    assert_eq!(only(&sent, "MESSAGE").destination.to_string(), ALICE);
    // A request for no time removes it.
    let gone = contact("alice").replace("600", "0");
    let sent = lab.access(ALICE, &register("alice", 2, &gone, ""));
    lab.core(&answer(only(&sent, "REGISTER"), "200 OK", "r", "", ""));
    assert_eq!(lab.proxy.registrations().count(), 0);
    lab.wait(Duration::from_secs(40));
}

#[test]
fn a_name_that_is_only_claimed_uses_up_nobodys_limit() {
    let mut config = config();
    config.realms.get_mut(ACCESS).unwrap().policy.admission =
        AdmissionLimits { max_calls_per_user: Some(1), ..AdmissionLimits::default() };
    let mut lab = Lab::new(config);
    registered(&mut lab, "alice", ALICE);
    let call = |number: u32| {
        let text = from_alice(
            "INVITE",
            ADDRESS_OF_BOB,
            "<sip:bob@example.test>",
            1,
            &format!("c{number}"),
            "",
            &sdp(PRIVATE, 4000),
        );
        text.replace("call-1", &format!("claimed-{number}"))
    };
    // Mallory says that he is Alice: it counts for where he is, whatever he calls himself.
    assert_eq!(kinds(&lab.access(MALLORY, &call(1)))[1], "core INVITE");
    let again = call(2).replace("sip:alice@example.test>;tag=a1", "sip:zoe@example.test>;tag=a1");
    assert_eq!(kinds(&lab.access(MALLORY, &again)), ["access 503"]);
    assert_eq!(kinds(&lab.access(ALICE, &call(3)))[1], "core INVITE", "hers is free");
    assert_eq!(kinds(&lab.access(ALICE, &call(4))), ["access 503"]);
}

/// The numbers by which the journal names terminals and calls never come to mean something else.
#[test]
fn what_is_registered_or_called_after_a_restart_is_nothing_that_was_there_before() {
    let mut lab = Lab::default();
    registered(&mut lab, "alice", ALICE);
    let call = answered(&mut lab);
    // She leaves in mid-call: a later terminal must not be taken for hers.
    let gone = contact("alice").replace("600", "0");
    let sent = lab.access(ALICE, &register("alice", 2, &gone, ""));
    lab.core(&answer(only(&sent, "REGISTER"), "200 OK", "r", "", ""));
    lab.restart(EarlierStreams::Kept);
    let before = legs(&lab);
    for (cseq, source) in [(1, MALLORY), (2, ALICE_MOBILE)] {
        let sent = lab.access(source, &register("mallory", cseq, &contact("mallory"), ""));
        let request = only(&sent, "REGISTER").clone();
        let shown = request.header(Name::Contact);
        lab.core(&answer(&request, "200 OK", "r", &format!("Contact: {shown};expires=600\n"), ""));
    }
    let sent = lab.core(&from_core("INFO", &call.alice, 7, "i7", "", ""));
    assert_eq!(only(&sent, "INFO").destination.to_string(), ALICE);
    assert_eq!(legs(&lab), before);

    // Her call ends, and the process with it: what is left of its dialog has nothing to do with the next call.
    let sent = lab.access(ALICE, &from_alice("BYE", &call.bob, BOBS_TAG, 9, "bye9", "", ""));
    lab.core(&answer(only(&sent, "BYE"), "200 OK", "", "", ""));
    lab.restart(EarlierStreams::Kept);
    let other = from_alice("INVITE", ADDRESS_OF_BOB, "<sip:bob@example.test>", 1, "n1", "", &sdp(PRIVATE, 4100));
    let sent = lab.access(BOB, &other.replace("call-1", "call-2"));
    lab.core(&answer(only(&sent, "INVITE"), "200 OK", "b2", ROUTE, &sdp("10.9.0.30", 6100)));
    let streams = lab.datapath.streams.clone();
    let sent = lab.access(ALICE, &from_alice("BYE", &call.bob, BOBS_TAG, 10, "bye10", "", ""));
    assert_eq!(kinds(&sent), ["access 200"], "it was over");
    assert_eq!((lab.load().calls, &lab.datapath.streams), (1, &streams));
    lab.wait(Duration::from_secs(40));
    lab.proxy.shutdown(lab.now);
    lab.settle();
    assert_eq!(lab.take().iter().filter(|sent| sent.kind() == "BYE").count(), 2, "both sides are told");
}

#[test]
fn a_stated_contact_makes_no_ones_calls_somebody_elses() {
    let mut lab = Lab::default();
    // Mallory registers with the source and the contact of a device that is not registered.
    let stated = contact("mallory").replace("sip:mallory@", "sip:alice@").replace(";ob>", ">");
    let register = |lab: &mut Lab, cseq, source: &str| {
        let sent = lab.access(source, &register("mallory", cseq, &stated, ""));
        let request = only(&sent, "REGISTER").clone();
        let shown = request.header(Name::Contact);
        lab.core(&answer(&request, "200 OK", "r", &format!("Contact: {shown};expires=600\n"), ""));
    };
    register(&mut lab, 1, ALICE);
    let call = answered(&mut lab);
    register(&mut lab, 2, MALLORY);
    let sent = lab.core(&from_core("INFO", &call.alice, 7, "i7", "", ""));
    assert_eq!(only(&sent, "INFO").destination.to_string(), ALICE);
}

#[test]
fn a_phone_that_comes_back_to_where_it_is_registered_takes_its_media_back() {
    let mut lab = Lab::default();
    registered(&mut lab, "alice", ALICE);
    let call = answered(&mut lab);
    for (cseq, source) in [(2, ALICE_MOBILE), (3, ALICE)] {
        let offer = from_alice("INVITE", &call.bob, BOBS_TAG, cseq, &format!("m{cseq}"), "", &sdp(PRIVATE, 4000));
        let sent = lab.access(source, &offer);
        let invite = only(&sent, "INVITE").clone();
        let sent = lab.core(&answer(&invite, "200 OK", "", ROUTE, &sdp("10.9.0.30", 6000)));
        let ok = only(&sent, "200").clone();
        lab.access(source, &from_alice("ACK", &ok.contact(), BOBS_TAG, cseq, &format!("k{cseq}"), "", ""));
        let signalling = legs(&lab)[0].signalling.unwrap().to_string();
        assert_eq!(signalling, source.split(':').next().unwrap());
    }
}

#[test]
fn answers_to_a_caller_go_where_it_cancelled_from() {
    let mut lab = Lab::default();
    let invite = from_alice("INVITE", ADDRESS_OF_BOB, "<sip:bob@example.test>", 1, "i1", "", &sdp(PRIVATE, 4000));
    let sent = lab.access(ALICE, &invite);
    let forwarded = only(&sent, "INVITE").clone();
    lab.core(&answer(&forwarded, "180 Ringing", "b1", ROUTE, ""));
    lab.access(ALICES_NEIGHBOUR, &from_alice("CANCEL", ADDRESS_OF_BOB, "<sip:bob@example.test>", 1, "i1", "", ""));
    let sent = lab.core(&answer(&forwarded, "487 Request Terminated", "b1", "", ""));
    assert_eq!(only(&sent, "487").destination.to_string(), ALICES_NEIGHBOUR);
}

#[test]
fn a_phone_that_publishes_its_calls_reveals_no_token() {
    let mut lab = Lab::default();
    registered(&mut lab, "alice", ALICE);
    let call = answered(&mut lab);
    let published = |target: &str| format!("<dialog-info><remote><target uri=\"{target}\"/></remote></dialog-info>");
    let kind = "Content-Type: application/dialog-info+xml";
    let publish = |lab: &mut Lab, branch: &str, body: &str| {
        let publish =
            from_alice("PUBLISH", "sip:alice@example.test", "<sip:alice@example.test>", 1, branch, kind, body);
        let sent = lab.access(ALICE, &publish.replace("call-1", branch));
        only(&sent, "PUBLISH").body()
    };
    let token = call.bob.split([':', '@']).nth(1).unwrap();
    assert_eq!(token.len(), 13, "{}", call.bob);
    // Under a name that the phone has for Latch.
    let bob = format!("sip:{token}@latch.example.test");
    let seen = publish(&mut lab, "p1", &published(&bob));
    assert_eq!(seen, published(&bob).replace(token, "unnamed-party"));
    // Text that is not a token passes, and so does a token of a call that has ended.
    for other in ["sip:0123456789abc@h", "sip:a@b", "@", "sip:\u{e9}123456789ab@h.x", bob.as_str()] {
        if other == bob {
            lab.access(ALICE, &from_alice("BYE", &call.bob, BOBS_TAG, 2, "y1", "", ""));
            lab.wait(Duration::from_secs(120));
            lab.take();
        }
        let branch = format!("p-{}", other.len());
        assert_eq!(publish(&mut lab, &branch, &published(other)), published(other));
    }
}

#[test]
fn an_attended_transfer_names_the_party_and_not_its_token() {
    let mut lab = Lab::default();
    registered(&mut lab, "alice", ALICE);
    let bob = answered(&mut lab);
    // She asks Carol, in a call of her own, and then sends Bob there.
    let second = |text: String| text.replace("call-1", "call-2").replace("bob@", "carol@");
    let invite = from_alice("INVITE", ADDRESS_OF_BOB, "<sip:bob@example.test>", 1, "j1", "", &sdp(PRIVATE, 4100));
    let request = only(&lab.access(ALICE, &second(invite)), "INVITE").clone();
    let sent = lab.core(&answer(&request, "200 OK", "c1", &ROUTE.replace("bob@", "carol@"), &sdp("10.9.0.31", 6000)));
    let carol = only(&sent, "200").contact();
    let token = carol.split([':', '@']).nth(1).unwrap();
    let replaces = "Replaces=call-2%3Bto-tag%3Dc1%3Bfrom-tag%3Da1";
    for (n, refer_to, expected) in [
        (2, format!("<{carol}?{replaces}>;x=y"), format!("<sip:carol@example.test?{replaces}>;x=y")),
        (3, carol.clone(), "<sip:carol@example.test>".to_owned()),
        (4, "<sip:dave@example.test>".to_owned(), "<sip:dave@example.test>".to_owned()),
    ] {
        let more = format!("Refer-To: {refer_to}");
        let sent = lab.access(ALICE, &from_alice("REFER", &bob.bob, BOBS_TAG, n, &format!("r{n}"), &more, ""));
        let refer = only(&sent, "REFER");
        assert_eq!(refer.header(Name::ReferTo), expected);
        assert!(!refer.text.contains(token), "{}", refer.text);
    }
    // One that the core has for her is hers.
    let more = format!("Refer-To: <{}>", bob.alice);
    let refer = lab.core(&from_core("REFER", &bob.alice, 7, "r7", &more, ""));
    assert_eq!(only(&refer, "REFER").header(Name::ReferTo), "<sip:alice@example.test>");
    // With that of another network, nobody is named.
    let more = format!("Refer-To: <{}>", bob.alice.replace(OWN_CORE, OWN_ACCESS));
    let refer = lab.access(ALICE, &from_alice("REFER", &bob.bob, BOBS_TAG, 8, "r8", &more, ""));
    assert!(only(&refer, "REFER").header(Name::ReferTo).contains("unnamed-party@"));
}

#[test]
fn the_softswitch_is_told_where_a_request_came_from_and_by_nobody_else() {
    let mut config = config();
    config.sip.source_header = Some("X-Source".into());
    let mut lab = Lab::new(config);
    let sources = |sent: &Sent| {
        let lines = sent.text.split("\r\n\r\n").next().unwrap().lines();
        lines.filter(|line| line.to_ascii_lowercase().starts_with("x-source")).map(str::to_owned).collect::<Vec<_>>()
    };
    // A terminal that claims to be elsewhere.
    let claims = "X-SOURCE: 192.0.2.20:5060\nx-source : 192.0.2.1:1";
    let sent = lab.access(ALICE, &register("alice", 1, &contact("alice"), claims));
    assert_eq!(sources(only(&sent, "REGISTER")), [format!("X-Source: {ALICE}")]);
    let call = answered(&mut lab);
    assert_eq!(sources(&call.invite), [format!("X-Source: {ALICE}")]);
    let sent = lab.access(ALICE, &from_alice("INFO", &call.bob, BOBS_TAG, 2, "i2", claims, ""));
    assert_eq!(sources(only(&sent, "INFO")), [format!("X-Source: {ALICE}")]);
    // What comes from the softswitch passes.
    let sent = lab.core(&from_core("INFO", &call.alice, 7, "i7", "X-Source: some-host", ""));
    assert_eq!(sources(only(&sent, "INFO")), ["X-Source: some-host"]);
    // And without the setting, so does all.
    let sent = Lab::default().access(ALICE, &register("alice", 1, &contact("alice"), "X-Source: a"));
    assert_eq!(sources(only(&sent, "REGISTER")), ["X-Source: a"]);
}
