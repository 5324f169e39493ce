//! A process is killed and another one goes on from the journal.

use crate::{calls::LIKE_A_PHONE, lab::*, registrations::registered};
use proxy_user::{
    accounting::{EndCause, Timestamp},
    engine::EarlierStreams,
    flow::{ConnectionId, Flow, Transport},
    journal::Table,
    media::{LegCounters, StreamId},
    signalling::sip::Name,
};
use serde_json::Value;
use std::{collections::BTreeSet, time::Duration};

/// Alice calls; returns her INVITE and the same as it went on.
fn called(lab: &mut Lab) -> (String, Sent) {
    let invite = sip(&format!(
        "INVITE sip:bob@example.test SIP/2.0
         Via: SIP/2.0/UDP {PRIVATE}:5060;branch=z9hG4bKi1;rport
         Max-Forwards: 70
         From: <sip:alice@example.test>;tag=a
         To: <sip:bob@example.test>
         Call-ID: c1
         CSeq: 1 INVITE
         Contact: <sip:alice@{PRIVATE}:5060>
         {LIKE_A_PHONE}

{}",
        sdp(PRIVATE, 4_000)
    ));
    let sent = lab.access(ALICE, &invite);
    (invite, only(&sent, "INVITE").clone())
}

/// Alice, registered, has called and the softswitch has answered: her side's and the core's contact of the other.
fn established(lab: &mut Lab) -> (Sent, Sent) {
    let (_, invite) = called(lab);
    let ok = answer(&invite, "200 OK", "b", "Contact: <sip:bob@10.9.0.30:5060>\n", &sdp("10.9.0.30", 6_000));
    let sent = lab.core(&ok);
    let ok = only(&sent, "200").clone();
    lab.access(ALICE, &in_dialog("ACK", &ok, 1, "k1"));
    (invite, ok)
}

/// A request of alice inside the dialog that `ok` made.
fn in_dialog(method: &str, ok: &Sent, cseq: u32, branch: &str) -> String {
    sip(&format!(
        "{method} {} SIP/2.0
         Via: SIP/2.0/UDP {PRIVATE}:5060;branch=z9hG4bK{branch};rport
         Max-Forwards: 70
         From: <sip:alice@example.test>;tag=a
         To: <sip:bob@example.test>;tag=b
         Call-ID: c1
         CSeq: {cseq} {method}
         Contact: <sip:alice@{PRIVATE}:5060>",
        ok.contact()
    ))
}

fn stream(lab: &Lab) -> StreamId {
    *lab.datapath.streams.keys().next().expect("a stream")
}

#[test]
fn a_call_goes_on_and_ends_with_one_whole_record() {
    let mut lab = Lab::default();
    let (_, ok) = established(&mut lab);
    let id = stream(&lab);
    lab.datapath.latch(id, 0, false, "198.51.100.1:40100".parse().unwrap(), lab.now);
    lab.settle();
    let before = lab.datapath.streams.clone();
    for _ in 0..10 {
        lab.wait(Duration::from_secs(1));
        let restored = lab.restart(EarlierStreams::Kept);
        assert_eq!((restored.calls, restored.ended, restored.streams.len()), (1, 0, 1));
    }
    assert_eq!(lab.datapath.streams, before, "nothing of the stream changed");
    assert_eq!(lab.load().port_pairs, 2);
    lab.datapath.count(id, [LegCounters { rtp_packets: 500, ..LegCounters::default() }, LegCounters::default()]);
    let sent = lab.access(ALICE, &in_dialog("BYE", &ok, 2, "k2"));
    let bye = only(&sent, "BYE");
    assert_eq!(bye.uri(), "sip:bob@10.9.0.30:5060");
    let sent = lab.core(&answer(bye, "200 OK", "", "", ""));
    assert_eq!(only(&sent, "200").realm, ACCESS);
    lab.assert_empty();
    let [record] = lab.records.as_slice() else { panic!("{:?}", lab.records) };
    assert_eq!((record.duration_ms, record.end_cause), (10_000, EndCause::ByeCaller));
    assert_eq!(record.start, Timestamp(1_790_000_000_000));
    let flow = &record.streams[0].access_to_core;
    assert_eq!(flow.rtp_packets, 500);
    assert_eq!(flow.rtp_source.unwrap().address, "198.51.100.1:40100".parse().unwrap());
}

