//! An attacker among the simulated phones: it knows Call-IDs, tags and addresses of every call, forges requests,
//! responses and sources, registers itself, calls, and has an honest phone in calls of its own, whose tokens it keeps
//! when they have ended. Whatever it does, no call, binding or stream is moved, ended or
//! heard by it, and no address that has not proved itself gets more than three times the bytes that came from there.

use crate::{
    lab::*,
    simulation::{ATTACKER, Event, World},
};
use proxy_user::{
    media::StreamSpec,
    signalling::sip::{Message, Name},
};
use rand::Rng;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

/// What somebody who listens knows of a dialog.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Known {
    call_id: String,
    from: String,
    to: String,
}

/// What an attacker knows and got.
#[derive(Default)]
pub(crate) struct Attacker {
    dialogs: BTreeSet<Known>,
    /// Call-ID and From of those who have named their secret: their source alone entitles to nothing any more.
    named: BTreeSet<(String, String)>,
    /// Its own sources, and those that it forged and that belong to no phone.
    sources: BTreeSet<SocketAddr>,
    /// Bytes from and to each of them that never proved itself.
    bytes: HashMap<IpAddr, (usize, usize)>,
    /// Where its own phone is, and the tokens of others that this was shown.
    phone: Option<SocketAddr>,
    tokens: Vec<String>,
    serial: u32,
    pub(crate) with_tokens: usize,
    pub(crate) attempts: usize,
    pub(crate) in_dialogs: usize,
}

/// The attacker's addresses: where it is registered, and so has proved that it is there; and everywhere else.
fn own(world: &World, port: u16) -> SocketAddr {
    let family = world.phones[0].source.parse::<SocketAddr>().unwrap();
    let address = match (family.is_ipv4(), port) {
        (true, REGISTERED) => "203.0.113.67",
        (true, _) => "203.0.113.66",
        (false, REGISTERED) => "2001:db8:a:667::67",
        (false, _) => "2001:db8:a:666::66",
    };
    SocketAddr::new(address.parse().unwrap(), port)
}

const REGISTERED: u16 = 5060;
/// The user of its own phone.
const OWN_PHONE: &str = "trudy";

impl Attacker {
    /// Takes what is sent to one of its sources.
    pub(crate) fn receives(&mut self, sent: &Sent) -> bool {
        let address = sent.destination.remote;
        if sent.realm != ACCESS || !self.sources.contains(&address) {
            return false;
        }
        let message = sent.message();
        if address.port() == REGISTERED {
            // It is registered there: keep-alives reach it, and its own answers.
            assert!(matches!(message.method(), None | Some("OPTIONS")), "heard by the attacker: {}", sent.text);
        } else {
            assert_eq!(message.method(), None, "heard by the attacker: {}", sent.text);
        }
        // It gets no body of anybody's, and no token but its own.
        assert!(message.body().is_empty(), "{}", sent.text);
        if let Some((_, got)) = self.bytes.get_mut(&address.ip()) {
            *got += sent.text.len();
        }
        true
    }

    /// Sees what passes, except the tokens in it.
    pub(crate) fn watches(&mut self, sent: &Sent) {
        let message = sent.message();
        if self.phone == Some(sent.destination.remote) && sent.realm == ACCESS && sent.has(Name::Contact) {
            let contact = sent.contact();
            let token = contact.split([':', '@']).nth(1).filter(|token| token.len() == 13).map(str::to_owned);
            self.tokens.extend(token.filter(|token| !self.tokens.contains(token)));
        }
        let (Some(call_id), Some(from), Some(to)) =
            (message.call_id(), message.value(Name::From), message.value(Name::To))
        else {
            return;
        };
        if message.from_tag().is_none() || message.to_tag().is_none() {
            return;
        }
        self.dialogs.insert(Known { call_id: call_id.into_owned(), from: from.into_owned(), to: to.into_owned() });
    }

    /// A phone spoke: in a dialog, it does so to the contact that it was given.
    pub(crate) fn spoke(&mut self, bytes: &[u8]) {
        let Ok(message) = Message::parse(bytes) else { return };
        if let (Some(_), Some(tag), Some(_), Some(call_id)) =
            (message.method(), message.from_tag(), message.to_tag(), message.call_id())
            && !message.request_uri().unwrap_or_default().contains("example.test")
        {
            self.named.insert((call_id.into_owned(), tag.into_owned()));
        }
    }
}

fn tag(value: &str) -> String {
    value.split(";tag=").nth(1).unwrap_or_default().to_owned()
}

