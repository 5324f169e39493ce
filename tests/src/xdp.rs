//! The relay alone, without a network: the XDP program fed by `BPF_PROG_TEST_RUN`, and the relay in user space, with
//! their maps and tables written and read by hand. Both get the same packets, and whatever one does otherwise than the
//! other is an error.
//!
//! [`World`] is a relay with one call between a terminal behind a NAT (leg [`A`]) and a softswitch (leg [`B`]);
//! [`Packet`] builds frames whose checksums are computed in full, so an equal frame is a right frame.

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, MapData, PerCpuArray, RingBuf, xdp::DevMap},
    programs::{TestRun as _, TestRunOptions, Xdp},
};
use proxy_common::{
    address::Address,
    layout::{LatchEvent, Leg, LegState, NextHop, Quality, leg_flags, next_hop_kind},
    locals::{self, Local, mapped},
    verdict::{Action, Counters, Verdict},
};
use proxy_user::{clock::ns_per_tick, datapath::userspace::standalone::Relay};
use std::{
    collections::BTreeMap,
    fmt::Debug,
    net::{IpAddr, Ipv6Addr},
    path::PathBuf,
};

pub use packet::Packet;

mod packet;

/// Index of the terminal's leg; its ports are [`ACCESS`] 30002 and 30003.
pub const A: u32 = 1;
/// Index of the softswitch's leg; its ports are [`CORE`] 40002 and 40003.
pub const B: u32 = 33;
/// Generation of [`A`].
pub const GENERATION_A: u16 = 3;
/// Generation of [`B`].
pub const GENERATION_B: u16 = 5;
/// The relay's address on the access side.
pub const ACCESS: [u8; 4] = [203, 0, 113, 10];
/// The relay's address on the core side.
pub const CORE: [u8; 4] = [10, 9, 0, 10];
/// The terminal's own address, that of its session description (port 4000).
pub const TERMINAL: [u8; 4] = [192, 168, 1, 10];
/// The terminal's NAT, where its signalling came from.
pub const NAT: [u8; 4] = [203, 0, 113, 101];
/// The softswitch's address (port 20000).
pub const SOFTSWITCH: [u8; 4] = [10, 9, 0, 20];
/// Next hop out of the interface that test packets arrive by.
pub const HOP_ACCESS: u16 = 1;
/// Next hop out of another interface.
pub const HOP_CORE: u16 = 2;
/// Next hop to the relay itself.
pub const HOP_LOCAL: u16 = 3;
/// Next hop whose slot in `DEVICES` is empty.
pub const HOP_NO_DEVICE: u16 = 4;
/// Next hop out of another interface, on VLAN 100 with priority 5.
pub const HOP_TAGGED: u16 = 5;
/// Next hop out of another interface, on VLAN 7 inside VLAN 100.
pub const HOP_TAGGED_TWICE: u16 = 6;
/// Next hop whose link takes IP packets of at most 200 bytes, those of [`Packet::rtp`] over IPv4.
pub const HOP_NARROW: u16 = 7;
/// Legs in the maps: 32 for each of the relay's four addresses.
pub const LEGS: u32 = 128;
/// Entries of `NEXT_HOPS` that are used.
const HOPS: u32 = 16;
/// Ports of each address.
const RANGE: u16 = 64;
/// First ports of the two ranges of ports: on the access side, and on the core side.
pub const PORTS: (u16, u16) = (30_000, 40_000);
/// Index of a terminal's leg over IPv6; its ports are [`ACCESS_V6`] 30002 and 30003.
pub const A_V6: u32 = A + 64;
/// Index of a softswitch's leg over IPv6; its ports are [`CORE_V6`] 40002 and 40003.
pub const B_V6: u32 = B + 64;
/// The relay's IPv6 address on the access side.
pub const ACCESS_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x10);
/// The relay's IPv6 address on the core side.
pub const CORE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 0x10);
/// A terminal over IPv6, that of its session description (port 4000) and of its signalling.
pub const TERMINAL_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 7, 0, 0, 0, 0x20);
/// The softswitch over IPv6 (port 20000).
pub const SOFTSWITCH_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 0x20);

