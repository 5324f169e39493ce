//! Latch is killed in mid-call and started again: media, calls, records and registrations notice nothing.

use std::net::{SocketAddrV4, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use testbed::rtp::{Sink, Stream};
use testbed::{
    Count, Counters, Direction, Kamailio, KamailioConfig, Latch, LatchConfig, NatKind, Scenario, Sipp, SippConfig,
    Testbed, TestbedConfig, address, in_testbed, leftovers, wait_until,
};

/// How long anything may take that has to happen: much longer than it does.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Where terminals send their signalling.
const LATCH: SocketAddrV4 = SocketAddrV4::new(address::LATCH_ACCESS, 5060);
/// IPv4, UDP and RTP headers, and the payload.
const OCTETS: u64 = 20 + 8 + 12 + 160;

fn config() -> LatchConfig {
    // Small maps: a restart is about other things than memory.
    LatchConfig { ports: (30_000, 30_999), ..LatchConfig::default() }
}

/// The NATs remember where signalling comes from for longer than a call here lasts: nothing keeps it alive.
fn two_phones() -> TestbedConfig {
    let mut config = TestbedConfig::with_nats(&[NatKind::PortRestricted; 2]);
    config.nats.iter_mut().for_each(|nat| nat.udp_timeout = Some(Duration::from_secs(120)));
    config
}

/// Settings of a SIPp at a phone that sends everything to Latch.
fn sipp(scenario: Scenario, user: &str) -> SippConfig {
    let users = KamailioConfig::default().users;
    let password = users.iter().find(|known| known.name == user).map(|known| known.password).unwrap_or_default();
    SippConfig::new(scenario, user, SocketAddrV4::new(address::PHONE, 5060), LATCH).password(password)
}

fn register(testbed: &Testbed, kamailio: &Kamailio, number: usize, user: &str) -> Result<()> {
    let name = format!("register-{user}");
    Sipp::run(testbed, &name, testbed.phone(number)?, &sipp(Scenario::Register, user), TIMEOUT)?;
    kamailio.wait_for_contacts(user, 1, TIMEOUT).map(drop)
}

/// One end of a call: its media socket, and where it sends.
struct End<'testbed> {
    rtp: UdpSocket,
    relay: SocketAddrV4,
    counters: Counters<'testbed>,
}

impl<'testbed> End<'testbed> {
    fn open(testbed: &'testbed Testbed, number: usize, relay: SocketAddrV4) -> Result<Self> {
        let phone = testbed.phone(number)?;
        let counters = Counters::add(
            phone,
            &[("rtp_in", Direction::In, "udp dport 6000"), ("rtp_out", Direction::Out, "udp sport 6000")],
        )?;
        Ok(Self { rtp: phone.udp(SocketAddrV4::new(address::PHONE, 6_000))?, relay, counters })
    }
}

/// A call of alice at phone 1 to bob at phone 2, whose media is made here; alice hangs up after `hold`.
struct Call<'testbed> {
    caller: Sipp,
    callee: Sipp,
    alice: End<'testbed>,
    bob: End<'testbed>,
}

impl<'testbed> Call<'testbed> {
    fn begin(testbed: &'testbed Testbed, kamailio: &Kamailio, hold: Duration) -> Result<Self> {
        register(testbed, kamailio, 1, "alice")?;
        register(testbed, kamailio, 2, "bob")?;
        let callee = Sipp::start(testbed, "callee", testbed.phone(2)?, &sipp(Scenario::Answer, "bob"))?;
        let alice = SippConfig { hold, ..sipp(Scenario::Call, "alice").calling("bob") };
        let caller = Sipp::start(testbed, "caller", testbed.phone(1)?, &alice)?;
        let alice = End::open(testbed, 1, caller.wait_for_remote_media(TIMEOUT)?)?;
        let bob = End::open(testbed, 2, callee.wait_for_remote_media(TIMEOUT)?)?;
        Ok(Self { caller, callee, alice, bob })
    }

    /// Opens both NATs and both legs. Bob's packet may have nowhere to go yet.
    fn latch(&self, latch: &Latch) -> Result<()> {
        let one = |ssrc| Stream { packets: 1, ssrc, sequence: 0, ..Stream::default() };
        one(9).send(&self.bob.rtp, self.bob.relay)?;
        wait_until("bob's first packet is dropped", TIMEOUT, || Ok(latch.counters()?.dropped_destination == 1))?;
        one(9).send(&self.alice.rtp, self.alice.relay)?;
        wait_until("alice's first packet arrives", TIMEOUT, || Ok(self.bob.counters.get("rtp_in")?.packets == 1))?;
        Ok(())
    }

