//! How many queries a statement about a percentile needs.
//!
//! A run that saw `t` of `n` queries over the bound shows, with confidence `c`, that at least a part `p` of all queries keeps the bound
//! when n ≥ h + t: h is the least number for which a system that is just at `p` would show at most `t` late ones among h + t with a
//! probability of at most 1 − c. That holds for one look at a number of queries fixed before; who looks, runs on and looks again needs a
//! higher confidence.
//!
//! Source: mlcommons/inference_policies `inference_rules.adoc` (early stopping), `loadgen/early_stopping.cc`; papers, MLPerf Inference.
//! LoadGen sums a hypergeometric series of up to 2·10⁵ terms; here the incomplete beta function is a continued fraction (Lentz).

use std::collections::BTreeMap;

/// Confidence of one look at a number of queries that was fixed before the run.
pub const CONFIDENCE: f64 = 0.99;
/// Confidence of each look when there may be several: up to 20 of them pass a system that is just at `p` in at most 1 % of runs.
pub const CONFIDENCE_OF_SEVERAL: f64 = 0.999;

/// The numbers of queries for one percentile and confidence, each computed once.
pub struct EarlyStopping {
    percentile: f64,
    confidence: f64,
    known: BTreeMap<u64, u64>,
}

impl EarlyStopping {
    /// For a percentile between 0 and 1, such as 0.99, and a confidence between 0 and 1.
    pub fn new(percentile: f64, confidence: f64) -> Self {
        EarlyStopping { percentile, confidence, known: BTreeMap::new() }
    }

    /// The least number of queries, all told, of which `late` may be over the bound: h(t) + t.
    pub fn queries_min(&mut self, late: u64) -> u64 {
        if let Some(&kept) = self.known.get(&late) {
            return kept + late;
        }
        let enough = |kept: u64| {
            let odds = incomplete_beta(self.percentile, kept as f64, late as f64 + 1.0);
            odds <= 1.0 - self.confidence
        };
        let mut most = 1;
        while !enough(most) {
            most *= 2;
        }
        let mut least = most / 2; // not enough, or 0
        while most - least > 1 {
            let middle = least + (most - least) / 2;
            if enough(middle) { most = middle } else { least = middle }
        }
        self.known.insert(late, most);
        most + late
    }

    /// The most of `queries` that may be over the bound; `None` when even 0 are too many because there are too few queries.
    pub fn late_max(&mut self, queries: u64) -> Option<u64> {
        if self.queries_min(0) > queries {
            return None;
        }
        let (mut least, mut most) = (0, queries);
        while most - least > 1 {
            let middle = least + (most - least) / 2;
            if self.queries_min(middle) <= queries { least = middle } else { most = middle }
        }
        Some(least)
    }

    /// The estimate of the percentile that a latency-bound scenario reports: of ascending `latencies` the t − 1 slowest are discarded and
    /// the slowest of the rest is it, t being the most late ones allowed, and at least 1. `None` with fewer than h(1) + 1 of them.
    pub fn estimate<T: Copy>(&mut self, latencies: &[T]) -> Option<T> {
        let late = self.late_max(latencies.len() as u64).filter(|&late| late >= 1)?;
        Some(latencies[latencies.len() - late as usize])
    }
}

/// Iterations of the continued fraction; it needs about √max(a, b), and there are never 10⁹ queries.
const ITERATIONS_MAX: u32 = 100_000;

/// The regularised incomplete beta function I_x(a, b) for 0 < x < 1 and a, b ≥ 1.
///
/// Source: DLMF 8.17.22, evaluated by Lentz's method; 8.17.4 where the fraction converges slowly.
fn incomplete_beta(x: f64, a: f64, b: f64) -> f64 {
    if x > (a + 1.0) / (a + b + 2.0) {
        return 1.0 - incomplete_beta(1.0 - x, b, a);
    }
    let front = (a * x.ln() + b * (-x).ln_1p() + ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b)).exp() / a;
    let nonzero = |value: f64| if value.abs() < 1e-300 { 1e-300 } else { value };
    let (mut c, mut d) = (1.0, 1.0 / nonzero(1.0 - (a + b) * x / (a + 1.0)));
    let mut fraction = d;
    for m in 1..=ITERATIONS_MAX {
        let m = f64::from(m);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        let mut change = 1.0;
        for term in [even, odd] {
            d = 1.0 / nonzero(1.0 + term * d);
            c = nonzero(1.0 + term / c);
            change = d * c;
            fraction *= change;
        }
        if (change - 1.0).abs() < 1e-15 {
            break;
        }
    }
    front * fraction
}

