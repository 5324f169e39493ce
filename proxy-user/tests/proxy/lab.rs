//! A proxy between terminals and a softswitch that are words in a test: virtual time, a datapath that relays nothing,
//! and a look at every datagram for what must not cross.

use proxy_user::{
    accounting::Cdr,
    clock::Clock,
    config::{Config, PortRange, Realm, RealmPolicy, Side, Trust},
    datapath::{Datapath, DatapathError, fake::Fake},
    engine::{Core, EarlierStreams, Input, Load, Output, Protocol, Restored},
    flow::{Flow, Transport},
    journal::{Entry, Table},
    media::{MediaCommand, MediaEvent, RealmId},
    proxy::Proxy,
    signalling::sip::{Frame, Framer, MAX_BYTES, Message, Name, NameAddr, PROTOCOL},
    signalling::{Agent, agents},
};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant, UNIX_EPOCH},
};

pub(crate) const ACCESS: RealmId = RealmId::new(0);
pub(crate) const CORE: RealmId = RealmId::new(1);
pub(crate) const OWN_ACCESS: &str = "203.0.113.10";
pub(crate) const OWN_CORE: &str = "10.9.0.10";
pub(crate) const SOFTSWITCH: &str = "10.9.0.20:5060";
/// Terminals have the same private address behind different NATs.
pub(crate) const PRIVATE: &str = "192.168.1.10";
pub(crate) const ALICE: &str = "198.51.100.1:40001";
pub(crate) const BOB: &str = "198.51.100.2:40002";

/// The time of day at which a lab begins.
const SINCE_1970: Duration = Duration::from_secs(1_790_000_000);

/// A datagram that the proxy sent.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) realm: RealmId,
    pub(crate) destination: Flow,
    pub(crate) text: String,
}

impl Sent {
    pub(crate) fn message(&self) -> Message {
        Message::parse(self.text.as_bytes()).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// Method, or status code.
    pub(crate) fn kind(&self) -> String {
        let message = self.message();
        message.method().map(str::to_owned).or(message.code().map(|code| code.to_string())).unwrap()
    }

    pub(crate) fn header(&self, name: Name) -> String {
        let message = self.message();
        message.value(name).unwrap_or_else(|| panic!("no {name:?} in {}", self.text)).into_owned()
    }

    pub(crate) fn has(&self, name: Name) -> bool {
        self.message().value(name).is_some()
    }

    pub(crate) fn uri(&self) -> String {
        self.message().request_uri().unwrap().to_owned()
    }

    /// URI in Contact.
    pub(crate) fn contact(&self) -> String {
        let value = self.header(Name::Contact);
        NameAddr::parse(&value).unwrap().uri.to_owned()
    }

    pub(crate) fn body(&self) -> String {
        String::from_utf8(self.message().body().to_vec()).unwrap()
    }

    /// Where media is wanted: address and port of the n-th `m=`.
    pub(crate) fn media(&self, index: usize) -> (String, u16) {
        let body = self.body();
        let address = |line: &'_ str| line.strip_prefix("c=IN IP").map(|address| address[2..].to_owned());
        let address = body.lines().find_map(address).unwrap();
        let line = body.lines().filter(|line| line.starts_with("m=")).nth(index).unwrap();
        (address, line.split(' ').nth(1).unwrap().parse().unwrap())
    }
}

/// What makes the protocols of a lab.
type Agents = fn(&Config) -> Vec<Box<dyn Agent>>;

pub(crate) struct Lab {
    pub(crate) proxy: Proxy,
    pub(crate) now: Instant,
    pub(crate) datapath: Fake,
    pub(crate) sent: VecDeque<Sent>,
    pub(crate) records: Vec<Cdr>,
    /// Where the core's requests come from.
    pub(crate) softswitch: String,
    /// What a later process would find.
    pub(crate) journal: BTreeMap<(Table, String), Vec<u8>>,
    /// Whose datagrams the filter of the socket always lets pass.
    pub(crate) known: BTreeSet<(RealmId, SocketAddr)>,
    clock: Clock,
    config: Arc<Config>,
    agents: Agents,
    starts: u64,
    /// Whether every datagram is searched for addresses of the other side.
    pub(crate) strict: bool,
}

/// The networks of the lab over IPv4.
pub(crate) fn config() -> Config {
    networks(OWN_ACCESS, OWN_CORE, SOFTSWITCH)
}

/// Networks with these own addresses and this softswitch.
pub(crate) fn networks(own_access: &str, own_core: &str, softswitch: &str) -> Config {
    let realm = |name: &str, side, own: &str, softswitch: Option<&str>| Realm {
        name: name.into(),
        side,
        interface: "eth0".into(),
        signalling: SocketAddr::new(own.parse().unwrap(), 5060),
        media: own.parse().unwrap(),
        ports: PortRange { first: 30_000, last: 30_199 },
        vlan: Vec::new(),
        trust: Trust::of(side),
        policy: RealmPolicy::default(),
        softswitch: softswitch.map(|address| address.parse().unwrap()),
        streams: Default::default(),
    };
    let mut config = Config::new(vec![
        realm("access", Side::Access, own_access, None),
        realm("core", Side::Core, own_core, Some(softswitch)),
    ]);
    config.keepalive.period = None;
    config
}

impl Default for Lab {
    fn default() -> Self {
        Self::new(config())
    }
}

impl Lab {
    pub(crate) fn new(config: Config) -> Self {
        Self::seeded(config, 1)
    }

