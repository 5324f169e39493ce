//! Messages that cross, come late, come twice or never, and what must not remain of it.

use crate::{calls::*, lab::*};
use proxy_user::{accounting::EndCause, signalling::sip::Name};
use std::time::Duration;

const BOB_URI: &str = "sip:bob@example.test";

/// Alice's INVITE, as it went to the core.
fn invited(lab: &mut Lab) -> Sent {
    let text = from_alice("INVITE", BOB_URI, "<sip:bob@example.test>", 1, "i1", "", &sdp(PRIVATE, 4000));
    only(&lab.access(ALICE, &text), "INVITE").clone()
}

#[test]
fn an_answer_after_the_end_is_acknowledged_and_hung_up_once() {
    let mut lab = Lab::default();
    let invite = invited(&mut lab);
    lab.core(&answer(&invite, "180 Ringing", "b1", ROUTE, ""));
    // A request in the early dialog, so that the INVITE's CSeq is not the highest any more.
    let early = lab.core(&answer(&invite, "183 Session Progress", "b1", ROUTE, ""));
    let bob = only(&early, "183").contact();
    lab.access(ALICE, &from_alice("INFO", &bob, BOBS_TAG, 5, "n1", "", ""));
    lab.proxy.shutdown(lab.now);
    lab.settle();
    assert!(kinds(&lab.take()).contains(&"access 503".into()));
    let ok = answer(&invite, "200 OK", "b1", ROUTE, &sdp("10.9.0.30", 6000));
    let sent = lab.core(&ok);
    assert_eq!(kinds(&sent), ["core ACK", "core BYE"], "the caller has its final response already");
    assert_eq!(sent[0].header(Name::CSeq), "1 ACK");
    assert_eq!(sent[1].header(Name::CSeq), "6 BYE");
    assert_eq!(kinds(&lab.core(&ok)), ["core ACK"]);
    lab.assert_empty();
    assert_eq!(lab.records.len(), 1);
}

#[test]
fn nobody_rings_for_a_call_that_was_under_way_when_all_calls_ended() {
    for answered in [false, true] {
        let mut lab = Lab::default();
        let invite = invited(&mut lab);
        lab.proxy.shutdown(lab.now);
        lab.settle();
        let sent = lab.take();
        assert_eq!(kinds(&sent), ["access 503"], "what has no response yet cannot be cancelled");
        let refusal = only(&sent, "503").header(Name::To);
        lab.access(ALICE, &from_alice("ACK", BOB_URI, &refusal, 1, "i1", "", ""));
        assert_eq!(lab.load().calls, 0);
        assert!(!lab.proxy.is_idle(), "the callee does not know");
        if answered {
            let sent = lab.core(&answer(&invite, "200 OK", "b1", ROUTE, &sdp("10.9.0.30", 6000)));
            assert_eq!(kinds(&sent), ["core ACK", "core BYE"]);
            assert!(!lab.proxy.is_idle());
            lab.core(&answer(only(&sent, "BYE"), "200 OK", "", "", ""));
        } else {
            let sent = lab.core(&answer(&invite, "180 Ringing", "b1", ROUTE, ""));
            assert_eq!(kinds(&sent), ["core CANCEL"]);
            lab.core(&answer(&sent[0], "200 OK", "", "", ""));
            lab.core(&answer(&invite, "487 Request Terminated", "b1", "", ""));
        }
        assert!(lab.proxy.is_idle());
        lab.assert_empty();
    }
}

#[test]
fn a_refusal_after_the_end_changes_nothing() {
    for status in ["401 Unauthorized", "407 Proxy Authentication Required", "487 Request Terminated"] {
        let mut lab = Lab::default();
        let invite = invited(&mut lab);
        lab.core(&answer(&invite, "180 Ringing", "b1", ROUTE, ""));
        lab.proxy.shutdown(lab.now);
        lab.settle();
        lab.take();
        assert_eq!(kinds(&lab.core(&answer(&invite, status, "b1", "", ""))), ["core ACK"]);
        assert_eq!((lab.load().calls, lab.records.len()), (0, 1));
        lab.assert_empty();
    }
}

