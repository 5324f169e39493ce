//! What the kernel knows about interfaces, addresses, routes and neighbours: rtnetlink.
//!
//! - [`Netlink`]: questions, one request at a time; each takes some ten microseconds and never waits for the network;
//! - [`monitor`]: what the kernel reports when something changes;
//! - [`worker`]: a thread that owns both, for callers that must not wait.

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::{LinkAttribute, LinkFlags, LinkMessage},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
    route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteType, RouteVia},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use std::{io, net::IpAddr, time::Duration};

pub mod monitor;
pub mod worker;

/// A hardware address.
pub type Mac = [u8; 6];

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its hardware address, if it has one of 6 bytes.
    pub mac: Option<Mac>,
    /// Whether it is set up.
    pub up: bool,
    /// Whether it has a carrier.
    pub carrier: bool,
    /// The largest IP packet it sends, bytes.
    pub mtu: u32,
}

/// Where packets to a destination go next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Index of the interface they leave by.
    pub interface: u32,
    /// The neighbour they go to: the gateway, or the destination itself. A gateway may be of the other family (RFC
    /// 5549).
    pub neighbour: IpAddr,
}

/// What the kernel knows of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Its hardware address.
    pub mac: Mac,
    /// Whether the kernel has confirmed it recently, or need not.
    pub confirmed: bool,
}

/// An rtnetlink socket.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// Opens one in the network namespace of this thread.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket2::SockRef::from(&socket).set_read_timeout(Some(Duration::from_secs(1)))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// All interfaces.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn links(&mut self) -> io::Result<Vec<Link>> {
        let answers = self.request(RouteNetlinkMessage::GetLink(LinkMessage::default()), NLM_F_DUMP)?;
        Ok(answers
            .into_iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewLink(message) => Some(link_of(message)),
                _ => None,
            })
            .collect())
    }

    /// All addresses, with the index of the interface they are on.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn addresses(&mut self) -> io::Result<Vec<(u32, IpAddr)>> {
        let answers = self.request(RouteNetlinkMessage::GetAddress(AddressMessage::default()), NLM_F_DUMP)?;
        let mut addresses = Vec::new();
        for answer in answers {
            let RouteNetlinkMessage::NewAddress(message) = answer else { continue };
            // On point-to-point links IFA_ADDRESS is the peer's and IFA_LOCAL the own.
            let local = message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Local(address) => Some(*address),
                _ => None,
            });
            let address = message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Address(address) => Some(*address),
                _ => None,
            });
            if let Some(address) = local.or(address) {
                addresses.push((message.header.index, address));
            }
        }
        Ok(addresses)
    }

    /// The route of packets from `source` to `destination` that leave by `interface`; `None` where there is none.
    ///
    /// # Errors
    ///
    /// The kernel's, other than that there is no route.
    pub fn route(&mut self, destination: IpAddr, source: IpAddr, interface: u32) -> io::Result<Option<Route>> {
        let mut question = RouteMessage::default();
        question.header.address_family = family(destination);
        question.header.destination_prefix_length = if destination.is_ipv4() { 32 } else { 128 };
        question.header.source_prefix_length = question.header.destination_prefix_length;
        question.attributes = vec![
            RouteAttribute::Destination(route_address(destination)),
            RouteAttribute::Source(route_address(source)),
            RouteAttribute::Oif(interface),
        ];
        let Some(route) = self.get_route(&question)?.and_then(|answer| route_of(&answer, destination)) else {
            return Ok(None);
        };
        // Without any route to an IPv4 destination the kernel takes it to be on the link of the interface asked for.
        // Only the question for the entry of the table tells the difference.
        if destination.is_ipv4() && route.neighbour == destination {
            question.header.flags = RouteFlags::FibMatch;
            return Ok(self.get_route(&question)?.map(|_| route));
        }
        Ok(Some(route))
    }

    fn get_route(&mut self, question: &RouteMessage) -> io::Result<Option<RouteMessage>> {
        let answers = match self.request(RouteNetlinkMessage::GetRoute(question.clone()), 0) {
            Ok(answers) => answers,
            Err(error) if is_unreachable(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(answers.into_iter().find_map(|answer| match answer {
            RouteNetlinkMessage::NewRoute(message) => Some(message),
            _ => None,
        }))
    }

    /// What the kernel knows about a neighbour; `None` where it has no hardware address.
    ///
    /// # Errors
    ///
    /// The kernel's, other than that there is no such entry.
    pub fn neighbour(&mut self, interface: u32, address: IpAddr) -> io::Result<Option<Neighbour>> {
        let answers = match self.request(RouteNetlinkMessage::GetNeighbour(neighbour(interface, address)), 0) {
            Ok(answers) => answers,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
            Err(error) => return Err(error),
        };
        for answer in answers {
            let RouteNetlinkMessage::NewNeighbour(message) = answer else { continue };
            return Ok(known(&message));
        }
        Ok(None)
    }

    /// Tells the kernel that the neighbour is used: it then resolves or confirms it, by ARP or
    /// neighbour discovery.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn use_neighbour(&mut self, interface: u32, address: IpAddr) -> io::Result<()> {
        let mut message = neighbour(interface, address);
        message.header.flags = NeighbourFlags::Use;
        message.header.kind = RouteType::Unicast;
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        self.request(RouteNetlinkMessage::NewNeighbour(message), flags).map(drop)
    }

    /// Sends a request and collects its answers.
    fn request(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
        let dump = flags & NLM_F_DUMP == NLM_F_DUMP;
        let acknowledged = flags & NLM_F_ACK != 0;
        self.sequence = self.sequence.wrapping_add(1);
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | flags;
        request.header.sequence_number = self.sequence;
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;

        let mut answers = Vec::new();
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            let mut rest = datagram.as_slice();
            while !rest.is_empty() {
                let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
                // Messages are padded to four bytes.
                let length = (answer.header.length as usize).next_multiple_of(4);
                rest = rest.get(length.max(4)..).unwrap_or_default();
                // An answer to a request that timed out.
                if answer.header.sequence_number != self.sequence {
                    continue;
                }
                match answer.payload {
                    NetlinkPayload::Done(_) => return Ok(answers),
                    NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                    NetlinkPayload::Error(_) => return Ok(answers),
                    NetlinkPayload::InnerMessage(message) => answers.push(message),
                    _ => {}
                }
                if !dump && !acknowledged && !answers.is_empty() {
                    return Ok(answers);
                }
            }
        }
    }
}

