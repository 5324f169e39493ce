//! Becoming a program that was built: the end of `run`, `demo` and `bench`.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::shell::{self, Privilege};
use crate::workspace::Workspace;

/// What reaches the program of our environment through sudo.
const PRESERVED: &str =
    "--preserve-env=NO_COLOR,RUST_LOG,RUST_BACKTRACE,LATCH_BPF_OBJECT,LATCH_SIGNALLING_OBJECT,LATCH_TESTBED_OBJECT";

/// Fails without root and without sudo. `what` begins the sentence: "the demo makes network namespaces".
pub(crate) fn ensure_privileged(what: &str) -> Result<()> {
    if Privilege::of_this_process() == Privilege::None {
        bail!("{what}, which takes root, and there is no sudo here: run it as root");
    }
    Ok(())
}

/// Replaces this process by `program`, through sudo where this is not root. Returns only if that fails.
pub(crate) fn replace_this_process(
    workspace: &Workspace,
    why: &str,
    program: &Path,
    arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
) -> Result<()> {
    let mut command = match Privilege::of_this_process() {
        Privilege::Sudo => {
            let mut sudo = Command::new("sudo");
            sudo.args([PRESERVED, "--"]).arg(program);
            sudo
        }
        Privilege::Root | Privilege::None => Command::new(program),
    };
    command.args(arguments);
    if workspace.target != workspace.root.join("target") && std::env::var_os("LATCH_TESTBED_OBJECT").is_none() {
        command.env("LATCH_TESTBED_OBJECT", workspace.bpf().join("testbed.o"));
    }
    shell::announce(why, &command);
    eprintln!();
    // Becoming the other program leaves signals, the terminal and the exit code to it alone.
    Err(command.exec()).with_context(|| format!("could not start {}", program.display()))
}
