//! One connection: a task that reads messages from it, writes messages to it, and sees to it that it costs no more than
//! it may.

use super::{reason::Reason, websocket};
use crate::{
    config::Connections,
    flow::{ConnectionId, Transport},
    signalling::sip::{Frame, Framer},
};
use nix::sys::socket::{setsockopt, sockopt};
use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    sync::mpsc,
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::{TlsAcceptor, TlsConnector, rustls::pki_types::ServerName};

/// So long data may stay unacknowledged, and a peer may take nothing at all.
const UNACKNOWLEDGED: Duration = Duration::from_secs(20);
/// After so long without a packet the kernel asks whether the other end is still there.
const PROBE_AFTER: Duration = Duration::from_secs(60);
/// What is held of a message besides its bytes.
const OVERHEAD: usize = 64;
/// A refused message's answer has so long to leave.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What a connection tells.
#[derive(Debug)]
pub(super) enum Told {
    Message(ConnectionId, Vec<u8>),
    Ended(ConnectionId, Reason),
}

/// How a connection comes about.
pub(super) enum Origin {
    Accepted(TcpStream, Option<TlsAcceptor>),
    /// From this own address.
    To(IpAddr, SocketAddr, Option<(TlsConnector, ServerName<'static>)>),
}

/// What waits to be written: no more than a connection may hold.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    sender: mpsc::UnboundedSender<Vec<u8>>,
    waiting: Arc<AtomicUsize>,
    limit: usize,
}

impl Queue {
    pub(super) fn new(limit: usize) -> (Self, mpsc::UnboundedReceiver<Vec<u8>>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self { sender, waiting: Arc::default(), limit }, receiver)
    }

    /// False where there is no room for it.
    pub(super) fn push(&self, bytes: Vec<u8>) -> bool {
        let cost = bytes.len() + OVERHEAD;
        if self.waiting.load(Ordering::Relaxed).saturating_add(cost) > self.limit {
            return false;
        }
        self.waiting.fetch_add(cost, Ordering::Relaxed);
        self.sender.send(bytes).is_ok()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) == 0
    }

    pub(super) fn written(&self, length: usize) {
        self.waiting.fetch_sub(length + OVERHEAD, Ordering::Relaxed);
    }
}

/// A connection's task.
pub(super) struct Connection {
    pub(super) id: ConnectionId,
    pub(super) transport: Transport,
    pub(super) limits: Connections,
    pub(super) queue: Queue,
    pub(super) outgoing: mpsc::UnboundedReceiver<Vec<u8>>,
    pub(super) tell: mpsc::Sender<Told>,
}

impl Connection {
    /// Until it ends, which is the last that it tells.
    pub(super) async fn run(self, origin: Origin) {
        let (id, tell) = (self.id, self.tell.clone());
        let reason = self.converse(origin).await;
        // Nobody listens any more where Latch itself ends.
        let _ = tell.send(Told::Ended(id, reason)).await;
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
                                tracing::warn!(%remote, %error, "no TLS with the softswitch");
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
        let Self { id, limits, queue, mut outgoing, tell, .. } = self;
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
            let mut framer = Framer::new(limits.max_message_bytes);
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
                            if tell.send(Told::Message(id, bytes)).await.is_err() {
                                return Reason::Error;
                            }
                        }
                        Ok(Some(Frame::Ping)) => {
                            if !queue.push(b"\r\n".to_vec()) {
                                return Reason::NotRead;
                            }
                        }
                        Err(broken) => {
                            // Whoever can still be answered hears why.
                            if let Some(head) = framer.take_refused() {
                                let _ = tell.send(Told::Message(id, head)).await;
                                tokio::time::sleep(LAST_WORDS).await;
                            }
                            return broken.into();
                        }
                    }
                }
                // What waits for its rest began no later than now.
                pace.begun(framer.is_mid_message());
            }
        };
        tokio::select! {
            reason = read => reason,
            reason = write => reason,
        }
    }
}

/// By when something has to come.
#[derive(Debug)]
pub(super) struct Pace {
    opened: Instant,
    /// Milliseconds from `opened` on: of the last time that something came or went; of the first byte of a message that is
    /// not whole, plus one.
    last: AtomicU64,
    begun: AtomicU64,
    /// Whether no message has come yet, of somebody who connected to have one read.
    silent: std::sync::atomic::AtomicBool,
    message: Duration,
    idle: Duration,
}

impl Pace {
    pub(super) fn new(limits: &Connections, accepted: bool) -> Self {
        Self {
            opened: Instant::now(),
            last: AtomicU64::new(0),
            begun: AtomicU64::new(0),
            silent: accepted.into(),
            message: limits.message_timeout,
            idle: limits.idle_timeout,
        }
    }

    fn elapsed(&self) -> u64 {
        u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Something came or went.
    pub(super) fn touch(&self) {
        self.last.store(self.elapsed(), Ordering::Relaxed);
    }

    /// A whole message came.
    pub(super) fn message(&self) {
        self.silent.store(false, Ordering::Relaxed);
        self.begun.store(0, Ordering::Relaxed);
    }

    /// Whether a message has begun by now and is not whole.
    fn begun(&self, mid_message: bool) {
        let begun = if mid_message { self.elapsed() + 1 } else { 0 };
        if !mid_message || self.begun.load(Ordering::Relaxed) == 0 {
            self.begun.store(begun, Ordering::Relaxed);
        }
    }

    /// The outcome of `wait`, unless time is up before.
    pub(super) async fn within<T>(&self, mid_message: bool, wait: impl Future<Output = T>) -> Result<T, Reason> {
        let mut wait = std::pin::pin!(wait);
        loop {
            let after = |ms: u64, time: Duration| self.opened + Duration::from_millis(ms) + time;
            let (last, begun) = (self.last.load(Ordering::Relaxed), self.begun.load(Ordering::Relaxed));
            let (deadline, reason) = if self.silent.load(Ordering::Relaxed) {
                (after(0, self.message), Reason::Slow)
            } else if mid_message {
                (after(begun, self.message), Reason::Slow)
            } else {
                (after(last, self.idle), Reason::Idle)
            };
            match timeout_at(deadline, wait.as_mut()).await {
                Ok(outcome) => {
                    self.touch();
                    return Ok(outcome);
                }
                // Something went out meanwhile.
                Err(_) if reason == Reason::Idle && self.last.load(Ordering::Relaxed) != last => {}
                Err(_) => return Err(reason),
            }
        }
    }
}

async fn connect(own: IpAddr, remote: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = if remote.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.bind(SocketAddr::new(own, 0))?;
    socket.connect(remote).await
}

/// Messages leave at once, and a peer that is gone without a word is noticed. What cannot be set stays as it is.
fn tune(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let keepalive = socket2::TcpKeepalive::new().with_time(PROBE_AFTER).with_interval(PROBE_AFTER / 6);
    let _ = socket2::SockRef::from(stream).set_tcp_keepalive(&keepalive);
    let unacknowledged = u32::try_from(UNACKNOWLEDGED.as_millis()).unwrap_or_default();
    let _ = setsockopt(stream, sockopt::TcpUserTimeout, &unacknowledged);
}
