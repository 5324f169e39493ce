//! What offers and answers make of media: RTP and RTCP on one port, kinds of media, rates.

use crate::{calls::*, lab::*};
use proxy_user::{
    config::Config,
    media::{Carry, LegSpec, Rate},
};

const BOB_URI: &str = "sip:bob@example.test";
const BOB: &str = "<sip:bob@example.test>";
const CORE_MEDIA: &str = "10.9.0.30";

/// Body for Bob, body for Alice, and the legs of the only stream.
struct Outcome {
    offer: String,
    answer: String,
    legs: [LegSpec; 2],
    /// By which URI Alice reaches Bob.
    bob: String,
}

/// Alice calls with these media; Bob answers with those.
fn call(lab: &mut Lab, offer: &str, answered: &str) -> Outcome {
    call_from(lab, PRIVATE, offer, answered)
}

/// The same with Alice's address in her session description.
fn call_from(lab: &mut Lab, address: &str, offer: &str, answered: &str) -> Outcome {
    let sent = lab.access(ALICE, &from_alice("INVITE", BOB_URI, BOB, 1, "i1", "", &sdp_of(address, offer)));
    let invite = only(&sent, "INVITE").clone();
    let sent = lab.core(&answer(&invite, "200 OK", "b1", ROUTE, &sdp_of(CORE_MEDIA, answered)));
    let answer = only(&sent, "200").clone();
    let uri = answer.contact();
    lab.access(ALICE, &from_alice("ACK", &uri, BOBS_TAG, 1, "k1", "", ""));
    Outcome { offer: invite.body(), answer: answer.body(), legs: legs(lab), bob: uri }
}

fn legs(lab: &Lab) -> [LegSpec; 2] {
    let mut streams = lab.datapath.streams.values();
    let legs = streams.next().unwrap().legs.clone();
    assert!(streams.next().is_none());
    legs
}

fn muxed(legs: &[LegSpec; 2]) -> [bool; 2] {
    [legs[0].rtcp_mux, legs[1].rtcp_mux]
}

#[test]
fn each_side_shares_the_port_by_itself() {
    let plain = "m=audio 4000 RTP/AVP 0\n";
    let mux = "m=audio 4000 RTP/AVP 0\na=rtcp-mux\n";
    let with_rtcp = "m=audio 4000 RTP/AVP 0\na=rtcp:4017\na=rtcp-mux\n";
    let only_mux = "m=audio 4000 RTP/AVP 0\na=rtcp-mux-only\n";
    for (case, offer, answered, offered_mux, answered_mux, expected) in [
        ("nobody", plain, plain, false, false, [false, false]),
        ("both", mux, mux, true, true, [true, true]),
        ("Alice alone", mux, plain, true, true, [true, false]),
        ("Alice alone, whose RTCP would have an odd port", with_rtcp, plain, true, true, [true, false]),
        ("Alice can nothing else", only_mux, plain, true, true, [true, false]),
        ("nobody asked Bob", plain, mux, false, false, [false, false]),
    ] {
        let mut lab = Lab::default();
        let outcome = call_from(&mut lab, "198.51.100.1", offer, answered);
        assert_eq!(outcome.offer.contains("a=rtcp-mux\r\n"), offered_mux, "{case}: {}", outcome.offer);
        assert_eq!(outcome.answer.contains("a=rtcp-mux\r\n"), answered_mux, "{case}: {}", outcome.answer);
        assert!(!outcome.offer.contains("mux-only"), "{case}");
        assert_eq!(muxed(&outcome.legs), expected, "{case}");
        for (leg, shares) in outcome.legs.iter().zip(expected) {
            let remote = leg.remote.unwrap();
            let rtcp = if shares { remote.rtp.port() } else { remote.rtp.port() + 1 };
            assert_eq!(remote.rtcp.port(), rtcp, "{case}");
        }
    }
}

