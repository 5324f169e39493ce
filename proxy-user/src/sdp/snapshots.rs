//! Session descriptions of real kinds of peers, as they arrive and as they go out.

use super::*;
use crate::media::{
    RemoteMedia,
    bandwidth::{Codec, Format, Stated},
};

/// Rewrites with relay ports 30000/30001 for the first media description, 30002/30003 for the second and so on.
fn rewritten(body: &str) -> String {
    rewritten_with(body, false)
}

/// The same, RTP and RTCP on one port where `rtcp_mux` says so.
fn rewritten_with(body: &str, rtcp_mux: bool) -> String {
    let session = Session::parse(body.as_bytes()).unwrap();
    let media = (0..session.media().len() as u16)
        .map(|index| MediaPlan::Relay { rtp_port: 30_000 + 2 * index, rtcp_port: 30_001 + 2 * index, rtcp_mux })
        .collect();
    String::from_utf8(session.rewrite(&Rewrite { address: "203.0.113.10".parse().unwrap(), media })).unwrap()
}

/// Lines with CRLF.
fn crlf(lines: &[&str]) -> String {
    lines.iter().flat_map(|line| [line, "\r\n"]).collect()
}

/// The only media description of a body.
fn only_media(body: &str) -> MediaSection {
    let session = Session::parse(body.as_bytes()).unwrap();
    assert_eq!(session.media().len(), 1);
    session.media()[0].clone()
}

fn remote(rtp: &str, rtcp: &str) -> Option<RemoteMedia> {
    Some(RemoteMedia { rtp: rtp.parse().unwrap(), rtcp: rtcp.parse().unwrap() })
}

#[test]
fn sipp() {
    let body = crlf(&[
        "v=0",
        "o=user1 53655765 2353687637 IN IP4 192.168.1.5",
        "s=-",
        "c=IN IP4 192.168.1.5",
        "t=0 0",
        "m=audio 6000 RTP/AVP 0",
        "a=rtpmap:0 PCMU/8000",
    ]);
    let media = only_media(&body);
    assert_eq!(
        (&media.kind, &media.protocol, media.direction),
        (&MediaKind::Audio, &Protocol::RtpAvp, Direction::SendRecv)
    );
    assert_eq!(media.remote(), remote("192.168.1.5:6000", "192.168.1.5:6001"));
    assert_eq!(media.payload_types, [0].into_iter().collect());
    assert_eq!(media.clock_rate(), 8_000);
    assert_eq!(
        rewritten(&body),
        crlf(&[
            "v=0",
            "o=user1 53655765 2353687637 IN IP4 203.0.113.10",
            "s=-",
            "c=IN IP4 203.0.113.10",
            "t=0 0",
            "m=audio 30000 RTP/AVP 0",
            "a=rtpmap:0 PCMU/8000",
        ])
    );
}