/// `BPF_PROG_TEST_RUN` lets packets arrive by the loopback interface.
const INGRESS: u32 = 1;
/// Of a link of the core network: of the neighbour, and of the relay.
const MACS_CORE: [[u8; 6]; 2] = [[2, 0, 0, 9, 0, 1], [2, 0, 0, 9, 0, 2]];
/// Tag control information: VLAN 100 with priority 5, and VLAN 7.
pub const TAGS: [u16; 2] = [5 << 13 | 100, 7];
const MAC_TERMINAL: [u8; 6] = [2, 0, 0, 0, 0, 1];
const MAC_RELAY: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// One relay or two that must do the same.
pub struct World {
    kernel: Option<Kernel>,
    user: Option<Relay>,
    locals: BTreeMap<u32, Local>,
    seed: u32,
}

/// The loaded program and its maps.
struct Kernel {
    ebpf: Ebpf,
    legs: Array<MapData, Leg>,
    states: Array<MapData, LegState>,
    locals: Array<MapData, Local>,
    hops: Array<MapData, NextHop>,
    counters: PerCpuArray<MapData, Counters>,
    events: RingBuf<MapData>,
    // The program forgets devices whose map is gone.
    _devices: DevMap<MapData>,
}

impl Kernel {
    fn load(seed: u32) -> Result<Self> {
        let path = object("latch");
        let object = std::fs::read(&path)
            .with_context(|| format!("reading {}: build it with `cargo xtask build`", path.display()))?;
        let mut ebpf = EbpfLoader::new()
            .override_global("LOCALS_SEED", &seed, true)
            .override_global("NS_PER_TICK", &ns_per_tick()?, true)
            .map_max_entries("LEGS", LEGS)
            .map_max_entries("LEG_STATE", LEGS)
            .load(&object)?;
        let program: &mut Xdp = ebpf.program_mut("latch").context("program `latch`")?.try_into()?;
        program.load()?;

        let mut take = |name: &str| ebpf.take_map(name).with_context(|| format!("map {name}"));
        Ok(Self {
            legs: take("LEGS")?.try_into()?,
            states: take("LEG_STATE")?.try_into()?,
            locals: take("LOCALS")?.try_into()?,
            hops: take("NEXT_HOPS")?.try_into()?,
            counters: take("COUNTERS")?.try_into()?,
            events: take("EVENTS")?.try_into()?,
            _devices: {
                let mut devices: DevMap<MapData> = take("DEVICES")?.try_into()?;
                devices.set(0, INGRESS, None, 0)?;
                devices
            },
            ebpf,
        })
    }

    fn program(&self) -> Result<&Xdp> {
        Ok(self.ebpf.program("latch").context("program `latch`")?.try_into()?)
    }

    fn counts(&self) -> Result<Vec<u64>> {
        let mut sums = vec![0; Verdict::ALL.len()];
        for counters in self.counters.get(&0, 0)?.iter() {
            for (sum, (_, count)) in sums.iter_mut().zip(counters.named()) {
                *sum += count;
            }
        }
        Ok(sums)
    }

    fn events(&mut self) -> Vec<LatchEvent> {
        let mut events = Vec::new();
        while let Some(item) = self.events.next() {
            assert_eq!(item.len(), size_of::<LatchEvent>());
            // SAFETY: the item is as long as the struct, which is made of integers without padding.
            events.push(unsafe { item.as_ptr().cast::<LatchEvent>().read_unaligned() });
        }
        events
    }
}

fn own_addresses() -> [Address; 4] {
    [ACCESS.into(), CORE.into(), ACCESS_V6.into(), CORE_V6.into()]
        .map(|address: IpAddr| Address::from_bytes(bytes(address)))
}

/// An address as the maps hold it.
pub fn bytes(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => mapped(v4.octets()),
        IpAddr::V6(v6) => v6.octets(),
    }
}

fn seed() -> Option<u32> {
    locals::find_seed(&own_addresses().map(Address::fold))
}

/// The slot in `LOCALS` of one of the relay's addresses.
pub fn local_slot(address: impl Into<IpAddr>) -> u16 {
    locals::slot(Address::from_bytes(bytes(address.into())).fold(), seed().unwrap_or_default()) as u16
}

/// What became of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What the program returned: 1 drop, 2 pass, 3 transmit, 4 redirect.
    pub action: u32,
    /// The frame afterwards.
    pub frame: Vec<u8>,
}

impl World {
    /// Both relays, and the call set up, nothing latched yet.
    pub fn new() -> Result<Self> {
        Self::of(&Platform::ALL)
    }

