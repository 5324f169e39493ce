//! How much memory strangers make Latch take, whatever they send: at most what [`strangers_memory`] says.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where it finds what it did not expect")]

mod allocator;

use proxy_user::{
    clock::Clock,
    config::{Config, PortRange, Realm, RealmPolicy, Side, Strangers, Trust},
    engine::{Input, Output, strangers_memory},
    media::{MediaCommand, MediaEvent, RealmId},
    proxy::Proxy,
    signalling::sip::{Message, Name, PROTOCOL},
};
use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Instant, UNIX_EPOCH},
};

const ACCESS: RealmId = RealmId::new(0);
const CORE: RealmId = RealmId::new(1);
/// The longest datagrams that UDP carries are a little longer.
const LONGEST: usize = 60_000;

fn config(max_calls: usize, max_transactions: usize, percent: u32) -> Config {
    let realm = |name: &str, side, own: &str, softswitch: Option<&str>| Realm {
        name: name.into(),
        side,
        interface: "eth0".into(),
        signalling: SocketAddr::new(own.parse().unwrap(), 5060),
        media: own.parse().unwrap(),
        ports: PortRange { first: 10_000, last: 59_999 },
        vlan: Vec::new(),
        trust: Trust::of(side),
        policy: RealmPolicy::default(),
        softswitch: softswitch.map(|address| address.parse().unwrap()),
        streams: Default::default(),
    };
    let mut config = Config::new(vec![
        realm("access", Side::Access, "203.0.113.10", None),
        realm("core", Side::Core, "10.9.0.10", Some("10.9.0.20:5060")),
    ]);
    config.limits.max_calls = max_calls;
    config.limits.max_transactions = max_transactions;
    config.strangers = Strangers { percent, messages_per_s: 10_000_000, ..Strangers::default() };
    config
}

/// One that nobody has used yet: each in a network of its own, /24 or /48.
fn source(n: usize) -> SocketAddr {
    let [_, _, _, _, _, a, b, c] = (n as u64).to_be_bytes();
    let address = if n.is_multiple_of(2) {
        IpAddr::V4(Ipv4Addr::new(16 + a, b, c, 7))
    } else {
        IpAddr::V6(Ipv6Addr::new(0x2001, 0x1000 + u16::from(a), u16::from_be_bytes([b, c]), 0, 0, 0, 0, 7))
    };
    SocketAddr::new(address, 5060)
}

/// What a flood consists of.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// INVITEs with 32 streams, of which as much is said as fits.
    LongStreams,
    /// The same, of which as little is said as may be.
    ShortStreams,
    /// With 31 streams that are not relayed, so that few ports are taken.
    OtherStreams,
    /// INVITEs whose header fields are as long as may be.
    LongFields,
    /// INVITEs with as many header fields and route entries as may be.
    ManyFields,
    /// REGISTERs with as many contacts as may be, as long as may be.
    Contacts,
    /// SUBSCRIBEs with long header fields.
    Subscriptions,
    /// The shortest requests.
    Short,
    /// The shortest that make a dialog.
    ShortDialogs,
    /// The longest of which there can be as many.
    Dialogs,
    /// Requests that nobody forwards.
    Stray,
}

const KINDS: &[Kind] = &[
    Kind::LongStreams,
    Kind::ShortStreams,
    Kind::OtherStreams,
    Kind::LongFields,
    Kind::ManyFields,
    Kind::Contacts,
    Kind::Subscriptions,
    Kind::Short,
    Kind::ShortDialogs,
    Kind::Dialogs,
    Kind::Stray,
];