/// What must not change by anything that it does.
#[derive(Debug, PartialEq)]
struct Whole {
    streams: BTreeMap<u64, StreamSpec>,
    calls: usize,
    records: usize,
    registrations: Vec<(String, String, String)>,
}

fn whole(world: &World) -> Whole {
    let of_others = |user: &str| !user.starts_with("mallory");
    let mut registrations: Vec<_> = world
        .lab
        .proxy
        .registrations()
        .filter(|registration| of_others(&registration.user))
        .map(|registration| (registration.user, registration.contact, registration.flow.to_string()))
        .collect();
    registrations.sort();
    Whole {
        streams: world.lab.datapath.streams.values().map(|spec| (spec.id.0, spec.clone())).collect(),
        calls: world.lab.load().calls,
        records: world.lab.records.len(),
        registrations,
    }
}

/// Media is believed from where signalling came from and nowhere else (the relay's own tests hold it to that): so a
/// stream that names the attacker's address is one of its own calls.
fn nobodys_media_is_the_attackers(world: &World) {
    let (here, there) = (own(world, REGISTERED).ip(), own(world, 1).ip());
    let phones: Vec<IpAddr> =
        world.phones.iter().map(|phone| phone.source.parse::<SocketAddr>().unwrap().ip()).collect();
    for leg in world.lab.datapath.streams.values().flat_map(|stream| &stream.legs).filter(|leg| leg.realm == ACCESS) {
        let signalling = leg.signalling.unwrap();
        let of_the_attacker = signalling == here || signalling == there;
        assert!(of_the_attacker || phones.contains(&signalling), "{leg:?}");
        assert!(leg.remote.is_none_or(|remote| remote.rtp.ip() == signalling), "{leg:?}");
        assert!(!leg.policy.latch_any && leg.policy.address_bits == [32, 128]);
    }
}

/// One attempt.
pub(crate) fn attack(world: &mut World) {
    world.attacker.attempts += 1;
    world.attacker.serial += 1;
    match world.random.random_range(0..12) {
        0 => register(world),
        1 => invite(world),
        2 => response(world),
        3 => garbage(world),
        4 | 5 => with_own_token(world),
        _ => in_dialog(world),
    }
}

/// Puts a datagram in and sees that nothing comes of it but an answer to where it seemed to come from.
fn inject(world: &mut World, source: SocketAddr, text: &str) {
    let before = whole(world);
    let phone = world.phones.iter().any(|phone| phone.source == source.to_string());
    if !phone {
        world.attacker.sources.insert(source);
        if source.ip() == own(world, 1).ip() {
            world.attacker.bytes.entry(source.ip()).or_default().0 += text.len();
        }
    }
    world.lab.receive_bytes(ACCESS, source, text.as_bytes());
    let after = whole(world);
    let outside = text.contains(ATTACKER);
    if outside {
        // It may be a call of its own, as long as that is all.
        let ours = |whole: &Whole| (whole.records, whole.registrations.clone());
        assert_eq!(ours(&before), ours(&after), "{text}");
        assert!(before.streams.iter().all(|(id, spec)| after.streams.get(id) == Some(spec)), "{text}");
    } else {
        assert_eq!(before, after, "from {source}: {text}");
    }
    nobodys_media_is_the_attackers(world);
    for sent in world.lab.take() {
        let answers = sent.destination.remote == source && sent.message().method().is_none();
        let forwarded = outside && sent.realm == CORE && sent.text.contains(ATTACKER);
        assert!(answers || forwarded, "from {source} {text} makes\n{}\nto {}", sent.text, sent.destination);
        if forwarded {
            world.transmit(Event::ToSoftswitch(sent.text.into_bytes()));
        } else if !phone {
            world.attacker.receives(&sent);
        }
    }
}

