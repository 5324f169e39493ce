//! The relay in user space, for hosts where BPF is refused.
//!
//! What happens to a frame is decided by the same code as in the kernel, on tables of the same layout; what differs is
//! how frames are received and sent, and that the relay ends with the process.
//!
//! - `program`: the relay's code and its platform;
//! - `tables`: what stands in for the maps;
//! - `packets`, `filter`: frames from and to the interfaces; `worker`: the threads in between;
//! - `ports`: the media ports, so that the host does not answer there.

use super::{
    DatapathError,
    control::{
        indices::HopIndex,
        legs::Locals,
        links::Links,
        mapped::{Legs, States},
    },
    plane::Plane,
};
use crate::config::Config;
use anyhow::{Context as _, Result};
use ports::Ports;
use program::Here;
use proxy_common::{
    layout::{LatchEvent, NextHop},
    verdict::Counters,
};
use std::{net::IpAddr, os::fd::BorrowedFd, sync::Arc};
use tables::{Big, Constants, Control, Sizes, Tables};
use worker::Workers;

mod filter;
mod packets;
mod ports;
mod program;
mod tables;
mod worker;

pub mod standalone;

/// More threads on an interface only wait for each other.
const MOST_THREADS: usize = 8;

/// The relay, with its threads running. It ends when it is dropped.
pub(super) struct UserSpace {
    control: Control,
    workers: Workers,
    told_unsent: u64,
    _ports: Ports,
}

impl UserSpace {
    /// Starts it on the realms' interfaces.
    pub(super) fn start(config: &Config, locals: &Locals, links: &Links) -> Result<(Self, Legs, States)> {
        let ports = Ports::take(&config.realms)?;
        let maps = &config.maps;
        let sizes = Sizes { legs: maps.max_legs, next_hops: maps.max_next_hops, events: maps.events_bytes };
        let devices = links.interfaces.iter().map(|link| link.index).collect();
        let constants = Constants { locals_seed: locals.seed, measure: true, devices };
        let (tables, control, Big { legs, states }) =
            Tables::new(sizes, constants).context("cannot make the tables of the relay in user space")?;
        for (slot, local) in locals.table(links.egress.iter().map(|egress| egress.interface)) {
            control.put_local(slot, &local);
        }
        let mut workers = Workers::new()?;
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let each = (cpus / links.interfaces.len().max(1)).clamp(1, MOST_THREADS);
        for link in &links.interfaces {
            let own: Vec<IpAddr> =
                config.realms.iter().filter(|realm| realm.interface == link.name).map(|realm| realm.media).collect();
            let receivers = packets::receivers(link.index, &own, link.mtu as usize, each)
                .with_context(|| format!("cannot receive packets on {} (CAP_NET_RAW)", link.name))?;
            for receiver in receivers {
                workers.add(&link.name, receiver, link.index, Here::new(Arc::clone(&tables)))?;
            }
        }
        Ok((Self { control, workers, told_unsent: 0, _ports: ports }, legs, states))
    }
}

impl Plane for UserSpace {
    fn next_hop(&self, index: HopIndex) -> NextHop {
        self.control.next_hop(index.0.into())
    }

    fn set_next_hop(&mut self, index: HopIndex, hop: NextHop) -> Result<(), DatapathError> {
        self.control.put_next_hop(index.0.into(), &hop);
        Ok(())
    }

    fn next_event(&mut self) -> Option<LatchEvent> {
        let unsent = self.workers.unsent();
        if unsent != self.told_unsent {
            tracing::warn!(
                "the kernel did not take {} relayed packets: is an interface's queue full, or down?",
                unsent - self.told_unsent
            );
            self.told_unsent = unsent;
        }
        self.control.next_event()
    }

    fn counters(&self) -> Result<Counters> {
        Ok(self.control.counters())
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.control.fd()
    }
}
