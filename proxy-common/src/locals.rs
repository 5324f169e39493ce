//! Which addresses of the host the relay answers on.
//!
//! `LOCALS` is a table of [`SLOTS`] entries. User space picks a seed under which every configured address has a slot of
//! its own; a packet then finds its address, or that it is not the relay's, with one multiplication and one lookup.

/// Slots of the table; a power of two.
pub const SLOTS: usize = 256;

/// One media address and its port range.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Local {
    /// The address, IPv4-mapped where it is IPv4; all zero in an empty slot.
    pub address: [u8; 16],
    /// First port, even, host order.
    pub port_base: u16,
    /// Number of ports, even; 0 in an empty slot.
    pub ports: u16,
    /// Index in `LEGS` of the first pair.
    pub first_leg: u32,
    /// Index of the interface by which packets to this address arrive; those that come by another are dropped.
    pub interface: u32,
    /// Identifiers of the VLAN tags that they come with, outermost first, 0 where there is none.
    pub vlan: [u16; 2],
}

const _: () = assert!(core::mem::size_of::<Local>() == 32);

impl Local {
    /// The pair of ports and the component (0 RTP, 1 RTCP) that `port` is, or `None` outside the range.
    #[inline(always)]
    pub const fn leg_of(&self, port: u16) -> Option<(u32, u32)> {
        let offset = port.wrapping_sub(self.port_base);
        if offset >= self.ports {
            return None;
        }
        Some((self.first_leg + (offset >> 1) as u32, (offset & 1) as u32))
    }
}

/// The address as maps hold it: `::ffff:a.b.c.d`.
#[inline(always)]
pub const fn mapped(v4: [u8; 4]) -> [u8; 16] {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, v4[0], v4[1], v4[2], v4[3]]
}

/// The slot of an address, given as its [`crate::address::Address::fold`].
#[inline(always)]
pub const fn slot(folded: u32, seed: u32) -> u32 {
    // The top bits of a product depend on all bits of both factors.
    (folded ^ seed).wrapping_mul(0x9e37_79b1) >> (32 - SLOTS.trailing_zeros())
}

/// A seed under which no two of these folded addresses share a slot; `None` if none of 65,536 seeds works (more than
/// about 60 addresses), or if an address is listed twice.
pub fn find_seed(folded: &[u32]) -> Option<u32> {
    (0..0x1_0000u32).map(|n| n.wrapping_mul(0x85eb_ca6b)).find(|&seed| {
        let mut taken = [false; SLOTS];
        folded.iter().all(|&address| {
            taken.get_mut(slot(address, seed) as usize).is_some_and(|taken| !core::mem::replace(taken, true))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::{collections::HashSet, vec::Vec};

    #[test]
    fn ports_outside_the_range_are_nobodys() {
        let local =
            Local { address: mapped([10, 0, 0, 1]), port_base: 30_000, ports: 100, first_leg: 7, ..Local::default() };
        assert_eq!(local.leg_of(30_000), Some((7, 0)));
        assert_eq!(local.leg_of(30_001), Some((7, 1)));
        assert_eq!(local.leg_of(30_099), Some((56, 1)));
        assert_eq!(local.leg_of(30_100), None);
        assert_eq!(local.leg_of(29_999), None);
        assert_eq!(Local::default().leg_of(0), None);
    }

    #[test]
    fn an_address_twice_has_no_seed() {
        assert_eq!(find_seed(&[7, 7]), None);
    }

    proptest! {
        #[test]
        fn every_address_has_a_slot_of_its_own(addresses in prop::collection::hash_set(any::<u32>(), 1..33)) {
            let addresses: Vec<_> = addresses.into_iter().collect();
            let seed = find_seed(&addresses).expect("32 addresses fit");
            let slots: HashSet<_> = addresses.iter().map(|a| slot(*a, seed)).collect();
            prop_assert_eq!(slots.len(), addresses.len());
            prop_assert!(slots.iter().all(|&s| (s as usize) < SLOTS));
        }
    }
}