/// With all that is known of a dialog, and with what is guessed in place of the token.
fn in_dialog(world: &mut World) {
    let dialogs: Vec<_> = world.attacker.dialogs.iter().cloned().collect();
    if dialogs.is_empty() {
        return;
    }
    world.attacker.in_dialogs += 1;
    let mut known = dialogs[world.random.random_range(0..dialogs.len())].clone();
    if world.random.random_bool(0.5) {
        std::mem::swap(&mut known.from, &mut known.to);
    }
    const METHODS: &[&str] = &[
        "INVITE",
        "UPDATE",
        "BYE",
        "ACK",
        "INFO",
        "REFER",
        "PRACK",
        "NOTIFY",
        "MESSAGE",
        "OPTIONS",
        "SUBSCRIBE",
        "CANCEL",
    ];
    let method = METHODS[world.random.random_range(0..METHODS.len())];
    let victim = world.phones.iter().find(|phone| known.from.contains(&phone.name)).map(|phone| phone.source.clone());
    let victim: SocketAddr = victim.unwrap_or_else(|| world.phones[0].source.clone()).parse().unwrap();
    let port = world.random.random_range(10_000..60_000);
    let source = match world.random.random_range(0..4) {
        0 => own(world, REGISTERED),
        1 => SocketAddr::new(victim.ip(), port),
        // Nothing can tell it from the victim before that has named its secret.
        2 if world.attacker.named.contains(&(known.call_id.clone(), tag(&known.from))) => victim,
        _ => own(world, port),
    };
    let own_access = world.lab.own_access();
    let uri = match world.random.random_range(0..4) {
        0 => format!("sip:{}:5060", host_text(&own_access)),
        1 => format!("sip:0123456789abc@{}:5060", host_text(&own_access)),
        2 => "sip:bob@example.test".into(),
        _ => known.to.split(['<', '>']).nth(1).unwrap_or("sip:alice@example.test").to_owned(),
    };
    let cseq = world.random.random_range(1..5_000);
    let serial = world.attacker.serial;
    let contact = own(world, 5060);
    let body = if matches!(method, "INVITE" | "UPDATE" | "ACK" | "PRACK") {
        sdp(&contact.ip().to_string(), 4_000)
    } else {
        String::new()
    };
    let text = sip(&format!(
        "{method} {uri} SIP/2.0
        Via: SIP/2.0/UDP {contact};branch=z9hG4bKm{serial};rport
        Max-Forwards: 70
        From: {}
        To: {}
        Call-ID: {}
        CSeq: {cseq} {method}
        Contact: <sip:mallory@{contact}>
        RAck: 1 1 INVITE
        Event: refer
        Subscription-State: terminated
        Refer-To: <sip:mallory@{contact}>\n\n{body}",
        known.from, known.to, known.call_id,
    ));
    inject(world, source, &text);
}

/// With a token of its own calls, which may have ended, and all that is known of a dialog of others; or with a branch
/// that one of them may have used.
fn with_own_token(world: &mut World) {
    let of_others = |known: &&Known| !known.from.contains(OWN_PHONE) && !known.to.contains(OWN_PHONE);
    let dialogs: Vec<_> = world.attacker.dialogs.iter().filter(of_others).cloned().collect();
    let tokens = world.attacker.tokens.clone();
    if dialogs.is_empty() || tokens.is_empty() {
        return;
    }
    world.attacker.with_tokens += 1;
    let mut known = dialogs[world.random.random_range(0..dialogs.len())].clone();
    if world.random.random_bool(0.5) {
        std::mem::swap(&mut known.from, &mut known.to);
    }
    let methods = ["INVITE", "UPDATE", "BYE", "ACK", "INFO", "REFER", "PRACK", "NOTIFY", "CANCEL", "SUBSCRIBE"];
    let method = methods[world.random.random_range(0..methods.len())];
    let victim = world.phones.iter().find(|phone| known.from.contains(&phone.name)).map(|phone| phone.source.clone());
    let port = world.random.random_range(10_000..60_000);
    let cancels = method == "CANCEL";
    let has_named = world.attacker.named.contains(&(known.call_id.clone(), tag(&known.from)));
    let source = match (victim, world.random.random_range(0..4)) {
        // A token that is forgotten is none.
        (Some(victim), 0) if !cancels && has_named => victim.parse().unwrap(),
        (_, 1) => world.attacker.phone.unwrap(),
        (_, 2) => own(world, REGISTERED),
        _ => own(world, port),
    };
    let own_access = host_text(&world.lab.own_access());
    let token = &tokens[world.random.random_range(0..tokens.len())];
    let serial = world.attacker.serial;
    // Phones count their branches.
    let branch = if cancels { world.random.random_range(1..30).to_string() } else { format!("mt{serial}") };
    let cseq = world.random.random_range(1..5_000);
    let host = if source.is_ipv4() { PRIVATE.to_owned() } else { host_text(&source.ip().to_string()) };
    let body =
        if matches!(method, "INVITE" | "UPDATE" | "ACK" | "PRACK") { sdp(PRIVATE, 4_000) } else { String::new() };
    let rack = world.random.random_range(1..5);
    let text = sip(&format!(
        "{method} sip:{token}@{own_access}:5060 SIP/2.0
        Via: SIP/2.0/UDP {host}:5060;branch=z9hG4bK{branch};rport
        Max-Forwards: 70
        From: {}
        To: {}
        Call-ID: {}
        CSeq: {cseq} {method}
        Contact: <sip:{OWN_PHONE}@{host}:5060>
        RAck: {rack} 1 INVITE
        Event: refer
        Subscription-State: terminated
        Refer-To: <sip:{OWN_PHONE}@example.test>\n\n{body}",
        known.from, known.to, known.call_id,
    ));
    inject(world, source, &text);
}

