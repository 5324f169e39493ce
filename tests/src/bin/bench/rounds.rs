//! Everybody in turn, round after round, so that what disturbs the machine for a while disturbs all.

use std::time::Duration;

use anyhow::Result;
use testbed::feed::{Empty, Restore};
use testbed::{Chain, interrupt};

use crate::cases::{self, NAMES, RELAY};
use crate::core::with_own_core;
use crate::program::{Programs, Times};
use crate::rate::{self, Sample};

/// What all rounds showed.
#[derive(Debug, Default)]
pub(crate) struct Results {
    /// By case, in the order of [`NAMES`]; by round.
    pub(crate) samples: [Vec<Sample>; 4],
    /// By round.
    pub(crate) times: Vec<Times>,
}

/// Builds the four chains, measures, and removes them.
pub(crate) fn run() -> Result<Results> {
    let chains = NAMES.map(Chain::new);
    let [bare, latch, nft, rtpengine] = chains;
    let (bare, latch, nft, rtpengine) = (bare?, latch?, nft?, rtpengine?);
    // Latch's datapath acts in the namespace of its thread.
    latch.relay().enter(|| {
        eprintln!("bench: four relays in four chains; each is proved to relay before it is measured");
        let (bare_case, redirect) = cases::bare(&bare)?;
        let (latch_case, relay) = cases::latch(&latch)?;
        let nft_case = cases::nft(&nft)?;
        let rtpengine_case = cases::rtpengine(&rtpengine)?;
        let mut cases = [bare_case, latch_case, nft_case, rtpengine_case];

        // Nothing ever arrives at the generators.
        let mut programs = Programs {
            bare: &redirect,
            latch: relay.program()?,
            empty: Empty::new(bare.generator(), "out")?,
            restore: Restore::new(latch.generator(), "out", latch.frame(RELAY)?)?,
            frame: latch.frame(RELAY)?,
            ingress: nix::net::if_::if_nametoindex("access")?,
        };

        with_own_core(|| {
            let mut results = Results::default();
            let mut frames = [0; 4];
            for (case, frames) in cases.iter_mut().zip(&mut frames) {
                // The first burst warms caches up; the second tells how fast the case is.
                rate::frames_for(case, BURST)?;
                *frames = rate::frames_for(case, BURST)?;
            }
            programs.measure()?;
            for round in 1..=ROUNDS {
                interrupt::check()?;
                eprint!("bench: round {round} of {ROUNDS}:");
                for ((case, frames), samples) in cases.iter_mut().zip(frames).zip(&mut results.samples) {
                    let sample = rate::measure(case, frames)?;
                    eprint!(" {} {:.0}", case.name, sample.kpps);
                    samples.push(sample);
                }
                let times = programs.measure()?;
                eprintln!(" kpps; programs {:.1} and {:.1} ns", times.bare, times.latch);
                results.times.push(times);
            }
            Ok(results)
        })
    })
}

const ROUNDS: u32 = 11;
/// How long a burst takes.
const BURST: Duration = Duration::from_millis(50);
