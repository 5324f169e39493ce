//! The XDP program from its object file into the kernel and onto the interfaces.

use super::pins::Pins;
use crate::{
    config::{Config, Maps, Relay},
    datapath::{
        DatapathError,
        control::{
            indices::HopIndex,
            legs::Locals,
            links::Links,
            mapped::{Legs, States},
        },
        plane::{Mode, Plane},
    },
    netlink::Link,
    objects::RELAY,
};
use anyhow::{Context as _, Result, anyhow, bail};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, DevMap, Map, MapData, PerCpuArray, RingBuf},
    programs::{
        Xdp, XdpMode,
        links::{FdLink, PinnedLink},
        xdp::XdpLink,
    },
};
use std::{
    os::fd::{AsFd as _, BorrowedFd},
    path::Path,
};

use proxy_common::{
    layout::{LatchEvent, Leg, LegState, NextHop, Remote},
    locals::Local,
    verdict::Counters,
};

/// Where program and maps live.
#[derive(Clone, Debug)]
pub enum StartMode {
    /// With the process.
    Process,
    /// In these pins, which are made now.
    Begin(Pins),
    /// In these pins, which an earlier process made, attached in this mode.
    Resume(Pins, Mode),
}

impl StartMode {
    fn pins(&self) -> Option<&Pins> {
        match self {
            Self::Process => None,
            Self::Begin(pins) | Self::Resume(pins, _) => Some(pins),
        }
    }
}

/// The program in the kernel, attached to its interfaces, and its maps. When it is dropped, all of it is removed except
/// what is pinned.
pub(in crate::datapath) struct Kernel {
    next_hops: Array<MapData, NextHop>,
    events: RingBuf<MapData>,
    counters: PerCpuArray<MapData, Counters>,
    pub(in crate::datapath) mode: Mode,
    /// Closing the links takes the program off its interfaces, unless they are pinned.
    _links: Vec<FdLink>,
    /// Maps that are not used any more. Their open descriptors show which process they belong to.
    _maps: (MapData, MapData, Array<MapData, Local>, DevMap<MapData>),
    _program: Ebpf,
}

impl Kernel {
    pub(in crate::datapath) fn load(
        config: &Config,
        locals: &Locals,
        links: &Links,
        object: &[u8],
        start: &StartMode,
    ) -> Result<(Self, Legs, States)> {
        match start {
            StartMode::Process => {}
            StartMode::Begin(pins) => pins.prepare()?,
            StartMode::Resume(pins, _) => pins.verify(object, &config.maps)?,
        }
        let mut program = load(&config.maps, locals.seed, object, start.pins())?;

        let mut table = Array::<_, Local>::try_from(take(&mut program, "LOCALS")?)?;
        for (slot, local) in locals.table(links.egress.iter().map(|egress| egress.interface)) {
            // Packets may be looking at it.
            if table.get(&slot, 0).context("cannot read LOCALS")? != local {
                table.set(slot, local, 0).context("cannot write LOCALS")?;
            }
        }
        let mut devices = DevMap::try_from(take(&mut program, "DEVICES")?)?;
        for (slot, link) in (0u32..).zip(&links.interfaces) {
            if devices.get(slot, 0).ok().is_none_or(|device| device.if_index != link.index) {
                devices.set(slot, link.index, None, 0).context("cannot write DEVICES")?;
            }
        }
        let legs_map = mapped::<Leg>(&mut program, "LEGS")?;
        let states_map = mapped::<LegState>(&mut program, "LEG_STATE")?;
        let max_legs = config.maps.max_legs;
        let legs = Legs::of_map(legs_map.fd(), max_legs).context("cannot map LEGS into memory")?;
        let states = States::of_map(states_map.fd(), max_legs).context("cannot map LEG_STATE into memory")?;
        let next_hops = Array::try_from(take(&mut program, "NEXT_HOPS")?)?;
        let events = RingBuf::try_from(take(&mut program, "EVENTS")?)?;
        let counters = PerCpuArray::try_from(take(&mut program, "COUNTERS")?)?;

        // Every map is ready: now packets may come.
        let (attached, mode) = attach(&mut program, &links.interfaces, config.media.relay, start)?;
        let kernel = Self {
            next_hops,
            events,
            counters,
            mode,
            _links: attached,
            _maps: (legs_map, states_map, table, devices),
            _program: program,
        };
        Ok((kernel, legs, states))
    }
}

