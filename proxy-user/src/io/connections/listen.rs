//! Sockets that accept connections.

use crate::{engine::Protocol, signalling};
use anyhow::{Context as _, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};
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
/// After an error such as too few file descriptors: trying again immediately would not help.
const PAUSE: Duration = Duration::from_millis(100);

/// File descriptors for everything but connections.
const RESERVED: u64 = 256;

/// Lets the process have this many connections at once, as far as the operating system allows. Returns how many it
/// allows.
pub(super) fn make_room(wanted: usize) -> usize {
    let files = (wanted as u64).saturating_add(RESERVED);
    let granted = match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, _)) if soft >= files => return wanted,
        Ok((soft, hard)) => {
            let asked = files.min(hard);
            setrlimit(Resource::RLIMIT_NOFILE, asked, hard).map_or(soft, |()| asked)
        }
        // No objection to the connection.
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
    pub(super) protocol: Protocol,
    pub(super) at: signalling::Listener,
    socket: TcpListener,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Listener {
    pub(super) fn bind(protocol: &Protocol, at: signalling::Listener) -> Result<Self> {
        let address = at.address;
        let socket = || -> io::Result<TcpListener> {
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(socket2::Protocol::TCP))?;
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
        let socket = socket().with_context(|| format!("cannot listen at {address} for {}", at.transport.in_via()))?;
        let address = socket.local_addr().with_context(|| format!("where does {address} listen?"))?;
        Ok(Self { protocol: protocol.clone(), at: signalling::Listener { address, ..at }, socket, pause: None })
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
