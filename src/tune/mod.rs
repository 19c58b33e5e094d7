//! Tuning: models → records and an artifact.
//!
//! [`tune`] makes the models ready ([`models`]), collects their distinct tasks on every share, explores what the records do not
//! answer ([`mod@explore`]), lets the tuned plan of every (model, batch, share) meet the default plan end to end ([`judge`]), and
//! writes the artifact. It owns budget, seed, duplicates and the reason to stop; what it decides is a function of records, seed and
//! measured times. Progress leaves as typed events; nothing is printed here.

pub mod allocate;
pub mod budget;
pub mod choose;
pub mod event;
pub mod explore;
pub mod finals;
pub mod item;
pub mod judge;
pub mod machine;
pub mod model_records;
pub mod models;
pub mod objective;
pub mod portfolio;
pub mod records;
pub mod resume;
pub mod splits;
pub mod stage;
pub mod store_records;
pub mod work;

pub use budget::{Budget, BudgetError, Stop};
pub use choose::{Choice, choose, plan_key};
pub use event::{Event, Refusal};
pub use explore::{ExploreError, Place};
pub use models::{PrepareError, Prepared};
pub use objective::Objective;
pub use portfolio::Portfolio;
pub use records::{InMemory, Records, RecordsError};
pub use store_records::StoreRecords;

use crate::artifact::{self, ArtifactError, Bound, Contents, Entry, Provenance, Written};
use crate::device::{Grant, GrantError, Machine};
use crate::features;
use crate::import;
use crate::measure::ahead::{self, Compilers, Tally};
use crate::measure::{Bench, Clock, MeasureError, Monotonic, Phases, bench::WorkerBench};
use crate::passes::FoldLimits;
use crate::search;
use crate::search::prior::Roofline;
use crate::worker;
use explore::Rehearse;
use explore::{Benches, Explored, Rules, explore};
use judge::{Judge, Verdict};
use kernels::Task;
use schema::{
    Batch, Config, DeviceKey, FailureClass, ModelFeatures, NoiseGrade, Numerics, Observation, Picos, Ratio, Seed, Share, Split,
    TaskKey, Timing,
};
use stage::Stage;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use thiserror::Error;
use work::{Scope, Wanted, Work};

/// What is asked of a tuning.
#[derive(Clone, Debug)]
pub struct Options {
    pub devices: Vec<Machine>,
    pub shares: Vec<Share>,
    pub batches: Vec<Batch>,
    /// Open axes besides the batch.
    pub dims: BTreeMap<String, u64>,
    pub budget: Budget,
    pub objective: Objective,
    /// A name of [`search::STRATEGIES`].
    pub strategy: String,
    /// Explorations at once; `None` as many as shares and cores leave room for.
    pub parallel: Option<usize>,
    /// Kernels are compiled on free cores while slots measure.
    pub compile_ahead: bool,
    pub numerics: Numerics,
    /// Largest error of a kernel against the f64 reference.
    pub max_error: f64,
    pub seed: Seed,
    /// The artifact of each model, in order.
    pub outputs: Vec<PathBuf>,
    /// Goes on where an unfinished tuning stopped: tasks that have trials but no verdict stay open.
    pub resume: bool,
    /// Ignores (never deletes) earlier observations.
    pub fresh: bool,
    pub import: import::Options,
    pub fold: FoldLimits,
    /// The program that is executed as worker; see [`crate::worker::program`].
    pub worker: PathBuf,
    /// Flags that decided something, for the artifact's provenance.
    pub flags: Vec<String>,
    /// Seconds since 1970, to be stamped into the artifact.
    pub stamp_s: Option<u64>,
}

/// What came out.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub models: Vec<Tuned>,
    pub measured: u64,
    pub reused: u64,
    pub refused: BTreeMap<FailureClass, u64>,
    /// Where the time of all trials went, over all slots.
    pub phases: Phases,
    /// What compiling ahead brought on each place.
    pub ahead: Vec<Ahead>,
    pub stop: Stop,
    pub seed: Seed,
    pub took: Duration,
    /// What was asked for and could not be tuned or measured, a line each: exit code 8.
    pub missing: Vec<String>,
}

/// What compiling ahead brought on a place.
#[derive(Clone, Debug)]
pub struct Ahead {
    pub device: String,
    pub share: Share,
    pub tally: Tally,
}

