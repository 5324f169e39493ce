//! What feeds a bench's chain and what counts at its end: two of the testbed's small XDP programs.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use aya::maps::xdp::DevMap;
use aya::maps::{Array, MapData, PerCpuArray, ProgramArray};
use aya::programs::xdp::XdpMode;
use aya::programs::{ProgramFd, TestRun as _, TestRunAttrs, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};

use crate::netns::Namespace;
use crate::pass::object;

/// Frames that the kernel makes before it lets the receiving interface work on them.
const BATCH: u32 = 64;
/// Bytes of a frame that the template covers: Ethernet, IPv4, UDP and RTP headers.
const HEADERS: usize = 14 + 20 + 8 + 12;

/// Makes packets by `BPF_PROG_TEST_RUN` in its live mode: the kernel itself sends frames, without a socket and a copy,
/// on the CPU of the calling thread. What follows, up to a queue that another thread reads, happens on that CPU too.
pub struct Generator {
    ebpf: Ebpf,
    frame: Vec<u8>,
    pace: Array<MapData, u64>,
    generated: Array<MapData, [u64; 4]>,
    /// Kept, or the program forgets its device.
    _devices: DevMap<MapData>,
}

impl Generator {
    /// Will send streams out of `interface`, a packet of each in turn, at most 1024. The first packet of each is
    /// `frame` with these source and destination ports instead of its own.
    pub fn new(namespace: &Namespace, interface: &str, frame: Vec<u8>, streams: &[(u16, u16)]) -> Result<Self> {
        let mut ebpf = EbpfLoader::new()
            .override_global("STREAMS", &u32::try_from(streams.len())?, true)
            .override_global("TEMPLATE", &template(&frame)?, true)
            .load_file(object())
            .context("load the testbed's XDP programs")?;
        program(&mut ebpf, "generate")?.load()?;
        let index = namespace.index(interface)?;
        let mut devices = DevMap::try_from(ebpf.take_map("DEVICES").context("no map DEVICES")?)?;
        namespace.enter(|| Ok(devices.set(1, index, None, 0)?))?;
        let pace = Array::try_from(ebpf.take_map("PACE").context("no map PACE")?)?;
        let generated = Array::try_from(ebpf.take_map("GENERATED").context("no map GENERATED")?)?;
        let mut generator = Self { ebpf, frame, pace, generated, _devices: devices };
        generator.set_streams(streams)?;
        Ok(generator)
    }

    /// Gives the streams, as many as there were, other ports.
    pub fn set_streams(&mut self, streams: &[(u16, u16)]) -> Result<()> {
        let mut ports = Array::try_from(self.ebpf.map_mut("PORTS").context("no map PORTS")?)?;
        for (index, (source, destination)) in (0..).zip(streams) {
            ports.set(index, u32::from(source.to_be()) | u32::from(destination.to_be()) << 16, 0)?;
        }
        Ok(())
    }

    /// Works through `frames`. With an interval of 0 each is a packet, sent as fast as the chain takes it; else one is
    /// sent every `interval_ns`, and the frames between, which go nowhere, only pass the time.
    pub fn run(&mut self, frames: u32, interval_ns: u64) -> Result<Sent> {
        self.pace.set(0, interval_ns, 0)?;
        let before = self.packets()?;
        let Some(program) = self.ebpf.program("generate") else { bail!("no program generate") };
        let program: &Xdp = program.try_into()?;
        let result = program.test_run(TestRunOptions {
            data_in: Some(&self.frame),
            repeat: frames,
            attrs: TestRunAttrs::new().xdp_live_frames(BATCH.min(frames)),
            ..TestRunOptions::new()
        })?;
        // The kernel's own time, a frame: around it, the call makes and removes a memory pool, which takes longer than
        // many a burst.
        Ok(Sent { packets: self.packets()? - before, time: result.duration * frames })
    }

    fn packets(&self) -> Result<u64> {
        let [packets, ..] = self.generated.get(&0, 0)?;
        Ok(packets)
    }
}

/// What a generator did.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    /// Packets sent.
    pub packets: u64,
    /// In this time; what followed on the same core is included.
    pub time: Duration,
}

/// Counts and drops, by an XDP program, what arrives at an interface.
pub struct Sink {
    _program: Ebpf,
    dropped: PerCpuArray<MapData, [u64; 2]>,
}

impl Sink {
    /// Begins to count; from now on nothing else receives there.
    pub fn attach(namespace: &Namespace, interface: &str) -> Result<Self> {
        let mut ebpf = Ebpf::load_file(object()).context("load the testbed's XDP programs")?;
        attach(program(&mut ebpf, "count_drop")?, namespace, interface)?;
        let dropped = PerCpuArray::try_from(ebpf.take_map("DROPPED").context("no map DROPPED")?)?;
        Ok(Self { _program: ebpf, dropped })
    }

    /// UDP packets so far.
    pub fn packets(&self) -> Result<u64> {
        Ok(self.dropped.get(&0, 0)?.iter().map(|[udp, _]| udp).sum())
    }
}

/// The least that an XDP program can do to forward, in the place of the relay: it writes both hardware addresses and
/// redirects.
pub struct BareRedirect {
    ebpf: Ebpf,
    _devices: DevMap<MapData>,
}

