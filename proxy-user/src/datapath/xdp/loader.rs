//! The XDP program from its object file into the kernel and onto the interfaces.

use super::{
    legs::Locals,
    mapped::{Legs, States},
    next_hops::{Egress, Tags},
    pins::Pins,
};
use crate::{
    config::{Config, Maps},
    netlink::{Link, Netlink},
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
use std::{net::IpAddr, path::Path};

use proxy_common::{
    layout::{Leg, LegState, NextHop},
    locals::Local,
    verdict::Counters,
};

pub(super) const PROGRAM: &str = "latch";

/// How the program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// In the driver, before the kernel has made a socket buffer.
    Native,
    /// In the network stack: works everywhere, slower.
    Generic,
}

/// Where program and maps live.
#[derive(Clone, Debug)]
pub enum Life {
    /// With the process.
    Process,
    /// In these pins, which are made now.
    Begin(Pins),
    /// In these pins, which an earlier process made, attached in this mode.
    Resume(Pins, Mode),
}

impl Life {
    fn pins(&self) -> Option<&Pins> {
        match self {
            Self::Process => None,
            Self::Begin(pins) | Self::Resume(pins, _) => Some(pins),
        }
    }
}

/// The program in the kernel, attached to its interfaces, and its maps. Dropped, all of it is gone, but for what is
/// pinned.
pub(super) struct Loaded {
    pub(super) legs: Legs,
    pub(super) states: States,
    pub(super) next_hops: Array<MapData, NextHop>,
    pub(super) events: RingBuf<MapData>,
    pub(super) counters: PerCpuArray<MapData, Counters>,
    pub(super) egress: Vec<Egress>,
    pub(super) interfaces: Vec<Link>,
    pub(super) mode: Mode,
    pub(super) attached: Attached,
}

/// Keeps the program attached: closing the links takes it off its interfaces, unless they are pinned.
pub(super) struct Attached {
    _links: Vec<FdLink>,
    /// Maps that nothing more is done with. Their descriptors stay open to show whose they are.
    _maps: (MapData, MapData, Array<MapData, Local>, DevMap<MapData>),
    _program: Ebpf,
}

impl Loaded {
    pub(super) fn load(
        config: &Config,
        locals: &Locals,
        object: &[u8],
        netlink: &mut Netlink,
        life: &Life,
    ) -> Result<Self> {
        match life {
            Life::Process => {}
            Life::Begin(pins) => pins.prepare()?,
            Life::Resume(pins, _) => pins.verify(object, &config.maps)?,
        }
        let interfaces = interfaces(config, &netlink.links().context("cannot list the network interfaces")?)?;
        let addresses = netlink.addresses().context("cannot list the addresses of this host")?;
        let egress = egress(config, &interfaces, &addresses)?;
        let mut program = load(&config.maps, locals.seed, object, life.pins())?;

        let mut table = Array::<_, Local>::try_from(take(&mut program, "LOCALS")?)?;
        for (slot, local) in locals.table(egress.iter().map(|egress| egress.interface)) {
            // Packets may be looking at it.
            if table.get(&slot, 0).context("cannot read LOCALS")? != local {
                table.set(slot, local, 0).context("cannot write LOCALS")?;
            }
        }
        let mut devices = DevMap::try_from(take(&mut program, "DEVICES")?)?;
        for (slot, link) in (0u32..).zip(&interfaces) {
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
        let (links, mode) = attach(&mut program, &interfaces, life)?;
        Ok(Self {
            legs,
            states,
            next_hops,
            events,
            counters,
            egress,
            interfaces,
            mode,
            attached: Attached { _links: links, _maps: (legs_map, states_map, table, devices), _program: program },
        })
    }
}

/// The interfaces of the realms, each once; the position is the slot in `DEVICES`.
pub(super) fn interfaces(config: &Config, links: &[Link]) -> Result<Vec<Link>> {
    let mut interfaces: Vec<Link> = Vec::new();
    for realm in &config.realms {
        if interfaces.iter().any(|link| link.name == realm.interface) {
            continue;
        }
        let link = links.iter().find(|link| link.name == realm.interface);
        interfaces.push(link.with_context(|| format!("there is no interface {}", realm.interface))?.clone());
    }
    Ok(interfaces)
}

/// How packets leave for each realm. `addresses` are those of the host, with the index of their interface.
fn egress(config: &Config, interfaces: &[Link], addresses: &[(u32, IpAddr)]) -> Result<Vec<Egress>> {
    let one = |realm: &crate::config::Realm| {
        let found = (0u32..).zip(interfaces).find(|(_, link)| link.name == realm.interface);
        let (device, link) = found.with_context(|| format!("there is no interface {}", realm.interface))?;
        let mac = link.mac.with_context(|| format!("{} has no Ethernet address", link.name))?;
        let on = |index: u32| addresses.contains(&(index, realm.media));
        let elsewhere = addresses.iter().find(|(_, address)| *address == realm.media).map(|(index, _)| *index);
        Ok(Egress {
            interface: link.index,
            neighbour_interface: if on(link.index) { link.index } else { elsewhere.unwrap_or(link.index) },
            device,
            mac,
            source: realm.media,
            vlan: Tags::new(&realm.vlan),
            // Larger ones than 65,535 bytes there are none.
            mtu: u16::try_from(link.mtu).unwrap_or(u16::MAX),
        })
    };
    config.realms.iter().map(one).collect()
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
        bail!("the object's map {name} is no array: it is of another version of Latch");
    };
    let size = data.info()?.value_size() as usize;
    if size != size_of::<V>() {
        bail!("the object's map {name} has values of {size} bytes, not {}: it is of another version", size_of::<V>());
    }
    Ok(data)
}