#[test]
fn a_callee_that_never_answers_changes_nothing_for_a_caller_that_knows_since_long() {
    let mut lab = Lab::default();
    let invite = invited(&mut lab);
    lab.core(&answer(&invite, "180 Ringing", "b1", ROUTE, ""));
    lab.proxy.shutdown(lab.now);
    lab.settle();
    let refusal = only(&lab.take(), "503").header(Name::To);
    lab.access(ALICE, &from_alice("ACK", BOB_URI, &refusal, 1, "i1", "", ""));
    // The caller's transaction is over after timer I, the callee's after 64 times T1.
    lab.wait(Duration::from_secs(60));
    assert!(!kinds(&lab.take()).iter().any(|kind| kind.starts_with("access")));
    lab.assert_empty();
}

#[test]
fn an_answer_that_comes_when_its_dialog_is_forgotten_still_goes_back() {
    let mut lab = Lab::default();
    let call = answered(&mut lab);
    let bye = lab.access(ALICE, &from_alice("BYE", &call.bob, BOBS_TAG, 2, "y1", "", ""));
    lab.core(&answer(only(&bye, "BYE"), "200 OK", "b1", "", ""));
    lab.wait(Duration::from_secs(10));
    // What a transfer tells outlives its call; the dialog is forgotten 32 s after the BYE.
    let state = "Event: refer\nSubscription-State: terminated";
    let notify = only(&lab.core(&from_core("NOTIFY", &call.alice, 3, "n1", state, "")), "NOTIFY").clone();
    lab.wait(Duration::from_secs(26));
    lab.take();
    // Alice's NAT has given her another port meanwhile.
    let sent = lab.access("198.51.100.1:40999", &answer(&notify, "200 OK", "", "", ""));
    assert_eq!(kinds(&sent), ["core 200"]);
    lab.assert_empty();
}

#[test]
fn a_challenge_is_no_call() {
    let mut lab = Lab::default();
    let invite = invited(&mut lab);
    let sent = lab.core(&answer(&invite, "407 Proxy Authentication Required", "b0", "", ""));
    assert_eq!(kinds(&sent), ["core ACK", "access 407"]);
    lab.access(ALICE, &from_alice("ACK", BOB_URI, "<sip:bob@example.test>;tag=b0", 1, "i1", "", ""));
    let again = from_alice("INVITE", BOB_URI, "<sip:bob@example.test>", 2, "i2", "", &sdp(PRIVATE, 4000));
    let invite = only(&lab.access(ALICE, &again), "INVITE").clone();
    lab.core(&answer(&invite, "404 Not Found", "b1", "", ""));
    lab.assert_empty();
    assert_eq!(lab.records.len(), 1);
    assert_eq!(lab.records[0].final_code, Some(404));
}

#[test]
fn an_offer_for_a_call_that_ended_takes_no_ports() {
    let mut lab = Lab::default();
    let call = answered(&mut lab);
    let sent = lab.access(ALICE, &from_alice("INVITE", &call.bob, BOBS_TAG, 2, "r1", "", ""));
    let invite = only(&sent, "INVITE").clone();
    let stream = *lab.datapath.streams.keys().next().unwrap();
    lab.datapath.silence(stream);
    lab.settle();
    lab.take();
    lab.core(&answer(&invite, "200 OK", "", ROUTE, &sdp("10.9.0.30", 6000)));
    lab.access(ALICE, &from_alice("ACK", &call.bob, BOBS_TAG, 2, "k2", "", &sdp(PRIVATE, 4000)));
    assert_eq!(lab.load().port_pairs, 0);
    lab.assert_empty();
}

#[test]
fn the_to_tag_of_a_transaction_stays() {
    let mut lab = Lab::default();
    let invite = invited(&mut lab);
    lab.core(&answer(&invite, "180 Ringing", "b1", ROUTE, ""));
    // Nobody ever answers: timer C.
    lab.wait(Duration::from_secs(181));
    assert_eq!(kinds(&lab.take())[0], "core CANCEL");
    lab.wait(Duration::from_secs(33));
    let sent = lab.take();
    let codes: Vec<_> = sent.iter().filter(|sent| sent.kind() == "408").map(|sent| sent.text.clone()).collect();
    assert!(!codes.is_empty() && codes.iter().all(|text| *text == codes[0]));
    lab.assert_empty();
    assert_eq!(lab.records[0].end_cause, EndCause::Timeout);
}

