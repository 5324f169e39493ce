//! The signalling sockets.

use crate::{config::Config, media::PerRealm};
use anyhow::{Context as _, Result};
use nix::sys::socket::{
    setsockopt,
    sockopt::{RcvBufForce, SndBufForce},
};
use socket2::{Domain, Protocol, Socket, Type};
use std::net::SocketAddr;
use tokio::net::UdpSocket;

/// Room for datagrams that wait, bytes: a burst of some thousand SIP messages.
const RECEIVE_BUFFER: usize = 4 << 20;
/// Room for datagrams that wait until the hardware address of their next hop is known, bytes. Answers to sources that do
/// not exist wait for seconds, up to 208 KiB each (`unres_qlen_bytes`): with less room, a network of 254 of them holds up
/// what is sent to everybody else. It is a limit; nothing is set aside.
const SEND_BUFFER: usize = 64 << 20;

/// Binds each realm's signalling address. Must be called within a tokio runtime.
///
/// # Errors
///
/// An address is not the host's or is in use.
pub fn bind(config: &Config) -> Result<PerRealm<UdpSocket>> {
    config.realms.iter().map(|realm| bind_one(realm.signalling)).collect()
}

fn bind_one(address: SocketAddr) -> Result<UdpSocket> {
    let socket = || -> std::io::Result<UdpSocket> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        // Root may pass net.core.rmem_max, which is too small for a burst; others get as much as it grants.
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
    use crate::config::{PortRange, Realm, RealmPolicy, Side, Trust};

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
        let error = bind(&Config::new(vec![realm])).unwrap_err();
        assert!(format!("{error:#}").contains(&address.to_string()), "{error:#}");
    }
}
