//! Latch's control plane.
//!
//! - [`proxy`]: everything sans-IO, put together.
//! - [`engine`]: the core: calls, terminals, media, limits.
//! - [`config`]: what `latch.toml` says.
//! - [`datapath`]: what relays the media.
//! - [`sdp`]: session descriptions: read and rewritten.
//! - [`media`]: streams and legs, in the terms that engine and datapath share.
//! - [`objects`]: the BPF programs' object files.
//! - [`netlink`]: questions to the kernel about interfaces, addresses, routes and neighbours.
//! - [`flow`]: over what a message travels.
//! - [`io`]: sockets, clocks and signals.
//! - [`ctl`]: what an operator asks a running Latch.
//! - [`accounting`]: call detail records.
//! - [`journal`]: what a later process needs to go on, in a file; [`clock`]: its times.
//! - [`signalling`]: the protocols.

pub mod accounting;
mod addresses;
pub mod clock;
pub mod config;
pub mod ctl;
pub mod datapath;
pub mod engine;
pub mod flow;
pub mod io;
pub mod journal;
pub mod media;
pub mod netlink;
pub mod objects;
pub mod proxy;
pub mod sdp;
pub mod signalling;
mod tls;
