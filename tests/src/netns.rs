//! Network namespaces: made, entered, populated with commands, and removed.

use std::fs::File;
use std::io::Write;
use std::net::{Ipv6Addr, SocketAddrV4, UdpSocket};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proxy_user::datapath::kernel::Pins;
use serde_json::Value;

/// What every namespace and temporary directory of a testbed begins with; the process id follows.
pub(crate) const PREFIX: &str = "latchlab-";

/// Where Latch mounts the BPF file system.
const BPFFS: &str = "/sys/fs/bpf";

/// A network namespace in `/run/netns`; dropped, it is removed together with every process in it.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes the namespace, with its loopback up and IPv6 off (no neighbour noise in captures and counters).
    pub(crate) fn create(name: String) -> Result<Self> {
        run(Command::new("ip").args(["netns", "add", &name]))?;
        let namespace = Self { name };
        namespace.ip("link set lo up")?;
        for scope in ["all", "default"] {
            namespace.sysctl(&format!("net/ipv6/conf/{scope}/disable_ipv6"), "1")?;
        }
        Ok(namespace)
    }

    /// The name under `/run/netns`, for a person at a shell.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `work` on a thread of its own that has entered the namespace. Sockets made in there keep belonging to the
    /// namespace when they are returned.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let namespace = self.open()?;
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                setns(&namespace, CloneFlags::CLONE_NEWNET).context("setns")?;
                work()
            });
            thread.join().map_err(|_| anyhow!("the closure in namespace {} panicked", self.name))?
        })
    }

    /// Gives one of its interfaces an IPv6 address, usable at once.
    pub fn ipv6(&self, interface: &str, address: Ipv6Addr) -> Result<()> {
        for scope in ["all", interface] {
            self.sysctl(&format!("net/ipv6/conf/{scope}/disable_ipv6"), "0")?;
        }
        self.ip(&format!("-6 addr add {address}/64 dev {interface} nodad"))?;
        Ok(())
    }

    /// A UDP socket of the namespace. Reading it gives up after 250 ms.
    pub fn udp(&self, address: SocketAddrV4) -> Result<UdpSocket> {
        self.enter(|| {
            let socket = UdpSocket::bind(address).with_context(|| format!("bind {address} in {}", self.name))?;
            socket.set_read_timeout(Some(Duration::from_millis(250)))?;
            Ok(socket)
        })
    }

    /// A command that will run in the namespace and be terminated with the thread that spawned it.
    pub fn command(&self, program: &str) -> Result<Command> {
        let namespace = self.open()?;
        let mut command = Command::new(program);
        // SAFETY: between fork and exec only setns(2) and prctl(2) are called, both async-signal-safe; nothing
        // allocates.
        unsafe {
            command.pre_exec(move || {
                setns(&namespace, CloneFlags::CLONE_NEWNET)?;
                nix::sys::prctl::set_pdeathsig(Signal::SIGTERM)?;
                Ok(())
            });
        }
        Ok(command)
    }

    /// Runs `program` with the words of `arguments` to its end; its standard output. An exit status other than 0 is an
    /// error that carries what it wrote.
    pub fn run(&self, program: &str, arguments: &str) -> Result<String> {
        run(self.command(program)?.args(arguments.split_whitespace()))
    }

    /// `ip -n NAME ARGUMENTS`.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        run(Command::new("ip").args(["-n", &self.name]).args(arguments.split_whitespace()))
    }

    /// The kernel's number of an interface.
    pub fn index(&self, interface: &str) -> Result<u32> {
        let index = self.link(interface)?["ifindex"].as_u64().and_then(|index| u32::try_from(index).ok());
        index.with_context(|| format!("{interface} in {} has no index", self.name))
    }

    /// The hardware address of an interface.
    pub fn mac(&self, interface: &str) -> Result<[u8; 6]> {
        let link = self.link(interface)?;
        let digits = link["address"].as_str().unwrap_or_default().split(':');
        let bytes: Result<Vec<u8>, _> = digits.map(|digits| u8::from_str_radix(digits, 16)).collect();
        let mac = bytes.ok().and_then(|bytes| bytes.try_into().ok());
        mac.with_context(|| format!("{interface} in {} has no hardware address: {link}", self.name))
    }

    fn link(&self, interface: &str) -> Result<Value> {
        let shown = self.ip(&format!("-j link show dev {interface}"))?;
        let links: Value = serde_json::from_str(&shown).context("JSON from ip")?;
        Ok(links[0].clone())
    }

    /// Feeds a ruleset to `nft -f -` in the namespace.
    pub fn nft(&self, ruleset: &str) -> Result<()> {
        let mut command = self.command("nft")?;
        let mut child = command
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("nft: is the Debian package nftables installed?")?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(ruleset.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "nft in {}: {}", self.name, String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// Writes `/proc/sys/KEY` (slashes) of the namespace.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        self.enter(|| std::fs::write(format!("/proc/sys/{key}"), value).with_context(|| format!("sysctl {key}")))
    }

    fn open(&self) -> Result<File> {
        File::open(path(&self.name)).with_context(|| format!("open namespace {}", self.name))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.name) {
            eprintln!("testbed: {error:#}");
        }
    }
}

