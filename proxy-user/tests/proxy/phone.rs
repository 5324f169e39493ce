//! A terminal for simulations: registers, calls, answers, refuses, holds, hangs up, and may vanish at any time. It
//! keeps its own transactions, so that lost and doubled datagrams reach the proxy as they would from a real one.

use crate::lab::{PRIVATE, host_text, sdp, sip};
use proxy_user::signalling::sip::{Message, Name, NameAddr};
use rand::{Rng, rngs::StdRng};
use std::{
    collections::HashMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

const T1: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Calling,
    Cancelled,
    Ringing,
    Up,
    Over,
}

struct Dialog {
    call_id: String,
    caller: bool,
    state: State,
    local: String,
    remote: String,
    target: String,
    cseq: u32,
    branch: String,
    invite: Option<Message>,
    /// When something happens: an answer, a CANCEL, a hold, a BYE.
    next: Option<Instant>,
    held: bool,
}

/// Something sent again until it is answered.
struct Repeat {
    key: String,
    bytes: Vec<u8>,
    next: Instant,
    interval: Duration,
    until: Instant,
    stopped: bool,
}

pub(crate) struct Phone {
    pub(crate) name: String,
    pub(crate) source: String,
    /// The address that it knows of itself: a private one over IPv4, its own over IPv6, where there is no NAT.
    host: String,
    pub(crate) dead: bool,
    /// It speaks over connections, where nothing is lost and nothing has to be sent again.
    pub(crate) reliable: bool,
    dialogs: Vec<Dialog>,
    repeats: Vec<Repeat>,
    responses: HashMap<String, Vec<u8>>,
    acks: HashMap<String, Vec<u8>>,
    serial: u32,
    pub(crate) out: Vec<Vec<u8>>,
}

impl Phone {
    pub(crate) fn new(name: &str, source: &str) -> Self {
        Self {
            name: name.into(),
            source: source.into(),
            host: match source.parse().unwrap() {
                SocketAddr::V4(_) => PRIVATE.into(),
                SocketAddr::V6(address) => address.ip().to_string(),
            },
            dead: false,
            reliable: false,
            dialogs: Vec::new(),
            repeats: Vec::new(),
            responses: HashMap::new(),
            acks: HashMap::new(),
            serial: 0,
            out: Vec::new(),
        }
    }

    pub(crate) fn register(&mut self, now: Instant) {
        let name = self.name.clone();
        let head = format!(
            "From: <sip:{name}@example.test>;tag=reg\nTo: <sip:{name}@example.test>\nCall-ID: reg-{name}\nExpires: 90"
        );
        self.serial += 1;
        let (serial, branch) = (self.serial, self.branch());
        self.request("REGISTER", "sip:example.test", serial, &branch, &head, "", now);
    }

    pub(crate) fn call(&mut self, whom: &str, late: bool, random: &mut StdRng, now: Instant) {
        let branch = self.branch();
        let dialog = Dialog {
            call_id: format!("call-{}-{}", self.name, self.serial),
            caller: true,
            state: State::Calling,
            local: format!("<sip:{}@example.test>;tag={}{}", self.name, self.name, self.serial),
            remote: format!("<sip:{whom}@example.test>"),
            target: format!("sip:{whom}@example.test"),
            cseq: 1,
            branch: branch.clone(),
            invite: None,
            next: random.random_bool(0.4).then(|| now + Duration::from_millis(random.random_range(0..9000))),
            held: false,
        };
        let head = head(&dialog);
        let target = dialog.target.clone();
        self.dialogs.push(dialog);
        let body = if late { String::new() } else { sdp(&self.host, 4000) };
        self.request("INVITE", &target, 1, &branch, &head, &body, now);
    }

