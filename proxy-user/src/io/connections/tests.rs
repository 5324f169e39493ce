use super::*;
use crate::{
    config::{Certificate, PortRange, Realm, RealmPolicy, Trust},
    signalling::wires,
};
use futures_util::{SinkExt as _, StreamExt as _};
use std::{
    future::poll_fn,
    path::{Path, PathBuf},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore, pki_types::CertificateDer, pki_types::PrivateKeyDer, pki_types::ServerName,
        pki_types::pem::PemObject as _,
    },
};
use tokio_tungstenite::{
    client_async,
    tungstenite::{Message as Frame, client::IntoClientRequest as _, http::HeaderValue},
};

const SIP: Protocol = Protocol::new("sip");
const ACCESS: RealmId = RealmId::new(0);
const CORE: RealmId = RealmId::new(1);
const OPTIONS: &str = "OPTIONS sip:a@b SIP/2.0\r\nVia: SIP/2.0/TCP c;branch=z9hG4bK1\r\nContent-Length: 0\r\n\r\n";
const PATIENCE: Duration = Duration::from_secs(10);

fn realm(side: Side) -> Realm {
    Realm {
        name: "test".into(),
        side,
        interface: "lo".into(),
        signalling: "127.0.0.1:0".parse().unwrap(),
        media: "127.0.0.1".parse().unwrap(),
        ports: PortRange { first: 30_000, last: 30_001 },
        vlan: Vec::new(),
        trust: Trust::of(side),
        policy: RealmPolicy::default(),
        softswitch: (side == Side::Core).then(|| "127.0.0.1:9".parse().unwrap()),
        streams: Default::default(),
    }
}

/// What listens at any free port for these, with these limits; by the order of the transports.
fn open(
    transports: &[Transport],
    limits: ConnectionLimits,
    change: impl FnOnce(&mut Config),
) -> (Connections, Vec<SocketAddr>) {
    let mut config = Config::new(vec![realm(Side::Access), realm(Side::Core)]);
    config.connections = limits;
    for transport in transports {
        let settings = &mut config.realms.get_mut(ACCESS).unwrap().streams;
        let port = match transport {
            Transport::Tcp => &mut settings.tcp,
            Transport::Tls => &mut settings.tls,
            Transport::Ws => &mut settings.ws,
            Transport::Wss => &mut settings.wss,
            Transport::Udp => unreachable!(),
        };
        *port = Some(0);
    }
    change(&mut config);
    let wires = wires(&config);
    let connections = Connections::open(Arc::new(config), wires).unwrap();
    let addresses = connections.listeners().map(|(_, at)| at.address).collect();
    (connections, addresses)
}

/// The next event, while `client` continues.
async fn next(connections: &mut Connections) -> Event {
    let mut events = within(async {
        loop {
            poll_fn(|context| connections.poll(context)).await;
            let events = connections.take();
            if !events.is_empty() {
                return events;
            }
        }
    })
    .await;
    let first = events.pop_front().unwrap();
    assert!(events.is_empty(), "{events:?}");
    first
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.expect("it takes too long")
}

/// Lets the connections go on until `work` is done.
async fn meanwhile<T>(connections: &mut Connections, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    within(poll_fn(|context| {
        if let Poll::Ready(outcome) = work.as_mut().poll(context) {
            return Poll::Ready(outcome);
        }
        while connections.poll(context).is_ready() {
            assert!(connections.take().is_empty());
        }
        Poll::Pending
    }))
    .await
}

fn message(event: Event) -> (Flow, String) {
    match event {
        Event::Message { source, bytes, .. } => (source, String::from_utf8(bytes).unwrap()),
        other => panic!("{other:?}"),
    }
}

async fn read(stream: &mut TcpStream, length: usize) -> String {
    let mut buffer = vec![0; length];
    within(stream.read_exact(&mut buffer)).await.unwrap();
    String::from_utf8(buffer).unwrap()
}

/// The other end closed it, politely or not.
async fn assert_closed(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    let end = within(stream.read_to_end(&mut rest)).await;
    assert!(end.is_err() || rest.is_empty() || rest.starts_with(b"SIP/2.0 "), "{rest:?}");
}

