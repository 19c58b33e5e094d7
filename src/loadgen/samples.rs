//! Which samples the queries are for.

use super::mersenne::Mersenne;
use super::settings::{Mode, Scenario, Settings, SettingsError};

/// The samples that queries are drawn from: of one model, or of each model of a mix.
#[derive(Clone, Debug)]
pub struct Library {
    models: Vec<Share>,
}

#[derive(Clone, Debug)]
struct Share {
    samples: u32,
    weight: f64,
}

/// One inference that is asked for.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Its number in the run, from 0.
    pub id: u64,
    /// Its model's place in the library.
    pub model: u16,
    /// Its place among the model's samples.
    pub index: u32,
    /// Whether its output is wanted, to be logged.
    pub logged: bool,
}

impl Library {
    /// A library of models: how many samples each has and its part of the queries, relative to the others.
    ///
    /// # Errors
    /// [`SettingsError::Library`]: no model, one without samples, a weight that is not more than 0 and finite.
    pub fn new(models: impl IntoIterator<Item = (u32, f64)>) -> Result<Self, SettingsError> {
        let models: Vec<Share> = models.into_iter().map(|(samples, weight)| Share { samples, weight }).collect();
        let right = |share: &Share| share.samples > 0 && share.weight > 0.0 && share.weight.is_finite();
        let some = !models.is_empty() && models.len() <= usize::from(u16::MAX);
        if some && models.iter().all(right) { Ok(Library { models }) } else { Err(SettingsError::Library) }
    }

    /// How many models there are.
    pub fn models(&self) -> usize {
        self.models.len()
    }

    /// Samples of all models together.
    pub fn samples(&self) -> u64 {
        self.models.iter().map(|share| u64::from(share.samples)).sum()
    }
}

/// Draws the samples of one query after the other.
///
/// Performance: SingleStream and Server draw uniformly with replacement, MultiStream a first one and those that follow it, Offline
/// repeats the loaded order. The model of a query is drawn by the weights before. Accuracy: all samples of all models in random order.
///
/// Source: `loadgen/loadgen.cc`, `GenerateQueries`. The order of shuffles, and with it each index, is not LoadGen's: it depends on the
/// C++ library there.
pub struct Draw<'a> {
    library: &'a Library,
    scenario: Scenario,
    /// By model, the order in which samples were "loaded".
    loaded: Vec<Vec<u32>>,
    /// Accuracy: what is still to come, the next one last.
    left: Option<Vec<(u16, u32)>>,
    indices: Mersenne,
    mix: Mersenne,
    outputs: Mersenne,
    logged_part: f64,
    /// Offline: the next place of each model.
    next: Vec<usize>,
    drawn: u64,
}

impl<'a> Draw<'a> {
    /// `expected` samples in the run: of these, about [`Settings::outputs_logged`] are to be logged.
    pub fn new(settings: &Settings, library: &'a Library, expected: u64) -> Self {
        let seeds = &settings.seeds;
        let mut order = Mersenne::new(seeds.qsl);
        let shuffled = |share: &Share| {
            let mut loaded: Vec<u32> = (0..share.samples).collect();
            order.shuffle(&mut loaded);
            loaded
        };
        let loaded: Vec<Vec<u32>> = library.models.iter().map(shuffled).collect();
        let mut indices = Mersenne::new(seeds.sample_index);
        let left = (settings.mode == Mode::Accuracy).then(|| {
            let of = |(model, set): (usize, &Vec<u32>)| set.iter().map(move |&index| (model as u16, index)).collect::<Vec<_>>();
            let mut all: Vec<(u16, u32)> = loaded.iter().enumerate().flat_map(of).collect();
            indices.shuffle(&mut all);
            all
        });
        let logged_part = if left.is_some() { 1.0 } else { settings.outputs_logged as f64 / expected.max(1) as f64 };
        Draw {
            library,
            scenario: settings.scenario,
            next: vec![0; loaded.len()],
            loaded,
            left,
            indices,
            mix: Mersenne::new(seeds.mix),
            outputs: Mersenne::new(seeds.accuracy_log),
            logged_part,
            drawn: 0,
        }
    }

    /// The samples of the next query: `count` of them, fewer at the end of accuracy mode, and none after it.
    pub fn query(&mut self, count: u64, samples: &mut Vec<Sample>) {
        samples.clear();
        if let Some(left) = &mut self.left {
            let from = left.len().saturating_sub(usize::try_from(count).unwrap_or(usize::MAX));
            let taken: Vec<(u16, u32)> = left.drain(from..).rev().collect();
            samples.extend(taken.into_iter().map(|(model, index)| self.sample(model, index)));
            return;
        }
        let offline = self.scenario == Scenario::Offline;
        let mut model = if offline { 0 } else { self.model() };
        let mut at = if offline { 0 } else { self.indices.below(self.library.models[model].samples) as usize };
        for _ in 0..count {
            if offline {
                model = self.model();
                at = self.next[model];
                self.next[model] += 1;
            }
            let set = &self.loaded[model];
            let index = set[at % set.len()];
            at += 1;
            let sample = self.sample(model as u16, index);
            samples.push(sample);
        }
    }

