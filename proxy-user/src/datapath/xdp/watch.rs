//! Whether the interfaces are still those that the program was attached to.
//!
//! An interface that is removed takes the program with it, also where another one of that name comes back, and frames
//! leave with the hardware address that it had at the start. Neither can be told from a quiet network, so it is looked
//! for and said.

use crate::netlink::{Link, Netlink};
use std::time::{Duration, Instant};

/// So often the interfaces are looked at.
const PERIOD: Duration = Duration::from_secs(5);

/// Looks at the interfaces from time to time.
pub(super) struct Watch {
    netlink: Netlink,
    /// As they were at the start.
    interfaces: Vec<Link>,
    said: Vec<String>,
    at: Instant,
}

impl Watch {
    pub(super) fn new(netlink: Netlink, interfaces: Vec<Link>, now: Instant) -> Self {
        Self { netlink, interfaces, said: Vec::new(), at: now + PERIOD }
    }

    /// Looks, if it is time, and logs what is new.
    pub(super) fn poll(&mut self, now: Instant) {
        if now < self.at {
            return;
        }
        self.at = now + PERIOD;
        let found = match self.netlink.links() {
            Ok(links) => complaints(&self.interfaces, &links),
            Err(error) => vec![format!("cannot list the network interfaces: {error}")],
        };
        for complaint in found.iter().filter(|complaint| !self.said.contains(complaint)) {
            tracing::error!("{complaint}");
        }
        self.said = found;
    }

    /// When [`Watch::poll`] is due.
    pub(super) fn poll_timeout(&self) -> Instant {
        self.at
    }
}

/// What keeps media from being relayed, now that the interfaces are `now` what were `then`.
fn complaints(then: &[Link], now: &[Link]) -> Vec<String> {
    then.iter()
        .filter_map(|before| {
            let name = &before.name;
            let Some(after) = now.iter().find(|link| link.index == before.index) else {
                return Some(format!("interface {name} was removed: no media there until Latch is started again"));
            };
            if after.mac != before.mac {
                return Some(format!(
                    "interface {name} has another hardware address: media leave with the old one until Latch is \
                     started again"
                ));
            }
            (!after.up).then(|| format!("interface {name} is down: no media there; ip link set {} up", after.name))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_that_is_gone_changed_or_down_is_noticed() {
        let link = |index, name: &str| Link { index, name: name.into(), mac: Some([2; 6]), up: true, mtu: 1_500 };
        let then = [link(3, "eth0"), link(4, "eth1")];
        for (name, now, words) in [
            ("as it was", link(4, "eth1"), None),
            ("renamed", link(4, "core0"), None),
            ("removed and made again", link(9, "eth1"), Some("eth1 was removed")),
            ("another address", Link { mac: Some([4; 6]), ..link(4, "eth1") }, Some("eth1 has another hardware")),
            ("down", Link { up: false, ..link(4, "eth1") }, Some("eth1 is down")),
        ] {
            let found = complaints(&then, &[link(1, "lo"), link(3, "eth0"), now]);
            assert_eq!(found.len(), usize::from(words.is_some()), "{name}: {found:?}");
            assert!(found.iter().all(|found| found.contains(words.unwrap_or_default())), "{name}: {found:?}");
        }
    }
}