#[test]
fn media_that_the_answer_refuses_are_given_up() {
    let mut lab = Lab::default();
    let offer = sdp(PRIVATE, 4000) + "m=video 4002 RTP/AVP 96\nm=audio 0 RTP/AVP 0\n";
    let text = from_alice("INVITE", BOB_URI, "<sip:bob@example.test>", 1, "i1", "", &offer);
    let invite = only(&lab.access(ALICE, &text), "INVITE").clone();
    assert_eq!(invite.media(2).1, 0);
    assert_eq!(lab.load().port_pairs, 4, "nothing for the port 0");
    let refused = sdp("10.9.0.30", 6000) + "m=video 0 RTP/AVP 96\nm=audio 0 RTP/AVP 0\n";
    let sent = lab.core(&answer(&invite, "200 OK", "b1", ROUTE, &refused));
    assert_eq!((only(&sent, "200").media(1).1, only(&sent, "200").media(2).1), (0, 0));
    assert_eq!((lab.load().port_pairs, lab.datapath.streams.len()), (2, 1));
}

#[test]
fn a_reinvite_adds_and_removes_media() {
    let mut lab = Lab::default();
    let call = answered(&mut lab);
    let more = "m=video 4002 RTP/AVP 96\n";
    let sent = lab.access(ALICE, &from_alice("INVITE", &call.bob, BOBS_TAG, 2, "r1", "", &(sdp(PRIVATE, 4000) + more)));
    let invite = only(&sent, "INVITE").clone();
    let body = sdp("10.9.0.30", 6000) + "m=video 6002 RTP/AVP 96\n";
    lab.core(&answer(&invite, "200 OK", "", ROUTE, &body));
    assert_eq!(lab.datapath.streams.len(), 2);
    let less = "m=video 0 RTP/AVP 96\n";
    let sent = lab.access(ALICE, &from_alice("INVITE", &call.bob, BOBS_TAG, 3, "r2", "", &(sdp(PRIVATE, 4000) + less)));
    let invite = only(&sent, "INVITE").clone();
    assert_eq!(lab.datapath.streams.len(), 2, "not before the answer");
    lab.core(&answer(&invite, "200 OK", "", ROUTE, &(sdp("10.9.0.30", 6000) + less)));
    assert_eq!((lab.datapath.streams.len(), lab.load().port_pairs), (1, 2));
}

#[test]
fn an_old_answer_repeated_during_a_new_offer_changes_nothing() {
    let mut lab = Lab::default();
    let call = answered(&mut lab);
    let sent = lab.access(ALICE, &from_alice("INVITE", &call.bob, BOBS_TAG, 2, "r1", "", &sdp(PRIVATE, 4444)));
    let invite = only(&sent, "INVITE").clone();
    let before = lab.datapath.streams.clone();
    let sent = lab.core(&answer(&call.invite, "200 OK", "b1", ROUTE, &sdp("10.9.0.30", 6000)));
    assert_eq!(only(&sent, "200").header(Name::CSeq), "1 INVITE");
    assert_eq!(lab.datapath.streams, before, "Alice's new port waits for its own answer");
    lab.core(&answer(&invite, "488 Not Acceptable Here", "", "", ""));
    assert_eq!(lab.datapath.streams, before);
}

#[test]
fn two_offers_at_once() {
    let mut lab = Lab::default();
    let call = answered(&mut lab);
    let sent = lab.access(ALICE, &from_alice("INVITE", &call.bob, BOBS_TAG, 2, "r1", "", &sdp(PRIVATE, 4444)));
    let first = only(&sent, "INVITE").clone();
    let sent = lab.core(&from_core("INVITE", &call.alice, 1, "r2", "", &sdp("10.9.0.30", 6666)));
    assert_eq!(kinds(&sent), ["core 100", "core 491"]);
    // A second one from the same side is not accepted either (RFC 3311 §5.2).
    let sent = lab.access(ALICE, &from_alice("UPDATE", &call.bob, BOBS_TAG, 3, "u1", "", &sdp(PRIVATE, 4446)));
    assert!(only(&sent, "500").text.contains("Retry-After: "));
    lab.core(&answer(&first, "200 OK", "", ROUTE, &sdp("10.9.0.30", 6000)));
    let spec = lab.datapath.streams.values().next().unwrap();
    assert_eq!(spec.legs[0].epoch, 2, "what Alice offered last was taken");
}

#[test]
fn a_2xx_without_an_answer_ends_the_offer() {
    let mut lab = Lab::default();
    let call = answered(&mut lab);
    let sent = lab.access(ALICE, &from_alice("UPDATE", &call.bob, BOBS_TAG, 2, "u1", "", &sdp(PRIVATE, 4444)));
    let update = only(&sent, "UPDATE").clone();
    lab.core(&answer(&update, "200 OK", "", ROUTE, ""));
    let sent = lab.access(ALICE, &from_alice("UPDATE", &call.bob, BOBS_TAG, 3, "u2", "", &sdp(PRIVATE, 4446)));
    assert_eq!(kinds(&sent), ["core UPDATE"]);
}

