//! Every way a packet can leave the XDP program.
//!
//! Each [`Verdict`] has a counter in [`Counters`], an [`Action`], and a row in the packet table of the tests.

/// What the kernel does with the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The packet goes on to the host's network stack, untouched.
    Pass,
    /// The packet ends here.
    Drop,
    /// The packet leaves by the interface it came in on.
    Transmit,
    /// The packet leaves by another interface.
    Redirect,
}

macro_rules! verdicts {
    ($($(#[$doc:meta])* $variant:ident $field:ident $action:ident,)*) => {
        /// How a packet left the program.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Verdict {
            $($(#[$doc])* $variant,)*
        }

        impl Verdict {
            /// All verdicts, in the order of the counters.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The value that the program returns to the kernel.
            #[inline(always)]
            pub const fn action(self) -> Action {
                match self {
                    $(Self::$variant => Action::$action,)*
                }
            }

            /// The name of its counter.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => stringify!($field),)*
                }
            }
        }

        crate::counters::counters! {
            /// One counter for each verdict, packets; the value of the map `COUNTERS`.
            Counters { $($(#[$doc])* $field,)* }
        }

        impl Counters {
            /// The counter of a verdict.
            #[inline(always)]
            pub fn of(&mut self, verdict: Verdict) -> &mut u64 {
                match verdict {
                    $(Verdict::$variant => &mut self.$field,)*
                }
            }
        }
    };
}

verdicts! {
    /// Relayed, out of the interface it came in on.
    ForwardedSame forwarded_same Transmit,
    /// Relayed, out of another interface.
    ForwardedOther forwarded_other Redirect,
    /// Neither IPv4 nor IPv6, or too short to be: the host's own traffic.
    PassedOther passed_other Pass,
    /// IP that is not the relay's: another protocol, address or port.
    PassedHost passed_host Pass,
    /// A fragment to a media address: the relay cannot tell its port.
    PassedFragment passed_fragment Pass,
    /// To a media address, with IPv4 options or IPv6 extension headers.
    PassedOptions passed_options Pass,
    /// UDP to a media port whose lengths contradict each other.
    DroppedMalformed dropped_malformed Drop,
    /// UDP to a media port by another interface or VLAN than the realm's.
    DroppedInterface dropped_interface Drop,
    /// No call has this port.
    DroppedClosed dropped_closed Drop,
    /// Not of a kind that is relayed, or on the wrong one of the two ports.
    DroppedFormat dropped_format Drop,
    /// STUN, where it is not relayed.
    DroppedStun dropped_stun Drop,
    /// DTLS, where it is not relayed.
    DroppedDtls dropped_dtls Drop,
    /// ZRTP, where it is not relayed.
    DroppedZrtp dropped_zrtp Drop,
    /// A datagram of at most four bytes, sent to keep a NAT mapping alive.
    DroppedKeepalive dropped_keepalive Drop,
    /// RTP of a payload type that was not negotiated, from a source that is not latched.
    DroppedPayloadType dropped_payload_type Drop,
    /// From an address or port that may not send here.
    DroppedSource dropped_source Drop,
    /// RTCP before the leg's RTP latched, or from another address than it.
    DroppedRtcpSource dropped_rtcp_source Drop,
    /// From an address that is on trial (`latch = "any"`).
    DroppedTrial dropped_trial Drop,
    /// More than the leg's rate allows.
    DroppedRate dropped_rate Drop,
    /// The other side's address is not known yet.
    DroppedDestination dropped_destination Drop,
    /// TTL or hop limit used up.
    DroppedTtl dropped_ttl Drop,
    /// No way to the destination is known.
    DroppedNextHop dropped_next_hop Drop,
    /// Larger than the way out takes.
    DroppedSize dropped_size Drop,
    /// The packet would pass through the relay more than twice.
    DroppedLoop dropped_loop Drop,
}

const _: () = assert!(core::mem::size_of::<Counters>() == 8 * Verdict::ALL.len());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_stand_in_the_order_of_the_verdicts() {
        for (index, &verdict) in Verdict::ALL.iter().enumerate() {
            let mut counters = Counters::default();
            *counters.of(verdict) += 1;
            let hit: std::vec::Vec<_> = counters.named().enumerate().filter(|(_, (_, n))| *n == 1).collect();
            assert_eq!(hit.len(), 1);
            assert_eq!((hit[0].0, hit[0].1.0), (index, verdict.name()));
            assert_eq!(verdict as usize, index);
        }
    }
}
