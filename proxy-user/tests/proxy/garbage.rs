//! Invalid input: no panic, and no more state than the limits allow.

use crate::{calls::*, lab::*, registrations::*};
use proptest::prelude::*;
use proxy_user::{
    config::{Config, Strangers},
    media::RealmId,
};
use std::time::Duration;

fn small() -> Config {
    let mut config = config();
    config.limits.max_calls = 8;
    config.limits.max_registrations = 8;
    config.limits.max_transactions = 64;
    // One stranger may have all of it.
    config.strangers = Strangers { percent: 100, network_percent: 100, source_percent: 100, ..Strangers::default() };
    config
}

/// What a mutation does to a message.
#[derive(Clone, Debug)]
enum Mutation {
    Cut(prop::sample::Index),
    Drop(prop::sample::Index, u8),
    Set(prop::sample::Index, u8),
    Double(prop::sample::Index, u8),
    DropLine(prop::sample::Index),
    DoubleLine(prop::sample::Index),
    Word(prop::sample::Index, &'static str),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        1 => at().prop_map(Mutation::Cut),
        2 => (at(), 1..40u8).prop_map(|(at, n)| Mutation::Drop(at, n)),
        2 => (at(), any::<u8>()).prop_map(|(at, byte)| Mutation::Set(at, byte)),
        2 => (at(), 1..40u8).prop_map(|(at, n)| Mutation::Double(at, n)),
        3 => at().prop_map(Mutation::DropLine),
        3 => at().prop_map(Mutation::DoubleLine),
        3 => (at(), prop::sample::select(vec![
            "INVITE", "SUBSCRIBE", "NOTIFY", "ACK", "CANCEL", "BYE", "PRACK", "UPDATE", "REFER", "*", "<", ">", "\"", ";tag=",
            "4294967295", "2147483647", "-1", "0", "65536", "é", "\u{0}", "\r\n ", "sip:", "@", "[::1]", "z9hG4bK", ",",
            "SIP/2.0 200 OK\r\n", "multipart/mixed", "v=0\r\n", "m=audio 65535 RTP/AVP 0\r\n", "c=IN IP4 0.0.0.0\r\n",
        ])).prop_map(|(at, word)| Mutation::Word(at, word)),
    ]
}

fn mutate(bytes: &mut Vec<u8>, mutation: &Mutation) {
    if bytes.is_empty() {
        return;
    }
    let line = |bytes: &[u8], at: usize| {
        let start = bytes[..at].iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        let end = bytes[at..].iter().position(|&byte| byte == b'\n').map_or(bytes.len(), |end| at + end + 1);
        start..end
    };
    match mutation {
        Mutation::Cut(at) => bytes.truncate(at.index(bytes.len())),
        Mutation::Set(at, byte) => {
            let at = at.index(bytes.len());
            bytes[at] = *byte;
        }
        Mutation::Drop(at, n) | Mutation::Double(at, n) => {
            let start = at.index(bytes.len());
            let end = (start + usize::from(*n)).min(bytes.len());
            let piece = bytes[start..end].to_vec();
            let with =
                if matches!(mutation, Mutation::Drop(..)) { Vec::new() } else { [piece.clone(), piece].concat() };
            bytes.splice(start..end, with);
        }
        Mutation::DropLine(at) => {
            let range = line(bytes, at.index(bytes.len()));
            bytes.drain(range);
        }
        Mutation::DoubleLine(at) => {
            let range = line(bytes, at.index(bytes.len()));
            let copy = bytes[range.clone()].to_vec();
            bytes.splice(range.start..range.start, copy);
        }
        Mutation::Word(at, word) => {
            let at = at.index(bytes.len());
            bytes.splice(at..at, word.bytes());
        }
    }
}

