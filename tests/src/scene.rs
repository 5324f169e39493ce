//! The usual scene: Latch between phones and a softswitch.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::baresip::{Baresip, BaresipConfig};
use crate::counters::{Count, Counters, Direction};
use crate::flood::STRANGE;
use crate::kamailio::{Kamailio, KamailioConfig};
use crate::latch::{Latch, LatchConfig};
use crate::netns::Namespace;
use crate::peer::wait_until;
use crate::sipp::{Scenario, Sipp, SippConfig};
use crate::topology::{Testbed, TestbedConfig, address};

/// Where terminals send their signalling.
pub const LATCH: SocketAddrV4 = SocketAddrV4::new(address::LATCH_ACCESS, 5060);

/// A phone's address in the core network, without Latch before it.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 30);

/// A testbed in which Kamailio and Latch run.
#[derive(Debug)]
pub struct Scene<'testbed> {
    /// The testbed.
    pub testbed: &'testbed Testbed,
    /// The softswitch.
    pub kamailio: Kamailio,
    /// Latch.
    pub latch: Latch,
    config: KamailioConfig,
}

impl<'testbed> Scene<'testbed> {
    /// Starts both and waits until they are ready.
    pub fn start(testbed: &'testbed Testbed, kamailio: &KamailioConfig, latch: &LatchConfig) -> Result<Self> {
        let config = kamailio.clone();
        Ok(Self {
            testbed,
            kamailio: Kamailio::start(testbed, kamailio)?,
            latch: Latch::start(testbed, latch)?,
            config,
        })
    }

    /// A baresip at phone `number` (192.168.1.10) that has registered as `user` through Latch. `change` may alter its
    /// settings before the start.
    pub fn baresip(&self, number: usize, user: &str, change: impl FnOnce(&mut BaresipConfig)) -> Result<Baresip> {
        let mut config = BaresipConfig::new(user, address::PHONE, LATCH);
        config.password = Some(self.password(user));
        change(&mut config);
        let mut phone = Baresip::start(self.testbed, user, self.testbed.phone(number)?, &config)?;
        phone.wait_registered(Duration::from_secs(20))?;
        Ok(phone)
    }

    /// Settings of a SIPp at a phone with address `local`, port 5060, that sends everything to Latch.
    pub fn sipp(&self, scenario: Scenario, user: &str, local: Ipv4Addr) -> SippConfig {
        SippConfig::new(scenario, user, SocketAddrV4::new(local, 5060), LATCH).password(&self.password(user))
    }

    /// Registers `user` from phone `number` with SIPp, which is gone afterwards: start an answering one at the same
    /// port.
    pub fn register(&self, number: usize, user: &str) -> Result<()> {
        let config = self.sipp(Scenario::Register, user, address::PHONE);
        let name = format!("register-{user}");
        Sipp::run(self.testbed, &name, self.testbed.phone(number)?, &config, Duration::from_secs(20))?;
        self.kamailio.wait_for_contacts(user, 1, Duration::from_secs(10)).map(drop)
    }

    /// The end: waits for `count` CDRs, checks that no leg is open, stops Latch and checks that nothing of it is left.
    /// The records.
    pub fn finish(self, count: usize) -> Result<Vec<Value>> {
        self.latch.wait_for_cdrs(count, Duration::from_secs(20))?;
        wait_until("no leg is open", Duration::from_secs(20), || Ok(self.latch.open_legs()? == 0))?;
        // A call that Latch forgot would end, and be recorded, only when it stops.
        let records = self.latch.stop(self.testbed)?;
        ensure!(records.len() == count, "{count} records were expected: {records:#?}");
        Ok(records)
    }

    /// A user's password.
    pub fn password(&self, user: &str) -> String {
        let known = self.config.users.iter().find(|known| known.name == user);
        known.map(|known| known.password.to_owned()).unwrap_or_default()
    }
}

/// alice, who has IPv6 only, and carol in the core network, who has IPv4 only: real phones, and what nftables counts of
/// their media.
#[derive(Debug)]
pub struct SixScene<'testbed> {
    /// Latch and the softswitch.
    pub scene: Scene<'testbed>,
    /// At 2001:db8:1::20.
    pub alice: Baresip,
    /// At 10.9.0.30.
    pub carol: Baresip,
    /// At alice's host: `in` and `out`, media from and to Latch; `four`, all IPv4; `strange`, packets of a flood.
    pub at_alice: Counters<'testbed>,
    /// At carol's: `in`, `out` and `strange`.
    pub at_carol: Counters<'testbed>,
}

impl<'testbed> SixScene<'testbed> {
    /// The testbed for it.
    pub fn testbed() -> TestbedConfig {
        TestbedConfig {
            nats: Vec::new(),
            access_hosts: vec![("six", Ipv4Addr::new(203, 0, 113, 50))],
            core_hosts: vec![("gateway", GATEWAY)],
            ..TestbedConfig::default()
        }
    }

