//! One stream of a call: its ports, what was agreed on, and as the datapath has it.

use super::{
    description::{Agreed, Exchange},
    sides::{CallSide, PerSide},
};
use crate::{
    config::Realm,
    journal::moment,
    media::{
        Carry, Description, LegCounters, LegPolicy, LegSpec, MediaCommand, MediaPlan, PerRealm, RealmId, RemoteMedia,
        StreamId, StreamSpec,
        allocator::{PortAllocator, PortPair},
        bandwidth::Codec,
    },
};
use serde::{Deserialize, Serialize};
use std::{
    net::{IpAddr, SocketAddr},
    time::Instant,
};

/// What a session needs from the engine around it.
pub(super) struct Resources<'a> {
    pub(super) allocators: &'a mut PerRealm<PortAllocator>,
    /// For media.
    pub(super) addresses: &'a PerRealm<IpAddr>,
    /// What each realm says of its legs.
    pub(super) realms: &'a PerRealm<Realm>,
    pub(super) next_stream: &'a mut u64,
    pub(super) random: &'a mut dyn FnMut() -> u64,
    pub(super) commands: &'a mut Vec<MediaCommand>,
    pub(super) now: Instant,
}

impl Resources<'_> {
    pub(super) fn allocate(&mut self, realm: RealmId) -> Result<PortPair, OfferError> {
        let random = (self.random)();
        let allocator = self.allocators.get_mut(realm).ok_or(OfferError::PortsExhausted(realm))?;
        allocator.allocate(random, self.now).map_err(|_| OfferError::PortsExhausted(realm))
    }
}

/// Why an offer can't be passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OfferError {
    /// No pair of ports is left in the realm.
    PortsExhausted(RealmId),
    /// It holds media, but none that can be relayed.
    NothingToRelay,
}

/// One party, as far as media go.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Side {
    pub(super) realm: RealmId,
    /// Where its signalling comes from.
    pub(super) signalling: IpAddr,
    /// Its realm is trusted: its session descriptions tell the truth about its addresses.
    pub(super) trusted: bool,
    /// Its realm is not trusted, but the addresses of its media count nevertheless.
    #[serde(default)]
    pub(super) believed: bool,
}

impl Side {
    /// Whether a media address that it states may be sent to and learned from. Behind a NAT it states a private
    /// address, which may belong to somebody else in the access network.
    fn may_state(&self, address: IpAddr) -> bool {
        self.trusted || self.believed || address == self.signalling
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Slot {
    pub(super) id: StreamId,
    pub(super) index: usize,
    pub(super) ports: PerSide<PortPair>,
    pub(super) agreed: Agreed,
    /// An answer opened both of its legs.
    #[serde(default = "answered")]
    pub(super) answered: bool,
    /// As the datapath has it.
    pub(super) applied: Option<StreamSpec>,
    /// Of the silence that lasts: its first and its last report.
    #[serde(with = "moment")]
    pub(super) silent: Option<(Instant, Instant)>,
    /// Of each side the source of RTP and of RTCP.
    #[serde(with = "moment")]
    pub(super) latched: [[Option<(SocketAddr, Instant)>; 2]; 2],
}

/// What became of a stream.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct StreamReport {
    pub(super) index: usize,
    pub(super) kind: String,
    pub(super) codec: Codec,
    #[serde(with = "moment")]
    pub(super) latched: [[Option<(SocketAddr, Instant)>; 2]; 2],
    pub(super) counters: [LegCounters; 2],
}

impl StreamReport {
    /// The same stream once more, later.
    pub(super) fn add(&mut self, later: &Self) {
        for (counters, more) in self.counters.iter_mut().zip(&later.counters) {
            counters.add(more);
        }
        for (known, later) in self.latched.iter_mut().flatten().zip(later.latched.iter().flatten()) {
            *known = later.or(*known);
        }
    }
}

/// Of a journal that does not say it.
fn answered() -> bool {
    true
}

impl Slot {
    /// How the media goes into a session description for side `to`.
    ///
    /// Whether RTP and RTCP share a port is agreed on with each side separately: an offer of one side is taken whatever
    /// the other side can do, and passed on.
    pub(super) fn plan(&self, to: CallSide, offered: &Description, exchange: Exchange) -> MediaPlan {
        let (rtp_port, rtcp_port) = (self.ports[to].rtp(), self.ports[to].rtcp());
        let shares = self.agreed.rtcp_mux[to];
        match exchange {
            // The port for RTCP is that of the case that the other side can't (RFC 5761 §5.1.1). A side that could
            // before may still rely on it.
            Exchange::Offer => MediaPlan::Relay { rtp_port, rtcp_port, rtcp_mux: offered.rtcp_mux || shares },
            Exchange::Answer if shares => MediaPlan::Relay { rtp_port, rtcp_port: rtp_port, rtcp_mux: true },
            Exchange::Answer => MediaPlan::Relay { rtp_port, rtcp_port, rtcp_mux: false },
        }
    }

