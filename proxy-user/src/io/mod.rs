//! Sockets, clocks and signals: the loop that ties engine, datapath and records together.
//!
//! ```text
//! socket ─────datagram─▶ engine ──Send───▶ socket
//! connection ──message─▶        ──Send───▶ connection
//! datapath ──────event─▶        ──Media──▶ datapath
//! clock ───────timeout─▶        ──Record─▶ file
//! ```
//!
//! Everything happens on one thread, one step at a time: what woke the loop goes into the engine, then everything that
//! the engine puts out is carried out: streams and records first, then the journal, then the datagrams. So a peer knows
//! nothing that a later process would not know. Errors with single datagrams are counted, and logged at most once a
//! second.

pub use self::core::Core;
use crate::{
    accounting::CdrSink,
    ctl::{Answer, Question, Request, Server},
    datapath::Datapath,
    engine::{Input, Output, Protocol},
    flow::{Flow, Transport},
    journal::Keeper,
    media::{MediaCommand, MediaEvent, RealmId},
};
use anyhow::{Context as _, Result};
pub use connections::{ConnectionStatistics, Connections};
use filter::Filters;
use serde::Serialize;
use serde_json::{Value, json};
use socket2::SockRef;
use sockets::DatagramSocket;
use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
    time::{Duration, Instant},
};
use throttle::Throttle;
use tokio::signal::unix::Signal;

mod connections;
mod core;
pub mod filter;
pub mod sockets;
mod throttle;
mod watch;

/// How many datagrams are taken from one socket before the others have their turn.
const BATCH: usize = 64;
/// Larger than any UDP payload over IPv4.
const DATAGRAM: usize = 65_536;
/// How long calls may take to end in order after Latch was asked to stop.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(3);

/// What the loop counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Statistics {
    /// Datagrams received.
    pub received: u64,
    /// Errors of receiving, such as what an ICMP message reports about an earlier datagram.
    pub receive_errors: u64,
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams that could not be sent.
    pub send_errors: u64,
    /// Streams that the datapath did not take.
    pub media_errors: u64,
    /// Records that could not be written.
    pub record_errors: u64,
    /// Tries to write the journal that failed.
    pub journal_errors: u64,
    /// Terminals that the filter of their socket did not take.
    pub filter_errors: u64,
    /// Messages received over connections.
    pub stream_received: u64,
    /// Messages handed to connections.
    pub stream_sent: u64,
    /// Messages to connections that are gone, or that do not take them.
    pub stream_lost: u64,
}

/// How the loop ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Every call is ended first.
    End,
    /// At once: another process continues the calls.
    Keep,
}

/// Engine, datapath and records, and the sockets between them and the world.
pub struct Loop<C, D> {
    core: C,
    datapath: D,
    records: Option<CdrSink>,
    keeper: Option<Keeper>,
    /// Messages of this turn.
    unsent: Vec<Message>,
    sockets: Vec<DatagramSocket>,
    filters: Filters,
    connections: Option<Connections>,
    /// How many connections had been refused at the last look.
    refused: u64,
    /// Asks for certificates to be read again.
    reload: Option<Signal>,
    statistics: Statistics,
    events: Vec<MediaEvent>,
    /// For what the network can cause.
    throttle: Throttle,
    /// For what the operator must not miss: log lines about the network must not suppress it.
    alarms: Throttle,
    operator: Option<Server>,
    started: Instant,
}

impl<C: Core, D: Datapath> Loop<C, D> {
    /// `sockets` are as [`sockets::bind`] makes them.
    pub fn new(core: C, datapath: D, records: Option<CdrSink>, sockets: Vec<DatagramSocket>) -> Self {
        Self {
            core,
            datapath,
            records,
            keeper: None,
            unsent: Vec::new(),
            sockets,
            filters: Filters::none(),
            connections: None,
            refused: 0,
            reload: None,
            statistics: Statistics::default(),
            events: Vec::new(),
            throttle: Throttle::new(Duration::from_secs(1)),
            alarms: Throttle::new(Duration::from_secs(1)),
            operator: None,
            started: Instant::now(),
        }
    }

