//! The loop on the fake bench: budget, duplicates, seeds, faults, resumption.

use super::*;
use crate::measure::Runoff;
use crate::measure::fake::{self, Fake, FakeClock, Faults};
use crate::measure::rehearsal::{self, Fallen, House, Lap};
use crate::tune::item::ROOM_MAX;
use crate::tune::machine;
use crate::tune::records::InMemory;
use schema::{ConfigKey, DeviceName, Observation, Share};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

/// A tuning of the fake tasks on a share of one core and on the whole of two.
struct Rig {
    places: Vec<Place>,
    items: Vec<Item>,
    clock: FakeClock,
    faults: Faults,
    budget: Budget,
    seed: u64,
    fresh: bool,
    strategy: &'static str,
    /// A variant that is slower inside of models than alone, by this factor; without one no model can be rehearsed.
    flattered: Option<(&'static str, f64)>,
    /// What a run of a model takes beside its tasks.
    beside: Duration,
    /// Disjoint parts of the first place, and races in which all but the first of them are disturbed.
    slots: usize,
    disturbed: u32,
    raced: Arc<Mutex<Vec<(schema::TaskKey, Config)>>>,
    /// Whether the first place has compilers; and what its first slot foresaw and raced, in order.
    helped: bool,
    told: Arc<Mutex<Vec<Told>>>,
}

/// What a slot was told.
#[derive(Clone, Debug)]
enum Told {
    /// So many rounds were foreseen, with these configs.
    Foreseen(usize, Vec<(schema::TaskKey, ConfigKey)>),
    Raced(Vec<(schema::TaskKey, ConfigKey)>),
}

/// Models in which a variant is slower than alone.
struct FakeStage<'a> {
    rig: &'a Rig,
    flattered: Option<(&'static str, f64)>,
}

impl FakeStage<'_> {
    /// The true time of a config inside of a model.
    fn inside(&self, task: &Task, config: &Config) -> Picos {
        let factor = self.flattered.filter(|(variant, _)| *variant == config.variant).map_or(1.0, |(_, factor)| factor);
        Picos::from_secs_f64(fake::true_time(task, config).as_secs_f64() * factor)
    }
}

impl FakeStage<'_> {
    /// The tasks of a contender with the configs they run with unless others are given.
    fn defaults(&self, contender: usize) -> Vec<(Task, Config)> {
        let items = self.rig.items.iter().filter(|item| item.uses[0].contender == contender);
        let default = |item: &Item| {
            let limits = &self.rig.places[item.place].grant.limits;
            (item.task.clone(), Space::new(&item.task, item.operator, limits).default_config())
        };
        items.map(default).collect()
    }
}

impl Rehearse for FakeStage<'_> {
    fn rehearse(
        &mut self,
        contender: usize,
        rivals: &[Cast],
        effort: Effort,
        whole: Duration,
    ) -> Result<Rehearsal, ExploreError> {
        if self.flattered.is_none() {
            return Ok(Rehearsal { run: None, rivals: Err("there are no models here".to_owned()) });
        }
        let defaults = self.defaults(contender);
        let mut house = FakeHouse { stage: self, rival: defaults.clone(), defaults, stands: false };
        Ok(rehearsal::rehearse(&mut house, rivals, &effort, whole)?)
    }

    fn sentinels(&mut self) -> Vec<Picos> {
        vec![Picos(1)]
    }

    fn phases(&mut self) -> Phases {
        Phases::default()
    }
}

/// A model on the stage, with the configs of both plans.
struct FakeHouse<'a> {
    stage: &'a FakeStage<'a>,
    defaults: Vec<(Task, Config)>,
    rival: Vec<(Task, Config)>,
    stands: bool,
}

