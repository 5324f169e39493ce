//! What the XDP program and user space share, without `std`.
//!
//! - [`layout`]: the values of the BPF maps, byte for byte.
//! - [`locals`]: which of the host's addresses the relay answers on, and how a packet finds it.
//! - [`latch`]: which source a leg accepts and learns.
//! - [`media`]: what a datagram on a relay port is.
//! - [`checksum`]: incremental Internet checksums.
//! - [`address`]: IP addresses as two words;
//! - [`signalling`]: which datagrams reach a signalling socket;
//! - [`verdict`]: every way a packet can leave the program, with its counter and its action.
//!
//! Everything here is pure: it is tested on the host and runs in the kernel unchanged. Code must compile to BPF
//! without a reachable panic: no slice index, no division by a variable.
#![no_std]

#[cfg(test)]
extern crate std;

pub mod address;
pub mod checksum;
mod counters;
pub mod latch;
pub mod layout;
pub mod locals;
pub mod media;
pub mod signalling;
pub mod verdict;
