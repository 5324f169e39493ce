//! Small programs of the testbed and the benches, all XDP except those in [`tags`].
//!
//! - `pass`: for the far end of a veth, which takes XDP frames only where a program is attached.
//! - `bare_redirect`: the least a forwarding program can do, the measure for Latch.
//! - `count_drop`: the end of a bench's chain.
//! - `generate`: turns each of `test_run`'s live frames into the next packet of one of many RTP streams and sends it.
//! - `restore`: makes the frame the template's packet again and jumps to another program, so that `test_run` can time
//!   one that changes its packet.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod tags;

use aya_ebpf::{
    Global,
    bindings::xdp_action,
    btf_maps::{Array, DevMap, PerCpuArray, ProgramArray},
    helpers::bpf_ktime_get_ns,
    macros::{btf_map, xdp},
    programs::XdpContext,
};
use core::{arch::asm, mem::offset_of};
use network_types::{
    eth::{EthHdr, EtherType},
    ip::{IpProto, Ipv4Hdr},
    udp::UdpHdr,
};
use proxy_common::checksum::Delta;

/// Where `bare_redirect` (slot 0) and `generate` (slot 1) send frames.
#[btf_map]
static DEVICES: DevMap<2> = DevMap::new();
/// What `count_drop` dropped.
#[btf_map]
static DROPPED: PerCpuArray<Dropped, 1> = PerCpuArray::new();
/// What `generate` has made, on any CPU: one thread at a time runs it.
#[btf_map]
static GENERATED: Array<Generated, 1> = Array::new();

/// Nanoseconds from packet to packet of `generate`: it drops the frames between. 0: none.
#[btf_map]
static PACE: Array<u64, 1> = Array::new();
/// Source port and, above it, destination port of each stream that `generate` makes, in memory order.
#[btf_map]
static PORTS: Array<u32, 1024> = Array::new();
/// The program that `restore` jumps to (slot 0).
#[btf_map]
static PROGRAMS: ProgramArray<1> = ProgramArray::new();

/// Destination and source MAC address that `bare_redirect` writes, as words in memory order.
#[unsafe(no_mangle)]
static BARE_MACS: [Global<u32>; 3] = [const { Global::new(0) }; 3];
/// The headers that `generate` and `restore` write, as words in memory order: Ethernet (14 bytes, then 2 that are not
/// written), IPv4, UDP, and 12 bytes of RTP.
#[unsafe(no_mangle)]
static TEMPLATE: [Global<u32>; 14] = [const { Global::new(0) }; 14];
/// How many streams `generate` makes.
#[unsafe(no_mangle)]
static STREAMS: Global<u32> = Global::new(1);

const UDP: usize = EthHdr::LEN + Ipv4Hdr::LEN;
const PAYLOAD: usize = UDP + UdpHdr::LEN;
/// How many packets may be sent at once after a delay.
const LATE: u64 = 64;
/// From a packet to the next: 20 ms at 8 kHz.
const SAMPLES: u32 = 160;
const TEMPLATE_LENGTH: usize = PAYLOAD + 12;

/// Value of `DROPPED`.
#[repr(C)]
struct Dropped {
    /// IPv4 UDP packets.
    udp: u64,
    /// All other frames.
    other: u64,
}

/// Value of `GENERATED`.
#[repr(C)]
struct Generated {
    /// Packets made.
    packets: u64,
    /// Packets made of the next stream.
    round: u64,
    /// The next stream.
    stream: u64,
    /// When the next packet is due, where there is a pace.
    due_ns: u64,
}

/// One store into a frame whose length was checked. Written out, because the compiler stores byte by byte where it does
/// not know an alignment.
macro_rules! put {
    ($size:literal, $frame:expr, $offset:literal, $value:expr) => {
        // SAFETY: `bytes` saw that the frame has at least these bytes, and BPF has no alignment that packets must keep.
        unsafe {
            asm!(
                concat!("*(", $size, " *)({frame} + ", $offset, ") = {value}"),
                frame = in(reg) $frame, value = in(reg) $value as u64, options(nostack),
            )
        }
    };
}

