//! Indices of the relay's maps: numbers of different maps cannot be mixed up.

use serde::{Deserialize, Serialize};

/// Of an entry of `LEGS`, and of the corresponding one of `LEG_STATE`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub(in crate::datapath) struct LegIndex(pub(in crate::datapath) u32);

/// Of an entry of `NEXT_HOPS`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub(in crate::datapath) struct HopIndex(pub(in crate::datapath) u16);

impl HopIndex {
    /// Its place in a list of all entries.
    pub(super) fn place(self) -> usize {
        self.0.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_written_down_as_its_number() {
        assert_eq!(serde_json::to_string(&(LegIndex(70_000), HopIndex(3))).unwrap(), "[70000,3]");
        assert_eq!(serde_json::from_str::<(LegIndex, HopIndex)>("[70000,3]").unwrap(), (LegIndex(70_000), HopIndex(3)));
    }
}
