//! `tunewright tune`: search, store, write the artifact, and say what was gained.

mod interrupt;
mod page;
mod progress;
mod result;

use super::db;
use super::failure::Failure;
use super::model::{self, ImportFlags};
use super::quantity;
use super::{Exit, Global, Screen, settings};
use crate::artifact::ArtifactError;
use crate::device::{self, Found, Machine};
use crate::passes::FoldLimits;
use crate::tune::{
    self, Budget, ExploreError, Objective, Options, Outcome, PrepareError, RecordsError, Stop, StoreRecords, TuneError, resume,
};
use crate::{search, worker};
use schema::{Batch, Numerics, Seed, Share};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  tunewright tune resnet50.onnx\n  tunewright tune resnet50.onnx --share 50,100 --batch 1,4,16 --budget 5m --report out.html\n  tunewright tune bert.onnx --dim seq=128 -o bert.tune\n  tunewright tune --continue resnet50.onnx"
)]
pub struct Arguments {
    /// ONNX models
    #[arg(required = true, value_name = "MODEL.onnx")]
    models: Vec<PathBuf>,
    /// The artifact, or with several models the folder for them [default: MODEL.tune here]
    #[arg(short, long, value_name = "FILE|DIR/")]
    output: Option<PathBuf>,
    /// auto (the cpu and real GPUs), all (software drivers too), or names such as cpu,wgpu:0
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    device: Vec<String>,
    /// Per cents of the device, one decimal allowed [default: 100]
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = quantity::share)]
    share: Vec<Share>,
    /// Sizes of the leading axis [default: 1]
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = quantity::batch)]
    batch: Vec<Batch>,
    /// 90s, 5m, 2h, trials=2000, or both: the first to end ends it [default: 60s]
    #[arg(long, value_name = "BUDGET", value_parser = budget)]
    budget: Option<Budget>,
    /// latency of one inference; throughput with every part of the device loaded; energy where a counter exists [default: latency]
    #[arg(long, value_enum)]
    objective: Option<ObjectiveFlag>,
    /// How to search: auto, exhaustive, random, hill-climb, evolution or halving [default: auto]
    #[arg(long, value_name = "NAME", value_parser = strategy)]
    strategy: Option<String>,
    /// Explorations at once: auto, a number, or off: one, and nothing is compiled ahead beside it [default: auto]
    #[arg(long, value_name = "N", value_parser = parallel)]
    parallel: Option<Parallel>,
    /// strict: f32 arithmetic; relaxed: also narrower types where the device has them [default: strict]
    #[arg(long, value_enum)]
    numerics: Option<NumericsFlag>,
    /// Largest error against the f64 reference [default: 1e-4; 1e-2 with relaxed]
    #[arg(long, value_name = "R", value_parser = quantity::positive)]
    max_error: Option<f64>,
    /// Where the search's choices start [default: 0]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Go on with the last unfinished tuning of these models
    #[arg(long = "continue", conflicts_with = "fresh")]
    resume: bool,
    /// Ignore (never delete) earlier observations
    #[arg(long)]
    fresh: bool,
    /// Write one self-contained page about the tuning
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
    /// Stamp the time into the artifact
    #[arg(long)]
    stamp: bool,
    /// Accept a database on a network file system
    #[arg(long)]
    allow_network_fs: bool,
    #[command(flatten)]
    import: ImportFlags,
}

#[derive(Copy, Clone, Debug, PartialEq, Eq, clap::ValueEnum)]
enum ObjectiveFlag {
    Latency,
    Throughput,
    Energy,
}

#[derive(Copy, Clone, Debug, PartialEq, Eq, clap::ValueEnum)]
enum NumericsFlag {
    Strict,
    Relaxed,
}

/// Explorations at once.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
struct Parallel {
    /// `None`: as many as there is room for.
    slots: Option<usize>,
    compile_ahead: bool,
}

impl Parallel {
    const AUTO: Parallel = Parallel { slots: None, compile_ahead: true };
}

