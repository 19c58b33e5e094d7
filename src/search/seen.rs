//! What a strategy has proposed and learned.

use super::{Prior, Score};
use crate::space::{ConfigIndex, Space};
use schema::Picos;
use std::collections::{BTreeMap, BTreeSet};

/// Configs ranked by a prior before anything else is done with a space of this size; larger spaces are ranked by a sample.
const RANKED_MAX: usize = 4096;

/// Proposed configs, scores and the best so far.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    known: BTreeSet<ConfigIndex>,
    times: BTreeMap<ConfigIndex, Picos>,
}

impl Seen {
    /// Whether a config was proposed or observed.
    pub fn has(&self, index: ConfigIndex) -> bool {
        self.known.contains(&index)
    }

    /// Marks a config as proposed; false when it was known.
    pub fn take(&mut self, index: ConfigIndex) -> bool {
        self.known.insert(index)
    }

    /// Keeps scores.
    pub fn observe(&mut self, scored: &[(ConfigIndex, Score)]) {
        for &(index, score) in scored {
            self.known.insert(index);
            if let Score::Time(time) = score {
                self.times.insert(index, time);
            }
        }
    }

    /// The time of a config.
    pub fn time(&self, index: ConfigIndex) -> Option<Picos> {
        self.times.get(&index).copied()
    }

    /// Timed configs, fastest first.
    pub fn fastest(&self) -> Vec<(ConfigIndex, Picos)> {
        let mut timed: Vec<_> = self.times.iter().map(|(&index, &time)| (index, time)).collect();
        timed.sort_by_key(|&(index, time)| (time, index));
        timed
    }
}

/// The space from the most to the least promising by the prior: among equals each variant's entry first, then in random order, so
/// that a prior that knows nothing gives a spread over the space and not its first corner. What lies beyond the ranked sample
/// follows in its own order, so that every config comes once.
pub fn ranking(space: &Space, prior: &dyn Prior, seed: schema::Seed) -> Vec<ConfigIndex> {
    let entries = space.entries();
    let mut ranked: Vec<ConfigIndex> = entries.clone();
    let mut listed: BTreeSet<ConfigIndex> = ranked.iter().copied().collect();
    ranked.extend(space.sample(RANKED_MAX, seed).into_iter().filter(|index| listed.insert(*index)));
    let expected = |index: ConfigIndex| space.nth(index).map_or(f64::INFINITY, |config| prior.relative_time(&config));
    let mut keyed: Vec<(f64, ConfigIndex)> = ranked.into_iter().map(|index| (expected(index), index)).collect();
    keyed.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut order: Vec<ConfigIndex> = keyed.into_iter().map(|(_, index)| index).collect();
    order.extend(space.indices().filter(|index| !listed.contains(index)));
    order
}