/// Everything that stands under these names in a record of the journal.
fn named(value: &Value, names: &[&str], found: &mut BTreeSet<String>) {
    match value {
        Value::Array(values) => values.iter().for_each(|value| named(value, names, found)),
        Value::Object(fields) => fields.iter().for_each(|(name, value)| {
            if names.contains(&name.as_str()) {
                found.insert(format!("{name}: {value}"));
            }
            named(value, names, found);
        }),
        _ => {}
    }
}

#[test]
fn records_name_a_realm_by_its_place_in_the_configuration() {
    let mut lab = Lab::default();
    registered(&mut lab, "alice", ALICE);
    established(&mut lab);
    for (table, expected) in [
        (Table::Registrations, &["core: 1", "realm: 0"][..]),
        (Table::Dialogs, &["realm: 0", "realm: 1", "realms: {\"callee\":1,\"caller\":0}"]),
        (Table::Calls, &["realm: 0", "realm: 1", "realms: {\"callee\":1,\"caller\":0}"]),
    ] {
        let mut found = BTreeSet::new();
        for (_, record) in lab.journal.iter().filter(|((of, _), _)| *of == table) {
            named(&serde_json::from_slice(record).unwrap(), &["realm", "realms", "core"], &mut found);
        }
        assert_eq!(found.iter().map(String::as_str).collect::<Vec<_>>(), expected, "{table:?}");
    }
}

#[test]
fn the_other_side_may_hang_up_and_both_may_change_the_session() {
    let mut lab = Lab::default();
    let (invite, ok) = established(&mut lab);
    lab.restart(EarlierStreams::Kept);
    let offer = in_dialog("INVITE", &ok, 2, "k2").replace("Content-Length: 0\r\n\r\n", "");
    let body = sdp(PRIVATE, 4_000).replace('\n', "\r\n");
    let offer = format!(
        "{offer}Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{body}a=sendonly\r\n",
        body.len() + 12
    );
    let sent = lab.access(ALICE, &offer);
    let again = only(&sent, "INVITE").clone();
    assert_eq!(again.media(0), invite.media(0), "the same relay port");
    // Killed before the answer: both sides may offer again.
    lab.restart(EarlierStreams::Kept);
    let sent = lab.access(ALICE, &offer.replace("CSeq: 2", "CSeq: 3").replace("z9hG4bKk2", "z9hG4bKk3"));
    assert_eq!(only(&sent, "INVITE").media(0), invite.media(0));
    let bye = sip(&format!(
        "BYE {} SIP/2.0
         Via: SIP/2.0/UDP {SOFTSWITCH};branch=z9hG4bKs
         Max-Forwards: 70
         From: <sip:bob@example.test>;tag=b
         To: {}
         Call-ID: c1
         CSeq: 1 BYE",
        invite.contact(),
        invite.header(Name::From)
    ));
    let sent = lab.core(&bye);
    let bye = only(&sent, "BYE");
    assert_eq!((bye.realm, bye.destination.to_string().as_str()), (ACCESS, ALICE));
    let response = answer(bye, "200 OK", "", "", "");
    lab.access(ALICE, &response);
    lab.wait(Duration::from_secs(200));
    assert_eq!(lab.records.len(), 1);
    assert_eq!(lab.records[0].end_cause, EndCause::ByeCallee);
}

const BOBS: &str = "Contact: <sip:bob@10.9.0.30:5060>\n";

#[test]
fn a_call_that_rings_rings_on_and_is_answered() {
    let mut lab = Lab::default();
    let (invite, forwarded) = called(&mut lab);
    let sent = lab.core(&answer(&forwarded, "180 Ringing", "b", BOBS, ""));
    let bob = only(&sent, "180").contact();
    let restored = lab.restart(EarlierStreams::Kept);
    assert_eq!((restored.calls, restored.ended, restored.streams.len()), (1, 0, 1));
    assert!(lab.take().is_empty());
    // Her INVITE, sent again, is still the same.
    assert_eq!(kinds(&lab.access(ALICE, &invite)), ["access 180"]);
    lab.restart(EarlierStreams::Kept);
    let sent = lab.core(&answer(&forwarded, "200 OK", "b", BOBS, &sdp("10.9.0.30", 6_000)));
    let ok = only(&sent, "200").clone();
    assert_eq!((ok.destination.to_string().as_str(), ok.contact()), (ALICE, bob));
    assert!(lab.datapath.streams[&stream(&lab)].legs.iter().all(|leg| leg.open));
    assert_eq!(only(&lab.access(ALICE, &in_dialog("ACK", &ok, 1, "k1")), "ACK").realm, CORE);
    let sent = lab.access(ALICE, &in_dialog("BYE", &ok, 2, "k2"));
    lab.core(&answer(only(&sent, "BYE"), "200 OK", "", "", ""));
    lab.assert_empty();
    assert_eq!((lab.records.len(), lab.records[0].end_cause), (1, EndCause::ByeCaller));
}

