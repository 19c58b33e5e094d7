//! The one to three configs kept per task over the shares.
//!
//! At every share the artifact holds the chosen config. Beside it a task has a portfolio: the fewest configs that come near the best at
//! every measured share, for shares nobody measured and for devices whose grant changes. It is what `explain` shows.

use schema::{Config, Picos, Share};
use std::collections::BTreeMap;

/// Configs in a portfolio at most.
const CONFIGS_MAX: usize = 3;
/// A config serves a share when it is within this of the best there, in per cent.
const NEAR_PCT: u64 = 5;

/// The configs of a portfolio, the one that serves most shares first. `times` are the medians by share and config.
pub fn portfolio(times: &BTreeMap<Share, BTreeMap<Config, Picos>>) -> Vec<Config> {
    let mut unserved: Vec<Share> = times.iter().filter(|(_, timed)| !timed.is_empty()).map(|(share, _)| *share).collect();
    let best = |share: &Share| times[share].values().min().copied().unwrap_or_default();
    let serves = |config: &Config, share: &Share| {
        let limit = u128::from(best(share).0) * u128::from(100 + NEAR_PCT);
        times[share].get(config).is_some_and(|time| u128::from(time.0) * 100 <= limit)
    };
    let mut kept = Vec::new();
    while !unserved.is_empty() && kept.len() < CONFIGS_MAX {
        let candidates = unserved.iter().flat_map(|share| times[share].keys());
        let count = |config: &Config| unserved.iter().filter(|share| serves(config, share)).count();
        let total =
            |config: &Config| unserved.iter().filter_map(|share| times[share].get(config)).map(|time| time.0).sum::<u64>();
        let Some(next) = candidates.max_by_key(|config| (count(config), std::cmp::Reverse((total(config), *config)))).cloned()
        else {
            break;
        };
        unserved.retain(|share| !serves(&next, share));
        kept.push(next);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(name: &str) -> Config {
        Config { variant: name.to_owned(), revision: 1, knobs: vec![] }
    }

    fn times(rows: &[(f64, &[(&str, u64)])]) -> BTreeMap<Share, BTreeMap<Config, Picos>> {
        let row = |(share, timed): &(f64, &[(&str, u64)])| {
            let timed = timed.iter().map(|(name, time)| (config(name), Picos(*time))).collect();
            (Share::percent(*share).unwrap(), timed)
        };
        rows.iter().map(row).collect()
    }

    #[test]
    fn one_config_that_is_near_everywhere_is_enough() {
        let times = times(&[(50.0, &[("a", 1000), ("b", 1020)]), (100.0, &[("b", 500), ("a", 700)])]);
        assert_eq!(portfolio(&times), [config("b")]);
    }

    #[test]
    fn shares_that_want_different_configs_get_them_up_to_three() {
        let times = times(&[
            (25.0, &[("a", 100), ("b", 200)]),
            (50.0, &[("b", 100), ("a", 200)]),
            (75.0, &[("c", 100)]),
            (100.0, &[("d", 100)]),
        ]);
        assert_eq!(portfolio(&times).len(), CONFIGS_MAX);
        assert_eq!(portfolio(&BTreeMap::new()), []);
    }
}