impl FakeHouse<'_> {
    /// Runs a plan once: what all of it took, and each task.
    fn run(&self, plan: &[(Task, Config)]) -> (Picos, Vec<Picos>) {
        let tasks: Vec<Picos> = plan.iter().map(|(task, config)| self.stage.inside(task, config)).collect();
        let whole = tasks.iter().map(|time| Duration::from_nanos(time.as_nanos())).sum::<Duration>() + self.stage.rig.beside;
        self.stage.rig.clock.advance(whole);
        (Picos::from_secs_f64(whole.as_secs_f64()), tasks)
    }
}

impl House for FakeHouse<'_> {
    fn stand_default(&mut self) -> Result<Result<Picos, String>, MeasureError> {
        let stood = std::mem::replace(&mut self.stands, true);
        let time = if stood { Picos(0) } else { self.run(&self.defaults).0 };
        Ok(Ok(time.max(Picos::from_secs_f64(self.stage.rig.beside.as_secs_f64()))))
    }

    fn stand_rival(&mut self, rival: &Cast) -> Result<Result<Picos, Fallen>, MeasureError> {
        let config = |(task, default): &(Task, Config)| {
            let given = rival.iter().find(|(text, _)| *text == task.to_string());
            (task.clone(), given.map_or(default, |(_, config)| config).clone())
        };
        self.rival = self.defaults.iter().map(config).collect();
        Ok(Ok(self.run(&self.rival).0))
    }

    fn lap(&mut self, _: Picos) -> Result<Result<Lap, Fallen>, MeasureError> {
        let tasks = self.defaults.iter().map(|(task, _)| task.to_string()).collect();
        let picos = [&self.defaults, &self.rival, &self.rival, &self.defaults].map(|plan| self.run(plan).1);
        Ok(Ok(Lap { sentinel: Picos(1), tasks, picos }))
    }

    fn elapsed(&self) -> Duration {
        self.stage.rig.clock.now()
    }
}

/// A slot of a place, whose sentinel others slow down in its first races.
struct Slot {
    bench: Fake,
    disturbed: u32,
    sentinels: Vec<Picos>,
    /// What it raced while it was disturbed.
    raced: Arc<Mutex<Vec<(schema::TaskKey, Config)>>>,
    helped: Option<Arc<Mutex<Vec<Told>>>>,
}

const QUIET: Picos = Picos(20_000_000);

impl Bench for Slot {
    fn race(&mut self, task: &Task, configs: &[Config], effort: &Effort) -> Result<Vec<Trial>, MeasureError> {
        let disturbed = self.disturbed > 0;
        self.disturbed = self.disturbed.saturating_sub(1);
        if disturbed {
            self.raced.lock().unwrap().extend(configs.iter().map(|config| (task.key(), config.clone())));
        }
        if let Some(told) = &self.helped {
            told.lock().unwrap().push(Told::Raced(keys(task, configs).collect()));
        }
        self.sentinels.extend([if disturbed { Picos(QUIET.0 * 104 / 100) } else { QUIET }; 9]);
        self.bench.race(task, configs, effort)
    }

    fn runoff(&mut self, task: &Task, default: &Config, rival: &Config, effort: &Effort) -> Result<Runoff, MeasureError> {
        self.bench.runoff(task, default, rival, effort)
    }

    fn sentinels(&mut self) -> Vec<Picos> {
        std::mem::take(&mut self.sentinels)
    }

    fn try_sentinel(&mut self) -> Result<Vec<Picos>, MeasureError> {
        Ok(vec![QUIET; 9])
    }

    fn is_helped(&self) -> bool {
        self.helped.is_some()
    }

    fn foresee(&mut self, rounds: &[(Task, Vec<Config>)]) {
        if let Some(told) = &self.helped {
            let all = rounds.iter().flat_map(|(task, configs)| keys(task, configs)).collect();
            told.lock().unwrap().push(Told::Foreseen(rounds.len(), all));
        }
    }
}

fn keys<'a>(task: &Task, configs: &'a [Config]) -> impl Iterator<Item = (schema::TaskKey, ConfigKey)> + 'a {
    let task = task.key();
    configs.iter().map(move |config| (task, config.key()))
}

