//! Limits reached: callers get a clean 503, the operator a line and a number, and once somebody hangs up all is well.

use std::net::SocketAddrV4;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use testbed::rtp::{Stream, sender_report};
use testbed::{
    KamailioConfig, Latch, LatchConfig, NatKind, Scenario, Scene, Sipp, SippConfig, Testbed, TestbedConfig, address,
    in_testbed, wait_until,
};

/// How long anything may take that has to happen: much longer than it does.
const TIMEOUT: Duration = Duration::from_secs(20);

/// A caller at a phone; the phones may have several, each with its own ports.
struct Caller {
    phone: usize,
    name: String,
    config: SippConfig,
}

impl Caller {
    fn new(scene: &Scene<'_>, (phone, user): (usize, &str), peer: &str, number: u16) -> Self {
        let mut config = scene.sipp(Scenario::Call, user, address::PHONE).calling(peer);
        config.local = SocketAddrV4::new(address::PHONE, 5_060 + 10 * number);
        config.media_port = 7_000 + 10 * number;
        config.hold = Duration::from_millis(200);
        Self { phone, name: format!("call-{number}-of-{user}"), config }
    }

    /// Calls, and holds the call until [`Caller::hang_up`].
    fn hold(&self, testbed: &Testbed) -> Result<Sipp> {
        let config = SippConfig { scenario: Scenario::CallUntilTold, ..self.config.clone() };
        let caller = Sipp::start(testbed, &self.name, testbed.phone(self.phone)?, &config)?;
        caller.wait_for_remote_media(TIMEOUT)?;
        Ok(caller)
    }

    fn hang_up(&self, testbed: &Testbed, call: Sipp) -> Result<()> {
        call.hang_up(testbed.phone(self.phone)?, self.config.local)?;
        call.expect_success(TIMEOUT).map(drop)
    }

    /// Calls, is answered, and hangs up.
    fn succeed(&self, testbed: &Testbed) -> Result<()> {
        Sipp::run(testbed, &self.name, testbed.phone(self.phone)?, &self.config, TIMEOUT).map(drop)
    }

    /// Calls, and is refused with 503; the response.
    fn be_refused(&self, testbed: &Testbed) -> Result<String> {
        let mut caller = Sipp::start(testbed, &self.name, testbed.phone(self.phone)?, &self.config)?;
        let report = caller.wait(TIMEOUT)?;
        let received = caller.received();
        let refusal = received.iter().find(|message| message.starts_with("SIP/2.0 503"));
        ensure!(report.successful == 0 && report.failed == 1, "{report:?}");
        refusal.cloned().with_context(|| format!("no 503 among {received:#?}"))
    }
}

/// Latch between phones of which those with even numbers answer any number of calls.
fn scene<'testbed>(
    testbed: &'testbed Testbed,
    latch: &LatchConfig,
    users: &[(usize, &str)],
) -> Result<(Scene<'testbed>, Vec<Sipp>)> {
    let scene = Scene::start(testbed, &KamailioConfig::default(), latch)?;
    let mut answering = Vec::new();
    for (phone, user) in users {
        scene.register(*phone, user)?;
        if phone.is_multiple_of(2) {
            let config = SippConfig { calls: 0, ..scene.sipp(Scenario::Answer, user, address::PHONE) };
            answering.push(Sipp::start(testbed, &format!("callee-{user}"), testbed.phone(*phone)?, &config)?);
        }
    }
    Ok((scene, answering))
}

/// How many lines of a warning or an error contain this.
fn lines(latch: &Latch, words: &str) -> usize {
    let output = latch.peer.output();
    output.lines().filter(|line| (line.contains("WARN") || line.contains("ERROR")) && line.contains(words)).count()
}

/// What Latch said it counted when it ended.
fn counted(testbed: &Testbed, name: &str) -> Result<u64> {
    let log = std::fs::read_to_string(testbed.logs().join("latch-1.log"))?;
    let (_, number) = log.rsplit_once(&format!("{name}: ")).with_context(|| format!("no {name} in {log}"))?;
    let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().with_context(|| format!("{name}: {number}"))
}

fn with_code(records: &[Value], code: u64) -> usize {
    records.iter().filter(|record| record["final_code"] == code).count()
}

