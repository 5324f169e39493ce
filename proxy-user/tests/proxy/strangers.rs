//! What strangers can make the proxy send, and use up: no more than their share, whatever they send.

use crate::{calls::*, lab::*, registrations::*};
use proxy_user::{
    config::{Config, Strangers},
    flow::{ConnectionId, Flow, Transport},
    signalling::sip::Message,
};
use std::time::Duration;

const BOB_URI: &str = "sip:bob@example.test";
const BOB: &str = "<sip:bob@example.test>";
/// Whose address a stranger puts into his packets.
const VICTIM: &str = "203.0.113.77:5060";
const CHALLENGE: &str =
    "WWW-Authenticate: Digest realm=\"example.test\", nonce=\"abcdef0123456789abcdef0123456789\", qop=\"auth\"\n";

/// All bytes that were sent to the victim since the last look.
fn bytes_to_victim(sent: &[Sent]) -> usize {
    sent.iter().filter(|sent| sent.destination.to_string() == VICTIM).map(|sent| sent.text.len()).sum()
}

fn invite(branch: &str, more: &str) -> String {
    from_alice("INVITE", BOB_URI, BOB, 1, branch, more, &sdp(PRIVATE, 4000))
}

#[test]
fn a_forged_source_gets_no_more_than_three_times_what_bears_its_name() {
    let vias = |via: &str, count: usize| format!("Via: {}", vec![via; count].join(","));
    let storm = invite("v1", "").replacen(
        "Max-Forwards",
        &format!("{}\nMax-Forwards", vias("a", 500)).replace('\n', "\r\n"),
        1,
    );
    let proper =
        invite("v2", "").replacen("Max-Forwards", &format!("{}\r\nMax-Forwards", vias("SIP/2.0/UDP h", 60)), 1);
    for (case, text, answered) in [
        ("a challenged INVITE", invite("i1", ""), Some(("407 Proxy Authentication Required", CHALLENGE.to_owned()))),
        ("an INVITE that is answered", invite("i2", ""), Some(("200 OK", ROUTE.to_owned()))),
        ("an INVITE that nobody answers", invite("i3", ""), None),
        ("lower Vias that are none", storm, None),
        ("many Vias", proper, Some(("407 Proxy Authentication Required", CHALLENGE.to_owned()))),
        ("a question to Latch", from_alice("OPTIONS", "sip:203.0.113.10", "<sip:203.0.113.10>", 1, "o1", "", ""), None),
        ("what lacks its Call-ID", invite("i4", "").replace("Call-ID", "X-Call-ID"), None),
        (
            "a request with a large answer",
            from_alice("MESSAGE", BOB_URI, BOB, 1, "m1", "", ""),
            Some(("200 OK", format!("X-Large: {}\n", "x".repeat(1_200)))),
        ),
        ("no header at all", "INVITE sip:a SIP/2.0\r\n\r\n".into(), None),
    ] {
        let mut lab = Lab::default();
        let (mut came, mut went) = (0, 0);
        // The attacker goes on, with the same and with other requests.
        for round in 0..4 {
            let text = text.replace("Call-ID: call-1", &format!("Call-ID: call-{}", round / 2));
            let sent = lab.access(VICTIM, &text);
            came += text.len();
            went += bytes_to_victim(&sent);
            let forwarded = sent.iter().find(|sent| sent.realm == CORE && sent.kind() != "ACK").cloned();
            if let (Some(request), Some((status, more))) = (forwarded, &answered) {
                let body = if status.starts_with('2') { sdp("10.9.0.30", 6000) } else { String::new() };
                let answer = answer(&request, status, &format!("b{round}"), more, &body);
                // A callee repeats its 2xx until the ACK comes.
                for _ in 0..8 {
                    went += bytes_to_victim(&lab.core(&answer));
                    lab.wait(Duration::from_secs(4));
                    went += bytes_to_victim(&lab.take());
                }
            }
            lab.wait(Duration::from_secs(40));
            went += bytes_to_victim(&lab.take());
            assert!(went <= 3 * came, "{case}: {came} bytes came, {went} went");
        }
        assert!(went > 0 || case == "no header at all", "{case}: nothing was tried");
    }
}

