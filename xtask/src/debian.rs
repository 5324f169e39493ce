//! Debian's packages: which ones each group of commands needs, which are missing, and how they are installed without
//! starting a daemon.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::shell::{self, Privilege};

/// What the testbed and its tests use: network namespaces, NATs, real SIP peers, and eyes on the wire.
pub(crate) const TESTBED: &[&str] = &[
    "baresip-core",
    "bpftool",
    "ethtool",
    "iproute2",
    "kamailio",
    "kamailio-extra-modules",
    "kamailio-tls-modules",
    "nftables",
    "procps",
    "sip-tester",
    "sipsak",
    "tcpdump",
    "tshark",
    "util-linux",
];

/// What `cargo xtask bench` uses: the tools of its testbed, and the relay that it compares with.
pub(crate) const BENCH: &[&str] = &["bpftool", "ethtool", "iproute2", "nftables", "rtpengine-daemon"];

/// Services that some of these packages would have systemd start at the next boot.
const SERVICES: &[&str] = &["kamailio", "rtpengine-daemon"];

/// Whether this machine installs packages with apt.
pub(crate) fn is_debian() -> bool {
    Path::new("/etc/debian_version").exists() && shell::which("apt-get").is_some()
}

/// Those of `wanted` that are not fully installed.
pub(crate) fn missing(wanted: &[String]) -> Vec<String> {
    let mut query = Command::new("dpkg-query");
    query.args(["--show", "--showformat", "${binary:Package} ${db:Status-Status}\\n"]).args(wanted);
    // dpkg-query exits 1 as soon as it does not know one of the names; what it prints about the others still counts.
    let told = query.output().map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    missing_from(wanted, &told.unwrap_or_default())
}

/// Those of `wanted` that `told`, lines of `NAME[:ARCHITECTURE] STATUS`, does not call installed.
fn missing_from(wanted: &[String], told: &str) -> Vec<String> {
    let installed: BTreeSet<&str> = told
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter(|(_, status)| *status == "installed")
        .map(|(name, _)| name.split_once(':').map_or(name, |(name, _architecture)| name))
        .collect();
    wanted.iter().filter(|name| !installed.contains(name.as_str())).cloned().collect()
}

/// Whether apt could install `package`, going by the lists that this machine has.
pub(crate) fn has_candidate(package: &str) -> bool {
    let mut policy = Command::new("apt-cache");
    policy.args(["policy", package]).env("LC_ALL", "C");
    shell::probe(&mut policy).is_some_and(|told| candidate(&told).is_some())
}

/// The version in the `Candidate:` line of `apt-cache policy PACKAGE`.
fn candidate(policy: &str) -> Option<&str> {
    let version = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate:"))?.trim();
    (version != "(none)").then_some(version)
}

/// The LLVM that `package` recommends to be used with, by its `lld-NN`. Debian's BPF `core` does so.
pub(crate) fn recommended_llvm(package: &str) -> Option<u32> {
    let mut depends = Command::new("apt-cache");
    depends.args(["depends", package]).env("LC_ALL", "C");
    llvm_in_depends(&shell::probe(&mut depends)?)
}

fn llvm_in_depends(told: &str) -> Option<u32> {
    told.lines().find_map(|line| line.trim().strip_prefix("Recommends: lld-")?.trim().parse().ok())
}

/// Installs packages; keeps in mind whether the lists have been brought up to date already.
pub(crate) struct Installer {
    privilege: Privilege,
    dry_run: bool,
    updated: bool,
    planned: usize,
}

impl Installer {
    /// `dry_run`: print the commands only.
    pub(crate) fn new(dry_run: bool) -> Self {
        Self { privilege: Privilege::of_this_process(), dry_run, updated: false, planned: 0 }
    }

    /// Whether commands are only printed.
    pub(crate) fn is_dry_run(&self) -> bool {
        self.dry_run
    }

    /// How many commands were printed and not run.
    pub(crate) fn planned(&self) -> usize {
        self.planned
    }