    /// Some of them: where time decides, two may differ.
    pub fn of(platforms: &[Platform]) -> Result<Self> {
        let seed = seed().context("two addresses have a seed")?;
        let has = |platform| platforms.contains(&platform);
        let mut world = Self {
            kernel: has(Platform::Kernel).then(|| Kernel::load(seed)).transpose()?,
            user: has(Platform::User).then(|| Relay::new(LEGS, HOPS, seed, vec![INGRESS])).transpose()?,
            locals: BTreeMap::new(),
            seed,
        };
        let ranges = (0..).zip(own_addresses()).zip([PORTS.0, PORTS.1, PORTS.0, PORTS.1]);
        for ((number, address), port_base) in ranges {
            let local = Local {
                address: address.to_bytes(),
                port_base,
                ports: RANGE,
                first_leg: number * LEGS / 4,
                interface: INGRESS,
                vlan: [0; 2],
            };
            world.local(locals::slot(address.fold(), seed), local)?;
        }
        let neighbour = NextHop {
            kind: next_hop_kind::NEIGHBOUR,
            interface: INGRESS,
            device: 0,
            destination_mac: MAC_TERMINAL,
            source_mac: MAC_RELAY,
            ..NextHop::default()
        };
        world.hop(HOP_ACCESS, neighbour)?;
        let [destination_mac, source_mac] = MACS_CORE;
        let core = NextHop { interface: INGRESS + 1, destination_mac, source_mac, ..neighbour };
        world.hop(HOP_CORE, core)?;
        let [outer, inner] = TAGS.map(u16::to_be);
        world.hop(HOP_TAGGED, NextHop { tags: 1, vlan: [outer, 0], ..core })?;
        world.hop(HOP_TAGGED_TWICE, NextHop { tags: 2, vlan: [outer, inner], ..core })?;
        world.hop(HOP_NARROW, NextHop { mtu: 200, ..core })?;
        world.hop(HOP_LOCAL, NextHop { kind: next_hop_kind::LOCAL, ..NextHop::default() })?;
        world.hop(HOP_NO_DEVICE, NextHop { interface: INGRESS + 1, device: 1, ..neighbour })?;
        world.leg(A, leg_a())?;
        world.leg(B, leg_b())?;
        Ok(world)
    }

    fn local(&mut self, slot: u32, local: Local) -> Result<()> {
        if let Some(kernel) = &mut self.kernel {
            kernel.locals.set(slot, local, 0)?;
        }
        if let Some(user) = &self.user {
            user.put_local(slot, &local);
        }
        self.locals.insert(slot, local);
        Ok(())
    }

    /// Makes packets to a media address expected by another interface than the one they arrive by.
    pub fn move_local(&mut self, address: [u8; 4]) -> Result<()> {
        self.change_local(Address::from_bytes(mapped(address)), |local| local.interface = INGRESS + 1)
    }

    /// Makes packets to all media addresses expected with these VLAN tags, outermost first.
    pub fn tag_locals(&mut self, vlan: [u16; 2]) -> Result<()> {
        own_addresses().into_iter().try_for_each(|address| self.change_local(address, |local| local.vlan = vlan))
    }

    fn change_local(&mut self, address: Address, change: impl FnOnce(&mut Local)) -> Result<()> {
        let slot = locals::slot(address.fold(), self.seed);
        let mut local = self.locals.get(&slot).copied().unwrap_or_default();
        change(&mut local);
        self.local(slot, local)
    }

    /// Puts an address, of which no port is the relay's, into a free slot of `LOCALS`: the slot.
    pub fn out_local(&mut self, address: IpAddr) -> Result<u16> {
        let taken: Vec<_> = own_addresses().iter().map(|own| locals::slot(own.fold(), self.seed)).collect();
        let slot = (0..).find(|slot| !taken.contains(slot)).unwrap_or_default();
        self.local(slot, Local { address: bytes(address), ..Local::default() })?;
        Ok(slot as u16)
    }

    /// Writes an entry of `LEGS`.
    pub fn leg(&mut self, index: u32, leg: Leg) -> Result<()> {
        if let Some(user) = &self.user {
            user.put_leg(index, &leg);
        }
        self.kernel.as_mut().map_or(Ok(()), |kernel| Ok(kernel.legs.set(index, leg, 0)?))
    }

    /// Reads an entry of `LEG_STATE`.
    pub fn state(&self, index: u32) -> Result<LegState> {
        let kernel = self.kernel.as_ref().map(|kernel| kernel.states.get(&index, 0)).transpose()?;
        self.one("leg state", kernel, self.user.as_ref().map(|user| user.state(index)), timeless)
    }

