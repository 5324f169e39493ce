//! A thread that asks the kernel and receives its events, so that nothing else waits for the kernel.
//!
//! Questions go in by a channel, facts come out by another one, each with an event descriptor that wakes its reader.
//! Every question is answered by exactly one fact, in order; what the kernel reports without being asked comes in
//! between.

use super::{
    Link, Neighbour, Netlink, Route,
    monitor::{Event, Monitor},
};
use crate::media::RealmId;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::eventfd::{EfdFlags, EventFd},
};
use std::{
    io,
    net::IpAddr,
    os::fd::{AsFd as _, BorrowedFd},
    sync::{
        Arc,
        mpsc::{Receiver, Sender, TryRecvError, channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// How many questions are answered before events and the caller have their turn again.
const BATCH: usize = 32;

/// What the kernel is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// All interfaces.
    Links,
    /// The way of packets.
    Route {
        /// Given back with the answer.
        realm: RealmId,
        /// Where they go.
        destination: IpAddr,
        /// Where they come from.
        source: IpAddr,
        /// Index of the interface that they leave by.
        interface: u32,
        /// Whether media waits for it: then the kernel is told immediately that the next hop's neighbour is in use,
        /// without a separate request.
        waiting: bool,
    },
    /// What is known about a neighbour. Unless it is confirmed, the kernel is also told that it is used, which makes it
    /// check.
    Neighbour {
        /// Index of the interface.
        interface: u32,
        /// The neighbour.
        address: IpAddr,
    },
}

/// What became known.
#[derive(Debug)]
pub enum Fact {
    /// The answer to [`Question::Links`].
    Links(io::Result<Vec<Link>>),
    /// The answer to [`Question::Route`].
    Route {
        /// Of the question.
        realm: RealmId,
        /// Of the question.
        destination: IpAddr,
        /// The way, if there is one.
        route: io::Result<Option<Route>>,
    },
    /// The answer to [`Question::Neighbour`].
    Neighbour {
        /// Of the question.
        interface: u32,
        /// Of the question.
        address: IpAddr,
        /// What is known, if anything.
        known: io::Result<Option<Neighbour>>,
    },
    /// Not an answer.
    Event(Event),
}

/// The asker's end. Dropped, the thread ends.
#[derive(Debug)]
pub struct Worker {
    questions: Option<Sender<Question>>,
    facts: Receiver<Fact>,
    asked: Arc<EventFd>,
    told: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts it in the network namespace of this thread. Changes from now on are reported.
    ///
    /// # Errors
    ///
    /// The operating system's.
    pub fn start() -> io::Result<Self> {
        let (questions, questions_of_thread) = channel();
        let (facts_of_thread, facts) = channel();
        let event = || EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC).map(Arc::new);
        let (asked, told) = (event()?, event()?);
        let thread = Thread {
            netlink: Netlink::open()?,
            monitor: Monitor::open()?,
            questions: questions_of_thread,
            facts: facts_of_thread,
            asked: Arc::clone(&asked),
            told: Arc::clone(&told),
            events: Vec::new(),
            complained: None,
        };
        let thread = std::thread::Builder::new().name("netlink".into()).spawn(move || thread.run())?;
        Ok(Self { questions: Some(questions), facts, asked, told, thread: Some(thread) })
    }

    /// Asks.
    pub fn ask(&self, questions: impl IntoIterator<Item = Question>) {
        let Some(channel) = &self.questions else { return };
        let mut any = false;
        for question in questions {
            // A thread that has ended has said why.
            any |= channel.send(question).is_ok();
        }
        if any {
            wake(&self.asked);
        }
    }

    /// Facts that have come since the last call.
    pub fn facts(&self) -> impl Iterator<Item = Fact> + '_ {
        // Before they are taken: one that comes in the meantime wakes again.
        let _ = self.told.read();
        self.facts.try_iter()
    }

    /// Readable when there are facts.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.told.as_fd()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.questions = None;
        wake(&self.asked);
        if let Some(thread) = self.thread.take() {
            // One that has panicked has nothing left to do either.
            let _ = thread.join();
        }
    }
}

struct Thread {
    netlink: Netlink,
    monitor: Monitor,
    questions: Receiver<Question>,
    facts: Sender<Fact>,
    asked: Arc<EventFd>,
    told: Arc<EventFd>,
    events: Vec<Event>,
    complained: Option<Instant>,
}

impl Thread {
    fn run(mut self) {
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            tracing::error!("{what}: {error}; changes of routes and neighbours are no longer followed");
        };
        loop {
            let mut ready = [
                PollFd::new(self.monitor.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.asked.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut ready, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return failed("cannot wait for the kernel", &error),
            }
            let _ = self.asked.read();
            loop {
                if let Err(error) = self.listen() {
                    return failed("cannot listen to the kernel", &error);
                }
                match self.answer() {
                    Some(true) => {}
                    Some(false) => break,
                    None => return,
                }
            }
        }
    }

    /// Passes on what the kernel tells.
    fn listen(&mut self) -> io::Result<()> {
        let result = self.monitor.drain(&mut self.events);
        if !self.events.is_empty() {
            for event in self.events.drain(..) {
                let _ = self.facts.send(Fact::Event(event));
            }
            wake(&self.told);
        }
        result
    }

    /// Answers some questions. Whether there may be more; `None` at the end.
    fn answer(&mut self) -> Option<bool> {
        for answered in 0..BATCH {
            let fact = match self.questions.try_recv() {
                Ok(Question::Links) => Fact::Links(self.netlink.links()),
                Ok(Question::Route { realm, destination, source, interface, waiting }) => {
                    let route = self.netlink.route(destination, source, interface);
                    if let Ok(Some(route)) = &route
                        && waiting
                    {
                        // The next request for it gets the error.
                        let _ = self.neighbour(route.interface, route.neighbour);
                    }
                    Fact::Route { realm, destination, route }
                }
                Ok(Question::Neighbour { interface, address }) => {
                    Fact::Neighbour { interface, address, known: self.neighbour(interface, address) }
                }
                Err(TryRecvError::Disconnected) => return None,
                Err(TryRecvError::Empty) => {
                    if answered > 0 {
                        wake(&self.told);
                    }
                    return Some(false);
                }
            };
            let _ = self.facts.send(fact);
        }
        wake(&self.told);
        Some(true)
    }

    fn neighbour(&mut self, interface: u32, address: IpAddr) -> io::Result<Option<Neighbour>> {
        let known = self.netlink.neighbour(interface, address)?;
        // One that is permanent would lose that.
        if known.is_none_or(|known| !known.confirmed)
            && let Err(error) = self.netlink.use_neighbour(interface, address)
            && self.complained.is_none_or(|at| at.elapsed() >= Duration::from_secs(1))
        {
            self.complained = Some(Instant::now());
            tracing::warn!(%address, %error, "the kernel does not look for a neighbour");
        }
        Ok(known)
    }
}

/// A counter that is full wakes as well.
fn wake(event: &EventFd) {
    let _ = event.write(1);
}
