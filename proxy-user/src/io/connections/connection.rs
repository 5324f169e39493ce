//! One connection from its first byte to its last: how it is made, and messages over TCP and TLS.

use super::{
    reason::Reason,
    task::{Connection, ConnectionEvent, Pace},
    websocket,
};
use crate::{flow::Transport, signalling::Frame};
use nix::sys::socket::{setsockopt, sockopt};
use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, rustls::pki_types::ServerName};

/// How long data may stay unacknowledged, and a peer may accept no data at all.
const UNACKNOWLEDGED: Duration = Duration::from_secs(20);
/// After this long without a packet the kernel probes whether the other end is still there.
const PROBE_AFTER: Duration = Duration::from_secs(60);
/// How long the answer to a refused message may take to leave.
const ERROR_REPLY_LINGER: Duration = Duration::from_secs(1);

/// How a connection is made.
pub(super) enum Origin {
    Accepted(TcpStream, Option<TlsAcceptor>),
    /// From this own address.
    To(IpAddr, SocketAddr, Option<(TlsConnector, ServerName<'static>)>),
}

impl Connection {
    /// Runs until it ends, which is its last event.
    pub(super) async fn run(self, origin: Origin) {
        let (id, tell) = (self.id, self.tell.clone());
        let reason = self.converse(origin).await;
        // Nobody listens any more when Latch itself ends.
        let _ = tell.send(ConnectionEvent::Ended(id, reason)).await;
    }

    async fn converse(self, origin: Origin) -> Reason {
        let limits = self.limits.clone();
        match origin {
            Origin::Accepted(stream, acceptor) => {
                tune(&stream);
                match acceptor.filter(|_| self.transport.is_secure()) {
                    None => self.speak(stream, true).await,
                    Some(acceptor) => match timeout(limits.message_timeout, acceptor.accept(stream)).await {
                        Err(_) => Reason::Slow,
                        Ok(Err(_)) => Reason::Handshake,
                        Ok(Ok(stream)) => self.speak(stream, true).await,
                    },
                }
            }
            Origin::To(own, remote, connector) => {
                let Ok(Ok(stream)) = timeout(limits.connect_timeout, connect(own, remote)).await else {
                    return Reason::Unreachable;
                };
                tune(&stream);
                match (connector, self.transport) {
                    (_, Transport::Tcp) => self.speak(stream, false).await,
                    (Some((connector, name)), Transport::Tls) => {
                        match timeout(limits.connect_timeout, connector.connect(name, stream)).await {
                            Ok(Ok(stream)) => self.speak(stream, false).await,
                            Ok(Err(error)) => {
                                tracing::warn!(%remote, %error, "TLS with the softswitch failed");
                                Reason::Unreachable
                            }
                            Err(_) => Reason::Unreachable,
                        }
                    }
                    _ => Reason::Unreachable,
                }
            }
        }
    }

    async fn speak<S: AsyncRead + AsyncWrite + Unpin + Send>(self, stream: S, accepted: bool) -> Reason {
        match self.transport {
            Transport::Ws | Transport::Wss => websocket::speak(self, stream).await,
            _ => self.speak_plainly(stream, accepted).await,
        }
    }

    async fn speak_plainly<S: AsyncRead + AsyncWrite + Send>(self, stream: S, accepted: bool) -> Reason {
        let Self { id, limits, queue, mut framer, mut outgoing, tell, .. } = self;
        let (mut reader, mut writer) = tokio::io::split(stream);
        let pace = Pace::new(&limits, accepted);
        let write = async {
            while let Some(bytes) = outgoing.recv().await {
                let sent = async {
                    writer.write_all(&bytes).await?;
                    writer.flush().await
                };
                match timeout(UNACKNOWLEDGED, sent).await {
                    Err(_) => return Reason::NotRead,
                    Ok(Err(_)) => return Reason::Error,
                    Ok(Ok(())) => queue.written(bytes.len()),
                }
                pace.touch();
            }
            Reason::Error
        };
        let read = async {
            let mut buffer = vec![0; 4_096];
            loop {
                let length = match pace.within(framer.is_mid_message(), reader.read(&mut buffer)).await {
                    Err(reason) => return reason,
                    Ok(Ok(0)) => return Reason::Peer,
                    Ok(Err(_)) => return Reason::Error,
                    Ok(Ok(length)) => length,
                };
                framer.push(buffer.get(..length).unwrap_or_default());
                loop {
                    match framer.next_frame() {
                        Ok(None) => break,
                        Ok(Some(Frame::Message(bytes))) => {
                            pace.message();
                            if tell.send(ConnectionEvent::Message(id, bytes)).await.is_err() {
                                return Reason::Error;
                            }
                        }
                        Ok(Some(Frame::KeepAlive(answer))) => {
                            if !queue.push(answer) {
                                return Reason::NotRead;
                            }
                        }
                        Err(broken) => {
                            // A peer that can still be answered gets the reason.
                            if let Some(refused) = broken.refused {
                                let _ = tell.send(ConnectionEvent::Message(id, refused)).await;
                                tokio::time::sleep(ERROR_REPLY_LINGER).await;
                            }
                            return broken.fault.into();
                        }
                    }
                }
                // A message that waits for its rest began now at the latest.
                pace.begun(framer.is_mid_message());
            }
        };
        tokio::select! {
            reason = read => reason,
            reason = write => reason,
        }
    }
}

async fn connect(own: IpAddr, remote: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = if remote.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.bind(SocketAddr::new(own, 0))?;
    socket.connect(remote).await
}

/// Messages leave immediately, and a peer that vanished is noticed. What cannot be set stays as it is.
fn tune(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let keepalive = socket2::TcpKeepalive::new().with_time(PROBE_AFTER).with_interval(PROBE_AFTER / 6);
    let _ = socket2::SockRef::from(stream).set_tcp_keepalive(&keepalive);
    let unacknowledged = u32::try_from(UNACKNOWLEDGED.as_millis()).unwrap_or_default();
    let _ = setsockopt(stream, sockopt::TcpUserTimeout, &unacknowledged);
}