    pub(crate) fn tick(&mut self, random: &mut StdRng, now: Instant) {
        for repeat in self.repeats.iter_mut().filter(|repeat| !repeat.stopped && repeat.next <= now) {
            repeat.interval = (repeat.interval * 2).min(Duration::from_secs(4));
            repeat.next = now + repeat.interval;
            self.out.push(repeat.bytes.clone());
        }
        let (over, live): (Vec<_>, _) = self.repeats.drain(..).partition(|repeat| repeat.until <= now);
        self.repeats = live;
        for repeat in over {
            // No ACK for a 2xx: the callee gives up (RFC 3261 §13.3.1.4).
            let call_id = repeat.key.strip_prefix("200 ").unwrap_or_default().to_owned();
            if let Some(at) =
                self.dialogs.iter().position(|dialog| dialog.call_id == call_id && dialog.state == State::Up)
            {
                self.bye(at, now);
            }
        }
        for at in 0..self.dialogs.len() {
            if self.dialogs[at].next.is_none_or(|next| next > now) {
                continue;
            }
            self.dialogs[at].next = None;
            self.act(at, random, now);
        }
    }

    /// The time has come for a decision.
    fn act(&mut self, at: usize, random: &mut StdRng, now: Instant) {
        match self.dialogs[at].state {
            State::Calling => {
                let dialog = &mut self.dialogs[at];
                dialog.state = State::Cancelled;
                let (head, uri, branch) = (head(dialog), dialog.target.clone(), dialog.branch.clone());
                self.request("CANCEL", &uri, 1, &branch, &head, "", now);
            }
            State::Ringing => {
                let invite = self.dialogs[at].invite.clone().unwrap();
                if random.random_bool(0.75) {
                    self.accept(at, &invite, now);
                    self.dialogs[at].next = Some(now + Duration::from_millis(random.random_range(100..60_000)));
                } else {
                    self.dialogs[at].state = State::Over;
                    self.reply(&invite, "486 Busy Here", "", Some(now));
                }
            }
            State::Up if random.random_bool(0.5) => {
                let branch = self.branch();
                let dialog = &mut self.dialogs[at];
                dialog.cseq += 1;
                dialog.held = !dialog.held;
                let direction = if dialog.held { "a=sendonly\n" } else { "" };
                let (head, uri, cseq) = (head(dialog), dialog.target.clone(), dialog.cseq);
                dialog.next = Some(now + Duration::from_millis(random.random_range(1..30_000)));
                self.request("INVITE", &uri, cseq, &branch, &head, &(sdp(&self.host, 4000) + direction), now);
            }
            State::Up => self.bye(at, now),
            State::Cancelled | State::Over => {}
        }
    }

    fn bye(&mut self, at: usize, now: Instant) {
        let branch = self.branch();
        let dialog = &mut self.dialogs[at];
        dialog.state = State::Over;
        dialog.cseq += 1;
        let (head, uri, cseq) = (head(dialog), dialog.target.clone(), dialog.cseq);
        self.request("BYE", &uri, cseq, &branch, &head, "", now);
    }

    pub(crate) fn receive(&mut self, bytes: &[u8], random: &mut StdRng, now: Instant) {
        let message = Message::parse(bytes).expect("the proxy sends whole messages");
        match message.method().map(str::to_owned) {
            Some(method) => self.requested(&method, message, random, now),
            None => self.responded(&message, random, now),
        }
    }

