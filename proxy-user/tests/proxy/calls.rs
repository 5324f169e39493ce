//! Calls, datagram by datagram.

use crate::lab::*;
use proxy_user::{
    accounting::{CallDirection, EndCause},
    signalling::sip::Name,
};
use std::time::Duration;

/// What makes requests of real phones as long as they are: nobody who is not registered gets more than three times
/// that.
pub(crate) const LIKE_A_PHONE: &str =
    "Allow: INVITE, ACK, CANCEL, OPTIONS, BYE, REFER, NOTIFY, MESSAGE, SUBSCRIBE, INFO, UPDATE, PRACK
        Accept: application/sdp, application/dtmf-relay, application/media_control+xml
        Allow-Events: talk, hold, conference, refer, check-sync
        Supported: replaces, timer, 100rel, path, outbound
        User-Agent: Desk Phone D735 10.1.198 (build 20260114; 000413a1b2c3)";

/// A request of the terminal behind `ALICE`.
pub(crate) fn from_alice(method: &str, uri: &str, to: &str, cseq: u32, branch: &str, more: &str, body: &str) -> String {
    sip(&format!(
        "{method} {uri} SIP/2.0
        Via: SIP/2.0/UDP {PRIVATE}:5060;branch=z9hG4bK{branch};rport
        Max-Forwards: 70
        From: <sip:alice@example.test>;tag=a1
        To: {to}
        Call-ID: call-1
        CSeq: {cseq} {method}
        Contact: <sip:alice@{PRIVATE}:5060>
        {LIKE_A_PHONE}
        {more}\n\n{body}"
    ))
}

/// A request of the softswitch inside the call that Alice began.
pub(crate) fn from_core(method: &str, uri: &str, cseq: u32, branch: &str, more: &str, body: &str) -> String {
    sip(&format!(
        "{method} {uri} SIP/2.0
        Via: SIP/2.0/UDP {SOFTSWITCH};branch=z9hG4bK{branch}
        Max-Forwards: 69
        From: <sip:bob@example.test>;tag=b1
        To: <sip:alice@example.test>;tag=a1
        Call-ID: call-1
        CSeq: {cseq} {method}
        Contact: <sip:bob@10.9.0.30:5060>
        {more}\n\n{body}"
    ))
}

pub(crate) const BOBS_TAG: &str = "<sip:bob@example.test>;tag=b1";
pub(crate) const ROUTE: &str = "Record-Route: <sip:10.9.0.20;lr>\nContact: <sip:bob@10.9.0.30:5060>\n";

/// A call as far as it has come: by which URI each side reaches the other.
pub(crate) struct Call {
    pub(crate) invite: Sent,
    /// Request-URI by which Alice reaches Bob.
    pub(crate) bob: String,
    /// Request-URI by which the core reaches Alice.
    pub(crate) alice: String,
}

/// INVITE, 180, 200, ACK.
pub(crate) fn answered(lab: &mut Lab) -> Call {
    let offer = sdp(PRIVATE, 4000);
    let sent =
        lab.access(ALICE, &from_alice("INVITE", "sip:bob@example.test", "<sip:bob@example.test>", 1, "i1", "", &offer));
    assert_eq!(kinds(&sent), ["access 100", "core INVITE"]);
    let invite = sent[1].clone();
    let sent = lab.core(&answer(&invite, "180 Ringing", "b1", ROUTE, ""));
    assert_eq!(kinds(&sent), ["access 180"]);
    let sent = lab.core(&answer(&invite, "200 OK", "b1", ROUTE, &sdp("10.9.0.30", 6000)));
    assert_eq!(kinds(&sent), ["access 200"]);
    let bob = sent[0].contact();
    let sent = lab.access(ALICE, &from_alice("ACK", &bob, BOBS_TAG, 1, "k1", "", ""));
    assert_eq!(kinds(&sent), ["core ACK"]);
    Call { alice: invite.contact(), invite, bob }
}

#[test]
fn a_call_that_the_relay_has_no_room_for_is_refused() {
    let mut lab = Lab::default();
    lab.datapath.full = true;
    let offer = sdp(PRIVATE, 4000);
    let sent =
        lab.access(ALICE, &from_alice("INVITE", "sip:bob@example.test", "<sip:bob@example.test>", 1, "i1", "", &offer));
    assert_eq!(only(&sent, "503").destination.to_string(), ALICE);
    let sent = lab.core(&answer(only(&sent, "INVITE"), "180 Ringing", "b1", ROUTE, ""));
    assert_eq!(kinds(&sent), ["core CANCEL"], "nobody rings for it");
    assert_eq!(lab.records[0].end_cause, EndCause::Error);
}

