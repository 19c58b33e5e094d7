//! The real bench: configs are built, verified and timed in a worker process that owns the grant.

use super::ahead::Compilers;
use super::noise::timing;
use super::race::{self, Fall, Finish, Track};
use super::{Bench, Effort, MeasureError, Phase, Phases, Probe, Runoff, Trial};
use crate::device::Grant;
use crate::worker::{Answer, Ask, Death, Lane, Worker, watchdog};
use kernels::Task;
use schema::{Config, FailureClass, Outcome, Picos, Seed, Timing};
use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Deaths in a row after which the device counts as lost: no candidate is that unlucky.
const DEATHS_MAX: u32 = 3;
/// Prepared constants of one race together: more rivals than fit are raced in several heats.
const HEAT_BYTES_MAX: u64 = 384 << 20;

/// Sentinels in a row that tell how quiet a slot is: about a millisecond.
const SENTINELS: usize = 25;

/// What a measurement may still take once somebody wants to stop. Saving comes on top: a first Ctrl-C has done within two seconds.
const FINISHING: Duration = Duration::from_millis(800);

/// Measures on one grant, by a worker that is started when it is needed and again when it dies.
pub struct WorkerBench<'a> {
    program: PathBuf,
    grant: Grant,
    seed: Seed,
    /// Largest error against the reference.
    max_error: f64,
    worker: Option<Worker>,
    /// The task whose operands the worker holds.
    open: Option<Task>,
    /// Workers that died since one last answered.
    deaths: u32,
    patience: Patience<'a>,
    /// What the sentinel took since somebody last asked.
    sentinels: Vec<Picos>,
    /// And where the time went.
    phases: Phases,
    /// Those of its place, and which of the place's slots this is.
    compilers: Option<(Arc<Compilers>, usize)>,
}

/// How long the bench goes on: for ever, or for [`FINISHING`] after the flag was first seen set.
struct Patience<'a> {
    interrupted: Option<&'a AtomicBool>,
    since: Cell<Option<Instant>>,
}

impl Patience<'_> {
    fn lasts(&self) -> bool {
        if !self.interrupted.is_some_and(|flag| flag.load(Ordering::SeqCst)) {
            return true;
        }
        let since = self.since.get().unwrap_or_else(Instant::now);
        self.since.set(Some(since));
        since.elapsed() < FINISHING
    }
}

/// A candidate that stands in a slot.
struct Standing {
    config: Config,
    /// Its place among the rivals that were asked for.
    rival: usize,
    first: Picos,
}

/// What became of a build: the time of a run and the bytes it holds, or the failure.
type Built = Result<(Picos, u64), (FailureClass, String)>;
/// What became of an ask.
type Asked = Result<Result<Answer, Death>, MeasureError>;

impl<'a> WorkerBench<'a> {
    /// A bench on this grant. The worker is `program` executed again.
    pub fn new(program: &Path, grant: &Grant, seed: Seed, max_error: f64) -> Self {
        let (program, grant) = (program.to_owned(), grant.clone());
        let patience = Patience { interrupted: None, since: Cell::new(None) };
        let (sentinels, phases) = (Vec::new(), Phases::default());
        let (worker, open, compilers) = (None, None, None);
        WorkerBench { program, grant, seed, max_error, worker, open, deaths: 0, patience, sentinels, phases, compilers }
    }

    /// Has what it races compiled ahead, as a slot of the place whose compilers these are.
    #[must_use]
    pub fn helped_by(self, compilers: Arc<Compilers>, slot: usize) -> Self {
        WorkerBench { compilers: Some((compilers, slot)), ..self }
    }

    /// Gives up soon after the flag is set: what runs then may finish within 0.8 s, or its worker is ended.
    #[must_use]
    pub fn interrupted_by(self, flag: &'a AtomicBool) -> Self {
        WorkerBench { patience: Patience { interrupted: Some(flag), since: Cell::new(None) }, ..self }
    }

    /// Keeps what the sentinel of a lap took.
    pub(super) fn saw_sentinel(&mut self, lanes: &[race::Lane], picos: &[u64]) {
        if let (Some(race::Lane::Sentinel), Some(&time)) = (lanes.first(), picos.first()) {
            self.sentinels.push(Picos(time));
        }
    }

