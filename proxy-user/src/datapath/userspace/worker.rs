//! The threads that relay.

use super::{
    packets::{BATCH, Receiver, Sender},
    program::{self, Here},
};
use anyhow::{Context as _, Result};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::eventfd::{EfdFlags, EventFd},
};
use std::{
    io,
    os::fd::AsFd as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

/// After an error of the interface.
const PAUSE: Duration = Duration::from_millis(20);

/// Threads that run until this is dropped.
pub(super) struct Workers {
    stop: Arc<EventFd>,
    threads: Vec<JoinHandle<()>>,
    unsent: Arc<AtomicU64>,
}

impl Workers {
    pub(super) fn new() -> Result<Self> {
        let stop =
            EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC).context("cannot make an eventfd")?;
        Ok(Self { stop: Arc::new(stop), threads: Vec::new(), unsent: Arc::default() })
    }

    /// Adds a thread, which relays what the receiver receives by the interface.
    pub(super) fn add(&mut self, name: &str, receiver: Receiver, interface: u32, here: Here) -> Result<()> {
        let sender = Sender::new().context("cannot make a packet socket")?;
        let (stop, unsent) = (Arc::clone(&self.stop), Arc::clone(&self.unsent));
        let work = move || run(receiver, &sender, interface, &here, &stop, &unsent);
        let thread = std::thread::Builder::new().name(format!("relay {name}")).spawn(work);
        self.threads.push(thread.context("cannot start a thread")?);
        Ok(())
    }

    /// Frames that were relayed and that the kernel refused.
    pub(super) fn unsent(&self) -> u64 {
        self.unsent.load(Ordering::Relaxed)
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        // Nobody reads it, so it is readable for all of them.
        let _ = self.stop.write(1);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn run(mut receiver: Receiver, sender: &Sender, interface: u32, here: &Here, stop: &EventFd, unsent: &AtomicU64) {
    loop {
        {
            let mut ready =
                [PollFd::new(receiver.as_fd(), PollFlags::POLLIN), PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
            let _ = poll(&mut ready, PollTimeout::NONE);
            if ready[1].any().unwrap_or(true) {
                return;
            }
        }
        match relay(&mut receiver, sender, interface, here) {
            Ok(lost) => {
                unsent.fetch_add(lost as u64, Ordering::Relaxed);
            }
            // The interface went down; it may come back.
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

/// Relays what has arrived. Returns how many frames could not be sent.
fn relay(receiver: &mut Receiver, sender: &Sender, interface: u32, here: &Here) -> io::Result<usize> {
    let mut lost = 0;
    // Not without end: after this many, the thread checks whether it has to stop.
    for _ in 0..BATCH {
        let frames = receiver.receive()?;
        let mut leaving = Vec::with_capacity(BATCH);
        for frame in frames.iter() {
            if let Some(egress) = program::handle(here, frame, interface).egress {
                leaving.push((egress, frame));
            }
        }
        lost += sender.send(&leaving);
        if frames.len() < BATCH {
            break;
        }
    }
    Ok(lost)
}
