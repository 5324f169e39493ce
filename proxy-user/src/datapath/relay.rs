//! The media relay: what moves the packets, in the kernel or in this process, and the control that keeps it in the
//! state that the engine wants.

use super::{
    Datapath, DatapathError,
    control::{
        indices::HopIndex,
        legs::Locals,
        links::{self, Links},
        mapped::{Legs, States},
        next_hops::NextHops,
        streams::Control,
        watch::Watch,
    },
    kernel::{StartMode, loader::Kernel},
    plane::{Mode, Plane},
    userspace::UserSpace,
};
use crate::{
    config::{Config, Relay},
    journal::{Change, Entry},
    media::{MediaEvent, StreamId, StreamSpec},
    netlink::{
        Netlink,
        worker::{Question, Worker},
    },
};
use anyhow::{Context as _, Result};
use proxy_common::verdict::Counters;
use std::{os::fd::BorrowedFd, time::Instant};

/// Relays media: what moves packets (the XDP program, or this process), and the control that keeps it in the state that
/// the engine wants. When it is dropped, nothing of it is left unless it is pinned.
pub struct MediaRelay {
    control: Control,
    kernel: Worker,
    plane: Box<dyn Plane>,
    interfaces: Vec<String>,
    watch: Watch,
    mode: Mode,
}

impl MediaRelay {
    /// Begins to relay on the realms' interfaces: with the XDP program `object`, or in this process where the
    /// configuration says so, or where it says nothing and the kernel refuses. From now on, everything that arrives at
    /// the media ports is handled here. `start` says whether it ends with the process.
    ///
    /// # Errors
    ///
    /// The kernel refuses something, or the object is of another version.
    pub fn start(config: &Config, object: &[u8], start: &StartMode) -> Result<Self> {
        let started = Self::load(config, object, start);
        if let (Err(_), StartMode::Begin(pins)) = (&started, start) {
            // Half of it is useless.
            pins.remove()?;
        }
        started
    }

    fn load(config: &Config, object: &[u8], start: &StartMode) -> Result<Self> {
        let locals = Locals::new(config)?;
        let mut netlink = Netlink::open().context("cannot open a netlink socket")?;
        // Before the interfaces are read, so that no change is missed.
        let worker = Worker::start().context("cannot follow the kernel's routes and neighbours")?;
        let links = Links::find(config, &mut netlink)?;
        let (plane, mode, memory) = plane(config, &locals, &links, object, start)?;
        let hops = NextHops::new(locals.clone(), links.egress, config.maps.max_next_hops);
        Ok(Self {
            control: Control::new(hops, locals, memory, config.maps.max_legs, &config.media),
            kernel: worker,
            plane,
            interfaces: links.interfaces.iter().map(|link| link.name.clone()).collect(),
            watch: Watch::new(links.interfaces, Instant::now()),
            mode,
        })
    }

    /// What the maps of a configuration depend on on this host, a line for each realm.
    ///
    /// # Errors
    ///
    /// An interface does not exist, or the kernel returns an error.
    pub fn made_for(config: &Config) -> Result<Vec<String>> {
        let links = Netlink::open().and_then(|mut netlink| netlink.links());
        let interfaces = links::interfaces(config, &links.context("cannot list the network interfaces")?)?;
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

    /// Takes over the streams that an earlier process left in the pinned maps: those of calls that continue, and those
    /// whose last counters have not been reported. Every other leg is closed; returns how many were.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn restore(
        &mut self,
        live: &[StreamSpec],
        leaving: &[StreamSpec],
        entries: &[Entry],
        now: Instant,
    ) -> Result<usize> {
        let held = &self.plane;
        let hop = |index: HopIndex| held.next_hop(index);
        let closed = self.control.restore((live, leaving), entries, hop, now);
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

    /// The program's verdicts on packets so far, of all CPUs together.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn counters(&self) -> Result<Counters> {
        self.plane.counters()
    }

    fn write_next_hops(&mut self) -> Result<(), DatapathError> {
        // An error in one does not prevent the others from being written.
        let mut result = Ok(());
        for (index, hop) in self.control.hops.take_writes() {
            if let Err(error) = self.plane.set_next_hop(index, hop) {
                result = Err(error);
            }
        }
        result
    }
}

type Started = (Box<dyn Plane>, Mode, (Legs, States));

fn plane(config: &Config, locals: &Locals, links: &Links, object: &[u8], start: &StartMode) -> Result<Started> {
    let kernel = || -> Result<Started> {
        let (kernel, legs, states) = Kernel::load(config, locals, links, object, start)?;
        let mode = kernel.mode;
        Ok((Box::new(kernel), mode, (legs, states)))
    };
    let user_space = || -> Result<Started> {
        let (user_space, legs, states) = UserSpace::start(config, locals, links)?;
        Ok((Box::new(user_space), Mode::UserSpace, (legs, states)))
    };
    match (config.media.relay, start) {
        (Relay::UserSpace, _) => user_space(),
        (Relay::Auto, StartMode::Process | StartMode::Begin(_)) => match kernel() {
            Err(error) if refused(&error) => {
                tracing::warn!("this host refuses XDP: {error:#}; relaying in user space");
                user_space()
            }
            done => done,
        },
        _ => kernel(),
    }
}

/// Whether the host refuses what a relay in the kernel needs, to every user.
fn refused(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let io = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error);
        let number = io.or_else(|| cause.downcast_ref::<nix::errno::Errno>().map(|errno| *errno as i32));
        matches!(number, Some(libc::EPERM | libc::EACCES | libc::ENOSYS | libc::EOPNOTSUPP))
    })
}

impl Datapath for MediaRelay {
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
        while let Some(event) = self.plane.next_event() {
            self.control.latched(&event, events);
        }
        for fact in self.kernel.facts() {
            self.watch.learn(&fact);
            self.control.hops.learn(fact, now);
        }
        // Entries are written before legs move to them, and entries that legs leave are cleared afterwards.
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

    fn status(&self) -> serde_json::Value {
        let mode = match self.mode {
            Mode::Native => "native",
            Mode::Generic => "generic",
            Mode::UserSpace => "user",
        };
        let packets: serde_json::Map<_, _> = match self.plane.counters() {
            Ok(counters) => counters.named().map(|(name, count)| (name.to_owned(), count.into())).collect(),
            Err(_) => serde_json::Map::new(),
        };
        serde_json::json!({ "mode": mode, "interfaces": self.interfaces, "packets": packets })
    }

    fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        self.control.poll_timeout(now).into_iter().chain([self.watch.poll_timeout()]).min()
    }

    fn event_fds(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.plane.fd(), self.kernel.fd()]
    }
}
