//! The story itself, step by step.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;
use testbed::leftovers::{self, BpfObjects};
use testbed::{
    Baresip, Capture, Count, Counters, Direction, Kamailio, KamailioConfig, LatchConfig, Namespace, NatKind, Scene,
    Testbed, address, rtp, wait_until,
};

use crate::fold;
use crate::tell::{Teller, WIDTH};

/// What the two NATs are like: one with a port of its own for every destination, one with the phone's port for all.
pub(crate) const NATS: [NatKind; 2] = [NatKind::Symmetric, NatKind::PortRestricted];

/// How long the phones talk before the packets are compared.
const TALK: Duration = Duration::from_secs(5);

/// Where baresip has its media.
const MEDIA_PORTS: RangeInclusive<u16> = 16_384..=16_484;

/// RTP packets a second and phone: one for each 20 ms of speech.
const PACKET_RATE: u64 = 50;

/// The two telephones: whose they are, and number of phone and NAT.
const PHONES: [(&str, u8); 2] = [("alice", 1), ("bob", 2)];

/// The tones that alice's and bob's phone send as speech, Hz.
const TONES: [u32; 2] = [440, 620];

/// What of a leg is shown.
const LEG_FIELDS: [&str; 5] = ["generation", "peer", "remote_address", "signalling_address", "remote_port"];

/// What of a leg's state is shown.
const STATE_FIELDS: [&str; 1] = ["rtp"];

/// What of a record is not shown.
const RECORD_OMITS: [&str; 11] =
    ["schema", "id", "call_id", "index", "rtcp_source", "at", "start", "end", "final_code", "rtcp_octets", "contact"];

/// Counters at a telephone, seen from there.
const COUNTERS: [&str; 4] = ["rtp_in", "rtp_out", "rtcp_in", "rtcp_out"];

pub(crate) fn title(teller: &Teller) -> Result<()> {
    let [alice, bob] =
        PHONES.map(|(name, number)| format!("{name:<5} {} ── NAT {}", address::PHONE, address::nat(number)));
    let latch = format!("{} Latch {}", address::LATCH_ACCESS, address::LATCH_CORE);
    teller.title("A telephone call through Latch")?;
    teller.line("")?;
    teller.line(&format!("  {alice} ──┐"))?;
    teller.line(&format!("  {:1$}   ├── {latch} ── Kamailio {2}", "", alice.chars().count(), address::SOFTSWITCH))?;
    teller.line(&format!("  {bob} ──┘        access │ core\n"))
}

/// Makes the call. What Latch loads into the kernel is noted in `objects`, to be looked for when all is over.
pub(crate) fn tell(testbed: &Testbed, teller: &mut Teller, objects: &mut Vec<BpfObjects>) -> Result<()> {
    network(testbed, teller)?;
    let scene = start(testbed, teller)?;
    objects.push(scene.latch.bpf_objects()?);
    let [mut alice, mut bob] = register(&scene, teller)?;
    let ends = [count_at(testbed.phone(1)?)?, count_at(testbed.phone(2)?)?];
    let stated = call(testbed, &mut alice, &mut bob, teller)?;
    media(testbed, &ends, teller)?;
    maps(&scene, stated, teller)?;
    let legs = scene.latch.open_legs()?;
    hang_up(&scene, &mut alice, &mut bob, legs, teller)?;
    drop((alice, bob));
    records(scene, &ends, teller)
}

fn network(testbed: &Testbed, teller: &mut Teller) -> Result<()> {
    for (name, number) in PHONES {
        let addresses = testbed.phone(number.into())?.ip("-4 -o addr show dev eth0")?;
        ensure!(addresses.contains(&format!(" {}/24 ", address::PHONE)), "{name} has {addresses}");
        let nat = testbed.nat(number.into())?;
        ensure!(nat.public() == address::nat(number), "the NAT of {name} has address {}", nat.public());
    }
    let count = leftovers::namespaces(testbed.prefix()).len();
    teller.done(&format!("{count} network namespaces; same private address twice; NATs symmetric and port-restricted"))
}

