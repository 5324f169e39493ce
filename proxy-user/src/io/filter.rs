//! The filter of a signalling socket: in a flood, what known terminals send is not lost in a full queue
//! (`proxy_common::signalling`).
//!
//! It is there only to keep the socket's queue from overflowing: what strangers may send exactly, the engine decides.
//! So the filter lets several times as much pass in the long run ([`HEADROOM`]), and as much at once: the engine must
//! still see the messages that name a call's token, whatever network they come from.

use super::sockets::DatagramSocket;
use crate::{
    config::{Config, Side},
    media::RealmId,
    objects::SIGNALLING,
};
use anyhow::{Context as _, Result, anyhow};
use aya::{
    Ebpf, EbpfLoader,
    maps::{HashMap, Map, MapData, MapError, PerCpuArray},
    programs::SocketFilter,
};
use proxy_common::{
    locals::mapped,
    signalling::{Counters, Remote},
};
use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr},
    os::fd::AsFd,
};

/// How many times as much as strangers may send passes the filter.
pub const HEADROOM: u64 = 4;

/// A filter that is attached to a socket. It stays there until the socket is closed.
pub struct Filter {
    known: HashMap<MapData, Remote, u8>,
    counters: PerCpuArray<MapData, Counters>,
    /// The program and its other maps: their open descriptors show which process they belong to.
    _program: Ebpf,
}

impl Filter {
    /// Loads the program from its object file and attaches it to a socket.
    ///
    /// # Errors
    ///
    /// The kernel refuses it: this is not root, or not a Linux of at least 5.12.
    pub fn attach(object: &[u8], config: &Config, socket: impl AsFd) -> Result<Self> {
        let strangers = &config.strangers;
        let interval = |percent: u32| {
            let a_second = u64::from(strangers.messages_per_s) * u64::from(percent) / 100 * HEADROOM;
            1_000_000_000 / a_second.max(1)
        };
        let [source, network, all] = [strangers.source_percent, strangers.network_percent, 100].map(interval);
        let known = config.limits.max_registrations.saturating_add(config.limits.max_calls);
        let mut program = EbpfLoader::new()
            .map_max_entries("SIG_KNOWN", u32::try_from(known).unwrap_or(u32::MAX))
            .map_max_entries("SIG_SOURCES", config.maps.max_sources)
            .map_max_entries("SIG_NETWORKS", config.maps.max_sources)
            .override_global("SOURCE_INTERVAL_NS", &source, true)
            .override_global("NETWORK_INTERVAL_NS", &network, true)
            .override_global("STRANGERS_INTERVAL_NS", &all, true)
            .load(object)
            .context("the kernel does not take the signalling filter's maps")?;
        let filter: &mut SocketFilter = program
            .program_mut(SIGNALLING.program)
            .with_context(|| format!("the object has no program {}", SIGNALLING.program))?
            .try_into()
            .with_context(|| format!("{} is not a socket filter", SIGNALLING.program))?;
        filter.load().context("the kernel refuses the signalling filter")?;
        filter.attach(socket).context("cannot attach the signalling filter")?;
        Ok(Self {
            known: HashMap::try_from(take(&mut program, "SIG_KNOWN")?)?,
            counters: PerCpuArray::try_from(take(&mut program, "SIG_COUNTERS")?)?,
            _program: program,
        })
    }

    /// From now on, datagrams from there always pass, or no longer do.
    ///
    /// # Errors
    ///
    /// The kernel has no room for it.
    pub fn set_known(&mut self, remote: SocketAddr, known: bool) -> Result<()> {
        let key = key(remote);
        let changed = match known {
            true => self.known.insert(key, 1, 0),
            false => self.known.remove(&key),
        };
        match changed {
            // It was not in the map, if there was no room for it.
            Err(MapError::SyscallError(error)) if !known && error.io_error.kind() == ErrorKind::NotFound => Ok(()),
            changed => changed.with_context(|| format!("the signalling filter does not take {remote}")),
        }
    }

    /// What happened to datagrams so far.
    ///
    /// # Errors
    ///
    /// The kernel refuses to read them.
    pub fn counters(&self) -> Result<Counters> {
        let mut sum = Counters::default();
        for one in self.counters.get(&0, 0).context("cannot read SIG_COUNTERS")?.iter() {
            sum.add(one);
        }
        Ok(sum)
    }
}

/// The filters of a process.
#[derive(Default)]
pub struct Filters {
    of: Vec<(RealmId, Filter)>,
}

impl Filters {
    /// None.
    pub fn none() -> Self {
        Self::default()
    }

    /// One for every socket in an access realm: in a core realm, servers are known anyway.
    ///
    /// # Errors
    ///
    /// See [`Filter::attach`].
    pub fn attach(object: &[u8], config: &Config, sockets: &[DatagramSocket]) -> Result<Self> {
        let strangers_reach = |realm| config.realms.get(realm).is_some_and(|realm| realm.side == Side::Access);
        let exposed = sockets.iter().filter(|socket| strangers_reach(socket.realm));
        let attach = |socket: &DatagramSocket| Ok((socket.realm, Filter::attach(object, config, &socket.socket)?));
        Ok(Self { of: exposed.map(attach).collect::<Result<_>>()? })
    }

    /// See [`Filter::set_known`].
    ///
    /// # Errors
    ///
    /// The kernel has no room for it.
    pub fn set_known(&mut self, realm: RealmId, remote: SocketAddr, known: bool) -> Result<()> {
        let here = self.of.iter_mut().filter(|(of, _)| *of == realm);
        here.map(|(_, filter)| filter.set_known(remote, known)).fold(Ok(()), Result::and)
    }

    /// What happened to datagrams so far, in all realms together; `None` without a filter.
    pub fn counters(&self) -> Option<Counters> {
        let all: Vec<_> = self.of.iter().map(|(_, filter)| filter).collect();
        let mut sum = Counters::default();
        all.iter().filter_map(|filter| filter.counters().ok()).for_each(|counters| sum.add(&counters));
        (!all.is_empty()).then_some(sum)
    }
}

fn take(program: &mut Ebpf, name: &str) -> Result<Map> {
    program.take_map(name).ok_or_else(|| anyhow!("the object has no map {name}: it is of another version of Latch"))
}

fn key(remote: SocketAddr) -> Remote {
    let address = match remote.ip() {
        IpAddr::V4(address) => mapped(address.octets()),
        IpAddr::V6(address) => address.octets(),
    };
    Remote { address, port: remote.port(), reserved: 0 }
}