#[test]
fn a_call_whose_new_media_the_relay_has_no_room_for_ends_on_both_sides() {
    let mut lab = Lab::default();
    let call = answered(&mut lab);
    let offer = sdp(PRIVATE, 4002);
    let sent = lab.access(ALICE, &from_alice("INVITE", &call.bob, BOBS_TAG, 2, "i2", "", &offer));
    let invite = only(&sent, "INVITE").clone();
    lab.datapath.full = true;
    let sent = lab.core(&answer(&invite, "200 OK", "b1", ROUTE, &sdp("10.9.0.31", 6002)));
    let mut byes: Vec<_> = kinds(&sent).into_iter().filter(|kind| kind.ends_with("BYE")).collect();
    byes.sort();
    assert_eq!(byes, ["access BYE", "core BYE"]);
    assert_eq!(lab.records[0].end_cause, EndCause::Error);
    assert!(lab.datapath.streams.is_empty());
}

#[test]
fn a_terminal_calls_and_hangs_up() {
    let mut lab = Lab::default();
    let offer = sdp(PRIVATE, 4000);
    let sent =
        lab.access(ALICE, &from_alice("INVITE", "sip:bob@example.test", "<sip:bob@example.test>", 1, "i1", "", &offer));
    let trying = only(&sent, "100");
    assert_eq!(trying.destination.to_string(), ALICE);
    assert_eq!(
        trying.header(Name::Via),
        format!("SIP/2.0/UDP {PRIVATE}:5060;branch=z9hG4bKi1;rport=40001;received=198.51.100.1")
    );
    let invite = only(&sent, "INVITE");
    assert_eq!((invite.realm, invite.destination.to_string().as_str()), (CORE, SOFTSWITCH));
    assert_eq!(invite.uri(), "sip:bob@example.test");
    assert_eq!(invite.message().values(Name::Via).count(), 1);
    assert_eq!(invite.header(Name::MaxForwards), "69");
    let (address, port) = invite.media(0);
    assert_eq!(address, OWN_CORE);
    assert!((30_000..30_200).contains(&port) && port % 2 == 0);
    let invite = invite.clone();

    let sent = lab.core(&answer(&invite, "180 Ringing", "b1", ROUTE, ""));
    let ringing = only(&sent, "180");
    assert_eq!(ringing.destination.to_string(), ALICE);
    assert_eq!(ringing.header(Name::To), BOBS_TAG);
    assert!(!ringing.has(Name::RecordRoute));

    let sent = lab.core(&answer(&invite, "200 OK", "b1", ROUTE, &sdp("10.9.0.30", 6000)));
    let ok = only(&sent, "200");
    assert_eq!(ok.media(0).0, OWN_ACCESS);
    let bob = ok.contact();
    assert!(bob.ends_with("@203.0.113.10:5060"), "{bob}");
    assert_eq!(ringing.contact(), bob);

    let sent = lab.access(ALICE, &from_alice("ACK", &bob, BOBS_TAG, 1, "k1", "", ""));
    let ack = only(&sent, "ACK");
    assert_eq!(ack.uri(), "sip:bob@10.9.0.30:5060");
    assert_eq!(ack.header(Name::Route), "<sip:10.9.0.20;lr>");
    assert_eq!(ack.destination.to_string(), SOFTSWITCH);
    assert_eq!(lab.datapath.streams.len(), 1);
    assert_eq!(lab.load().calls, 1);

    let sent = lab.access(ALICE, &from_alice("BYE", &bob, BOBS_TAG, 2, "y1", "", ""));
    let bye = only(&sent, "BYE").clone();
    assert_eq!(bye.uri(), "sip:bob@10.9.0.30:5060");
    let sent = lab.core(&answer(&bye, "200 OK", "", "", ""));
    assert_eq!(kinds(&sent), ["access 200"]);
    assert_eq!(lab.records.len(), 1);
    let record = &lab.records[0];
    assert_eq!((record.end_cause, record.final_code), (EndCause::ByeCaller, Some(200)));
    assert_eq!(record.direction, CallDirection::AccessToCore);
    assert_eq!(record.streams.len(), 1);
    lab.assert_empty();
    assert_eq!(lab.records.len(), 1);
}

