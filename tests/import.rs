//! What the importer makes of models that are written here, byte by byte: versions, functions, bodies, order, files.

use crate::onnx_writer::{Value, Writer, graph, model};
use bytes::Bytes;
use tunewright::graph::Graph;
use tunewright::import::{Class, ImportError, Options, load, load_bytes};

fn import(bytes: Vec<u8>) -> Result<Graph, ImportError> {
    load_bytes(Bytes::from(bytes), &Options::default()).map(|model| model.graph)
}

fn imported(bytes: Vec<u8>) -> Graph {
    import(bytes).unwrap_or_else(|error| panic!("{error}"))
}

fn ops(graph: &Graph) -> Vec<&str> {
    graph.nodes.iter().map(|node| node.op.as_str()).collect()
}

/// One node of an operator set between `x` of that shape and `y`.
fn one(opset: u64, op: &str, dims: &[u64], attributes: &[(&str, Value<'_>)]) -> Vec<u8> {
    let graph = graph(|w| {
        w.node(1, op, &["x"], &["y"], attributes);
        w.input("x", dims);
        w.bare_output("y");
    });
    model(opset, &graph, |_| {})
}

#[test]
fn an_old_softmax_flattens_unless_its_axis_is_the_last() {
    let graph = imported(one(11, "Softmax", &[0, 3, 4], &[("axis", Value::Int(1))]));
    assert_eq!(ops(&graph), ["Shape", "Flatten", "Softmax", "Reshape"]);
    assert_eq!(graph.value(graph.outputs[0]).ty.to_string(), "f32[N,3,4]");
    let graph = imported(one(11, "Softmax", &[0, 3], &[("axis", Value::Int(1))]));
    assert_eq!(ops(&graph), ["Softmax"]);
    assert_eq!(graph.nodes[0].attributes.int("axis"), Some(-1));
    let graph = imported(one(13, "Softmax", &[0, 3, 4], &[("axis", Value::Int(1))]));
    assert_eq!(graph.nodes[0].attributes.int("axis"), Some(1));
}

#[test]
fn attributes_that_became_inputs_are_constants_of_the_right_type() {
    let graph = imported(one(9, "Clip", &[2], &[("max", Value::Float(6.0))]));
    let node = &graph.nodes[0];
    assert!(node.attributes.is_empty() && node.input(1).is_none());
    let bound = graph.value(node.input(2).unwrap()).constant.as_ref().unwrap();
    assert_eq!(bound.values::<f32>().unwrap()[..], [6.0]);
    let graph = imported(one(11, "ReduceSum", &[2, 3], &[("axes", Value::Ints(&[1])), ("keepdims", Value::Int(0))]));
    assert_eq!(graph.value(graph.outputs[0]).ty.to_string(), "f32[2]");
    let graph = imported(one(9, "Slice", &[4], &[("starts", Value::Ints(&[1])), ("ends", Value::Ints(&[-1]))]));
    assert_eq!(graph.value(graph.outputs[0]).ty.to_string(), "f32[2]");
}

#[test]
fn nodes_may_stand_in_any_order() {
    let graph = graph(|w| {
        w.node(1, "Relu", &["b"], &["y"], &[]);
        w.node(1, "Neg", &["a"], &["b"], &[]);
        w.node(1, "Abs", &["x"], &["a"], &[]);
        w.input("x", &[2]);
        w.output("y", &[2]);
    });
    assert_eq!(ops(&imported(model(17, &graph, |_| {}))), ["Abs", "Neg", "Relu"]);
}

/// A function `f.Scale` of an attribute with a default, called twice.
fn with_function(calls: &[&[(&str, Value<'_>)]]) -> Vec<u8> {
    let main = graph(|w| {
        w.node(1, "f.Scale", &["x"], &["a"], calls[0]);
        w.node(1, "f.Scale", &["a"], &["y"], calls[1]);
        w.input("x", &[2]);
        w.output("y", &[2]);
    });
    model(17, &main, |w| {
        w.message(8, |w| {
            w.text(1, "f");
            w.number(2, 1);
        });
        w.message(25, |w| {
            w.text(1, "Scale");
            w.text(10, "f");
            w.text(4, "v");
            w.text(5, "r");
            w.message(11, |w| w.attribute_fields("alpha", &Value::Float(0.5)));
            w.node(7, "LeakyRelu", &["v"], &["t"], &[("alpha", Value::Refers("alpha", 1))]);
            w.node(7, "Neg", &["t"], &["r"], &[]);
            w.message(9, |w| w.number(2, 17));
        });
    })
}

#[test]
fn functions_are_inlined_with_the_attributes_of_each_call() {
    let graph = imported(with_function(&[&[], &[("alpha", Value::Float(0.25))]]));
    assert_eq!(ops(&graph), ["LeakyRelu", "Neg", "LeakyRelu", "Neg"]);
    assert_eq!(graph.nodes[0].attributes.float("alpha"), Some(0.5));
    assert_eq!(graph.nodes[2].attributes.float("alpha"), Some(0.25));
    assert_eq!(graph.output_names, ["y"]);
    let names: std::collections::BTreeSet<_> = graph.nodes.iter().map(|node| &node.name).collect();
    assert_eq!(names.len(), 4);
}

#[test]
fn what_inlining_copies_is_limited() {
    let mut options = Options::default();
    options.limits.set("inline-bytes", 10).unwrap();
    let error = load_bytes(Bytes::from(with_function(&[&[], &[]])), &options).unwrap_err();
    assert_eq!((error.class(), error.excess().unwrap().limit), (Class::LimitExceeded, "inline-bytes"));
}

/// A branch whose branch uses `x` of the main graph.
fn branch(inner: &[u8]) -> Vec<u8> {
    graph(|w| {
        w.node(1, "If", &["c"], &["o"], &[("then_branch", Value::Graph(inner)), ("else_branch", Value::Graph(inner))]);
        w.bare_output("o");
    })
}

#[test]
fn bodies_list_what_they_capture_through_every_level() {
    let innermost = graph(|w| {
        w.node(1, "Neg", &["x"], &["n"], &[]);
        w.bare_output("n");
    });
    let main = graph(|w| {
        let outer = branch(&innermost);
        w.node(1, "If", &["c"], &["y"], &[("then_branch", Value::Graph(&outer)), ("else_branch", Value::Graph(&outer))]);
        w.initializer("c", 9, &[], &[1]);
        w.input("x", &[0, 5]);
        w.bare_output("y");
    });
    let graph = imported(model(17, &main, |_| {}));
    let outer = graph.nodes[0].body("then_branch").unwrap();
    let names: Vec<&str> = outer.captures.iter().map(|capture| graph.value(capture.outer).name.as_str()).collect();
    // The condition is a constant, and a constant is no capture: the body has it.
    assert_eq!(names, ["x"]);
    let inner = outer.nodes[0].body("else_branch").unwrap();
    assert_eq!(inner.captures.len(), 1);
    assert_eq!(inner.value(inner.outputs[0]).ty.to_string(), "f32[N,5]");
    assert_eq!(graph.value(graph.outputs[0]).ty.to_string(), "f32[N,5]");
}

#[test]
fn loops_within_loops_are_typed_in_time_that_grows_with_their_number() {
    // Each level carries a value that gains an element a round, so no level settles at once: 14 levels would be 3^14 walks.
    let mut body = graph(|w| {
        w.node(1, "Concat", &["v", "v"], &["o"], &[("axis", Value::Int(0))]);
        w.node(1, "Identity", &["k"], &["k2"], &[]);
        ["i", "k"].iter().for_each(|name| w.message(11, |w| w.text(1, name)));
        w.message(11, |w| w.text(1, "v"));
        ["k2", "o"].iter().for_each(|name| w.bare_output(name));
    });
    for level in 0..14 {
        body = graph(|w| {
            let inner = format!("u{level}");
            w.node(1, "Loop", &["m", "t", "v"], &[&inner], &[("body", Value::Graph(&body))]);
            w.node(1, "Concat", &[&inner, "v"], &["o"], &[("axis", Value::Int(0))]);
            w.node(1, "Identity", &["k"], &["k2"], &[]);
            ["i", "k", "v"].iter().for_each(|name| w.message(11, |w| w.text(1, name)));
            ["k2", "o"].iter().for_each(|name| w.bare_output(name));
        });
    }
    let main = graph(|w| {
        w.node(1, "Loop", &["m", "t", "x"], &["y"], &[("body", Value::Graph(&body))]);
        w.initializer("m", 7, &[], &3i64.to_le_bytes());
        w.initializer("t", 9, &[], &[1]);
        w.input("x", &[2, 3]);
        w.bare_output("y");
    });
    let start = std::time::Instant::now();
    let graph = imported(model(17, &main, |_| {}));
    assert!(start.elapsed().as_secs() < 2, "{:?}", start.elapsed());
    assert_eq!(graph.value(graph.outputs[0]).dtype(), Some(schema::DType::F32));
}

/// `y = x + w`, `w` in another file.
fn with_external(location: &str) -> Vec<u8> {
    let main = graph(|w| {
        w.node(1, "Add", &["x", "w"], &["y"], &[]);
        w.message(5, |w| {
            w.number(1, 4);
            w.number(2, 1);
            w.text(8, "w");
            w.message(13, |w: &mut Writer| {
                w.text(1, "location");
                w.text(2, location);
            });
            w.number(14, 1);
        });
        w.input("x", &[4]);
        w.output("y", &[4]);
    });
    model(17, &main, |_| {})
}

#[test]
fn external_data_are_part_of_the_key_and_links_need_a_root() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::create_dir_all(at("blobs")).unwrap();
    std::fs::create_dir_all(at("model")).unwrap();
    std::fs::write(at("model/m.onnx"), with_external("w.bin")).unwrap();
    std::fs::write(at("blobs/1"), [0u8; 16]).unwrap();
    let options = Options::default();
    let key = || load(&at("model/m.onnx"), &options).map(|model| model.key());
    assert_eq!(key().unwrap_err().class(), Class::ExternalMissing);
    std::os::unix::fs::symlink("../blobs/1", at("model/w.bin")).unwrap();
    assert_eq!(key().unwrap_err().class(), Class::PathEscape);
    let rooted = Options { external_root: Some(folder.path().to_owned()), ..Options::default() };
    let linked = load(&at("model/m.onnx"), &rooted).unwrap().key();
    std::fs::remove_file(at("model/w.bin")).unwrap();
    std::fs::write(at("model/w.bin"), [0u8; 16]).unwrap();
    assert_eq!(key().unwrap(), linked);
    std::fs::write(at("model/w.bin"), [1u8; 16]).unwrap();
    assert_ne!(key().unwrap(), linked);
    assert_eq!(import(with_external("w.bin")).unwrap_err().class(), Class::ExternalMissing);
}
