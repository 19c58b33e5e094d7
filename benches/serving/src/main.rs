//! What the runtime does under load, beside what the simulator says of the same arrivals.
//!
//! ```text
//! serving reality A.tune B.tune …   each model alone at three loads: mean, p99 and goodput, really and simulated
//! serving mix A.tune B.tune C.tune  all models at once: each policy, `fixed` and the best schedule that was found with all arrivals known
//! serving overload A.tune           three times the capacity: goodput beside the best there is, queues, times to come again
//! ```
//!
//! `--seconds N` is how long each run takes (20), `--seed N` what arrivals are drawn from (0), `--device NAME`, again for one more. Workers have
//! `--at-most PER CENT` of each device (100): with less a core is left to whoever submits. A mix has as many requests of each model, at
//! `--load N` of what can be done (1), each to be answered within `--deadline MS` (100); `--log FILE` gets a line of JSON for each of its requests.

mod load;

use load::{Outcome, Played, State, play, state_of};
use schema::{Batch, Seed, Share};
use std::fs::File;
use std::io::BufWriter;
use std::process::ExitCode;
use std::time::Duration;
use tunewright::device;
use tunewright::runtime::{Builder, Runtime};
use tunewright::schedule::{Admission, Fleet, Index, Limits, ModelId, Nanos, policy};
use tunewright::simulate::{Arrival, Arrivals, Figures, Mix, Pattern, Reality, Scenario, Sizes, search, simulate};

type Failed = Box<dyn std::error::Error>;

/// Loads as parts of the capacity.
const LOADS: [f64; 3] = [0.3, 0.6, 0.8];
/// A deadline is so many times what one request takes alone.
const DEADLINE: f64 = 10.0;
/// Runs take what the records say.
const AS_RECORDED: State = State { slower: 1.0, noise: 0.0 };
/// What one would fix without a scheduler: the greatest share of the first device, and one request at a time.
const FIXED: &str = "fixed";
/// Policies that are played in a mix.
const POLICIES: [&str; 4] = ["batcher", "knee", "fastest", FIXED];
/// Simulations that the search for a schedule may take.
const SEARCH: usize = 200;

struct Arguments {
    artifacts: Vec<String>,
    devices: Vec<String>,
    at_most: Share,
    seconds: f64,
    seed: u64,
    /// Of a mix.
    load: f64,
    within: Nanos,
    log: Option<File>,
}

