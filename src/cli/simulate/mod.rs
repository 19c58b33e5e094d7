//! `tunewright simulate`: what policies would make of a trace, by the records of artifacts or of the tuning database. Needs no device.

mod assume;
mod mix;
mod page;
mod print;

use super::failure::nearest;
use super::{
    Exit, Failure, Global, Screen, db, model,
    quantity::{self, Copies},
    settings,
};
use crate::features;
use crate::forest::Training;
use crate::schedule::{self, Engines, Index, Limits, Nanos, POLICIES, PolicyError, Wake, from_records};
use crate::simulate::{
    Arrival, Arrivals, Figures, Pattern, Reality, Scenario, SimulateError, Sizes, Timeline, most_in_time, read_trace, search,
    simulate,
};
use crate::wake;
use print::time;
use schema::{DeviceKey, ModelFeatures, Observation, Seed};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tuning_db::{Reader, Source, StoreError};

#[derive(Debug, clap::Args)]
#[command(
    group = clap::ArgGroup::new("load").required(true),
    after_help = "Examples:\n  tunewright simulate resnet50.tune --arrivals poisson:200/s --deadline 50ms\n  tunewright simulate a.tune b.tune --trace t.jsonl --policy batcher,greedy,oracle\n  tunewright simulate --arrivals burst:200/s,2x,300ms --mix resnet50=3/50ms,dlrm=1/100ms/rec --report out.html"
)]
pub struct Arguments {
    /// Artifacts, whose records predict; without one, those of the tuning database
    #[arg(value_name = "FILE.tune")]
    files: Vec<PathBuf>,
    /// Requests from a file, a JSON object a line: at_ns, model, and, where wanted, rows, deadline_ns, priority
    #[arg(long, value_name = "FILE", group = "load")]
    trace: Option<PathBuf>,
    /// Requests at random: poisson:200/s, burst:200/s,2x,300ms or diurnal:50..400/s,1h
    #[arg(long, value_name = "PATTERN", group = "load", value_parser = pattern)]
    arrivals: Option<Pattern>,
    /// Rows of a request: fixed:1, normal:8,2, lognormal:2,0.5, pareto:1,1.5, rec or heavy
    #[arg(long, value_name = "SIZES", default_value = "fixed:1", value_parser = sizes, conflicts_with = "trace")]
    sizes: Sizes,
    /// How many requests
    #[arg(long, value_name = "N", default_value = "1e6", value_parser = requests, conflicts_with = "trace")]
    requests: usize,
    /// For how long requests arrive, if that ends before their number
    #[arg(long, value_name = "TIME", value_parser = quantity::duration, conflicts_with = "trace")]
    duration: Option<Duration>,
    /// Which models requests are for: MODEL=WEIGHT[/DEADLINE[/SIZES]], several behind commas; what is left out is as --deadline and --sizes
    /// say [default: equally many of each]
    #[arg(long, value_name = "LIST", value_parser = mix::parts, conflicts_with = "trace")]
    mix: Option<mix::Parts>,
    /// From the arrival of a request until its answer is wanted [default: none]
    #[arg(long, value_name = "TIME", value_parser = deadline, conflicts_with = "trace")]
    deadline: Option<Duration>,
    /// Policies, a line each; oracle is what none can surpass, clairvoyant a schedule searched for with all arrivals known; fixed takes device, share and batch, as fixed:cpu/50/4; forest takes latency, throughput or energy, as forest:energy
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "batcher,fastest,oracle", value_parser = policy)]
    policy: Vec<String>,
    /// What copies on devices other than hosts while they compute
    #[arg(long, value_enum, default_value = "none")]
    engines: Copies,
    /// What a device loses when it changes from one share to another
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = quantity::duration)]
    gap: Duration,
    /// Deviation of actual times from recorded ones, as a part of them
    #[arg(long, value_name = "PART", default_value = "0", value_parser = noise)]
    noise: f64,
    /// How many times as long a run takes for each other that works beside it on its device; policies know it
    #[arg(long, value_name = "FACTOR", default_value = "1", value_parser = beside)]
    beside: f64,
    /// Models may also run on shares where only others were measured, as fast as forests predict from those (at least 16 rows)
    #[arg(long)]
    fill: bool,
    /// One page with what ran where and why
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
    /// From when on the page shows each run, until there are 400 of a policy
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = quantity::duration, requires = "report")]
    report_from: Duration,
    /// The same seed gives the same requests and figures
    #[arg(long, value_name = "N", default_value = "0")]
    seed: u64,
}

