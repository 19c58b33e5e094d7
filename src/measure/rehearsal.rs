//! Rehearsals: configs timed where they will play, inside the whole model.
//!
//! A task timed alone finds its operands in other caches than within its network, and a kernel that wins there may lose here (alone,
//! the tuned tasks of densenet121 sum to 20 ms, in the model to 25). So a plan with one rival config for each task runs in pairs with
//! the plan of defaults, every step is timed, and each task gets the interval of its own ratio: one plan judges all tasks at once.
//!
//! What a run takes is known only once the plan of defaults has run. From then on a rehearsal keeps to the time it was given: it is given
//! up when that leaves no pair, no rival begins that would end too late, and a rival whose time is up is judged by the pairs there are.

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
    /// What all of it may take, loading included.
    pub whole: Duration,
}

/// What became of a rival plan.
#[derive(Clone, Debug, PartialEq)]
pub enum Rehearsed {
    /// Default, rival and their ratio, for each task by its text; tasks inside of control flow are missing.
    Ok(BTreeMap<String, Paired>),
    /// The plan fell; nobody can say by which of its configs.
    Failed { class: FailureClass, detail: String },
}

/// What a rehearsal of a model told.
#[derive(Clone, Debug)]
pub struct Rehearsal {
    /// What a run of the default took, if it ran.
    pub run: Option<Picos>,
    /// Of the rivals, in order: there may be fewer than were asked for. Or why there is none.
    pub rivals: Result<Vec<Rehearsed>, String>,
}

/// A plan: configs by the texts of their tasks.
pub type Cast = Vec<(String, Config)>;

/// How a plan fell.
pub type Fallen = (FailureClass, String);

/// One lap: the sentinel, then default, rival, rival, default.
#[derive(Clone, Debug)]
pub struct Lap {
    pub sentinel: Picos,
    pub tasks: Vec<String>,
    /// What each task took in each run.
    pub picos: [Vec<Picos>; 4],
}

/// Where plans are made and run.
pub trait House {
    /// Makes the plan of defaults unless it stands: what a run of it takes, or why it does not run.
    ///
    /// # Errors
    /// [`MeasureError`] when the house itself fails.
    fn stand_default(&mut self) -> Result<Result<Picos, String>, MeasureError>;

    /// Makes a rival plan beside it and compares their outputs: what a run of it takes.
    ///
    /// # Errors
    /// As [`House::stand_default`].
    fn stand_rival(&mut self, rival: &Cast) -> Result<Result<Picos, Fallen>, MeasureError>;

    /// Runs both, a run of which takes at most `time`.
    ///
    /// # Errors
    /// As [`House::stand_default`].
    fn lap(&mut self, time: Picos) -> Result<Result<Lap, Fallen>, MeasureError>;

    /// Time that has passed.
    fn elapsed(&self) -> Duration;
}

const DEFAULT: u32 = 0;
const RIVAL: u32 = 1;
/// Laps that are run beyond the limit of a rival's pairs: two pairs each, and six are the fewest that have an interval.
const LAPS_MIN: u32 = 3;
/// Runs of the model that the fewest pairs of a rival take: one when it is loaded, and a lap.
const RUNS_MIN: u32 = 5;

/// Times each rival plan in pairs with the plan of defaults, one after the other, in at most about `whole`.
///
/// # Errors
/// [`MeasureError`] when the house itself fails.
pub fn rehearse<H: House>(house: &mut H, rivals: &[Cast], effort: &Effort, whole: Duration) -> Result<Rehearsal, MeasureError> {
    let end = house.elapsed().saturating_add(whole);
    let mut rehearsed: Vec<Rehearsed> = Vec::with_capacity(rivals.len());
    let (mut run, mut dearest) = (None, Duration::ZERO);
    for rival in rivals {
        let time = match house.stand_default()? {
            Ok(time) => *run.insert(time),
            Err(why) => return Ok(Rehearsal { run, rivals: Err(why) }),
        };
        let now = house.elapsed();
        let least = Duration::from_nanos(time.as_nanos()).saturating_mul(RUNS_MIN);
        if now.saturating_add(least.max(dearest)) > end {
            if rehearsed.is_empty() {
                let why = format!("a run takes {:.1} s: there is no time left for a pair", time.as_secs_f64());
                return Ok(Rehearsal { run, rivals: Err(why) });
            }
            break;
        }
        rehearsed.push(rehearse_one(house, rival, time, effort, end)?);
        dearest = dearest.max(house.elapsed().saturating_sub(now));
    }
    Ok(Rehearsal { run, rivals: Ok(rehearsed) })
}