#[test]
fn an_offer_in_a_reliable_response_is_answered_in_prack() {
    let mut lab = Lab::default();
    let text = from_alice("INVITE", BOB_URI, "<sip:bob@example.test>", 1, "i1", "Supported: 100rel", "");
    let invite = only(&lab.access(ALICE, &text), "INVITE").clone();
    let reliable = format!("{ROUTE}Require: 100rel\nRSeq: 1\n");
    let progress = answer(&invite, "183 Session Progress", "b1", &reliable, &sdp("10.9.0.30", 6000));
    let bob = only(&lab.core(&progress), "183").contact();
    // The same again, as its sender has no PRACK yet.
    assert_eq!(kinds(&lab.core(&progress)), ["access 183"]);
    let sent =
        lab.access(ALICE, &from_alice("PRACK", &bob, BOBS_TAG, 2, "p1", "RAck: 1 1 INVITE", &sdp(PRIVATE, 4000)));
    let prack = only(&sent, "PRACK").clone();
    assert_eq!(prack.media(0).0, OWN_CORE);
    lab.core(&answer(&prack, "200 OK", "", "", ""));
    lab.core(&answer(&invite, "200 OK", "b1", ROUTE, ""));
    let sent = lab.access(ALICE, &from_alice("ACK", &bob, BOBS_TAG, 1, "k1", "", ""));
    assert_eq!(kinds(&sent), ["core ACK"]);
    let spec = lab.datapath.streams.values().next().unwrap();
    assert!(spec.legs.iter().all(|leg| leg.open && leg.epoch == 1), "{spec:?}");
}

#[test]
fn a_fork_is_two_dialogs_and_ends_with_the_last() {
    let mut lab = Lab::default();
    let invite = invited(&mut lab);
    let one = lab.core(&answer(&invite, "183 Session Progress", "b1", ROUTE, &sdp("10.9.0.30", 6000)));
    let other_route = ROUTE.replace("bob@10.9.0.30", "bob@10.9.0.31");
    let two = lab.core(&answer(&invite, "183 Session Progress", "b2", &other_route, &sdp("10.9.0.31", 6100)));
    let (one, two) = (only(&one, "183").contact(), only(&two, "183").contact());
    assert_ne!(one, two);
    lab.core(&answer(&invite, "200 OK", "b1", ROUTE, &sdp("10.9.0.30", 6000)));
    lab.access(ALICE, &from_alice("ACK", &one, BOBS_TAG, 1, "k1", "", ""));
    let spec = lab.datapath.streams.clone();
    assert_eq!(spec.values().next().unwrap().legs[1].remote.unwrap().rtp.to_string(), "10.9.0.30:6000");
    // The second picked up at the same time: Alice acknowledges and hangs up (RFC 3261 §13.2.2.4).
    let sent = lab.core(&answer(&invite, "200 OK", "b2", &other_route, &sdp("10.9.0.31", 6100)));
    assert_eq!(only(&sent, "200").contact(), two);
    assert_eq!(lab.datapath.streams, spec, "the first answer holds");
    let tag = "<sip:bob@example.test>;tag=b2";
    let sent = lab.access(ALICE, &from_alice("ACK", &two, tag, 1, "k2", "", ""));
    assert_eq!(only(&sent, "ACK").uri(), "sip:bob@10.9.0.31:5060");
    let sent = lab.access(ALICE, &from_alice("BYE", &two, tag, 2, "y2", "", ""));
    let bye = only(&sent, "BYE").clone();
    lab.core(&answer(&bye, "200 OK", "", "", ""));
    assert_eq!((lab.records.len(), lab.datapath.streams.len()), (0, 1), "the other call goes on");
    let sent = lab.access(ALICE, &from_alice("BYE", &one, BOBS_TAG, 3, "y1", "", ""));
    let bye = only(&sent, "BYE").clone();
    lab.core(&answer(&bye, "200 OK", "", "", ""));
    lab.assert_empty();
    assert_eq!(lab.records.len(), 1);
}

#[test]
fn an_unanswered_bye_ends_the_call_all_the_same() {
    let mut lab = Lab::default();
    let call = answered(&mut lab);
    lab.access(ALICE, &from_alice("BYE", &call.bob, BOBS_TAG, 2, "y1", "", ""));
    lab.assert_empty();
    assert_eq!(lab.records.len(), 1);
}