impl Rig {
    fn new() -> Self {
        let grant = |percent: f64, units: u32| Grant {
            device: DeviceName("cpu".into()),
            share: Share::percent(percent).unwrap(),
            slot: 0,
            grant: schema::Grant { mechanism: "core_sets".into(), units },
            cores: (0..units as usize).collect(),
            limits: kernels::Limits { units, ..fake::limits() },
        };
        let place = |percent, units| Place {
            device: Device { name: DeviceName("cpu".into()), text: "fake".into() },
            environment: Environment { text: "here".into() },
            grant: grant(percent, units),
            roofline: Roofline { flops_per_s: 100e9, caches: [(0, 0.0); 2], bytes_per_s: 10e9 },
        };
        let item = |(entry, (place, task)): (usize, (usize, Task))| Item {
            task,
            operator: fake::operator(),
            place,
            uses: vec![Use { contender: entry / fake::tasks().len(), count: 2 }],
            known: false,
        };
        let tasks = (0..2).flat_map(|place| fake::tasks().into_iter().map(move |task| (place, task)));
        Rig {
            places: vec![place(50.0, 1), place(100.0, 2)],
            items: tasks.enumerate().map(item).collect(),
            clock: FakeClock::default(),
            faults: Faults { noise: 0.01, ..Faults::default() },
            budget: Budget { time: Some(Duration::from_secs(60)), trials: None },
            seed: 1,
            fresh: false,
            strategy: "auto",
            flattered: None,
            beside: Duration::ZERO,
            slots: 1,
            disturbed: 0,
            raced: Arc::default(),
            helped: false,
            told: Arc::default(),
        }
    }

    fn run(&self, records: &mut InMemory) -> (Explored, Vec<Event>) {
        let interrupted = AtomicBool::new(false);
        self.run_until(records, &interrupted, &mut |_| {})
    }

    fn rules<'a>(&'a self, flag: &'a AtomicBool) -> Rules<'a> {
        Rules {
            budget: self.budget,
            seed: Seed(self.seed),
            strategy: crate::search::strategy(self.strategy).unwrap(),
            numerics: Numerics::Strict,
            parallel: self.slots,
            fresh: self.fresh,
            interrupted: flag,
            clock: &self.clock,
            start: self.clock.now(),
        }
    }

    fn run_until(&self, records: &mut InMemory, flag: &AtomicBool, watch: &mut dyn FnMut(&Event)) -> (Explored, Vec<Event>) {
        let rules = self.rules(flag);
        let bench = |place: usize, slot: usize| -> Box<dyn Bench + Send> {
            let helped = (self.helped && (place, slot) == (0, 0)).then(|| self.told.clone());
            let disturbed = if slot > 0 || helped.is_some() { self.disturbed } else { 0 };
            let (bench, raced) = (Fake::new(self.faults, Seed(9), &self.clock), self.raced.clone());
            Box::new(Slot { bench, disturbed, sentinels: Vec::new(), raced, helped })
        };
        let slots = |place: usize| if place == 0 { self.slots } else { 1 };
        let slots = |place: usize| (0..slots(place)).map(|slot| bench(place, slot)).collect();
        let mut benches: Benches<'_> = (0..self.places.len()).map(slots).collect();
        let mut events = Vec::new();
        let mut tell = |event: Event| {
            watch(&event);
            events.push(event);
        };
        let reserve = |_: &[Picos]| Duration::from_secs(1);
        let mut stage = FakeStage { rig: self, flattered: self.flattered };
        let explored =
            explore(&self.places, &self.items, 2, &rules, &mut benches, &mut stage, records, &reserve, &mut tell).unwrap();
        (explored, events)
    }

