//! Several models: shares side by side, fairness, priorities, and what no policy can surpass.

use super::{MS, campaign, device, poisson, run, scenario};
use crate::schedule::testing::{curve, index, placed, reference};
use crate::schedule::{Admission, Engines, Index, ModelId, Nanos, POLICIES, Priority, ShareLine, policy};
use crate::simulate::{Arrival, Reality, Scenario, Seen, most_in_time, search, simulate, swarm};
use schema::{Seed, Share};

fn share(percent: f64) -> Share {
    Share::percent(percent).unwrap()
}

/// Models of T(s) = serial + parallel / s milliseconds, one row a batch, at these shares.
fn models(count: u16, serial: f64, parallel: f64, shares: &[f64]) -> Index {
    let time = |percent: f64| ((serial + parallel * 100.0 / percent) * MS as f64) as u64;
    let of = |model| shares.iter().map(move |&percent| placed(curve(&[1], |_| time(percent)), model, 0, percent));
    index(&(0..count).flat_map(of).collect::<Vec<_>>())
}

/// n·T(1)/T(s) of papers §3.1: models with a small knee gain by running side by side, and by so much.
#[test]
fn slices_at_the_knee_gain_what_the_formula_says() {
    for (serial, parallel, slice) in [(1.0, 0.2, 25.0), (1.0, 0.1, 25.0), (0.8, 0.4, 25.0)] {
        let count = 3;
        let workers: Vec<Share> = [100.0, slice, slice, slice].map(share).to_vec();
        let sliced = scenario(device(Engines::None, &workers), models(count, serial, parallel, &[slice, 100.0]), Admission::All);
        let whole = scenario(device(Engines::None, &[Share::WHOLE]), models(count, serial, parallel, &[100.0]), Admission::All);
        let throughput = |scenario, name| {
            let figures = run(scenario, name, poisson(10_000.0, count, Nanos::NEVER).take(12_000));
            figures.latencies.len() as f64 / figures.took.as_secs_f64()
        };
        let gain = throughput(&sliced, "knee") / throughput(&whole, "greedy");
        let formula = f64::from(count) * (serial + parallel) / (serial + parallel * 100.0 / slice);
        assert!((gain / formula - 1.0).abs() < 0.1, "{serial} + {parallel}/s: {gain:.2}, formula {formula:.2}");
    }
}

/// Two models that slow each other down. Without the factor of their pair refits take alone for side by side and refuse what could be
/// served; with it predictions are right and more is in time.
#[test]
fn what_runs_side_by_side_is_predicted_by_the_factor_of_the_pair() {
    let workers: Vec<Share> = [50.0, 50.0].map(share).to_vec();
    let records = models(2, 4.0, 3.0, &[50.0]);
    let both = |index: Index| {
        let [a, b] = [ModelId(0), ModelId(1)];
        let index = index.with_interference(a, b, 1.5).unwrap().with_interference(a, a, 1.5).unwrap();
        index.with_interference(b, b, 1.5).unwrap()
    };
    let serve = |index: Index| {
        let mut scenario = scenario(device(Engines::None, &workers), index, Admission::Predicted);
        scenario.reality.interference = 1.5;
        run(&scenario, "knee", poisson(200.0, 2, Nanos(18 * MS)).take(20_000))
    };
    let (without, with) = (serve(records.clone()), serve(both(records)));
    let [error_without, error_with] = [&without, &with].map(|figures| figures.error_median().unwrap());
    println!("in time {} and {}, median errors {error_without:.3} and {error_with:.3}", without.in_time, with.in_time);
    assert!(
        with.in_time as f64 >= 1.02 * without.in_time as f64,
        "in time {}, with the factor {}",
        without.in_time,
        with.in_time
    );
    assert!(error_with < 0.01 && error_with < error_without, "median errors {error_without} and {error_with}");
}

/// A law with a serial and a parallel part, each share measured by runs with noise, and one share left out of the fit.
#[test]
fn a_share_left_out_is_predicted_from_noisy_runs() {
    let shares = [12.5, 25.0, 50.0, 75.0, 100.0];
    let mut worst = 0.0f64;
    for (serial, parallel) in [(1.0, 0.2), (1.0, 0.6), (0.5, 1.0), (0.1, 3.0)] {
        let measured = shares.map(|percent| {
            let mut scenario =
                scenario(device(Engines::None, &[share(percent)]), models(1, serial, parallel, &[percent]), Admission::All);
            scenario.reality.noise = 0.05;
            scenario.seed = Seed((percent * 10.0) as u64);
            let mut times = Vec::new();
            let mut watch = |seen: Seen<'_>| {
                if let Seen::Answered { at, decision, .. } = seen {
                    times.push(at - decision.started);
                }
            };
            let arrivals = poisson(1.0, 1, Nanos::NEVER).take(65);
            simulate(&scenario, arrivals, policy("fastest").unwrap(), &mut watch).unwrap();
            times.sort_unstable();
            (share(percent), times[times.len() / 2])
        });
        for (out, &left_out) in shares.iter().enumerate() {
            let rest: Vec<_> = measured.iter().enumerate().filter(|(at, _)| *at != out).map(|(_, point)| *point).collect();
            let truth = (serial + parallel * 100.0 / left_out) * MS as f64;
            let error = (ShareLine::through(&rest).unwrap().at(share(left_out)).as_f64() / truth - 1.0).abs();
            worst = worst.max(error);
            assert!(error <= 0.05, "{serial} + {parallel}/s at {} %: {:.1} % off", left_out, 100.0 * error);
        }
    }
    println!("worst error {:.1} %", 100.0 * worst);
}

