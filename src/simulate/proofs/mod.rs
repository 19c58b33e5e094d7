//! What is claimed of the policies, shown in the simulator.

mod batching;
mod closing;
mod forest;
mod host;
mod kept;
mod sharing;

use super::{Arrival, Arrivals, Figures, Mix, Pattern, Reality, Scenario, Sizes, simulate};
use crate::schedule::{Admission, Engines, Fleet, FleetDevice, Index, Limits, ModelId, Nanos, policy};
use schema::{Batch, Seed, Share};
use std::sync::Arc;

/// Whether long proofs are wanted.
pub(super) fn campaign() -> bool {
    std::env::var("TUNEWRIGHT_CAMPAIGN").is_ok_and(|profile| profile == "campaign")
}

pub(super) const MS: u64 = 1_000_000;

/// One device.
pub(super) fn device(engines: Engines, workers: &[Share]) -> Fleet {
    Fleet { devices: vec![FleetDevice { engines, gap: Nanos::ZERO, workers: workers.to_vec(), overlaps: Vec::new() }] }
}

pub(super) fn scenario(fleet: Fleet, index: Index, admission: Admission) -> Scenario {
    let limits = Limits { admission, ..Limits::default() };
    let (reality, faults, seed) = (Reality::default(), Vec::new(), Seed(1));
    Scenario { fleet, index: Arc::new(index), limits, reality, faults, seed, starvation: Nanos::NEVER }
}

/// Single rows at random, of equally many requests of each model.
pub(super) fn poisson(per_s: f64, models: u16, within: Nanos) -> Arrivals {
    let sizes = Sizes::Fixed(Batch::ONE);
    let mix = (0..models).map(|model| Mix { model: ModelId(model), weight: 1.0, within, sizes }).collect();
    Arrivals::new(Pattern::Poisson { per_s }, mix, Seed(1))
}

pub(super) fn run(scenario: &Scenario, name: &str, arrivals: impl Iterator<Item = Arrival>) -> Figures {
    simulate(scenario, arrivals, policy(name).unwrap(), &mut |_| {}).unwrap()
}
