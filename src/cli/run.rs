//! `tunewright run`: one inference from an artifact, or untuned from a model, with its outputs compared to what was expected.

use super::failure::escape;
use super::model::{self, ImportFlags, Kind, OpenFlags};
use super::quantity::{self, show_time};
use super::save::save_bytes;
use super::table::{Align, lay_out};
use super::{Exit, Failure, Screen, screen::Paint};
use crate::agreement::{self, Distance, Tolerance};
use crate::device;
use crate::execute::{Configs, Plan, PlanError, RunError, StepTime, pool};
use crate::graph::{Dim, Graph, Type};
use crate::npz::{self, NpzError};
use crate::passes;
use kernels::{Datum, Tensor};
use schema::{Batch, Picos, Share};
use serde_json::json;
use std::collections::BTreeMap;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};
use std::time::Instant;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  tunewright run resnet50.tune --input x.npz --expect y.npz\n  tunewright run resnet50.onnx --input x.npz --profile\n  tunewright run resnet50.tune --input x.npz --output -  > z.npz"
)]
pub struct Arguments {
    /// An artifact, or an ONNX model to run untuned
    file: PathBuf,
    /// The inputs, by name; - is stdin
    #[arg(long, value_name = "X.npz")]
    input: PathBuf,
    /// What should come out; exit code 1 when it does not
    #[arg(long, value_name = "Y.npz")]
    expect: Option<PathBuf>,
    /// Write the outputs; - is stdout
    #[arg(long, value_name = "Z.npz")]
    output: Option<PathBuf>,
    /// Two values agree when |a − b| ≤ atol + rtol · max(|b|, rms of the output)
    #[arg(long, value_name = "R", default_value = "1e-4", value_parser = quantity::not_negative)]
    rtol: f64,
    /// See --rtol
    #[arg(long, value_name = "A", default_value = "0", value_parser = quantity::not_negative)]
    atol: f64,
    /// Run that often and report the median time
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    repeat: u32,
    /// Print the time of each node
    #[arg(long)]
    profile: bool,
    /// The device; of an artifact: only entries for it
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    device: String,
    /// The share of the device; of an artifact: only entries for it
    #[arg(long, value_name = "PER CENT", value_parser = quantity::share)]
    share: Option<Share>,
    /// Of an artifact: only entries for this batch
    #[arg(long, value_name = "N", value_parser = quantity::batch)]
    batch: Option<Batch>,
    /// A missing entry is an error, not the next best one
    #[arg(long)]
    require_tuned: bool,
    #[command(flatten)]
    import: ImportFlags,
    #[command(flatten)]
    open: OpenFlags,
}

/// Something that runs: a plan and where it came from.
struct Ready {
    plan: Plan,
    /// For people: `cpu share 50, batch 4, tuned`.
    placement: String,
    share: Share,
    tuned: bool,
}

