//! Whether the configuration fits this host.

use super::{Config, Problem, Realm};
use crate::{
    netlink::{Link, Netlink},
    tls::{Tls, Unusable},
};
use std::{io, net::IpAddr, path::Path};

/// What the host is found to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Latch cannot run here like this.
    pub problems: Vec<Problem>,
    /// Latch can, but the operator should know.
    pub warnings: Vec<Problem>,
}

/// Compares the configuration with this host: interfaces, addresses, ports of other programs, directories.
///
/// # Errors
///
/// The host could not be asked.
pub fn check(config: &Config) -> io::Result<Findings> {
    let mut netlink = Netlink::open()?;
    let (links, addresses) = (netlink.links()?, netlink.addresses()?);
    let ephemeral = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let reserved = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_reserved_ports").unwrap_or_default();
    let mut findings = Findings::default();
    for (id, realm) in config.realms.with_ids() {
        let field = |name: &str| format!("realm[{id}].{name}");
        interface(&field("interface"), realm, &links, &mut findings);
        for (name, address) in [("signalling", realm.signalling.ip()), ("media", realm.media)] {
            own_address(&field(name), realm, address, &links, &addresses, &mut findings);
        }
        if let Err(Unusable { field: name, error }) = Tls::load(realm) {
            let remedy = "name files in PEM that Latch may read and that belong together".into();
            findings.problems.push(problem(&field(name), format!("{error:#}"), remedy));
        }
        findings.warnings.extend(ephemeral_ports(&field("ports"), realm, &ephemeral, &reserved));
    }
    findings.warnings.extend(mtu(config, &links));
    findings.problems.extend(config.cdr.file.as_deref().and_then(cdr_directory));
    Ok(findings)
}

fn interface(field: &str, realm: &Realm, links: &[Link], findings: &mut Findings) {
    match links.iter().find(|link| link.name == realm.interface) {
        None => {
            let names: Vec<_> = links.iter().map(|link| link.name.as_str()).collect();
            findings.problems.push(problem(
                field,
                format!("there is no interface {}", realm.interface),
                format!("this host has {}", names.join(", ")),
            ));
        }
        Some(link) if link.mac.is_none() => findings.problems.push(problem(
            field,
            format!("{} has no Ethernet address", link.name),
            "name an Ethernet interface: the relay forwards Ethernet frames".into(),
        )),
        Some(link) if !link.up => findings.warnings.push(problem(
            field,
            format!("{} is down", link.name),
            format!("ip link set {} up", link.name),
        )),
        Some(_) => {}
    }
}

fn own_address(
    field: &str,
    realm: &Realm,
    address: IpAddr,
    links: &[Link],
    addresses: &[(u32, IpAddr)],
    findings: &mut Findings,
) {
    let on: Vec<_> = addresses
        .iter()
        .filter(|(_, own)| *own == address)
        .filter_map(|(index, _)| links.iter().find(|link| link.index == *index))
        .map(|link| link.name.as_str())
        .collect();
    let interface = &realm.interface;
    if on.is_empty() {
        findings.problems.push(problem(
            field,
            format!("{address} is not an address of this host"),
            format!("write one that `ip address show {interface}` shows, or add it there"),
        ));
    } else if !on.contains(&interface.as_str()) && realm.vlan.is_empty() {
        findings.problems.push(problem(
            field,
            format!("{address} is on {}, not on {interface}", on.join(", ")),
            "write the interface that the address is on".into(),
        ));
    }
}

/// The relay does not fragment, and does not report a smaller MTU to the sender: the kernel drops what is too large for
/// the outgoing interface, after the relay has counted it.
fn mtu(config: &Config, links: &[Link]) -> Option<Problem> {
    let of = |realm: &Realm| links.iter().find(|link| link.name == realm.interface);
    let known = config.realms.with_ids().filter_map(|(id, realm)| Some((id, of(realm)?)));
    let (id, smallest) = known.clone().min_by_key(|(_, link)| link.mtu)?;
    let (_, largest) = known.max_by_key(|(_, link)| link.mtu)?;
    (smallest.mtu < largest.mtu).then(|| {
        problem(
            &format!("realm[{id}].interface"),
            format!(
                "{} has an MTU of {}, {} of {}: media packets between them that are larger are lost",
                smallest.name, smallest.mtu, largest.name, largest.mtu
            ),
            format!("ip link set {} mtu {}", largest.name, smallest.mtu),
        )
    })
}

