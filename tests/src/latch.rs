//! Latch itself, as a process in its namespace.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use aya::maps::{Array, Map, MapData, PerCpuArray};
use proxy_common::layout::Leg;
use proxy_common::verdict::Counters;
use serde_json::Value;

use crate::leftovers::BpfObjects;
use crate::netns::run;
use crate::peer::Peer;
use crate::topology::{Lab, address};

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
            arguments: Vec::new(),
            realms: Default::default(),
            extra: String::new(),
        }
    }
}

/// A running Latch.
#[derive(Debug)]
pub struct Latch {
    /// The process.
    pub peer: Peer,
    cdr: PathBuf,
}

impl Latch {
    /// Starts `latch run` in the lab's place for it and waits until it is ready.
    pub fn start(lab: &Lab, config: &LatchConfig) -> Result<Self> {
        let cdr = lab.directory().join("cdr.jsonl");
        let file = lab.directory().join("latch.toml");
        std::fs::write(&file, toml(config, &cdr)?).context("write latch.toml")?;
        let binary = binary()?;
        let mut command = lab.latch().command(&binary.to_string_lossy())?;
        command.args(["run", "--config"]).arg(&file).args(state(lab)).args(&config.arguments);
        // A restarted Latch has a log of its own.
        let name = (1..).map(|n| format!("latch-{n}")).find(|name| !lab.logs().join(format!("{name}.log")).exists());
        let mut peer = Peer::start(&name.unwrap_or_default(), command, &lab.logs())?;
        peer.wait_for_line(READY, Duration::from_secs(15))?;
        Ok(Self { peer, cdr })
    }

    /// Ends it at once, as a crash would.
    pub fn kill(mut self) -> Result<()> {
        self.peer.kill()
    }

    /// Runs `latch down` in the lab's place for Latch; what it wrote.
    pub fn down(lab: &Lab) -> Result<String> {
        run(lab.latch().command(&binary()?.to_string_lossy())?.arg("down").args(state(lab)))
    }

    /// Starts `latch run` as [`Latch::start`] does, and waits until it has refused; what it wrote.
    pub fn start_in_vain(lab: &Lab, config: &LatchConfig) -> Result<String> {
        let file = lab.directory().join("latch.toml");
        std::fs::write(&file, toml(config, &lab.directory().join("cdr.jsonl"))?).context("write latch.toml")?;
        let mut command = lab.latch().command(&binary()?.to_string_lossy())?;
        command.args(["run", "--config"]).arg(&file).args(state(lab)).args(&config.arguments);
        let output = command.output().context("start Latch")?;
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
        let legs: Array<MapData, Leg> = Map::Array(self.map("LEGS")?).try_into()?;
        legs.iter().try_fold(0, |open, leg| Ok(open + usize::from(leg?.generation != 0)))
    }

    /// What the XDP program counted, all CPUs together.
    pub fn counters(&self) -> Result<Counters> {
        let counters: PerCpuArray<MapData, Counters> = Map::PerCpuArray(self.map("COUNTERS")?).try_into()?;
        let mut sum = Counters::default();
        counters.get(&0, 0)?.iter().for_each(|cpu| sum.add(cpu));
        Ok(sum)
    }

    /// The process's map `name`.
    fn map(&self, name: &str) -> Result<MapData> {
        let objects = self.bpf_objects()?;
        let id = objects.map(name).ok_or_else(|| anyhow!("Latch has no map {name}; it has {objects:?}"))?;
        MapData::from_id(u32::try_from(id)?).with_context(|| format!("open the map {name}"))
    }

    /// Ends it with SIGTERM, as systemd does, and checks that it left properly: exit status 0, no call and no port in
    /// use, and no map, program, link, pin or attachment of it remains. All its call detail records.
    pub fn stop(mut self, lab: &Lab) -> Result<Vec<Value>> {
        let objects = self.bpf_objects()?;
        let status = self.peer.stop(Duration::from_secs(10))?;
        ensure!(status.success(), "Latch ended with {status}");
        let left = self.peer.wait_for_line("left: ", Duration::ZERO)?;
        ensure!(left.contains(" calls: 0,") && left.contains(" port_pairs: 0"), "{left}");
        // What is pinned would stay.
        objects.wait_gone(Duration::from_secs(5))?;
        crate::leftovers::no_xdp(lab.latch())?;
        self.cdrs()
    }
}

/// Each lab's Latch has its own place for what outlives it.
fn state(lab: &Lab) -> [std::ffi::OsString; 4] {
    let journal = lab.directory().join("state");
    ["--state".into(), journal.into(), "--pins".into(), lab.pins().into()]
}

/// The lines that have their end already.
fn complete_lines(text: &str) -> impl Iterator<Item = &str> {
    text.split_inclusive('\n').filter(|line| line.ends_with('\n'))
}

/// The binary to test: `LATCH_BIN`, else the one built beside this test (`cargo xtask test` builds it first).
fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("LATCH_BIN") {
        return Ok(path.into());
    }
    let test = std::env::current_exe()?;
    let beside = test.ancestors().skip(1).take(2).map(|directory| directory.join("latch")).find(|path| path.is_file());
    beside.ok_or_else(|| {
        anyhow!("no binary `latch` beside {}: run `cargo xtask build`, or set LATCH_BIN", test.display())
    })
}

fn toml(config: &LatchConfig, cdr: &std::path::Path) -> Result<String> {
    let (low, high) = config.ports;
    let mut text = String::new();
    let port = if config.realms[1].contains("transport = \"tls\"") { 5061 } else { 5060 };
    for (side, own, softswitch, more) in [
        ("access", config.access, String::new(), &config.realms[0]),
        (
            "core",
            address::LATCH_CORE.into(),
            format!("softswitch = \"{}:{port}\"\n", address::SOFTSWITCH),
            &config.realms[1],
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
    use proxy_user::config::{Config, Overrides};

    use super::*;

    #[test]
    fn latch_accepts_the_configuration() {
        let text = toml(&LatchConfig::default(), "/tmp/cdr.jsonl".as_ref()).unwrap();
        let config = Config::parse(&text, "latch.toml".as_ref(), Overrides::default());
        assert_eq!(config.map(|config| config.realms.len()).map_err(|problems| problems.to_string()), Ok(2));
    }
}
