//! What a call costs beside the kernels: a model that does nothing, through a session and as a bare plan.

use criterion::{Criterion, criterion_group, criterion_main};
use kernels::Tensor;
use schema::Batch;
use std::hint::black_box;
use tunewright::artifact::{Bound, Contents, write};
use tunewright::execute::{Configs, Plan, pool};
use tunewright::graph::text;
use tunewright::session::{Request, Session};

fn call(c: &mut Criterion) {
    let graph = text::parse("input %x: f32[1,16]\n%y: f32[1,16] = Identity(%x)\noutput %y as \"y\"").expect("the graph parses");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("nothing.tune");
    let graphs = vec![Bound { batch: Batch::ONE, dims: vec![], graph: graph.clone() }];
    write(&path, &Contents::untuned("nothing", graphs)).expect("it is written");

    let session = Session::builder().artifact(&path).open().expect("it opens");
    let request = Request::new("nothing").input("x", Tensor::new(vec![1, 16], vec![1f32; 16]));
    c.bench_function("call/session/nothing", |b| b.iter(|| session.run(black_box(&request)).expect("it runs")));

    let limits = tunewright::device::open("cpu").expect("there is a processor").limits;
    let plan = Plan::compile(&graph, &Configs::new(), &limits).expect("it compiles");
    let (x, mut y) = ([1f32; 16], [0f32; 16]);
    let mut inside = plan.another().expect("an instance");
    let mut run = |plan: &mut Plan| {
        plan.run_into(&[bytemuck::cast_slice(black_box(&x))], &mut [bytemuck::cast_slice_mut(&mut y)]).expect("it runs");
    };
    c.bench_function("call/plan_without_pool/nothing", |b| b.iter(|| run(&mut inside)));
    let mut outside = plan.in_pool(pool(limits.units).expect("threads"));
    c.bench_function("call/plan_entering_pool/nothing", |b| b.iter(|| run(&mut outside)));
}

criterion_group!(benches, call);
criterion_main!(benches);
