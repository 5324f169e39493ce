//! `cargo xtask setup`: finds out what is missing on this machine and installs it, showing each command before it runs.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};

use crate::debian::{self, Installer};
use crate::shell;
use crate::toolchain::{self, Compiler, LINKER_LLVMS, LINKER_VERSION, TARGET, Toolchain};
use crate::workspace::Workspace;

/// `cargo xtask setup [--no-install] [GROUP...]`
#[derive(Args)]
pub(crate) struct Options {
    /// Only print the commands, and fail if there are any.
    #[arg(long)]
    no_install: bool,
    /// What to prepare for; everything if not given.
    groups: Vec<Group>,
}

/// What a machine can be prepared for.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Group {
    /// Compile the XDP program: a BPF compiler and bpf-linker.
    Build,
    /// Run the testbed and its tests: network tools and real SIP peers.
    Testbed,
    /// Run the comparison benchmarks: the relay that Latch is compared with.
    Bench,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let workspace = Workspace::locate()?;
    let groups = if options.groups.is_empty() { Group::value_variants() } else { &options.groups };
    ensure(&workspace, groups, options.no_install)?;
    if groups.contains(&Group::Build)
        && let Some(toolchain) = Toolchain::find(&workspace)
    {
        eprint!("{toolchain}");
    }
    shell::say("everything needed is installed");
    Ok(())
}

/// Makes sure that the machine has what `groups` need. With `no_install` it only says what is missing, and that is an
/// error.
pub(crate) fn ensure(workspace: &Workspace, groups: &[Group], no_install: bool) -> Result<()> {
    let mut installer = Installer::new(no_install);
    if groups.contains(&Group::Build) {
        ensure_toolchain(workspace, &mut installer)?;
    }
    if groups.contains(&Group::Testbed) {
        ensure_packages("installing the testbed's network tools and SIP peers", debian::TESTBED, &mut installer)?;
    }
    if groups.contains(&Group::Bench) {
        ensure_packages(
            "installing what the bench needs, and the relay that Latch is compared with",
            debian::BENCH,
            &mut installer,
        )?;
    }
    if installer.planned() > 0 {
        bail!("this machine lacks something: run the commands above, or `cargo xtask setup`");
    }
    Ok(())
}

/// Makes sure that there is a compiler and a linker for the XDP program.
fn ensure_toolchain(workspace: &Workspace, installer: &mut Installer) -> Result<()> {
    if Toolchain::find(workspace).is_some() {
        return Ok(());
    }
    if let Some((compiler, llvm)) = compiler_to_link_for() {
        let what = format!("rustc {} at {}", compiler.version.release, compiler.rustc.display());
        shell::say(&format!("{what} can compile for BPF; it needs bpf-linker {LINKER_VERSION} with LLVM {llvm}"));
        return ensure_linker(workspace, llvm, installer);
    }
    let expected = ensure_debian_compiler(installer)?;
    // After the installation the compiler itself says which LLVM it is made of.
    let llvm = compiler_to_link_for().map_or(expected, |(_, llvm)| Some(llvm));
    let llvm = match llvm {
        Some(llvm) => llvm,
        None if installer.is_dry_run() => {
            shell::say(&format!(
                "and then bpf-linker {LINKER_VERSION} for that compiler's LLVM: run this again to see how"
            ));
            return Ok(());
        }
        None => {
            bail!("that compiler does not stand on an LLVM ({LINKER_LLVMS:?}) that bpf-linker {LINKER_VERSION} knows")
        }
    };
    ensure_linker(workspace, llvm, installer)?;
    if installer.planned() == 0 && Toolchain::find(workspace).is_none() {
        bail!(
            "the BPF compiler and bpf-linker were installed, yet they do not fit together; see\n    \
             rustc --print target-libdir --target {TARGET}\n    ldd {}",
            workspace.tools().join("bin/bpf-linker").display()
        );
    }
    Ok(())
}

/// The first compiler here for whose LLVM a linker can be built, with that LLVM's major version.
fn compiler_to_link_for() -> Option<(Compiler, u32)> {
    toolchain::compilers().into_iter().find_map(|compiler| {
        let llvm = compiler.version.llvm_major().filter(|major| LINKER_LLVMS.contains(major))?;
        let obtainable =
            llvm_prefix(llvm).is_some() || (debian::is_debian() && debian::has_candidate(&llvm_package(llvm)));
        obtainable.then_some((compiler, llvm))
    })
}