#[test]
fn the_core_hangs_up() {
    let mut lab = Lab::default();
    let call = answered(&mut lab);
    let sent = lab.core(&from_core("BYE", &call.alice, 1, "y2", "", ""));
    let bye = only(&sent, "BYE").clone();
    assert_eq!(bye.destination.to_string(), ALICE);
    assert_eq!(bye.uri(), format!("sip:alice@{PRIVATE}:5060"));
    let sent = lab.access(ALICE, &answer(&bye, "200 OK", "", "", ""));
    assert_eq!(kinds(&sent), ["core 200"]);
    assert_eq!(lab.records[0].end_cause, EndCause::ByeCallee);
    lab.assert_empty();
}

#[test]
fn the_callee_is_busy() {
    let mut lab = Lab::default();
    let offer = sdp(PRIVATE, 4000);
    let sent =
        lab.access(ALICE, &from_alice("INVITE", "sip:bob@example.test", "<sip:bob@example.test>", 1, "i1", "", &offer));
    let invite = only(&sent, "INVITE").clone();
    let sent = lab.core(&answer(&invite, "486 Busy Here", "b1", "", ""));
    assert_eq!(kinds(&sent), ["core ACK", "access 486"]);
    assert_eq!(sent[0].header(Name::Via), invite.header(Name::Via));
    assert_eq!(sent[0].header(Name::To), BOBS_TAG);
    assert_eq!(
        kinds(&lab.access(ALICE, &from_alice("ACK", "sip:bob@example.test", BOBS_TAG, 1, "i1", "", ""))),
        [""; 0]
    );
    assert_eq!((lab.records[0].end_cause, lab.records[0].final_code), (EndCause::Rejected, Some(486)));
    lab.assert_empty();
}

#[test]
fn the_caller_gives_up() {
    for early in [false, true] {
        let mut lab = Lab::default();
        let offer = sdp(PRIVATE, 4000);
        let sent = lab.access(
            ALICE,
            &from_alice("INVITE", "sip:bob@example.test", "<sip:bob@example.test>", 1, "i1", "", &offer),
        );
        let invite = only(&sent, "INVITE").clone();
        if !early {
            lab.core(&answer(&invite, "180 Ringing", "b1", ROUTE, ""));
        }
        let sent =
            lab.access(ALICE, &from_alice("CANCEL", "sip:bob@example.test", "<sip:bob@example.test>", 1, "i1", "", ""));
        let ok = only(&sent, "200");
        assert_eq!(ok.header(Name::CSeq), "1 CANCEL");
        let sent = if early {
            assert_eq!(kinds(&sent), ["access 200"]);
            // Not before a provisional response (RFC 3261 §9.1).
            lab.core(&answer(&invite, "100 Trying", "", "", ""))
        } else {
            sent
        };
        let cancel = only(&sent, "CANCEL").clone();
        assert_eq!(cancel.header(Name::Via), invite.header(Name::Via));
        assert_eq!(cancel.uri(), invite.uri());
        assert_eq!(kinds(&lab.core(&answer(&cancel, "200 OK", "c", "", ""))), [""; 0]);
        let sent = lab.core(&answer(&invite, "487 Request Terminated", "b1", "", ""));
        assert_eq!(kinds(&sent), ["core ACK", "access 487"]);
        lab.access(ALICE, &from_alice("ACK", "sip:bob@example.test", BOBS_TAG, 1, "i1", "", ""));
        assert_eq!(lab.records.len(), 1);
        assert_eq!((lab.records[0].end_cause, lab.records[0].final_code), (EndCause::Cancelled, Some(487)));
        lab.assert_empty();
    }
}

#[test]
fn hold_and_resume() {
    let mut lab = Lab::default();
    let call = answered(&mut lab);
    let before = lab.datapath.streams.clone();
    let ports = (call.invite.media(0), before.values().next().unwrap().legs.clone());
    for (step, direction) in ["sendonly", "sendrecv"].into_iter().enumerate() {
        let cseq = 2 + step as u32;
        let offer = sdp(PRIVATE, 4000) + &format!("a={direction}\n");
        let branch = format!("r{step}");
        let sent = lab.access(ALICE, &from_alice("INVITE", &call.bob, BOBS_TAG, cseq, &branch, "", &offer));
        let invite = only(&sent, "INVITE").clone();
        assert_eq!(invite.media(0), ports.0, "the core keeps the same relay port");
        assert!(invite.body().contains(&format!("a={direction}")));
        let sent = lab.core(&answer(&invite, "200 OK", "", ROUTE, &sdp("10.9.0.30", 6000)));
        assert_eq!(only(&sent, "200").contact(), call.bob);
        let sent = lab.access(ALICE, &from_alice("ACK", &call.bob, BOBS_TAG, cseq, &format!("k{step}x"), "", ""));
        assert_eq!(kinds(&sent), ["core ACK"]);
        assert_eq!(lab.datapath.streams, before);
    }
    assert_eq!(lab.datapath.applied.len(), 2, "offer and answer of the first INVITE");
}