/// The kernel gives ports of this range to any program's outgoing sockets; replies to them would end in the relay.
fn ephemeral_ports(field: &str, realm: &Realm, range: &str, reserved: &str) -> Option<Problem> {
    let mut ends = range.split_whitespace().map(str::parse::<u16>);
    let (Some(Ok(low)), Some(Ok(high))) = (ends.next(), ends.next()) else { return None };
    let (first, last) = (realm.ports.first.max(low), realm.ports.last.min(high));
    let is_reserved = reserved.trim().split(',').filter_map(|part| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        Some((from.trim().parse::<u16>().ok()?, to.trim().parse::<u16>().ok()?))
    });
    if first > last || is_reserved.into_iter().any(|(from, to)| from <= first && last <= to) {
        return None;
    }
    // The setting is one list: what is reserved already stays.
    let kept = if reserved.trim().is_empty() { String::new() } else { format!("{},", reserved.trim()) };
    Some(problem(
        field,
        format!("{first}-{last} are among the ports that the kernel gives to other programs ({low}-{high})"),
        format!("sysctl -w net.ipv4.ip_local_reserved_ports={kept}{}-{}", realm.ports.first, realm.ports.last),
    ))
}

fn cdr_directory(file: &Path) -> Option<Problem> {
    let directory = file.parent()?;
    if directory.is_dir() || file == Path::new("-") {
        return None;
    }
    Some(problem(
        "cdr.file",
        format!("there is no directory {}", directory.display()),
        format!("mkdir -p {}", directory.display()),
    ))
}

fn problem(field: &str, message: String, remedy: String) -> Problem {
    Problem { place: None, field: field.into(), message, remedy }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Certificate, PortRange, RealmPolicy, Side, Trust};

    fn realm(first: u16, last: u16) -> Realm {
        Realm {
            name: "access".into(),
            side: Side::Access,
            interface: "none-such".into(),
            signalling: "192.0.2.1:5060".parse().unwrap(),
            media: "192.0.2.1".parse().unwrap(),
            ports: PortRange { first, last },
            vlan: Vec::new(),
            trust: Trust::of(Side::Access),
            policy: RealmPolicy::default(),
            softswitch: None,
            streams: Default::default(),
        }
    }

    #[test]
    fn another_host_is_noticed() {
        let findings = check(&Config::new(vec![realm(30_000, 30_001)])).unwrap();
        let fields: Vec<_> = findings.problems.iter().map(|problem| problem.field.as_str()).collect();
        assert_eq!(fields, ["realm[0].interface", "realm[0].signalling", "realm[0].media"]);
    }

    #[test]
    fn certificates_that_cannot_be_used_are_noticed() {
        let mut realm = realm(30_000, 30_001);
        realm.streams.tls = Some(5061);
        realm.streams.certificate = Some(Certificate { chain: "/nowhere/c.pem".into(), key: "/nowhere/k.pem".into() });
        let findings = check(&Config::new(vec![realm])).unwrap();
        let problem = findings.problems.iter().find(|problem| problem.field == "realm[0].certificate").unwrap();
        assert!(problem.message.contains("/nowhere/c.pem"), "{problem:?}");
    }

    #[test]
    fn interfaces_of_different_mtus_are_a_warning() {
        let link = |name: &str, mtu| Link { index: 1, name: name.into(), mac: None, up: true, carrier: true, mtu };
        let on = |interface: &str| Realm { interface: interface.into(), ..realm(30_000, 30_001) };
        let config = Config::new(vec![on("eth0"), on("eth1")]);
        for (mtus, warned) in [((1_500, 1_500), None), ((1_500, 1_400), Some(1)), ((1_400, 9_000), Some(0))] {
            let warning = mtu(&config, &[link("eth0", mtus.0), link("eth1", mtus.1), link("lo", 65_536)]);
            let field = warning.as_ref().map(|warning| warning.field.clone());
            assert_eq!(field, warned.map(|index| format!("realm[{index}].interface")), "{warning:?}");
        }
        assert_eq!(mtu(&config, &[]), None);
    }

    #[test]
    fn ports_of_other_programs_are_a_warning_unless_reserved() {
        let range = "32768\t60999\n";
        for (first, last, reserved, warned) in [
            (30_000, 32_767, "", false),
            (30_000, 32_769, "", true),
            (40_000, 40_099, "", true),
            (40_000, 40_099, "8080,40000-40099\n", false),
            (40_000, 40_099, "40000-40097", true),
            (61_000, 61_999, "", false),
        ] {
            let warning = ephemeral_ports("ports", &realm(first, last), range, reserved);
            assert_eq!(warning.is_some(), warned, "{first}-{last} {reserved}");
        }
    }
}
