//! Other programs: how they are announced, started and judged, and as whom.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

/// Says what is about to happen and why, shows the command, runs it with our own input and output, and fails if it
/// does.
pub(crate) fn run(why: &str, command: &mut Command) -> Result<()> {
    announce(why, command);
    let status = command.status().with_context(|| format!("could not start {}", program(command)))?;
    if !status.success() {
        bail!("`{}` failed ({status})", render(command));
    }
    Ok(())
}

/// Says what is about to happen and why, and shows the command.
pub(crate) fn announce(why: &str, command: &Command) {
    say(why);
    show(command);
}

/// Prints one line of progress.
pub(crate) fn say(text: &str) {
    eprintln!("xtask: {text}");
}

/// Prints a command as it could be typed.
pub(crate) fn show(command: &Command) {
    eprintln!("    $ {}", render(command));
}

/// What `command` prints; an error if it fails.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("could not start {}", program(command)))?;
    if !output.status.success() {
        let told = String::from_utf8_lossy(&output.stderr);
        bail!("`{}` failed ({}): {}", render(command), output.status, told.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What `command` prints, or nothing where it does not exist or fails: for looking whether something is there.
pub(crate) fn probe(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The cargo that runs us, or the one on `PATH`.
pub(crate) fn cargo() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// The first file called `name` on `PATH`.
pub(crate) fn which(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// Takes from `command` what the outer cargo and the user's settings for the *host* build put into the environment:
/// flags, wrappers, toolchain choice, target folder and library path must not reach a build for another target with
/// another compiler. What cargo needs to reach its registry stays.
pub(crate) fn without_outer_cargo(command: &mut Command) -> &mut Command {
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(leaks) {
            command.env_remove(&name);
        }
    }
    command
}

/// Whether an environment variable of the outer build would change an inner one.
fn leaks(name: &str) -> bool {
    const KEPT: [&str; 5] = ["CARGO_HOME", "CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTR", "CARGO_TERM_"];
    const OTHERS: [&str; 7] =
        ["RUSTC", "RUSTDOC", "RUSTFLAGS", "RUSTDOCFLAGS", "RUSTUP_TOOLCHAIN", "LD_LIBRARY_PATH", "OUT_DIR"];
    let cargos = name == "CARGO" || name.starts_with("CARGO_") || name.starts_with("__CARGO");
    let kept = KEPT.iter().any(|prefix| name.starts_with(prefix));
    (cargos && !kept) || OTHERS.contains(&name) || name.starts_with("RUSTC_")
}

/// How we may change the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Privilege {
    /// We are root.
    Root,
    /// We are not, but there is `sudo`.
    Sudo,
    /// Neither.
    None,
}

impl Privilege {
    /// What this process has.
    pub(crate) fn of_this_process() -> Self {
        // The owner of /proc/self is this process's effective user.
        let root = std::fs::metadata("/proc/self").is_ok_and(|entry| entry.uid() == 0);
        match (root, which("sudo")) {
            (true, _) => Self::Root,
            (false, Some(_)) => Self::Sudo,
            (false, None) => Self::None,
        }
    }

    /// `program`, to be run as root; without a way to be root, the plain program.
    pub(crate) fn command(self, program: impl AsRef<OsStr>) -> Command {
        match self {
            Self::Root | Self::None => Command::new(program),
            Self::Sudo => {
                let mut command = Command::new("sudo");
                command.arg("--").arg(program);
                command
            }
        }
    }
}

/// A command as it could be typed: settings made for it alone, program, arguments.
pub(crate) fn render(command: &Command) -> String {
    let mut line = String::new();
    if let Some(folder) = command.get_current_dir() {
        let _ = write!(line, "cd {} && ", quote(folder.as_os_str()));
    }
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            let _ = write!(line, "{}={} ", name.to_string_lossy(), quote(value));
        }
    }
    line.push_str(&program(command));
    for argument in command.get_args() {
        let _ = write!(line, " {}", quote(argument));
    }
    line
}

fn program(command: &Command) -> String {
    quote(command.get_program())
}

/// Quotes for a shell where that is needed.
fn quote(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+./:,@%^".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.into_owned();
    }
    if word.chars().any(char::is_control) {
        let escape = |c: char| match c {
            c if c.is_ascii_control() => format!("\\x{:02x}", u32::from(c)),
            '\'' | '\\' => format!("\\{c}"),
            c => c.into(),
        };
        return format!("$'{}'", word.chars().map(escape).collect::<String>());
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_it_could_be_typed() {
        let mut command = Command::new("cargo");
        command
            .args(["build", "it's", "", "a\x1fb"])
            .env("RUSTFLAGS", "-C debuginfo=2")
            .env_remove("RUSTC")
            .current_dir("/src");
        assert_eq!(render(&command), r"cd /src && RUSTFLAGS='-C debuginfo=2' cargo build 'it'\''s' '' $'a\x1fb'");
    }

    #[test]
    fn only_what_would_change_the_inner_build_is_taken_away() {
        for name in [
            "CARGO",
            "CARGO_PKG_NAME",
            "CARGO_TARGET_DIR",
            "CARGO_BUILD_RUSTFLAGS",
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO_PROFILE_RELEASE_LTO",
            "RUSTFLAGS",
            "RUSTC",
            "RUSTC_WRAPPER",
            "RUSTUP_TOOLCHAIN",
            "LD_LIBRARY_PATH",
        ] {
            assert!(leaks(name), "{name} should be taken away");
        }
        for name in ["CARGO_HOME", "CARGO_NET_OFFLINE", "CARGO_REGISTRIES_X_INDEX", "PATH", "RUSTUP_HOME", "HOME"] {
            assert!(!leaks(name), "{name} should stay");
        }
    }
}