/// A tuned model.
#[derive(Clone, Debug)]
pub struct Tuned {
    pub path: PathBuf,
    pub name: String,
    /// Nodes that are tasks, over all batches; distinct ones; those that the database knew.
    pub tasks: usize,
    pub distinct: usize,
    pub known: usize,
    /// Distinct tasks that keep their default at every share.
    pub kept_default: usize,
    pub rows: Vec<Row>,
    pub gains: Vec<TaskGain>,
    pub artifact: PathBuf,
    pub artifact_bytes: u64,
    /// False when the file was there with these contents already.
    pub artifact_changed: bool,
    pub warnings: Vec<String>,
}

/// A model at a batch on a share.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub device: String,
    pub share: Share,
    pub batch: Batch,
    pub default: Timing,
    /// Of the plan in the artifact: the default's where it was kept.
    pub tuned: Timing,
    pub ratio: Ratio,
    pub noise: NoiseGrade,
    /// The tuned plan is in the artifact.
    pub kept: bool,
    /// How the plan in the artifact computes the batch.
    pub split: Split,
    pub memory_bytes: u64,
    pub throughput_milli_per_s: u64,
    pub energy_mj: Option<u64>,
    pub energy_why: Option<String>,
}

/// What a task gained on a share.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskGain {
    pub task: String,
    pub device: String,
    pub share: Share,
    /// Nodes of the model at its smallest batch that uses it.
    pub count: u32,
    pub batch: Batch,
    pub config: Config,
    pub is_default: bool,
    pub default: Option<Picos>,
    pub tuned: Option<Picos>,
    pub ratio: Option<Ratio>,
    pub tried: u32,
    /// The configs kept over the shares of the device.
    pub portfolio: Portfolio,
}

