//! What samples say: median, MAD, p99, the noise grade, and the interval of a paired ratio.
//!
//! The interval is that of the sign test: of n sorted log-ratios the k-th smallest and the k-th largest, k the largest for which
//! both tails together hold at most 5 % of Binomial(n, ½). It assumes nothing of the noise but that pairs are independent, and is
//! exact, where a bootstrap over few pairs is too narrow.

use schema::{NoiseGrade, Picos, Ratio, Timing};

/// Pairs below which no 95 % interval exists (2 · 2⁻⁵ > 5 %): then the observed extremes are widened by their distance instead.
pub const PAIRS_MIN: usize = 6;

/// Median, MAD, p99, count and grade of samples; `None` without any.
pub fn timing(samples: &[Picos]) -> Option<Timing> {
    let mut sorted: Vec<u64> = samples.iter().map(|sample| sample.0).collect();
    sorted.sort_unstable();
    let median = median(&sorted)?;
    let mut deviations: Vec<u64> = sorted.iter().map(|&sample| sample.abs_diff(median)).collect();
    deviations.sort_unstable();
    let mad = self::median(&deviations)?;
    // The nearest rank: the smallest sample with at least 99 % of all at or below it.
    let p99 = sorted[(sorted.len() * 99).div_ceil(100) - 1];
    let n = u32::try_from(sorted.len()).unwrap_or(u32::MAX);
    Some(Timing { median: Picos(median), mad: Picos(mad), p99: Picos(p99), n, grade: grade(Picos(median), Picos(mad)) })
}

/// The grade of a deviation: MAD over median up to 1 %, 3 %, 10 %, and beyond.
pub fn grade(median: Picos, mad: Picos) -> NoiseGrade {
    let within = |per_cent: u128| u128::from(mad.0) * 100 <= u128::from(median.0) * per_cent;
    match () {
        () if within(1) => NoiseGrade::A,
        () if within(3) => NoiseGrade::B,
        () if within(10) => NoiseGrade::C,
        () => NoiseGrade::D,
    }
}

/// The lower median of sorted values.
fn median(sorted: &[u64]) -> Option<u64> {
    let last = sorted.len().checked_sub(1)?;
    Some(sorted[last / 2])
}

/// The median of the pairs' ratios `default / rival` and its 95 % interval; `None` without pairs.
pub fn ratio(pairs: &[(Picos, Picos)]) -> Option<Ratio> {
    let mut logs: Vec<f64> =
        pairs.iter().map(|(default, rival)| (default.0.max(1) as f64 / rival.0.max(1) as f64).ln()).collect();
    logs.sort_by(f64::total_cmp);
    let n = logs.len();
    let middle = (logs.get(n.checked_sub(1)? / 2)? + logs[n / 2]) / 2.0;
    let (lo, hi) = match rank(n) {
        Some(k) => (logs[k - 1], logs[n - k]),
        None => {
            let spread = (logs[n - 1] - logs[0]).max(0.05);
            (logs[0] - spread, logs[n - 1] + spread)
        }
    };
    let ppm = |log: f64| (log.exp() * 1e6).round() as u64;
    Some(Ratio { ppm: ppm(middle), lo_ppm: ppm(lo), hi_ppm: ppm(hi) })
}

/// The largest k with P(Binomial(n, ½) < k) ≤ 2.5 %; `None` when there is none.
fn rank(n: usize) -> Option<usize> {
    // log-space: 2^-n underflows beyond a thousand pairs.
    let (mut term_ln, mut below) = (-(n as f64) * std::f64::consts::LN_2, 0.0);
    let mut k = 0;
    for i in 0..n.div_ceil(2) {
        below += f64::exp(term_ln);
        if below > 0.025 {
            break;
        }
        k = i + 1;
        term_ln += ((n - i) as f64 / (i + 1) as f64).ln();
    }
    (k > 0).then_some(k)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::space::Stream;
    use schema::Seed;

    fn picos(values: &[u64]) -> Vec<Picos> {
        values.iter().map(|&value| Picos(value)).collect()
    }

    #[test]
    fn timing_names_median_deviation_and_tail() {
        let timing = timing(&picos(&[100, 101, 99, 100, 500])).unwrap();
        assert_eq!((timing.median, timing.mad, timing.p99, timing.n), (Picos(100), Picos(1), Picos(500), 5));
        assert_eq!(timing.grade, NoiseGrade::A);
        assert_eq!(super::timing(&[]), None);
        assert_eq!(grade(Picos(100), Picos(11)), NoiseGrade::D);
    }

    #[test]
    fn ranks_are_those_of_the_sign_test() {
        // Tables of the sign test at 5 %, two-sided.
        for (n, k) in [(5, None), (6, Some(1)), (8, Some(1)), (9, Some(2)), (12, Some(3)), (20, Some(6)), (100, Some(40))] {
            assert_eq!(rank(n), k, "n = {n}");
        }
        assert!(rank(5000).is_some());
    }

    #[test]
    fn the_interval_holds_the_truth_in_19_of_20_series() {
        let mut stream = Stream::new(Seed(11));
        let mut held = 0;
        for _ in 0..1000 {
            let pairs: Vec<_> = (0..15)
                .map(|_| {
                    let sample = |stream: &mut Stream, true_ps: f64| Picos((true_ps * (1.0 + 0.03 * stream.normal())) as u64);
                    (sample(&mut stream, 1.2e9), sample(&mut stream, 1e9))
                })
                .collect();
            let ratio = ratio(&pairs).unwrap();
            held += usize::from(ratio.lo_ppm <= 1_200_000 && 1_200_000 <= ratio.hi_ppm);
        }
        assert!((930..=1000).contains(&held), "{held} of 1000");
    }

    #[test]
    fn few_pairs_give_a_wide_interval() {
        let ratio = ratio(&[(Picos(1000), Picos(900)), (Picos(1000), Picos(905))]).unwrap();
        assert!(ratio.lo_ppm < ratio.ppm && ratio.ppm < ratio.hi_ppm);
        assert!(ratio.hi_ppm - ratio.lo_ppm > 50_000);
    }
}
