//! The filter of a signalling socket, in the kernel: whose datagrams come through, and how many.

use anyhow::{Result, ensure};
use proxy_common::signalling::Counters;
use proxy_user::{
    config::{Config, Strangers},
    io::filter::{Filter, HEADROOM},
    objects::SIGNALLING,
};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};
use testbed::{as_root, leftovers::BpfObjects};

/// What one source may send at once.
const SOURCE: u64 = 10;
/// What one network may.
const NETWORK: u64 = 20;
/// What all strangers may.
const STRANGERS: u64 = 40;

fn config() -> Config {
    let mut config = Config::new(Vec::new());
    config.strangers =
        Strangers { messages_per_s: 40, network_percent: 50, source_percent: 25, ..Strangers::default() };
    config.limits.max_registrations = 2;
    config.limits.max_calls = 1;
    config.maps.max_sources = 1_024;
    config
}

/// A socket with its filter.
struct Filtered {
    socket: UdpSocket,
    filter: Filter,
}

impl Filtered {
    fn new(address: &str) -> Result<Self> {
        let socket = UdpSocket::bind(address)?;
        socket.set_nonblocking(true)?;
        let (object, _) = SIGNALLING.find()?;
        let filter = Filter::attach(&object, &config(), &socket)?;
        Ok(Self { socket, filter })
    }

    /// Sends so many datagrams from there, and tells how many of them came through.
    fn through(&self, from: &UdpSocket, datagrams: u64) -> Result<u64> {
        let to = self.socket.local_addr()?;
        let mut came = 0;
        for _ in 0..datagrams {
            from.send_to(b"datagram", to)?;
            // Over loopback it is there at once.
            came += u64::from(self.socket.recv(&mut [0; 16]).is_ok());
        }
        Ok(came)
    }
}

fn sender(last: [u8; 3]) -> Result<UdpSocket> {
    let [b, c, d] = last;
    Ok(UdpSocket::bind((Ipv4Addr::new(127, b, c, d), 0))?)
}

/// This many, and those that the time since then made room for, where this many may come at once.
fn about(count: u64, expected: u64, at_once: u64, since: Instant) -> Result<()> {
    let per_second = at_once * HEADROOM;
    let more = (since.elapsed().as_secs_f64() * per_second as f64).ceil() as u64 + 1;
    ensure!((expected..=expected + more).contains(&count), "{count}, not {expected} and at most {more} more");
    Ok(())
}

#[test]
fn strangers_pass_at_their_rates_and_the_known_always() {
    as_root(|| {
        let mut filtered = Filtered::new("127.0.0.1:0")?;
        let known = sender([0, 9, 1])?;
        filtered.filter.set_known(known.local_addr()?, true)?;
        let start = Instant::now();
        // One source.
        let came = filtered.through(&sender([0, 1, 1])?, 10 * SOURCE)?;
        about(came, SOURCE, SOURCE, start)?;
        // Another port is the same source.
        about(filtered.through(&sender([0, 1, 1])?, SOURCE)?, 0, SOURCE, start)?;
        // Its network: a second source of it has what is left.
        let [second, third] = [2, 3].map(|host| sender([0, 1, host]));
        let came = filtered.through(&second?, 10 * SOURCE)?;
        about(came, NETWORK - SOURCE, SOURCE, start)?;
        about(filtered.through(&third?, 10 * SOURCE)?, 0, NETWORK, start)?;
        // Other networks have theirs, until all strangers have what there is.
        let mut others = 0;
        for network in 2..8 {
            for host in 1..4 {
                others += filtered.through(&sender([0, network, host])?, SOURCE)?;
            }
        }
        about(others, STRANGERS - NETWORK, STRANGERS, start)?;
        // A known sender has lost nothing, and from another port counts as another sender.
        ensure!(filtered.through(&known, 20 * STRANGERS)? == 20 * STRANGERS, "lost from the known");
        about(filtered.through(&sender([0, 9, 1])?, SOURCE)?, 0, STRANGERS, start)?;
        let counters = filtered.filter.counters()?;
        ensure!(counters.passed_known == 20 * STRANGERS, "{counters:?}");
        for dropped in [counters.dropped_source, counters.dropped_network, counters.dropped_strangers] {
            ensure!(dropped > 0, "{counters:?}");
        }
        let passed = counters.passed_strangers;
        about(passed, STRANGERS, STRANGERS, start)?;
        // Not known any more.
        filtered.filter.set_known(known.local_addr()?, false)?;
        let came = filtered.through(&known, 10 * SOURCE)?;
        ensure!(came <= passed, "{came} of who is known no more");
        ensure!(filtered.filter.counters()?.passed_known == counters.passed_known);
        Ok(())
    });
}

