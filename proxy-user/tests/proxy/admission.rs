//! What realms and users may have at once.

use crate::{calls::*, lab::*, registrations::*};
use proxy_user::{
    accounting::EndCause,
    config::{AdmissionLimits, Config},
    engine::EarlierStreams,
    media::RealmId,
    signalling::sip::Name,
};

/// The limits of one realm.
fn limited(realm: RealmId, limits: AdmissionLimits) -> Config {
    let mut config = config();
    config.realms.get_mut(realm).unwrap().policy.admission = limits;
    config
}

/// An INVITE of a terminal outside of dialogs, by the number of the call.
fn invite(user: &str, number: u32, media: &str) -> String {
    from_alice(
        "INVITE",
        "sip:bob@example.test",
        "<sip:bob@example.test>",
        1,
        &format!("n{number}"),
        "",
        &sdp_of(PRIVATE, media),
    )
    .replace("call-1", &format!("call-{number}"))
    .replace("sip:alice@example.test", &format!("sip:{user}@example.test"))
}

const AUDIO: &str = "m=audio 4000 RTP/AVP 0\n";

/// The status that answers an INVITE at once, or the INVITE as it went on.
fn begins(lab: &mut Lab, source: &str, text: &str) -> Result<Sent, String> {
    let sent = lab.access(source, text);
    match sent.iter().find(|sent| sent.kind() == "INVITE") {
        Some(invite) => Ok(invite.clone()),
        None => Err(sent.last().unwrap().kind()),
    }
}

#[test]
fn calls_that_outlived_a_process_are_counted_by_the_next() {
    let limits = AdmissionLimits { max_calls: Some(1), ..AdmissionLimits::default() };
    let mut lab = Lab::new(limited(ACCESS, limits));
    let call = begins(&mut lab, ALICE, &invite("alice", 1, AUDIO)).unwrap();
    lab.core(&answer(&call, "200 OK", "b1", "Contact: <sip:bob@10.9.0.30:5060>\n", &sdp("10.9.0.30", 6_000)));
    for round in 2..4 {
        assert_eq!(lab.restart(EarlierStreams::Kept).calls, 1);
        assert_eq!(begins(&mut lab, ALICE, &invite("carol", round, AUDIO)).unwrap_err(), "503");
    }
    // It is counted once: its end makes room for one.
    lab.restart(EarlierStreams::Lost);
    lab.settle();
    begins(&mut lab, ALICE, &invite("carol", 5, AUDIO)).unwrap();
    begins(&mut lab, ALICE, &invite("carol", 6, AUDIO)).unwrap_err();
}

#[test]
fn calls_of_a_realm_are_counted() {
    for realm in [ACCESS, CORE] {
        for code in [503, 486, 488] {
            let limits = AdmissionLimits { max_calls: Some(2), refuse_with: code, ..AdmissionLimits::default() };
            let mut lab = Lab::new(limited(realm, limits));
            let first = begins(&mut lab, ALICE, &invite("alice", 1, AUDIO)).unwrap();
            begins(&mut lab, BOB, &invite("bob", 2, AUDIO)).unwrap();
            assert_eq!(begins(&mut lab, ALICE, &invite("carol", 3, AUDIO)).unwrap_err(), code.to_string());
            assert_eq!(lab.load().port_pairs, 4, "nothing was allocated for it");
            assert_eq!(lab.proxy.statistics().not_admitted, 1);
            let record = &lab.records[0];
            assert_eq!((record.call_id.as_str(), record.final_code), ("call-3", Some(code)));
            assert_eq!((record.end_cause, record.streams.len()), (EndCause::Rejected, 0));
            // The end of one makes room for another.
            lab.core(&answer(&first, "486 Busy Here", "b1", "", ""));
            begins(&mut lab, ALICE, &invite("carol", 4, AUDIO)).unwrap();
            begins(&mut lab, ALICE, &invite("carol", 5, AUDIO)).unwrap_err();
        }
    }
}

