//! How long reading a model takes: the shipped CNN from its file, and a deep network of the size of a ResNet-50 from memory.

#[allow(dead_code)]
#[path = "../tests/onnx_writer.rs"]
mod onnx_writer;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use onnx_writer::{Value, graph, model};
use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::Path;
use tunewright::graph::infer::{bind, infer};
use tunewright::import::{Options, load, load_bytes};

/// Bytes of a model of `blocks` residual blocks: convolution, batch norm, ReLU, twice, and a sum; 64 channels of 3×3.
fn residual(blocks: usize) -> Bytes {
    let conv: &[(&str, Value<'_>)] = &[("pads", Value::Ints(&[1, 1, 1, 1])), ("strides", Value::Ints(&[1, 1]))];
    let graph = graph(|w| {
        w.initializer("w", 1, &[64, 64, 3, 3], &vec![0; 64 * 64 * 9 * 4]);
        w.initializer("c", 1, &[64], &[0; 64 * 4]);
        let mut last = "x".to_owned();
        for block in 0..blocks {
            let v: Vec<String> = (0..7).map(|i| format!("b{block}_{i}")).collect();
            w.node(1, "Conv", &[&last, "w"], &[&v[0]], conv);
            w.node(1, "BatchNormalization", &[&v[0], "c", "c", "c", "c"], &[&v[1]], &[]);
            w.node(1, "Relu", &[&v[1]], &[&v[2]], &[]);
            w.node(1, "Conv", &[&v[2], "w"], &[&v[3]], conv);
            w.node(1, "BatchNormalization", &[&v[3], "c", "c", "c", "c"], &[&v[4]], &[]);
            w.node(1, "Add", &[&v[4], &last], &[&v[5]], &[]);
            w.node(1, "Relu", &[&v[5]], &[&v[6]], &[]);
            last.clone_from(&v[6]);
        }
        w.input("x", &[0, 64, 56, 56]);
        w.output(&last, &[0, 64, 56, 56]);
    });
    model(17, &graph, |_| {}).into()
}

fn import(c: &mut Criterion) {
    let options = Options::default();
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models/mnist_cnn.onnx");
    c.bench_function("import/load/mnist_cnn", |b| {
        b.iter(|| load(black_box(&shipped), &options).expect("the shipped model is sound"))
    });

    // 24 blocks are 168 nodes: a ResNet-50 has 175.
    let model = residual(24);
    let mut group = c.benchmark_group("import");
    group.throughput(Throughput::Elements(168));
    let load = || load_bytes(black_box(model.clone()), &options).expect("the model made here is sound");
    group.bench_function("load_bytes/residual/168", |b| b.iter(load));
    let graph = load().graph;
    group.bench_function("infer/residual/168", |b| {
        b.iter_batched(|| graph.clone(), |mut graph| infer(&mut graph), criterion::BatchSize::SmallInput)
    });
    let batch = schema::Batch::new(4);
    group.bench_function("bind/residual/168", |b| {
        b.iter_batched(|| graph.clone(), |mut graph| bind(&mut graph, batch, &BTreeMap::new()), criterion::BatchSize::SmallInput);
    });
    group.finish();

    let deep = residual(1_200);
    let mut group = c.benchmark_group("import");
    group.sample_size(20).throughput(Throughput::Elements(8_400));
    group.bench_function("load_bytes/residual/8400", |b| b.iter(|| load_bytes(deep.clone(), &options).expect("sound")));
    group.finish();

    c.bench_function("import/key/mnist_cnn", |b| {
        b.iter_batched(|| load_shipped(&shipped), |model| model.key(), criterion::BatchSize::SmallInput);
    });
}

fn load_shipped(path: &Path) -> tunewright::import::Model {
    load(path, &Options::default()).expect("the shipped model is sound")
}

criterion_group!(benches, import);
criterion_main!(benches);
