//! Names of realms, and collections with one element for each realm.

use serde::{Deserialize, Serialize};
use std::{fmt, slice};

/// Names a realm: its place in the configuration, from 0. Written down as that number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RealmId(usize);

impl RealmId {
    /// The realm at this place. A lookup tells whether there is one.
    pub const fn new(place: usize) -> Self {
        Self(place)
    }
}

impl fmt::Display for RealmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Something that there is one of for each realm, in the configuration's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PerRealm<T>(Vec<T>);

impl<T> PerRealm<T> {
    /// That of a realm, if there is such a realm.
    pub fn get(&self, realm: RealmId) -> Option<&T> {
        self.0.get(realm.0)
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, realm: RealmId) -> Option<&mut T> {
        self.0.get_mut(realm.0)
    }

    /// Whether there is such a realm.
    pub fn has(&self, realm: RealmId) -> bool {
        realm.0 < self.0.len()
    }

    /// The number of realms.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no realm.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those of all realms.
    pub fn iter(&self) -> slice::Iter<'_, T> {
        self.0.iter()
    }

    /// Those of all realms, to be changed.
    pub fn iter_mut(&mut self) -> slice::IterMut<'_, T> {
        self.0.iter_mut()
    }

    /// Those of all realms, each with the name of its realm.
    pub fn with_ids(&self) -> impl Iterator<Item = (RealmId, &T)> + Clone {
        self.0.iter().enumerate().map(|(place, of_realm)| (RealmId(place), of_realm))
    }
}

impl<T> Default for PerRealm<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> From<Vec<T>> for PerRealm<T> {
    fn from(in_order: Vec<T>) -> Self {
        Self(in_order)
    }
}

impl<T> FromIterator<T> for PerRealm<T> {
    fn from_iter<I: IntoIterator<Item = T>>(in_order: I) -> Self {
        Self(in_order.into_iter().collect())
    }
}

impl<'a, T> IntoIterator for &'a PerRealm<T> {
    type Item = &'a T;
    type IntoIter = slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn a_realm_is_written_down_as_its_place() {
        let realm = RealmId::new(1);
        assert_eq!(serde_json::to_string(&realm).unwrap(), "1");
        assert_eq!(serde_json::from_str::<RealmId>("1").unwrap(), realm);
        assert_eq!(serde_json::to_string(&HashMap::from([(realm, 'x')])).unwrap(), "{\"1\":\"x\"}");
        assert_eq!(realm.to_string(), "1");
        for text in ["-1", "\"1\"", "[1]", "null"] {
            assert!(serde_json::from_str::<RealmId>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn only_realms_that_are_there_have_something() {
        let mut names = PerRealm::from(vec!["access", "core"]);
        assert_eq!(names.with_ids().collect::<Vec<_>>(), [(RealmId::new(0), &"access"), (RealmId::new(1), &"core")]);
        assert_eq!(names.get(RealmId::new(1)), Some(&"core"));
        assert_eq!(names.get(RealmId::new(2)), None);
        assert_eq!(names.get_mut(RealmId::new(2)), None);
        assert!(names.has(RealmId::new(1)) && !names.has(RealmId::new(2)));
        assert_eq!((names.len(), names.is_empty()), (2, false));
    }
}