#[test]
fn a_failed_reinvite_restores_the_session() {
    let mut lab = Lab::default();
    let call = answered(&mut lab);
    let before = lab.datapath.streams.clone();
    let offer = sdp(PRIVATE, 4444) + "m=video 5000 RTP/AVP 96\n";
    let sent = lab.access(ALICE, &from_alice("INVITE", &call.bob, BOBS_TAG, 2, "r1", "", &offer));
    let invite = only(&sent, "INVITE").clone();
    assert_eq!(lab.datapath.streams.len(), 2);
    let sent = lab.core(&answer(&invite, "488 Not Acceptable Here", "", "", ""));
    assert_eq!(kinds(&sent), ["core ACK", "access 488"]);
    assert_eq!(lab.datapath.streams, before);
    assert_eq!(lab.load().port_pairs, 2);
    assert!(lab.records.is_empty());
}

#[test]
fn a_late_offer_is_answered_in_the_ack() {
    let mut lab = Lab::default();
    let sent =
        lab.access(ALICE, &from_alice("INVITE", "sip:bob@example.test", "<sip:bob@example.test>", 1, "i1", "", ""));
    let invite = only(&sent, "INVITE").clone();
    let sent = lab.core(&answer(&invite, "200 OK", "b1", ROUTE, &sdp("10.9.0.30", 6000)));
    let ok = only(&sent, "200").clone();
    assert_eq!(ok.media(0).0, OWN_ACCESS);
    let ack = from_alice("ACK", &ok.contact(), BOBS_TAG, 1, "k1", "", &sdp(PRIVATE, 4000));
    let sent = lab.access(ALICE, &ack);
    let first = only(&sent, "ACK").clone();
    assert_eq!(first.media(0).0, OWN_CORE);
    let spec = lab.datapath.streams.values().next().unwrap().clone();
    assert!(spec.legs.iter().all(|leg| leg.open && leg.epoch == 1), "{spec:?}");
    // The 200 comes again, and so does the ACK.
    let again = lab.core(&answer(&invite, "200 OK", "b1", ROUTE, &sdp("10.9.0.30", 6000)));
    assert_eq!(only(&again, "200").body(), ok.body());
    let again = lab.access(ALICE, &ack);
    assert_eq!(only(&again, "ACK").text, first.text, "a new branch would make it another ACK");
    assert_eq!(lab.datapath.streams.values().next().unwrap(), &spec);
}

#[test]
fn retransmissions_end_here() {
    let mut lab = Lab::default();
    let offer = sdp(PRIVATE, 4000);
    let invite_text = from_alice("INVITE", "sip:bob@example.test", "<sip:bob@example.test>", 1, "i1", "", &offer);
    let sent = lab.access(ALICE, &invite_text);
    let invite = only(&sent, "INVITE").clone();
    assert_eq!(kinds(&lab.access(ALICE, &invite_text)), ["access 100"]);
    // Nothing came back: the INVITE goes out again after T1, 2 T1, ...
    lab.wait(Duration::from_millis(500));
    let again = lab.take();
    assert_eq!(kinds(&again), ["core INVITE"]);
    assert_eq!(again[0].text, invite.text);
    lab.core(&answer(&invite, "183 Session Progress", "b1", ROUTE, &sdp("10.9.0.30", 6000)));
    lab.wait(Duration::from_secs(10));
    assert_eq!(kinds(&lab.take()), [""; 0]);
    assert_eq!(kinds(&lab.access(ALICE, &invite_text)), ["access 183"]);
    lab.core(&answer(&invite, "603 Decline", "b1", "", ""));
    // Until the ACK comes, the refusal is repeated; each repetition of it from the core is acknowledged.
    lab.wait(Duration::from_millis(1500));
    assert_eq!(kinds(&lab.take()), ["access 603", "access 603"]);
    assert_eq!(kinds(&lab.core(&answer(&invite, "603 Decline", "b1", "", ""))), ["core ACK"]);
    lab.access(ALICE, &from_alice("ACK", "sip:bob@example.test", BOBS_TAG, 1, "i1", "", ""));
    lab.wait(Duration::from_secs(20));
    assert_eq!(kinds(&lab.take()), [""; 0]);
    lab.assert_empty();
}

