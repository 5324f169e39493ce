//! Floods of signalling by strangers: the registered lose no call and no packet of media, Latch's memory stays within
//! its bound, and nothing of the flood is left.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use proxy_user::engine::strangers_memory;
use serde_json::{Value, json};
use testbed::call::{audio, recorded};
use testbed::flood::{Flooded, NUMBER};
use testbed::rtp::Stream;
use testbed::xdp::Packet;
use testbed::{
    Count, Flood, KamailioConfig, LatchConfig, MediaCall, NatConfig, Scenario, Scene, Sipp, SippConfig, Testbed,
    TestbedConfig, User, address, in_testbed, wait_until,
};

/// How long anything may take that has to happen: much longer than it does.
const TIMEOUT: Duration = Duration::from_secs(60);
/// How long the flood lasts.
const FLOOD: Duration = Duration::from_secs(30);
/// Phones of their own behind a NAT each, which talk; then those of two offices, which call each other in turn.
const TALKING: usize = 10;
const OFFICE: usize = 20;
/// Calls of the offices, and how many of them a second.
const CALLS: u32 = 120;
const RATE: u32 = 4;
/// Packets of RTP in each direction of a call.
const RTP: u32 = 1_700;

/// Everything that a stranger can think of, each from the addresses in turn.
fn messages(sources: &[SocketAddr]) -> Vec<Packet> {
    let streams: String = (0..32).map(|n| format!("m=audio {} RTP/AVP 8\r\n", 4_000 + 2 * n)).collect();
    let offer = format!("v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n{streams}");
    let request = |method: &str, user: &str, source: &SocketAddr, more: &str, body: &str| {
        let contact = format!("Contact: <sip:x@{source}>\r\n{more}");
        format!(
            "{method} sip:{user}@example.test SIP/2.0\r\nVia: SIP/2.0/UDP {source};rport;branch=z9hG4bK{NUMBER}\r\n\
             Max-Forwards: 70\r\nFrom: <sip:{user}@example.test>;tag={NUMBER}\r\nTo: <sip:{user}@example.test>\r\n\
             Call-ID: {NUMBER}\r\nCSeq: 1 {method}\r\n{contact}Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let message = |number: usize, source: &SocketAddr| match number % 7 {
        0 => request("INVITE", &user(number % 50), source, "Content-Type: application/sdp\r\n", &offer),
        1 => request("INVITE", "nobody", source, "Content-Type: application/sdp\r\n", &offer),
        2 => request("REGISTER", &user(number % 50), source, "", ""),
        3 => request("REGISTER", "nobody", source, "", ""),
        4 => request("SUBSCRIBE", "nobody", source, "Event: dialog\r\nExpires: 3600\r\n", ""),
        5 => format!("{NUMBER}\0\u{fffd}{}", "x".repeat(number % 1_200)),
        _ => request("INVITE", "nobody", source, "", "").replacen(
            "INVITE sip:nobody@example.test SIP/2.0",
            "SIP/2.0 200 OK",
            1,
        ),
    };
    let latch = SocketAddr::from((address::LATCH_ACCESS, 5060));
    let packet = |(number, source): (usize, &SocketAddr)| Packet {
        payload: message(number, source).into_bytes(),
        checksum: false,
        ..Packet::rtp(*source, latch)
    };
    sources.iter().enumerate().map(packet).collect()
}

/// Half the time the stranger's own address, else any address of the access network, those of the NATs included, with
/// any unused port.
fn sources() -> Vec<SocketAddr> {
    let own = |n: u16| SocketAddrV4::new(address::STRANGER, 20_000 + n);
    let forged = |n: u16| SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 11 + (n % 240) as u8), 20_000 + 7 * n);
    (0..2_048).map(|n| if n % 2 == 0 { own(n) } else { forged(n) }).map(SocketAddr::V4).collect()
}

fn user(number: usize) -> String {
    format!("phone{number}")
}

/// How many users, who have one password.
fn softswitch() -> KamailioConfig {
    let user = |number| User { name: user(number).leak(), password: "secret" };
    KamailioConfig { users: (0..TALKING + 2 * OFFICE).map(user).collect(), digest: true, ..KamailioConfig::default() }
}

/// A field of a process's status, bytes.
fn memory(pid: u32, field: &str) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let number = line.and_then(|line| line.split_whitespace().next()).with_context(|| format!("no {field}"))?;
    Ok(number.parse::<u64>()? * 1024)
}

/// What there is of that a flood could use up.
fn held(status: &Value) -> Value {
    let load = &status["load"];
    ["calls", "dialogs", "registrations", "transactions", "port_pairs"]
        .map(|name| (name.to_owned(), load[name].clone()))
        .into_iter()
        .collect()
}