fn budget(text: &str) -> Result<Budget, String> {
    Budget::parse(text).map_err(|error| error.to_string())
}

fn strategy(text: &str) -> Result<String, String> {
    let name = text.replace('-', "_");
    let names = || search::STRATEGIES.iter().map(|(name, _)| *name);
    if names().any(|known| known == name) {
        return Ok(name);
    }
    Err(format!(
        "there is no such strategy; there are {}",
        names().map(|name| name.replace('_', "-")).collect::<Vec<_>>().join(", ")
    ))
}

fn parallel(text: &str) -> Result<Parallel, String> {
    match text {
        "auto" => Ok(Parallel::AUTO),
        "off" => Ok(Parallel { slots: Some(1), compile_ahead: false }),
        number => match number.parse() {
            Ok(count) if count > 0 => Ok(Parallel { slots: Some(count), ..Parallel::AUTO }),
            _ => Err("it is auto, off or a number of at least 1; try --parallel auto".to_owned()),
        },
    }
}

/// Arguments with settings and an unfinished tuning's words filled in.
struct Asked {
    models: Vec<PathBuf>,
    output: Option<PathBuf>,
    devices: Vec<String>,
    shares: Vec<Share>,
    batches: Vec<Batch>,
    dims: BTreeMap<String, u64>,
    budget: Budget,
    budget_text: String,
    objective: Objective,
    strategy: String,
    parallel: Parallel,
    numerics: Numerics,
    max_error: f64,
    seed: u64,
}

pub fn run(arguments: &Arguments, global: &Global, screen: &mut Screen) -> Result<Exit, Failure> {
    for path in &arguments.models {
        model::kind(path)?; // a missing file is told before anything is made
    }
    let database = settings::database_path(global, &screen.settings);
    let asked = asked(arguments, &database, screen)?;
    if asked.objective == Objective::Energy
        && let Err(why) = device::energy_uj()
    {
        return Err(Failure::new("device.energy", "--objective energy", why).remedy("use --objective latency or throughput"));
    }
    let options = options(arguments, &asked)?;
    let store = db::open_store(&database, db::open_options(arguments.allow_network_fs), screen)?;
    let unfinished = resume::unfinished(&database, &asked.models);
    if unfinished.is_some() && !arguments.resume && !arguments.fresh {
        screen.note("an earlier tuning of these models is unfinished; its trials are used (tunewright tune --continue goes on in its words)");
    }
    let note = |error: std::io::Error| Failure::io("write", &database, &error);
    resume::begin(&database, &words(arguments, &asked)).map_err(note)?;
    let stop = interrupt::watch(screen.quiet)?;
    let mut records = StoreRecords::new(&store);
    let mut progress = progress::Progress::new(screen, &asked.models);
    let tuned = tune::tune(&asked.models, &options, &mut records, stop.flag(), &mut |event| {
        tracing::debug!(?event);
        progress.event(&event);
    });
    let seen = progress.finish();
    drop(records);
    let generation = store.publish_snapshot();
    let closed = store.close();
    let outcome = tuned.map_err(|error| {
        if !goes_on(&error) {
            // Nothing was begun that could be continued: the note is again what it was. That it stays is no second failure.
            let _ = match &unfinished {
                Some(earlier) => resume::begin(&database, earlier),
                None => resume::finish(&database, &asked.models),
            };
        }
        from_tune(&asked, &error)
    })?;
    let generation = generation.map_err(|error| db::from_store(&database, &error))?;
    closed.map_err(|error| db::from_store(&database, &error))?;
    let interrupted = outcome.stop == Stop::Interrupted;
    if !interrupted {
        resume::finish(&database, &asked.models).map_err(note)?;
    }
    result::report(screen, &outcome, &options.devices, generation);
    if let Some(path) = &arguments.report {
        let page = page::page(&outcome, &options, &asked.budget_text, generation, seen);
        super::save::save_bytes(path, crate::report::html(&page).as_bytes())?;
        screen.note(&format!("report    {}", path.display()));
    }
    Ok(exit(&outcome, interrupted, stop.signal(), &asked, global.db.as_deref(), screen))
}