    /// The choices' true times over the true optimum, geometric mean.
    fn regret(&self, explored: &Explored) -> f64 {
        let one = |(item, choice): (&Item, &Choice)| {
            let space = Space::new(&item.task, item.operator, &self.places[item.place].grant.limits);
            let time = |config: &Config| fake::true_time(&item.task, config).as_secs_f64();
            let best = space.indices().filter_map(|index| space.nth(index)).map(|config| time(&config)).fold(f64::MAX, f64::min);
            (time(&choice.config) / best).ln()
        };
        let logs: Vec<f64> = self.items.iter().zip(&explored.choices).map(one).collect();
        (logs.iter().sum::<f64>() / logs.len() as f64).exp()
    }
}

fn trials(records: &InMemory) -> Vec<(schema::TaskKey, Share, ConfigKey)> {
    let trial = |observation: &Observation| match &observation.subject {
        Subject::Trial { task, config } => Some((*task, observation.share, config.key())),
        _ => None,
    };
    records.observations().iter().filter_map(trial).collect()
}

#[test]
fn it_comes_near_the_best_and_proves_every_winner() {
    let rig = Rig::new();
    let mut records = InMemory::new();
    let (explored, _) = rig.run(&mut records);
    // The lightest tasks are a thousandth of their model: they are left alone.
    assert!(explored.choices.iter().filter(|choice| !choice.is_default).count() >= 2);
    for choice in explored.choices.iter().filter(|choice| !choice.is_default) {
        assert!(choice.ratio.unwrap().lo_ppm > 1_000_000);
    }
    let heavy = |i: usize| fake::true_time(&rig.items[i].task, &explored.choices[i].config);
    for i in [4, 9] {
        let best = Space::new(&rig.items[i].task, fake::operator(), &fake::limits());
        let best = best.indices().filter_map(|at| best.nth(at)).map(|config| fake::true_time(&rig.items[i].task, &config)).min();
        assert!(heavy(i).0 as f64 <= best.unwrap().0 as f64 * 1.05);
    }
}

#[test]
fn no_config_is_measured_twice_and_every_trial_is_on_record_before_it_is_counted() {
    let rig = Rig::new();
    let mut records = InMemory::new();
    let (explored, events) = rig.run(&mut records);
    let all = trials(&records);
    let distinct: BTreeSet<_> = all.iter().collect();
    assert_eq!(distinct.len(), all.len());
    assert_eq!(explored.measured, records.observations().len() as u64);
    assert_eq!(events.iter().filter(|event| matches!(event, Event::Trial { .. })).count(), all.len());
}

#[test]
fn the_budget_is_kept() {
    for (time, count) in [(Some(5), None), (None, Some(37)), (Some(3), Some(500))] {
        let rig = Rig { budget: Budget { time: time.map(Duration::from_secs), trials: count }, ..Rig::new() };
        let mut records = InMemory::new();
        let (explored, _) = rig.run(&mut records);
        if let Some(time) = time {
            let spent = rig.clock.now().as_secs_f64();
            assert!(spent <= time as f64, "{spent} of {time} s");
        }
        if let Some(count) = count {
            assert!(trials(&records).len() as u64 <= count);
        }
        assert!(!matches!(explored.stop, Stop::NothingToDo | Stop::Interrupted), "{:?}", explored.stop);
    }
}

#[test]
fn one_seed_makes_the_same_choices() {
    let run = |seed| {
        let rig = Rig { seed, ..Rig::new() };
        let mut records = InMemory::new();
        let (explored, _) = rig.run(&mut records);
        (trials(&records), explored.choices)
    };
    assert_eq!(run(5), run(5));
    assert_ne!(run(5).0, run(6).0);
}

#[test]
fn faults_cost_the_candidates_only() {
    let faults = Faults { noise: 0.02, hang: 0.2, crash: 0.2, wrong: 0.1, drift_per_s: 0.01 };
    let rig = Rig { faults, budget: Budget { time: Some(Duration::from_secs(600)), trials: None }, ..Rig::new() };
    let (explored, _) = rig.run(&mut InMemory::new());
    assert!(explored.refused.len() == 3, "{:?}", explored.refused);
    let regret = rig.regret(&explored);
    // Half of the configs are broken: the best of the rest is what can be found.
    assert!(regret < 3.0, "{regret}");
    assert!(explored.choices[4].ratio.is_some() && explored.choices[9].ratio.is_some());
}