/// Why nothing was tuned.
#[derive(Debug, Error)]
pub enum TuneError {
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    #[error("no model has an axis \"{0}\"; leave --dim {0}=… out")]
    UnknownAxis(String),
    #[error(transparent)]
    Grant(#[from] GrantError),
    #[error(transparent)]
    Explore(#[from] ExploreError),
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    #[error("there is no strategy \"{0}\"; there are {1}")]
    Strategy(String, String),
}

/// Tunes models and writes their artifacts.
///
/// # Errors
/// [`TuneError`] when a model, device, database or disk stops it; what was measured until then is on record.
pub fn tune(
    paths: &[PathBuf],
    options: &Options,
    records: &mut dyn Records,
    interrupted: &AtomicBool,
    events: &mut dyn FnMut(Event),
) -> Result<Outcome, TuneError> {
    let clock = Monotonic::start();
    let names = || search::STRATEGIES.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let strategy = search::strategy(&options.strategy).ok_or_else(|| TuneError::Strategy(options.strategy.clone(), names()))?;
    let asked = places(options, &options.shares)?;
    let mut places = [&asked[..], &lane_places(options, &asked)?].concat();
    let asked = asked.len();
    let mut models = Vec::with_capacity(paths.len());
    for path in paths {
        models.push(Prepared::load(path, &options.batches, &options.dims, &options.import, options.fold)?);
    }
    if let Some(axis) = Prepared::unknown_axes(&models, &options.dims).first() {
        return Err(TuneError::UnknownAxis((*axis).to_owned()));
    }
    name(&models, &places, options, records)?;
    // Import and passes come on top of the budget: it starts here.
    let rules = Rules {
        budget: options.budget,
        seed: options.seed,
        strategy,
        numerics: options.numerics,
        parallel: options.parallel.unwrap_or(usize::MAX),
        fresh: options.fresh,
        interrupted,
        clock: &clock,
        start: clock.now(),
    };
    let entries = Wanted::all(&models, asked);
    let whole = {
        let scope = Scope { models: &models, places: &places, rules: &rules, options };
        Work::collect(&scope, entries.clone(), splits::whole(&models, &places, &entries), records)?
    };
    events(Event::Start {
        models: models.iter().map(|model| model.name.clone()).collect(),
        tasks: models.iter().flat_map(|model| &model.tasks).flatten().map(|counted| counted.count).sum(),
        distinct: whole.items.iter().map(|item| item.task.key()).collect::<BTreeSet<_>>().len(),
        known: whole.items.iter().filter(|item| item.known).count(),
        budget: options.budget.time,
    });
    let compilers: Vec<Result<Arc<Compilers>, String>> = places.iter().map(|place| compilers(place, options)).collect();
    let mut benches = benches(&places, &compilers, options, interrupted);
    let probes = probe(&mut places, &whole, &mut benches, &rules, records)?;
    let mut phases = Phases::default();
    let scope = Scope { models: &models, places: &places, rules: &rules, options };
    let mut stage = Stage::new(scope, &entries);
    let (chosen, meetings) = splits::contenders(&scope, asked, &entries, records, &mut stage, events)?;
    phases.absorb(stage.phases());
    for counted in chosen.iter().flatten().filter_map(|chosen| chosen.tasks.as_deref()).flatten() {
        records.name_task(counted.task.key(), &counted.task.to_string()).map_err(ExploreError::from)?;
    }
    let work = Work::collect(&scope, entries.clone(), chosen, records)?;
    stage.admit(&work.contenders);
    let explored = {
        let mut benches = benches;
        let reserve = |times: &[Picos]| judge::reserve(&work, times, options.budget.time);
        explore(&places, &work.items, work.contenders.len(), &rules, &mut benches, &mut stage, records, &reserve, events)?
    };
    let mut judge = Judge::new(scope, &work, &explored, &mut stage, records);
    let verdicts = judge.all(events)?;
    let measured = probes + meetings + explored.measured + judge.measured;
    let mut refused = explored.refused.clone();
    judge.refused.iter().for_each(|(class, count)| *refused.entry(*class).or_default() += count);
    let missing = judge.missing;
    phases.absorb(explored.phases);
    phases.absorb(judge.phases);
    phases.absorb(stage.phases());
    let sentinels = stage.sentinels();
    events(Event::Sentinels { times: sentinels });
    let stop = if interrupted.load(Ordering::SeqCst) { Stop::Interrupted } else { explored.stop };
    let mut tuned = Vec::with_capacity(models.len());
    for number in 0..models.len() {
        tuned.push(finish(number, &scope, &work, &explored, &verdicts)?);
    }
    let ahead = places.iter().zip(&compilers).map(|(place, compilers)| Ahead {
        device: place.device.name.0.clone(),
        share: place.grant.share,
        tally: compilers.as_ref().map_or_else(|why| Tally::off(why.clone()), |compilers| compilers.tally()),
    });
    let ahead = ahead.collect();
    events(Event::Phases { phases });
    events(Event::End { stop, measured, reused: explored.reused });
    Ok(Outcome {
        models: tuned,
        measured,
        reused: explored.reused,
        refused,
        phases,
        ahead,
        stop,
        seed: options.seed,
        took: clock.now(),
        missing,
    })
}

/// The places of one unit that lanes of the others run on, where nobody asked for them anyway.
fn lane_places(options: &Options, asked: &[Place]) -> Result<Vec<Place>, GrantError> {
    let batches = options.batches.iter().any(|batch| *batch != Batch::ONE);
    let mut lanes = Vec::new();
    for machine in options.devices.iter().filter(|machine| batches && machine.limits.gpu.is_none()) {
        let own = || asked.iter().filter(|place| place.device == machine.device);
        if own().any(|place| place.grant.limits.units == 1) {
            continue;
        }
        let Some(split) = own().next() else { continue };
        let one = Share::per_mille(split.grant.share.as_per_mille() / split.grant.limits.units as u16);
        if let Ok(share) = one
            && machine.grant(share).is_ok_and(|grant| grant.limits.units == 1)
        {
            lanes.extend(places(&Options { devices: vec![machine.clone()], ..options.clone() }, &[share])?);
        }
    }
    Ok(lanes)
}

/// Every one of `shares` of every device.
fn places(options: &Options, shares: &[Share]) -> Result<Vec<Place>, GrantError> {
    let mut places = Vec::new();
    for machine in &options.devices {
        for &share in shares {
            let grant = worker::proved(machine, share, &options.worker)?;
            places.push(Place {
                device: machine.device.clone(),
                environment: machine.environment.clone(),
                roofline: Roofline::UNKNOWN,
                grant,
            });
        }
    }
    Ok(places)
}

/// Says what the keys to come stand for.
fn name(models: &[Prepared], places: &[Place], options: &Options, records: &mut dyn Records) -> Result<(), ExploreError> {
    for place in places {
        records.name_device(&place.device, &place.environment)?;
    }
    debug_assert!(!options.devices.is_empty());
    for model in models {
        records.name_model(model.key, &model.name)?;
        for Bound { batch, dims, graph } in &model.graphs {
            let (dims, features) = (dims.clone(), features::of(graph));
            let of_batch = ModelFeatures { model: model.key, batch: *batch, dims, revision: features::REVISION, features };
            records.put_features(&of_batch)?;
        }
        for counted in model.tasks.iter().flatten() {
            records.name_task(counted.task.key(), &counted.task.to_string())?;
        }
    }
    Ok(())
}

/// The grants of a place's slots, which are disjoint.
fn slots(place: &Place, options: &Options) -> Vec<Grant> {
    let machine = options.devices.iter().find(|machine| machine.device == place.device);
    let most = options.parallel.unwrap_or(usize::MAX).max(1);
    let slot = |slot: usize| machine?.grant_slot(place.grant.share, slot).ok();
    (0..most).map_while(slot).collect()
}

/// What compiles ahead for a place's slots, or why nothing does.
fn compilers(place: &Place, options: &Options) -> Result<Arc<Compilers>, String> {
    if !options.compile_ahead {
        return Err("it was turned off".to_owned());
    }
    let machine = options.devices.iter().find(|machine| machine.device == place.device);
    let (cores, software) = machine.map_or((&[][..], false), |machine| (&machine.cores[..], machine.software));
    let grants = ahead::grants(&slots(place, options), cores, software)?;
    Ok(Arc::new(Compilers::start(&options.worker, grants, options.seed)))
}

/// A bench per disjoint part of every place.
fn benches<'a>(
    places: &[Place],
    compilers: &[Result<Arc<Compilers>, String>],
    options: &Options,
    interrupted: &'a AtomicBool,
) -> Benches<'a> {
    let bench = |(slot, grant): (usize, Grant), compilers: Option<&Arc<Compilers>>| -> Box<dyn Bench + Send + 'a> {
        let bench = WorkerBench::new(&options.worker, &grant, options.seed, options.max_error).interrupted_by(interrupted);
        Box::new(match compilers {
            Some(compilers) => bench.helped_by(compilers.clone(), slot),
            None => bench,
        })
    };
    let of_place = |(place, compilers): (&Place, &Result<Arc<Compilers>, String>)| {
        slots(place, options).into_iter().enumerate().map(|slot| bench(slot, compilers.as_ref().ok())).collect()
    };
    places.iter().zip(compilers).map(of_place).collect()
}