fn exit(
    outcome: &Outcome,
    interrupted: bool,
    signal: Option<u8>,
    asked: &Asked,
    database: Option<&Path>,
    screen: &mut Screen,
) -> Exit {
    if interrupted {
        let mut words: Vec<String> = asked.models.iter().map(|path| path.display().to_string()).collect();
        words.extend(database.map(|path| format!("--db {}", path.display())));
        let line = format!("continue with: tunewright tune --continue {}", words.join(" "));
        // With --json as well: it is no progress, and stdout stays the object's.
        if screen.json.is_some() && !screen.quiet {
            eprintln!("{line}")
        } else {
            screen.note(&line)
        }
        return Exit::Signal(signal.unwrap_or(2));
    }
    for line in &outcome.missing {
        screen.warn("partly", line);
    }
    if outcome.missing.is_empty() { Exit::Done } else { Exit::Partly }
}

/// Flag, then the unfinished tuning's words with `--continue`, then settings, then the default.
fn asked(arguments: &Arguments, database: &Path, screen: &Screen) -> Result<Asked, Failure> {
    let before = if arguments.resume {
        let missing = || {
            let names: Vec<String> = arguments.models.iter().map(|path| path.display().to_string()).collect();
            Failure::new(
                "usage.continue",
                format!("--continue {}", names.join(" ")),
                "there is no unfinished tuning of these models",
            )
            .remedy("call tune without --continue")
        };
        Some(resume::unfinished(database, &arguments.models).ok_or_else(missing)?)
    } else {
        None
    };
    let before = before.as_ref();
    let setting = |key: &str| screen.settings.text(&format!("tune.{key}"));
    let usage = |key: &str, why: String| Failure::new("usage.value", format!("setting tune.{key}"), why);
    let list = |key: &str| setting(key).map(|text| text.split(',').map(str::trim).map(str::to_owned).collect::<Vec<_>>());
    let mut shares = arguments.share.clone();
    if shares.is_empty() {
        shares = match (before, list("share")) {
            (Some(before), _) => before.shares_per_mille.iter().filter_map(|&mille| Share::per_mille(mille).ok()).collect(),
            (None, Some(texts)) => {
                texts.iter().map(|text| quantity::share(text)).collect::<Result<_, _>>().map_err(|why| usage("share", why))?
            }
            (None, None) => vec![Share::WHOLE],
        };
    }
    let mut batches = arguments.batch.clone();
    if batches.is_empty() {
        batches = match (before, list("batch")) {
            (Some(before), _) => before.batches.iter().filter_map(|&rows| Batch::new(rows)).collect(),
            (None, Some(texts)) => {
                texts.iter().map(|text| quantity::batch(text)).collect::<Result<_, _>>().map_err(|why| usage("batch", why))?
            }
            (None, None) => vec![Batch::ONE],
        };
    }
    let mut devices = arguments.device.clone();
    if devices.is_empty() {
        devices =
            before.map(|before| before.devices.clone()).or_else(|| list("device")).unwrap_or_else(|| vec!["auto".to_owned()]);
    }
    let budget_text = match (arguments.budget, before, setting("budget")) {
        (Some(budget), ..) => budget.to_string(),
        (None, Some(before), _) => before.budget.clone(),
        (None, None, Some(text)) => text.to_owned(),
        (None, None, None) => "60s".to_owned(),
    };
    let relaxed = match arguments.numerics {
        Some(flag) => flag == NumericsFlag::Relaxed,
        None => before.map_or(setting("numerics") == Some("relaxed"), |before| before.relaxed),
    };
    let max_error = match (arguments.max_error, before, setting("max_error")) {
        (Some(bound), ..) => bound,
        (None, Some(before), _) => before.max_error,
        (None, None, Some(text)) => quantity::positive(text).map_err(|why| usage("max_error", why))?,
        (None, None, None) => {
            if relaxed {
                1e-2
            } else {
                1e-4
            }
        }
    };
    let named = match (&arguments.strategy, before, setting("strategy")) {
        (Some(name), ..) => name.clone(),
        (None, Some(before), _) => before.strategy.clone(),
        (None, None, Some(text)) => strategy(text).map_err(|why| usage("strategy", why))?,
        (None, None, None) => "auto".to_owned(),
    };
    let objective = match (arguments.objective, before.map(|before| before.objective.as_str()).or(setting("objective"))) {
        (Some(flag), _) => flag,
        (None, Some(text)) => clap::ValueEnum::from_str(text, true).map_err(|why| usage("objective", why))?,
        (None, None) => ObjectiveFlag::Latency,
    };
    let mut dims = before.map(|before| before.dims.iter().cloned().collect()).unwrap_or_default();
    BTreeMap::extend(&mut dims, arguments.import.dims());
    shares.sort();
    shares.dedup();
    batches.sort();
    batches.dedup();
    Ok(Asked {
        models: arguments.models.clone(),
        output: arguments.output.clone().or_else(|| before.and_then(|before| before.output.clone())),
        devices,
        shares,
        batches,
        dims,
        budget: budget(&budget_text).map_err(|why| usage("budget", why))?,
        budget_text,
        objective: match objective {
            ObjectiveFlag::Latency => Objective::Latency,
            ObjectiveFlag::Throughput => Objective::Throughput,
            ObjectiveFlag::Energy => Objective::Energy,
        },
        strategy: named,
        parallel: arguments.parallel.unwrap_or(Parallel::AUTO),
        numerics: if relaxed { Numerics::Relaxed } else { Numerics::Strict },
        max_error,
        seed: match (arguments.seed, before, setting("seed")) {
            (Some(seed), ..) => seed,
            (None, Some(before), _) => before.seed,
            (None, None, Some(text)) => text.parse().map_err(|_| usage("seed", format!("'{text}' is no whole number")))?,
            (None, None, None) => 0,
        },
    })
}

