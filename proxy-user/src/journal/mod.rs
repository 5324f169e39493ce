//! What a later process needs to go on where this one ended: registrations, calls and streams, in a file.
//!
//! - [`Journal`]: the file, which is a redb database; `backend`: how its bytes are written;
//! - [`Keeper`]: what the file has to hold from turn to turn, also while the disk is full;
//! - `records`: its contents; `migrate`: from one version of them to the next; `aside`: files that cannot be used;
//! - `moment`: points in time inside of records.
//!
//! The file has to survive the *process*, whatever ends it: for that, a write only has to reach the kernel's page
//! cache, so no commit waits for a disk (`backend`). It need not survive the host: with the host, the kernel's maps and
//! so all calls are gone. A power cut may therefore cost the registrations: what is left of the file is set aside, and
//! phones register again.
//!
//! Records are JSON: each field has its name, so that a record of another form is an error and never misread. Points in
//! time are readings of the kernel's monotonic clock (`moment`).
//!
//! One transaction holds everything that one turn of the loop changed, and is committed before the turn's datagrams are
//! sent: what a peer was sent is known to the next process.

use crate::clock::Clock;
use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

mod aside;
mod backend;
mod keeper;
mod migrate;
pub(crate) mod moment;
mod records;
mod store;

pub use aside::SetAside;
pub use keeper::Keeper;
pub use records::{Change, Changes, Entry, Table};
pub use store::{Journal, Recovered};

/// Version of the records' form. A change of what a record means, or the removal of a field, changes this number, and
/// may define in `migrate` how records of the previous version are read.
pub const VERSION: u32 = 2;

/// The owner of the journal: what a later process must have in common with this one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// `/proc/sys/kernel/random/boot_id`: readings of the monotonic clock mean something only within one.
    pub boot: String,
    /// The monotonic clock, ns, and the time of day, ms since 1970, at one moment.
    pub clock: (u64, u64),
    /// Of each realm: side and signalling address.
    pub signalling: Vec<String>,
    /// What the kernel's maps were made for, a line each.
    pub datapath: Vec<String>,
    /// Whether all of the datapath was in the kernel, and meant to stay.
    pub whole: bool,
    /// Whether the program was attached in generic mode.
    pub generic: bool,
}

/// Which host, and since when it runs.
///
/// # Errors
///
/// The kernel's.
pub fn boot_id() -> Result<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").context("cannot read the boot id")?;
    Ok(id.trim().to_owned())
}

impl Head {
    /// The clock by which records of this journal are read on a host with this boot id, `now` being `wall`: after
    /// another start of the host, the time of day bridges the gap.
    pub fn clock(&self, boot: &str, here: Clock, now: Instant, wall: SystemTime) -> Clock {
        if self.boot == boot {
            return here;
        }
        let (ns, ms) = self.clock;
        let since = wall_ms(wall).saturating_sub(ms);
        Clock::new(now, ns.saturating_add(since.saturating_mul(1_000_000)))
    }
}

/// Milliseconds since 1970.
pub fn wall_ms(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
pub(crate) mod tests;
