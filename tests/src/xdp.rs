//! The XDP program alone: loaded without a network, fed by `BPF_PROG_TEST_RUN`, its maps written and read by hand.
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
    checksum,
    layout::{Component, LatchEvent, Leg, LegState, NextHop, RtcpComponent, leg_flags, next_hop_kind},
    locals::{self, Local, mapped},
    verdict::{Counters, Verdict},
};
use std::path::PathBuf;

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
/// Legs in the maps.
pub const LEGS: u32 = 64;
/// First ports of the two ranges, of 64 ports each.
pub const PORTS: (u16, u16) = (30_000, 40_000);

/// `BPF_PROG_TEST_RUN` lets packets arrive by the loopback interface.
const INGRESS: u32 = 1;
const MAC_TERMINAL: [u8; 6] = [2, 0, 0, 0, 0, 1];
const MAC_RELAY: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// The loaded program and its maps.
pub struct World {
    ebpf: Ebpf,
    legs: Array<MapData, Leg>,
    states: Array<MapData, LegState>,
    locals: Array<MapData, Local>,
    hops: Array<MapData, NextHop>,
    counters: PerCpuArray<MapData, Counters>,
    events: RingBuf<MapData>,
    // The program forgets devices whose map is gone.
    _devices: DevMap<MapData>,
    seed: u32,
}

fn seed() -> Option<u32> {
    locals::find_seed(&[ACCESS, CORE].map(|address| Address::from_bytes(mapped(address)).fold()))
}

fn slot(address: [u8; 4], seed: u32) -> u32 {
    locals::slot(Address::from_bytes(mapped(address)).fold(), seed)
}

