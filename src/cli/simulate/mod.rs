//! `tunewright simulate`: what policies would make of a trace, by the records of artifacts or of the tuning database. Needs no device.

use super::failure::{escape, nearest};
use super::quantity::{self, show_count, show_time};
use super::table::{Align, lay_out};
use super::{Exit, Failure, Global, Screen, db, model, screen::Paint, settings};
use crate::schedule::{self, Engines, Fleet, Index, Limits, ModelId, Nanos, POLICIES, PolicyError, from_records};
use crate::simulate::{
    Arrival, Arrivals, Figures, Mix, Pattern, Reality, Scenario, SimulateError, Sizes, most_in_time, read_trace, simulate,
};
use schema::{Observation, Picos, Seed};
use serde_json::{Value, json};
use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tuning_db::{Reader, Source, StoreError};

#[derive(Debug, clap::Args)]
#[command(
    group = clap::ArgGroup::new("load").required(true),
    after_help = "Examples:\n  tunewright simulate resnet50.tune --arrivals poisson:200/s --deadline 50ms\n  tunewright simulate a.tune b.tune --trace t.jsonl --policy batcher,greedy,oracle\n  tunewright simulate --arrivals burst:200/s,2x,300ms --sizes heavy"
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
    /// From the arrival of a request until its answer is wanted [default: none]
    #[arg(long, value_name = "TIME", value_parser = deadline, conflicts_with = "trace")]
    deadline: Option<Duration>,
    /// Policies, a line each; oracle is what none can surpass; fixed takes device, share and batch, as fixed:cpu/50/4
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "batcher,fastest,oracle", value_parser = policy)]
    policy: Vec<String>,
    /// What copies on devices other than hosts while they compute
    #[arg(long, value_enum, default_value = "none")]
    engines: Copies,
    /// Deviation of actual times from recorded ones, as a part of them
    #[arg(long, value_name = "PART", default_value = "0", value_parser = noise)]
    noise: f64,
    /// The same seed gives the same requests and figures
    #[arg(long, value_name = "N", default_value = "0")]
    seed: u64,
}

#[derive(Copy, Clone, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Copies {
    /// Nothing
    None,
    /// One engine for both directions
    One,
    /// An engine for each direction
    Two,
}

/// What no policy can surpass, among the policies.
const ORACLE: &str = "oracle";
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