    fn requested(&mut self, method: &str, request: Message, random: &mut StdRng, now: Instant) {
        let call_id = request.call_id().unwrap().into_owned();
        let branch = request.top_via().unwrap().branch().to_owned();
        let inside = request.to_tag().is_some();
        let at = self.dialogs.iter().position(|dialog| dialog.call_id == call_id && (inside || !dialog.caller));
        if method == "ACK" {
            self.repeats
                .retain(|repeat| repeat.key != format!("200 {call_id}") && repeat.key != format!("final {branch}"));
            return;
        }
        if let Some(response) = self.responses.get(&format!("{branch} {method}")) {
            return self.out.push(response.clone());
        }
        match (method, at) {
            ("INVITE", None) if request.to_tag().is_none() => {
                self.reply(&request, "180 Ringing", "", None);
                let tag = format!("{}{}", self.name, self.serial);
                self.dialogs.push(Dialog {
                    call_id,
                    caller: false,
                    state: State::Ringing,
                    local: format!("{};tag={tag}", request.value(Name::To).unwrap()),
                    remote: request.value(Name::From).unwrap().into_owned(),
                    target: contact(&request),
                    cseq: 0,
                    branch,
                    invite: Some(request),
                    next: Some(now + Duration::from_millis(random.random_range(0..8000))),
                    held: false,
                });
            }
            ("INVITE", Some(at)) if request.to_tag().is_some() && self.dialogs[at].state == State::Up => {
                self.accept(at, &request, now);
            }
            ("INVITE", _) => self.reply(&request, "481 No Such Dialog", "", Some(now)),
            ("CANCEL", at) => {
                self.reply(&request, "200 OK", "", None);
                if let Some(dialog) = at.map(|at| &mut self.dialogs[at]).filter(|dialog| dialog.state == State::Ringing)
                {
                    dialog.state = State::Over;
                    let invite = dialog.invite.clone().unwrap();
                    self.reply(&invite, "487 Request Terminated", "", Some(now));
                }
            }
            ("BYE", Some(at)) => {
                self.dialogs[at].state = State::Over;
                self.reply(&request, "200 OK", "", None);
            }
            ("BYE", None) => self.reply(&request, "481 No Such Dialog", "", None),
            _ => self.reply(&request, "200 OK", "", None),
        }
    }

    /// A 2xx, repeated until its ACK comes.
    fn accept(&mut self, at: usize, invite: &Message, now: Instant) {
        self.dialogs[at].state = State::Up;
        let call_id = self.dialogs[at].call_id.clone();
        self.reply(invite, "200 OK", &sdp(&self.host, 4002), None);
        let bytes = self.out.last().unwrap().clone();
        self.repeat(format!("200 {call_id}"), bytes, now);
    }

    fn responded(&mut self, response: &Message, random: &mut StdRng, now: Instant) {
        let code = response.code().unwrap();
        let branch = response.top_via().unwrap().branch().to_owned();
        let cseq = response.cseq().unwrap();
        let call_id = response.call_id().unwrap().into_owned();
        let key = format!("{branch} {}", cseq.method);
        if code < 200 {
            for repeat in self.repeats.iter_mut().filter(|repeat| repeat.key == key && cseq.method == "INVITE") {
                repeat.stopped = true;
                repeat.until = now + Duration::from_secs(300);
            }
            return;
        }
        let fresh = self.repeats.iter().any(|repeat| repeat.key == key);
        self.repeats.retain(|repeat| repeat.key != key);
        if cseq.method != "INVITE" {
            return;
        }
        if !fresh {
            // It came again, so its ACK was lost.
            let ack = self.acks.get(&format!("{branch} {code}")).cloned();
            return self.out.extend(ack);
        }
        let Some(at) = self.dialogs.iter().position(|dialog| dialog.call_id == call_id) else { return };
        let number = cseq.number;
        if code < 300 {
            let was = self.dialogs[at].state;
            let dialog = &mut self.dialogs[at];
            if matches!(was, State::Calling | State::Cancelled) {
                dialog.remote = response.value(Name::To).unwrap().into_owned();
                dialog.state = State::Up;
                dialog.next = Some(now + Duration::from_millis(random.random_range(0..60_000)));
            }
            dialog.target = contact(response);
            let branch_of_ack = self.branch();
            let dialog = &self.dialogs[at];
            let body = if dialog.held || was == State::Up { String::new() } else { sdp(&self.host, 4000) };
            let ack =
                build("ACK", &dialog.target, number, &branch_of_ack, &head(dialog), (&self.name, &self.host), &body);
            self.acks.insert(format!("{branch} {code}"), ack.clone());
            self.out.push(ack);
            if was == State::Cancelled {
                self.bye(at, now);
            }
        } else {
            let dialog = &mut self.dialogs[at];
            if matches!(dialog.state, State::Calling | State::Cancelled) {
                dialog.state = State::Over;
            }
            let mut head = head(dialog);
            if !dialog.remote.contains(";tag=") {
                head = head
                    .replace(&format!("To: {}", dialog.remote), &format!("To: {}", response.value(Name::To).unwrap()));
            }
            let ack = build("ACK", &dialog.target, number, &branch, &head, (&self.name, &self.host), "");
            self.acks.insert(format!("{branch} {code}"), ack.clone());
            self.out.push(ack);
        }
    }

