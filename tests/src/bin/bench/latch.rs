//! Latch's relay as the product runs it: its object, loaded and driven by its own datapath.

use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aya::programs::{ProgramFd, loaded_programs};
use proxy_user::{
    config::{Config, PortRange, Realm, RealmPolicy, Side, Trust},
    datapath::{Datapath, MediaRelay, Mode, kernel::StartMode},
    media::{LegPolicy, LegSpec, MediaEvent, RealmId, RemoteMedia, StreamId, StreamSpec},
    objects,
};
use testbed::{address, chain, leftovers::BpfObjects};

use crate::cases::{RELAY, STREAMS};

/// The relay's RTP port towards the sink, of the first stream.
const CORE: SocketAddrV4 = SocketAddrV4::new(address::LATCH_CORE, 30_000);

/// The datapath with its streams. Dropped, the program is gone.
pub(crate) struct Relay {
    datapath: MediaRelay,
}

impl Relay {
    /// Loads the program and opens the streams, in the namespace of the calling thread.
    pub(crate) fn start() -> Result<Self> {
        let (object, _) = objects::RELAY.find()?;
        let mut datapath = MediaRelay::start(&config(), &object, &StartMode::Process).context("Latch's datapath")?;
        ensure!(datapath.mode() == Mode::Native, "Latch's program is not in native mode");
        for number in 0..STREAMS {
            datapath.apply(stream(number), Instant::now())?;
        }
        let mut relay = Self { datapath };
        relay.poll(Duration::from_millis(50));
        Ok(relay)
    }

    /// An error where a side of a stream has not been learned.
    pub(crate) fn ensure_latched(&mut self) -> Result<()> {
        let events = self.poll(Duration::from_millis(50));
        let latched = |event: &&MediaEvent| matches!(event, MediaEvent::Latched { .. });
        let latched = events.iter().filter(latched).count();
        ensure!(latched == 2 * usize::from(STREAMS), "{latched} legs of {STREAMS} streams have latched: {events:?}");
        Ok(())
    }

    /// The program in the kernel.
    pub(crate) fn program(&self) -> Result<ProgramFd> {
        // Another Latch on this machine has a program of this name too.
        let id = BpfObjects::of(std::process::id())?.program("latch").context("no program latch")?;
        let ours = loaded_programs().flatten().find(|program| u64::from(program.id()) == id);
        Ok(ours.context("no program latch is loaded")?.fd()?)
    }

    /// Does for the datapath what the product's loop does.
    fn poll(&mut self, time: Duration) -> Vec<MediaEvent> {
        let mut events = Vec::new();
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.datapath.poll_events(Instant::now(), &mut events);
            std::thread::sleep(Duration::from_millis(2));
        }
        events
    }
}

fn config() -> Config {
    let realm = |name: &str, side, own: std::net::Ipv4Addr, softswitch| Realm {
        name: name.into(),
        side,
        interface: name.into(),
        signalling: SocketAddr::from((own, 5060)),
        media: IpAddr::V4(own),
        ports: PortRange { first: 30_000, last: 39_999 },
        vlan: Vec::new(),
        trust: Trust::of(side),
        policy: RealmPolicy::default(),
        softswitch,
        streams: Default::default(),
    };
    let softswitch = Some(SocketAddr::from((address::SOFTSWITCH, 5060)));
    Config::new(vec![
        realm("access", Side::Access, address::LATCH_ACCESS, None),
        realm("core", Side::Core, address::LATCH_CORE, softswitch),
    ])
}

/// A call from behind a NAT: what the terminal's description says is not where its packets come from.
fn stream(number: u16) -> StreamSpec {
    let remote = |rtp: SocketAddrV4| RemoteMedia { rtp: rtp.into(), rtcp: above(rtp, 1).into() };
    let access = LegSpec {
        realm: RealmId::new(0),
        local: above(RELAY, 2 * number).into(),
        open: true,
        epoch: 0,
        remote: Some(remote(SocketAddrV4::new(address::PHONE, 4_000))),
        signalling: Some(IpAddr::V4(*chain::SOURCE.ip())),
        payload_types: [8].into_iter().collect(),
        send_before_latch: false,
        rtcp_mux: false,
        policy: LegPolicy::default(),
    };
    let core = LegSpec {
        realm: RealmId::new(1),
        local: above(CORE, 2 * number).into(),
        remote: Some(remote(chain::SINK)),
        signalling: None,
        send_before_latch: true,
        rtcp_mux: false,
        policy: LegPolicy::default(),
        ..access.clone()
    };
    StreamSpec { id: StreamId(u64::from(number)), legs: [access, core] }
}

fn above(address: SocketAddrV4, ports: u16) -> SocketAddrV4 {
    SocketAddrV4::new(*address.ip(), address.port() + ports)
}