#[test]
fn what_is_on_record_is_not_measured_again() {
    let rig = Rig { budget: Budget { time: None, trials: Some(60) }, ..Rig::new() };
    let mut records = InMemory::new();
    let (first, _) = rig.run(&mut records);
    let before = trials(&records);
    // Going on: other configs, none of the old.
    rig.run(&mut records);
    let distinct: BTreeSet<_> = trials(&records).into_iter().collect();
    assert_eq!(distinct.len(), trials(&records).len());
    assert!(trials(&records).len() > before.len());
    // Known items: nothing at all, and the same choices from the same records.
    let mut known = Rig::new();
    known.items.iter_mut().for_each(|item| item.known = true);
    let mut old = InMemory::new();
    let (again, _) = rig.run(&mut old);
    assert_eq!(again.choices, first.choices);
    let count = old.observations().len();
    let (second, _) = known.run(&mut old);
    assert_eq!((second.measured, second.stop), (0, Stop::NothingToDo));
    assert_eq!(old.observations().len(), count);
    assert_eq!(second.choices, again.choices);
    assert!(second.reused > 0);
    // Afresh: as if there were no records.
    let afresh = Rig { fresh: true, budget: rig.budget, ..Rig::new() };
    assert_eq!(afresh.run(&mut old).0.reused, 0);
}

#[test]
fn an_interruption_ends_after_the_round() {
    let rig = Rig::new();
    let flag = AtomicBool::new(false);
    let mut seen = 0;
    let mut watch = |event: &Event| {
        if matches!(event, Event::Trial { .. }) {
            seen += 1;
            flag.store(true, Ordering::SeqCst);
        }
    };
    let mut records = InMemory::new();
    let (explored, _) = rig.run_until(&mut records, &flag, &mut watch);
    assert_eq!(explored.stop, Stop::Interrupted);
    assert!((1..=ROOM_MAX).contains(&seen));
    assert_eq!(trials(&records).len(), seen);
}

#[test]
fn every_strategy_finds_the_heavy_tasks_something_better() {
    for (name, _) in crate::search::STRATEGIES {
        let rig = Rig { strategy: name, ..Rig::new() };
        let (explored, _) = rig.run(&mut InMemory::new());
        assert!(explored.choices[4].ratio.is_some() && explored.choices[9].ratio.is_some(), "{name}");
    }
}

#[test]
fn what_wins_alone_and_loses_in_the_model_is_not_chosen() {
    let alone = Rig::new();
    let (explored, _) = alone.run(&mut InMemory::new());
    assert_eq!(explored.choices[4].config.variant, "fake.packed");
    let misled = Rig { flattered: Some(("fake.packed", 2.2)), ..Rig::new() };
    let (explored, events) = misled.run(&mut InMemory::new());
    assert_eq!(explored.choices[4].config.variant, "fake.tiled", "{:?}", explored.choices[4]);
    let judged = events.iter().filter(|event| matches!(event, Event::Final { .. })).count();
    assert!(judged > 2 && events.iter().any(|event| matches!(event, Event::Sentinels { .. })));
}