fn main() -> ExitCode {
    // Workers are this program executed again.
    if let Some(code) = tunewright::worker::serve_if_asked() {
        return code;
    }
    match run(&std::env::args().skip(1).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("serving: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<(), Failed> {
    let [what, rest @ ..] = arguments else { return Err("give reality, mix or overload, and artifacts".into()) };
    let arguments = parse(rest)?;
    match what.as_str() {
        "reality" => reality(&arguments),
        "mix" => mix(&arguments),
        "overload" => overload(&arguments),
        other => Err(format!("'{other}' is none of reality, mix, overload").into()),
    }
}

fn parse(rest: &[String]) -> Result<Arguments, Failed> {
    let within = Nanos(100_000_000);
    let mut arguments = Arguments {
        artifacts: Vec::new(),
        devices: Vec::new(),
        at_most: Share::WHOLE,
        seconds: 20.0,
        seed: 0,
        load: 1.0,
        within,
        log: None,
    };
    let mut rest = rest.iter();
    while let Some(word) = rest.next() {
        let mut value = || rest.next().ok_or_else(|| format!("{word} wants a value"));
        match word.as_str() {
            "--seconds" => arguments.seconds = value()?.parse()?,
            "--seed" => arguments.seed = value()?.parse()?,
            "--load" => arguments.load = value()?.parse()?,
            "--deadline" => arguments.within = Nanos::from_secs_f64(value()?.parse::<f64>()? * 1e-3),
            "--log" => arguments.log = Some(File::create(value()?)?),
            "--at-most" => arguments.at_most = Share::percent(value()?.parse()?)?,
            "--device" => arguments.devices.push(value()?.clone()),
            path => arguments.artifacts.push(path.to_owned()),
        }
    }
    if arguments.artifacts.is_empty() { Err("give artifacts".into()) } else { Ok(arguments) }
}

impl Arguments {
    fn builder(&self) -> Builder {
        let builder = Runtime::builder().at_most(self.at_most);
        let with_devices = self.devices.iter().fold(builder, |builder, device| builder.device(device));
        self.artifacts.iter().fold(with_devices, |builder, path| builder.artifact(path))
    }

    /// Plays a trace on the cores that workers leave, if they leave any.
    fn play(&self, runtime: &Runtime, trace: &[Arrival]) -> Result<Played, Failed> {
        let index = runtime.index();
        let host = index.devices().iter().find(|device| device.0.starts_with("cpu"));
        let left = host.map(|host| Ok::<_, Failed>(device::open(&host.0)?.divided(self.at_most, 1).1)).transpose()?;
        match left.filter(|cores| !cores.is_empty()) {
            Some(cores) => device::confined(&cores, || play(runtime, trace))?,
            None => play(runtime, trace),
        }
    }

    /// Arrivals at that rate for the time of a run, of each model as many, each with its deadline.
    fn trace(&self, per_s: f64, index: &Index, within: impl Fn(ModelId) -> Nanos) -> Vec<Arrival> {
        let models = (0..index.models().len() as u16).map(ModelId);
        let mix = models.map(|model| Mix { model, weight: 1.0, within: within(model), sizes: Sizes::Fixed(Batch::ONE) });
        let end = Nanos::from_secs_f64(self.seconds);
        let arrivals = Arrivals::new(Pattern::Poisson { per_s }, mix.collect(), Seed(self.seed));
        arrivals.take_while(|arrival| arrival.at < end).collect()
    }
}

/// What one request takes at least, alone.
fn alone(index: &Index, model: ModelId) -> Nanos {
    index.curves_of(model).map(|(_, curve)| curve.cost(1)).min().unwrap_or_default()
}

fn deadline(index: &Index, model: ModelId) -> Nanos {
    alone(index, model).scaled(DEADLINE)
}

/// Requests a second of one model at most, by all workers of one share of one device.
fn capacity(index: &Index, fleet: &Fleet, model: ModelId) -> f64 {
    let rates = index.curves_of(model).map(|(_, curve)| {
        let workers = fleet.devices[usize::from(curve.device.0)].workers.iter().filter(|share| **share == curve.share).count();
        let of_one = curve.rows.iter().map(|row| f64::from(row.batch.rows()) / row.stages.total().as_secs_f64());
        of_one.fold(0.0, f64::max) * workers as f64
    });
    rates.fold(0.0, f64::max)
}

/// What the simulator says of a trace.
fn simulated(runtime: &Runtime, index: &Index, trace: &[Arrival], name: &str, state: State) -> Result<Figures, Failed> {
    let scenario = scenario(runtime, index, state);
    Ok(simulate(&scenario, trace.iter().copied(), policy(name)?, &mut |_| {})?)
}

fn scenario(runtime: &Runtime, index: &Index, State { slower, noise }: State) -> Scenario {
    Scenario {
        fleet: runtime.fleet(),
        index: std::sync::Arc::new(index.clone()),
        limits: Limits::default(),
        reality: Reality { noise, slower, slower_from: Nanos::ZERO, ..Reality::default() },
        faults: Vec::new(),
        seed: Seed(0),
        starvation: Nanos::NEVER,
    }
}

fn percentile(sorted: &[Nanos], part: f64) -> f64 {
    let at = (sorted.len() as f64 * part) as usize;
    sorted.get(at.min(sorted.len().saturating_sub(1))).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
}

fn mean(times: &[Nanos]) -> f64 {
    times.iter().map(|time| time.as_secs_f64() * 1e3).sum::<f64>() / times.len() as f64
}

/// Each model alone at three loads.
fn reality(arguments: &Arguments) -> Result<(), Failed> {
    println!(
        "| model | load | alone before, meanwhile, alone after, of the record | requests | mean ms | simulated | ratio | p99 ms | simulated | ratio | in time /s | simulated | ratio |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|---|");
    let mut errors = Vec::new();
    for path in &arguments.artifacts {
        let one = Arguments { artifacts: vec![path.clone()], devices: arguments.devices.clone(), log: None, ..*arguments };
        for load in LOADS {
            // A new runtime for each: what one load taught is no help to the next.
            let runtime = one.builder().open()?;
            let index = runtime.index();
            let state = || state_of(&runtime, &runtime.models()[0], alone(&index, ModelId(0)));
            let before = state()?;
            let trace = one.trace(load * capacity(&index, &runtime.fleet(), ModelId(0)), &index, |model| deadline(&index, model));
            let played = one.play(&runtime, &trace)?;
            let after = state()?;
            // States of a machine last for minutes, and change meanwhile: the simulator is told how long runs took, and how unequally.
            let meanwhile = played.state(&index);
            let figures = simulated(&runtime, &index, &trace, "batcher", meanwhile)?;
            let real = played.latencies();
            let (per_s, simulated_per_s) =
                (played.in_time() as f64 / arguments.seconds, figures.in_time as f64 / arguments.seconds);
            let pairs = [
                (mean(&real), mean(&figures.latencies)),
                (percentile(&real, 0.99), percentile(&figures.latencies, 0.99)),
                (per_s, simulated_per_s),
            ];
            let cells: Vec<String> =
                pairs.iter().map(|(real, made)| format!("{real:.3} | {made:.3} | {:.2}", real / made)).collect();
            println!(
                "| {} | {load} | {:.2}, {:.2} ± {:.2}, {:.2} | {} | {} |",
                runtime.models()[0],
                before.slower,
                meanwhile.slower,
                meanwhile.noise,
                after.slower,
                trace.len(),
                cells.join(" | ")
            );
            errors.extend(played.errors());
        }
    }
    errors.sort_by(f64::total_cmp);
    println!("\nmedian error of predicted against actual time: {:.1} % of {} runs", 100.0 * median(&errors), errors.len());
    Ok(())
}

fn median(sorted: &[f64]) -> f64 {
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// All models at once, at what they could just be served with.
fn mix(arguments: &Arguments) -> Result<(), Failed> {
    let plain = arguments.builder().open()?;
    let index = plain.index();
    let count = index.models().len();
    let a_second = |model| capacity(&index, &plain.fleet(), ModelId(model as u16));
    let a_request: f64 = (0..count).map(|model| 1.0 / a_second(model)).sum::<f64>() / count as f64;
    let per_s = arguments.load / a_request;
    let trace = arguments.trace(per_s, &index, |_| arguments.within);
    let within = arguments.within.as_secs_f64() * 1e3;
    println!("{} requests of {count} models, {per_s:.0} /s, each to be answered within {within} ms", trace.len());
    println!("\n| policy | in time | late | refused | in time, simulated | late, simulated | mean ms | p99 ms |");
    println!("|---|---|---|---|---|---|---|---|");
    let mut in_time = Vec::new();
    for name in POLICIES {
        let runtime = arguments.builder().policy(name).open()?;
        let played = arguments.play(&runtime, &trace)?;
        let figures = simulated(&runtime, &index, &trace, name, AS_RECORDED)?;
        if let Some(log) = &arguments.log {
            played.log(&mut BufWriter::new(log), name, &trace)?;
        }
        let Played { outcomes } = &played;
        let count = |of: fn(&Outcome) -> bool| outcomes.iter().filter(|outcome| of(outcome)).count();
        let (late, refused) =
            (count(|outcome| outcome.is_late() == Some(true)), count(|outcome| matches!(outcome, Outcome::Refused { .. })));
        let real = played.latencies();
        println!(
            "| {name} | {} | {late} | {refused} | {} | {} | {:.3} | {:.3} |",
            played.in_time(),
            figures.in_time,
            figures.late,
            mean(&real),
            percentile(&real, 0.99)
        );
        in_time.push((name, played.in_time()));
    }
    let known = search(&scenario(&plain, &index, AS_RECORDED), &trace, SEARCH)?;
    println!("| every arrival known ({}), simulated | {} | | | | | | |", known.policy, known.in_time);
    let best = in_time.iter().filter(|(name, _)| *name != FIXED).map(|(_, count)| *count).max().unwrap_or(0);
    let base = in_time.iter().find(|(name, _)| *name == FIXED).map_or(0, |(_, count)| *count);
    println!(
        "\nbest policy over fixed: {:.2}; over what was done with all arrivals known: {:.2}",
        best as f64 / base as f64,
        best as f64 / known.in_time as f64
    );
    Ok(())
}

/// Three times what can be done.
fn overload(arguments: &Arguments) -> Result<(), Failed> {
    let limits = Limits { admission: Admission::Predicted, ..Limits::default() };
    let mut peak = 0.0;
    println!("| load | offered /s | in time /s | late | refused | longest time to come again ms |");
    println!("|---|---|---|---|---|---|");
    for load in [0.7, 0.8, 0.9, 1.0, 3.0] {
        let runtime = arguments.builder().limits(limits.clone()).open()?;
        let index = runtime.index();
        let offered = load * capacity(&index, &runtime.fleet(), ModelId(0));
        let trace = arguments.trace(offered, &index, |model| deadline(&index, model));
        let played = arguments.play(&runtime, &trace)?;
        let goodput = played.in_time() as f64 / arguments.seconds;
        let retries = played
            .outcomes
            .iter()
            .filter_map(|outcome| if let Outcome::Refused { retry_after } = outcome { *retry_after } else { None });
        let (longest, late) = (
            retries.clone().max().unwrap_or(Duration::ZERO),
            played.outcomes.iter().filter(|outcome| outcome.is_late() == Some(true)).count(),
        );
        println!("| {load} | {offered:.0} | {goodput:.1} | {late} | {} | {:.1} |", retries.count(), longest.as_secs_f64() * 1e3);
        if load < 3.0 {
            peak = f64::max(peak, goodput);
        } else {
            println!("\ngoodput at three times the capacity over the peak: {:.2}", goodput / peak);
        }
    }
    Ok(())
}