    /// `apt-get update`, once.
    pub(crate) fn update(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.updated, true) {
            return Ok(());
        }
        let mut update = self.privilege.command("apt-get");
        update.arg("update");
        self.act("bringing the package lists up to date", &mut update)
    }

    /// Installs `packages`; `why` says what for. Nothing that is installed already is removed for them.
    pub(crate) fn install(&mut self, why: &str, packages: &[String]) -> Result<()> {
        if packages.is_empty() {
            return Ok(());
        }
        if !packages.iter().all(|package| has_candidate(package)) {
            self.update()?;
        }
        let attempt = self.install_now(why, packages);
        if attempt.is_err() && !self.updated {
            // Old lists name files that the mirror no longer has.
            self.update()?;
            self.install_now(why, packages)?;
        } else {
            attempt?;
        }
        self.keep_from_starting_at_boot(packages)
    }

    fn install_now(&mut self, why: &str, packages: &[String]) -> Result<()> {
        let mut shown = self.privilege.command("env");
        shown.args(INSTALL).args(packages);
        if self.dry_run {
            return self.act(why, &mut shown);
        }
        self.check_privilege(&shown)?;
        shell::announce(&format!("{why}; a temporary /usr/sbin/policy-rc.d keeps services from starting"), &shown);
        let mut guarded = self.privilege.command("sh");
        guarded.args(["-c", WITHOUT_STARTING, "install", "env"]).args(INSTALL).args(packages);
        let status = guarded.status().context("could not start apt-get")?;
        if !status.success() {
            bail!("apt-get could not install {} ({status}); its own words stand above", packages.join(" "));
        }
        Ok(())
    }

    /// The testbed starts its own peers in its own namespaces: none of them is wanted on the host.
    fn keep_from_starting_at_boot(&mut self, packages: &[String]) -> Result<()> {
        let new: Vec<_> = SERVICES.iter().filter(|service| packages.iter().any(|name| name == *service)).collect();
        if new.is_empty() || !Path::new("/run/systemd/system").exists() {
            return Ok(());
        }
        let mut disable = self.privilege.command("systemctl");
        disable.arg("disable").args(new);
        self.act("keeping the freshly installed daemons from starting at boot: the testbed runs its own", &mut disable)
    }

    /// Runs a command that changes the machine and needs root, or only shows it.
    fn act(&mut self, why: &str, command: &mut Command) -> Result<()> {
        if !self.dry_run {
            self.check_privilege(command)?;
        }
        self.build(why, command)
    }

    /// Runs a command that needs no root, or only shows it.
    pub(crate) fn build(&mut self, why: &str, command: &mut Command) -> Result<()> {
        if self.dry_run {
            self.planned += 1;
            shell::announce(why, command);
            return Ok(());
        }
        shell::run(why, command)
    }

    fn check_privilege(&self, command: &Command) -> Result<()> {
        if self.privilege == Privilege::None {
            bail!("this needs root, and there is no sudo here; run as root:\n    {}", shell::render(command));
        }
        Ok(())
    }
}

/// The arguments of `env` that install packages: nobody is asked anything, nothing is removed, and another apt that is
/// at work is waited for.
const INSTALL: [&str; 7] = [
    "DEBIAN_FRONTEND=noninteractive",
    "apt-get",
    "install",
    "--yes",
    "--no-install-recommends",
    "--no-remove",
    "--option=DPkg::Lock::Timeout=300",
];

/// Runs its arguments with services held back: a package's own script asks `policy-rc.d` before it starts one, and 101
/// forbids it. A policy that the machine has already is left alone; ours goes away on every exit, and one that a killed
/// run left behind is known by its first comment and taken over.
const WITHOUT_STARTING: &str = r#"
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ] || grep -q 'temporary, by cargo xtask setup' "$policy"; then
    trap 'rm -f "$policy"' EXIT
    trap 'exit 130' HUP INT TERM
    printf '#!/bin/sh\n# temporary, by cargo xtask setup: safe to remove\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi
"$@"
"#;

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn packages_not_known_or_only_half_there_are_missing() {
        let told = "kamailio installed\nlibllvm22:amd64 installed\ntshark config-files\nsipsak unpacked\nnftables \n";
        let wanted = names(&["kamailio", "libllvm22", "tshark", "sipsak", "nftables", "sip-tester"]);
        assert_eq!(missing_from(&wanted, told), names(&["tshark", "sipsak", "nftables", "sip-tester"]));
    }

    #[test]
    fn nothing_told_means_everything_is_missing() {
        assert_eq!(missing_from(&names(&["kamailio"]), ""), names(&["kamailio"]));
    }

    #[test]
    fn a_candidate_is_read_from_apt_caches_policy() {
        let known = "rustc-web:\n  Installed: (none)\n  Candidate: 1.96.0+dfsg1-1~deb12u2\n  Version table:\n";
        assert_eq!(candidate(known), Some("1.96.0+dfsg1-1~deb12u2"));
        assert_eq!(candidate("x:\n  Installed: (none)\n  Candidate: (none)\n"), None);
        assert_eq!(candidate(""), None);
    }

    #[test]
    fn the_llvm_of_debians_core_is_read_from_what_it_recommends() {
        let told = "libstd-rust-web-dev-bpf\n  Conflicts: <libstd-rust-dev-bpf>\n  Recommends: lld-22\n";
        assert_eq!(llvm_in_depends(told), Some(22));
        assert_eq!(llvm_in_depends("libstd\n  Depends: lld-22\n"), None);
    }
}