#[test]
fn media_of_a_realm_is_counted_by_the_most_demanding_format() {
    let limits = AdmissionLimits { max_kbps: Some(200), ..AdmissionLimits::default() };
    let mut lab = Lab::new(limited(CORE, limits));
    let wide = "m=audio 4000 RTP/AVP 96 18\na=rtpmap:96 opus/48000/2\n";
    let first = begins(&mut lab, ALICE, &invite("alice", 1, wide)).unwrap();
    let refused = lab.access(ALICE, &invite("alice", 2, AUDIO));
    assert!(only(&refused, "503").text.contains("Retry-After: "));
    // The answer took less: there is room.
    let sent = lab.core(&answer(&first, "200 OK", "b1", ROUTE, &sdp_of("10.9.0.30", "m=audio 6000 RTP/AVP 18\n")));
    let uri = only(&sent, "200").contact();
    let third = begins(&mut lab, ALICE, &invite("alice", 3, AUDIO)).unwrap();
    let fourth = begins(&mut lab, ALICE, &invite("alice", 4, AUDIO)).unwrap();
    begins(&mut lab, ALICE, &invite("alice", 5, AUDIO)).unwrap_err();
    // All of them end.
    for (method, cseq) in [("ACK", 1), ("BYE", 2)] {
        lab.access(ALICE, &from_alice(method, &uri, BOBS_TAG, cseq, &format!("k{cseq}"), "", ""));
    }
    for call in [third, fourth] {
        lab.core(&answer(&call, "486 Busy Here", "b3", "", ""));
    }
    begins(&mut lab, ALICE, &invite("alice", 6, AUDIO)).unwrap();
    begins(&mut lab, ALICE, &invite("alice", 7, AUDIO)).unwrap();
    begins(&mut lab, ALICE, &invite("alice", 8, AUDIO)).unwrap_err();
}

#[test]
fn more_media_in_a_call_is_refused_and_the_call_goes_on() {
    let limits = AdmissionLimits { max_kbps: Some(100), refuse_with: 486, ..AdmissionLimits::default() };
    let mut lab = Lab::new(limited(ACCESS, limits));
    let call = answered(&mut lab);
    let before = lab.datapath.streams.clone();
    let more = sdp(PRIVATE, 4000) + "m=video 4002 RTP/AVP 97\nb=AS:512\na=rtpmap:97 H264/90000\n";
    for (cseq, method) in [(2, "INVITE"), (3, "UPDATE")] {
        let sent = lab.access(ALICE, &from_alice(method, &call.bob, BOBS_TAG, cseq, &format!("r{cseq}"), "", &more));
        assert_eq!(sent.last().unwrap().kind(), "488");
        lab.access(ALICE, &from_alice("ACK", &call.bob, BOBS_TAG, cseq, &format!("r{cseq}"), "", ""));
    }
    assert_eq!(lab.datapath.streams, before);
    assert_eq!(lab.proxy.statistics().not_admitted, 2);
    // What does not grow may always be offered again.
    let hold = sdp(PRIVATE, 4000) + "a=sendonly\n";
    let sent = lab.access(ALICE, &from_alice("INVITE", &call.bob, BOBS_TAG, 4, "r4", "", &hold));
    let again = only(&sent, "INVITE").clone();
    lab.core(&answer(&again, "200 OK", "", ROUTE, &sdp("10.9.0.30", 6000)));
    assert!(lab.records.is_empty());
}

#[test]
fn an_offer_that_is_refused_by_the_other_side_is_not_counted_any_more() {
    let limits = AdmissionLimits { max_kbps: Some(700), ..AdmissionLimits::default() };
    let mut lab = Lab::new(limited(CORE, limits));
    let call = answered(&mut lab);
    let more = sdp(PRIVATE, 4000) + "m=video 4002 RTP/AVP 97\nb=AS:512\na=rtpmap:97 H264/90000\n";
    let sent = lab.access(ALICE, &from_alice("INVITE", &call.bob, BOBS_TAG, 2, "r2", "", &more));
    let again = only(&sent, "INVITE").clone();
    assert_eq!(begins(&mut lab, BOB, &invite("bob", 2, &AUDIO.repeat(2))).unwrap_err(), "503");
    lab.core(&answer(&again, "488 Not Acceptable Here", "", "", ""));
    begins(&mut lab, BOB, &invite("bob", 3, &AUDIO.repeat(2))).unwrap();
}

