//! The one to three configs kept per task over the shares of a device.
//!
//! At every share the artifact holds the chosen config. Beside it a task has a portfolio, for shares nobody measured and for devices whose
//! grant changes: the configs whose worst *regret* over the measured shares is least, where the regret at a share is the time of the best
//! of them there over the best time anybody had. It is chosen exactly, among all sets of up to three of the fastest candidates. It is what
//! `explain --task` shows.

use schema::{Config, Observation, Outcome, Picos, Share, Subject};
use std::collections::BTreeMap;

/// Configs in a portfolio at most.
pub const CONFIGS_MAX: usize = 3;
/// Candidates at most: the fastest of every share in turn. All singles, pairs and triples of them are 5,488.
const CANDIDATES_MAX: usize = 32;
/// A portfolio with fewer configs is taken when its worst regret is greater by no more than this, in parts per million: far below what
/// a median is worth.
const TIE_PPM: u64 = 5_000;
const ONE_PPM: u64 = 1_000_000;

/// Medians by share and config.
pub type Times = BTreeMap<Share, BTreeMap<Config, Picos>>;

/// The configs kept for a task.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Portfolio {
    /// The one that is the best of them at most shares first.
    pub configs: Vec<Config>,
    /// The worst regret over the shares at which one of them was timed, in parts per million: at least 1,000,000.
    pub regret_ppm: u64,
    /// Shares at which none of them was timed.
    pub unserved: usize,
}

/// How well a set of candidates serves, the better the less: shares without a time, the worst regret, the sum of regrets.
type Cost = (usize, u64, u64);

/// The portfolio of a task; empty when nothing was timed.
pub fn portfolio(times: &Times) -> Portfolio {
    let candidates = candidates(times);
    let regrets: Vec<Vec<Option<u64>>> = candidates.iter().map(|config| regrets(times, config)).collect();
    let mut by_size: Vec<(Cost, Vec<usize>)> = Vec::new();
    for size in 1..=CONFIGS_MAX.min(candidates.len()) {
        by_size.extend(sets(candidates.len(), size).map(|set| (cost(&regrets, &set), set)).min());
    }
    let Some(&(unserved, worst, _)) = by_size.iter().map(|(cost, _)| cost).min() else { return Portfolio::default() };
    let near = |cost: &Cost| cost.0 == unserved && cost.1 <= worst.saturating_add(TIE_PPM);
    let Some((cost, mut set)) = by_size.into_iter().find(|(cost, _)| near(cost)) else { return Portfolio::default() };
    let wins = |&at: &usize| {
        let best = |share: usize| set_regret(&regrets, &set, share);
        (0..times.len()).filter(|&share| regrets[at][share].is_some() && regrets[at][share] == best(share)).count()
    };
    let wins: BTreeMap<usize, usize> = set.iter().map(|at| (*at, wins(at))).collect();
    set.sort_by_key(|at| (std::cmp::Reverse(wins[at]), *at));
    let configs = set.into_iter().map(|at| candidates[at].clone()).collect();
    Portfolio { configs, regret_ppm: cost.1, unserved: cost.0 }
}

/// The medians of configs that were timed alone, by share: the last of each.
pub fn times<'a>(observations: impl IntoIterator<Item = &'a Observation>) -> Times {
    let mut times = Times::new();
    for one in observations {
        if let (Subject::Trial { config, .. }, Outcome::Ok { timing, .. }) = (&one.subject, &one.outcome) {
            times.entry(one.share).or_default().insert(config.clone(), timing.median);
        }
    }
    times
}

/// The time of a config at a share over the best time there, in parts per million; `None` where it was not timed.
pub fn regret_ppm(times: &Times, share: Share, config: &Config) -> Option<u64> {
    let timed = times.get(&share)?;
    let best = timed.values().map(|time| time.0.max(1)).min()?;
    let ppm = u128::from(timed.get(config)?.0.max(1)) * u128::from(ONE_PPM) / u128::from(best);
    Some(u64::try_from(ppm).unwrap_or(u64::MAX))
}