#[test]
fn an_answer_says_where_rtcp_goes() {
    let mut lab = Lab::default();
    let rtcp = "m=audio 4000 RTP/AVP 0\na=rtcp:4019\n";
    let outcome = call(&mut lab, &format!("{rtcp}a=rtcp-mux\n"), rtcp);
    let port = |body: &str, start: &str| -> u16 {
        let line = body.lines().find_map(|line| line.strip_prefix(start)).unwrap();
        line.split(' ').next().unwrap().parse().unwrap()
    };
    let ports = |body: &str| (port(body, "m=audio "), port(body, "a=rtcp:"));
    let (rtp, rtcp) = ports(&outcome.offer);
    assert_eq!(rtcp, rtp + 1, "in case that Bob does not share the port");
    let (rtp, rtcp) = ports(&outcome.answer);
    assert_eq!(rtcp, rtp, "RFC 8035");
    assert_eq!(outcome.legs[1].remote.unwrap().rtcp.port(), 4019, "Bob's odd port");
}

#[test]
fn who_shares_a_port_may_go_on_when_the_other_side_asks_again() {
    let mut lab = Lab::default();
    let mux = "m=audio 4000 RTP/AVP 0\na=rtcp-mux\n";
    let outcome = call(&mut lab, mux, "m=audio 4000 RTP/AVP 0\n");
    let stream = *lab.datapath.streams.keys().next().unwrap();
    let alice = lab.datapath.streams[&stream].legs[1].local;
    // Bob asks again, for another address, and knows nothing of it.
    let uri = {
        let sent = lab.access(ALICE, &from_alice("OPTIONS", &outcome.bob, BOBS_TAG, 2, "o1", "", ""));
        only(&sent, "OPTIONS").contact()
    };
    let offer = sdp_of(CORE_MEDIA, "m=audio 6100 RTP/AVP 0\n");
    let sent = lab.core(&from_core("INVITE", &uri, 1, "r1", "", &offer));
    let invite = only(&sent, "INVITE").clone();
    assert!(invite.body().contains("a=rtcp-mux\r\n"), "{}", invite.body());
    let contact = format!("Contact: <sip:alice@{PRIVATE}:5060>\n");
    let sent = lab.access(ALICE, &answer(&invite, "200 OK", "", &contact, &sdp_of(PRIVATE, mux)));
    assert!(!only(&sent, "200").body().contains("rtcp-mux"));
    let legs = legs(&lab);
    assert_eq!(muxed(&legs), [true, false]);
    assert_eq!((legs[1].local, legs[1].remote.unwrap().rtcp.port()), (alice, 6101));
}

#[test]
fn a_refused_offer_leaves_the_ports_as_they_were() {
    let mut lab = Lab::default();
    let mux = "m=audio 4000 RTP/AVP 0\na=rtcp-mux\n";
    let outcome = call(&mut lab, mux, mux);
    let uri = outcome.bob.as_str();
    let offer = sdp_of(PRIVATE, "m=audio 4000 RTP/AVP 0 9\n");
    let sent = lab.access(ALICE, &from_alice("INVITE", uri, BOBS_TAG, 2, "r1", "", &offer));
    let invite = only(&sent, "INVITE").clone();
    // Answered in a provisional response, and refused in the end.
    let early = sdp_of(CORE_MEDIA, "m=audio 4000 RTP/AVP 9\n");
    lab.core(&answer(&invite, "183 Session Progress", "", ROUTE, &early));
    assert_eq!(muxed(&legs(&lab)), [false, false]);
    lab.core(&answer(&invite, "488 Not Acceptable Here", "", "", ""));
    assert_eq!(legs(&lab), outcome.legs);
}

#[test]
fn kinds_of_media_say_what_is_carried() {
    let none = Carry::default();
    let image = "m=image 4000 udptl t38\na=T38FaxVersion:0\n";
    let dtls = "m=audio 4000 UDP/TLS/RTP/SAVPF 0\na=fingerprint:sha-256 AB:CD\na=setup:actpass\n";
    let zrtp = "m=audio 4000 RTP/AVP 0\na=zrtp-hash:1.10 fe30efd0\n";
    for (media, answered, carry) in [
        ("m=audio 4000 RTP/AVP 0\n", None, none),
        ("m=audio 4000 RTP/SAVP 0\na=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:x\n", None, none),
        (dtls, None, Carry { dtls: true, ..none }),
        (zrtp, Some("m=audio 4000 RTP/AVP 0\n"), Carry { zrtp: true, ..none }),
        ("m=audio 4000 RTP/AVP 0\n", Some(zrtp), Carry { zrtp: true, ..none }),
        (image, None, Carry { udptl: true, ..none }),
    ] {
        let mut lab = Lab::default();
        let outcome = call(&mut lab, media, answered.unwrap_or(media));
        for leg in &outcome.legs {
            assert_eq!(leg.policy.carry, carry, "{media}");
            assert_eq!(leg.payload_types.is_empty(), carry.udptl);
        }
        for line in media.lines().skip(1) {
            assert!(outcome.offer.contains(line), "{line} in {}", outcome.offer);
        }
    }
}