#[test]
fn a_refusal_is_repeated_to_who_has_shown_that_it_gets_there() {
    let challenge = format!("{}\nX-Large: {}\n", CHALLENGE.trim_end(), "x".repeat(900));
    let challenged = |acknowledges: Option<&str>| {
        let mut lab = Lab::default();
        let sent = lab.access(VICTIM, &invite("i1", ""));
        let request = only(&sent, "INVITE").clone();
        let sent = lab.core(&answer(&request, "407 Proxy Authentication Required", "b1", &challenge, ""));
        assert_eq!(kinds(&sent), ["core ACK", "access 407"], "the first goes out");
        if let Some(tag) = acknowledges {
            lab.access(VICTIM, &from_alice("ACK", BOB_URI, &format!("{BOB};tag={tag}"), 1, "i1", "", ""));
        }
        // Another request, whose refusal nobody acknowledges.
        let other = invite("i2", "").replace("call-1", "call-2");
        let request = only(&lab.access(VICTIM, &other), "INVITE").clone();
        lab.core(&answer(&request, "407 Proxy Authentication Required", "b2", &challenge, ""));
        lab.wait(Duration::from_secs(32));
        lab.take().iter().filter(|sent| sent.kind() == "407").count()
    };
    assert!(challenged(None) < 10, "not all of them");
    assert!(challenged(Some("guessed")) < 10, "who does not know the tag was not sent it");
    assert_eq!(challenged(Some("b1")), 10, "timer G");
}

#[test]
fn a_registered_terminal_and_a_connection_get_all() {
    let large = format!("X-Large: {}\n", "x".repeat(20_000));
    let mut lab = Lab::default();
    registered(&mut lab, "alice", ALICE);
    let connection = Flow { connection: Some(ConnectionId(7)), ..Flow::to(Transport::Tcp, VICTIM.parse().unwrap()) };
    let text = from_alice("MESSAGE", BOB_URI, BOB, 1, "m1", "", "");
    let request = only(&lab.access(ALICE, &text), "MESSAGE").clone();
    assert_eq!(kinds(&lab.core(&answer(&request, "200 OK", "b1", &large, ""))), ["access 200"]);
    let sent = lab.over(ACCESS, connection, &text.replace("SIP/2.0/UDP", "SIP/2.0/TCP").replace("call-1", "call-2"));
    let request = only(&sent, "MESSAGE").clone();
    assert_eq!(kinds(&lab.core(&answer(&request, "200 OK", "b1", &large, ""))), ["access 200"]);
    // And a stranger does not.
    let request = only(&lab.access(VICTIM, &text.replace("call-1", "call-3")), "MESSAGE").clone();
    assert!(lab.core(&answer(&request, "200 OK", "b1", &large, "")).is_empty());
    assert_eq!(lab.proxy.statistics().withheld, 1);
}

#[test]
fn who_was_in_an_answered_call_is_told_of_its_end_whenever_that_is() {
    let mut lab = Lab::default();
    let call = answered(&mut lab);
    lab.wait(Duration::from_secs(3_000));
    lab.take();
    let sent = lab.core(&from_core("BYE", &call.alice, 7, "y7", "", ""));
    assert_eq!(only(&sent, "BYE").destination.to_string(), ALICE);
    let mut repeated = 0;
    for _ in 0..30 {
        lab.wait(Duration::from_secs(1));
        repeated += lab.take().iter().filter(|sent| sent.kind() == "BYE").count();
    }
    assert!(repeated >= 8, "timer E: {repeated}");
}

#[test]
fn vias_that_are_none_or_too_many_are_refused_and_not_repeated() {
    for (case, vias, code, repeated) in [
        ("one that is none", "SIP/2.0/UDP h;branch=z9hG4bKh,a,a,a", "400", 2),
        ("in lines of their own", "SIP/2.0/UDP h\r\nVia: a\r\nVia: SIP/2.0/UDP g", "400", 2),
        ("as many as may be", &["SIP/2.0/UDP h"; 69].join(","), "100", 70),
        ("one more", &["SIP/2.0/UDP h"; 70].join(","), "400", 70),
    ] {
        let mut lab = Lab::default();
        registered(&mut lab, "alice", ALICE);
        let text = invite("i1", "").replacen("Max-Forwards", &format!("Via: {vias}\r\nMax-Forwards"), 1);
        let sent = lab.access(ALICE, &text);
        let response = only(&sent, code);
        let count = Message::parse(response.text.as_bytes()).unwrap().vias().filter(Result::is_ok).count();
        assert_eq!(count, repeated, "{case}: {}", response.text);
        assert_eq!(response.message().vias().count(), repeated, "{case}: {}", response.text);
    }
}