/// A slice that leaves share over loses against the whole device, so what nobody waits for is handed on.
#[test]
fn share_that_nobody_waits_for_is_handed_on() {
    let workers: Vec<Share> = [100.0, 60.0].map(share).to_vec();
    let alone = scenario(device(Engines::None, &workers), models(1, 1.0, 0.6, &[30.0, 60.0, 100.0]), Admission::All);
    let figures = run(&alone, "knee", poisson(400.0, 1, Nanos::NEVER).take(5_000));
    assert!(figures.latency(0.1).unwrap() <= Nanos((1.6 * MS as f64) as u64), "one model has the whole device");
}

#[test]
fn models_that_compete_get_equal_device_time() {
    // Rows of the second take four times as long and as many of them are wanted.
    let records = index(&[curve(&[1], |_| MS), placed(curve(&[1], |_| 4 * MS), 1, 0, 100.0)]);
    for name in ["batcher", "greedy", "fastest", "fixed"] {
        let mut scenario = scenario(device(Engines::None, &[Share::WHOLE]), records.clone(), Admission::All);
        scenario.limits.queue_len_max = 64;
        // Nothing is overdue within this trace, so that only fairness orders.
        scenario.limits.patience = Nanos(100_000 * MS);
        let mut time = [0u64; 2];
        let mut watch = |seen: Seen<'_>| {
            if let Seen::Started { decision, .. } = seen {
                time[usize::from(decision.model.0)] += decision.stages.total().0;
            }
        };
        let arrivals = poisson(4000.0, 2, Nanos::NEVER).take(20_000);
        crate::simulate::simulate(&scenario, arrivals, crate::schedule::policy(name).unwrap(), &mut watch).unwrap();
        let part = time[0] as f64 / (time[0] + time[1]) as f64;
        assert!((part - 0.5).abs() < 0.05, "{name}: the first had {part:.2} of the time");
    }
}

#[test]
fn the_urgent_go_first_and_the_rest_is_not_starved() {
    let mut scenario = scenario(device(Engines::None, &[Share::WHOLE]), index(&[curve(&[1], |_| 10 * MS)]), Admission::All);
    scenario.limits.queue_len_max = 32;
    scenario.limits.patience = Nanos(50 * MS);
    // Four patiences, and behind them at most all that may be held.
    scenario.starvation = Nanos(4 * 50 * MS + 33 * 10 * MS);
    let mut waits = [Vec::new(), Vec::new()];
    let mut number = 0u64;
    let arrivals = poisson(150.0, 1, Nanos::NEVER).take(3000).map(|arrival| {
        number += 1;
        Arrival { priority: if number.is_multiple_of(2) { Priority::HIGHEST } else { Priority::LOWEST }, ..arrival }
    });
    let mut watch = |seen: Seen<'_>| {
        let Seen::Started { decision, requests, .. } = seen else { return };
        for request in requests {
            let low = request.due - request.arrived > Nanos(50 * MS);
            waits[usize::from(low)].push(decision.started - request.arrived);
        }
    };
    crate::simulate::simulate(&scenario, arrivals, crate::schedule::policy("greedy").unwrap(), &mut watch).unwrap();
    let mean = |waits: &[Nanos]| waits.iter().map(|wait| wait.as_f64()).sum::<f64>() / waits.len() as f64;
    assert!(mean(&waits[0]) * 1.5 < mean(&waits[1]), "{} and {}", mean(&waits[0]), mean(&waits[1]));
    assert!(waits[1].len() > 200, "the low ones are served too");
}

/// Without noise no policy does better than the bound, and on a steady overload the best comes near it.
#[test]
fn no_policy_surpasses_the_bound() {
    for seed in 0..400 {
        let mut case = swarm(Seed(seed));
        let reality = &mut case.scenario.reality;
        (reality.noise, reality.slower, reality.withdrawn) = (0.0, 1.0, 0.0);
        case.scenario.faults.clear();
        let trace: Vec<Arrival> = case.trace().collect();
        let bound = most_in_time(&case.scenario.fleet, &case.scenario.index, &trace);
        let found = case.run().unwrap().in_time;
        assert!(found <= bound, "seed {seed}, {}: {found} in time, the bound is {bound}", case.policy);
    }
}