/// The phones of an office at `phone`, all registered; the first numbers are those of users.
struct Office {
    phone: usize,
    first: usize,
}

impl Office {
    fn config(&self, scene: &Scene<'_>, scenario: Scenario, other: &Office) -> SippConfig {
        let phones = (0..OFFICE).map(|n| [user(self.first + n), user(other.first + n)]).collect();
        SippConfig { phones, ..scene.sipp(scenario, &user(self.first), address::PHONE) }
    }

    fn register(&self, scene: &Scene<'_>) -> Result<()> {
        let config = SippConfig { calls: OFFICE as u32, ..self.config(scene, Scenario::Register, self) };
        let name = format!("register-office{}", self.phone);
        Sipp::run(scene.testbed, &name, scene.testbed.phone(self.phone)?, &config, TIMEOUT).map(drop)
    }
}

/// Media of a call in both directions, on threads of their own.
fn talk(call: &MediaCall<'_>) -> Result<Vec<std::thread::JoinHandle<Result<u32>>>> {
    [(&call.alice, 1), (&call.bob, 2)]
        .into_iter()
        .map(|(end, ssrc)| Stream { packets: RTP, ssrc, ..Stream::default() }.spawn(&end.rtp, end.relay))
        .collect()
}

#[test]
fn a_flood_of_strangers_takes_neither_a_call_nor_a_packet_from_the_registered() {
    // Ten times what is read of the strangers of one network.
    let _alone = alone();
    in_testbed(testbed(), |testbed| flooded(testbed, 10_000));
}

/// Faster than a process could read it.
#[test]
fn nor_does_one_as_fast_as_the_link() {
    let _alone = alone();
    in_testbed(testbed(), |testbed| flooded(testbed, 1_000_000));
}

/// One flood at a time: the other one's would take the processors that this one's Latch has to read with.
fn alone() -> MutexGuard<'static, ()> {
    static FLOODING: Mutex<()> = Mutex::new(());
    FLOODING.lock().unwrap_or_else(PoisonError::into_inner)
}

fn testbed() -> TestbedConfig {
    // A silent phone stays reachable for the length of the test.
    let nat = NatConfig { udp_timeout: Some(Duration::from_secs(600)), ..NatConfig::default() };
    TestbedConfig { nats: vec![nat; TALKING + 2], ..TestbedConfig::default() }
}

