//! From the text of `latch.toml` to a [`Config`].

use super::{
    AdmissionLimits, CdrFile, Config, KeepAlive, Limits, Maps, Media, PortRange, Problem, Problems, Realm, RealmPolicy,
    Relay, Side, Sip, State, Strangers, Trust, VlanTag, check, reader::Section, report::Report, streams,
};
use crate::{media::Carry, signalling::sip::Name};
use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};
use toml::de::DeTable;

/// What the command line says; it wins over the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// See [`Maps::max_legs`].
    pub max_legs: Option<u32>,
    /// See [`Maps::max_next_hops`].
    pub max_next_hops: Option<u32>,
    /// See [`Maps::events_bytes`].
    pub events_bytes: Option<u32>,
    /// See [`Maps::max_sources`].
    pub max_sources: Option<u32>,
    /// See [`Media::relay`].
    pub relay: Option<Relay>,
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it, not only the first.
    pub fn load(file: &Path, overrides: Overrides) -> Result<Self, Problems> {
        let text = std::fs::read_to_string(file).map_err(|error| {
            let mut report = Report::new("");
            report.problem(
                "",
                format!("cannot be read: {error}"),
                "name a file that exists and is readable UTF-8 text",
            );
            Problems { file: file.into(), problems: report.into_problems() }
        })?;
        Self::parse(&text, file, overrides)
    }

    /// Reads and checks a text; `file` is the name that errors show.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it, not only the first.
    pub fn parse(text: &str, file: &Path, overrides: Overrides) -> Result<Self, Problems> {
        let mut report = Report::new(text);
        let config = read(text, overrides, &mut report);
        match config {
            Some(config) if report.is_clean() => Ok(config),
            _ => Err(Problems { file: file.into(), problems: report.into_problems() }),
        }
    }
}

impl Problems {
    /// Problems of fields of a file that has been read before: each with the place of its field.
    pub fn located(file: &Path, problems: Vec<Problem>) -> Self {
        // If the file has been removed in the meantime, no place is known.
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let mut report = Report::new(&text);
        read(&text, Overrides::default(), &mut report);
        report.clear();
        for problem in problems {
            report.problem(&problem.field, problem.message, problem.remedy);
        }
        Self { file: file.into(), problems: report.into_problems() }
    }
}

fn read(text: &str, overrides: Overrides, report: &mut Report<'_>) -> Option<Config> {
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let offset = error.span().map_or(0, |span| span.start);
        let message = error.message().trim();
        let remedy = match message {
            "duplicate key" => "write a name once in a section, and each realm under [[realm]], with two brackets",
            _ => "see https://toml.io for how TOML is written",
        };
        report.problem_at(offset, "", message, remedy);
    }
    if !errors.is_empty() {
        return None;
    }
    let mut root = Section::new("", table.into_inner());
    let realms: Vec<_> = root.tables("realm", report).into_iter().map(|section| realm(section, report)).collect();
    let keepalive = keepalive(root.table("keepalive", report), report);
    let media = media(root.table("media", report), overrides, report);
    let sip = sip(root.table("sip", report), report);
    let connections = streams::connections(root.table("connections", report), report);
    let cdr = cdr(root.table("cdr", report), report);
    let state = state(root.table("state", report), report);
    let maps = maps(root.table("maps", report), overrides, report);
    let limits = limits(root.table("limits", report), report);
    let strangers = strangers(root.table("strangers", report), report);
    root.finish(report);
    // How the realms relate to each other can only be checked when each is complete.
    let realms = realms.into_iter().collect::<Option<Vec<_>>>()?;
    let config =
        Config { realms: realms.into(), keepalive, media, sip, connections, cdr, state, maps, limits, strangers };
    check::check(&config, report);
    Some(config)
}

