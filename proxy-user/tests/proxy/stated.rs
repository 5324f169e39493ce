//! Whose statements count: media addresses by the trust of their realm.

use crate::{calls::*, lab::*};
use proxy_user::{
    config::{Config, Side, Trust},
    media::{LegSpec, RealmId},
};
use std::net::SocketAddr;

const BOB_URI: &str = "sip:bob@example.test";

/// The address that ALICE's signalling comes from.
const NAT: &str = "198.51.100.1";
const STRANGER: &str = "203.0.113.66";
const SWITCH: &str = "10.9.0.20";
const GATEWAY: &str = "10.9.0.30";

fn trusting(realm: RealmId, trust: Trust) -> Config {
    let mut config = config();
    config.realms.get_mut(realm).unwrap().trust = trust;
    config
}

/// The legs of a call in which both sides state these.
fn legs(config: Config, alice: &str, bob: &str) -> [LegSpec; 2] {
    let mut lab = Lab::new(config);
    lab.strict = false;
    let sent = lab.access(ALICE, &from_alice("INVITE", BOB_URI, "<sip:bob@example.test>", 1, "i1", "", alice));
    let invite = only(&sent, "INVITE").clone();
    lab.core(&answer(&invite, "200 OK", "b1", ROUTE, bob));
    assert!(lab.records.is_empty(), "the call goes on");
    lab.datapath.streams.values().next().unwrap().legs.clone()
}

fn stated(address: &str, rtcp: &str) -> String {
    sdp_of(address, &format!("m=audio 4000 RTP/AVP 0\n{rtcp}"))
}

#[test]
fn a_media_address_counts_where_its_realm_is_trusted_or_its_signalling_comes_from_there() {
    let strict = Trust { trusted: false, ..Trust::of(Side::Core) };
    let believed = Trust { believes_media: true, ..strict };
    let trusted = Trust { trusted: true, ..strict };
    for (case, realm, trust, address, counts) in [
        ("a terminal's private address", ACCESS, strict, PRIVATE, false),
        ("a third address that a terminal states", ACCESS, strict, STRANGER, false),
        ("the address that its signalling comes from", ACCESS, strict, NAT, true),
        ("any, where the realm believes it", ACCESS, believed, PRIVATE, true),
        ("any, where the realm is trusted", ACCESS, trusted, PRIVATE, true),
        ("a gateway of the softswitch", CORE, trusted, GATEWAY, true),
        ("a gateway of a softswitch that is not trusted", CORE, strict, GATEWAY, false),
        ("its own address", CORE, strict, SWITCH, true),
        ("a gateway whose realm believes it", CORE, believed, GATEWAY, true),
    ] {
        let (alice, bob) = if realm == ACCESS { (address, GATEWAY) } else { (NAT, address) };
        let legs = legs(trusting(realm, trust), &stated(alice, ""), &stated(bob, ""));
        let leg = legs.iter().find(|leg| leg.realm == realm).unwrap();
        let remote = leg.remote.map(|remote| [remote.rtp, remote.rtcp]);
        let expected = [4000, 4001].map(|port| SocketAddr::new(address.parse().unwrap(), port));
        assert_eq!(remote, counts.then_some(expected), "{case}");
        assert_eq!(leg.send_before_latch, counts, "{case}: nothing is sent where it does not count");
        assert!(leg.open && leg.signalling.is_some(), "{case}");
    }
}

#[test]
fn an_rtcp_address_that_does_not_count_is_the_port_beside_rtp() {
    let default = |realm: RealmId| config().realms.get(realm).unwrap().trust;
    for (case, realm, address, rtcp, expected) in [
        ("a stranger's", ACCESS, NAT, format!("a=rtcp:5555 IN IP4 {STRANGER}\n"), format!("{NAT}:4001")),
        ("of the other IP version", ACCESS, NAT, "a=rtcp:5555 IN IP6 2001:db8::10\n".into(), format!("{NAT}:4001")),
        ("a port of its own", ACCESS, NAT, "a=rtcp:5555\n".into(), format!("{NAT}:5555")),
        ("another host of the core", CORE, GATEWAY, "a=rtcp:5555 IN IP4 10.9.0.43\n".into(), "10.9.0.43:5555".into()),
        (
            "of the other IP version",
            CORE,
            GATEWAY,
            "a=rtcp:5555 IN IP6 2001:db8::10\n".into(),
            format!("{GATEWAY}:4001"),
        ),
    ] {
        let (alice, bob) = match realm {
            ACCESS => (stated(address, &rtcp), stated(GATEWAY, "")),
            _ => (stated(NAT, ""), stated(address, &rtcp)),
        };
        let legs = legs(trusting(realm, default(realm)), &alice, &bob);
        let leg = legs.iter().find(|leg| leg.realm == realm).unwrap();
        assert_eq!(leg.remote.unwrap().rtcp.to_string(), expected, "{case}");
    }
}

#[test]
fn a_terminal_that_states_another_port_begins_a_new_epoch_and_one_that_repeats_itself_does_not() {
    let mut lab = Lab::default();
    let call = answered(&mut lab);
    let epochs = |lab: &Lab| lab.datapath.streams.values().next().unwrap().legs.clone().map(|leg| leg.epoch);
    assert_eq!(epochs(&lab), [1, 1]);
    let mut reinvite = |cseq: u32, port: u16| {
        let branch = format!("r{cseq}");
        let text = from_alice("INVITE", &call.bob, BOBS_TAG, cseq, &branch, "", &sdp(PRIVATE, port));
        let invite = only(&lab.access(ALICE, &text), "INVITE").clone();
        lab.core(&answer(&invite, "200 OK", "", ROUTE, &sdp("10.9.0.30", 6000)));
        lab.access(ALICE, &from_alice("ACK", &call.bob, BOBS_TAG, cseq, &format!("k{cseq}"), "", ""));
        assert_eq!(lab.datapath.streams.values().next().unwrap().legs[0].remote, None);
        epochs(&lab)
    };
    assert_eq!(reinvite(2, 4000), [1, 1]);
    assert_eq!(reinvite(3, 4444), [2, 1]);
    assert_eq!(reinvite(4, 4444), [2, 1]);
}
