//! The relay in the kernel: the XDP program.
//!
//! - `loader`: the program from its object file into the kernel and onto the interfaces;
//! - `pins`: what outlives the process.

pub(super) mod loader;
mod pins;

pub use loader::StartMode;
pub use pins::Pins;