    fn reply(&mut self, request: &Message, status: &str, body: &str, until_ack: Option<Instant>) {
        let branch = request.top_via().unwrap().branch().to_owned();
        let method = request.method().unwrap().to_owned();
        let value = |name| request.value(name).unwrap().into_owned();
        let call_id = value(Name::CallId);
        let mut to = value(Name::To);
        if request.to_tag().is_none() {
            let known = self.dialogs.iter().find(|dialog| dialog.call_id == call_id && !dialog.caller);
            to = known.map_or_else(|| format!("{to};tag={}{}", self.name, self.serial), |dialog| dialog.local.clone());
        }
        let text = sip(&format!(
            "SIP/2.0 {status}\nVia: {}\nFrom: {}\nTo: {to}\nCall-ID: {call_id}\nCSeq: {}\nContact: <sip:{}@{}:5060>\n\n{body}",
            value(Name::Via),
            value(Name::From),
            value(Name::CSeq),
            self.name,
            host_text(&self.host)
        ));
        self.responses.insert(format!("{branch} {method}"), text.clone().into_bytes());
        self.out.push(text.clone().into_bytes());
        if let Some(now) = until_ack {
            self.repeat(format!("final {branch}"), text.into_bytes(), now);
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn request(&mut self, method: &str, uri: &str, cseq: u32, branch: &str, head: &str, body: &str, now: Instant) {
        let bytes = build(method, uri, cseq, branch, head, (&self.name, &self.host), body);
        self.out.push(bytes.clone());
        self.repeat(format!("{branch} {method}"), bytes, now);
    }

    fn repeat(&mut self, key: String, bytes: Vec<u8>, now: Instant) {
        // The 2xx to an INVITE is repeated from end to end nevertheless (RFC 3261 §13.3.1.4).
        let stopped = self.reliable && !key.starts_with("200 ");
        self.repeats.push(Repeat { key, bytes, next: now + T1, interval: T1, until: now + 64 * T1, stopped });
    }

    fn branch(&mut self) -> String {
        self.serial += 1;
        // The phones behind the two NATs count in the same way.
        format!("z9hG4bK{}", self.serial)
    }
}

fn head(dialog: &Dialog) -> String {
    format!("From: {}\nTo: {}\nCall-ID: {}", dialog.local, dialog.remote, dialog.call_id)
}

fn build(
    method: &str,
    uri: &str,
    cseq: u32,
    branch: &str,
    head: &str,
    (name, host): (&str, &str),
    body: &str,
) -> Vec<u8> {
    let host = host_text(host);
    sip(&format!(
        "{method} {uri} SIP/2.0\nVia: SIP/2.0/UDP {host}:5060;branch={branch};rport\nMax-Forwards: 70\n{head}
        CSeq: {cseq} {method}\nContact: <sip:{name}@{host}:5060>\n\n{body}"
    ))
    .into_bytes()
}

fn contact(message: &Message) -> String {
    let value = message.value(Name::Contact).expect("Contact");
    NameAddr::parse(&value).unwrap().uri.to_owned()
}
