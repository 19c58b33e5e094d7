//! Scenarios drawn from a seed: fleets, records, loads, policies and losses of all kinds, most features switched off in each (swarm
//! testing, Groce et al. 2012), so that those that are on meet each other often.

use super::{Arrival, Arrivals, Fault, Figures, Mix, Pattern, Reality, Scenario, SimulateError, Sizes, simulate};
use crate::forest::Training;
use crate::schedule::{
    Admission, DeviceId, Engines, Facts, Fleet, FleetDevice, Index, Limits, Line, Measured, Model, ModelId, Nanos, POLICIES,
    PRIORITIES, Priority, Wake, WorkerId, policy,
};
use crate::space::Stream;
use schema::{Batch, DeviceName, Features, Seed, Share};
use std::sync::Arc;

/// Everything that a seed stands for.
#[derive(Clone, Debug)]
pub struct Case {
    pub scenario: Scenario,
    pub policy: &'static str,
    pub arrivals: Arrivals,
    pub requests: usize,
    pub priorities: bool,
}

/// The case of a seed.
pub fn swarm(seed: Seed) -> Case {
    let mut draw = Stream::named(seed, "swarm");
    let fleet = fleet(&mut draw);
    let models = 1 + draw.below(4);
    let (index, slowest) = index(&mut draw, &fleet, models, 1);
    let capacity = 1e9 * fleet.devices.len() as f64 / slowest.as_f64();
    let per_s = capacity * 10f64.powf(draw.unit() * 2.5 - 1.0);
    let patience = slowest * (1 + draw.below(20) as u32);
    let limits = Limits {
        queue_len_max: 1 + draw.below(64),
        patience,
        window: slowest * 10,
        admission: if draw.below(3) == 0 { Admission::All } else { Admission::Predicted },
    };
    let within = |draw: &mut Stream| if draw.below(3) == 0 { Nanos::NEVER } else { slowest.scaled(0.2 + 5.0 * draw.unit()) };
    let parts: Vec<(f64, Nanos)> = (0..models).map(|_| (0.1 + draw.unit(), within(&mut draw))).collect();
    let pattern = match draw.below(3) {
        0 => Pattern::Burst { per_s, factor: 1.0 + 5.0 * draw.unit(), length: slowest * 5 },
        _ => Pattern::Poisson { per_s },
    };
    let sizes = match draw.below(4) {
        0 => Sizes::Pareto { least: 1.0, shape: 1.5 },
        1 => Sizes::Normal { mean: 3.0, deviation: 2.0 },
        _ => Sizes::Fixed(Batch::ONE),
    };
    let part = |(model, (weight, within)): (usize, (f64, Nanos))| Mix { model: ModelId(model as u16), weight, within, sizes };
    let mix = parts.into_iter().enumerate().map(part).collect();
    let requests = 100 + draw.below(300);
    let span = Nanos::from_secs_f64(requests as f64 / per_s);
    let (faults, outage) = faults(&mut draw, &fleet, span, models);
    let reality = Reality {
        noise: if draw.below(2) == 0 { 0.3 * draw.unit() } else { 0.0 },
        slower: if draw.below(3) == 0 { 0.5 + 3.0 * draw.unit() } else { 1.0 },
        slower_from: span.scaled(draw.unit()),
        withdrawn: if draw.below(3) == 0 { draw.unit() * 0.3 } else { 0.0 },
        withdrawn_within: slowest * 3,
        interference: if draw.below(4) == 0 { 1.0 + draw.unit() } else { 1.0 },
    };
    // All that is accepted, and what is in flight, one run after the other as slowly as may be: whoever is due later than that was starved.
    let ahead =
        (limits.queue_len_max * models + 3 * fleet.devices.iter().map(|device| device.workers.len()).sum::<usize>()) as u32;
    let starvation = (slowest * ROWS_LARGEST * ahead).scaled(4.0 * 3.0) + outage;
    let mut scenario = Scenario { fleet, index: Arc::new(index.clone()), limits, reality, faults, seed, starvation };
    let policy = POLICIES[draw.below(POLICIES.len())].0;
    if crate::schedule::policy(policy).is_ok_and(|policy| policy.foresees()) {
        scenario.index = Arc::new(foresee(index, seed));
    }
    let arrivals = Arrivals::new(pattern, mix, seed);
    Case { scenario, policy, arrivals, requests, priorities: draw.below(2) == 0 }
}