#[tokio::test]
async fn messages_come_whole_and_answers_go_back_over_the_same_connection() {
    let (mut connections, at) = open(&[Transport::Tcp], ConnectionLimits::default(), |_| {});
    let mut phone = TcpStream::connect(at[0]).await.unwrap();
    let (begin, end) = OPTIONS.split_at(30);
    phone.write_all(format!("\r\n\r\n{OPTIONS}{begin}").as_bytes()).await.unwrap();
    let (flow, text) = message(next(&mut connections).await);
    assert_eq!((flow.transport, flow.remote, text.as_str()), (Transport::Tcp, phone.local_addr().unwrap(), OPTIONS));
    assert_eq!(read(&mut phone, 2).await, "\r\n", "the answer to a ping");
    phone.write_all(end.as_bytes()).await.unwrap();
    assert_eq!(message(next(&mut connections).await), (flow, OPTIONS.into()));
    assert!(connections.send(&SIP, ACCESS, flow, b"hello".to_vec()));
    assert_eq!(read(&mut phone, 5).await, "hello");
    drop(phone);
    assert_eq!(next(&mut connections).await, Event::Closed { protocol: SIP, realm: ACCESS, flow });
    assert!(!connections.send(&SIP, ACCESS, flow, b"too late".to_vec()), "nobody connects to a terminal");
    let expected = ConnectionStatistics { accepted: 1, closed_by_peer: 1, ..Default::default() };
    assert_eq!(connections.statistics(), expected);
    assert!(connections.open.is_empty() && connections.per_source.is_empty());
}

#[tokio::test]
async fn one_address_has_only_its_share_and_all_together_theirs() {
    let limits = ConnectionLimits { max: 3, max_per_source: 2, ..ConnectionLimits::default() };
    let (mut connections, at) =
        open(&[Transport::Tcp], limits, |config| config.realms.get_mut(CORE).unwrap().softswitch = None);
    let mut phones = Vec::new();
    for from in ["127.0.0.2", "127.0.0.2", "127.0.0.2", "127.0.0.3", "127.0.0.4"] {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
        phones.push(socket.connect(at[0]).await.unwrap());
    }
    for refused in [2, 4] {
        meanwhile(&mut connections, assert_closed(&mut phones[refused])).await;
    }
    let expected = ConnectionStatistics { accepted: 3, refused_source: 1, refused_max: 1, ..Default::default() };
    assert_eq!(connections.statistics(), expected);
}

#[tokio::test]
async fn a_subscriber_of_ipv6_has_one_share_for_all_addresses() {
    let limits = ConnectionLimits { max: 9, max_per_source: 2, ..ConnectionLimits::default() };
    let (mut connections, _) = open(&[], limits, |_| ());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut ends = Vec::new();
    for (realm, from, accepted) in [
        (ACCESS, "2001:db8:1:2::1", 1),
        (ACCESS, "2001:db8:1:2::2", 2),
        (ACCESS, "2001:db8:1:2:ffff::3", 2),
        (ACCESS, "2001:db8:1:3::1", 3),
        (ACCESS, "203.0.113.1", 4),
        (ACCESS, "203.0.113.2", 5),
        (ACCESS, "203.0.113.3", 6),
        (CORE, "2001:db8:1:2::1", 7),
        (CORE, "2001:db8:1:2::2", 8),
        (CORE, "2001:db8:1:2::3", 9),
    ] {
        ends.push(TcpStream::connect(listener.local_addr().unwrap()).await.unwrap());
        let (stream, _) = listener.accept().await.unwrap();
        let flow = Flow::to(Transport::Tcp, SocketAddr::new(from.parse().unwrap(), 5060));
        connections.accept(&SIP, realm, stream, flow);
        assert_eq!(connections.statistics().accepted, accepted, "{from}");
    }
    let ids: Vec<_> = connections.open.keys().copied().collect();
    ids.into_iter().for_each(|id| drop(connections.ended(id, Reason::Peer)));
    assert!(connections.per_source.is_empty());
}

