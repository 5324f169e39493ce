//! Incremental Internet checksums by RFC 1624, equation 3: `HC' = ~(~HC + ~m + m')`.
//!
//! Words may be given in either byte order as long as all of them, and the checksum, are in the same one: one's
//! complement addition is byte-order independent (RFC 1071 §2 (B)). The XDP program uses the order in which
//! it loads them.

use crate::address::Address;

/// The difference that replaced words make in a checksum. Collect every replaced word, then [`Delta::apply`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delta(u64);

impl Delta {
    /// No difference.
    #[inline(always)]
    pub const fn new() -> Self {
        Self(0)
    }

    /// A 16-bit word `old` became `new`.
    #[inline(always)]
    pub const fn word(self, old: u16, new: u16) -> Self {
        Self(self.0 + (!old) as u64 + new as u64)
    }

    /// An aligned pair of words, such as an IPv4 address, `old` became `new`.
    #[inline(always)]
    pub const fn pair(self, old: u32, new: u32) -> Self {
        // A 32-bit value is congruent to the sum of its halves modulo 0xffff, so it may be added whole.
        Self(self.0 + (!old) as u64 + new as u64)
    }

    /// An address was replaced.
    #[inline(always)]
    pub const fn address(self, old: Address, new: Address) -> Self {
        self.without(old).with(new)
    }

    /// An address went.
    #[inline(always)]
    pub const fn without(self, old: Address) -> Self {
        let [a, b, c, d] = old.words();
        Self(self.0 + (!a) as u64 + (!b) as u64 + (!c) as u64 + (!d) as u64)
    }

    /// An address came.
    #[inline(always)]
    pub const fn with(self, new: Address) -> Self {
        Self(self.0 + new.sum())
    }

    /// The checksum after the replacements.
    #[inline(always)]
    pub const fn apply(self, checksum: u16) -> u16 {
        !fold(self.0 + (!checksum) as u64)
    }

    /// The same for UDP (RFC 768): 0 stands for "no checksum" and stays; a computed 0 is sent as 0xffff.
    #[inline(always)]
    pub const fn apply_udp(self, checksum: u16) -> u16 {
        if checksum == 0 {
            return 0;
        }
        match self.apply(checksum) {
            0 => 0xffff,
            sum => sum,
        }
    }
}

/// Folds a sum of words into 16 bits with end-around carry.
///
/// Right for every sum below 2^48, which is 65,536 additions of 32-bit values.
#[inline(always)]
pub const fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// The checksum of `bytes` (RFC 1071), big-endian words, an odd last byte padded with zero. For tests and for packets
/// that user space builds.
pub fn full(bytes: &[u8]) -> u16 {
    let sum = bytes
        .chunks(2)
        .map(|word| u64::from(word.first().copied().unwrap_or(0)) << 8 | u64::from(word.get(1).copied().unwrap_or(0)))
        .sum();
    !fold(sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    #[test]
    fn rfc_1624_section_4_example() {
        // HC = 0xDD2F, m = 0x5555 becomes 0x3285: equation 3 gives 0x0000, where equation 2 of RFC 1141 gives 0xFFFF.
        assert_eq!(Delta::new().word(0x5555, 0x3285).apply(0xdd2f), 0x0000);
    }

    #[test]
    fn udp_zero_is_no_checksum() {
        assert_eq!(Delta::new().word(1, 2).apply_udp(0), 0);
        assert_eq!(Delta::new().word(0x5555, 0x3285).apply_udp(0xdd2f), 0xffff);
    }

    proptest! {
        #[test]
        fn incremental_equals_full(mut bytes in prop::collection::vec(any::<u8>(), 20..60), new in any::<[u8; 8]>()) {
            if bytes.len() % 2 == 1 { bytes.pop(); }
            // The checksum field is part of the sum as zero and must not make the sum trivial.
            bytes[0] |= 1;
            let old_sum = full(&bytes);
            let old: Vec<u8> = bytes[4..12].to_vec();
            bytes[4..12].copy_from_slice(&new);
            let be32 = |b: &[u8]| u32::from_be_bytes([b[0], b[1], b[2], b[3]]);
            let be16 = |b: &[u8]| u16::from_be_bytes([b[0], b[1]]);
            let delta = Delta::new()
                .pair(be32(&old[0..4]), be32(&new[0..4]))
                .word(be16(&old[4..6]), be16(&new[4..6]))
                .word(be16(&old[6..8]), be16(&new[6..8]));
            prop_assert_eq!(delta.apply(old_sum), full(&bytes));
        }

        #[test]
        fn addresses_of_any_family_come_and_go(
            bytes in prop::collection::vec(any::<u8>(), 40..41), new in any::<[u8; 16]>(), v4 in any::<u32>(),
        ) {
            let [old, new] = [bytes[8..24].try_into().unwrap(), new].map(Address::from_bytes);
            let mut replaced = bytes.clone();
            replaced[8..24].copy_from_slice(&new.to_bytes());
            let sum = |bytes: &[u8]| full(bytes).to_be();
            prop_assume!(bytes[0] != 0);
            prop_assert_eq!(Delta::new().address(old, new).apply(sum(&bytes)), sum(&replaced));
            // As across families: 16 bytes go and 4 come.
            let shorter: Vec<u8> = [&bytes[..8], &v4.to_ne_bytes(), &bytes[24..]].concat();
            let v4 = Address::from_v4(v4).only_v4();
            prop_assert_eq!(Delta::new().without(old).with(v4).apply(sum(&bytes)), sum(&shorter));
        }

        #[test]
        fn byte_order_does_not_matter(old in any::<u32>(), new in any::<u32>(), sum in any::<u16>()) {
            let here = Delta::new().pair(old, new).apply(sum);
            let there = Delta::new().pair(old.swap_bytes(), new.swap_bytes()).apply(sum.swap_bytes());
            prop_assert_eq!(here, there.swap_bytes());
        }
    }
}
