//! A framing that is not SIP's: each message follows its length in two bytes. Here its messages come over real
//! connections, together with SIP's, through the same loop.

use crate::{
    lab::{ACCESS, CORE, config as lab_config},
    made_up::{MADE_UP, MadeUp},
};
use proxy_user::{
    config::{AdmissionLimits, Config},
    datapath::fake::Fake,
    engine::{Core, Protocol},
    flow::Transport,
    io::{Connections, Loop, Stop, sockets},
    media::RealmId,
    proxy::Proxy,
    signalling::{Agent, Broken, Fault, Frame, Framer, Wire, agents, sip},
};
use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::oneshot,
};

/// A message of the made-up protocol as it goes over a connection.
pub(crate) fn framed(text: &str) -> Vec<u8> {
    [&u16::try_from(text.len()).unwrap().to_be_bytes(), text.as_bytes()].concat()
}

/// Divides a stream by the lengths in it.
pub(crate) struct Lengths {
    held: Vec<u8>,
    limit: usize,
}

impl Lengths {
    pub(crate) fn new(limit: usize) -> Self {
        Self { held: Vec::new(), limit }
    }
}

impl Framer for Lengths {
    fn push(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
    }

    fn next_frame(&mut self) -> Result<Option<Frame>, Broken> {
        let [high, low, rest @ ..] = self.held.as_slice() else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        if length > self.limit {
            return Err(Broken { fault: Fault::TooLarge, refused: None });
        }
        let Some(message) = rest.get(..length).map(<[u8]>::to_vec) else { return Ok(None) };
        self.held.drain(..2 + length);
        Ok(Some(if length == 0 { Frame::KeepAlive(vec![0, 0]) } else { Frame::Message(message) }))
    }

    fn is_mid_message(&self) -> bool {
        !self.held.is_empty()
    }
}

const PATIENCE: Duration = Duration::from_secs(10);

/// Two realms on the loopback interface, with SIP over UDP and TCP at any free port, and this softswitch.
fn config(softswitch: SocketAddr, transport: Transport) -> Config {
    let mut config = lab_config();
    for (realm, own) in [(ACCESS, "127.0.0.1"), (CORE, "127.0.0.2")] {
        let realm = config.realms.get_mut(realm).unwrap();
        realm.signalling = SocketAddr::new(own.parse().unwrap(), 0);
        realm.media = own.parse().unwrap();
        realm.streams.tcp = Some(0);
    }
    let core = config.realms.get_mut(CORE).unwrap();
    (core.softswitch, core.streams.softswitch) = (Some(softswitch), transport);
    config.connections.max_message_bytes = 1_000;
    config
}

/// Where a protocol listens in the access realm.
struct At {
    udp: SocketAddr,
    tcp: SocketAddr,
}

/// Runs a proxy that speaks SIP and the made-up protocol, until `client` is done with where they listen.
async fn run<T>(config: Config, client: impl AsyncFnOnce(At, At) -> T) -> (T, Loop<Proxy, Fake>) {
    let speakers = |config: &Config| {
        let mut agents: Vec<Box<dyn Agent>> = agents(config);
        agents.push(Box::new(MadeUp::default()));
        agents
    };
    let wires: Vec<Wire> = speakers(&config).iter().map(|agent| agent.wire(&config)).collect();
    let sockets = sockets::bind(&wires).unwrap();
    let config = Arc::new(config);
    let connections = Connections::open(Arc::clone(&config), wires).unwrap();
    let at = |protocol: &Protocol| {
        let here = |of: &Protocol, realm: RealmId| (of, realm) == (protocol, ACCESS);
        let udp = sockets.iter().find(|socket| here(&socket.protocol, socket.realm)).unwrap();
        let tcp = connections.listeners().find(|(of, at)| here(of, at.realm)).unwrap();
        At { udp: udp.socket.local_addr().unwrap(), tcp: tcp.1.address }
    };
    let (sip, made_up) = (at(&sip::PROTOCOL), at(&MADE_UP));
    let core = Core::new(Arc::clone(&config), SystemTime::now(), Instant::now(), [1; 32]).unwrap();
    let proxy = Proxy::with_agents(core, speakers(&config));
    let mut run = Loop::new(proxy, Fake::new(), None, sockets).with_connections(connections, None);
    let (stop, stopped) = oneshot::channel();
    let client = async {
        let outcome = tokio::time::timeout(PATIENCE, client(sip, made_up)).await.expect("it takes too long");
        stop.send(()).unwrap();
        outcome
    };
    let stopped = async {
        let _ = stopped.await;
        Stop::Keep
    };
    let (ran, outcome) = tokio::join!(run.run(stopped), client);
    ran.unwrap();
    (outcome, run)
}