#[test]
fn an_invite_that_nobody_has_confirmed_goes_once_more_after_a_restart() {
    let mut lab = Lab::default();
    let (_, forwarded) = called(&mut lab);
    lab.restart(EarlierStreams::Kept);
    let sent = lab.take();
    assert_eq!(only(&sent, "INVITE").text, forwarded.text, "the same transaction");
    let sent = lab.core(&answer(&forwarded, "486 Busy Here", "b", "", ""));
    assert_eq!(kinds(&sent), ["core ACK", "access 486"]);
    assert_eq!(lab.records[0].end_cause, EndCause::Rejected);
    lab.assert_empty();
}

#[test]
fn a_call_that_rings_is_cancelled_by_its_caller_after_a_restart() {
    let mut lab = Lab::default();
    let (invite, forwarded) = called(&mut lab);
    lab.core(&answer(&forwarded, "180 Ringing", "b", BOBS, ""));
    lab.restart(EarlierStreams::Kept);
    let body = invite.find("\r\n\r\n").unwrap();
    let cancel = invite[..body].replace("INVITE", "CANCEL").replace("Content-Type: application/sdp\r\n", "");
    let length = cancel.find("Content-Length").unwrap();
    let cancel = format!("{}Content-Length: 0\r\n\r\n", &cancel[..length]).replace("CANCEL sip", "CANCEL sip");
    assert_eq!(kinds(&lab.access(ALICE, &cancel)), ["access 200", "core CANCEL"]);
    let sent = lab.core(&answer(&forwarded, "487 Request Terminated", "b", "", ""));
    assert_eq!(kinds(&sent), ["core ACK", "access 487"]);
    assert_eq!((lab.records.len(), lab.records[0].end_cause), (1, EndCause::Cancelled));
    lab.assert_empty();
}

#[test]
fn a_call_that_was_cancelled_before_a_restart_is_still_cancelled() {
    let mut lab = Lab::default();
    let (_, forwarded) = called(&mut lab);
    let cancel = crate::calls::from_alice("CANCEL", "sip:bob@example.test", "<sip:bob@example.test>", 1, "i1", "", "");
    let cancel = cancel.replace("call-1", "c1").replace("tag=a1", "tag=a");
    assert_eq!(kinds(&lab.access(ALICE, &cancel)), ["access 200"], "nobody has said yet that it has the INVITE");
    lab.restart(EarlierStreams::Kept);
    lab.take();
    assert_eq!(kinds(&lab.core(&answer(&forwarded, "180 Ringing", "b", BOBS, ""))), ["core CANCEL", "access 180"]);
    lab.core(&answer(&forwarded, "487 Request Terminated", "b", "", ""));
    assert_eq!((lab.records.len(), lab.records[0].end_cause), (1, EndCause::Cancelled));
    lab.assert_empty();
}

#[test]
fn a_call_that_rings_ends_on_both_sides_where_its_media_are_gone() {
    let mut lab = Lab::default();
    let (_, forwarded) = called(&mut lab);
    lab.core(&answer(&forwarded, "180 Ringing", "b", BOBS, ""));
    let restored = lab.restart(EarlierStreams::Lost);
    assert_eq!((restored.calls, restored.ended), (0, 1));
    let mut sent = kinds(&lab.take());
    sent.sort();
    assert_eq!(sent, ["access 503", "core CANCEL"]);
    // He answered nevertheless.
    let sent = lab.core(&answer(&forwarded, "200 OK", "b", BOBS, &sdp("10.9.0.30", 6_000)));
    assert_eq!(kinds(&sent), ["core ACK", "core BYE"]);
    assert_eq!((lab.records.len(), lab.records[0].end_cause), (1, EndCause::Error));
    lab.assert_empty();
}