    /// Adds filters on the sockets.
    #[must_use]
    pub fn with_filters(self, filters: Filters) -> Self {
        Self { filters, ..self }
    }

    /// Keeps a journal.
    #[must_use]
    pub fn with_journal(self, keeper: Keeper) -> Self {
        Self { keeper: Some(keeper), ..self }
    }

    /// Answers an operator.
    #[must_use]
    pub fn with_control_socket(self, operator: Server) -> Self {
        Self { operator: Some(operator), ..self }
    }

    /// Adds connections, whose certificates are read again at a signal.
    #[must_use]
    pub fn with_connections(self, connections: Connections, reload: Option<Signal>) -> Self {
        Self { connections: Some(connections), reload, ..self }
    }

    /// Ends, and returns what the loop worked with.
    pub fn into_parts(self) -> (C, D, Option<Keeper>) {
        (self.core, self.datapath, self.keeper)
    }

    /// The engine.
    pub fn core(&self) -> &C {
        &self.core
    }

    /// The datapath.
    pub fn datapath(&self) -> &D {
        &self.datapath
    }

    /// What was counted so far.
    pub fn statistics(&self) -> Statistics {
        self.statistics
    }

    /// What happened to connections.
    pub fn connection_statistics(&self) -> ConnectionStatistics {
        self.connections.as_ref().map(Connections::statistics).unwrap_or_default()
    }

    /// Runs until `stop` is ready, and then, with [`Stop::End`], until every call has ended in order or 3 seconds have
    /// passed. Returns how it was asked to stop.
    ///
    /// # Errors
    ///
    /// The operating system refuses to let the loop wait. No input from the network is an error.
    pub async fn run(&mut self, stop: impl Future<Output = Stop>) -> Result<Stop> {
        let stopped = self.run_until_stopped(stop).await?;
        if let Some(connections) = &self.connections {
            connections.flush().await;
        }
        Ok(stopped)
    }

    async fn run_until_stopped(&mut self, stop: impl Future<Output = Stop>) -> Result<Stop> {
        let mut stop = pin!(stop);
        let datapath_events: Vec<_> = self
            .datapath
            .event_fds()
            .into_iter()
            .map(watch::readable)
            .collect::<Result<_, _>>()
            .context("cannot watch the datapath's events")?;
        let mut buffer = vec![0; DATAGRAM];
        // Until when to continue, once asked to stop.
        let mut end: Option<Instant> = None;
        loop {
            let now = Instant::now();
            self.carry_out(now);
            if end.is_some() && self.core.is_ending() {
                // The time to answer begins when the last party has been notified.
                end = Some(now + SHUTDOWN_GRACE);
            }
            if end.is_some_and(|end| end <= now || self.core.is_idle()) {
                return Ok(Stop::End);
            }
            let retry = self.keeper.as_ref().and_then(Keeper::retry_at);
            let timeouts = [self.core.poll_timeout(), self.datapath.poll_timeout(now), retry, end];
            let woken = {
                let mut sleep = timeouts
                    .into_iter()
                    .flatten()
                    .min()
                    .map(|at| Box::pin(tokio::time::sleep_until(tokio::time::Instant::from_std(at))));
                poll_fn(|context| {
                    let mut woken = Woken::default();
                    if end.is_none()
                        && let Poll::Ready(stop) = stop.as_mut().poll(context)
                    {
                        woken.stop = Some(stop);
                    }
                    for (place, socket) in self.sockets.iter().enumerate() {
                        if socket.socket.poll_recv_ready(context).is_ready() {
                            woken.sockets.push(place);
                        }
                    }
                    if let Some(connections) = &mut self.connections {
                        woken.connections = connections.poll(context).is_ready();
                    }
                    if let Some(reload) = &mut self.reload {
                        woken.reload = reload.poll_recv(context).is_ready();
                    }
                    for events in &datapath_events {
                        if let Poll::Ready(ready) = events.poll_read_ready(context) {
                            woken.datapath = true;
                            // It is emptied below, and becomes readable again when there is more.
                            if let Ok(mut ready) = ready {
                                ready.clear_ready();
                            }
                        }
                    }
                    if let Some(operator) = &mut self.operator
                        && let Poll::Ready(Some(question)) = operator.poll(context)
                    {
                        woken.question = Some(question);
                    }
                    if let Some(sleep) = &mut sleep
                        && sleep.as_mut().poll(context).is_ready()
                    {
                        woken.timeout = true;
                    }
                    if woken.is_empty() { Poll::Pending } else { Poll::Ready(woken) }
                })
                .await
            };
            let now = Instant::now();
            for place in woken.sockets {
                self.receive(place, &mut buffer, now);
            }
            if woken.connections {
                self.receive_connections(now);
            }
            if let Some(connections) = self.connections.as_mut().filter(|_| woken.reload) {
                connections.reload();
            }
            if self.core.poll_timeout().is_some_and(|at| at <= now) {
                self.core.handle_timeout(now);
            }
            if let Some(question) = woken.question {
                let answer = self.answer(&question.request, now);
                question.answer(answer);
            }
            if woken.stop == Some(Stop::Keep) {
                tracing::info!("stopping: calls continue without signalling until the next start");
                self.carry_out(now);
                return Ok(Stop::Keep);
            }
            if woken.stop == Some(Stop::End) {
                tracing::info!("stopping: ending calls");
                self.core.shutdown(now);
                end = Some(now + SHUTDOWN_GRACE);
            }
        }
    }

