//! The key by which an entry of `NEXT_HOPS` is looked up.

use crate::media::RealmId;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// A destination in a realm.
pub(in super::super) type Destination = (RealmId, IpAddr);

/// What an entry is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(in super::super) enum Key {
    Local,
    Neighbour { interface: u32, address: IpAddr },
}
