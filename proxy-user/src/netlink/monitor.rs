//! What the kernel reports without being asked: links, neighbours, and that routes may have changed.

use super::{Link, Neighbour, known, link_of};
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use std::{
    io,
    net::IpAddr,
    os::fd::{AsFd, BorrowedFd},
};

/// Room for what arrives while the reader is busy, bytes: some ten thousand neighbours at once.
const BUFFER: usize = 8 << 20;
/// Rules and next hop objects lead to other routes without a message about these.
const GROUPS: [u32; 9] = [
    libc::RTNLGRP_LINK,
    libc::RTNLGRP_NEIGH,
    libc::RTNLGRP_IPV4_IFADDR,
    libc::RTNLGRP_IPV4_ROUTE,
    libc::RTNLGRP_IPV4_RULE,
    libc::RTNLGRP_IPV6_IFADDR,
    libc::RTNLGRP_IPV6_ROUTE,
    libc::RTNLGRP_IPV6_RULE,
    libc::RTNLGRP_NEXTHOP,
];

/// Something changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An interface is like this now.
    Link(Link),
    /// The interface of this index is gone.
    LinkGone(u32),
    /// What the kernel knows about a neighbour now; `None` where it cannot be reached at present.
    Neighbour {
        /// Index of the interface.
        interface: u32,
        /// The neighbour.
        address: IpAddr,
        /// What is known.
        known: Option<Neighbour>,
    },
    /// Routes, rules or own addresses changed. Reported once for all that came together.
    Routes,
    /// Events were lost: anything may have changed.
    Lost,
}

/// A socket that receives them. It never blocks.
#[derive(Debug)]
pub struct Monitor {
    socket: Socket,
}

impl Monitor {
    /// Opens one in the network namespace of this thread. Changes from now on are reported.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        socket.set_non_blocking(true)?;
        // Without the right to exceed the system's limit, what the limit allows.
        if nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::RcvBufForce, &BUFFER).is_err() {
            socket2::SockRef::from(&socket).set_recv_buffer_size(BUFFER)?;
        }
        for group in GROUPS {
            match socket.add_membership(group) {
                // Next hop objects came with Linux 5.3.
                Err(_) if group == libc::RTNLGRP_NEXTHOP => {}
                result => result?,
            }
        }
        Ok(Self { socket })
    }

    /// Appends what has happened since the last call.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn drain(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        let mut routes = false;
        let result = loop {
            match self.socket.recv_from_full() {
                Ok((datagram, _)) => parse(&datagram, events, &mut routes),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => events.push(Event::Lost),
                Err(error) => break Err(error),
            }
        };
        if routes {
            events.push(Event::Routes);
        }
        result
    }

    /// Room for only this many bytes.
    #[cfg(test)]
    pub(super) fn limit_buffer(&self, bytes: usize) {
        socket2::SockRef::from(&self.socket).set_recv_buffer_size(bytes).unwrap();
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn parse(datagram: &[u8], events: &mut Vec<Event>, routes: &mut bool) {
    let mut rest = datagram;
    while let Some((length, kind)) = head(rest) {
        match kind {
            libc::RTM_NEWLINK | libc::RTM_DELLINK | libc::RTM_NEWNEIGH | libc::RTM_DELNEIGH => {
                match NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map(|message| message.payload) {
                    Ok(NetlinkPayload::InnerMessage(message)) => events.extend(event(message)),
                    Ok(_) => {}
                    // It said something, only what is not known.
                    Err(_) => events.push(Event::Lost),
                }
            }
            _ => *routes = true,
        }
        // Messages are padded to four bytes.
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
}

/// Length and type of the first message.
fn head(bytes: &[u8]) -> Option<(usize, u16)> {
    let length = bytes.get(..4)?.try_into().ok().map(u32::from_ne_bytes)?;
    let kind = bytes.get(4..6)?.try_into().ok().map(u16::from_ne_bytes)?;
    (length >= 16).then_some((length as usize, kind))
}

fn event(message: RouteNetlinkMessage) -> Option<Event> {
    match message {
        // Bridges report their ports as links of a family of their own.
        RouteNetlinkMessage::NewLink(link) if link.header.interface_family == AddressFamily::Unspec => {
            Some(Event::Link(link_of(link)))
        }
        RouteNetlinkMessage::DelLink(link) if link.header.interface_family == AddressFamily::Unspec => {
            Some(Event::LinkGone(link.header.index))
        }
        RouteNetlinkMessage::NewNeighbour(message) => {
            let address = neighbour_address(&message)?;
            Some(Event::Neighbour { interface: message.header.ifindex, address, known: known(&message) })
        }
        RouteNetlinkMessage::DelNeighbour(message) => {
            let address = neighbour_address(&message)?;
            Some(Event::Neighbour { interface: message.header.ifindex, address, known: None })
        }
        _ => None,
    }
}

/// Of an IP neighbour: not a bridge's entry, and not an address that this host answers for.
fn neighbour_address(message: &NeighbourMessage) -> Option<IpAddr> {
    if message.header.flags.contains(NeighbourFlags::Proxy) {
        return None;
    }
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => Some(IpAddr::V4(*v4)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => Some(IpAddr::V6(*v6)),
        _ => None,
    })
}
