//! The configuration: what `latch.toml` says, checked.
//!
//! - here: the model and its defaults, which engine, datapath and `io` read;
//! - `file` and `reader`: from text to model, each value with its place in the text;
//! - `streams`: transports that have connections;
//! - `check`: rules between fields;
//! - [`host`]: whether the file fits this host;
//! - `report`: what is wrong, where, and what would be right.

use crate::{
    flow::{Flow, Transport},
    media::{Carry, LegPolicy, PerRealm, Rate},
};
use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

mod check;
mod file;
pub mod host;
mod reader;
mod report;
mod streams;
#[cfg(test)]
mod tests;

pub use file::Overrides;
pub use report::{Problem, Problems};
pub use streams::{Certificate, Connections, Streams};

/// Everything that can be set. Build one by hand with [`Config::new`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The networks that Latch has a foot in.
    pub realms: PerRealm<Realm>,
    /// Keeping the NAT mappings of terminals alive.
    pub keepalive: KeepAlive,
    /// Streams and their ports.
    pub media: Media,
    /// Timers of RFC 3261.
    pub sip: Sip,
    /// How much connections may cost.
    pub connections: Connections,
    /// Call detail records.
    pub cdr: CdrFile,
    /// What outlives the process.
    pub state: State,
    /// Sizes of the BPF maps.
    pub maps: Maps,
    /// How much state the control plane may hold.
    pub limits: Limits,
    /// How much of it strangers may hold.
    pub strangers: Strangers,
}

impl Config {
    /// These realms, and the default of everything else.
    pub fn new(realms: impl Into<PerRealm<Realm>>) -> Self {
        Self {
            realms: realms.into(),
            keepalive: KeepAlive::default(),
            media: Media::default(),
            sip: Sip::default(),
            connections: Connections::default(),
            cdr: CdrFile::default(),
            state: State::default(),
            maps: Maps::default(),
            limits: Limits::default(),
            strangers: Strangers::default(),
        }
    }

    /// The number of port pairs in all realms, which is the least number of entries of `LEGS`.
    pub fn port_pairs(&self) -> u32 {
        self.realms.iter().map(|realm| realm.ports.pairs()).sum()
    }
}

/// One network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Realm {
    /// For people: in logs and records.
    pub name: String,
    /// Who is there.
    pub side: Side,
    /// Name of the network interface towards it.
    pub interface: String,
    /// Own address for signalling, with the port for UDP.
    pub signalling: SocketAddr,
    /// Own address for media.
    pub media: IpAddr,
    /// Ports of `media` that the relay uses.
    pub ports: PortRange,
    /// Tags of its frames on `interface`, outermost first: none, 802.1Q, or 802.1ad with 802.1Q inside.
    pub vlan: Vec<VlanTag>,
    /// How far its parties are believed.
    pub trust: Trust,
    /// How its legs learn and what their packets are marked with.
    pub policy: RealmPolicy,
    /// Where requests of terminals go. Set on core realms, and only there.
    pub softswitch: Option<SocketAddr>,
    /// The transports besides UDP.
    pub streams: Streams,
}

impl Realm {
    /// The own address of a transport, if there is one.
    pub fn own(&self, transport: Transport) -> Option<SocketAddr> {
        let port = match transport {
            Transport::Udp => Some(self.signalling.port()),
            transport => self.streams.port(transport),
        };
        port.map(|port| SocketAddr::new(self.signalling.ip(), port))
    }

    /// Where and how requests of terminals go.
    pub fn softswitch_flow(&self) -> Option<Flow> {
        self.softswitch.map(|softswitch| Flow::to(self.streams.softswitch, softswitch))
    }
}

/// How far the parties of a realm are believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trust {
    /// What their messages and session descriptions state is believed.
    pub trusted: bool,
    /// The media addresses of their session descriptions count even where the realm is not trusted and their signalling
    /// comes from another address.
    pub believes_media: bool,
    /// Identity and charging headers of their messages reach trusted realms even where the realm is not trusted.
    pub believes_identity: bool,
    /// Where the realm is not trusted, it sees identity headers of others who did not ask for privacy.
    pub shows_identity: bool,
}

impl Trust {
    /// The default of a realm of this kind.
    pub fn of(side: Side) -> Self {
        let trusted = side == Side::Core;
        Self { trusted, believes_media: false, believes_identity: false, shows_identity: true }
    }

    /// Whether its parties may state in a header who somebody is.
    pub fn may_assert(&self) -> bool {
        self.trusted || self.believes_identity
    }

    /// Whether a media address in a session description counts whatever address the signalling comes from.
    pub fn media_counts(&self) -> bool {
        self.trusted || self.believes_media
    }
}