/// Times that the largest request takes the smallest batch.
const ROWS_LARGEST: u32 = 64;

impl Case {
    /// Its requests.
    pub fn trace(&self) -> impl Iterator<Item = Arrival> + use<> {
        let mut priority = Stream::named(self.scenario.seed, "priorities");
        let priorities = self.priorities;
        self.arrivals.clone().take(self.requests).map(move |mut arrival| {
            // Some requests are larger than every batch, none by much.
            arrival.rows = Batch::new(arrival.rows.rows().min(ROWS_LARGEST)).unwrap_or(Batch::ONE);
            if priorities {
                arrival.priority = Priority::new(priority.below(PRIORITIES as usize) as u8).unwrap_or_default();
            }
            arrival
        })
    }

    /// Runs it under all invariants.
    ///
    /// # Errors
    /// [`SimulateError::Violation`] for a bug.
    pub fn run(&self) -> Result<Figures, SimulateError> {
        let policy = policy(self.policy).expect("the name is out of the list");
        simulate(&self.scenario, self.trace(), policy, &mut |_| {})
    }
}

fn share(per_mille: u16) -> Share {
    Share::per_mille(per_mille).expect("a share of the list")
}

fn fleet(draw: &mut Stream) -> Fleet {
    let device = |draw: &mut Stream| {
        let mut workers = vec![Share::WHOLE];
        let mut overlaps = Vec::new();
        if draw.below(2) == 0 {
            workers.extend([share(500); 2]);
        }
        let quarters = workers.len() as u16;
        if draw.below(3) == 0 {
            workers.extend([share(250), share(250), share(125)]);
            // As core sets that all begin at the first core.
            if draw.below(2) == 0 {
                overlaps.push((quarters, quarters + 2));
                overlaps.extend((quarters > 1).then_some([0, 1, 2].map(|place| (1, quarters + place))).into_iter().flatten());
            }
        }
        let engines = [Engines::None, Engines::One, Engines::Two][draw.below(3)];
        FleetDevice { engines, gap: Nanos(draw.below(200_000) as u64), workers, overlaps }
    };
    Fleet { devices: (0..1 + draw.below(3)).map(|_| device(draw)).collect() }
}

/// Records of every model on most shares, and the slowest time among them.
fn index(draw: &mut Stream, fleet: &Fleet, models: usize, generation: u64) -> (Index, Nanos) {
    let mut measured = Vec::new();
    for model in 0..models {
        for (device, of) in fleet.devices.iter().enumerate() {
            let (fixed, per_row) = (10_000.0 + draw.unit() * 5e6, 1000.0 + draw.unit() * 1e6);
            let (serial, copied) = (draw.unit(), draw.unit() * 0.6);
            let batches = [1, 2, 4, 8, 16, 32];
            let count = 1 + draw.below(batches.len());
            let mut shares = of.workers.clone();
            shares.dedup();
            for share in shares {
                if share != Share::WHOLE && draw.below(4) == 0 {
                    continue;
                }
                let stretch = serial + (1.0 - serial) * 1000.0 / f64::from(share.as_per_mille());
                for batch in &batches[..count] {
                    let time = (fixed + per_row * f64::from(*batch)) * stretch;
                    let line = Line { per_row_ns: per_row * stretch * copied / 2.0, fixed_ns: fixed * stretch * copied / 2.0 };
                    measured.push(Measured {
                        model: ModelId(model as u16),
                        device: DeviceId(device as u16),
                        share,
                        batch: Batch::new(*batch).unwrap_or(Batch::ONE),
                        time: Nanos::from_f64(time),
                        spread: Nanos::from_f64(time * 0.02 * draw.unit()),
                        upload: Some(line),
                        download: Some(line),
                        energy_mj: None,
                    });
                }
            }
        }
    }
    let slowest = measured.iter().map(|record| record.time).max().unwrap_or(Nanos(1));
    let model = |at| Model { name: format!("m{at}"), weight: 1.0 };
    let devices = (0..fleet.devices.len()).map(|at| DeviceName(format!("d{at}"))).collect();
    let index = Index::new(generation, (0..models).map(model).collect(), devices, measured);
    (index.expect("drawn records are distinct and take time"), slowest)
}

