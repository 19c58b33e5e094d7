//! Decisions of each policy over four models on two devices with eight workers, simulated requests a second, and how long forests take to
//! learn.
//!
//! Criterion gives means. The tail is what is promised, so before them each policy's decisions are timed one by one and counted: printed
//! are the median, the 99th percentile and the longest, to the precision of a bucket, an eighth of a power of two.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use schema::{Batch, DeviceName, Features, Seed, Share};
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tunewright::forest::Training;
use tunewright::schedule::{
    DeviceId, Engines, Example, Fleet, FleetDevice, Index, Limits, Measured, Model, ModelId, Nanos, POLICIES, Predictors,
    Setting, policy,
};
use tunewright::simulate::{Arrivals, Mix, Pattern, Reality, Scenario, Sizes, simulate};
use tunewright::space::Stream;

#[path = "../tests/drive.rs"]
mod drive;

/// Counts of times, by eighths of powers of two of a nanosecond.
struct Histogram {
    counts: [u64; 512],
    longest: Duration,
}

impl Histogram {
    fn new() -> Histogram {
        Histogram { counts: [0; 512], longest: Duration::ZERO }
    }

    fn add(&mut self, time: Duration) {
        let bucket = (time.as_nanos().max(1) as f64).log2() * 8.0;
        self.counts[(bucket as usize).min(511)] += 1;
        self.longest = self.longest.max(time);
    }

    /// The upper end of the bucket below which this part of the times lies, in nanoseconds.
    fn part(&self, part: f64) -> f64 {
        let wanted = (self.counts.iter().sum::<u64>() as f64 * part).ceil() as u64;
        let mut sum = 0;
        let bucket = self.counts.iter().position(|count| {
            sum += count;
            sum >= wanted
        });
        2f64.powf((bucket.unwrap_or(0) + 1) as f64 / 8.0)
    }
}

fn decisions(c: &mut Criterion) {
    for (name, _) in POLICIES {
        let mut core = drive::core(name);
        let mut clock = 0;
        drive::drive(&mut core, 20_000, &mut clock, &mut |_, call| call());
        let mut histogram = Histogram::new();
        drive::drive(&mut core, 200_000, &mut clock, &mut |decision, call| {
            let start = Instant::now();
            call();
            if decision {
                histogram.add(start.elapsed());
            }
        });
        println!(
            "schedule/step/{name}: {} decisions, median {:.2} µs, p99 {:.2} µs, longest {:.1} µs",
            histogram.counts.iter().sum::<u64>(),
            histogram.part(0.5) * 1e-3,
            histogram.part(0.99) * 1e-3,
            histogram.longest.as_secs_f64() * 1e6,
        );
        c.bench_function(&format!("schedule/request/{name}"), |b| {
            b.iter_custom(|requests| {
                let start = Instant::now();
                drive::drive(&mut core, requests as u32, &mut clock, &mut |_, call| call());
                start.elapsed()
            });
        });
    }
}

/// A hundred thousand requests of one model at 90 % of what the device can do.
fn simulated(c: &mut Criterion) {
    let record = |&batch: &u32| Measured {
        model: ModelId(0),
        device: DeviceId(0),
        share: Share::WHOLE,
        batch: Batch::new(batch).expect("not 0"),
        time: Nanos(u64::from(batch) * 1_000_000 + 8_000_000),
        spread: Nanos(10_000),
        upload: None,
        download: None,
        energy_mj: None,
    };
    let measured = [1, 2, 4, 8, 16, 32, 64].iter().map(record).collect();
    let model = Model { name: "m".into(), weight: 1.0 };
    let index = Index::new(1, vec![model], vec![DeviceName("cpu".into())], measured).expect("the records make sense");
    let device = FleetDevice { engines: Engines::None, gap: Nanos::ZERO, workers: vec![Share::WHOLE], overlaps: Vec::new() };
    let scenario = Scenario {
        fleet: Fleet { devices: vec![device] },
        index: Arc::new(index),
        limits: Limits::default(),
        reality: Reality::default(),
        faults: vec![],
        seed: Seed(1),
        starvation: Nanos::NEVER,
    };
    let mut group = c.benchmark_group("schedule/simulate");
    group.sample_size(10).throughput(Throughput::Elements(100_000));
    for name in ["batcher", "fastest"] {
        let mix = vec![Mix { model: ModelId(0), weight: 1.0, within: Nanos(200_000_000), sizes: Sizes::Fixed(Batch::ONE) }];
        let per_s = if name == "fastest" { 100.0 } else { 800.0 };
        let arrivals = Arrivals::new(Pattern::Poisson { per_s }, mix, Seed(1));
        group.bench_function(name, |b| {
            b.iter(|| {
                let made = policy(name).expect("the name is out of the list");
                simulate(black_box(&scenario), arrivals.clone().take(100_000), made, &mut |_| {})
                    .expect("no promise is broken")
                    .in_time
            });
        });
    }
    group.finish();
}