/// What `--continue` will need.
fn words(arguments: &Arguments, asked: &Asked) -> resume::Asked {
    resume::Asked {
        version: resume::VERSION,
        models: asked.models.clone(),
        output: asked.output.clone(),
        devices: asked.devices.clone(),
        shares_per_mille: asked.shares.iter().map(|share| share.as_per_mille()).collect(),
        batches: asked.batches.iter().map(|batch| batch.rows()).collect(),
        dims: asked.dims.clone().into_iter().collect(),
        budget: asked.budget_text.clone(),
        objective: asked.objective.to_string(),
        strategy: asked.strategy.clone(),
        max_error: asked.max_error,
        relaxed: asked.numerics == Numerics::Relaxed,
        seed: asked.seed,
        flags: arguments.import.limit.iter().map(|(name, value)| format!("--limit {name}={value}")).collect(),
    }
}

fn options(arguments: &Arguments, asked: &Asked) -> Result<Options, Failure> {
    let import = arguments.import.options(&asked.models);
    let fold = FoldLimits {
        bytes: import.limits.fold_bytes,
        one_bytes: import.limits.fold_one,
        flops: import.limits.fold_flop,
        rounds: import.limits.fold_rounds,
    };
    let program =
        worker::program().map_err(|error| Failure::new("bug.worker", "cannot find the program to run as worker", error))?;
    let mut flags = vec![format!("--numerics {:?}", asked.numerics).to_lowercase(), format!("--max-error {}", asked.max_error)];
    flags.extend(arguments.import.limit.iter().map(|(name, value)| format!("--limit {name}={value}")));
    Ok(Options {
        devices: devices(&asked.devices)?,
        shares: asked.shares.clone(),
        batches: asked.batches.clone(),
        dims: asked.dims.clone(),
        budget: asked.budget,
        objective: asked.objective,
        strategy: asked.strategy.clone(),
        parallel: asked.parallel.slots,
        compile_ahead: asked.parallel.compile_ahead,
        numerics: asked.numerics,
        max_error: asked.max_error,
        seed: Seed(asked.seed),
        outputs: outputs(&asked.models, asked.output.as_deref())?,
        resume: arguments.resume,
        fresh: arguments.fresh,
        import,
        fold,
        worker: program,
        flags,
        stamp_s: arguments.stamp.then(db::now_s),
    })
}