#[test]
fn a_flood_of_strangers_leaves_the_registered_their_service() {
    let mut lab = Lab::default();
    let contact = registered(&mut lab, "alice", ALICE);
    let text = from_alice("OPTIONS", BOB_URI, BOB, 1, "f1", "", "");
    for number in 0..30_000u32 {
        let [_, a, b, c] = number.to_be_bytes();
        // Every third from one host, the others from everywhere.
        let source = if number % 3 == 0 { VICTIM.into() } else { format!("198.{}.{b}.{c}:5060", 18 + a) };
        let text = text.replace("call-1", &format!("flood-{number}"));
        lab.access(&source, &text);
        if number % 30 == 0 {
            lab.wait(Duration::from_millis(1));
        }
    }
    let dropped = lab.proxy.statistics().strangers_dropped;
    // 2,000 at once and 2,000 a second.
    assert!((25_950..=26_050).contains(&dropped), "{dropped} were dropped unread");
    // Who is known notices nothing: a call, a registration, and what the softswitch has for it.
    let sent = lab.access(ALICE, &invite("i1", ""));
    assert_eq!(kinds(&sent), ["access 100", "core INVITE"]);
    let sent = lab.access(ALICE, &register("alice", 2, &crate::registrations::contact("alice"), ""));
    assert_eq!(kinds(&sent), ["core REGISTER"]);
    let sent = lab.core(&outside("MESSAGE", &contact, "m9", "", ""));
    assert_eq!(kinds(&sent), ["access MESSAGE"]);
}

/// A realm of 100 pairs of ports and room for few dialogs.
fn scarce() -> Config {
    let mut config = config();
    config.limits.max_calls = 40;
    config.limits.max_transactions = 400;
    config.strangers = Strangers { percent: 50, network_percent: 50, source_percent: 40, ..Strangers::default() };
    config
}

/// An INVITE of a stranger with so many streams, number `n`.
fn offer_of(n: usize, streams: usize) -> String {
    let media: String = (0..streams).map(|stream| format!("m=audio {} RTP/AVP 0\n", 4000 + 2 * stream)).collect();
    from_alice("INVITE", BOB_URI, BOB, 1, &format!("i{n}"), "", &sdp_of(PRIVATE, &media))
        .replace("call-1", &format!("stranger-{n}"))
}

#[test]
fn what_strangers_hold_is_bounded_by_where_they_are_and_the_registered_have_the_rest() {
    // 60 dialogs, 200 transactions and 50 pairs of ports are for strangers: 24, 80 and 20 of them for one source.
    // A refused INVITE holds its two transactions as well.
    let from_network = |n: usize| format!("203.0.113.{}:5060", 1 + n % 200);
    let from_anywhere = |n: usize| format!("198.18.{}.7:5060", n % 200);
    for (case, source, streams, pairs) in [
        ("one source", Box::new(|_| VICTIM.to_owned()) as Box<dyn Fn(usize) -> String>, 1, 20),
        ("one network", Box::new(from_network), 1, 25),
        ("everywhere", Box::new(from_anywhere), 1, 40),
        ("one source, many streams", Box::new(|_| VICTIM.to_owned()), 8, 16),
    ] {
        let mut lab = Lab::new(scarce());
        registered(&mut lab, "alice", ALICE);
        for n in 0..120 {
            lab.access(&source(n), &offer_of(n, streams));
        }
        // One pair in each realm; calls are 40 at most.
        assert_eq!(lab.proxy.load().port_pairs, 2 * pairs, "{case}");
        assert!(lab.proxy.statistics().limited > 0, "{case}");
        if lab.proxy.load().calls < 40 {
            assert_eq!(kinds(&lab.access(ALICE, &invite("mine", ""))), ["access 100", "core INVITE"], "{case}");
        }
        let renewed = register("alice", 2, &crate::registrations::contact("alice"), "");
        assert_eq!(kinds(&lab.access(ALICE, &renewed)), ["core REGISTER"], "{case}");
        lab.wait(Duration::from_secs(300));
        assert_eq!(lab.proxy.load().port_pairs, 0, "{case}");
    }
}