    /// The grant it measures on.
    pub fn grant(&self) -> &Grant {
        &self.grant
    }

    /// Lets the worker go, with all it holds.
    fn retire(&mut self) {
        self.worker = None;
        self.open = None;
    }

    /// The worker, started if there is none.
    pub(super) fn worker(&mut self) -> Result<&mut Worker, MeasureError> {
        match &mut self.worker {
            Some(worker) => Ok(worker),
            none => {
                self.open = None;
                let start = Instant::now();
                let worker = Worker::spawn(&self.grant, &self.program);
                self.phases.add(Phase::Load, start.elapsed());
                Ok(none.insert(worker?))
            }
        }
    }

    /// Asks the worker; its death is the inner error, and the third in a row the outer one.
    pub(super) fn ask(&mut self, ask: &Ask, deadline: Duration) -> Asked {
        if !self.patience.lasts() {
            return Err(MeasureError::Interrupted);
        }
        self.worker()?;
        let WorkerBench { worker: Some(worker), patience, .. } = self else { return Err(MeasureError::Interrupted) };
        let start = Instant::now();
        let answer = worker.ask_while(ask, deadline, &|| patience.lasts());
        self.phases.absorb(spent(ask, answer.as_ref().ok(), start.elapsed()));
        match answer {
            Ok(Answer::Wrong { reason }) => Err(MeasureError::Refused(reason)),
            Ok(answer) => {
                self.deaths = 0;
                Ok(Ok(answer))
            }
            Err(death) => {
                self.retire();
                if !self.patience.lasts() {
                    return Err(MeasureError::Interrupted);
                }
                self.deaths += 1;
                tracing::debug!(class = ?death.class, detail = %death.detail, "a worker died");
                if self.deaths >= DEATHS_MAX { Err(MeasureError::Lost(death.detail)) } else { Ok(Err(death)) }
            }
        }
    }

    /// Whether its worker lives, as far as is known.
    pub(super) fn has_worker(&self) -> bool {
        self.worker.is_some()
    }

    /// The task's operands make room for a model.
    pub(super) fn forget_task(&mut self) {
        self.rest();
    }

    /// Has the worker hold the operands of `task`; the inner error when it dies of that.
    fn open(&mut self, task: &Task) -> Result<Result<(), Death>, MeasureError> {
        if self.worker.is_some() && self.open.as_ref() == Some(task) {
            return Ok(Ok(()));
        }
        let ask = Ask::Open { task: task.to_string(), seed: self.seed.0, max_error: self.max_error };
        Ok(self.ask(&ask, watchdog::HARD)?.map(|_| self.open = Some(task.clone())))
    }

    /// Builds and verifies a config in a slot: the time of a run, and the bytes it holds.
    fn build(&mut self, task: &Task, slot: usize, config: &Config, best: Option<Picos>) -> Result<Built, MeasureError> {
        if let Err(death) = self.open(task)? {
            return Ok(Err((death.class, death.detail)));
        }
        let ask = Ask::Build { slot: u32::try_from(slot).unwrap_or(u32::MAX), config: config.clone() };
        // A driver compiles for seconds what runs for microseconds.
        let best = best.filter(|_| self.grant.limits.gpu.is_none());
        let ahead = self.compilers.as_ref().and_then(|(compilers, slot)| {
            let spent = compilers.claim(*slot, task, config, &|| self.patience.lasts())?;
            Some((compilers.clone(), spent))
        });
        Ok(match self.ask(&ask, watchdog::deadline(best))? {
            Ok(Answer::Built { first_ps, prepared_bytes, compile_ps, .. }) => {
                if let Some((compilers, spent)) = ahead {
                    let [left, run] = [compile_ps, first_ps].map(|picos| Duration::from_nanos(picos / 1000));
                    compilers.used(spent, left, run);
                }
                Ok((Picos(first_ps), prepared_bytes))
            }
            Ok(Answer::Refused { class, detail }) => Err((class, detail)),
            Ok(other) => return Err(MeasureError::Refused(format!("it answered a build with {other:?}"))),
            Err(death) => Err((death.class, death.detail)),
        })
    }