/// What no policy can surpass, among the policies.
const ORACLE: &str = "oracle";
/// The best schedule found by one that knows all arrivals, among the policies.
const CLAIRVOYANT: &str = "clairvoyant";
/// Requests that it is searched for, and plans tried.
const CLAIRVOYANT_MAX: usize = 20_000;
const PLANS: usize = 200;
/// Requests that are held in memory.
const REQUESTS_MAX: f64 = 1e7;

fn pattern(text: &str) -> Result<Pattern, String> {
    let duration = |text: &str| quantity::duration(text).ok().map(nanos);
    Pattern::parse(text, duration).map_err(|error| error.to_string())
}

fn sizes(text: &str) -> Result<Sizes, String> {
    Sizes::parse(text).map_err(|error| error.to_string())
}

fn requests(text: &str) -> Result<usize, String> {
    match text.parse::<f64>() {
        Ok(count) if (1.0..=REQUESTS_MAX).contains(&count) && count.fract() == 0.0 => Ok(count as usize),
        _ => Err("it is a whole number from 1 to 1e7; try 1e6".to_owned()),
    }
}

fn deadline(text: &str) -> Result<Duration, String> {
    match quantity::duration(text)? {
        Duration::ZERO => Err("a deadline of 0 is over when the request arrives; write 50ms".to_owned()),
        time => Ok(time),
    }
}

fn noise(text: &str) -> Result<f64, String> {
    quantity::not_negative(text)
        .ok()
        .filter(|&noise| noise <= 1.0)
        .ok_or_else(|| "it is a number from 0 to 1; try 0.05".to_owned())
}

fn beside(text: &str) -> Result<f64, String> {
    quantity::positive(text)
        .ok()
        .filter(|factor| (1.0..=100.0).contains(factor))
        .ok_or_else(|| "it is a number from 1 to 100; try 1.3".to_owned())
}

fn policy(text: &str) -> Result<String, String> {
    let known = || POLICIES.iter().map(|(name, _)| *name).chain([ORACLE, CLAIRVOYANT]);
    if text == ORACLE || text == CLAIRVOYANT {
        return Ok(text.to_owned());
    }
    match schedule::policy(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(PolicyError::Unknown(name)) => {
            let meant = nearest(&name, known()).map(|near| format!("did you mean {near}?"));
            Err(format!("there is no such policy; {}", meant.unwrap_or_else(|| known().collect::<Vec<_>>().join(", "))))
        }
        Err(error) => Err(error.to_string()),
    }
}

