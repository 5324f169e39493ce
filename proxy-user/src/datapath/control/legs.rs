//! From a stream as the engine describes it to the two entries of `LEGS` that relay it.

use super::indices::{HopIndex, LegIndex};
use crate::{
    config::Config,
    datapath::DatapathError,
    media::{LegSpec, PerRealm, StreamSpec},
};
use proxy_common::{
    address::Address,
    layout::{GENERATION_MASK, Leg, leg_flags},
    locals::{self, Local},
};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// The relay's own addresses, and where the entries of their ports begin.
#[derive(Clone, Debug)]
pub(in crate::datapath) struct Locals {
    realms: PerRealm<(IpAddr, Local)>,
    /// The program's read-only `LOCALS_SEED`.
    pub(in crate::datapath) seed: u32,
}

impl Locals {
    pub(in crate::datapath) fn new(config: &Config) -> Result<Self, DatapathError> {
        let mut realms = Vec::new();
        let mut first_leg = 0;
        for realm in &config.realms {
            let pairs = realm.ports.pairs();
            // 32,768 pairs would be one port too many for the 16 bits of `ports`.
            let ports = u16::try_from(pairs * 2).map_err(|_| DatapathError::Full("LOCALS"))?;
            let mut vlan = realm.vlan.iter().map(|tag| tag.id);
            let local = Local {
                address: address(realm.media).to_bytes(),
                port_base: realm.ports.first,
                ports,
                first_leg,
                interface: 0,
                vlan: [vlan.next().unwrap_or(0), vlan.next().unwrap_or(0)],
            };
            realms.push((realm.media, local));
            first_leg += pairs;
        }
        let folded: Vec<_> = realms.iter().map(|(own, _)| address(*own).fold()).collect();
        let seed = locals::find_seed(&folded).ok_or(DatapathError::Full("LOCALS"))?;
        Ok(Self { realms: realms.into(), seed })
    }

    /// The map `LOCALS`: slot and value. `interfaces` are the indexes of the realms' interfaces, in their order.
    pub(in crate::datapath) fn table(
        &self,
        interfaces: impl IntoIterator<Item = u32>,
    ) -> impl Iterator<Item = (u32, Local)> {
        self.realms
            .iter()
            .zip(interfaces)
            .map(|((own, local), interface)| (self.slot(*own), Local { interface, ..*local }))
    }

    fn slot(&self, own: IpAddr) -> u32 {
        locals::slot(address(own).fold(), self.seed)
    }

    /// Whether packets to this address may be the relay's.
    pub(super) fn contains(&self, address: IpAddr) -> bool {
        self.realms.iter().any(|(own, _)| *own == address)
    }

    /// Index in `LEGS` of a leg's pair of ports.
    pub(super) fn index_of(&self, leg: &LegSpec) -> Result<LegIndex, DatapathError> {
        let not_local = DatapathError::NotLocal(leg.local);
        match self.realms.get(leg.realm) {
            Some((own, local)) if leg.local.ip() == *own => match local.leg_of(leg.local.port()) {
                Some((index, 0)) => Ok(LegIndex(index)),
                _ => Err(not_local),
            },
            _ => Err(not_local),
        }
    }
}

/// What an entry says beyond its stream's specification.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Placed {
    /// Index in `LEGS`.
    pub(super) index: LegIndex,
    /// Of the leg; not 0.
    pub(super) generation: u16,
    /// Index in `NEXT_HOPS` of the next hop to the leg's `remote`.
    pub(super) to_remote: HopIndex,
    /// Index in `NEXT_HOPS` of the next hop to the leg's `signalling`.
    pub(super) to_signalling: HopIndex,
}