/// The slot in `LOCALS` of one of the relay's addresses.
pub fn local_slot(address: [u8; 4]) -> u16 {
    slot(address, seed().unwrap_or_default()) as u16
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
    /// Loads the program and sets the call up, nothing latched yet.
    pub fn new() -> Result<Self> {
        let path = object("latch");
        let object = std::fs::read(&path)
            .with_context(|| format!("reading {}: build it with `cargo xtask build`", path.display()))?;
        let seed = seed().context("two addresses have a seed")?;
        let mut ebpf = EbpfLoader::new()
            .override_global("LOCALS_SEED", &seed, true)
            .map_max_entries("LEGS", LEGS)
            .map_max_entries("LEG_STATE", LEGS)
            .load(&object)?;
        let program: &mut Xdp = ebpf.program_mut("latch").context("program `latch`")?.try_into()?;
        program.load()?;

        let mut take = |name: &str| ebpf.take_map(name).with_context(|| format!("map {name}"));
        let mut world = Self {
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
            seed,
            ebpf,
        };
        let ranges = [(ACCESS, PORTS.0, 0), (CORE, PORTS.1, LEGS / 2)];
        for (address, port_base, first_leg) in ranges {
            let local = Local {
                address: mapped(address),
                port_base,
                ports: LEGS as u16,
                first_leg,
                interface: INGRESS,
                vlan: [0; 2],
            };
            world.locals.set(slot(address, seed), local, 0)?;
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
        world.hop(
            HOP_CORE,
            NextHop {
                interface: INGRESS + 1,
                destination_mac: [2, 0, 0, 9, 0, 1],
                source_mac: [2, 0, 0, 9, 0, 2],
                ..neighbour
            },
        )?;
        world.hop(HOP_LOCAL, NextHop { kind: next_hop_kind::LOCAL, ..NextHop::default() })?;
        world.hop(HOP_NO_DEVICE, NextHop { interface: INGRESS + 1, device: 1, ..neighbour })?;
        world.leg(A, leg_a())?;
        world.leg(B, leg_b())?;
        Ok(world)
    }

    /// Makes packets to a media address expected by another interface than the one they arrive by.
    pub fn move_local(&mut self, address: [u8; 4]) -> Result<()> {
        let slot = slot(address, self.seed);
        let local = self.locals.get(&slot, 0)?;
        Ok(self.locals.set(slot, Local { interface: INGRESS + 1, ..local }, 0)?)
    }

    /// Writes an entry of `LEGS`.
    pub fn leg(&mut self, index: u32, leg: Leg) -> Result<()> {
        Ok(self.legs.set(index, leg, 0)?)
    }

    /// Reads an entry of `LEG_STATE`.
    pub fn state(&self, index: u32) -> Result<LegState> {
        Ok(self.states.get(&index, 0)?)
    }

    /// Writes an entry of `LEG_STATE`, which is otherwise the program's.
    pub fn set_state(&mut self, index: u32, state: LegState) -> Result<()> {
        Ok(self.states.set(index, state, 0)?)
    }

    /// Writes an entry of `NEXT_HOPS`.
    pub fn hop(&mut self, index: u16, hop: NextHop) -> Result<()> {
        Ok(self.hops.set(index.into(), hop, 0)?)
    }

    /// Packets by verdict so far, in the order of [`Verdict::ALL`].
    pub fn counts(&self) -> Result<Vec<u64>> {
        let mut sums = vec![0; Verdict::ALL.len()];
        for counters in self.counters.get(&0, 0)?.iter() {
            for (sum, (_, count)) in sums.iter_mut().zip(counters.named()) {
                *sum += count;
            }
        }
        Ok(sums)
    }

    /// The latch events since the last call.
    pub fn events(&mut self) -> Vec<LatchEvent> {
        let mut events = Vec::new();
        while let Some(item) = self.events.next() {
            assert_eq!(item.len(), size_of::<LatchEvent>());
            // SAFETY: the item is as long as the struct, which is made of integers without padding.
            events.push(unsafe { item.as_ptr().cast::<LatchEvent>().read_unaligned() });
        }
        events
    }

    /// The program itself, for runs of one's own.
    pub fn program(&self) -> Result<&Xdp> {
        Ok(self.ebpf.program("latch").context("program `latch`")?.try_into()?)
    }

    /// Lets one frame arrive.
    pub fn run(&self, frame: &[u8]) -> Result<Outcome> {
        run(self.program()?, frame)
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

/// A state in which nothing was counted yet.
pub fn latched(rtp: Component, rtcp: RtcpComponent) -> LegState {
    LegState { rtp, rtcp, ..LegState::default() }
}

/// An Ethernet frame with a UDP datagram.
#[derive(Clone, Debug)]
pub struct Packet {
    /// Destination and source MAC address.
    pub macs: [[u8; 6]; 2],
    /// Source address and port.
    pub source: ([u8; 4], u16),
    /// Destination address and port.
    pub destination: ([u8; 4], u16),
    /// Time to live.
    pub ttl: u8,
    /// Type of service, which the relay leaves alone.
    pub tos: u8,
    /// UDP payload.
    pub payload: Vec<u8>,
    /// Whether the UDP checksum is computed, not zero.
    pub checksum: bool,
}

impl Packet {
    /// RTP, 172 bytes, as it arrives.
    pub fn rtp(source: ([u8; 4], u16), destination: ([u8; 4], u16)) -> Self {
        let mut payload = vec![0x80, 0, 0, 17, 0, 0, 0, 160, 0xca, 0xfe, 0xba, 0xbe];
        payload.extend((0..160).map(|n| n as u8));
        Self { macs: [MAC_RELAY, MAC_TERMINAL], source, destination, ttl: 64, tos: 0xb8, payload, checksum: true }
    }

    /// An RTCP receiver report, as it arrives.
    pub fn rtcp(source: ([u8; 4], u16), destination: ([u8; 4], u16)) -> Self {
        let mut payload = vec![0x81, 201, 0, 7];
        payload.extend((0..28).map(|n| n as u8));
        Self { payload, ..Self::rtp(source, destination) }
    }

    /// The same with another payload type.
    pub fn payload_type(mut self, payload_type: u8) -> Self {
        self.payload[1] = payload_type;
        self
    }

    /// The same as it leaves: by a next hop, from and to other addresses, one hop on.
    pub fn relayed(&self, by: u16, source: ([u8; 4], u16), destination: ([u8; 4], u16)) -> Self {
        let macs = match by {
            HOP_CORE => [[2, 0, 0, 9, 0, 1], [2, 0, 0, 9, 0, 2]],
            _ => [MAC_TERMINAL, MAC_RELAY],
        };
        Self { macs, source, destination, ttl: self.ttl.wrapping_sub(1), ..self.clone() }
    }

    /// IP total length, bytes.
    pub fn octets(&self) -> u64 {
        28 + self.payload.len() as u64
    }

    /// Its bytes, checksums computed in full.
    pub fn frame(&self) -> Vec<u8> {
        let udp_length = 8 + self.payload.len() as u16;
        let mut udp = Vec::new();
        udp.extend(self.source.1.to_be_bytes());
        udp.extend(self.destination.1.to_be_bytes());
        udp.extend(udp_length.to_be_bytes());
        udp.extend([0, 0]);
        udp.extend(&self.payload);
        if self.checksum {
            // RFC 768: over a pseudo header too.
            let mut covered = [self.source.0, self.destination.0].concat();
            covered.extend([0, 17]);
            covered.extend(udp_length.to_be_bytes());
            covered.extend(&udp);
            let sum = match checksum::full(&covered) {
                0 => 0xffff,
                sum => sum,
            };
            udp[6..8].copy_from_slice(&sum.to_be_bytes());
        }
        let mut ip = vec![0x45, self.tos];
        ip.extend((20 + udp_length).to_be_bytes());
        ip.extend([0x12, 0x34, 0x40, 0, self.ttl, 17, 0, 0]);
        ip.extend(self.source.0);
        ip.extend(self.destination.0);
        let sum = checksum::full(&ip);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        [self.macs.concat(), vec![0x08, 0x00], ip, udp].concat()
    }
}