#[test]
fn stray_requests_leave_transactions_to_the_registered() {
    let mut lab = Lab::new(scarce());
    registered(&mut lab, "alice", ALICE);
    // Its first REGISTER was a stranger's: its transactions end.
    lab.wait(Duration::from_secs(33));
    lab.take();
    let mut refused = 0;
    for n in 0..1_000 {
        let text =
            from_alice("MESSAGE", BOB_URI, BOB, 1, &format!("m{n}"), "", "").replace("call-1", &format!("s-{n}"));
        let source = format!("198.18.{}.7:5060", n % 200);
        refused += lab.access(&source, &text).iter().filter(|sent| sent.kind() == "503").count();
    }
    // Half of all for strangers, two for each request.
    assert_eq!((refused, lab.proxy.load().transactions), (900, 200));
    assert_eq!(kinds(&lab.access(ALICE, &invite("mine", ""))), ["access 100", "core INVITE"]);
}

#[test]
fn a_call_that_is_answered_burdens_strangers_no_more() {
    let mut config = scarce();
    config.strangers.percent = 1;
    config.limits.max_transactions = 4_000;
    let mut lab = Lab::new(config);
    // One pair for strangers: it is the call's until that is answered.
    let sent = lab.access(VICTIM, &offer_of(1, 1));
    let first = only(&sent, "INVITE").clone();
    assert_eq!(kinds(&lab.access("198.18.1.7:5060", &offer_of(2, 1))), ["access 503"]);
    lab.core(&answer(&first, "200 OK", "b1", ROUTE, &sdp("10.9.0.30", 6000)));
    lab.wait(Duration::from_secs(33));
    lab.take();
    let sent = lab.access("198.18.1.7:5060", &offer_of(3, 1));
    assert_eq!(kinds(&sent), ["access 100", "core INVITE"]);
}

#[test]
fn ports_that_no_answer_opened_do_not_rest() {
    let mut lab = Lab::default();
    let sent = lab.access(ALICE, &offer_of(1, 3));
    let request = only(&sent, "INVITE").clone();
    assert_eq!((lab.proxy.load().port_pairs, lab.proxy.load().resting_port_pairs), (6, 0));
    lab.core(&answer(&request, "407 Proxy Authentication Required", "b1", CHALLENGE, ""));
    assert_eq!((lab.proxy.load().port_pairs, lab.proxy.load().resting_port_pairs), (0, 0));
    // Those of a call do: its late packets are not to reach another one.
    let call = answered(&mut lab);
    let sent = lab.access(ALICE, &from_alice("BYE", &call.bob, BOBS_TAG, 2, "y2", "", ""));
    lab.core(&answer(only(&sent, "BYE"), "200 OK", "", "", ""));
    assert_eq!((lab.proxy.load().port_pairs, lab.proxy.load().resting_port_pairs), (0, 2));
}

#[test]
fn what_the_softswitch_refuses_is_counted_by_whether_it_was_a_guess() {
    let credentials =
        "Authorization: Digest username=\"alice\", realm=\"a\", nonce=\"n\", uri=\"sip:a\", response=\"0\"";
    let stale = "WWW-Authenticate: Digest realm=\"a\", nonce=\"m\", stale=TRUE\n";
    for (case, status, request, challenge, expected) in [
        ("a challenge", "401 Unauthorized", "", CHALLENGE, (1, 0)),
        ("a wrong password", "401 Unauthorized", credentials, CHALLENGE, (0, 1)),
        ("a nonce that was too old", "401 Unauthorized", credentials, stale, (1, 0)),
        ("forbidden", "403 Forbidden", "", "", (0, 1)),
        ("of a proxy", "407 Proxy Authentication Required", credentials, CHALLENGE, (1, 0)),
        ("another refusal", "486 Busy Here", credentials, "", (0, 0)),
    ] {
        let mut lab = Lab::default();
        let sent = lab.access(ALICE, &register("alice", 1, &crate::registrations::contact("alice"), request));
        let request = only(&sent, "REGISTER").clone();
        lab.core(&answer(&request, status, "r1", challenge, ""));
        let counted = lab.proxy.statistics();
        assert_eq!((counted.challenges, counted.credentials_refused), expected, "{case}");
    }
}
