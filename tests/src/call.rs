//! A call between two phones whose signalling is SIPp's and whose media is made and counted by the test.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use serde_json::Value;

use crate::counters::{Count, Counters, Direction};
use crate::flood::STRANGE;
use crate::netns::Namespace;
use crate::peer::wait_until;
use crate::rtp::{Stream, sender_report};
use crate::scene::{GATEWAY, Scene};
use crate::sipp::{Scenario, Sipp, SippConfig};
use crate::topology::{Testbed, address};

/// How long anything may take that has to happen: much longer than it does.
const TIMEOUT: Duration = Duration::from_secs(20);

/// RTP and RTCP of one direction; bytes are IP total lengths, here and in the records.
pub type Flow = [Count; 2];

/// One end of a call: its media sockets, where it sends, and what nftables counts at its interface.
#[derive(Debug)]
pub struct End<'testbed> {
    /// Port 6000.
    pub rtp: UdpSocket,
    /// Port 6001.
    pub rtcp: UdpSocket,
    /// The relay's RTP port.
    pub relay: SocketAddrV4,
    /// `rtp_in`, `rtcp_in`, `rtp_out` and `rtcp_out` of the relay; of anybody, `media_in` and those packets of it that
    /// bear the mark of a [`crate::Flood`], `strange`.
    pub counters: Counters<'testbed>,
}

impl<'testbed> End<'testbed> {
    /// An end whose session description names the ports 6000 and 6001 of `own`.
    pub fn open(namespace: &'testbed Namespace, own: Ipv4Addr, relay: SocketAddrV4) -> Result<Self> {
        let latch = *relay.ip();
        let ours = latch == address::LATCH_ACCESS || latch == address::LATCH_CORE;
        ensure!(ours && relay.port().is_multiple_of(2), "no relay port: {relay}");
        let counters = Counters::add(
            namespace,
            &[
                ("rtp_in", Direction::In, &format!("ip saddr {latch} udp dport 6000")),
                ("rtcp_in", Direction::In, &format!("ip saddr {latch} udp dport 6001")),
                ("rtp_out", Direction::Out, &format!("ip daddr {latch} udp sport 6000")),
                ("rtcp_out", Direction::Out, &format!("ip daddr {latch} udp sport 6001")),
                ("media_in", Direction::In, "udp dport 6000-6001"),
                ("strange", Direction::In, &format!("meta l4proto udp {STRANGE}")),
            ],
        )?;
        let socket = |port| namespace.udp(SocketAddrV4::new(own, port));
        Ok(Self { rtp: socket(6_000)?, rtcp: socket(6_001)?, relay, counters })
    }

    /// Sends one RTCP report.
    pub fn send_report(&self) -> Result<()> {
        let relay = SocketAddrV4::new(*self.relay.ip(), self.relay.port() + 1);
        self.rtcp.send_to(&sender_report(1, 1, 160), relay)?;
        Ok(())
    }

    /// Sends one packet of RTP.
    pub fn send_one(&self, ssrc: u32) -> Result<()> {
        Stream { packets: 1, ssrc, sequence: 0, ..Stream::default() }.send(&self.rtp, self.relay).map(drop)
    }

    /// RTP and RTCP that were sent to the relay, and that came from it.
    pub fn totals(&self) -> Result<(Flow, Flow)> {
        let get = |name| self.counters.get(name);
        Ok(([get("rtp_out")?, get("rtcp_out")?], [get("rtp_in")?, get("rtcp_in")?]))
    }

    /// Waits until a counter has reached so many packets.
    pub fn wait_for(&self, name: &str, packets: u64) -> Result<()> {
        wait_until(
            &format!("{name} has counted {packets}"),
            TIMEOUT,
            || Ok(self.counters.get(name)?.packets >= packets),
        )
    }
}

/// A call of alice to bob, or of others in their place, through two access legs.
#[derive(Debug)]
pub struct MediaCall<'testbed> {
    caller: Sipp,
    callee: Sipp,
    caller_phone: &'testbed Namespace,
    held: bool,
    /// The caller's end.
    pub alice: End<'testbed>,
    /// The callee's.
    pub bob: End<'testbed>,
}

impl<'testbed> MediaCall<'testbed> {
    /// alice at phone 1 calls bob at phone 2 and hangs up after `hold`.
    pub fn start(scene: &Scene<'testbed>, hold: Duration) -> Result<Self> {
        Self::call(scene, (1, "alice"), (2, "bob"), Some(hold))
    }

    /// The same between others, number of the phone and user; the caller hangs up when the test ends the call.
    pub fn between(scene: &Scene<'testbed>, caller: (usize, &str), callee: (usize, &str)) -> Result<Self> {
        Self::call(scene, caller, callee, None)
    }

