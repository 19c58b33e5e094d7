//! When the queries of the Server scenario arrive.

use super::mersenne::Mersenne;
use crate::schedule::Nanos;

/// Instants of a Poisson process, counted from the start of the run; the first is 0.
///
/// Bit-equal to LoadGen built with libstdc++: each gap is −ln(1 − u)/rate, u from two words of `mt19937`, in f64, cut to whole
/// nanoseconds. `ln` is the system's: another C library than glibc may round a gap in many thousands differently.
///
/// Source: mlcommons/inference `loadgen/loadgen.cc`, `ScheduleDistribution`; papers, MLPerf Inference.
#[derive(Clone)]
pub struct Arrivals {
    generator: Mersenne,
    per_s: f64,
    next: Nanos,
}

impl Arrivals {
    /// `per_s` queries a second on average; more than 0 and finite.
    pub fn new(per_s: f64, seed: u64) -> Self {
        Arrivals { generator: Mersenne::new(seed), per_s, next: Nanos::ZERO }
    }
}

impl Iterator for Arrivals {
    type Item = Nanos;

    fn next(&mut self) -> Option<Nanos> {
        let at = self.next;
        let gap_s = -(1.0 - self.generator.unit()).ln() / self.per_s;
        self.next = at + Nanos((gap_s * 1e9) as u64);
        Some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loadgen::Seeds;

    fn arrivals(per_s: f64) -> Arrivals {
        Arrivals::new(per_s, Seeds::PUBLISHED.schedule)
    }

    /// Checked against g++ and libstdc++.
    #[test]
    fn the_first_gaps_are_those_of_the_published_seed() {
        let at: Vec<u64> = arrivals(100.0).take(6).map(|at| at.0).collect();
        let gaps: Vec<u64> = at.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert_eq!((at[0], gaps), (0, vec![18_436_540, 4_579_236, 12_858_623, 7_129_947, 3_864_066]));
    }

    #[test]
    fn the_rate_is_kept() {
        let last = arrivals(250.0).nth(100_000).unwrap();
        let per_s = 100_000.0 / last.as_secs_f64();
        // A standard deviation of the mean gap is 0.3 %.
        assert!((per_s / 250.0 - 1.0).abs() < 0.015, "{per_s}");
    }
}