#[test]
fn baresip() {
    let body = crlf(&[
        "v=0",
        "o=- 3345291134 1870332745 IN IP4 192.168.1.5",
        "s=-",
        "c=IN IP4 192.168.1.5",
        "t=0 0",
        "a=tool:baresip 1.0.0",
        "m=audio 20518 RTP/AVP 96 0 8 101",
        "b=AS:125",
        "a=rtpmap:96 opus/48000/2",
        "a=fmtp:96 stereo=1;sprop-stereo=1",
        "a=rtpmap:101 telephone-event/8000",
        "a=fmtp:101 0-15",
        "a=rtcp:20519",
        "a=sendrecv",
        "a=label:1",
        "a=rtcp-rsize",
        "a=ssrc:1415926535 cname:sip:alice@192.168.1.5",
        "a=ptime:20",
        "m=video 31072 RTP/AVP 97",
        "a=rtpmap:97 H264/90000",
        "a=rtcp:31073 IN IP4 192.168.1.5",
        "a=recvonly",
    ]);
    let session = Session::parse(body.as_bytes()).unwrap();
    assert_eq!(session.media()[0].payload_types, [96, 0, 8, 101].into_iter().collect());
    assert_eq!(session.media()[0].clock_rate(), 48_000, "of the first format");
    assert_eq!(session.media()[0].rtcp, Some(Rtcp { port: 20519, address: None }));
    assert_eq!(session.media()[1].kind, MediaKind::Video);
    assert_eq!(session.media()[1].direction, Direction::RecvOnly);
    assert_eq!(session.media()[1].remote(), remote("192.168.1.5:31072", "192.168.1.5:31073"));
    assert_eq!(
        rewritten(&body),
        crlf(&[
            "v=0",
            "o=- 3345291134 1870332745 IN IP4 203.0.113.10",
            "s=-",
            "c=IN IP4 203.0.113.10",
            "t=0 0",
            "a=tool:baresip 1.0.0",
            "m=audio 30000 RTP/AVP 96 0 8 101",
            "b=AS:125",
            "a=rtpmap:96 opus/48000/2",
            "a=fmtp:96 stereo=1;sprop-stereo=1",
            "a=rtpmap:101 telephone-event/8000",
            "a=fmtp:101 0-15",
            "a=rtcp:30001",
            "a=sendrecv",
            "a=label:1",
            "a=rtcp-rsize",
            "a=ptime:20",
            "m=video 30002 RTP/AVP 97",
            "a=rtpmap:97 H264/90000",
            "a=rtcp:30003 IN IP4 203.0.113.10",
            "a=recvonly",
        ])
    );
}

#[test]
fn chrome() {
    let body = crlf(&[
        "v=0",
        "o=- 4611731400430051336 2 IN IP4 127.0.0.1",
        "s=-",
        "t=0 0",
        "a=group:BUNDLE 0 1",
        "a=extmap-allow-mixed",
        "a=msid-semantic: WMS stream",
        "m=audio 58779 UDP/TLS/RTP/SAVPF 111 63 0",
        "c=IN IP4 198.51.100.7",
        "a=rtcp:9 IN IP4 0.0.0.0",
        "a=candidate:1467250027 1 udp 2122260223 192.168.1.5 46243 typ host generation 0",
        "a=candidate:1853887674 1 udp 1518280447 198.51.100.7 58779 typ srflx raddr 192.168.1.5 rport 46243",
        "a=end-of-candidates",
        "a=ice-ufrag:F7gI",
        "a=ice-pwd:x9cml/YzichV2+XlhiMu8g",
        "a=ice-options:trickle",
        "a=fingerprint:sha-256 D2:FA:0E:C3:22:59:5E:14:95:69:92:3D:13:B4:84:24:2C:C2:A2:C0:3E:FD:34:8E:5E:EA:6F:AF:52:CE:E6:0F",
        "a=setup:actpass",
        "a=mid:0",
        "a=sendrecv",
        "a=rtcp-mux",
        "a=rtpmap:111 opus/48000/2",
        "a=rtcp-fb:111 transport-cc",
        "a=ssrc:3570614608 cname:4TOk42mSjXCkVIa6",
        "m=video 0 UDP/TLS/RTP/SAVPF 96",
        "c=IN IP4 0.0.0.0",
        "a=bundle-only",
        "a=rtcp-mux-only",
        "a=mid:1",
    ]);
    let session = Session::parse(body.as_bytes()).unwrap();
    assert_eq!(session.media()[0].protocol, Protocol::DtlsSavpf);
    assert!(session.media()[0].rtcp_mux && session.media()[0].relayable());
    assert_eq!(
        rewritten(&body),
        crlf(&[
            "v=0",
            "o=- 4611731400430051336 2 IN IP4 203.0.113.10",
            "s=-",
            "t=0 0",
            "a=extmap-allow-mixed",
            "a=msid-semantic: WMS stream",
            "m=audio 30000 UDP/TLS/RTP/SAVPF 111 63 0",
            "c=IN IP4 203.0.113.10",
            "a=rtcp:30001 IN IP4 203.0.113.10",
            "a=fingerprint:sha-256 D2:FA:0E:C3:22:59:5E:14:95:69:92:3D:13:B4:84:24:2C:C2:A2:C0:3E:FD:34:8E:5E:EA:6F:AF:52:CE:E6:0F",
            "a=setup:actpass",
            "a=mid:0",
            "a=sendrecv",
            "a=rtpmap:111 opus/48000/2",
            "a=rtcp-fb:111 transport-cc",
            "a=ssrc:3570614608 cname:4TOk42mSjXCkVIa6",
            "m=video 0 UDP/TLS/RTP/SAVPF 96",
            "c=IN IP4 0.0.0.0",
            "a=mid:1",
        ])
    );
}

