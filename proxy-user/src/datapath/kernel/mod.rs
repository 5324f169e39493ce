//! The relay in the kernel: the XDP program.
//!
//! - `object` and `loader`: the program from its object file into the kernel and onto the interfaces;
//! - `pins`: what outlives the process.

pub(super) mod loader;
pub mod object;
mod pins;

pub use loader::StartMode;
pub use pins::Pins;