#[test]
fn a_realm_says_what_else_is_carried() {
    let mut config = config();
    config.realms.get_mut(ACCESS).unwrap().policy.carry = Carry { stun: true, zrtp: true, ..Carry::default() };
    let mut lab = Lab::new(config);
    let dtls = "m=audio 4000 UDP/TLS/RTP/SAVP 0\na=ice-ufrag:abcd\n";
    let outcome = call(&mut lab, dtls, dtls);
    let of_both = Carry { dtls: true, ..Carry::default() };
    let [access, core] = &outcome.legs;
    assert_eq!(access.policy.carry, Carry { stun: true, zrtp: true, ..of_both });
    assert_eq!(core.policy.carry, of_both);
    assert!(!outcome.offer.contains("ice-"));
}

#[test]
fn a_call_becomes_a_fax_and_talks_again() {
    let mut lab = Lab::default();
    let audio = "m=audio 4000 RTP/AVP 8\n";
    let image = "m=image 4000 udptl t38\n";
    let before = call(&mut lab, audio, audio);
    let uri = before.bob.as_str();
    for (cseq, media, udptl, clock_rate) in [(2, image, true, 0), (3, audio, false, 8_000)] {
        let branch = format!("r{cseq}");
        let offer = sdp_of(PRIVATE, media);
        let sent = lab.access(ALICE, &from_alice("INVITE", uri, BOBS_TAG, cseq, &branch, "", &offer));
        let invite = only(&sent, "INVITE").clone();
        assert_eq!(legs(&lab)[0].policy.carry.udptl, !udptl, "not before it is answered");
        lab.core(&answer(&invite, "200 OK", "", ROUTE, &sdp_of(CORE_MEDIA, media)));
        lab.access(ALICE, &from_alice("ACK", uri, BOBS_TAG, cseq, &format!("k{cseq}"), "", ""));
        let now = legs(&lab);
        assert_eq!(now[0].local, before.legs[0].local);
        for leg in &now {
            assert_eq!((leg.policy.carry.udptl, leg.policy.clock_rate), (udptl, clock_rate));
            assert!(leg.policy.rate.is_some());
        }
    }
}

/// The rates of both legs with the margin taken off, kbit/s.
fn rates(config: Config, offer: &str, answered: &str) -> [Option<u32>; 2] {
    let mut lab = Lab::new(config);
    let legs = call(&mut lab, offer, answered).legs;
    legs.map(|leg| leg.policy.rate.map(|Rate { bytes_per_s, .. }| bytes_per_s * 8 / 1_500))
}

#[test]
fn a_leg_lets_in_what_was_negotiated() {
    let g711 = "m=audio 4000 RTP/AVP 0 8\n";
    let many = "m=audio 4000 RTP/AVP 96 0 18\na=rtpmap:96 opus/48000/2\n";
    let g729 = "m=audio 4000 RTP/AVP 18\n";
    let video = "m=video 4000 RTP/AVP 97\na=rtpmap:97 H264/90000\n";
    let slow_opus = "m=audio 4000 RTP/AVP 96\na=rtpmap:96 opus/48000/2\na=fmtp:96 maxaveragebitrate=64000\n";
    let opus = "m=audio 4000 RTP/AVP 102\na=rtpmap:102 opus/48000/2\n";
    for (offer, answered, expected) in [
        (g711, g711, [Some(80), Some(80)]),
        // 42 with the margin is less than rate_min_kbps.
        (many, g729, [Some(42), Some(42)]),
        (video, video, [None, None]),
        (&format!("{video}b=AS:300\n"), &format!("{video}b=AS:800\n"), [Some(800), Some(300)]),
        (&format!("{g711}a=ptime:10\n"), g711, [Some(96), Some(96)]),
        // The bound is the offerer's as a receiver: for what comes from the answerer.
        (slow_opus, opus, [Some(144), Some(80)]),
    ] {
        assert_eq!(rates(config(), offer, answered), expected, "{offer}");
    }
    let mut off = config();
    off.realms.get_mut(CORE).unwrap().policy.negotiated_rate = false;
    assert_eq!(rates(off, g711, g711), [Some(80), None]);
}

