//! Every shared model computes, with default configs, what ONNX Runtime without optimisations computed.
//!
//! `TUNEWRIGHT_ONLY=resnet18,din` narrows it; `TUNEWRIGHT_PROFILE=1` prints where each model's time goes.

use crate::execute::host;
use crate::models::bound;
use crate::shared::models;
use kernels::{Limits, Tensor};
use schema::Split;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;
use tunewright::agreement::{Tolerance, distance};
use tunewright::execute::{Configs, Plan, PlanError, StepTime, pool};
use tunewright::npz;
use tunewright::passes::{Options, Pipeline};

/// Models whose f32 rounding is amplified over many steps; the others must agree to 1e-4.
const LOOSE: &[&str] = &[
    "bert_base",
    "bert_mini",
    "dien",
    "gnmt_mini",
    "gpt2_mini",
    "greedy_loop",
    "gru_keyword",
    "scan_rnn",
    "speech_bilstm",
    "vit_small",
    "whisper_tiny_encoder",
];

fn arrays(path: &Path) -> Result<Vec<(String, Tensor)>, String> {
    npz::read(path, &npz::Limits::default()).map_err(|error| format!("{}: {error}", path.display()))
}

/// The plan of a model at a batch, passes done.
pub fn plan(path: &Path, batch: u32) -> Result<Plan, String> {
    split_plan(path, batch, Split::WHOLE).map_err(|error| format!("plan: {error}"))
}

/// The plan of a model whose batch is computed in parts.
fn split_plan(path: &Path, batch: u32, split: Split) -> Result<Plan, PlanError> {
    let mut graph = bound(path, batch);
    Pipeline::untimed().run(&mut graph, &Options::default()).expect("the passes run");
    Plan::compile_split(graph, split, &Configs::new(), &Limits { units: 2, ..host() }, u64::MAX)
}

fn show_profile(name: &str, profile: &[StepTime]) {
    let mut by_op: BTreeMap<&str, (u64, usize)> = BTreeMap::new();
    for step in profile {
        let entry = by_op.entry(&step.facts.op).or_default();
        *entry = (entry.0 + step.nanos, entry.1 + 1);
    }
    let total: u64 = profile.iter().map(|step| step.nanos).sum();
    let mut ops: Vec<_> = by_op.into_iter().collect();
    ops.sort_by_key(|(_, (nanos, _))| std::cmp::Reverse(*nanos));
    eprintln!("{name}: {:.2} ms in {} steps", total as f64 * 1e-6, profile.len());
    for (op, (nanos, count)) in ops {
        eprintln!("    {:5.1} %  {:9.3} ms  {count:4} × {op}", nanos as f64 / total as f64 * 100.0, nanos as f64 * 1e-6);
    }
}

/// Runs one model at one batch; gives the worst relative error.
fn check(folder: &Path, name: &str, batch: u32, plan: Plan) -> Result<f64, String> {
    let mut plan = plan.in_pool(pool(2).expect("threads"));
    let inputs = arrays(&folder.join(format!("{name}.batch{batch}.in.npz")))?;
    let expected = arrays(&folder.join(format!("{name}.batch{batch}.out.npz")))?;
    let inputs: Vec<(&str, Tensor)> = inputs.iter().map(|(name, tensor)| (name.as_str(), tensor.clone())).collect();
    let start = Instant::now();
    plan.run(&inputs).map_err(|error| format!("run: {error}"))?;
    let first = start.elapsed();
    plan.set_profiling(std::env::var_os("TUNEWRIGHT_PROFILE").is_some());
    let start = Instant::now();
    let outputs = plan.run(&inputs).map_err(|error| format!("run: {error}"))?;
    let second = start.elapsed();
    let memory = plan.memory();
    eprintln!(
        "{name} batch {batch}: first {first:.1?}, then {second:.1?}; {} steps, arena {} KiB, prepared {} KiB, constants {} KiB",
        plan.steps().len(),
        memory.arena_bytes >> 10,
        memory.prepared_bytes >> 10,
        memory.constant_bytes >> 10
    );
    if !plan.profile().is_empty() {
        show_profile(name, &plan.profile());
    }
    let rtol = if LOOSE.contains(&name) { 1e-3 } else { 1e-4 };
    let mut worst = 0f64;
    for (port, output) in plan.outputs().zip(&outputs) {
        let wanted = expected.iter().find(|(name, _)| *name == port.name).ok_or("an output is not expected")?;
        let far = distance(output, &wanted.1.clone().into(), Tolerance { rtol, atol: 0.0 }).map_err(|e| e.to_string())?;
        if !far.agrees() {
            return Err(format!("output '{}': {far:?}", port.name));
        }
        worst = worst.max(far.relative);
    }
    if outputs.len() == expected.len() { Ok(worst) } else { Err("outputs are missing".to_owned()) }
}

/// The shared models that are asked for.
fn names(folder: &Path) -> Vec<String> {
    let only = std::env::var("TUNEWRIGHT_ONLY").unwrap_or_default();
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .expect("the folder can be listed")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "onnx"))
        .map(|path| path.file_stem().expect("a name").to_str().expect("a text").to_owned())
        .filter(|name| only.is_empty() || only.split(',').any(|wanted| wanted == name))
        .collect();
    names.sort();
    names
}

#[test]
fn every_shared_model_computes_what_is_expected() {
    let Some(folder) = models() else { return };
    let names = names(&folder);
    let mut failures = Vec::new();
    for name in &names {
        for batch in [1, 4] {
            let path = folder.join(format!("{name}.onnx"));
            let checked = std::panic::catch_unwind(|| check(&folder, name, batch, plan(&path, batch)?));
            match checked.unwrap_or_else(|_| Err("panicked".to_owned())) {
                Ok(worst) => eprintln!("{name} batch {batch}: worst {worst:.1e}"),
                Err(why) => failures.push(format!("{name} batch {batch}: {why}")),
            }
        }
    }
    assert!(failures.is_empty(), "{} of {} failed:\n{}", failures.len(), names.len() * 2, failures.join("\n"));
}

/// Models whose rows meet somewhere: a branch or a loop over all of them, or an exporter that put time before the batch.
const MEET: &[&str] =
    &["dien", "early_exit_cnn", "gnmt_mini", "greedy_loop", "gru_keyword", "scan_rnn", "speech_bilstm", "vit_small"];

#[test]
fn batches_in_parts_compute_what_the_whole_does() {
    let Some(folder) = models() else { return };
    let mut failures = Vec::new();
    for name in &names(&folder) {
        let path = folder.join(format!("{name}.onnx"));
        match split_plan(&path, 4, Split::new(4, 2).expect("two lanes share four parts")) {
            Err(PlanError::Split { .. }) if MEET.contains(&name.as_str()) => {}
            Ok(_) if MEET.contains(&name.as_str()) => failures.push(format!("{name}: its rows do not meet any more")),
            Err(error) => failures.push(format!("{name}: {error}")),
            Ok(plan) => failures.extend(check(&folder, name, 4, plan).err().map(|why| format!("{name}: {why}"))),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
