//! `tunewright inspect`: a model, a graph's text or an artifact: what goes in and out, what it is made of, what would be refused.

use super::failure::escape;
use super::model::{self, ImportFlags, Kind, Verify};
use super::quantity::{show_bytes, show_count};
use super::table::{Align, lay_out};
use super::{Exit, Failure, Screen};
use crate::artifact::{Artifact, Opening};
use crate::device;
use crate::graph::text::parse;
use crate::graph::{Dim, Graph, Type, ValueId};
use crate::{passes, task};
use schema::Batch;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  tunewright inspect resnet50.onnx --batch 1 --tasks\n  tunewright inspect bert.onnx --batch 1 --dim seq=128 --graph --stop-after infer_and_fold\n  tunewright inspect resnet50.tune --verify"
)]
pub struct Arguments {
    /// An ONNX model, a graph's text or an artifact
    file: PathBuf,
    /// Print the graph's text
    #[arg(long)]
    graph: bool,
    /// Stop behind this pass
    #[arg(long, value_name = "PASS", value_parser = pass)]
    stop_after: Option<&'static str>,
    /// List the tasks
    #[arg(long)]
    tasks: bool,
    /// List the passes with their times and changes
    #[arg(long)]
    passes: bool,
    /// Choose the batch, as tuning would
    #[arg(long, value_name = "N", value_parser = super::quantity::batch)]
    batch: Option<Batch>,
    /// Read every byte of an artifact and check it; lazy: headers and metadata only
    #[arg(long, value_name = "WHEN", value_enum, num_args = 0..=1, require_equals = true, default_value = "lazy", default_missing_value = "eager")]
    verify: Verify,
    #[command(flatten)]
    import: ImportFlags,
}

fn pass(name: &str) -> Result<&'static str, String> {
    passes::pass(name).map(|pass| pass.name).ok_or_else(|| {
        let near = super::failure::nearest(name, passes::PASSES.iter().map(|pass| pass.name));
        let names: Vec<&str> = passes::PASSES.iter().map(|pass| pass.name).collect();
        near.map_or_else(|| format!("the passes are {}", names.join(", ")), |near| format!("no such pass; did you mean {near}?"))
    })
}

pub fn run(arguments: &Arguments, screen: &mut Screen) -> Result<Exit, Failure> {
    match model::kind(&arguments.file)? {
        Kind::Artifact => artifact(arguments, screen),
        Kind::GraphText => graph_text(arguments, screen),
        Kind::Model => onnx(arguments, screen),
    }
}

fn onnx(arguments: &Arguments, screen: &mut Screen) -> Result<Exit, Failure> {
    let path = &arguments.file;
    let model = arguments.import.load(path)?;
    for warning in &model.warnings {
        screen.warn("model", &escape(warning));
    }
    let mut head = vec![
        ("file".to_owned(), format!("ONNX, opset {}, IR {}, {}", model.opset, model.ir_version, show_bytes(model.bytes()))),
        ("producer".to_owned(), escape(&model.producer)),
    ];
    head.retain(|(_, value)| !value.is_empty());
    describe(
        arguments,
        screen,
        model.graph,
        head,
        json!({"opset": model.opset, "ir_version": model.ir_version, "producer": model.producer}),
    )
}

fn graph_text(arguments: &Arguments, screen: &mut Screen) -> Result<Exit, Failure> {
    let path = &arguments.file;
    let text = std::fs::read_to_string(path).map_err(|error| Failure::io("read", path, &error))?;
    let graph = parse(&text).map_err(|error| Failure::new("input.malformed", path.display(), error))?;
    describe(arguments, screen, graph, vec![("file".to_owned(), "a graph's text".to_owned())], json!({}))
}

