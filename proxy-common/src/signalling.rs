//! Which datagrams reach a signalling socket when more arrive than a process can read.
//!
//! A socket has one queue for everybody. A flood fills it in a millisecond, and then most of what registered terminals
//! send is lost with the rest. So the kernel looks at the source before a datagram is queued: terminals that Latch
//! knows always pass; all others pass at a rate, per source (an IPv4 address, a /64 of IPv6), per network (/24, /48),
//! and all together. The control plane reads what passes and applies its own, exact limits to it.
//!
//! | map | kind | key | value | writer |
//! |---|---|---|---|---|
//! | `SIG_KNOWN` | hash | [`Remote`] | 1 | control |
//! | `SIG_SOURCES` | LRU hash | prefix of the source | [`Bucket`] | datapath |
//! | `SIG_NETWORKS` | LRU hash | prefix of the network | [`Bucket`] | datapath |
//! | `SIG_STRANGERS` | array, one entry | | [`Bucket`] | datapath |
//! | `SIG_COUNTERS` | per-CPU array, one entry | | [`Counters`] | datapath |

use crate::locals::mapped;

/// The other end of a flow of datagrams: the key of `SIG_KNOWN`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Remote {
    /// Its address, IPv4-mapped where it is IPv4.
    pub address: [u8; 16],
    /// Its port, host order.
    pub port: u16,
    /// Zero.
    pub reserved: u16,
}

/// A prefix of an address: the key of `SIG_SOURCES` and `SIG_NETWORKS`. An IPv4 address is IPv4-mapped; the bits that
/// are not of the prefix are zero.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prefix {
    /// The address.
    pub address: [u8; 16],
}

/// How an IPv4-mapped address begins (RFC 4291 §2.5.5.2).
const MAPPED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

impl Prefix {
    /// What one subscriber has: the IPv4 address, or the /64.
    #[inline(always)]
    pub const fn source(address: [u8; 16]) -> Self {
        let [a, b, c, d, e, f, g, h, ..] = address;
        match is_mapped(&address) {
            true => Self { address },
            false => Self { address: [a, b, c, d, e, f, g, h, 0, 0, 0, 0, 0, 0, 0, 0] },
        }
    }

    /// Its network: the /24, or the /48.
    #[inline(always)]
    pub const fn network(address: [u8; 16]) -> Self {
        let [a, b, c, d, e, f, .., o, p, q, _] = address;
        match is_mapped(&address) {
            true => Self { address: mapped([o, p, q, 0]) },
            false => Self { address: [a, b, c, d, e, f, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0] },
        }
    }
}

#[inline(always)]
const fn is_mapped(address: &[u8; 16]) -> bool {
    let mut index = 0;
    while index < MAPPED.len() {
        if address[index] != MAPPED[index] {
            return false;
        }
        index += 1;
    }
    true
}

/// A rate limit: what a quarter of a second brings may come at once, then one each interval. It keeps one number: when
/// the bucket will be empty again (the generic cell rate algorithm, ITU-T I.371).
///
/// Processors write it without a lock, so of two datagrams at the same time one may go uncounted.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    /// `CLOCK_MONOTONIC`, ns.
    pub empty_at_ns: u64,
}

/// What a bucket holds, ns.
const BURST_NS: u64 = 250_000_000;

impl Bucket {
    /// Whether one more may pass at `now_ns`.
    #[inline(always)]
    pub const fn admits(self, now_ns: u64) -> bool {
        self.empty_at_ns <= now_ns.saturating_add(BURST_NS)
    }

    /// The bucket once one more has passed, where one may pass every `interval_ns`.
    #[inline(always)]
    pub const fn after_one(self, interval_ns: u64, now_ns: u64) -> Self {
        let from = if self.empty_at_ns > now_ns { self.empty_at_ns } else { now_ns };
        Self { empty_at_ns: from.saturating_add(interval_ns) }
    }
}