#[tokio::test]
async fn whoever_is_slow_hostile_or_mute_loses_the_connection_for_a_counted_reason() {
    let limits = ConnectionLimits {
        message_timeout: Duration::from_millis(300),
        idle_timeout: Duration::from_millis(600),
        max_message_bytes: 2_000,
        ..ConnectionLimits::default()
    };
    let begun = &OPTIONS[..40];
    let large = format!("{}X: {}", &OPTIONS[..25], "x".repeat(3_000));
    type Count = fn(&ConnectionStatistics) -> u64;
    let cases: [(&str, Count); 7] = [
        ("", |s| s.closed_slow),
        ("\r\n\r\n", |s| s.closed_slow),
        (begun, |s| s.closed_slow),
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", |s| s.closed_not_sip),
        ("\x16\x03\x01", |s| s.closed_not_sip),
        ("OPTIONS sip:a@b SIP/2.0\r\n\r\n", |s| s.closed_not_sip),
        (&large, |s| s.closed_too_large),
    ];
    for (sent, count) in cases {
        let (mut connections, at) = open(&[Transport::Tcp], limits.clone(), |_| {});
        let mut phone = TcpStream::connect(at[0]).await.unwrap();
        phone.write_all(sent.as_bytes()).await.unwrap();
        let closed = next(&mut connections).await;
        assert!(matches!(closed, Event::Closed { realm: ACCESS, .. }), "{sent:?} {closed:?}");
        assert_eq!(count(&connections.statistics()), 1, "{sent:?} {:?}", connections.statistics());
    }
    // Half a message after a whole one, and nothing after a whole one.
    for (rest, count) in [(begun, (|s| s.closed_slow) as Count), ("", |s| s.closed_idle)] {
        let (mut connections, at) = open(&[Transport::Tcp], limits.clone(), |_| {});
        let mut phone = TcpStream::connect(at[0]).await.unwrap();
        phone.write_all(format!("{OPTIONS}{rest}").as_bytes()).await.unwrap();
        message(next(&mut connections).await);
        assert!(matches!(next(&mut connections).await, Event::Closed { .. }));
        assert_eq!(count(&connections.statistics()), 1, "{rest:?} {:?}", connections.statistics());
    }
}

#[tokio::test]
async fn an_impossible_length_is_answered_before_the_end() {
    let (mut connections, at) = open(&[Transport::Tcp], ConnectionLimits::default(), |_| {});
    let mut phone = TcpStream::connect(at[0]).await.unwrap();
    phone.write_all(OPTIONS.replace("Length: 0", "Length: 99999999").as_bytes()).await.unwrap();
    let (flow, _) = message(next(&mut connections).await);
    connections.send(&SIP, ACCESS, flow, b"SIP/2.0 513 Message Too Large\r\n\r\n".to_vec());
    meanwhile(&mut connections, async { assert!(read(&mut phone, 11).await.starts_with("SIP/2.0 513")) }).await;
    assert_eq!(next(&mut connections).await, Event::Closed { protocol: SIP, realm: ACCESS, flow });
    assert_eq!(connections.statistics().closed_too_large, 1);
}

#[tokio::test]
async fn whoever_does_not_read_makes_nobody_hold_more_than_the_queue() {
    let limits = ConnectionLimits { send_queue_bytes: 65_536, ..ConnectionLimits::default() };
    let (mut connections, at) = open(&[Transport::Tcp], limits, |_| {});
    let mut phone = TcpStream::connect(at[0]).await.unwrap();
    phone.write_all(OPTIONS.as_bytes()).await.unwrap();
    let (flow, _) = message(next(&mut connections).await);
    let mut sent = 0;
    while connections.send(&SIP, ACCESS, flow, vec![b'x'; 10_000]) {
        sent += 1;
        assert!(sent < 10_000, "the kernel's buffers have an end");
        tokio::task::yield_now().await;
    }
    assert_eq!(next(&mut connections).await, Event::Closed { protocol: SIP, realm: ACCESS, flow });
    assert_eq!((connections.statistics().closed_not_read, connections.open.len()), (1, 0));
}