#[test]
fn calls_beyond_the_last_port_are_refused_until_somebody_hangs_up() {
    in_testbed(TestbedConfig::with_nats(&[NatKind::PortRestricted; 2]), |testbed| {
        // A call of the two takes two pairs in each realm.
        let latch = LatchConfig { ports: (30_000, 30_007), hold_time_s: 1, ..LatchConfig::default() };
        let (scene, answering) = scene(testbed, &latch, &[(1, "alice"), (2, "bob")])?;
        let caller = |number| Caller::new(&scene, (1, "alice"), "bob", number);
        let (first, second) = (caller(1), caller(2));
        let calls = (first.hold(testbed)?, second.hold(testbed)?);
        ensure!(scene.latch.open_legs()? == 8, "every port is in use");
        for number in 3..6 {
            let refusal = caller(number).be_refused(testbed)?;
            ensure!(refusal.contains("Retry-After: 5"), "{refusal}");
        }
        ensure!(scene.latch.open_legs()? == 8, "the calls that were there go on");
        let told = lines(&scene.latch, "limit=\"ports of realm access\"");
        ensure!((1..=3).contains(&told), "{told} lines tell of it:\n{}", scene.latch.peer.output());

        first.hang_up(testbed, calls.0)?;
        // The ports rest for a second.
        wait_until("the legs are closed", TIMEOUT, || Ok(scene.latch.open_legs()? == 4))?;
        std::thread::sleep(Duration::from_millis(1_500));
        caller(6).succeed(testbed)?;
        second.hang_up(testbed, calls.1)?;
        drop(answering);
        let records = scene.finish(2 * 3 + 3)?;
        ensure!(with_code(&records, 503) == 3 && with_code(&records, 200) == 6, "{records:#?}");
        ensure!(counted(testbed, "limited")? == 3, "the counter says {}", counted(testbed, "limited")?);
        Ok(())
    });
}

#[test]
fn calls_beyond_the_limit_are_refused_until_somebody_hangs_up() {
    in_testbed(TestbedConfig::with_nats(&[NatKind::PortRestricted; 2]), |testbed| {
        // One from terminal to terminal is two: one on each side of the softswitch.
        let latch = LatchConfig { extra: "[limits]\nmax_calls = 4\n".into(), ..LatchConfig::default() };
        let (scene, answering) = scene(testbed, &latch, &[(1, "alice"), (2, "bob")])?;
        let caller = |number| Caller::new(&scene, (1, "alice"), "bob", number);
        let (first, second) = (caller(1), caller(2));
        let calls = (first.hold(testbed)?, second.hold(testbed)?);
        for number in 3..6 {
            let refusal = caller(number).be_refused(testbed)?;
            ensure!(refusal.contains("Retry-After: 5"), "{refusal}");
        }
        let told = lines(&scene.latch, "limit=\"max_calls\"");
        ensure!((1..=3).contains(&told), "{told} lines tell of it:\n{}", scene.latch.peer.output());
        first.hang_up(testbed, calls.0)?;
        wait_until("the legs are closed", TIMEOUT, || Ok(scene.latch.open_legs()? == 4))?;
        std::thread::sleep(Duration::from_millis(500));
        caller(6).succeed(testbed)?;
        second.hang_up(testbed, calls.1)?;
        drop(answering);
        scene.finish(2 * 3)?;
        ensure!(counted(testbed, "limited")? == 3, "the counter says {}", counted(testbed, "limited")?);
        Ok(())
    });
}