/// Attaches to all interfaces in native mode, or else to all in generic mode: a frame that one interface received
/// natively cannot be redirected to one whose driver knows nothing of XDP.
fn attach(program: &mut Ebpf, interfaces: &[Link], life: &Life) -> Result<(Vec<FdLink>, Mode)> {
    let xdp: &mut Xdp = program
        .program_mut(PROGRAM)
        .with_context(|| format!("the object has no program {PROGRAM}"))?
        .try_into()
        .with_context(|| format!("{PROGRAM} is no XDP program"))?;
    xdp.load().context("the kernel refuses the XDP program")?;
    if let Life::Resume(pins, mode) = life {
        return Ok((replace_all(xdp, interfaces, pins)?, *mode));
    }
    let bond = interfaces.iter().find(|link| is_bond(Path::new("/sys/class/net"), &link.name));
    let native = match bond {
        // There the program runs at the bond's members, and it is these that the kernel says a packet came by.
        Some(bond) => Err(anyhow!("{} is a bond", bond.name)),
        None => attach_all(xdp, interfaces, XdpMode::Driver),
    };
    let (links, mode) = match native {
        Ok(links) => (links, Mode::Native),
        Err(native) => {
            tracing::warn!("no native XDP: {native:#}; trying generic XDP, which is slower");
            (attach_all(xdp, interfaces, XdpMode::Skb)?, Mode::Generic)
        }
    };
    let Some(pins) = life.pins() else { return Ok((links, mode)) };
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

/// Puts the program in the place of the one that the pinned links have: from one packet to the next.
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
                "cannot replace the program on {} by its link in {}; `latch run --fresh` starts anew and ends the calls",
                interface.name,
                pins.directory().display()
            )
        })?);
    }
    Ok(links)
}

/// What the kernel means by refusing, where it is known.
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
        // Only a link vanishes with the process; the old way of attaching would stay behind.
        let fd: FdLink = xdp
            .take_link(id)?
            .try_into()
            .with_context(|| format!("cannot attach to {} by a BPF link (Linux 5.9)", link.name))?;
        links.push(fd);
    }
    Ok(links)
}

#[cfg(test)]
mod tests {
    use super::*;

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