    /// Stands up as many of `configs` as fit together, from the front. Failures go to `trials`; returns who stands and how many
    /// were taken.
    fn stand_up(
        &mut self,
        task: &Task,
        configs: &[(usize, Config)],
        trials: &mut [Option<Trial>],
    ) -> Result<(Vec<Standing>, usize), MeasureError> {
        let mut standing: Vec<Standing> = Vec::new();
        let (mut held, mut taken) = (0u64, 0);
        for (rival, config) in configs {
            if standing.len() >= 2 && held.saturating_add(held / standing.len() as u64) > HEAT_BYTES_MAX {
                break;
            }
            taken += 1;
            let best = standing.iter().map(|one| one.first).min();
            match self.build(task, standing.len(), config, best)? {
                Ok((first, bytes)) => {
                    held = held.saturating_add(bytes);
                    standing.push(Standing { config: config.clone(), rival: *rival, first });
                }
                Err((class, detail)) => {
                    trials[*rival] = Some(Trial::failed(config, class, &detail));
                    self.stand_up_again(task, &mut standing)?;
                }
            }
        }
        Ok((standing, taken))
    }

    /// Builds the standing ones again if their worker died. Who does not stand any more is dropped from the list's middle by being
    /// marked with an endless time.
    fn stand_up_again(&mut self, task: &Task, standing: &mut [Standing]) -> Result<(), MeasureError> {
        if self.worker.is_some() {
            return Ok(());
        }
        for (slot, one) in standing.iter_mut().enumerate() {
            if one.first.0 < u64::MAX && self.build(task, slot, &one.config, None)?.is_err() {
                one.first = Picos(u64::MAX);
            }
        }
        Ok(())
    }

    /// Frees the slots of a heat.
    fn clear(&mut self, count: usize) -> Result<(), MeasureError> {
        if self.worker.is_some() {
            let slots = (0..u32::try_from(count).unwrap_or(0)).collect();
            let _ = self.ask(&Ask::Drop { slots }, watchdog::HARD)?;
        }
        Ok(())
    }
}

/// What a round trip was spent on: the worker's own times where it tells them, the rest for what was asked.
fn spent(ask: &Ask, answer: Option<&Answer>, took: Duration) -> Phases {
    let mut phases = Phases::default();
    let mut left = took;
    if let Some(&Answer::Built { generate_ps, compile_ps, .. }) = answer {
        for (phase, picos) in [(Phase::Generate, generate_ps), (Phase::Compile, compile_ps)] {
            let own = Duration::from_nanos(picos / 1000).min(left);
            phases.add(phase, own);
            left -= own;
        }
    }
    let rest = match ask {
        Ask::Build { .. } | Ask::ComparePlans { .. } => Phase::Verify,
        Ask::Compile { .. } => Phase::Compile,
        Ask::Lap { .. }
        | Ask::LapPlans { .. }
        | Ask::RehearsePlans { .. }
        | Ask::PlanStages { .. }
        | Ask::Probe
        | Ask::Wake { .. } => Phase::Time,
        Ask::Own(_) | Ask::Open { .. } | Ask::LoadPlan { .. } | Ask::Drop { .. } | Ask::Close | Ask::Destroy | Ask::Quit => {
            Phase::Load
        }
        // What runtimes ask, and no tuning.
        Ask::Serve { .. } | Ask::Another { .. } | Ask::Run { .. } | Ask::Collect { .. } | Ask::Release { .. } => Phase::Load,
    };
    phases.add(rest, left);
    phases
}

/// One heat: rivals in slots of the worker.
struct Heat<'a, 'b> {
    bench: &'a mut WorkerBench<'b>,
    task: &'a Task,
    standing: Vec<Standing>,
    start: Instant,
}

impl Track for Heat<'_, '_> {
    type Error = MeasureError;

