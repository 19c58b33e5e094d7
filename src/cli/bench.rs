//! `tunewright bench`: requests against artifacts in the scenarios of MLPerf's LoadGen, with the latencies that came, whether enough was
//! seen to say so, and the placement that was predicted. Never an MLPerf result: that word belongs to reviewed runs.

mod assertion;
mod inputs;
mod report;

use super::explain::from_session;
use super::{
    Exit, Failure, Global, Screen,
    model::{self, OpenFlags},
    quantity::{self, Copies, show_time},
    settings,
};
use crate::artifact::Opening;
use crate::device::{self, Machine};
use crate::loadgen::{self, Clock, Figures, Library, Mode, Peak, Run, SettingsError, WallClock, find_peak, rate_at_once};
use crate::runtime::{Runtime, RuntimeError};
use crate::schedule::Nanos;
use crate::session::{Decision, Request, Session};
use crate::under_test::{Placed, Placing, RuntimeUnderTest, SessionUnderTest, UnderTestError};
use assertion::{Assertion, assertion};
use inputs::Part;
use schema::{Batch, Picos, Share};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  tunewright bench resnet50.tune --duration 10s\n  tunewright bench resnet50.tune --scenario offline --share 50 --assert 'throughput>40'\n  tunewright bench resnet50.tune --scenario server --target-qps 20 --deadline 100ms --assert valid\n  tunewright bench a.tune b.tune --mix a=0.7,b=0.3 --scenario server --find-peak --deadline 50ms"
)]
pub struct Arguments {
    /// Artifacts; several are asked for in a mix
    #[arg(value_name = "FILE.tune", required = true)]
    files: Vec<PathBuf>,
    /// How requests come
    #[arg(long, value_enum, default_value = "single-stream")]
    scenario: Scenario,
    /// Server: requests a second, at random
    #[arg(long, value_name = "N", visible_alias = "qps", value_parser = quantity::rate)]
    target_qps: Option<f64>,
    /// Server: find the highest rate that is valid, from --target-qps (or 1) up; each rate takes --duration
    #[arg(long)]
    find_peak: bool,
    /// When an answer is in time: the bound of server's 99th percentile [default: 100ms in server, else none]
    #[arg(long, value_name = "TIME", value_parser = quantity::some_time)]
    deadline: Option<Duration>,
    /// How long; the published rules want 600s, a shorter run is labelled so
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = quantity::some_time)]
    duration: Duration,
    /// Server: how often the latencies may be looked at; a run that needs more queries to pass goes on, each look at a confidence of 99.9 %
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=20))]
    looks: u32,
    /// Each artifact's part of the requests: a.tune=0.7,b.tune=0.3 [default: equal parts]
    #[arg(long, value_name = "NAME=WEIGHT,..", value_delimiter = ',', value_parser = inputs::weight)]
    mix: Vec<(String, f64)>,
    /// Samples to draw from, one after the other along the first axis [default: one of zeros]
    #[arg(long, value_name = "X.npz")]
    input: Option<PathBuf>,
    /// Ask for every sample once and log each output, instead of measuring
    #[arg(long, requires = "loadgen_log")]
    accuracy: bool,
    /// Log the outputs of about so many random samples
    #[arg(long, value_name = "N", default_value = "0", requires = "loadgen_log", value_parser = clap::value_parser!(u32))]
    log_outputs: u32,
    /// Write settings, verdict, figures and outputs here, with LoadGen's keys
    #[arg(long, value_name = "FILE.json")]
    loadgen_log: Option<PathBuf>,
    /// The device
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    device: String,
    /// Let the runtime serve, with workers of every share that was tuned for and requests put together to batches by this policy (see
    /// simulate), instead of a session that runs each request by itself
    #[arg(long, value_name = "NAME", value_parser = policy)]
    policy: Option<String>,
    /// Only this share
    #[arg(long, value_name = "PER CENT", value_parser = quantity::share)]
    share: Option<Share>,
    /// With --policy: workers have at most this much of the device together; the rest, such as a core, is left to whoever issues requests
    /// [default: 100]
    #[arg(long, value_name = "PER CENT", requires = "policy", value_parser = quantity::share)]
    at_most: Option<Share>,
    /// With --policy: what copies on a device with memory of its own while it computes, if the driver is not to be believed
    #[arg(long, value_enum, requires = "policy")]
    engines: Option<Copies>,
    /// Requests that run at once; fewer than the share has room for leave cores to whoever issues them [default: as many as there is room for]
    #[arg(long, value_name = "N", conflicts_with = "policy", value_parser = clap::value_parser!(u16).range(1..=1024))]
    concurrency: Option<u16>,
    /// Rows of a request [default: the smallest batch tuned]
    #[arg(long, value_name = "N", value_parser = quantity::batch)]
    batch: Option<Batch>,
    /// Exit with 1 unless it holds, such as 'p99<5ms', 'throughput>100' or valid; repeatable
    #[arg(long = "assert", value_name = "TEST", value_parser = assertion)]
    assertions: Vec<Assertion>,
    #[command(flatten)]
    open: OpenFlags,
}