#[test]
fn calls_for_whose_ways_there_is_no_room_are_refused_until_somebody_hangs_up() {
    in_testbed(TestbedConfig::with_nats(&[NatKind::PortRestricted; 4]), |testbed| {
        // Room for two NATs, the softswitch, and Latch itself.
        let arguments = ["--max-next-hops", "5"].map(str::to_owned).to_vec();
        let latch = LatchConfig { arguments, ..LatchConfig::default() };
        let users = [(1, "alice"), (2, "bob"), (3, "carol"), (4, "dave")];
        let (scene, answering) = scene(testbed, &latch, &users)?;
        let first = Caller::new(&scene, (1, "alice"), "bob", 1);
        let call = first.hold(testbed)?;
        let before = scene.latch.open_legs()?;
        Caller::new(&scene, (3, "carol"), "dave", 2).be_refused(testbed)?;
        ensure!(lines(&scene.latch, "NEXT_HOPS") >= 1, "nothing tells of it:\n{}", scene.latch.peer.output());
        wait_until("the refused call has no leg", TIMEOUT, || Ok(scene.latch.open_legs()? == before))?;

        first.hang_up(testbed, call)?;
        wait_until("the legs are closed", TIMEOUT, || Ok(scene.latch.open_legs()? == 0))?;
        Caller::new(&scene, (3, "carol"), "dave", 3).succeed(testbed)?;
        wait_until("the legs are closed", TIMEOUT, || Ok(scene.latch.open_legs()? == 0))?;
        drop(answering);
        let records = scene.latch.stop(testbed)?;
        ensure!(counted(testbed, "media_failed")? >= 1, "nothing counts it");
        // The callee's half of the refused call may have been answered by then, and ends with a BYE.
        let in_order = records.iter().filter(|record| record["end_cause"] == "bye_caller").count();
        ensure!(with_code(&records, 503) >= 1 && in_order == 4, "{records:#?}");
        Ok(())
    });
}

/// Latches of more legs than `EVENTS` has room for, while Latch is away for a moment.
#[test]
fn latches_whose_reports_found_no_room_are_in_the_records_all_the_same() {
    const CALLS: u32 = 24;
    in_testbed(TestbedConfig::with_nats(&[NatKind::PortRestricted; 2]), |testbed| {
        let arguments = ["--events-bytes", "4096"].map(str::to_owned).to_vec();
        let latch = LatchConfig { arguments, ..LatchConfig::default() };
        let (scene, answering) = scene(testbed, &latch, &[(1, "alice"), (2, "bob")])?;
        let calling = Caller::new(&scene, (1, "alice"), "bob", 1).config;
        let calling = SippConfig { calls: CALLS, rate: 50, hold: Duration::from_secs(8), ..calling };
        let calling = Sipp::start(testbed, "calls", testbed.phone(1)?, &calling)?;
        wait_until("all calls are there", TIMEOUT, || Ok(scene.latch.open_legs()? == 4 * CALLS as usize))?;
        std::thread::sleep(Duration::from_millis(500));
        let legs = scene.latch.legs()?;

        scene.latch.peer.signal(Signal::SIGSTOP)?;
        for _ in 0..2 {
            for number in [2, 1] {
                let nat = testbed.nat(number)?.public().to_ipv6_mapped().octets();
                let socket = |port| testbed.phone(number)?.udp(SocketAddrV4::new(address::PHONE, port));
                let (rtp, rtcp) = (socket(6_000)?, socket(6_001)?);
                for (index, _) in legs.iter().filter(|(_, leg)| leg.signalling_address == nat) {
                    let relay = SocketAddrV4::new(address::LATCH_ACCESS, 30_000 + 2 * u16::try_from(*index)?);
                    Stream { packets: 1, ..Stream::default() }.send(&rtp, relay)?;
                    let relay = SocketAddrV4::new(*relay.ip(), relay.port() + 1);
                    rtcp.send_to(&sender_report(1, 1, 160), relay)?;
                }
            }
        }
        scene.latch.peer.signal(Signal::SIGCONT)?;

        let report = calling.expect_success(Duration::from_secs(40))?;
        ensure!(report.successful == u64::from(CALLS), "{report:?}");
        let told = lines(&scene.latch, "EVENTS was full");
        ensure!((1..=2).contains(&told), "nothing tells of it:\n{}", scene.latch.peer.output());
        drop(answering);
        let records = scene.finish(2 * CALLS as usize)?;
        println!("{} latches found late", counted(testbed, "latches found late")?);
        ensure!(counted(testbed, "latches found late")? > 0, "nothing counts it");
        for record in records {
            let up = &record["streams"][0]["access_to_core"];
            for component in ["rtp", "rtcp"] {
                let (source, packets) = (&up[format!("{component}_source")], &up[format!("{component}_packets")]);
                ensure!(source.is_object() && packets.as_u64() >= Some(1), "{component}: {up:#}");
            }
        }
        Ok(())
    });
}
