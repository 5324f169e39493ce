//! Ctrl-C: a program that made a testbed gets it where it waits, and can remove the testbed in order.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

static PENDING: AtomicBool = AtomicBool::new(false);
static HAPPENED: AtomicBool = AtomicBool::new(false);

extern "C" fn note(_: i32) {
    PENDING.store(true, Ordering::Relaxed);
    HAPPENED.store(true, Ordering::Relaxed);
}

/// From now on SIGINT, SIGTERM and SIGHUP do not end this process: the testbed's waits fail instead, once for each
/// signal.
pub fn catch() -> Result<()> {
    let action = SigAction::new(SigHandler::Handler(note), SaFlags::SA_RESTART, SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler only stores to atomics, which is async-signal-safe. Programs started from here get the
        // default action back at exec(2).
        unsafe { sigaction(signal, &action) }.with_context(|| format!("catch {signal}"))?;
    }
    Ok(())
}

/// True where a caught signal came, ever.
pub fn happened() -> bool {
    HAPPENED.load(Ordering::Relaxed)
}

/// An error if a signal came since the last check. The clean-up after that error may wait again.
pub fn check() -> Result<()> {
    anyhow::ensure!(!PENDING.swap(false, Ordering::Relaxed), "interrupted");
    Ok(())
}