/// Measures what the places can do on which anything is to be explored, unless that is on record; the number of new observations.
fn probe(
    places: &mut [Place],
    work: &Work,
    benches: &mut Benches<'_>,
    rules: &Rules<'_>,
    records: &mut dyn Records,
) -> Result<u64, ExploreError> {
    let mut measured = 0;
    let largest: Vec<bool> = places
        .iter()
        .map(|place| places.iter().all(|other| other.device != place.device || other.grant.share <= place.grant.share))
        .collect();
    for (number, (place, benches)) in places.iter_mut().zip(benches).enumerate() {
        // What the host's cores can do bounds nothing on a device beside them.
        let host = place.grant.limits.gpu.is_none();
        let open = !rules.budget.measures_only() && work.items.iter().any(|item| item.place == number && !item.known);
        let Some(bench) = benches.first_mut().filter(|_| open && !rules.interrupted.load(Ordering::SeqCst)) else { continue };
        let mut figures = || {
            if host {
                let (roofline, new) = machine::roofline(place, &mut **bench, rules, records)?;
                (place.roofline, measured) = (roofline, measured + new);
            }
            if let Some(time) = rules.budget.time.filter(|_| largest[number]) {
                measured += machine::wake(place, &mut **bench, time, rules, records)?;
            }
            Ok(())
        };
        match figures() {
            Err(ExploreError::Measure(MeasureError::Interrupted)) => break,
            found => found?,
        }
    }
    Ok(measured)
}

