//! The media ports as the host sees them: bound, and never read.
//!
//! Packet sockets get copies, and the host handles the same frames as well. At an unbound port it would answer a
//! stranger with ICMP; at one of these it drops them silently.

use super::{filter, packets};
use crate::{config::Realm, media::PerRealm};
use anyhow::{Context as _, Result, bail};
use socket2::{Domain, Protocol, Socket, Type};
use std::{io, net::SocketAddr};

/// Descriptors that are needed for everything else.
const OTHERS: u64 = 1_024;

/// Sockets on all media ports, as long as this lives.
pub(super) struct Ports {
    _sockets: Vec<Socket>,
}

impl Ports {
    pub(super) fn take(realms: &PerRealm<Realm>) -> Result<Self> {
        let needed: u64 = realms.iter().map(|realm| u64::from(realm.ports.pairs()) * 2).sum();
        raise_limit(needed + OTHERS)?;
        let mut sockets = Vec::new();
        for realm in realms {
            for port in realm.ports.first..=realm.ports.last {
                let address = SocketAddr::new(realm.media, port);
                let socket = deaf(address).with_context(|| {
                    format!("cannot take the media port UDP {address} of realm {}: give it other ports", realm.name)
                })?;
                sockets.push(socket);
            }
        }
        Ok(Self { _sockets: sockets })
    }
}

fn deaf(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    packets::attach(&socket, &filter::NOTHING)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Lets this process have this many descriptors.
fn raise_limit(needed: u64) -> Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the limit may be written.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error()).context("cannot read the limit of open files");
    }
    if limit.rlim_cur >= needed {
        return Ok(());
    }
    let raised = libc::rlimit { rlim_cur: needed, rlim_max: limit.rlim_max.max(needed) };
    // SAFETY: the limit is read.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) } != 0 {
        bail!(
            "the relay in user space has a socket on each of its media ports and needs {needed} open files, but only {} \
             are allowed: raise the limit (LimitNOFILE= in the systemd unit, ulimit -n in a shell), or give the realms \
             fewer ports",
            limit.rlim_max
        );
    }
    Ok(())
}
