//! What moves packets: the kernel or this process.

use super::{DatapathError, control::indices::HopIndex};
use anyhow::Result;
use proxy_common::{
    layout::{LatchEvent, NextHop},
    verdict::Counters,
};
use std::os::fd::BorrowedFd;

/// What relays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The XDP program in the driver, before the kernel has made a socket buffer.
    Native,
    /// The XDP program in the network stack: works with every driver, slower.
    Generic,
    /// This process: works where BPF is refused, and is slower still.
    UserSpace,
}

/// What relays the packets: the kernel, or this process.
pub(super) trait Plane {
    /// An entry of `NEXT_HOPS`.
    fn next_hop(&self, index: HopIndex) -> NextHop;

    /// Writes an entry of `NEXT_HOPS`.
    fn set_next_hop(&mut self, index: HopIndex, hop: NextHop) -> Result<(), DatapathError>;

    /// The next latch that has not been reported, if there is one.
    fn next_event(&mut self) -> Option<LatchEvent>;

    /// The verdicts on packets so far, of all CPUs together.
    fn counters(&self) -> Result<Counters>;

    /// Readable when [`Plane::next_event`] has one.
    fn fd(&self) -> BorrowedFd<'_>;
}
