//! The socket filter `signalling`: which datagrams reach a signalling socket (`proxy_common::signalling`).
//!
//! It runs where the kernel is about to queue a datagram, after the checks of IP and UDP, whatever relays the media.
//! Every socket has maps of its own.
#![no_std]
#![no_main]

use aya_ebpf::{
    EbpfContext as _, Global,
    bindings::bpf_hdr_start_off::BPF_HDR_START_NET,
    btf_maps::{Array, HashMap, LruHashMap, PerCpuArray},
    helpers::{bpf_ktime_get_ns, generated::bpf_skb_load_bytes_relative},
    macros::{btf_map, socket_filter},
    programs::SkBuffContext,
};
use core::mem::MaybeUninit;
use proxy_common::{
    locals::mapped,
    signalling::{Bucket, Counters, Passage, Prefix, Remote},
};

/// `BPF_F_NO_PREALLOC`: entries take memory when they are created. Only user space makes them.
const ON_DEMAND: usize = 1;
/// Returned for a datagram that passes: none of it is cut off.
const WHOLE: i64 = 0xffff_ffff;

// Sizes are defaults; the loader sets them.
#[btf_map]
static SIG_KNOWN: HashMap<Remote, u8, 65_536, ON_DEMAND> = HashMap::new();
#[btf_map]
static SIG_SOURCES: LruHashMap<Prefix, Bucket, 65_536> = LruHashMap::new();
#[btf_map]
static SIG_NETWORKS: LruHashMap<Prefix, Bucket, 65_536> = LruHashMap::new();
#[btf_map]
static SIG_STRANGERS: Array<Bucket, 1> = Array::new();
#[btf_map]
static SIG_COUNTERS: PerCpuArray<Counters, 1> = PerCpuArray::new();

/// Time from one datagram of a source to the next, ns; set by the loader, as those below.
#[unsafe(no_mangle)]
static SOURCE_INTERVAL_NS: Global<u64> = Global::new(1);
/// Of a network.
#[unsafe(no_mangle)]
static NETWORK_INTERVAL_NS: Global<u64> = Global::new(1);
/// Of all strangers.
#[unsafe(no_mangle)]
static STRANGERS_INTERVAL_NS: Global<u64> = Global::new(1);

/// The program.
#[socket_filter]
fn signalling(context: SkBuffContext) -> i64 {
    let passage = remote(&context).map_or(Passage::Malformed, |remote| passage(&remote));
    if let Some(counters) = SIG_COUNTERS.get_ptr_mut(0) {
        // SAFETY: the entry is this CPU's own, and `Counters` is one u64 for each passage in the order of their numbers
        // (tested beside it).
        unsafe { *counters.cast::<u64>().add(passage as usize) += 1 }
    }
    if passage.passes() { WHOLE } else { 0 }
}

/// The source address in the datagram. A socket's filter sees it from its UDP header on.
#[inline(always)]
fn remote(context: &SkBuffContext) -> Option<Remote> {
    let port = u16::from_be_bytes(context.load::<[u8; 2]>(0).ok()?);
    let address = match network_header::<1>(context, 0)?[0] >> 4 {
        4 => mapped(network_header::<4>(context, 12)?),
        6 => network_header::<16>(context, 8)?,
        _ => return None,
    };
    Some(Remote { address, port, reserved: 0 })
}

/// Bytes of the IP header.
#[inline(always)]
fn network_header<const N: usize>(context: &SkBuffContext, offset: u32) -> Option<[u8; N]> {
    let mut bytes = MaybeUninit::<[u8; N]>::uninit();
    // SAFETY: the helper writes N bytes to where it is told, or says that it did not.
    let read = unsafe {
        let to = bytes.as_mut_ptr().cast();
        bpf_skb_load_bytes_relative(context.as_ptr().cast(), offset, to, N as u32, BPF_HDR_START_NET)
    };
    // SAFETY: it did.
    (read == 0).then(|| unsafe { bytes.assume_init() })
}

#[inline(always)]
fn passage(remote: &Remote) -> Passage {
    if SIG_KNOWN.get_ptr(remote).is_some() {
        return Passage::Known;
    }
    // SAFETY: the helper takes nothing and only reads a clock.
    let now = unsafe { bpf_ktime_get_ns() };
    let (source, network) = (Prefix::source(remote.address), Prefix::network(remote.address));
    let (of_source, of_network) = (SIG_SOURCES.get_ptr_mut(&source), SIG_NETWORKS.get_ptr_mut(&network));
    let Some(of_strangers) = SIG_STRANGERS.get_ptr_mut(0) else { return Passage::Malformed };
    // Only what passes counts: what is dropped takes nothing from others.
    if !read(of_source).admits(now) {
        return Passage::OverSource;
    }
    if !read(of_network).admits(now) {
        return Passage::OverNetwork;
    }
    if !read(Some(of_strangers)).admits(now) {
        return Passage::OverStrangers;
    }
    count(&SIG_SOURCES, &source, of_source, SOURCE_INTERVAL_NS.load(), now);
    count(&SIG_NETWORKS, &network, of_network, NETWORK_INTERVAL_NS.load(), now);
    write(of_strangers, read(Some(of_strangers)).after_one(STRANGERS_INTERVAL_NS.load(), now));
    Passage::Stranger
}

/// Who is not in a map has sent nothing.
#[inline(always)]
fn read(bucket: Option<*mut Bucket>) -> Bucket {
    // SAFETY: an entry of a map: one aligned word, which others may write at the same time.
    bucket.map_or(Bucket::default(), |bucket| unsafe { bucket.read_volatile() })
}

#[inline(always)]
fn write(bucket: *mut Bucket, value: Bucket) {
    // SAFETY: the same.
    unsafe { bucket.write_volatile(value) }
}

#[inline(always)]
fn count<const N: usize>(
    map: &LruHashMap<Prefix, Bucket, N>,
    prefix: &Prefix,
    bucket: Option<*mut Bucket>,
    interval_ns: u64,
    now_ns: u64,
) {
    let after = read(bucket).after_one(interval_ns, now_ns);
    match bucket {
        Some(bucket) => write(bucket, after),
        // If there is no room at this moment, it is not counted.
        None => drop(map.insert(prefix, after, 0)),
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Nothing here can panic: a program that could would not pass the verifier.
    loop {}
}

/// What the kernel asks before it lends a program its GPL helpers; this one uses none.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 18] = *b"MIT OR Apache-2.0\0";