pub fn run(arguments: &Arguments, screen: &mut Screen) -> Result<Exit, Failure> {
    if arguments.output.as_deref() == Some(Path::new("-")) && screen.json.is_some() {
        let failure = Failure::new("usage.flag", "--output -", "stdout is taken by --json");
        return Err(failure.remedy("name a file"));
    }
    let kind = model::kind(&arguments.file)?;
    let inputs = read_npz(&arguments.input)?;
    let expected = arguments.expect.as_deref().map(read_npz).transpose()?;
    let mut ready = match kind {
        Kind::Artifact => from_artifact(arguments, &inputs)?,
        _ => untuned(arguments, &inputs)?,
    };
    let names: Vec<(&str, Tensor)> = inputs.iter().map(|(name, tensor)| (name.as_str(), tensor.clone())).collect();
    let plan = &mut ready.plan;
    let wanted: Vec<String> = plan.inputs().map(|port| port.name.clone()).collect();
    let used: Vec<(&str, Tensor)> = names.into_iter().filter(|(name, _)| wanted.iter().any(|input| input == name)).collect();
    let mut times = Vec::with_capacity(arguments.repeat as usize);
    let mut outputs = Vec::new();
    for round in 0..arguments.repeat {
        plan.set_profiling(arguments.profile && round + 1 == arguments.repeat);
        let start = Instant::now();
        outputs = plan.run(&used).map_err(|error| from_run(arguments, &error))?;
        times.push(start.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    let median = Picos::from_secs_f64(times[times.len() / 2]);
    let ports: Vec<String> = plan.outputs().map(|port| port.name.clone()).collect();
    let compared = match &expected {
        Some(expected) => compare(arguments, &ports, &outputs, expected)?,
        None => Vec::new(),
    };
    if let Some(path) = &arguments.output {
        write_npz(path, &ports, &outputs, screen)?;
    }
    let agrees = compared.iter().all(|(_, distance)| distance.agrees());
    let profile = plan.profile();
    report(arguments, screen, &ready, median, &ports, &outputs, &compared, &profile);
    Ok(if agrees { Exit::Done } else { Exit::No })
}

/// A model without tuning: its axes are read off the inputs.
fn untuned(arguments: &Arguments, inputs: &[(String, Tensor)]) -> Result<Ready, Failure> {
    if arguments.require_tuned {
        return Err(Failure::new("artifact.untuned", arguments.file.display(), "a model is not an artifact")
            .remedy("run tunewright tune first"));
    }
    let path = &arguments.file;
    let mut graph = arguments.import.load(path)?.graph;
    let dims = dims_of(path, &graph, inputs, &arguments.import.dims())?;
    let options = passes::Options::default();
    model::prepare(path, &mut graph, None, &dims, None, &options)?;
    let machine = super::devices::open(&arguments.device)?;
    let share = arguments.share.unwrap_or(Share::WHOLE);
    let grant = machine.grant_here(share).map_err(|error| super::devices::from_grant(&error))?;
    let plan = compile(path, graph, &Configs::new(), &grant, arguments)?;
    Ok(Ready { plan, placement: format!("{} share {share}, untuned", arguments.device), share, tuned: false })
}

/// The entry of an artifact that fits: the device, the share if one was asked for, and the inputs' shapes; the largest share first.
fn from_artifact(arguments: &Arguments, inputs: &[(String, Tensor)]) -> Result<Ready, Failure> {
    let path = &arguments.file;
    let artifact = model::open_artifact(path, arguments.open.opening())?;
    let machine = super::devices::open(&arguments.device)?;
    let fits = |entry: &&crate::artifact::Entry| {
        arguments.batch.is_none_or(|batch| batch == entry.batch) && shapes_fit(artifact.outline(entry.graph), inputs)
    };
    let here = |entry: &&crate::artifact::Entry| {
        entry.device.key() == machine.key() && arguments.share.is_none_or(|share| share == entry.share)
    };
    let best = artifact.entries().iter().filter(fits).filter(here).max_by_key(|entry| entry.share);
    let any = artifact.entries().iter().find(fits);
    let share = arguments.share.unwrap_or(Share::WHOLE);
    let (index, configs, share) = match (best, any) {
        (Some(entry), _) => (entry.graph, entry.configs.clone(), entry.share),
        (None, Some(_)) if arguments.require_tuned => {
            let why = format!("has no entry for {} at {share} %", arguments.device);
            let remedy = format!("run tune with --device {} --share {share}", arguments.device);
            return Err(Failure::new("artifact.untuned", path.display(), why).remedy(remedy));
        }
        (None, Some(entry)) => (entry.graph, Vec::new(), share),
        (None, None) => return Err(no_entry(path, &artifact, inputs)),
    };
    let grant = machine.grant_here(share).map_err(|error| super::devices::from_grant(&error))?;
    let graph = artifact.graph(index).map_err(|error| model::from_artifact(path, &error))?;
    let mut table = Configs::new();
    for (task, config) in &configs {
        table.insert(task.key(), config.clone());
    }
    let batch = artifact.shapes().nth(index).map_or(Batch::ONE, |(batch, _)| batch);
    let plan = compile(path, graph, &table, &grant, arguments)?;
    let tuned = best.is_some();
    let word = if tuned { "tuned" } else { "untuned here" };
    Ok(Ready { plan, placement: format!("{} share {share}, batch {batch}, {word}", arguments.device), share, tuned })
}

fn compile(path: &Path, graph: Graph, configs: &Configs, grant: &device::Grant, arguments: &Arguments) -> Result<Plan, Failure> {
    let threads = pool(grant.limits.units).map_err(|error| Failure::new("machine.threads", "cannot start threads", error))?;
    let bytes = arguments.import.options(&[]).limits.plan_bytes;
    let lost = |error| Failure::new("device.lost", &grant.device, error).remedy("see tunewright doctor");
    let plan = match device::gpu(&grant.device, &grant.cores).map_err(lost)? {
        Some(gpu) => Plan::compile_on(&gpu, graph, configs, &grant.limits, bytes),
        None => Plan::compile_owned(graph, configs, &grant.limits, bytes),
    };
    Ok(plan.map_err(|error| from_plan(path, &error))?.in_pool(threads))
}

/// Whether every input of a graph is given with its dtype and shape.
fn shapes_fit(graph: &Graph, inputs: &[(String, Tensor)]) -> bool {
    graph.inputs.iter().all(|&id| {
        let value = graph.value(id);
        let given = inputs.iter().find(|(name, _)| *name == value.name);
        given.is_some_and(|(_, tensor)| value.ty.fixed_shape().is_none_or(|shape| shape == tensor.shape()))
    })
}

/// No entry takes these inputs: says which input differs from the nearest entry.
fn no_entry(path: &Path, artifact: &crate::artifact::Artifact, inputs: &[(String, Tensor)]) -> Failure {
    let batches: Vec<String> = artifact.shapes().map(|(batch, _)| batch.to_string()).collect();
    let Some(entry) = artifact.entries().first() else {
        return Failure::new("artifact.untuned", path.display(), "has no entries").remedy("tune again");
    };
    let graph = artifact.outline(entry.graph);
    for &id in &graph.inputs {
        let value = graph.value(id);
        match inputs.iter().find(|(name, _)| *name == value.name) {
            None => return missing_input(path, graph, &value.name, inputs),
            Some((name, tensor)) if value.ty.fixed_shape().is_some_and(|shape| shape != tensor.shape()) => {
                let found = Type::tensor(tensor.dtype(), tensor.shape());
                let why = format!(
                    "\"{}\" is {found}, the artifact wants {} (batches tuned: {})",
                    escape(name),
                    value.ty,
                    batches.join(", ")
                );
                return Failure::new("input.shape_mismatch", path.display(), why).remedy("reshape it, or tune for its shape");
            }
            Some(_) => {}
        }
    }
    Failure::new("artifact.untuned", path.display(), "has no entry for this batch").remedy("tune with --batch")
}

fn missing_input(path: &Path, graph: &Graph, name: &str, inputs: &[(String, Tensor)]) -> Failure {
    let given: Vec<String> = inputs.iter().map(|(name, _)| escape(name)).collect();
    let wanted: Vec<String> = graph.inputs.iter().map(|&id| escape(&graph.value(id).name)).collect();
    let why = format!(
        "input \"{}\" is missing; the file has {}, the model wants {}",
        escape(name),
        given.join(", "),
        wanted.join(", ")
    );
    Failure::new("input.shape_mismatch", path.display(), why)
}

/// The open axes of a model as its inputs have them.
fn dims_of(
    path: &Path,
    graph: &Graph,
    inputs: &[(String, Tensor)],
    fixed: &BTreeMap<String, u64>,
) -> Result<BTreeMap<String, u64>, Failure> {
    let mut dims = fixed.clone();
    for &id in &graph.inputs {
        let value = graph.value(id);
        let Some((name, tensor)) = inputs.iter().find(|(name, _)| *name == value.name) else {
            return Err(missing_input(path, graph, &value.name, inputs));
        };
        let found = Type::tensor(tensor.dtype(), tensor.shape());
        let mismatch = || {
            let why = format!("\"{}\" is {found}, the model wants {}", escape(name), value.ty);
            Failure::new("input.shape_mismatch", path.display(), why).remedy("reshape it")
        };
        if value.dtype().is_some_and(|dtype| dtype != tensor.dtype()) {
            return Err(mismatch());
        }
        let Some(shape) = value.ty.shape() else { continue };
        if shape.len() != tensor.shape().len() {
            return Err(mismatch());
        }
        for (dim, &extent) in shape.iter().zip(tensor.shape()) {
            let agrees = match dim {
                Dim::Fixed(fixed) => *fixed == extent,
                Dim::Named(axis) => *dims.entry(axis.to_string()).or_insert(extent as u64) == extent as u64,
            };
            if !agrees {
                return Err(mismatch());
            }
        }
    }
    Ok(dims)
}

/// The distance of each output from what was expected, in the model's order.
fn compare(
    arguments: &Arguments,
    ports: &[String],
    outputs: &[Datum],
    expected: &[(String, Tensor)],
) -> Result<Vec<(String, Distance)>, Failure> {
    let file = arguments.expect.as_deref().unwrap_or(Path::new(""));
    let tolerance = Tolerance { rtol: arguments.rtol, atol: arguments.atol };
    if let Some((name, _)) = expected.iter().find(|(name, _)| !ports.contains(name)) {
        let why = format!(
            "\"{}\" is no output; the model has {}",
            escape(name),
            ports.iter().map(|p| escape(p)).collect::<Vec<_>>().join(", ")
        );
        return Err(Failure::new("input.shape_mismatch", file.display(), why));
    }
    let mut compared = Vec::new();
    for (name, output) in ports.iter().zip(outputs) {
        let Some((_, tensor)) = expected.iter().find(|(expected, _)| expected == name) else { continue };
        let distance = agreement::distance(output, &Datum::from(tensor.clone()), tolerance);
        let distance = distance
            .map_err(|why| Failure::new("input.shape_mismatch", file.display(), why).at(format!("\"{}\"", escape(name))))?;
        compared.push((name.clone(), distance));
    }
    Ok(compared)
}

#[allow(clippy::too_many_arguments)]
fn report(
    arguments: &Arguments,
    screen: &mut Screen,
    ready: &Ready,
    median: Picos,
    ports: &[String],
    outputs: &[Datum],
    compared: &[(String, Distance)],
    profile: &[StepTime],
) {
    if arguments.output.as_deref() == Some(Path::new("-")) {
        return;
    }
    let shape = |datum: &Datum| match datum {
        Datum::Tensor(tensor) => Type::tensor(tensor.dtype(), tensor.shape()).to_string(),
        Datum::Sequence(items) => format!("a sequence of {}", items.len()),
        Datum::Optional(item) => if item.is_some() { "an optional" } else { "nothing" }.to_owned(),
    };
    let find = |name: &String| compared.iter().find(|(compared, _)| compared == name).map(|(_, distance)| distance);
    let finite = |value: f64| if value.is_finite() { json!(value) } else { json!(null) };
    let object = || {
        let output = |(name, datum): (&String, &Datum)| {
            let distance = find(name);
            json!({
                "name": name, "type": shape(datum), "worst_relative": distance.map(|d| finite(d.relative)), "worst_absolute": distance.map(|d| finite(d.absolute)),
                "outside": distance.map(|d| d.outside), "agrees": distance.map(Distance::agrees),
            })
        };
        let node = |step: &StepTime| json!({"node": step.facts.node, "op": step.facts.op, "kernel": step.facts.task.as_ref().map(|(task, config)| json!({"task": task, "config": config.to_string()})), "on_device": step.facts.on_device, "time_ns": step.nanos});
        json!({
            "schema": "run.result", "version": 1, "file": arguments.file.display().to_string(), "placement": ready.placement, "share_pct": ready.share.as_percent(),
            "tuned": ready.tuned, "median_ns": median.as_nanos(), "repeat": arguments.repeat, "outputs": ports.iter().zip(outputs).map(output).collect::<Vec<_>>(),
            "profile": profile.iter().map(node).collect::<Vec<_>>(),
        })
    };
    screen.result(object, |screen| {
        let repeated = if arguments.repeat > 1 { format!(", median of {}", arguments.repeat) } else { String::new() };
        let mut lines = vec![format!(
            "{}   {}{repeated}   {}",
            arguments.file.display(),
            screen.paint(Paint::Bold, &show_time(median)),
            ready.placement
        )];
        let row = |(name, datum): (&String, &Datum)| {
            let verdict = match find(name) {
                None => String::new(),
                Some(distance) if distance.agrees() => {
                    screen.paint(Paint::Green, &format!("agrees, worst error {:.1e}", distance.relative))
                }
                Some(distance) => {
                    let place = distance.worst.map_or_else(String::new, |(i, a, b)| format!(", at {i}: {a} and not {b}"));
                    let text = format!("DIFFERS in {} elements, worst error {:.1e}{place}", distance.outside, distance.relative);
                    screen.paint(Paint::Red, &text)
                }
            };
            vec![format!("  {}", escape(name)), shape(datum), verdict]
        };
        lines.extend(lay_out(&ports.iter().zip(outputs).map(row).collect::<Vec<_>>(), &[Align::Left; 3]));
        lines.extend(profile_lines(profile));
        lines
    });
}

/// The nodes by time, greatest first, with their part of the whole.
fn profile_lines(profile: &[StepTime]) -> Vec<String> {
    let total: u64 = profile.iter().map(|step| step.nanos).sum();
    let mut sorted: Vec<&StepTime> = profile.iter().collect();
    sorted.sort_by_key(|step| std::cmp::Reverse(step.nanos));
    let row = |step: &&StepTime| {
        vec![
            show_time(Picos(step.nanos.saturating_mul(1000))),
            format!("{:.1} %", 100.0 * step.nanos as f64 / total.max(1) as f64),
            step.facts.op.clone(),
            escape(&step.facts.node),
            match &step.facts.task {
                Some((_, config)) => config.to_string(),
                None => if step.facts.on_device { "Burn, on the device" } else { "" }.to_owned(),
            },
        ]
    };
    lay_out(&sorted.iter().map(row).collect::<Vec<_>>(), &[Align::Right, Align::Right, Align::Left, Align::Left, Align::Left])
}

pub fn read_npz(path: &Path) -> Result<Vec<(String, Tensor)>, Failure> {
    let limits = npz::Limits::default();
    let read = if path == Path::new("-") {
        let mut bytes = Vec::new();
        let taken = std::io::stdin().lock().take(limits.bytes).read_to_end(&mut bytes);
        taken.map_err(|error| Failure::io("read", Path::new("stdin"), &error))?;
        npz::read_bytes(&bytes, &limits)
    } else {
        npz::read(path, &limits)
    };
    read.map_err(|error| from_npz(path, &error))
}

fn write_npz(path: &Path, ports: &[String], outputs: &[Datum], screen: &mut Screen) -> Result<(), Failure> {
    let mut arrays = Vec::new();
    for (name, datum) in ports.iter().zip(outputs) {
        match datum {
            Datum::Tensor(tensor) => arrays.push((name.as_str(), tensor)),
            _ => screen
                .warn("output", &format!("\"{}\" is a sequence or an optional, which npz cannot hold: left out", escape(name))),
        }
    }
    let mut bytes = Cursor::new(Vec::new());
    npz::write(&mut bytes, &arrays).map_err(|error| from_npz(path, &error))?;
    if path == Path::new("-") {
        screen.raw(bytes.get_ref());
        return Ok(());
    }
    save_bytes(path, bytes.get_ref())
}

fn from_npz(path: &Path, error: &NpzError) -> Failure {
    match error {
        NpzError::Read(io) => Failure::io("read", path, io),
        NpzError::Write(io) => Failure::io("write", path, io),
        NpzError::LimitExceeded { .. } => Failure::new("input.limit_exceeded", path.display(), error),
        _ => Failure::new("input.not_npz", path.display(), error).remedy("write it with numpy.savez"),
    }
}

/// Why a graph cannot be made executable.
pub fn from_plan(path: &Path, error: &PlanError) -> Failure {
    let (class, remedy) = match error {
        PlanError::LimitExceeded { .. } => ("input.limit_exceeded", "take a smaller batch"),
        PlanError::Unsupported { .. } => ("input.unsupported_op", "export with standard operators"),
        PlanError::Open { .. } => ("input.open_axis", "choose the axis with --dim"),
        PlanError::Memory { .. } => ("machine.memory", "take a smaller batch"),
        PlanError::Device { .. } => ("device.lost", "see tunewright doctor"),
        _ => ("bug.plan", "please send us the model and this line"),
    };
    Failure::new(class, path.display(), error).remedy(remedy)
}

fn from_run(arguments: &Arguments, error: &RunError) -> Failure {
    let class = match error {
        RunError::Node { .. } | RunError::Result { .. } | RunError::Index { .. } => "input.refused_at_run",
        RunError::Device { .. } => "device.lost",
        RunError::Absent | RunError::NotStatic { .. } | RunError::Buffer { .. } => "bug.run",
        _ => "input.shape_mismatch",
    };
    Failure::new(class, arguments.file.display(), error)
}