#[tokio::test]
async fn the_softswitch_has_one_connection_which_is_made_anew() {
    let softswitch = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let there = Flow::to(Transport::Tcp, softswitch.local_addr().unwrap());
    let (mut connections, _) = open(&[], ConnectionLimits::default(), |_| {});
    for round in 1..=2 {
        // Before it is made, and after.
        assert!(connections.send(&SIP, CORE, there, b"one".to_vec()));
        assert!(connections.send(&SIP, CORE, there, b"two".to_vec()));
        let (mut accepted, _) = within(softswitch.accept()).await.unwrap();
        assert_eq!(read(&mut accepted, 6).await, "onetwo");
        assert!(connections.send(&SIP, CORE, there, b"three".to_vec()));
        assert_eq!(read(&mut accepted, 5).await, "three");
        accepted.write_all(OPTIONS.as_bytes()).await.unwrap();
        let (flow, _) = message(next(&mut connections).await);
        assert_eq!((flow.transport, flow.remote), (there.transport, there.remote));
        assert!(connections.send(&SIP, CORE, flow, b"back".to_vec()));
        assert_eq!(read(&mut accepted, 4).await, "back");
        drop(accepted);
        assert_eq!(next(&mut connections).await, Event::Closed { protocol: SIP, realm: CORE, flow });
        assert_eq!(connections.statistics().made, round);
    }
    drop(softswitch);
    assert!(connections.send(&SIP, CORE, there, b"lost".to_vec()));
    assert_eq!(next(&mut connections).await, Event::Unreachable { protocol: SIP, realm: CORE, flow: there });
    assert!(!connections.send(&SIP, ACCESS, there, b"never".to_vec()), "only in the core");
}

#[tokio::test]
async fn what_was_said_last_leaves_before_the_end() {
    let (mut connections, at) = open(&[Transport::Tcp], ConnectionLimits::default(), |_| {});
    let mut phone = TcpStream::connect(at[0]).await.unwrap();
    phone.write_all(OPTIONS.as_bytes()).await.unwrap();
    let (flow, _) = message(next(&mut connections).await);
    connections.send(&SIP, ACCESS, flow, b"BYE".to_vec());
    connections.flush().await;
    drop(connections);
    assert_eq!(read(&mut phone, 3).await, "BYE");
}

/// A directory of certificates, removed at the end.
struct Authority {
    directory: PathBuf,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("latch-tls-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = parameters.self_signed(&key).unwrap();
        std::fs::write(directory.join("ca.pem"), certificate.pem()).unwrap();
        Self { directory, issuer: rcgen::Issuer::new(parameters, key) }
    }

    fn ca(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }

    /// A certificate for a name or address in files of this name.
    fn issue(&self, file: &str, subject: &str) -> Certificate {
        let key = rcgen::KeyPair::generate().unwrap();
        let parameters = rcgen::CertificateParams::new(vec![subject.into()]).unwrap();
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        let path = |end| self.directory.join(format!("{file}-{end}.pem"));
        std::fs::write(path("certificate"), certificate.pem()).unwrap();
        std::fs::write(path("key"), key.serialize_pem()).unwrap();
        Certificate { chain: path("certificate"), key: path("key") }
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn client(ca: &Path, identity: Option<&Certificate>) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).unwrap()).unwrap();
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let builder = builder.with_root_certificates(roots);
    let config = match identity {
        None => builder.with_no_client_auth(),
        Some(of) => {
            let chain = vec![CertificateDer::from_pem_file(&of.chain).unwrap()];
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(&of.key).unwrap()).unwrap()
        }
    };
    TlsConnector::from(Arc::new(config))
}