fn start<'testbed>(testbed: &'testbed Testbed, teller: &mut Teller) -> Result<Scene<'testbed>> {
    teller.begin("Latch", "starting Kamailio and Latch")?;
    let digest = KamailioConfig { digest: true, ..KamailioConfig::default() };
    // Few ports, so that the maps are dumped in no time.
    let arguments = vec!["--max-legs".into(), "1024".into()];
    let small = LatchConfig { ports: (30_000, 30_999), arguments, ..LatchConfig::default() };
    let scene = Scene::start(testbed, &digest, &small)?;
    let said = scene.latch.peer.output();
    let line = said.lines().find(|line| line.starts_with("XDP program (")).unwrap_or_default();
    ensure!(line.contains("native mode on access, core"), "Latch's XDP program is not in native mode: {line:?}");
    teller.done(line)?;
    Ok(scene)
}

fn register(scene: &Scene<'_>, teller: &mut Teller) -> Result<[Baresip; 2]> {
    teller.begin("Register", "both phones register")?;
    let phones = [
        scene.baresip(1, "alice", |config| config.tone_hz = TONES[0])?,
        scene.baresip(2, "bob", |config| config.tone_hz = TONES[1])?,
    ];
    let (mut at_kamailio, mut at_latch) = (Vec::new(), Vec::new());
    for (name, number) in PHONES {
        let contacts = scene.kamailio.wait_for_contacts(name, 1, Duration::from_secs(2))?;
        let uri = contacts.first().map(|contact| contact.uri.as_str()).unwrap_or_default();
        let core = format!("@{}:5060", address::LATCH_CORE);
        ensure!(uri.starts_with("sip:") && uri.contains(&core), "{name} is registered at {uri}");
        at_kamailio.push(format!("Kamailio has {name:<5}  {uri}"));

        let log = scene.latch.peer.output();
        let own = format!(" registered aor=\"{name}@");
        let line = log.lines().find(|line| line.contains(&own)).ok_or_else(|| anyhow!("Latch registered no {name}"))?;
        let source = between(line, "source=", " ")?;
        let contact = between(line, "contact=\"", "\"")?;
        ensure!(contact.contains(&address::PHONE.to_string()), "{name}'s Contact is {contact}");
        ensure!(source.starts_with(&format!("{}:", address::nat(number))), "{name}'s packets came from {source}");
        at_latch.push(format!("Latch has    {name:<5}  {contact}  from {source}"));
    }
    let version = scene.kamailio.command(&["core.version"])?;
    let version = version.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
    teller.done(&format!(
        "both phones (baresip) at Kamailio {}, through Latch, with their passwords",
        version.unwrap_or_default()
    ))?;
    at_kamailio.iter().chain(&at_latch).try_for_each(|line| teller.more(line))?;
    Ok(phones)
}

/// The call begins. Returns the port that alice's session description states.
fn call(testbed: &Testbed, alice: &mut Baresip, bob: &mut Baresip, teller: &mut Teller) -> Result<u16> {
    let limit = Duration::from_secs(5);
    teller.begin("Call", "alice calls bob")?;
    let said = Capture::start(testbed, "said-by-alice", testbed.phone(1)?, "eth0", "udp")?;
    let dialled = Instant::now();
    alice.dial("bob")?;
    let ringing = bob.wait_for("CALL_INCOMING", limit)?;
    let rang = dialled.elapsed();
    let caller = ringing.json["peeruri"].as_str().unwrap_or_default().to_owned();
    ensure!(caller == format!("sip:alice@{}", Kamailio::DOMAIN), "bob is called by {caller:?}");
    bob.accept()?;
    alice.wait_for("CALL_ESTABLISHED", limit)?;
    bob.wait_for("CALL_ESTABLISHED", limit)?;
    let messages = said.stop()?.sip_messages()?;
    let invite = messages.iter().find(|message| message.start_line().starts_with("INVITE "));
    let invite = invite.map(|invite| String::from_utf8_lossy(&invite.bytes)).context("alice's phone sent no INVITE")?;
    ensure!(invite.contains(&format!("c=IN IP4 {}\r\n", address::PHONE)), "alice states another address: {invite}");
    let stated = between(&invite, "m=audio ", " ")?.parse()?;
    teller
        .done(&format!("bob's phone rings {} ms after alice dialled, shows {caller}; bob answers", rang.as_millis()))?;
    Ok(stated)
}

