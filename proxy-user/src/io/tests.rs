use super::*;
use crate::{
    clock::Clock,
    datapath::fake::Fake,
    journal::{
        Change, Keeper, Table,
        tests::{
            Directory,
            full_disk::{Refuses, on_disk},
            head,
        },
    },
    media::{LegPolicy, LegSpec, PayloadTypes, StreamId, StreamSpec},
};
use std::{collections::VecDeque, net::SocketAddr};
use tokio::net::UdpSocket;

const ECHO: Protocol = Protocol::new("echo");

/// Sends every datagram back, opens a stream on "open", and needs one timeout to end.
#[derive(Default)]
struct Echo {
    outputs: VecDeque<Output>,
    released: Vec<StreamId>,
    failed: Vec<StreamId>,
    timeout: Option<Instant>,
    timeouts: usize,
    idle: bool,
    changes: Vec<Change>,
}

impl Core for Echo {
    fn handle_input(&mut self, input: Input<'_>, now: Instant) {
        match input {
            Input::Datagram { protocol, realm, source, bytes } => {
                if bytes == b"open" {
                    self.outputs.push_back(Output::Media(MediaCommand::Apply(spec())));
                    self.timeout = Some(now + Duration::from_millis(20));
                }
                let (destination, bytes) = (Flow::udp(source), bytes.to_vec());
                self.outputs.push_back(Output::Send { protocol, realm, destination, bytes });
            }
            Input::Media(MediaEvent::Released { stream, .. }) => {
                self.released.push(stream);
                self.idle = true;
            }
            Input::Media(MediaEvent::Failed { stream }) => self.failed.push(stream),
            Input::Media(_) | Input::Message { .. } | Input::Closed { .. } | Input::Unreachable { .. } => {}
        }
    }

    fn handle_timeout(&mut self, _: Instant) {
        self.timeout = None;
        self.timeouts += 1;
    }

    fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.timeout
    }

    fn take_changes(&mut self, _: &Clock) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    fn shutdown(&mut self, _: Instant) {
        self.outputs.push_back(Output::Media(MediaCommand::Release(StreamId(1))));
    }

    fn is_idle(&self) -> bool {
        self.idle
    }
}

fn spec() -> StreamSpec {
    let leg = |realm, port| LegSpec {
        realm: RealmId::new(realm),
        local: SocketAddr::from(([10, 0, 0, 1], port)),
        open: true,
        epoch: 0,
        remote: None,
        signalling: None,
        payload_types: PayloadTypes::default(),
        send_before_latch: false,
        rtcp_mux: false,
        policy: LegPolicy::default(),
    };
    StreamSpec { id: StreamId(1), legs: [leg(0, 4000), leg(1, 4002)] }
}

async fn pair() -> (Vec<DatagramSocket>, Vec<SocketAddr>) {
    let mut sockets = Vec::new();
    for realm in [0, 1].map(RealmId::new) {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        sockets.push(DatagramSocket { protocol: ECHO, realm, socket });
    }
    let addresses = sockets.iter().map(|socket| socket.socket.local_addr().unwrap()).collect();
    (sockets, addresses)
}

async fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = vec![0; 2_000];
    let (length, source) =
        tokio::time::timeout(Duration::from_secs(5), socket.recv_from(&mut buffer)).await.unwrap().unwrap();
    buffer.truncate(length);
    (buffer, source)
}

