//! A protocol that nobody speaks, to see that the core knows none: a call of it begins, has media, limits and a record,
//! outlives the process and belongs to its parties, without a line of the core that is there for it.
//!
//! ```text
//! terminal → CALL name address:port            softswitch → ANSWER token address:port
//! both     → END name|token                    either gets the other side's, or NO reason
//! ```
//!
//! Over a connection, each message follows its length in two bytes; a length of 0 alone is a keep-alive, answered with
//! another.

use crate::{
    lab::*,
    lengths::{Lengths, framed},
};
use proxy_user::{
    accounting::{EndCause, Terminal},
    clock::Clock,
    config::{AdmissionLimits, Config, Realm},
    engine::{
        CallEvent, CallId, CallSide, CallStart, Core, EarlierStreams, Load, NotRestored, PerSide, Protocol, Refusal,
        Standing, Verdict,
    },
    flow::{Flow, Transport},
    journal::{Change, Entry, Table},
    media::{Description, LegCounters, MediaPlan, RealmId},
    sdp::Session,
    signalling::{Agent, Arrival, Listener, Registration, Wire},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

pub(crate) const MADE_UP: Protocol = Protocol::new("madeup");

/// All that the protocol knows of a call.
#[derive(Clone, Serialize, Deserialize)]
struct Known {
    name: String,
    token: String,
    parties: PerSide<Standing>,
}

#[derive(Default)]
pub(crate) struct MadeUp {
    calls: BTreeMap<u64, Known>,
    touched: BTreeSet<u64>,
}

fn made_up(_: &Config) -> Vec<Box<dyn Agent>> {
    vec![Box::new(MadeUp::default())]
}

fn audio(at: &str) -> Option<Vec<Description>> {
    let at: SocketAddr = at.parse().ok()?;
    Some(Session::parse(sdp(&at.ip().to_string(), at.port()).as_bytes()).ok()?.descriptions())
}

fn port(plans: &[MediaPlan]) -> u16 {
    match plans.first() {
        Some(MediaPlan::Relay { rtp_port, .. }) => *rtp_port,
        _ => 0,
    }
}

impl MadeUp {
    fn tell(&self, core: &mut Core, party: &Standing, text: String) {
        let bytes = if party.flow.transport.is_reliable() { framed(&text) } else { text.into_bytes() };
        core.send(MADE_UP, party.realm, party.flow, bytes);
    }

    /// A sender that names the token, or the call from where its party is, may act for it.
    fn party(&self, core: &mut Core, realm: RealmId, flow: Flow, word: &str, now: Instant) -> Option<(u64, CallSide)> {
        let (id, known) = self.calls.iter().find(|(_, known)| known.name == word || known.token == word)?;
        let side = CallSide::BOTH.into_iter().find(|side| known.parties[*side].realm == realm)?;
        if core.may_act(&known.parties[side], flow, known.token == word) == Verdict::Stranger {
            core.stranger(realm, flow, "END", &known.name, now);
            return None;
        }
        Some((*id, side))
    }

    fn call(&mut self, core: &mut Core, realm: RealmId, flow: Flow, name: &str, at: &str, now: Instant) -> Option<()> {
        let (to, server) = core.core_of(realm)?;
        let start = CallStart {
            owner: MADE_UP,
            name: name.into(),
            sides: PerSide::new((realm, flow.ip()), (to, server.ip())),
            caller: "somebody".into(),
            callee: "somebody else".into(),
            terminal: (CallSide::Caller, Terminal { source: flow.remote, contact: None }),
            user: core.limits_users(realm).then(|| (CallSide::Caller, core.user_at(realm, flow, None))),
        };
        let parties = PerSide::new(Standing::new(realm, flow, None), Standing::new(to, server, None));
        let id = match core.begin(start, now) {
            Ok(id) => id,
            Err(refusal) => {
                let limited = matches!(refusal, Refusal::NotAdmitted(_) | Refusal::TooManyCalls);
                self.tell(core, &parties.caller, format!("NO {}", if limited { "limit" } else { "ports" }));
                return None;
            }
        };
        let plans = core.offer(id, CallSide::Caller, audio(at)?, now).ok()?;
        let token = core.random_token();
        self.tell(core, &parties.callee, format!("CALL {token} {}:{}", core.media_address(to), port(&plans)));
        self.calls.insert(id.0, Known { name: name.into(), token, parties });
        self.touched.insert(id.0);
        Some(())
    }

    fn end(&mut self, core: &mut Core, id: u64, cause: EndCause, told: &[CallSide], now: Instant) {
        let Some(known) = self.calls.remove(&id) else { return };
        self.touched.insert(id);
        for side in told {
            let word = if *side == CallSide::Caller { &known.name } else { &known.token };
            self.tell(core, &known.parties[*side], format!("END {word}"));
        }
        core.end(CallId(id), cause, None, now);
    }
}

impl Agent for MadeUp {
    fn protocol(&self) -> Protocol {
        MADE_UP
    }

    /// At any free ports, next to SIP.
    fn wire(&self, config: &Config) -> Wire {
        let at = |(id, realm): (RealmId, &Realm)| {
            let address = SocketAddr::new(realm.signalling.ip(), 0);
            [Transport::Udp, Transport::Tcp].map(|transport| Listener { realm: id, transport, address })
        };
        let listeners = config.realms.with_ids().flat_map(at).collect();
        Wire { protocol: MADE_UP, listeners, framer: Some(|_, limit| Box::new(Lengths::new(limit))), subprotocol: None }
    }

    fn handle_input(&mut self, core: &mut Core, realm: RealmId, flow: Flow, arrival: Arrival<'_>, now: Instant) {
        let (Arrival::Datagram(bytes) | Arrival::Message(bytes)) = arrival else { return };
        let text = String::from_utf8_lossy(bytes).into_owned();
        match text.split(' ').collect::<Vec<_>>().as_slice() {
            ["CALL", name, at] => _ = self.call(core, realm, flow, name, at, now),
            ["ANSWER", token, at] => {
                let Some((id, side)) = self.party(core, realm, flow, token, now) else { return };
                let Some(media) = audio(at) else { return };
                let Some(plans) = core.answer(CallId(id), side, &media, true, now) else { return };
                core.answered(CallId(id), now);
                let known = self.calls[&id].clone();
                let own = core.media_address(known.parties.caller.realm);
                self.tell(core, &known.parties.caller, format!("ANSWER {} {own}:{}", known.name, port(&plans)));
            }
            ["END", word] => {
                let Some((id, side)) = self.party(core, realm, flow, word, now) else { return };
                let cause = if side == CallSide::Caller { EndCause::ByeCaller } else { EndCause::ByeCallee };
                self.end(core, id, cause, &[side.other()], now);
            }
            _ => {}
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    fn handle_timeout(&mut self, _: &mut Core, _: Instant) {}

    fn handle_event(&mut self, core: &mut Core, call: CallId, event: CallEvent, now: Instant) {
        if let CallEvent::HangUp(cause) = event {
            self.end(core, call.0, cause, &CallSide::BOTH, now);
        }
    }

    fn is_idle(&self) -> bool {
        true
    }

    fn take_changes(&mut self, _: &Core, _: &Clock) -> Vec<Change> {
        let change = |id| Change {
            table: Table::Dialogs,
            key: format!("madeup/{id}"),
            value: self.calls.get(&id).map(|known| serde_json::to_vec(known).unwrap()),
        };
        std::mem::take(&mut self.touched).into_iter().map(change).collect()
    }

    fn restore(&mut self, _: &mut Core, entries: &[Entry], _: Clock, _: Instant) -> Result<(), NotRestored> {
        for entry in entries {
            let Some(id) = entry.key.strip_prefix("madeup/") else { continue };
            let known = serde_json::from_slice(&entry.value).map_err(|error| entry.refused(error))?;
            self.calls.insert(id.parse().map_err(|error| entry.refused(error))?, known);
        }
        Ok(())
    }

    fn add_load(&self, load: &mut Load) {
        load.dialogs += self.calls.len();
    }

    fn registrations(&self, _: &Core) -> Vec<Registration> {
        Vec::new()
    }
}

fn lab(config: Config) -> Lab {
    Lab::of(config, 1, made_up)
}

/// Begins a call; returns the token that the softswitch knows it by.
fn begun(lab: &mut Lab, name: &str) -> String {
    let sent = lab.says(MADE_UP, ACCESS, ALICE, &format!("CALL {name} {PRIVATE}:4000"));
    let [call] = sent.as_slice() else { panic!("{sent:?}") };
    assert_eq!((call.realm, call.destination.to_string().as_str()), (CORE, SOFTSWITCH));
    call.text.split(' ').nth(1).unwrap().to_owned()
}

fn answered(lab: &mut Lab, name: &str) -> String {
    let token = begun(lab, name);
    let sent = lab.says(MADE_UP, CORE, SOFTSWITCH, &format!("ANSWER {token} 10.9.0.30:6000"));
    let [answer] = sent.as_slice() else { panic!("{sent:?}") };
    assert!(answer.text.starts_with(&format!("ANSWER {name} {OWN_ACCESS}:")), "{}", answer.text);
    token
}

#[test]
fn its_calls_have_media_and_a_record() {
    let mut lab = lab(config());
    answered(&mut lab, "one");
    let (id, stream) = lab.datapath.streams.iter().next().map(|(id, stream)| (*id, stream.clone())).unwrap();
    assert!(stream.legs.iter().all(|leg| leg.open));
    assert_eq!(stream.legs[1].remote.unwrap().rtp, "10.9.0.30:6000".parse().unwrap());
    lab.datapath.count(id, [LegCounters { rtp_packets: 7, ..LegCounters::default() }, LegCounters::default()]);
    lab.wait(Duration::from_secs(3));
    let sent = lab.says(MADE_UP, ACCESS, ALICE, "END one");
    assert_eq!(sent.len(), 1);
    let [record] = lab.records.as_slice() else { panic!("{:?}", lab.records) };
    assert_eq!((record.call_id.as_str(), record.duration_ms, record.end_cause), ("one", 3_000, EndCause::ByeCaller));
    assert_eq!(record.streams[0].access_to_core.rtp_packets, 7);
    assert!(lab.datapath.streams.is_empty() && lab.journal.is_empty(), "{:?}", lab.journal.keys());
    lab.assert_empty();
}

#[test]
fn its_calls_count_for_limits() {
    let mut limited = config();
    limited.realms.get_mut(ACCESS).unwrap().policy.admission =
        AdmissionLimits { max_calls_per_user: Some(1), ..AdmissionLimits::default() };
    let mut lab = lab(limited);
    answered(&mut lab, "one");
    let sent = lab.says(MADE_UP, ACCESS, ALICE, &format!("CALL two {PRIVATE}:4002"));
    assert_eq!(sent[0].text, "NO limit");
    assert_eq!(lab.records.len(), 1, "it has its record");
    lab.says(MADE_UP, ACCESS, ALICE, "END one");
    begun(&mut lab, "three");
}

#[test]
fn its_calls_outlive_the_process_or_end_with_their_media() {
    let mut lab = lab(config());
    let token = answered(&mut lab, "one");
    let streams = lab.datapath.streams.clone();
    for _ in 0..3 {
        let restored = lab.restart(EarlierStreams::Kept);
        assert_eq!((restored.calls, restored.ended), (1, 0));
    }
    assert_eq!(lab.datapath.streams, streams);
    lab.says(MADE_UP, CORE, SOFTSWITCH, &format!("END {token}"));
    assert_eq!(lab.records[0].end_cause, EndCause::ByeCallee);
    answered(&mut lab, "two");
    assert_eq!(lab.restart(EarlierStreams::Lost).ended, 1);
    let told: Vec<_> = lab.take().into_iter().map(|sent| sent.realm).collect();
    assert_eq!(told, [ACCESS, CORE]);
    assert_eq!(lab.records.len(), 2);
}

#[test]
fn its_calls_belong_to_their_parties() {
    let mut lab = lab(config());
    let token = answered(&mut lab, "one");
    for source in ["203.0.113.66:5060", "198.51.100.1:40999"] {
        assert!(lab.says(MADE_UP, ACCESS, source, "END one").is_empty());
    }
    assert_eq!(lab.proxy.statistics().strangers_refused, 2);
    assert_eq!(lab.load().calls, 1);
    // Its secret may be named from anywhere.
    lab.says(MADE_UP, ACCESS, "198.51.100.77:1", &format!("END {token}"));
    assert_eq!(lab.load().calls, 0);
}

#[test]
fn silence_ends_its_calls_and_so_does_a_stop() {
    let mut lab = lab(config());
    answered(&mut lab, "one");
    let stream = *lab.datapath.streams.keys().next().unwrap();
    lab.datapath.silence(stream);
    lab.settle();
    assert_eq!(lab.records[0].end_cause, EndCause::MediaSilence);
    assert_eq!(lab.take().len(), 2, "both are told");
    answered(&mut lab, "two");
    lab.proxy.shutdown(lab.now);
    lab.settle();
    assert_eq!(lab.records[1].end_cause, EndCause::Shutdown);
    assert!(lab.proxy.is_idle());
}
