//! Opening and writing an artifact of the shipped model, at batches 1 and 4.

use criterion::{Criterion, criterion_group, criterion_main};
use schema::Batch;
use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::Path;
use tunewright::artifact::{Artifact, Bound, Contents, write};
use tunewright::graph::infer::bind;
use tunewright::import;
use tunewright::passes::{Options, Pipeline};

fn contents() -> Contents {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models/mnist_cnn.onnx");
    let bound = |rows: u32| {
        let batch = Batch::new(rows).expect("rows");
        let mut graph = import::load(&path, &import::Options::default()).expect("the model imports").graph;
        bind(&mut graph, Some(batch), &BTreeMap::new()).expect("the batch is open");
        Pipeline::untimed().run(&mut graph, &Options::default()).expect("the passes run");
        Bound { batch, dims: vec![], graph }
    };
    Contents::untuned("mnist_cnn", vec![bound(1), bound(4)])
}

fn artifact(c: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("mnist_cnn.tune");
    let contents = contents();
    write(&path, &contents).expect("the artifact is written");
    c.bench_function("artifact/open/mnist_cnn", |b| b.iter(|| Artifact::open(black_box(&path)).expect("it opens")));
    let open = Artifact::open(&path).expect("it opens");
    c.bench_function("artifact/graph/mnist_cnn", |b| b.iter(|| open.graph(black_box(0)).expect("it is whole")));
    c.bench_function("artifact/write_unchanged/mnist_cnn", |b| {
        b.iter(|| write(&path, black_box(&contents)).expect("it is written"))
    });
}

criterion_group!(benches, artifact);
criterion_main!(benches);