#[test]
fn time_gives_room_again() {
    as_root(|| {
        let filtered = Filtered::new("127.0.0.1:0")?;
        let from = sender([0, 1, 1])?;
        let start = Instant::now();
        about(filtered.through(&from, 10 * SOURCE)?, SOURCE, SOURCE, start)?;
        std::thread::sleep(Duration::from_millis(200));
        let came = filtered.through(&from, 10 * SOURCE)?;
        ensure!(came >= SOURCE * HEADROOM / 5, "{came} after a fifth of a second");
        Ok(())
    });
}

#[test]
fn ipv6_has_the_same() {
    as_root(|| {
        let mut filtered = Filtered::new("[::1]:0")?;
        let [known, other] = [UdpSocket::bind("[::1]:0")?, UdpSocket::bind("[::1]:0")?];
        filtered.filter.set_known(known.local_addr()?, true)?;
        let start = Instant::now();
        ensure!(filtered.through(&known, 10 * SOURCE)? == 10 * SOURCE, "lost from the known");
        about(filtered.through(&other, 10 * SOURCE)?, SOURCE, SOURCE, start)?;
        let Counters { passed_known, dropped_source, dropped_malformed, .. } = filtered.filter.counters()?;
        ensure!(passed_known == 10 * SOURCE && dropped_source > 0 && dropped_malformed == 0);
        Ok(())
    });
}

#[test]
fn more_terminals_than_there_is_room_for_are_an_error() {
    as_root(|| {
        let mut filtered = Filtered::new("127.0.0.1:0")?;
        let remote = |port| SocketAddr::from((IpAddr::from([203, 0, 113, 7]), port));
        for port in 1..=3 {
            filtered.filter.set_known(remote(port), true)?;
        }
        // The same again takes no room.
        filtered.filter.set_known(remote(3), true)?;
        let error = filtered.filter.set_known(remote(4), true).map_err(|error| format!("{error:#}"));
        ensure!(error.as_ref().is_err_and(|text| text.contains("203.0.113.7:4")), "{error:?}");
        // A sender that had no room can be removed nevertheless.
        filtered.filter.set_known(remote(4), false)?;
        filtered.filter.set_known(remote(1), false)?;
        filtered.filter.set_known(remote(4), true)
    });
}

#[test]
fn maps_are_shown_with_their_fields() {
    as_root(|| {
        let mut filtered = Filtered::new("127.0.0.1:0")?;
        filtered.filter.set_known("203.0.113.7:40000".parse()?, true)?;
        filtered.through(&sender([0, 1, 1])?, 1)?;
        let objects = BpfObjects::of(std::process::id())?;
        // Other tests of this process have such maps too.
        for (map, field) in [
            ("SIG_KNOWN", "\"port\":40000"),
            ("SIG_SOURCES", "\"empty_at_ns\":"),
            ("SIG_NETWORKS", "\"empty_at_ns\":"),
            ("SIG_STRANGERS", "\"empty_at_ns\":"),
            ("SIG_COUNTERS", "\"passed_strangers\":1"),
        ] {
            let dumps = objects.dump(map)?;
            ensure!(dumps.iter().any(|dump| dump.to_string().contains(field)), "{map}: {dumps:?}");
        }
        Ok(())
    });
}
