//! All transactions together: whatever happens, each is found by its key, and no key leads nowhere.

use super::*;
use crate::{media::RealmId, signalling::sip::Message};
use proptest::prelude::*;
use std::time::Duration;

fn timing() -> Timing {
    Timing { t1: Duration::from_millis(500), t2: Duration::from_secs(4), invite: Duration::from_secs(180) }
}

fn server(branch: u8, method: &str) -> Server {
    let source = Flow::udp("192.0.2.1:5060".parse().unwrap());
    let key = ServerKey {
        realm: RealmId::new(0),
        peer: source.ip(),
        transport: source.transport,
        branch: branch.to_string(),
        method: method.into(),
    };
    let text = format!(
        "{method} sip:a@example.test SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1\r\nCSeq: 1 {method}\r\nCall-ID: c\r\n\
         From: <sip:b@example.test>;tag=b\r\nTo: <sip:a@example.test>\r\n\r\n"
    );
    Server::new(key, source, Message::parse(text.as_bytes()).unwrap(), "t".into())
}

fn outgoing(branch: u8, method: &str) -> Outgoing<()> {
    Outgoing {
        branch: branch.to_string(),
        method: method.into(),
        realm: RealmId::new(0),
        destination: Flow::udp("192.0.2.2:5060".parse().unwrap()),
        request: Vec::new(),
        purpose: (),
        unreachable_status: 503,
        udp_fallback_allowed: false,
    }
}

fn assert_whole(transactions: &Transactions<()>) {
    assert_eq!(transactions.servers.len(), transactions.by_key.len());
    for (id, server) in &transactions.servers {
        assert_eq!(transactions.server_with_key(server.key()).map(|(id, _)| id), Some(*id));
    }
    assert_eq!(transactions.clients.len(), transactions.by_branch.len());
    for (id, client) in &transactions.clients {
        let found = transactions.client_with_branch(client.branch(), client.method());
        assert_eq!(found.map(|(id, _)| id), Some(*id));
    }
}

#[test]
fn a_request_with_a_key_that_is_taken_opens_no_transaction() {
    let mut transactions = Transactions::new(timing());
    let first = transactions.open_server(server(1, "INVITE")).unwrap();
    assert_eq!(transactions.open_server(server(1, "INVITE")), None);
    assert_eq!(transactions.server_with_key(server(1, "INVITE").key()).map(|(id, _)| id), Some(first));
    let cancel = transactions.open_server(server(1, "CANCEL")).unwrap();
    let invite = transactions.invite_of(transactions.server(cancel).unwrap().key()).map(|(id, _)| id);
    assert_eq!(invite, Some(first), "a CANCEL leads to its INVITE");
    let now = Instant::now();
    assert!(transactions.open_client(outgoing(1, "INVITE"), now).is_some());
    assert!(transactions.open_client(outgoing(1, "CANCEL"), now).is_some());
    assert!(transactions.open_client(outgoing(1, "CANCEL"), now).is_none());
    assert_whole(&transactions);
}

#[test]
fn only_an_invite_can_be_cancelled_accepted_or_acknowledged() {
    let mut transactions = Transactions::new(timing());
    let now = Instant::now();
    for (method, is_invite) in [("INVITE", true), ("OPTIONS", false)] {
        let id = transactions.open_client(outgoing(1, method), now).unwrap();
        transactions.received(id, 100, now);
        assert_eq!(transactions.cancel(id, now), is_invite, "{method}");
        let id = transactions.open_server(server(1, method)).unwrap();
        assert_eq!(transactions.server(id).unwrap().is_ringing(), is_invite, "{method}");
        assert!(transactions.respond(id, 200, b"200", now));
        transactions.remember_accepted(id, "t".into(), b"200".to_vec());
        let accepted = transactions.server(id).unwrap().accepted("t");
        assert_eq!(accepted, is_invite.then_some(&b"200"[..]), "{method}");
        assert!(!transactions.acknowledge(id, now), "the ACK of a 2xx ends elsewhere");
    }
}

/// What may happen to one of the transactions that were opened.
#[derive(Clone, Copy, Debug)]
enum Step {
    OpenServer(u8, &'static str),
    OpenClient(u8, &'static str),
    Respond(u64, u16),
    Ack(u64),
    Close(u64),
    Receive(u64, u16),
    Cancel(u64),
    Lose(u64),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let method = || prop::sample::select(vec!["INVITE", "CANCEL", "BYE"]);
    let code = || prop::sample::select(vec![100u16, 180, 200, 302, 487]);
    prop_oneof![
        4 => (0..4u8, method()).prop_map(|(branch, method)| Step::OpenServer(branch, method)),
        4 => (0..4u8, method()).prop_map(|(branch, method)| Step::OpenClient(branch, method)),
        2 => (1..9u64, code()).prop_map(|(id, code)| Step::Respond(id, code)),
        1 => (1..9u64).prop_map(Step::Ack),
        1 => (1..9u64).prop_map(Step::Close),
        2 => (1..9u64, code()).prop_map(|(id, code)| Step::Receive(id, code)),
        1 => (1..9u64).prop_map(Step::Cancel),
        1 => (1..9u64).prop_map(Step::Lose),
        3 => (0..40_000u64).prop_map(Step::Wait),
    ]
}

proptest! {
    #[test]
    fn no_key_leads_nowhere_and_all_end_in_time(steps in prop::collection::vec(step(), 0..40)) {
        let mut transactions = Transactions::new(timing());
        let mut now = Instant::now();
        let due = |transactions: &mut Transactions<()>, now| {
            for id in 1..=transactions.last {
                transactions.server_due(ServerTxId(id), now);
                transactions.client_due(ClientTxId(id), now);
            }
        };
        for step in steps {
            match step {
                Step::OpenServer(branch, method) => drop(transactions.open_server(server(branch, method))),
                Step::OpenClient(branch, method) => drop(transactions.open_client(outgoing(branch, method), now)),
                Step::Respond(id, code) => drop(transactions.respond(ServerTxId(id), code, b"x", now)),
                Step::Ack(id) => drop(transactions.acknowledge(ServerTxId(id), now)),
                Step::Close(id) => drop(transactions.close_server(ServerTxId(id))),
                Step::Receive(id, code) => drop(transactions.received(ClientTxId(id), code, now)),
                Step::Cancel(id) => drop(transactions.cancel(ClientTxId(id), now)),
                Step::Lose(id) => drop(transactions.lose(ClientTxId(id), now)),
                Step::Wait(ms) => {
                    now += Duration::from_millis(ms);
                    due(&mut transactions, now);
                }
            }
            assert_whole(&transactions);
        }
        // Nothing arrives any more: requests that we sent end, and so do those that were answered.
        for _ in 0..10 {
            now += Duration::from_secs(60);
            due(&mut transactions, now);
        }
        assert_whole(&transactions);
        prop_assert_eq!(transactions.clients().count(), 0);
        prop_assert!(transactions.servers.values().all(|server| !server.is_answered()));
    }
}
