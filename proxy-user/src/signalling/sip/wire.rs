//! How SIP travels: over UDP, TCP and TLS (RFC 3261 §18) and over WebSocket (RFC 7118).

use super::{PROTOCOL, syntax};
use crate::{
    config::Config,
    flow::Transport,
    signalling::{Broken, Fault, Frame, Framer, Listener, Wire},
};
use std::net::SocketAddr;

/// A realm's signalling address is SIP's.
pub(super) fn wire(config: &Config) -> Wire {
    let listeners = config.realms.with_ids().flat_map(|(id, realm)| {
        let of = move |(transport, port)| {
            let address = SocketAddr::new(realm.signalling.ip(), port);
            Listener { realm: id, transport, address }
        };
        std::iter::once((Transport::Udp, realm.signalling.port())).chain(realm.streams.listening()).map(of)
    });
    Wire { protocol: PROTOCOL, listeners: listeners.collect(), framer: Some(framer), subprotocol: Some("sip") }
}

fn framer(transport: Transport, limit: usize) -> Box<dyn Framer> {
    match transport {
        Transport::Ws | Transport::Wss => Box::new(WebSocket::default()),
        Transport::Udp | Transport::Tcp | Transport::Tls => Box::new(syntax::Framer::new(limit)),
    }
}

/// TCP and TLS.
impl Framer for syntax::Framer {
    fn push(&mut self, bytes: &[u8]) {
        self.push(bytes);
    }

    fn next_frame(&mut self) -> Result<Option<Frame>, Broken> {
        match self.next_frame() {
            Ok(next) => Ok(next.map(|frame| match frame {
                syntax::Frame::Message(bytes) => Frame::Message(bytes),
                syntax::Frame::Ping => Frame::KeepAlive(PONG.to_vec()),
            })),
            Err(broken) => {
                let fault = match broken {
                    syntax::Broken::TooLarge => Fault::TooLarge,
                    syntax::Broken::NotSip | syntax::Broken::NoLength | syntax::Broken::MalformedLength => {
                        Fault::Malformed
                    }
                };
                Err(Broken { fault, refused: self.take_refused() })
            }
        }
    }

    fn is_mid_message(&self) -> bool {
        self.is_mid_message()
    }
}

/// Each message of WebSocket holds one of SIP (RFC 7118 §5), or line ends that keep the connection alive.
#[derive(Debug, Default)]
struct WebSocket {
    came: Option<Vec<u8>>,
}

impl Framer for WebSocket {
    fn push(&mut self, bytes: &[u8]) {
        self.came = Some(bytes.to_vec());
    }

    fn next_frame(&mut self) -> Result<Option<Frame>, Broken> {
        let Some(bytes) = self.came.take() else { return Ok(None) };
        if bytes == PING {
            return Ok(Some(Frame::KeepAlive(PONG.to_vec())));
        }
        if bytes.iter().all(|byte| matches!(byte, b'\r' | b'\n')) {
            return Ok(None);
        }
        let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
        match memchr::memmem::find(line, b"SIP/") {
            Some(_) => Ok(Some(Frame::Message(bytes))),
            None => Err(Broken { fault: Fault::Malformed, refused: None }),
        }
    }

    fn is_mid_message(&self) -> bool {
        false
    }
}

/// What asks for a sign of life, and what is one (RFC 5626 §3.5.1).
const PING: &[u8] = b"\r\n\r\n";
const PONG: &[u8] = b"\r\n";

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: &[u8] = b"OPTIONS sip:a@b SIP/2.0\r\nl: 0\r\n\r\n";

    #[test]
    fn streams_are_divided_and_each_websocket_message_is_by_itself() {
        let message = || Ok(Some(Frame::Message(OPTIONS.to_vec())));
        let alive = || Ok(Some(Frame::KeepAlive(b"\r\n".to_vec())));
        let broken = |fault, refused: Option<&[u8]>| Err(Broken { fault, refused: refused.map(<[u8]>::to_vec) });
        let huge = b"OPTIONS sip:a@b SIP/2.0\r\nl: 999999\r\n\r\n";
        for (transport, pushed, expected, mid_message) in [
            (Transport::Tcp, OPTIONS, message(), false),
            (Transport::Tls, &OPTIONS[..9], Ok(None), true),
            (Transport::Tcp, b"\r\n\r\n", alive(), false),
            (Transport::Tcp, b"GET / HTTP/1.1\r\n", broken(Fault::Malformed, None), false),
            (Transport::Tcp, huge, broken(Fault::TooLarge, Some(huge)), false),
            (Transport::Ws, OPTIONS, message(), false),
            (Transport::Wss, b"\r\n\r\n", alive(), false),
            (Transport::Ws, b"\r\n", Ok(None), false),
            (Transport::Ws, b"", Ok(None), false),
            (Transport::Ws, b"hello", broken(Fault::Malformed, None), false),
        ] {
            let mut framer = framer(transport, 60_000);
            framer.push(pushed);
            assert_eq!(framer.next_frame(), expected, "{transport:?} {}", String::from_utf8_lossy(pushed));
            assert_eq!(framer.is_mid_message(), mid_message);
        }
    }
}