/// ln Γ(x) for x ≥ 1: Stirling's series (DLMF 5.11.1), exact to 10⁻¹⁵ from 10 on, and Γ(x + 1) = x·Γ(x) below.
fn ln_gamma(x: f64) -> f64 {
    const BERNOULLI: [f64; 6] = [1.0 / 12.0, -1.0 / 360.0, 1.0 / 1260.0, -1.0 / 1680.0, 1.0 / 1188.0, -691.0 / 360_360.0];
    let (mut x, mut product) = (x, 1.0);
    while x < 10.0 {
        product *= x;
        x += 1.0;
    }
    let square = x * x;
    let series = BERNOULLI.iter().rev().fold(0.0, |sum, term| sum / square + term) / x;
    (x - 0.5) * x.ln() - x + 0.5 * std::f64::consts::TAU.ln() + series - f64::ln(product)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The counts that the rules publish, and those computed once from the binomial sum.
    #[test]
    fn the_table_of_least_counts() {
        let late = [0, 1, 2, 5, 10, 100];
        for (percentile, counts) in [
            (0.90, [44, 64, 81, 127, 197, 1_246]),
            (0.95, [90, 130, 165, 259, 398, 2_504]),
            (0.99, [459, 662, 838, 1_307, 2_010, 12_571]),
            (0.999, [4_603, 6_636, 8_403, 13_105, 20_140, 125_826]),
        ] {
            let mut stopping = EarlyStopping::new(percentile, CONFIDENCE);
            assert_eq!(late.map(|late| stopping.queries_min(late)), counts, "p = {percentile}");
        }
    }

    #[test]
    fn the_table_of_most_over_the_bound() {
        let mut stopping = EarlyStopping::new(0.99, CONFIDENCE);
        for (queries, late) in [(2_000, 9), (10_000, 77), (100_000, 927), (270_336, 2_583)] {
            assert_eq!(stopping.late_max(queries), Some(late), "n = {queries}");
        }
        assert_eq!((stopping.late_max(458), stopping.late_max(459), stopping.late_max(661)), (None, Some(0), Some(0)));
    }

    /// Against the plain sum of the binomial distribution, at both sides of each least count.
    #[test]
    fn agrees_with_the_binomial_sum() {
        for (percentile, confidence) in [(0.5f64, 0.9), (0.9, 0.99), (0.97, 0.999), (0.99, 0.99)] {
            let odds = |queries: u64, late: u64| -> f64 {
                let mut term = percentile.powi(queries as i32);
                (0..=late).fold(0.0, |sum, k| {
                    let now = sum + term;
                    term *= (queries - k) as f64 / (k + 1) as f64 * (1.0 - percentile) / percentile;
                    now
                })
            };
            let mut stopping = EarlyStopping::new(percentile, confidence);
            for late in 0..40 {
                let least = stopping.queries_min(late);
                assert!(odds(least, late) <= 1.0 - confidence, "p = {percentile}, t = {late}: {least} is too few");
                assert!(odds(least - 1, late) > 1.0 - confidence, "p = {percentile}, t = {late}: {least} is too many");
            }
        }
    }

    #[test]
    fn the_estimate_discards_the_slowest_it_may() {
        let mut stopping = EarlyStopping::new(0.9, CONFIDENCE);
        let latencies: Vec<u32> = (0..64).collect();
        assert_eq!(stopping.estimate(&latencies), Some(63), "64 queries: t = 1, none is discarded");
        assert_eq!(stopping.estimate(&latencies[..63]), None);
        let latencies: Vec<u32> = (0..197).collect();
        assert_eq!(stopping.estimate(&latencies), Some(187), "197 queries: t = 10, nine are discarded");
    }
}