#[test]
fn what_a_share_can_do_is_measured_once_and_bounds_its_tasks() {
    let mut rig = Rig::new();
    let (flag, mut records) = (AtomicBool::new(false), InMemory::new());
    let mut bench = Fake::new(Faults::default(), Seed(1), &rig.clock);
    let mut ask = |rig: &Rig, place: usize| {
        let found = machine::roofline(&rig.places[place], &mut bench, &rig.rules(&flag), &mut records).unwrap();
        (found, bench.probes)
    };
    let ((first, new), probes) = ask(&rig, 0);
    assert_eq!((new, probes), (4, 1));
    assert!((first.flops_per_s / 100e9 - 1.0).abs() < 1e-6 && (first.bytes_per_s / 10e9 - 1.0).abs() < 1e-6, "{first:?}");
    let l2 = rig.places[0].grant.limits.l2_bytes;
    assert!(first.least(0, l2) < first.least(0, l2 + 1), "a task within L2 is bound by L2");
    assert_eq!(ask(&rig, 0), ((first, 0), 1), "once");
    assert_eq!(ask(&rig, 1).1, 2, "and for each share");
    rig.places[0].environment.text = "another".into();
    assert_eq!(ask(&rig, 0).1, 3, "and for each environment");
}

/// One run of a model takes seconds though its tasks alone do not: what a rehearsal costs is known only then.
#[test]
fn a_model_that_runs_for_seconds_overruns_the_budget_by_a_run_and_no_more() {
    let beside = Duration::from_secs(5);
    let rig = Rig {
        flattered: Some(("none", 1.0)),
        beside,
        budget: Budget { time: Some(Duration::from_secs(30)), trials: None },
        ..Rig::new()
    };
    let (_, events) = rig.run(&mut InMemory::new());
    let rehearsed = events.iter().filter(|event| matches!(event, Event::Rehearsal { .. })).count();
    assert!(rehearsed <= 2, "what a run takes is known from then on: {rehearsed} rehearsals");
    // One of each of two models.
    let most = Duration::from_secs(30) + 2 * beside;
    assert!(rig.clock.now() <= most, "{:?}", rig.clock.now());
    let longer = Rig {
        budget: Budget { time: Some(Duration::from_secs(400)), trials: None },
        ..Rig { clock: FakeClock::default(), ..rig }
    };
    let (_, events) = longer.run(&mut InMemory::new());
    assert!(events.iter().any(|event| matches!(event, Event::Rehearsal { .. })));
    assert!(events.iter().any(|event| matches!(event, Event::Final { outcome: Ok(_), .. })), "judged by few pairs");
    assert!(longer.clock.now() <= Duration::from_secs(400), "{:?}", longer.clock.now());
}

/// Tasks of seconds of which nobody knows what they take, as on a device without a roofline.
#[test]
fn tasks_of_seconds_end_near_the_budget() {
    let mut rig = Rig { budget: Budget { time: Some(Duration::from_secs(30)), trials: None }, ..Rig::new() };
    rig.places.iter_mut().for_each(|place| place.roofline = Roofline::UNKNOWN);
    rig.items.truncate(1);
    rig.items[0].task = fake::task(4000);
    let default =
        fake::true_time(&rig.items[0].task, &Space::new(&rig.items[0].task, fake::operator(), &fake::limits()).default_config());
    assert!(default > Picos::from_secs_f64(5.0));
    rig.run(&mut InMemory::new());
    assert!(rig.clock.now() <= Duration::from_secs(60), "{:?}", rig.clock.now());
}

fn configs_of(records: &InMemory, task: &Task, share: Share) -> Vec<Config> {
    let config = |one: &Observation| match &one.subject {
        Subject::Trial { task: of, config } if *of == task.key() && one.share == share => Some(config.clone()),
        _ => None,
    };
    records.observations().iter().filter_map(config).collect()
}