fn request(kind: Kind, n: usize) -> Vec<u8> {
    let long = |length: usize| "x".repeat(length);
    let (method, uri) = match kind {
        Kind::Contacts => ("REGISTER", "sip:example.test"),
        Kind::Subscriptions => ("SUBSCRIBE", "sip:bob@example.test"),
        Kind::Short => ("MESSAGE", "sip:b@c"),
        Kind::ShortDialogs | Kind::Dialogs => ("INVITE", "sip:b@c"),
        Kind::Stray => ("OPTIONS", "sip:203.0.113.10"),
        _ => ("INVITE", "sip:bob@example.test"),
    };
    let length = match kind {
        Kind::LongFields | Kind::Subscriptions => 6_500,
        _ => 1,
    };
    let fill = long(length);
    let mut text = format!(
        "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP h{fill};branch=z9hG4bK{n}{fill}\r\nMax-Forwards: 70\r\n\
         From: <sip:{fill}@c>;tag={fill}\r\nTo: <sip:{fill}@c>\r\nCall-ID: {n}{fill}\r\nCSeq: 1 {method}\r\n"
    );
    let mut body = String::new();
    match kind {
        Kind::Contacts => {
            for contact in 0..16 {
                write!(text, "Contact: <sip:{contact}{}@h>;+sip.instance=\"<{}>\"\r\n", long(1_700), long(1_700))
                    .unwrap();
            }
        }
        Kind::ManyFields => {
            for _ in 0..200 {
                text +=
                    "Record-Route: <sip:a;lr>,<sip:b;lr>,<sip:c;lr>,<sip:d;lr>,<sip:e;lr>,<sip:f;lr>,<sip:g;lr>\r\n";
            }
        }
        Kind::Dialogs => write!(text, "X-Long: {}\r\n", long(1_400)).unwrap(),
        _ => {}
    }
    if !matches!(kind, Kind::Contacts | Kind::Short | Kind::Stray) {
        write!(text, "Contact: <sip:{fill}@h>\r\n").unwrap();
    }
    if matches!(kind, Kind::LongStreams | Kind::ShortStreams | Kind::OtherStreams | Kind::ManyFields) {
        body += "v=0\r\no=- 1 1 IN IP4 192.168.1.10\r\ns=-\r\nc=IN IP4 192.168.1.10\r\nt=0 0\r\n";
        for stream in 0..32 {
            match kind {
                Kind::OtherStreams if stream > 0 => {
                    write!(body, "m=message {} TCP/MSRP *\r\n", 4_000 + stream).unwrap()
                }
                Kind::LongStreams => {
                    let numbers: String = (0..128).map(|number| format!(" {number}")).collect();
                    write!(body, "m=audio {} RTP/AVP{numbers}\r\n", 4_000 + 2 * stream).unwrap();
                    for number in 96..128 {
                        write!(body, "a=rtpmap:{number} codec-{number}/48000/2\r\n").unwrap();
                    }
                }
                _ => write!(body, "m=audio {} RTP/AVP 0\r\n", 4_000 + 2 * stream).unwrap(),
            }
        }
        text += "Content-Type: application/sdp\r\n";
    }
    write!(text, "Content-Length: {}\r\n\r\n{body}", body.len()).unwrap();
    assert!(text.len() <= LONGEST + 5_000, "{kind:?}: {}", text.len());
    text.into_bytes()
}

/// What the softswitch says to the requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Nothing,
    Rings,
    /// As many terminals ring as Latch distinguishes.
    Forks,
    Challenges,
}