    /// Writes an entry of `LEG_STATE`, which is otherwise the program's.
    pub fn set_state(&mut self, index: u32, state: LegState) -> Result<()> {
        if let Some(user) = &self.user {
            user.set_state(index, &state);
        }
        self.kernel.as_mut().map_or(Ok(()), |kernel| Ok(kernel.states.set(index, state, 0)?))
    }

    /// Writes an entry of `NEXT_HOPS`.
    pub fn hop(&mut self, index: u16, hop: NextHop) -> Result<()> {
        if let Some(user) = &self.user {
            user.put_next_hop(index.into(), &hop);
        }
        self.kernel.as_mut().map_or(Ok(()), |kernel| Ok(kernel.hops.set(index.into(), hop, 0)?))
    }

    /// Packets by verdict so far, in the order of [`Verdict::ALL`].
    pub fn counts(&self) -> Result<Vec<u64>> {
        let kernel = self.kernel.as_ref().map(Kernel::counts).transpose()?;
        let user = self.user.as_ref().map(|user| user.counters().named().map(|(_, count)| count).collect());
        self.one("counters", kernel, user, Vec::clone)
    }

    /// The latch events since the last call.
    pub fn events(&mut self) -> Vec<LatchEvent> {
        let kernel = self.kernel.as_mut().map(Kernel::events);
        let user = self.user.as_ref().map(|user| std::iter::from_fn(|| user.next_event()).collect::<Vec<_>>());
        let timeless = |events: &Vec<LatchEvent>| -> Vec<_> {
            events.iter().map(|event| LatchEvent { time_ns: 0, ..*event }).collect()
        };
        self.one("latch events", kernel, user, timeless).expect("both relays tell the same")
    }

    /// What lets frames arrive on a thread of its own, at the one relay of this world.
    pub fn thread(&self) -> Result<Thread<'_>> {
        match (&self.kernel, &self.user) {
            (Some(kernel), None) => Ok(Thread::Kernel(kernel.program()?)),
            (None, Some(user)) => Ok(Thread::User(user.thread())),
            _ => bail!("one relay is wanted"),
        }
    }

    /// The program itself, for runs of one's own.
    pub fn program(&self) -> Result<&Xdp> {
        self.kernel.as_ref().context("there is no program in this world")?.program()
    }

    /// Lets one frame arrive.
    pub fn run(&self, frame: &[u8]) -> Result<Outcome> {
        let kernel = self.kernel.as_ref().map(|kernel| run(kernel.program()?, frame)).transpose()?;
        let user = self.user.as_ref().map(|user| {
            let (verdict, frame) = user.run(frame, INGRESS);
            Outcome { action: number(verdict), frame }
        });
        self.one("frame", kernel, user, Clone::clone)
    }

    /// What the relays say, which must be the same as far as `compared` goes.
    fn one<T: Debug, C: PartialEq>(
        &self,
        what: &str,
        kernel: Option<T>,
        user: Option<T>,
        compared: impl Fn(&T) -> C,
    ) -> Result<T> {
        match (kernel, user) {
            (Some(kernel), Some(user)) if compared(&kernel) != compared(&user) => {
                bail!("{what}: the XDP program says {kernel:?}, the relay in user space {user:?}")
            }
            (Some(one), _) | (None, Some(one)) => Ok(one),
            (None, None) => bail!("there is no relay in this world"),
        }
    }

    /// Lets one frame arrive and finds its one verdict.
    pub fn judge(&self, frame: &[u8]) -> Result<(Verdict, Outcome)> {
        let before = self.counts()?;
        let outcome = self.run(frame)?;
        let after = self.counts()?;
        let mut hit = Verdict::ALL.iter().zip(before.iter().zip(&after)).filter(|(_, (before, after))| before != after);
        match (hit.next(), hit.next()) {
            (Some((&verdict, (before, after))), None) if *after == before + 1 => Ok((verdict, outcome)),
            _ => bail!("one packet, but the counters went from {before:?} to {after:?}"),
        }
    }
}

/// What lets frames arrive on a thread of its own.
pub enum Thread<'a> {
    /// At the program.
    Kernel(&'a Xdp),
    /// At the relay in user space.
    User(Relay),
}

impl Thread<'_> {
    /// Lets one frame arrive: what the program returns.
    pub fn run(&self, frame: &[u8]) -> Result<u32> {
        match self {
            Self::Kernel(program) => Ok(run(program, frame)?.action),
            Self::User(relay) => Ok(number(relay.run(frame, INGRESS).0)),
        }
    }
}

