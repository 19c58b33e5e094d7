//! An item on its way: which configs it races next, what it learned of them, and which one a run-off would judge.
//!
//! An item is a task on a place. Its `Search` holds what is on record of it and its strategy; it measures nothing and spends nothing:
//! [`mod@super::explore`] asks it for rivals, has them raced and tells it the trials.

use super::explore::{Place, Rules};
use crate::measure::{Effort, Trial};
use crate::search::prior::Learned;
use crate::search::{Score, Strategy};
use crate::space::{Space, features};
use kernels::{Operator, Task};
use schema::{Config, ConfigKey, Observation, Outcome, Picos, Seed, Subject};
use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// A contender that runs an item's task.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Use {
    pub contender: usize,
    pub count: u32,
}

/// A task on a place.
#[derive(Clone)]
pub struct Item {
    pub task: Task,
    pub operator: &'static Operator,
    pub place: usize,
    pub uses: Vec<Use>,
    /// Its records are enough: nothing is measured.
    pub known: bool,
}

/// Rivals in a round at most, beside the best so far.
pub(super) const ROOM_MAX: usize = 8;
/// And at least: the default, and two that may beat it.
const ROOM_MIN: usize = 3;
/// A round's rivals run for about this long: slow tasks get fewer of them.
const ROUND: Duration = Duration::from_millis(400);
/// A gain below this is noise: it earns no trust and no run-off.
const GAIN_NOISE: f64 = 1.01;

/// Alone, the fastest config of another variant may be this much slower than the fastest of all and still win inside the model.
const VARIANT_NEAR: f64 = 2.0;
/// So many other variants are looked at before more configs of the same.
const VARIANTS: usize = 2;
/// And another config.
const CONFIG_NEAR: f64 = 1.15;
/// And neither may be slower than the default by more than this.
const DEFAULT_NEAR: f64 = 1.02;

/// One item on its way.
pub(super) struct Search<'a> {
    pub item: &'a Item,
    pub space: &'a Space,
    pub prior: &'a OnceCell<Learned>,
    pub strategy: Option<Box<dyn Strategy + 'a>>,
    pub default: Config,
    /// Every config with an outcome here, of this tuning and of earlier ones.
    pub seen: BTreeMap<ConfigKey, (Config, Outcome)>,
    pub best: Option<(Config, Picos)>,
    pub default_time: Option<Picos>,
    pub least: Picos,
    pub rounds: u32,
    pub misses: u32,
    pub exhausted: bool,
    /// Observations that choices are made from.
    pub observations: Vec<Observation>,
    /// Configs that go before what the strategy proposes: what did well at another share, what must be raced again.
    offered: VecDeque<Config>,
}

impl<'a> Search<'a> {
    pub fn new(
        item: &'a Item,
        space: &'a Space,
        prior: &'a OnceCell<Learned>,
        place: &Place,
        observations: Vec<Observation>,
    ) -> Self {
        let default = space.default_config();
        let mut seen: BTreeMap<ConfigKey, (Config, Outcome)> = BTreeMap::new();
        for observation in &observations {
            if let Subject::Trial { config, .. } | Subject::Final { config, .. } = &observation.subject {
                // A failure stays: what once crashed here is never tried again. And a time taken inside a model does not stand beside
                // times taken alone.
                let failed = matches!(seen.get(&config.key()), Some((_, Outcome::Failed { .. })));
                let timed_alone = seen.contains_key(&config.key());
                let is_final = matches!(observation.subject, Subject::Final { .. });
                let fails = matches!(observation.outcome, Outcome::Failed { .. });
                if !failed && (fails || !(is_final && timed_alone)) {
                    seen.insert(config.key(), (config.clone(), observation.outcome.clone()));
                }
            }
        }
        let timed = |(config, outcome): &(Config, Outcome)| match outcome {
            Outcome::Ok { timing, .. } if space.index_of(config).is_some() => Some((config.clone(), timing.median)),
            _ => None,
        };
        let best = seen.values().filter_map(timed).min_by_key(|(config, time)| (*time, config.clone()));
        let default_time = seen.get(&default.key()).and_then(timed).map(|(_, time)| time);
        let least = place.roofline.least((item.operator.flops)(&item.task), (item.operator.bytes)(&item.task));
        let rounds = u32::from(!seen.is_empty());
        Search {
            item,
            space,
            prior,
            strategy: None,
            default,
            seen,
            best,
            default_time,
            least,
            rounds,
            misses: 0,
            exhausted: false,
            observations,
            offered: VecDeque::new(),
        }
    }

    /// Has configs raced before what the strategy proposes, the first of them first; those that are illegal here are not.
    pub fn offer(&mut self, configs: impl IntoIterator<Item = Config>) {
        for config in configs {
            if self.is_open(&config) && !self.offered.contains(&config) {
                self.offered.push_back(config);
            }
        }
    }