/// Floods Latch until it has refused so many in a row. Returns the most bytes that it has taken, messages in work left
/// out, and how many requests came.
fn flood(config: &Arc<Config>, kinds: &[Kind], answer: Answer) -> (usize, usize) {
    const REFUSED: u64 = 100;
    let now = Instant::now();
    let clock = Clock::new(now, 0);
    let before = allocator::in_use();
    let mut proxy = Proxy::new(Arc::clone(config), UNIX_EPOCH, now, [7; 32]).unwrap();
    let (mut requests, mut refused_in_a_row, mut most) = (0, 0, 0);
    while refused_in_a_row < REFUSED {
        {
            let bytes = request(kinds[requests % kinds.len()], requests);
            let refused = proxy.statistics().limited;
            let input = Input::Datagram { protocol: PROTOCOL, realm: ACCESS, source: source(requests), bytes: &bytes };
            proxy.handle_input(input, now);
            let was_refused = proxy.statistics().limited > refused;
            refused_in_a_row = if was_refused { refused_in_a_row + 1 } else { 0 };
            let mut answers = Vec::new();
            let branches = if answer == Answer::Forks { 32 } else { 1 };
            drain(&mut proxy, now, |bytes| answers.extend((0..branches).filter_map(|n| answer_to(bytes, answer, n))));
            for answer in answers {
                let source = "10.9.0.20:5060".parse().unwrap();
                proxy.handle_input(Input::Datagram { protocol: PROTOCOL, realm: CORE, source, bytes: &answer }, now);
                drain(&mut proxy, now, |_| {});
            }
            if requests.is_multiple_of(16) {
                // What the journal takes.
                proxy.take_changes(&clock);
            }
        }
        most = most.max(allocator::in_use() - before);
        requests += 1;
        assert!(requests < 1_000_000, "{kinds:?} is never refused");
    }
    assert_eq!((proxy.statistics().inconsistencies, proxy.statistics().strangers_dropped), (0, 0));
    (most, requests)
}

/// Does what Latch wants done, as far as it matters to it: what goes to the core is shown.
fn drain(proxy: &mut Proxy, now: Instant, mut to_core: impl FnMut(&[u8])) {
    while let Some(output) = proxy.poll_output() {
        match output {
            Output::Send { realm: CORE, bytes, .. } => to_core(&bytes),
            Output::Media(MediaCommand::Release(stream)) => {
                let released = MediaEvent::Released { stream, counters: Default::default() };
                proxy.handle_input(Input::Media(released), now);
            }
            _ => {}
        }
    }
}

/// What the softswitch says to a message.
fn answer_to(bytes: &[u8], answer: Answer, branch: usize) -> Option<Vec<u8>> {
    let status = match answer {
        Answer::Nothing => return None,
        Answer::Rings | Answer::Forks => "180 Ringing",
        Answer::Challenges => "407 Proxy Authentication Required",
    };
    let message = Message::parse(bytes).unwrap();
    if matches!(message.method(), None | Some("ACK")) {
        return None;
    }
    let value = |name| message.value(name).unwrap().into_owned();
    let text = format!(
        "SIP/2.0 {status}\r\nVia: {}\r\nFrom: {}\r\nTo: {};tag=b{branch}\r\nCall-ID: {}\r\nCSeq: {}\r\n\
         Contact: <sip:bob@10.9.0.30>\r\nX-Long: {}\r\nContent-Length: 0\r\n\r\n",
        value(Name::Via),
        value(Name::From),
        value(Name::To),
        value(Name::CallId),
        value(Name::CSeq),
        "x".repeat(1_500),
    );
    Some(text.into_bytes())
}

#[test]
fn strangers_make_latch_take_no_more_memory_than_it_says() {
    // As many dialogs and transactions as make hash maps grow just then; and two in which other limits are reached
    // first.
    for (max_calls, max_transactions, percent) in [(613, 3_680, 25), (100, 2_000, 25), (150, 300, 100)] {
        let config = Arc::new(config(max_calls, max_transactions, percent));
        let bound = strangers_memory(&config);
        for kinds in KINDS.iter().map(std::slice::from_ref).chain([KINDS]) {
            for answer in [Answer::Rings, Answer::Challenges, Answer::Nothing, Answer::Forks] {
                if matches!(answer, Answer::Nothing | Answer::Forks)
                    && kinds.len() == 1
                    && !matches!(kinds, [Kind::Dialogs])
                {
                    continue;
                }
                let (taken, requests) = flood(&config, kinds, answer);
                assert!(
                    taken <= bound,
                    "{max_calls} calls, {max_transactions} transactions, {percent} %: {requests} of {kinds:?}, {answer:?}: \
                     {taken} bytes, more than {bound}"
                );
            }
        }
    }
}
