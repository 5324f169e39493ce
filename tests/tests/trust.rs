//! Who may act for a call, tried with real phones and a real softswitch: a phone that changes its network in mid-call
//! takes its call along; a stranger who has read all its signalling changes nothing.

use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use testbed::{
    Baresip, Capture, Counters, Direction, KamailioConfig, LatchConfig, NatConfig, Scenario, Scene, Sipp, SippConfig,
    Testbed, TestbedConfig, address, in_testbed, wait_until,
};

/// How long anything may take that has to happen: much longer than it does.
const TIMEOUT: Duration = Duration::from_secs(20);

fn scene(testbed: &Testbed) -> Result<Scene<'_>> {
    Scene::start(testbed, &KamailioConfig::default(), &LatchConfig::default())
}

/// Counts the RTP that comes to a phone from Latch.
fn heard_by(testbed: &Testbed, phone: usize) -> Result<Counters<'_>> {
    let matching = format!("ip saddr {} udp dport 16384-16484", address::LATCH_ACCESS);
    Counters::add(testbed.phone(phone)?, &[("rtp", Direction::In, &matching)])
}

/// Waits until so many packets more have come.
fn hear(counters: &[&Counters<'_>], packets: u64) -> Result<()> {
    for counter in counters {
        let before = counter.get("rtp")?.packets;
        let what = format!("{packets} packets more are heard");
        wait_until(&what, TIMEOUT, || Ok(counter.get("rtp")?.packets >= before + packets))?;
    }
    Ok(())
}

fn call(caller: &mut Baresip, callee: &mut Baresip, user: &str) -> Result<()> {
    caller.dial(user)?;
    callee.wait_for("CALL_INCOMING", TIMEOUT)?;
    callee.accept()?;
    caller.wait_for("CALL_ESTABLISHED", TIMEOUT)?;
    callee.wait_for("CALL_ESTABLISHED", TIMEOUT).map(drop)
}

/// Phone 1 leaves the network behind NAT 1 for the one behind NAT 3, where its address is the same and its way out is
/// not.
fn roam(testbed: &Testbed) -> Result<()> {
    let (wifi, mobile) = (testbed.nat(1)?.namespace(), testbed.nat(3)?.namespace());
    wifi.ip(&format!("link set lan0 netns {}", mobile.name()))?;
    mobile.ip("link set lan0 master lan")?;
    mobile.ip("link set lan0 up")?;
    testbed.phone(1)?.ip("neigh flush dev eth0").map(drop)
}

#[test]
fn a_phone_that_changes_its_network_in_mid_call_takes_its_media_along() {
    let nobody = NatConfig { phones: Vec::new(), ..NatConfig::default() };
    let nats = vec![NatConfig::default(), NatConfig::default(), nobody];
    in_testbed(TestbedConfig { nats, ..TestbedConfig::default() }, |testbed| {
        let scene = scene(testbed)?;
        let (at_alice, at_bob) = (heard_by(testbed, 1)?, heard_by(testbed, 2)?);
        let mut alice = scene.baresip(1, "alice", |_| {})?;
        let mut bob = scene.baresip(2, "bob", |_| {})?;
        call(&mut alice, &mut bob, "bob")?;
        hear(&[&at_alice, &at_bob], 50)?;
        roam(testbed)?;
        // Until she has said so with what only she can know, nothing of hers is believed from there.
        std::thread::sleep(Duration::from_millis(300));
        let before = at_bob.get("rtp")?.packets;
        std::thread::sleep(Duration::from_millis(700));
        ensure!(at_bob.get("rtp")?.packets == before, "media of another address were let in");
        let messages = format!("ip saddr {} udp sport 5060", address::LATCH_ACCESS);
        let messages = Counters::add(testbed.phone(1)?, &[("sip", Direction::In, &messages)])?;
        alice.hold()?;
        // 100 and 200.
        wait_until("the re-INVITE is answered", TIMEOUT, || Ok(messages.get("sip")?.packets >= 2))?;
        let (alices, bobs) = (at_alice.get("rtp")?.packets, at_bob.get("rtp")?.packets);
        let begun = Instant::now();
        alice.resume()?;
        let both = || Ok(at_alice.get("rtp")?.packets > alices && at_bob.get("rtp")?.packets > bobs);
        wait_until("both hear each other again", TIMEOUT, both)?;
        eprintln!("media both ways {} ms after she asked for it", begun.elapsed().as_millis());
        let recording = Capture::start(testbed, "roamed", testbed.inet(), "latch", "")?;
        hear(&[&at_alice, &at_bob], 50)?;
        let recording = recording.stop()?;
        // 20 ms of G.711, by its size: no session description is in the recording to tell tshark what is RTP.
        let media_to = |nat| recording.count(&format!("udp.length == 180 && !icmp && ip.dst == {}", address::nat(nat)));
        ensure!(media_to(3)? > 0, "nothing went to where she is now");
        ensure!(media_to(1)? == 0, "it went to where she was");
        bob.hang_up()?;
        alice.wait_for("CALL_CLOSED", TIMEOUT)?;
        scene.finish(2).map(drop)
    });
}

#[test]
fn a_stranger_who_has_read_all_of_a_call_changes_nothing_of_it() {
    in_testbed(TestbedConfig::default(), |testbed| {
        let scene = scene(testbed)?;
        let (at_alice, at_bob) = (heard_by(testbed, 1)?, heard_by(testbed, 2)?);
        let mut alice = scene.baresip(1, "alice", |_| {})?;
        let mut bob = scene.baresip(2, "bob", |_| {})?;
        let recording = Capture::start(testbed, "access", testbed.inet(), "latch", "")?;
        call(&mut alice, &mut bob, "bob")?;
        hear(&[&at_alice, &at_bob], 50)?;
        // The 2xx that alice got: From and To with their tags, and the Call-ID.
        let messages = recording.stop()?.sip_messages()?;
        let is_answer = |bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes);
            text.starts_with("SIP/2.0 200") && text.contains("INVITE\r\n")
        };
        let answer = messages.iter().find(|message| message.to == address::nat(1) && is_answer(&message.bytes));
        let answer = String::from_utf8_lossy(&answer.context("no 2xx to alice was seen")?.bytes).into_owned();
        let line = |name: &str| {
            let found = answer.lines().find(|line| line.to_ascii_lowercase().starts_with(&format!("{name}:")));
            found.and_then(|line| line.split_once(": ")).map(|(_, value)| value.to_owned()).context("a header")
        };
        let (from, to, call_id) = (line("from")?, line("to")?, line("call-id")?);
        let stranger = testbed.host("stranger")?.udp(SocketAddrV4::new(address::STRANGER, 5060))?;
        stranger.set_read_timeout(Some(TIMEOUT))?;
        let latch = SocketAddrV4::new(address::LATCH_ACCESS, 5060);
        let sdp = format!(
            "v=0\r\no=- 9 9 IN IP4 {0}\r\ns=-\r\nc=IN IP4 {0}\r\nt=0 0\r\nm=audio 4000 RTP/AVP 8 0\r\n",
            address::STRANGER
        );
        for (number, method) in ["INVITE", "UPDATE", "BYE", "REFER", "INFO"].into_iter().enumerate() {
            for (from, to) in [(&from, &to), (&to, &from)] {
                let body = if matches!(method, "INVITE" | "UPDATE") { sdp.as_str() } else { "" };
                let text = format!(
                    "{method} sip:bob@{domain} SIP/2.0\r\nVia: SIP/2.0/UDP {own};branch=z9hG4bK{method}{length};rport\r\n\
                     Max-Forwards: 70\r\nFrom: {from}\r\nTo: {to}\r\nCall-ID: {call_id}\r\nCSeq: {cseq} {method}\r\n\
                     Contact: <sip:mallory@{own}>\r\nRefer-To: <sip:mallory@{own}>\r\n\
                     Content-Type: application/sdp\r\nContent-Length: {size}\r\n\r\n{body}",
                    domain = testbed::Kamailio::DOMAIN,
                    own = address::STRANGER,
                    length = from.len() + to.len() * 100,
                    cseq = 1_000 + number,
                    size = body.len(),
                );
                stranger.send_to(text.as_bytes(), latch)?;
                let mut buffer = [0; 4096];
                let status = loop {
                    let (length, _) = stranger.recv_from(&mut buffer)?;
                    let text = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned();
                    if text.starts_with("SIP/2.0 ") && !text.starts_with("SIP/2.0 100") && text.contains(method) {
                        break text;
                    }
                };
                ensure!(status.starts_with("SIP/2.0 481"), "{method}: {status}");
            }
        }
        hear(&[&at_alice, &at_bob], 50)?;
        let rtp = format!("ip saddr {} udp dport 4000", address::LATCH_ACCESS);
        let at_stranger = Counters::add(testbed.host("stranger")?, &[("rtp", Direction::In, &rtp)])?;
        hear(&[&at_alice, &at_bob], 50)?;
        ensure!(at_stranger.get("rtp")?.packets == 0, "the stranger hears them");
        alice.hang_up()?;
        bob.wait_for("CALL_CLOSED", TIMEOUT)?;
        scene.finish(2).map(drop)
    });
}