    fn answer(&mut self, request: &Request, now: Instant) -> Answer {
        match request {
            Request::Status => {
                let (load, engine) = self.core.status(now);
                Answer::Value(json!({
                    "version": env!("CARGO_PKG_VERSION"),
                    "pid": std::process::id(),
                    "uptime_s": now.duration_since(self.started).as_secs(),
                    "relay": self.datapath.status(),
                    "load": load,
                    "engine": engine,
                    "signalling": self.statistics,
                    "filter": self.filter_status(),
                    "journal": self.keeper.as_ref().map(|keeper| keeper.status(now)),
                }))
            }
        }
    }

    /// What the filters of the sockets did: datagrams by verdict.
    fn filter_status(&self) -> Value {
        let counters = self.filters.counters();
        counters.map_or(Value::Null, |counters| counters.named().map(|(name, count)| (name, json!(count))).collect())
    }

    /// Hands the engine what waits in a socket.
    fn receive(&mut self, place: usize, buffer: &mut [u8], now: Instant) {
        let Some(DatagramSocket { protocol, realm, socket }) = self.sockets.get(place) else { return };
        for _ in 0..BATCH {
            match socket.try_recv_from(buffer) {
                Ok((length, source)) => {
                    self.statistics.received += 1;
                    let bytes = buffer.get(..length).unwrap_or_default();
                    let (protocol, realm) = (protocol.clone(), *realm);
                    self.core.handle_input(Input::Datagram { protocol, realm, source, bytes }, now);
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    self.statistics.receive_errors += 1;
                    self.throttle.warn(now, || format!("receiving in realm {realm}: {error}"));
                }
            }
        }
    }

    /// Hands the engine what happened on connections.
    fn receive_connections(&mut self, now: Instant) {
        let Some(connections) = &mut self.connections else { return };
        let refused = connections.statistics().refused();
        if refused != std::mem::replace(&mut self.refused, refused) {
            self.throttle.warn(now, || format!("connections are refused: {:?}", connections.statistics()));
        }
        for event in connections.take() {
            self.statistics.stream_received += u64::from(matches!(event, connections::Event::Message { .. }));
            self.core.handle_input(event.input(), now);
        }
    }

