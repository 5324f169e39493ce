//! The signalling sockets.

use crate::{engine::Protocol, flow::Transport, media::RealmId, signalling::Wire};
use anyhow::{Context as _, Result};
use nix::sys::socket::{
    setsockopt,
    sockopt::{RcvBufForce, SndBufForce},
};
use socket2::{Domain, Socket, Type};
use std::net::SocketAddr;
use tokio::net::UdpSocket;

/// Room for datagrams that wait, bytes: a burst of some thousand SIP messages.
const RECEIVE_BUFFER: usize = 4 << 20;
/// Room for datagrams that wait until the hardware address of their next hop is known, bytes. Answers to sources that
/// do not exist wait for seconds, up to 208 KiB each (`unres_qlen_bytes`): with less room, a network of 254 of them
/// delays what is sent to everybody else. It is a limit; nothing is reserved.
const SEND_BUFFER: usize = 64 << 20;

/// A socket for the datagrams of one protocol in one realm.
#[derive(Debug)]
pub struct DatagramSocket {
    /// Which protocol.
    pub protocol: Protocol,
    /// Which realm.
    pub realm: RealmId,
    /// The socket.
    pub socket: UdpSocket,
}

/// Binds the addresses of the protocols' datagrams. Must be called within a tokio runtime.
///
/// # Errors
///
/// An address is not the host's or is in use.
pub fn bind(wires: &[Wire]) -> Result<Vec<DatagramSocket>> {
    let listeners = wires.iter().flat_map(|wire| wire.listeners.iter().map(|listener| (&wire.protocol, listener)));
    let bound = listeners.filter(|(_, listener)| listener.transport == Transport::Udp).map(|(protocol, listener)| {
        let socket = bind_one(listener.address)?;
        Ok(DatagramSocket { protocol: protocol.clone(), realm: listener.realm, socket })
    });
    bound.collect()
}

fn bind_one(address: SocketAddr) -> Result<UdpSocket> {
    let socket = || -> std::io::Result<UdpSocket> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(socket2::Protocol::UDP))?;
        // Root may exceed net.core.rmem_max, which is too small for a burst; others get as much as it grants.
        if setsockopt(&socket, RcvBufForce, &RECEIVE_BUFFER).is_err() {
            socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
        }
        if setsockopt(&socket, SndBufForce, &SEND_BUFFER).is_err() {
            socket.set_send_buffer_size(SEND_BUFFER)?;
        }
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        UdpSocket::from_std(socket.into())
    };
    socket().with_context(|| format!("cannot open UDP {address} for signalling"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{Config, PortRange, Realm, RealmPolicy, Side, Trust},
        signalling::wires,
    };

    #[tokio::test]
    async fn an_address_in_use_is_named() {
        let taken = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = taken.local_addr().unwrap();
        let realm = Realm {
            name: "access".into(),
            side: Side::Access,
            interface: "lo".into(),
            signalling: address,
            media: address.ip(),
            ports: PortRange { first: 30_000, last: 30_001 },
            vlan: Vec::new(),
            trust: Trust::of(Side::Access),
            policy: RealmPolicy::default(),
            softswitch: None,
            streams: Default::default(),
        };
        let error = bind(&wires(&Config::new(vec![realm]))).unwrap_err();
        assert!(format!("{error:#}").contains(&address.to_string()), "{error:#}");
    }
}
