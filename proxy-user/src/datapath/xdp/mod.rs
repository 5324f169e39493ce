//! The relay in the kernel: the XDP program, its maps, and what keeps them as the engine wants them.
//!
//! - `object` and `loader`: the program from its object file into the kernel and onto the interfaces;
//! - `control`: streams, their counters and their silence;
//! - `legs`: what stands in `LEGS` and `LOCALS`; `mapped`: the shared memory it stands in;
//! - `next_hops`: ways out of the host; `clock`: the program's time.

mod clock;
mod control;
mod legs;
mod mapped;
mod next_hops;
