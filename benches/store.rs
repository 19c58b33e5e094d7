//! The tuning database: single reads, prefix scans, appends with their ticket, the way of a reader.

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use schema::*;
use std::hint::black_box;
use std::path::Path;
use tuning_db::{OpenOptions, Query, Reader, Source, Store};

const TASKS: u64 = 50;

fn text(task: u64) -> String {
    format!("gemm a=rows b=const k={task} m=128 n=768")
}

fn device() -> (Device, Environment) {
    let device = Device { name: DeviceName("cpu".into()), text: "vendor=acme model=1 cores=8".into() };
    (device, Environment { text: "kernel=6.1 kernels=abc".into() })
}

fn config(n: u64) -> Config {
    let knobs = vec![("kc".into(), KnobValue::Int(n as i64)), ("tile".into(), KnobValue::Pair(6, 16))];
    Config { variant: "gemm.host_packed".into(), revision: 3, knobs }
}

fn trial(n: u64) -> NewObservation {
    let median = 1_000_000 + n.wrapping_mul(0x9e37_79b9_7f4a_7c15) % 1_000_000_000;
    let timing = Timing { median: Picos(median), mad: Picos(median / 100), p99: Picos(median), n: 30, grade: NoiseGrade::A };
    NewObservation {
        subject: Subject::Trial { task: TaskKey::of(&text(n % TASKS)), config: config(n / TASKS) },
        device: device().0.key(),
        device_name: DeviceName("cpu".into()),
        share: Share::WHOLE,
        grant: Grant { mechanism: "core sets".into(), units: 8 },
        numerics: Numerics::Strict,
        outcome: Outcome::Ok { timing, ratio: None },
        environment: device().1.key(),
        tool_version: "0.1.0".into(),
        seed: Seed(0),
        wall_clock_s: 1_760_000_000,
    }
}

fn open(path: &Path) -> Store {
    let options = OpenOptions { snapshot_every: None, serve: false, ..OpenOptions::default() };
    Store::open(path, options).expect("a new database opens")
}

fn append(store: &Store, numbers: std::ops::Range<u64>) {
    let tickets: Vec<_> = numbers.map(|n| store.append(trial(n)).expect("appends")).collect();
    for ticket in tickets {
        ticket.wait().expect("is durable");
    }
}

fn store(c: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a folder");
    let store = open(&dir.path().join("db"));
    append(&store, 0..20_000);
    let (device, environment) = device();
    store.put_device(&device, &environment).expect("is durable");
    let task = TaskKey::of(&text(7));
    c.bench_function("store/was_tried/20k", |b| {
        b.iter(|| store.was_tried(task, device.key(), Share::WHOLE, black_box(&config(11))));
    });
    c.bench_function("store/bests/20k", |b| {
        b.iter(|| store.bests(task, device.key(), Share::WHOLE, Numerics::Strict, black_box(5)));
    });
    c.bench_function("store/trials/400 of 20k", |b| b.iter(|| store.trials(task, device.key(), black_box(Share::WHOLE))));
    let mut next = 20_000;
    c.bench_function("store/append and ticket/1", |b| {
        b.iter_batched(
            || {
                next += 1;
                trial(next)
            },
            |new| store.append(new).expect("appends").wait(),
            BatchSize::PerIteration,
        );
    });
    c.bench_function("store/append and ticket/64", |b| {
        b.iter(|| {
            append(&store, next..next + 64);
            next += 64;
        });
    });
    store.close().expect("closes");
    let reader = Reader::open(&dir.path().join("db"), Source::C).expect("a database");
    let query = Query::parse("order by p99 limit 5").expect("a query");
    c.bench_function("store/first query by snapshot/20k", |b| b.iter(|| reader.query(black_box(&query))));
}

criterion_group! { name = benches; config = Criterion::default().sample_size(20); targets = store }
criterion_main!(benches);