    fn end(self) -> Result<()> {
        self.caller.expect_success(Duration::from_secs(60))?;
        self.callee.expect_success(TIMEOUT).map(drop)
    }
}

/// The audio stream of the record whose terminal is behind this NAT.
fn audio<'r>(records: &'r [Value], testbed: &Testbed, nat: usize) -> Result<&'r Value> {
    let public = format!("{}:", testbed.nat(nat)?.public());
    let of = |record: &&Value| record["terminal"]["source"].as_str().is_some_and(|source| source.starts_with(&public));
    let record = records.iter().find(of).ok_or_else(|| anyhow!("no record of {public} in {records:#?}"))?;
    ensure!(record["end_cause"] == "bye_caller", "{record:#}");
    Ok(&record["streams"][0])
}

fn recorded(flow: &Value) -> Count {
    let number = |key: &str| flow[key].as_u64().unwrap_or(u64::MAX);
    Count { packets: number("rtp_packets"), bytes: number("rtp_octets") }
}

fn nothing_is_left(testbed: &Testbed, objects: &leftovers::BpfObjects) -> Result<()> {
    objects.wait_gone(Duration::from_secs(5))?;
    leftovers::no_xdp(testbed.latch())?;
    ensure!(!testbed.pins().exists(), "{} is still there", testbed.pins().display());
    Ok(())
}

/// Sends RTP to the relay, 50 packets a second, until all is done; how many.
fn talk(end: &End<'_>, ssrc: u32, done: &AtomicBool) -> Result<u64> {
    let mut sent = 0u64;
    while !done.load(Ordering::Relaxed) {
        let sequence = (sent % 65_536) as u16;
        sent += u64::from(Stream { packets: 50, ssrc, sequence, ..Stream::default() }.send(&end.rtp, end.relay)?);
    }
    Ok(sent)
}

/// Kills Latch so often and starts it again each time, checking that it has taken up both calls.
fn kill_again_and_again(testbed: &Testbed, mut latch: Latch, kills: u32) -> Result<Latch> {
    for kill in 1..=kills {
        std::thread::sleep(Duration::from_millis(300));
        latch.kill()?;
        // Now and then it is away for a while.
        std::thread::sleep(Duration::from_millis(u64::from(kill % 3) * 300));
        latch = Latch::start(testbed, &config())?;
        let log = latch.peer.output();
        ensure!(log.contains("resumed: 2 calls and 2 registrations go on"), "start {kill}:\n{log}");
        ensure!(log.contains(" 0 legs closed"), "start {kill}:\n{log}");
    }
    Ok(latch)
}

#[test]
fn killed_ten_times_in_one_call_nothing_is_lost() {
    const KILLS: u32 = 10;
    in_testbed(two_phones(), |testbed| {
        let kamailio = Kamailio::start(testbed, &KamailioConfig::default())?;
        let latch = Latch::start(testbed, &config())?;
        let call = Call::begin(testbed, &kamailio, Duration::from_secs(45))?;
        let (alice, bob) = (&call.alice, &call.bob);
        call.latch(&latch)?;
        let (at_alice, at_bob) = (Sink::start(&alice.rtp)?, Sink::start(&bob.rtp)?);
        let done = AtomicBool::new(false);
        let begun = Instant::now();
        let (latch, said_by_alice, said_by_bob) = std::thread::scope(|scope| {
            let alice = scope.spawn(|| talk(alice, 1, &done));
            let bob = scope.spawn(|| talk(bob, 2, &done));
            let killed = kill_again_and_again(testbed, latch, KILLS);
            println!("{KILLS} kills within {:?} of media", begun.elapsed());
            done.store(true, Ordering::Relaxed);
            let said = |joined: std::thread::Result<Result<u64>>| joined.map_err(|_| anyhow!("a sender panicked"))?;
            anyhow::Ok((killed?, said(alice.join())?, said(bob.join())?))
        })?;
        std::thread::sleep(Duration::from_millis(200));
        let (heard, heard_by_bob) = (at_alice.stop()?, at_bob.stop()?);
        for (tally, ssrc, said) in [(&heard, 2, said_by_bob), (&heard_by_bob, 1, said_by_alice)] {
            let stream = tally.stream(ssrc)?;
            ensure!((stream.packets, stream.lost()) == (said, 0), "of {said}: {tally:?}");
        }
        let counted = |end: &End<'_>, name| end.counters.get(name);
        let alices = (counted(alice, "rtp_out")?, counted(alice, "rtp_in")?);
        let bobs = (counted(bob, "rtp_out")?, counted(bob, "rtp_in")?);
        // The BYE comes through a Latch that knows of the call by its journal alone.
        call.end()?;
        let records = latch.wait_for_cdrs(2, TIMEOUT)?;
        let (hers, his) = (audio(&records, testbed, 1)?, audio(&records, testbed, 2)?);
        // Bob's first packet was dropped at alice's leg, where it had nowhere to go yet.
        let sent_by_bob = Count { packets: bobs.0.packets - 1, bytes: bobs.0.bytes - OCTETS };
        for (what, found, expected) in [
            ("alice sent", recorded(&hers["access_to_core"]), alices.0),
            ("alice heard", recorded(&hers["core_to_access"]), alices.1),
            ("bob sent, at alice's leg", recorded(&hers["core_to_access"]), sent_by_bob),
            ("bob heard", recorded(&his["core_to_access"]), bobs.1),
        ] {
            ensure!(found == expected, "{what}: the record says {found:?}, the far end {expected:?}: {records:#?}");
        }
        wait_until("no leg is open", TIMEOUT, || Ok(latch.open_legs()? == 0))?;
        let objects = latch.bpf_objects()?;
        ensure!(latch.stop(testbed)?.len() == 2, "two records");
        nothing_is_left(testbed, &objects)
    });
}