/// Makes a pair of veth interfaces, both up, with transmit checksum offload off: an XDP program at the other end would
/// see partial checksums otherwise.
pub(crate) fn link(a: (&Namespace, &str), b: (&Namespace, &str)) -> Result<()> {
    a.0.ip(&format!("link add {} type veth peer name {} netns {}", a.1, b.1, b.0.name()))?;
    for (namespace, interface) in [a, b] {
        namespace.run("ethtool", &format!("-K {interface} tx off"))?;
        namespace.ip(&format!("link set {interface} up"))?;
    }
    Ok(())
}

/// Removes the namespaces and temporary directories of testbeds whose process is gone.
pub(crate) fn prune() {
    let dead = |name: &str| {
        let pid: Option<u32> =
            name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()).and_then(|p| p.parse().ok());
        pid.is_some_and(|pid| !PathBuf::from(format!("/proc/{pid}")).exists())
    };
    for name in names("/run/netns").iter().filter(|name| dead(name)) {
        // Another testbed may prune at the same time: then it is gone already.
        let _ = remove(name);
    }
    for name in names(BPFFS).iter().filter(|name| dead(name)) {
        let _ = Pins::new(&pins(name)).remove();
    }
    let temporary = std::env::temp_dir();
    for name in names(&temporary.to_string_lossy()).iter().filter(|name| dead(name)) {
        let _ = std::fs::remove_dir_all(temporary.join(name));
    }
}

/// Namespaces in `/run/netns` whose name begins with `prefix`.
pub(crate) fn with_prefix(prefix: &str) -> Vec<String> {
    names("/run/netns").into_iter().filter(|name| name.starts_with(prefix)).collect()
}

/// Where the Latch of a testbed with this prefix pins its maps and links.
pub(crate) fn pins(prefix: &str) -> PathBuf {
    PathBuf::from(BPFFS).join(prefix)
}

/// Runs a command to its end; its standard output, or an error with all it wrote.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("start {program}: is it installed?"))?;
    if !output.status.success() {
        let arguments: Vec<_> = command.get_args().map(|a| a.to_string_lossy()).collect();
        bail!(
            "{program} {}: {}\n{}{}",
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn remove(name: &str) -> Result<()> {
    // A namespace lives as long as a process is in it, so the processes go first. They are the testbed's own: nobody
    // else knows of the namespace.
    let pids = run(Command::new("ip").args(["netns", "pids", name])).unwrap_or_default();
    for pid in pids.split_whitespace().filter_map(|pid| pid.parse().ok()) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    run(Command::new("ip").args(["netns", "del", name])).with_context(|| format!("remove namespace {name}"))?;
    Ok(())
}

fn names(directory: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn path(name: &str) -> PathBuf {
    PathBuf::from("/run/netns").join(name)
}
