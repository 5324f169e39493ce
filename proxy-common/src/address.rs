//! IP addresses as two words in memory order: as the maps hold them, and as they are compared.

/// An IPv6 address, or an IPv4 one as `::ffff:a.b.c.d`; all zero: none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Address(pub [u64; 2]);

/// What precedes the IPv4 address in the second word.
const PREFIX: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

impl Address {
    /// No address.
    pub const NONE: Self = Self([0, 0]);

    /// The address that these bytes are.
    #[inline(always)]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = bytes;
        Self([u64::from_ne_bytes([a, b, c, d, e, f, g, h]), u64::from_ne_bytes([i, j, k, l, m, n, o, p])])
    }

    /// Its bytes, network order.
    pub const fn to_bytes(self) -> [u8; 16] {
        let [a, b, c, d, e, f, g, h] = self.0[0].to_ne_bytes();
        let [i, j, k, l, m, n, o, p] = self.0[1].to_ne_bytes();
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
    }

    /// An IPv4 address, four bytes in memory order.
    #[inline(always)]
    pub const fn from_v4(word: u32) -> Self {
        Self([0, PREFIX as u64 | (word as u64) << 32])
    }

    /// Four words in memory order.
    #[inline(always)]
    pub const fn from_words(words: [u32; 4]) -> Self {
        let [a, b, c, d] = words;
        Self([a as u64 | (b as u64) << 32, c as u64 | (d as u64) << 32])
    }

    /// The four words of it.
    #[inline(always)]
    pub const fn words(self) -> [u32; 4] {
        let [a, b] = self.0;
        [a as u32, (a >> 32) as u32, b as u32, (b >> 32) as u32]
    }

    /// The sum of its words, for a checksum: not folded.
    #[inline(always)]
    pub const fn sum(self) -> u64 {
        let [a, b, c, d] = self.words();
        a as u64 + b as u64 + c as u64 + d as u64
    }

    /// An IPv4 address without its prefix, to be summed as IPv4 does.
    #[inline(always)]
    pub const fn only_v4(self) -> Self {
        Self([0, self.0[1] & !(PREFIX as u64)])
    }

    /// Whether it is an IPv4 address.
    #[inline(always)]
    pub const fn is_v4(self) -> bool {
        self.0[0] == 0 && self.0[1] as u32 == PREFIX
    }

    /// Whether it is one at all.
    #[inline(always)]
    pub const fn is_some(self) -> bool {
        self.0[0] | self.0[1] != 0
    }

    /// 32 bits of it: the IPv4 address itself; of an IPv6 one, a mixture that detects errors and is good for lookups,
    /// but for which anybody can construct collisions.
    #[inline(always)]
    pub const fn fold(self) -> u32 {
        if self.is_v4() {
            return (self.0[1] >> 32) as u32;
        }
        self.fold_v6()
    }

    /// [`Address::fold`] of an address that is not IPv4.
    #[inline(always)]
    pub const fn fold_v6(self) -> u32 {
        let [a, b] = self.0;
        ((a ^ b.rotate_left(29)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
    }

    /// Whether it is an address, and equals another under a mask.
    #[inline(always)]
    pub const fn agrees(self, other: Self, mask: Mask) -> bool {
        let [a, b] = [(self.0[0] ^ other.0[0]) & mask.0[0], (self.0[1] ^ other.0[1]) & mask.0[1]];
        self.is_some() && a | b == 0
    }
}

/// The bits of addresses of one family that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mask([u64; 2]);

impl Mask {
    /// The first `bits_v6` bits, at most 128, or of IPv4 the first `bits_v4`, at most 32.
    #[inline(always)]
    pub const fn new(v6: bool, bits_v4: u8, bits_v6: u8) -> Self {
        if v6 {
            let low = bits_v6.saturating_sub(64);
            Self([leading(bits_v6 - low), leading(low)])
        } else {
            Self([!0, (!0u64 << (32u32.saturating_sub(bits_v4 as u32) & 63)).to_be()])
        }
    }

    /// The mask with each word passed through `change`.
    #[inline(always)]
    pub fn map(self, change: impl Fn(u64) -> u64) -> Self {
        Self([change(self.0[0]), change(self.0[1])])
    }
}

/// The first `bits`, at most 64, of a word in memory order.
#[inline(always)]
const fn leading(bits: u8) -> u64 {
    if bits == 0 { 0 } else { (!0u64 << (64u32.wrapping_sub(bits as u32) & 63)).to_be() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    fn address(text: &str) -> Address {
        Address::from_bytes(match text.parse().unwrap() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        })
    }

    #[test]
    fn prefixes_agree_or_not() {
        for (one, other, v4, v6, expected) in [
            ("203.0.113.101", "203.0.113.101", 32, 128, true),
            ("203.0.113.101", "203.0.113.100", 32, 128, false),
            ("203.0.113.101", "203.0.113.100", 31, 128, true),
            ("203.0.113.101", "203.0.113.66", 24, 128, true),
            ("203.0.113.101", "203.0.112.101", 24, 128, false),
            ("203.0.113.101", "10.0.0.1", 0, 0, true),
            ("2001:db8::1", "2001:db8::1", 32, 128, true),
            ("2001:db8::1", "2001:db8::2", 32, 128, false),
            ("2001:db8::1", "2001:db8::9:0:0:1", 32, 64, true),
            ("2001:db8::1", "2001:db8:0:1::1", 32, 64, false),
            ("2001:db8::1", "2001:db8:0:1::1", 32, 63, true),
            ("::", "::", 0, 0, false),
            ("203.0.113.101", "2001:db8::1", 0, 0, false),
        ] {
            let mask = Mask::new(!address(one).is_v4(), v4, v6);
            assert_eq!(address(one).agrees(address(other), mask), expected, "{one} {other} {v4} {v6}");
        }
    }

    proptest! {
        #[test]
        fn prefixes_are_those_of_the_integers(one in any::<u128>(), flip in 0u32..128, bits in 1u8..=128) {
            let other = one ^ 1 << (127 - flip);
            let [a, b] = [one, other].map(|n| Address::from_bytes(Ipv6Addr::from(n).octets()));
            prop_assume!(!a.is_v4() && !b.is_v4());
            prop_assert_eq!(a.agrees(b, Mask::new(true, 32, bits)), flip >= u32::from(bits));
        }

        #[test]
        fn words_bytes_and_families(v4 in any::<u32>(), v6 in any::<u128>()) {
            let four = Address::from_v4(v4);
            prop_assert_eq!(four.to_bytes(), Ipv4Addr::from(v4.to_ne_bytes()).to_ipv6_mapped().octets());
            prop_assert_eq!(four.fold(), v4);
            let bytes = Ipv6Addr::from(v6).octets();
            let six = Address::from_bytes(bytes);
            prop_assert_eq!(six.to_bytes(), bytes);
            prop_assert_eq!(Address::from_words(six.words()), six);
        }
    }
}