fn name(text: &'static str) -> ServerName<'static> {
    ServerName::try_from(text).unwrap()
}

#[tokio::test]
async fn certificates_are_shown_and_read_again_without_a_restart() {
    let authority = Authority::new("server");
    let certificate = authority.issue("latch", "old.example.test");
    let (mut connections, at) = open(&[Transport::Tls], ConnectionLimits::default(), |config| {
        config.realms.get_mut(ACCESS).unwrap().streams.certificate = Some(certificate.clone());
    });
    let connector = client(&authority.ca(), None);
    let connect = async |name| {
        let stream = TcpStream::connect(at[0]).await.unwrap();
        connector.connect(name, stream).await
    };
    let mut old = meanwhile(&mut connections, connect(name("old.example.test"))).await.unwrap();
    old.write_all(OPTIONS.as_bytes()).await.unwrap();
    let (flow, _) = message(next(&mut connections).await);
    assert_eq!(flow.transport, Transport::Tls);

    // A file that cannot be used changes nothing.
    let good = std::fs::read(&certificate.chain).unwrap();
    std::fs::write(&certificate.chain, "not PEM").unwrap();
    connections.reload();
    let _kept = meanwhile(&mut connections, connect(name("old.example.test"))).await.unwrap();
    std::fs::write(&certificate.chain, good).unwrap();

    authority.issue("latch", "new.example.test");
    connections.reload();
    let mut new = meanwhile(&mut connections, connect(name("new.example.test"))).await.unwrap();
    new.write_all(OPTIONS.as_bytes()).await.unwrap();
    message(next(&mut connections).await);
    // Connections from before stay.
    old.write_all(OPTIONS.as_bytes()).await.unwrap();
    assert_eq!(message(next(&mut connections).await).0, flow);
    let refused = TcpStream::connect(at[0]).await.unwrap();
    assert!(meanwhile(&mut connections, connector.connect(name("old.example.test"), refused)).await.is_err());
}

#[tokio::test]
async fn whoever_has_to_prove_itself_and_cannot_is_not_let_in() {
    let (authority, other) = (Authority::new("mine"), Authority::new("other"));
    let certificate = authority.issue("latch", "latch.example.test");
    let (mut connections, at) = open(&[Transport::Tls], ConnectionLimits::default(), |config| {
        let settings = &mut config.realms.get_mut(ACCESS).unwrap().streams;
        (settings.certificate, settings.client_ca) = (Some(certificate), Some(authority.ca()));
    });
    let good = authority.issue("phone", "phone.example.test");
    let bad = other.issue("phone", "phone.example.test");
    for (identity, let_in) in [(None, false), (Some(&bad), false), (Some(&good), true)] {
        let connector = client(&authority.ca(), identity);
        let stream = TcpStream::connect(at[0]).await.unwrap();
        let stream = meanwhile(&mut connections, connector.connect(name("latch.example.test"), stream)).await;
        if let Ok(mut stream) = stream {
            // In TLS 1.3 the client is through before the server has looked.
            let _ = stream.write_all(OPTIONS.as_bytes()).await;
            assert_eq!(matches!(next(&mut connections).await, Event::Message { .. }), let_in);
        } else {
            assert!(!let_in);
        }
    }
    assert_eq!(connections.statistics().closed_handshake, 2);
}

#[tokio::test]
async fn the_softswitch_has_to_be_who_it_is() {
    let (authority, other) = (Authority::new("core"), Authority::new("impostor"));
    for (issuer, subject, trusted) in
        [(&authority, "switch", true), (&authority, "else", false), (&other, "switch", false)]
    {
        // A Latch that listens plays the softswitch.
        let certificate = issuer.issue("switch", &format!("{subject}.example.test"));
        let (mut softswitch, at) = open(&[Transport::Tls], ConnectionLimits::default(), |config| {
            config.realms.get_mut(ACCESS).unwrap().streams.certificate = Some(certificate);
        });
        let (mut connections, _) = open(&[], ConnectionLimits::default(), |config| {
            let settings = &mut config.realms.get_mut(CORE).unwrap().streams;
            (settings.softswitch, settings.server_ca) = (Transport::Tls, Some(authority.ca()));
            settings.server_name = Some("switch.example.test".into());
            config.realms.get_mut(CORE).unwrap().softswitch = Some(at[0]);
        });
        let there = Flow::to(Transport::Tls, at[0]);
        assert!(connections.send(&SIP, CORE, there, OPTIONS.as_bytes().to_vec()));
        let event = next(&mut softswitch);
        if trusted {
            assert_eq!(message(meanwhile(&mut connections, event).await).1, OPTIONS);
        } else {
            let (event, unreachable) = tokio::join!(event, next(&mut connections));
            assert!(matches!(event, Event::Closed { .. }), "{event:?}");
            assert_eq!(unreachable, Event::Unreachable { protocol: SIP, realm: CORE, flow: there });
        }
    }
}

#[tokio::test]
async fn a_websocket_carries_a_message_each_way() {
    let authority = Authority::new("wss");
    let certificate = authority.issue("latch", "latch.example.test");
    let (mut connections, at) = open(&[Transport::Ws, Transport::Wss], ConnectionLimits::default(), |config| {
        config.realms.get_mut(ACCESS).unwrap().streams.certificate = Some(certificate);
    });
    let request = || {
        let mut request = "ws://latch.example.test/".into_client_request().unwrap();
        request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static("chat, sip"));
        request
    };
    let stream = TcpStream::connect(at[0]).await.unwrap();
    let (plain, response) = meanwhile(&mut connections, client_async(request(), stream)).await.unwrap();
    assert_eq!(response.headers()["Sec-WebSocket-Protocol"], "sip");
    exchange(&mut connections, plain, Transport::Ws).await;

    let stream = TcpStream::connect(at[1]).await.unwrap();
    let connector = client(&authority.ca(), None);
    let stream = meanwhile(&mut connections, connector.connect(name("latch.example.test"), stream)).await.unwrap();
    let (secure, _) = meanwhile(&mut connections, client_async(request(), stream)).await.unwrap();
    exchange(&mut connections, secure, Transport::Wss).await;
}

