//! The sans-IO core: registrations, transactions, dialogs, calls and their media.
//!
//! The engine touches no socket, no clock and no map. Whoever drives it hands it what came in ([`Input`]) and the time,
//! carries out what it puts out ([`Output`]), and calls it again at its next timeout. The whole proxy can so be tested
//! and simulated in one process.

use crate::{
    accounting::Cdr,
    media::{MediaCommand, MediaEvent, RealmId},
};
use std::net::SocketAddr;

/// Something that happened.
#[derive(Debug)]
pub enum Input<'a> {
    /// A datagram arrived at a realm's signalling address.
    Datagram {
        /// The realm.
        realm: RealmId,
        /// Source of its IP and UDP headers.
        source: SocketAddr,
        /// Its payload.
        bytes: &'a [u8],
    },
    /// The datapath reports.
    Media(MediaEvent),
}

/// Something to do.
#[derive(Debug)]
pub enum Output {
    /// Send a datagram from a realm's signalling address.
    Send {
        /// The realm.
        realm: RealmId,
        /// Where to.
        destination: SocketAddr,
        /// Its payload.
        bytes: Vec<u8>,
    },
    /// Change the datapath.
    Media(MediaCommand),
    /// Write a call's record.
    Record(Box<Cdr>),
}
