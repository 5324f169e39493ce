//! `cargo xtask build`: the BPF objects by the BPF compiler, then the `latch` binary by the workspace's own.
//!
//! The objects and a note of the tools that made them are left in `target/bpf/`, where the build of `latch` and the
//! tests look for them. Whether there is anything to do at all, cargo decides by its fingerprints.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::setup::{self, Group};
use crate::shell;
use crate::toolchain::{Core, TARGET, Toolchain};
use crate::workspace::Workspace;

/// The programs of `proxy-ebpf`: the product's and the testbed's.
const OBJECTS: [&str; 3] = ["latch", "signalling", "testbed"];

/// How the BPF objects are compiled.
const BPF_FLAGS: [&str; 3] = [
    // Types for BTF are made from debug information: without it a map dump has no field names.
    "-Cdebuginfo=2",
    // 32-bit jumps and atomics that return a value (Linux 5.12); rustc's default is the oldest instruction set.
    "-Ctarget-cpu=v3",
    "-Clink-arg=--btf",
];

/// `cargo xtask build [--release] [--no-install]`
#[derive(Args, Clone, Copy, Default)]
pub(crate) struct Options {
    /// Build `latch` optimised. The BPF objects always are.
    #[arg(long)]
    pub(crate) release: bool,
    /// Where a tool is missing, say how to install it instead of doing so.
    #[arg(long)]
    pub(crate) no_install: bool,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    build(&Workspace::locate()?, options).map(drop)
}

/// Builds everything and tells where the `latch` binary is.
pub(crate) fn build(workspace: &Workspace, options: &Options) -> Result<PathBuf> {
    setup::ensure(workspace, &[Group::Build], options.no_install)?;
    build_objects(workspace)?;
    build_latch(workspace, options.release)
}

/// Builds everything that the tests run: the BPF objects, `latch`, and the test programs.
pub(crate) fn build_for_tests(workspace: &Workspace) -> Result<()> {
    build_objects(workspace)?;
    let mut cargo = Command::new(shell::cargo());
    // All in one call: the test programs turn more features of some crates on, and a `latch` built on its own would
    // have those crates compiled twice.
    cargo.args(["build", "--locked", "--workspace", "--bins", "--tests"]).current_dir(&workspace.root);
    shell::run("building latch and the tests", &mut cargo)
}

/// Builds what the demo runs, the BPF objects, `latch` and the demo itself, and tells where the demo is. It finds
/// `latch` next to itself.
pub(crate) fn build_for_demo(workspace: &Workspace) -> Result<PathBuf> {
    build_objects(workspace)?;
    let mut cargo = Command::new(shell::cargo());
    cargo.args([
        "build",
        "--locked",
        "--package",
        "proxy-user",
        "--package",
        "tests",
        "--bin",
        "latch",
        "--bin",
        "demo",
    ]);
    cargo.current_dir(&workspace.root);
    shell::run("building latch and the demo", &mut cargo)?;
    Ok(workspace.target.join("debug").join("demo"))
}

/// Builds what the bench runs, the BPF objects and the bench itself, and tells where it is. The relays do their work in
/// the kernel or elsewhere: the bench is not optimised, and so shares its build with the tests.
pub(crate) fn build_for_bench(workspace: &Workspace) -> Result<PathBuf> {
    build_objects(workspace)?;
    let mut cargo = Command::new(shell::cargo());
    cargo.args(["build", "--locked", "--package", "tests", "--bin", "bench"]).current_dir(&workspace.root);
    shell::run("building the bench", &mut cargo)?;
    Ok(workspace.target.join("debug").join("bench"))
}

/// Builds the BPF objects and puts them, with the versions of the tools, into `target/bpf/`.
fn build_objects(workspace: &Workspace) -> Result<()> {
    let toolchain = Toolchain::find(workspace).context("no BPF toolchain; run `cargo xtask setup`")?;
    let mut cargo = bpf_cargo(workspace, &toolchain, "build", &[]);
    shell::run("building the BPF objects", &mut cargo)
        .with_context(|| format!("the BPF objects were not built, with these tools:\n{toolchain}"))?;

    fs::create_dir_all(workspace.bpf()).with_context(|| format!("creating {}", workspace.bpf().display()))?;
    let built = bpf_target(workspace).join(TARGET).join("release");
    for name in OBJECTS {
        let object = built.join(name);
        let bytes = fs::read(&object)
            .with_context(|| format!("{} was not built: proxy-ebpf has to have a binary `{name}`", object.display()))?;
        if !bytes.starts_with(b"\x7fELF") {
            bail!("{} is no ELF object: was it linked by bpf-linker?", object.display());
        }
        write_if_changed(&workspace.bpf().join(format!("{name}.o")), &bytes)?;
    }
    let versions = format!("{toolchain}flags: {}\n", BPF_FLAGS.join(" "));
    write_if_changed(&workspace.bpf().join("versions.txt"), versions.as_bytes())
}

/// Cargo on `proxy-ebpf`, by the BPF compiler and nothing but our own flags, whatever the outer cargo was told.
pub(crate) fn bpf_cargo(workspace: &Workspace, toolchain: &Toolchain, command: &str, more_flags: &[&str]) -> Command {
    let mut flags: Vec<OsString> = BPF_FLAGS.iter().chain(more_flags).map(OsString::from).collect();
    let mut linker = OsString::from("-Clinker=");
    linker.push(&toolchain.linker.path);
    flags.push(linker);

    let mut cargo = Command::new(&toolchain.compiler.cargo);
    shell::without_outer_cargo(&mut cargo)
        .args([command, "--release", "--locked", "--target", TARGET, "--target-dir"])
        .arg(bpf_target(workspace))
        // Read from here, cargo's settings are those of the crate itself.
        .current_dir(workspace.ebpf_crate())
        .env("RUSTC", &toolchain.compiler.rustc)
        // BPF's assembler and target are not stable features yet.
        .env("RUSTC_BOOTSTRAP", "1")
        // Unlike RUSTFLAGS, this form bears spaces in a path.
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join(OsString::from("\x1f").as_os_str()));
    if toolchain.compiler.core == Core::FromSource {
        cargo.args(["-Z", "build-std=core"]);
    }
    cargo
}

/// A build folder of its own, so that the two compilers do not lock or rebuild each other's work.
fn bpf_target(workspace: &Workspace) -> PathBuf {
    workspace.ebpf_crate().join("target")
}

/// Builds the `latch` binary.
fn build_latch(workspace: &Workspace, release: bool) -> Result<PathBuf> {
    let mut cargo = Command::new(shell::cargo());
    cargo.args(["build", "--locked", "--package", "proxy-user", "--bin", "latch"]);
    cargo.current_dir(&workspace.root);
    if release {
        cargo.arg("--release");
    }
    shell::run("building latch", &mut cargo)?;
    Ok(workspace.target.join(if release { "release" } else { "debug" }).join("latch"))
}

/// Writes a file unless it has these bytes already: a fresh date would make cargo build `latch` again.
fn write_if_changed(path: &Path, bytes: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    fs::write(path, bytes).with_context(|| format!("writing {}", path.display()))
}