fn policy(text: &str) -> Result<String, String> {
    let known = || POLICIES.iter().map(|(name, _)| *name).chain([ORACLE]);
    if text == ORACLE {
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
}

pub fn run(arguments: &Arguments, global: &Global, screen: &mut Screen) -> Result<Exit, Failure> {
    let (generation, records) = records(arguments, global, screen)?;
    let engines = match arguments.engines {
        Copies::None => Engines::None,
        Copies::One => Engines::One,
        Copies::Two => Engines::Two,
    };
    let (fleet, index) =
        from_records(generation, engines, &records).map_err(|error| Failure::new("input.malformed", "the records", error))?;
    if index.models().is_empty() {
        let what = arguments.files.first().map_or_else(|| "the database".to_owned(), |file| file.display().to_string());
        return Err(Failure::new("artifact.untuned", what, "has no record of a model that ran").remedy("tune it first"));
    }
    let trace = trace(arguments, &index)?;
    let scenario = Scenario {
        fleet,
        index: Arc::new(index),
        limits: Limits::default(),
        reality: Reality { noise: arguments.noise, ..Reality::default() },
        faults: Vec::new(),
        seed: Seed(arguments.seed),
        starvation: Nanos::NEVER,
    };
    let lines = arguments.policy.iter().map(|name| line(name, &scenario, &trace)).collect::<Result<Vec<_>, _>>()?;
    print(arguments, screen, &scenario, &trace, &lines);
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
    let mix = (0..index.models().len() as u16).map(|model| Mix { model: ModelId(model), weight: 1.0, within });
    let arrivals = Arrivals::new(pattern, arguments.sizes, mix.collect(), Seed(arguments.seed));
    let end = arguments.duration.map_or(Nanos::NEVER, nanos);
    let drawn: Vec<Arrival> = arrivals.take(arguments.requests).take_while(|arrival| arrival.at <= end).collect();
    if drawn.is_empty() {
        let what = format!("--duration {:?}", arguments.duration.unwrap_or_default());
        return Err(Failure::new("usage.value", what, "no request arrives in that time").remedy("give it more time"));
    }
    Ok(drawn)
}

fn line(name: &str, scenario: &Scenario, trace: &[Arrival]) -> Result<Line, Failure> {
    let policy = name.to_owned();
    if name == ORACLE {
        let in_time = most_in_time(&scenario.fleet, &scenario.index, trace);
        let span = trace.last().map_or(0.0, |last| last.at.as_secs_f64());
        let goodput_per_s = if span > 0.0 { in_time as f64 / span } else { 0.0 };
        let missed = 1.0 - in_time as f64 / trace.len() as f64;
        return Ok(Line { policy, in_time, goodput_per_s, missed, figures: None });
    }
    let made = schedule::policy(name).map_err(|error| Failure::new("usage.value", format!("--policy {name}"), error))?;
    let figures = simulate(scenario, trace.iter().copied(), made, &mut |_| {}).map_err(|error| match error {
        SimulateError::Index(error) => Failure::new("input.malformed", "the records", error),
        broken => Failure::new("bug.schedule", format!("policy {name}"), broken),
    })?;
    let (in_time, goodput_per_s, missed) = (figures.in_time, figures.goodput_per_s(), figures.missed());
    Ok(Line { policy, in_time, goodput_per_s, missed, figures: Some(figures) })
}

fn print(arguments: &Arguments, screen: &mut Screen, scenario: &Scenario, trace: &[Arrival], lines: &[Line]) {
    let index = &scenario.index;
    screen.result(
        || {
            json!({
                "schema": "simulate.result", "version": 1,
                "models": index.models().iter().map(|model| &model.name).collect::<Vec<_>>(),
                "devices": devices(&scenario.fleet, index),
                "generation": index.generation().to_string(),
                "requests": trace.len(), "seed": arguments.seed.to_string(),
                "policies": lines.iter().map(|line| object(line, index)).collect::<Vec<_>>(),
            })
        },
        |screen| {
            let models = index.models().iter().map(|model| escape(&model.name)).collect::<Vec<_>>().join(", ");
            let last = trace.last().map_or(Nanos::ZERO, |last| last.at);
            let head = format!("{models}: {} requests in {}", show_count(trace.len() as u64), time(last));
            let header = ["policy", "goodput", "missed", "p50", "p99", "refused", "utilisation", "energy"];
            let mut rows = vec![header.iter().map(|cell| screen.paint(Paint::Dim, cell)).collect::<Vec<_>>()];
            rows[0][0] = format!("  {}", rows[0][0]);
            rows.extend(lines.iter().map(|line| row(line, index)));
            let align =
                [Align::Left, Align::Right, Align::Right, Align::Right, Align::Right, Align::Right, Align::Left, Align::Left];
            std::iter::once(head).chain(lay_out(&rows, &align)).collect()
        },
    );
}

fn time(time: Nanos) -> String {
    show_time(Picos(time.0.saturating_mul(1000)))
}

fn devices(fleet: &Fleet, index: &Index) -> Vec<Value> {
    let shares = |at: usize| {
        let mut shares: Vec<f64> = fleet.devices[at].workers.iter().map(|share| share.as_percent()).collect();
        shares.dedup();
        shares
    };
    index.devices().iter().enumerate().map(|(at, device)| json!({"device": device.0, "shares_pct": shares(at)})).collect()
}

fn row(line: &Line, index: &Index) -> Vec<String> {
    let none = || "-".to_owned();
    let latency = |part| line.figures.as_ref().and_then(|figures| figures.latency(part)).map_or_else(none, time);
    let refused = line
        .figures
        .as_ref()
        .map_or_else(none, |figures| show_count(figures.refused_late + figures.refused_full + figures.refused_other));
    let used = line.figures.as_ref().map_or_else(none, |figures| {
        let of = |(at, device): (usize, &schema::DeviceName)| format!("{} {:.0} %", device.0, 100.0 * figures.utilisation(at));
        index.devices().iter().enumerate().map(of).collect::<Vec<_>>().join(", ")
    });
    let energy =
        line.figures.as_ref().and_then(|figures| figures.energy_mj).map_or_else(none, |energy| format!("{:.1} J", energy * 1e-3));
    let most = if line.figures.is_none() { "at most " } else { "" };
    vec![
        format!("  {}", line.policy),
        format!("{most}{:.1}/s", line.goodput_per_s),
        format!("{:.2} %", 100.0 * line.missed),
        latency(0.5),
        latency(0.99),
        refused,
        used,
        energy,
    ]
}

fn object(line: &Line, index: &Index) -> Value {
    let figures = line.figures.as_ref();
    let latency = |part| figures.and_then(|figures| figures.latency(part)).map(|time| time.0);
    let used = figures.map(|figures| {
        let of =
            |(at, device): (usize, &schema::DeviceName)| json!({"device": device.0, "used_pct": 100.0 * figures.utilisation(at)});
        index.devices().iter().enumerate().map(of).collect::<Vec<_>>()
    });
    json!({
        "policy": line.policy, "in_time": line.in_time, "goodput_per_s": line.goodput_per_s, "missed_pct": 100.0 * line.missed,
        "late": figures.map(|figures| figures.late),
        "refused_late": figures.map(|figures| figures.refused_late),
        "refused_full": figures.map(|figures| figures.refused_full),
        "refused_other": figures.map(|figures| figures.refused_other),
        "p50_ns": latency(0.5), "p99_ns": latency(0.99),
        "mean_ns": figures.and_then(Figures::latency_mean).map(|time| time.0),
        "runs": figures.map(|figures| figures.runs),
        "padded_rows": figures.map(|figures| figures.padded_rows),
        "utilisation": used,
        "energy_mj": figures.and_then(|figures| figures.energy_mj),
        "retry_after_least_ns": figures.and_then(|figures| figures.retry_after).map(|(least, _)| least.0),
        "retry_after_most_ns": figures.and_then(|figures| figures.retry_after).map(|(_, most)| most.0),
        "error_median": figures.and_then(Figures::error_median),
    })
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