/// The messages of a call that begins, is held and ends, and those of the core, each mutated or as it is.
fn play(lab: &mut Lab, mutations: &[(usize, Mutation)]) {
    let mut count = 0;
    let mut give = |lab: &mut Lab, realm: RealmId, text: String| -> Vec<Sent> {
        let mut bytes = text.into_bytes();
        for (_, mutation) in mutations.iter().filter(|(at, _)| *at == count) {
            mutate(&mut bytes, mutation);
        }
        count += 1;
        let source = if realm == ACCESS { ALICE } else { SOFTSWITCH };
        lab.receive_bytes(realm, source.parse().unwrap(), &bytes);
        lab.take()
    };
    let uri = "sip:bob@example.test";
    give(lab, ACCESS, register("alice", 1, &contact("alice"), ""));
    let sent = give(lab, ACCESS, from_alice("INVITE", uri, "<sip:bob@example.test>", 1, "i1", "", &sdp(PRIVATE, 4000)));
    let Some(invite) = sent.into_iter().find(|sent| sent.realm == CORE) else { return };
    give(lab, CORE, answer(&invite, "180 Ringing", "b1", ROUTE, ""));
    let sent = give(lab, CORE, answer(&invite, "200 OK", "b1", ROUTE, &sdp("10.9.0.30", 6000)));
    let Some(ok) = sent.into_iter().find(|sent| sent.realm == ACCESS && sent.kind() == "200") else { return };
    let message = ok.message();
    let contacts: Vec<_> = message.values(proxy_user::signalling::sip::Name::Contact).collect();
    if contacts.is_empty() {
        return;
    }
    let bob = ok.contact();
    give(lab, ACCESS, from_alice("ACK", &bob, BOBS_TAG, 1, "k1", "", ""));
    let sent = give(lab, ACCESS, from_alice("INVITE", &bob, BOBS_TAG, 2, "r1", "", &sdp(PRIVATE, 4002)));
    if let Some(invite) = sent.into_iter().find(|sent| sent.realm == CORE) {
        give(lab, CORE, answer(&invite, "200 OK", "", ROUTE, &sdp("10.9.0.30", 6002)));
    }
    give(lab, ACCESS, from_alice("ACK", &bob, BOBS_TAG, 2, "k2", "", ""));
    give(lab, ACCESS, from_alice("SUBSCRIBE", uri, "<sip:bob@example.test>", 1, "s1", "Event: presence", ""));
    give(lab, ACCESS, from_alice("BYE", &bob, BOBS_TAG, 3, "y1", "", ""));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_bytes_are_taken(datagrams in prop::collection::vec((prop::sample::select(vec![ACCESS, CORE]), prop::collection::vec(any::<u8>(), 0..200)), 1..10)) {
        let mut lab = Lab::new(small());
        for (realm, bytes) in datagrams {
            let source = if realm == ACCESS { ALICE } else { SOFTSWITCH };
            lab.receive_bytes(realm, source.parse().unwrap(), &bytes);
        }
        lab.assert_empty();
    }

    /// However broken a call's messages are: no panic, and nothing remains once its time is over.
    #[test]
    fn mutated_calls_leave_nothing(mutations in prop::collection::vec((0..11usize, mutation()), 1..6)) {
        let mut lab = Lab::new(small());
        // A broken message may name anything anywhere; what is well formed is watched elsewhere.
        lab.strict = false;
        play(&mut lab, &mutations);
        lab.wait(Duration::from_secs(300));
        for _ in 0..3 {
            let streams: Vec<_> = lab.datapath.streams.keys().copied().collect();
            streams.into_iter().for_each(|stream| lab.datapath.silence(stream));
            lab.settle();
        }
        // Subscriptions last for an hour unless they say otherwise, calls without media for two.
        lab.wait(Duration::from_secs(90_000));
        lab.assert_empty();
    }
}

/// Numbers the messages of a flood.
fn flood(lab: &mut Lab, count: usize, text: impl Fn(usize) -> String) {
    for n in 0..count {
        lab.receive(ACCESS, ALICE, &text(n));
    }
}

#[test]
fn floods_stay_within_the_limits() {
    let uri = "sip:bob@example.test";
    for method in ["INVITE", "SUBSCRIBE", "REFER", "MESSAGE", "OPTIONS"] {
        let mut lab = Lab::new(small());
        flood(&mut lab, 500, |n| {
            from_alice(method, uri, "<sip:bob@example.test>", 1, &format!("f{n}"), "", &sdp(PRIVATE, 4000))
                .replace("call-1", &format!("call-{n}"))
        });
        let load = lab.load();
        assert!(
            load.calls <= 8 && load.dialogs <= 16 && load.transactions <= 66 && load.port_pairs <= 16,
            "{method}: {load:?}"
        );
        assert!(lab.proxy.statistics().limited > 0, "{method}");
        lab.wait(Duration::from_secs(64));
        lab.assert_empty();
    }
}

#[test]
fn subscriptions_do_not_keep_calls_away() {
    let mut lab = Lab::new(small());
    let uri = "sip:bob@example.test";
    flood(&mut lab, 20, |n| {
        from_alice("SUBSCRIBE", uri, "<sip:bob@example.test>", 1, &format!("f{n}"), "", "")
            .replace("call-1", &format!("s-{n}"))
    });
    lab.take();
    answered(&mut lab);
}

#[test]
fn answers_of_many_forks_are_bounded() {
    let mut lab = Lab::new(small());
    let text = from_alice("INVITE", "sip:bob@example.test", "<sip:bob@example.test>", 1, "i1", "", &sdp(PRIVATE, 4000));
    let invite = only(&lab.access(ALICE, &text), "INVITE").clone();
    for n in 0..500 {
        lab.core(&answer(&invite, "183 Session Progress", &format!("b{n}"), ROUTE, &sdp("10.9.0.30", 6000)));
    }
    assert_eq!(lab.load().port_pairs, 2);
    lab.core(&answer(&invite, "486 Busy Here", "b0", "", ""));
    lab.assert_empty();
}

/// A timer that was moved must not stay behind for the time that it was once set to.
#[test]
fn moved_timers_do_not_pile_up() {
    let mut lab = Lab::new(small());
    let text = from_alice("INVITE", "sip:bob@example.test", "<sip:bob@example.test>", 1, "i1", "", &sdp(PRIVATE, 4000));
    let invite = only(&lab.access(ALICE, &text), "INVITE").clone();
    for n in 0..500 {
        lab.core(&answer(&invite, "180 Ringing", "b1", &format!("X-Count: {n}\n"), ""));
        lab.wait(Duration::from_millis(10));
    }
    assert!(lab.load().timers < 10, "{:?}", lab.load());
}

/// RFC 4475: whatever each of them gets, it leaves nothing behind.
#[test]
fn torture_messages_leave_nothing() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sip/rfc4475");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        for (realm, source) in [(ACCESS, ALICE), (CORE, SOFTSWITCH)] {
            let mut lab = Lab::new(small());
            lab.strict = false;
            lab.receive_bytes(realm, source.parse().unwrap(), &bytes);
            assert!(lab.sent.iter().all(|sent| !sent.text.is_empty()));
            lab.wait(Duration::from_secs(90_000));
            lab.assert_empty();
        }
        count += 1;
    }
    assert_eq!(count, 49);
}
