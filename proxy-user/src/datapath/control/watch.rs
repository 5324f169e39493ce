//! Whether the interfaces are still those that the program was attached to.
//!
//! An interface that is removed takes the program with it, also where another one of that name comes back; one that is
//! down carries nothing. Neither can be distinguished from a quiet network, so Latch looks for it and logs it.

use crate::netlink::{Link, monitor::Event, worker::Fact};
use std::time::{Duration, Instant};

/// How often all interfaces are queried, in case a change was not reported.
const PERIOD: Duration = Duration::from_secs(30);

/// Looks at the interfaces.
pub(in crate::datapath) struct Watch {
    /// As they were last seen.
    interfaces: Vec<Seen>,
    at: Instant,
}

struct Seen {
    link: Link,
    gone: bool,
}

impl Watch {
    pub(in crate::datapath) fn new(interfaces: Vec<Link>, now: Instant) -> Self {
        let interfaces = interfaces.into_iter().map(|link| Seen { link, gone: false }).collect();
        Self { interfaces, at: now }
    }

    /// Records what concerns an interface, and logs it.
    pub(in crate::datapath) fn learn(&mut self, fact: &Fact) {
        for (name, news) in self.news(fact) {
            match news {
                News::Gone => {
                    tracing::error!("interface {name} was removed: no media there until Latch is started again");
                }
                News::Down => tracing::error!("interface {name} is down: no media there; ip link set {name} up"),
                News::Up => tracing::info!("interface {name} is up again"),
                News::Mac => tracing::info!("interface {name} has another hardware address"),
            }
        }
    }

    /// Whether all interfaces must be queried.
    pub(in crate::datapath) fn poll(&mut self, now: Instant) -> bool {
        let due = now >= self.at;
        if due {
            self.at = now + PERIOD;
        }
        due
    }

    /// When [`Watch::poll`] is due.
    pub(in crate::datapath) fn poll_timeout(&self) -> Instant {
        self.at
    }

    fn news(&mut self, fact: &Fact) -> Vec<(String, News)> {
        let mut news = Vec::new();
        for seen in self.interfaces.iter_mut().filter(|seen| !seen.gone) {
            let index = seen.link.index;
            let now = match fact {
                Fact::Links(Ok(links)) => links.iter().find(|link| link.index == index),
                Fact::Event(Event::Link(link)) if link.index == index => Some(link),
                Fact::Event(Event::LinkGone(gone)) if *gone == index => None,
                _ => continue,
            };
            let Some(now) = now else {
                seen.gone = true;
                news.push((seen.link.name.clone(), News::Gone));
                continue;
            };
            // An interface may be renamed while it is in use.
            if !now.name.is_empty() {
                seen.link.name.clone_from(&now.name);
            }
            if now.up != seen.link.up {
                seen.link.up = now.up;
                news.push((seen.link.name.clone(), if now.up { News::Up } else { News::Down }));
            }
            if now.mac.is_some() && now.mac != seen.link.mac {
                seen.link.mac = now.mac;
                news.push((seen.link.name.clone(), News::Mac));
            }
        }
        news
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    Gone,
    Down,
    Up,
    Mac,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_that_is_gone_changed_or_down_is_noticed_once() {
        let link = |index, name: &str| Link {
            index,
            name: name.into(),
            mac: Some([2; 6]),
            up: true,
            carrier: true,
            mtu: 1_500,
        };
        let down = Link { up: false, ..link(4, "core0") };
        let other = Link { mac: Some([4; 6]), ..link(4, "core0") };
        let mut watch = Watch::new(vec![link(3, "eth0"), link(4, "eth1")], Instant::now());
        for (name, fact, words) in [
            ("as it was", Fact::Links(Ok(vec![link(1, "lo"), link(3, "eth0"), link(4, "eth1")])), None),
            ("renamed", Fact::Event(Event::Link(link(4, "core0"))), None),
            ("down", Fact::Event(Event::Link(down.clone())), Some(News::Down)),
            ("still down", Fact::Event(Event::Link(down)), None),
            ("up", Fact::Event(Event::Link(link(4, "core0"))), Some(News::Up)),
            ("another address", Fact::Event(Event::Link(other.clone())), Some(News::Mac)),
            ("without an address", Fact::Event(Event::Link(Link { mac: None, ..other.clone() })), None),
            ("another interface", Fact::Event(Event::LinkGone(9)), None),
            ("unknown", Fact::Links(Err(std::io::ErrorKind::TimedOut.into())), None),
            ("made again", Fact::Links(Ok(vec![link(3, "eth0"), link(9, "core0")])), Some(News::Gone)),
            ("told again", Fact::Event(Event::LinkGone(4)), None),
        ] {
            let expected: Vec<_> = words.into_iter().map(|news| ("core0".to_owned(), news)).collect();
            assert_eq!(watch.news(&fact), expected, "{name}");
        }
    }
}
