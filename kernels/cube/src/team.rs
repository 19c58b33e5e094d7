//! What the units of a cube find out together.

use crate::turns::looped;
use cubecl::prelude::*;
use kernels::{Knob, Limits, Rule};
use schema::{Config, KnobValue};

/// How the units of a cube share rows out, as part of a kernel's identity.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub struct Team {
    /// Rows of a cube. Units of neighbouring rows stand side by side.
    pub across: u32,
    /// Units of each row: a power of two, so that halves can be folded onto each other.
    pub along: u32,
}

/// Rows of a cube, and units of each.
pub const TEAM_UNITS: Knob = Knob::pairs(
    "units",
    &[(1, 16), (1, 32), (1, 64), (1, 128), (1, 256), (8, 1), (32, 1), (128, 1), (8, 8), (32, 4), (32, 8), (64, 4)],
);

/// The only knob of variants whose cubes work as teams.
pub const TEAM_KNOBS: &[Knob] = &[TEAM_UNITS];

/// A cube of the device has that many units, and room for a value of each.
pub const TEAM_FITS: Rule = Rule {
    reason: "more units than a cube of the device has, or more shared memory",
    holds: |_, config, limits| {
        Team::of(config).zip(limits.gpu).is_some_and(|(team, gpu)| {
            team.across * team.along <= gpu.units_per_cube
                && team.across * team.along <= gpu.cube_dim[0]
                && team.shared() * size_of::<f32>() <= gpu.shared_bytes as usize
        })
    },
};

/// Rows that make it worth to give each to one unit.
const ROWS_MANY: usize = 16;
/// A row that one unit may go along alone.
const ROW_SHORT: usize = 16_384;

impl Team {
    /// The team a config names.
    pub fn of(config: &Config) -> Option<Team> {
        let (across, along) = config.pair("units")?;
        Some(Team { across: across as u32, along: along as u32 })
    }

    /// A team of so many units for one row.
    pub fn of_row(units: u32) -> Team {
        Team { across: 1, along: units }
    }

    /// Places of shared memory, one for each unit.
    pub fn shared(self) -> usize {
        (self.across * self.along) as usize
    }

    /// The units of a cube, all in a line: a driver that computes on the processor fills its lanes with neighbours along the first axis
    /// only.
    pub fn dim(self) -> CubeDim {
        CubeDim::new_1d(self.across * self.along)
    }

    /// Turns of a unit whose team passes so often over a row of that length.
    pub fn turns(self, passes: usize, length: usize) -> usize {
        passes * looped(length.div_ceil(self.along.max(1) as usize), 0)
    }
}

/// What teams do with `rows` rows of that length without tuning. Units read side by side: along a row, or across where `neighbours` of
/// different rows lie side by side. A driver that computes on the processor pays for each meeting of a cube's units: there a row is one
/// unit's.
pub fn team_default(rows: usize, length: usize, neighbours: bool, limits: &Limits) -> Vec<KnobValue> {
    let software = limits.gpu.is_some_and(|gpu| gpu.software);
    let many = rows >= ROWS_MANY;
    vec![match (many && length <= ROW_SHORT, many && neighbours) {
        (true, _) if software => KnobValue::Pair(8, 1),
        (_, true) => KnobValue::Pair(32, 8),
        _ => KnobValue::Pair(1, 32),
    }]
}

/// Sums of all units of a row, added up for the first of them. Called once by a kernel.
#[cube]
pub fn fold_sums<F: Float>(sums: &mut Array<F>, #[comptime] count: u32, #[comptime] team: Team) {
    if comptime!(team.along > 1) {
        let units = comptime!(team.across * team.along);
        let mut shared = SharedMemory::<F>::new(comptime!((count * units) as usize));
        #[unroll]
        for i in 0..count {
            shared[(i * units + UNIT_POS) as usize] = sums[comptime!(i as usize)];
        }
        sync_cube();
        #[unroll]
        for round in 0..comptime!(team.along.ilog2()) {
            let half = comptime!(team.along >> (round + 1));
            if place_of_unit(team) < half {
                #[unroll]
                for i in 0..count {
                    let other = shared[(i * units + UNIT_POS + half * team.across) as usize];
                    shared[(i * units + UNIT_POS) as usize] += other;
                }
            }
            sync_cube();
        }
        #[unroll]
        for i in 0..count {
            sums[comptime!(i as usize)] = shared[(i * units + row_of_unit(team)) as usize];
        }
    }
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

/// Which of its cube's rows a unit works at.
#[cube]
pub fn row_of_unit(#[comptime] team: Team) -> u32 {
    UNIT_POS % team.across
}

/// Which of its row's units it is.
#[cube]
pub fn place_of_unit(#[comptime] team: Team) -> u32 {
    UNIT_POS / team.across
}

/// The values of all units of a row, folded; each of them gets the result. `shared` has a place for each unit of the cube.
#[cube]
pub fn fold_all<F: Float>(own: F, shared: &mut SharedMemory<F>, #[comptime] team: Team, #[comptime] how: Fold) -> F {
    let mut all = own;
    if comptime!(team.along > 1) {
        shared[UNIT_POS as usize] = own;
        sync_cube();
        #[unroll]
        for round in 0..comptime!(team.along.ilog2()) {
            let half = comptime!(team.along >> (round + 1));
            if place_of_unit(team) < half {
                let other = shared[(UNIT_POS + half * team.across) as usize];
                shared[UNIT_POS as usize] = fold::<F>(shared[UNIT_POS as usize], other, how);
            }
            sync_cube();
        }
        all = shared[row_of_unit(team) as usize];
        // Nobody may write the next round's values before everybody has read these.
        sync_cube();
    }
    all
}
