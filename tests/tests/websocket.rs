//! A terminal that speaks SIP over WebSocket, as a program in a browser would (RFC 7118), and a phone on UDP call each
//! other. The terminal is scripted here; its media is plain RTP.

use std::io::{Read, Write};
use std::net::{SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use proxy_user::signalling::sip::{Message, Name, NameAddr};
use testbed::rtp::Stream;
use testbed::{
    Authority, Counters, Direction, KamailioConfig, LatchConfig, NatKind, Scene, Testbed, TestbedConfig, address,
    in_testbed,
};
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio_tungstenite::tungstenite::{self, WebSocket, client::IntoClientRequest as _, http::HeaderValue};

/// How long anything may take that has to happen: much longer than it does.
const TIMEOUT: Duration = Duration::from_secs(20);
/// What a browser calls itself: it knows no address of its own (RFC 7118 §5).
const HOST: &str = "df7jal23ls0d.invalid";

trait Bytes: Read + Write {}
impl<T: Read + Write> Bytes for T {}

/// The terminal.
struct Browser {
    socket: WebSocket<Box<dyn Bytes>>,
    transport: &'static str,
    sent: u32,
}

impl Browser {
    /// Connects from phone 1, by TLS where there is an authority to trust.
    fn connect(testbed: &Testbed, port: u16, authority: Option<&Authority>) -> Result<Self> {
        let latch = SocketAddr::from((address::LATCH_ACCESS, port));
        let stream = testbed.phone(1)?.enter(|| Ok(TcpStream::connect(latch)?))?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        let stream: Box<dyn Bytes> = match authority {
            None => Box::new(stream),
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add(CertificateDer::from_pem_file(authority.file())?)?;
                let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
                    .with_safe_default_protocol_versions()?
                    .with_root_certificates(roots)
                    .with_no_client_auth();
                let name = ServerName::IpAddress(latch.ip().into());
                Box::new(StreamOwned::new(ClientConnection::new(Arc::new(config), name)?, stream))
            }
        };
        let mut request = format!("ws://{latch}/").into_client_request()?;
        request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static("sip"));
        let (socket, response) = tungstenite::client(request, stream).map_err(|error| anyhow!("{error}"))?;
        ensure!(response.headers().get("Sec-WebSocket-Protocol").is_some_and(|name| name == "sip"));
        Ok(Self { socket, transport: if authority.is_some() { "WSS" } else { "WS" }, sent: 0 })
    }

    fn send(&mut self, text: &str) -> Result<()> {
        self.socket.send(tungstenite::Message::text(text)).context("write to the WebSocket")
    }

    fn receive_text(&mut self) -> Result<String> {
        loop {
            match self.socket.read() {
                // A pause of the machine interrupts a read that has a time limit.
                Err(tungstenite::Error::Io(error)) if error.kind() == std::io::ErrorKind::Interrupted => {}
                read => return Ok(read.context("read from the WebSocket")?.into_text()?.to_string()),
            }
        }
    }

    /// The next message that is this: a method or a status code. Others before it are passed over.
    fn receive(&mut self, kind: &str) -> Result<Message> {
        loop {
            let text = self.receive_text()?;
            let message = Message::parse(text.as_bytes()).with_context(|| text.clone())?;
            let code = message.code().map(|code| code.to_string());
            match message.method().map(str::to_owned).or(code) {
                Some(found) if found == kind => return Ok(message),
                // Keep-alives are answered by every terminal.
                Some(found) if found == "OPTIONS" => self.answer(&message, "200 OK", "")?,
                _ => {}
            }
        }
    }

    fn request(&mut self, method: &str, uri: &str, more: &str, body: &str) -> Result<()> {
        self.sent += 1;
        let (transport, sent) = (self.transport, self.sent);
        self.send(&format!(
            "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/{transport} {HOST};branch=z9hG4bK{method}{sent}\r\nMax-Forwards: 70\r\n\
             {more}\r\nContact: <sip:alice@{HOST};transport=ws>;reg-id=1;+sip.instance=\"<urn:uuid:7>\"\r\n\
             Supported: path, outbound\r\n{}\r\n{body}",
            content(body)
        ))
    }

    fn answer(&mut self, request: &Message, status: &str, body: &str) -> Result<()> {
        let mut text = format!("SIP/2.0 {status}\r\n");
        for via in request.values(Name::Via) {
            text += &format!("Via: {via}\r\n");
        }
        let value = |name| request.value(name).unwrap_or_default();
        let tag = if request.to_tag().is_some() { "" } else { ";tag=browser" };
        text += &format!(
            "From: {}\r\nTo: {}{tag}\r\nCall-ID: {}\r\nCSeq: {}\r\nContact: <sip:alice@{HOST};transport=ws>\r\n{}\r\n{body}",
            value(Name::From),
            value(Name::To),
            value(Name::CallId),
            value(Name::CSeq),
            content(body)
        );
        self.send(&text)
    }
}