/// Passes everything.
#[xdp]
fn pass(_: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// Rewrites the MAC addresses and redirects.
#[xdp]
fn bare_redirect(context: XdpContext) -> u32 {
    let Some(frame) = bytes::<12>(&context) else { return xdp_action::XDP_DROP };
    put!("u32", frame, 0, BARE_MACS[0].load());
    put!("u32", frame, 4, BARE_MACS[1].load());
    put!("u32", frame, 8, BARE_MACS[2].load());
    DEVICES.redirect(0, 0).unwrap_or(xdp_action::XDP_DROP)
}

/// Counts and drops everything.
#[xdp]
fn count_drop(context: XdpContext) -> u32 {
    let Some(dropped) = DROPPED.get_ptr_mut(0) else { return xdp_action::XDP_DROP };
    // SAFETY: the entry is this CPU's own, and one XDP program at a time runs on a CPU.
    unsafe {
        if is_udp(&context) {
            (*dropped).udp += 1;
        } else {
            (*dropped).other += 1;
        }
    }
    xdp_action::XDP_DROP
}

/// Writes a whole packet over whatever the frame held, the next one of its stream, and redirects it.
#[xdp]
fn generate(context: XdpContext) -> u32 {
    let Some(frame) = bytes::<TEMPLATE_LENGTH>(&context) else { return xdp_action::XDP_DROP };
    let Some(generated) = GENERATED.get_ptr_mut(0) else { return xdp_action::XDP_DROP };
    // SAFETY: one thread at a time has the program run.
    let (number, stream) = unsafe {
        let Generated { packets, round, stream, due_ns } = *generated;
        if let Some(interval_ns) = PACE.get(0)
            && *interval_ns != 0
        {
            let now = bpf_ktime_get_ns();
            if now < due_ns {
                return xdp_action::XDP_DROP;
            }
            // A sender that is late catches up only a little.
            let behind = now - due_ns > LATE * *interval_ns;
            (*generated).due_ns = if behind { now } else { due_ns + *interval_ns };
        }
        (*generated).packets = packets + 1;
        let last = stream + 1 >= STREAMS.load() as u64;
        (*generated).stream = if last { 0 } else { stream + 1 };
        (*generated).round = if last { round + 1 } else { round };
        (round as u32, stream as u32)
    };
    let Some(new_ports) = PORTS.get(stream) else { return xdp_action::XDP_DROP };
    let new_ports = *new_ports;
    write_template(frame);

    // Checksum above the length; sequence number above the type. All in memory order, as checksums need it.
    let (ports, length_and_checksum) = (TEMPLATE[9].load(), TEMPLATE[10].load());
    let (types, timestamp) = (TEMPLATE[11].load(), TEMPLATE[12].load());
    let sequence = plus((types >> 16) as u16, number as u16);
    let new_timestamp = u32::from_be(timestamp).wrapping_add(number.wrapping_mul(SAMPLES)).to_be();
    let checksum = Delta::new()
        .pair(ports, new_ports)
        .word((types >> 16) as u16, sequence)
        .pair(timestamp, new_timestamp)
        .apply_udp((length_and_checksum >> 16) as u16);
    put!("u32", frame, 34, new_ports);
    put!("u16", frame, 40, checksum);
    put!("u16", frame, 44, sequence);
    put!("u32", frame, 46, new_timestamp);
    DEVICES.redirect(1, 0).unwrap_or(xdp_action::XDP_DROP)
}

/// Adds to a field in network order.
#[inline(always)]
fn plus(field: u16, by: u16) -> u16 {
    u16::from_be(field).wrapping_add(by).to_be()
}

/// Writes a whole packet over whatever the frame held and becomes the program in `PROGRAMS`; passes where there is
/// none.
#[xdp]
fn restore(context: XdpContext) -> u32 {
    let Some(frame) = bytes::<TEMPLATE_LENGTH>(&context) else { return xdp_action::XDP_DROP };
    write_template(frame);
    // SAFETY: nothing here waits to be dropped.
    unsafe { PROGRAMS.tail_call(&context, 0) };
    xdp_action::XDP_PASS
}

/// Writes the template's headers to a frame of at least as many bytes. Word by word, aligned with the fields: a program
/// that reads a field next gets it from one store, which CPUs forward fast.
#[inline(always)]
fn write_template(frame: *mut u8) {
    put!("u32", frame, 0, TEMPLATE[0].load());
    put!("u32", frame, 4, TEMPLATE[1].load());
    put!("u32", frame, 8, TEMPLATE[2].load());
    put!("u16", frame, 12, TEMPLATE[3].load());
    put!("u32", frame, 14, TEMPLATE[4].load());
    put!("u32", frame, 18, TEMPLATE[5].load());
    put!("u32", frame, 22, TEMPLATE[6].load());
    put!("u32", frame, 26, TEMPLATE[7].load());
    put!("u32", frame, 30, TEMPLATE[8].load());
    put!("u32", frame, 34, TEMPLATE[9].load());
    put!("u32", frame, 38, TEMPLATE[10].load());
    put!("u32", frame, 42, TEMPLATE[11].load());
    put!("u32", frame, 46, TEMPLATE[12].load());
    put!("u32", frame, 50, TEMPLATE[13].load());
}

/// The frame, if it has `N` bytes.
#[inline(always)]
fn bytes<const N: usize>(context: &XdpContext) -> Option<*mut u8> {
    (context.data() + N <= context.data_end()).then_some(context.data() as *mut u8)
}

#[inline(always)]
fn is_udp(context: &XdpContext) -> bool {
    let Some(frame) = bytes::<UDP>(context) else { return false };
    // SAFETY: the frame has these bytes, as `bytes` saw, and both offsets are within them.
    unsafe {
        frame.add(offset_of!(EthHdr, ether_type)).cast::<u16>().read_unaligned() == EtherType::Ipv4 as u16
            && frame.add(EthHdr::LEN + offset_of!(Ipv4Hdr, proto)).read() == IpProto::Udp as u8
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 18] = *b"MIT OR Apache-2.0\0";