fn realm(mut section: Section<'_>, report: &mut Report<'_>) -> Option<Realm> {
    let name = section.required("name", "access", report);
    let side = section.required("side", "access", report).and_then(|text| match text.as_str() {
        "access" => Some(Side::Access),
        "core" => Some(Side::Core),
        other => {
            let message = format!("\"{other}\" is not a side");
            report.problem(&section.path("side"), message, "write \"access\" (terminals) or \"core\" (softswitch)");
            None
        }
    });
    let interface = section.required("interface", "eth0", report);
    let address = "an IP address and port";
    let signalling = section.parsed::<SocketAddr>("signalling", address, "203.0.113.10:5060", report);
    let media = section.parsed::<IpAddr>("media", "an IP address", "203.0.113.10", report);
    let ports = section.required("ports", "30000-39999", report).and_then(|text| match ports(&text) {
        Ok(ports) => Some(ports),
        Err(message) => {
            let remedy = "write an even first and an odd last port, such as ports = \"30000-39999\"";
            report.problem(&section.path("ports"), format!("\"{text}\" {message}"), remedy);
            None
        }
    });
    let softswitch = match section.string("softswitch", report) {
        None => None,
        Some(text) => match text.parse::<SocketAddr>() {
            Ok(address) => Some(address),
            Err(_) => {
                let remedy = "write it like softswitch = \"10.9.0.20:5060\"";
                report.problem(&section.path("softswitch"), format!("\"{text}\" is not {address}"), remedy);
                None
            }
        },
    };
    let vlan = vlan(&mut section, report);
    let trust = trust(&mut section, side, report);
    let policy = policy(&mut section, report);
    let streams = streams::streams(&mut section, report);
    section.finish(report);
    Some(Realm {
        name: name?,
        side: side?,
        interface: interface?,
        signalling: signalling?,
        media: media?,
        ports: ports?,
        vlan,
        trust: trust?,
        policy,
        softswitch,
        streams,
    })
}

fn vlan(realm: &mut Section<'_>, report: &mut Report<'_>) -> Vec<VlanTag> {
    let path = realm.path("vlan");
    let mut tags = Vec::new();
    for mut section in realm.tables("vlan", report) {
        let id = section.optional("id", 1..=4_094, report);
        let priority = section.number("priority", 0..=7, 0, report);
        if id.is_none() && !report.stands(&section.path("id")) {
            report.problem(&section.path("id"), "is missing", "add id = 100: the VLAN's identifier");
        }
        section.finish(report);
        tags.extend(id.map(|id| VlanTag { id, priority }));
    }
    if tags.len() > 2 {
        report.problem(
            &path,
            "has more than two tags",
            "keep one, or two where 802.1ad carries 802.1Q, outermost first",
        );
    }
    tags
}

/// How far the realm is trusted; `None` where its side is not known, as the default depends on it.
fn trust(realm: &mut Section<'_>, side: Option<Side>, report: &mut Report<'_>) -> Option<Trust> {
    let trusted = realm.boolean("trusted", report).or(side.map(|side| Trust::of(side).trusted));
    let default = Trust::of(side.unwrap_or(Side::Access));
    // Each says whether the second word is written; a trusted realm needs none of them.
    let mut word = |name, words: [(&str, &str); 2], default: bool| match realm.string(name, report) {
        None => default,
        Some(_) if trusted == Some(true) => {
            let remedy = "leave it out: a trusted realm is believed and sees everything; or write trusted = false";
            report.problem(&realm.path(name), "does not belong in a trusted realm", remedy);
            default
        }
        Some(text) => match words.iter().position(|(word, _)| *word == text) {
            Some(position) => position == 1,
            None => {
                let [(one, meaning), (other, other_meaning)] = words;
                let remedy = format!("write \"{one}\" ({meaning}) or \"{other}\" ({other_meaning})");
                report.problem(&realm.path(name), format!("\"{text}\" is not known"), remedy);
                default
            }
        },
    };
    let stated = [("checked", "a media address counts where the signalling comes from it"), ("believed", "any does")];
    let inward = [("removed", "before a trusted realm sees them"), ("kept", "the trusted realm believes them")];
    let outward = [("never", "but with Privacy: none"), ("unless-private", "unless Privacy asks for it")];
    Some(Trust {
        trusted: trusted?,
        believes_media: word("stated", stated, default.believes_media),
        believes_identity: word("identity_in", inward, default.believes_identity),
        shows_identity: word("identity_out", outward, default.shows_identity),
    })
}

