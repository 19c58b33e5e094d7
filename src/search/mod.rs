//! Strategies: each proposes configs of one space and sees their scores.
//!
//! In come a [`Space`], a [`Prior`] (what is expected before anything was measured) and a seed; out come proposals. A strategy knows
//! no clock, no device, no store and no other strategy. The caller owns budget, duplicates and the reason to stop; it may show
//! scores the strategy did not ask for (records of an earlier tuning), before or between proposals.

mod auto;
mod evolution;
mod exhaustive;
mod halving;
mod hill_climb;
pub mod prior;
mod random;
mod seen;

pub use prior::Prior;

use crate::space::{ConfigIndex, Space};
use schema::{Picos, Seed};

/// What became of a config.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Score {
    /// Its median time.
    Time(Picos),
    /// It gave no time: wrong, crashed, hung.
    Failed,
}

/// Proposes configs; sees scores. Never a clock, a device or the store.
pub trait Strategy {
    /// At most `room` configs, none of them proposed or observed before. Empty when it has nothing left.
    fn propose(&mut self, room: usize) -> Vec<ConfigIndex>;
    /// Scores of configs, whoever proposed them.
    fn observe(&mut self, scored: &[(ConfigIndex, Score)]);
    /// A second one that goes on from here by itself: what it proposes is what this one would.
    fn fork(&self) -> Box<dyn Strategy + '_>;
}

/// Makes a strategy for one space.
pub type Make = for<'a> fn(&'a Space, &'a dyn Prior, Seed) -> Box<dyn Strategy + 'a>;

/// The strategies by name; the first is the default. A new one is one file and one line here.
pub static STRATEGIES: &[(&str, Make)] = &[
    ("auto", auto::new),
    ("exhaustive", exhaustive::new),
    ("random", random::new),
    ("hill_climb", hill_climb::new),
    ("evolution", evolution::new),
    ("halving", halving::new),
];

/// The strategy of that name; `hill-climb` is `hill_climb`.
pub fn strategy(name: &str) -> Option<Make> {
    let name = name.replace('-', "_");
    STRATEGIES.iter().find(|(known, _)| *known == name).map(|(_, make)| *make)
}

#[cfg(test)]
pub(super) mod tests {
    use super::prior::Flat;
    use super::*;
    use crate::measure::fake;
    use std::collections::BTreeSet;

    /// The true score of a numbered config on the fake landscape.
    pub(super) fn score(space: &Space, index: ConfigIndex) -> Score {
        space.nth(index).map_or(Score::Failed, |config| Score::Time(fake::true_time(space.task(), &config)))
    }

    /// Runs a strategy on the fake landscape and returns the configs in the order of their proposal.
    fn run(name: &str, space: &Space, trials: usize, seed: Seed) -> Vec<ConfigIndex> {
        let mut strategy = strategy(name).unwrap()(space, &Flat, seed);
        let mut order = Vec::new();
        while order.len() < trials {
            let proposed = strategy.propose(8.min(trials - order.len()));
            if proposed.is_empty() {
                break;
            }
            let scored: Vec<_> = proposed.iter().map(|&index| (index, score(space, index))).collect();
            strategy.observe(&scored);
            order.extend(proposed);
        }
        order
    }

    #[test]
    fn no_strategy_repeats_itself_or_exceeds_its_room() {
        for (name, make) in STRATEGIES {
            for task in fake::tasks() {
                let space = Space::new(&task, fake::operator(), &fake::limits());
                let mut strategy = make(&space, &Flat, Seed(3));
                let mut seen = BTreeSet::new();
                for room in [1, 3, 7, 2, 64, 5, 100_000, 1] {
                    let proposed = strategy.propose(room);
                    assert!(proposed.len() <= room, "{name}");
                    assert!(proposed.iter().all(|index| seen.insert(*index) && space.nth(*index).is_some()), "{name}");
                    let scored: Vec<_> = proposed.iter().map(|&index| (index, score(&space, index))).collect();
                    strategy.observe(&scored);
                }
            }
        }
    }

    #[test]
    fn every_strategy_ends_up_with_the_whole_space() {
        for (name, _) in STRATEGIES {
            let space = Space::new(&fake::task(96), fake::operator(), &fake::limits());
            assert_eq!(run(name, &space, usize::MAX, Seed(1)).len(), space.size(), "{name}");
        }
    }

    #[test]
    fn one_seed_gives_one_order() {
        let space = Space::new(&fake::task(256), fake::operator(), &fake::limits());
        for (name, _) in STRATEGIES {
            assert_eq!(run(name, &space, 60, Seed(5)), run(name, &space, 60, Seed(5)), "{name}");
        }
        assert_ne!(run("random", &space, 60, Seed(5)), run("random", &space, 60, Seed(6)));
    }

    #[test]
    fn a_fork_proposes_what_its_origin_will_and_changes_nothing() {
        let space = Space::new(&fake::task(256), fake::operator(), &fake::limits());
        for (name, make) in STRATEGIES {
            let mut strategy = make(&space, &Flat, Seed(2));
            for _ in 0..6 {
                let foreseen = strategy.fork().propose(7);
                assert_eq!(strategy.fork().propose(7), foreseen, "{name}");
                let proposed = strategy.propose(7);
                assert_eq!(proposed, foreseen, "{name}");
                let scored: Vec<_> = proposed.iter().map(|&index| (index, score(&space, index))).collect();
                strategy.observe(&scored);
            }
        }
    }

    #[test]
    fn what_was_observed_is_not_proposed() {
        let space = Space::new(&fake::task(96), fake::operator(), &fake::limits());
        let known: Vec<_> = space.indices().take(20).map(|index| (index, score(&space, index))).collect();
        for (name, make) in STRATEGIES {
            let mut strategy = make(&space, &Flat, Seed(1));
            strategy.observe(&known);
            let proposed = strategy.propose(1000);
            assert!(known.iter().all(|(index, _)| !proposed.contains(index)), "{name}");
        }
    }

    /// Regret: the best found in a quarter of the space over the best there is, geometric mean over tasks and seeds.
    #[test]
    fn guided_strategies_come_near_the_best_in_a_quarter_of_the_space() {
        let regret = |name: &str| {
            let (mut sum, mut count) = (0.0, 0.0);
            for task in fake::tasks() {
                let space = Space::new(&task, fake::operator(), &fake::limits());
                let best = |order: &mut dyn Iterator<Item = ConfigIndex>| {
                    let times = order.filter_map(|index| match score(&space, index) {
                        Score::Time(time) => Some(time.as_secs_f64()),
                        Score::Failed => None,
                    });
                    times.fold(f64::INFINITY, f64::min)
                };
                let optimum = best(&mut space.indices());
                for seed in 0..5 {
                    let found = best(&mut run(name, &space, space.size() / 4, Seed(seed)).into_iter());
                    sum += (found / optimum).ln();
                    count += 1.0;
                }
            }
            f64::exp(sum / count)
        };
        for (name, most) in [("auto", 1.05), ("hill_climb", 1.25), ("evolution", 1.08), ("halving", 1.06), ("random", 1.10)] {
            let found = regret(name);
            assert!(found <= most, "{name}: regret {found:.3}, allowed {most}");
        }
    }
}