/// Its own binding, somebody else's, and with somebody else's source.
fn register(world: &mut World) {
    let names = ["mallory", "alice", "bob", "carol"];
    let name = names[world.random.random_range(0..names.len())];
    let phone = world.random.random_range(0..world.phones.len());
    let spoofed: SocketAddr = world.phones[phone].source.parse().unwrap();
    let host = if spoofed.is_ipv4() { PRIVATE.to_owned() } else { spoofed.ip().to_string() };
    let source = if world.random.random_bool(0.5) { own(world, REGISTERED) } else { spoofed };
    let stated = world.phones[phone].name.clone();
    let serial = world.attacker.serial;
    let expires = [0, 60, 3600][world.random.random_range(0..3)];
    let text = sip(&format!(
        "REGISTER sip:example.test SIP/2.0
        Via: SIP/2.0/UDP {host}:5060;branch=z9hG4bKmr{serial};rport
        Max-Forwards: 70
        From: <sip:{name}@example.test>;tag=m
        To: <sip:{name}@example.test>
        Call-ID: reg-{stated}
        CSeq: {serial} REGISTER
        Contact: <sip:{stated}@{host}:5060>
        Expires: {expires}
        {ATTACKER}: 1",
        host = host_text(&host),
    ));
    inject(world, source, &text);
}

/// A call of its own, never acknowledged, with as many streams as there may be.
fn invite(world: &mut World) {
    let port = world.random.random_range(10_000..60_000);
    let source = own(world, port);
    let serial = world.attacker.serial;
    let media: String =
        (0..world.random.random_range(1..5)).map(|n| format!("m=audio {} RTP/AVP 0\n", 4_000 + n)).collect();
    let branches = ",a".repeat(world.random.random_range(0..40));
    let text = sip(&format!(
        "INVITE sip:alice@example.test SIP/2.0
        Via: SIP/2.0/UDP {source};branch=z9hG4bKmi{serial}{branches}
        Max-Forwards: 70
        From: <sip:alice@example.test>;tag=m{serial}
        To: <sip:alice@example.test>
        Call-ID: own-{serial}
        CSeq: 1 INVITE
        Contact: <sip:alice@{source}>
        {ATTACKER}: 1\n\n{}",
        sdp_of(&source.ip().to_string(), &media)
    ));
    inject(world, source, &text);
}

/// An answer to what the proxy sent, except the branch, which only the receiver knows.
fn response(world: &mut World) {
    let dialogs: Vec<_> = world.attacker.dialogs.iter().cloned().collect();
    let Some(known) = dialogs.get(world.random.random_range(0..dialogs.len().max(1))) else { return };
    let status = ["200 OK", "183 Session Progress", "481 Gone", "503 Away"][world.random.random_range(0..4)];
    let method = ["INVITE", "BYE", "REGISTER", "OPTIONS", "UPDATE"][world.random.random_range(0..5)];
    let own_access = host_text(&world.lab.own_access());
    let contact = own(world, 5060);
    let serial = world.attacker.serial;
    let text = sip(&format!(
        "SIP/2.0 {status}
        Via: SIP/2.0/UDP {own_access}:5060;branch=z9hG4bK{serial}
        From: {}
        To: {}
        Call-ID: {}
        CSeq: 1 {method}
        Contact: <sip:mallory@{contact}>\n\n{}",
        known.from,
        known.to,
        known.call_id,
        sdp(&contact.ip().to_string(), 4_000)
    ));
    let phone = world.random.random_range(0..world.phones.len());
    let spoofed: SocketAddr = world.phones[phone].source.parse().unwrap();
    let source = if world.random.random_bool(0.5) { spoofed } else { own(world, 6_000) };
    inject(world, source, &text);
}