#[test]
fn a_user_has_a_share_whatever_name_its_terminal_takes() {
    let limits = AdmissionLimits { max_calls_per_user: Some(1), refuse_with: 486, ..AdmissionLimits::default() };
    let mut lab = Lab::new(limited(ACCESS, limits));
    registered(&mut lab, "alice", ALICE);
    let bob = registered(&mut lab, "bob", BOB);
    begins(&mut lab, ALICE, &invite("alice", 1, AUDIO)).unwrap();
    assert_eq!(begins(&mut lab, ALICE, &invite("alice", 2, AUDIO)).unwrap_err(), "486");
    assert_eq!(begins(&mut lab, ALICE, &invite("mallory", 3, AUDIO)).unwrap_err(), "486");
    assert_eq!(lab.records.len(), 2);
    // Another user is not hit by that, and is one whichever way it is called.
    let sent = lab.core(&outside("INVITE", &bob, "i9", "", &sdp("10.9.0.30", 6000)));
    let ringing = only(&sent, "INVITE").clone();
    assert_eq!(ringing.destination.to_string(), BOB);
    assert_eq!(begins(&mut lab, BOB, &invite("bob", 4, AUDIO)).unwrap_err(), "486");
    lab.access(BOB, &answer(&ringing, "486 Busy Here", "x", "", ""));
    begins(&mut lab, BOB, &invite("bob", 5, AUDIO)).unwrap();
    // Without a registration, a terminal is who it says it is.
    let stranger = "198.51.100.9:5060";
    begins(&mut lab, stranger, &invite("dave", 6, AUDIO)).unwrap();
    assert_eq!(begins(&mut lab, stranger, &invite("dave", 7, AUDIO)).unwrap_err(), "486");
}

#[test]
fn media_of_a_user_is_counted() {
    let limits = AdmissionLimits { max_kbps_per_user: Some(170), ..AdmissionLimits::default() };
    let mut lab = Lab::new(limited(ACCESS, limits));
    registered(&mut lab, "alice", ALICE);
    begins(&mut lab, ALICE, &invite("alice", 1, AUDIO)).unwrap();
    begins(&mut lab, ALICE, &invite("alice", 2, AUDIO)).unwrap();
    assert_eq!(begins(&mut lab, ALICE, &invite("alice", 3, AUDIO)).unwrap_err(), "503");
    begins(&mut lab, BOB, &invite("bob", 4, AUDIO)).unwrap();
}

#[test]
fn a_late_offer_beyond_the_limit_has_no_media() {
    let limits = AdmissionLimits { max_kbps: Some(50), ..AdmissionLimits::default() };
    let mut lab = Lab::new(limited(ACCESS, limits));
    let text = from_alice("INVITE", "sip:bob@example.test", "<sip:bob@example.test>", 1, "i1", "", "");
    let request = begins(&mut lab, ALICE, &text).unwrap();
    let sent = lab.core(&answer(&request, "200 OK", "b1", ROUTE, &sdp("10.9.0.30", 6000)));
    assert_eq!(only(&sent, "200").media(0), (OWN_ACCESS.into(), 0));
    assert!(only(&sent, "200").has(Name::ContentType));
    assert!(lab.datapath.streams.is_empty());
}

#[test]
fn a_challenge_is_not_a_call() {
    let limits = AdmissionLimits { max_calls: Some(1), ..AdmissionLimits::default() };
    let mut lab = Lab::new(limited(ACCESS, limits));
    let first = begins(&mut lab, ALICE, &invite("alice", 1, AUDIO)).unwrap();
    lab.core(&answer(&first, "407 Proxy Authentication Required", "b1", "", ""));
    begins(&mut lab, ALICE, &invite("alice", 2, AUDIO)).unwrap();
}
