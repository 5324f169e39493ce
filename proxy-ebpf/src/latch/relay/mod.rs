//! The relay: what happens to a frame, in the kernel and in user space.
//!
//! A frame goes through three modules, and every way out of them is a [`Verdict`]:
//!
//! ```text
//! parse  →  decide  ─────────────→  apply
//! bytes     leg, source, way out    bytes
//!             └ learn: no source is latched yet
//! ```
//!
//! - [`parse`] finds the relay's datagrams among everything that arrives and reads what the others need.
//! - [`decide`] says whether the source may send there and where its packet goes; [`learn`] is its cold half.
//! - [`measure`] compares the rate of packets with what is allowed, and measures how RTP arrives.
//! - [`apply`] rewrites the bytes, once.
//! - [`packet_scratch`] is what is known about the datagram so far; [`entries`] are the maps' entries, field by field.
//!
//! These files are compiled twice: into the XDP program, and into user space for hosts where BPF is refused. Each
//! platform brings, beside this module, `frame` (a frame's bytes), `memory` (a word of a map entry) and `maps` (where
//! entries are, the clock, counters, events), which contain the rest of the `unsafe` code.

use super::{frame, maps, memory};
use frame::{Context, Frame};
use proxy_common::verdict::Verdict;

mod apply;
mod decide;
mod entries;
mod learn;
mod measure;
pub(crate) mod packet_scratch;
mod parse;

/// Handles the frame that arrived by the interface `ingress`, counts its verdict, and returns it.
#[inline(always)]
pub(crate) fn relay(context: &Context, ingress: u32) -> Verdict {
    let verdict = match handle(context, ingress) {
        Ok(verdict) | Err(verdict) => verdict,
    };
    maps::count(verdict);
    verdict
}

#[inline(always)]
fn handle(context: &Context, ingress: u32) -> Result<Verdict, Verdict> {
    let arrival = parse::parse(&Frame::of(context), ingress)?;
    let route = decide::decide(arrival.datagram, arrival.leg, ingress)?;
    apply::apply(context, &arrival, &route)?;
    Ok(route.verdict)
}
