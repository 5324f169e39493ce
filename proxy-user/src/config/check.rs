//! Rules between fields: how the realms relate to each other and to the maps.

use super::{Config, Realm, Side, report::Report};
use crate::{flow::Transport, media::RealmId};
use std::{
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
};

/// Largest `max_legs`: 512 MiB for each of the two maps.
pub(super) const MOST_LEGS: u32 = 4_194_304;
/// Largest `events_bytes`.
pub(super) const MOST_EVENTS_BYTES: u32 = 1 << 30;

/// What `max_sources` may be: a kernel that has less room keeps some of it for each processor.
pub(super) const SOURCES: RangeInclusive<u32> = 1_024..=4_194_304;

pub(super) fn check(config: &Config, report: &mut Report<'_>) {
    number_of_realms(config, report);
    for (id, realm) in config.realms.with_ids() {
        one_realm(id, realm, report);
        transports(id, realm, report);
        for (earlier, other) in config.realms.with_ids().take_while(|(earlier, _)| *earlier < id) {
            two_realms(id, realm, earlier, other, report);
        }
    }
    softswitches(config, report);
    maps(config, report);
}

fn number_of_realms(config: &Config, report: &mut Report<'_>) {
    for (side, name) in [(Side::Access, "access"), (Side::Core, "core")] {
        let mut of_side = config.realms.with_ids().filter(|(_, realm)| realm.side == side);
        if of_side.next().is_none() {
            report.problem(
                "realm",
                format!("there is no {name} realm"),
                format!("add a [[realm]] with side = \"{name}\": Latch stands between one access and one core realm"),
            );
        }
        for (id, _) in of_side {
            report.problem(
                &format!("realm[{id}].side"),
                format!("this is a second {name} realm"),
                "keep exactly one access and one core realm: this version supports one pair",
            );
        }
    }
}

fn one_realm(id: RealmId, realm: &Realm, report: &mut Report<'_>) {
    let field = |name: &str| format!("realm[{id}].{name}");
    if realm.name.is_empty() || realm.name.chars().any(char::is_control) {
        report.problem(&field("name"), "is empty or has control characters", "give the realm a name for the logs");
    }
    let interface = &realm.interface;
    // Linux: IFNAMSIZ is 16 with the final zero.
    if interface.is_empty() || interface.len() > 15 || interface.contains(|c: char| c == '/' || c.is_whitespace()) {
        report.problem(
            &field("interface"),
            format!("\"{interface}\" cannot be the name of an interface"),
            "write a name that `ip link` shows",
        );
    }
    address(&field("signalling"), realm.signalling.ip(), report);
    port(&field("signalling"), realm.signalling, report);
    address(&field("media"), realm.media, report);
    let softswitch = realm.softswitch.map(|softswitch| softswitch.ip());
    for (name, other) in [("media", Some(realm.media)), ("softswitch", softswitch)] {
        if other.is_some_and(|other| other.is_ipv4() != realm.signalling.is_ipv4()) {
            report.problem(
                &field(name),
                "is of another IP version than signalling",
                "write addresses of one version in a realm; the other realm may have the other one",
            );
        }
    }
    if realm.signalling.ip() == realm.media && realm.ports.contains(realm.signalling.port()) {
        report.problem(
            &field("ports"),
            format!("contains the realm's own signalling port {}", realm.signalling.port()),
            "move one of them: the relay takes every packet to its ports",
        );
    }
    let limits = &realm.policy.admission;
    let of_users = [("max_calls_per_user", limits.max_calls_per_user), ("max_kbps_per_user", limits.max_kbps_per_user)];
    for (name, limit) in of_users {
        if realm.side == Side::Core && limit.is_some() {
            let remedy = "move it to the access realm: users are those of terminals";
            report.problem(&field(name), "does not belong in a core realm", remedy);
        }
    }
    match (realm.side, realm.softswitch) {
        // Present, but not understood: that has been reported.
        (Side::Core, None) if report.stands(&field("softswitch")) => {}
        (Side::Core, None) => report.problem(
            &field("softswitch"),
            "is missing",
            "add softswitch = \"ADDRESS:PORT\": requests of terminals go there",
        ),
        (Side::Access, Some(_)) => {
            report.problem(&field("softswitch"), "does not belong in an access realm", "move it to the core realm")
        }
        (Side::Core, Some(softswitch)) => {
            address(&field("softswitch"), softswitch.ip(), report);
            port(&field("softswitch"), softswitch, report);
        }
        (Side::Access, None) => {}
    }
}

