//! Messages that Latch originates: answers that repeat their request, and requests that another parser reads in the
//! same way.

use proxy_user::signalling::sip::{
    Message, Name, Request, Response, ack_for, cancel_for, check_request, check_response,
};
use rsip::prelude::{HeadersExt, ToTypedHeader};

const INVITE: &str = "INVITE sip:bob@192.0.2.20 SIP/2.0\r\n\
    v: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK1;rport , SIP/2.0/UDP 10.0.0.2\r\n ;branch=z9hG4bK2\r\n\
    Via: SIP/2.0/UDP 10.0.0.3;branch=z9hG4bK3\r\n\
    Route: <sip:p1;lr>\r\nRoute: <sip:p2;lr>\r\n\
    f: \"A\"\r\n <sip:a@example.com>;tag=1\r\n\
    t: <sip:b@example.com>\r\n\
    i: call-1\r\nCSeq: 0007 INVITE\r\nTimestamp: 54\r\nMax-Forwards: 70\r\nl: 0\r\n\r\n";

fn invite() -> Message {
    Message::parse(INVITE.as_bytes()).unwrap()
}

#[test]
fn a_response_repeats_its_request() {
    let request = invite();
    let output = Response::to(&request, 404).to_tag("z").header(Name::Warning, "399 h \"x\"").finish();
    let expected = "SIP/2.0 404 Not Found\r\n\
        v: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK1;rport , SIP/2.0/UDP 10.0.0.2\r\n ;branch=z9hG4bK2\r\n\
        Via: SIP/2.0/UDP 10.0.0.3;branch=z9hG4bK3\r\n\
        f: \"A\"\r\n <sip:a@example.com>;tag=1\r\n\
        To: <sip:b@example.com>;tag=z\r\n\
        i: call-1\r\nCSeq: 0007 INVITE\r\nWarning: 399 h \"x\"\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(String::from_utf8(output).unwrap(), expected);
}

#[test]
fn a_response_notes_the_source_in_the_topmost_via_alone() {
    let request = invite();
    let via = request.top_via().unwrap().with_source("192.0.2.9", 4000);
    let output = Response::to(&request, 100).top_via(&via).to_tag("never in a 100").finish();
    let response = Message::parse(&output).unwrap();
    assert_eq!(
        response.values(Name::Via).collect::<Vec<_>>(),
        [
            "SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK1;rport=4000;received=192.0.2.9",
            "SIP/2.0/UDP 10.0.0.2 ;branch=z9hG4bK2",
            "SIP/2.0/UDP 10.0.0.3;branch=z9hG4bK3"
        ]
    );
    assert_eq!(response.to_tag(), None);
    assert_eq!(response.value(Name::Timestamp).as_deref(), Some("54"));
    assert_eq!(check_response(&response), Ok(()));
}

#[test]
fn a_to_tag_that_is_there_stays() {
    let text = INVITE.replace("t: <sip:b@example.com>", "t: <sip:b@example.com>;tag=old");
    let request = Message::parse(text.as_bytes()).unwrap();
    let response = Message::parse(&Response::to(&request, 481).to_tag("new").finish()).unwrap();
    assert_eq!(response.to_tag().as_deref(), Some("old"));
}

#[test]
fn ack_and_cancel_belong_to_their_invite() {
    let request = invite();
    let refusal = Response::to(&request, 486).to_tag("busy").finish();
    let refusal = Message::parse(&refusal).unwrap();
    for (output, method, to_tag) in
        [(ack_for(&request, &refusal), "ACK", Some("busy")), (cancel_for(&request), "CANCEL", None)]
    {
        let message = Message::parse(&output).unwrap();
        assert_eq!(check_request(&message), Ok(()));
        assert_eq!((message.method(), message.request_uri()), (Some(method), Some("sip:bob@192.0.2.20")));
        assert_eq!(message.values(Name::Via).collect::<Vec<_>>(), [request.top_via().unwrap().text()]);
        assert_eq!(message.values(Name::Route).collect::<Vec<_>>(), ["<sip:p1;lr>", "<sip:p2;lr>"]);
        assert_eq!(message.value(Name::From), request.value(Name::From));
        assert_eq!(message.call_id(), request.call_id());
        assert_eq!(message.cseq().map(|cseq| (cseq.number, cseq.method)), Ok((7, method)));
        assert_eq!(message.to_tag().as_deref(), to_tag);
    }
}

#[test]
fn a_request_of_our_own_reads_alike_elsewhere() {
    let output = Request::new("OPTIONS", "sip:alice@192.0.2.1:1024")
        .header(Name::Via, "SIP/2.0/UDP 203.0.113.10:5060;branch=z9hG4bKabc;rport")
        .header(Name::From, "<sip:latch@203.0.113.10>;tag=f")
        .header(Name::To, "<sip:alice@192.0.2.1>")
        .header(Name::CallId, "keepalive-1")
        .cseq(3, "OPTIONS")
        .body("text/plain", b"hi")
        .finish();
    let ours = Message::parse(&output).unwrap();
    assert_eq!(check_request(&ours), Ok(()));
    assert_eq!(ours.max_forwards(), Ok(Some(70)));

    let theirs = rsip::Request::try_from(output.as_slice()).unwrap();
    assert_eq!(theirs.method, rsip::Method::Options);
    assert_eq!(Some(theirs.uri.to_string().as_str()), ours.request_uri());
    let via = theirs.via_header().unwrap().typed().unwrap();
    assert_eq!(via.uri.to_string(), "203.0.113.10:5060");
    assert_eq!(via.branch().map(ToString::to_string).as_deref(), Some(ours.top_via().unwrap().branch()));
    let from = theirs.from_header().unwrap().typed().unwrap();
    assert_eq!(from.tag().map(ToString::to_string).as_deref(), ours.from_tag().as_deref());
    assert_eq!(theirs.cseq_header().unwrap().typed().unwrap().seq, 3);
    assert_eq!(theirs.call_id_header().unwrap().to_string(), "Call-ID: keepalive-1");
    assert_eq!(theirs.body, b"hi");
}

#[test]
fn a_response_of_our_own_reads_alike_elsewhere() {
    let request = Request::new("BYE", "sip:alice@192.0.2.1")
        .header(Name::Via, "SIP/2.0/UDP 203.0.113.10:5060;branch=z9hG4bKabc")
        .header(Name::From, "<sip:latch@203.0.113.10>;tag=f")
        .header(Name::To, "<sip:alice@192.0.2.1>;tag=t")
        .header(Name::CallId, "c")
        .cseq(4, "BYE")
        .finish();
    let request = Message::parse(&request).unwrap();
    for code in (100..=699).filter(|code| code % 7 == 0) {
        let output = Response::to(&request, code).finish();
        assert_eq!(check_response(&Message::parse(&output).unwrap()), Ok(()));
        let theirs = rsip::Response::try_from(output.as_slice()).unwrap();
        assert_eq!(theirs.status_code.code(), code);
        assert_eq!(theirs.cseq_header().unwrap().typed().unwrap().method, rsip::Method::Bye);
        let to = theirs.to_header().unwrap().typed().unwrap();
        assert_eq!(to.tag().map(ToString::to_string).as_deref(), Some("t"));
    }
}
