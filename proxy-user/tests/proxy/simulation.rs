//! Phones with the same private address behind different NATs, a softswitch and the proxy in one process: virtual time,
//! and a network that loses, doubles and reorders. Phones may speak over connections instead, which keep messages in
//! order and break at any time. Everything follows from the seed.
//!
//! Whatever happens: when all is over nothing is left, each call has exactly one record, and no datagram carries an
//! address to the side that must not see it (the lab looks at each).

use crate::{attacker::Attacker, lab::*, phone::Phone};
use proxy_user::{
    engine::EarlierStreams,
    flow::{ConnectionId, Flow, Transport},
    signalling::sip::{Message, Name, Uri},
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Event {
    /// With the number of the connection, 0 for a datagram.
    FromPhone(usize, u64, Vec<u8>),
    ToPhone(usize, u64, Vec<u8>),
    /// The phone's end of its connection is gone; the proxy notices it later.
    Break(usize),
    Closed(usize, u64),
    FromSoftswitch(Vec<u8>),
    ToSoftswitch(Vec<u8>),
    Register(usize),
    Call(usize, usize, bool),
    Die(usize),
    /// The phone is in another network, where its packets have another address, and registers from there.
    Move(usize),
    Restart,
    Tick,
    /// Somebody who is none of the phones tries something.
    Attack,
}

pub(crate) struct World {
    pub(crate) lab: Lab,
    pub(crate) random: StdRng,
    pub(crate) phones: Vec<Phone>,
    /// Where phones were, and are no more.
    left: BTreeSet<String>,
    /// Of each phone: the number of its connection, if it has one, and when the last message arrives in each direction.
    connections: Vec<(u64, [Instant; 2])>,
    last_connection: u64,
    softswitch: HashMap<String, String>,
    queue: BinaryHeap<Reverse<(Instant, u64, Event)>>,
    serial: u64,
    /// Percent.
    loss: u32,
    /// Branches of the INVITEs outside dialogs that the proxy sent: one a call.
    calls: BTreeSet<String>,
    /// INVITEs of the core that were answered for a phone out of reach; some of them had been sent to it before.
    out_of_reach: usize,
    pub(crate) attacker: Attacker,
}

impl World {
    pub(crate) fn new(seed: u64, streams: bool) -> Self {
        // Every mixture of IP versions.
        let (access, terminals) = match seed % 2 {
            0 => (OWN_ACCESS, "198.51.100."),
            _ => ("2001:db8:a::10", "2001:db8:a:1::"),
        };
        let (core, softswitch) = match seed / 2 % 2 {
            0 => (OWN_CORE, SOFTSWITCH),
            _ => ("2001:db8:c::10", "[2001:db8:c::20]:5060"),
        };
        let mut config = networks(access, core, softswitch);
        config.sip.invite_timeout = Duration::from_secs(40);
        config.keepalive.period = Some(Duration::from_secs(25));
        config.realms.get_mut(ACCESS).unwrap().streams.tcp = Some(5060);
        let mut random = StdRng::seed_from_u64(seed);
        let names = ["alice", "bob", "carol"];
        let phones = (0..3).map(|n| {
            let address = host_text(&format!("{terminals}{}", n + 1));
            Phone::new(names[n], &format!("{address}:{}", 40_000 + n))
        });
        let mut phones: Vec<Phone> = phones.collect();
        for phone in &mut phones {
            phone.reliable = streams && random.random_bool(0.7);
        }
        let loss = [0, 10, 30][random.random_range(0..3)];
        let lab = Lab::seeded(config, seed as u8);
        Self {
            connections: vec![(0, [lab.now; 2]); phones.len()],
            last_connection: 0,
            lab,
            random,
            phones,
            left: BTreeSet::new(),
            softswitch: HashMap::new(),
            queue: BinaryHeap::new(),
            serial: 0,
            loss,
            calls: BTreeSet::new(),
            out_of_reach: 0,
            attacker: Attacker::default(),
        }
    }

    /// One more phone, behind a NAT of its own.
    pub(crate) fn join(&mut self, name: &str) -> SocketAddr {
        let last: SocketAddr = self.phones[self.phones.len() - 1].source.parse().unwrap();
        let address = match last.ip() {
            IpAddr::V4(address) => IpAddr::V4(Ipv4Addr::from(u32::from(address) + 1)),
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from(u128::from(address) + 1)),
        };
        let source = SocketAddr::new(address, last.port() + 1);
        self.phones.push(Phone::new(name, &source.to_string()));
        self.connections.push((0, [self.lab.now; 2]));
        source
    }

    pub(crate) fn at(&mut self, when: Instant, event: Event) {
        self.serial += 1;
        self.queue.push(Reverse((when, self.serial, event)));
    }

    /// Through the network: lost, doubled, late.
    pub(crate) fn transmit(&mut self, event: Event) {
        for _ in 0..if self.random.random_range(0..100) < self.loss { 2 } else { 1 } {
            if self.random.random_range(0..100) >= self.loss {
                let longest = if self.loss == 0 { 20 } else { 400 };
                let delay = Duration::from_millis(self.random.random_range(1..=longest));
                self.at(self.lab.now + delay, event.clone());
            }
        }
    }

    /// Over a phone's connection: nothing is lost or overtaken.
    fn stream(&mut self, index: usize, direction: usize, event: Event) {
        let delay = Duration::from_millis(self.random.random_range(1..=200));
        let (_, last) = &mut self.connections[index];
        last[direction] = last[direction].max(self.lab.now + delay);
        let when = last[direction];
        self.at(when, event);
    }

    fn speak(&mut self, index: usize, bytes: Vec<u8>) {
        if !self.phones[index].reliable {
            return self.transmit(Event::FromPhone(index, 0, bytes));
        }
        if self.connections[index].0 == 0 {
            self.last_connection += 1;
            self.connections[index] = (self.last_connection, [self.lab.now; 2]);
        }
        let number = self.connections[index].0;
        self.stream(index, 0, Event::FromPhone(index, number, bytes));
    }

    fn flow(&self, index: usize, number: u64) -> Flow {
        let remote = self.phones[index].source.parse().unwrap();
        Flow { connection: Some(ConnectionId(number)), ..Flow::to(Transport::Tcp, remote) }
    }

    /// One step, if there is one before `end`.
    pub(crate) fn step(&mut self, end: Instant) -> bool {
        let event = self.queue.peek().map(|Reverse((at, ..))| *at);
        let timer = self.lab.proxy.poll_timeout();
        let Some(next) = event.into_iter().chain(timer).min().filter(|next| *next <= end) else { return false };
        self.lab.now = self.lab.now.max(next);
        if timer == Some(next) {
            self.lab.proxy.handle_timeout(next);
            self.lab.settle();
        } else if let Some(Reverse((_, _, event))) = self.queue.pop() {
            self.happen(event);
        }
        for sent in self.lab.take() {
            if self.attacker.receives(&sent) {
                continue;
            }
            self.attacker.watches(&sent);
            let message = sent.message();
            if message.method() == Some("INVITE") && message.to_tag().is_none() {
                self.calls.insert(sent.header(Name::Via));
            }
            let refusal = sent.realm == CORE && message.code() == Some(480);
            self.out_of_reach += usize::from(refusal && message.cseq().unwrap().method == "INVITE");
            let bytes = sent.text.into_bytes();
            if sent.realm == CORE {
                assert_eq!(sent.destination.to_string(), self.lab.softswitch);
                self.transmit(Event::ToSoftswitch(bytes));
            } else {
                let source = sent.destination.remote.to_string();
                let phone = self.phones.iter().position(|phone| phone.source == source);
                let Some(phone) = phone else {
                    assert!(self.left.contains(&source), "{source}");
                    continue;
                };
                match sent.destination.connection {
                    None => self.transmit(Event::ToPhone(phone, 0, bytes)),
                    Some(number) if number.0 == self.connections[phone].0 => {
                        self.stream(phone, 1, Event::ToPhone(phone, number.0, bytes));
                    }
                    // The proxy does not know yet that it is gone.
                    Some(_) => {}
                }
            }
        }
        for index in 0..self.phones.len() {
            for bytes in std::mem::take(&mut self.phones[index].out) {
                self.speak(index, bytes);
            }
        }
        true
    }

    fn happen(&mut self, event: Event) {
        let now = self.lab.now;
        match event {
            Event::FromPhone(index, 0, bytes) => {
                let source = self.phones[index].source.parse().unwrap();
                self.attacker.spoke(&bytes);
                self.lab.receive_bytes(ACCESS, source, &bytes);
            }
            Event::FromPhone(index, number, _) | Event::ToPhone(index, number, _)
                if number != 0 && number != self.connections[index].0 => {}
            Event::FromPhone(index, number, bytes) => {
                self.attacker.spoke(&bytes);
                self.lab.receive_over(ACCESS, self.flow(index, number), &bytes);
            }
            Event::Break(index) => {
                let number = std::mem::take(&mut self.connections[index].0);
                let delay = Duration::from_millis(self.random.random_range(0..20_000));
                if number != 0 {
                    self.at(now + delay, Event::Closed(index, number));
                }
            }
            Event::Closed(index, number) => {
                let sent = self.lab.close(ACCESS, self.flow(index, number));
                self.lab.sent.extend(sent);
            }
            Event::FromSoftswitch(bytes) => {
                let source = self.lab.softswitch.parse().unwrap();
                self.lab.receive_bytes(CORE, source, &bytes);
            }
            Event::ToSoftswitch(bytes) => {
                if let Some(bytes) = self.switch(&bytes) {
                    self.transmit(Event::FromSoftswitch(bytes));
                }
            }
            Event::ToPhone(index, ..) | Event::Register(index) | Event::Call(index, ..) if self.phones[index].dead => {}
            Event::ToPhone(index, _, bytes) => self.phones[index].receive(&bytes, &mut self.random, now),
            Event::Register(index) => self.phones[index].register(now),
            Event::Call(from, to, late) => {
                let whom = self.phones.get(to).map_or("nobody".into(), |phone| phone.name.clone());
                self.phones[from].call(&whom, late, &mut self.random, now);
            }
            Event::Restart => {
                drop(self.lab.restart(EarlierStreams::Kept));
                // No connection outlives the process.
                self.connections.iter_mut().for_each(|(number, _)| *number = 0);
            }
            Event::Die(index) => self.phones[index].dead = true,
            Event::Move(index) => self.leave(index, now),
            Event::Attack => crate::attacker::attack(self),
            Event::Tick => {
                for phone in self.phones.iter_mut().filter(|phone| !phone.dead) {
                    phone.tick(&mut self.random, now);
                }
            }
        }
    }

    /// A phone that sends datagrams is in another network, or behind another port of the same NAT.
    fn leave(&mut self, index: usize, now: Instant) {
        let address: SocketAddr = self.phones[index].source.parse().unwrap();
        let ip = match address.ip() {
            ip if self.random.random_bool(0.3) => ip,
            IpAddr::V4(ip) => IpAddr::V4(Ipv4Addr::from(u32::from(ip) + 16)),
            IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from(u128::from(ip) + (1 << 64))),
        };
        let source = SocketAddr::new(ip, address.port() + 100).to_string();
        self.left.insert(std::mem::replace(&mut self.phones[index].source, source));
        self.phones[index].register(now);
    }

    /// The softswitch: a registrar, and a proxy without state that records its route.
    fn switch(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        let message = Message::parse(bytes).unwrap();
        let vias: Vec<String> = message.values(Name::Via).map(|via| via.into_owned()).collect();
        if message.method().is_none() {
            return Some(message.edit().replace(Name::Via, vias.iter().skip(1)).finish());
        }
        let method = message.method()?.to_owned();
        let own: std::net::SocketAddr = self.lab.softswitch.parse().ok()?;
        let sent = Sent {
            realm: CORE,
            destination: proxy_user::flow::Flow::udp(own),
            text: String::from_utf8(bytes.to_vec()).ok()?,
        };
        let uri = Uri::parse(message.request_uri()?).ok()?;
        let user = uri.user().unwrap_or_default().to_owned();
        let name = message.value(Name::To)?.split(['@', ':']).nth(1)?.to_owned();
        // It knows an attacker by the password that it lacks.
        let refused = match method.as_str() {
            "INVITE" => Some("407 Proxy Authentication Required"),
            "REGISTER" if name != "mallory" => Some("403 Forbidden"),
            _ => None,
        };
        if let Some(status) = refused.filter(|_| message.value(ATTACKER).is_some()) {
            return Some(answer(&sent, status, "s", "", "").into_bytes());
        }
        if method == "REGISTER" {
            let contact = sent.contact();
            self.softswitch.insert(name, contact.clone());
            return Some(answer(&sent, "200 OK", "s", &format!("Contact: <{contact}>;expires=90\n"), "").into_bytes());
        }
        let mut editor = message.edit();
        if uri.host() == "example.test" {
            match self.softswitch.get(&user) {
                Some(contact) => editor.request_uri(contact),
                None if method == "ACK" => return None,
                None => return Some(answer(&sent, "404 Not Found", "s", "", "").into_bytes()),
            };
        }
        if method == "INVITE" {
            editor.prepend(Name::RecordRoute, &format!("<sip:{};lr>", host_text(&own.ip().to_string())));
        }
        editor.remove(Name::Route);
        // Without state, the branch has to follow from what came (RFC 3261 §16.11).
        let branch = message.top_via().ok()?.branch().to_owned();
        editor.replace(Name::Via, [format!("SIP/2.0/UDP {own};branch={branch}s")].iter().chain(&vias));
        Some(editor.finish())
    }
}