/// Of some seeds the index with features of its models, some rows measured seldom, and what a small forest makes of that.
fn foresee(index: Index, seed: Seed) -> Index {
    let mut draw = Stream::named(seed, "features");
    if draw.below(3) > 0 {
        return index;
    }
    let mut facts = Facts::default();
    for curve in index.curves() {
        for row in &curve.rows {
            let flops = draw.below(1 << 30) as u64;
            facts.features.entry((curve.model, row.batch)).or_insert(Features { flops, ..Features::default() });
            facts.samples.insert((curve.model, curve.device, curve.share, row.batch), draw.below(8) as u32);
        }
    }
    for device in 0..index.devices().len() as u16 {
        facts.wakes.insert(DeviceId(device), Wake([1.0, 1.0, 1.5, 2.0, 2.0].map(|factor| factor * (1.0 + draw.unit()))));
    }
    index.with_facts(facts).taught(&Training { trees: 8, seed, ..Training::default() })
}

/// Losses, and the longest time that workers are away by them.
fn faults(draw: &mut Stream, fleet: &Fleet, span: Nanos, models: usize) -> (Vec<(Nanos, Fault)>, Nanos) {
    let (mut faults, mut outage) = (Vec::new(), Nanos::ZERO);
    let workers: usize = fleet.devices.iter().map(|device| device.workers.len()).sum();
    if draw.below(2) == 0 {
        for _ in 0..1 + draw.below(5) {
            let back_after = span.scaled(draw.unit() * 0.2);
            outage = outage + back_after;
            let worker = WorkerId(draw.below(workers) as u16);
            faults.push((span.scaled(draw.unit()), Fault::Worker { worker, back_after }));
        }
    }
    if draw.below(4) == 0 {
        let device = DeviceId(draw.below(fleet.devices.len()) as u16);
        faults.push((span.scaled(draw.unit()), Fault::Device { device }));
    }
    if draw.below(4) == 0 {
        let (index, _) = index(draw, fleet, models, 2);
        faults.push((span.scaled(draw.unit()), Fault::Records(Arc::new(index))));
    }
    (faults, outage)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2,000 seeds, 10⁵ in a campaign, or the one of `TUNEWRIGHT_SEED` again.
    #[test]
    fn no_promise_is_broken_whatever_happens() {
        let replay = std::env::var("TUNEWRIGHT_SEED").ok().map(|seed| seed.parse().expect("TUNEWRIGHT_SEED is a number"));
        let campaign = std::env::var("TUNEWRIGHT_CAMPAIGN").is_ok_and(|profile| profile == "campaign");
        let seeds = replay.map_or(0..if campaign { 100_000 } else { 2_000 }, |seed: u64| seed..seed + 1);
        let (mut answered, mut refused, mut late) = (0, 0, 0);
        for seed in seeds {
            let case = swarm(Seed(seed));
            let figures = case.run().unwrap_or_else(|error| {
                panic!("seed {seed}, policy {}: {error}; TUNEWRIGHT_SEED={seed} runs it again", case.policy)
            });
            let refusals = figures.refused_late + figures.refused_full + figures.refused_other;
            assert_eq!(figures.in_time + figures.late + refusals + figures.withdrawn, case.requests as u64, "seed {seed}");
            answered += figures.in_time;
            late += figures.late;
            refused += refusals;
        }
        if replay.is_none() {
            // The cases are of all kinds.
            assert!(answered > 100_000 && refused > 10_000 && late > 1_000, "{answered} {refused} {late}");
        }
    }

    #[test]
    fn one_seed_gives_the_same_figures_to_the_last_bit() {
        for seed in 0..50 {
            assert_eq!(swarm(Seed(seed)).run(), swarm(Seed(seed)).run(), "seed {seed}");
        }
    }
}
