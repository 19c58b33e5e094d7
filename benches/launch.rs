//! What a launch costs the host, by device: kernels on one cube's elements, launched one after the other without waiting for their end.

use criterion::{Criterion, criterion_group, criterion_main};
use cube_kernels::{Adapter, Gpu};
use kernels::{Limits, Request, Task};
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Launches between two waits: as many as an inference of a small model has.
const LAUNCHES: u32 = 64;

fn launch(c: &mut Criterion) {
    let adapters = [cube_kernels::wgpu_adapters(), cube_kernels::cuda_adapters()];
    for adapter in adapters.into_iter().filter_map(Result::ok).flatten() {
        on(c, &adapter);
    }
}

fn on(c: &mut Criterion, adapter: &Adapter) {
    let gpu = Gpu::open(adapter).expect("the device opens");
    let limits = Limits { gpu: Some(*gpu.limits()), ..Limits::of_core(0, 1) };
    let task = Task::parse("elementwise expr=relu(a) a=[64] y=[64]").expect("it is a task");
    let operator = cube_kernels::operator("elementwise").expect("there is such an operator");
    let config = operator.default_config(&task, &limits).expect("a variant is legal");
    let request = Request { task: &task, config: &config, limits: &limits, constants: &[None] };
    let kernel = operator.build(&request, &gpu).expect("it builds");
    let x = gpu.upload(&[0; 256]).expect("a buffer");
    let y = gpu.room(256).expect("a buffer");
    let (inputs, outputs) = ([Some(x)], [y]);
    c.bench_function(&format!("launch/{}", adapter.name), |b| {
        b.iter_custom(|times| {
            let mut spent = Duration::ZERO;
            for _ in 0..times {
                let start = Instant::now();
                for _ in 0..LAUNCHES {
                    kernel.launch(black_box(&gpu), &inputs, &outputs, &[]);
                }
                spent += start.elapsed();
                gpu.sync().expect("the launches end");
            }
            spent / LAUNCHES
        });
    });
}

criterion_group!(benches, launch);
criterion_main!(benches);