fn link_of(message: LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mac: None,
        up: message.header.flags.contains(LinkFlags::Up),
        carrier: message.header.flags.contains(LinkFlags::LowerUp),
        mtu: 0,
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Address(bytes) => link.mac = Mac::try_from(bytes.as_slice()).ok(),
            _ => {}
        }
    }
    link
}

fn route_of(message: &RouteMessage, destination: IpAddr) -> Option<Route> {
    if message.header.kind != RouteType::Unicast {
        return None;
    }
    let mut route = Route { interface: 0, neighbour: destination };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => route.interface = *index,
            RouteAttribute::Gateway(RouteAddress::Inet(gateway)) | RouteAttribute::Via(RouteVia::Inet(gateway)) => {
                route.neighbour = IpAddr::V4(*gateway);
            }
            RouteAttribute::Gateway(RouteAddress::Inet6(gateway)) | RouteAttribute::Via(RouteVia::Inet6(gateway)) => {
                route.neighbour = IpAddr::V6(*gateway);
            }
            // A gateway that is none of IP.
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) => return None,
            _ => {}
        }
    }
    (route.interface != 0).then_some(route)
}

/// What a message says about a neighbour; `None` where it cannot be reached now.
fn known(message: &NeighbourMessage) -> Option<Neighbour> {
    let confirmed = match message.header.state {
        NeighbourState::Reachable | NeighbourState::Permanent | NeighbourState::Noarp => true,
        NeighbourState::Stale | NeighbourState::Delay | NeighbourState::Probe => false,
        _ => return None,
    };
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => {
            Mac::try_from(bytes.as_slice()).ok().map(|mac| Neighbour { mac, confirmed })
        }
        _ => None,
    })
}

fn neighbour(interface: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(address);
    message.header.ifindex = interface;
    let destination = match address {
        IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
        IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
    };
    message.attributes = vec![NeighbourAttribute::Destination(destination)];
    message
}

fn route_address(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(v4) => RouteAddress::Inet(v4),
        IpAddr::V6(v6) => RouteAddress::Inet6(v6),
    }
}

fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

fn is_unreachable(error: &io::Error) -> bool {
    let codes = [libc::ENETUNREACH, libc::EHOSTUNREACH, libc::EACCES, libc::EINVAL, libc::ENODEV];
    error.raw_os_error().is_some_and(|code| codes.contains(&code))
}

#[cfg(test)]
mod tests;