/// How the legs of a realm learn, what may arrive there, what leaves with which mark, and how much there may be of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RealmPolicy {
    /// DSCP (RFC 2474), 0 to 63, of audio, of video and of other media that leave there; `None` keeps what they had.
    pub dscp: [Option<u8>; 3],
    /// An address that signalling did not name may latch too, after a trial.
    pub latch_any: bool,
    /// A NAT may give a running stream another port.
    pub rebind: bool,
    /// Bits of an IPv4 and of an IPv6 address that must agree with one that signalling named.
    pub latch_prefix: [u8; 2],
    /// What is relayed from there besides RTP and RTCP, whatever the session descriptions say.
    pub carry: Carry,
    /// The most that a stream may bring in, kbit/s of IP packets; `None` is any.
    pub stream_kbps: Option<u32>,
    /// A stream may bring in at most what was negotiated, with a margin.
    pub negotiated_rate: bool,
    /// That margin, percent.
    pub rate_margin_percent: u32,
    /// What a stream may bring in however little was negotiated, kbit/s of IP packets.
    pub rate_min_kbps: u32,
    /// How many calls there may be, and how much media.
    pub admission: AdmissionLimits,
}

impl Default for RealmPolicy {
    fn default() -> Self {
        Self {
            dscp: [None; 3],
            latch_any: false,
            rebind: true,
            latch_prefix: [32, 128],
            carry: Carry::default(),
            stream_kbps: None,
            negotiated_rate: true,
            rate_margin_percent: 50,
            rate_min_kbps: 64,
            admission: AdmissionLimits::default(),
        }
    }
}

impl RealmPolicy {
    /// What it says of a leg with media of this kind, the `m=` line's first word; `nominal` is what was negotiated,
    /// bytes a second of IP packets, where that is known.
    pub fn of_leg(&self, kind: &str, nominal: Option<u64>) -> LegPolicy {
        let [audio, video, other] = self.dscp;
        LegPolicy {
            latch_any: self.latch_any,
            rebind: self.rebind,
            address_bits: self.latch_prefix,
            rate: self.rate(nominal),
            carry: self.carry,
            dscp: match kind {
                "audio" => audio,
                "video" => video,
                _ => other,
            },
            ..LegPolicy::default()
        }
    }

    fn rate(&self, nominal: Option<u64>) -> Option<Rate> {
        let most = self.stream_kbps.map(|kbps| u64::from(kbps) * 125);
        let negotiated = nominal.filter(|_| self.negotiated_rate).map(|nominal| {
            let with_margin = nominal.saturating_mul(100 + u64::from(self.rate_margin_percent)).div_ceil(100);
            with_margin.max(u64::from(self.rate_min_kbps) * 125)
        });
        let bytes_per_s = most.into_iter().chain(negotiated).min()?;
        let bytes_per_s = u32::try_from(bytes_per_s).unwrap_or(u32::MAX);
        // A burst of one second is allowed, and always of a few full packets.
        Some(Rate { bytes_per_s, burst_bytes: bytes_per_s.max(16_384) })
    }
}

/// The most at the same time in a realm, and for one of its users; `None` is any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdmissionLimits {
    /// Calls.
    pub max_calls: Option<u32>,
    /// Media in each direction, kbit/s of IP packets.
    pub max_kbps: Option<u32>,
    /// Calls of one user.
    pub max_calls_per_user: Option<u32>,
    /// Media of one user in each direction, kbit/s of IP packets.
    pub max_kbps_per_user: Option<u32>,
    /// Status code that refuses a call: 486, 488 or 503.
    pub refuse_with: u16,
}

impl Default for AdmissionLimits {
    fn default() -> Self {
        Self { max_calls: None, max_kbps: None, max_calls_per_user: None, max_kbps_per_user: None, refuse_with: 503 }
    }
}

/// One VLAN tag (IEEE 802.1Q).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VlanTag {
    /// VLAN identifier, 1 to 4094.
    pub id: u16,
    /// Priority code point of frames that are sent, 0 to 7; received ones may have any.
    pub priority: u8,
}

/// The two kinds of realm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Terminals, mostly behind NATs.
    Access,
    /// The softswitch.
    Core,
}

/// UDP ports, both ends included: whole pairs of an even and the next odd port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    /// Lowest, even.
    pub first: u16,
    /// Highest, odd, above `first`.
    pub last: u16,
}

impl PortRange {
    /// The number of pairs.
    pub fn pairs(self) -> u32 {
        (u32::from(self.last) + 1).saturating_sub(u32::from(self.first)) / 2
    }

    /// Whether `port` is one of them.
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

/// Keep-alive requests to registered terminals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeepAlive {
    /// SIP method of the request.
    pub method: String,
    /// Time between two; `None` switches keep-alive off.
    pub period: Option<Duration>,
    /// After this many in a row without an answer a terminal is unreachable.
    pub failures: u32,
}

impl Default for KeepAlive {
    fn default() -> Self {
        Self { method: "OPTIONS".into(), period: Some(Duration::from_secs(25)), failures: 3 }
    }
}