/// Inputs, outputs, operators and weights of a graph as it came; behind the passes when a batch is chosen or a pass is named.
fn describe(
    arguments: &Arguments,
    screen: &mut Screen,
    mut graph: Graph,
    mut head: Vec<(String, String)>,
    about: Value,
) -> Result<Exit, Failure> {
    let open = open_axes(&graph);
    let (inputs, outputs, weights) =
        (ports(&graph, &graph.inputs, None), ports(&graph, &graph.outputs, Some(&graph.output_names)), weights(&graph));
    let operators = operators(&graph);
    let wants_passes = arguments.batch.is_some()
        || arguments.stop_after.is_some()
        || arguments.tasks
        || arguments.passes
        || !arguments.import.dim.is_empty();
    let mut report = None;
    if wants_passes {
        let options = passes::Options::default();
        let batch = arguments.batch.or(Some(Batch::ONE));
        report =
            Some(model::prepare(&arguments.file, &mut graph, batch, &arguments.import.dims(), arguments.stop_after, &options)?);
    }
    if arguments.graph && screen.json.is_none() {
        screen.line(graph.to_string().trim_end());
        return Ok(Exit::Done);
    }
    let tasks = if wants_passes && arguments.stop_after.is_none() {
        task::tasks(&graph).map_err(|error| Failure::new("bug.task", arguments.file.display(), error))?
    } else {
        Vec::new()
    };
    head.push(("weights".to_owned(), format!("{} in {} tensors", show_bytes(weights.0), show_count(weights.1))));
    if !open.is_empty() {
        head.push(("open axes".to_owned(), open.iter().map(|name| escape(name)).collect::<Vec<_>>().join(", ")));
    }
    if report.is_some() && arguments.stop_after.is_none() {
        let flops: u64 = tasks.iter().map(|counted| flops(&counted.task) * counted.count as u64).sum();
        head.push((
            "work".to_owned(),
            format!(
                "{:.3} GFLOP in {} tasks, {} distinct",
                flops as f64 * 1e-9,
                tasks.iter().map(|t| t.count).sum::<usize>(),
                tasks.len()
            ),
        ));
    }
    let object = || {
        json!({
            "schema": "inspect.model", "version": 1, "file": arguments.file.display().to_string(), "about": about, "inputs": inputs.iter().map(port).collect::<Vec<_>>(),
            "outputs": outputs.iter().map(port).collect::<Vec<_>>(), "open_axes": open, "weights_bytes": weights.0, "operators": operators,
            "passes": report.as_ref().map(|report| report.runs.iter().map(|run| json!({"pass": run.pass, "changes": run.changes, "nodes": run.nodes, "elapsed_ns": run.elapsed.as_nanos() as u64})).collect::<Vec<_>>()),
            "tasks": tasks.iter().map(|counted| json!({"task": counted.task.to_string(), "key": counted.task.key().to_string(), "count": counted.count, "flops": flops(&counted.task)})).collect::<Vec<_>>(),
            "graph": arguments.graph.then(|| graph.to_string()),
        })
    };
    screen.result(object, |_| {
        let mut rows: Vec<Vec<String>> = head.iter().map(|(name, value)| vec![name.clone(), value.clone()]).collect();
        for (what, ports) in [("input", &inputs), ("output", &outputs)] {
            rows.extend(ports.iter().map(|(name, ty)| vec![what.to_owned(), format!("{} {ty}", escape(name))]));
        }
        let counts: Vec<String> = by_count(&operators).into_iter().map(|(op, count)| format!("{} {count}", escape(op))).collect();
        rows.push(vec!["operators".to_owned(), counts.join(", ")]);
        let mut lines = lay_out(&rows, &[Align::Left; 2]);
        if arguments.passes
            && let Some(report) = &report
        {
            let row = |run: &passes::PassRun| {
                vec![
                    run.pass.to_owned(),
                    run.changes.to_string(),
                    run.nodes.to_string(),
                    format!("{:.1} ms", run.elapsed.as_secs_f64() * 1e3),
                ]
            };
            let head = ["pass", "changes", "nodes left", "time"].map(str::to_owned).to_vec();
            lines.extend(lay_out(
                &std::iter::once(head).chain(report.runs.iter().map(row)).collect::<Vec<_>>(),
                &[Align::Left, Align::Right, Align::Right, Align::Right],
            ));
        }
        if arguments.tasks {
            let row = |counted: &task::Counted| vec![format!("{}×", counted.count), counted.task.to_string()];
            lines.extend(lay_out(&tasks.iter().map(row).collect::<Vec<_>>(), &[Align::Right, Align::Left]));
        }
        lines
    });
    Ok(Exit::Done)
}

fn flops(task: &kernels::Task) -> u64 {
    kernels::operator(task.operator()).map_or(0, |operator| (operator.flops)(task))
}

/// Names and types of a graph's inputs or outputs.
fn ports(graph: &Graph, ids: &[ValueId], names: Option<&[String]>) -> Vec<(String, String)> {
    let name = |i: usize, id: ValueId| names.and_then(|names| names.get(i)).unwrap_or(&graph.value(id).name).clone();
    ids.iter().enumerate().map(|(i, &id)| (name(i, id), graph.value(id).ty.to_string())).collect()
}

fn port(port: &(String, String)) -> Value {
    json!({"name": port.0, "type": port.1})
}

/// The names of the inputs' axes that are not fixed.
fn open_axes(graph: &Graph) -> BTreeSet<String> {
    let types = graph.inputs.iter().map(|&id| &graph.value(id).ty);
    let dims = types.filter_map(Type::shape).flatten();
    dims.filter_map(|dim| if let Dim::Named(name) = dim { Some(name.to_string()) } else { None }).collect()
}

/// Bytes and number of the constants.
fn weights(graph: &Graph) -> (u64, u64) {
    let constants = graph.values.iter().filter_map(|value| value.constant.as_ref());
    constants.fold((0, 0), |(bytes, count), tensor| (bytes + tensor.bytes().len() as u64, count + 1))
}