    fn lap(&mut self, lanes: &[race::Lane]) -> Result<Result<Vec<Picos>, Fall>, MeasureError> {
        let lane = |lane: &race::Lane| match lane {
            race::Lane::Sentinel => Lane::Sentinel,
            race::Lane::Rival(rival) => Lane::Slot(u32::try_from(*rival).unwrap_or(u32::MAX)),
        };
        let time = |lane: &race::Lane| match lane {
            race::Lane::Sentinel => 0,
            race::Lane::Rival(rival) => self.standing.get(*rival).map_or(0, |one| one.first.0),
        };
        // One who could not be built again falls before the lap.
        let gone = lanes.iter().find(|lane| time(lane) == u64::MAX);
        if let Some(race::Lane::Rival(rival)) = gone {
            let detail = "it could not be built again after another candidate's crash".to_owned();
            return Ok(Err(Fall { rival: *rival, class: FailureClass::Crash, detail }));
        }
        let expected = lanes.iter().map(time).fold(20_000_000 * lanes.len() as u64, u64::saturating_add);
        let ask = Ask::Lap { lanes: lanes.iter().map(lane).collect() };
        match self.bench.ask(&ask, watchdog::deadline(Some(Picos(expected))))? {
            Ok(Answer::Times { picos }) => {
                self.bench.saw_sentinel(lanes, &picos);
                Ok(Ok(picos.into_iter().map(Picos).collect()))
            }
            Ok(other) => Err(MeasureError::Refused(format!("it answered a lap with {other:?}"))),
            Err(death) => {
                let at = death.lane.and_then(|lane| lanes.get(lane as usize));
                let rival = match at {
                    Some(race::Lane::Rival(rival)) => *rival,
                    // Nobody to blame by name: the first of the lap.
                    _ => lanes
                        .iter()
                        .find_map(|lane| if let race::Lane::Rival(rival) = lane { Some(*rival) } else { None })
                        .unwrap_or(0),
                };
                if let Some(one) = self.standing.get_mut(rival) {
                    one.first = Picos(u64::MAX);
                }
                self.bench.stand_up_again(self.task, &mut self.standing)?;
                Ok(Err(Fall { rival, class: death.class, detail: death.detail }))
            }
        }
    }

    fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }
}