    /// The same between two who have registered.
    pub fn of_registered(scene: &Scene<'testbed>, caller: (usize, &str), callee: (usize, &str)) -> Result<Self> {
        let answering = scene.sipp(Scenario::Answer, callee.1, address::PHONE);
        Self::made(scene, caller, (scene.testbed.phone(callee.0)?, &answering), None)
    }

    /// alice at phone 1 calls carol at the testbed's host `gateway` ([`GATEWAY`]) in the core network, who is in bob's
    /// place, until the test ends the call.
    pub fn to_core(scene: &Scene<'testbed>) -> Result<Self> {
        scene.register(1, "alice")?;
        let gateway = scene.testbed.host("gateway")?;
        let softswitch = SocketAddrV4::new(address::SOFTSWITCH, 5060);
        let carol = SippConfig { remote: softswitch, ..scene.sipp(Scenario::Register, "carol", GATEWAY) };
        Sipp::run(scene.testbed, "register-carol", gateway, &carol, TIMEOUT)?;
        let carol = SippConfig { scenario: Scenario::Answer, ..carol };
        Self::made(scene, (1, "alice"), (gateway, &carol), None)
    }

    fn call(
        scene: &Scene<'testbed>,
        caller: (usize, &str),
        (number, callee): (usize, &str),
        hold: Option<Duration>,
    ) -> Result<Self> {
        scene.register(caller.0, caller.1)?;
        scene.register(number, callee)?;
        let answering = scene.sipp(Scenario::Answer, callee, address::PHONE);
        Self::made(scene, caller, (scene.testbed.phone(number)?, &answering), hold)
    }

    fn made(
        scene: &Scene<'testbed>,
        (number, user): (usize, &str),
        (host, answering): (&'testbed Namespace, &SippConfig),
        hold: Option<Duration>,
    ) -> Result<Self> {
        let (testbed, phone) = (scene.testbed, scene.testbed.phone(number)?);
        let callee = Sipp::start(testbed, &format!("callee-{}", answering.user), host, answering)?;
        let scenario = if hold.is_some() { Scenario::Call } else { Scenario::CallUntilTold };
        let calling = scene.sipp(scenario, user, address::PHONE).calling(&answering.user);
        let calling = SippConfig { hold: hold.unwrap_or_default(), ..calling };
        let caller = Sipp::start(testbed, &format!("caller-{user}"), phone, &calling)?;
        let alice = End::open(phone, address::PHONE, caller.wait_for_remote_media(TIMEOUT)?)?;
        let bob = End::open(host, *answering.local.ip(), callee.wait_for_remote_media(TIMEOUT)?)?;
        Ok(Self { caller, callee, caller_phone: phone, held: hold.is_none(), alice, bob })
    }

    /// Bob's first packet, which has nowhere to go yet, and alice's, which finds the way that bob's has opened.
    pub fn latch(&self, scene: &Scene<'_>) -> Result<()> {
        let dropped = || Ok::<_, anyhow::Error>(scene.latch.counters()?.dropped_destination);
        let before = dropped()?;
        self.bob.send_one(3)?;
        wait_until("bob's first packet is dropped", TIMEOUT, || Ok(dropped()? == before + 1))?;
        self.alice.send_one(3)?;
        self.bob.wait_for("rtp_in", 1)
    }

    /// Has the caller hang up, or waits until it has.
    pub fn end(self) -> Result<()> {
        if self.held {
            self.caller.hang_up(self.caller_phone, SocketAddrV4::new(address::PHONE, 5060))?;
        }
        self.caller.expect_success(Duration::from_secs(60))?;
        self.callee.expect_success(TIMEOUT).map(drop)
    }
}

/// The audio stream of the record whose terminal is behind this NAT.
pub fn audio<'r>(records: &'r [Value], testbed: &Testbed, nat: usize) -> Result<&'r Value> {
    let public = format!("{}:", testbed.nat(nat)?.public());
    let of = |record: &&Value| record["terminal"]["source"].as_str().is_some_and(|source| source.starts_with(&public));
    let record = records.iter().find(of).ok_or_else(|| anyhow!("no record of {public} in {records:#?}"))?;
    Ok(&record["streams"][0])
}

/// A number of one direction of a record.
pub fn number(flow: &Value, key: &str) -> u64 {
    flow[key].as_u64().unwrap_or(u64::MAX)
}

/// RTP and RTCP of one direction of a record.
pub fn recorded(flow: &Value) -> Flow {
    ["rtp", "rtcp"].map(|component| Count {
        packets: number(flow, &format!("{component}_packets")),
        bytes: number(flow, &format!("{component}_octets")),
    })
}

/// How many packets one direction of a record dropped for this reason.
pub fn dropped(flow: &Value, reason: &str) -> u64 {
    number(&flow["dropped"], reason)
}
