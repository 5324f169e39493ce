//! The kernel's relay as the engine uses it: streams applied, real packets through it, streams released.

use anyhow::{Context, Result, ensure};
use proxy_user::{
    config::{Config, PortRange, Realm, RealmPolicy, Side, Trust},
    datapath::{Datapath, MediaRelay, kernel::StartMode},
    media::{LegCounters, LegPolicy, LegSpec, MediaEvent, RealmId, RemoteMedia, StreamId, StreamSpec},
    objects,
};
use serde_json::Value;
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
    process::Command,
    time::{Duration, Instant},
};
use testbed::{TestbedConfig, address, in_testbed, leftovers, rtp, wait_until};

const TERMINAL: SocketAddrV4 = SocketAddrV4::new(address::STRANGER, 40_000);
const SOFTSWITCH: SocketAddrV4 = SocketAddrV4::new(address::SOFTSWITCH, 20_000);
const ACCESS: SocketAddrV4 = SocketAddrV4::new(address::LATCH_ACCESS, 30_004);
const CORE: SocketAddrV4 = SocketAddrV4::new(address::LATCH_CORE, 30_010);
/// Packets of each direction's RTP.
const PACKETS: u32 = 50;
/// Headers of IPv4, UDP and RTP, and the payload.
const OCTETS: u64 = 20 + 8 + 12 + 160;

#[test]
fn a_stream_lives_and_leaves_nothing() {
    in_testbed(TestbedConfig { nats: Vec::new(), ..TestbedConfig::default() }, |testbed| {
        let terminal = Host {
            rtp: testbed.host("stranger")?.udp(TERMINAL)?,
            rtcp: testbed.host("stranger")?.udp(above(TERMINAL))?,
            relay: ACCESS,
        };
        let softswitch = Host {
            rtp: testbed.softswitch().udp(SOFTSWITCH)?,
            rtcp: testbed.softswitch().udp(above(SOFTSWITCH))?,
            relay: CORE,
        };
        let legs = testbed.latch().enter(|| relay(&terminal, &softswitch))?;
        // The mapped memory is gone too, or the kernel would still have the map.
        wait_until("LEGS is gone", Duration::from_secs(5), || {
            let shown = Command::new("bpftool").args(["map", "show", "id", &legs.to_string()]).output()?;
            Ok(!shown.status.success())
        })?;
        leftovers::no_xdp(testbed.latch())
    });
}