#[test]
fn who_guesses_a_password_is_named_in_the_log_and_to_the_softswitch() {
    in_testbed(TestbedConfig::default(), |testbed| {
        let digest = KamailioConfig { digest: true, ..KamailioConfig::default() };
        let latch = LatchConfig { extra: "[sip]\nsource_header = \"X-Source\"\n".into(), ..LatchConfig::default() };
        let scene = Scene::start(testbed, &digest, &latch)?;
        scene.register(1, "alice")?;
        let guessing = scene.sipp(Scenario::Register, "alice", address::PHONE).password("a guess");
        let guessing = SippConfig { calls: 20, rate: 20, ..guessing };
        let guessing = Sipp::start(testbed, "guessing", testbed.phone(2)?, &guessing)?;
        wait_until("all guesses are refused", TIMEOUT, || {
            Ok(scene.latch.status(testbed)?["engine"]["credentials_refused"] == 20)
        })?;
        drop(guessing);
        let output = scene.latch.peer.output();
        let named: Vec<_> = output.lines().filter(|line| line.contains("the softswitch refused a terminal")).collect();
        ensure!((1..=5).contains(&named.len()), "{} lines tell of it, one a second at most: {named:?}", named.len());
        let source = format!("{}:", testbed.nat(2)?.public());
        for line in &named {
            let clean = line.contains("alice") && !line.contains("a guess");
            ensure!(line.contains(&format!("source={source}")) && clean, "{line}");
        }
        let told = scene.kamailio.peer.output();
        let told =
            told.lines().filter(|line| line.contains(&format!("wrong password for alice from {source}"))).count();
        ensure!(told == 20, "the softswitch was told {told} times");
        ensure!(scene.kamailio.contacts_of("alice")?.len() == 1, "alice is where she was");
        scene.latch.stop(testbed).map(drop)
    });
}
