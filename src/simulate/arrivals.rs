//! When requests arrive, and how large they are.

use crate::schedule::{ModelId, Nanos, Priority};
use crate::space::Stream;
use schema::{Batch, Seed};
use std::fmt;
use std::time::Duration;
use thiserror::Error;

/// The largest request that is drawn (DeepRecSys caps its queries there).
pub const ROWS_MAX: u32 = 1024;

/// One request of a trace.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    pub at: Nanos,
    pub model: ModelId,
    pub rows: Batch,
    /// The instant by which its answer is wanted; [`Nanos::NEVER`] for none.
    pub deadline: Nanos,
    pub priority: Priority,
}

/// How the rate of arrivals goes.
#[derive(Copy, Clone, Debug, PartialEq)]
pub enum Pattern {
    /// At random, at one rate.
    Poisson { per_s: f64 },
    /// At random; the rate is `factor` times as high for `length`, once in five lengths, for the first time after one.
    Burst { per_s: f64, factor: f64, length: Nanos },
    /// At random; the rate goes from `low_per_s` up to `high_per_s` and down again within a period, along a cosine.
    Diurnal { low_per_s: f64, high_per_s: f64, period: Nanos },
}

/// A burst takes one of so many of its lengths.
pub const BURST_EVERY: u64 = 5;

/// Why a text is no pattern or no size.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PatternError {
    #[error("'{0}' is none of poisson:200/s, burst:200/s,2x,300ms, diurnal:50..400/s,1h")]
    Pattern(String),
    #[error("'{0}' is none of fixed:1, normal:8,2, lognormal:2,0.5, pareto:1,1.5, rec, heavy")]
    Sizes(String),
    #[error("'{text}': {what} is {found}; it is more than 0 and at most 1e9")]
    Range { text: String, what: &'static str, found: String },
}

impl Pattern {
    /// `poisson:200/s`, `burst:200/s,2x,300ms` or `diurnal:50..400/s,1h`; `duration` reads the times.
    ///
    /// # Errors
    /// [`PatternError`], also for rates of 0 and ∞.
    pub fn parse(text: &str, duration: impl Fn(&str) -> Option<Nanos>) -> Result<Pattern, PatternError> {
        let other = || PatternError::Pattern(text.to_owned());
        let (kind, rest) = text.split_once(':').ok_or_else(other)?;
        let rate = |number: &str| {
            let number = number.strip_suffix("/s").unwrap_or(number);
            positive(text, "the rate", number.parse().map_err(|_| other())?)
        };
        let time = |time: &str| match duration(time).ok_or_else(other)? {
            Nanos::ZERO => Err(PatternError::Range { text: text.to_owned(), what: "the time", found: time.to_owned() }),
            time => Ok(time),
        };
        match (kind, rest.split(',').collect::<Vec<_>>().as_slice()) {
            ("poisson", &[per_s]) => Ok(Pattern::Poisson { per_s: rate(per_s)? }),
            ("burst", &[per_s, factor, length]) => {
                let factor = factor.strip_suffix('x').and_then(|factor| factor.parse().ok()).ok_or_else(other)?;
                let factor = positive(text, "the factor", factor)?;
                Ok(Pattern::Burst { per_s: rate(per_s)?, factor, length: time(length)? })
            }
            ("diurnal", &[range, period]) => {
                let (low, high) = range.split_once("..").ok_or_else(other)?;
                Ok(Pattern::Diurnal { low_per_s: rate(low)?, high_per_s: rate(high)?, period: time(period)? })
            }
            _ => Err(other()),
        }
    }

    /// Requests a second at an instant.
    fn at(&self, now: Nanos) -> f64 {
        match *self {
            Pattern::Poisson { per_s } => per_s,
            Pattern::Burst { per_s, factor, length } => {
                if now.0 / length.0 % BURST_EVERY == 1 {
                    per_s * factor
                } else {
                    per_s
                }
            }
            Pattern::Diurnal { low_per_s, high_per_s, period } => {
                let phase = (now.0 % period.0) as f64 / period.as_f64();
                low_per_s + (high_per_s - low_per_s) * (1.0 - (phase * std::f64::consts::TAU).cos()) / 2.0
            }
        }
    }

    fn highest(&self) -> f64 {
        match *self {
            Pattern::Poisson { per_s } => per_s,
            Pattern::Burst { per_s, factor, .. } => per_s * factor.max(1.0),
            Pattern::Diurnal { low_per_s, high_per_s, .. } => low_per_s.max(high_per_s),
        }
    }
}

