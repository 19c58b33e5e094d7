//! What is expected of a config before it is measured.
//!
//! Two sources. The *roofline*: no config is faster than its task's operations over the measured peak or its bytes over the
//! measured bandwidth, whichever is more (Williams, Waterman and Patterson 2009); it bounds what a task can still gain. And the *records* of similar
//! tasks: a config that did well on a task with nearly these extents will do well here; weights fall with the distance in
//! doublings, and within a variant with the distance of the knobs.

use crate::space::features::{TaskFeatures, config_distance, distance, of_config};
use kernels::VariantFacts;
use schema::{Config, Picos};

/// Ranks configs without measuring them.
pub trait Prior: Send + Sync {
    /// The expected time of a config over that of the fastest expected: 1 is the best there is. Only the order matters.
    fn relative_time(&self, config: &Config) -> f64;

    /// Whether it knows anything that tells configs apart.
    fn is_informed(&self) -> bool;
}

/// Knows nothing: every config is alike.
pub struct Flat;

impl Prior for Flat {
    fn relative_time(&self, _: &Config) -> f64 {
        1.0
    }

    fn is_informed(&self) -> bool {
        false
    }
}

/// What a grant can do at best, measured.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Roofline {
    /// Floating-point operations per second.
    pub flops_per_s: f64,
    /// Size of each cache, smallest first, and bytes per second from it.
    pub caches: [(u64, f64); 2],
    /// Bytes per second from memory.
    pub bytes_per_s: f64,
}

impl Roofline {
    /// Nothing is known: nothing is bounded.
    pub const UNKNOWN: Roofline = Roofline { flops_per_s: f64::INFINITY, caches: [(0, 0.0); 2], bytes_per_s: f64::INFINITY };

    /// The least time of that many operations and bytes: the bytes come from the smallest cache that holds them all.
    pub fn least(&self, flops: u64, bytes: u64) -> Picos {
        let cache = self.caches.iter().find(|(size, _)| bytes <= *size);
        let bytes_per_s = cache.map_or(self.bytes_per_s, |(_, bytes_per_s)| *bytes_per_s);
        Picos::from_secs_f64((flops as f64 / self.flops_per_s).max(bytes as f64 / bytes_per_s))
    }
}

/// A timed config of some task, for learning.
#[derive(Clone, Debug)]
pub struct Example {
    pub config: Config,
    /// Its time over that of the fastest config of its task: at least 1.
    pub slowdown: f64,
}

/// The timed configs of one similar task.
#[derive(Clone, Debug)]
pub struct Neighbour {
    /// In doublings; 0 for the same task (at another share, say).
    pub distance: f64,
    pub examples: Vec<Example>,
}

/// Ranks by the records of similar tasks.
pub struct Learned {
    variants: Vec<VariantFacts>,
    neighbours: Vec<Neighbour>,
}

/// Tasks that are looked at, nearest first.
const NEIGHBOURS: usize = 6;
/// Expected of a config nothing is known of: between a good one and a typical bad one, so that it is tried after the good.
const UNKNOWN: f64 = 1.6;
/// How much that expectation weighs against records.
const UNKNOWN_WEIGHT: f64 = 0.15;

impl Learned {
    /// A prior over these variants from the timed configs of other tasks of the same operator: `(features, [(config, time)])` each.
    pub fn new(variants: &[VariantFacts], task: &TaskFeatures, known: &[(TaskFeatures, Vec<(Config, Picos)>)]) -> Self {
        let mut neighbours: Vec<Neighbour> = known
            .iter()
            .map(|(features, timed)| (distance(task, features), timed))
            .filter(|(distance, timed)| distance.is_finite() && !timed.is_empty())
            .map(|(distance, timed)| Neighbour { distance, examples: examples(timed) })
            .collect();
        neighbours.sort_by(|a, b| a.distance.total_cmp(&b.distance));
        neighbours.truncate(NEIGHBOURS);
        Learned { variants: variants.to_vec(), neighbours }
    }
}

/// Times as slowdowns against the fastest.
fn examples(timed: &[(Config, Picos)]) -> Vec<Example> {
    let best = timed.iter().map(|(_, time)| time.0.max(1)).min().unwrap_or(1) as f64;
    timed.iter().map(|(config, time)| Example { config: config.clone(), slowdown: time.0.max(1) as f64 / best }).collect()
}

impl Prior for Learned {
    fn relative_time(&self, config: &Config) -> f64 {
        let Some(variant) = self.variants.iter().find(|variant| variant.id == config.variant) else { return UNKNOWN };
        let Some(here) = of_config(variant, config) else { return UNKNOWN };
        let (mut weighed, mut weights) = (UNKNOWN.ln() * UNKNOWN_WEIGHT, UNKNOWN_WEIGHT);
        for neighbour in &self.neighbours {
            let near = (-neighbour.distance).exp();
            let of_variant =
                neighbour.examples.iter().filter_map(|example| Some((of_config(variant, &example.config)?, example)));
            for (there, example) in of_variant {
                let weight = near * (-3.0 * config_distance(&here, &there)).exp();
                weighed += weight * example.slowdown.ln();
                weights += weight;
            }
        }
        (weighed / weights).exp()
    }

    fn is_informed(&self) -> bool {
        !self.neighbours.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::fake;
    use crate::search::tests::score;
    use crate::search::{Score, strategy};
    use crate::space::{Space, features};

    fn learned(from: &[usize], to: usize) -> Learned {
        let timed = |size: usize| {
            let space = Space::new(&fake::task(size), fake::operator(), &fake::limits());
            let timed = space.sample(30, schema::Seed(1)).into_iter().filter_map(|index| match score(&space, index) {
                Score::Time(time) => Some((space.nth(index)?, time)),
                Score::Failed => None,
            });
            (features::of_task(space.task(), space.operator()), timed.collect::<Vec<_>>())
        };
        let known: Vec<_> = from.iter().map(|&size| timed(size)).collect();
        let space = Space::new(&fake::task(to), fake::operator(), &fake::limits());
        Learned::new(space.variants(), &features::of_task(space.task(), space.operator()), &known)
    }

    #[test]
    fn records_of_similar_tasks_bring_the_best_forward() {
        let space = Space::new(&fake::task(256), fake::operator(), &fake::limits());
        let prior = learned(&[128, 512], 256);
        let time = |index| match score(&space, index) {
            Score::Time(time) => time,
            Score::Failed => Picos(u64::MAX),
        };
        let best = |prior: &dyn Prior| {
            let order = strategy("exhaustive").unwrap()(&space, prior, schema::Seed(1)).propose(10);
            order.into_iter().map(time).min().unwrap()
        };
        assert!(best(&prior) < best(&Flat), "{:?} against {:?}", best(&prior), best(&Flat));
    }

    #[test]
    fn a_roofline_takes_the_tighter_bound() {
        let roofline = Roofline { flops_per_s: 1e9, caches: [(10, 1e8), (1000, 1e7)], bytes_per_s: 1e6 };
        assert_eq!(roofline.least(1_000_000_000, 1), Picos::from_secs_f64(1.0));
        assert_eq!(roofline.least(1, 2_000_000), Picos::from_secs_f64(2.0));
        assert_eq!(roofline.least(1, 1000), Picos::from_secs_f64(1e-4), "from the cache that holds it");
        assert_eq!(Roofline::UNKNOWN.least(1 << 40, 1 << 40), Picos(0));
    }
}
