//! How long the whole pipeline takes: on the shipped CNN, and on a deep residual network whose shapes are computed as exporters do.

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use schema::Batch;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use tunewright::graph::infer::{bind, infer};
use tunewright::graph::{Graph, text, verify};
use tunewright::import::{Options as ImportOptions, load};
use tunewright::passes::{Options, Pipeline};

fn shipped() -> Graph {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models/mnist_cnn.onnx");
    let mut graph = load(&path, &ImportOptions::default()).expect("the shipped model loads").graph;
    bind(&mut graph, Batch::new(1), &BTreeMap::new()).expect("its batch is open");
    graph
}

/// Blocks of convolution, batch norm and ReLU with a sum around two of them.
fn residual(blocks: usize) -> Graph {
    let mut text = String::from("input %x: f32[1,64,28,28]\n$w: f32[64,64,3,3] = fill(1)\n$c: f32[64] = fill(2,0.5,1.5)\n");
    let mut last = "x".to_owned();
    for block in 0..blocks {
        for half in 0..2 {
            let from = if half == 0 { last.clone() } else { format!("r{block}_0") };
            writeln!(text, "%c{block}_{half} = Conv(%{from}, $w) pads=[1,1,1,1]").expect("a string");
            writeln!(text, "%n{block}_{half} = BatchNormalization(%c{block}_{half}, $c, $c, $c, $c)").expect("a string");
            writeln!(text, "%r{block}_{half} = Relu(%n{block}_{half})").expect("a string");
        }
        writeln!(text, "%s{block} = Add(%r{block}_1, %{last})").expect("a string");
        last = format!("s{block}");
    }
    writeln!(text, "output %{last}").expect("a string");
    let mut graph = text::parse(&text).expect("the text is a graph");
    infer(&mut graph).expect("the shapes fit");
    graph
}

fn passes(c: &mut Criterion) {
    for (name, graph) in [("mnist_cnn", shipped()), ("residual/32", residual(16))] {
        c.bench_function(&format!("passes/pipeline/{name}"), |b| {
            let run = |mut graph: Graph| Pipeline::untimed().run(&mut graph, &Options::default()).expect("the pipeline runs");
            b.iter_batched(|| graph.clone(), run, BatchSize::LargeInput);
        });
        c.bench_function(&format!("passes/verify/{name}"), |b| b.iter(|| verify(&graph)));
        c.bench_function(&format!("passes/print/{name}"), |b| b.iter(|| graph.to_string()));
    }
}

criterion_group!(benches, passes);
criterion_main!(benches);
