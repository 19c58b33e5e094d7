//! Real models: all import, and all of their values have types, whatever is open or chosen.

use crate::shared::models;
use crate::shipped::mnist_cnn;
use schema::Batch;
use std::collections::BTreeMap;
use std::path::Path;
use tunewright::graph::infer::{BindError, bind, open_axes};
use tunewright::graph::{Graph, Type};
use tunewright::import::{Options, load};

/// The lengths that the shared models' reference inputs have, by model and axis.
const LENGTHS: &[(&str, &[(&str, u64)])] = &[
    ("bert_base", &[("S", 128)]),
    ("bert_mini", &[("S", 128)]),
    ("dien", &[("H", 30)]),
    ("din", &[("H", 50)]),
    ("gnmt_mini", &[("S", 25), ("T", 20)]),
    ("gpt2_mini", &[("S", 64)]),
    ("gru_keyword", &[("T", 98)]),
    ("scan_rnn", &[("T", 20)]),
    ("speech_bilstm", &[("T", 100)]),
    ("unet", &[("H", 128), ("W", 128)]),
];

/// Values whose type is not known at all, by name, bodies included.
fn untyped(graph: &Graph) -> Vec<String> {
    let used = graph.uses();
    let mut names: Vec<String> = (graph.values.iter().zip(used))
        .filter(|(value, used)| *used > 0 && (value.ty == Type::Unknown || matches!(value.ty, Type::Tensor { shape: None, .. })))
        .map(|(value, _)| value.name.clone())
        .collect();
    for (_, body) in graph.nodes.iter().flat_map(|node| &node.bodies) {
        names.extend(untyped(body));
    }
    names
}

/// Values with an extent that is not known, by name.
fn open(graph: &Graph) -> Vec<String> {
    let used = graph.uses();
    let is_open = |ty: &Type| ty.shape().is_some_and(|shape| shape.iter().any(|dim| dim.fixed().is_none()));
    let mut names: Vec<String> = graph
        .values
        .iter()
        .zip(used)
        .filter(|(value, used)| *used > 0 && is_open(&value.ty))
        .map(|(value, _)| format!("{}: {}", value.name, value.ty))
        .collect();
    for (_, body) in graph.nodes.iter().flat_map(|node| &node.bodies) {
        names.extend(open(body));
    }
    names
}

/// An imported model with its batch and lengths chosen.
pub fn bound(path: &Path, batch: u32) -> Graph {
    let model = load(path, &Options::default()).unwrap_or_else(|error| panic!("{error}"));
    let name = path.file_stem().unwrap().to_str().unwrap();
    assert_eq!(untyped(&model.graph), Vec::<String>::new(), "{name}");
    let mut graph = model.graph;
    let lengths = LENGTHS.iter().find(|(model, _)| *model == name).map_or(&[][..], |(_, lengths)| lengths);
    let lengths: BTreeMap<String, u64> = lengths.iter().map(|(axis, length)| ((*axis).to_owned(), *length)).collect();
    bind(&mut graph, Batch::new(batch), &lengths).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(untyped(&graph), Vec::<String>::new(), "{name}");
    graph
}

#[test]
fn the_shipped_model_is_static_once_its_batch_is_chosen() {
    for batch in [1, 4] {
        let graph = bound(&mnist_cnn(), batch);
        assert_eq!(open(&graph), Vec::<String>::new());
        let output = graph.value(graph.outputs[0]);
        assert_eq!(output.fixed_shape(), Some(vec![batch as usize, 10]));
    }
}

#[test]
fn every_shared_model_is_typed_at_every_batch() {
    let Some(folder) = models() else { return };
    let mut seen = 0;
    let mut opens = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "onnx") {
            continue;
        }
        seen += 1;
        for batch in [1, 4] {
            let graph = bound(&path, batch);
            let open = open(&graph);
            if !open.is_empty() {
                opens.insert(path.file_stem().unwrap().to_owned(), open);
            }
        }
    }
    assert_eq!(seen, 33);
    // What only running tells: how long a loop runs, how much a mask lets through.
    let allowed = ["dien", "greedy_loop"];
    opens.retain(|name, _| !allowed.contains(&name.to_str().unwrap()));
    assert!(opens.is_empty(), "{opens:#?}");
}

#[test]
fn an_axis_left_open_is_named() {
    let mut graph = load(&mnist_cnn(), &Options::default()).unwrap().graph;
    let axes = open_axes(&graph);
    assert_eq!(axes.len(), 1);
    let error = bind(&mut graph, None, &BTreeMap::new()).unwrap_err();
    assert_eq!(error, BindError::Open { axis: axes[0].0.clone(), input: "image".to_owned() });
    let error = bind(&mut graph, Batch::new(1), &BTreeMap::from([("seq".to_owned(), 1)])).unwrap_err();
    assert!(matches!(error, BindError::Unknown { .. }), "{error}");
}

/// Types as the comparison script reads them: element type by ONNX's number, extents, null where open.
fn as_json(ty: &Type) -> Option<serde_json::Value> {
    let shape: Vec<Option<usize>> = ty.shape()?.iter().map(tunewright::graph::Dim::fixed).collect();
    Some(serde_json::json!([ty.dtype()?.code(), shape]))
}

/// Compares every value of the main graphs with what onnx's own inference says. Takes half a minute, so it is asked for by name.
#[test]
#[ignore = "runs onnx's inference over all models; needs TUNEWRIGHT_PYTHON"]
fn every_shared_model_agrees_with_onnx_shape_inference() {
    let (Some(folder), Some(python)) = (models(), std::env::var_os("TUNEWRIGHT_PYTHON")) else { return };
    let mut all = serde_json::Map::new();
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "onnx") {
            continue;
        }
        let graph = bound(&path, 4);
        let of = |values: &mut dyn Iterator<Item = &tunewright::graph::Value>| -> serde_json::Map<_, _> {
            values.filter_map(|value| Some((value.name.clone(), as_json(&value.ty)?))).collect()
        };
        let inputs = of(&mut graph.inputs.iter().map(|&id| graph.value(id)));
        let values = of(&mut graph.values.iter());
        all.insert(path.to_str().unwrap().to_owned(), serde_json::json!({ "inputs": inputs, "values": values }));
    }
    let types = tempfile::NamedTempFile::new().unwrap();
    serde_json::to_writer(&types, &all).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/onnx_shapes.py");
    let status = std::process::Command::new(python).arg(script).arg(types.path()).status().unwrap();
    assert!(status.success());
}