/// As it is read.
impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = |time: Nanos| Duration::from_nanos(time.0);
        match *self {
            Pattern::Poisson { per_s } => write!(f, "poisson:{per_s}/s"),
            Pattern::Burst { per_s, factor, length } => write!(f, "burst:{per_s}/s,{factor}x,{:?}", time(length)),
            Pattern::Diurnal { low_per_s, high_per_s, period } => {
                write!(f, "diurnal:{low_per_s}..{high_per_s}/s,{:?}", time(period))
            }
        }
    }
}

fn positive(text: &str, what: &'static str, value: f64) -> Result<f64, PatternError> {
    // A rate beyond 10⁹ a second has no gaps in whole nanoseconds.
    let right = value > 0.0 && value <= 1e9;
    if right { Ok(value) } else { Err(PatternError::Range { text: text.to_owned(), what, found: value.to_string() }) }
}

/// How many rows a request has; what is drawn is rounded and lies from 1 to [`ROWS_MAX`].
#[derive(Copy, Clone, Debug, PartialEq)]
pub enum Sizes {
    Fixed(Batch),
    Normal {
        mean: f64,
        deviation: f64,
    },
    /// Of the logarithm.
    Lognormal {
        mean: f64,
        deviation: f64,
    },
    Pareto {
        least: f64,
        shape: f64,
    },
    /// MLPerf's recommendation queries (papers §4.3): 20 sizes of equal probability.
    Rec,
    /// As heavy-tailed as production queries are said to be (papers §4.4): lognormal of 4.0 and 1.2.
    Heavy,
}

/// MLPerf inference, `recommendation/dlrm_v2/pytorch/tools/dist_quantile.txt`.
const REC: [u32; 20] = [100, 100, 200, 200, 200, 200, 200, 200, 200, 200, 200, 200, 200, 200, 300, 300, 400, 500, 600, 700];

impl Sizes {
    /// `fixed:1`, `normal:8,2`, `lognormal:2,0.5`, `pareto:1,1.5`, `rec` or `heavy`.
    ///
    /// # Errors
    /// [`PatternError`].
    pub fn parse(text: &str) -> Result<Sizes, PatternError> {
        let other = || PatternError::Sizes(text.to_owned());
        let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
        let numbers: Result<Vec<f64>, _> = rest.split(',').filter(|number| !number.is_empty()).map(str::parse).collect();
        let numbers = numbers.map_err(|_| other())?;
        let finite = numbers.iter().all(|number| number.is_finite());
        match (kind, numbers.as_slice()) {
            ("fixed", &[rows]) if rows.fract() == 0.0 && (1.0..=f64::from(ROWS_MAX)).contains(&rows) => {
                Batch::new(rows as u32).map(Sizes::Fixed).ok_or_else(other)
            }
            ("normal", &[mean, deviation]) if finite && deviation >= 0.0 => Ok(Sizes::Normal { mean, deviation }),
            ("lognormal", &[mean, deviation]) if finite && deviation >= 0.0 => Ok(Sizes::Lognormal { mean, deviation }),
            ("pareto", &[least, shape]) => {
                Ok(Sizes::Pareto { least: positive(text, "the least", least)?, shape: positive(text, "the shape", shape)? })
            }
            ("rec", []) => Ok(Sizes::Rec),
            ("heavy", []) => Ok(Sizes::Heavy),
            _ => Err(other()),
        }
    }

    /// The next request's rows.
    pub fn draw(&self, stream: &mut Stream) -> Batch {
        let rows = match *self {
            Sizes::Fixed(batch) => return batch,
            Sizes::Normal { mean, deviation } => mean + deviation * stream.normal(),
            Sizes::Lognormal { mean, deviation } => (mean + deviation * stream.normal()).exp(),
            Sizes::Pareto { least, shape } => least / (1.0 - stream.unit()).powf(1.0 / shape),
            Sizes::Rec => f64::from(REC[stream.below(REC.len())]),
            Sizes::Heavy => (4.0 + 1.2 * stream.normal()).exp(),
        };
        Batch::new(rows.round().clamp(1.0, f64::from(ROWS_MAX)) as u32).unwrap_or(Batch::ONE)
    }
}

/// One model's part of the arrivals.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Mix {
    pub model: ModelId,
    /// Relative to the others'.
    pub weight: f64,
    /// From arrival to deadline; [`Nanos::NEVER`] for none.
    pub within: Nanos,
    pub sizes: Sizes,
}