#[test]
fn a_share_starts_with_what_did_best_at_the_nearest_share_on_record() {
    let budget = Budget { time: None, trials: Some(120) };
    let mut half = Rig { budget, ..Rig::new() };
    half.items.retain(|item| item.place == 0);
    let mut records = InMemory::new();
    half.run(&mut records);
    let heavy = half.items[4].task.clone();
    let share = |place: usize| half.places[place].grant.share;
    // The fastest of all, but of a revision that is not this build's.
    let rules = AtomicBool::new(false);
    let rules = half.rules(&rules);
    let mut foreign = configs_of(&records, &heavy, share(0))[1].clone();
    foreign.revision += 1;
    let timing = schema::Timing { median: Picos(1), mad: Picos(0), p99: Picos(1), n: 9, grade: NoiseGrade::A };
    let subject = Subject::Trial { task: heavy.key(), config: foreign.clone() };
    records.append(observation(&half.places[0], subject, Outcome::Ok { timing, ratio: None }, &rules)).unwrap();
    let times = portfolio::times(&records.of_task(heavy.key(), half.places[0].device.key(), share(0)).unwrap());
    let mut best: Vec<(Picos, Config)> = times[&share(0)].iter().map(|(config, time)| (*time, config.clone())).collect();
    best.sort();
    let best: Vec<Config> =
        best.into_iter().map(|(_, config)| config).filter(|config| *config != foreign).take(SEEDS_MAX).collect();
    let mut whole = Rig { budget, ..Rig::new() };
    whole.items.retain(|item| item.place == 1);
    whole.run(&mut records);
    let tried = configs_of(&records, &heavy, share(1));
    let default = Space::new(&heavy, fake::operator(), &fake::limits()).default_config();
    let wanted: Vec<Config> =
        std::iter::once(default.clone()).chain(best.into_iter().filter(|config| *config != default)).collect();
    assert_eq!(tried[..wanted.len()], wanted);
    assert!(!tried.contains(&foreign), "what is illegal here is not tried");
    let mut afresh = Rig { budget, fresh: true, ..Rig::new() };
    afresh.items.retain(|item| item.place == 1);
    let before = configs_of(&records, &heavy, share(1)).len();
    afresh.run(&mut records);
    assert_ne!(configs_of(&records, &heavy, share(1))[before..][..wanted.len()], wanted, "--fresh looks at no records");
}

#[test]
fn what_is_best_at_one_share_is_timed_at_the_other_too() {
    let rig = Rig { budget: Budget { time: None, trials: Some(300) }, ..Rig::new() };
    let mut records = InMemory::new();
    let (explored, _) = rig.run(&mut records);
    let times = |item: usize| explored.times[item].iter().cloned().collect::<BTreeMap<Config, Picos>>();
    let by_share: Times = [4, 9].map(|item| (rig.places[rig.items[item].place].grant.share, times(item))).into();
    let portfolio = portfolio::portfolio(&by_share);
    // Both shares have the same landscape here: one config is the best of both, or next to it.
    assert_eq!((portfolio.configs.len(), portfolio.unserved), (1, 0), "{portfolio:?}");
    let fastest = |timed: &BTreeMap<Config, Picos>| timed.iter().min_by_key(|(_, time)| **time).map(|(config, _)| config.clone());
    for (share, timed) in &by_share {
        let best = fastest(timed).unwrap();
        assert!(by_share.values().all(|other| other.contains_key(&best)), "the best at {share} was not timed everywhere");
    }
}

#[test]
fn trials_of_a_disturbed_slot_are_repeated_and_slots_are_halved_for_a_minute() {
    let mut rig = Rig { slots: 2, disturbed: 1, budget: Budget { time: None, trials: Some(150) }, ..Rig::new() };
    rig.items.truncate(3);
    // All of them weigh about the same: none is left alone.
    rig.items.iter_mut().zip([900, 950, 1000]).for_each(|(item, size)| item.task = fake::task(size));
    let mut records = InMemory::new();
    let (mut rounds, mut tasks, mut disturbed_at) = (Vec::new(), 0, None);
    let flag = AtomicBool::new(false);
    let mut watch = |event: &Event| match event {
        Event::Task { .. } => tasks += 1,
        Event::Sentinels { .. } if tasks > 0 => {
            rounds.push(std::mem::take(&mut tasks));
            if disturbed_at.is_some_and(|at: usize| rounds.len() == at + 3) {
                rig.clock.advance(Duration::from_secs(60));
            }
        }
        Event::Disturbed { slots, discarded, .. } => {
            assert_eq!((*slots, *discarded as usize, disturbed_at), (2, rig.raced.lock().unwrap().len(), None));
            disturbed_at = Some(rounds.len());
        }
        _ => {}
    };
    rig.run_until(&mut records, &flag, &mut watch);
    let at = disturbed_at.expect("the first round is disturbed");
    assert_eq!((&rounds[..at], &rounds[at..at + 3]), (&[2][..], &[1, 1, 1][..]), "{rounds:?}");
    assert!(rounds[at + 3..].contains(&2), "after a minute both slots are used again: {rounds:?}");
    let all = trials(&records);
    for (task, config) in rig.raced.lock().unwrap().iter() {
        let times = all.iter().filter(|(of, _, key)| of == task && *key == config.key()).count();
        assert_eq!(times, 1, "{config} was measured again and is on record once");
    }
}