/// Gives the id of the map `LEGS`.
fn relay(terminal: &Host, softswitch: &Host) -> Result<u64> {
    let (object, _) = objects::RELAY.find()?;
    let mut config = Config::new(realms());
    config.maps.max_legs = 32;
    config.maps.max_next_hops = 16;
    let mut datapath = MediaRelay::start(&config, &object, &StartMode::Process)?;
    let objects = leftovers::BpfObjects::of(std::process::id())?;
    ensure!(open_legs(&objects)?.is_empty(), "closed at the start");

    datapath.apply(spec(), Instant::now())?;
    let legs = open_legs(&objects)?;
    ensure!(legs.iter().map(|(index, _)| *index).collect::<Vec<_>>() == [2, 15], "{legs:?}");
    let (_, access) = legs.first().context("no leg")?;
    ensure!(access.get("peer").and_then(Value::as_u64) == Some(15), "named fields: {access}");
    ensure!(access.get("out_port").and_then(Value::as_u64) == Some(u64::from(CORE.port())), "{access}");

    // The neighbours are asked for by ARP.
    let mut events = poll(&mut datapath, Duration::from_millis(300));
    ensure!(known_next_hops(&objects)? == 2, "{:?}", dump(&objects, "NEXT_HOPS")?);
    let stream = rtp::Stream { packets: PACKETS, interval: Duration::from_millis(2), ..Default::default() };
    for (from, to) in [(terminal, softswitch), (softswitch, terminal)] {
        let (rtp, rtcp) = (rtp::Sink::start(&to.rtp)?, rtp::Sink::start(&to.rtcp)?);
        stream.send(&from.rtp, from.relay)?;
        from.rtcp.send_to(&rtp::sender_report(stream.ssrc, PACKETS, 0), above(from.relay))?;
        let (rtp, rtcp) = (rtp.stop()?, rtcp.stop()?);
        ensure!(rtp.packets() == u64::from(PACKETS) && rtp.stream(stream.ssrc)?.lost() == 0, "{rtp:?}");
        ensure!(rtp.rtp.keys().all(|(source, _)| *source == SocketAddr::V4(to.relay)), "{rtp:?}");
        ensure!(rtcp.rtcp.get(&SocketAddr::V4(above(to.relay))) == Some(&1), "{rtcp:?}");
    }
    events.extend(poll(&mut datapath, Duration::from_millis(20)));
    let latched: Vec<_> = events.iter().map(latched).collect::<Result<_>>()?;
    let expected = [
        (0, false, SocketAddr::V4(TERMINAL)),
        (0, true, SocketAddr::V4(above(TERMINAL))),
        (1, false, SocketAddr::V4(SOFTSWITCH)),
        (1, true, SocketAddr::V4(above(SOFTSWITCH))),
    ];
    ensure!(latched == expected, "{latched:?}");

    datapath.release(StreamId(1), Instant::now());
    ensure!(open_legs(&objects)?.is_empty(), "closed at once");
    let released = poll(&mut datapath, Duration::from_millis(100));
    let counters = LegCounters {
        rtp_packets: u64::from(PACKETS),
        rtp_octets: u64::from(PACKETS) * OCTETS,
        rtcp_packets: 1,
        rtcp_octets: 20 + 8 + 28,
        ..LegCounters::default()
    };
    let expected = MediaEvent::Released { stream: StreamId(1), counters: [counters; 2] };
    ensure!(released == [expected], "{released:?}");
    ensure!(known_next_hops(&objects)? == 0, "{:?}", dump(&objects, "NEXT_HOPS")?);
    not_the_last_calls_phone(&mut datapath, terminal, softswitch)?;
    let forwarded = datapath.counters()?;
    ensure!(forwarded.forwarded_other == 2 * u64::from(PACKETS) + 2, "{forwarded:?}");
    objects.map("LEGS").context("no map LEGS")
}

/// The core port serves another stream, whose access port is another one but has seen as many streams. The softswitch
/// sends before the new phone: that is not for the phone of the stream before.
fn not_the_last_calls_phone(datapath: &mut MediaRelay, terminal: &Host, softswitch: &Host) -> Result<()> {
    let mut second = StreamSpec { id: StreamId(2), ..spec() };
    second.legs[0].local = SocketAddr::from((*ACCESS.ip(), ACCESS.port() + 2));
    datapath.apply(second, Instant::now())?;
    poll(datapath, Duration::from_millis(300));
    let sink = rtp::Sink::start(&terminal.rtp)?;
    let stream = rtp::Stream { packets: PACKETS, interval: Duration::from_millis(2), ..Default::default() };
    stream.send(&softswitch.rtp, softswitch.relay)?;
    let heard = sink.stop()?;
    ensure!(heard.packets() == 0, "{heard:?}");
    datapath.release(StreamId(2), Instant::now());
    let released = poll(datapath, Duration::from_millis(100));
    let core = LegCounters { dropped_destination: u64::from(PACKETS), ..LegCounters::default() };
    let expected = MediaEvent::Released { stream: StreamId(2), counters: [LegCounters::default(), core] };
    ensure!(released.contains(&expected), "{released:?}");
    Ok(())
}

/// One end of the stream: its sockets and the relay's RTP address towards it.
struct Host {
    rtp: UdpSocket,
    rtcp: UdpSocket,
    relay: SocketAddrV4,
}