/// Arrivals drawn from a pattern, without end.
#[derive(Clone, Debug)]
pub struct Arrivals {
    pattern: Pattern,
    mix: Vec<Mix>,
    stream: Stream,
    now: f64,
}

impl Arrivals {
    /// `mix` names at least one model.
    pub fn new(pattern: Pattern, mix: Vec<Mix>, seed: Seed) -> Arrivals {
        assert!(!mix.is_empty(), "arrivals are of some model");
        Arrivals { pattern, mix, stream: Stream::named(seed, "arrivals"), now: 0.0 }
    }

    fn model(&mut self) -> Mix {
        let total: f64 = self.mix.iter().map(|part| part.weight).sum();
        let mut at = self.stream.unit() * total;
        for part in &self.mix {
            at -= part.weight;
            if at < 0.0 {
                return *part;
            }
        }
        self.mix[self.mix.len() - 1]
    }
}

impl Iterator for Arrivals {
    type Item = Arrival;

    /// By thinning (Lewis and Shedler 1979): gaps of the highest rate, of which so many are kept as the rate at hand asks for.
    fn next(&mut self) -> Option<Arrival> {
        let highest = self.pattern.highest();
        loop {
            self.now -= (1.0 - self.stream.unit()).ln() / highest * 1e9;
            let at = Nanos::from_f64(self.now);
            let steady = matches!(self.pattern, Pattern::Poisson { .. });
            if steady || self.stream.unit() * highest < self.pattern.at(at) {
                let Mix { model, within, sizes, .. } = self.model();
                let rows = sizes.draw(&mut self.stream);
                return Some(Arrival { at, model, rows, deadline: at + within, priority: Priority::default() });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(text: &str) -> Option<Nanos> {
        let (number, unit) = text.split_at(text.find(|c: char| c.is_alphabetic())?);
        let scale = [("ms", 1e-3), ("s", 1.0), ("h", 3600.0)].into_iter().find(|(name, _)| *name == unit)?.1;
        Some(Nanos::from_secs_f64(number.parse::<f64>().ok()? * scale))
    }

    fn pattern(text: &str) -> Result<Pattern, PatternError> {
        Pattern::parse(text, millis)
    }

    fn draw(pattern: Pattern, count: usize) -> Vec<Arrival> {
        let mix = vec![Mix { model: ModelId(0), weight: 1.0, within: Nanos::NEVER, sizes: Sizes::Fixed(Batch::ONE) }];
        Arrivals::new(pattern, mix, Seed(7)).take(count).collect()
    }

    #[test]
    fn patterns_are_read_as_the_command_line_writes_them() {
        assert_eq!(pattern("poisson:200/s"), Ok(Pattern::Poisson { per_s: 200.0 }));
        let length = Nanos(300_000_000);
        assert_eq!(pattern("burst:200/s,2x,300ms"), Ok(Pattern::Burst { per_s: 200.0, factor: 2.0, length }));
        let period = Nanos(3_600_000_000_000);
        assert_eq!(pattern("diurnal:50..400/s,1h"), Ok(Pattern::Diurnal { low_per_s: 50.0, high_per_s: 400.0, period }));
        for text in ["poisson:0.5/s", "burst:200/s,2x,300ms", "diurnal:50..400/s,3600s"] {
            assert_eq!(pattern(text).map(|pattern| pattern.to_string()), Ok(text.to_owned()));
        }
        for bad in ["poisson:0/s", "poisson:inf/s", "poisson:NaN", "poisson:-3/s", "burst:1/s,0x,1s", "burst:1/s,2x,0ms"] {
            assert!(matches!(pattern(bad), Err(PatternError::Range { .. })), "{bad}: {:?}", pattern(bad));
        }
        for bad in ["poisson", "poisson:x/s", "burst:1/s,2,1s", "diurnal:5/s,1h", "square:1/s", "poisson:1/s,2"] {
            assert!(matches!(pattern(bad), Err(PatternError::Pattern(_))), "{bad}: {:?}", pattern(bad));
        }
        for bad in ["fixed:0", "fixed:1.5", "fixed:9999", "normal:1", "pareto:0,1", "pareto:inf,1", "rec:1", "normal:nan,1", "x"]
        {
            assert!(Sizes::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_steady_pattern_is_a_poisson_process() {
        let arrivals = draw(Pattern::Poisson { per_s: 1000.0 }, 100_000);
        let mut gaps: Vec<f64> = arrivals.windows(2).map(|pair| (pair[1].at - pair[0].at).as_f64() * 1e-6).collect();
        gaps.sort_by(f64::total_cmp);
        let distance =
            gaps.iter().enumerate().map(|(i, gap)| ((i as f64 + 0.5) / gaps.len() as f64 - (1.0 - (-gap).exp())).abs());
        let distance = distance.fold(0.0, f64::max);
        assert!(distance < 0.005, "distance of Kolmogorov and Smirnov {distance}");
    }

    #[test]
    fn bursts_and_days_keep_their_rates() {
        let length = Nanos(100_000_000);
        let burst = draw(Pattern::Burst { per_s: 1000.0, factor: 3.0, length }, 100_000);
        let inside = burst.iter().filter(|arrival| arrival.at.0 / length.0 % BURST_EVERY == 1).count() as f64;
        assert!((inside / 100_000.0 - 3.0 / 7.0).abs() < 0.01, "{inside} within the bursts");
        let period = Nanos(1_000_000_000);
        let day = draw(Pattern::Diurnal { low_per_s: 100.0, high_per_s: 900.0, period }, 100_000);
        let noon = day.iter().filter(|arrival| matches!((arrival.at.0 % period.0) * 4 / period.0, 1 | 2)).count() as f64;
        // Of (1 − cos)/2 from 1/4 to 3/4 of the period: 0.25 + 1/2π of it, and half of the constant part.
        let expected = (100.0 * 0.5 + 800.0 * (0.25 + 0.5 / std::f64::consts::PI)) / 500.0;
        assert!((noon / 100_000.0 - expected).abs() < 0.01, "{noon} in the middle, expected {expected}");
    }

    /// Distance of Kolmogorov and Smirnov at 10⁵ draws at most 0.02 (papers §4.3).
    #[test]
    fn sizes_have_their_distributions() {
        let distance = |sizes: Sizes, at: &dyn Fn(u32) -> f64| {
            let mut stream = Stream::new(Seed(3));
            let mut count = vec![0u32; ROWS_MAX as usize + 1];
            (0..100_000).for_each(|_| count[sizes.draw(&mut stream).rows() as usize] += 1);
            let mut sum = 0;
            let steps = (1..=ROWS_MAX).map(|rows| {
                sum += count[rows as usize];
                (f64::from(sum) / 1e5 - at(rows)).abs()
            });
            steps.fold(0.0, f64::max)
        };
        let rec = |rows: u32| REC.iter().filter(|&&size| size <= rows).count() as f64 / 20.0;
        assert!(distance(Sizes::Rec, &rec) < 0.02);
        let pareto = |rows: u32| if rows == ROWS_MAX { 1.0 } else { 1.0 - (1.0 / (f64::from(rows) + 0.5)).powf(1.5) };
        assert!(distance(Sizes::Pareto { least: 1.0, shape: 1.5 }, &pareto) < 0.02);
        let mut stream = Stream::new(Seed(5));
        let mut heavy: Vec<u32> = (0..100_000).map(|_| Sizes::Heavy.draw(&mut stream).rows()).collect();
        heavy.sort_unstable();
        let mean = heavy.iter().map(|&rows| f64::from(rows)).sum::<f64>() / 1e5;
        // Published: mean 109, p95 412.
        assert!((mean - 109.0).abs() < 3.0 && heavy[95_000].abs_diff(412) < 20, "mean {mean}, p95 {}", heavy[95_000]);
    }

    #[test]
    fn one_seed_gives_one_trace_and_a_mix_its_weights() {
        let mix = |model, weight| Mix { model: ModelId(model), weight, within: Nanos(5), sizes: Sizes::Heavy };
        let arrivals = |seed| {
            let pattern = Pattern::Poisson { per_s: 10.0 };
            Arrivals::new(pattern, vec![mix(0, 0.7), mix(1, 0.3)], Seed(seed)).take(20_000).collect::<Vec<_>>()
        };
        assert_eq!(arrivals(1), arrivals(1));
        assert_ne!(arrivals(1), arrivals(2));
        let first = arrivals(1).iter().filter(|arrival| arrival.model == ModelId(0)).count() as f64;
        assert!((first / 20_000.0 - 0.7).abs() < 0.02, "{first}");
        assert!(arrivals(1).iter().all(|arrival| arrival.deadline == arrival.at + Nanos(5)));
    }
}
