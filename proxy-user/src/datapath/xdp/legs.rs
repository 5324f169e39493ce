//! From a stream as the engine speaks of it to the two entries of `LEGS` that relay it.

use crate::{
    config::Config,
    datapath::DatapathError,
    media::{LegSpec, StreamSpec},
};
use proxy_common::{
    layout::{GENERATION_MASK, Leg, leg_flags},
    locals::{self, Local},
};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// The relay's own addresses, and where the entries of their ports begin.
#[derive(Clone, Debug)]
pub(super) struct Locals {
    realms: Vec<(Ipv4Addr, Local)>,
    /// The program's read-only `LOCALS_SEED`.
    pub(super) seed: u32,
}

impl Locals {
    pub(super) fn new(config: &Config) -> Result<Self, DatapathError> {
        let mut realms = Vec::new();
        let mut first_leg = 0;
        for realm in &config.realms {
            let address = v4(realm.media)?;
            let pairs = realm.ports.pairs();
            // 32,768 pairs would be one port too many for the 16 bits of `ports`.
            let ports = u16::try_from(pairs * 2).map_err(|_| DatapathError::Full("LOCALS"))?;
            let local = Local {
                address: locals::mapped(address.octets()),
                port_base: realm.ports.first,
                ports,
                first_leg,
                ..Local::default()
            };
            realms.push((address, local));
            first_leg += pairs;
        }
        let addresses: Vec<_> = realms.iter().map(|(address, _)| address.octets()).collect();
        let seed = locals::find_seed(&addresses).ok_or(DatapathError::Full("LOCALS"))?;
        Ok(Self { realms, seed })
    }

    /// The map `LOCALS`: slot and value. `interfaces` are the indexes of the realms' interfaces, in their order.
    pub(super) fn table(&self, interfaces: impl IntoIterator<Item = u32>) -> impl Iterator<Item = (u32, Local)> {
        self.realms.iter().zip(interfaces).map(|((address, local), interface)| {
            (locals::slot(u32::from_le_bytes(address.octets()), self.seed), Local { interface, ..*local })
        })
    }

    /// Whether packets to this address may be the relay's.
    pub(super) fn contains(&self, address: IpAddr) -> bool {
        self.realms.iter().any(|(own, _)| IpAddr::V4(*own) == address)
    }

    /// Index in `LEGS` of a leg's pair of ports.
    pub(super) fn index_of(&self, leg: &LegSpec) -> Result<u32, DatapathError> {
        let not_local = DatapathError::NotLocal(leg.local);
        match self.realms.get(leg.realm) {
            Some((address, local)) if leg.local.ip() == *address => match local.leg_of(leg.local.port()) {
                Some((index, 0)) => Ok(index),
                _ => Err(not_local),
            },
            _ => Err(not_local),
        }
    }
}

/// What an entry says beyond its stream's specification.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Placed {
    /// Index in `LEGS`.
    pub(super) index: u32,
    /// Of the leg; not 0.
    pub(super) generation: u16,
    /// Index in `NEXT_HOPS` of the way to the leg's `remote`.
    pub(super) to_remote: u16,
    /// Index in `NEXT_HOPS` of the way to the leg's `signalling`.
    pub(super) to_signalling: u16,
}

/// The entry of one leg of a stream.
///
/// What a packet that arrives at a leg needs is mostly about the other leg, where it leaves: the ways to *its* remote
/// addresses and *its* local address.
pub(super) fn entry(spec: &StreamSpec, leg: usize, placed: &[Placed; 2], window_end_ns: u64) -> Leg {
    let (Some(own), Some(peer), Some(here), Some(there)) =
        (spec.legs.get(leg), spec.legs.get(1 - leg), placed.get(leg), placed.get(1 - leg))
    else {
        return Leg::default();
    };
    let send_before_latch = own.send_before_latch && own.remote.is_some();
    Leg {
        generation: if own.open { here.generation } else { 0 },
        peer_generation: there.generation,
        flags: if send_before_latch { leg_flags::SEND_BEFORE_LATCH } else { 0 },
        peer: there.index,
        next_hop_remote: there.to_remote,
        next_hop_signalling: there.to_signalling,
        out_address: mapped(Some(peer.local.ip())),
        out_port: peer.local.port(),
        remote_address: mapped(own.remote.map(|remote| remote.rtp.ip())),
        signalling_address: mapped(own.signalling),
        payload_types: own.payload_types.words(),
        window_end_ns,
        remote_port: own.remote.map_or(0, |remote| remote.rtp.port()),
        remote_rtcp_port: own.remote.map_or(0, |remote| remote.rtcp.port()),
        ..Leg::default()
    }
}

/// Whether what a leg learned is to be forgotten.
pub(super) fn learns_anew(before: &LegSpec, after: &LegSpec) -> bool {
    (before.remote, before.signalling, before.open) != (after.remote, after.signalling, after.open)
}

/// The generation after this one: 15 bits, never 0.
pub(super) fn next_generation(generation: u16) -> u16 {
    match generation.wrapping_add(1) & GENERATION_MASK {
        0 => 1,
        next => next,
    }
}