/// Streams and their ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Media {
    /// How long after the last offer or answer a better candidate may replace a latched one.
    pub learning_window: Duration,
    /// A stream without a packet in either direction for this long ends its call.
    pub silence_timeout: Duration,
    /// How long a released port pair rests before it is used again.
    pub hold_time: Duration,
    /// What relays.
    pub relay: Relay,
}

/// What relays the media.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Relay {
    /// The first of the others that this host grants.
    #[default]
    Auto,
    /// The XDP program in the driver, or nothing.
    Native,
    /// The XDP program in the network stack.
    Generic,
    /// This process.
    UserSpace,
}

impl Relay {
    /// All, by the names that users write.
    pub const NAMES: [(&'static str, Self); 4] =
        [("auto", Self::Auto), ("native", Self::Native), ("generic", Self::Generic), ("user", Self::UserSpace)];
}

impl std::str::FromStr for Relay {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::NAMES.into_iter().find(|(name, _)| *name == text);
        found.map(|(_, relay)| relay).ok_or_else(|| {
            let names: Vec<_> = Self::NAMES.iter().map(|(name, _)| format!("\"{name}\"")).collect();
            format!("is none of {}", names.join(", "))
        })
    }
}

impl Default for Media {
    fn default() -> Self {
        Self {
            learning_window: Duration::from_secs(5),
            silence_timeout: Duration::from_secs(60),
            hold_time: Duration::from_secs(10),
            relay: Relay::Auto,
        }
    }
}

/// Timers of RFC 3261 §17 and appendix A.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sip {
    /// T1, the estimate of the round trip.
    pub t1: Duration,
    /// T2, the longest interval between retransmissions.
    pub t2: Duration,
    /// Timer C: an INVITE without a final response for this long is cancelled (section 16.6, step 11).
    pub invite_timeout: Duration,
    /// Tells the softswitch in a header field of this name from where each request of a terminal came.
    pub source_header: Option<String>,
}

impl Default for Sip {
    fn default() -> Self {
        Self {
            t1: Duration::from_millis(500),
            t2: Duration::from_secs(4),
            invite_timeout: Duration::from_secs(180),
            source_header: None,
        }
    }
}

/// Call detail records.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct CdrFile {
    /// One JSON line a call is appended here, or written to standard output where it is `-`; `None` writes none.
    pub file: Option<PathBuf>,
}

/// What outlives the process, so that the next one continues the calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Directory of the journal.
    pub directory: PathBuf,
    /// Directory in a BPF file system: maps and links are pinned in one below it that is named after their layout.
    pub pins: PathBuf,
    /// SIGTERM and SIGINT end the process only; calls are left to the next one.
    pub keep: bool,
}

impl Default for State {
    fn default() -> Self {
        Self { directory: "/var/lib/latch".into(), pins: "/sys/fs/bpf/latch".into(), keep: false }
    }
}

/// Sizes of the BPF maps, fixed while the program runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Maps {
    /// Entries of `LEGS` and `LEG_STATE`, 256 bytes together; at least [`Config::port_pairs`].
    pub max_legs: u32,
    /// Entries of `NEXT_HOPS`, at most 65,536: neighbours and gateways in use at once, and one for "unresolved".
    pub max_next_hops: u32,
    /// Size of the ring buffer `EVENTS`, bytes; a power of two and a multiple of the page size.
    pub events_bytes: u32,
    /// Entries of `SIG_SOURCES` and `SIG_NETWORKS`, 176 bytes together: strangers, and their networks, each with its
    /// own limit of messages a second. The entry that was silent longest is replaced by a new one.
    pub max_sources: u32,
}

impl Default for Maps {
    fn default() -> Self {
        Self { max_legs: 16_384, max_next_hops: 1_024, events_bytes: 1 << 18, max_sources: 1 << 16 }
    }
}

/// How much state the control plane may hold, so that no input makes it grow without bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Calls at once; more are answered 503.
    pub max_calls: usize,
    /// Registered contacts.
    pub max_registrations: usize,
    /// SIP transactions at once.
    pub max_transactions: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_calls: 20_000, max_registrations: 100_000, max_transactions: 100_000 }
    }
}

/// What strangers may have, so that they cannot use up what all share: everybody who is not registered, not in an
/// answered call and not the softswitch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Strangers {
    /// The share of all strangers together in calls, dialogs, transactions, pairs of ports and bytes, percent of the
    /// limits of all.
    pub percent: u32,
    /// Those of one network (/24 of IPv4, /48 of IPv6), percent of what all strangers may have.
    pub network_percent: u32,
    /// One source (an IPv4 address, a /64 of IPv6), percent of what all strangers may have.
    pub source_percent: u32,
    /// Messages a second of all strangers.
    pub messages_per_s: u32,
}

impl Default for Strangers {
    fn default() -> Self {
        Self { percent: 25, network_percent: 50, source_percent: 25, messages_per_s: 2_000 }
    }
}