#[test]
fn rtcp_mux_is_there_where_it_is_planned() {
    let chrome = [
        "v=0",
        "c=IN IP4 198.51.100.7",
        "m=audio 58779 UDP/TLS/RTP/SAVPF 0",
        "a=rtcp:9 IN IP4 0.0.0.0",
        "a=rtcp-mux",
        "a=rtcp-mux",
        "a=mid:0",
        "m=video 58781 UDP/TLS/RTP/SAVPF 96",
        "a=RTCP-MUX-ONLY",
        "a=mid:1",
        "m=audio 0 RTP/AVP 0",
        "a=rtcp-mux",
        "m=image 58783 udptl t38",
        "a=rtcp-mux",
    ];
    let session = Session::parse(crlf(&chrome).as_bytes()).unwrap();
    assert!(session.media()[0].rtcp_mux && session.media()[1].rtcp_mux);
    assert_eq!(
        rewritten_with(&crlf(&chrome), true),
        crlf(&[
            "v=0",
            "c=IN IP4 203.0.113.10",
            "m=audio 30000 UDP/TLS/RTP/SAVPF 0",
            "a=rtcp:30001 IN IP4 203.0.113.10",
            "a=rtcp-mux",
            "a=mid:0",
            "m=video 30002 UDP/TLS/RTP/SAVPF 96",
            "a=mid:1",
            "a=rtcp-mux",
            "m=audio 0 RTP/AVP 0",
            "m=image 30006 udptl t38",
            "a=rtcp-mux",
        ])
    );
    assert!(!rewritten(&crlf(&chrome)).contains("rtcp-mux"));
    for (body, expected) in [
        ("v=0\nm=audio 4000 RTP/AVP 0", "v=0\nm=audio 30000 RTP/AVP 0\r\na=rtcp-mux"),
        ("v=0\nm=audio 4000 RTP/AVP 0\n", "v=0\nm=audio 30000 RTP/AVP 0\na=rtcp-mux\n"),
        ("v=0\nm=audio 4000 RTP/AVP 0\n\n", "v=0\nm=audio 30000 RTP/AVP 0\na=rtcp-mux\n\n"),
        ("v=0\nm=audio 4000 RTP/AVP 0\na=ice-lite", "v=0\nm=audio 30000 RTP/AVP 0\na=rtcp-mux"),
    ] {
        assert_eq!(rewritten_with(body, true), expected);
        assert_eq!(rewritten_with(expected, true), expected);
    }
}