/// What a realm says of its transports.
fn transports(id: RealmId, realm: &Realm, report: &mut Report<'_>) {
    let field = |name: &str| format!("realm[{id}].{name}");
    let streams = &realm.streams;
    let core = realm.side == Side::Core;
    for name in ["ws_port", "wss_port", "transport", "server_ca", "server_name"] {
        let only_core = !name.ends_with("_port");
        if only_core != core && report.stands(&field(name)) {
            let (here, there) = if core { ("a core", "access") } else { ("an access", "core") };
            report.problem(
                &field(name),
                format!("does not belong in {here} realm"),
                format!("move it to the {there} realm"),
            );
        }
    }
    let listening: Vec<_> = streams.listening().collect();
    for (transport, port) in &listening {
        let name = field(&format!("{}_port", transport.name()));
        if let Some((other, _)) = listening.iter().find(|(other, taken)| other < transport && taken == port) {
            let message = format!("{port} is {}_port too", other.name());
            report.problem(&name, message, "give each transport a port of its own");
        }
    }
    let listens_tls = streams.tls.or(streams.wss).is_some();
    if listens_tls
        && streams.certificate.is_none()
        && !report.stands(&field("certificate"))
        && !report.stands(&field("key"))
    {
        let remedy =
            "add certificate = \"/etc/latch/certificate.pem\" and key = \"/etc/latch/key.pem\": TLS needs them";
        report.problem(&field("certificate"), "is missing", remedy);
    }
    if streams.client_ca.is_some() && !listens_tls {
        report.problem(&field("client_ca"), "means nothing without TLS", "add tls_port or wss_port, or remove it");
    }
    let needed = match streams.softswitch {
        Transport::Tcp => streams.tcp.is_none().then_some(("tcp_port", "5060")),
        Transport::Tls => streams.tls.is_none().then_some(("tls_port", "5061")),
        _ => None,
    };
    if let Some((name, port)) = needed.filter(|_| core) {
        let remedy = format!("add {name} = {port}: the softswitch connects there with requests of its own");
        report.problem(&field(name), format!("is missing, and transport is \"{}\"", streams.softswitch.name()), remedy);
    }
    if streams.softswitch == Transport::Tls && streams.server_ca.is_none() && !report.stands(&field("server_ca")) {
        let remedy =
            "add server_ca = \"/etc/latch/softswitch-ca.pem\": the authority that signed the softswitch's certificate";
        report.problem(&field("server_ca"), "is missing, and transport is \"tls\"", remedy);
    }
    for name in ["server_ca", "server_name"] {
        if core && streams.softswitch != Transport::Tls && report.stands(&field(name)) {
            report.problem(&field(name), "means nothing without TLS", "write transport = \"tls\", or remove it");
        }
    }
    let is_name = |name: &str| {
        let label = |label: &str| {
            !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        };
        name.parse::<IpAddr>().is_ok() || name.split('.').all(label)
    };
    if let Some(name) = streams.server_name.as_ref().filter(|name| !is_name(name)) {
        let remedy = "write a name or an address as written in the certificate";
        report.problem(&field("server_name"), format!("\"{name}\" is not a host name"), remedy);
    }
}