/// Three models on a device with engines and a host in halves, all with 100 ms to their deadline.
fn three_models(admission: Admission) -> Scenario {
    let records = index(&[
        reference(&[1, 2, 4, 8, 16, 32], 0.2),
        placed(reference(&[1, 4, 16], 0.1), 1, 0, 100.0),
        placed(curve(&[1, 4, 16], |b| (b * 6 + 4) * MS), 1, 1, 50.0),
        placed(curve(&[1, 2, 4], |b| (b * 3 + 1) * MS), 2, 1, 50.0),
        placed(curve(&[1, 2, 4], |b| (b * 2 + 1) * MS), 2, 1, 100.0),
    ]);
    let mut fleet = device(Engines::Two, &[Share::WHOLE]);
    fleet.devices.extend(device(Engines::None, &[Share::WHOLE, share(50.0), share(50.0)]).devices);
    scenario(fleet, records, admission)
}

fn three_models_at(per_s: f64, requests: usize) -> Vec<Arrival> {
    poisson(per_s, 3, Nanos(100 * MS)).take(requests).collect()
}

/// Where everything can be served in time, next to nothing is refused.
#[test]
fn admission_refuses_nothing_that_can_be_served() {
    for per_s in [300.0, 600.0, 900.0] {
        let trace = three_models_at(per_s, 30_000);
        let admitted = run(&three_models(Admission::Predicted), "batcher", trace.iter().copied()).in_time;
        let all = run(&three_models(Admission::All), "batcher", trace.iter().copied()).in_time;
        assert!(admitted as f64 >= 0.998 * all as f64, "{per_s}/s: {admitted} in time, {all} if all are accepted");
    }
}

#[test]
fn batcher_leaves_a_fixed_choice_behind_and_comes_near_the_bound() {
    let scenario = three_models(Admission::Predicted);
    let wanted = [
        (300.0, 0.99),
        (600.0, 0.99),
        (900.0, 0.99),
        (1200.0, 0.95),
        (1350.0, 0.88),
        (1500.0, 0.85),
        (2000.0, 0.78),
        (4000.0, 0.7),
    ];
    for (per_s, of_bound) in wanted {
        let trace = three_models_at(per_s, 30_000);
        let [batcher, fixed] = ["batcher", "fixed"].map(|name| run(&scenario, name, trace.iter().copied()).in_time);
        let bound = most_in_time(&scenario.fleet, &scenario.index, &trace);
        let part = |in_time: u64| in_time as f64 / bound as f64;
        println!("{per_s}/s: batcher {:.3}, fixed {:.3} of the bound", part(batcher), part(fixed));
        // At the least rate the fixed choice does two thirds of all there is.
        let times = if per_s == 300.0 { 1.45 } else { 1.5 };
        assert!(batcher as f64 >= times * fixed as f64, "{per_s}/s: {batcher}, fixed {fixed}");
        assert!(batcher as f64 >= of_bound * bound as f64, "{per_s}/s: {batcher} of at most {bound}");
    }
}

/// At the edge of what can be done. Beyond it fairness costs: the schedule that knows all may leave out whole models.
#[test]
fn batcher_does_nine_tenths_of_a_schedule_that_knows_all() {
    let scenario = three_models(Admission::Predicted);
    let steps = if campaign() { 1000 } else { 60 };
    for per_s in [1200.0, 1350.0, 1500.0] {
        let trace = three_models_at(per_s, 4_000);
        let batcher = run(&scenario, "batcher", trace.iter().copied()).in_time;
        let searched = search(&scenario, &trace, steps).unwrap();
        let ratio = batcher as f64 / searched.in_time as f64;
        println!("{per_s}/s: batcher {batcher}, searched {} by {}, {ratio:.3}", searched.in_time, searched.policy);
        assert!(ratio >= 0.9, "{per_s}/s: {batcher} in time, a schedule that knows all {}", searched.in_time);
    }
}

/// What the search finds can be carried out: it lies between the policies and the bound.
#[test]
fn a_searched_schedule_is_no_worse_than_policies_and_within_the_bound() {
    for seed in 0..25 {
        let mut scenario = swarm(Seed(seed)).scenario;
        scenario.limits.admission = Admission::Predicted;
        let trace: Vec<Arrival> = swarm(Seed(seed)).trace().collect();
        let searched = search(&scenario, &trace, 20).unwrap();
        let bound = most_in_time(&scenario.fleet, &scenario.index, &trace);
        assert!(searched.in_time <= bound, "seed {seed}: {} in time, the bound is {bound}", searched.in_time);
        assert_eq!(searched.admitted.len(), trace.len());
        (scenario.reality, scenario.faults) = (Reality::default(), Vec::new());
        for (name, _) in POLICIES {
            let found = run(&scenario, name, trace.iter().copied()).in_time;
            assert!(found <= searched.in_time, "seed {seed}: {name} has {found} in time, the search {}", searched.in_time);
        }
    }
}
