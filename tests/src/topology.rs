//! The testbed's networks, and the guard that removes them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use proxy_user::datapath::kernel::Pins;

use crate::nat::{Nat, NatKind};
use crate::netns::{self, Namespace, link};
use crate::pass::PassProgram;

/// Addresses of the testbed. They live inside its namespaces, so every testbed uses the same.
pub mod address {
    use std::net::{Ipv4Addr, Ipv6Addr};

    /// Latch in the access network.
    pub const LATCH_ACCESS: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
    /// Latch in the access network, where a test gives it an IPv6 address there.
    pub const LATCH_ACCESS_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x10);
    /// A phone in the access network that has only this address.
    pub const PHONE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x20);
    /// Latch in the core network.
    pub const LATCH_CORE: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 10);
    /// The softswitch.
    pub const SOFTSWITCH: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 20);
    /// The attacker in the access network.
    pub const STRANGER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 66);
    /// The first phone behind every NAT.
    pub const PHONE: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 10);
    /// The inside of every NAT.
    pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);
    /// The outside of NAT `number` (from 1).
    pub const fn nat(number: u8) -> Ipv4Addr {
        Ipv4Addr::new(203, 0, 113, 100 + number)
    }
}

/// What to build. The default is two port-restricted NATs with one phone each.
#[derive(Clone, Debug)]
pub struct TestbedConfig {
    /// NAT 1, 2, ... with their phones.
    pub nats: Vec<NatConfig>,
    /// Further hosts in 203.0.113.0/24: name and address.
    pub access_hosts: Vec<(&'static str, Ipv4Addr)>,
    /// Further hosts in 10.9.0.0/24: name and address.
    pub core_hosts: Vec<(&'static str, Ipv4Addr)>,
    /// Let the place of Latch be a plain router between the two networks, to try peers without Latch.
    pub plain_router: bool,
}

/// One NAT.
#[derive(Clone, Debug)]
pub struct NatConfig {
    /// How it chooses ports.
    pub kind: NatKind,
    /// Life of a silent UDP mapping; the kernel's default is 30 s one-way, 120 s answered.
    pub udp_timeout: Option<Duration>,
    /// Addresses of the phones in 192.168.1.0/24.
    pub phones: Vec<Ipv4Addr>,
}

impl Default for NatConfig {
    fn default() -> Self {
        Self { kind: NatKind::PortRestricted, udp_timeout: None, phones: vec![address::PHONE] }
    }
}

impl Default for TestbedConfig {
    fn default() -> Self {
        Self {
            nats: vec![NatConfig::default(); 2],
            access_hosts: Vec::new(),
            core_hosts: Vec::new(),
            plain_router: false,
        }
    }
}

impl TestbedConfig {
    /// The default testbed with NATs of these kinds, one phone each.
    pub fn with_nats(kinds: &[NatKind]) -> Self {
        let nats = kinds.iter().map(|&kind| NatConfig { kind, ..NatConfig::default() }).collect();
        Self { nats, ..Self::default() }
    }
}

/// A testbed. Dropped, it ends every process in its namespaces and removes them, its links and its directory; where the
/// thread is panicking it prints the peers' logs first.
#[derive(Debug)]
pub struct Testbed {
    prefix: String,
    directory: PathBuf,
    // The programs go before the interfaces they are attached to.
    pass: Vec<PassProgram>,
    hosts: BTreeMap<String, Namespace>,
    phones: Vec<Namespace>,
    nats: Vec<Nat>,
    inet: Namespace,
    softswitch: Namespace,
    latch: Namespace,
}

impl Testbed {
    /// Builds the testbed; removes first what testbeds of dead processes left behind.
    pub fn new(config: TestbedConfig) -> Result<Self> {
        static PRUNED: Once = Once::new();
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        PRUNED.call_once(netns::prune);

        let prefix = format!("{}{}-{}", netns::PREFIX, std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let directory = std::env::temp_dir().join(&prefix);
        std::fs::create_dir_all(directory.join("logs")).context("make the testbed's directory")?;
        let namespace = |role: &str| Namespace::create(format!("{prefix}-{role}"));

        let mut testbed = Self {
            inet: namespace("inet")?,
            latch: namespace("latch")?,
            softswitch: namespace("softswitch")?,
            hosts: BTreeMap::new(),
            phones: Vec::new(),
            nats: Vec::new(),
            pass: Vec::new(),
            directory,
            prefix,
        };
        testbed.build_access()?;
        testbed.build_core()?;
        for (number, nat) in (1u8..).zip(&config.nats) {
            testbed.add_nat(number, nat)?;
        }
        testbed.add_access_host("stranger", address::STRANGER)?;
        for (name, host) in &config.access_hosts {
            testbed.add_access_host(name, *host)?;
        }
        for (name, host) in &config.core_hosts {
            testbed.add_core_host(name, *host)?;
        }
        if config.plain_router {
            testbed.route_plainly()?;
        }
        Ok(testbed)
    }

    /// Where Latch runs: interfaces `access` (203.0.113.10/24) and `core` (10.9.0.10/24), no forwarding.
    pub fn latch(&self) -> &Namespace {
        &self.latch
    }

    /// The softswitch's host, 10.9.0.20/24. Its interface `core` is a bridge, whose port `latch` is the far end of
    /// Latch's interface.
    pub fn softswitch(&self) -> &Namespace {
        &self.softswitch
    }

    /// The access network's switch: bridge `net`, whose port `latch` is the far end of Latch's interface.
    pub fn inet(&self) -> &Namespace {
        &self.inet
    }

    /// NAT `number`, from 1.
    pub fn nat(&self, number: usize) -> Result<&Nat> {
        self.nats.get(number.wrapping_sub(1)).ok_or_else(|| anyhow!("the testbed has no NAT {number}"))
    }

    /// Phone `number`, from 1, counted through the NATs in their order: interface `eth0`.
    pub fn phone(&self, number: usize) -> Result<&Namespace> {
        self.phones.get(number.wrapping_sub(1)).ok_or_else(|| anyhow!("the testbed has no phone {number}"))
    }

    /// A further host by its name (`stranger` always exists): interface `eth0`.
    pub fn host(&self, name: &str) -> Result<&Namespace> {
        self.hosts.get(name).ok_or_else(|| anyhow!("the testbed has no host {name}"))
    }

    /// A directory for this testbed's files, removed with it.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where its Latch pins its maps and links; removed with the testbed.
    pub fn pins(&self) -> PathBuf {
        netns::pins(&self.prefix)
    }

    /// Where the peers' logs are.
    pub fn logs(&self) -> PathBuf {
        self.directory.join("logs")
    }

    /// What the names of this testbed's namespaces begin with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Every peer's log, each under its name, at most its last `lines` lines.
    pub fn print_logs(&self, lines: usize) {
        let Ok(entries) = std::fs::read_dir(self.logs()) else { return };
        for entry in entries.flatten() {
            let text = String::from_utf8_lossy(&std::fs::read(entry.path()).unwrap_or_default()).into_owned();
            let all: Vec<&str> = text.lines().collect();
            eprintln!("--- {} ({} lines)", entry.file_name().to_string_lossy(), all.len());
            for line in all.iter().skip(all.len().saturating_sub(lines)) {
                eprintln!("{line}");
            }
        }
    }

    fn build_access(&mut self) -> Result<()> {
        self.inet.ip("link add net type bridge mcast_snooping 0")?;
        self.inet.ip("link set net up")?;
        link((&self.latch, "access"), (&self.inet, "latch"))?;
        self.inet.ip("link set latch master net")?;
        self.latch.ip(&format!("addr add {}/24 dev access", address::LATCH_ACCESS))?;
        // As Latch asks its operator to do.
        self.latch.sysctl("net/ipv4/ip_local_reserved_ports", "30000-39999")?;
        self.pass.push(PassProgram::attach(&self.inet, "latch")?);
        Ok(())
    }

    fn build_core(&mut self) -> Result<()> {
        self.softswitch.ip("link add core type bridge mcast_snooping 0")?;
        self.softswitch.ip(&format!("addr add {}/24 dev core", address::SOFTSWITCH))?;
        self.softswitch.ip("link set core up")?;
        link((&self.latch, "core"), (&self.softswitch, "latch"))?;
        self.softswitch.ip("link set latch master core")?;
        self.latch.ip(&format!("addr add {}/24 dev core", address::LATCH_CORE))?;
        self.pass.push(PassProgram::attach(&self.softswitch, "latch")?);
        Ok(())
    }

    fn add_nat(&mut self, number: u8, config: &NatConfig) -> Result<()> {
        let namespace = Namespace::create(format!("{}-nat{number}", self.prefix))?;
        let public = address::nat(number);
        let port = format!("nat{number}");
        link((&namespace, "wan"), (&self.inet, &port))?;
        self.inet.ip(&format!("link set {port} master net"))?;
        namespace.ip(&format!("addr add {public}/24 dev wan"))?;
        namespace.ip("link add lan type bridge mcast_snooping 0")?;
        namespace.ip(&format!("addr add {}/24 dev lan", address::GATEWAY))?;
        namespace.ip("link set lan up")?;
        for (index, &phone) in config.phones.iter().enumerate() {
            let phone_number = self.phones.len() + 1;
            let host = Namespace::create(format!("{}-phone{phone_number}", self.prefix))?;
            let port = format!("lan{index}");
            link((&host, "eth0"), (&namespace, &port))?;
            namespace.ip(&format!("link set {port} master lan"))?;
            host.ip(&format!("addr add {phone}/24 dev eth0"))?;
            host.ip(&format!("route add default via {}", address::GATEWAY))?;
            self.phones.push(host);
        }
        let nat = Nat::configure(namespace, public, config.kind)?;
        if let Some(timeout) = config.udp_timeout {
            nat.set_udp_timeout(timeout)?;
        }
        self.nats.push(nat);
        Ok(())
    }

    fn add_access_host(&mut self, name: &str, host: Ipv4Addr) -> Result<()> {
        let namespace = Namespace::create(format!("{}-{name}", self.prefix))?;
        let port = format!("h-{name}");
        link((&namespace, "eth0"), (&self.inet, &port))?;
        self.inet.ip(&format!("link set {port} master net"))?;
        namespace.ip(&format!("addr add {host}/24 dev eth0"))?;
        self.hosts.insert(name.to_owned(), namespace);
        Ok(())
    }

    fn add_core_host(&mut self, name: &str, host: Ipv4Addr) -> Result<()> {
        let namespace = Namespace::create(format!("{}-{name}", self.prefix))?;
        let port = format!("h-{name}");
        link((&namespace, "eth0"), (&self.softswitch, &port))?;
        self.softswitch.ip(&format!("link set {port} master core"))?;
        namespace.ip(&format!("addr add {host}/24 dev eth0"))?;
        self.hosts.insert(name.to_owned(), namespace);
        Ok(())
    }

    fn route_plainly(&self) -> Result<()> {
        self.latch.sysctl("net/ipv4/ip_forward", "1")?;
        self.softswitch.ip(&format!("route add default via {}", address::LATCH_CORE))?;
        let nats = self.nats.iter().map(Nat::namespace);
        for namespace in nats.chain(self.hosts.values()) {
            // A core host knows that network already.
            if namespace.ip("route get 10.9.0.20").is_err() {
                namespace.ip(&format!("route add 10.9.0.0/24 via {}", address::LATCH_ACCESS))?;
            }
        }
        Ok(())
    }
}

impl Drop for Testbed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.print_logs(80);
        }
        // A Latch that was killed left them.
        if let Err(error) = Pins::new(&self.pins()).remove() {
            eprintln!("testbed: {error:#}");
        }
        if std::env::var_os("LATCH_TESTBED_KEEP_FILES").is_none() {
            let _ = std::fs::remove_dir_all(&self.directory);
        }
    }
}