/// Times one rival plan; `end` is when all of the rehearsal should be over, by the house's clock.
fn rehearse_one<H: House>(
    house: &mut H,
    rival: &Cast,
    default: Picos,
    effort: &Effort,
    end: Duration,
) -> Result<Rehearsed, MeasureError> {
    let first = match house.stand_rival(rival)? {
        Ok(time) => time.max(default),
        Err((class, detail)) => return Ok(Rehearsed::Failed { class, detail }),
    };
    let lap_time = Duration::from_nanos(first.as_nanos()).saturating_mul(4);
    let mut pairs: BTreeMap<String, Vec<(Picos, Picos)>> = BTreeMap::new();
    let (mut rounds, mut laps, start) = (Rounds::default(), 0u32, house.elapsed());
    let wanted = |laps: u32, now: Duration| match now.saturating_sub(start) {
        _ if laps > 0 && now.saturating_add(lap_time) > end => false,
        spent if spent < effort.least.min(effort.limit) => true,
        spent if spent < effort.limit => laps < effort.samples / 2,
        _ => laps < LAPS_MIN,
    };
    while wanted(laps, house.elapsed()) {
        match house.lap(first)? {
            Ok(Lap { sentinel, tasks, picos: [a, b, c, d] }) => {
                // Nothing is thrown away that there is no time to repeat.
                let in_time = house.elapsed().saturating_sub(start) < effort.limit;
                if rounds.counts(sentinel, if in_time { laps.max(effort.samples / 2) } else { 0 }) {
                    laps += 1;
                    for (at, task) in tasks.into_iter().enumerate() {
                        let time = |run: &Vec<Picos>| run.get(at).copied().unwrap_or_default();
                        pairs.entry(task).or_default().extend([(time(&a), time(&b)), (time(&d), time(&c))]);
                    }
                }
            }
            Err((class, detail)) => return Ok(Rehearsed::Failed { class, detail }),
        }
    }
    let paired = |pairs: Vec<(Picos, Picos)>| {
        let (defaults, rivals): (Vec<Picos>, Vec<Picos>) = pairs.iter().copied().unzip();
        Some((timing(&defaults)?, timing(&rivals)?, noise::ratio(&pairs)?))
    };
    Ok(Rehearsed::Ok(pairs.into_iter().filter_map(|(task, pairs)| Some((task, paired(pairs)?))).collect()))
}

impl WorkerBench<'_> {
    /// Times each rival plan in pairs with the plan of defaults, one after the other: two plans are in memory at once.
    ///
    /// # Errors
    /// [`MeasureError`] when the bench itself fails.
    pub fn rehearse(&mut self, play: &Play<'_>, rivals: &[Cast]) -> Result<Rehearsal, MeasureError> {
        self.forget_task();
        let mut house = WorkerHouse { bench: self, play, default: None, start: Instant::now() };
        let rehearsed = rehearse(&mut house, rivals, &play.effort, play.whole)?;
        if !matches!(self.ask(&Ask::Close, watchdog::HARD), Ok(Ok(Answer::Done))) {
            tracing::debug!("the worker was gone after a rehearsal");
        }
        Ok(rehearsed)
    }
}

/// A worker with two plans.
struct WorkerHouse<'a, 'b> {
    bench: &'a mut WorkerBench<'b>,
    play: &'a Play<'a>,
    /// What a run of the default takes, once its plan was made.
    default: Option<Picos>,
    start: Instant,
}

impl WorkerHouse<'_, '_> {
    fn load(&mut self, slot: u32, configs: &Cast) -> Result<Result<Picos, Fallen>, MeasureError> {
        let Play { artifact, entry, split, seed, .. } = *self.play;
        self.bench.load_plan(artifact, entry, slot, (split, configs), seed)
    }
}

impl House for WorkerHouse<'_, '_> {
    fn stand_default(&mut self) -> Result<Result<Picos, String>, MeasureError> {
        // Anew as well when the rival before took the worker with it.
        if let Some(time) = self.default.filter(|_| self.bench.has_worker()) {
            return Ok(Ok(time));
        }
        let loaded = self.load(DEFAULT, &Cast::new())?;
        self.default = loaded.as_ref().ok().copied();
        Ok(loaded.map_err(|(_, detail)| detail))
    }

    fn stand_rival(&mut self, rival: &Cast) -> Result<Result<Picos, Fallen>, MeasureError> {
        let time = match self.load(RIVAL, rival)? {
            Ok(time) => time,
            Err(fallen) => return Ok(Err(fallen)),
        };
        Ok(self.bench.compare_plans([DEFAULT, RIVAL], self.play.max_error)?.map(|()| time))
    }

