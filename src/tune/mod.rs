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
pub mod models;
pub mod objective;
pub mod portfolio;
pub mod records;
pub mod resume;
pub mod splits;
pub mod stage;
pub mod store_records;

pub use budget::{Budget, BudgetError, Stop};
pub use choose::{Choice, choose, plan_key};
pub use event::{Event, Refusal};
pub use explore::{ExploreError, Place};
pub use models::{PrepareError, Prepared};
pub use objective::Objective;
pub use records::{InMemory, Records, RecordsError};
pub use store_records::StoreRecords;

use crate::artifact::{self, ArtifactError, Contents, Entry, Provenance, Written};
use crate::device::{GrantError, Machine};
use crate::import;
use crate::measure::{Bench, Clock, MeasureError, Monotonic, bench::WorkerBench};
use crate::passes::FoldLimits;
use crate::search;
use crate::search::prior::Roofline;
use explore::Rehearse;
use explore::{Benches, Explored, Rules, explore};
use item::{Item, Use};
use judge::{Judge, Verdict};
use kernels::Task;
use schema::{Batch, Config, FailureClass, NoiseGrade, Numerics, Picos, Ratio, Seed, Share, Split, TaskKey, Timing};
use stage::Stage;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use thiserror::Error;

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
    pub stop: Stop,
    pub seed: Seed,
    pub took: Duration,
    /// What was asked for and could not be tuned or measured, a line each: exit code 8.
    pub missing: Vec<String>,
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
    /// The configs kept over the shares, the one that serves most first.
    pub portfolio: Vec<Config>,
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
    let rules = Rules {
        budget: options.budget,
        seed: options.seed,
        strategy,
        numerics: options.numerics,
        parallel: options.parallel.unwrap_or(usize::MAX),
        fresh: options.fresh,
        interrupted,
        clock: &clock,
    };
    // Import and passes come on top of the budget: it starts here.
    let start = clock.now();
    let entries = Work::entries(&models, asked);
    let whole = Work::collect(&models, &places, entries.clone(), splits::whole(&entries), &rules, options, records)?;
    events(Event::Start {
        models: models.iter().map(|model| model.name.clone()).collect(),
        tasks: models.iter().flat_map(|model| &model.tasks).flatten().map(|counted| counted.count).sum(),
        distinct: whole.items.iter().map(|item| item.task.key()).collect::<std::collections::BTreeSet<_>>().len(),
        known: whole.items.iter().filter(|item| item.known).count(),
        budget: options.budget.time,
    });
    let mut benches = benches(&places, options, interrupted);
    let probes = probe(&mut places, &whole, &mut benches, &rules, records)?;
    let mut stage = Stage::new(&models, &places, &whole, options, &rules);
    let chosen = splits::choose(&models, &places, asked, &entries, &rules, options, records, &mut stage, events)?;
    for counted in chosen.iter().filter_map(|chosen| chosen.tasks.as_ref()).flatten() {
        records.name_task(counted.task.key(), &counted.task.to_string()).map_err(ExploreError::from)?;
    }
    let work = Work::collect(&models, &places, entries, chosen, &rules, options, records)?;
    let mut stage = stage.with_work(&work);
    let explored = {
        let mut benches = benches;
        let reserve = |times: &[Picos]| judge::reserve(&work.open, times, options.budget.time);
        explore(&places, &work.items, work.entries.len(), &rules, &mut benches, &mut stage, records, &reserve, events)?
    };
    let mut judge = Judge::new(&models, &places, &work, &explored, &rules, options, &mut stage, records);
    let verdicts = judge.all(start, events)?;
    let measured = probes + explored.measured + judge.measured;
    let mut refused = explored.refused.clone();
    judge.refused.iter().for_each(|(class, count)| *refused.entry(*class).or_default() += count);
    let missing = judge.missing;
    let sentinels = stage.sentinels();
    events(Event::Sentinels { times: sentinels });
    let stop = if interrupted.load(Ordering::SeqCst) { Stop::Interrupted } else { explored.stop };
    let mut tuned = Vec::with_capacity(models.len());
    for (number, model) in models.iter().enumerate() {
        tuned.push(finish(number, model, &places, &work, &explored, &verdicts, options)?);
    }
    events(Event::End { stop, measured, reused: explored.reused });
    Ok(Outcome {
        models: tuned,
        measured,
        reused: explored.reused,
        refused,
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
    for machine in options.devices.iter().filter(|_| batches) {
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
            let grant = machine.grant(share)?;
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
        for counted in model.tasks.iter().flatten() {
            records.name_task(counted.task.key(), &counted.task.to_string())?;
        }
    }
    Ok(())
}

/// A bench per disjoint part of every place.
fn benches<'a>(places: &[Place], options: &Options, interrupted: &'a AtomicBool) -> Benches<'a> {
    let bench = |place: &Place, slot: usize| -> Option<Box<dyn Bench + Send + 'a>> {
        let machine = options.devices.iter().find(|machine| machine.device == place.device)?;
        let grant = machine.grant_slot(place.grant.share, slot).ok()?;
        let bench = WorkerBench::new(&options.worker, &grant, options.seed, options.max_error);
        Some(Box::new(bench.interrupted_by(interrupted)))
    };
    let most = options.parallel.unwrap_or(usize::MAX).max(1);
    places.iter().map(|place| (0..most).map_while(|slot| bench(place, slot)).collect()).collect()
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
    for (number, (place, benches)) in places.iter_mut().zip(benches).enumerate() {
        let open = work.items.iter().any(|item| item.place == number && !item.known);
        let Some(bench) = benches.first_mut().filter(|_| open && !rules.interrupted.load(Ordering::SeqCst)) else { continue };
        let (roofline, new) = match machine::roofline(place, &mut **bench, rules, records) {
            Err(ExploreError::Measure(MeasureError::Interrupted)) => break,
            found => found?,
        };
        (place.roofline, measured) = (roofline, measured + new);
    }
    Ok(measured)
}