fn policy(realm: &mut Section<'_>, report: &mut Report<'_>) -> RealmPolicy {
    let default = RealmPolicy::default();
    let dscp = dscp(realm, report);
    let carry = carry(realm, report);
    let mut word = |name, words: [&str; 2], default: bool, report: &mut Report<'_>| match realm.string(name, report) {
        Some(text) if text == words[0] => false,
        Some(text) if text == words[1] => true,
        Some(text) => {
            let remedy = format!("write \"{}\" or \"{}\"", words[0], words[1]);
            report.problem(&realm.path(name), format!("\"{text}\" is not known"), remedy);
            default
        }
        None => default,
    };
    let latch_any = word("latch", ["signalled", "any"], default.latch_any, report);
    let rebind = word("rebind", ["never", "same-address"], default.rebind, report);
    let negotiated_rate = word("rate", ["off", "negotiated"], default.negotiated_rate, report);
    let [v4, v6] = default.latch_prefix;
    RealmPolicy {
        dscp,
        latch_any,
        rebind,
        latch_prefix: [
            realm.number("latch_prefix_v4", 8..=32, v4, report),
            realm.number("latch_prefix_v6", 16..=128, v6, report),
        ],
        carry,
        stream_kbps: realm.optional("stream_kbps", 8..=10_000_000, report),
        negotiated_rate,
        rate_margin_percent: realm.number("rate_margin_percent", 0..=1_000, default.rate_margin_percent, report),
        rate_min_kbps: realm.number("rate_min_kbps", 0..=10_000_000, default.rate_min_kbps, report),
        admission: admission(realm, report),
    }
}

/// DSCPs by the kind of media; `"keep"` says what leaving it out does.
fn dscp(realm: &mut Section<'_>, report: &mut Report<'_>) -> [Option<u8>; 3] {
    let mut section = realm.table("dscp", report);
    let marks = ["audio", "video", "other"].map(|kind| {
        if !section.is_string(kind) {
            return section.optional(kind, 0..=63, report);
        }
        let text = section.string(kind, report)?;
        let mark = dscp_named(&text);
        if mark.is_none() && text != "keep" {
            let remedy =
                "write \"keep\", 0 to 63, or a name: \"EF\", \"VA\", \"LE\", \"CS0\" to \"CS7\", \"AF11\" to \"AF43\"";
            report.problem(&section.path(kind), format!("\"{text}\" is not a DSCP"), remedy);
        }
        mark
    });
    section.finish(report);
    marks
}

/// By its name in IANA's registry (RFC 2474, 2597, 3246, 5865, 8622).
fn dscp_named(name: &str) -> Option<u8> {
    match name.as_bytes() {
        b"EF" => Some(46),
        b"VA" | b"VOICE-ADMIT" => Some(44),
        b"LE" => Some(1),
        [b'C', b'S', class @ b'0'..=b'7'] => Some((class - b'0') << 3),
        [b'A', b'F', class @ b'1'..=b'4', precedence @ b'1'..=b'3'] => {
            Some(((class - b'0') << 3) | ((precedence - b'0') << 1))
        }
        _ => None,
    }
}

fn carry(realm: &mut Section<'_>, report: &mut Report<'_>) -> Carry {
    let mut carry = Carry::default();
    for (name, index) in realm.strings("carry", report).into_iter().zip(0..) {
        match name.as_str() {
            "stun" => carry.stun = true,
            "dtls" => carry.dtls = true,
            "zrtp" => carry.zrtp = true,
            _ => {
                let field = format!("{}[{index}]", realm.path("carry"));
                report.problem(&field, format!("\"{name}\" is not known"), "write \"stun\", \"dtls\" or \"zrtp\"");
            }
        }
    }
    carry
}

fn admission(realm: &mut Section<'_>, report: &mut Report<'_>) -> AdmissionLimits {
    let default = AdmissionLimits::default();
    let refuse_with = realm.number("refuse_with", 400..=699, default.refuse_with, report);
    if ![486, 488, 503].contains(&refuse_with) {
        report.problem(
            &realm.path("refuse_with"),
            format!("{refuse_with} is not a status code that refuses a call here"),
            "use 503 (try later or elsewhere), 486 (busy) or 488 (not acceptable here)",
        );
    }
    AdmissionLimits {
        max_calls: realm.optional("max_calls", 1..=10_000_000, report),
        max_kbps: realm.optional("max_kbps", 8..=4_000_000_000, report),
        max_calls_per_user: realm.optional("max_calls_per_user", 1..=10_000_000, report),
        max_kbps_per_user: realm.optional("max_kbps_per_user", 8..=4_000_000_000, report),
        refuse_with,
    }
}