#[test]
fn told_to_be_followed_it_leaves_the_call_to_the_next_one() {
    in_testbed(two_phones(), |testbed| {
        let kamailio = Kamailio::start(testbed, &KamailioConfig::default())?;
        let mut latch = Latch::start(testbed, &config())?;
        let call = Call::begin(testbed, &kamailio, Duration::from_secs(6))?;
        call.latch(&latch)?;
        let at_bob = Sink::start(&call.bob.rtp)?;
        let stream = Stream { packets: 150, ssrc: 1, ..Stream::default() };
        let sending = stream.spawn(&call.alice.rtp, call.alice.relay)?;
        latch.peer.signal(Signal::SIGUSR2)?;
        ensure!(latch.peer.wait(TIMEOUT)?.success(), "it ended badly");
        std::thread::sleep(Duration::from_millis(500));
        let latch = Latch::start(testbed, &config())?;
        sending.join().map_err(|_| anyhow!("the sender panicked"))??;
        std::thread::sleep(Duration::from_millis(200));
        ensure!(at_bob.stop()?.stream(1)?.packets == 150, "packets were lost");
        call.end()?;
        latch.wait_for_cdrs(2, TIMEOUT)?;
        latch.stop(testbed).map(drop)
    });
}

#[test]
fn a_registered_terminal_can_be_called_after_every_kind_of_start() {
    in_testbed(two_phones(), |testbed| {
        let kamailio = Kamailio::start(testbed, &KamailioConfig::default())?;
        let latch = Latch::start(testbed, &config())?;
        register(testbed, &kamailio, 2, "bob")?;
        register(testbed, &kamailio, 1, "alice")?;
        latch.kill()?;
        let latch = Latch::start(testbed, &config())?;
        let call = |name: &str| -> Result<()> {
            let callee = format!("callee-{name}");
            let answering = Sipp::start(testbed, &callee, testbed.phone(2)?, &sipp(Scenario::Answer, "bob"))?;
            let calling =
                SippConfig { hold: Duration::from_millis(300), ..sipp(Scenario::Call, "alice").calling("bob") };
            Sipp::run(testbed, &format!("caller-{name}"), testbed.phone(1)?, &calling, TIMEOUT)?;
            answering.expect_success(TIMEOUT).map(drop)
        };
        call("killed")?;
        latch.wait_for_cdrs(2, TIMEOUT)?;
        latch.stop(testbed)?;
        let latch = Latch::start(testbed, &config())?;
        call("stopped")?;
        latch.wait_for_cdrs(4, TIMEOUT)?;
        latch.stop(testbed).map(drop)
    });
}