#[tokio::test]
async fn datagrams_timeouts_and_streams_go_round_until_the_last_call_ended() {
    let (sockets, addresses) = pair().await;
    let mut run = Loop::new(Echo::default(), Fake::new(), None, sockets);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let client = async move {
        let phone = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        for (realm, text) in [(1, "open"), (0, ""), (0, "hello")] {
            phone.send_to(text.as_bytes(), addresses[realm]).await.unwrap();
            assert_eq!(receive(&phone).await, (text.as_bytes().to_vec(), addresses[realm]), "from where it came");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        stop.send(()).unwrap();
    };
    let (result, ()) = tokio::join!(
        run.run(async move {
            stopped.await.unwrap();
            Stop::End
        }),
        client
    );
    assert_eq!(result.unwrap(), Stop::End);
    assert_eq!(run.core().timeouts, 1);
    assert_eq!(run.core().released, [StreamId(1)]);
    assert_eq!(run.datapath().applied, [spec()]);
    assert!(run.datapath().streams.is_empty());
    assert_eq!(run.statistics(), Statistics { received: 3, sent: 3, ..Statistics::default() });
}

#[tokio::test]
async fn what_icmp_reports_is_counted_and_survived() {
    let (sockets, addresses) = pair().await;
    let mut run = Loop::new(Echo { idle: true, ..Echo::default() }, Fake::new(), None, sockets);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let client = async move {
        for _ in 0..3 {
            // The answer finds the port closed.
            let gone = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            gone.send_to(b"x", addresses[0]).await.unwrap();
            drop(gone);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let phone = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        phone.send_to(b"still there?", addresses[0]).await.unwrap();
        assert_eq!(receive(&phone).await.0, b"still there?");
        stop.send(()).unwrap();
    };
    let (result, ()) = tokio::join!(
        run.run(async move {
            stopped.await.unwrap();
            Stop::End
        }),
        client
    );
    assert_eq!(result.unwrap(), Stop::End);
    assert_eq!(run.statistics().received, 4);
}

#[tokio::test]
async fn a_stream_that_the_datapath_refuses_is_told_to_the_engine() {
    let (sockets, _) = pair().await;
    let mut datapath = Fake::new();
    datapath.full = true;
    let mut run = Loop::new(Echo::default(), datapath, None, sockets);
    run.core.outputs.push_back(Output::Media(MediaCommand::Apply(spec())));
    run.carry_out(Instant::now());
    assert_eq!(run.core().failed, [StreamId(1)]);
    assert_eq!(run.statistics(), Statistics { media_errors: 1, ..Statistics::default() });
}

#[tokio::test]
async fn the_network_cannot_silence_the_alarms() {
    let (sockets, _) = pair().await;
    let mut run = Loop::new(Echo::default(), Fake::new(), None, sockets);
    run.datapath.full = true;
    let now = Instant::now();
    // A port that no datagram can be sent to.
    let destination = Flow::udp(SocketAddr::from(([127, 0, 0, 1], 0)));
    run.send(Message { protocol: ECHO, realm: RealmId::new(0), destination, bytes: b"x".to_vec() }, now);
    assert_eq!(run.statistics().send_errors, 1);
    assert_eq!(run.throttle.admit(now), None, "the warning had its turn");
    run.core.outputs.push_back(Output::Media(MediaCommand::Apply(spec())));
    run.carry_out(now);
    assert_eq!(run.alarms.admit(now), None, "and the alarm one of its own");
    assert_eq!(run.throttle.admit(now + Duration::from_secs(1)), Some(1), "only this test's own try was left out");
}

#[tokio::test]
async fn calls_that_do_not_end_are_not_waited_for_for_ever() {
    let (sockets, _) = pair().await;
    struct Stuck;
    impl Core for Stuck {
        fn handle_input(&mut self, _: Input<'_>, _: Instant) {}
        fn handle_timeout(&mut self, _: Instant) {}
        fn poll_output(&mut self) -> Option<Output> {
            None
        }
        fn poll_timeout(&self) -> Option<Instant> {
            None
        }
        fn shutdown(&mut self, _: Instant) {}
        fn is_idle(&self) -> bool {
            false
        }
    }
    let mut run = Loop::new(Stuck, Fake::new(), None, sockets);
    let begun = Instant::now();
    run.run(std::future::ready(Stop::End)).await.unwrap();
    assert!((SHUTDOWN_GRACE..SHUTDOWN_GRACE * 2).contains(&begun.elapsed()));
}

#[tokio::test]
async fn whoever_is_to_be_followed_ends_nothing() {
    let (sockets, _) = pair().await;
    let mut run = Loop::new(Echo::default(), Fake::new(), None, sockets);
    run.core.outputs.push_back(Output::Media(MediaCommand::Apply(spec())));
    assert_eq!(run.run(std::future::ready(Stop::Keep)).await.unwrap(), Stop::Keep);
    assert!(run.datapath().streams.contains_key(&StreamId(1)) && run.core().released.is_empty());
}

#[tokio::test]
async fn a_journal_that_had_no_room_is_written_without_anything_else_happening() {
    let directory = Directory::new("loop");
    let (sockets, _) = pair().await;
    let (journal, disk) = on_disk(&directory);
    let mut run = Loop::new(Echo::default(), Fake::new(), None, sockets);
    run = run.with_journal(Keeper::new(journal, Clock::now(), head()));
    disk.refuse(Refuses::Writes);
    run.core.changes = vec![Change { table: Table::Dialogs, key: "1".into(), value: Some(b"1".to_vec()) }];
    let begun = Instant::now();
    (0..100).for_each(|_| run.carry_out(begun));
    assert_eq!(run.statistics().journal_errors, 1, "one try, not one at each turn");
    let Answer::Value(status) = run.answer(&Request::Status, begun) else { panic!("no status") };
    assert_eq!((&status["journal"]["written"], &status["journal"]["pending"]), (&json!(false), &json!(1)));
    disk.refuse(Refuses::Nothing);
    run.run(async {
        tokio::time::sleep(Duration::from_millis(1_200)).await;
        Stop::Keep
    })
    .await
    .unwrap();
    let Answer::Value(status) = run.answer(&Request::Status, Instant::now()) else { panic!("no status") };
    assert_eq!((&status["journal"]["written"], &status["journal"]["pending"]), (&json!(true), &json!(0)));
}