    pub(crate) fn seeded(config: Config, seed: u8) -> Self {
        Self::of(config, seed, agents)
    }

    /// A lab in which these protocols are spoken.
    pub(crate) fn of(config: Config, seed: u8, agents: Agents) -> Self {
        let now = Instant::now();
        let softswitch = config.realms.get(CORE).unwrap().softswitch.unwrap().to_string();
        let config = Arc::new(config);
        let core = Core::new(Arc::clone(&config), UNIX_EPOCH + SINCE_1970, now, [seed; 32]).unwrap();
        Self {
            proxy: Proxy::with_agents(core, agents(&config)),
            agents,
            journal: BTreeMap::new(),
            known: BTreeSet::new(),
            clock: Clock::new(now, 1_000_000_000_000),
            config,
            starts: 0,
            now,
            datapath: Fake::new(),
            sent: VecDeque::new(),
            records: Vec::new(),
            softswitch,
            strict: true,
        }
    }

    pub(crate) fn receive(&mut self, realm: RealmId, source: &str, text: &str) {
        self.receive_bytes(realm, source.parse().unwrap(), text.as_bytes());
    }

    pub(crate) fn receive_bytes(&mut self, realm: RealmId, source: SocketAddr, bytes: &[u8]) {
        self.proxy.handle_input(Input::Datagram { protocol: PROTOCOL, realm, source, bytes }, self.now);
        self.settle();
    }

    /// A datagram of another protocol than SIP.
    pub(crate) fn says(&mut self, protocol: Protocol, realm: RealmId, source: &str, text: &str) -> Vec<Sent> {
        let source = source.parse().unwrap();
        self.proxy.handle_input(Input::Datagram { protocol, realm, source, bytes: text.as_bytes() }, self.now);
        self.settle();
        self.take()
    }

    /// Over a connection.
    pub(crate) fn over(&mut self, realm: RealmId, source: Flow, text: &str) -> Vec<Sent> {
        self.receive_over(realm, source, text.as_bytes());
        self.take()
    }

    pub(crate) fn receive_over(&mut self, realm: RealmId, source: Flow, bytes: &[u8]) {
        self.proxy.handle_input(Input::Message { protocol: PROTOCOL, realm, source, bytes }, self.now);
        self.settle();
    }

    /// A connection ends.
    pub(crate) fn close(&mut self, realm: RealmId, flow: Flow) -> Vec<Sent> {
        self.proxy.handle_input(Input::Closed { protocol: PROTOCOL, realm, flow }, self.now);
        self.wait(Duration::ZERO);
        self.take()
    }

    /// No connection can be made.
    pub(crate) fn refuse(&mut self, realm: RealmId, flow: Flow) -> Vec<Sent> {
        self.proxy.handle_input(Input::Unreachable { protocol: PROTOCOL, realm, flow }, self.now);
        self.wait(Duration::ZERO);
        self.take()
    }

    /// From a terminal.
    pub(crate) fn access(&mut self, source: &str, text: &str) -> Vec<Sent> {
        self.receive(ACCESS, source, text);
        self.take()
    }

    /// From the softswitch.
    pub(crate) fn core(&mut self, text: &str) -> Vec<Sent> {
        let softswitch = self.softswitch.clone();
        self.receive(CORE, &softswitch, text);
        self.take()
    }

    /// The proxy's own address in the access realm.
    pub(crate) fn own_access(&self) -> String {
        self.config.realms.get(ACCESS).unwrap().signalling.ip().to_string()
    }

