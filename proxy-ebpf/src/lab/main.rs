//! Small XDP programs of the lab and the benches.
//!
//! - `pass`: for the far end of a veth, which takes XDP frames only where a program is attached.
//! - `bare_redirect`: the least a forwarding program can do, the measure for Latch.
//! - `count_drop`: the end of a bench's chain.
//! - `generate`: makes each of `test_run`'s live frames a packet of one of many flows and sends it off.
#![no_std]
#![no_main]

use aya_ebpf::{
    Global,
    bindings::xdp_action,
    btf_maps::{DevMap, PerCpuArray},
    macros::{btf_map, xdp},
    programs::XdpContext,
};
use core::mem::offset_of;
use network_types::{
    eth::{EthHdr, EtherType},
    ip::{IpProto, Ipv4Hdr},
    udp::UdpHdr,
};

/// Where `bare_redirect` (slot 0) and `generate` (slot 1) send frames.
#[btf_map]
static DEVICES: DevMap<2> = DevMap::new();
/// What `count_drop` dropped.
#[btf_map]
static DROPPED: PerCpuArray<Dropped, 1> = PerCpuArray::new();
/// How many packets `generate` has made on each CPU.
#[btf_map]
static GENERATED: PerCpuArray<Generated, 1> = PerCpuArray::new();

/// Destination and source MAC address that `bare_redirect` writes.
#[unsafe(no_mangle)]
static BARE_MACS: Global<[u8; 12]> = Global::new([0; 12]);
/// The headers that `generate` writes: Ethernet, IPv4, UDP, and 12 bytes of RTP.
#[unsafe(no_mangle)]
static TEMPLATE: Global<[u8; TEMPLATE_LENGTH]> = Global::new([0; TEMPLATE_LENGTH]);
/// How many flows `generate` makes; flow `n` has `n` times the strides added to the ports of the template.
#[unsafe(no_mangle)]
static FLOWS: Global<u32> = Global::new(1);
/// Added to the source port from one flow to the next.
#[unsafe(no_mangle)]
static SOURCE_STRIDE: Global<u16> = Global::new(1);
/// Added to the destination port from one flow to the next.
#[unsafe(no_mangle)]
static DESTINATION_STRIDE: Global<u16> = Global::new(0);

const UDP: usize = EthHdr::LEN + Ipv4Hdr::LEN;
const PAYLOAD: usize = UDP + UdpHdr::LEN;
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
    /// The next flow.
    flow: u64,
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
    // SAFETY: the frame has these bytes, as `bytes` saw.
    unsafe { frame.cast::<[u8; 12]>().write(BARE_MACS.load()) };
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

/// Writes a whole packet over whatever the frame held and redirects it.
#[xdp]
fn generate(context: XdpContext) -> u32 {
    let Some(frame) = bytes::<TEMPLATE_LENGTH>(&context) else { return xdp_action::XDP_DROP };
    let Some(generated) = GENERATED.get_ptr_mut(0) else { return xdp_action::XDP_DROP };
    // SAFETY: the entry is this CPU's own, and one XDP program at a time runs on a CPU.
    let flow = unsafe {
        let flow = (*generated).flow;
        (*generated).packets += 1;
        (*generated).flow = if flow + 1 >= FLOWS.load() as u64 { 0 } else { flow + 1 };
        flow as u16
    };
    // SAFETY: the frame has these bytes, as `bytes` saw, and every offset below is within them.
    unsafe {
        frame.cast::<[u8; TEMPLATE_LENGTH]>().write(TEMPLATE.load());
        raise(frame.add(UDP + offset_of!(UdpHdr, src)), flow.wrapping_mul(SOURCE_STRIDE.load()));
        raise(frame.add(UDP + offset_of!(UdpHdr, dst)), flow.wrapping_mul(DESTINATION_STRIDE.load()));
    }
    DEVICES.redirect(1, 0).unwrap_or(xdp_action::XDP_DROP)
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

/// Adds to a 16-bit field in network order. The template's UDP checksum must be 0.
///
/// # Safety
///
/// Two bytes at `field` are in the frame.
#[inline(always)]
unsafe fn raise(field: *mut u8, by: u16) {
    let field = field.cast::<[u8; 2]>();
    // SAFETY: the caller's promise.
    unsafe { field.write(u16::from_be_bytes(field.read()).wrapping_add(by).to_be_bytes()) }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 18] = *b"MIT OR Apache-2.0\0";