/// What compilers are given is foreseen by forks of the strategies: it changes no choice, and what is then raced was often among it, least
/// where a strategy moves by every score.
#[test]
fn what_is_foreseen_often_comes_and_changes_nothing() {
    let budget = Budget { time: None, trials: Some(300) };
    for (strategy, _) in crate::search::STRATEGIES {
        let alone = Rig { budget, strategy, ..Rig::new() };
        let helped = Rig { budget, strategy, helped: true, ..Rig::new() };
        let [first, second] = [&alone, &helped].map(|rig| {
            let mut records = InMemory::new();
            let (explored, _) = rig.run(&mut records);
            (trials(&records), explored.choices, rig.clock.now())
        });
        assert_eq!(first, second, "{strategy}");
        let (mut foreseen, mut raced, mut hits) = (BTreeSet::new(), BTreeSet::new(), 0);
        for told in helped.told.lock().unwrap().iter() {
            match told {
                Told::Foreseen(rounds, configs) => {
                    assert!(*rounds <= FORESEEN_PER_SLOT, "{rounds} rounds of one slot");
                    foreseen.extend(configs.iter().copied());
                }
                Told::Raced(configs) => {
                    // The best so far is raced again and is no new kernel.
                    let new: Vec<_> = configs.iter().filter(|key| raced.insert(**key)).collect();
                    hits += new.into_iter().filter(|key| foreseen.contains(key)).count();
                }
            }
        }
        let part = hits as f64 / raced.len() as f64;
        assert!(raced.len() > 50 && part > 0.2, "{strategy}: {hits} of {} foreseen", raced.len());
    }
}

/// A slot that is slower while kernels are compiled beside it: its trials are repeated, and for a minute nothing is foreseen.
#[test]
fn nothing_is_compiled_beside_a_slot_that_it_disturbed() {
    let mut rig = Rig { helped: true, disturbed: 1, budget: Budget { time: None, trials: Some(80) }, ..Rig::new() };
    rig.items.truncate(3);
    rig.items.iter_mut().zip([900, 950, 1000]).for_each(|(item, size)| item.task = fake::task(size));
    let mut records = InMemory::new();
    let (_, events) = rig.run(&mut records);
    let disturbed = events.iter().filter(|event| matches!(event, Event::Disturbed { slots: 1, .. })).count();
    assert_eq!(disturbed, 1);
    let told = rig.told.lock().unwrap().clone();
    let foreseen: Vec<usize> =
        told.iter().filter_map(|told| if let Told::Foreseen(rounds, _) = told { Some(*rounds) } else { None }).collect();
    assert!(rig.clock.now() < Duration::from_secs(60), "{:?}", rig.clock.now());
    assert!(foreseen[0] > 0 && foreseen[1..].iter().all(|rounds| *rounds == 0), "{foreseen:?}");
    let all = trials(&records);
    for (task, config) in rig.raced.lock().unwrap().iter() {
        let times = all.iter().filter(|(of, _, key)| of == task && *key == config.key()).count();
        assert_eq!(times, 1, "{config} was measured again and is on record once");
    }
}