/// The machines the names stand for: `auto` is the cpu and real GPUs, `all` is whatever is here.
fn devices(names: &[String]) -> Result<Vec<Machine>, Failure> {
    let mut machines: Vec<Machine> = Vec::new();
    for name in names {
        let some = match name.as_str() {
            "auto" | "all" => device::found()
                .into_iter()
                .filter_map(|found| if let Found::Present(machine) = found { Some(machine) } else { None })
                .filter(|machine| name == "all" || !machine.software)
                .collect(),
            name => vec![super::devices::open(name)?],
        };
        machines.extend(some);
    }
    machines.dedup_by(|a, b| a.device.name == b.device.name);
    Ok(machines)
}

/// Where each model's artifact goes.
fn outputs(models: &[PathBuf], output: Option<&Path>) -> Result<Vec<PathBuf>, Failure> {
    let name = |model: &PathBuf| PathBuf::from(model.file_stem().unwrap_or(model.as_os_str())).with_extension("tune");
    let outputs: Vec<PathBuf> = match output {
        None => models.iter().map(name).collect(),
        Some(path) if path.is_dir() || path.as_os_str().to_string_lossy().ends_with('/') => {
            std::fs::create_dir_all(path).map_err(|error| Failure::io("make", path, &error))?;
            models.iter().map(|model| path.join(name(model))).collect()
        }
        Some(path) if models.len() == 1 => vec![path.to_owned()],
        Some(path) => {
            let why = "several models need a folder";
            return Err(Failure::new("usage.value", format!("--output {}", path.display()), why).remedy("end it with /"));
        }
    };
    let mut sorted = outputs.clone();
    sorted.sort();
    match sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => {
            Err(Failure::new("usage.value", pair[0].display(), "two models would write it")
                .remedy("tune them one by one with -o"))
        }
        None => Ok(outputs),
    }
}

/// Whether `--continue` could do what stopped the tuning: not when the models or the words were refused.
fn goes_on(error: &TuneError) -> bool {
    !matches!(error, TuneError::Prepare(_) | TuneError::UnknownAxis(_) | TuneError::Grant(_) | TuneError::Strategy(..))
}

fn from_tune(asked: &Asked, error: &TuneError) -> Failure {
    let first = asked.models.first().map_or(Path::new(""), PathBuf::as_path);
    match error {
        TuneError::Prepare(PrepareError::Import(error)) => model::from_import(error.file().unwrap_or(first), error),
        TuneError::Prepare(PrepareError::Bind { path, source }) => model::from_bind(path, source),
        TuneError::Prepare(PrepareError::Pass { path, source }) => model::from_pass(path, source),
        TuneError::Prepare(PrepareError::Task { path, source }) => Failure::new("bug.task", path.display(), source),
        TuneError::UnknownAxis(axis) => {
            Failure::new("usage.value", format!("--dim {axis}"), "no model has that axis").remedy("leave it out")
        }
        TuneError::Grant(error) => super::devices::from_grant(error),
        TuneError::Explore(ExploreError::Records(RecordsError::Store(error))) => {
            db::from_store(Path::new("of the tuning"), error)
        }
        TuneError::Explore(ExploreError::Measure(error)) => Failure::new("device.worker", "cannot measure", error),
        TuneError::Explore(ExploreError::Draft(error)) | TuneError::Artifact(error) => {
            match (error.cause(), outputs(&asked.models, asked.output.as_deref()).as_deref()) {
                // It may be a draft beside the artifact that could not be written: the user knows the artifact.
                (ArtifactError::Write(io), Ok([output])) => Failure::io("write", output, io).remedy(model::WRITE_REMEDY),
                _ => model::from_artifact(first, error),
            }
        }
        TuneError::Strategy(..) => Failure::new("usage.value", error, ""),
    }
}