/// Operators by count, bodies included.
fn operators(graph: &Graph) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    let mut graphs = vec![graph];
    while let Some(graph) = graphs.pop() {
        for node in &graph.nodes {
            *counts.entry(node.op.clone()).or_default() += 1;
            graphs.extend(node.bodies.iter().map(|(_, body)| body));
        }
    }
    counts
}

fn by_count(counts: &BTreeMap<String, usize>) -> Vec<(&String, usize)> {
    let mut sorted: Vec<_> = counts.iter().map(|(op, &count)| (op, count)).collect();
    sorted.sort_by_key(|&(op, count)| (std::cmp::Reverse(count), op));
    sorted
}

fn artifact(arguments: &Arguments, screen: &mut Screen) -> Result<Exit, Failure> {
    let path: &Path = &arguments.file;
    let eager = arguments.verify == Verify::Eager;
    let artifact = model::open_artifact(path, Opening { eager, copy: false })?;
    if arguments.graph && screen.json.is_none() {
        for (i, (batch, _)) in artifact.shapes().enumerate() {
            screen.line(&format!("# batch {batch}"));
            screen.line(artifact.outline(i).to_string().trim_end());
        }
        return Ok(Exit::Done);
    }
    let here: Vec<_> = device::found();
    let valid = |entry: &crate::artifact::Entry| validity(&here, entry);
    screen.result(
        || artifact_object(&artifact, arguments, &valid),
        |_| {
            let from = artifact.provenance();
            let mut lines = lay_out(
                &[
                    vec!["artifact".to_owned(), format!("{}, {}", artifact.id(), show_bytes(artifact.bytes()))],
                    vec!["model".to_owned(), format!("{} ({})", escape(&from.model_name), from.model)],
                    vec![
                        "made by".to_owned(),
                        format!("tunewright {}, seed {}, budget {}", from.tool_version, from.seed, from.budget),
                    ],
                    vec![
                        "checked".to_owned(),
                        if eager { "every byte" } else { "all but the weights; --verify reads every byte" }.to_owned(),
                    ],
                ],
                &[Align::Left; 2],
            );
            let head = ["device", "share", "batch", "axes", "tuned tasks", "here"].map(str::to_owned).to_vec();
            let row = |entry: &crate::artifact::Entry| {
                let dims: Vec<String> = entry.dims.iter().map(|(name, n)| format!("{}={n}", escape(name))).collect();
                vec![
                    entry.device.name.to_string(),
                    format!("{} %", entry.share),
                    entry.batch.to_string(),
                    dims.join(" "),
                    entry.configs.len().to_string(),
                    valid(entry),
                ]
            };
            let rows: Vec<_> = std::iter::once(head).chain(artifact.entries().iter().map(row)).collect();
            lines.extend(lay_out(&rows, &[Align::Left, Align::Right, Align::Right, Align::Left, Align::Right, Align::Left]));
            lines.extend(artifact.notes().iter().map(|note| escape(note)));
            lines
        },
    );
    Ok(Exit::Done)
}

/// Whether an entry's records hold on this machine.
fn validity(here: &[device::Found], entry: &crate::artifact::Entry) -> String {
    let machines = here.iter().filter_map(|found| if let device::Found::Present(machine) = found { Some(machine) } else { None });
    let wanted = entry.device.key();
    match machines.clone().find(|machine| machine.key() == wanted) {
        Some(machine) if machine.environment.key() == entry.environment.key() => "valid".to_owned(),
        Some(_) => "stale: another environment".to_owned(),
        None => "another device".to_owned(),
    }
}

fn artifact_object(artifact: &Artifact, arguments: &Arguments, valid: &dyn Fn(&crate::artifact::Entry) -> String) -> Value {
    let entry = |entry: &crate::artifact::Entry| {
        json!({
            "device": entry.device.name.0, "share_pct": entry.share.as_percent(), "batch": entry.batch.rows(),
            "dims": entry.dims.iter().map(|(name, n)| json!({"name": name, "extent": n})).collect::<Vec<_>>(),
            "tasks": entry.configs.iter().map(|(task, config)| json!({"task": task.to_string(), "config": config.to_string()})).collect::<Vec<_>>(),
            "here": valid(entry),
        })
    };
    let from = artifact.provenance();
    json!({
        "schema": "inspect.artifact", "version": 1, "file": arguments.file.display().to_string(), "id": artifact.id().to_string(),
        "size_bytes": artifact.bytes(), "model": from.model_name, "model_key": from.model.to_string(), "tool_version": from.tool_version,
        "seed": from.seed.to_string(), "budget": from.budget, "verified": arguments.verify == Verify::Eager,
        "entries": artifact.entries().iter().map(entry).collect::<Vec<_>>(), "notes": artifact.notes(),
    })
}