#[test]
fn nobody_answers() {
    let mut lab = Lab::default();
    let offer = sdp(PRIVATE, 4000);
    lab.access(ALICE, &from_alice("INVITE", "sip:bob@example.test", "<sip:bob@example.test>", 1, "i1", "", &offer));
    lab.wait(Duration::from_secs(32));
    assert!(kinds(&lab.take()).contains(&"access 408".to_owned()));
    assert_eq!(lab.records[0].end_cause, EndCause::Timeout);
    lab.assert_empty();
}

#[test]
fn silence_ends_a_call() {
    let mut lab = Lab::default();
    let call = answered(&mut lab);
    let stream = *lab.datapath.streams.keys().next().unwrap();
    lab.datapath.silence(stream);
    lab.settle();
    let sent = lab.take();
    assert_eq!(kinds(&sent), ["access BYE", "core BYE"]);
    let (access, core) = (&sent[0], &sent[1]);
    assert_eq!(core.uri(), "sip:bob@10.9.0.30:5060");
    assert_eq!(core.header(Name::Route), "<sip:10.9.0.20;lr>");
    assert_eq!(core.header(Name::From), "<sip:alice@example.test>;tag=a1");
    assert_eq!(core.header(Name::To), BOBS_TAG);
    assert_eq!(core.header(Name::CSeq), "2 BYE");
    assert_eq!(access.header(Name::CSeq), "1 BYE", "Bob has sent no request yet");
    assert_eq!(access.destination.to_string(), ALICE);
    assert_eq!(access.uri(), format!("sip:alice@{PRIVATE}:5060"));
    assert_eq!(access.header(Name::From), BOBS_TAG);
    assert_eq!(access.header(Name::To), "<sip:alice@example.test>;tag=a1");
    for bye in &sent {
        assert_eq!(bye.header(Name::CallId), "call-1");
    }
    let (core, access) = (core.clone(), access.clone());
    lab.core(&answer(&core, "200 OK", "", "", ""));
    lab.access(ALICE, &answer(&access, "200 OK", "", "", ""));
    assert_eq!(lab.records[0].end_cause, EndCause::MediaSilence);
    assert_eq!(kinds(&lab.access(ALICE, &from_alice("BYE", &call.bob, BOBS_TAG, 2, "y1", "", ""))), ["access 200"]);
    lab.assert_empty();
    assert_eq!(lab.records.len(), 1);
}

#[test]
fn shutdown_ends_every_call() {
    let mut lab = Lab::default();
    answered(&mut lab);
    let ringing =
        from_alice("INVITE", "sip:carol@example.test", "<sip:carol@example.test>", 1, "i2", "", &sdp(PRIVATE, 4100))
            .replace("call-1", "call-2");
    let sent = lab.access(ALICE, &ringing);
    let invite = only(&sent, "INVITE").clone();
    lab.core(&answer(&invite, "180 Ringing", "c1", ROUTE, ""));
    lab.proxy.shutdown(lab.now);
    lab.settle();
    let sent = lab.take();
    let mut all = kinds(&sent);
    all.sort();
    assert_eq!(all, ["access 503", "access BYE", "core BYE", "core CANCEL"]);
    assert_eq!(lab.records.len(), 2);
    assert!(lab.records.iter().all(|record| record.end_cause == EndCause::Shutdown));
    for request in sent.iter().filter(|sent| matches!(sent.kind().as_str(), "BYE" | "CANCEL")) {
        assert!(!lab.proxy.is_idle(), "somebody does not know yet");
        let done = answer(request, "200 OK", "", "", "");
        if request.realm == ACCESS {
            lab.access(ALICE, &done)
        } else {
            lab.core(&done)
        };
    }
    // Whom the CANCEL reached says so, and the caller that it knows.
    assert!(!lab.proxy.is_idle());
    assert_eq!(kinds(&lab.core(&answer(&invite, "487 Request Terminated", "c1", "", ""))), ["core ACK"]);
    assert!(!lab.proxy.is_idle());
    let refusal = only(&sent, "503").header(Name::To);
    lab.access(
        ALICE,
        &from_alice("ACK", "sip:carol@example.test", &refusal, 1, "i2", "", "").replace("call-1", "call-2"),
    );
    assert!(lab.proxy.is_idle());
    lab.assert_empty();
    assert_eq!(lab.records.len(), 2);
}