#[test]
fn what_leaves_is_marked_as_its_realm_says() {
    let mut config = config();
    config.realms.get_mut(ACCESS).unwrap().policy.dscp = [Some(46), Some(34), Some(8)];
    config.realms.get_mut(CORE).unwrap().policy.dscp = [None, None, Some(0)];
    for (media, expected) in [
        ("m=audio 4000 RTP/AVP 0\n", [Some(46), None]),
        ("m=video 4000 RTP/AVP 31\n", [Some(34), None]),
        ("m=image 4000 udptl t38\n", [Some(8), Some(0)]),
    ] {
        let mut lab = Lab::new(config.clone());
        let legs = call(&mut lab, media, media).legs;
        assert_eq!(legs.map(|leg| leg.policy.dscp), expected, "{media}");
    }
}

#[test]
fn a_refresh_with_the_same_description_is_an_offer_like_any_other() {
    let mut lab = Lab::default();
    let call = answered(&mut lab);
    let before = legs(&lab);
    let offer = sdp(PRIVATE, 4000);
    let sent = lab.access(ALICE, &from_alice("INVITE", &call.bob, BOBS_TAG, 2, "r1", "", &offer));
    let refresh = only(&sent, "INVITE").clone();
    // Bob offers at the same time: one of the two has to wait.
    let crossing = sdp_of(CORE_MEDIA, "m=audio 6100 RTP/AVP 0\n");
    let sent = lab.core(&from_core("UPDATE", &call.alice, 7, "u1", "", &crossing));
    assert_eq!(kinds(&sent), ["core 491"]);
    let sent = lab.core(&answer(&refresh, "200 OK", "", ROUTE, &sdp(CORE_MEDIA, 6000)));
    assert_ne!(only(&sent, "200").media(0).1, 0, "{sent:?}");
    lab.access(ALICE, &from_alice("ACK", &call.bob, BOBS_TAG, 2, "a2", "", ""));
    // One that fails after an early answer leaves all as it was.
    let sent = lab.access(ALICE, &from_alice("INVITE", &call.bob, BOBS_TAG, 3, "r2", "", &offer));
    let refresh = only(&sent, "INVITE").clone();
    lab.core(&answer(&refresh, "183 Session Progress", "", ROUTE, &sdp(CORE_MEDIA, 6000)));
    lab.core(&answer(&refresh, "500 Server Internal Error", "", "", ""));
    assert_eq!(legs(&lab), before);
    assert_eq!(lab.datapath.streams.len(), 1);
}

#[test]
fn an_ack_without_the_answer_that_it_owes_leaves_the_media_as_they_were() {
    let mut lab = Lab::default();
    let call = answered(&mut lab);
    let before = legs(&lab);
    let sent = lab.access(ALICE, &from_alice("INVITE", &call.bob, BOBS_TAG, 2, "r1", "", ""));
    let invite = only(&sent, "INVITE").clone();
    let sent = lab.core(&answer(&invite, "200 OK", "", ROUTE, &sdp(CORE_MEDIA, 6200)));
    assert_ne!(only(&sent, "200").media(0).1, 0);
    lab.access(ALICE, &from_alice("ACK", &call.bob, BOBS_TAG, 2, "a2", "", ""));
    assert_eq!(legs(&lab), before);
    // Both may offer again.
    let sent = lab.core(&from_core("UPDATE", &call.alice, 7, "u1", "", &sdp(CORE_MEDIA, 6300)));
    let update = only(&sent, "UPDATE").clone();
    lab.access(ALICE, &answer(&update, "200 OK", "", "", &sdp(PRIVATE, 4000)));
    let sent = lab.access(ALICE, &from_alice("INVITE", &call.bob, BOBS_TAG, 3, "r2", "", &sdp(PRIVATE, 4000)));
    assert_eq!(kinds(&sent), ["access 100", "core INVITE"]);
}