/// The entry of one leg of a stream.
///
/// What a packet that arrives at a leg needs is mostly about the other leg, where it leaves: the next hops to *its*
/// remote addresses, and *its* local address.
pub(super) fn entry(locals: &Locals, spec: &StreamSpec, leg: usize, placed: &[Placed; 2], window_end_ns: u64) -> Leg {
    let (Some(own), Some(peer), Some(here), Some(there)) =
        (spec.legs.get(leg), spec.legs.get(1 - leg), placed.get(leg), placed.get(1 - leg))
    else {
        return Leg::default();
    };
    let policy = &own.policy;
    let rate = policy.rate.map_or((0, 0), |rate| (bucket_rate(rate.bytes_per_s), rate.burst_bytes));
    Leg {
        generation: if own.open { here.generation } else { 0 },
        peer_generation: there.generation,
        flags: flags(own, peer),
        peer: there.index.0,
        next_hop_remote: there.to_remote.0,
        next_hop_signalling: there.to_signalling.0,
        // The table has few slots.
        out_local: locals.slot(peer.local.ip()) as u16,
        out_port: peer.local.port(),
        rate: rate.0,
        burst: rate.1,
        clock: clock(policy.clock_rate),
        remote_address: named(own.remote.map(|remote| remote.rtp.ip())),
        signalling_address: named(own.signalling),
        payload_types: own.payload_types.words(),
        window_end_ns,
        remote_port: own.remote.map_or(0, |remote| remote.rtp.port()),
        remote_rtcp_port: own.remote.map_or(0, |remote| remote.rtcp.port()),
        address_bits_v4: policy.address_bits[0],
        address_bits_v6: policy.address_bits[1],
        reserved: 0,
    }
}

fn flags(own: &LegSpec, peer: &LegSpec) -> u32 {
    let policy = &own.policy;
    let flag = |set: bool, flag: u32| if set { flag } else { 0 };
    // Of the leg where they leave.
    let dscp = peer.policy.dscp.map_or(0, |dscp| leg_flags::SET_DSCP | u32::from(dscp & 0x3f) << leg_flags::DSCP_SHIFT);
    flag(own.send_before_latch && own.remote.is_some(), leg_flags::SEND_BEFORE_LATCH)
        | flag(own.rtcp_mux, leg_flags::RTCP_MUX)
        | flag(peer.rtcp_mux, leg_flags::PEER_RTCP_MUX)
        | flag(own.local.is_ipv6(), leg_flags::V6)
        | flag(peer.local.is_ipv6(), leg_flags::PEER_V6)
        | flag(policy.latch_any, leg_flags::LATCH_ANY)
        | flag(policy.rebind, leg_flags::REBIND)
        | flag(policy.carry.stun, leg_flags::CARRY_STUN)
        | flag(policy.carry.dtls, leg_flags::CARRY_DTLS)
        | flag(policy.carry.zrtp, leg_flags::CARRY_ZRTP)
        | flag(policy.carry.udptl, leg_flags::CARRY_UDPTL)
        | dscp
}

/// Bytes a second as [`Leg::rate`]: 1/256 bytes for each 65,536 ns, rounded up so that nothing allowed is taken away.
fn bucket_rate(bytes_per_s: u32) -> u32 {
    u32::try_from((u64::from(bytes_per_s) * (256 * 65_536)).div_ceil(1_000_000_000)).unwrap_or(u32::MAX)
}

/// Hz as [`Leg::clock`]: units for each ns, times 2^32.
fn clock(hz: u32) -> u32 {
    u32::try_from((u64::from(hz) << 32) / 1_000_000_000).unwrap_or(u32::MAX)
}

/// Whether what a leg learned must be forgotten.
pub(super) fn learns_anew(before: &LegSpec, after: &LegSpec) -> bool {
    let learned_for = |leg: &LegSpec| (leg.epoch, leg.remote, leg.signalling, leg.open);
    learned_for(before) != learned_for(after)
}

/// The generation after this one: 15 bits, never 0.
pub(super) fn next_generation(generation: u16) -> u16 {
    match generation.wrapping_add(1) & GENERATION_MASK {
        0 => 1,
        next => next,
    }
}

/// Refuses what the maps cannot express: addresses that are not of the family of the leg's own.
pub(super) fn check(leg: &LegSpec) -> Result<(), DatapathError> {
    let remote = leg.remote.map(|remote| [remote.rtp.ip(), remote.rtcp.ip()]);
    for address in remote.iter().flatten().copied().chain(leg.signalling) {
        if address.is_ipv6() != leg.local.is_ipv6() {
            return Err(DatapathError::Family(address));
        }
    }
    Ok(())
}

/// The address as maps hold it.
pub(super) fn address(address: IpAddr) -> Address {
    match address {
        IpAddr::V4(v4) => Address::from_bytes(locals::mapped(v4.octets())),
        IpAddr::V6(v6) => Address::from_bytes(v6.octets()),
    }
}