fn ports(text: &str) -> Result<PortRange, &'static str> {
    let (first, last) = text.split_once('-').ok_or("is not a range")?;
    let port = |text: &str| text.trim().parse::<u16>().map_err(|_| "has an end that is not a port");
    let range = PortRange { first: port(first)?, last: port(last)? };
    if range.first % 2 == 1 {
        return Err("begins with an odd port: RTP has the even one of each pair (RFC 3550 §11)");
    }
    if range.last.is_multiple_of(2) {
        return Err("ends with an even port: its last pair has no RTCP port");
    }
    if range.first > range.last {
        return Err("ends before it begins");
    }
    if range.first < 1024 {
        return Err("reaches into the well-known ports below 1024");
    }
    Ok(range)
}

fn keepalive(mut section: Section<'_>, report: &mut Report<'_>) -> KeepAlive {
    let default = KeepAlive::default();
    let method = section.string("method", report);
    let period = section.seconds("period_s", 1..=86_400, default.period.unwrap_or_default(), report);
    let failures = section.number("failures", 1..=1_000, default.failures, report);
    let (method, period) = match method {
        None => (default.method, Some(period)),
        Some(method) if method.eq_ignore_ascii_case("off") => (default.method, None),
        Some(method) if is_method(&method) => (method.to_ascii_uppercase(), Some(period)),
        Some(method) => {
            report.problem(
                &section.path("method"),
                format!("\"{method}\" is not a SIP method that can be used"),
                "write \"OPTIONS\", another method outside dialogs such as \"NOTIFY\", or \"off\"",
            );
            (default.method, Some(period))
        }
    };
    section.finish(report);
    KeepAlive { method, period, failures }
}

/// RFC 3261 §25.1: a method is a token. Those that would begin or end something are refused.
fn is_method(text: &str) -> bool {
    let token = |c: char| c.is_ascii_alphanumeric() || "-.!%*_+`'~".contains(c);
    let harmful = ["INVITE", "ACK", "CANCEL", "BYE", "REGISTER", "PRACK"];
    !text.is_empty()
        && text.len() <= 32
        && text.chars().all(token)
        && !harmful.iter().any(|harmful| text.eq_ignore_ascii_case(harmful))
}

fn media(mut section: Section<'_>, overrides: Overrides, report: &mut Report<'_>) -> Media {
    let default = Media::default();
    let media = Media {
        learning_window: section.seconds("learning_window_s", 1..=60, default.learning_window, report),
        silence_timeout: section.seconds("silence_timeout_s", 1..=86_400, default.silence_timeout, report),
        hold_time: section.seconds("hold_time_s", 0..=600, default.hold_time, report),
        relay: relay(&mut section, report),
    };
    section.finish(report);
    Media { relay: overrides.relay.unwrap_or(media.relay), ..media }
}

fn relay(section: &mut Section<'_>, report: &mut Report<'_>) -> Relay {
    let Some(text) = section.string("relay", report) else { return Relay::default() };
    text.parse().unwrap_or_else(|_| {
        let remedy = "write \"native\" or \"generic\" (XDP in the driver or in the network stack), \"user\" (in this process), \
                      or \"auto\" (the first of them that the host grants)";
        report.problem(&section.path("relay"), format!("\"{text}\" is not a kind of relay"), remedy);
        Relay::default()
    })
}

fn sip(mut section: Section<'_>, report: &mut Report<'_>) -> Sip {
    let default = Sip::default();
    let sip = Sip {
        t1: section.millis("t1_ms", 10..=10_000, default.t1, report),
        t2: section.millis("t2_ms", 10..=60_000, default.t2, report),
        invite_timeout: section.seconds("invite_timeout_s", 5..=3_600, default.invite_timeout, report),
        source_header: section.string("source_header", report),
    };
    if let Some(name) = sip.source_header.as_deref().filter(|name| !is_free_header(name)) {
        report.problem(
            &section.path("source_header"),
            format!("\"{name}\" is not a header field of your own"),
            "write a name that has no other meaning, such as \"X-Source\"",
        );
    }
    if sip.t2 < sip.t1 {
        report.problem(&section.path("t2_ms"), "is shorter than t1_ms", "make it at least as long");
    }
    section.finish(report);
    sip
}