    /// Carries out what the engine wants, hands it what the datapath tells, and so on until both are quiet.
    fn carry_out(&mut self, now: Instant) {
        self.settle(now);
        if let Some(keeper) = &mut self.keeper {
            keeper.note(self.core.take_changes(keeper.clock()));
            keeper.note(self.datapath.take_changes());
            if let Err(error) = keeper.commit(now) {
                self.statistics.journal_errors += 1;
                self.alarms.error(now, || format!("{error:#}"));
            }
        }
        for message in std::mem::take(&mut self.unsent) {
            self.send(message, now);
        }
    }

    fn settle(&mut self, now: Instant) {
        loop {
            while let Some(output) = self.core.poll_output() {
                self.execute(output, now);
            }
            let mut events = std::mem::take(&mut self.events);
            self.datapath.poll_events(now, &mut events);
            let quiet = events.is_empty();
            for event in events.drain(..) {
                self.core.handle_input(Input::Media(event), now);
            }
            self.events = events;
            if quiet {
                return;
            }
        }
    }

    fn execute(&mut self, output: Output, now: Instant) {
        match output {
            Output::Send { protocol, realm, destination, bytes } => {
                self.unsent.push(Message { protocol, realm, destination, bytes });
            }
            Output::Known { realm, remote, known } => {
                if let Err(error) = self.filters.set_known(realm, remote, known) {
                    self.statistics.filter_errors += 1;
                    self.alarms.error(now, || format!("in a flood, messages of {remote} may be lost: {error:#}"));
                }
            }
            Output::Media(MediaCommand::Apply(spec)) => {
                let stream = spec.id;
                if let Err(error) = self.datapath.apply(spec, now) {
                    self.statistics.media_errors += 1;
                    self.alarms.error(now, || format!("stream {} has no media, its call ends: {error}", stream.0));
                    self.core.handle_input(Input::Media(MediaEvent::Failed { stream }), now);
                }
            }
            Output::Media(MediaCommand::Release(stream)) => self.datapath.release(stream, now),
            Output::Record(cdr) => {
                if let Some(Err(error)) = self.records.as_ref().map(|records| records.write(&cdr)) {
                    self.statistics.record_errors += 1;
                    self.alarms.error(now, || error.to_string());
                }
            }
        }
    }

    /// A datagram that the kernel refuses now is lost like one on the network: its protocol sends it again.
    fn send(&mut self, message: Message, now: Instant) {
        let Message { protocol, realm, destination, bytes } = message;
        if destination.transport != Transport::Udp {
            let connections = self.connections.as_mut();
            let sent = connections.is_some_and(|connections| connections.send(&protocol, realm, destination, bytes));
            *if sent { &mut self.statistics.stream_sent } else { &mut self.statistics.stream_lost } += 1;
            return;
        }
        let is_its = |socket: &&DatagramSocket| (socket.realm, &socket.protocol) == (realm, &protocol);
        let Some(DatagramSocket { socket, .. }) = self.sockets.iter().find(is_its) else { return };
        // The kernel is asked each time: tokio, once refused, would refuse all until its next look at the socket.
        match SockRef::from(socket).send_to(&bytes, &destination.remote.into()) {
            Ok(_) => self.statistics.sent += 1,
            Err(error) => {
                self.statistics.send_errors += 1;
                self.throttle.warn(now, || format!("sending to {destination} in realm {realm}: {error}"));
            }
        }
    }
}

/// A message to send.
struct Message {
    protocol: Protocol,
    realm: RealmId,
    destination: Flow,
    bytes: Vec<u8>,
}

/// What the loop must look at.
#[derive(Debug, Default)]
struct Woken {
    /// The sockets in which datagrams wait, by index.
    sockets: Vec<usize>,
    datapath: bool,
    connections: bool,
    reload: bool,
    timeout: bool,
    stop: Option<Stop>,
    question: Option<Question>,
}

impl Woken {
    fn is_empty(&self) -> bool {
        let quiet = !self.datapath && !self.connections && !self.reload && !self.timeout && self.question.is_none();
        quiet && self.sockets.is_empty() && self.stop.is_none()
    }
}

#[cfg(test)]
mod tests;