#[test]
fn formats_and_bandwidth_are_read() {
    let format = |payload_type, codec, clock_rate, channels, bit_rate| Format {
        payload_type,
        codec,
        clock_rate,
        channels,
        bit_rate,
    };
    let body = crlf(&[
        "v=0",
        "b=AS:9999",
        "m=audio 4000 RTP/AVP 96 0 18 0 200 101 2",
        "b=AS:125",
        "b=AS:1",
        "b=TIAS: 96000 ",
        "b=RS:0",
        "a=rtpmap:96 OPUS/48000/2",
        "a=fmtp:96 stereo=1; MaxAverageBitrate=30000 ;useinbandfec=1",
        "a=rtpmap:101 telephone-event/8000",
        "a=rtpmap:2 G726-40/8000",
        "a=rtpmap:97 GSM/8000",
        "a=fmtp:18 annexb=no",
        "a=ptime:20",
        "a=maxprate:49.5",
        "a=zrtp-hash:1.10 fe30efd02423cb054e50efd0248742ac7a52c8f91bc2df881ae642c371ba46df",
        "m=video 4002 RTP/AVP 31",
        "b=AS:x",
        "a=ptime:-1",
        "a=maxprate:1e99",
    ]);
    let session = Session::parse(body.as_bytes()).unwrap();
    let [audio, video] = session.media() else { panic!("{session:?}") };
    assert_eq!(
        audio.formats,
        [
            format(96, Codec::Opus, 48_000, 2, Some(30_000)),
            format(0, Codec::G711, 8_000, 1, None),
            format(18, Codec::G729, 8_000, 1, None),
            format(101, Codec::TelephoneEvent, 8_000, 1, None),
            format(2, Codec::G726(40), 8_000, 1, None),
        ]
    );
    let stated =
        Stated { as_kbps: Some(125), tias_bps: Some(96_000), packets_per_1000_s: Some(49_500), ptime_ms: Some(20) };
    assert_eq!(audio.bandwidth, stated);
    assert!(audio.zrtp && !video.zrtp);
    assert_eq!(video.formats, [format(31, Codec::Unknown, 90_000, 1, None)]);
    assert_eq!(video.bandwidth, Stated::default());
    assert!(rewritten(&body).contains("a=zrtp-hash:1.10 fe30"), "keys are the terminals' own affair");
}

#[test]
fn t38_beside_audio() {
    let body = crlf(&[
        "v=0",
        "o=gw 1 2 IN IP4 10.1.2.3",
        "s=SIP Media Capabilities",
        "c=IN IP4 10.1.2.3",
        "t=0 0",
        "m=audio 16388 RTP/SAVP 8",
        "a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:PS1uQCVeeCFCanVmcjkpPywjNWhcYD0mXXtxaVBR|2^20|1:4",
        "m=image 16390 udptl t38",
        "a=T38FaxVersion:0",
        "a=T38FaxUdpEC:t38UDPRedundancy",
    ]);
    let session = Session::parse(body.as_bytes()).unwrap();
    assert_eq!(session.media()[1].kind.as_str(), "image");
    assert_eq!(session.media()[1].protocol, Protocol::Udptl);
    assert!(session.media()[1].relayable());
    assert!(session.media()[1].payload_types.is_empty());
    assert_eq!(
        rewritten(&body),
        crlf(&[
            "v=0",
            "o=gw 1 2 IN IP4 203.0.113.10",
            "s=SIP Media Capabilities",
            "c=IN IP4 203.0.113.10",
            "t=0 0",
            "m=audio 30000 RTP/SAVP 8",
            "a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:PS1uQCVeeCFCanVmcjkpPywjNWhcYD0mXXtxaVBR|2^20|1:4",
            "m=image 30002 udptl t38",
            "a=T38FaxVersion:0",
            "a=T38FaxUdpEC:t38UDPRedundancy",
        ])
    );
}

#[test]
fn port_0_stays_0() {
    let body = crlf(&[
        "v=0",
        "o=- 1 1 IN IP4 10.1.2.3",
        "s=-",
        "t=0 0",
        "m=video 0/2 RTP/AVP 31",
        "c=IN IP4 10.1.2.3",
        "a=rtcp:5001 IN IP4 10.1.2.3",
    ]);
    assert_eq!(only_media(&body).remote(), None);
    assert_eq!(
        rewritten(&body),
        crlf(&[
            "v=0",
            "o=- 1 1 IN IP4 203.0.113.10",
            "s=-",
            "t=0 0",
            "m=video 0/2 RTP/AVP 31",
            "c=IN IP4 203.0.113.10",
        ])
    );
}

#[test]
fn what_is_not_planned_is_rejected() {
    let body = "v=0\nm=audio 5000 RTP/AVP 0\nm=video 5002 RTP/AVP 31\n";
    let session = Session::parse(body.as_bytes()).unwrap();
    let plan = Rewrite { address: "2001:db8::1".parse().unwrap(), media: vec![MediaPlan::Reject] };
    assert_eq!(session.rewrite(&plan), b"v=0\nm=audio 0 RTP/AVP 0\nm=video 0 RTP/AVP 31\n");
}

