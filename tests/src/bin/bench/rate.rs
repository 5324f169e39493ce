//! How many packets a second a chain takes without losing one.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::cases::Case;
use crate::program::median_of_three;

/// What one turn of a case showed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// Thousands of packets a second without loss; 0 where even the lowest rate tried lost some.
    pub(crate) kpps: f64,
    /// How much is lost of packets that come as fast as one core makes them.
    pub(crate) loss_percent: f64,
}

/// One turn of `case`. `frames` is how many a burst has.
///
/// A burst of which nothing is lost shows the rate at once: generator, relay and sink are then one loop on one core, in
/// which nothing waits for another. Only a chain with a queue in it has to be fed at a pace.
pub(crate) fn measure(case: &mut Case, frames: u32) -> Result<Sample> {
    if let Some(queued) = &case.queued {
        let begin = queued.begin;
        case.renew()?;
        let rate = climb(case, begin)?;
        if let Some(queued) = &mut case.queued {
            queued.begin = f64::max(rate * 0.6, begin * 0.5);
        }
        let burst = send(case, frames, 0)?;
        return Ok(Sample { kpps: rate / 1e3, loss_percent: burst.loss_percent() });
    }
    // A ring may overflow because the machine was away for a moment: one burst of three may lose.
    let bursts = [send(case, frames, 0)?, send(case, frames, 0)?, send(case, frames, 0)?];
    let loss_percent = median_of_three(bursts.each_ref().map(Transfer::loss_percent));
    if bursts.iter().filter(|burst| burst.lossless()).count() >= 2 {
        return Ok(Sample { kpps: median_of_three(bursts.each_ref().map(Transfer::rate)) / 1e3, loss_percent });
    }
    let begin = median_of_three(bursts.each_ref().map(Transfer::delivery_rate)) / 2.0;
    Ok(Sample { kpps: climb(case, begin)? / 1e3, loss_percent })
}

/// How many frames `case` takes in the given time, about.
pub(crate) fn frames_for(case: &mut Case, time: Duration) -> Result<u32> {
    let trial = send(case, TRIAL, 0)?;
    let frames = trial.sent as f64 / trial.sending.as_secs_f64() * time.as_secs_f64();
    Ok((frames as u32).clamp(TRIAL, MOST))
}

/// The highest rate at which nothing is lost: from `begin` upwards until something is, so that no attempt overfeeds the
/// relay by much.
fn climb(case: &mut Case, begin: f64) -> Result<f64> {
    let (mut rate, mut best) = (begin, 0.0);
    for _ in 0..STEPS {
        match sustained(case, rate)? {
            Some(reached) => {
                best = f64::max(best, reached);
                rate *= STEP;
            }
            None if best > 0.0 => break,
            None => rate /= 2.0,
        }
    }
    Ok(best)
}

/// The rate that was really sent at, if nothing was lost in one of two attempts: one mishap of the machine is not the
/// relay's.
fn sustained(case: &mut Case, rate: f64) -> Result<Option<f64>> {
    for _ in 0..2 {
        let paced = send(case, PACED, (1e9 / rate) as u64)?;
        if paced.lossless() {
            return Ok(Some(paced.rate()));
        }
    }
    Ok(None)
}

/// Packets sent and arrived.
struct Transfer {
    sent: u64,
    arrived: u64,
    /// How long the generator took.
    sending: Duration,
    /// How much longer the last packet took to arrive.
    waiting: Duration,
}

impl Transfer {
    fn lossless(&self) -> bool {
        // More may have arrived than was sent: latecomers of an earlier attempt, which make this one worthless.
        self.sent == self.arrived
    }

    fn loss_percent(&self) -> f64 {
        100.0 * self.sent.saturating_sub(self.arrived) as f64 / self.sent.max(1) as f64
    }

    /// Packets sent a second.
    fn rate(&self) -> f64 {
        self.sent as f64 / (self.sending + self.waiting).as_secs_f64()
    }

    /// Packets that arrived a second.
    fn delivery_rate(&self) -> f64 {
        self.arrived.max(1) as f64 / (self.sending + self.waiting).as_secs_f64()
    }
}

/// Has the generator work through `frames` and waits until everything has arrived or nothing more comes.
fn send(case: &mut Case, frames: u32, interval_ns: u64) -> Result<Transfer> {
    let before = case.sink.packets()?;
    let sent = case.generator.run(frames, interval_ns)?;
    let start = Instant::now();
    let (mut last, mut waiting) = (start, Duration::ZERO);
    let mut arrived = case.sink.packets()?.saturating_sub(before);
    while arrived < sent.packets && last.elapsed() < QUIET {
        std::thread::sleep(Duration::from_millis(1));
        let now = case.sink.packets()?.saturating_sub(before);
        if now > arrived {
            (arrived, last, waiting) = (now, Instant::now(), start.elapsed());
        }
    }
    Ok(Transfer { sent: sent.packets, arrived, sending: sent.time, waiting })
}

/// Frames of the burst that tells how many frames a burst should have.
const TRIAL: u32 = 20_032;
/// Frames of a burst, at most.
const MOST: u32 = 1_000_000;
/// From an attempt to the next, and how many attempts there are at most.
const STEP: f64 = 1.15;
const STEPS: u32 = 24;
/// Frames that a generator which keeps a pace works through: a fifth of a second, about.
const PACED: u32 = 1_500_000;
/// When nothing has arrived for so long, nothing more will.
const QUIET: Duration = Duration::from_millis(100);
