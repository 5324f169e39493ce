//! What keeps a relay in the state that the engine wants, be the relay in the kernel or in this process.
//!
//! - `streams`: streams, their counters and their silence; `restore`: taking them over from an earlier process;
//! - `indices`: what names their entries; `legs`: the contents of `LEGS` and `LOCALS`; `mapped`: the shared memory that
//!   holds them;
//! - `next_hops`: next hops, as the kernel reports them; `links`: the interfaces that packets leave by;
//! - `watch`: whether the interfaces are still there.

pub(super) mod indices;
pub(super) mod legs;
pub(super) mod links;
pub(super) mod mapped;
pub(super) mod next_hops;
mod restore;
pub(super) mod streams;
pub(super) mod watch;