    fn sample(&mut self, model: u16, index: u32) -> Sample {
        let id = self.drawn;
        self.drawn += 1;
        // One draw per sample, so that what is logged doesn't change what is asked.
        let logged = self.logged_part > 0.0 && self.outputs.unit() < self.logged_part;
        Sample { id, model, index, logged }
    }

    fn model(&mut self) -> usize {
        let models = &self.library.models;
        if models.len() == 1 {
            return 0;
        }
        let mut left = self.mix.unit() * models.iter().map(|share| share.weight).sum::<f64>();
        for (at, share) in models.iter().enumerate() {
            left -= share.weight;
            if left < 0.0 {
                return at;
            }
        }
        models.len() - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(settings: &Settings, library: &Library, queries: usize, count: u64) -> Vec<Vec<Sample>> {
        let mut draw = Draw::new(settings, library, queries as u64 * count);
        let query = |_| {
            let mut samples = Vec::new();
            draw.query(count, &mut samples);
            samples
        };
        (0..queries).map(query).collect()
    }

    #[test]
    fn every_sample_is_about_as_frequent_and_the_same_seed_draws_the_same() {
        let (library, settings) = (Library::new([(10, 1.0)]).unwrap(), Settings::published(Scenario::Server));
        let drawn = draw(&settings, &library, 10_000, 1);
        assert_eq!(drawn, draw(&settings, &library, 10_000, 1));
        for index in 0..10 {
            let count = drawn.iter().filter(|query| query[0].index == index).count();
            // Six standard deviations of a binomial of 10,000 and 1/10 are 180.
            assert!(count.abs_diff(1_000) < 180, "{index}: {count}");
        }
        assert!(drawn.iter().enumerate().all(|(at, query)| query[0].id == at as u64 && !query[0].logged));
    }

    #[test]
    fn a_mix_keeps_its_weights() {
        let library = Library::new([(4, 3.0), (7, 1.0)]).unwrap();
        for scenario in [Scenario::SingleStream, Scenario::Offline] {
            let drawn = draw(&Settings::published(scenario), &library, 10_000, 1);
            let first = drawn.iter().filter(|query| query[0].model == 0).count();
            assert!(first.abs_diff(7_500) < 260, "{first}");
            assert!(drawn.iter().all(|query| query[0].index < if query[0].model == 0 { 4 } else { 7 }));
        }
        assert!(Library::new([]).is_err() && Library::new([(0, 1.0)]).is_err() && Library::new([(1, f64::NAN)]).is_err());
    }

    #[test]
    fn several_samples_of_a_query_follow_each_other_and_offline_repeats_the_set() {
        let library = Library::new([(5, 1.0)]).unwrap();
        let query = &draw(&Settings::published(Scenario::MultiStream), &library, 1, 8)[0];
        assert!((0..3).all(|at| query[at].index == query[at + 5].index), "{query:?}");
        let all = &draw(&Settings::published(Scenario::Offline), &library, 1, 15)[0];
        assert!((0..5).all(|index| all.iter().filter(|sample| sample.index == index).count() == 3));
    }

    #[test]
    fn accuracy_asks_for_every_sample_once_and_logs_it() {
        let library = Library::new([(5, 1.0), (6, 9.0)]).unwrap();
        let settings = Settings { mode: Mode::Accuracy, ..Settings::published(Scenario::MultiStream) };
        let queries = draw(&settings, &library, 3, 8);
        assert_eq!(queries.iter().map(Vec::len).collect::<Vec<_>>(), [8, 3, 0]);
        let mut seen: Vec<(u16, u32)> = queries.concat().iter().map(|sample| (sample.model, sample.index)).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..5).map(|at| (0, at)).chain((0..6).map(|at| (1, at))).collect::<Vec<_>>());
        assert!(queries.concat().iter().all(|sample| sample.logged));
    }

    #[test]
    fn about_the_asked_number_of_outputs_is_logged() {
        let library = Library::new([(5, 1.0)]).unwrap();
        let settings = Settings { outputs_logged: 100, ..Settings::published(Scenario::SingleStream) };
        let drawn = draw(&settings, &library, 10_000, 1);
        let logged = drawn.iter().filter(|query| query[0].logged).count();
        assert!(logged.abs_diff(100) < 60, "{logged}");
        let plain = draw(&Settings::published(Scenario::SingleStream), &library, 10_000, 1);
        assert!(drawn.iter().zip(&plain).all(|(a, b)| a[0].index == b[0].index), "logging changes nothing else");
    }
}
