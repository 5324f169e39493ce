//! Phones and softswitches of either IP version, on either side.

use crate::{calls::LIKE_A_PHONE, lab::*, registrations::*};
use proxy_user::{
    accounting::EndCause,
    media::Carry,
    signalling::sip::{Message, Name},
};
use std::{net::IpAddr, time::Duration};

/// Addresses of one network: Latch's own, the other party's signalling and its media.
#[derive(Clone, Copy)]
struct Network {
    own: &'static str,
    peer: &'static str,
    media: &'static str,
}

const ACCESS_V4: Network = Network { own: OWN_ACCESS, peer: ALICE, media: PRIVATE };
const ACCESS_V6: Network =
    Network { own: "2001:db8:a::10", peer: "[2001:db8:a:1::7]:5060", media: "2001:DB8:A:1:0::7" };
const CORE_V4: Network = Network { own: OWN_CORE, peer: SOFTSWITCH, media: "10.9.0.30" };
const CORE_V6: Network = Network { own: "2001:db8:c::10", peer: "[2001:db8:c::20]:5060", media: "2001:db8:c::30" };

/// A request of the phone, with the addresses that it knows.
fn from_phone(network: Network, method: &str, uri: &str, to: &str, cseq: u32, more: &str, body: &str) -> String {
    let host = host_text(network.media);
    sip(&format!(
        "{method} {uri} SIP/2.0
        Via: SIP/2.0/UDP {host}:5060;branch=z9hG4bK{method}{cseq};rport
        Max-Forwards: 70
        From: <sip:alice@example.test>;tag=a1
        To: {to}
        Call-ID: call-1
        CSeq: {cseq} {method}
        Contact: <sip:alice@{host}:5060>
        X-Route: via {} and {host}
        {LIKE_A_PHONE}
        {more}\n\n{body}",
        network.own
    ))
}

fn version(address: &str) -> &'static str {
    if address.contains(':') { "IP6" } else { "IP4" }
}

#[test]
fn calls_cross_ip_versions_both_ways() {
    for (access, core) in [(ACCESS_V6, CORE_V4), (ACCESS_V4, CORE_V6), (ACCESS_V6, CORE_V6)] {
        let mut lab = Lab::new(networks(access.own, core.own, core.peer));
        let offer = sdp(access.media, 4000);
        let bob = "<sip:bob@example.test>";
        let sent = lab.access(access.peer, &from_phone(access, "INVITE", "sip:bob@example.test", bob, 1, "", &offer));
        let peer: std::net::SocketAddr = access.peer.parse().unwrap();
        let via = only(&sent, "100").header(Name::Via);
        assert!(via.contains(&format!(";received={}", peer.ip())) && via.contains(&format!(";rport={}", peer.port())));
        let invite = only(&sent, "INVITE").clone();
        assert_eq!(invite.destination.to_string(), core.peer);
        let own = format!("{}:5060", host_text(core.own));
        assert!(invite.header(Name::Via).starts_with(&format!("SIP/2.0/UDP {own};")), "{}", invite.text);
        assert!(invite.contact().ends_with(&format!("@{own}")), "{}", invite.text);
        assert!(!invite.text.contains("X-Route"), "{}", invite.text);
        assert_eq!(invite.media(0).0, core.own);
        let origin = format!("o=- 1 1 IN {} {}\r\n", version(core.own), core.own);
        assert!(invite.body().contains(&origin), "{}", invite.body());

        let server = host_text(core.peer.rsplit_once(':').unwrap().0.trim_matches(['[', ']']));
        let bobs = host_text(core.media);
        let more = format!("Record-Route: <sip:{server};lr>\nContact: <sip:bob@{bobs}:5060>\nX-Seen: {}\n", core.own);
        let media = "m=audio 6000 RTP/AVP 0\na=rtcp:6007 IN {v} {a}\n";
        let media = media.replace("{v}", version(core.media)).replace("{a}", core.media);
        let sent = lab.core(&answer(&invite, "200 OK", "b1", &more, &sdp_of(core.media, &media)));
        let ok = only(&sent, "200");
        assert_eq!((ok.destination.remote, ok.media(0).0.as_str()), (peer, access.own));
        let rtcp = format!("a=rtcp:{} IN {} {}\r\n", ok.media(0).1 + 1, version(access.own), access.own);
        assert!(ok.body().contains(&rtcp), "{}", ok.body());
        assert!(!ok.text.contains("X-Seen"), "{}", ok.text);
        let (to, uri) = (ok.header(Name::To), ok.contact());

        let spec = lab.datapath.streams.values().next().unwrap().clone();
        let [terminal, softswitch] = &spec.legs;
        assert_eq!(terminal.local.ip(), access.own.parse::<IpAddr>().unwrap());
        assert_eq!(softswitch.local.ip(), core.own.parse::<IpAddr>().unwrap());
        assert_eq!(terminal.signalling, Some(peer.ip()));
        assert_eq!(terminal.send_before_latch, peer.is_ipv6(), "there is no NAT before an IPv6 phone here");
        assert_eq!(terminal.remote.map(|remote| remote.rtp.port()), peer.is_ipv6().then_some(4000));
        assert_eq!(softswitch.remote.unwrap().rtcp.port(), 6007);
        assert!(terminal.open && softswitch.open && softswitch.send_before_latch);
        assert_eq!(terminal.policy.carry, Carry::default());

        let sent = lab.access(access.peer, &from_phone(access, "ACK", &uri, &to, 1, "", ""));
        let ack = only(&sent, "ACK");
        assert_eq!((ack.destination.to_string(), ack.uri()), (core.peer.into(), format!("sip:bob@{bobs}:5060")));
        let sent = lab.access(access.peer, &from_phone(access, "BYE", &uri, &to, 2, "", ""));
        let bye = only(&sent, "BYE").clone();
        lab.core(&answer(&bye, "200 OK", "", "", ""));
        assert_eq!(lab.records[0].end_cause, EndCause::ByeCaller);
        assert_eq!(lab.records[0].terminal.source, peer);
        lab.assert_empty();
    }
}