#[test]
fn nobody_rings_for_a_caller_whose_connection_ended_with_the_process() {
    let mut config = config();
    config.realms.get_mut(ACCESS).unwrap().streams.tcp = Some(5060);
    let mut lab = Lab::new(config);
    let flow = Flow { connection: Some(ConnectionId(1)), ..Flow::to(Transport::Tcp, ALICE.parse().unwrap()) };
    let invite = crate::calls::from_alice(
        "INVITE",
        "sip:bob@example.test",
        "<sip:bob@example.test>",
        1,
        "i1",
        "",
        &sdp(PRIVATE, 4000),
    );
    let sent = lab.over(ACCESS, flow, &invite.replace("SIP/2.0/UDP", "SIP/2.0/TCP"));
    let forwarded = only(&sent, "INVITE").clone();
    lab.core(&answer(&forwarded, "180 Ringing", "b", BOBS, ""));
    lab.restart(EarlierStreams::Kept);
    assert_eq!(kinds(&lab.take()), ["core CANCEL"]);
    lab.core(&answer(&forwarded, "487 Request Terminated", "b", "", ""));
    lab.assert_empty();
    assert_eq!((lab.records.len(), lab.records[0].end_cause), (1, EndCause::Cancelled));
}

#[test]
fn a_call_that_was_being_hung_up_is_hung_up() {
    let mut lab = Lab::default();
    let (_, ok) = established(&mut lab);
    let bye = in_dialog("BYE", &ok, 2, "k2");
    lab.access(ALICE, &bye);
    // Killed before the answer came, which nobody repeats.
    let restored = lab.restart(EarlierStreams::Kept);
    assert_eq!((restored.calls, restored.ended), (0, 1));
    let sent = lab.take();
    let again = only(&sent, "BYE");
    assert_eq!((again.realm, again.header(Name::CSeq).as_str()), (CORE, "3 BYE"));
    lab.core(&answer(again, "481 Call/Transaction Does Not Exist", "", "", ""));
    assert_eq!(kinds(&lab.access(ALICE, &bye)), ["access 200"]);
    assert_eq!((lab.records.len(), lab.records[0].end_cause), (1, EndCause::ByeCaller));
    lab.assert_empty();
}

#[test]
fn where_the_media_are_gone_both_sides_are_told() {
    let mut lab = Lab::default();
    established(&mut lab);
    lab.wait(Duration::from_secs(3));
    let restored = lab.restart(EarlierStreams::Lost);
    assert_eq!((restored.calls, restored.ended), (0, 1));
    assert_eq!(kinds(&lab.take()), ["access BYE", "core BYE"]);
    assert_eq!((lab.records.len(), lab.records[0].duration_ms), (1, 3_000));
    assert_eq!(lab.load().port_pairs, 0);
}

#[test]
fn a_record_that_was_written_is_not_written_again() {
    let mut lab = Lab::default();
    let (_, ok) = established(&mut lab);
    let journal = lab.journal.clone();
    let sent = lab.access(ALICE, &in_dialog("BYE", &ok, 2, "k2"));
    lab.core(&answer(only(&sent, "BYE"), "200 OK", "", "", ""));
    assert_eq!(lab.records.len(), 1);
    // Killed after the record was written and before the journal knew.
    lab.journal = journal;
    assert_eq!(lab.restart(EarlierStreams::Kept).calls, 0);
    lab.assert_empty();
    assert_eq!(lab.records.len(), 1);
}

#[test]
fn a_registered_terminal_can_be_called() {
    let mut lab = Lab::default();
    let register = sip(&format!(
        "REGISTER sip:example.test SIP/2.0
         Via: SIP/2.0/UDP {PRIVATE}:5060;branch=z9hG4bKr1;rport
         Max-Forwards: 70
         From: <sip:alice@example.test>;tag=a
         To: <sip:alice@example.test>
         Call-ID: r1
         CSeq: 1 REGISTER
         Contact: <sip:alice@{PRIVATE}:5060>"
    ));
    let sent = lab.access(ALICE, &register);
    let register = only(&sent, "REGISTER").clone();
    let contact = format!("Contact: <{}>;expires=60\n", register.contact());
    lab.core(&answer(&register, "200 OK", "s", &contact, ""));
    lab.wait(Duration::from_secs(30));
    assert_eq!(lab.restart(EarlierStreams::Lost).registrations, 1);
    let options = sip(&format!(
        "OPTIONS {} SIP/2.0
         Via: SIP/2.0/UDP {SOFTSWITCH};branch=z9hG4bKo
         Max-Forwards: 70
         From: <sip:s@example.test>;tag=s
         To: <sip:alice@example.test>
         Call-ID: o1
         CSeq: 1 OPTIONS",
        register.contact()
    ));
    let sent = lab.core(&options);
    let options = only(&sent, "OPTIONS");
    assert_eq!((options.destination.to_string().as_str(), options.uri()), (ALICE, format!("sip:alice@{PRIVATE}:5060")));
    // Its time goes on where it was.
    lab.wait(Duration::from_secs(36));
    assert_eq!(lab.load().registrations, 0);
    assert!(lab.journal.is_empty());
}