/// Refuses what the maps cannot say.
pub(super) fn check(leg: &LegSpec) -> Result<(), DatapathError> {
    let remote = leg.remote.map(|remote| [remote.rtp, remote.rtcp]);
    for address in remote.iter().flatten().map(SocketAddr::ip).chain(leg.signalling) {
        v4(address)?;
    }
    Ok(())
}

/// The address, or that it is of another family.
pub(super) fn v4(address: IpAddr) -> Result<Ipv4Addr, DatapathError> {
    match address {
        IpAddr::V4(v4) => Ok(v4),
        IpAddr::V6(_) => Err(DatapathError::Family(address)),
    }
}

/// As maps hold it; all zero where there is none, or 0.0.0.0 as in a session description on hold.
fn mapped(address: Option<IpAddr>) -> [u8; 16] {
    match address {
        Some(IpAddr::V4(v4)) if !v4.is_unspecified() => locals::mapped(v4.octets()),
        _ => [0; 16],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{PortRange, Realm, Side},
        media::{LegPolicy, RemoteMedia, StreamId},
    };

    fn realm(name: &str, media: &str, first: u16, last: u16) -> Realm {
        Realm {
            name: name.into(),
            side: if name == "core" { Side::Core } else { Side::Access },
            interface: "eth0".into(),
            signalling: SocketAddr::new(media.parse().unwrap(), 5060),
            media: media.parse().unwrap(),
            ports: PortRange { first, last },
            vlan: Vec::new(),
            softswitch: None,
        }
    }

    fn locals() -> Locals {
        let access = realm("access", "203.0.113.10", 30_000, 30_099);
        Locals::new(&Config::new(vec![access, realm("core", "10.9.0.10", 40_000, 40_199)])).unwrap()
    }

    fn leg(realm: usize, local: &str) -> LegSpec {
        LegSpec {
            realm,
            local: local.parse().unwrap(),
            open: true,
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
            assert_eq!(locals.index_of(&leg(realm, local)).ok(), expected, "{realm} {local}");
        }
    }

    #[test]
    fn the_program_finds_every_address_in_the_table() {
        let locals = locals();
        let table: Vec<_> = locals.table([3, 4]).collect();
        assert_eq!(table.len(), 2);
        for (slot, local) in table {
            let address =
                u32::from_le_bytes([local.address[12], local.address[13], local.address[14], local.address[15]]);
            assert_eq!(proxy_common::locals::slot(address, locals.seed), slot);
        }
        assert!(locals.contains([10, 9, 0, 10].into()) && !locals.contains([10, 9, 0, 11].into()));
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
            Placed { index: 1, generation: 3, to_remote: 4, to_signalling: 5 },
            Placed { index: 55, generation: 6, to_remote: 7, to_signalling: 8 },
        ];
        let access = entry(&spec, 0, &placed, 99);
        assert_eq!(
            access,
            Leg {
                generation: 3,
                peer_generation: 6,
                flags: 0,
                peer: 55,
                next_hop_remote: 7,
                next_hop_signalling: 8,
                out_address: locals::mapped([10, 9, 0, 10]),
                out_port: 40_010,
                remote_address: locals::mapped([192, 168, 1, 10]),
                signalling_address: locals::mapped([203, 0, 113, 101]),
                payload_types: [1, 0, 0, 1 << 5],
                window_end_ns: 99,
                remote_port: 4_000,
                remote_rtcp_port: 4_005,
                ..Leg::default()
            }
        );
        let core = entry(&spec, 1, &placed, 99);
        assert_eq!((core.generation, core.peer_generation, core.peer), (0, 3, 1), "closed");
        assert_eq!((core.next_hop_remote, core.next_hop_signalling), (4, 5));
        assert_eq!((core.out_port, core.flags), (30_002, leg_flags::SEND_BEFORE_LATCH));
        assert_eq!(core.signalling_address, [0; 16]);
    }

    #[test]
    fn an_address_on_hold_is_no_address() {
        let zero = "0.0.0.0:4000".parse().unwrap();
        let access = LegSpec { remote: Some(RemoteMedia { rtp: zero, rtcp: zero }), ..leg(0, "203.0.113.10:30002") };
        let spec = StreamSpec { id: StreamId(1), legs: [access, leg(1, "10.9.0.10:40010")] };
        assert_eq!(entry(&spec, 0, &[Placed::default(); 2], 0).remote_address, [0; 16]);
    }

    #[test]
    fn generations_go_round_without_0() {
        assert_eq!(next_generation(0), 1);
        assert_eq!(next_generation(1), 2);
        assert_eq!(next_generation(GENERATION_MASK), 1);
    }

    #[test]
    fn ipv6_is_refused() {
        let six = LegSpec { signalling: Some("2001:db8::1".parse().unwrap()), ..leg(0, "203.0.113.10:30002") };
        assert!(matches!(check(&six), Err(DatapathError::Family(_))));
        assert!(check(&leg(0, "203.0.113.10:30002")).is_ok());
    }
}