fn realms() -> Vec<Realm> {
    let realm = |name: &str, side, own: Ipv4Addr, softswitch| Realm {
        name: name.into(),
        side,
        interface: name.into(),
        signalling: SocketAddr::from((own, 5060)),
        media: IpAddr::V4(own),
        ports: PortRange { first: 30_000, last: 30_019 },
        vlan: Vec::new(),
        trust: Trust::of(side),
        policy: RealmPolicy::default(),
        softswitch,
        streams: Default::default(),
    };
    let softswitch = Some(SocketAddr::from((address::SOFTSWITCH, 5060)));
    vec![
        realm("access", Side::Access, address::LATCH_ACCESS, None),
        realm("core", Side::Core, address::LATCH_CORE, softswitch),
    ]
}

/// The terminal's description has another port than its packets come from; its address is that of its signalling.
fn spec() -> StreamSpec {
    let remote = |rtp: SocketAddrV4| RemoteMedia { rtp: rtp.into(), rtcp: above(rtp).into() };
    let access = LegSpec {
        realm: RealmId::new(0),
        local: ACCESS.into(),
        open: true,
        epoch: 0,
        remote: Some(remote(SocketAddrV4::new(Ipv4Addr::new(192, 168, 1, 10), 4_000))),
        signalling: Some(IpAddr::V4(*TERMINAL.ip())),
        payload_types: [8].into_iter().collect(),
        send_before_latch: false,
        rtcp_mux: false,
        policy: LegPolicy::default(),
    };
    let core = LegSpec {
        realm: RealmId::new(1),
        local: CORE.into(),
        remote: Some(remote(SOFTSWITCH)),
        signalling: None,
        send_before_latch: true,
        rtcp_mux: false,
        policy: LegPolicy::default(),
        ..access.clone()
    };
    StreamSpec { id: StreamId(1), legs: [access, core] }
}

fn above(rtp: SocketAddrV4) -> SocketAddrV4 {
    SocketAddrV4::new(*rtp.ip(), rtp.port() + 1)
}

/// Does for the datapath what the loop does.
fn poll(datapath: &mut MediaRelay, time: Duration) -> Vec<MediaEvent> {
    let mut events = Vec::new();
    let end = Instant::now() + time;
    while Instant::now() < end {
        datapath.poll_events(Instant::now(), &mut events);
        std::thread::sleep(Duration::from_millis(2));
    }
    events
}

fn latched(event: &MediaEvent) -> Result<(usize, bool, SocketAddr)> {
    match event {
        MediaEvent::Latched { leg, rtcp, source, at, .. } if at.elapsed() < Duration::from_secs(30) => {
            Ok((*leg, *rtcp, *source))
        }
        other => anyhow::bail!("{other:?}"),
    }
}

/// Index and fields of the entries that have a generation.
fn open_legs(objects: &leftovers::BpfObjects) -> Result<Vec<(u64, Value)>> {
    let open = |(_, leg): &(u64, Value)| leg.get("generation").and_then(Value::as_u64) != Some(0);
    Ok(dump(objects, "LEGS")?.into_iter().filter(open).collect())
}

fn known_next_hops(objects: &leftovers::BpfObjects) -> Result<usize> {
    let known = |hop: &Value| hop.get("kind").and_then(Value::as_u64) != Some(0);
    Ok(dump(objects, "NEXT_HOPS")?.iter().filter(|(_, hop)| known(hop)).count())
}

/// A map as bpftool shows it, with the names of the fields.
fn dump(objects: &leftovers::BpfObjects, name: &str) -> Result<Vec<(u64, Value)>> {
    let id = objects.map(name).with_context(|| format!("no map {name}"))?;
    let output = Command::new("bpftool").args(["-j", "map", "dump", "id", &id.to_string()]).output()?;
    let entries: Vec<Value> = serde_json::from_slice(&output.stdout).context("JSON from bpftool")?;
    let entry = |entry: &Value| {
        let entry = entry.get("formatted")?;
        Some((entry.get("key")?.as_u64()?, entry.get("value")?.clone()))
    };
    entries.iter().map(|value| entry(value).with_context(|| format!("no named fields: {value}"))).collect()
}
