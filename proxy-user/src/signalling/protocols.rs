//! The protocols that Latch speaks, a line each.

use super::{agent::Agent, sip::Sip, wire::Wire};
use crate::config::Config;

/// The protocols that Latch speaks.
pub fn agents(config: &Config) -> Vec<Box<dyn Agent>> {
    vec![Box::new(Sip::new(config))]
}

/// How their messages travel.
pub fn wires(config: &Config) -> Vec<Wire> {
    agents(config).iter().map(|agent| agent.wire(config)).collect()
}