    /// Starts everything; both phones have registered.
    pub fn start(testbed: &'testbed Testbed, latch: LatchConfig) -> Result<Self> {
        let (six, gateway) = (testbed.host("six")?, testbed.host("gateway")?);
        testbed.latch().ipv6("access", address::LATCH_ACCESS_V6)?;
        // It has no other.
        six.ip("addr flush dev eth0 scope global")?;
        six.ipv6("eth0", address::PHONE_V6)?;
        let scene = Scene::start(
            testbed,
            &KamailioConfig::default(),
            &LatchConfig { access: address::LATCH_ACCESS_V6.into(), ..latch },
        )?;
        let count = |host: &'testbed Namespace, ip: &str, latch: &str| {
            let media = |side, port| format!("{ip} {side} {latch} udp {port} 16384-16484");
            let (arriving, leaving) = (media("saddr", "dport"), media("daddr", "sport"));
            let strange = format!("meta l4proto udp {STRANGE}");
            let rules = [
                ("in", Direction::In, arriving.as_str()),
                ("out", Direction::Out, &leaving),
                ("four", Direction::In, "iifname eth0 meta nfproto ipv4"),
                ("strange", Direction::In, &strange),
            ];
            Counters::add(host, &rules)
        };
        let at_alice = count(six, "ip6", &address::LATCH_ACCESS_V6.to_string())?;
        let at_carol = count(gateway, "ip", &address::LATCH_CORE.to_string())?;
        let phone = |user: &str, host: &str, config: BaresipConfig| -> Result<Baresip> {
            let config = BaresipConfig { password: Some(scene.password(user)), ..config };
            let mut phone = Baresip::start(testbed, user, testbed.host(host)?, &config)?;
            phone.wait_registered(Duration::from_secs(20))?;
            Ok(phone)
        };
        let latch = SocketAddr::from((address::LATCH_ACCESS_V6, 5060));
        let alice = phone("alice", "six", BaresipConfig::new("alice", address::PHONE_V6, latch))?;
        let softswitch = SocketAddr::from((address::SOFTSWITCH, 5060));
        let carol = phone("carol", "gateway", BaresipConfig::new("carol", GATEWAY, softswitch))?;
        Ok(Self { scene, alice, carol, at_alice, at_carol })
    }

    /// One of them calls the other, who answers.
    pub fn call(&mut self, alice_calls: bool) -> Result<()> {
        let Self { alice, carol, .. } = self;
        let (caller, callee, name) = if alice_calls { (alice, carol, "carol") } else { (carol, alice, "alice") };
        caller.dial(name)?;
        callee.wait_for("CALL_INCOMING", Duration::from_secs(20))?;
        callee.accept()?;
        caller.wait_for("CALL_ESTABLISHED", Duration::from_secs(20))?;
        callee.wait_for("CALL_ESTABLISHED", Duration::from_secs(20)).map(drop)
    }

    /// Waits until each has heard so many packets more.
    pub fn hear(&self, packets: u64) -> Result<()> {
        let both = [&self.at_alice, &self.at_carol];
        let before = [both[0].get("in")?.packets, both[1].get("in")?.packets];
        both.iter().zip(before).try_for_each(|(counters, before)| {
            let what = format!("{packets} packets more are heard");
            wait_until(&what, Duration::from_secs(20), || Ok(counters.get("in")?.packets >= before + packets))
        })
    }

    /// What Latch forwarded in all these records arrived, and nothing else did; an IPv6 packet is 20 bytes longer than
    /// its IPv4 half.
    pub fn agree(records: &[Value], [at_alice, at_carol]: [Count; 2]) -> Result<()> {
        let sum = |direction: &str, what: &str| -> u64 {
            let flows = records.iter().map(|record| &record["streams"][0][direction]);
            let of = |flow: &Value, key: String| flow[key].as_u64().unwrap_or(u64::MAX);
            flows.map(|flow| of(flow, format!("rtp_{what}")) + of(flow, format!("rtcp_{what}"))).sum()
        };
        let count = |direction| Count { packets: sum(direction, "packets"), bytes: sum(direction, "octets") };
        let (there, back) = (count("access_to_core"), count("core_to_access"));
        let shrunk = Count { bytes: there.bytes - 20 * there.packets, ..there };
        let grown = Count { bytes: back.bytes + 20 * back.packets, ..back };
        ensure!(shrunk == at_carol, "{there:?} was forwarded to carol, {at_carol:?} arrived: {records:#?}");
        ensure!(grown == at_alice, "{back:?} was forwarded to alice, {at_alice:?} arrived: {records:#?}");
        Ok(())
    }
}
