//! The relay's modules, the same files as in the XDP program, on user space's own frames and tables.

use context::Context;
use proxy_common::verdict::{Action, Verdict};

pub(super) use frame as context;
pub(super) use maps::Here;

pub(super) mod frame;
mod maps;
mod memory;
#[path = "../../../../../proxy-ebpf/src/latch/relay/mod.rs"]
mod relay;

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Decision {
    pub(super) verdict: Verdict,
    /// The interface that it leaves by, if it does.
    pub(super) egress: Option<u32>,
}

/// Handles one frame, in place, that arrived by the interface `ingress`.
pub(super) fn handle(here: &Here, frame: &Context, ingress: u32) -> Decision {
    let verdict = here.while_here(|| relay::relay(frame, ingress));
    let egress = match verdict.action() {
        Action::Transmit => Some(ingress),
        Action::Redirect => Some(here.redirected()),
        Action::Pass | Action::Drop => None,
    };
    Decision { verdict, egress }
}
