//! `batcher` against the closed forms, against greedy batching without overlap, and under overload.

use super::{MS, device, poisson, run, scenario};
use crate::schedule::testing::{index, reference};
use crate::schedule::{Admission, Engines, Nanos, Pipeline};
use crate::simulate::Scenario;
use schema::Share;

/// The reference device with every batch up to `largest`, a part of whose time is transfers.
fn on(engines: Engines, transfers: f64, largest: u32, admission: Admission) -> Scenario {
    let batches: Vec<u32> = (1..=largest).collect();
    scenario(device(engines, &[Share::WHOLE]), index(&[reference(&batches, transfers)]), admission)
}

fn pipeline(scenario: &Scenario) -> Pipeline {
    Pipeline::of(&scenario.index.curves()[0], scenario.fleet.devices[0].engines)
}

fn assert_within(found: f64, expected: f64, tolerance: f64, what: &str) {
    assert!((found / expected - 1.0).abs() <= tolerance, "{what}: {found:.3}, predicted {expected:.3}");
}

#[test]
fn capacity_is_what_the_slowest_engine_gives() {
    for transfers in [0.05, 0.0826, 0.2, 0.4, 0.6] {
        let scenario = on(Engines::Two, transfers, 64, Admission::All);
        let predicted = pipeline(&scenario).capacity_per_s();
        let figures = run(&scenario, "batcher", poisson(2.0 * predicted, 1, Nanos::NEVER).take(50_000));
        let measured = (figures.latencies.len()) as f64 / figures.took.as_secs_f64();
        assert_within(measured, predicted, 0.05, &format!("capacity at {transfers} transfers"));
    }
}

/// Mean and p99 of 10⁵ requests and more against papers §2.1 and §2.2, loads as parts of what the slope allows.
#[test]
fn tails_are_those_of_the_closed_forms() {
    for (policy, engines, transfers) in
        [("greedy", Engines::None, 0.0), ("batcher", Engines::Two, 0.0826), ("batcher", Engines::Two, 0.3)]
    {
        for load in [0.3, 0.6, 0.8, 0.9] {
            let scenario = on(engines, transfers, 512, Admission::All);
            let per_s = load * 1e3;
            let figures = run(&scenario, policy, poisson(per_s, 1, Nanos::NEVER).take(200_000));
            let what = format!("{policy} at {transfers} transfers, load {load}");
            let (mean, p99) = (pipeline(&scenario).mean(per_s).unwrap(), pipeline(&scenario).p99(per_s).unwrap());
            assert_within(figures.latency_mean().unwrap().as_f64(), mean.as_f64(), 0.03, &format!("mean, {what}"));
            assert_within(figures.latency(0.99).unwrap().as_f64(), p99.as_f64(), 0.05, &format!("p99, {what}"));
        }
    }
}

/// The rate admitted for a bound keeps it, where the closed form of the paper overloads.
#[test]
fn the_rate_for_a_bound_keeps_it() {
    for (transfers, bound_ms) in [(0.0826, 100), (0.3, 100), (0.3, 40)] {
        let scenario = on(Engines::Two, transfers, 512, Admission::All);
        let bound = Nanos(bound_ms * MS);
        let per_s = pipeline(&scenario).rate_within(bound);
        let figures = run(&scenario, "batcher", poisson(per_s, 1, Nanos::NEVER).take(200_000));
        let what = format!("{bound_ms} ms at {transfers} transfers, {per_s:.0}/s");
        assert_within(figures.latency(0.99).unwrap().as_f64(), bound.as_f64(), 0.05, &what);
    }
}

/// Reductions of the mean at 95 % of what greedy batching can do, with the same largest batch (table of papers §2.8).
#[test]
fn overlap_lowers_the_mean_as_published() {
    for (transfers, largest, published) in [(0.0826, 64, 33.0), (0.15, 16, 36.0), (0.3, 32, 56.0), (0.3, 8, 53.0)] {
        let greedy = on(Engines::None, transfers, largest, Admission::All);
        let batcher = on(Engines::Two, transfers, largest, Admission::All);
        let per_s = 0.95 * pipeline(&greedy).capacity_per_s();
        let arrivals = || poisson(per_s, 1, Nanos::NEVER).take(400_000);
        let mean = |scenario, policy| run(scenario, policy, arrivals()).latency_mean().unwrap().as_f64();
        let reduction = 100.0 * (1.0 - mean(&batcher, "batcher") / mean(&greedy, "greedy"));
        assert!(reduction > published - 5.0, "{transfers} transfers, batch {largest}: {reduction:.1} %, published {published}");
    }
}

/// At three times the capacity: bounded queues, computed retry times, and goodput near its peak.
#[test]
fn overload_is_refused_and_not_queued() {
    for (name, engines) in [("batcher", Engines::Two), ("greedy", Engines::None), ("knee", Engines::None)] {
        let mut scenario = on(engines, 0.2, 32, Admission::Predicted);
        scenario.limits.queue_len_max = 256;
        let capacity = pipeline(&scenario).capacity_per_s();
        let goodput = |load: f64| run(&scenario, name, poisson(load * capacity, 1, Nanos(120 * MS)).take(50_000));
        let peak = [0.7, 0.8, 0.9, 1.0, 1.2].map(|load| goodput(load).goodput_per_s()).into_iter().fold(0.0, f64::max);
        let over = goodput(3.0);
        assert!(over.goodput_per_s() >= 0.9 * peak, "{name}: {:.0}/s of {peak:.0}/s", over.goodput_per_s());
        assert!(over.refused_late + over.refused_full > 25_000, "{name} refuses what it cannot serve");
        let (least, most) = over.retry_after.expect("refusals say when to come again");
        assert!(least > Nanos(0) && most < Nanos(10_000 * MS), "{name}: {least} to {most}");
    }
}
