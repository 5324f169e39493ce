//! Latch itself, as a process in its namespace.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use aya::maps::{Array, Map, MapData, PerCpuArray};
use proxy_common::layout::{Leg, LegState};
use proxy_common::verdict::Counters;
use proxy_user::config::{Config, Overrides};
use serde_json::Value;

use crate::leftovers::BpfObjects;
use crate::netns::run;
use crate::peer::Peer;
use crate::topology::{Testbed, address};

/// What Latch writes when its sockets are open and its program is attached.
const READY: &str = "latch is ready";

/// The settings a test may want to change; times in seconds.
#[derive(Clone, Debug)]
pub struct LatchConfig {
    /// Its address in the access network, for signalling and media.
    pub access: IpAddr,
    /// Media ports of both realms, even to odd.
    pub ports: (u16, u16),
    /// How often every terminal is asked for a sign of life. Long by default: to an answering SIPp the question is a
    /// call as any other.
    pub keepalive_period_s: u32,
    /// After how many unanswered ones it counts as gone.
    pub keepalive_failures: u32,
    /// How long after an offer or answer a leg may latch.
    pub learning_window_s: u32,
    /// How long both directions of a call may be silent before it is ended.
    pub silence_timeout_s: u32,
    /// How long a released port pair rests.
    pub hold_time_s: u32,
    /// Further settings of the access realm and of the core realm, a line each.
    pub realm: [String; 2],
    /// Capabilities that Latch is started without, as setpriv(1) names them.
    pub without: Vec<&'static str>,
    /// Further arguments of `latch run`, e.g. `--max-legs 4096`.
    pub arguments: Vec<String>,
    /// TOML put into the access and into the core realm.
    pub realms: [String; 2],
    /// TOML put at the end of the configuration.
    pub extra: String,
}

impl Default for LatchConfig {
    fn default() -> Self {
        Self {
            access: address::LATCH_ACCESS.into(),
            ports: (30_000, 39_999),
            keepalive_period_s: 120,
            keepalive_failures: 3,
            learning_window_s: 5,
            silence_timeout_s: 60,
            hold_time_s: 10,
            realm: Default::default(),
            without: Vec::new(),
            arguments: Vec::new(),
            realms: Default::default(),
            extra: String::new(),
        }
    }
}

impl LatchConfig {
    /// What Latch makes of it.
    pub fn parsed(&self) -> Result<Config> {
        let text = toml(self, "/tmp/cdr.jsonl".as_ref())?;
        Config::parse(&text, "latch.toml".as_ref(), Overrides::default()).map_err(|problems| anyhow!("{problems}"))
    }
}

/// A running Latch.
#[derive(Debug)]
pub struct Latch {
    /// The process.
    pub peer: Peer,
    cdr: PathBuf,
    state: PathBuf,
}

impl Latch {
    /// Starts `latch run` in the testbed's place for it and waits until it is ready.
    pub fn start(testbed: &Testbed, config: &LatchConfig) -> Result<Self> {
        let cdr = testbed.directory().join("cdr.jsonl");
        let file = testbed.directory().join("latch.toml");
        std::fs::write(&file, toml(config, &cdr)?).context("write latch.toml")?;
        let command = Self::command(testbed, config, &file)?;
        // A restarted Latch has a log of its own.
        let name =
            (1..).map(|n| format!("latch-{n}")).find(|name| !testbed.logs().join(format!("{name}.log")).exists());
        let mut peer = Peer::start(&name.unwrap_or_default(), command, &testbed.logs())?;
        peer.wait_for_line(READY, Duration::from_secs(15))?;
        Ok(Self { peer, cdr, state: testbed.directory().join("state") })
    }

    fn command(testbed: &Testbed, config: &LatchConfig, file: &std::path::Path) -> Result<std::process::Command> {
        let binary = binary()?;
        let mut command = if config.without.is_empty() {
            testbed.latch().command(&binary.to_string_lossy())?
        } else {
            let without: Vec<_> = config.without.iter().map(|capability| format!("-{capability}")).collect();
            let mut command = testbed.latch().command("setpriv")?;
            command.arg(format!("--bounding-set={}", without.join(","))).arg(&binary);
            command
        };
        command.args(["run", "--config"]).arg(file).args(state(testbed)).args(&config.arguments);
        Ok(command)
    }

    /// Ends it at once, as a crash would.
    pub fn kill(mut self) -> Result<()> {
        self.kill_now()
    }

    /// The same, where another replaces it.
    pub fn kill_now(&mut self) -> Result<()> {
        self.peer.kill()
    }