/// Not even a message, or one that nobody has use for.
fn garbage(world: &mut World) {
    let port = world.random.random_range(10_000..60_000);
    let source = own(world, port);
    let text = match world.random.random_range(0..4) {
        0 => "GET / HTTP/1.1\r\n\r\n".to_owned(),
        1 => "OPTIONS sip:x SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bKq,a,a,a\r\n\r\n".to_owned(),
        2 => "\0\0\0\0".to_owned(),
        _ => sip(
            "BYE sip:x@example.test SIP/2.0\nVia: SIP/2.0/UDP h;branch=z9hG4bKz\nFrom: <sip:x@y>;tag=1\nTo: <sip:z@y>;tag=2\nCall-ID: none\nCSeq: 1 BYE\nMax-Forwards: 1",
        ),
    };
    inject(world, source, &text);
}

/// How many networks, each with an attacker; `LATCH_ATTACKER_SEEDS` says how many in an optimised build.
fn seeds() -> u64 {
    let seeds = std::env::var("LATCH_ATTACKER_SEEDS");
    seeds.map_or(300, |seeds| seeds.parse().expect("LATCH_ATTACKER_SEEDS is a number"))
}

fn simulate(seed: u64) -> [usize; 4] {
    let mut world = World::new(seed, seed.is_multiple_of(3));
    world.attacker.phone = Some(world.join(OWN_PHONE));
    let start = world.lab.now;
    for index in 0..4 {
        for time in [0, 40] {
            let jitter = world.random.random_range(0..900);
            world.at(start + Duration::from_millis(time * 1000 + jitter), Event::Register(index));
        }
    }
    for _ in 0..world.random.random_range(1..4) {
        let when = Duration::from_millis(world.random.random_range(2_000..30_000));
        let (from, to) = (world.random.random_range(0..3), world.random.random_range(0..3));
        if from != to {
            world.at(start + when, Event::Call(from, to, false));
        }
    }
    for _ in 0..2 {
        let when = Duration::from_millis(world.random.random_range(2_000..30_000));
        let other = world.random.random_range(0..3);
        let (from, to) = if world.random.random_bool(0.5) { (3, other) } else { (other, 3) };
        world.at(start + when, Event::Call(from, to, false));
    }
    if seed.is_multiple_of(4) {
        let when = Duration::from_millis(world.random.random_range(2_000..60_000));
        world.at(start + when, Event::Restart);
        // What comes first after it is from the attacker.
        for n in 0..10 {
            world.at(start + when + Duration::from_millis(n), Event::Attack);
        }
    }
    for tick in 0..140 {
        world.at(start + Duration::from_millis(500 * tick), Event::Tick);
    }
    for _ in 0..60 {
        let when = Duration::from_millis(world.random.random_range(0..70_000));
        world.at(start + when, Event::Attack);
    }
    // Until the last answer to the attacker was sent for the last time.
    let end = start + Duration::from_secs(110);
    while world.step(end) {}
    for (source, (sent, got)) in &world.attacker.bytes {
        assert!(*got <= 3 * sent, "{source} sent {sent} bytes and got {got}");
    }
    assert_eq!(world.lab.proxy.statistics().inconsistencies, 0);
    let answered = world.lab.records.iter().filter(|record| record.answer.is_some()).count();
    [world.attacker.attempts, world.attacker.in_dialogs, world.attacker.with_tokens, answered]
}

#[test]
fn an_attacker_moves_ends_and_hears_nothing() {
    let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get() as u64);
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let run = |thread| move || (thread..seeds()).step_by(threads as usize).map(checked).collect::<Vec<_>>();
        let handles: Vec<_> = (0..threads).map(|thread| scope.spawn(run(thread))).collect();
        handles.into_iter().flat_map(|handle| handle.join().expect("a seed failed")).collect()
    });
    let add = |sum: [usize; 4], one: [usize; 4]| std::array::from_fn(|n| sum[n] + one[n]);
    let [attempts, in_dialogs, with_tokens, answered] = outcomes.into_iter().fold([0; 4], add);
    println!("{attempts} attempts, {in_dialogs} in dialogs, {with_tokens} with own tokens, {answered} calls answered");
    assert!(in_dialogs as u64 > 10 * seeds() && answered as u64 > seeds() / 4, "{in_dialogs} {answered}");
    assert!(with_tokens as u64 > seeds(), "{with_tokens}");
}

fn checked(seed: u64) -> [usize; 4] {
    std::panic::catch_unwind(|| simulate(seed)).unwrap_or_else(|_| panic!("seed {seed}"))
}