fn media(testbed: &Testbed, ends: &[Counters<'_>; 2], teller: &mut Teller) -> Result<()> {
    teller.begin("Media", &format!("they talk for {} s", TALK.as_secs()))?;
    wait_until("each phone hears the other", Duration::from_secs(5), || {
        Ok(ends[0].get("rtp_in")?.packets > 0 && ends[1].get("rtp_in")?.packets > 0)
    })?;
    let heard = |name: &str, phone| Capture::start(testbed, name, testbed.phone(phone)?, "eth0", "udp");
    let captures = [heard("heard-by-bob", 2)?, heard("heard-by-alice", 1)?];
    let begin = [passed(&ends[0], &ends[1])?, passed(&ends[1], &ends[0])?];
    let started = Instant::now();
    wait_until("they have talked", 2 * TALK, || Ok(started.elapsed() >= TALK))?;
    let end = [passed(&ends[0], &ends[1])?, passed(&ends[1], &ends[0])?];
    let mut pitches = Vec::new();
    for capture in captures {
        pitches.push(rtp::pitch_hz(&capture.stop()?.g711_payloads(MEDIA_PORTS)?));
    }
    let mut lines = Vec::new();
    let flows = begin.into_iter().zip(end).zip(pitches.into_iter().zip(TONES));
    for ((way, hearer), ((begin, end), (pitch, tone))) in
        [("alice → bob", "bob hears"), ("bob → alice", "alice hears")].into_iter().zip(flows)
    {
        let (sent, arrived) = (end.sent - begin.sent, end.arrived - begin.arrived);
        let seconds = (end.at - begin.at).as_secs_f32();
        ensure!(sent == arrived, "{way}: {sent} packets were sent, {arrived} arrived");
        ensure!(arrived >= PACKET_RATE * TALK.as_secs() * 9 / 10, "{way}: only {arrived} packets arrived");
        ensure!((pitch - f64::from(tone)).abs() < 5.0, "{way}: a tone of {tone} Hz was sent, {pitch:.1} Hz arrived");
        let lost = sent - arrived;
        lines.push(format!(
            "{way}  {seconds:.1} s: sent {sent}, arrived {arrived}, lost {lost}; {hearer} a tone of {pitch:.0} Hz"
        ));
    }
    teller.done("RTP both ways, counted by nftables in each phone's namespace")?;
    lines.iter().try_for_each(|line| teller.more(line))
}

/// RTP packets that one end has sent and the other has received, of the same moment.
struct Passed {
    sent: u64,
    arrived: u64,
    at: Instant,
}

fn passed(from: &Counters<'_>, to: &Counters<'_>) -> Result<Passed> {
    let mut passed = Passed { sent: 0, arrived: 0, at: Instant::now() };
    // A packet takes microseconds, the next one comes 20 ms later: if none arrived in between, none was under way.
    wait_until("a moment without packets", Duration::from_secs(20), || {
        let arrived = to.get("rtp_in")?.packets;
        passed = Passed { sent: from.get("rtp_out")?.packets, arrived, at: Instant::now() };
        Ok(to.get("rtp_in")?.packets == arrived)
    })?;
    Ok(passed)
}

/// Shows the leg at which alice's voice arrives; `stated` is the port in her session description.
fn maps(scene: &Scene<'_>, stated: u16, teller: &mut Teller) -> Result<()> {
    teller.begin("Kernel", "reading the maps")?;
    let dumps = [dump(scene, "LEGS")?, dump(scene, "LEG_STATE")?];
    let nat = address::nat(1).octets().map(|octet| octet.to_string()).join(",");
    let (legs, states) = (fold::parts(&dumps[0].1), fold::parts(&dumps[1].1));
    // Open, and latched to alice's NAT.
    let found = legs.iter().zip(&states).find_map(|(leg, state)| {
        let (key, leg, state) = (fold::field(leg, "key")?, fold::field(leg, "value")?, fold::field(state, "value")?);
        let source = fold::field(fold::field(state, "rtp")?, "source")?;
        let here = fold::field(leg, "generation")? != "0" && fold::field(source, "address")? == format!("[{nat}]");
        here.then_some((key, leg, state, source))
    });
    let (key, leg, state, source) = found.ok_or_else(|| anyhow!("no open leg has latched {}", address::nat(1)))?;
    let mapped = |key| {
        let address = fold::field(leg, key).unwrap_or_default();
        address.strip_prefix("[0,0,0,0,0,0,0,0,0,0,255,255,").map(|tail| tail.trim_end_matches(']').replace(',', "."))
    };
    let port = |object, key| fold::field(object, key).unwrap_or_default();
    // Her private address is not a candidate: what she states counts only where her SIP comes from.
    ensure!(
        mapped("remote_address").is_none() && port(leg, "remote_port") == "0",
        "what alice's SDP says counts: {leg}"
    );
    ensure!(mapped("signalling_address") == Some(address::nat(1).to_string()), "where her SIP came from: {leg}");
    teller.done(&format!(
        "alice's SDP says {}:{}; her first packet taught {}:{}",
        address::PHONE,
        stated,
        address::nat(1),
        port(source, "port")
    ))?;
    for ((id, _), (name, value, keys)) in
        dumps.iter().zip([("LEGS", leg, &LEG_FIELDS[..]), ("LEG_STATE", state, &STATE_FIELDS[..])])
    {
        teller
            .command(&format!("bpftool map dump id {id}"), &format!("{name}, the entry where alice's voice arrives"))?;
        let entry = format!("{{\"key\":{key},\"value\":{}}}", fold::select(value, keys));
        teller.quote(&fold::fold(&entry, WIDTH - 4))?;
    }
    Ok(())
}

/// Id of Latch's map `name`, and what bpftool prints of it, squeezed.
fn dump(scene: &Scene<'_>, name: &str) -> Result<(u64, String)> {
    let id = scene.latch.bpf_objects()?.map(name).ok_or_else(|| anyhow!("Latch has no map {name}"))?;
    let output = Command::new("bpftool").args(["map", "dump", "id", &id.to_string()]).output().context("bpftool")?;
    ensure!(output.status.success(), "bpftool map dump: {}", String::from_utf8_lossy(&output.stderr));
    Ok((id, fold::squeeze(&String::from_utf8_lossy(&output.stdout))))
}

fn hang_up(scene: &Scene<'_>, alice: &mut Baresip, bob: &mut Baresip, legs: usize, teller: &mut Teller) -> Result<()> {
    teller.begin("Hang-up", "alice hangs up")?;
    ensure!(legs == 4, "{legs} legs were open during the call: two for each phone were expected");
    alice.hang_up()?;
    bob.wait_for("CALL_CLOSED", Duration::from_secs(5))?;
    wait_until("no leg is open", Duration::from_secs(5), || Ok(scene.latch.open_legs()? == 0))?;
    teller.done(&format!("alice hangs up, bob's phone gets the BYE; LEGS: {legs} open during the call, 0 now"))
}

/// Compares the records with what the phones counted, shows alice's, and stops Latch.
fn records(scene: Scene<'_>, ends: &[Counters<'_>; 2], teller: &mut Teller) -> Result<()> {
    teller.begin("Record", "reading the call detail records")?;
    let records = scene.latch.wait_for_cdrs(2, Duration::from_secs(5))?;
    let verdicts: BTreeMap<_, _> = scene.latch.counters()?.named().collect();
    let of = |name: &str| verdicts.get(name).copied().unwrap_or_default();
    let (mut sent, mut arrived, mut dropped) = (0, 0, 0);
    let mut heard = [0; 2];
    for (((name, number), end), heard) in PHONES.into_iter().zip(ends).zip(&mut heard) {
        let counted = end.read()?;
        let [rtp_in, rtp_out, rtcp_in, rtcp_out] =
            COUNTERS.map(|counter| counted.get(counter).copied().unwrap_or_default());
        let nat = format!("{}:", address::nat(number));
        let record = records
            .iter()
            .find(|record| text(&record["terminal"]["source"]).starts_with(&nat))
            .ok_or_else(|| anyhow!("no record of {name}: {records:#?}"))?;
        ensure!(text(&record["end_cause"]) == "bye_caller", "{name}: {record:#}");
        let (up, down) = (&record["streams"][0]["access_to_core"], &record["streams"][0]["core_to_access"]);
        for (kind, far) in [("rtp", rtp_in), ("rtcp", rtcp_in)] {
            let near = flow(down, kind)?;
            ensure!(near == far, "{kind} to {name}: the record says {near:?}, the phone counted {far:?}");
        }
        dropped += drops(up)? + drops(down)?;
        sent += rtp_out.packets + rtcp_out.packets;
        arrived += rtp_in.packets + rtcp_in.packets;
        *heard = rtp_in.packets;
    }
    let forwarded = of("forwarded_same") + of("forwarded_other");
    ensure!(forwarded == arrived, "COUNTERS has {forwarded} packets forwarded, {arrived} arrived");
    // The phones' last packets come when their legs are closed; no record has them.
    let late = of("dropped_closed");
    ensure!(
        sent == arrived + dropped + late,
        "{sent} packets were sent: {arrived} arrived, the records have {dropped} dropped, {late} came too late"
    );
    let [alice, bob] = heard;
    teller.done(&format!(
        "{sent} packets sent, {arrived} arrived = COUNTERS, {dropped} dropped as recorded, {late} at closed ports"
    ))?;
    teller.more(&format!("alice heard {alice}, bob {bob} RTP packets: so say the records, octets too. Alice's:"))?;

    let file = std::fs::read_to_string(scene.testbed.directory().join("cdr.jsonl"))?;
    let nat = format!("\"{}:", address::nat(1));
    let line = file.lines().find(|line| line.contains(&nat)).ok_or_else(|| anyhow!("no record of alice"))?;
    teller.quote(&fold::fold(&fold::omit(&fold::squeeze(line), &RECORD_OMITS), WIDTH - 4))?;
    scene.finish(2).map(drop)
}

