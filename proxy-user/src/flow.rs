//! Over what a message travels: the transport, the other end, and where the transport keeps one, the connection.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

/// How messages are carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// A message a datagram.
    Udp,
    /// A stream of messages.
    Tcp,
    /// The same, encrypted.
    Tls,
    /// WebSocket (RFC 7118).
    Ws,
    /// WebSocket over TLS.
    Wss,
}

impl Transport {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Udp, Self::Tcp, Self::Tls, Self::Ws, Self::Wss];

    /// Whether the transport retransmits what was lost, so that transactions need not (RFC 3261 §17).
    pub fn is_reliable(self) -> bool {
        self != Self::Udp
    }

    /// Whether nobody on the way can read it.
    pub fn is_secure(self) -> bool {
        matches!(self, Self::Tls | Self::Wss)
    }

    /// In Via.
    pub fn in_via(self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
            Self::Ws => "WS",
            Self::Wss => "WSS",
        }
    }

    /// In a URI's `transport` parameter; UDP needs none. Both kinds of WebSocket have the same (RFC 7118 §5.1).
    pub fn in_uri(self) -> Option<&'static str> {
        match self {
            Self::Udp => None,
            Self::Tcp => Some("tcp"),
            Self::Tls => Some("tls"),
            Self::Ws | Self::Wss => Some("ws"),
        }
    }

    /// In the configuration and in the journal.
    pub fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Ws => "ws",
            Self::Wss => "wss",
        }
    }

    /// The transport of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|transport| transport.name() == name)
    }
}

/// A connection of this process: no other one will ever have its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// Where a message came from or goes to.
///
/// Without a connection, a datagram goes to the address, and for a stream one is opened if there is none yet. With one,
/// it goes only over that connection: behind a NAT, its far end cannot be reached in another way.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flow {
    /// How.
    pub transport: Transport,
    /// The other end.
    pub remote: SocketAddr,
    /// Over which connection. It is not written down: no connection outlives the process.
    pub connection: Option<ConnectionId>,
}

impl Flow {
    /// Datagrams to and from an address.
    pub fn udp(remote: SocketAddr) -> Self {
        Self { transport: Transport::Udp, remote, connection: None }
    }

    /// To an address, by whatever connection there is.
    pub fn to(transport: Transport, remote: SocketAddr) -> Self {
        Self { transport, remote, connection: None }
    }

    /// The other end's address.
    pub fn ip(&self) -> IpAddr {
        self.remote.ip()
    }

    /// The other end's port.
    pub fn port(&self) -> u16 {
        self.remote.port()
    }
}

/// The address alone.
impl PartialEq<SocketAddr> for Flow {
    fn eq(&self, other: &SocketAddr) -> bool {
        self.remote == *other
    }
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.transport {
            Transport::Udp => write!(f, "{}", self.remote),
            transport => write!(f, "{}/{}", self.remote, transport.name()),
        }
    }
}

impl fmt::Debug for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        self.connection.map_or(Ok(()), |connection| write!(f, "#{}", connection.0))
    }
}

/// As text: the address alone for UDP, else `ADDRESS/TRANSPORT`. A reader that knows only UDP does not take others for
/// addresses.
impl Serialize for Flow {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Flow {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let (address, transport) = text.split_once('/').unwrap_or((&text, Transport::Udp.name()));
        let flow = Transport::named(transport).zip(address.parse().ok());
        let flow = flow.map(|(transport, remote)| Self::to(transport, remote));
        flow.ok_or_else(|| de::Error::custom(format!("\"{text}\" is neither an address nor one with a transport")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_is_written_without_its_connection_and_udp_as_an_address() {
        let remote: SocketAddr = "[2001:db8::1]:5060".parse().unwrap();
        for transport in Transport::ALL {
            let flow = Flow { connection: Some(ConnectionId(7)), ..Flow::to(transport, remote) };
            let text = serde_json::to_string(&flow).unwrap();
            assert_eq!(serde_json::from_str::<Flow>(&text).unwrap(), Flow::to(transport, remote), "{text}");
            assert_eq!(serde_json::from_str::<SocketAddr>(&text).is_ok(), transport == Transport::Udp, "{text}");
        }
        for text in ["\"\"", "\"192.0.2.1\"", "\"192.0.2.1:5060/sctp\"", "\"tcp\"", "7"] {
            assert!(serde_json::from_str::<Flow>(text).is_err(), "{text}");
        }
    }
}
