//! The loop: rounds of search over items, then run-offs, until the budget ends or nothing is left to gain.
//!
//! An *item* is a task on a *place* (a share of a device); a *contender* is a way to compute what an entry of the artifact is for (a model
//! at a batch on a place) and uses items. The loop owns the budget, the seed, duplicates and the reason to stop; [`super::allocate`] says who is next, a
//! strategy which configs, a [`Bench`] what they take, [`mod@super::choose`] who won. Time comes from a [`Clock`], so all of it runs
//! on a fake bench.
//!
//! Invariants: no config of an item is measured twice; a trial is counted after its records were committed, never before; the same
//! records, seed and times give the same choices.

use super::allocate::{self, Stand};
use super::budget::{Budget, Stop};
use super::choose::{Choice, choose};
use super::event::{Event, Refusal};
use super::item::{Item, Rivals, Search, Use};
use super::portfolio::{self, Times};
use super::records::{Records, RecordsError, medians};
use crate::artifact::ArtifactError;
use crate::device::Grant;
use crate::measure::interference::Watch;
use crate::measure::rehearsal::{Cast, Rehearsal};
use crate::measure::{Bench, Clock, Effort, MeasureError, Phase, Phases, Trial};
use crate::search::Make;
use crate::search::prior::{Learned, Roofline};
use crate::space::{Space, features};
use kernels::Task;
use schema::{
    Config, Device, Environment, FailureClass, NewObservation, NoiseGrade, Numerics, ObservationId, Outcome, Picos, Seed, Share,
    Subject,
};
use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A share of a device, as records name it.
#[derive(Clone, Debug)]
pub struct Place {
    pub device: Device,
    pub environment: Environment,
    pub grant: Grant,
    pub roofline: Roofline,
}

/// What the loop is told.
#[derive(Copy, Clone)]
pub struct Rules<'a> {
    pub budget: Budget,
    pub seed: Seed,
    pub strategy: Make,
    pub numerics: Numerics,
    /// Explorations at once on one place; 1 turns concurrency off.
    pub parallel: usize,
    /// Observations of earlier tunings are not looked at.
    pub fresh: bool,
    /// Set by a signal: the loop ends after the round it is in.
    pub interrupted: &'a AtomicBool,
    pub clock: &'a dyn Clock,
    /// When the budget began, by that clock.
    pub start: Duration,
}

impl Rules<'_> {
    /// What is spent of the budget.
    pub fn elapsed(&self) -> Duration {
        self.clock.now().saturating_sub(self.start)
    }
}

/// The benches of each place, one per disjoint part; the first also judges finalists.
pub type Benches<'b> = Vec<Vec<Box<dyn Bench + Send + 'b>>>;

/// What came out.
#[derive(Clone, Debug)]
pub struct Explored {
    /// For each item.
    pub choices: Vec<Choice>,
    /// For each item: medians by config, as far as they are known.
    pub times: Vec<Vec<(Config, Picos)>>,
    pub measured: u64,
    pub reused: u64,
    pub refused: BTreeMap<FailureClass, u64>,
    pub stop: Stop,
    /// Where the time went.
    pub phases: Phases,
}

