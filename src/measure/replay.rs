//! A bench that answers from recorded trials: strategies and the loop are compared on what a real machine once said.

use super::{Bench, Effort, MeasureError, Runoff, Trial};
use kernels::Task;
use schema::{Config, ConfigKey, FailureClass, Outcome, Ratio, TaskKey};
use std::collections::BTreeMap;

/// The bench: the outcome of each config of each task, as recorded.
#[derive(Debug, Default)]
pub struct Replay {
    outcomes: BTreeMap<(TaskKey, ConfigKey), Outcome>,
    /// What a config without a record gives; `None` makes it an error.
    pub missing: Option<FailureClass>,
}

impl Replay {
    /// A bench without records.
    pub fn new() -> Self {
        Replay::default()
    }

    /// Adds a recorded outcome; a later one of the same config replaces it.
    pub fn record(&mut self, task: TaskKey, config: &Config, outcome: Outcome) {
        self.outcomes.insert((task, config.key()), outcome);
    }

    /// How many outcomes there are.
    pub fn len(&self) -> usize {
        self.outcomes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.outcomes.is_empty()
    }

    fn outcome(&self, task: &Task, config: &Config) -> Result<Outcome, MeasureError> {
        match (self.outcomes.get(&(task.key(), config.key())), self.missing) {
            (Some(outcome), _) => Ok(outcome.clone()),
            (None, Some(class)) => Ok(Outcome::Failed { class, detail: "not recorded".to_owned() }),
            (None, None) => Err(MeasureError::NotRecorded { task: task.to_string(), config: config.to_string() }),
        }
    }
}

impl Bench for Replay {
    fn race(&mut self, task: &Task, configs: &[Config], _: &Effort) -> Result<Vec<Trial>, MeasureError> {
        configs.iter().map(|config| Ok(Trial { config: config.clone(), outcome: self.outcome(task, config)? })).collect()
    }

    fn runoff(&mut self, task: &Task, default: &Config, rival: &Config, _: &Effort) -> Result<Runoff, MeasureError> {
        match (self.outcome(task, default)?, self.outcome(task, rival)?) {
            (Outcome::Ok { timing: default, .. }, Outcome::Ok { timing: rival, .. }) => {
                let of = |a: u64, b: u64| (a.max(1) as f64 / b.max(1) as f64 * 1e6).round() as u64;
                // The intervals of both medians (about 2 MAD) bound that of the ratio.
                let ratio = Ratio {
                    ppm: of(default.median.0, rival.median.0),
                    lo_ppm: of(default.median.0.saturating_sub(2 * default.mad.0), rival.median.0 + 2 * rival.mad.0),
                    hi_ppm: of(default.median.0 + 2 * default.mad.0, rival.median.0.saturating_sub(2 * rival.mad.0)),
                };
                Ok(Runoff::Ok { default, rival, ratio })
            }
            (Outcome::Failed { class, detail }, _) => Ok(Runoff::Failed { rival: false, class, detail }),
            (_, Outcome::Failed { class, detail }) => Ok(Runoff::Failed { rival: true, class, detail }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::fake::{self, Fake, FakeClock, Faults};
    use crate::space::Space;
    use schema::Seed;

    #[test]
    fn what_was_recorded_is_replayed() {
        let task = fake::task(96);
        let space = Space::new(&task, fake::operator(), &fake::limits());
        let configs: Vec<Config> = space.indices().filter_map(|index| space.nth(index)).collect();
        let mut bench = Fake::new(Faults { noise: 0.02, crash: 0.1, ..Faults::default() }, Seed(2), &FakeClock::default());
        let recorded = bench.race(&task, &configs, &Effort::SEARCH).unwrap();
        let mut replay = Replay::new();
        for trial in &recorded {
            replay.record(task.key(), &trial.config, trial.outcome.clone());
        }
        assert_eq!(replay.len(), configs.len());
        assert_eq!(replay.race(&task, &configs, &Effort::SEARCH).unwrap(), recorded);
        let other = fake::task(97);
        assert!(matches!(replay.race(&other, &configs[..1], &Effort::SEARCH), Err(MeasureError::NotRecorded { .. })));
    }
}