#[derive(Copy, Clone, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Scenario {
    /// One request after the other
    SingleStream,
    /// Eight at once, then the next eight
    MultiStream,
    /// At random, at --target-qps
    Server,
    /// All at once
    Offline,
}

impl From<Scenario> for loadgen::Scenario {
    fn from(scenario: Scenario) -> Self {
        match scenario {
            Scenario::SingleStream => loadgen::Scenario::SingleStream,
            Scenario::MultiStream => loadgen::Scenario::MultiStream,
            Scenario::Server => loadgen::Scenario::Server,
            Scenario::Offline => loadgen::Scenario::Offline,
        }
    }
}

/// Before the measured time everything runs at once for this part of it, and at most for [`WARM_MAX`]: plans get compiled, and Offline
/// learns which rate to expect.
const WARM_PART: u32 = 10;
const WARM_MAX: Duration = Duration::from_secs(1);
/// A Server run ends early when more has queued up than arrives in this time: it would only wait for a verdict that is known.
const QUEUED_MAX_S: f64 = 10.0;
const QUEUED_MAX_LEAST: u64 = 100;

/// A model that is asked for.
struct Model {
    path: PathBuf,
    weight: f64,
    batch: Batch,
    samples: u32,
    /// The placement of its first run.
    decision: Decision,
    placed: Vec<Placed>,
}

/// Everything that was measured.
struct Measured {
    models: Vec<Model>,
    run: Run,
    figures: Figures,
    peak: Option<Peak>,
}