async fn exchange<S>(
    connections: &mut Connections,
    mut browser: tokio_tungstenite::WebSocketStream<S>,
    transport: Transport,
) where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    // Without Content-Length: the WebSocket message's end is the message's.
    let text = "OPTIONS sip:a@b SIP/2.0\r\nVia: SIP/2.0/WS x.invalid;branch=z9hG4bK1\r\n\r\n";
    browser.send(Frame::text(text)).await.unwrap();
    let (flow, received) = message(next(connections).await);
    assert_eq!((flow.transport, received.as_str()), (transport, text));
    browser.send(Frame::binary(text)).await.unwrap();
    assert_eq!(message(next(connections).await), (flow, text.into()));
    for (keep_alive, answer) in
        [(Frame::text("\r\n\r\n"), Frame::text("\r\n")), (Frame::Ping("x".into()), Frame::Pong("x".into()))]
    {
        browser.send(keep_alive).await.unwrap();
        assert_eq!(meanwhile(connections, browser.next()).await.unwrap().unwrap(), answer);
    }
    connections.send(&SIP, ACCESS, flow, b"SIP/2.0 200 OK\r\n\r\n".to_vec());
    assert_eq!(meanwhile(connections, browser.next()).await.unwrap().unwrap(), Frame::text("SIP/2.0 200 OK\r\n\r\n"));
    connections.send(&SIP, ACCESS, flow, b"SIP/2.0 200 \xff\r\n\r\n".to_vec());
    assert!(meanwhile(connections, browser.next()).await.unwrap().unwrap().is_binary());
    browser.close(None).await.unwrap();
    assert_eq!(next(connections).await, Event::Closed { protocol: SIP, realm: ACCESS, flow });
}

#[tokio::test]
async fn a_websocket_for_something_else_is_refused_and_garbage_in_one_ends_it() {
    let (mut connections, at) = open(&[Transport::Ws], ConnectionLimits::default(), |_| {});
    let stream = TcpStream::connect(at[0]).await.unwrap();
    let (error, closed) = tokio::join!(client_async("ws://latch.example.test/", stream), next(&mut connections));
    let error = error.map(drop).unwrap_err();
    assert!(
        matches!(&error, tokio_tungstenite::tungstenite::Error::Http(response) if response.status() == 400),
        "{error}"
    );
    assert!(matches!(closed, Event::Closed { .. }));
    assert_eq!(connections.statistics().closed_handshake, 1);

    for (frame, count) in [
        (Frame::text("hello"), (|s| s.closed_not_sip) as fn(&ConnectionStatistics) -> u64),
        (Frame::text("x".repeat(70_000)), |s| s.closed_too_large),
    ] {
        let mut request = "ws://latch.example.test/".into_client_request().unwrap();
        request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static("sip"));
        let stream = TcpStream::connect(at[0]).await.unwrap();
        let (mut browser, _) = meanwhile(&mut connections, client_async(request, stream)).await.unwrap();
        let _ = browser.send(frame).await;
        assert!(matches!(next(&mut connections).await, Event::Closed { .. }));
        assert_eq!(count(&connections.statistics()), 1, "{:?}", connections.statistics());
    }
}