    /// Whether a config is legal here and has no outcome.
    pub fn is_open(&self, config: &Config) -> bool {
        !self.seen.contains_key(&config.key()) && self.space.index_of(config).is_some()
    }

    /// The expected time of the default: measured, or a guess from the roofline.
    pub fn expected_default(&self) -> Picos {
        // Defaults reach a third of the roofline on the shared models, as a rule.
        self.default_time.unwrap_or(Picos(self.least.0.saturating_mul(3).max(500_000)))
    }

    pub fn expected_best(&self) -> Picos {
        self.best.as_ref().map_or_else(|| self.expected_default(), |(_, time)| *time)
    }

    /// Rivals of a round: slow tasks get fewer of them, and so does a task of which nothing is known yet that would tell.
    pub fn room(&self) -> usize {
        if self.default_time.is_none() && self.least == Picos(0) {
            return ROOM_MIN;
        }
        let per_rival = self.expected_default().as_secs_f64() * 5.0;
        ((ROUND.as_secs_f64() / per_rival.max(1e-6)) as usize).clamp(ROOM_MIN, ROOM_MAX)
    }

    pub fn cost_s(&self) -> f64 {
        let time = self.expected_default().as_secs_f64();
        let bytes = (self.item.operator.bytes)(&self.item.task) as f64;
        // Per rival: verification and a second run, about six samples (some leave early) with emptied caches, packing at 1 GB/s, a
        // commit's share.
        let rival = 2.0 * time + 6.0 * (time.max(20e-6) + 100e-6) + bytes / 1e9 + 1e-3;
        rival * self.room() as f64 + bytes / 5e8 + 5e-3
    }
}