/// What the program returns.
fn number(verdict: Verdict) -> u32 {
    match verdict.action() {
        Action::Drop => 1,
        Action::Pass => 2,
        Action::Transmit => 3,
        Action::Redirect => 4,
    }
}

/// What runs the relay's code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Platform {
    /// The XDP program.
    Kernel,
    /// User space.
    User,
}

impl Platform {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Kernel, Self::User];
}

/// A leg's state except what depends on when its packets came.
fn timeless(state: &LegState) -> LegState {
    let quality = Quality { first: (state.quality.first != 0).into(), last: 0, transit: 0, jitter: 0, ..state.quality };
    LegState { bucket: 0, quality, ..*state }
}

/// Lets one frame arrive at a program.
pub fn run(program: &Xdp, frame: &[u8]) -> Result<Outcome> {
    let mut out = vec![0; frame.len() + 64];
    let options = TestRunOptions { data_in: Some(frame), data_out: Some(&mut out), repeat: 1, ..TestRunOptions::new() };
    let result = program.test_run(options)?;
    out.truncate(result.data_size_out as usize);
    Ok(Outcome { action: result.return_value, frame: out })
}

/// Where `cargo xtask build` leaves a BPF object.
pub fn object(name: &str) -> PathBuf {
    match std::env::var_os("LATCH_BPF_OBJECT") {
        Some(path) if name == "latch" => path.into(),
        _ => PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bpf")).join(name).with_extension("o"),
    }
}

/// The terminal's leg: its session description gives a private address, its signalling came from [`NAT`].
pub fn leg_a() -> Leg {
    Leg {
        generation: GENERATION_A,
        peer_generation: GENERATION_B,
        peer: B,
        next_hop_remote: HOP_CORE,
        next_hop_signalling: HOP_CORE,
        out_local: local_slot(CORE),
        out_port: 40_002,
        remote_address: mapped(TERMINAL),
        remote_port: 4_000,
        remote_rtcp_port: 4_001,
        signalling_address: mapped(NAT),
        payload_types: [1 << 0 | 1 << 8, 0, 0, 1 << (101 - 96)],
        window_end_ns: u64::MAX,
        address_bits_v4: 32,
        address_bits_v6: 128,
        ..Leg::default()
    }
}

/// The softswitch's leg: its address is known to be right. The way to the terminal itself is not known, only that to
/// its NAT.
pub fn leg_b() -> Leg {
    Leg {
        generation: GENERATION_B,
        peer_generation: GENERATION_A,
        flags: leg_flags::SEND_BEFORE_LATCH,
        peer: A,
        next_hop_remote: 0,
        next_hop_signalling: HOP_ACCESS,
        out_local: local_slot(ACCESS),
        out_port: 30_002,
        remote_address: mapped(SOFTSWITCH),
        remote_port: 20_000,
        remote_rtcp_port: 20_001,
        signalling_address: mapped(SOFTSWITCH),
        payload_types: [1 << 0 | 1 << 8, 0, 0, 1 << (101 - 96)],
        window_end_ns: u64::MAX,
        address_bits_v4: 32,
        address_bits_v6: 128,
        ..Leg::default()
    }
}

/// The terminal's leg over IPv6; its peer is [`B_V6`], or [`B`] if `peer` is that.
pub fn leg_a_v6(peer: u32) -> Leg {
    let peer_v6 = if peer == B_V6 { leg_flags::PEER_V6 } else { 0 };
    Leg {
        flags: leg_flags::V6 | peer_v6,
        peer,
        out_local: if peer == B_V6 { local_slot(CORE_V6) } else { local_slot(CORE) },
        remote_address: TERMINAL_V6.octets(),
        signalling_address: TERMINAL_V6.octets(),
        ..leg_a()
    }
}

/// The softswitch's leg over IPv6; its peer is [`A_V6`], or [`A`] if `peer` is that.
pub fn leg_b_v6(peer: u32) -> Leg {
    let peer_v6 = if peer == A_V6 { leg_flags::PEER_V6 } else { 0 };
    Leg {
        flags: leg_flags::V6 | peer_v6 | leg_flags::SEND_BEFORE_LATCH,
        peer,
        next_hop_remote: HOP_ACCESS,
        out_local: if peer == A_V6 { local_slot(ACCESS_V6) } else { local_slot(ACCESS) },
        remote_address: SOFTSWITCH_V6.octets(),
        signalling_address: SOFTSWITCH_V6.octets(),
        ..leg_b()
    }
}
