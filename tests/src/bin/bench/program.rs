//! How long a program takes a packet, without the kernel around it.

use anyhow::Result;
use aya::programs::ProgramFd;
use testbed::feed::{self, BareRedirect, Empty, Restore};

/// Nanoseconds a packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub(crate) bare: f64,
    pub(crate) latch: f64,
}

/// The programs that are timed, and those that help.
pub(crate) struct Programs<'a> {
    pub(crate) bare: &'a BareRedirect,
    pub(crate) latch: ProgramFd,
    pub(crate) empty: Empty,
    pub(crate) restore: Restore,
    pub(crate) frame: Vec<u8>,
    /// Index of the interface by which the frame arrives.
    pub(crate) ingress: u32,
}

impl Programs<'_> {
    /// Times both programs three times in turn and takes the medians.
    ///
    /// An empty program shows what the kernel's loop around a program takes, which is taken off. A bare redirect makes
    /// the same packet of its packet each time, so it can be called over and over. Latch does not, so the packet is
    /// restored before each call; what that takes is known from the bare redirect, timed with it and without.
    pub(crate) fn measure(&mut self) -> Result<Times> {
        let ingress = self.ingress;
        let mut times = [[0.0; 3]; 4];
        let [empty, bare, restored_bare, restored_latch] = &mut times;
        for attempt in 0..3 {
            empty[attempt] = feed::time(self.empty.program()?, &self.frame, ingress, PACKETS, PASS)?;
            bare[attempt] = feed::time(self.bare.program()?, &self.frame, ingress, PACKETS, REDIRECT)?;
            restored_bare[attempt] = self.restore.time(self.bare.program()?.fd()?, ingress, PACKETS, REDIRECT)?;
            restored_latch[attempt] = self.restore.time(&self.latch, ingress, PACKETS, REDIRECT)?;
        }
        let [empty, bare, restored_bare, restored_latch] = times.map(median_of_three);
        let restoring = restored_bare - bare;
        Ok(Times { bare: bare - empty, latch: restored_latch - restoring - empty })
    }
}

/// The one between the other two.
pub(crate) fn median_of_three(mut values: [f64; 3]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[1]
}

/// Packets of one measurement.
const PACKETS: u32 = 150_000;
/// What the empty program returns, and what the others do.
const PASS: u32 = 2;
const REDIRECT: u32 = 4;