#[test]
fn no_ports_no_call() {
    let mut config = config();
    config.realms.get_mut(CORE).unwrap().ports.last = config.realms.get(CORE).unwrap().ports.first + 1;
    let mut lab = Lab::new(config);
    answered(&mut lab);
    let second =
        from_alice("INVITE", "sip:bob@example.test", "<sip:bob@example.test>", 1, "i2", "", &sdp(PRIVATE, 4100))
            .replace("call-1", "call-2");
    let sent = lab.access(ALICE, &second);
    assert_eq!(kinds(&sent), ["access 100", "access 503"]);
    assert!(only(&sent, "503").text.contains("Retry-After: "));
    assert_eq!(lab.load().port_pairs, 2);
    assert_eq!(lab.records.len(), 1);
}

#[test]
fn requests_that_do_not_use_the_contact_find_their_dialog_by_its_tags() {
    let mut lab = Lab::default();
    let offer = sdp(PRIVATE, 4000);
    let sent =
        lab.access(ALICE, &from_alice("INVITE", "sip:bob@example.test", "<sip:bob@example.test>", 1, "i1", "", &offer));
    let invite = only(&sent, "INVITE").clone();
    lab.core(&answer(&invite, "200 OK", "b1", ROUTE, &sdp("10.9.0.30", 6000)));
    let own = "sip:bob@203.0.113.10:5060";
    let sent = lab.access(ALICE, &from_alice("ACK", own, BOBS_TAG, 1, "k1", "", ""));
    assert_eq!(only(&sent, "ACK").uri(), "sip:bob@10.9.0.30:5060");

    let strange = "<sip:bob@example.test>;tag=b2";
    let sent = lab.access(ALICE, &from_alice("BYE", own, strange, 2, "y1", "", ""));
    assert_eq!(kinds(&sent), ["access 481"], "no dialog has this tag");

    let sent = lab.access(ALICE, &from_alice("BYE", own, BOBS_TAG, 2, "y2", "", ""));
    let bye = only(&sent, "BYE").clone();
    assert_eq!(bye.uri(), "sip:bob@10.9.0.30:5060");
    lab.core(&answer(&bye, "200 OK", "b1", "", ""));
    assert_eq!(lab.records[0].end_cause, EndCause::ByeCaller);
}

#[test]
fn an_orderly_stop_of_many_calls_is_paced_and_complete() {
    const CALLS: u16 = 60;
    let mut config = config();
    config.realms.get_mut(ACCESS).unwrap().ports.last = 30_999;
    config.realms.get_mut(CORE).unwrap().ports.last = 30_999;
    let mut lab = Lab::new(config);
    let invite = |number: u16| {
        let text = from_alice(
            "INVITE",
            "sip:bob@example.test",
            "<sip:bob@example.test>",
            1,
            &format!("i{number}"),
            "",
            &sdp(PRIVATE, 4000 + 2 * number),
        );
        text.replace("call-1", &format!("call-{number}"))
    };
    for number in 0..CALLS {
        let sent = lab.access(ALICE, &invite(number));
        lab.core(&answer(only(&sent, "INVITE"), "200 OK", "b1", ROUTE, &sdp("10.9.0.30", 6000)));
    }
    lab.proxy.shutdown(lab.now);
    lab.settle();
    let first = lab.take();
    assert!(first.len() < usize::from(CALLS) * 2, "not all at once: {}", first.len());
    assert_eq!(kinds(&lab.access(ALICE, &invite(999))), ["access 503"], "none begins any more");
    assert!(lab.proxy.is_ending());
    lab.wait(Duration::from_millis(100));
    assert!(!lab.proxy.is_ending());
    let byes: Vec<_> = first.into_iter().chain(lab.take()).filter(|sent| sent.kind() == "BYE").collect();
    assert_eq!(byes.len(), usize::from(CALLS) * 2);
    assert_eq!(lab.records.len(), usize::from(CALLS));
    for bye in &byes {
        assert!(!lab.proxy.is_idle());
        let done = answer(bye, "200 OK", "", "", "");
        if bye.realm == ACCESS {
            lab.access(ALICE, &done)
        } else {
            lab.core(&done)
        };
    }
    assert!(lab.proxy.is_idle(), "everybody knows");
}
