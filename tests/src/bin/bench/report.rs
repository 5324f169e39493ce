//! What the figures say: a table and the targets for people, one flat object of numbers for machines.

use std::fmt;

use serde_json::{Map, Value};

use crate::cases::NAMES;
use crate::rounds::Results;

/// Median, least and greatest of a figure's rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    median: f64,
    least: f64,
    greatest: f64,
}

impl Spread {
    /// `None` of nothing.
    fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (least, greatest) = (*values.first()?, *values.last()?);
        let median = match values.len() {
            odd if odd % 2 == 1 => *values.get(odd / 2)?,
            even => (values.get(even / 2 - 1)? + values.get(even / 2)?) / 2.0,
        };
        Some(Self { median, least, greatest })
    }
}

/// What is printed.
pub(crate) struct Report {
    lines: Vec<Line>,
    targets: Vec<Target>,
}

struct Line {
    name: &'static str,
    kpps: Spread,
    of_bare: Spread,
    loss_percent: Spread,
    program_ns: Option<Spread>,
}

/// A figure and the bound that it is meant to keep.
struct Target {
    what: &'static str,
    reached: Spread,
    unit: &'static str,
    /// At least, or at most.
    least: bool,
    bound: f64,
}

impl Report {
    pub(crate) fn of(results: &Results) -> Self {
        let lines =
            NAMES.iter().zip(&results.samples).zip(program_ns(results)).filter_map(|((name, samples), program)| {
                Some(Line {
                    name,
                    kpps: Spread::of(samples.iter().map(|sample| sample.kpps))?,
                    of_bare: ratio(results, name, "bare")?,
                    loss_percent: Spread::of(samples.iter().map(|sample| sample.loss_percent))?,
                    program_ns: program,
                })
            });
        let target = |what, reached: Option<Spread>, unit, least, bound| {
            reached.map(|reached| Target { what, reached, unit, least, bound })
        };
        let times = Spread::of(results.times.iter().map(|times| times.latch / times.bare));
        let targets = [
            target("latch's packets a second", ratio(results, "latch", "bare"), "of bare", true, 0.88),
            target("latch's packets a second", ratio(results, "latch", "nft"), "x nft", true, 2.0),
            target("latch's packets a second", ratio(results, "latch", "rtpengine"), "x rtpengine", true, 10.0),
            target("latch's program", times, "x bare", false, 5.0),
        ];
        Self { lines: lines.collect(), targets: targets.into_iter().flatten().collect() }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = ["", "kpps", "(min-max)", "of bare", "(min-max)", "lost %", "program ns", "(min-max)"];
        let row = |f: &mut fmt::Formatter<'_>, cells: [&str; 8]| {
            let [name, kpps, kpps_spread, of_bare, of_bare_spread, loss, program, program_spread] = cells;
            let line = format!(
                "{name:<10} {kpps:>7} {kpps_spread:<13} {of_bare:>8} {of_bare_spread:<13} {loss:>7} {program:>11} {program_spread}"
            );
            writeln!(f, "{}", line.trim_end())
        };
        row(f, head)?;
        for line in &self.lines {
            let (kpps, kpps_spread) = cells(line.kpps, 0);
            let (of_bare, of_bare_spread) = cells(line.of_bare, 2);
            let (program, program_spread) = line.program_ns.map(|spread| cells(spread, 1)).unwrap_or_default();
            let loss = format!("{:.1}", line.loss_percent.median);
            row(f, [line.name, &kpps, &kpps_spread, &of_bare, &of_bare_spread, &loss, &program, &program_spread])?;
        }
        writeln!(f)?;
        self.targets.iter().try_for_each(|target| writeln!(f, "{target}"))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reached = self.reached.median;
        let met = if self.least { reached >= self.bound } else { reached <= self.bound };
        let sign = if self.least { "≥" } else { "≤" };
        let (value, spread) = cells(self.reached, 2);
        let verdict = if met { "met" } else { "missed" };
        write!(f, "{}: {value} {} {spread} (target {sign} {:.2}): {verdict}", self.what, self.unit, self.bound)
    }
}

