//! The two sides of a call.

use serde::{Deserialize, Serialize};
use std::ops::{Index, IndexMut};

/// One side of a call: the caller or the callee.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallSide {
    /// The side that began it.
    Caller,
    /// The side that was called.
    Callee,
}

/// Something that each side of a call has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PerSide<T> {
    /// The caller's.
    pub caller: T,
    /// The callee's.
    pub callee: T,
}

impl CallSide {
    /// Both, the caller first.
    pub const BOTH: [Self; 2] = [Self::Caller, Self::Callee];

    /// The side across.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Caller => Self::Callee,
            Self::Callee => Self::Caller,
        }
    }

    /// Its index in arrays of both sides, such as a stream's legs.
    pub fn index(self) -> usize {
        match self {
            Self::Caller => 0,
            Self::Callee => 1,
        }
    }
}

impl<T> PerSide<T> {
    /// From what the caller and the callee have.
    pub fn new(caller: T, callee: T) -> Self {
        Self { caller, callee }
    }

    /// The same of what each side has.
    pub fn map<U>(self, mut of: impl FnMut(T) -> U) -> PerSide<U> {
        PerSide { caller: of(self.caller), callee: of(self.callee) }
    }

    /// As an array, the caller's first.
    pub fn into_array(self) -> [T; 2] {
        [self.caller, self.callee]
    }
}

impl<T> Index<CallSide> for PerSide<T> {
    type Output = T;

    fn index(&self, side: CallSide) -> &T {
        match side {
            CallSide::Caller => &self.caller,
            CallSide::Callee => &self.callee,
        }
    }
}

impl<T> IndexMut<CallSide> for PerSide<T> {
    fn index_mut(&mut self, side: CallSide) -> &mut T {
        match side {
            CallSide::Caller => &mut self.caller,
            CallSide::Callee => &mut self.callee,
        }
    }
}