fn content(body: &str) -> String {
    let kind = if body.is_empty() { "" } else { "Content-Type: application/sdp\r\n" };
    format!("{kind}Content-Length: {}\r\n", body.len())
}

fn sdp() -> String {
    let phone = address::PHONE;
    format!(
        "v=0\r\no=- 1 1 IN IP4 {phone}\r\ns=-\r\nc=IN IP4 {phone}\r\nt=0 0\r\nm=audio 6000 RTP/AVP 8\r\n\
         a=rtpmap:8 PCMA/8000\r\n"
    )
}

/// Where a session description wants audio.
fn media(message: &Message) -> Result<SocketAddrV4> {
    let body = String::from_utf8_lossy(message.body()).into_owned();
    let word = |start: &str, index| {
        let line = body.lines().find(|line| line.starts_with(start));
        line.and_then(|line| line.split(' ').nth(index)).map(str::to_owned).with_context(|| body.clone())
    };
    Ok(SocketAddrV4::new(word("c=IN IP4", 2)?.parse()?, word("m=audio", 1)?.parse()?))
}

fn uri(message: &Message) -> Result<String> {
    let contact = message.value(Name::Contact).context("a Contact")?;
    Ok(NameAddr::parse(&contact)?.uri.to_owned())
}

/// RTP both ways between the terminal's socket and a phone; both count what they hear.
fn hear_each_other(socket: &UdpSocket, relay: SocketAddrV4, at: &[Counters<'_>]) -> Result<()> {
    let heard = || at.iter().map(|at| Ok(at.get("rtp")?.packets)).collect::<Result<Vec<_>>>();
    let before = heard()?;
    Stream { packets: 100, ..Stream::default() }.send(socket, relay)?;
    testbed::wait_until("both hear the other", TIMEOUT, || {
        Ok(heard()?.iter().zip(&before).all(|(now, before)| *now >= before + 50))
    })
}

fn call_over_a_websocket(secure: bool) {
    in_testbed(TestbedConfig::with_nats(&[NatKind::Symmetric, NatKind::PortRestricted]), |testbed| {
        let authority = Authority::new(testbed.directory(), "ca")?;
        let own = authority.issue("latch", &[&address::LATCH_ACCESS.to_string()])?;
        let files = format!("certificate = \"{}\"\nkey = \"{}\"\n", own.certificate.display(), own.key.display());
        let realms = [format!("ws_port = 8080\nwss_port = 8443\n{files}"), String::new()];
        let latch = LatchConfig { realms, keepalive_period_s: 2, ..LatchConfig::default() };
        let scene = Scene::start(testbed, &KamailioConfig::default(), &latch)?;
        let rtp = |phone, ports: &str| {
            let matching = format!("ip saddr {} udp dport {ports}", address::LATCH_ACCESS);
            Counters::add(testbed.phone(phone)?, &[("rtp", Direction::In, &matching)])
        };
        let at = [rtp(1, "6000")?, rtp(2, "16384-16484")?];
        let mut bob = scene.baresip(2, "bob", |_| {})?;

        let port = if secure { 8443 } else { 8080 };
        let mut alice = Browser::connect(testbed, port, secure.then_some(&authority))?;
        alice.send("\r\n\r\n")?;
        ensure!(alice.receive_text()? == "\r\n", "the answer to a ping");
        let identity = "From: <sip:alice@example.test>;tag=r\r\nTo: <sip:alice@example.test>\r\nCall-ID: r1\r\n";
        alice.request("REGISTER", "sip:example.test", &format!("{identity}CSeq: 1 REGISTER\r\nExpires: 600"), "")?;
        let ok = alice.receive("200")?;
        ensure!(uri(&ok)? == format!("sip:alice@{HOST};transport=ws"), "{:?}", ok.value(Name::Contact));
        let known = scene.kamailio.wait_for_contacts("alice", 1, TIMEOUT)?;
        ensure!(known[0].uri.ends_with("@10.9.0.10:5060"), "{known:?}");
        let keepalive = alice.receive_keepalive()?;
        ensure!(keepalive.value(Name::Via).is_some_and(|via| via.starts_with(&format!("SIP/2.0/{}", alice.transport))));

        // Bob calls her, and she hangs up.
        let socket = testbed.phone(1)?.udp(SocketAddrV4::new(address::PHONE, 6_000))?;
        bob.dial("alice")?;
        let invite = alice.receive("INVITE")?;
        ensure!(uri(&invite)?.ends_with(&format!("@203.0.113.10:{port};transport=ws")), "{}", uri(&invite)?);
        alice.answer(&invite, "180 Ringing", "")?;
        alice.answer(&invite, "200 OK", &sdp())?;
        alice.receive("ACK")?;
        bob.wait_for("CALL_ESTABLISHED", TIMEOUT)?;
        hear_each_other(&socket, media(&invite)?, &at)?;
        let dialog = format!(
            "From: {};tag=browser\r\nTo: {}\r\nCall-ID: {}\r\nCSeq: 1 BYE",
            invite.value(Name::To).unwrap_or_default(),
            invite.value(Name::From).unwrap_or_default(),
            invite.call_id().unwrap_or_default()
        );
        alice.request("BYE", &uri(&invite)?, &dialog, "")?;
        alice.receive("200")?;
        bob.wait_for("CALL_CLOSED", TIMEOUT)?;

        // She calls him, and he hangs up.
        let dialog = "From: <sip:alice@example.test>;tag=c\r\nTo: <sip:bob@example.test>\r\nCall-ID: c1\r\n";
        alice.request("INVITE", "sip:bob@example.test", &format!("{dialog}CSeq: 1 INVITE"), &sdp())?;
        bob.wait_for("CALL_INCOMING", TIMEOUT)?;
        bob.accept()?;
        let ok = alice.receive("200")?;
        let ack =
            format!("{dialog}CSeq: 1 ACK").replace("<sip:bob@example.test>", &ok.value(Name::To).unwrap_or_default());
        alice.request("ACK", &uri(&ok)?, &ack, "")?;
        bob.wait_for("CALL_ESTABLISHED", TIMEOUT)?;
        hear_each_other(&socket, media(&ok)?, &at)?;
        bob.hang_up()?;
        let bye = alice.receive("BYE")?;
        alice.answer(&bye, "200 OK", "")?;
        scene.finish(4).map(drop)
    });
}

impl Browser {
    /// The next keep-alive, answered.
    fn receive_keepalive(&mut self) -> Result<Message> {
        loop {
            let text = self.receive_text()?;
            let message = Message::parse(text.as_bytes()).with_context(|| text.clone())?;
            if message.method() == Some("OPTIONS") {
                self.answer(&message, "200 OK", "")?;
                return Ok(message);
            }
        }
    }
}

#[test]
fn a_terminal_on_websocket_and_a_phone_on_udp_call_each_other() {
    call_over_a_websocket(false);
}

#[test]
fn a_terminal_on_secure_websocket_and_a_phone_on_udp_call_each_other() {
    call_over_a_websocket(true);
}
