//! The pipeline on real models: what is left of ONNX's operators, and that the outputs stay what they were.

use crate::models::bound;
use crate::shared::models;
use crate::shipped::mnist_cnn;
use kernels::{Datum, Isa, Limits};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use tunewright::agreement::{Tolerance, distance};
use tunewright::execute::{Configs, Plan};
use tunewright::graph::{Graph, verify};
use tunewright::npz;
use tunewright::passes::{Options, PASSES, Pipeline};

/// Nodes by operator, bodies included.
fn operators(graph: &Graph, counts: &mut BTreeMap<String, usize>) {
    for node in &graph.nodes {
        *counts.entry(node.op.clone()).or_default() += 1;
        node.bodies.iter().for_each(|(_, body)| operators(body, counts));
    }
}

fn model_paths() -> Vec<PathBuf> {
    let Some(folder) = models() else { return Vec::new() };
    let entries = std::fs::read_dir(folder).expect("the folder of models can be read");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "onnx"));
    let only = std::env::var("ONLY").unwrap_or_default();
    paths.retain(|path| only.is_empty() || only.split(',').any(|name| path.file_stem().is_some_and(|stem| stem == name)));
    paths.sort();
    paths
}

/// The counts of each model's operators after the pipeline, ours first, stand in a file: a change there is a change of what runs.
#[test]
fn the_operators_left_of_each_shared_model_are_those_on_file() {
    let paths = model_paths();
    if paths.is_empty() {
        return;
    }
    let mut found = String::new();
    for path in &paths {
        let mut graph = bound(path, 1);
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let before = graph.node_count();
        Pipeline::untimed().run(&mut graph, &Options::default()).unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut counts = BTreeMap::new();
        operators(&graph, &mut counts);
        let (ours, onnx): (Vec<_>, Vec<_>) = counts.iter().partition(|(op, _)| kernels::operator(op).is_some());
        let list = |ops: Vec<(&String, &usize)>| ops.iter().map(|(op, count)| format!(" {op} {count}")).collect::<String>();
        writeln!(found, "{name}: {before} -> {}\n ours:{}\n onnx:{}", graph.node_count(), list(ours), list(onnx))
            .expect("a string");
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/files/passes/operators.txt");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&file, &found).expect("the file can be written");
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap_or_default(), found, "UPDATE=1 rewrites {}", file.display());
}

const LIMITS: fn() -> Limits = || Limits {
    isa: Isa::detect(),
    units: 1,
    l1d_bytes: 32 << 10,
    l2_bytes: 1 << 20,
    l3_bytes: 32 << 20,
    gpu: None,
    numerics: schema::Numerics::Strict,
};

/// The outputs of a graph by its kernels' default configs.
fn run(graph: &Graph, inputs: &[(&str, kernels::Tensor)]) -> Result<Vec<Datum>, String> {
    let mut plan = Plan::compile(graph, &Configs::new(), &LIMITS()).map_err(|error| error.to_string())?;
    plan.run(inputs).map_err(|error| error.to_string())
}

/// Runs a model on its reference inputs after the first `count` passes and compares with the reference outputs.
fn check(path: &Path, batch: u32, count: usize) -> Result<f64, String> {
    let mut graph = bound(path, batch);
    let options = Options::default();
    for pass in &PASSES[..count] {
        (pass.run)(&mut graph, &options).map_err(|error| error.to_string())?;
        verify(&graph).map_err(|error| format!("after {}: {error}", pass.name))?;
    }
    let read = |suffix: &str| npz::read(&path.with_extension(suffix), &npz::Limits::default()).map_err(|error| error.to_string());
    let inputs = read(&format!("batch{batch}.in.npz"))?;
    let inputs: Vec<(&str, kernels::Tensor)> = inputs.iter().map(|(name, tensor)| (name.as_str(), tensor.clone())).collect();
    let outputs = run(&graph, &inputs)?;
    let mut worst = 0f64;
    for (name, expected) in read(&format!("batch{batch}.out.npz"))? {
        let place = graph.output_names.iter().position(|output| *output == name).ok_or_else(|| format!("no output {name}"))?;
        let tolerance = Tolerance { rtol: 1e-4, atol: 0.0 };
        let found = distance(&outputs[place], &Datum::Tensor(expected), tolerance).map_err(|error| format!("{name}: {error}"))?;
        worst = worst.max(found.relative);
        if found.relative > 1e-3 || found.relative.is_nan() {
            return Err(format!("output {name} is off by {}, {} elements outside", found.relative, found.outside));
        }
    }
    Ok(worst)
}

/// Every pass, one after the other, on the model that ships.
#[test]
fn every_prefix_of_the_pipeline_keeps_the_shipped_models_outputs() {
    let inputs = [("image", kernels::Tensor::new(vec![2, 1, 28, 28], (0..2 * 784).map(|i| (i % 97) as f32 / 97.0).collect()))];
    let original = bound(&mnist_cnn(), 2);
    let expected = run(&original, &inputs).expect("the model runs as it is");
    let mut graph = original;
    let options = Options::default();
    for pass in PASSES {
        (pass.run)(&mut graph, &options).expect("the pass runs");
        let found = run(&graph, &inputs).unwrap_or_else(|error| panic!("after {}: {error}", pass.name));
        let distance = distance(&found[0], &expected[0], Tolerance { rtol: 1e-5, atol: 0.0 }).expect("the same form");
        assert!(distance.agrees(), "after {}: {distance:?}", pass.name);
    }
}

/// The whole pipeline on every shared model, against ONNX Runtime's outputs. Minutes: `cargo test -- --ignored`; `ONLY=name,name`
/// narrows it, `PREFIXES=1` checks after every pass.
#[test]
#[ignore = "minutes; run before a landing that changes passes"]
fn the_pipeline_keeps_the_outputs_of_every_shared_model() {
    let mut failures = Vec::new();
    for path in model_paths() {
        let counts = if std::env::var_os("PREFIXES").is_some() { 0..=PASSES.len() } else { PASSES.len()..=PASSES.len() };
        for (batch, count) in [1, 4].into_iter().flat_map(|batch| counts.clone().map(move |count| (batch, count))) {
            let last = count.checked_sub(1).map_or("import", |last| PASSES[last].name);
            let case = format!("{} batch {batch} after {last}", path.file_stem().expect("a name").to_string_lossy());
            match check(&path, batch, count) {
                Ok(worst) => eprintln!("{case}: {worst:.1e}"),
                Err(why) => {
                    eprintln!("{case}: {why}");
                    failures.push(format!("{case}: {why}"));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