#[test]
fn a_reinvite_for_a_dialog_that_is_gone_hangs_up() {
    let mut lab = Lab::default();
    let call = answered(&mut lab);
    let sent = lab.access(ALICE, &from_alice("INVITE", &call.bob, BOBS_TAG, 2, "r1", "", &sdp(PRIVATE, 4000)));
    let invite = only(&sent, "INVITE").clone();
    let sent = lab.core(&answer(&invite, "481 Call Does Not Exist", "", "", ""));
    assert!(kinds(&sent).contains(&"access BYE".into()), "{:?}", kinds(&sent));
    lab.assert_empty();
    assert_eq!(lab.records.len(), 1);
}

#[test]
fn refused_and_fetched_subscriptions_leave_nothing() {
    for (expires, status) in [(3600, Some("403 Forbidden")), (3600, None), (0, Some("200 OK"))] {
        let mut lab = Lab::default();
        let more = format!("Event: presence\nExpires: {expires}");
        let sent = lab.access(ALICE, &from_alice("SUBSCRIBE", BOB_URI, "<sip:bob@example.test>", 1, "s1", &more, ""));
        let subscribe = only(&sent, "SUBSCRIBE").clone();
        if let Some(status) = status {
            lab.core(&answer(&subscribe, status, "b1", ROUTE, ""));
        }
        lab.wait(Duration::from_secs(32));
        lab.assert_empty();
    }
}

#[test]
fn a_subscription_ends_with_its_last_notify() {
    let mut lab = Lab::default();
    let more = "Event: dialog\nExpires: 3600";
    let sent = lab.access(ALICE, &from_alice("SUBSCRIBE", BOB_URI, "<sip:bob@example.test>", 1, "s1", more, ""));
    let subscribe = only(&sent, "SUBSCRIBE").clone();
    let alice = subscribe.contact();
    // The first NOTIFY overtakes the 200.
    let active = "Event: dialog\nSubscription-State: active;expires=3600\nRecord-Route: <sip:10.9.0.20;lr>";
    let sent = lab.core(&from_core("NOTIFY", &alice, 1, "n1", active, ""));
    let notify = only(&sent, "NOTIFY").clone();
    assert_eq!(notify.destination.to_string(), ALICE);
    lab.access(ALICE, &answer(&notify, "200 OK", "", "", ""));
    let sent = lab.core(&answer(&subscribe, "200 OK", "b1", ROUTE, ""));
    assert_eq!(only(&sent, "200").contact(), notify.contact());
    lab.wait(Duration::from_secs(1000));
    let more = "Event: dialog\nExpires: 3600";
    let sent = lab.access(ALICE, &from_alice("SUBSCRIBE", &notify.contact(), BOBS_TAG, 2, "s2", more, ""));
    let subscribe = only(&sent, "SUBSCRIBE").clone();
    assert_eq!(subscribe.header(Name::Route), "<sip:10.9.0.20;lr>");
    lab.core(&answer(&subscribe, "200 OK", "", ROUTE, ""));
    lab.wait(Duration::from_secs(3000));
    assert_eq!(lab.load().dialogs, 1, "refreshed");
    let over = "Event: dialog\nSubscription-State: terminated;reason=timeout";
    let sent = lab.core(&from_core("NOTIFY", &alice, 2, "n2", over, ""));
    let notify = only(&sent, "NOTIFY").clone();
    lab.access(ALICE, &answer(&notify, "200 OK", "", "", ""));
    lab.assert_empty();
}

#[test]
fn a_call_without_media_does_not_last_for_ever() {
    let mut lab = Lab::default();
    let sent = lab.access(ALICE, &from_alice("INVITE", BOB_URI, "<sip:bob@example.test>", 1, "i1", "", ""));
    let invite = only(&sent, "INVITE").clone();
    let sent = lab.core(&answer(&invite, "200 OK", "b1", ROUTE, ""));
    lab.access(ALICE, &from_alice("ACK", &only(&sent, "200").contact(), BOBS_TAG, 1, "k1", "", ""));
    lab.wait(Duration::from_secs(3500));
    assert_eq!(lab.load().calls, 1);
    lab.wait(Duration::from_secs(3800));
    lab.assert_empty();
    assert_eq!(lab.records.len(), 1);
}