#[test]
fn a_port_count_is_one_or_rejected() {
    assert_eq!(rewritten("v=0\nm=audio 5000/1 RTP/AVP 0\n"), "v=0\nm=audio 30000/1 RTP/AVP 0\n");
    assert_eq!(rewritten("v=0\nm=audio 5000/2 RTP/AVP 0\n"), "v=0\nm=audio 0 RTP/AVP 0\n");
}

#[test]
fn hold_in_both_styles() {
    let today = "v=0\r\no=- 1 2 IN IP4 10.0.0.5\r\nc=IN IP4 10.0.0.5\r\na=sendonly\r\nm=audio 4000 RTP/AVP 0\r\n";
    assert_eq!(only_media(today).direction, Direction::SendOnly);
    assert!(only_media(today).held());
    assert_eq!(
        rewritten(today),
        "v=0\r\no=- 1 2 IN IP4 203.0.113.10\r\nc=IN IP4 203.0.113.10\r\na=sendonly\r\nm=audio 30000 RTP/AVP 0\r\n"
    );
    let old = "v=0\r\no=- 1 2 IN IP4 10.0.0.5\r\nc=IN IP4 0.0.0.0\r\nm=audio 4000 RTP/AVP 0\r\n";
    assert_eq!(only_media(old).address, Some(Host::Unspecified));
    assert!(only_media(old).held());
    assert_eq!(only_media(old).remote(), None);
    assert_eq!(rewritten(old), "v=0\r\no=- 1 2 IN IP4 203.0.113.10\r\nc=IN IP4 0.0.0.0\r\nm=audio 30000 RTP/AVP 0\r\n");
}

#[test]
fn the_medias_own_direction_and_address_win() {
    let body = "v=0\nc=IN IP4 10.0.0.5\na=inactive\nm=audio 4000 RTP/AVP 0\nc=IN IP4 10.0.0.6\na=sendrecv\n\
                m=video 4002 RTP/AVP 31\n";
    let session = Session::parse(body.as_bytes()).unwrap();
    assert_eq!(session.media()[0].direction, Direction::SendRecv);
    assert_eq!(session.media()[0].remote(), remote("10.0.0.6:4000", "10.0.0.6:4001"));
    assert_eq!(session.media()[1].direction, Direction::Inactive);
    assert_eq!(session.media()[1].remote(), remote("10.0.0.5:4002", "10.0.0.5:4003"));
}

#[test]
fn an_address_at_either_level_alone() {
    assert_eq!(
        rewritten("v=0\nc=IN IP4 10.0.0.5\nm=audio 4000 RTP/AVP 0\n"),
        "v=0\nc=IN IP4 203.0.113.10\nm=audio 30000 RTP/AVP 0\n"
    );
    assert_eq!(
        rewritten("v=0\nm=audio 4000 RTP/AVP 0\nc=IN IP4 10.0.0.5\n"),
        "v=0\nm=audio 30000 RTP/AVP 0\nc=IN IP4 203.0.113.10\n"
    );
    assert_eq!(only_media("v=0\nm=audio 4000 RTP/AVP 0\n").address, None);
}

#[test]
fn line_endings_stay() {
    assert_eq!(
        rewritten("v=0\no=- 1 1 IN IP4 10.0.0.5\nc=IN IP4 10.0.0.5\r\n\nm=audio 4000 RTP/AVP 0"),
        "v=0\no=- 1 1 IN IP4 203.0.113.10\nc=IN IP4 203.0.113.10\r\n\nm=audio 30000 RTP/AVP 0"
    );
    assert_eq!(
        rewritten("v=0\r\nm=audio 4000 RTP/AVP 0\r\na=rtcp:9"),
        "v=0\r\nm=audio 30000 RTP/AVP 0\r\na=rtcp:30001"
    );
}