/// The next message that comes over a connection.
async fn next(stream: &mut TcpStream) -> String {
    let length = stream.read_u16().await.unwrap();
    let mut message = vec![0; length.into()];
    stream.read_exact(&mut message).await.unwrap();
    String::from_utf8(message).unwrap()
}

#[tokio::test]
async fn a_call_of_another_protocol_goes_over_connections_with_its_own_framing() {
    let softswitch = TcpListener::bind("127.0.0.3:0").await.unwrap();
    let config = config(softswitch.local_addr().unwrap(), Transport::Tcp);
    let ((), run) = run(config, async |_, made_up| {
        let mut phone = TcpStream::connect(made_up.tcp).await.unwrap();
        // In pieces, with a sign of life before it.
        let call = [&[0, 0][..], &framed("CALL one 192.168.1.10:4000")].concat();
        phone.write_all(&call[..7]).await.unwrap();
        assert_eq!(next(&mut phone).await, "", "a sign of life is answered in kind");
        phone.write_all(&call[7..]).await.unwrap();
        // Latch connects to the softswitch, from its address there, and the call goes on in the same framing.
        let (mut server, from) = softswitch.accept().await.unwrap();
        assert_eq!(from.ip().to_string(), "127.0.0.2");
        let call = next(&mut server).await;
        let ["CALL", token, at] = call.split(' ').collect::<Vec<_>>()[..] else { panic!("{call}") };
        assert!(at.starts_with("127.0.0.2:"), "{call}");
        server.write_all(&framed(&format!("ANSWER {token} 127.0.0.3:6000"))).await.unwrap();
        let answer = next(&mut phone).await;
        assert!(answer.starts_with("ANSWER one 127.0.0.1:"), "{answer}");
        // Two at once are two.
        phone.write_all(&[framed("nonsense"), framed("END one")].concat()).await.unwrap();
        assert_eq!(next(&mut server).await, format!("END {token}"));
    })
    .await;
    assert_eq!((run.connection_statistics().accepted, run.connection_statistics().made), (1, 1));
    assert_eq!(run.core().statistics().inconsistencies, 0);
}

#[tokio::test]
async fn each_listener_divides_what_comes_as_its_own_protocol_does() {
    let options = "OPTIONS sip:127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/TCP 127.0.0.1;branch=z9hG4bK1\r\nMax-Forwards: 70\r\n\
                   From: <sip:a@127.0.0.1>;tag=a\r\nTo: <sip:127.0.0.1>\r\nCall-ID: c\r\nCSeq: 1 OPTIONS\r\n\
                   Content-Length: 0\r\n\r\n";
    let softswitch = TcpListener::bind("127.0.0.3:0").await.unwrap();
    let config = config(softswitch.local_addr().unwrap(), Transport::Tcp);
    let ((), run) = run(config, async |sip, made_up| {
        let mut phone = TcpStream::connect(sip.tcp).await.unwrap();
        phone.write_all(options.as_bytes()).await.unwrap();
        let mut start = [0; 11];
        phone.read_exact(&mut start).await.unwrap();
        assert_eq!(&start, b"SIP/2.0 200");
        // "OP" is a length of 20,304 bytes.
        let mut phone = TcpStream::connect(made_up.tcp).await.unwrap();
        phone.write_all(options.as_bytes()).await.unwrap();
        assert_eq!(phone.read(&mut start).await.unwrap_or(0), 0, "the connection is closed");
        let mut phone = TcpStream::connect(sip.tcp).await.unwrap();
        phone.write_all(&framed("CALL one 192.168.1.10:4000")).await.unwrap();
        assert_eq!(phone.read(&mut start).await.unwrap_or(0), 0, "the connection is closed");
    })
    .await;
    let statistics = run.connection_statistics();
    assert_eq!((statistics.closed_too_large, statistics.closed_not_sip), (1, 1), "{statistics:?}");
}

#[tokio::test]
async fn datagrams_of_another_protocol_come_to_its_own_socket_and_leave_from_there() {
    let softswitch = "127.0.0.3:5060".parse().unwrap();
    let mut config = config(softswitch, Transport::Udp);
    config.realms.get_mut(ACCESS).unwrap().policy.admission =
        AdmissionLimits { max_calls: Some(0), ..AdmissionLimits::default() };
    run(config, async |sip, made_up| {
        let phone = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut buffer = [0; 100];
        for (at, text) in [(sip.udp, "CALL one 192.168.1.10:4000"), (made_up.udp, "CALL one 192.168.1.10:4000")] {
            phone.send_to(text.as_bytes(), at).await.unwrap();
        }
        let (length, from) = phone.recv_from(&mut buffer).await.unwrap();
        assert_eq!((&buffer[..length], from), (&b"NO limit"[..], made_up.udp));
    })
    .await;
}