macro_rules! passages {
    ($($(#[$doc:meta])* $variant:ident $field:ident $passes:literal,)*) => {
        /// What became of a datagram.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Passage {
            $($(#[$doc])* $variant,)*
        }

        impl Passage {
            /// All of them, in the order of the counters.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Whether the datagram goes on to the socket.
            #[inline(always)]
            pub const fn passes(self) -> bool {
                match self {
                    $(Self::$variant => $passes,)*
                }
            }
        }

        crate::counters::counters! {
            /// One counter for each, datagrams; the value of the map `SIG_COUNTERS`.
            Counters { $($(#[$doc])* $field,)* }
        }
    };
}

passages! {
    /// From a terminal that Latch knows.
    Known passed_known true,
    /// From somebody else, within the rates.
    Stranger passed_strangers true,
    /// More than one source may send.
    OverSource dropped_source false,
    /// More than the sources of one network may send.
    OverNetwork dropped_network false,
    /// More than all strangers may send together.
    OverStrangers dropped_strangers false,
    /// Its headers cannot be read.
    Malformed dropped_malformed false,
}

const _: () = assert!(core::mem::size_of::<Counters>() == 8 * Passage::ALL.len());
const _: () = assert!(core::mem::size_of::<Remote>() == 20);

/// User space reads and writes these as bytes.
#[cfg(feature = "user")]
mod pod {
    use super::{Bucket, Counters, Prefix, Remote};

    // SAFETY: integers only, any bytes are a value, and their sizes leave no room for padding (asserted above).
    unsafe impl aya::Pod for Remote {}
    // SAFETY: the same.
    unsafe impl aya::Pod for Prefix {}
    // SAFETY: the same.
    unsafe impl aya::Pod for Bucket {}
    // SAFETY: the same.
    unsafe impl aya::Pod for Counters {}
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// How many of `offered` datagrams, evenly spread over `seconds`, pass at `rate` a second.
    fn passed(rate: u64, offered: u64, seconds: u64) -> u64 {
        let mut bucket = Bucket::default();
        let start = 1_000 * SECOND;
        (0..offered)
            .filter(|n| {
                let now = start + n * seconds * SECOND / offered;
                let admitted = bucket.admits(now);
                if admitted {
                    bucket = bucket.after_one(SECOND / rate, now);
                }
                admitted
            })
            .count() as u64
    }

    #[test]
    fn a_quarter_of_a_second_comes_at_once_and_then_the_rate() {
        assert_eq!(passed(100, 100, 1), 100, "below the rate nothing is lost");
        assert_eq!(passed(1, 10, 10), 10);
        for (rate, seconds) in [(100, 10), (2_000, 3), (8, 60)] {
            let passed = passed(rate, 1_000_000, seconds);
            let expected = rate * seconds + rate / 4;
            assert!((expected..=expected + 1).contains(&passed), "{passed} at {rate}/s in {seconds} s");
        }
    }

    #[test]
    fn who_was_silent_has_no_more_than_that() {
        let mut bucket = Bucket { empty_at_ns: 5 };
        let now = u64::MAX / 2;
        let mut count = 0;
        while bucket.admits(now) {
            bucket = bucket.after_one(SECOND / 40, now);
            count += 1;
        }
        assert_eq!(count, 11);
        assert!(Bucket { empty_at_ns: u64::MAX }.admits(u64::MAX), "no overflow");
        assert_eq!(Bucket { empty_at_ns: u64::MAX }.after_one(7, 0).empty_at_ns, u64::MAX);
    }

    #[test]
    fn prefixes_are_those_of_a_subscriber_and_a_site() {
        let v4 = mapped([203, 0, 113, 77]);
        assert_eq!(Prefix::source(v4).address, v4);
        assert_eq!(Prefix::network(v4).address, mapped([203, 0, 113, 0]));
        let v6 = [0x20, 1, 0xd, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
        assert_eq!(Prefix::source(v6).address, [0x20, 1, 0xd, 0xb8, 1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(Prefix::network(v6).address, [0x20, 1, 0xd, 0xb8, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let text = "::ffff:203.0.113.77".parse::<std::net::Ipv6Addr>().unwrap();
        assert_eq!(text.octets(), v4);
    }

    #[test]
    fn counters_stand_in_the_order_of_the_passages() {
        assert_eq!(
            Passage::ALL.iter().map(|&passage| passage as usize).collect::<std::vec::Vec<_>>(),
            [0, 1, 2, 3, 4, 5]
        );
        let names: std::vec::Vec<_> = Counters::default().named().map(|(name, _)| name).collect();
        for (name, passage) in names.iter().zip(Passage::ALL) {
            assert_eq!(name.starts_with("passed_"), passage.passes(), "{name}");
        }
    }
}