/// Header of what an attacker sends outside of dialogs.
pub(crate) const ATTACKER: &str = "X-Attacker";

/// How many networks.
const SEEDS: u64 = 120;

fn simulate(seed: u64, restarts: usize, streams: bool, moves: usize) -> (usize, usize) {
    let mut world = World::new(seed, streams);
    let start = world.lab.now;
    for index in 0..3 {
        for time in [0, 40, 80, 120] {
            let jitter = world.random.random_range(0..900);
            world.at(start + Duration::from_millis(time * 1000 + jitter), Event::Register(index));
        }
    }
    for _ in 0..world.random.random_range(1..6) {
        let when = Duration::from_millis(world.random.random_range(2_000..70_000));
        let (from, to) = (world.random.random_range(0..3), world.random.random_range(0..4));
        let late = world.random.random_bool(0.2);
        if from != to {
            world.at(start + when, Event::Call(from, to, late));
        }
    }
    if world.random.random_bool(0.3) {
        let when = Duration::from_millis(world.random.random_range(2_000..90_000));
        let victim = world.random.random_range(0..3);
        world.at(start + when, Event::Die(victim));
    }
    for _ in 0..restarts {
        let when = Duration::from_millis(world.random.random_range(2_000..100_000));
        world.at(start + when, Event::Restart);
    }
    for _ in 0..moves {
        let when = Duration::from_millis(world.random.random_range(2_000..100_000));
        let who = world.random.random_range(0..3);
        world.at(start + when, Event::Move(who));
    }
    for _ in 0..if streams { world.random.random_range(0..6) } else { 0 } {
        let when = Duration::from_millis(world.random.random_range(2_000..100_000));
        let victim = world.random.random_range(0..3);
        world.at(start + when, Event::Break(victim));
    }
    for tick in 0..800 {
        world.at(start + Duration::from_millis(250 * tick), Event::Tick);
    }
    let mut steps = 0;
    let mut end = start + Duration::from_secs(world.random.random_range(20..200));
    while world.step(end) {
        steps += 1;
    }
    // All phones are gone now, in the middle of their calls, and their media with them: what was held is given up after
    // an hour.
    for index in 0..3 {
        world.phones[index].dead = true;
        world.happen(Event::Break(index));
    }
    for _ in 0..75 {
        let streams: Vec<_> = world.lab.datapath.streams.keys().copied().collect();
        for stream in streams {
            world.lab.datapath.silence(stream);
        }
        world.lab.settle();
        end += Duration::from_secs(60);
        while world.step(end) {
            steps += 1;
        }
        world.lab.now = end;
    }
    let (records, calls) = (world.lab.records.len(), world.calls.len());
    assert!((calls..=calls + world.out_of_reach).contains(&records), "one record a call: {records} of {calls}");
    let ids: BTreeSet<_> = world.lab.records.iter().map(|record| record.id.0).collect();
    assert_eq!(ids.len(), world.lab.records.len());
    world.lab.assert_empty();
    let load = world.lab.load();
    assert_eq!((load.registrations, load.connections), (0, 0));
    let answered = world.lab.records.iter().filter(|record| record.answer.is_some()).count();
    (steps, answered)
}

#[test]
fn nothing_is_left_whatever_the_network_does() {
    simulate_all(0, false, 0);
}

#[test]
fn nothing_is_left_whenever_the_process_is_killed() {
    simulate_all(3, false, 0);
}

#[test]
fn nothing_is_left_however_connections_break() {
    simulate_all(0, true, 0);
}

#[test]
fn nothing_is_left_however_connections_break_and_whenever_the_process_is_killed() {
    simulate_all(3, true, 0);
}

#[test]
fn nothing_is_left_wherever_phones_go_and_whenever_the_process_is_killed() {
    simulate_all(2, false, 4);
}

fn simulate_all(restarts: usize, streams: bool, moves: usize) {
    let (mut steps, mut answered) = (0, 0);
    for seed in 0..SEEDS {
        let outcome = std::panic::catch_unwind(|| simulate(seed, restarts, streams, moves));
        let (some, calls) = outcome.unwrap_or_else(|_| panic!("seed {seed}"));
        steps += some;
        answered += calls;
    }
    println!("{steps} steps, {answered} calls answered");
    assert!(
        2 * answered as u64 > SEEDS,
        "{answered} calls were answered: the simulation no longer does what it should"
    );
}