    /// Runs `latch down` in the testbed's place for Latch; what it wrote.
    pub fn down(testbed: &Testbed) -> Result<String> {
        run(testbed.latch().command(&binary()?.to_string_lossy())?.arg("down").args(state(testbed)))
    }

    /// Starts `latch run` as [`Latch::start`] does, and waits until it has refused; what it wrote.
    pub fn start_in_vain(testbed: &Testbed, config: &LatchConfig) -> Result<String> {
        let file = testbed.directory().join("latch.toml");
        std::fs::write(&file, toml(config, &testbed.directory().join("cdr.jsonl"))?).context("write latch.toml")?;
        let output = Self::command(testbed, config, &file)?.output().context("start Latch")?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(1), "Latch ended with {}: {text}", output.status);
        Ok(text)
    }

    /// The call detail records written so far, oldest first.
    pub fn cdrs(&self) -> Result<Vec<Value>> {
        let text = std::fs::read_to_string(&self.cdr).unwrap_or_default();
        complete_lines(&text).map(|line| serde_json::from_str(line).with_context(|| format!("CDR {line:?}"))).collect()
    }

    /// Waits until there are `count` records; them.
    pub fn wait_for_cdrs(&self, count: usize, timeout: Duration) -> Result<Vec<Value>> {
        crate::wait_until(&format!("there are {count} CDRs"), timeout, || {
            Ok(complete_lines(&std::fs::read_to_string(&self.cdr).unwrap_or_default()).count() >= count)
        })?;
        self.cdrs()
    }

    /// The maps, programs and links that the process holds now.
    pub fn bpf_objects(&self) -> Result<BpfObjects> {
        BpfObjects::of(self.peer.pid())
    }

    /// How many legs are open: entries of the map `LEGS` whose generation is not 0.
    pub fn open_legs(&self) -> Result<usize> {
        Ok(self.legs()?.len())
    }

    /// The legs that are open, by their index.
    pub fn legs(&self) -> Result<Vec<(u32, Leg)>> {
        let legs: Vec<Result<Leg>> = match self.table("LEGS")? {
            // SAFETY: a `Leg` is plain data without padding, and the chunk is as long.
            Some(table) => table
                .chunks_exact(size_of::<Leg>())
                .map(|leg| Ok(unsafe { leg.as_ptr().cast::<Leg>().read_unaligned() }))
                .collect(),
            None => {
                let legs: Array<MapData, Leg> = Map::Array(self.map("LEGS")?).try_into()?;
                legs.iter().map(|leg| Ok(leg?)).collect()
            }
        };
        let all = (0..).zip(legs).map(|(index, leg)| Ok((index, leg?)));
        all.filter(|leg| leg.as_ref().map_or(true, |(_, leg)| leg.generation != 0)).collect()
    }

    /// What the XDP program knows of a leg.
    pub fn state(&self, leg: u32) -> Result<LegState> {
        if let Some(table) = self.table("LEG_STATE")? {
            let state = table.chunks_exact(size_of::<LegState>()).nth(leg as usize).context("no such leg")?;
            // SAFETY: a `LegState` is plain data without padding, and the chunk is as long.
            return Ok(unsafe { state.as_ptr().cast::<LegState>().read_unaligned() });
        }
        let states: Array<MapData, LegState> = Map::Array(self.map("LEG_STATE")?).try_into()?;
        Ok(states.get(&leg, 0)?)
    }

    /// A table of the relay in user space; `None` where the relay is in the kernel.
    fn table(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let descriptors = std::fs::read_dir(format!("/proc/{}/fd", self.peer.pid()))?;
        let is_it = |path: &PathBuf| {
            std::fs::read_link(path).is_ok_and(|link| link.to_string_lossy().starts_with(&format!("/memfd:{name} ")))
        };
        let file = descriptors.flatten().map(|entry| entry.path()).find(is_it);
        file.map(|file| Ok(std::fs::read(file)?)).transpose()
    }

    /// What `latch status --json` tells.
    pub fn status(&self, testbed: &Testbed) -> Result<Value> {
        let state = testbed.directory().join("state");
        let mut command = testbed.latch().command(&binary()?.to_string_lossy())?;
        let text = run(command.args(["status", "--json", "--state"]).arg(state))?;
        serde_json::from_str(&text).with_context(|| format!("the status {text:?}"))
    }

    /// What the relay counted, all CPUs together.
    pub fn counters(&self) -> Result<Counters> {
        if self.table("LEGS")?.is_some() {
            let (status, _) = proxy_user::ctl::ask(&self.state, &proxy_user::ctl::Request::Status)?;
            let mut counters = Counters::default();
            for verdict in proxy_common::verdict::Verdict::ALL {
                *counters.of(*verdict) = status["relay"]["packets"][verdict.name()].as_u64().unwrap_or_default();
            }
            return Ok(counters);
        }
        let mut sum = Counters::default();
        self.counters_by_cpu()?.iter().for_each(|cpu| sum.add(cpu));
        Ok(sum)
    }

    /// What it counted on each CPU.
    pub fn counters_by_cpu(&self) -> Result<Vec<Counters>> {
        let counters: PerCpuArray<MapData, Counters> = Map::PerCpuArray(self.map("COUNTERS")?).try_into()?;
        Ok(counters.get(&0, 0)?.to_vec())
    }

    /// The process's map `name`.
    fn map(&self, name: &str) -> Result<MapData> {
        let objects = self.bpf_objects()?;
        let id = objects.map(name).ok_or_else(|| anyhow!("Latch has no map {name}; it has {objects:?}"))?;
        MapData::from_id(u32::try_from(id)?).with_context(|| format!("open the map {name}"))
    }

    /// Ends it with SIGTERM, as systemd does, and checks that it left properly: exit status 0, no call and no port in
    /// use, and no map, program, link, pin or attachment of it remains. All its call detail records.
    pub fn stop(mut self, testbed: &Testbed) -> Result<Vec<Value>> {
        let objects = self.bpf_objects()?;
        let status = self.peer.stop(Duration::from_secs(10))?;
        ensure!(status.success(), "Latch ended with {status}");
        let left = self.peer.wait_for_line("left: ", Duration::ZERO)?;
        ensure!(left.contains(" calls: 0,") && left.contains(" port_pairs: 0"), "{left}");
        // What is pinned would stay.
        objects.wait_gone(Duration::from_secs(5))?;
        crate::leftovers::no_xdp(testbed.latch())?;
        self.cdrs()
    }
}

