//! Bounds on a part that was observed.

use schema::Seed;
use std::collections::BTreeMap;
use tunewright::space::Stream;

/// Resamplings of the models.
const RESAMPLINGS: usize = 2000;

/// The least part that is not refuted at 5 %, one-sided, by `right` of `n` (Clopper and Pearson 1934).
pub fn clopper_pearson(right: usize, n: usize) -> f64 {
    if right == 0 {
        return 0.0;
    }
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if at_least(right, n, middle) < 0.05 { low = middle } else { high = middle }
    }
    low
}

/// The probability of `right` or more of `n`, each with probability `p`.
fn at_least(right: usize, n: usize, p: f64) -> f64 {
    let ln_factorials: Vec<f64> = std::iter::once(0.0)
        .chain((1..=n).scan(0.0, |sum, i| {
            *sum += (i as f64).ln();
            Some(*sum)
        }))
        .collect();
    let term = |k: usize| {
        let ways = ln_factorials[n] - ln_factorials[k] - ln_factorials[n - k];
        (ways + k as f64 * p.ln() + (n - k) as f64 * (-p).ln_1p()).exp()
    };
    (right..=n).map(term).sum()
}

/// The middle 95 % of the accuracy over models drawn with replacement: decisions of one model are right and wrong together.
pub fn bootstrap(outcomes: &[(&str, f64)], seed: Seed) -> [f64; 2] {
    let mut of_model: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
    for (model, regret) in outcomes {
        let (right, n) = of_model.entry(model).or_default();
        (*right, *n) = (*right + f64::from(u8::from(*regret == 0.0)), *n + 1.0);
    }
    let models: Vec<(f64, f64)> = of_model.into_values().collect();
    if models.is_empty() {
        return [f64::NAN; 2];
    }
    let mut stream = Stream::named(seed, "bootstrap");
    let mut drawn: Vec<f64> = (0..RESAMPLINGS)
        .map(|_| {
            let all = (0..models.len()).map(|_| models[stream.below(models.len())]);
            let (right, n) = all.fold((0.0, 0.0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
            right / n
        })
        .collect();
    drawn.sort_by(f64::total_cmp);
    [drawn[RESAMPLINGS / 40], drawn[RESAMPLINGS - 1 - RESAMPLINGS / 40]]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sample_sizes_are_those_that_were_computed() {
        // papers §1: n ≥ 290 at 95 % observed and n ≥ 840 at 94 % claim 92.5 %.
        assert!(clopper_pearson(276, 290) >= 0.925 && clopper_pearson(238, 250) < 0.925);
        assert!(clopper_pearson(790, 840) >= 0.925 && clopper_pearson(705, 750) < 0.925);
        // All right: the n-th root of 5 %.
        assert!((clopper_pearson(50, 50) - 0.05f64.powf(0.02)).abs() < 1e-9);
    }

    #[test]
    fn models_that_fail_together_widen_the_interval() {
        let names: Vec<String> = (0..20).map(|at| at.to_string()).collect();
        let together: Vec<(&str, f64)> =
            (0..200).map(|at| (names[at / 10].as_str(), if at / 10 < 4 { 1.0 } else { 0.0 })).collect();
        let apart: Vec<(&str, f64)> = (0..200).map(|at| (names[at / 10].as_str(), if at % 5 == 0 { 1.0 } else { 0.0 })).collect();
        let width = |outcomes: &[(&str, f64)]| bootstrap(outcomes, Seed(1)).iter().rev().copied().reduce(|a, b| a - b).unwrap();
        assert!(width(&together) > 0.2 && width(&apart) < 0.01, "{} {}", width(&together), width(&apart));
    }
}