impl Plane for Kernel {
    fn next_hop(&self, index: HopIndex) -> NextHop {
        self.next_hops.get(&u32::from(index.0), 0).unwrap_or_default()
    }

    fn set_next_hop(&mut self, index: HopIndex, hop: NextHop) -> Result<(), DatapathError> {
        let written = self.next_hops.set(u32::from(index.0), hop, 0);
        written.map_err(|error| DatapathError::Kernel(format!("cannot write NEXT_HOPS: {error}")))
    }

    fn next_event(&mut self) -> Option<LatchEvent> {
        // An item that is not as long as an event is not one.
        while let Some(item) = self.events.next() {
            if let Some(event) = event(&item) {
                return Some(event);
            }
        }
        None
    }

    fn counters(&self) -> Result<Counters> {
        let mut sum = Counters::default();
        for one in self.counters.get(&0, 0).context("cannot read COUNTERS")?.iter() {
            sum.add(one);
        }
        Ok(sum)
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

fn load(maps: &Maps, seed: u32, object: &[u8], pins: Option<&Pins>) -> Result<Ebpf> {
    let ns_per_tick = crate::clock::ns_per_tick()?;
    let mut loader = EbpfLoader::new();
    for (name, path) in pins.into_iter().flat_map(Pins::maps) {
        loader.map_pin_path(name, path);
    }
    loader
        .map_max_entries("LEGS", maps.max_legs)
        .map_max_entries("LEG_STATE", maps.max_legs)
        .map_max_entries("NEXT_HOPS", maps.max_next_hops)
        .map_max_entries("EVENTS", maps.events_bytes)
        .override_global("LOCALS_SEED", &seed, true)
        .override_global("NS_PER_TICK", &ns_per_tick, true)
        .load(object)
        .context("the kernel does not take the XDP program's maps (is this root, and a Linux of at least 5.12?)")
}

fn take(program: &mut Ebpf, name: &str) -> Result<Map> {
    program.take_map(name).ok_or_else(|| anyhow!("the object has no map {name}: it is of another version of Latch"))
}

/// An array that can be mapped, whose values are as large as `V`.
fn mapped<V>(program: &mut Ebpf, name: &str) -> Result<MapData> {
    let Map::Array(data) = take(program, name)? else {
        bail!("the object's map {name} is not an array: it is of another version of Latch");
    };
    let size = data.info()?.value_size() as usize;
    if size != size_of::<V>() {
        bail!("the object's map {name} has values of {size} bytes, not {}: it is of another version", size_of::<V>());
    }
    Ok(data)
}

/// Attaches to all interfaces in native mode, or else to all in generic mode: a frame that one interface received
/// natively cannot be redirected to one whose driver knows nothing of XDP.
fn attach(program: &mut Ebpf, interfaces: &[Link], relay: Relay, start: &StartMode) -> Result<(Vec<FdLink>, Mode)> {
    let xdp: &mut Xdp = program
        .program_mut(RELAY.program)
        .with_context(|| format!("the object has no program {}", RELAY.program))?
        .try_into()
        .with_context(|| format!("{} is not an XDP program", RELAY.program))?;
    xdp.load().context("the kernel refuses the XDP program")?;
    if let StartMode::Resume(pins, mode) = start {
        return Ok((replace_all(xdp, interfaces, pins)?, *mode));
    }
    let bond = interfaces.iter().find(|link| is_bond(Path::new("/sys/class/net"), &link.name));
    let native = match (relay, bond) {
        (Relay::Generic, _) => None,
        // There the program runs at the bond's members, and the kernel reports these as the interface of a packet.
        (_, Some(bond)) => Some(Err(anyhow!("{} is a bond", bond.name))),
        _ => Some(attach_all(xdp, interfaces, XdpMode::Driver)),
    };
    let (links, mode) = match native {
        Some(Ok(links)) => (links, Mode::Native),
        Some(Err(native)) if relay == Relay::Native => return Err(native),
        refused => {
            if let Some(Err(native)) = refused {
                tracing::warn!("no native XDP: {native:#}; trying generic XDP, which is slower");
            }
            (attach_all(xdp, interfaces, XdpMode::Skb)?, Mode::Generic)
        }
    };
    let Some(pins) = start.pins() else { return Ok((links, mode)) };
    let pin = |(link, interface): (FdLink, &Link)| {
        let pinned = link.pin(pins.link(interface.index));
        pinned.map(FdLink::from).with_context(|| format!("cannot pin the link on {}", interface.name))
    };
    Ok((links.into_iter().zip(interfaces).map(pin).collect::<Result<_>>()?, mode))
}

/// Whether an interface joins others into one; `devices` is where the kernel shows them.
fn is_bond(devices: &Path, interface: &str) -> bool {
    devices.join(interface).join("bonding").is_dir()
}

/// Replaces the program of the pinned links: from one packet to the next.
fn replace_all(xdp: &mut Xdp, interfaces: &[Link], pins: &Pins) -> Result<Vec<FdLink>> {
    let mut links = Vec::new();
    for interface in interfaces {
        let mut replace = || -> Result<FdLink> {
            let link = FdLink::from(PinnedLink::from_pin(pins.link(interface.index))?);
            let id = xdp.attach_to_link(XdpLink::try_from(link)?)?;
            Ok(xdp.take_link(id)?.try_into()?)
        };
        links.push(replace().with_context(|| {
            format!(
                "cannot replace the program on {} by its link in {}; `latch run --fresh` starts over and ends the calls",
                interface.name,
                pins.directory().display()
            )
        })?);
    }
    Ok(links)
}

/// What a refusal of the kernel means, where it is known.
fn cannot_attach(interface: &str, error: anyhow::Error) -> anyhow::Error {
    let number = error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>()?.raw_os_error());
    let meaning = match number {
        // EEXIST: in the other of the two modes.
        Some(libc::EBUSY | libc::EEXIST) => ": another XDP program is attached there (`bpftool net show` tells which)",
        Some(libc::EOPNOTSUPP) => ": its driver has no XDP of this mode",
        _ => "",
    };
    error.context(format!("cannot attach to {interface}{meaning}"))
}

fn attach_all(xdp: &mut Xdp, interfaces: &[Link], mode: XdpMode) -> Result<Vec<FdLink>> {
    let mut links = Vec::new();
    for link in interfaces {
        let id = xdp.attach_to_if_index(link.index, mode).map_err(|error| cannot_attach(&link.name, error.into()))?;
        // Only a link vanishes with the process; a program attached in the old way would stay.
        let fd: FdLink = xdp
            .take_link(id)?
            .try_into()
            .with_context(|| format!("cannot attach to {} by a BPF link (Linux 5.9)", link.name))?;
        links.push(fd);
    }
    Ok(links)
}

/// An item of the ring buffer; `None` if it is not as long as one.
fn event(bytes: &[u8]) -> Option<LatchEvent> {
    fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
        bytes.get(at..at + N)?.try_into().ok()
    }
    use std::mem::offset_of;
    Some(LatchEvent {
        source: Remote::from_word(u64::from_ne_bytes(field(bytes, 0)?)),
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

    #[test]
    fn a_bond_is_told_by_what_the_kernel_shows_of_it() {
        let devices = std::env::temp_dir().join(format!("latch-devices-{}", std::process::id()));
        std::fs::create_dir_all(devices.join("bond0/bonding")).unwrap();
        std::fs::create_dir_all(devices.join("eth0/bonding_slave")).unwrap();
        let found = ["bond0", "eth0", "none-such"].map(|name| is_bond(&devices, name));
        std::fs::remove_dir_all(&devices).unwrap();
        assert_eq!(found, [true, false, false]);
    }
}