/// This many messages a second, while the registered make calls.
fn flooded(testbed: &Testbed, per_second: u64) -> Result<()> {
    // Limits that strangers can reach, so that the bound is one.
    let limits = "[limits]\nmax_calls = 2000\nmax_transactions = 10000\n";
    let config = LatchConfig { extra: limits.into(), ..LatchConfig::default() };
    let bound = strangers_memory(&config.parsed()?);
    let scene = Scene::start(testbed, &softswitch(), &config)?;
    let pid = scene.latch.peer.pid();
    let [callers, callees] = [0, 1].map(|n| Office { phone: TALKING + 1 + n, first: TALKING + n * OFFICE });
    callers.register(&scene)?;
    callees.register(&scene)?;
    (1..=TALKING).try_for_each(|number| scene.register(number, &user(number - 1)))?;
    let answering = SippConfig { calls: 0, ..callees.config(&scene, Scenario::Answer, &callers) };
    let answering = Sipp::start(testbed, "callees", testbed.phone(callees.phone)?, &answering)?;
    let calling = SippConfig { calls: CALLS, rate: RATE, ..callers.config(&scene, Scenario::Call, &callees) };
    let between = |first: usize| -> Result<MediaCall<'_>> {
        let call = MediaCall::of_registered(&scene, (first, &user(first - 1)), (first + 1, &user(first)))?;
        call.latch(&scene)?;
        Ok(call)
    };
    let early = TALKING - 4;
    let mut calls = (1..early).step_by(2).map(between).collect::<Result<Vec<_>>>()?;
    let memory_before = memory(pid, "VmRSS")?;
    // From now on the peak is that of the flood.
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5").context("reset the peak of the memory")?;

    let calling = Sipp::start(testbed, "callers", testbed.phone(callers.phone)?, &calling)?;
    let flood = Flood::new(testbed.host("stranger")?, "eth0")?;
    let frames = flood.frames(testbed.latch().mac("access")?, messages(&sources()));
    let mut talking = calls.iter().map(talk).collect::<Result<Vec<_>>>()?;
    let poured = std::thread::scope(|scope| -> Result<Flooded> {
        let pouring = scope.spawn(|| flood.pour(&frames, FLOOD, per_second));
        // Others begin to talk in the middle of it.
        let begun: Result<()> = (early + 1..TALKING).step_by(2).try_for_each(|first| {
            calls.push(between(first)?);
            talking.extend(calls.last().map(talk).transpose()?);
            Ok(())
        });
        let poured = pouring.join().map_err(|_| anyhow!("the flood panicked"))?;
        begun.with_context(|| {
            format!("lost at sockets: {:?}, {:?}", lost_at_sockets(testbed), scene.latch.status(testbed))
        })?;
        poured
    })?;
    let after = scene.latch.status(testbed)?;
    println!("{poured}; filter: {}; read: {}; engine: {}", after["filter"], after["signalling"], after["engine"]);
    println!("held by all: {}; lost at sockets: {}", after["load"], lost_at_sockets(testbed)?);
    for sender in talking.into_iter().flatten() {
        sender.join().map_err(|_| anyhow!("a sender panicked"))??;
    }

    let report = calling.expect_success(Duration::from_secs(120))?;
    println!("calls: {report:?}");
    ensure!(report.successful == u64::from(CALLS), "{report:?}");
    let answered = answering.finish(TIMEOUT)?;
    ensure!(answered.failed == 0, "{answered:?}");
    let grown = memory(pid, "VmHWM")?.saturating_sub(memory_before);
    println!("memory: {memory_before} bytes before, at most {grown} more; the bound is {bound}");
    ensure!(grown <= bound as u64, "{grown} bytes more, the bound is {bound}");
    let [engine, signalling] = [&after["engine"], &after["signalling"]];
    ensure!(engine["strangers_dropped"].as_u64() > Some(0) && engine["limited"].as_u64() > Some(0), "{engine}");
    let filter = &after["filter"];
    ensure!(filter["passed_known"].as_u64() > Some(0) && filter["dropped_network"].as_u64() > Some(0), "{filter}");
    ensure!(engine["inconsistencies"] == 0 && signalling["send_errors"] == 0, "{engine} {signalling}");
    let mut media = Vec::new();
    for call in calls {
        let [(from_alice, to_alice), (from_bob, to_bob)] = [call.alice.totals()?, call.bob.totals()?];
        // Bob's first packet came before there was a way for it.
        let bob_first = Count { packets: 1, bytes: 200 };
        println!("media: {from_alice:?} sent, {to_bob:?} heard; {from_bob:?} sent, {to_alice:?} heard");
        ensure!(from_alice[0] == to_bob[0] && to_bob[0].packets == u64::from(RTP) + 1, "{from_alice:?} {to_bob:?}");
        let bobs = Count { packets: to_alice[0].packets + 1, bytes: to_alice[0].bytes + bob_first.bytes };
        ensure!(from_bob[0] == bobs && to_alice[0].packets == u64::from(RTP), "{from_bob:?} {to_alice:?}");
        media.push([[from_alice[0], to_alice[0]], [from_bob[0], to_bob[0]]]);
        call.end()?;
    }
    let registered = json!({ "calls": 0, "dialogs": 0, "transactions": 0, "port_pairs": 0,
        "registrations": TALKING + 2 * OFFICE });
    let mut left = Value::Null;
    wait_until("nothing but the registrations is left", 2 * TIMEOUT, || {
        left = held(&scene.latch.status(testbed)?);
        Ok(left == registered)
    })
    .with_context(|| format!("left: {left}"))?;
    ensure!(scene.latch.open_legs()? == 0, "a leg is open");
    let records = scene.latch.stop(testbed)?;
    let (answered, others): (Vec<_>, Vec<_>) = records.into_iter().partition(|record| record["final_code"] == 200);
    println!("{} records of answered calls, {} of others", answered.len(), others.len());
    // Two for each call: one on each side of the softswitch.
    ensure!(answered.len() == 2 * (CALLS as usize + TALKING / 2), "{} records of answered calls", answered.len());
    for (nat, media) in (1..).zip(media.into_iter().flatten()) {
        let audio = audio(&answered, testbed, nat)?;
        let [sent, heard] = ["access_to_core", "core_to_access"].map(|direction| recorded(&audio[direction])[0]);
        ensure!(
            [sent, heard] == media,
            "phone {nat} has {sent:?} and {heard:?} in its record, {media:?} at its interface"
        );
    }
    Ok(())
}

/// Datagrams that found no room in a socket of Latch's host.
fn lost_at_sockets(testbed: &Testbed) -> Result<String> {
    let text = testbed.latch().run("cat", "/proc/net/snmp")?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (names, numbers) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let found = names.split(' ').zip(numbers.split(' ')).find(|(name, _)| *name == "RcvbufErrors");
    found.map(|(_, number)| number.to_owned()).context("no RcvbufErrors")
}
