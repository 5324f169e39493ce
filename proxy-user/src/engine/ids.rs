//! What names calls and protocols.

use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// Names a call during its life, and over restarts. No other one ever has its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CallId(pub u64);

/// Names a signalling protocol: in the journal, and where calls find their agent.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Protocol(Cow<'static, str>);

impl Protocol {
    /// The protocol of this name: lower-case letters and digits.
    pub const fn new(name: &'static str) -> Self {
        Self(Cow::Borrowed(name))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0
    }
}
