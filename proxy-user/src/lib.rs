//! Latch's control plane.
//!
//! - [`engine`]: the sans-IO core.
//! - [`media`]: streams and legs, as engine and datapath speak of them.
//! - [`accounting`]: call detail records.

pub mod accounting;
pub mod engine;
pub mod media;