#[test]
fn other_addresses_than_ipv4() {
    let body = "v=0\r\no=- 1 1 IN IP6 2001:db8::5\r\nc=IN IP6 2001:db8::5\r\nm=audio 4000 RTP/AVP 0\r\n";
    assert_eq!(only_media(body).remote(), remote("[2001:db8::5]:4000", "[2001:db8::5]:4001"));
    assert_eq!(
        rewritten(body),
        "v=0\r\no=- 1 1 IN IP4 203.0.113.10\r\nc=IN IP4 203.0.113.10\r\nm=audio 30000 RTP/AVP 0\r\n"
    );
    let held = "v=0\r\nc=IN IP6 ::\r\nm=audio 4000 RTP/AVP 0\r\n";
    assert!(only_media(held).held());
    assert_eq!(rewritten(held), "v=0\r\nc=IN IP6 ::\r\nm=audio 30000 RTP/AVP 0\r\n");
    let body = "v=0\r\nc=IN IP4 pc33.atlanta.example.com\r\nm=audio 4000 RTP/AVP 0\r\n";
    assert_eq!(only_media(body).address, Some(Host::Name("pc33.atlanta.example.com".into())));
    assert_eq!(only_media(body).remote(), None);
    assert_eq!(rewritten(body), "v=0\r\nc=IN IP4 203.0.113.10\r\nm=audio 30000 RTP/AVP 0\r\n");
    let multicast = "v=0\r\nc=IN IP4 233.252.0.1/127/3\r\nm=audio 4000 RTP/AVP 0\r\n";
    assert_eq!(rewritten(multicast), "v=0\r\nc=IN IP4 203.0.113.10\r\nm=audio 30000 RTP/AVP 0\r\n");
}

#[test]
fn odd_lines_stay_where_they_are() {
    let body = crlf(&[
        "v=0",
        "o=John Doe 1 1 IN IP4 10.0.0.5 ",
        "s= ",
        "t=0 0",
        "c= IN\tIP4 10.0.0.5",
        "i=call from 10.0.0.5",
        "m=audio  4000 RTP/AVP 8 ",
        "y=0100000001",
        "f=v/////a/1/8/1",
        "not a line at all",
        "a=x-vendor:\u{fffd} 1",
    ]);
    assert_eq!(
        rewritten(&body),
        crlf(&[
            "v=0",
            "o=John Doe 1 1 IN IP4 203.0.113.10 ",
            "s= ",
            "t=0 0",
            "c= IN\tIP4 203.0.113.10",
            "i=call from 10.0.0.5",
            "m=audio  30000 RTP/AVP 8 ",
            "y=0100000001",
            "f=v/////a/1/8/1",
            "not a line at all",
            "a=x-vendor:\u{fffd} 1",
        ])
    );
}

#[test]
fn a_user_name_that_looks_like_an_address_stays() {
    assert_eq!(rewritten("v=0\no=IN IP4 phone 1 1 IN IP4 10.0.0.5\n"), "v=0\no=IN IP4 phone 1 1 IN IP4 203.0.113.10\n");
}

#[test]
fn attributes_with_addresses_go() {
    let lines = [
        "v=0",
        "o=- 1 1 IN IP4 10.0.0.5",
        "c=IN IP4 10.0.0.5",
        "a=source-filter: incl IN IP4 * 10.0.0.9",
        "a=ice-lite",
        "m=audio 4000 RTP/AVP 8",
        "a=altc:1 IP6 2001:db8::5 45678",
        "a=alt:1 1 : 1a 2b 10.0.0.5 4000",
        "a=remote-candidates:1 10.0.0.7 4000",
        "a=X-from:<sip:10.0.0.5:5060>",
        "a=near:203.0.113.10",
        "a=rtcp:4001 IN IP4",
        "a=rtcp-xr:rcvr-rtt=all",
        "m=message 2855 TCP/MSRP *",
        "a=path:msrp://10.0.0.9:2855/s111271;tcp",
    ];
    assert_eq!(
        rewritten(&crlf(&lines)),
        crlf(&[
            "v=0",
            "o=- 1 1 IN IP4 203.0.113.10",
            "c=IN IP4 203.0.113.10",
            "m=audio 30000 RTP/AVP 8",
            "a=rtcp-xr:rcvr-rtt=all",
            "m=message 0 TCP/MSRP *",
        ])
    );
}

