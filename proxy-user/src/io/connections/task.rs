//! What every connection's task has, whatever its transport: what waits to be written, where its events go, and by when
//! something has to arrive.

use super::reason::Reason;
use crate::{
    config::Connections as ConnectionLimits,
    flow::{ConnectionId, Transport},
    signalling::Framer,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};

/// What is kept for a message besides its bytes.
const OVERHEAD: usize = 64;

/// What a connection tells.
#[derive(Debug)]
pub(super) enum ConnectionEvent {
    Message(ConnectionId, Vec<u8>),
    Ended(ConnectionId, Reason),
}

/// What waits to be written: at most what a connection may hold.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    sender: mpsc::UnboundedSender<Vec<u8>>,
    waiting: Arc<AtomicUsize>,
    limit: usize,
}

impl Queue {
    pub(super) fn new(limit: usize) -> (Self, mpsc::UnboundedReceiver<Vec<u8>>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self { sender, waiting: Arc::default(), limit }, receiver)
    }

    /// False where there is no room for it.
    pub(super) fn push(&self, bytes: Vec<u8>) -> bool {
        let cost = bytes.len() + OVERHEAD;
        if self.waiting.load(Ordering::Relaxed).saturating_add(cost) > self.limit {
            return false;
        }
        self.waiting.fetch_add(cost, Ordering::Relaxed);
        self.sender.send(bytes).is_ok()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) == 0
    }

    pub(super) fn written(&self, length: usize) {
        self.waiting.fetch_sub(length + OVERHEAD, Ordering::Relaxed);
    }
}

/// A connection's task.
pub(super) struct Connection {
    pub(super) id: ConnectionId,
    pub(super) transport: Transport,
    pub(super) limits: ConnectionLimits,
    pub(super) framer: Box<dyn Framer>,
    /// The name of the protocol's WebSocket subprotocol, if it has one.
    pub(super) subprotocol: Option<&'static str>,
    pub(super) queue: Queue,
    pub(super) outgoing: mpsc::UnboundedReceiver<Vec<u8>>,
    pub(super) tell: mpsc::Sender<ConnectionEvent>,
}

/// By when something has to arrive.
#[derive(Debug)]
pub(super) struct Pace {
    opened: Instant,
    /// Milliseconds from `opened` on: of the last traffic; of the first byte of a message that is not whole, plus one.
    last: AtomicU64,
    begun: AtomicU64,
    /// Whether no message has come yet, from a peer that connected to send one.
    silent: AtomicBool,
    message: Duration,
    idle: Duration,
}

impl Pace {
    pub(super) fn new(limits: &ConnectionLimits, accepted: bool) -> Self {
        Self {
            opened: Instant::now(),
            last: AtomicU64::new(0),
            begun: AtomicU64::new(0),
            silent: accepted.into(),
            message: limits.message_timeout,
            idle: limits.idle_timeout,
        }
    }

    fn elapsed(&self) -> u64 {
        u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Something came or went.
    pub(super) fn touch(&self) {
        self.last.store(self.elapsed(), Ordering::Relaxed);
    }

    /// A whole message came.
    pub(super) fn message(&self) {
        self.silent.store(false, Ordering::Relaxed);
        self.begun.store(0, Ordering::Relaxed);
    }

    /// Whether a message has begun by now and is not whole.
    pub(super) fn begun(&self, mid_message: bool) {
        let begun = if mid_message { self.elapsed() + 1 } else { 0 };
        if !mid_message || self.begun.load(Ordering::Relaxed) == 0 {
            self.begun.store(begun, Ordering::Relaxed);
        }
    }

    /// The outcome of `wait`, unless time is up before.
    pub(super) async fn within<T>(&self, mid_message: bool, wait: impl Future<Output = T>) -> Result<T, Reason> {
        let mut wait = std::pin::pin!(wait);
        loop {
            let after = |ms: u64, time: Duration| self.opened + Duration::from_millis(ms) + time;
            let (last, begun) = (self.last.load(Ordering::Relaxed), self.begun.load(Ordering::Relaxed));
            let (deadline, reason) = if self.silent.load(Ordering::Relaxed) {
                (after(0, self.message), Reason::Slow)
            } else if mid_message {
                (after(begun, self.message), Reason::Slow)
            } else {
                (after(last, self.idle), Reason::Idle)
            };
            match timeout_at(deadline, wait.as_mut()).await {
                Ok(outcome) => {
                    self.touch();
                    return Ok(outcome);
                }
                // Something was written in the meantime.
                Err(_) if reason == Reason::Idle && self.last.load(Ordering::Relaxed) != last => {}
                Err(_) => return Err(reason),
            }
        }
    }
}
