//! A map that records what was touched, so that code that changes something need not say so.

use std::{
    collections::{BTreeSet, HashMap},
    hash::Hash,
};

/// A map by identifier. A value that was borrowed mutably counts as touched.
#[derive(Debug)]
pub(crate) struct Tracked<K, V> {
    values: HashMap<K, V>,
    touched: BTreeSet<K>,
}

impl<K, V> Default for Tracked<K, V> {
    fn default() -> Self {
        Self { values: HashMap::new(), touched: BTreeSet::new() }
    }
}

impl<K: Copy + Ord + Hash, V> Tracked<K, V> {
    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }

    pub(crate) fn get(&self, id: &K) -> Option<&V> {
        self.values.get(id)
    }

    pub(crate) fn get_mut(&mut self, id: &K) -> Option<&mut V> {
        let value = self.values.get_mut(id)?;
        self.touched.insert(*id);
        Some(value)
    }

    pub(crate) fn insert(&mut self, id: K, value: V) {
        self.touched.insert(id);
        self.values.insert(id, value);
    }

    pub(crate) fn remove(&mut self, id: &K) -> Option<V> {
        let value = self.values.remove(id)?;
        self.touched.insert(*id);
        Some(value)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.values.iter()
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> {
        self.values.keys()
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.values.values()
    }

    /// What was touched since the last call, in order.
    pub(crate) fn take_touched(&mut self) -> Vec<K> {
        std::mem::take(&mut self.touched).into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looking_is_not_touching() {
        let mut map = Tracked::default();
        for id in [3, 1, 2] {
            map.insert(id, 'a');
        }
        assert_eq!(map.take_touched(), [1, 2, 3]);
        assert_eq!((map.get(&1), map.len()), (Some(&'a'), 3));
        assert_eq!(map.get_mut(&9), None);
        assert_eq!(map.remove(&9), None);
        assert!(map.take_touched().is_empty());
        *map.get_mut(&2).unwrap() = 'b';
        map.remove(&3);
        assert_eq!(map.take_touched(), [2, 3]);
    }
}