/// What there is to do: the entries of the artifacts, and the items they use.
pub struct Work {
    pub entries: Vec<Wanted>,
    /// For each entry, how it computes its batch.
    pub chosen: Vec<splits::Chosen>,
    pub items: Vec<Item>,
    /// Entries that need an end-to-end measurement, as far as is known before the search.
    pub open: Vec<bool>,
    /// For each entry, its items with counts.
    pub used: Vec<Vec<usize>>,
}

/// An entry of an artifact to be.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub model: usize,
    /// Which of the model's graphs.
    pub graph: usize,
    pub place: usize,
}

impl Work {
    /// An entry for each graph of each model on each of the first `asked` places.
    fn entries(models: &[Prepared], asked: usize) -> Vec<Wanted> {
        let mut entries = Vec::new();
        for place in 0..asked {
            for (model, prepared) in models.iter().enumerate() {
                entries.extend((0..prepared.graphs.len()).map(|graph| Wanted { model, graph, place }));
            }
        }
        entries
    }

    fn collect(
        models: &[Prepared],
        places: &[Place],
        entries: Vec<Wanted>,
        chosen: Vec<splits::Chosen>,
        rules: &Rules<'_>,
        options: &Options,
        records: &mut dyn Records,
    ) -> Result<Work, ExploreError> {
        let mut work = Work { entries, chosen, items: Vec::new(), open: Vec::new(), used: Vec::new() };
        let mut by_key: BTreeMap<(usize, TaskKey), usize> = BTreeMap::new();
        for (entry, (wanted, chosen)) in work.entries.iter().zip(&work.chosen).enumerate() {
            let mut used = Vec::new();
            for counted in chosen.tasks.as_ref().unwrap_or(&models[wanted.model].tasks[wanted.graph]) {
                let Some(operator) = kernels::operator(counted.task.operator()) else { continue };
                let item = *by_key.entry((chosen.place, counted.task.key())).or_insert_with(|| {
                    let task: Task = counted.task.clone();
                    work.items.push(Item { task, operator, place: chosen.place, uses: Vec::new(), known: false });
                    work.items.len() - 1
                });
                let count = u32::try_from(counted.count).unwrap_or(u32::MAX);
                work.items[item].uses.push(Use { entry, count });
                used.push(item);
            }
            work.used.push(used);
        }
        for wanted in &work.entries {
            let has = !options.fresh && judge::has_record(models, places, wanted, rules, options.objective, records)?;
            work.open.push(!has);
        }
        for item in &mut work.items {
            if rules.fresh {
                continue;
            }
            let settled = item.uses.iter().all(|used| !work.open[used.entry]);
            let place = &places[item.place];
            item.known = settled || {
                let all = records.of_task(item.task.key(), place.device.key(), place.grant.share)?;
                let fresh =
                    || all.iter().filter(|one| one.environment == place.environment.key() && one.numerics == rules.numerics);
                let judged = fresh().any(|one| matches!(one.subject, schema::Subject::Final { .. }));
                // What another model's tuning measured is enough; what this one's left unfinished is not.
                if options.resume { judged } else { fresh().any(|one| matches!(one.outcome, schema::Outcome::Ok { .. })) }
            };
        }
        Ok(work)
    }
}

