//! Sockets that connections come to.

use crate::{flow::Transport, media::RealmId};
use anyhow::{Context as _, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
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

/// File descriptors for everything but connections.
const RESERVED: u64 = 256;

/// Lets the process have so many connections at once, as far as the operating system does. How many it lets.
pub(super) fn make_room(wanted: usize) -> usize {
    let files = (wanted as u64).saturating_add(RESERVED);
    let granted = match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, _)) if soft >= files => return wanted,
        Ok((soft, hard)) => {
            let asked = files.min(hard);
            setrlimit(Resource::RLIMIT_NOFILE, asked, hard).map_or(soft, |()| asked)
        }
        // Nothing is known against it.
        Err(_) => return wanted,
    };
    let room = usize::try_from(granted.saturating_sub(RESERVED)).unwrap_or(usize::MAX).clamp(1, wanted);
    if room < wanted {
        tracing::warn!(
            "{room} connections at most, not {wanted}: the process may have {granted} open files (LimitNOFILE)"
        );
    }
    room
}

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
