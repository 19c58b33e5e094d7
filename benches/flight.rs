//! What it brings to have two runs on a device under way: batches one after the other on one instance of a plan, and on two in turn, each
//! of which goes up while the other computes. Lavapipe, the only device so far, has one engine, which is the host's cores.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use kernels::Tensor;
use tunewright::device::{self, Found};
use tunewright::execute::{Configs, Plan};
use tunewright::graph::text;

/// Batches of one sample.
const BATCHES: u64 = 8;

fn plan(k: usize) -> Vec<(String, Plan)> {
    let weights: Vec<String> = (0..k * 64).map(|i| format!("{:.3}", (i * 7919 % 1000) as f32 / 500.0 - 1.0)).collect();
    let text = format!(
        "input %x: f32[256,{k}]\n$w: f32[{k},64] = [{}]\n%y: f32[256,64] = gemm(%x, $w)\noutput %y as \"y\"",
        weights.join(",")
    );
    let on = |machine: device::Machine| {
        let grant = machine.grant(schema::Share::WHOLE).expect("a device gives all of itself");
        let gpu = device::gpu(&grant.device, &grant.cores).expect("it opens")?;
        let graph = text::parse(&text).expect("it is a graph");
        let plan = Plan::compile_on(&gpu, graph, &Configs::new(), &machine.limits, u64::MAX).expect("it compiles");
        Some((machine.device.name.0, plan))
    };
    let present = |found| if let Found::Present(machine) = found { Some(machine) } else { None };
    device::found().into_iter().filter_map(present).filter_map(on).collect()
}

fn begin(plan: &mut Plan, inputs: &[(&str, Tensor)]) {
    plan.begin_upload(inputs).and_then(|()| plan.begin_compute()).and_then(|()| plan.begin_download()).expect("it is in turn");
}

fn flight(c: &mut Criterion) {
    let mut group = c.benchmark_group("flight");
    group.sample_size(20).throughput(Throughput::Elements(BATCHES));
    for k in [64, 1024] {
        let inputs = [("x", Tensor::new(vec![256, k], vec![0.5f32; 256 * k]))];
        for (name, mut first) in plan(k) {
            let mut second = first.another().expect("it has room");
            first.run(&inputs).expect("it runs");
            group.bench_function(format!("{name}/one_after_the_other/{k}"), |b| {
                b.iter(|| (0..BATCHES).for_each(|_| drop(first.run(&inputs).expect("it runs"))));
            });
            group.bench_function(format!("{name}/two_in_flight/{k}"), |b| {
                b.iter(|| {
                    begin(&mut first, &inputs);
                    for _ in 1..BATCHES {
                        begin(&mut second, &inputs);
                        drop(first.await_outputs().expect("it runs"));
                        std::mem::swap(&mut first, &mut second);
                    }
                    drop(first.await_outputs().expect("it runs"));
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, flight);
criterion_main!(benches);
