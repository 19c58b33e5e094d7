//! Inference against ONNX's own node tests: what we say of an output before anything runs must be what the output turns out to be.
//!
//! `onnx_types.py` writes the tests as models, with the types of the reference outputs; it needs Python with onnx, which
//! `TUNEWRIGHT_PYTHON` names. Failures that are known are a list, which must be exact in both directions.

use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use tunewright::graph::Type;
use tunewright::import::{Options, load};

/// What is refused on purpose, by the start of the test's name, and why.
const REFUSED: &[(&str, &str)] = &[
    ("test_adagrad", "training"),
    ("test_adam", "training"),
    ("test_momentum", "training"),
    ("test_nesterov_momentum", "training"),
    ("test_ai_onnx_ml_label_encoder", "tables of texts"),
    ("test_ai_onnx_ml_tree_ensemble", "trees"),
    ("test_flexattention", "a preview"),
    ("test_scan_sum", "the batched Scan of operator set 8"),
];

/// Where the cases are: made once per onnx, kept in the build folder.
fn cases() -> Option<PathBuf> {
    let Some(python) = std::env::var_os("TUNEWRIGHT_PYTHON") else {
        eprintln!("skipped: TUNEWRIGHT_PYTHON does not name a Python with onnx");
        return None;
    };
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("onnx_types");
    if !folder.join("types.json").exists() {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/onnx_types.py");
        let made = Command::new(python).arg(script).arg(&folder).status().unwrap();
        assert!(made.success());
    }
    Some(folder)
}

/// Compares one inferred output with the real one; `None` when they agree. Open extents agree with all.
fn contradiction(inferred: &Type, real: &Value) -> Option<String> {
    let real = real.as_array()?;
    let code = real[0].as_i64().unwrap();
    let shape: Vec<usize> = real[1].as_array().unwrap().iter().map(|extent| extent.as_u64().unwrap() as usize).collect();
    let inferred = match inferred {
        Type::Optional(inner) => inner,
        other => other,
    };
    let agrees = inferred.dtype().is_some_and(|dtype| dtype.code() == code)
        && inferred.shape().is_none_or(|dims| {
            dims.len() == shape.len()
                && dims.iter().zip(&shape).all(|(dim, real)| dim.fixed().is_none_or(|extent| extent == *real))
        });
    (!agrees).then(|| format!("inferred {inferred}, it is type {code} of {shape:?}"))
}

#[test]
fn what_is_inferred_of_onnx_node_tests_is_what_comes_out() {
    let Some(folder) = cases() else { return };
    let cases: Value = serde_json::from_slice(&std::fs::read(folder.join("types.json")).unwrap()).unwrap();
    let (mut checked, mut open, mut wrong, mut refused) = (0, 0, Vec::new(), BTreeMap::new());
    for case in cases.as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let opset = case["opset"].as_u64().unwrap();
        if opset != 0 && opset < 7 {
            continue;
        }
        let model = match load(&folder.join(format!("{name}.onnx")), &Options::default()) {
            Ok(model) => model,
            Err(error) => {
                refused.insert(name.to_owned(), error.to_string());
                continue;
            }
        };
        for (id, real) in model.graph.outputs.iter().zip(case["outputs"].as_array().unwrap()) {
            let ty = &model.graph.value(*id).ty;
            checked += 1;
            open += usize::from(ty.fixed_shape().is_none());
            wrong.extend(contradiction(ty, real).map(|found| format!("{name}: {found}")));
        }
    }
    println!("{checked} outputs checked, {open} of them open, {} models refused", refused.len());
    let unexpected: Vec<_> =
        refused.iter().filter(|(name, _)| !REFUSED.iter().any(|(start, _)| name.starts_with(start))).collect();
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(unexpected.is_empty(), "{} refused:\n{unexpected:#?}", unexpected.len());
    let unneeded: Vec<_> = REFUSED.iter().filter(|(start, _)| !refused.keys().any(|name| name.starts_with(start))).collect();
    assert!(unneeded.is_empty(), "no longer refused: {unneeded:?}");
}