/// Why a tuning cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ExploreError {
    #[error(transparent)]
    Records(#[from] RecordsError),
    #[error(transparent)]
    Measure(#[from] MeasureError),
    #[error(transparent)]
    Draft(#[from] ArtifactError),
}

/// Runs plans of whole models.
pub trait Rehearse {
    /// Times each rival plan of a contender in pairs with its plan of defaults, in at most about `whole`.
    ///
    /// # Errors
    /// [`ExploreError`] when the stage itself fails; never for a candidate.
    fn rehearse(&mut self, contender: usize, rivals: &[Cast], effort: Effort, whole: Duration)
    -> Result<Rehearsal, ExploreError>;

    /// What the sentinel took on it since this was last asked.
    fn sentinels(&mut self) -> Vec<Picos>;

    /// Where its time went since this was last asked.
    fn phases(&mut self) -> Phases;
}

/// Tasks with more operand bytes are explored alone: two workers' copies of them would not fit.
const ALONE_FROM_BYTES: u64 = 96 << 20;
/// Rounds to come that are foreseen for each slot, while it times: the design's depth of a pool that compiles ahead.
pub(super) const FORESEEN_PER_SLOT: usize = 2;
/// Configs of a neighbouring share that a task starts with.
const SEEDS_MAX: usize = 8;
/// Tasks of an operator whose records a prior reads.
const SIMILAR_MAX: usize = 64;
/// Rounds without a gain that each pass after the first forgives an item.
const MISSES_FORGIVEN: u32 = 3;
/// A pass that gains less of the models' time than this is the last.
const PASS_GAIN_MIN: f64 = 0.004;
/// An item below this part of every contender that uses it is left at its default without a measurement.
const NEGLIGIBLE: f64 = 0.002;

/// The loop's state.
pub struct Loop<'a, 'b, 'e> {
    pub(super) rules: &'a Rules<'a>,
    pub(super) places: &'a [Place],
    pub(super) contenders: usize,
    pub(super) searches: Vec<Search<'a>>,
    pub(super) benches: &'a mut Benches<'b>,
    pub(super) stage: &'a mut dyn Rehearse,
    pub(super) records: &'a mut dyn Records,
    pub(super) events: &'a mut (dyn FnMut(Event) + 'e),
    pub(super) measured: u64,
    pub(super) reused: u64,
    pub(super) refused: BTreeMap<FailureClass, u64>,
    pub(super) active_place: Option<usize>,
    /// Of each place: whether its slots disturb each other.
    pub(super) watches: Vec<Watch>,
    pub(super) phases: Phases,
    /// What a run of each contender's default plan took, once one was rehearsed.
    pub(super) runs: Vec<Option<Picos>>,
    /// Passes before this one.
    pass: u32,
}

/// Explores every item that is not known, judges the finalists and chooses. `reserve` is what the caller will need of the budget
/// afterwards, given the expected time of each contender.
///
/// # Errors
/// [`ExploreError`] when records or benches fail; never for a candidate.
#[allow(clippy::too_many_arguments)]
pub fn explore<'b>(
    places: &[Place],
    items: &[Item],
    contenders: usize,
    rules: &Rules<'_>,
    benches: &mut Benches<'b>,
    stage: &mut dyn Rehearse,
    records: &mut dyn Records,
    reserve: &dyn Fn(&[Picos]) -> Duration,
    events: &mut dyn FnMut(Event),
) -> Result<Explored, ExploreError> {
    let limits = |item: &Item| kernels::Limits { numerics: rules.numerics, ..places[item.place].grant.limits };
    let spaces: Vec<Space> = items.iter().map(|item| Space::new(&item.task, item.operator, &limits(item))).collect();
    let priors: Vec<OnceCell<Learned>> = items.iter().map(|_| OnceCell::new()).collect();
    let mut reused = 0;
    let mut searches = Vec::with_capacity(items.len());
    for ((item, space), prior) in items.iter().zip(&spaces).zip(&priors) {
        let place = &places[item.place];
        let observations = if rules.fresh {
            Vec::new()
        } else {
            let mut all = records.of_task(item.task.key(), place.device.key(), place.grant.share)?;
            all.retain(|observation| {
                observation.environment == place.environment.key() && observation.numerics == rules.numerics
            });
            all
        };
        let search = Search::new(item, space, prior, place, observations);
        reused += search.seen.len() as u64;
        searches.push(search);
    }
    let watches = benches.iter().map(|slots| Watch::new(slots.len())).collect();
    let mut run = Loop {
        rules,
        places,
        contenders,
        searches,
        benches,
        stage,
        records,
        events,
        measured: 0,
        reused,
        refused: BTreeMap::new(),
        active_place: None,
        watches,
        phases: Phases::default(),
        runs: vec![None; contenders],
        pass: 0,
    };
    let stop = run.passes(reserve)?;
    Ok(run.finish(stop))
}

