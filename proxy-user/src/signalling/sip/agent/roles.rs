//! The parties of a dialog.

use crate::engine::CallSide;
use serde::{Deserialize, Serialize};

/// Which party of a dialog.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Role {
    /// Sent the request that began it.
    Originator,
    /// Answered it; a forked request may be answered by several.
    Answerer(usize),
}

impl Role {
    /// Its side of the call.
    pub(super) fn side(self) -> CallSide {
        match self {
            Self::Originator => CallSide::Caller,
            Self::Answerer(_) => CallSide::Callee,
        }
    }
}
