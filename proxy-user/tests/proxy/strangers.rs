//! What strangers can make the proxy send, and use up: at most their share, whatever they send.

use crate::{calls::*, lab::*, registrations::*};
use proxy_user::{
    config::{Config, Strangers},
    engine::EarlierStreams,
    flow::{ConnectionId, Flow, Transport},
    signalling::sip::{Message, Name},
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
fn a_tag_that_a_stranger_chose_itself_proves_nothing() {
    let mut lab = Lab::default();
    let (mut came, mut went) = (0, 0);
    // As if it were in a dialog; then as if the refusal had arrived; then what nobody acknowledges.
    let requests = [("INVITE", 0), ("ACK", 0)].into_iter().chain((1..20).map(|n| ("INVITE", n)));
    for (method, n) in requests {
        let text = from_alice(method, BOB_URI, &format!("{BOB};tag=mine"), 1, &format!("f{n}"), "", "");
        let text = text.replace(&sip(LIKE_A_PHONE).replace("Content-Length: 0\r\n\r\n", ""), "");
        came += text.len();
        went += bytes_to_victim(&lab.access(VICTIM, &text));
    }
    lab.wait(Duration::from_secs(40));
    went += bytes_to_victim(&lab.take());
    assert!(went <= 3 * came && went > 0, "{came} bytes came, {went} went");
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
fn the_filter_of_the_socket_knows_whoever_is_registered_or_in_an_answered_call() {
    let mut config = config();
    config.limits.max_calls = 1;
    let known = |lab: &Lab| lab.known.iter().map(|(_, remote)| remote.to_string()).collect::<Vec<_>>();
    let mut lab = Lab::new(config);
    let call = answered(&mut lab);
    assert_eq!(known(&lab), [ALICE], "a party of an answered call");
    // It registers there as well, and is known for both reasons.
    registered(&mut lab, "alice", ALICE);
    assert_eq!(known(&lab), [ALICE]);
    let leave = format!("Contact: <sip:alice@{PRIVATE}:5060;ob>;expires=0");
    let request = only(&lab.access(ALICE, &register("alice", 2, &leave, "")), "REGISTER").clone();
    lab.core(&answer(&request, "200 OK", "r", "", ""));
    assert_eq!(known(&lab), [ALICE], "its call goes on");
    lab.access(ALICE, &from_alice("BYE", &call.bob, BOBS_TAG, 2, "y1", "", ""));
    // There is room for one party: that of a later call takes it once the first was silent for an hour.
    lab.wait(Duration::from_secs(3_700));
    lab.take();
    registered(&mut lab, "bob", crate::lab::BOB);
    let second = offer_of(2, 1);
    let request = only(&lab.access("198.18.1.7:5060", &second), "INVITE").clone();
    let sent = lab.core(&answer(&request, "200 OK", "b2", ROUTE, &sdp("10.9.0.30", 6000)));
    let ack = from_alice("ACK", &sent[0].contact(), &format!("{BOB};tag=b2"), 1, "k2", "", "");
    lab.access("198.18.1.7:5060", &ack.replace("call-1", "stranger-2"));
    assert_eq!(known(&lab), ["198.18.1.7:5060", crate::lab::BOB]);
    // A terminal moves, and is known where it is now.
    let moved = register("bob", 2, &contact("bob"), "");
    let request = only(&lab.access("198.51.100.2:41000", &moved), "REGISTER").clone();
    let bound = format!("Contact: {};expires=600\n", request.header(Name::Contact));
    lab.core(&answer(&request, "200 OK", "r", &bound, ""));
    assert_eq!(known(&lab), ["198.18.1.7:5060", "198.51.100.2:41000"]);
}

#[test]
fn a_restart_makes_nobody_known_who_has_not_shown_where_it_is() {
    for acknowledges in [false, true] {
        let mut lab = Lab::default();
        let request = only(&lab.access(VICTIM, &invite("i1", "")), "INVITE").clone();
        let sent = lab.core(&answer(&request, "200 OK", "b1", ROUTE, &sdp("10.9.0.30", 6000)));
        if acknowledges {
            // One that ignores Contact.
            lab.access(VICTIM, &from_alice("ACK", BOB_URI, BOBS_TAG, 1, "k1", "", ""));
        }
        assert_eq!(kinds(&sent), ["access 200"]);
        lab.restart(EarlierStreams::Kept);
        assert_eq!(lab.known.len(), usize::from(acknowledges), "{acknowledges}: {:?}", lab.known);
    }
}

/// A party that says, with its token and its accomplice's consent, that it is where somebody else is.
#[test]
fn a_party_proves_no_address_by_a_token_that_it_was_shown_elsewhere() {
    for answers in [false, true] {
        let mut lab = Lab::default();
        let call = answered(&mut lab);
        let text = from_alice("INFO", &call.bob, BOBS_TAG, 2, "i2", "", "");
        let mut came = text.len();
        let sent = lab.access(VICTIM, &text);
        let mut went = bytes_to_victim(&sent);
        went += bytes_to_victim(&lab.core(&answer(only(&sent, "INFO"), "200 OK", "", "", "")));
        // It has the accomplice's requests sent there, with all their repetitions, ...
        let mut reached = 0;
        for cseq in 10..30 {
            // ... and says once more that it is there.
            let ack = from_alice("ACK", &call.bob, BOBS_TAG, 1, &format!("k{cseq}"), "", "");
            if cseq == 20 {
                came += ack.len();
                went += bytes_to_victim(&lab.access(VICTIM, &ack));
            }
            let long = format!("X-Long: {}", "x".repeat(900));
            let sent = lab.core(&from_core("INFO", &call.alice, cseq, &format!("n{cseq}"), &long, ""));
            went += bytes_to_victim(&sent);
            let info = sent.iter().find(|sent| sent.kind() == "INFO").cloned();
            reached += usize::from(info.is_some());
            if let Some(info) = info.filter(|_| answers) {
                // Who is there after all, and gets what is sent there, answers.
                lab.access(VICTIM, &answer(&info, "200 OK", "", "", ""));
            }
            lab.wait(Duration::from_secs(1));
            went += bytes_to_victim(&lab.take());
        }
        if answers {
            assert_eq!(reached, 20);
        } else {
            assert!(went <= 3 * came, "{came} bytes came, {went} went");
            assert!(reached > 0);
        }
    }
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
    // The known notice nothing: a call, a registration, and what the softswitch has for it.
    let sent = lab.access(ALICE, &invite("i1", ""));
    assert_eq!(kinds(&sent), ["access 100", "core INVITE"]);
    let sent = lab.access(ALICE, &register("alice", 2, &crate::registrations::contact("alice"), ""));
    assert_eq!(kinds(&sent), ["core REGISTER"]);
    let sent = lab.core(&outside("MESSAGE", &contact, "m9", "", ""));
    assert_eq!(kinds(&sent), ["access MESSAGE"]);
}

/// A realm of 100 pairs of ports and room for few dialogs.
pub(crate) fn scarce() -> Config {
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
    // 100 calls, 200 transactions and 50 pairs of ports are for strangers: 40, 80 and 20 of them for one source.
    // A refused INVITE holds its two transactions as well.
    let mut config = scarce();
    config.limits.max_calls = 200;
    let from_network = |n: usize| format!("203.0.113.{}:5060", 1 + n % 200);
    let from_anywhere = |n: usize| format!("198.18.{}.7:5060", n % 200);
    for (case, source, streams, pairs) in [
        ("one source", Box::new(|_| VICTIM.to_owned()) as Box<dyn Fn(usize) -> String>, 1, 20),
        ("one network", Box::new(from_network), 1, 25),
        ("everywhere", Box::new(from_anywhere), 1, 50),
        ("one source, many streams", Box::new(|_| VICTIM.to_owned()), 8, 16),
    ] {
        let mut lab = Lab::new(config.clone());
        registered(&mut lab, "alice", ALICE);
        for n in 0..120 {
            lab.access(&source(n), &offer_of(n, streams));
        }
        // One pair in each realm.
        assert_eq!(lab.load().port_pairs, 2 * pairs, "{case}");
        assert!(lab.proxy.statistics().limited > 0, "{case}");
        assert_eq!(kinds(&lab.access(ALICE, &invite("mine", ""))), ["access 100", "core INVITE"], "{case}");
        let renewed = register("alice", 2, &crate::registrations::contact("alice"), "");
        assert_eq!(kinds(&lab.access(ALICE, &renewed)), ["core REGISTER"], "{case}");
        lab.wait(Duration::from_secs(300));
        assert_eq!(lab.load().port_pairs, 0, "{case}");
    }
}

#[test]
fn calls_and_subscriptions_of_strangers_leave_room_for_the_registered() {
    // All dialogs that there may be, three times `max_calls`, would be more than all calls.
    for percent in [25, 50, 80] {
        let mut config = scarce();
        config.limits.max_transactions = 4_000;
        config.strangers = Strangers { percent, network_percent: 100, source_percent: 100, ..Strangers::default() };
        let mut lab = Lab::new(config);
        registered(&mut lab, "alice", ALICE);
        let from_anywhere = |n: usize| format!("198.18.{}.7:5060", n % 200);
        for n in 0..120 {
            lab.access(&from_anywhere(n), &offer_of(n, 1));
        }
        let share = 40 * percent as usize / 100;
        assert_eq!(lab.load().calls, share, "{percent}");
        assert_eq!(kinds(&lab.access(ALICE, &invite("mine", ""))), ["access 100", "core INVITE"], "{percent}");
        let subscribe = |n: usize| {
            let text = from_alice("SUBSCRIBE", BOB_URI, BOB, 1, &format!("s{n}"), "Event: dialog\n", "");
            text.replace("call-1", &format!("subscription-{n}"))
        };
        let sent: Vec<_> = (0..120).flat_map(|n| lab.access(&from_anywhere(n), &subscribe(n))).collect();
        assert_eq!(sent.iter().filter(|sent| sent.kind() == "SUBSCRIBE").count(), share, "{percent}");
        assert_eq!(kinds(&lab.access(ALICE, &subscribe(500))), ["core SUBSCRIBE"], "{percent}");
        // Calls that were challenged are none, but their dialogs are kept for a while.
        lab.wait(Duration::from_secs(300));
        lab.take();
        for n in 200..320 {
            let sent = lab.access(&from_anywhere(n), &offer_of(n, 1));
            let Some(request) = sent.iter().find(|sent| sent.kind() == "INVITE") else { continue };
            lab.core(&answer(request, "407 Proxy Authentication Required", "b1", CHALLENGE, ""));
        }
        let again = invite("again", "").replace("call-1", "call-2");
        assert_eq!(kinds(&lab.access(ALICE, &again)), ["access 100", "core INVITE"], "{percent}");
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
    assert_eq!((refused, lab.load().transactions), (900, 200));
    assert_eq!(kinds(&lab.access(ALICE, &invite("mine", ""))), ["access 100", "core INVITE"]);
}

/// Over a connection a request is forgotten once it is answered; as what it went on, it is kept a while.
#[test]
fn strangers_have_their_share_over_connections_too() {
    let mut config = scarce();
    config.realms.get_mut(ACCESS).unwrap().streams.tcp = Some(5060);
    config.strangers = Strangers { percent: 50, network_percent: 100, source_percent: 100, ..Strangers::default() };
    for method in ["MESSAGE", "INVITE"] {
        let mut lab = Lab::new(config.clone());
        registered(&mut lab, "alice", ALICE);
        lab.wait(Duration::from_secs(33));
        lab.take();
        let flow = Flow { connection: Some(ConnectionId(7)), ..Flow::to(Transport::Tcp, VICTIM.parse().unwrap()) };
        let mut refused = 0;
        for n in 0..500 {
            let text = |method: &str, to: &str| {
                let text = from_alice(method, BOB_URI, to, 1, &format!("m{n}"), "", "");
                text.replace("call-1", &format!("s-{n}")).replace("SIP/2.0/UDP", "SIP/2.0/TCP")
            };
            let sent = lab.over(ACCESS, flow, &text(method, BOB));
            let Some(request) = sent.iter().find(|sent| sent.realm == CORE).cloned() else {
                refused += 1;
                continue;
            };
            let status = if method == "INVITE" { "407 Proxy Authentication Required" } else { "200 OK" };
            lab.core(&answer(&request, status, "b1", "", ""));
            if method == "INVITE" {
                lab.over(ACCESS, flow, &text("ACK", &format!("{BOB};tag=b1")));
            }
            lab.wait(Duration::ZERO);
            lab.take();
        }
        assert!(refused > 0 && lab.load().transactions <= 200, "{method}: {refused}, {:?}", lab.load());
        assert_eq!(kinds(&lab.access(ALICE, &invite("mine", ""))), ["access 100", "core INVITE"], "{method}");
        lab.wait(Duration::from_secs(60));
        assert_eq!(lab.load().transactions, 1, "{method}: hers rings");
    }
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
    assert_eq!((lab.load().port_pairs, lab.load().resting_port_pairs), (6, 0));
    lab.core(&answer(&request, "407 Proxy Authentication Required", "b1", CHALLENGE, ""));
    assert_eq!((lab.load().port_pairs, lab.load().resting_port_pairs), (0, 0));
    // Those of a call do: its late packets are not to reach another one.
    let call = answered(&mut lab);
    let sent = lab.access(ALICE, &from_alice("BYE", &call.bob, BOBS_TAG, 2, "y2", "", ""));
    lab.core(&answer(only(&sent, "BYE"), "200 OK", "", "", ""));
    assert_eq!((lab.load().port_pairs, lab.load().resting_port_pairs), (0, 2));
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

/// The headers by which the softswitch's answers are as long as real ones.
const LIKE_A_SOFTSWITCH: &str = "Record-Route: <sip:10.9.0.20;lr>
Contact: <sip:bob@10.9.0.30:5060>
Allow: INVITE, ACK, CANCEL, OPTIONS, BYE, REFER, NOTIFY, MESSAGE, SUBSCRIBE, INFO, UPDATE, PRACK
Supported: replaces, timer, path, 100rel, outbound
User-Agent: Media Gateway 12.4.1 (build 20260114)
Session-Expires: 1800;refresher=uas
";

/// A description as long as that of a real phone.
fn long_sdp(address: &str) -> String {
    let codecs = [(8, "PCMA/8000"), (0, "PCMU/8000"), (9, "G722/8000"), (18, "G729/8000"), (96, "opus/48000/2")];
    let numbers: String = codecs.iter().map(|(number, _)| format!(" {number}")).collect();
    let maps: String = codecs.iter().map(|(number, name)| format!("a=rtpmap:{number} {name}\n")).collect();
    let more = "a=fmtp:18 annexb=no\na=fmtp:96 useinbandfec=1;minptime=10;maxaveragebitrate=40000\n
a=rtpmap:101 telephone-event/8000\na=fmtp:101 0-16\na=ptime:20\na=maxptime:40\na=sendrecv\na=ssrc:3735928559 cname:bob\n"
        .replace("\n\n", "\n");
    sdp_of(address, &format!("m=audio 6000 RTP/AVP{numbers} 101\n{maps}{more}"))
}

/// Calls as a phone does that is not registered: it repeats its INVITE until something comes back (RFC 3261 §17.1.1.2).
/// The softswitch answers at the given times, in milliseconds, and repeats its 200. Returns the statuses that the phone
/// has heard, each once, the bytes that it sent and those that it got.
fn call_from_nowhere(invite: &str, answers: &[(u64, &str)]) -> (Vec<String>, usize, usize) {
    let mut lab = Lab::default();
    let (mut heard, mut came, mut went): (Vec<String>, _, _) = (Vec::new(), 0, 0);
    let mut repeats = [0, 500, 1_500, 3_500, 7_500, 15_500, 31_500].into_iter().peekable();
    let mut request = None;
    let last = answers.last().map_or(0, |(at, _)| *at);
    let mut from_core: Vec<(u64, &str)> = answers.to_vec();
    from_core.extend([500, 1_500, 3_500, 7_500].map(|after| (last + after, "200 OK")));
    let mut from_core = from_core.into_iter().peekable();
    for at in (0..=last + 8_000).step_by(10) {
        let mut sent = lab.take();
        if repeats.next_if(|due| *due <= at).is_some() && heard.is_empty() {
            came += invite.len();
            sent.extend(lab.access(VICTIM, invite));
        }
        if let Some((_, status)) = from_core.next_if(|(due, _)| *due <= at) {
            let body = if status.starts_with('2') { long_sdp("10.9.0.30") } else { String::new() };
            let request = request.as_ref().expect("the INVITE came there");
            sent.extend(lab.core(&answer(request, status, "b1", LIKE_A_SOFTSWITCH, &body)));
        }
        for sent in sent {
            if sent.kind() == "INVITE" {
                request = Some(sent);
            } else if sent.realm == ACCESS {
                went += sent.text.len();
                assert!(went <= 3 * came, "{came} bytes came, {went} went");
                heard.push(sent.kind());
            }
        }
        lab.wait(Duration::from_millis(10));
    }
    heard.dedup();
    (heard, came, went)
}

#[test]
fn a_caller_that_is_not_registered_has_its_final_response() {
    let without_offer = from_alice("INVITE", BOB_URI, BOB, 1, "u1", "", "");
    let lines = without_offer.lines().filter(|line| !line.is_empty() && !line.starts_with("A"));
    let short = lines.collect::<Vec<_>>().join("\r\n") + "\r\n\r\n";
    let with_offer = from_alice("INVITE", BOB_URI, BOB, 1, "u1", "", &long_sdp(PRIVATE));
    for (size, text) in [("short", short), ("without an offer", without_offer), ("with an offer", with_offer)] {
        for (case, answers) in [
            ("it rings, then somebody answers", &[(150, "180 Ringing"), (1_000, "180 Ringing"), (3_000, "200 OK")][..]),
            ("all at once", &[(10, "180 Ringing"), (20, "180 Ringing"), (30, "200 OK")]),
            ("answered without ringing", &[(300, "200 OK")]),
            ("it rings for a minute", &[(800, "180 Ringing"), (20_000, "180 Ringing"), (60_000, "200 OK")]),
            (
                "each terminal of many rings",
                &[
                    (100, "180 Ringing"),
                    (600, "180 Ringing"),
                    (700, "180 Ringing"),
                    (800, "180 Ringing"),
                    (900, "180 Ringing"),
                    (5_000, "200 OK"),
                ],
            ),
        ] {
            let (heard, came, went) = call_from_nowhere(&text, answers);
            assert_eq!(heard.last().map(String::as_str), Some("200"), "{size}, {case}: {came} came, {went} went");
            // A caller that gets nothing within 32 s gives up (timer B), and it wants to know that it rings.
            let rings_long = answers.last().is_some_and(|(at, _)| *at > 1_000) && answers.len() > 1;
            assert!(!rings_long || heard.contains(&"180".to_owned()), "{size}, {case}: {heard:?}");
        }
    }
}

#[test]
fn a_2xx_for_which_there_is_no_credit_goes_out_when_the_invite_is_repeated() {
    let mut lab = Lab::default();
    let text = from_alice("INVITE", BOB_URI, BOB, 1, "u1", "", "");
    let sent = lab.access(VICTIM, &text);
    assert_eq!(kinds(&sent), ["core INVITE"]);
    let large = format!("{LIKE_A_SOFTSWITCH}X-Large: {}\n", "x".repeat(1_000));
    let ok = answer(&sent[0], "200 OK", "b1", &large, &long_sdp("10.9.0.30"));
    for _ in 0..2 {
        assert!(lab.core(&ok).is_empty(), "longer than three times the request");
    }
    assert_eq!(lab.proxy.statistics().withheld, 3, "with the 100");
    let sent = lab.access(VICTIM, &text);
    assert_eq!(kinds(&sent), ["access 200"]);
    let bob = sent[0].contact();
    assert_eq!(kinds(&lab.access(VICTIM, &from_alice("ACK", &bob, BOBS_TAG, 1, "k1", "", ""))), ["core ACK"]);
}