/// The fastest config of every share, then the second of every share, and so on.
fn candidates(times: &Times) -> Vec<Config> {
    let ranked: Vec<Vec<&Config>> = times
        .values()
        .map(|timed| {
            let mut ranked: Vec<(&Picos, &Config)> = timed.iter().map(|(config, time)| (time, config)).collect();
            ranked.sort();
            ranked.into_iter().map(|(_, config)| config).collect()
        })
        .collect();
    let mut candidates: Vec<Config> = Vec::new();
    for rank in 0..ranked.iter().map(Vec::len).max().unwrap_or(0) {
        for config in ranked.iter().filter_map(|ranked| ranked.get(rank)) {
            if candidates.len() < CANDIDATES_MAX && !candidates.contains(config) {
                candidates.push((*config).clone());
            }
        }
    }
    candidates
}

/// Of a config at every share.
fn regrets(times: &Times, config: &Config) -> Vec<Option<u64>> {
    times.keys().map(|&share| regret_ppm(times, share, config)).collect()
}

/// The least regret of a set at a share.
fn set_regret(regrets: &[Vec<Option<u64>>], set: &[usize], share: usize) -> Option<u64> {
    set.iter().filter_map(|&at| regrets[at][share]).min()
}

fn cost(regrets: &[Vec<Option<u64>>], set: &[usize]) -> Cost {
    let shares = regrets.first().map_or(0, Vec::len);
    let (mut unserved, mut worst, mut sum) = (0, ONE_PPM, 0u64);
    for share in 0..shares {
        match set_regret(regrets, set, share) {
            Some(regret) => (worst, sum) = (worst.max(regret), sum.saturating_add(regret)),
            None => unserved += 1,
        }
    }
    (unserved, worst, sum)
}

