//! The XDP program `latch`: the media relay in the kernel.
//!
//! A frame goes through three rooms, and every way out of them is a [`Verdict`]:
//!
//! ```text
//! parse  →  decide  ─────────────→  apply
//! bytes     leg, source, way out    bytes
//!             └ learn: no source is latched yet
//! ```
//!
//! - [`parse`] finds the relay's datagrams among everything that arrives and reads what the others need.
//! - [`decide`] says whether the source may send there and where its packet goes; [`learn`] is its cold half.
//! - [`measure`] holds the rate of packets against what is allowed, and notes how RTP arrives.
//! - [`apply`] rewrites the bytes, once.
//! - [`frame`] and [`maps`] hold all the `unsafe` there is: the one reads and writes frames, the other maps.
//!
//! The program writes no log (`aya-log` would cost a ring buffer entry a line): what it has to say are the counters and
//! the latch events.
//!
//! The verdict is counted and turned into the kernel's action here and nowhere else.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod apply;
mod decide;
mod frame;
mod learn;
mod maps;
mod measure;
mod note;
mod parse;

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};
use frame::Frame;
use proxy_common::verdict::{Action, Verdict};

/// The program.
#[xdp]
fn latch(context: XdpContext) -> u32 {
    let verdict = match relay(&context) {
        Ok(verdict) | Err(verdict) => verdict,
    };
    maps::count(verdict);
    match verdict.action() {
        Action::Pass => xdp_action::XDP_PASS,
        Action::Drop => xdp_action::XDP_DROP,
        Action::Transmit => xdp_action::XDP_TX,
        Action::Redirect => xdp_action::XDP_REDIRECT,
    }
}

#[inline(always)]
fn relay(context: &XdpContext) -> Result<Verdict, Verdict> {
    let ingress = context.ingress_ifindex() as u32;
    let arrival = parse::parse(&Frame::of(context), ingress)?;
    let route = decide::decide(arrival.datagram, arrival.leg, ingress)?;
    apply::apply(context, &arrival, &route)?;
    Ok(route.verdict)
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