    /// What was sent since the last look.
    pub(crate) fn take(&mut self) -> Vec<Sent> {
        self.sent.drain(..).collect()
    }

    /// Lets time pass, with all its timers.
    pub(crate) fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.proxy.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.proxy.handle_timeout(self.now);
            self.settle();
        }
        self.now = end;
        self.proxy.handle_timeout(end);
        self.settle();
    }

    /// What the next process is configured with.
    pub(crate) fn configure(&mut self, change: impl FnOnce(&mut Config)) {
        change(Arc::make_mut(&mut self.config));
    }

    /// The process is killed, and another one goes on.
    pub(crate) fn restart(&mut self, media: EarlierStreams) -> Restored {
        let wall = UNIX_EPOCH + SINCE_1970 + (self.now - self.clock.instant(1_000_000_000_000));
        self.starts += 1;
        let mut seed = [0x5a; 32];
        seed[..8].copy_from_slice(&self.starts.to_ne_bytes());
        let core = Core::new(Arc::clone(&self.config), wall, self.now, seed).unwrap();
        self.proxy = Proxy::with_agents(core, (self.agents)(&self.config));
        self.known.clear();
        let entry = |((table, key), value): (&(Table, String), &Vec<u8>)| Entry {
            table: *table,
            key: key.clone(),
            value: value.clone(),
        };
        let entries: Vec<_> = self.journal.iter().map(entry).collect();
        let recorded = self.records.iter().map(|record| record.id).collect();
        let restored = self.proxy.restore(&entries, self.clock, media, &recorded, self.now).unwrap();
        let kept =
            |spec: &&proxy_user::media::StreamSpec| media == EarlierStreams::Kept && restored.streams.contains(spec);
        self.datapath.streams = self.datapath.streams.values().filter(kept).map(|s| (s.id, s.clone())).collect();
        self.settle();
        restored
    }

    /// Carries out what the proxy wants done.
    pub(crate) fn settle(&mut self) {
        self.carry_out();
        self.registered_are_known();
        for change in self.proxy.take_changes(&self.clock) {
            match change.value {
                Some(value) => self.journal.insert((change.table, change.key), value),
                None => self.journal.remove(&(change.table, change.key)),
            };
        }
    }

    /// No flood keeps a registered terminal from being heard.
    fn registered_are_known(&self) {
        for registration in self.proxy.registrations() {
            let flow = registration.flow;
            let udp = flow.transport == Transport::Udp;
            assert!(!udp || self.known.contains(&(ACCESS, flow.remote)), "{flow} of {} is unknown", registration.user);
        }
    }

    fn carry_out(&mut self) {
        let mut events = Vec::new();
        loop {
            while let Some(output) = self.proxy.poll_output() {
                match output {
                    Output::Send { realm, destination, bytes, .. } => self.send(realm, destination, bytes),
                    Output::Media(MediaCommand::Apply(spec)) => {
                        let stream = spec.id;
                        if let Err(error) = self.datapath.apply(spec, self.now) {
                            assert!(matches!(error, DatapathError::Full(_)), "{error}");
                            self.proxy.handle_input(Input::Media(MediaEvent::Failed { stream }), self.now);
                        }
                    }
                    Output::Media(MediaCommand::Release(stream)) => self.datapath.release(stream, self.now),
                    Output::Record(cdr) => self.records.push(*cdr),
                    Output::Known { realm, remote, known } => {
                        let changed = match known {
                            true => self.known.insert((realm, remote)),
                            false => self.known.remove(&(realm, remote)),
                        };
                        assert!(changed, "{remote} was that already: {known}");
                    }
                }
            }
            self.datapath.poll_events(self.now, &mut events);
            if events.is_empty() {
                return;
            }
            for event in events.drain(..) {
                self.proxy.handle_input(Input::Media(event), self.now);
            }
        }
    }

    fn send(&mut self, realm: RealmId, destination: Flow, bytes: Vec<u8>) {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if self.strict {
            // Except what the softswitch must get.
            let told = self.config.sip.source_header.as_deref().filter(|_| realm == CORE);
            let lines = text.lines().filter(|line| told.is_none_or(|name| !line.starts_with(name)));
            assert_hidden(realm, &lines.collect::<Vec<_>>().join("\n"));
        }
        if matches!(destination.transport, Transport::Tcp | Transport::Tls) {
            let mut framer = Framer::new(MAX_BYTES);
            framer.push(&bytes);
            assert_eq!(framer.next_frame(), Ok(Some(Frame::Message(bytes))), "{text}");
        }
        self.sent.push_back(Sent { realm, destination, text });
    }

    /// How much is going on.
    pub(crate) fn load(&self) -> Load {
        self.proxy.load(self.now)
    }

    /// All is over: no call, no dialog, no transaction, no port is left.
    pub(crate) fn assert_empty(&mut self) {
        self.wait(Duration::from_secs(64));
        let load = self.load();
        assert_eq!((load.calls, load.dialogs, load.transactions, load.port_pairs), (0, 0, 0, 0));
        assert!(self.datapath.streams.is_empty(), "{:?}", self.datapath.streams);
        assert!(self.proxy.is_idle());
        assert_eq!(self.proxy.statistics().inconsistencies, 0);
        let dialogs: Vec<_> = self.journal.keys().filter(|(table, _)| *table == Table::Dialogs).collect();
        assert!(dialogs.is_empty(), "{dialogs:?}");
    }
}