/// Writes a model's artifact and says what came out.
fn finish(
    number: usize,
    model: &Prepared,
    places: &[Place],
    work: &Work,
    explored: &Explored,
    verdicts: &[Verdict],
    options: &Options,
) -> Result<Tuned, TuneError> {
    let output = options.outputs.get(number).cloned().unwrap_or_else(|| PathBuf::from(format!("{}.tune", model.name)));
    let contents = contents(number, model, places, work, &explored.choices, verdicts, options);
    let Written { bytes, changed, .. } = artifact::write(&output, &contents)?;
    let own = |entry: &usize| work.entries[*entry].model == number;
    let rows = (0..work.entries.len()).filter(own).filter_map(|entry| verdicts[entry].row.clone()).collect();
    let gains = gains(number, model, places, work, explored);
    let mut kept: BTreeMap<&str, bool> = BTreeMap::new();
    for gain in &gains {
        *kept.entry(&gain.task).or_insert(true) &= gain.is_default;
    }
    let items = || work.items.iter().filter(|item| item.uses.iter().any(|used| work.entries[used.entry].model == number));
    let known: std::collections::BTreeSet<TaskKey> = items().filter(|item| item.known).map(|item| item.task.key()).collect();
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
        warnings: model.warnings.clone(),
    })
}

/// Nodes that are tasks in the graphs that run: of whole batches, and of the parts that were chosen.
fn nodes(number: usize, model: &Prepared, work: &Work) -> usize {
    let own = work.entries.iter().zip(&work.chosen).filter(|(wanted, _)| wanted.model == number);
    let graphs: BTreeMap<(usize, u32), usize> = own
        .map(|(wanted, chosen)| {
            let tasks = chosen.tasks.as_ref().unwrap_or(&model.tasks[wanted.graph]);
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

/// What a model's artifact holds. Entries without a verdict hold the defaults.
pub(crate) fn contents(
    number: usize,
    model: &Prepared,
    places: &[Place],
    work: &Work,
    choices: &[Choice],
    verdicts: &[Verdict],
    options: &Options,
) -> Contents {
    let mut contents = Contents {
        provenance: provenance(model, options),
        graphs: model.graphs.clone(),
        entries: Vec::new(),
        records: Vec::new(),
        notes: Vec::new(),
    };
    for (entry, wanted) in work.entries.iter().enumerate().filter(|(_, wanted)| wanted.model == number) {
        let place = &places[wanted.place];
        let verdict = verdicts.get(entry).unwrap_or(&Verdict { tuned: false, record: None, row: None });
        let mut configs: Vec<(Task, Config)> = work.used[entry]
            .iter()
            .filter(|_| verdict.tuned)
            .map(|&item| (work.items[item].task.clone(), choices[item].config.clone()))
            .collect();
        configs.sort_by_key(|(task, _)| task.to_string());
        let record = verdict.record.clone().map(|record| {
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
            split: if verdict.tuned { work.chosen[entry].split } else { Split::WHOLE },
            configs,
            record,
        });
    }
    contents
}

/// What each task of a model gained on each share.
fn gains(number: usize, model: &Prepared, places: &[Place], work: &Work, explored: &Explored) -> Vec<TaskGain> {
    let mut by_share: BTreeMap<TaskKey, BTreeMap<Share, BTreeMap<Config, Picos>>> = BTreeMap::new();
    for (item, times) in work.items.iter().zip(&explored.times) {
        let share = places[item.place].grant.share;
        by_share.entry(item.task.key()).or_default().entry(share).or_default().extend(times.iter().cloned());
    }
    let mut gains = Vec::new();
    for (at, item) in work.items.iter().enumerate() {
        let Some(used) = item.uses.iter().find(|used| work.entries[used.entry].model == number) else { continue };
        let (place, choice) = (&places[item.place], &explored.choices[at]);
        gains.push(TaskGain {
            task: item.task.to_string(),
            device: place.device.name.0.clone(),
            share: place.grant.share,
            count: used.count,
            batch: model.graphs[work.entries[used.entry].graph].batch,
            config: choice.config.clone(),
            is_default: choice.is_default,
            default: choice.default_time,
            tuned: choice.time,
            ratio: choice.ratio,
            tried: choice.tried,
            portfolio: by_share.get(&item.task.key()).map(portfolio::portfolio).unwrap_or_default(),
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
