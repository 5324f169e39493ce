//! The relay in the kernel: the XDP program, its maps, and what keeps them as the engine wants them.
//!
//! - `object` and `loader`: the program from its object file into the kernel and onto the interfaces;
//! - `control`: streams, their counters and their silence;
//! - `legs`: what stands in `LEGS` and `LOCALS`; `mapped`: the shared memory it stands in;
//! - `next_hops`: ways out of the host, as the kernel tells them;
//! - `pins`: what outlives the process; `restore`: taking it up again;
//! - `watch`: whether the interfaces are still there.

use super::{Datapath, DatapathError};
use crate::{
    config::Config,
    journal::{Change, Entry},
    media::{MediaEvent, StreamId, StreamSpec},
    netlink::{
        Netlink,
        worker::{Question, Worker},
    },
};
use anyhow::{Context as _, Result};
use aya::maps::{Array, MapData, PerCpuArray, RingBuf};
use control::Control;
use legs::Locals;
use loader::Loaded;
use next_hops::NextHops;
use proxy_common::{
    layout::{LatchEvent, NextHop},
    verdict::Counters,
};
use std::{
    os::fd::{AsFd as _, BorrowedFd},
    time::Instant,
};
use watch::Watch;

mod control;
mod legs;
mod loader;
mod mapped;
mod next_hops;
pub mod object;
mod pins;
mod restore;
mod watch;

pub use crate::clock::ns_per_tick;
pub use loader::{Life, Mode};
pub use pins::Pins;

/// The XDP program and its maps. Dropped, both are gone from the kernel, unless they are pinned.
pub struct Xdp {
    control: Control,
    kernel: Worker,
    next_hops: Array<MapData, NextHop>,
    events: RingBuf<MapData>,
    counters: PerCpuArray<MapData, Counters>,
    interfaces: Vec<String>,
    watch: Watch,
    mode: Mode,
    _attached: loader::Attached,
}

impl Xdp {
    /// Loads `object` and attaches it to the realms' interfaces, which begins to drop what arrives at their media ports.
    /// `life` says whether it ends with the process.
    ///
    /// # Errors
    ///
    /// What the kernel does not grant, or an object of another version.
    pub fn start(config: &Config, object: &[u8], life: &Life) -> Result<Self> {
        let started = Self::load(config, object, life);
        if let (Err(_), Life::Begin(pins)) = (&started, life) {
            // Half of it is of no use to anybody.
            pins.remove()?;
        }
        started
    }

    fn load(config: &Config, object: &[u8], life: &Life) -> Result<Self> {
        let locals = Locals::new(config)?;
        let mut netlink = Netlink::open().context("cannot open a netlink socket")?;
        // Before the interfaces are looked at, so that no change of theirs is missed.
        let kernel = Worker::start().context("cannot follow the kernel's routes and neighbours")?;
        let loaded = Loaded::load(config, &locals, object, &mut netlink, life)?;
        let hops = NextHops::new(locals.clone(), loaded.egress, config.maps.max_next_hops);
        let memory = (loaded.legs, loaded.states);
        Ok(Self {
            control: Control::new(hops, locals, memory, config.maps.max_legs, &config.media),
            kernel,
            next_hops: loaded.next_hops,
            events: loaded.events,
            counters: loaded.counters,
            interfaces: loaded.interfaces.iter().map(|link| link.name.clone()).collect(),
            watch: Watch::new(loaded.interfaces, Instant::now()),
            mode: loaded.mode,
            _attached: loaded.attached,
        })
    }

    /// What the maps of a configuration are made for on this host, a line for each realm.
    ///
    /// # Errors
    ///
    /// An interface is not there, or the kernel's.
    pub fn made_for(config: &Config) -> Result<Vec<String>> {
        let links = Netlink::open().and_then(|mut netlink| netlink.links());
        let interfaces = loader::interfaces(config, &links.context("cannot list the network interfaces")?)?;
        let line = |realm: &crate::config::Realm| {
            let link = interfaces.iter().find(|link| link.name == realm.interface);
            let vlan: Vec<_> = realm.vlan.iter().map(|tag| tag.id.to_string()).collect();
            let vlan = if vlan.is_empty() { String::new() } else { format!(" VLAN {}", vlan.join(".")) };
            format!(
                "media {} ports {}-{} on {}{vlan} (interface {})",
                realm.media,
                realm.ports.first,
                realm.ports.last,
                realm.interface,
                link.map_or(0, |link| link.index),
            )
        };
        Ok(config.realms.iter().map(line).collect())
    }

