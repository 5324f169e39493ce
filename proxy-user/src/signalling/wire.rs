//! How a protocol's messages travel: all that sockets have to know of it.

use crate::{engine::Protocol, flow::Transport, media::RealmId};
use std::{fmt, net::SocketAddr};

/// Where a protocol's messages come to, and what they look like in a stream of bytes.
#[derive(Clone, Debug)]
pub struct Wire {
    /// Which.
    pub protocol: Protocol,
    /// Where they come to.
    pub listeners: Vec<Listener>,
    /// What divides the bytes of a new connection into messages; `None` for a protocol without connections.
    pub framer: Option<NewFramer>,
    /// The name of its WebSocket subprotocol (RFC 6455 §1.9), if it has one.
    pub subprotocol: Option<&'static str>,
}

/// A socket of its own for one protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    /// The realm that it is in.
    pub realm: RealmId,
    /// What it takes.
    pub transport: Transport,
    /// Its own address.
    pub address: SocketAddr,
}

/// Makes a framer for a new connection of this transport, with messages of at most so many bytes. Over WebSocket, each
/// message is pushed as a whole.
pub type NewFramer = fn(Transport, usize) -> Box<dyn Framer>;

/// Divides what comes over a connection into messages. It holds no more than one message, and what came together with
/// its end.
pub trait Framer: Send {
    /// Takes in what came.
    fn push(&mut self, bytes: &[u8]);
    /// The next whole thing, or `None` before more has come.
    ///
    /// # Errors
    ///
    /// Nobody can tell where the next message begins: the connection has to end.
    fn next_frame(&mut self) -> Result<Option<Frame>, Broken>;
    /// Whether a message has begun and is not whole.
    fn is_mid_message(&self) -> bool;
}

/// Something whole in a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A message, for the agent.
    Message(Vec<u8>),
    /// What only keeps the connection alive. It is answered with these bytes.
    KeepAlive(Vec<u8>),
}

/// A stream is no sequence of messages.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{fault}")]
pub struct Broken {
    /// What is wrong with it.
    pub fault: Fault,
    /// What the agent gets before the connection ends, so that it can send the reason.
    pub refused: Option<Vec<u8>>,
}

/// What is wrong with a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// What came is no message of the protocol.
    Malformed,
    /// A message is longer than allowed.
    TooLarge,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "not a message",
            Self::TooLarge => "message too large",
        })
    }
}
