//! Rehearsals: configs timed where they will play, inside the whole model.
//!
//! A task timed alone finds its operands in other caches than within its network, and a kernel that wins there may lose here (alone,
//! the tuned tasks of densenet121 sum to 20 ms, in the model to 25). So a plan with one rival config for each task runs in pairs with
//! the plan of defaults, every step is timed, and each task gets the interval of its own ratio: one plan judges all tasks at once.

use super::bench::WorkerBench;
use super::noise::{self, timing};
use super::race::{Lane as RaceLane, Paired, Rounds};
use super::{Effort, MeasureError};
use crate::worker::{Answer, Ask, Lane, watchdog};
use schema::{Config, FailureClass, Picos, Split};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// What is rehearsed.
#[derive(Copy, Clone, Debug)]
pub struct Play<'a> {
    /// An artifact that holds the entry; its own configs do not matter.
    pub artifact: &'a Path,
    pub entry: u32,
    /// How all plans compute the batch, that of defaults as well: each step is compared with its own.
    pub split: Split,
    pub seed: u64,
    /// Largest difference of a rival plan's outputs from the default's.
    pub max_error: f64,
    /// Of one rival plan.
    pub effort: Effort,
}

/// What became of a rival plan.
#[derive(Clone, Debug, PartialEq)]
pub enum Rehearsed {
    /// Default, rival and their ratio, for each task by its text; tasks inside of control flow are missing.
    Ok(BTreeMap<String, Paired>),
    /// The plan fell; nobody can say by which of its configs.
    Failed { class: FailureClass, detail: String },
}

/// A plan: configs by the texts of their tasks.
pub type Cast = Vec<(String, Config)>;

const DEFAULT: u32 = 0;
const RIVAL: u32 = 1;
/// Laps that are run whatever the time limit says: two pairs each, and six are the fewest that have an interval.
const LAPS_MIN: u32 = 3;

impl WorkerBench<'_> {
    /// Times each rival plan in pairs with the plan of defaults, one after the other: two plans are in memory at once. The inner error
    /// is why the default itself does not run.
    ///
    /// # Errors
    /// [`MeasureError`] when the bench itself fails.
    pub fn rehearse(&mut self, play: &Play<'_>, rivals: &[Cast]) -> Result<Result<Vec<Rehearsed>, String>, MeasureError> {
        self.forget_task();
        let mut rehearsed = Vec::with_capacity(rivals.len());
        let mut default = None;
        for rival in rivals {
            // Anew as well when the rival before took the worker with it.
            let time = match default.filter(|_| self.has_worker()) {
                Some(time) => time,
                None => match self.load_plan(play.artifact, play.entry, DEFAULT, (play.split, &[]), play.seed)? {
                    Ok(time) => time,
                    Err((_, detail)) => return Ok(Err(detail)),
                },
            };
            default = Some(time);
            rehearsed.push(self.rehearse_one(play, rival, time)?);
        }
        if !matches!(self.ask(&Ask::Close, watchdog::HARD), Ok(Ok(Answer::Done))) {
            tracing::debug!("the worker was gone after a rehearsal");
        }
        Ok(Ok(rehearsed))
    }

    fn rehearse_one(&mut self, play: &Play<'_>, rival: &Cast, default: Picos) -> Result<Rehearsed, MeasureError> {
        let first = match self.load_plan(play.artifact, play.entry, RIVAL, (play.split, rival), play.seed)? {
            Ok(time) => time.max(default),
            Err((class, detail)) => return Ok(Rehearsed::Failed { class, detail }),
        };
        if let Err((class, detail)) = self.compare_plans([DEFAULT, RIVAL], play.max_error)? {
            return Ok(Rehearsed::Failed { class, detail });
        }
        let lanes = [Lane::Sentinel, Lane::Slot(DEFAULT), Lane::Slot(RIVAL), Lane::Slot(RIVAL), Lane::Slot(DEFAULT)];
        let deadline = watchdog::deadline(Some(Picos(first.0.saturating_mul(4)))).max(Duration::from_secs(10));
        let ask = Ask::RehearsePlans { lanes: lanes.to_vec() };
        let mut pairs: BTreeMap<String, Vec<(Picos, Picos)>> = BTreeMap::new();
        let (mut rounds, mut laps, start) = (Rounds::default(), 0, Instant::now());
        let effort = play.effort;
        let wanted = |laps: u32, spent: Duration| match spent {
            spent if spent < effort.least.min(effort.limit) => true,
            spent if spent < effort.limit => laps < effort.samples / 2,
            _ => laps < LAPS_MIN,
        };
        while wanted(laps, start.elapsed()) {
            match self.ask(&ask, deadline)? {
                Ok(Answer::Rehearsed { picos, tasks, tasks_picos }) => {
                    self.saw_sentinel(&[RaceLane::Sentinel], &picos);
                    let sentinel = Picos(picos.first().copied().unwrap_or_default());
                    let [a, b, c, d] = &tasks_picos[..] else {
                        return Err(MeasureError::Refused(format!("it rehearsed {} plans of four", tasks_picos.len())));
                    };
                    if rounds.counts(sentinel, laps.max(effort.samples / 2)) {
                        laps += 1;
                        for (at, task) in tasks.into_iter().enumerate() {
                            let time = |lane: &Vec<u64>| Picos(lane.get(at).copied().unwrap_or_default());
                            pairs.entry(task).or_default().extend([(time(a), time(b)), (time(d), time(c))]);
                        }
                    }
                }
                Ok(other) => return Err(MeasureError::Refused(format!("it answered a rehearsal with {other:?}"))),
                Err(death) => return Ok(Rehearsed::Failed { class: death.class, detail: death.detail }),
            }
        }
        let paired = |pairs: Vec<(Picos, Picos)>| {
            let (defaults, rivals): (Vec<Picos>, Vec<Picos>) = pairs.iter().copied().unzip();
            Some((timing(&defaults)?, timing(&rivals)?, noise::ratio(&pairs)?))
        };
        Ok(Rehearsed::Ok(pairs.into_iter().filter_map(|(task, pairs)| Some((task, paired(pairs)?))).collect()))
    }
}
