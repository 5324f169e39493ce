//! One core for the measurement: a thread that stays on it and that nothing ordinary interrupts.

use anyhow::{Context, Result, anyhow};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// Runs `work` on a thread of its own, which stays on the last core and goes before all ordinary threads (`SCHED_FIFO`,
/// the lowest of its priorities): in the meantime, everything else on this machine runs on the other cores.
pub(crate) fn with_own_core<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let last = std::thread::available_parallelism()?.get().saturating_sub(1);
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            let mut core = CpuSet::new();
            core.set(last)?;
            sched_setaffinity(Pid::from_raw(0), &core).context("stay on one core")?;
            let priority = libc::sched_param { sched_priority: 1 };
            // SAFETY: the call reads the structure, which lives longer than it.
            if unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const priority) } != 0 {
                return Err(std::io::Error::last_os_error()).context("go before ordinary threads (SCHED_FIFO)");
            }
            work()
        });
        thread.join().map_err(|_| anyhow!("the measuring thread panicked"))?
    })
}