#[test]
fn a_held_call_may_be_silent_for_long() {
    let mut lab = Lab::default();
    let call = answered(&mut lab);
    let hold = sdp(PRIVATE, 4000) + "a=inactive\n";
    let sent = lab.access(ALICE, &from_alice("INVITE", &call.bob, BOBS_TAG, 2, "r1", "", &hold));
    let invite = only(&sent, "INVITE").clone();
    lab.core(&answer(&invite, "200 OK", "", ROUTE, &(sdp("10.9.0.30", 6000) + "a=inactive\n")));
    lab.take();
    let stream = *lab.datapath.streams.keys().next().unwrap();
    for minute in 0..61 {
        lab.datapath.silence(stream);
        lab.settle();
        assert_eq!(lab.load().calls, usize::from(minute < 60), "minute {minute}");
        lab.wait(Duration::from_secs(60));
    }
    lab.assert_empty();
}

#[test]
fn a_reinvite_that_fails_after_an_early_answer_restores_the_session() {
    let mut lab = Lab::default();
    let call = answered(&mut lab);
    let before = lab.datapath.streams.clone();
    let offer = sdp(PRIVATE, 4444) + "m=video 5000 RTP/AVP 96\n";
    let sent = lab.access(ALICE, &from_alice("INVITE", &call.bob, BOBS_TAG, 2, "r1", "", &offer));
    let invite = only(&sent, "INVITE").clone();
    let early = sdp("10.9.0.30", 6666) + "m=video 6000 RTP/AVP 96\n";
    lab.core(&answer(&invite, "183 Session Progress", "", ROUTE, &early));
    assert_eq!(lab.datapath.streams.len(), 2);
    lab.core(&answer(&invite, "488 Not Acceptable Here", "", "", ""));
    assert_eq!(lab.datapath.streams, before);
    assert_eq!(lab.load().port_pairs, 2);
}

#[test]
fn an_answer_after_the_callers_transaction_is_over_is_acknowledged_and_hung_up() {
    let mut lab = Lab::default();
    let offer = sdp(PRIVATE, 4000);
    let sent =
        lab.access(ALICE, &from_alice("INVITE", "sip:bob@example.test", "<sip:bob@example.test>", 1, "i1", "", &offer));
    let invite = only(&sent, "INVITE").clone();
    lab.core(&answer(&invite, "180 Ringing", "b1", ROUTE, ""));
    lab.proxy.shutdown(lab.now);
    lab.settle();
    let sent = lab.take();
    let refused = only(&sent, "503").header(Name::To);
    lab.core(&answer(only(&sent, "CANCEL"), "200 OK", "", "", ""));
    lab.access(ALICE, &from_alice("ACK", "sip:bob@example.test", &refused, 1, "i1", "", ""));
    // Her transaction is gone after T4; the other one waits for its final response.
    lab.wait(Duration::from_secs(10));
    let ok = answer(&invite, "200 OK", "b1", ROUTE, &sdp("10.9.0.30", 6000));
    let sent = lab.core(&ok);
    assert_eq!(kinds(&sent), ["core ACK", "core BYE"]);
    assert_eq!(only(&sent, "ACK").header(Name::CSeq), "1 ACK");
    // Repeated, it is acknowledged again, and nothing more.
    assert_eq!(kinds(&lab.core(&ok)), ["core ACK"]);
    assert_eq!(lab.records.len(), 1);
    lab.assert_empty();
}

#[test]
fn a_record_does_not_grow_with_offers_that_come_to_nothing() {
    let mut lab = Lab::default();
    let call = answered(&mut lab);
    let many: String = (0..32).map(|n| format!("m=audio {} RTP/AVP 0\n", 4000 + 2 * n)).collect();
    let mut largest = 0;
    for cseq in 2..60 {
        let offer = sdp_of(PRIVATE, &many);
        let sent = lab.access(ALICE, &from_alice("INVITE", &call.bob, BOBS_TAG, cseq, &format!("r{cseq}"), "", &offer));
        let invite = only(&sent, "INVITE").clone();
        lab.core(&answer(&invite, "488 Not Acceptable Here", "", "", ""));
        lab.wait(Duration::from_secs(11));
        let bytes = lab.journal.values().map(Vec::len).sum::<usize>();
        if cseq == 10 {
            largest = bytes;
        }
    }
    assert!(lab.journal.values().map(Vec::len).sum::<usize>() <= largest + 100);
    let sent = lab.access(ALICE, &from_alice("BYE", &call.bob, BOBS_TAG, 99, "bye", "", ""));
    lab.core(&answer(only(&sent, "BYE"), "200 OK", "", "", ""));
    assert_eq!(lab.records[0].streams.len(), 32);
    lab.assert_empty();
}