fn nanos(time: Duration) -> Nanos {
    Nanos(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}

/// What came of one policy.
struct Line {
    policy: String,
    in_time: u64,
    goodput_per_s: f64,
    missed: f64,
    /// `None` for the bound.
    figures: Option<Figures>,
    /// When a page is wanted.
    timeline: Option<Timeline>,
}

pub fn run(arguments: &Arguments, global: &Global, screen: &mut Screen) -> Result<Exit, Failure> {
    let (generation, records) = records(arguments, global, screen)?;
    let engines: Engines = arguments.engines.into();
    let (mut fleet, index) =
        from_records(generation, engines, &records).map_err(|error| Failure::new("input.malformed", "the records", error))?;
    if index.models().is_empty() {
        let what = arguments.files.first().map_or_else(|| "the database".to_owned(), |file| file.display().to_string());
        return Err(Failure::new("artifact.untuned", what, "has no record of a model that ran").remedy("tune it first"));
    }
    fleet.devices.iter_mut().for_each(|device| device.gap = nanos(arguments.gap));
    let foresees = |name: &String| schedule::policy(name).is_ok_and(|policy| policy.foresees());
    let index = match arguments.fill || arguments.policy.iter().any(foresees) {
        true => {
            let (features, wakes) = (features(arguments, global, screen)?, wakes(arguments, global, screen)?);
            let facts = schedule::facts(&index, &records, &features, &wakes);
            index.with_facts(facts).taught(&Training { seed: Seed(arguments.seed), ..Training::default() })
        }
        false => index,
    };
    let index = if arguments.fill { assume::filled(&index)? } else { index };
    let index = assume::beside(index, arguments.beside);
    let trace = trace(arguments, &index)?;
    let span = trace.last().map_or(Nanos::ZERO, |last| last.at);
    let from = nanos(arguments.report_from);
    if from > span {
        let why = format!("the last request arrives at {}", time(span));
        return Err(Failure::new("usage.value", format!("--report-from {}", time(from)), why).remedy("begin earlier"));
    }
    if trace.len() > CLAIRVOYANT_MAX && arguments.policy.iter().any(|name| name == CLAIRVOYANT) {
        let why = format!("it is searched for up to {CLAIRVOYANT_MAX} requests; there are {}", trace.len());
        return Err(Failure::new("usage.value", "--policy clairvoyant", why).remedy("take fewer requests with --requests 4000"));
    }
    let scenario = Scenario {
        fleet,
        index: Arc::new(index),
        limits: Limits::default(),
        reality: Reality { noise: arguments.noise, interference: arguments.beside, ..Reality::default() },
        faults: Vec::new(),
        seed: Seed(arguments.seed),
        starvation: Nanos::NEVER,
    };
    let timeline = arguments.report.as_ref().map(|_| Timeline::new(&scenario.index, span, from));
    let line = |name: &String| line(name, &scenario, &trace, timeline.clone());
    let lines = arguments.policy.iter().map(line).collect::<Result<Vec<_>, _>>()?;
    if let Some(path) = &arguments.report {
        let page = page::page(
            title(&scenario.index),
            facts(arguments, &scenario, &trace),
            &scenario.fleet,
            &scenario.index,
            span,
            &lines,
        );
        super::save::save_bytes(path, crate::report::timeline_html(&page).as_bytes())?;
    }
    print::print(arguments, screen, &scenario, &trace, &lines);
    Ok(Exit::Done)
}

/// The records of the artifacts, each entry's own; without artifacts those of the database that hold now.
fn records(arguments: &Arguments, global: &Global, screen: &Screen) -> Result<(u64, Vec<Observation>), Failure> {
    let mut records = Vec::new();
    for file in &arguments.files {
        let artifact = model::open_artifact(file, crate::artifact::Opening::default())?;
        let own = artifact.entries().iter().filter_map(|entry| entry.record);
        records.extend(own.map(|at| artifact.records()[at].clone()));
    }
    if !arguments.files.is_empty() {
        return Ok((0, records));
    }
    let path = settings::database_path(global, &screen.settings);
    let read = Reader::open(&path, Source::Auto).and_then(|reader| reader.model_records());
    let read = read.map_err(|error| match error {
        StoreError::Missing { .. } => {
            let why = format!("there is no database at {} to take its place", path.display());
            Failure::new("usage.missing", "FILE.tune", why).remedy("name an artifact, or a database with --db")
        }
        error => db::from_store(&path, &error),
    })?;
    let fresh = read.rows.into_iter().filter(|row| !row.stale).map(|row| row.observation);
    Ok((read.generation, fresh.collect()))
}

/// How the devices of the records wake, where the database says so.
fn wakes(arguments: &Arguments, global: &Global, screen: &Screen) -> Result<BTreeMap<DeviceKey, Wake>, Failure> {
    if !arguments.files.is_empty() {
        return Ok(BTreeMap::new());
    }
    let path = settings::database_path(global, &screen.settings);
    let read = Reader::open(&path, Source::Auto).and_then(|reader| reader.trials_of_task(wake::task()));
    read.map(|trials| wake::curves(&trials)).map_err(|error| db::from_store(&path, &error))
}

/// What the models of the records are like: of artifacts their graphs tell, else the database says.
fn features(arguments: &Arguments, global: &Global, screen: &Screen) -> Result<Vec<ModelFeatures>, Failure> {
    let mut all = Vec::new();
    for file in &arguments.files {
        let artifact = model::open_artifact(file, crate::artifact::Opening::default())?;
        for (at, (batch, dims)) in artifact.shapes().enumerate() {
            let (features, dims) = (features::of(artifact.outline(at)), dims.to_vec());
            let model = artifact.provenance().model;
            all.push(ModelFeatures { model, batch, dims, revision: features::REVISION, features });
        }
    }
    if arguments.files.is_empty() {
        let path = settings::database_path(global, &screen.settings);
        let read = Reader::open(&path, Source::Auto).and_then(|reader| reader.model_features());
        all = read.map_err(|error| db::from_store(&path, &error))?;
    }
    Ok(all)
}

fn trace(arguments: &Arguments, index: &Index) -> Result<Vec<Arrival>, Failure> {
    if let Some(path) = &arguments.trace {
        let file = File::open(path).map_err(|error| Failure::io("open", path, &error))?;
        let read = read_trace(BufReader::new(file), index).map_err(|error| {
            Failure::new("input.trace", path.display(), format!("{}: {}", error.what, error.why))
                .at(format!("line {}", error.line))
        })?;
        return if read.is_empty() { Err(Failure::new("input.trace", path.display(), "has no request")) } else { Ok(read) };
    }
    let pattern = arguments.arrivals.expect("the grammar asks for a trace or a pattern");
    let within = arguments.deadline.map_or(Nanos::NEVER, nanos);
    let mix = match &arguments.mix {
        Some(parts) => parts.of(index, within, arguments.sizes)?,
        None => mix::equal(index, within, arguments.sizes),
    };
    let arrivals = Arrivals::new(pattern, mix, Seed(arguments.seed));
    let end = arguments.duration.map_or(Nanos::NEVER, nanos);
    let drawn: Vec<Arrival> = arrivals.take(arguments.requests).take_while(|arrival| arrival.at <= end).collect();
    if drawn.is_empty() {
        let what = format!("--duration {:?}", arguments.duration.unwrap_or_default());
        return Err(Failure::new("usage.value", what, "no request arrives in that time").remedy("give it more time"));
    }
    Ok(drawn)
}

/// Names of the models, as the page's title.
fn title(index: &Index) -> String {
    index.models().iter().map(|model| model.name.as_str()).collect::<Vec<_>>().join(", ")
}

fn facts(arguments: &Arguments, scenario: &Scenario, trace: &[Arrival]) -> Vec<(String, String)> {
    let drawn = || arguments.arrivals.map_or_else(String::new, |pattern| pattern.to_string());
    let source = arguments.trace.as_ref().map_or_else(drawn, |path| path.display().to_string());
    let devices = scenario.index.devices().iter().map(|device| device.0.as_str()).collect::<Vec<_>>().join(", ");
    let facts = [
        ("requests", trace.len().to_string()),
        ("arrivals", source),
        ("devices", devices),
        ("records' generation", scenario.index.generation().to_string()),
        ("noise", arguments.noise.to_string()),
        ("seed", arguments.seed.to_string()),
        ("made by", format!("tunewright {}", env!("CARGO_PKG_VERSION"))),
    ];
    facts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn line(name: &str, scenario: &Scenario, trace: &[Arrival], mut timeline: Option<Timeline>) -> Result<Line, Failure> {
    let policy = name.to_owned();
    if name == ORACLE {
        let in_time = most_in_time(&scenario.fleet, &scenario.index, trace);
        let span = trace.last().map_or(0.0, |last| last.at.as_secs_f64());
        let goodput_per_s = if span > 0.0 { in_time as f64 / span } else { 0.0 };
        let missed = 1.0 - in_time as f64 / trace.len() as f64;
        return Ok(Line { policy, in_time, goodput_per_s, missed, figures: None, timeline: None });
    }
    if name == CLAIRVOYANT {
        let searched = search(scenario, trace, PLANS).map_err(|error| broken(name, error))?;
        let (in_time, goodput_per_s) = (searched.in_time, searched.figures.goodput_per_s());
        let missed = 1.0 - in_time as f64 / trace.len() as f64;
        let policy = format!("{CLAIRVOYANT} ({})", searched.policy);
        return Ok(Line { policy, in_time, goodput_per_s, missed, figures: Some(searched.figures), timeline: None });
    }
    let made = schedule::policy(name).map_err(|error| Failure::new("usage.value", format!("--policy {name}"), error))?;
    let figures = simulate(scenario, trace.iter().copied(), made, &mut |seen| {
        if let Some(timeline) = &mut timeline {
            timeline.see(&seen);
        }
    });
    let figures = figures.map_err(|error| broken(name, error))?;
    let (in_time, goodput_per_s, missed) = (figures.in_time, figures.goodput_per_s(), figures.missed());
    Ok(Line { policy, in_time, goodput_per_s, missed, figures: Some(figures), timeline })
}

fn broken(policy: &str, error: SimulateError) -> Failure {
    match error {
        SimulateError::Index(error) => Failure::new("input.malformed", "the records", error),
        broken => Failure::new("bug.schedule", format!("policy {policy}"), broken),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_refused_with_a_way_out() {
        assert!(policy("bacher").unwrap_err().contains("did you mean batcher?"));
        assert!(policy("fixed:cpu/0/1").unwrap_err().contains("the share is more than 0"));
        assert!(policy("oracle").is_ok() && policy("fixed:cpu/50/4").is_ok());
        assert!(requests("0").is_err() && requests("1.5").is_err() && requests("1e9").is_err() && requests("NaN").is_err());
        assert_eq!((requests("1e6"), requests("20")), (Ok(1_000_000), Ok(20)));
        assert!(deadline("0s").is_err() && noise("-1").is_err() && noise("1.5").is_err());
        assert!(pattern("poisson:0/s").unwrap_err().contains("the rate is 0"));
    }
}