/// Every set of `size` of the numbers below `count`, ascending.
fn sets(count: usize, size: usize) -> impl Iterator<Item = Vec<usize>> {
    let mut next: Option<Vec<usize>> = (size <= count).then(|| (0..size).collect());
    std::iter::from_fn(move || {
        let set = next.take()?;
        let turns = (0..size).rev().find(|&at| set[at] < count - size + at);
        next = turns.map(|at| {
            let mut following = set.clone();
            let first = following[at] + 1;
            following[at..].iter_mut().zip(first..).for_each(|(place, number)| *place = number);
            following
        });
        Some(set)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn config(name: &str) -> Config {
        Config { variant: name.to_owned(), revision: 1, knobs: vec![] }
    }

    fn times(rows: &[(f64, &[(&str, u64)])]) -> Times {
        let row = |(share, timed): &(f64, &[(&str, u64)])| {
            let timed = timed.iter().map(|(name, time)| (config(name), Picos(*time))).collect();
            (Share::percent(*share).unwrap(), timed)
        };
        rows.iter().map(row).collect()
    }

    #[test]
    fn a_compromise_is_enough_only_where_it_costs_next_to_nothing() {
        let near = times(&[(50.0, &[("a", 1000), ("b", 1004)]), (100.0, &[("b", 500), ("a", 700)])]);
        assert_eq!(portfolio(&near), Portfolio { configs: vec![config("b")], regret_ppm: 1_004_000, unserved: 0 });
        let far = times(&[(50.0, &[("a", 1000), ("b", 1020)]), (100.0, &[("b", 500), ("a", 700)])]);
        assert_eq!(portfolio(&far), Portfolio { configs: vec![config("a"), config("b")], regret_ppm: 1_000_000, unserved: 0 });
    }

    #[test]
    fn two_are_found_where_taking_what_serves_most_shares_needs_three() {
        let small: &[(&str, u64)] = &[("small", 100), ("middling", 103), ("large", 900)];
        let large: &[(&str, u64)] = &[("large", 100), ("middling", 103), ("small", 900)];
        let times = times(&[
            (10.0, &[("small", 100), ("middling", 900), ("large", 900)]),
            (20.0, small),
            (30.0, small),
            (60.0, large),
            (80.0, large),
            (100.0, &[("large", 100), ("middling", 900), ("small", 900)]),
        ]);
        let chosen = portfolio(&times);
        assert_eq!((chosen.regret_ppm, chosen.unserved), (1_000_000, 0));
        assert_eq!(chosen.configs, [config("small"), config("large")]);
    }

    #[test]
    fn without_times_there_is_none_and_what_cannot_be_served_is_counted() {
        assert_eq!(portfolio(&BTreeMap::new()), Portfolio::default());
        let apart = times(&[(25.0, &[("a", 1)]), (50.0, &[("b", 1)]), (75.0, &[("c", 1)]), (100.0, &[("d", 1)])]);
        assert_eq!((portfolio(&apart).configs.len(), portfolio(&apart).unserved), (CONFIGS_MAX, 1));
    }

    /// Unserved shares and worst regret of a set of configs, by another way than the code's.
    fn judged(times: &Times, set: &[&Config]) -> (usize, f64) {
        let best = |share: &Share| times[share].values().map(|time| time.0 as f64).fold(f64::INFINITY, f64::min);
        let of = |share: &Share| {
            let timed = set.iter().filter_map(|config| times[share].get(*config));
            timed.map(|time| time.0 as f64).fold(f64::INFINITY, f64::min) / best(share)
        };
        let all: Vec<f64> = times.keys().map(of).collect();
        let served = all.iter().copied().filter(|regret| regret.is_finite());
        (all.iter().filter(|regret| !regret.is_finite()).count(), served.fold(1.0, f64::max))
    }

    proptest! {
        #[test]
        fn it_is_the_best_of_all_sets(
            rows in proptest::collection::vec(proptest::collection::vec(proptest::option::weighted(0.8, 1000u64..3000), 7), 1..5),
        ) {
            let name = |at: usize| config(&format!("c{at}"));
            let shares = (1..).map(|step| Share::percent(f64::from(step) * 10.0).unwrap());
            let timed = |row: &Vec<Option<u64>>| -> BTreeMap<Config, Picos> {
                row.iter().enumerate().filter_map(|(at, time)| Some((name(at), Picos((*time)?)))).collect()
            };
            let times: Times = shares.zip(rows.iter().map(timed)).filter(|(_, timed)| !timed.is_empty()).collect();
            let chosen = portfolio(&times);
            let all: Vec<Config> = (0..7).map(name).filter(|one| times.values().any(|timed| timed.contains_key(one))).collect();
            prop_assert_eq!(chosen.configs.is_empty(), all.is_empty());
            if all.is_empty() {
                return Ok(());
            }
            let mut best = (usize::MAX, f64::INFINITY);
            let mut best_of_size = [(usize::MAX, f64::INFINITY); CONFIGS_MAX + 1];
            for bits in 1u32..1 << all.len() {
                let set: Vec<&Config> = all.iter().enumerate().filter(|(at, _)| bits >> at & 1 == 1).map(|(_, one)| one).collect();
                if set.len() > CONFIGS_MAX {
                    continue;
                }
                let (unserved, worst) = judged(&times, &set);
                let less = |a: (usize, f64)| (unserved, worst).partial_cmp(&a) == Some(std::cmp::Ordering::Less);
                if less(best) {
                    best = (unserved, worst);
                }
                if less(best_of_size[set.len()]) {
                    best_of_size[set.len()] = (unserved, worst);
                }
            }
            let found = judged(&times, &chosen.configs.iter().collect::<Vec<_>>());
            let near = |cost: (usize, f64)| cost.0 == best.0 && cost.1 <= best.1 + (TIE_PPM + 2) as f64 * 1e-6;
            prop_assert!(near(found), "{:?}, possible is {:?}", found, best);
            prop_assert!((found.1 - best_of_size[chosen.configs.len()].1).abs() < 2e-6, "not the best of its size");
            for (size, (unserved, worst)) in best_of_size.into_iter().enumerate().take(chosen.configs.len()).skip(1) {
                let clearly = unserved > best.0 || worst > best.1 + (TIE_PPM - 2) as f64 * 1e-6;
                prop_assert!(clearly, "{size} configs were enough");
            }
            prop_assert_eq!(chosen.unserved, found.0);
            prop_assert!((chosen.regret_ppm as f64 * 1e-6 - found.1).abs() < 2e-6);
            prop_assert_eq!(portfolio(&times), chosen);
        }
    }
}