/// A policy by its name.
fn policy(text: &str) -> Result<String, String> {
    crate::schedule::policy(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

pub fn run(arguments: &Arguments, global: &Global, screen: &mut Screen) -> Result<Exit, Failure> {
    let parts = check(arguments)?;
    let database = settings::database_of_records(global, &screen.settings);
    let opening = arguments.open.opening();
    let mut models = Vec::new();
    let mut requests = Vec::new();
    let machine = super::devices::open(&arguments.device)?;
    let session = open(&parts, arguments, opening, database.clone())?;
    for part in parts {
        let (model, asked) = prepare(arguments, opening, &session, part)?;
        models.push(model);
        requests.push(asked);
    }
    let measured = measure(arguments, screen, &machine, session, models, requests)?;
    if let Some(path) = &arguments.loadgen_log {
        report::save_log(path, arguments, &measured, database.as_deref())?;
    }
    let rows = measured.models[0].batch.rows();
    let broken: Vec<&Assertion> = arguments.assertions.iter().filter(|test| !test.holds(&measured.figures, rows)).collect();
    report::print(arguments, screen, &measured, &broken);
    Ok(if broken.is_empty() { Exit::Done } else { Exit::No })
}

/// What doesn't go together, before anything is opened.
fn check(arguments: &Arguments) -> Result<Vec<Part>, Failure> {
    let server = arguments.scenario == Scenario::Server;
    let flag = |what: String, why: &str, remedy: &str| Err(Failure::new("usage.flag", what, why).remedy(remedy));
    match arguments.target_qps {
        Some(rate) if !server => {
            return flag(format!("--target-qps {rate}"), "only the server scenario has a rate", "add --scenario server");
        }
        None if server && !arguments.find_peak => {
            let failure = Failure::new("usage.missing", "--target-qps", "the server scenario needs a rate");
            return Err(failure.remedy("add --target-qps 100, or --find-peak"));
        }
        _ => {}
    }
    if !server && arguments.find_peak {
        return flag("--find-peak".to_owned(), "only the server scenario has a rate to find", "add --scenario server");
    }
    if arguments.looks > 1 && (!server || arguments.find_peak) {
        let why = "only one server run at a rate of its own looks again";
        return flag(format!("--looks {}", arguments.looks), why, "leave it out, or take --scenario server with --target-qps");
    }
    if arguments.accuracy && (arguments.find_peak || arguments.log_outputs > 0) {
        return flag("--accuracy".to_owned(), "it logs every output and measures nothing", "leave the others out");
    }
    if arguments.input.is_some() && arguments.files.len() > 1 {
        return flag("--input".to_owned(), "it holds the samples of one model", "bench one artifact at a time");
    }
    inputs::parts(&arguments.files, &arguments.mix)
}

fn open(parts: &[Part], arguments: &Arguments, opening: Opening, database: Option<PathBuf>) -> Result<Session, Failure> {
    for part in parts {
        model::open_artifact(&part.path, opening)?;
    }
    let builder = Session::builder().device(&arguments.device).opening(opening);
    let builder = parts.iter().fold(builder, |builder, part| builder.artifact(&part.path));
    let builder = if let Some(database) = database { builder.database(database) } else { builder };
    builder.open().map_err(|error| from_session(&parts[0].path, &error))
}

/// A model with the requests of its samples, once run: that compiles its plan and tells where it is placed.
fn prepare(arguments: &Arguments, opening: Opening, session: &Session, part: Part) -> Result<(Model, Vec<Request>), Failure> {
    let artifact = model::open_artifact(&part.path, opening)?;
    let name = artifact.provenance().model_name.clone();
    let smallest = artifact.shapes().map(|(batch, _)| batch).min().unwrap_or(Batch::ONE);
    let batch = arguments.batch.unwrap_or(smallest);
    let mut asked = inputs::requests(session, &part.path, &name, batch, arguments.share, arguments.input.as_deref())?;
    if let Some(deadline) = arguments.deadline {
        asked = asked.into_iter().map(|request| request.deadline(deadline)).collect();
    }
    let first = session.run(&asked[0]).map_err(|error| from_session(&part.path, &error))?;
    let samples = u32::try_from(asked.len()).unwrap_or(u32::MAX);
    let Part { path, weight } = part;
    Ok((Model { path, weight, batch, samples, decision: first.decision, placed: Vec::new() }, asked))
}

/// The settings of the run; Offline's rate is still to be found.
fn settings_of(arguments: &Arguments) -> loadgen::Settings {
    let published = loadgen::Settings::published(arguments.scenario.into());
    let rate = arguments.target_qps.unwrap_or(1.0);
    let settings = loadgen::Settings {
        mode: if arguments.accuracy { Mode::Accuracy } else { Mode::Performance },
        target_latency: arguments.deadline.map(nanos).or(published.target_latency),
        looks_max: arguments.looks,
        outputs_logged: u64::from(arguments.log_outputs),
        ..published.lasting(nanos(arguments.duration))
    };
    at_rate(&settings, rate)
}

fn at_rate(settings: &loadgen::Settings, per_s: f64) -> loadgen::Settings {
    let outstanding_max = ((per_s * QUEUED_MAX_S) as u64).max(QUEUED_MAX_LEAST);
    loadgen::Settings { target_qps: per_s, outstanding_max, ..settings.clone() }
}

fn nanos(time: Duration) -> Nanos {
    Nanos(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}

fn measure(
    arguments: &Arguments,
    screen: &mut Screen,
    machine: &Machine,
    session: Session,
    mut models: Vec<Model>,
    requests: Vec<Vec<Request>>,
) -> Result<Measured, Failure> {
    let path = models[0].path.clone();
    let library =
        Library::new(models.iter().map(|model| (model.samples, model.weight))).map_err(|error| refused(&path, &error))?;
    // One request after the other needs nobody beside whoever asks.
    let threads = if arguments.scenario == Scenario::SingleStream { 0 } else { concurrency(arguments, &models) };
    if arguments.scenario == Scenario::Server && takes_all_cores(arguments, &models) {
        screen.note(
            "note: requests use every core, none is left for whoever issues them (--concurrency, --at-most); a run whose requests come late is not valid",
        );
    }
    let (taken, left) = (threads > 0).then(|| apart(arguments, machine, &models)).flatten().unzip();
    let system: Box<dyn Placing> = match &arguments.policy {
        Some(policy) => Box::new(serving(arguments, policy, &models, requests)?),
        None => {
            let system = on(taken.as_deref(), || SessionUnderTest::start(session, requests, threads))?;
            Box::new(system.map_err(|error| from_session(&path, &error))?)
        }
    };
    let system = &*system;
    let clock: Arc<dyn Clock> = Arc::new(WallClock::begin());
    let mut settings = settings_of(arguments);
    if !arguments.accuracy {
        let long = nanos((arguments.duration / WARM_PART).min(WARM_MAX));
        let warm = rate_at_once(&library, system, &clock, long);
        let rate = warm.map_err(|why| failed(&path, system, &why))?;
        if arguments.scenario == Scenario::Offline {
            settings.target_qps = rate;
        }
        system.take_placed();
    }
    let run_at = |settings: &loadgen::Settings| -> Result<(Run, Figures, Vec<Placed>), Failure> {
        let run =
            on(left.as_deref(), || loadgen::run(settings, &library, system, &clock))?.map_err(|error| refused(&path, &error))?;
        if let loadgen::End::Failed(why) = &run.end {
            return Err(failed(&path, system, why));
        }
        let figures = run.figures();
        Ok((run, figures, system.take_placed()))
    };
    let seconds = arguments.duration.as_secs_f64();
    let (mut kept, mut peak) = (None, None);
    if arguments.find_peak {
        let start = settings.target_qps;
        let found = find_peak(start, |per_s| {
            screen.status(&format!("bench: {per_s:.1} requests a second for {seconds} s"));
            let probed = run_at(&at_rate(&settings, per_s))?;
            let valid = probed.1.is_valid();
            screen.note(&probe(per_s, &probed.1));
            if valid || kept.is_none() {
                kept = Some(probed);
            }
            Ok::<bool, Failure>(valid)
        })?;
        peak = Some(found);
    }
    let (run, figures, placed) = match kept {
        Some(kept) => kept,
        None => {
            screen.status(&format!("bench: {} for {seconds} s", settings.scenario.rules().name));
            run_at(&settings)?
        }
    };
    screen.status("");
    for placed in placed {
        models[usize::from(placed.model)].placed.push(placed);
    }
    Ok(Measured { models, run, figures, peak })
}

/// The runtime over the same artifacts.
fn serving(
    arguments: &Arguments,
    policy: &str,
    models: &[Model],
    requests: Vec<Vec<Request>>,
) -> Result<RuntimeUnderTest, Failure> {
    let builder = Runtime::builder().device(&arguments.device).policy(policy).opening(arguments.open.opening());
    let builder = arguments.share.into_iter().fold(builder, |builder, share| builder.share(share));
    let builder = arguments.at_most.into_iter().fold(builder, |builder, share| builder.at_most(share));
    let builder = arguments.engines.into_iter().fold(builder, |builder, copies| builder.engines(copies.into()));
    let builder = models.iter().fold(builder, |builder, model| builder.artifact(&model.path));
    let runtime = builder.open().map_err(|error| from_runtime(&models[0].path, &error))?;
    Ok(RuntimeUnderTest::new(runtime, requests))
}

/// Why the runtime does not serve.
fn from_runtime(path: &Path, error: &RuntimeError) -> Failure {
    match error {
        RuntimeError::Artifact(error) => model::from_artifact(path, error),
        RuntimeError::Database(error) => super::db::from_store(&error.path, &error.source),
        RuntimeError::Share(error) => super::devices::from_grant(error),
        RuntimeError::Device(_) => Failure::new("device.unknown", path.display(), error),
        RuntimeError::Worker(_) => Failure::new("device.worker", "cannot start workers", error),
        RuntimeError::Threads(_) => Failure::new("machine.threads", "cannot start threads", error),
        RuntimeError::Policy(_) => Failure::new("usage.value", "--policy", error),
        RuntimeError::AboveAtMost { .. } => Failure::new("usage.flag", "--share", error),
        RuntimeError::Ports { .. } | RuntimeError::Nowhere { .. } | RuntimeError::TwoOfAName(_) => {
            Failure::new("artifact.unserved", path.display(), error).remedy("leave --policy out")
        }
        _ => Failure::new("bug.bench", path.display(), error),
    }
}

/// How many requests run at once: as many as the shares that were chosen leave room for, unless it is said.
fn concurrency(arguments: &Arguments, models: &[Model]) -> usize {
    let room = |model: &Model| (100.0 / model.decision.share.as_percent()).floor().max(1.0) as usize;
    arguments.concurrency.map_or_else(|| models.iter().map(room).max().unwrap_or(1), usize::from)
}

/// Whether requests use every core of a host.
fn takes_all_cores(arguments: &Arguments, models: &[Model]) -> bool {
    let host = arguments.device.split(':').next() == Some("cpu");
    let at_once = concurrency(arguments, models) as f64;
    let shares = || models.iter().map(|model| at_once * model.decision.share.as_percent());
    let taken = match &arguments.policy {
        Some(_) => arguments.at_most.unwrap_or(Share::WHOLE).as_percent(),
        None => shares().fold(0.0, f64::max),
    };
    host && taken >= 100.0
}

/// The cores that requests run on, and those that are left to whoever issues them, where there is something to divide. A thread that sleeps
/// until an instant is woken where it last ran, and waits there for a request to end.
fn apart(arguments: &Arguments, machine: &Machine, models: &[Model]) -> Option<(Vec<usize>, Vec<usize>)> {
    let (taken, left) = match &arguments.policy {
        Some(_) => machine.divided(arguments.at_most.unwrap_or(Share::WHOLE), 1),
        None => {
            let share = models.iter().map(|model| model.decision.share).max().unwrap_or(Share::WHOLE);
            machine.divided(share, concurrency(arguments, models))
        }
    };
    (!taken.is_empty() && !left.is_empty()).then_some((taken, left))
}

/// On these cores, or anywhere.
fn on<T>(cores: Option<&[usize]>, work: impl FnOnce() -> T) -> Result<T, Failure> {
    let Some(cores) = cores else { return Ok(work()) };
    let failed = |error| Failure::new("machine.threads", format!("cannot keep to cores {cores:?}"), error);
    device::confined(cores, work).map_err(failed)
}

/// A rate that was tried, for people.
fn probe(per_s: f64, figures: &Figures) -> String {
    let p99 = figures.samples.percentile(0.99).map_or("unanswered".to_owned(), time);
    let failed: Vec<&str> =
        figures.conditions.iter().filter(|condition| !condition.met).map(|condition| condition.name).collect();
    let verdict = if failed.is_empty() { "valid".to_owned() } else { format!("invalid: {}", failed.join(", ")) };
    format!("  {per_s:.1}/s   p99 {p99}   {verdict}")
}

fn time(time: Nanos) -> String {
    show_time(Picos(time.0.saturating_mul(1000)))
}

/// Settings that make no run.
fn refused(path: &Path, error: &SettingsError) -> Failure {
    let remedy = match error {
        SettingsError::Samples(_) => "take a shorter --duration",
        _ => "see tunewright bench --help",
    };
    Failure::new("usage.value", path.display(), error).remedy(remedy)
}

/// What the system failed with.
fn failed(path: &Path, system: &dyn Placing, why: &str) -> Failure {
    match system.take_error() {
        Some(UnderTestError::Session(error)) => from_session(path, &error),
        Some(UnderTestError::Runtime(error)) => from_runtime(path, &error),
        None => Failure::new("bug.bench", path.display(), why),
    }
}