/// Writes a model's artifact and says what came out.
fn finish(number: usize, scope: &Scope<'_>, work: &Work, explored: &Explored, verdicts: &[Verdict]) -> Result<Tuned, TuneError> {
    let model = &scope.models[number];
    let output = scope.options.outputs.get(number).cloned().unwrap_or_else(|| PathBuf::from(format!("{}.tune", model.name)));
    let shipped: Vec<Shipped> = verdicts.iter().map(|verdict| Shipped::of(verdict, work, &explored.choices)).collect();
    let contents = contents(number, scope, &work.entries, &shipped);
    let Written { bytes, changed, .. } = artifact::write(&output, &contents)?;
    let own = |entry: &usize| work.entries[*entry].model == number;
    let rows = (0..work.entries.len()).filter(own).filter_map(|entry| verdicts[entry].row.clone()).collect();
    let gains = gains(number, scope, work, explored);
    let mut kept: BTreeMap<&str, bool> = BTreeMap::new();
    for gain in &gains {
        *kept.entry(&gain.task).or_insert(true) &= gain.is_default;
    }
    let items = || work.items.iter().filter(|item| work.uses_of(item, number).next().is_some());
    let known: BTreeSet<TaskKey> = items().filter(|item| item.known).map(|item| item.task.key()).collect();
    let (distinct, kept_default) = (kept.len(), kept.values().filter(|kept| **kept).count());
    Ok(Tuned {
        path: model.path.clone(),
        name: model.name.clone(),
        tasks: nodes(number, model, work),
        distinct,
        known: known.len(),
        kept_default,
        rows,
        gains,
        artifact: output,
        artifact_bytes: bytes,
        artifact_changed: changed,
        warnings: model.warnings.iter().cloned().chain(failing(number, scope, work, explored)).collect(),
    })
}

/// A line for each device on which most configs of a model's tasks failed: what was tuned there looks like any other result.
fn failing(number: usize, scope: &Scope<'_>, work: &Work, explored: &Explored) -> Vec<String> {
    let mut counts: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for ((item, choice), timed) in work.items.iter().zip(&explored.choices).zip(&explored.times) {
        if work.uses_of(item, number).next().is_some() {
            let (tried, failed) = counts.entry(&scope.places[item.place].device.name.0).or_default();
            *tried += u64::from(choice.tried);
            *failed += u64::from(choice.tried).saturating_sub(timed.len() as u64);
        }
    }
    counts.into_iter().filter_map(|(device, (tried, failed))| mostly_failed(device, tried, failed)).collect()
}

/// The line, where it is due.
fn mostly_failed(device: &str, tried: u64, failed: u64) -> Option<String> {
    let due = failed > tried / 2;
    due.then(|| {
        format!(
            "{device}: {failed} of the {tried} configs that were tried failed, so little was tuned there; `trials` counts why"
        )
    })
}

/// Nodes that are tasks in the graphs that were searched: of whole batches, and of parts.
fn nodes(number: usize, model: &Prepared, work: &Work) -> usize {
    let own =
        work.contenders.iter().map(|one| (work.entries[one.entry], &one.chosen)).filter(|(wanted, _)| wanted.model == number);
    let graphs: BTreeMap<(usize, u32), usize> = own
        .map(|(wanted, chosen)| {
            let tasks = chosen.tasks.as_deref().unwrap_or(&model.tasks[wanted.graph]);
            let nodes: usize = tasks.iter().map(|counted| counted.count).sum();
            ((wanted.graph, chosen.split.parts()), nodes / chosen.split.rounds() as usize)
        })
        .collect();
    graphs.values().sum()
}

/// Where a model's artifact comes from.
fn provenance(model: &Prepared, options: &Options) -> Provenance {
    Provenance {
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
        tool_commit: None,
        model_name: model.name.clone(),
        model: model.key,
        opset: model.opset,
        database: None,
        seed: options.seed.0,
        budget: options.budget.to_string(),
        flags: options.flags.clone(),
        stamp_s: options.stamp_s,
    }
}

/// What an entry ships: the plan that won, or the default, and its record.
#[derive(Default)]
struct Shipped {
    split: Split,
    configs: Vec<(Task, Config)>,
    record: Option<Observation>,
}

