//! A running program in a namespace, with its output in a log; ended when dropped.

use std::fs::File;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::interrupt;

/// A process of the testbed and its children (one process group).
#[derive(Debug)]
pub struct Peer {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Peer {
    /// Starts `command`; what it writes goes to `LOGS/NAME.log`. The name must be unique in the testbed.
    pub fn start(name: &str, mut command: Command, logs: &Path) -> Result<Self> {
        let log = logs.join(format!("{name}.log"));
        ensure!(!log.exists(), "the testbed has a peer {name} already");
        let file = File::create(&log).with_context(|| format!("create {}", log.display()))?;
        let program = command.get_program().to_string_lossy().into_owned();
        let child = command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("start {program}: is it installed?"))?;
        Ok(Self { name: name.to_owned(), child, log })
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The name it was started with.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// All it has written so far.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Waits until it has written a line that contains `needle`; that line. An error if it ends before.
    pub fn wait_for_line(&mut self, needle: &str, timeout: Duration) -> Result<String> {
        let deadline = Instant::now() + timeout;
        loop {
            let ended = self.child.try_wait()?;
            if let Some(line) = self.output().lines().find(|line| line.contains(needle)) {
                return Ok(line.to_owned());
            }
            if let Some(status) = ended {
                bail!("{} ended ({status}) before writing {needle:?}", self.name);
            }
            ensure!(Instant::now() < deadline, "{} did not write {needle:?} within {timeout:?}", self.name);
            interrupt::check()?;
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// True as long as it has not ended.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for its end.
    pub fn wait(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            ensure!(Instant::now() < deadline, "{} did not end within {timeout:?}", self.name);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Sends it a signal (to the whole process group).
    pub fn signal(&self, signal: Signal) -> Result<()> {
        killpg(self.group(), signal).with_context(|| format!("{signal} to {}", self.name))
    }

    /// Ends it with SIGTERM and waits; its exit status.
    pub fn stop(&mut self, timeout: Duration) -> Result<ExitStatus> {
        if let Some(status) = self.child.try_wait()? {
            return Ok(status);
        }
        self.signal(Signal::SIGTERM)?;
        self.wait(timeout)
    }

    /// Ends it at once, as a crash or a power cut would: it cannot say goodbye.
    pub fn kill(&mut self) -> Result<()> {
        // The group is gone where the process has been waited for.
        let _ = killpg(self.group(), Signal::SIGKILL);
        self.child.wait()?;
        Ok(())
    }

    fn group(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if let Ok(Some(status)) = self.child.try_wait() {
            if let Some(signal) =
                status.signal().filter(|&s| s == Signal::SIGSEGV as i32 || s == Signal::SIGABRT as i32)
            {
                eprintln!("testbed: {} crashed with signal {signal}", self.name);
            }
            return;
        }
        let _ = self.kill();
    }
}

/// Polls `condition` every 20 ms until it holds; an error naming `what` after `timeout`.
pub fn wait_until(what: &str, timeout: Duration, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + timeout;
    while !condition().with_context(|| format!("while waiting until {what}"))? {
        ensure!(Instant::now() < deadline, "waited {timeout:?} without success until {what}");
        interrupt::check()?;
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