/// Installs a rustc that ships `core` for BPF, and tells the LLVM that it should stand on.
fn ensure_debian_compiler(installer: &mut Installer) -> Result<Option<u32>> {
    if !debian::is_debian() {
        bail!("{BY_HAND}");
    }
    const PAIRS: [[&str; 2]; 2] = [["rustc-web", "libstd-rust-web-dev-bpf"], ["rustc", "libstd-rust-dev-bpf"]];
    let choose = || PAIRS.iter().find(|pair| pair.iter().all(|package| debian::has_candidate(package)));
    let pair = match choose() {
        Some(pair) => pair,
        None => {
            installer.update()?;
            // A dry run has updated nothing: go by the packages that Debian 12 has.
            match choose() {
                Some(pair) => pair,
                None if installer.is_dry_run() => &PAIRS[0],
                None => bail!("apt knows no rustc with `core` for BPF here.\n{BY_HAND}"),
            }
        }
    };
    let packages = debian::missing(&pair.map(str::to_owned));
    installer.install("installing a Rust compiler that has `core` for BPF", &packages)?;
    Ok(debian::recommended_llvm(pair[1]))
}

/// What to do where xtask cannot install anything.
const BY_HAND: &str = "\
The XDP program needs a Rust compiler for BPF, and this machine does not install packages with Debian's apt.
Install one of
  - a rustup nightly with its sources:  rustup toolchain install nightly --component rust-src
  - a distribution's rustc that ships `core` for bpfel-unknown-none
and bpf-linker 0.13.0 of the same LLVM major version as that compiler (`rustc -vV` tells), NN:
    LLVM_PREFIX=$(llvm-config-NN --prefix) cargo install bpf-linker --version 0.13.0 --locked \\
        --no-default-features --features llvm-NN
then run the command again.";

/// Builds bpf-linker for this LLVM into our own tools folder.
fn ensure_linker(workspace: &Workspace, llvm: u32, installer: &mut Installer) -> Result<()> {
    if llvm_prefix(llvm).is_none() {
        if !debian::is_debian() {
            bail!("bpf-linker needs LLVM {llvm} with its headers, and there is none here.\n{BY_HAND}");
        }
        let packages = debian::missing(&[llvm_package(llvm), "g++".into()]);
        installer.install(&format!("installing LLVM {llvm}, which bpf-linker is built with"), &packages)?;
    }
    let prefix = match llvm_prefix(llvm) {
        Some(prefix) => prefix,
        None if installer.is_dry_run() => debian_llvm(llvm),
        None => bail!("{} is installed, yet {} is not there", llvm_package(llvm), debian_llvm(llvm).display()),
    };
    let mut install = Command::new(shell::cargo());
    shell::without_outer_cargo(&mut install)
        .args(["install", "bpf-linker", "--version", LINKER_VERSION, "--locked", "--no-default-features"])
        .arg("--features")
        .arg(format!("llvm-{llvm}"))
        .arg("--root")
        .arg(workspace.tools())
        // Without it, the build picks any LLVM it comes across and then fails to link.
        .env("LLVM_PREFIX", prefix);
    installer.build("building bpf-linker, once (two minutes or so)", &mut install).context("bpf-linker was not built")
}

/// Where this LLVM is, with its headers.
fn llvm_prefix(major: u32) -> Option<PathBuf> {
    let debians = debian_llvm(major);
    if debians.join("bin/llvm-config").exists() && debians.join("include/llvm-c/Core.h").exists() {
        return Some(debians);
    }
    ["llvm-config".to_owned(), format!("llvm-config-{major}")].iter().find_map(|name| {
        let version = shell::probe(Command::new(name).arg("--version"))?;
        (version.split('.').next()?.parse() == Ok(major)).then_some(())?;
        let prefix = PathBuf::from(shell::probe(Command::new(name).arg("--prefix"))?.trim());
        prefix.join("include/llvm-c/Core.h").exists().then_some(prefix)
    })
}

fn debian_llvm(major: u32) -> PathBuf {
    Path::new("/usr/lib").join(format!("llvm-{major}"))
}

fn llvm_package(major: u32) -> String {
    format!("llvm-{major}-dev")
}

fn ensure_packages(why: &str, wanted: &[&str], installer: &mut Installer) -> Result<()> {
    let wanted: Vec<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
    if !debian::is_debian() {
        bail!(
            "this machine does not install packages with Debian's apt, so their presence can't be checked here. The \
             testbed is made for Debian 12; it needs what these Debian packages contain: {}",
            wanted.join(" ")
        );
    }
    installer.install(why, &debian::missing(&wanted))
}
