//! A set of RTP payload types.

use serde::{Deserialize, Serialize};

/// A set of RTP payload types, 0 to 127.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PayloadTypes(u128);

impl PayloadTypes {
    /// Adds a payload type; one above 127 is invalid and is left out.
    pub fn insert(&mut self, payload_type: u8) {
        if payload_type < 128 {
            self.0 |= 1 << payload_type;
        }
    }

    /// Whether the set holds it.
    pub fn contains(self, payload_type: u8) -> bool {
        payload_type < 128 && self.0 >> payload_type & 1 == 1
    }

    /// All of both sets.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether the set is empty.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// In the datapath's format: type `t` is bit `t % 32` of word `t / 32`.
    pub fn words(self) -> [u32; 4] {
        [self.0 as u32, (self.0 >> 32) as u32, (self.0 >> 64) as u32, (self.0 >> 96) as u32]
    }
}

impl FromIterator<u8> for PayloadTypes {
    fn from_iter<I: IntoIterator<Item = u8>>(iter: I) -> Self {
        let mut set = Self::default();
        iter.into_iter().for_each(|payload_type| set.insert(payload_type));
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_what_the_datapath_tests() {
        let set: PayloadTypes = [0, 8, 35, 96, 127, 200].into_iter().collect();
        for payload_type in 0..=127 {
            assert_eq!(
                proxy_common::latch::has_payload_type(&set.words(), payload_type),
                set.contains(payload_type),
                "{payload_type}"
            );
        }
        assert!(set.contains(127) && !set.contains(200) && !set.contains(1));
    }
}
