//! The protocols that Latch speaks, a line each.

use super::{agent::Agent, sip::Sip};
use crate::config::Config;

/// The protocols that Latch speaks.
pub fn agents(config: &Config) -> Vec<Box<dyn Agent>> {
    vec![Box::new(Sip::new(config))]
}
