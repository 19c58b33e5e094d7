//! The node tests of ONNX's own package: every case goes through import, passes and a plan, as a user's model would.
//!
//! Goal: no operator computes something else than ONNX says, and what we refuse is written down. Method: `onnx_nodes/export.py` writes the
//! cases with the package `onnx` of `TUNEWRIGHT_PYTHON` (or `.venv/bin/python`); each must pass or stand in
//! `onnx_nodes/known_failures.txt` with its reason, and nothing that passes may stand there. `UPDATE=1` rewrites the list; reasons that
//! begin with `random` or `rounding` are given by hand and kept.

#[path = "onnx_nodes/case.rs"]
mod case;

use case::{Case, differ};
use kernels::{Isa, Limits};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use tunewright::execute::{Configs, Plan, PlanError};
use tunewright::import::{self, ImportError};
use tunewright::passes::{self, Pipeline};

const LIMITS: Limits = Limits {
    isa: Isa::Scalar,
    units: 1,
    l1d_bytes: 32 << 10,
    l2_bytes: 1 << 20,
    l3_bytes: 32 << 20,
    gpu: None,
    numerics: schema::Numerics::Strict,
};

/// How a case ended.
#[derive(Debug)]
enum Outcome {
    Passed,
    /// We said that we do not do it.
    Refused(String),
    /// We did something else, or broke off.
    Wrong(String),
}

#[test]
fn node_tests_pass_or_are_known_not_to() {
    let Some(folder) = exported() else { return };
    let mut names: Vec<String> = std::fs::read_dir(&folder)
        .expect("the exporter made it")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_suffix(".onnx").map(str::to_owned))
        .collect();
    names.sort();
    let filter = std::env::var("TUNEWRIGHT_NODE_TEST").unwrap_or_default();
    names.retain(|name| name.contains(&filter));
    let known = known_failures();
    let (mut failures, mut passed) = (BTreeMap::new(), 0);
    for name in &names {
        let outcome =
            catch_unwind(AssertUnwindSafe(|| outcome(&folder, name))).unwrap_or_else(|_| Outcome::Wrong("panicked".to_owned()));
        match outcome {
            Outcome::Passed => passed += 1,
            other => {
                failures.insert(name.clone(), other);
            }
        }
    }
    let excused = |name: &str| known.get(name).is_some_and(|why| why.starts_with("random") || why.starts_with("rounding"));
    let wrong: Vec<_> =
        failures.iter().filter(|(name, outcome)| matches!(outcome, Outcome::Wrong(_)) && !excused(name)).collect();
    let refused = failures.values().filter(|outcome| matches!(outcome, Outcome::Refused(_))).count();
    let other = failures.len() - refused - wrong.len();
    println!("onnx node tests: {passed} passed, {refused} refused, {} wrong", wrong.len());
    println!("onnx node tests: of {} in all {other} are random or differ in rounding only", names.len());
    if std::env::var_os("UPDATE").is_some() && filter.is_empty() {
        write_known(&failures, &known);
    }
    let mut complaints: Vec<String> = wrong.iter().map(|(name, outcome)| format!("{name}: {outcome:?}")).collect();
    for (name, outcome) in &failures {
        if !known.contains_key(name) {
            complaints.push(format!("{name} fails and is not listed: {outcome:?}"));
        }
    }
    for name in known.keys().filter(|name| filter.is_empty() || name.contains(&filter)) {
        if !failures.contains_key(name) {
            complaints.push(format!("{name} is listed as failing and passes (or is gone)"));
        }
    }
    assert!(complaints.is_empty(), "{} complaints:\n{}", complaints.len(), complaints.join("\n"));
}