/// Counts baresip's media at a telephone: RTP and RTCP distinguished by their second byte (RFC 5761 §4).
fn count_at(phone: &Namespace) -> Result<Counters<'_>> {
    let latch = address::LATCH_ACCESS;
    let ports = format!("{}-{}", MEDIA_PORTS.start(), MEDIA_PORTS.end());
    let incoming = format!("ip saddr {latch} udp dport {ports} @th,72,8");
    let outgoing = format!("ip daddr {latch} udp sport {ports} @th,72,8");
    let [rtp_in, rtp_out, rtcp_in, rtcp_out] = COUNTERS;
    Counters::add(
        phone,
        &[
            (rtp_in, Direction::In, &format!("{incoming} != 192-223")),
            (rtp_out, Direction::Out, &format!("{outgoing} != 192-223")),
            (rtcp_in, Direction::In, &format!("{incoming} 192-223")),
            (rtcp_out, Direction::Out, &format!("{outgoing} 192-223")),
        ],
    )
}

fn flow(record: &Value, kind: &str) -> Result<Count> {
    let number =
        |what| record[format!("{kind}_{what}")].as_u64().ok_or_else(|| anyhow!("no {kind}_{what} in {record}"));
    Ok(Count { packets: number("packets")?, bytes: number("octets")? })
}

/// All packets that a direction of a record has dropped.
fn drops(record: &Value) -> Result<u64> {
    let reasons = record["dropped"].as_object().ok_or_else(|| anyhow!("nothing about drops in {record}"))?;
    Ok(reasons.values().filter_map(Value::as_u64).sum())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn between<'l>(line: &'l str, start: &str, end: &str) -> Result<&'l str> {
    let after = line.split_once(start).map(|(_, after)| after);
    after.and_then(|after| after.split(end).next()).ok_or_else(|| anyhow!("no {start} in {line}"))
}
