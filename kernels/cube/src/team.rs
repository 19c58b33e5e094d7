//! What the units of a cube find out together.

use crate::operator::units_of;
use crate::turns::looped;
use cubecl::prelude::*;
use kernels::{Knob, Limits, Task};
use schema::{Config, KnobValue};

/// The only knob of variants whose cubes work as a team, its units: powers of two, so that halves can be folded onto each other.
pub const TEAM_KNOBS: &[Knob] = &[Knob::ints("units", &[16, 32, 64, 128, 256])];

/// Its default.
pub fn team_default(_: &Task, _: &Limits) -> Vec<KnobValue> {
    vec![KnobValue::Int(32)]
}

/// Turns of a unit whose team passes so often over a row of that length.
pub fn turns_of_passes(passes: usize, length: usize, config: &Config) -> usize {
    passes * looped(length.div_ceil(units_of(config).max(1) as usize), 0)
}

/// How values are folded.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum Fold {
    Sum,
    Max,
    Min,
    Product,
}

/// Where a fold starts.
#[cube]
pub fn start<F: Float>(#[comptime] fold: Fold) -> F {
    match comptime!(fold) {
        Fold::Sum => F::new(0.0),
        // Infinity is no constant of every language that kernels are compiled to.
        Fold::Max => F::new(-3.4028235e38),
        Fold::Min => F::new(3.4028235e38),
        Fold::Product => F::new(1.0),
    }
}

/// Two values folded.
#[cube]
pub fn fold<F: Float>(x: F, y: F, #[comptime] fold: Fold) -> F {
    match comptime!(fold) {
        Fold::Sum => x + y,
        Fold::Max => max(x, y),
        Fold::Min => min(x, y),
        Fold::Product => x * y,
    }
}

/// The values of all units of the cube, folded; every unit gets the result. `shared` has a place for each unit.
#[cube]
pub fn fold_all<F: Float>(own: F, shared: &mut SharedMemory<F>, #[comptime] units: u32, #[comptime] how: Fold) -> F {
    shared[UNIT_POS as usize] = own;
    sync_cube();
    #[unroll]
    for round in 0..comptime!(units.ilog2()) {
        let half = comptime!(units >> (round + 1));
        if UNIT_POS < half {
            let other = shared[(UNIT_POS + half) as usize];
            shared[UNIT_POS as usize] = fold::<F>(shared[UNIT_POS as usize], other, how);
        }
        sync_cube();
    }
    let all = shared[0];
    // Nobody may write the next round's values before everybody has read these.
    sync_cube();
    all
}