#[test]
fn a_registered_ipv6_phone_is_kept_alive_and_called() {
    let (access, core) = (ACCESS_V6, CORE_V4);
    let mut config = networks(access.own, core.own, core.peer);
    config.keepalive.period = Some(Duration::from_secs(25));
    let mut lab = Lab::new(config);
    let host = host_text(access.media);
    let request = |contact: &str, expires: u32| {
        from_phone(access, "REGISTER", "sip:example.test", "<sip:alice@example.test>", expires, "", "")
            .replace(&format!("Contact: <sip:alice@{host}:5060>"), &format!("Contact: {contact}"))
    };
    let sent = lab.access(access.peer, &request(&format!("<sip:alice@{host}:5060>;expires=600"), 1));
    let register = only(&sent, "REGISTER").clone();
    let shown = register.header(Name::Contact);
    let sent = lab.core(&answer(&register, "200 OK", "r", &format!("Contact: {shown}\n"), ""));
    assert_eq!(only(&sent, "200").contact(), format!("sip:alice@{host}:5060"));
    assert_eq!(lab.proxy.registrations().next().unwrap().flow.to_string(), access.peer);

    lab.wait(Duration::from_secs(26));
    let options = lab.take()[0].clone();
    assert_eq!(options.kind(), "OPTIONS");
    assert_eq!(options.destination.to_string(), access.peer);
    assert!(options.header(Name::Via).starts_with("SIP/2.0/UDP [2001:db8:a::10]:5060;"), "{}", options.text);
    assert_eq!(kinds(&lab.access(access.peer, &answer(&options, "200 OK", "k", "", ""))), [""; 0]);

    let sent = lab.core(&outside("INVITE", &register.contact(), "i9", "", &sdp(core.media, 6000)));
    let invite = only(&sent, "INVITE").clone();
    assert_eq!(invite.uri(), format!("sip:alice@{host}:5060"));
    assert_eq!(invite.media(0).0, access.own);
    let contact = format!("Contact: <sip:alice@{host}:5060>\n");
    let sent = lab.access(access.peer, &answer(&invite, "200 OK", "a9", &contact, &sdp(access.media, 4000)));
    assert_eq!(only(&sent, "200").media(0).0, core.own);
}

#[test]
fn latch_knows_itself_however_its_address_is_written() {
    let mut lab = Lab::new(networks(ACCESS_V6.own, CORE_V4.own, CORE_V4.peer));
    for own in ["[2001:db8:a::10]", "[2001:DB8:000A:0::10]:5060"] {
        let request = from_phone(ACCESS_V6, "OPTIONS", &format!("sip:{own}"), "<sip:latch@example.test>", 1, "", "")
            .replace("z9hG4bKOPTIONS1", &format!("z9hG4bK{}", own.len()));
        assert_eq!(kinds(&lab.access(ACCESS_V6.peer, &request)), ["access 200"], "{own}");
    }
    // As the domain of a user, it represents the softswitch.
    let request =
        from_phone(ACCESS_V6, "MESSAGE", "sip:bob@[2001:DB8:A::10]", "<sip:bob@[2001:db8:a:0::10]>", 2, "", "");
    let sent = lab.access(ACCESS_V6.peer, &request);
    let message = only(&sent, "MESSAGE");
    assert_eq!((message.uri(), message.header(Name::To)), ("sip:bob@10.9.0.20".into(), "<sip:bob@10.9.0.20>".into()));
    assert_eq!(Message::parse(message.text.as_bytes()).unwrap().values(Name::Via).count(), 1);
}

#[test]
fn an_address_of_the_other_version_cannot_be_sent_to() {
    let mut lab = Lab::new(networks(ACCESS_V6.own, CORE_V4.own, CORE_V4.peer));
    // A phone behind a translator may state its IPv4 address.
    let offer = sdp(PRIVATE, 4000);
    let text = from_phone(ACCESS_V6, "INVITE", "sip:bob@example.test", "<sip:bob@example.test>", 1, "", &offer);
    lab.access(ACCESS_V6.peer, &text);
    let spec = lab.datapath.streams.values().next().unwrap();
    assert_eq!((spec.legs[0].remote, spec.legs[0].send_before_latch), (None, false));
    assert_eq!(spec.legs[0].signalling, Some("2001:db8:a:1::7".parse().unwrap()));
}
