//! What comes in, and what goes out.

use super::ids::Protocol;
use crate::{
    accounting::Cdr,
    flow::Flow,
    media::{MediaCommand, MediaEvent, RealmId},
};
use std::net::SocketAddr;

/// Something that happened.
#[allow(clippy::large_enum_variant, reason = "made where it is handled")]
#[derive(Debug)]
pub enum Input<'a> {
    /// A datagram arrived.
    Datagram {
        /// The protocol of the listener.
        protocol: Protocol,
        /// The realm.
        realm: RealmId,
        /// Source of its IP and UDP headers.
        source: SocketAddr,
        /// Its payload.
        bytes: &'a [u8],
    },
    /// A message arrived over a connection.
    Message {
        /// The protocol of the listener.
        protocol: Protocol,
        /// The realm.
        realm: RealmId,
        /// The connection and its other end.
        source: Flow,
        /// The message, whole.
        bytes: &'a [u8],
    },
    /// A connection that messages came over is gone. Its number will not come again.
    Closed {
        /// The protocol of the listener.
        protocol: Protocol,
        /// The realm.
        realm: RealmId,
        /// The connection and its other end.
        flow: Flow,
    },
    /// What was sent there without naming a connection is lost: none could be made.
    Unreachable {
        /// The protocol of the listener.
        protocol: Protocol,
        /// The realm.
        realm: RealmId,
        /// The destination, as it was in [`Output::Send`].
        flow: Flow,
    },
    /// The datapath reports.
    Media(MediaEvent),
}

/// Something to do.
#[allow(clippy::large_enum_variant, reason = "moved once, from the queue to where it is done")]
#[derive(Debug)]
pub enum Output {
    /// Send a message from its protocol's address in a realm.
    Send {
        /// Of which protocol it is.
        protocol: Protocol,
        /// The realm.
        realm: RealmId,
        /// Where to, and how.
        destination: Flow,
        /// The message, as it goes over that transport.
        bytes: Vec<u8>,
    },
    /// Datagrams from this address must be read whatever else arrives, or no longer: a registered terminal is there, or
    /// a party of an answered call.
    Known {
        /// The realm.
        realm: RealmId,
        /// Where they come from.
        remote: SocketAddr,
        /// Whether from now on, or no longer.
        known: bool,
    },
    /// Change the datapath.
    Media(MediaCommand),
    /// Write a call's record.
    Record(Box<Cdr>),
}