#[test]
fn down_leaves_nothing_and_the_next_start_ends_the_calls() {
    in_testbed(two_phones(), |testbed| {
        ensure!(Latch::down(testbed)?.contains("there was nothing"), "nothing was there");
        let kamailio = Kamailio::start(testbed, &KamailioConfig::default())?;
        let latch = Latch::start(testbed, &config())?;
        ensure!(Latch::down(testbed).is_err_and(|error| error.to_string().contains("stop it first")), "it is running");
        let call = Call::begin(testbed, &kamailio, Duration::from_secs(60))?;
        call.latch(&latch)?;
        let objects = latch.bpf_objects()?;
        latch.kill()?;
        ensure!(objects.wait_gone(Duration::from_millis(200)).is_err(), "what is pinned stays");
        let told = Latch::down(testbed)?;
        for what in ["map LEGS", "map LEG_STATE", "the program on access", "the program on core"] {
            ensure!(told.contains(what), "{what} is not in: {told}");
        }
        nothing_is_left(testbed, &objects)?;
        ensure!(Latch::down(testbed)?.contains("there was nothing"), "nothing is there");
        // The parties get BYEs, and each call has its record.
        let latch = Latch::start(testbed, &config())?;
        let records = latch.wait_for_cdrs(2, TIMEOUT)?;
        ensure!(records.iter().all(|record| record["end_cause"] == "error"), "{records:#?}");
        latch.stop(testbed).map(drop)
    });
}

#[test]
fn what_is_pinned_for_something_else_is_refused_until_a_fresh_start() {
    in_testbed(two_phones(), |testbed| {
        let latch = Latch::start(testbed, &config())?;
        let objects = latch.bpf_objects()?;
        latch.kill()?;
        let with = |arguments: &[&str]| LatchConfig {
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
            ..config()
        };
        let other_ports = LatchConfig { ports: (30_000, 30_499), ..config() };
        for (changed, words) in [
            (with(&["--max-legs", "2048"]), ["LEGS: max_legs is 16384 in the kernel, and 2048 is wanted", "LEG_STATE"]),
            (with(&["--max-next-hops", "64"]), ["NEXT_HOPS: max_next_hops is 1024", "64 is wanted"]),
            (with(&["--events-bytes", "4096"]), ["EVENTS: events_bytes", "4096 is wanted"]),
            (other_ports, ["realm[0] was media 203.0.113.10 ports 30000-30999", "is now"]),
        ] {
            let refused = Latch::start_in_vain(testbed, &changed)?;
            for word in words.into_iter().chain(["latch down", "latch run --fresh"]) {
                ensure!(refused.contains(word), "{word} is not in: {refused}");
            }
        }
        // Refusing changed nothing.
        let latch = Latch::start(testbed, &config())?;
        ensure!(latch.peer.output().contains("resumed: "), "{}", latch.peer.output());
        latch.kill()?;
        // A journal that knows nothing of the pins.
        let state = testbed.directory().join("state");
        rename(&state.join("journal.redb"), &state.join("aside"))?;
        let refused = Latch::start_in_vain(testbed, &config())?;
        ensure!(refused.contains("knows nothing") && refused.contains("--fresh"), "{refused}");
        rename(&state.join("aside"), &state.join("journal.redb"))?;
        let latch = Latch::start(testbed, &with(&["--fresh", "--max-legs", "2048"]))?;
        ensure!(latch.peer.output().contains("fresh start"), "{}", latch.peer.output());
        objects.wait_gone(Duration::from_secs(5))?;
        let objects = latch.bpf_objects()?;
        latch.stop(testbed)?;
        nothing_is_left(testbed, &objects)
    });
}

#[test]
fn a_broken_journal_stops_no_start_and_leaves_nothing_of_its_calls() {
    in_testbed(two_phones(), |testbed| {
        let kamailio = Kamailio::start(testbed, &KamailioConfig::default())?;
        let latch = Latch::start(testbed, &config())?;
        let call = Call::begin(testbed, &kamailio, Duration::from_secs(60))?;
        call.latch(&latch)?;
        let objects = latch.bpf_objects()?;
        latch.kill()?;
        let journal = testbed.directory().join("state/journal.redb");
        std::fs::write(&journal, vec![0x5a; 1 << 16])?;
        let latch = Latch::start(testbed, &config())?;
        let log = latch.peer.output();
        for words in ["cannot be used", "journal.redb.broken-", "Their media stops", "map LEGS"] {
            ensure!(log.contains(words), "{words} is not in: {log}");
        }
        objects.wait_gone(Duration::from_secs(5))?;
        ensure!(latch.open_legs()? == 0, "a leg is open");
        // From now on this journal counts.
        latch.kill()?;
        let latch = Latch::start(testbed, &config())?;
        let log = latch.peer.output();
        ensure!(log.contains("resumed: 0 calls") && !log.contains("cannot be used"), "{log}");
        drop(call);
        latch.stop(testbed).map(drop)
    });
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    Ok(std::fs::rename(from, to)?)
}

