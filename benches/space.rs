//! Enumerating a space, finding a config in it and its neighbours.

use criterion::{Criterion, criterion_group, criterion_main};
use kernels::{Isa, Limits, Task};
use schema::Seed;
use std::hint::black_box;
use tunewright::space::Space;

fn space(c: &mut Criterion) {
    let limits = Limits {
        isa: Isa::detect(),
        units: 2,
        l1d_bytes: 32 << 10,
        l2_bytes: 1 << 20,
        l3_bytes: 32 << 20,
        gpu: None,
        numerics: schema::Numerics::Strict,
    };
    let tasks = [
        ("gemm", "gemm b=const k=768 m=128 n=768"),
        (
            "conv2d",
            "conv2d c=128 dilations=[1,1] epilogue=bias+relu groups=1 h=28 in=channels16h1 kh=3 kw=3 n=1 o=128 out=channels16h1 \
             pads=[1,1,1,1] strides=[1,1] w=28 weight=const",
        ),
    ];
    for (name, text) in tasks {
        let task = Task::parse(text).expect("the text is a task");
        let operator = kernels::operator(task.operator()).expect("the operator exists");
        let size = Space::new(&task, operator, &limits).size();
        c.bench_function(&format!("space/enumerate/{name}/{size}"), |b| {
            b.iter(|| Space::new(black_box(&task), operator, &limits).size());
        });
        let space = Space::new(&task, operator, &limits);
        let sample: Vec<_> = space.sample(16, Seed(1));
        c.bench_function(&format!("space/nth_and_index_of/{name}/16"), |b| {
            b.iter(|| sample.iter().filter_map(|&index| space.index_of(&space.nth(index)?)).count());
        });
        c.bench_function(&format!("space/neighbours/{name}/16"), |b| {
            b.iter(|| sample.iter().map(|&index| space.neighbours(index).len()).sum::<usize>());
        });
    }
}

criterion_group!(benches, space);
criterion_main!(benches);