    fn local(&self, side: CallSide, sides: &PerSide<Side>, resources: &Resources<'_>) -> SocketAddr {
        let address = resources.addresses.get(sides[side].realm).copied();
        SocketAddr::new(address.unwrap_or(IpAddr::from([0, 0, 0, 0])), self.ports[side].rtp())
    }

    /// What the realm and the media say of the leg of a side.
    fn policy(&self, side: CallSide, realm: RealmId, resources: &Resources<'_>) -> LegPolicy {
        let Some(realm) = resources.realms.get(realm) else { return LegPolicy::default() };
        let agreed = &self.agreed;
        let policy = realm.policy.of_leg(&agreed.kind, agreed.sends[side].map(|sends| sends.on(realm.media)));
        let carry = Carry {
            stun: policy.carry.stun || agreed.carry.stun,
            dtls: policy.carry.dtls || agreed.carry.dtls,
            zrtp: policy.carry.zrtp || agreed.carry.zrtp,
            udptl: agreed.carry.udptl,
        };
        LegPolicy { carry, clock_rate: agreed.clock_rate, ..policy }
    }

    /// Where a side wants its media, as far as what it states counts.
    fn remote(&self, side: CallSide, party: &Side, local: SocketAddr) -> Option<RemoteMedia> {
        let RemoteMedia { rtp, rtcp } = self.agreed.remotes[side]?;
        // Of the other IP version it cannot be reached here.
        let counts = |stated: SocketAddr| stated.is_ipv4() == local.is_ipv4() && party.may_state(stated.ip());
        let beside = || rtp.port().checked_add(1).map_or(rtp, |port| SocketAddr::new(rtp.ip(), port));
        let rtcp = match rtcp {
            _ if self.agreed.rtcp_mux[side] => rtp,
            stated if counts(stated) => stated,
            _ => beside(),
        };
        counts(rtp).then_some(RemoteMedia { rtp, rtcp })
    }

    pub(super) fn apply(&mut self, sides: &PerSide<Side>, resources: &mut Resources<'_>, open: PerSide<bool>) {
        let leg = |side: CallSide| {
            let party = &sides[side];
            let local = self.local(side, sides, resources);
            let remote = self.remote(side, party, local);
            LegSpec {
                realm: party.realm,
                local,
                open: open[side],
                epoch: self.agreed.epochs[side],
                remote,
                signalling: Some(party.signalling),
                payload_types: self.agreed.payload_types,
                send_before_latch: remote.is_some(),
                rtcp_mux: self.agreed.rtcp_mux[side],
                policy: self.policy(side, party.realm, resources),
            }
        };
        let spec = StreamSpec { id: self.id, legs: CallSide::BOTH.map(leg) };
        if self.applied.as_ref() != Some(&spec) {
            self.applied = Some(spec.clone());
            self.silent = None;
            resources.commands.push(MediaCommand::Apply(spec));
        }
    }
}