impl Loop<'_, '_, '_> {
    /// The expected time of each contender with every item at its default.
    pub(super) fn contender_times(&self) -> Vec<Picos> {
        let mut times = vec![0u64; self.contenders];
        for search in &self.searches {
            for used in &search.item.uses {
                let part = search.expected_default().0.saturating_mul(u64::from(used.count));
                times[used.contender] = times[used.contender].saturating_add(part);
            }
        }
        times.into_iter().map(Picos).collect()
    }

    /// What a run of each contender costs: what it took, or at least what its tasks take.
    pub(super) fn run_times(&self) -> Vec<Picos> {
        let known = self.runs.iter().map(|run| run.unwrap_or_default());
        self.contender_times().into_iter().zip(known).map(|(tasks, run)| tasks.max(run)).collect()
    }

    /// The part of its contenders' time that an item is: the sum over contenders, and the greatest.
    pub(super) fn weight(&self, search: &Search<'_>, times: &[Picos]) -> (f64, f64) {
        let part =
            |used: &Use| search.expected_default().0 as f64 * f64::from(used.count) / times[used.contender].0.max(1) as f64;
        let parts = search.item.uses.iter().map(part);
        parts.fold((0.0, 0.0), |(sum, most), part| (sum + part, f64::max(most, part)))
    }

    /// Search and finals, and again with more patience as long as the budget lasts and the last pass made the models faster.
    fn passes(&mut self, reserve: &dyn Fn(&[Picos]) -> Duration) -> Result<Stop, ExploreError> {
        let mut before = f64::INFINITY;
        loop {
            let found = self.search(reserve)?;
            for judge in [Self::rehearsals, Self::run_offs] {
                match judge(self, reserve) {
                    Err(ExploreError::Measure(MeasureError::Interrupted)) => return Ok(Stop::Interrupted),
                    done => done?,
                }
            }
            if self.rules.interrupted.load(Ordering::SeqCst) {
                return Ok(Stop::Interrupted);
            }
            let now = self.predicted();
            match found {
                Stop::NothingLeft if now < before * (1.0 - PASS_GAIN_MIN) => (before, self.pass) = (now, self.pass + 1),
                Stop::NothingToDo if self.pass > 0 => return Ok(Stop::NothingLeft),
                found => return Ok(found),
            }
        }
    }

    /// The time of all contenders with what is chosen so far, each as a part of its time with defaults.
    fn predicted(&self) -> f64 {
        let times = self.contender_times();
        let part = |search: &Search<'_>| {
            let ratio = self.choice(search).ratio.map_or(1.0, |ratio| 1e6 / ratio.ppm.max(1) as f64);
            self.weight(search, &times).0 * ratio
        };
        self.searches.iter().map(part).sum()
    }

    fn choice(&self, search: &Search<'_>) -> Choice {
        let environment = self.places[search.item.place].environment.key();
        choose(&search.observations, environment, &search.default, |config| search.space.explain(config).is_ok())
    }

    fn stand(&self, search: &Search<'_>, times: &[Picos]) -> Stand {
        let (weight, most) = self.weight(search, times);
        let closed = search.item.known || search.exhausted || most < NEGLIGIBLE;
        let left = if closed { 0 } else { search.space.size().saturating_sub(search.seen.len()) };
        // Before its first round nothing is known of an item: it must be looked at once, however good the guess.
        let (least, misses) = if search.rounds == 0 {
            (Picos(0), 0)
        } else {
            (search.least, search.misses.saturating_sub(MISSES_FORGIVEN * self.pass))
        };
        let time = search.expected_best();
        Stand { weight, time, least, rounds: search.rounds, misses, left, cost_s: search.cost_s() }
    }

    /// Rounds until the budget (less `reserve` and the run-offs to come) ends, or nothing is worth one.
    fn search(&mut self, reserve: &dyn Fn(&[Picos]) -> Duration) -> Result<Stop, ExploreError> {
        let mut any = false;
        loop {
            if self.rules.interrupted.load(Ordering::SeqCst) {
                return Ok(Stop::Interrupted);
            }
            let times = self.contender_times();
            let runs = self.run_times();
            if let Some(time) = self.rules.budget.time
                && self.rules.elapsed() + reserve(&runs) + self.finals_reserve(&runs) >= time
            {
                return Ok(Stop::Time(time));
            }
            let left = self.rules.budget.trials.map(|trials| trials.saturating_sub(self.measured));
            if left == Some(0) {
                return Ok(Stop::Trials(self.measured));
            }
            let stands: Vec<Stand> = self.searches.iter().map(|search| self.stand(search, &times)).collect();
            let order = allocate::order(&stands);
            let Some(&first) = order.first() else {
                return Ok(if any { Stop::NothingLeft } else { Stop::NothingToDo });
            };
            any = true;
            let batch = self.together(first, &order);
            match self.round(&batch, &order, left, &times) {
                Err(ExploreError::Measure(MeasureError::Interrupted)) => return Ok(Stop::Interrupted),
                done => done?,
            }
        }
    }

    /// The items explored at once with `first`: the next best on the same place, as many as it has disjoint parts.
    fn together(&self, first: usize, order: &[usize]) -> Vec<usize> {
        let place = self.searches[first].item.place;
        let bytes = |at: usize| (self.searches[at].item.operator.bytes)(&self.searches[at].item.task);
        let slots = self.watches[place].slots(self.rules.clock.now()).min(self.rules.parallel.max(1));
        if bytes(first) >= ALONE_FROM_BYTES || slots < 2 {
            return vec![first];
        }
        let others = order.iter().copied().filter(|&at| at != first);
        let fitting = others.filter(|&at| self.searches[at].item.place == place && bytes(at) < ALONE_FROM_BYTES);
        std::iter::once(first).chain(fitting.take(slots - 1)).collect()
    }

    /// Says that an item gets a round of search, or of run-off.
    pub(super) fn tell_task(&mut self, at: usize) {
        let item = self.searches[at].item;
        let place = &self.places[item.place];
        (self.events)(Event::Task {
            number: at + 1,
            of: self.searches.len(),
            task: item.task.to_string(),
            device: place.device.name.0.clone(),
            share: place.grant.share,
        });
    }

    /// How steady the machine was on each slot of a place in the rounds since this was last asked; and says it.
    pub(super) fn take_sentinels(&mut self, place: usize) -> Vec<Vec<Picos>> {
        let seen: Vec<Vec<Picos>> = self.benches[place].iter_mut().map(|bench| bench.sentinels()).collect();
        (self.events)(Event::Sentinels { times: seen.concat() });
        seen
    }

    /// Asks the sentinels of slots that will measure at once what they take while the others rest, where that is not known.
    fn rest_sentinels(&mut self, place: usize, slots: usize) -> Result<(), ExploreError> {
        for (slot, bench) in self.benches[place].iter_mut().enumerate().take(slots) {
            if self.watches[place].is_unknown(slot) {
                let times = bench.try_sentinel()?;
                self.watches[place].rested(slot, &times);
            }
        }
        Ok(())
    }

    /// Which slots of a round were disturbed by the others, or by what was compiled beside them.
    fn disturbed(&mut self, place: usize, slots: usize, helped: bool) -> Vec<bool> {
        let mut seen = self.take_sentinels(place);
        seen.truncate(slots);
        if let ([alone], false) = (&seen[..], helped) {
            self.watches[place].rested(0, alone);
            return vec![false];
        }
        self.watches[place].together(self.rules.clock.now(), &seen)
    }

    /// Lets every bench forget what it holds: whole models need the memory and the cores.
    pub(super) fn rest(&mut self) {
        self.benches.iter_mut().flatten().for_each(|bench| bench.rest());
        self.active_place = None;
    }

    /// Lets the benches of other places forget what they hold.
    pub(super) fn take_place(&mut self, place: usize) {
        if self.active_place.is_some_and(|active| active != place) {
            let others = self.benches.iter_mut().enumerate().filter(|(at, _)| *at != place);
            others.flat_map(|(_, benches)| benches).for_each(|bench| bench.rest());
        }
        self.active_place = Some(place);
    }

    /// Has the place compile what is expected of the rounds after this one, unless that disturbed it within the last minute: first what
    /// items race next that wait in `order`, then those of `batch`, of which this round will tell more. Whether it does.
    fn foresee(&mut self, place: usize, batch: &[usize], order: &[usize]) -> bool {
        let Some(bench) = self.benches[place].first_mut().filter(|bench| bench.is_helped()) else { return false };
        let helped = !self.watches[place].is_halved(self.rules.clock.now());
        let here = |at: &&usize| self.searches[**at].item.place == place;
        let waiting = order.iter().filter(|at| !batch.contains(at)).filter(here).chain(batch);
        let rounds = waiting.take(if helped { FORESEEN_PER_SLOT * batch.len() } else { 0 });
        let foreseen = |&at: &usize| (self.searches[at].item.task.clone(), self.searches[at].foreseen());
        bench.foresee(&rounds.map(foreseen).collect::<Vec<_>>());
        helped
    }

    /// One round of each item of `batch`, at the same time on disjoint parts of their place; `order` are all that are worth one.
    fn round(&mut self, batch: &[usize], order: &[usize], mut left: Option<u64>, times: &[Picos]) -> Result<(), ExploreError> {
        let place = self.searches[batch[0]].item.place;
        self.take_place(place);
        let mut rivals = Vec::new();
        for &at in batch {
            let start = self.rules.clock.now();
            let known = self.similar(at)?;
            let seeds = self.seeds(at)?;
            self.searches[at].offer(seeds);
            let room = self.searches[at].room().min(usize::try_from(left.unwrap_or(u64::MAX)).unwrap_or(usize::MAX));
            let configs = self.searches[at].propose(room, self.rules, &known);
            self.phases.add(Phase::Propose, self.rules.clock.now().saturating_sub(start));
            left = left.map(|left| left.saturating_sub(configs.new_trials()));
            self.tell_task(at);
            rivals.push(configs);
        }
        if batch.len() > 1 || self.benches[place].iter().any(|bench| bench.is_helped()) {
            self.rest_sentinels(place, batch.len())?;
        }
        let helped = self.foresee(place, batch, order);
        let raced = self.race(place, batch, &rivals);
        let disturbed = self.disturbed(place, batch.len(), helped);
        let mut discarded = 0;
        for (((&at, configs), trials), disturbed) in batch.iter().zip(&rivals).zip(raced?).zip(disturbed) {
            let (lead, trials) = if configs.lead { (trials.first().cloned(), &trials[1..]) } else { (None, &trials[..]) };
            // What a config took beside others says nothing of what it takes; that it is wrong or crashes does.
            let (again, trials): (Vec<Trial>, Vec<Trial>) =
                trials.iter().cloned().partition(|trial| disturbed && trial.depends_on_time());
            discarded += again.len() as u64;
            self.searches[at].offer(again.into_iter().map(|trial| trial.config));
            self.record(at, &trials)?;
            if !disturbed || !trials.is_empty() {
                self.learn(at, lead.as_ref().filter(|_| !disturbed), &trials, times);
            }
        }
        if discarded > 0 {
            let (device, share) = (self.places[place].device.name.0.clone(), self.places[place].grant.share);
            (self.events)(Event::Disturbed { device, share, slots: batch.len(), discarded });
        }
        Ok(())
    }

    /// Configs that did well at other shares of the device. At first the fastest of the nearest share, of this tuning or of the records of
    /// earlier ones; later what became the fastest at any share of this tuning, so that a portfolio knows what it costs elsewhere.
    fn seeds(&self, at: usize) -> Result<Vec<Config>, ExploreError> {
        let search = &self.searches[at];
        let place = &self.places[search.item.place];
        let share = place.grant.share;
        let beside = || {
            let others = self.searches.iter().filter(|other| other.item.task == search.item.task);
            others
                .map(|other| (&self.places[other.item.place], other))
                .filter(|(there, _)| there.device.key() == place.device.key() && there.grant.share != share)
        };
        if search.strategy.is_some() {
            let bests = beside().filter_map(|(_, other)| other.best.as_ref().map(|(config, _)| config.clone()));
            return Ok(bests.filter(|config| search.is_open(config)).collect());
        }
        let mut times = Times::new();
        if !self.rules.fresh {
            let mut all = self.records.of_other_shares(search.item.task.key(), place.device.key(), share)?;
            all.retain(|one| one.environment == place.environment.key() && one.numerics == self.rules.numerics);
            times = portfolio::times(&all);
        }
        for (there, other) in beside() {
            times.entry(there.grant.share).or_default().extend(other.timed());
        }
        let ratio = |other: Share| (f64::from(other.as_per_mille()) / f64::from(share.as_per_mille())).ln().abs();
        let nearest = times.iter().filter(|(_, timed)| !timed.is_empty()).min_by(|a, b| ratio(*a.0).total_cmp(&ratio(*b.0)));
        let mut timed: Vec<(&Picos, &Config)> =
            nearest.into_iter().flat_map(|(_, timed)| timed.iter().map(|(config, time)| (time, config))).collect();
        timed.retain(|(_, config)| search.is_open(config));
        timed.sort();
        Ok(timed.into_iter().take(SEEDS_MAX).map(|(_, config)| config.clone()).collect())
    }

    /// Races each item's rivals, at once where there is more than one.
    fn race(&mut self, place: usize, batch: &[usize], rivals: &[Rivals]) -> Result<Vec<Vec<Trial>>, ExploreError> {
        let tasks: Vec<&Task> = batch.iter().map(|&at| &self.searches[at].item.task).collect();
        let benches = &mut self.benches[place];
        let effort = Effort::SEARCH;
        if let ([task], [rivals], [bench, ..]) = (&tasks[..], rivals, &mut benches[..]) {
            return Ok(vec![bench.race(task, &rivals.configs, &effort)?]);
        }
        let raced: Vec<Result<Vec<Trial>, MeasureError>> = std::thread::scope(|scope| {
            let started: Vec<_> = tasks
                .iter()
                .zip(rivals)
                .zip(benches.iter_mut())
                .map(|((task, rivals), bench)| scope.spawn(move || bench.race(task, &rivals.configs, &effort)))
                .collect();
            let gone = |_| Err(MeasureError::Refused("the exploring thread panicked".to_owned()));
            started.into_iter().map(|thread| thread.join().unwrap_or_else(gone)).collect()
        });
        Ok(raced.into_iter().collect::<Result<_, _>>()?)
    }

    /// Timed configs of similar tasks: of this tuning, and of the records for an item's first round.
    fn similar(&self, at: usize) -> Result<Vec<(features::TaskFeatures, Vec<(Config, Picos)>)>, ExploreError> {
        let search = &self.searches[at];
        if search.strategy.is_some() {
            return Ok(Vec::new());
        }
        let mut known = Vec::new();
        for (other, found) in self.searches.iter().enumerate() {
            if other != at && found.item.operator.id == search.item.operator.id && found.seen.len() > 1 {
                known.push((features::of_task(&found.item.task, found.item.operator), found.timed()));
            }
        }
        if !self.rules.fresh {
            let place = &self.places[search.item.place];
            let (device, share) = (place.device.key(), place.grant.share);
            for (text, timed) in self.records.of_operator(search.item.operator.id, device, share, SIMILAR_MAX)? {
                if let Some(task) = Task::parse(&text).filter(|task| *task != search.item.task) {
                    known.push((features::of_task(&task, search.item.operator), timed));
                }
            }
        }
        Ok(known)
    }

    /// Hands observations to the records and waits for them; only then are they counted.
    fn record(&mut self, at: usize, trials: &[Trial]) -> Result<(), ExploreError> {
        let mut observations = Vec::with_capacity(trials.len());
        for trial in trials {
            let task = self.searches[at].item.task.key();
            let subject = Subject::Trial { task, config: trial.config.clone() };
            observations.push((at, self.observation(at, subject, trial.outcome.clone())));
        }
        let ids = self.commit(observations)?;
        self.measured += trials.len() as u64;
        for (trial, id) in trials.iter().zip(ids) {
            let outcome = match &trial.outcome {
                Outcome::Ok { timing, .. } => Ok((timing.median, timing.grade)),
                Outcome::Failed { class, detail } => {
                    *self.refused.entry(*class).or_default() += 1;
                    Err(Refusal { class: *class, detail: detail.clone() })
                }
            };
            let place = &self.places[self.searches[at].item.place];
            (self.events)(Event::Trial {
                id,
                task: self.searches[at].item.task.to_string(),
                config: trial.config.clone(),
                device: place.device.name.0.clone(),
                share: place.grant.share,
                outcome,
            });
        }
        (self.events)(Event::Saved { observations: self.measured });
        Ok(())
    }

    pub(super) fn observation(&self, at: usize, subject: Subject, outcome: Outcome) -> NewObservation {
        let place = &self.places[self.searches[at].item.place];
        observation(place, subject, outcome, self.rules)
    }

    /// Hands observations to the records, waits for them and keeps them with their items; their ids in order.
    pub(super) fn commit(&mut self, observations: Vec<(usize, NewObservation)>) -> Result<Vec<ObservationId>, ExploreError> {
        let start = self.rules.clock.now();
        for (_, observation) in &observations {
            self.records.append(observation.clone())?;
        }
        let ids = self.records.commit()?;
        self.phases.add(Phase::Store, self.rules.clock.now().saturating_sub(start));
        for ((at, observation), id) in observations.into_iter().zip(&ids) {
            self.searches[at].observations.push(observation.with_id(*id));
        }
        Ok(ids)
    }

    /// Tells the strategy the scores and keeps the best.
    fn learn(&mut self, at: usize, lead: Option<&Trial>, trials: &[Trial], times: &[Picos]) {
        let best_before = self.searches[at].best.clone();
        let gain = self.searches[at].learn(lead, trials);
        let search = &self.searches[at];
        let (Some((config, time)), true) = (search.best.clone(), gain > 1.0) else { return };
        if best_before.is_some_and(|(before, _)| before == config) {
            return;
        }
        let noise = match search.seen.get(&config.key()) {
            Some((_, Outcome::Ok { timing, .. })) => timing.grade,
            _ => NoiseGrade::D,
        };
        let task_gain = search.expected_default().0 as f64 / time.0.max(1) as f64;
        let (_, part) = self.weight(search, times);
        let model_gain = 1.0 / (1.0 - part.min(1.0) * (1.0 - 1.0 / task_gain.max(1e-9)));
        let task = search.item.task.to_string();
        let share = self.places[search.item.place].grant.share;
        (self.events)(Event::Best { task, config, share, gain: task_gain, model_gain, noise });
    }

    fn finish(mut self, stop: Stop) -> Explored {
        self.benches.iter_mut().flatten().for_each(|bench| self.phases.absorb(bench.phases()));
        Explored {
            choices: self.searches.iter().map(|search| self.choice(search)).collect(),
            times: self.searches.iter().map(|search| medians(&search.observations)).collect(),
            measured: self.measured,
            reused: self.reused,
            refused: self.refused,
            stop,
            phases: self.phases,
        }
    }
}

/// An observation of this tuning, before the store gives it an id.
pub(super) fn observation(place: &Place, subject: Subject, outcome: Outcome, rules: &Rules<'_>) -> NewObservation {
    let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    NewObservation {
        subject,
        device: place.device.key(),
        device_name: place.device.name.clone(),
        share: place.grant.share,
        grant: place.grant.grant.clone(),
        numerics: rules.numerics,
        outcome,
        environment: place.environment.key(),
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
        seed: rules.seed,
        wall_clock_s: since_1970.map_or(0, |since| since.as_secs()),
    }
}

#[cfg(test)]
#[path = "explore_tests.rs"]
mod tests;