impl Search<'_> {
    pub fn timed(&self) -> Vec<(Config, Picos)> {
        let time = |(config, outcome): &(Config, Outcome)| match outcome {
            Outcome::Ok { timing, .. } => Some((config.clone(), timing.median)),
            Outcome::Failed { .. } => None,
        };
        self.seen.values().filter_map(time).collect()
    }

    /// The next configs: the best so far to compare with, the default if it has no time, and what the strategy proposes.
    pub fn propose(
        &mut self,
        room: usize,
        rules: &Rules<'_>,
        known: &[(features::TaskFeatures, Vec<(Config, Picos)>)],
    ) -> Rivals {
        let space = self.space;
        let item = self.item;
        let prior =
            self.prior.get_or_init(|| Learned::new(space.variants(), &features::of_task(&item.task, item.operator), known));
        let seen = &self.seen;
        self.strategy.get_or_insert_with(|| {
            let seed = Seed(rules.seed.0 ^ u64::from_le_bytes(first_8(item.task.key().0)));
            let mut strategy = (rules.strategy)(space, prior, seed);
            let score = |(config, outcome): &(Config, Outcome)| {
                let score = match outcome {
                    Outcome::Ok { timing, .. } => Score::Time(timing.median),
                    Outcome::Failed { .. } => Score::Failed,
                };
                Some((space.index_of(config)?, score))
            };
            strategy.observe(&seen.values().filter_map(score).collect::<Vec<_>>());
            strategy
        });
        let mut strategy = self.strategy.take();
        let mut offered = std::mem::take(&mut self.offered);
        let (fresh, exhausted) = self.fresh(room, &mut offered, strategy.as_deref_mut());
        (self.strategy, self.offered, self.exhausted) = (strategy, offered, exhausted);
        let lead = self.best.is_some();
        let configs = self.best.iter().map(|(config, _)| config.clone()).chain(fresh).collect();
        Rivals { configs, lead }
    }

    /// Configs without an outcome for a round: the default, what is offered, which is taken, and what the strategy proposes. And whether
    /// there are none left.
    fn fresh(
        &self,
        room: usize,
        offered: &mut VecDeque<Config>,
        strategy: Option<&mut (dyn Strategy + '_)>,
    ) -> (Vec<Config>, bool) {
        let mut configs = Vec::new();
        let mut asked: BTreeSet<ConfigKey> = BTreeSet::new();
        if !self.seen.contains_key(&self.default.key()) && room > 0 {
            asked.insert(self.default.key());
            configs.push(self.default.clone());
        }
        while asked.len() < room
            && let Some(config) = offered.pop_front()
        {
            if !self.seen.contains_key(&config.key()) && asked.insert(config.key()) {
                configs.push(config);
            }
        }
        let wanted = room.saturating_sub(asked.len());
        let Some(strategy) = strategy else { return (configs, false) };
        let proposed = strategy.propose(wanted);
        let exhausted = proposed.is_empty() && wanted > 0 && asked.is_empty();
        for config in proposed.into_iter().filter_map(|index| self.space.nth(index)) {
            if !self.seen.contains_key(&config.key()) && asked.insert(config.key()) {
                configs.push(config);
            }
        }
        (configs, exhausted)
    }

    /// What it would race next beside its best if nothing more were learned; before its first round, only what needs no strategy.
    pub fn foreseen(&self) -> Vec<Config> {
        let mut strategy = self.strategy.as_ref().map(|strategy| strategy.fork());
        self.fresh(self.room(), &mut self.offered.clone(), strategy.as_deref_mut()).0
    }

    /// Keeps what a round brought; the gain over the best before it, 1 when there is none.
    pub fn learn(&mut self, lead: Option<&Trial>, trials: &[Trial]) -> f64 {
        self.rounds += 1;
        // Times of this round as they would have been when the best was timed: drift between rounds falls out.
        let scale = match (&self.best, lead.and_then(Trial::time)) {
            (Some((_, then)), Some(now)) => then.0.max(1) as f64 / now.0.max(1) as f64,
            _ => 1.0,
        };
        let mut scored = Vec::new();
        let before = self.best.as_ref().map(|(_, time)| *time);
        for trial in trials {
            self.seen.insert(trial.config.key(), (trial.config.clone(), trial.outcome.clone()));
            let time = trial.time().map(|time| Picos((time.0 as f64 * scale) as u64));
            if let Some(index) = self.space.index_of(&trial.config) {
                scored.push((index, time.map_or(Score::Failed, Score::Time)));
            }
            let Some(time) = time else { continue };
            if trial.config == self.default {
                self.default_time = Some(time);
            }
            if self.best.as_ref().is_none_or(|(_, best)| time < *best) {
                self.best = Some((trial.config.clone(), time));
            }
        }
        if let Some(strategy) = &mut self.strategy {
            strategy.observe(&scored);
        }
        let after = self.best.as_ref().map(|(_, time)| *time);
        let gain = match (before.or(self.default_time), after) {
            (Some(before), Some(after)) => before.0 as f64 / after.0.max(1) as f64,
            _ => 1.0,
        };
        self.misses = if gain > GAIN_NOISE { 0 } else { self.misses + 1 };
        gain
    }

    /// The configs that a rehearsal would judge, at most so many: the fastest, the fastest of each other variant that is near, and what
    /// else is near. What was judged already is not among them.
    pub fn candidates(&self, most: usize) -> Vec<Config> {
        let (Some((_, best)), Some(default), false) = (&self.best, self.default_time, self.item.known) else { return Vec::new() };
        let judged = |config: &Config| {
            self.observations.iter().any(|one| matches!(&one.subject, Subject::Final { config: other, .. } if other == config))
        };
        let mut timed: Vec<(Picos, Config)> = self.timed().into_iter().map(|(config, time)| (time, config)).collect();
        timed.retain(|(_, config)| *config != self.default && self.space.index_of(config).is_some() && !judged(config));
        timed.sort();
        let within =
            |time: Picos, part: f64| time.0 as f64 <= best.0 as f64 * part && time.0 as f64 <= default.0 as f64 * DEFAULT_NEAR;
        let mut variants: Vec<&str> = Vec::new();
        let mut first = Vec::new();
        let mut rest = Vec::new();
        for (time, config) in &timed {
            if !variants.contains(&config.variant.as_str()) && within(*time, VARIANT_NEAR) {
                variants.push(&config.variant);
                first.push(config.clone());
            } else if within(*time, CONFIG_NEAR) {
                rest.push(config.clone());
            }
        }
        first.truncate(1 + VARIANTS);
        first.extend(rest);
        first.truncate(most);
        first
    }

    /// The config a run-off would judge, with its gain over the default: the best, unless it is the default, was judged already or
    /// gains nothing beyond the noise.
    pub fn finalist(&self) -> Option<(Config, f64)> {
        if self.item.known {
            return None;
        }
        let (best, time) = self.best.as_ref()?;
        let gain = self.default_time?.0 as f64 / time.0.max(1) as f64;
        let judged = self.observations.iter().any(|observation| match &observation.subject {
            Subject::Final { config, .. } => config == best,
            _ => false,
        });
        (*best != self.default && gain > GAIN_NOISE && !judged).then(|| (best.clone(), gain))
    }

    pub fn run_off_cost(&self) -> Duration {
        let pair = self.expected_default().as_secs_f64() + self.expected_best().as_secs_f64() + 200e-6;
        let bytes = (self.item.operator.bytes)(&self.item.task) as f64;
        let timing = (20.0 * pair).min(Effort::RUNOFF.limit.as_secs_f64() + 2.0 * pair);
        Duration::from_secs_f64(timing + 4.0 * pair + bytes / 2.5e8 + 5e-3)
    }
}

/// The configs of a round; with `lead`, the first is the best so far, raced again for comparison and not recorded.
pub(super) struct Rivals {
    pub configs: Vec<Config>,
    pub lead: bool,
}

impl Rivals {
    /// Configs that will be recorded.
    pub fn new_trials(&self) -> u64 {
        (self.configs.len() - usize::from(self.lead)) as u64
    }
}

fn first_8(key: [u8; 16]) -> [u8; 8] {
    let mut first = [0; 8];
    first.copy_from_slice(&key[..8]);
    first
}