/// Each testbed's Latch has its own place for what outlives it.
fn state(testbed: &Testbed) -> [std::ffi::OsString; 4] {
    let journal = testbed.directory().join("state");
    ["--state".into(), journal.into(), "--pins".into(), testbed.pins().into()]
}

/// The lines that have their end already.
fn complete_lines(text: &str) -> impl Iterator<Item = &str> {
    text.split_inclusive('\n').filter(|line| line.ends_with('\n'))
}

/// The binary to test: `LATCH_BIN`, else the one built next to this test (`cargo xtask test` builds it first).
fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("LATCH_BIN") {
        return Ok(path.into());
    }
    let test = std::env::current_exe()?;
    let beside = test.ancestors().skip(1).take(2).map(|directory| directory.join("latch")).find(|path| path.is_file());
    beside.ok_or_else(|| {
        anyhow!("no binary `latch` next to {}: run `cargo xtask build`, or set LATCH_BIN", test.display())
    })
}

fn toml(config: &LatchConfig, cdr: &std::path::Path) -> Result<String> {
    let (low, high) = config.ports;
    let mut text = String::new();
    let port = if config.realms[1].contains("transport = \"tls\"") { 5061 } else { 5060 };
    for (side, own, softswitch, more) in [
        ("access", config.access, String::new(), format!("{}\n{}", config.realm[0], config.realms[0])),
        (
            "core",
            address::LATCH_CORE.into(),
            format!("softswitch = \"{}:{port}\"\n", address::SOFTSWITCH),
            format!("{}\n{}", config.realm[1], config.realms[1]),
        ),
    ] {
        let signalling = SocketAddr::new(own, 5060);
        write!(
            text,
            "[[realm]]\nname = \"{side}\"\nside = \"{side}\"\ninterface = \"{side}\"\nsignalling = \"{signalling}\"\n\
             media = \"{own}\"\nports = \"{low}-{high}\"\n{softswitch}{more}\n"
        )?;
    }
    write!(
        text,
        "[keepalive]\nmethod = \"options\"\nperiod_s = {}\nfailures = {}\n\n\
         [media]\nlearning_window_s = {}\nsilence_timeout_s = {}\nhold_time_s = {}\n\n\
         [cdr]\nfile = \"{}\"\n\n{}",
        config.keepalive_period_s,
        config.keepalive_failures,
        config.learning_window_s,
        config.silence_timeout_s,
        config.hold_time_s,
        cdr.display(),
        config.extra
    )?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latch_accepts_the_configuration() {
        assert_eq!(LatchConfig::default().parsed().unwrap().realms.len(), 2);
    }
}