fn two_realms(id: RealmId, realm: &Realm, earlier: RealmId, other: &Realm, report: &mut Report<'_>) {
    let field = |name: &str| format!("realm[{id}].{name}");
    if realm.name == other.name {
        let message = format!("\"{}\" is the name of realm[{earlier}] too", realm.name);
        report.problem(&field("name"), message, "give each realm a name of its own");
    }
    if realm.signalling == other.signalling {
        let message = format!("{} is the signalling address of realm[{earlier}] too", realm.signalling);
        report.problem(&field("signalling"), message, "give each realm an address or port of its own");
    }
    if realm.media == other.media {
        let message = format!("{} is the media address of realm[{earlier}] too", realm.media);
        report.problem(&field("media"), message, "give each realm a media address of its own");
    }
    // The relay takes every packet to its ports, so the other realm's signalling would never arrive.
    for (one, two, at) in [(realm, other, field("ports")), (other, realm, field("signalling"))] {
        if one.media == two.signalling.ip() && one.ports.contains(two.signalling.port()) {
            report.problem(
                &at,
                format!(
                    "the signalling address {} lies among the media ports of realm \"{}\"",
                    two.signalling, one.name
                ),
                "move one of them: the relay takes every packet to its ports",
            );
        }
    }
}

fn softswitches(config: &Config, report: &mut Report<'_>) {
    for (id, realm) in config.realms.with_ids() {
        let Some(softswitch) = realm.softswitch else { continue };
        if config.realms.iter().any(|own| own.signalling == softswitch) {
            report.problem(
                &format!("realm[{id}].softswitch"),
                format!("{softswitch} is Latch's own signalling address"),
                "write the softswitch's address: requests would go in a circle",
            );
        }
    }
}

fn maps(config: &Config, report: &mut Report<'_>) {
    let pairs = config.port_pairs();
    if config.maps.max_legs > MOST_LEGS {
        let message = format!("{} is out of range", config.maps.max_legs);
        report.problem("maps.max_legs", message, format!("use {pairs} to {MOST_LEGS}"));
    }
    if config.maps.max_legs < pairs {
        report.problem(
            "maps.max_legs",
            format!("is {}, but the realms' ports are {pairs} pairs", config.maps.max_legs),
            format!("set max_legs = {pairs} or more (or --max-legs), or give the realms fewer ports"),
        );
    }
    if !(2..=65_536).contains(&config.maps.max_next_hops) {
        let message = format!("{} is out of range", config.maps.max_next_hops);
        report.problem("maps.max_next_hops", message, "use 2 to 65536");
    }
    if !SOURCES.contains(&config.maps.max_sources) {
        let message = format!("{} is out of range", config.maps.max_sources);
        report.problem("maps.max_sources", message, format!("use {} to {}", SOURCES.start(), SOURCES.end()));
    }
    let bytes = config.maps.events_bytes;
    if !bytes.is_power_of_two() || !(4_096..=MOST_EVENTS_BYTES).contains(&bytes) {
        report.problem(
            "maps.events_bytes",
            format!("{bytes} is not a power of two from 4096 to {MOST_EVENTS_BYTES}"),
            format!("use {}", bytes.clamp(4_096, MOST_EVENTS_BYTES).next_power_of_two()),
        );
    }
}

fn address(field: &str, address: IpAddr, report: &mut Report<'_>) {
    let (one_host, scoped) = match address {
        IpAddr::V4(v4) => (!(v4.is_unspecified() || v4.is_multicast() || v4.is_broadcast()), false),
        IpAddr::V6(v6) => (!(v6.is_unspecified() || v6.is_multicast()), v6.is_unicast_link_local()),
    };
    if !one_host || address != address.to_canonical() {
        let remedy = "write the address itself: messages and the kernel's tables contain it";
        report.problem(field, format!("{address} is not the address of one host"), remedy);
    } else if scoped {
        let remedy = "write a global or unique local address: the other side cannot send to this one";
        report.problem(field, format!("{address} is a link-local address"), remedy);
    }
}

fn port(field: &str, address: SocketAddr, report: &mut Report<'_>) {
    if address.port() == 0 {
        report.problem(field, "has port 0", "write the port, mostly 5060");
    }
}