/// No address of the other side may stand anywhere in a datagram.
pub(crate) fn assert_hidden(realm: RealmId, text: &str) {
    let foreign: &[&str] = match realm {
        ACCESS => &["10.9.0.", "2001:db8:c"],
        _ => &["203.0.113.", "198.51.100.", "192.168.", "2001:db8:a"],
    };
    for address in foreign {
        assert!(!text.to_ascii_lowercase().contains(address), "{address} leaks into realm {realm}:\n{text}");
    }
}

/// The only one of these datagrams that is of this kind.
pub(crate) fn only<'a>(sent: &'a [Sent], kind: &str) -> &'a Sent {
    let mut found = sent.iter().filter(|sent| sent.kind() == kind);
    let first = found.next().unwrap_or_else(|| panic!("no {kind} in {:?}", kinds(sent)));
    assert!(found.next().is_none(), "several {kind} in {:?}", kinds(sent));
    first
}

pub(crate) fn kinds(sent: &[Sent]) -> Vec<String> {
    let realm = |sent: &Sent| if sent.realm == ACCESS { "access" } else { "core" };
    sent.iter().map(|sent| format!("{} {}", realm(sent), sent.kind())).collect()
}

/// A message written with plain line ends, the body after an empty line; Content-Length is added.
pub(crate) fn sip(text: &str) -> String {
    let text = text.trim_start();
    let (head, body) = text.split_once("\n\n").unwrap_or((text.trim_end(), ""));
    let body = body.replace('\n', "\r\n");
    let length = body.len();
    let content_type =
        if body.starts_with("v=") && !head.contains("Content-Type") { "Content-Type: application/sdp\r\n" } else { "" };
    let lines: Vec<&str> = head.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    format!("{}\r\n{content_type}Content-Length: {length}\r\n\r\n{body}", lines.join("\r\n"))
}

/// An address as written in a URI.
pub(crate) fn host_text(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.into() }
}

/// A session description with one audio stream.
pub(crate) fn sdp(address: &str, port: u16) -> String {
    sdp_of(address, &format!("m=audio {port} RTP/AVP 0 8\n"))
}

/// A session description with these media.
pub(crate) fn sdp_of(address: &str, media: &str) -> String {
    let version = if address.contains(':') { 6 } else { 4 };
    format!("v=0\no=- 1 1 IN IP{version} {address}\ns=-\nc=IN IP{version} {address}\nt=0 0\n{media}")
}

/// A response to a request that the proxy sent: Via, From, To, Call-ID and CSeq from it, a tag for To.
pub(crate) fn answer(request: &Sent, status: &str, tag: &str, more: &str, body: &str) -> String {
    let message = request.message();
    let mut out = format!("SIP/2.0 {status}\n");
    for via in message.values(Name::Via) {
        out += &format!("Via: {via}\n");
    }
    let to = request.header(Name::To);
    let to = if to.contains(";tag=") || tag.is_empty() { to } else { format!("{to};tag={tag}") };
    for (name, value) in [
        ("From", request.header(Name::From)),
        ("To", to),
        ("Call-ID", request.header(Name::CallId)),
        ("CSeq", request.header(Name::CSeq)),
    ] {
        out += &format!("{name}: {value}\n");
    }
    if status.starts_with(['1', '2']) {
        for route in message.values(Name::RecordRoute) {
            out += &format!("Record-Route: {route}\n");
        }
    }
    out += more;
    sip(&format!("{}\n\n{body}", out.trim_end()))
}
