//! The XDP program `latch`: the media relay in the kernel.
//!
//! - [`relay`] is what becomes of a frame;
//! - [`frame`], [`maps`] and [`memory`] are the kernel's side of it.
//!
//! The program writes no log (`aya-log` would cost a ring buffer entry a line): what it has to say are the counters and
//! the latch events.
//!
//! The verdict is turned into the kernel's action here and nowhere else.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod frame;
mod maps;
mod memory;
mod relay;

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};
use proxy_common::verdict::Action;

/// The program.
#[xdp]
fn latch(context: XdpContext) -> u32 {
    match relay::relay(&context, context.ingress_ifindex() as u32).action() {
        Action::Pass => xdp_action::XDP_PASS,
        Action::Drop => xdp_action::XDP_DROP,
        Action::Transmit => xdp_action::XDP_TX,
        Action::Redirect => xdp_action::XDP_REDIRECT,
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
