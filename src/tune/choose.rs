//! From observations to the config of a task: the default, unless a paired run-off proved another one faster.
//!
//! A function of the set of observations and the environment alone: the same records choose the same config, whatever the order
//! they came in. Observations of other environments do not count, configs that are not legal here neither.

use schema::{Config, EnvironmentKey, Observation, Outcome, Picos, PlanKey, Ratio, Split, Subject, TaskKey};
use std::collections::BTreeMap;

/// What was chosen for a task on a share, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    pub config: Config,
    pub is_default: bool,
    /// The run-off that proved it; `None` for the default.
    pub ratio: Option<Ratio>,
    /// The median of the chosen config, if it was ever timed here.
    pub time: Option<Picos>,
    /// The median of the default, if it was.
    pub default_time: Option<Picos>,
    /// Configs with an observation, failed ones included.
    pub tried: u32,
}

/// The choice for one task on one share of one device; `observations` are its trials and finals there.
pub fn choose(
    observations: &[Observation],
    environment: EnvironmentKey,
    default: &Config,
    legal: impl Fn(&Config) -> bool,
) -> Choice {
    let fresh = || observations.iter().filter(|observation| observation.environment == environment);
    let mut finals: BTreeMap<&Config, (Ratio, Picos)> = BTreeMap::new();
    let mut times: BTreeMap<&Config, Vec<Picos>> = BTreeMap::new();
    let mut tried = std::collections::BTreeSet::new();
    for observation in fresh() {
        let (config, is_final) = match &observation.subject {
            Subject::Trial { config, .. } => (config, false),
            Subject::Final { config, .. } => (config, true),
            Subject::Model(_) => continue,
        };
        tried.insert(config);
        let Outcome::Ok { timing, ratio } = &observation.outcome else { continue };
        times.entry(config).or_default().push(timing.median);
        if let (true, Some(ratio)) = (is_final, ratio) {
            let width = |ratio: &Ratio| (ratio.hi_ppm.saturating_sub(ratio.lo_ppm), ratio.lo_ppm, ratio.ppm);
            let best = finals.entry(config).or_insert((*ratio, timing.median));
            // The narrowest interval speaks; ties by its numbers, so that the order of the set does not matter.
            if width(ratio) < width(&best.0) {
                *best = (*ratio, timing.median);
            }
        }
    }
    let median = |config: &Config| {
        let mut times = times.get(config).cloned().unwrap_or_default();
        times.sort();
        times.get(times.len().saturating_sub(1) / 2).copied()
    };
    let proven = finals.iter().filter(|(config, (ratio, _))| ratio.lo_ppm > 1_000_000 && *config != &default && legal(config));
    let winner = proven.max_by_key(|(config, (ratio, _))| (ratio.ppm, std::cmp::Reverse(*config)));
    let tried = u32::try_from(tried.len()).unwrap_or(u32::MAX);
    let default_time = median(default);
    match winner {
        Some((config, (ratio, time))) => {
            // What the default took beside it: the pair may have been timed inside a model, where both are slower than alone.
            let default_time = Some(Picos((u128::from(time.0) * u128::from(ratio.ppm) / 1_000_000) as u64));
            Choice { config: (*config).clone(), is_default: false, ratio: Some(*ratio), time: Some(*time), default_time, tried }
        }
        None => Choice { config: default.clone(), is_default: true, ratio: None, time: default_time, default_time, tried },
    }
}

/// The key of a plan: how it computes its batch and what was chosen for each task, defaults left out (they follow from the build).
pub fn plan_key<'a>(split: Split, chosen: impl IntoIterator<Item = (TaskKey, &'a Choice)>) -> PlanKey {
    let mut lines: Vec<String> = chosen
        .into_iter()
        .filter(|(_, choice)| !choice.is_default)
        .map(|(task, choice)| format!("{task} {}\n", choice.config))
        .collect();
    if !split.is_whole() {
        lines.push(format!("split {} {}\n", split.parts(), split.lanes()));
    }
    lines.sort();
    PlanKey::of(&lines.concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made_up;
    use schema::ObservationId;

    /// That of what is made up.
    const HERE: EnvironmentKey = EnvironmentKey([1; 8]);

    fn config(name: &str) -> Config {
        Config { variant: name.to_owned(), revision: 1, knobs: vec![] }
    }

    fn observation(seq: u64, name: &str, ppm: Option<(u64, u64, u64)>) -> Observation {
        let (task, config) = (TaskKey([0; 16]), config(name));
        let ratio = ppm.map(|(ppm, lo_ppm, hi_ppm)| Ratio { ppm, lo_ppm, hi_ppm });
        let timing = made_up::timing(Picos(1000 - seq));
        let subject = if ratio.is_some() { Subject::Final { task, config } } else { Subject::Trial { task, config } };
        Observation {
            id: ObservationId { writer: [0; 16], seq },
            outcome: Outcome::Ok { timing, ratio },
            ..made_up::observation(subject, timing)
        }
    }

    #[test]
    fn only_a_proof_replaces_the_default() {
        let fast_but_unproven = observation(1, "fast", None);
        let doubtful = observation(2, "doubtful", Some((1_200_000, 990_000, 1_400_000)));
        let chosen = choose(&[fast_but_unproven.clone(), doubtful.clone()], HERE, &config("default"), |_| true);
        assert!(chosen.is_default && chosen.tried == 2);
        let proven = observation(3, "proven", Some((1_100_000, 1_050_000, 1_150_000)));
        let all = [fast_but_unproven, doubtful, proven.clone()];
        assert_eq!(choose(&all, HERE, &config("default"), |_| true).config, config("proven"));
        assert!(choose(&all, HERE, &config("default"), |config| config.variant != "proven").is_default, "illegal here");
        assert!(choose(&all, EnvironmentKey([2; 8]), &config("default"), |_| true).is_default, "stale");
    }

    #[test]
    fn the_order_of_observations_does_not_matter() {
        let mut all = vec![
            observation(1, "a", Some((1_100_000, 1_050_000, 1_150_000))),
            observation(2, "a", Some((1_300_000, 1_010_000, 1_500_000))),
            observation(3, "b", Some((1_100_000, 1_060_000, 1_140_000))),
            observation(4, "default", None),
        ];
        let chosen = choose(&all, HERE, &config("default"), |_| true);
        assert_eq!((chosen.config.variant.as_str(), chosen.tried), ("a", 3));
        for _ in 0..all.len() {
            all.rotate_left(1);
            assert_eq!(choose(&all, HERE, &config("default"), |_| true), chosen);
        }
    }
}