impl Bench for WorkerBench<'_> {
    fn race(&mut self, task: &Task, configs: &[Config], effort: &Effort) -> Result<Vec<Trial>, MeasureError> {
        if let Some((compilers, slot)) = &self.compilers {
            compilers.begin(*slot, task, configs);
        }
        let mut trials: Vec<Option<Trial>> = vec![None; configs.len()];
        let rivals: Vec<(usize, Config)> = configs.iter().cloned().enumerate().collect();
        let mut rest = &rivals[..];
        while !rest.is_empty() {
            let (standing, taken) = self.stand_up(task, rest, &mut trials)?;
            rest = rest.get(taken..).unwrap_or(&[]);
            let count = standing.len();
            let mut heat = Heat { bench: self, task, standing, start: Instant::now() };
            let finishes = race::race(&mut heat, count, effort)?;
            for (one, finish) in heat.standing.iter().zip(finishes) {
                trials[one.rival] = Some(match finish {
                    Finish::Time(timing) => Trial { config: one.config.clone(), outcome: Outcome::Ok { timing, ratio: None } },
                    Finish::Fell { class, detail } => Trial::failed(&one.config, class, &detail),
                });
            }
            self.clear(count)?;
        }
        let untried = |config: &Config| Trial::failed(config, FailureClass::Crash, "it was not tried");
        Ok(trials.into_iter().zip(configs).map(|(trial, config)| trial.unwrap_or_else(|| untried(config))).collect())
    }

    fn runoff(&mut self, task: &Task, default: &Config, rival: &Config, effort: &Effort) -> Result<Runoff, MeasureError> {
        if let Some((compilers, _)) = &self.compilers {
            compilers.rest();
        }
        let mut trials = vec![None, None];
        let pair = [(0, default.clone()), (1, rival.clone())];
        let (standing, _) = self.stand_up(task, &pair, &mut trials)?;
        for (at, trial) in trials.into_iter().enumerate() {
            if let Some(Outcome::Failed { class, detail }) = trial.map(|trial: Trial| trial.outcome) {
                self.clear(2)?;
                return Ok(Runoff::Failed { rival: at == 1, class, detail });
            }
        }
        let mut heat = Heat { bench: self, task, standing, start: Instant::now() };
        let paired = race::pairs(&mut heat, effort, &race::LOOKS)?;
        self.clear(2)?;
        Ok(match paired {
            Ok((default, rival, ratio)) => Runoff::Ok { default, rival, ratio },
            Err(fall) => Runoff::Failed { rival: fall.rival == 1, class: fall.class, detail: fall.detail },
        })
    }

    fn probe(&mut self) -> Result<Vec<(Probe, Timing)>, MeasureError> {
        match self.ask(&Ask::Probe, watchdog::HARD)? {
            Ok(Answer::Probed { figures }) => {
                let picos = |samples: Vec<u64>| samples.into_iter().map(Picos).collect::<Vec<_>>();
                let timed = figures.into_iter().filter_map(|(probe, samples)| Some((probe, timing(&picos(samples))?)));
                Ok(timed.collect())
            }
            Ok(other) => Err(MeasureError::Refused(format!("it answered a probe with {other:?}"))),
            // A machine whose limits cannot be measured can still be tuned.
            Err(_) => Ok(Vec::new()),
        }
    }

    fn wake(&mut self, gap: Duration) -> Result<Option<Timing>, MeasureError> {
        let ask = Ask::Wake { gap_ms: u64::try_from(gap.as_millis()).unwrap_or(u64::MAX), samples: super::WAKES };
        match self.ask(&ask, (gap * super::WAKES).saturating_add(watchdog::HARD))? {
            Ok(Answer::Times { picos }) => Ok(timing(&picos.into_iter().map(Picos).collect::<Vec<_>>())),
            // The next race will say what its workers die of.
            _ => Ok(None),
        }
    }

    fn sentinels(&mut self) -> Vec<Picos> {
        std::mem::take(&mut self.sentinels)
    }

    fn try_sentinel(&mut self) -> Result<Vec<Picos>, MeasureError> {
        let ask = Ask::LapPlans { lanes: vec![Lane::Sentinel; SENTINELS] };
        match self.ask(&ask, watchdog::HARD)? {
            Ok(Answer::Times { picos }) => Ok(picos.into_iter().map(Picos).collect()),
            Ok(other) => Err(MeasureError::Refused(format!("it answered sentinels with {other:?}"))),
            // The next race will say what its workers die of.
            Err(_) => Ok(Vec::new()),
        }
    }

    fn phases(&mut self) -> Phases {
        if let Some((compilers, _)) = &self.compilers {
            self.phases.absorb(compilers.phases());
        }
        std::mem::take(&mut self.phases)
    }

    fn is_helped(&self) -> bool {
        self.compilers.as_ref().is_some_and(|(compilers, _)| compilers.tally().off.is_none())
    }

    fn foresee(&mut self, rounds: &[(Task, Vec<Config>)]) {
        if let Some((compilers, _)) = &self.compilers {
            compilers.foresee(rounds);
        }
    }

    fn rest(&mut self) {
        if let Some((compilers, _)) = &self.compilers {
            compilers.rest();
        }
        if self.open.take().is_some() && !matches!(self.ask(&Ask::Close, watchdog::HARD), Ok(Ok(_))) {
            self.retire();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_trip_is_what_the_worker_says_and_the_rest_is_for_what_was_asked() {
        let config = Config { variant: "a".into(), revision: 1, knobs: vec![] };
        let build = Ask::Build { slot: 0, config };
        let built = |generate_ps, compile_ps| Answer::Built { first_ps: 1, prepared_bytes: 0, generate_ps, compile_ps };
        let ms = Duration::from_millis;
        let found = spent(&build, Some(&built(2_000_000_000, 5_000_000_000)), ms(10));
        assert_eq!([Phase::Generate, Phase::Compile, Phase::Verify].map(|phase| found.of(phase)), [ms(2), ms(5), ms(3)]);
        let found = spent(&build, Some(&built(20_000_000_000, 5_000_000_000)), ms(10));
        assert_eq!([Phase::Generate, Phase::Compile, Phase::Verify].map(|phase| found.of(phase)), [ms(10), ms(0), ms(0)]);
        assert_eq!(spent(&build, None, ms(10)).of(Phase::Verify), ms(10), "a death");
        assert_eq!(spent(&Ask::Lap { lanes: vec![] }, Some(&Answer::Times { picos: vec![] }), ms(1)).of(Phase::Time), ms(1));
        assert_eq!(spent(&Ask::Close, Some(&Answer::Done), ms(1)).of(Phase::Load), ms(1));
    }
}