    fn lap(&mut self, time: Picos) -> Result<Result<Lap, Fallen>, MeasureError> {
        let lanes = [Lane::Sentinel, Lane::Slot(DEFAULT), Lane::Slot(RIVAL), Lane::Slot(RIVAL), Lane::Slot(DEFAULT)];
        let deadline = watchdog::deadline(Some(Picos(time.0.saturating_mul(4)))).max(Duration::from_secs(10));
        match self.bench.ask(&Ask::RehearsePlans { lanes: lanes.to_vec() }, deadline)? {
            Ok(Answer::Rehearsed { picos, tasks, tasks_picos }) => {
                self.bench.saw_sentinel(&[RaceLane::Sentinel], &picos);
                let runs = <[Vec<u64>; 4]>::try_from(tasks_picos);
                let runs = runs.map_err(|found| MeasureError::Refused(format!("it rehearsed {} plans of four", found.len())))?;
                let picos_of = |run: Vec<u64>| run.into_iter().map(Picos).collect();
                let sentinel = Picos(picos.first().copied().unwrap_or_default());
                Ok(Ok(Lap { sentinel, tasks, picos: runs.map(picos_of) }))
            }
            Ok(other) => Err(MeasureError::Refused(format!("it answered a rehearsal with {other:?}"))),
            Err(death) => Ok(Err((death.class, death.detail))),
        }
    }

    fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plans of one task, a run of which takes so long.
    struct Hall {
        run: Duration,
        elapsed: Duration,
        rivals: u32,
        laps: u32,
    }

    fn hall(run_s: f64) -> Hall {
        Hall { run: Duration::from_secs_f64(run_s), elapsed: Duration::ZERO, rivals: 0, laps: 0 }
    }

    impl Hall {
        fn spend(&mut self, runs: u32) -> Picos {
            self.elapsed += self.run * runs;
            Picos::from_secs_f64(self.run.as_secs_f64())
        }
    }

    impl House for Hall {
        fn stand_default(&mut self) -> Result<Result<Picos, String>, MeasureError> {
            Ok(Ok(self.spend(u32::from(self.rivals == 0))))
        }

        fn stand_rival(&mut self, _: &Cast) -> Result<Result<Picos, Fallen>, MeasureError> {
            self.rivals += 1;
            Ok(Ok(self.spend(1)))
        }

        fn lap(&mut self, _: Picos) -> Result<Result<Lap, Fallen>, MeasureError> {
            self.laps += 1;
            let time = self.spend(4);
            // Every other lap the machine is slow.
            let sentinel = Picos(if self.laps.is_multiple_of(2) { 900 } else { 500 });
            Ok(Ok(Lap { sentinel, tasks: vec!["task".to_owned()], picos: [(); 4].map(|()| vec![time]) }))
        }

        fn elapsed(&self) -> Duration {
            self.elapsed
        }
    }

    const EFFORT: Effort = Effort { samples: 40, least: Duration::from_millis(150), limit: Duration::from_millis(600) };

    fn run(run_s: f64, whole_s: f64) -> (Hall, Result<Vec<Rehearsed>, String>) {
        let mut hall = hall(run_s);
        let rivals = vec![Cast::new(); 6];
        let found = rehearse(&mut hall, &rivals, &EFFORT, Duration::from_secs_f64(whole_s)).unwrap();
        assert_eq!(found.run, Some(Picos::from_secs_f64(run_s)));
        (hall, found.rivals)
    }

    #[test]
    fn what_runs_for_milliseconds_plays_in_full() {
        let (hall, found) = run(0.001, 10.0);
        assert_eq!((found.unwrap().len(), hall.rivals), (6, 6));
        assert!(hall.laps > 6 * EFFORT.samples / 2, "{}", hall.laps);
    }

    #[test]
    fn a_run_of_seconds_is_judged_by_two_pairs_and_no_rival_begins_that_ends_too_late() {
        let (hall, found) = run(5.0, 62.0);
        let found = found.unwrap();
        // Loading takes 5 s, the rival 25 s with one lap: a second lap fits, a second rival would not.
        assert_eq!((hall.rivals, hall.laps), (1, 2), "{:?}", hall.elapsed);
        let Rehearsed::Ok(tasks) = &found[0] else { panic!("nobody falls") };
        assert!(tasks["task"].0.n >= 2 && found.len() == 1);
        assert!(hall.elapsed <= Duration::from_secs(62));
    }

    #[test]
    fn no_time_for_a_pair_gives_it_up_after_one_run() {
        let (hall, found) = run(8.0, 30.0);
        assert!(found.unwrap_err().contains("a run takes 8.0 s"));
        assert_eq!((hall.rivals, hall.elapsed), (0, Duration::from_secs(8)));
    }

    #[test]
    fn laps_beyond_the_limit_are_not_thrown_away() {
        let (hall, found) = run(0.4, 1000.0);
        // Three laps each: those of a slow machine count when there is no time to repeat them.
        assert_eq!((found.unwrap().len(), hall.laps), (6, 6 * LAPS_MIN));
    }
}