    /// Takes up the streams that an earlier process left in the pinned maps: those of calls that go on, and those whose
    /// last counters have not been told. Every other leg is closed; returns how many were.
    ///
    /// # Errors
    ///
    /// The journal says what cannot be.
    pub fn restore(
        &mut self,
        live: &[StreamSpec],
        leaving: &[StreamSpec],
        entries: &[Entry],
        now: Instant,
    ) -> Result<usize> {
        let held = &self.next_hops;
        let hop = |index: u16| held.get(&u32::from(index), 0).unwrap_or_default();
        let closed = self.control.restore((live, leaving), entries, hop, now)?;
        self.write_next_hops()?;
        Ok(closed)
    }

    /// The interfaces that the program is attached to.
    pub fn interfaces(&self) -> &[String] {
        &self.interfaces
    }

    /// How it is attached.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Latches that were found late, because `EVENTS` had no room for their events.
    pub fn events_lost(&self) -> u64 {
        self.control.events_lost
    }

    /// How packets left the program so far, all CPUs together.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn counters(&self) -> Result<Counters> {
        let mut sum = Counters::default();
        for one in self.counters.get(&0, 0).context("cannot read COUNTERS")?.iter() {
            sum.add(one);
        }
        Ok(sum)
    }

    fn write_next_hops(&mut self) -> Result<(), DatapathError> {
        // One that fails keeps none of the others from being written.
        let mut result = Ok(());
        for (index, hop) in self.control.hops.take_writes() {
            if let Err(error) = self.next_hops.set(u32::from(index), hop, 0) {
                result = Err(DatapathError::Kernel(format!("cannot write NEXT_HOPS: {error}")));
            }
        }
        result
    }
}

impl Datapath for Xdp {
    fn apply(&mut self, spec: StreamSpec, now: Instant) -> Result<(), DatapathError> {
        let applied = self.control.apply(spec, now);
        self.kernel.ask(self.control.hops.take_questions());
        applied?;
        self.write_next_hops()
    }

    fn release(&mut self, stream: StreamId, now: Instant) {
        self.control.release(stream, now);
    }

    fn poll_events(&mut self, now: Instant, events: &mut Vec<MediaEvent>) {
        while let Some(item) = self.events.next() {
            if let Some(event) = event(&item) {
                self.control.latched(&event, events);
            }
        }
        for fact in self.kernel.facts() {
            self.watch.learn(&fact);
            self.control.hops.learn(fact, now);
        }
        // What legs move to is there before they move, and what they leave is cleared afterwards.
        let before = self.write_next_hops();
        self.control.poll(now, events);
        let after = self.write_next_hops();
        if let Err(error) = before.and(after) {
            tracing::error!(%error, "the kernel's table of next hops is not up to date");
        }
        let links = self.watch.poll(now).then_some(Question::Links);
        self.kernel.ask(self.control.hops.take_questions().into_iter().chain(links));
    }

    fn take_changes(&mut self) -> Vec<Change> {
        self.control.take_changes()
    }

    fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        self.control.poll_timeout(now).into_iter().chain([self.watch.poll_timeout()]).min()
    }

    fn event_fds(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.events.as_fd(), self.kernel.fd()]
    }
}

/// An item of the ring buffer; `None` if it is not as long as one.
fn event(bytes: &[u8]) -> Option<LatchEvent> {
    fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
        bytes.get(at..at + N)?.try_into().ok()
    }
    use std::mem::offset_of;
    Some(LatchEvent {
        source: proxy_common::layout::Remote::from_word(u64::from_ne_bytes(field(bytes, 0)?)),
        address: field(bytes, offset_of!(LatchEvent, address))?,
        time_ns: u64::from_ne_bytes(field(bytes, offset_of!(LatchEvent, time_ns))?),
        leg: u32::from_ne_bytes(field(bytes, offset_of!(LatchEvent, leg))?),
        component: u16::from_ne_bytes(field(bytes, offset_of!(LatchEvent, component))?),
        rank: u16::from_ne_bytes(field(bytes, offset_of!(LatchEvent, rank))?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proxy_common::layout::Remote;

    #[test]
    fn an_event_is_read_as_it_was_written() {
        let mut bytes = Vec::new();
        bytes.extend([203, 0, 113, 7]);
        bytes.extend(40_000u16.to_ne_bytes());
        bytes.extend(3u16.to_ne_bytes());
        bytes.extend([9; 16]);
        bytes.extend(123_456_789u64.to_ne_bytes());
        bytes.extend(17u32.to_ne_bytes());
        bytes.extend(1u16.to_ne_bytes());
        bytes.extend(2u16.to_ne_bytes());
        let source = Remote { address: [203, 0, 113, 7], port: 40_000, tag: 3 };
        assert_eq!(
            event(&bytes),
            Some(LatchEvent { source, address: [9; 16], time_ns: 123_456_789, leg: 17, component: 1, rank: 2 })
        );
        assert_eq!(event(&bytes[..39]), None);
    }
}
