//! What relays the media.
//!
//! - [`Datapath`]: what the control plane asks of it;
//! - [`MediaRelay`]: its implementation, `control` over a `plane`:
//! - [`kernel`]: the plane in the kernel; [`userspace`]: the same in user space;
//! - [`fake`]: one that only remembers, for tests.

use crate::{
    journal::Change,
    media::{MediaEvent, StreamId, StreamSpec},
};
use std::{os::fd::BorrowedFd, time::Instant};

mod control;
pub mod fake;
pub mod kernel;
mod plane;
mod relay;
pub mod userspace;

pub use plane::Mode;
pub use relay::MediaRelay;

/// Relays streams by commands ([`crate::media::MediaCommand`]) and reports what it saw ([`MediaEvent`]).
pub trait Datapath {
    /// Makes the stream like this, whatever it was before. On an error, nothing of the stream has changed.
    fn apply(&mut self, spec: StreamSpec, now: Instant) -> Result<(), DatapathError>;

    /// Closes both legs for good. Once no packet can be in flight any more, [`MediaEvent::Released`] reports the final
    /// counters; for an unknown stream it comes immediately, with zeros.
    fn release(&mut self, stream: StreamId, now: Instant);

    /// Appends what happened since the last call, and does the work that is due.
    fn poll_events(&mut self, now: Instant, events: &mut Vec<MediaEvent>);

    /// What changed since the last call that a later process has to know.
    fn take_changes(&mut self) -> Vec<Change> {
        Vec::new()
    }

    /// How it is going, for an operator.
    fn status(&self) -> serde_json::Value {
        serde_json::Value::Null
    }

    /// When [`Datapath::poll_events`] must be called at the latest.
    fn poll_timeout(&self, now: Instant) -> Option<Instant>;

    /// One of them is readable when [`Datapath::poll_events`] has something new to report or to do.
    fn event_fds(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }
}

/// Why a stream could not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DatapathError {
    /// A local address is not one of a realm's port pairs; with the address as text.
    #[error("{0} is not a relay port of its realm")]
    NotLocal(std::net::SocketAddr),
    /// A port pair belongs to another stream already.
    #[error("{0} already belongs to another stream")]
    InUse(std::net::SocketAddr),
    /// An address of a family that the datapath does not speak.
    #[error("{0} is not an IPv4 address")]
    Family(std::net::IpAddr),
    /// A table is full; which one.
    #[error("{0} is full")]
    Full(&'static str),
    /// The kernel refused.
    #[error("{0}")]
    Kernel(String),
}
