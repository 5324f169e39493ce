//! What a value is that cannot be read.

use super::name::Name;

/// A header value that does not follow its grammar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed {}", if self.0 == Name::Other { "value" } else { self.0.text() })]
pub struct Malformed(
    /// The header field; [`Name::Other`] where the value was read by itself.
    pub Name,
);
