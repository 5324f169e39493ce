//! `cargo xtask test`: prepares the machine, builds everything, runs every test and counts what the suites report.

use std::ffi::OsString;
use std::io::{self, IsTerminal as _, Read, Write};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::build;
use crate::setup::{self, Group};
use crate::shell::{self, Privilege};
use crate::workspace::Workspace;

/// `cargo xtask test [--no-install] [FILTER] [-- ARGUMENTS]`
#[derive(Args)]
pub(crate) struct Options {
    /// Where a tool or a package is missing, say how to install it instead of doing so.
    #[arg(long)]
    no_install: bool,
    /// Run only the tests whose names contain this.
    filter: Option<String>,
    /// Arguments of the test programs, for example `--nocapture`.
    #[arg(last = true)]
    arguments: Vec<OsString>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let workspace = Workspace::locate()?;
    let privilege = Privilege::of_this_process();
    let groups: &[Group] = if privilege == Privilege::None { &[Group::Build] } else { &[Group::Build, Group::Testbed] };
    setup::ensure(&workspace, groups, options.no_install)?;
    build::build_for_tests(&workspace)?;

    let mut cargo = Command::new(shell::cargo());
    cargo.current_dir(&workspace.root).args(["test", "--workspace", "--locked", "--no-fail-fast"]);
    if privilege != Privilege::None {
        // What cannot run here now is a failure: a test that is skipped in silence would pass.
        cargo.env("LATCH_TESTBED_REQUIRED", "1");
    }
    match privilege {
        Privilege::Root => {}
        Privilege::Sudo => {
            // The testbed makes network namespaces: the test programs run as root, the compiler does not.
            cargo.env(format!("CARGO_TARGET_{}_RUNNER", host_as_variable()?), "sudo --preserve-env --");
        }
        Privilege::None => {
            shell::say(
                "skipped: the tests in the testbed (package `tests`), which make network namespaces. That takes root",
            );
            shell::say("         or sudo. Run `cargo xtask test` as root for all tests");
            cargo.args(["--exclude", "tests"]);
        }
    }
    let colour = if io::stdout().is_terminal() { "always" } else { "never" };
    cargo.args(["--color", colour]);
    cargo.args(&options.filter);
    cargo.args(["--", "--color", colour]).args(&options.arguments);

    let mut tally = Tally::default();
    let mut done = tally.run("running the tests", &mut cargo)?;
    if options.filter.is_none() {
        // This many seeds need an optimised build.
        let mut attacker = Command::new(shell::cargo());
        attacker.current_dir(&workspace.root).env("LATCH_ATTACKER_SEEDS", "10000");
        attacker.args(["test", "--release", "--locked", "-p", "proxy-user", "--test", "proxy", "--color", colour]);
        attacker.args(["attacker::", "--", "--color", colour]);
        done &= tally.run("attacking 10,000 simulated networks", &mut attacker)?;
    }
    println!("{tally}");
    if !done {
        bail!("the tests failed");
    }
    if tally.passed == 0 {
        bail!("no test ran{}", if options.filter.is_some() { ": none has this in its name" } else { "" });
    }
    Ok(())
}

/// The host's target triple as cargo spells it in the names of its variables.
fn host_as_variable() -> Result<String> {
    let told = shell::output(Command::new("rustc").arg("-vV"))?;
    let host = told.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.context("`rustc -vV` does not tell its host")?;
    Ok(host.to_uppercase().replace(['-', '.'], "_"))
}

/// What all suites together report.
#[derive(Default, PartialEq, Eq, Debug)]
struct Tally {
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Tally {
    /// Runs a suite and counts what it reports. Returns whether it passed.
    fn run(&mut self, what: &str, cargo: &mut Command) -> Result<bool> {
        shell::announce(what, cargo);
        let mut child = cargo.stdout(Stdio::piped()).spawn().context("could not start cargo")?;
        if let Some(output) = child.stdout.take() {
            self.follow(output, io::stdout().lock()).context("passing on what the tests print")?;
        }
        Ok(child.wait().context("waiting for cargo")?.success())
    }

    /// Passes `from` on to `to` as it comes, and counts the summaries in it.
    fn follow(&mut self, mut from: impl Read, mut to: impl Write) -> io::Result<()> {
        let mut buffer = [0; 4096];
        let mut line = Vec::new();
        loop {
            let length = match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let chunk = buffer.get(..length).unwrap_or_default();
            to.write_all(chunk)?;
            to.flush()?;
            for byte in chunk {
                if *byte == b'\n' {
                    self.count(&String::from_utf8_lossy(&line));
                    line.clear();
                } else {
                    line.push(*byte);
                }
            }
        }
        self.count(&String::from_utf8_lossy(&line));
        Ok(())
    }

    /// Counts a line if it is a suite's summary.
    fn count(&mut self, line: &str) {
        let Some(summary) = line.strip_prefix("test result: ") else { return };
        for part in summary.split(['.', ';']) {
            let mut words = part.split_whitespace();
            let Some(number) = words.next().and_then(|word| word.parse::<u64>().ok()) else { continue };
            match words.next() {
                Some("passed") => self.passed += number,
                Some("failed") => self.failed += number,
                Some("ignored") => self.ignored += number,
                _ => {}
            }
        }
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        if self.ignored > 0 {
            write!(f, ", {} skipped", self.ignored)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_of_all_suites_are_added_up_and_everything_is_passed_on() {
        let output = "\
running 2 tests
test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s

test result: \x1b[31mFAILED\x1b[m. 3 passed; 2 failed; 0 ignored; 0 measured; 7 filtered out; finished in 1.25s
said by a test: test result: ok. 99 passed; 0 failed
test result: ok. 4 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.10s";
        let mut tally = Tally::default();
        let mut passed_on = Vec::new();
        tally.follow(output.as_bytes(), &mut passed_on).unwrap();
        assert_eq!(tally, Tally { passed: 19, failed: 2, ignored: 1 });
        assert_eq!(tally.to_string(), "19 passed, 2 failed, 1 skipped");
        assert_eq!(passed_on, output.as_bytes());
    }
}