#[test]
fn of_alternatives_one_is_kept() {
    let body = crlf(&[
        "v=0",
        "a=group:ANAT 1 2",
        "a=group:LS 2 3",
        "m=audio 25000 RTP/AVP 0",
        "c=IN IP6 2001:db8::1",
        "a=mid:1",
        "m=audio 22334 RTP/AVP 0",
        "c=IN IP4 192.0.2.1",
        "a=mid:2",
        "m=video 5000 RTP/AVP 31",
        "c=IN IP4 192.0.2.1",
        "a=mid:3",
    ]);
    let session = Session::parse(body.as_bytes()).unwrap();
    assert_eq!(session.media().iter().map(|media| media.superseded).collect::<Vec<_>>(), [true, false, false]);
    assert_eq!(
        rewritten(&body),
        crlf(&[
            "v=0",
            "a=group:LS 2 3",
            "m=audio 0 RTP/AVP 0",
            "c=IN IP4 203.0.113.10",
            "a=mid:1",
            "m=audio 30002 RTP/AVP 0",
            "c=IN IP4 203.0.113.10",
            "a=mid:2",
            "m=video 30004 RTP/AVP 31",
            "c=IN IP4 203.0.113.10",
            "a=mid:3",
        ])
    );
}

#[test]
fn what_cannot_be_rewritten_with_certainty_is_refused() {
    for (body, error) in [
        ("", SdpError::Version),
        ("o=- 1 1 IN IP4 10.0.0.5\n", SdpError::Version),
        ("v=0\no=- 1 1 IN IP4\n", SdpError::Origin { line: 2 }),
        ("v=0\nc=IN IP4 $\n", SdpError::Connection { line: 2 }),
        ("v=0\nc=IN IP4 10.0.0.999\n", SdpError::Connection { line: 2 }),
        ("v=0\nc=ATM NSAP 47.0091\n", SdpError::Connection { line: 2 }),
        ("v=0\nm=audio $ RTP/AVP 0\n", SdpError::Media { line: 2 }),
        ("v=0\nm=audio 65536 RTP/AVP 0\n", SdpError::Media { line: 2 }),
        ("v=0\nm=audio +5 RTP/AVP 0\n", SdpError::Media { line: 2 }),
        ("v=0\nm=audio 5000/ RTP/AVP 0\n", SdpError::Media { line: 2 }),
        ("v=0\nm=audio\n", SdpError::Media { line: 2 }),
        ("v=0\ns=-\rc=IN IP4 10.0.0.5\n", SdpError::CarriageReturn { line: 2 }),
    ] {
        assert_eq!(Session::parse(body.as_bytes()).unwrap_err(), error, "{body:?}");
    }
    let many = format!("v=0\n{}", "m=audio 5000 RTP/AVP 0\n".repeat(MAX_MEDIA + 1));
    assert_eq!(Session::parse(many.as_bytes()).unwrap_err(), SdpError::TooMany { line: MAX_MEDIA + 2 });
    let many: String = (0..=MAX_ADDRESSES).map(|n| format!("c=IN IP4 10.0.0.{n}\n")).collect();
    assert_eq!(
        Session::parse(format!("v=0\n{many}").as_bytes()).unwrap_err(),
        SdpError::TooMany { line: MAX_ADDRESSES + 2 }
    );
}

#[test]
fn the_port_above_the_highest_is_none() {
    let media = only_media("v=0\nc=IN IP4 10.0.0.5\nm=audio 65535 RTP/AVP 0\n");
    assert_eq!(media.remote(), remote("10.0.0.5:65535", "10.0.0.5:0"));
}
