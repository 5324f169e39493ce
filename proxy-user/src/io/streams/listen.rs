//! Sockets that connections come to.

use crate::{flow::Transport, media::RealmId};
use anyhow::{Context as _, Result};
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    time::{Sleep, sleep},
};

/// Connections that the kernel may have made before Latch has taken them.
const BACKLOG: i32 = 1_024;
/// After an error such as too few file descriptors: trying again at once would not help.
const PAUSE: Duration = Duration::from_millis(100);

pub(super) struct Listener {
    pub(super) realm: RealmId,
    pub(super) transport: Transport,
    socket: TcpListener,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Listener {
    pub(super) fn bind(realm: RealmId, transport: Transport, address: SocketAddr) -> Result<Self> {
        let socket = || -> io::Result<TcpListener> {
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
            // Connections of an earlier process may still be on their way out.
            socket.set_reuse_address(true)?;
            if address.is_ipv6() {
                socket.set_only_v6(true)?;
            }
            socket.set_nonblocking(true)?;
            socket.bind(&address.into())?;
            socket.listen(BACKLOG)?;
            TcpListener::from_std(socket.into())
        };
        let socket = socket().with_context(|| format!("cannot listen at {address} for {}", transport.in_via()))?;
        Ok(Self { realm, transport, socket, pause: None })
    }

    #[cfg(test)]
    pub(super) fn address(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }

    pub(super) fn poll_accept(&mut self, context: &mut Context<'_>) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
        if let Some(pause) = &mut self.pause {
            if pause.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            self.pause = None;
        }
        let accepted = self.socket.poll_accept(context);
        if let Poll::Ready(Err(_)) = accepted {
            self.pause = Some(Box::pin(sleep(PAUSE)));
        }
        accepted
    }
}