/// Runs one case.
fn outcome(folder: &Path, name: &str) -> Outcome {
    let model = std::fs::read(folder.join(format!("{name}.onnx"))).expect("the exporter wrote it");
    let case = Case::read(&std::fs::read(folder.join(format!("{name}.case"))).expect("the exporter wrote it"));
    let mut graph = match import::load_bytes(model.into(), &import::Options::default()) {
        Ok(model) => model.graph,
        Err(error) => return Outcome::Refused(refusal(&error)),
    };
    if let Err(error) = Pipeline::untimed().run(&mut graph, &passes::Options::default()) {
        return Outcome::Wrong(format!("passes: {error}"));
    }
    let mut plan = match Plan::compile(&graph, &Configs::new(), &LIMITS) {
        Ok(plan) => plan,
        Err(error @ PlanError::Unsupported { .. }) => return Outcome::Refused(format!("plan: {error}")),
        Err(error) => return Outcome::Wrong(format!("plan: {error}")),
    };
    for (inputs, expected) in &case.sets {
        let found = match plan.run_data(inputs.clone()) {
            Ok(found) => found,
            Err(error) => return run_failure(&error),
        };
        if found.len() != expected.len() {
            return Outcome::Wrong(format!("{} outputs, {} expected", found.len(), expected.len()));
        }
        for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
            if let Some(difference) = differ(found, expected, case.rtol, case.atol) {
                return Outcome::Wrong(format!("output {at}: {difference}"));
            }
        }
    }
    Outcome::Passed
}

/// A run that stopped: a refusal when an operator says so, else a mistake.
fn run_failure(error: &tunewright::execute::RunError) -> Outcome {
    use kernels::reference::EvaluateError;
    use tunewright::execute::RunError;
    match error {
        RunError::Node { source: EvaluateError::Unsupported(what), .. } => Outcome::Refused(format!("run: no {what}")),
        other => Outcome::Wrong(format!("run: {other}")),
    }
}

fn refusal(error: &ImportError) -> String {
    format!("import: {}", error.to_string().lines().next().unwrap_or_default())
}

/// The folder of exported cases. `None`, with a line on stderr, when there is no Python with `onnx`.
fn exported() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = match std::env::var_os("TUNEWRIGHT_PYTHON") {
        Some(python) => PathBuf::from(python),
        None => root.join(".venv/bin/python"),
    };
    let version = Command::new(&python).args(["-c", "import onnx; print(onnx.__version__)"]).output();
    let Some(version) = version.ok().filter(|output| output.status.success()) else {
        eprintln!("skipped: {} has no package onnx; set TUNEWRIGHT_PYTHON", python.display());
        return None;
    };
    let script = root.join("tests/onnx_nodes/export.py");
    let text = std::fs::read(&script).expect("the exporter is in this folder");
    let stamp = format!("onnx {} by {}", String::from_utf8_lossy(&version.stdout).trim(), blake3::hash(&text).to_hex());
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("onnx-nodes");
    if std::fs::read_to_string(folder.join("stamp")).is_ok_and(|found| found == stamp) {
        return Some(folder);
    }
    let _ = std::fs::remove_dir_all(&folder);
    let output = Command::new(&python).arg(&script).arg(&folder).arg(&stamp).output().expect("it ran a moment ago");
    assert!(output.status.success(), "the exporter failed:\n{}", String::from_utf8_lossy(&output.stderr));
    Some(folder)
}

fn list() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/onnx_nodes/known_failures.txt")
}

/// Cases known to fail, with the reason of each.
fn known_failures() -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(list()).unwrap_or_default();
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines
        .map(|line| line.split_once('\t').expect("case, tab, reason"))
        .map(|(name, why)| (name.to_owned(), why.to_owned()))
        .collect()
}

fn write_known(failures: &BTreeMap<String, Outcome>, known: &BTreeMap<String, String>) {
    let mut text = String::from("# Node tests that do not pass: name, tab, reason. Checked both ways by tests/onnx_nodes.rs.\n");
    for (name, outcome) in failures {
        let found = match outcome {
            Outcome::Refused(why) => why.clone(),
            Outcome::Wrong(why) => format!("WRONG {why}"),
            Outcome::Passed => continue,
        };
        let kept = known.get(name).filter(|why| why.starts_with("random") || why.starts_with("rounding"));
        text.push_str(&format!("{name}\t{}\n", kept.unwrap_or(&found)));
    }
    std::fs::write(list(), text).expect("the list can be written");
}
