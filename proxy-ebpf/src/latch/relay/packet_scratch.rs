//! What is known about the datagram that is being handled: in a map of this CPU, not on the stack, which is small.
//!
//! It helps the verifier too. The verifier follows every form that a datagram may have (IP version, tags, protocol,
//! port) on a path of its own through the program, as long as it knows which one it is; what was written and is read
//! again may be anything, so all forms continue as one path. [`Datagram::hide_from_verifier`] does the same for a
//! number.

use super::maps;
use proxy_common::{address::Address, media::Kind};

/// What is known about one datagram. Ports in host order.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct PacketScratch {
    /// The IPv6 address; of IPv4 nothing.
    pub(crate) source_v6: [u64; 2],
    /// Where it goes, if that is IPv6.
    pub(crate) destination_v6: [u64; 2],
    /// See [`Datagram::hide_from_verifier`].
    pub(crate) number: u64,
    /// The IPv4 address in memory order, or the IPv6 address folded.
    pub(crate) source: u32,
    /// Of RTP.
    pub(crate) timestamp: u32,
    /// Of RTP.
    pub(crate) ssrc: u32,
    /// Of RTP.
    pub(crate) sequence: u16,
    pub(crate) source_port: u16,
    /// Of the IP packet, header included, bytes.
    pub(crate) length: u16,
    /// How many VLAN tags it came with.
    pub(crate) tags: u16,
    pub(crate) ttl: u8,
    /// One of [`proxy_common::media::class`].
    pub(crate) class: u8,
    /// Of RTP.
    pub(crate) payload_type: u8,
    /// The port of its leg: 0 the even one, 1 the odd one.
    pub(crate) port: u8,
    /// The IP version at that port: 1 for IPv6.
    pub(crate) v6: u8,
    /// The IP version that it came with.
    pub(crate) came_v6: u8,
    /// Nothing.
    pub(crate) reserved: [u8; 2],
}

/// The datagram of this run.
#[derive(Clone, Copy)]
pub(crate) struct Datagram(*mut PacketScratch);

macro_rules! fields {
    ($($field:ident $set:ident $type:ty,)*) => {
        impl Datagram {
            $(
                #[inline(always)]
                pub(crate) fn $field(self) -> $type {
                    // SAFETY: the entry is this CPU's own, one XDP program at a time runs on a CPU, and it lives as
                    // long as the program.
                    unsafe { (&raw const (*self.0).$field).read_volatile() }
                }

                #[inline(always)]
                pub(crate) fn $set(self, value: $type) {
                    // SAFETY: as above.
                    unsafe { (&raw mut (*self.0).$field).write_volatile(value) }
                }
            )*
        }
    };
}

fields! {
    number set_number u64,
    source set_source u32,
    timestamp set_timestamp u32,
    ssrc set_ssrc u32,
    sequence set_sequence u16,
    source_port set_source_port u16,
    length set_length u16,
    ttl set_ttl u8,
    class set_class u8,
    payload_type set_payload_type u8,
    tags set_tags u16,
    port set_port u8,
    v6 set_v6 u8,
    came_v6 set_came_v6 u8,
}

impl Datagram {
    /// A new one, to be written.
    #[inline(always)]
    pub(crate) fn begin() -> Option<Self> {
        maps::packet_scratch().map(Self)
    }

    /// What it is. If it is not RTP, the fields of RTP keep their old values.
    #[inline(always)]
    pub(crate) fn set_kind(self, kind: Kind) {
        let (class, payload_type) = kind.class();
        self.set_class(class);
        self.set_payload_type(payload_type);
    }

    /// How it arrived: IP version, number of tags, port of its leg.
    #[inline(always)]
    pub(crate) fn arrived(self, v6: bool, tags: u16, port: u32) {
        self.set_v6(v6 as u8);
        self.set_came_v6(v6 as u8);
        self.set_tags(tags);
        self.set_port(port as u8);
    }

    #[inline(always)]
    pub(crate) fn is_v6(self) -> bool {
        self.v6() != 0
    }

    #[inline(always)]
    pub(crate) fn source_v6(self) -> Address {
        // SAFETY: as in the macro.
        Address(unsafe { (&raw const (*self.0).source_v6).read_volatile() })
    }

    #[inline(always)]
    pub(crate) fn set_source_v6(self, address: Address) {
        // SAFETY: as in the macro.
        unsafe { (&raw mut (*self.0).source_v6).write_volatile(address.0) }
    }

    /// Where it goes, if that is IPv6.
    #[inline(always)]
    pub(crate) fn destination_v6(self) -> Address {
        // SAFETY: as in the macro.
        Address(unsafe { (&raw const (*self.0).destination_v6).read_volatile() })
    }

    #[inline(always)]
    pub(crate) fn set_destination_v6(self, address: Address) {
        // SAFETY: as in the macro.
        unsafe { (&raw mut (*self.0).destination_v6).write_volatile(address.0) }
    }

    /// The source address, of either family.
    #[inline(always)]
    pub(crate) fn address(self) -> Address {
        if self.is_v6() { self.source_v6() } else { Address::from_v4(self.source()) }
    }

    /// The datagram arrives at another of the relay's ports: `port` is 0 or 1, `length` that of the new packet.
    #[inline(always)]
    pub(crate) fn hairpin(self, v6: bool, source: Address, source_port: u16, port: u32, length: u16) {
        self.set_v6(v6 as u8);
        self.set_source(if v6 { source.fold_v6() } else { source.words()[3] });
        self.set_source_v6(source);
        self.set_source_port(source_port);
        self.set_port(port as u8);
        self.set_length(length);
        self.set_ttl(self.ttl().wrapping_sub(1));
    }

    /// The same number, which the verifier knows nothing about.
    #[inline(always)]
    pub(crate) fn hide_from_verifier(self, number: u64) -> u64 {
        self.set_number(number);
        self.number()
    }
}