/// The address as maps hold it; all zero where there is none, or one like 0.0.0.0 as in a session description on hold.
fn named(named: Option<IpAddr>) -> [u8; 16] {
    named.filter(|named| !named.is_unspecified()).map_or([0; 16], |named| address(named).to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{PortRange, Realm, RealmPolicy, Side, Trust},
        media::{Carry, LegPolicy, RealmId, RemoteMedia, StreamId},
    };
    use std::net::SocketAddr;

    fn realm(name: &str, media: &str, first: u16, last: u16) -> Realm {
        Realm {
            name: name.into(),
            side: if name == "core" { Side::Core } else { Side::Access },
            interface: "eth0".into(),
            signalling: SocketAddr::new(media.parse().unwrap(), 5060),
            media: media.parse().unwrap(),
            ports: PortRange { first, last },
            vlan: Vec::new(),
            trust: Trust::of(Side::Access),
            policy: RealmPolicy::default(),
            softswitch: None,
            streams: Default::default(),
        }
    }

    fn locals() -> Locals {
        let access = realm("access", "203.0.113.10", 30_000, 30_099);
        Locals::new(&Config::new(vec![access, realm("core", "10.9.0.10", 40_000, 40_199)])).unwrap()
    }

    fn leg(realm: usize, local: &str) -> LegSpec {
        LegSpec {
            realm: RealmId::new(realm),
            local: local.parse().unwrap(),
            open: true,
            epoch: 0,
            remote: None,
            signalling: None,
            payload_types: [0, 101].into_iter().collect(),
            send_before_latch: false,
            rtcp_mux: false,
            policy: LegPolicy::default(),
        }
    }

    #[test]
    fn realms_follow_each_other_in_the_array() {
        let locals = locals();
        for (realm, local, expected) in [
            (0, "203.0.113.10:30000", Some(0)),
            (0, "203.0.113.10:30098", Some(49)),
            (1, "10.9.0.10:40000", Some(50)),
            (1, "10.9.0.10:40198", Some(149)),
            (1, "10.9.0.10:40200", None),
            (0, "203.0.113.10:30001", None),
            (0, "10.9.0.10:40000", None),
            (2, "10.9.0.10:40000", None),
        ] {
            assert_eq!(locals.index_of(&leg(realm, local)).ok(), expected.map(LegIndex), "{realm} {local}");
        }
    }

    #[test]
    fn the_program_finds_every_address_in_the_table() {
        let locals = locals();
        let table: Vec<_> = locals.table([3, 4]).collect();
        assert_eq!(table.len(), 2);
        for (slot, local) in table {
            assert_eq!(proxy_common::locals::slot(Address::from_bytes(local.address).fold(), locals.seed), slot);
        }
        let ip = |text: &str| text.parse().unwrap();
        assert!(locals.contains(ip("10.9.0.10")) && !locals.contains(ip("10.9.0.11")));
    }

    #[test]
    fn the_largest_range_fits() {
        let config = Config::new(vec![realm("access", "203.0.113.10", 1_024, 65_535)]);
        let (_, local) = Locals::new(&config).unwrap().table([3, 4]).next().unwrap();
        assert_eq!(local.leg_of(65_535), Some((32_255, 1)));
    }

    #[test]
    fn an_entry_says_where_from_and_how_out() {
        let remote =
            RemoteMedia { rtp: "192.168.1.10:4000".parse().unwrap(), rtcp: "192.168.1.10:4005".parse().unwrap() };
        let access = LegSpec {
            remote: Some(remote),
            signalling: Some("203.0.113.101".parse().unwrap()),
            ..leg(0, "203.0.113.10:30002")
        };
        let rtp = "10.9.0.30:16384".parse().unwrap();
        let core = LegSpec {
            remote: Some(RemoteMedia { rtp, rtcp: "10.9.0.30:16385".parse().unwrap() }),
            send_before_latch: true,
            rtcp_mux: false,
            policy: LegPolicy::default(),
            open: false,
            ..leg(1, "10.9.0.10:40010")
        };
        let spec = StreamSpec { id: StreamId(1), legs: [access, core] };
        let placed = [
            Placed { index: LegIndex(1), generation: 3, to_remote: HopIndex(4), to_signalling: HopIndex(5) },
            Placed { index: LegIndex(55), generation: 6, to_remote: HopIndex(7), to_signalling: HopIndex(8) },
        ];
        let locals = locals();
        let access = entry(&locals, &spec, 0, &placed, 99);
        assert_eq!(
            access,
            Leg {
                generation: 3,
                peer_generation: 6,
                flags: leg_flags::REBIND,
                peer: 55,
                next_hop_remote: 7,
                next_hop_signalling: 8,
                out_local: locals.slot("10.9.0.10".parse().unwrap()) as u16,
                out_port: 40_010,
                remote_address: locals::mapped([192, 168, 1, 10]),
                signalling_address: locals::mapped([203, 0, 113, 101]),
                payload_types: [1, 0, 0, 1 << 5],
                window_end_ns: 99,
                remote_port: 4_000,
                remote_rtcp_port: 4_005,
                address_bits_v4: 32,
                address_bits_v6: 128,
                ..Leg::default()
            }
        );
        let core = entry(&locals, &spec, 1, &placed, 99);
        assert_eq!((core.generation, core.peer_generation, core.peer), (0, 3, 1), "closed");
        assert_eq!((core.next_hop_remote, core.next_hop_signalling), (4, 5));
        assert_eq!((core.out_port, core.flags), (30_002, leg_flags::SEND_BEFORE_LATCH | leg_flags::REBIND));
        assert_eq!(core.signalling_address, [0; 16]);
    }

    #[test]
    fn an_address_on_hold_is_no_address() {
        let zero = "0.0.0.0:4000".parse().unwrap();
        let access = LegSpec { remote: Some(RemoteMedia { rtp: zero, rtcp: zero }), ..leg(0, "203.0.113.10:30002") };
        let spec = StreamSpec { id: StreamId(1), legs: [access, leg(1, "10.9.0.10:40010")] };
        assert_eq!(entry(&locals(), &spec, 0, &[Placed::default(); 2], 0).remote_address, [0; 16]);
    }

    #[test]
    fn generations_go_round_without_0() {
        assert_eq!(next_generation(0), 1);
        assert_eq!(next_generation(1), 2);
        assert_eq!(next_generation(GENERATION_MASK), 1);
    }

    #[test]
    fn a_leg_has_one_family() {
        let six = LegSpec { signalling: Some("2001:db8::1".parse().unwrap()), ..leg(0, "203.0.113.10:30002") };
        assert!(matches!(check(&six), Err(DatapathError::Family(_))));
        assert!(check(&LegSpec { local: "[2001:db8::10]:30002".parse().unwrap(), ..six }).is_ok());
        assert!(check(&leg(0, "203.0.113.10:30002")).is_ok());
    }

    #[test]
    fn flags_say_what_the_policy_says_and_the_peer_where_packets_leave() {
        let own = LegSpec {
            rtcp_mux: true,
            policy: LegPolicy {
                latch_any: true,
                rebind: false,
                dscp: Some(1),
                carry: Carry { dtls: true, ..Carry::default() },
                ..LegPolicy::default()
            },
            ..leg(0, "203.0.113.10:30002")
        };
        let peer =
            LegSpec { policy: LegPolicy { dscp: Some(46), ..LegPolicy::default() }, ..leg(1, "[2001:db8::10]:40010") };
        let dscp = leg_flags::SET_DSCP | 46 << leg_flags::DSCP_SHIFT;
        let learning = leg_flags::LATCH_ANY | leg_flags::CARRY_DTLS;
        assert_eq!(flags(&own, &peer), learning | leg_flags::RTCP_MUX | leg_flags::PEER_V6 | dscp);
        let dscp = leg_flags::SET_DSCP | 1 << leg_flags::DSCP_SHIFT;
        assert_eq!(flags(&peer, &own), leg_flags::REBIND | leg_flags::PEER_RTCP_MUX | leg_flags::V6 | dscp);
    }

    #[test]
    fn rates_and_clocks_are_those_of_the_second() {
        for bytes_per_s in [1, 8_000, 10_700, 250_000, 125_000_000] {
            let second = u64::from(bucket_rate(bytes_per_s)) * 1_000_000_000 / 65_536 / 256;
            let wanted = u64::from(bytes_per_s);
            assert!((wanted..=wanted + 60).contains(&second), "{bytes_per_s}: {second}");
        }
        for hz in [8_000, 16_000, 48_000, 90_000] {
            let second = (u64::from(clock(hz)) * 1_000_000_000) >> 32;
            assert!(second.abs_diff(u64::from(hz)) <= 1, "{hz}: {second}");
        }
    }
}