#[test]
fn the_layout_of_another_version_is_refused_and_removed() {
    in_testbed(TestbedConfig { nats: Vec::new(), ..TestbedConfig::default() }, |testbed| {
        let latch = Latch::start(testbed, &config())?;
        let objects = latch.bpf_objects()?;
        latch.kill()?;
        let version = std::fs::read_dir(testbed.pins())?.flatten().next().ok_or_else(|| anyhow!("no pins"))?.path();
        rename(&version, &testbed.pins().join("v1"))?;
        let refused = Latch::start_in_vain(testbed, &config())?;
        ensure!(refused.contains("layout is v1") && refused.contains("latch down"), "{refused}");
        Latch::down(testbed)?;
        nothing_is_left(testbed, &objects)?;
        Latch::start(testbed, &config())?.stop(testbed).map(drop)
    });
}

#[test]
fn killed_while_a_call_rings_it_rings_on_and_can_be_cancelled() {
    in_testbed(two_phones(), |testbed| {
        let kamailio = Kamailio::start(testbed, &KamailioConfig::default())?;
        let latch = Latch::start(testbed, &config())?;
        register(testbed, &kamailio, 1, "alice")?;
        register(testbed, &kamailio, 2, "bob")?;
        let callee = Sipp::start(testbed, "callee", testbed.phone(2)?, &sipp(Scenario::RingUntilCancelled, "bob"))?;
        let calling = SippConfig { hold: Duration::from_secs(6), ..sipp(Scenario::CallAndCancel, "alice") };
        let caller = Sipp::start(testbed, "caller", testbed.phone(1)?, &calling.calling("bob"))?;
        wait_until("it rings", TIMEOUT, || Ok(latch.open_legs()? >= 2))?;
        std::thread::sleep(Duration::from_millis(300));
        latch.kill()?;
        let latch = Latch::start(testbed, &config())?;
        ensure!(latch.open_legs()? >= 2, "its media are kept");
        caller.expect_success(TIMEOUT)?;
        callee.expect_success(TIMEOUT)?;
        let records = latch.wait_for_cdrs(2, TIMEOUT)?;
        ensure!(records.iter().all(|record| record["end_cause"] == "cancelled"), "{records:#?}");
        wait_until("no leg is open", TIMEOUT, || Ok(latch.open_legs()? == 0))?;
        latch.stop(testbed).map(drop)
    });
}

/// Nobody else reads what a process that is killed was about to write: records are whole lines, each once.
#[test]
fn calls_that_end_while_it_is_killed_again_and_again_have_one_record_each() {
    const CALLS: u32 = 40;
    in_testbed(two_phones(), |testbed| {
        let kamailio = Kamailio::start(testbed, &KamailioConfig::default())?;
        let mut latch = Latch::start(testbed, &config())?;
        register(testbed, &kamailio, 1, "alice")?;
        register(testbed, &kamailio, 2, "bob")?;
        let answering = SippConfig { calls: CALLS, ..sipp(Scenario::Answer, "bob") };
        let callee = Sipp::start(testbed, "callee", testbed.phone(2)?, &answering)?;
        let calling = SippConfig {
            calls: CALLS,
            rate: 20,
            limit: CALLS,
            hold: Duration::from_secs(5),
            ..sipp(Scenario::Call, "alice").calling("bob")
        };
        let caller = Sipp::start(testbed, "caller", testbed.phone(1)?, &calling)?;
        let pairs = 2 * CALLS as usize;
        wait_until("all calls are there", TIMEOUT, || Ok(latch.open_legs()? == 2 * pairs))?;
        std::thread::sleep(Duration::from_millis(500));
        let mut kills = 0;
        let begun = Instant::now();
        while latch.cdrs()?.len() < pairs && begun.elapsed() < Duration::from_secs(40) {
            latch.kill()?;
            kills += 1;
            latch = Latch::start(testbed, &config())?;
            std::thread::sleep(Duration::from_millis(70 + 37 * (kills % 5)));
        }
        let records = latch.wait_for_cdrs(pairs, TIMEOUT)?;
        println!("{kills} kills while {CALLS} calls ended");
        let mut ids: Vec<_> = records.iter().map(|record| record["id"].as_str().unwrap_or_default()).collect();
        ids.sort_unstable();
        ids.dedup();
        ensure!(ids.len() == pairs && records.len() == pairs, "{} records, {} ids", records.len(), ids.len());
        wait_until("no leg is open", TIMEOUT, || Ok(latch.open_legs()? == 0))?;
        drop((caller, callee));
        latch.stop(testbed).map(drop)
    });
}