/// Rows of so many models at six batches on four shares of three devices, as a tuning database has them: a model's features are its own and
/// grow with the batch, and costs follow a law of work and launches, with 3 % of noise.
fn examples(models: usize) -> Vec<Example> {
    let mut draw = Stream::named(Seed(1), "examples");
    let mut examples = Vec::new();
    for _ in 0..models {
        let (flops, weights) = (10f64.powf(6.0 + 4.0 * draw.unit()), 10f64.powf(4.0 + 4.0 * draw.unit()));
        let [convs, depthwise, gemms, attentions, elementwises, others, depth] =
            [60, 20, 50, 12, 40, 30, 150].map(|most| draw.below(most) as u32);
        for batch in [1u32, 2, 4, 8, 16, 32].map(|rows| Batch::new(rows).expect("not 0")) {
            let rows = f64::from(batch.rows());
            let features = Features {
                parameters: (weights / 4.0) as u64,
                flops: (flops * rows) as u64,
                input_bytes: 600_000 * u64::from(batch.rows()),
                output_bytes: 4_000 * u64::from(batch.rows()),
                weights_bytes: weights as u64,
                activation_bytes: (flops.sqrt() * 100.0 * rows) as u64,
                convs,
                depthwise_convs: depthwise,
                gemms,
                attentions,
                elementwises,
                others,
                depth,
                width_max: 1 + depth % 7,
                width_milli: 1000 + depth * 10,
                gemm_max: (flops / 10.0 * rows) as u64,
                tuned_ppm: 900_000 + depth * 100,
                ..Features::default()
            };
            for (device, class, percent, units, flops_per_ns, launch_ns) in
                [(0, 0, 100.0, 2, 40.0, 2e4), (0, 0, 50.0, 1, 22.0, 2e4), (1, 0, 100.0, 2, 6.0, 2e4), (2, 1, 100.0, 2, 90.0, 2e6)]
            {
                let cost = flops * rows / flops_per_ns + launch_ns * (1.0 + f64::from(depth) / 50.0);
                let host = flops * rows / 40.0 + 2e4 * (1.0 + f64::from(depth) / 50.0);
                let share = Share::percent(percent).expect("a share");
                let setting = Setting { features, batch, device: DeviceId(device), share, class, units };
                examples.push(Example { setting, ln_ratio: ((cost / host).ln() + 0.03 * draw.normal()) as f32 });
            }
        }
    }
    examples
}

/// Of a database, and of as many rows as a lesson has at most: 4096 runs besides those.
fn learning(c: &mut Criterion) {
    let mut group = c.benchmark_group("schedule/learn");
    group.sample_size(10);
    for models in [30, 200] {
        let examples = examples(models);
        group.bench_function(examples.len().to_string(), |b| {
            b.iter(|| Predictors::learn(black_box(&examples), &[], &Training::default()).expect("rows enough"))
        });
    }
    group.finish();
}

criterion_group!(benches, decisions, simulated, learning);
criterion_main!(benches);