/// Whether a name may be that of a header field (RFC 3261 §25.1, token) and has no meaning yet.
fn is_free_header(name: &str) -> bool {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"-.!%*_+`'~".contains(&byte);
    !name.is_empty() && name.bytes().all(is_token) && Name::of(name.as_bytes()) == Name::Other
}

fn cdr(mut section: Section<'_>, report: &mut Report<'_>) -> CdrFile {
    let file = section.string("file", report).map(PathBuf::from);
    // "-" is standard output.
    if file.as_ref().is_some_and(|file| !file.is_absolute() && file != Path::new("-")) {
        report.problem(
            &section.path("file"),
            "is not an absolute path",
            "write it from the root, such as file = \"/var/log/latch/cdr.jsonl\", or \"-\" for standard output",
        );
    }
    section.finish(report);
    CdrFile { file }
}

fn state(mut section: Section<'_>, report: &mut Report<'_>) -> State {
    let default = State::default();
    let mut directory = |name: &'static str, default: PathBuf, report: &mut Report<'_>| {
        let Some(path) = section.string(name, report).map(PathBuf::from) else { return default };
        if !path.is_absolute() {
            let remedy = format!("write it from the root, such as {name} = \"{}\"", default.display());
            report.problem(&section.path(name), "is not an absolute path", remedy);
        }
        path
    };
    let (journal, pins) = (directory("directory", default.directory, report), directory("pins", default.pins, report));
    let keep = match section.string("on_stop", report).as_deref() {
        None => default.keep,
        Some("end") => false,
        Some("keep") => true,
        Some(other) => {
            let message = format!("\"{other}\" is not known");
            let remedy = "write \"end\" (calls end with the process) or \"keep\" (the next one continues them)";
            report.problem(&section.path("on_stop"), message, remedy);
            default.keep
        }
    };
    section.finish(report);
    State { directory: journal, pins, keep }
}

fn maps(mut section: Section<'_>, overrides: Overrides, report: &mut Report<'_>) -> Maps {
    let default = Maps::default();
    let maps = Maps {
        max_legs: section.number("max_legs", 1..=check::MOST_LEGS, default.max_legs, report),
        max_next_hops: section.number("max_next_hops", 2..=65_536, default.max_next_hops, report),
        events_bytes: section.number("events_bytes", 4_096..=check::MOST_EVENTS_BYTES, default.events_bytes, report),
        max_sources: section.number("max_sources", check::SOURCES, default.max_sources, report),
    };
    section.finish(report);
    Maps {
        max_legs: overrides.max_legs.unwrap_or(maps.max_legs),
        max_next_hops: overrides.max_next_hops.unwrap_or(maps.max_next_hops),
        events_bytes: overrides.events_bytes.unwrap_or(maps.events_bytes),
        max_sources: overrides.max_sources.unwrap_or(maps.max_sources),
    }
}

fn limits(mut section: Section<'_>, report: &mut Report<'_>) -> Limits {
    let default = Limits::default();
    let limits = Limits {
        max_calls: section.number("max_calls", 1..=10_000_000, default.max_calls, report),
        max_registrations: section.number("max_registrations", 1..=10_000_000, default.max_registrations, report),
        max_transactions: section.number("max_transactions", 1..=10_000_000, default.max_transactions, report),
    };
    section.finish(report);
    limits
}

fn strangers(mut section: Section<'_>, report: &mut Report<'_>) -> Strangers {
    let default = Strangers::default();
    let strangers = Strangers {
        percent: section.number("percent", 1..=100, default.percent, report),
        network_percent: section.number("network_percent", 1..=100, default.network_percent, report),
        source_percent: section.number("source_percent", 1..=100, default.source_percent, report),
        messages_per_s: section.number("messages_per_s", 1..=10_000_000, default.messages_per_s, report),
    };
    if strangers.source_percent > strangers.network_percent {
        let message = format!("is more than network_percent, which is {}", strangers.network_percent);
        report.problem(&section.path("source_percent"), message, "make it at most as much: a source is in its network");
    }
    section.finish(report);
    strangers
}