fn cells(spread: Spread, digits: usize) -> (String, String) {
    let Spread { median, least, greatest } = spread;
    (format!("{median:.digits$}"), format!("({least:.digits$}-{greatest:.digits$})"))
}

/// One object of numbers, `<case>.<metric>`: medians.
pub(crate) fn flat(results: &Results) -> Map<String, Value> {
    let mut object = Map::new();
    for ((name, samples), program) in NAMES.iter().zip(&results.samples).zip(program_ns(results)) {
        let mut put = |metric: &str, spread: Option<Spread>| {
            if let Some(Spread { median, .. }) = spread {
                let rounded = (median * 100.0).round() / 100.0;
                object.insert(format!("{name}.{metric}"), rounded.into());
            }
        };
        put("kpps", Spread::of(samples.iter().map(|sample| sample.kpps)));
        put("loss_percent", Spread::of(samples.iter().map(|sample| sample.loss_percent)));
        put("program_ns", program);
    }
    object
}

/// Of each case; only two have an XDP program.
fn program_ns(results: &Results) -> [Option<Spread>; 4] {
    let times = &results.times;
    [Spread::of(times.iter().map(|times| times.bare)), Spread::of(times.iter().map(|times| times.latch)), None, None]
}

/// The packets a second of one case in those of another, round by round.
fn ratio(results: &Results, one: &str, other: &str) -> Option<Spread> {
    let of = |name: &str| NAMES.iter().zip(&results.samples).find(|(known, _)| **known == name).map(|(_, s)| s);
    let rounds = of(one)?.iter().zip(of(other)?);
    Spread::of(rounds.filter(|(_, other)| other.kpps > 0.0).map(|(one, other)| one.kpps / other.kpps))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::Times;
    use crate::rate::Sample;

    fn results() -> Results {
        let samples = |kpps: [f64; 3], loss_percent| kpps.map(|kpps| Sample { kpps, loss_percent }).to_vec();
        Results {
            samples: [
                samples([2400.0, 1200.0, 2000.0], 0.0),
                samples([1920.0, 1080.0, 1700.0], 0.0),
                samples([960.0, 480.0, 1000.0], 0.0),
                samples([100.0, 90.0, 110.0], 87.25),
            ],
            times: vec![Times { bare: 7.0, latch: 42.0 }, Times { bare: 8.0, latch: 44.0 }],
        }
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        // The second round was slow for all; the ratio of the medians would be right by chance only.
        let ratio = ratio(&results(), "latch", "bare").unwrap();
        assert_eq!(ratio, Spread { median: 0.85, least: 0.8, greatest: 0.9 });
        assert_eq!(Spread::of([]), None);
        assert_eq!(Spread::of([3.0, 1.0, 2.0, 6.0]).unwrap().median, 2.5);
    }

    #[test]
    fn the_object_is_flat_and_holds_numbers_only() {
        let object = flat(&results());
        let keys: Vec<_> = object.keys().map(String::as_str).collect();
        let expected = [
            "bare.kpps",
            "bare.loss_percent",
            "bare.program_ns",
            "latch.kpps",
            "latch.loss_percent",
            "latch.program_ns",
            "nft.kpps",
            "nft.loss_percent",
            "rtpengine.kpps",
            "rtpengine.loss_percent",
        ];
        assert_eq!(keys, expected);
        assert!(object.values().all(Value::is_number));
        assert_eq!(object["rtpengine.loss_percent"], 87.25);
        assert_eq!(object["latch.program_ns"], 43.0);
    }

    #[test]
    fn targets_say_whether_they_are_met() {
        let text = Report::of(&results()).to_string();
        assert!(text.contains("latch's packets a second: 0.85 of bare (0.80-0.90) (target ≥ 0.88): missed"), "{text}");
        assert!(text.contains("latch's packets a second: 2.00 x nft (1.70-2.25) (target ≥ 2.00): met"), "{text}");
        assert!(text.contains("x rtpengine (12.00-19.20) (target ≥ 10.00): met"), "{text}");
        assert!(text.contains("(target ≤ 5.00): missed"), "{text}");
        let mut fast = results();
        fast.times.iter_mut().for_each(|times| times.latch /= 2.0);
        assert!(Report::of(&fast).to_string().contains("(target ≤ 5.00): met"));
    }
}