impl Shipped {
    fn of(verdict: &Verdict, work: &Work, choices: &[Choice]) -> Shipped {
        let record = verdict.record.clone();
        let Some(contender) = verdict.tuned.map(|tuned| &work.contenders[tuned]) else {
            return Shipped { record, ..Shipped::default() };
        };
        let config = |&item: &usize| (work.items[item].task.clone(), choices[item].config.clone());
        let mut configs: Vec<(Task, Config)> = contender.used.iter().map(config).collect();
        configs.sort_by_key(|(task, _)| task.to_string());
        Shipped { split: contender.chosen.split, configs, record }
    }
}

/// What a model's artifact holds: `shipped` is that of each entry, and where there is none the default.
fn contents(number: usize, scope: &Scope<'_>, entries: &[Wanted], shipped: &[Shipped]) -> Contents {
    let model = &scope.models[number];
    let mut contents = Contents {
        provenance: provenance(model, scope.options),
        graphs: model.graphs.clone(),
        entries: Vec::new(),
        records: Vec::new(),
        notes: Vec::new(),
    };
    for (entry, wanted) in entries.iter().enumerate().filter(|(_, wanted)| wanted.model == number) {
        let place = &scope.places[wanted.place];
        let (shipped, default) = (shipped.get(entry), Shipped::default());
        let shipped = shipped.unwrap_or(&default);
        let record = shipped.record.clone().map(|record| {
            contents.records.push(record);
            contents.records.len() - 1
        });
        contents.entries.push(Entry {
            device: place.device.clone(),
            environment: place.environment.clone(),
            share: place.grant.share,
            grant: place.grant.grant.clone(),
            batch: model.graphs[wanted.graph].batch,
            dims: model.graphs[wanted.graph].dims.clone(),
            graph: wanted.graph,
            split: shipped.split,
            configs: shipped.configs.clone(),
            record,
        });
    }
    contents
}

/// What each task of a model gained on each share.
fn gains(number: usize, scope: &Scope<'_>, work: &Work, explored: &Explored) -> Vec<TaskGain> {
    let mut by_share: BTreeMap<(DeviceKey, TaskKey), portfolio::Times> = BTreeMap::new();
    for (item, times) in work.items.iter().zip(&explored.times) {
        let place = &scope.places[item.place];
        let timed = by_share.entry((place.device.key(), item.task.key())).or_default();
        timed.entry(place.grant.share).or_default().extend(times.iter().cloned());
    }
    let portfolios: BTreeMap<_, Portfolio> = by_share.iter().map(|(of, times)| (*of, portfolio::portfolio(times))).collect();
    let mut gains = Vec::new();
    for (at, item) in work.items.iter().enumerate() {
        let Some(used) = work.uses_of(item, number).next() else { continue };
        let (place, choice) = (&scope.places[item.place], &explored.choices[at]);
        gains.push(TaskGain {
            task: item.task.to_string(),
            device: place.device.name.0.clone(),
            share: place.grant.share,
            count: used.count,
            batch: scope.models[number].graphs[work.wanted(used.contender).graph].batch,
            config: choice.config.clone(),
            is_default: choice.is_default,
            default: choice.default_time,
            tuned: choice.time,
            ratio: choice.ratio,
            tried: choice.tried,
            portfolio: portfolios.get(&(place.device.key(), item.task.key())).cloned().unwrap_or_default(),
        });
    }
    gains
}

/// The file a model's artifact goes to: `output` itself, `NAME.tune` in it when it is a folder, or in the working directory.
pub fn artifact_path(model: &Path, output: Option<&Path>) -> PathBuf {
    let stem = model.file_stem().map_or_else(|| "model".to_owned(), |stem| stem.to_string_lossy().into_owned());
    let name = format!("{stem}.tune");
    match output {
        None => PathBuf::from(name),
        Some(folder) if folder.is_dir() || folder.to_string_lossy().ends_with('/') => folder.join(name),
        Some(file) => file.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_where_most_configs_fail_is_told() {
        assert_eq!(mostly_failed("cpu", 0, 0), None);
        assert_eq!(mostly_failed("cpu", 800, 400), None);
        let line = mostly_failed("cuda:0", 800, 762).unwrap();
        assert!(line.starts_with("cuda:0: 762 of the 800 configs that were tried failed"), "{line}");
        assert!(mostly_failed("cuda:0", 1, 1).is_some());
    }
}