impl BareRedirect {
    /// Forwards all that arrives at `from` out of `to`, with these destination and source hardware addresses.
    pub fn attach(namespace: &Namespace, from: &str, to: &str, macs: [u8; 12]) -> Result<Self> {
        let mut ebpf = EbpfLoader::new()
            .override_global("BARE_MACS", &macs, true)
            .load_file(object())
            .context("load the testbed's XDP programs")?;
        let index = namespace.index(to)?;
        let mut devices = DevMap::try_from(ebpf.take_map("DEVICES").context("no map DEVICES")?)?;
        namespace.enter(|| Ok(devices.set(0, index, None, 0)?))?;
        attach(program(&mut ebpf, "bare_redirect")?, namespace, from)?;
        Ok(Self { ebpf, _devices: devices })
    }

    /// The program.
    pub fn program(&self) -> Result<&Xdp> {
        Ok(self.ebpf.program("bare_redirect").context("no program bare_redirect")?.try_into()?)
    }
}

/// A program that does nothing: what `test_run` itself takes.
pub struct Empty {
    ebpf: Ebpf,
}

impl Empty {
    /// As [`Restore::new`].
    pub fn new(namespace: &Namespace, idle: &str) -> Result<Self> {
        let mut ebpf = Ebpf::load_file(object()).context("load the testbed's XDP programs")?;
        attach(program(&mut ebpf, "pass")?, namespace, idle)?;
        Ok(Self { ebpf })
    }

    /// The program.
    pub fn program(&self) -> Result<&Xdp> {
        Ok(self.ebpf.program("pass").context("no program pass")?.try_into()?)
    }
}

/// Makes each frame of a `test_run` the same packet again and jumps to another program, which is so given the packet
/// however often it changed it.
pub struct Restore {
    ebpf: Ebpf,
    programs: ProgramArray<MapData>,
    frame: Vec<u8>,
}

impl Restore {
    /// Will make each frame `frame`. The program is attached to an interface at which nothing arrives: the kernel calls
    /// attached programs directly.
    pub fn new(namespace: &Namespace, idle: &str, frame: Vec<u8>) -> Result<Self> {
        let mut ebpf = EbpfLoader::new()
            .override_global("TEMPLATE", &template(&frame)?, true)
            .load_file(object())
            .context("load the testbed's XDP programs")?;
        let programs = ProgramArray::try_from(ebpf.take_map("PROGRAMS").context("no map PROGRAMS")?)?;
        attach(program(&mut ebpf, "restore")?, namespace, idle)?;
        Ok(Self { ebpf, programs, frame })
    }

    /// How many nanoseconds `next` and this program together take, a packet; an error where it does not return
    /// `action`.
    pub fn time(&mut self, next: &ProgramFd, ingress: u32, packets: u32, action: u32) -> Result<f64> {
        self.programs.set(0, next, 0)?;
        let program: &Xdp = self.ebpf.program("restore").context("no program restore")?.try_into()?;
        time(program, &self.frame, ingress, packets, action)
    }
}

/// How many nanoseconds `program` takes a packet, called `packets` times with what it made of `frame` before; an error
/// where it does not return `action` in the end. The frame seems to arrive by the interface with the index `ingress` in
/// the namespace of the calling thread.
pub fn time(program: &Xdp, frame: &[u8], ingress: u32, packets: u32, action: u32) -> Result<f64> {
    // The kernel's `struct xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
    let context: Vec<u8> = [0, frame.len() as u32, 0, ingress, 0, 0].into_iter().flat_map(u32::to_ne_bytes).collect();
    let options = || TestRunOptions { data_in: Some(frame), ctx_in: Some(&context), ..TestRunOptions::new() };
    // The kernel's own figure is in whole nanoseconds.
    let once = Instant::now();
    program.test_run(options())?;
    let once = once.elapsed();
    let start = Instant::now();
    let result = program.test_run(TestRunOptions { repeat: packets, ..options() })?;
    let all = start.elapsed();
    ensure!(result.return_value == action, "the program returned {}, not {action}", result.return_value);
    Ok(all.saturating_sub(once).as_secs_f64() * 1e9 / f64::from(packets.max(1)))
}

/// The frame's headers as the programs' template: after the Ethernet header a new word begins.
fn template(frame: &[u8]) -> Result<[u32; 14]> {
    let headers = frame.get(..HEADERS).context("a frame without headers")?;
    let (ethernet, rest) = headers.split_at(14);
    let bytes = [ethernet, &[0, 0], rest].concat();
    let words: Vec<u32> = bytes.as_chunks().0.iter().map(|word| u32::from_ne_bytes(*word)).collect();
    words.try_into().ok().context("a template of 14 words")
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program = ebpf.program_mut(name);
    Ok(program.with_context(|| format!("{} has no program {name}", object().display()))?.try_into()?)
}

fn attach(program: &mut Xdp, namespace: &Namespace, interface: &str) -> Result<()> {
    program.load()?;
    namespace
        .enter(|| Ok(program.attach(interface, XdpMode::Driver).map(drop)?))
        .with_context(|| format!("attach to {interface} in {}", namespace.name()))
}
