//! Decisions of each policy over four models on two devices with eight workers, and simulated requests a second.
//!
//! Criterion gives means. The tail is what is promised, so before them each policy's decisions are timed one by one and counted: printed
//! are the median, the 99th percentile and the longest, to the precision of a bucket, an eighth of a power of two.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use schema::{Batch, DeviceName, Seed, Share};
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tunewright::schedule::{
    DeviceId, Engines, Fleet, FleetDevice, Index, Limits, Measured, Model, ModelId, Nanos, POLICIES, policy,
};
use tunewright::simulate::{Arrivals, Mix, Pattern, Reality, Scenario, Sizes, simulate};

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

criterion_group!(benches, decisions, simulated);
criterion_main!(benches);
