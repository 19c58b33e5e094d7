//! Tiles of a product in shared memory and registers: sizes, knobs and rules, and what every kernel with such tiles does with them.

use crate::epilogue::{Finish, activate};
use crate::turns::looped;
use cubecl::prelude::*;
use kernels::{Knob, Limits, Rule, Task};
use schema::{Config, KnobValue};

/// Of C: rows and columns of a cube.
pub const TILE: Knob =
    Knob::pairs("tile", &[(8, 32), (16, 16), (16, 64), (32, 32), (32, 64), (64, 32), (64, 64), (128, 64), (64, 128), (128, 128)]);

/// Of C: rows and columns of a unit.
pub const UNIT: Knob = Knob::pairs("unit", &[(1, 1), (2, 2), (1, 4), (4, 1), (2, 4), (4, 4), (4, 8), (8, 4), (8, 8)]);

/// Depth of a slab.
pub const DEPTH: Knob = Knob::ints("k", &[4, 8, 16, 32]);

/// Slabs of each operand in shared memory: with two, units fetch the next one while they compute with this one.
pub const BUFFERS: Knob = Knob::ints("buffers", &[1, 2]);

/// The knobs of a [`Tiling`].
pub const TILING_KNOBS: &[Knob] = &[TILE, UNIT, DEPTH, BUFFERS];

/// Values for them.
pub fn tiling_default(_: &Task, _: &Limits) -> Vec<KnobValue> {
    vec![KnobValue::Pair(32, 32), KnobValue::Pair(4, 4), KnobValue::Int(16), KnobValue::Int(1)]
}

/// The unit's tile divides the cube's.
pub const DIVIDES: Rule =
    Rule { reason: "the unit's tile does not divide the cube's", holds: |_, config, _| Tiling::of(config).is_some() };

/// Values of one slab that a unit brings at most: the loop is unrolled, and drivers compile long code slowly.
const LOADS_MAX: u32 = 16;

/// Every unit brings as much to shared memory as the others, and not much.
pub const SHARES_OUT: Rule = Rule {
    reason: "the units of a cube do not share the slabs out evenly, or each brings too much",
    holds: |_, config, _| {
        Tiling::of(config).is_some_and(|t| {
            let units = t.units();
            let evenly = |values: u32| values.is_multiple_of(units) && values / units <= LOADS_MAX;
            evenly(t.rows * t.k) && evenly(t.columns * t.k)
        })
    },
};

/// A cube of the device has that many units and that much shared memory.
pub const FITS: Rule = Rule {
    reason: "more units than a cube of the device has, or more shared memory",
    holds: |_, config, limits| {
        Tiling::of(config).zip(limits.gpu).is_some_and(|(t, gpu)| {
            t.units() <= gpu.units_per_cube
                && t.columns / t.unit_columns <= gpu.cube_dim[0]
                && t.rows / t.unit_rows <= gpu.cube_dim[1]
                && t.shared_bytes() <= gpu.shared_bytes
        })
    },
};

/// The sizes of a tile, as part of the kernel's identity.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tiling {
    /// Of C, for a cube.
    pub rows: u32,
    pub columns: u32,
    /// Of C, for a unit.
    pub unit_rows: u32,
    pub unit_columns: u32,
    /// Depth of a slab.
    pub k: u32,
    /// Slabs of each operand in shared memory.
    pub buffers: u32,
}

impl Tiling {
    /// The tiling a config names; `None` where the tiles do not divide.
    pub fn of(config: &Config) -> Option<Tiling> {
        let ((rows, columns), (unit_rows, unit_columns)) = (config.pair("tile")?, config.pair("unit")?);
        let (k, buffers) = (config.int("k")?, config.int("buffers")?);
        let whole = rows % unit_rows == 0 && columns % unit_columns == 0;
        let [rows, columns, unit_rows, unit_columns, k, buffers] =
            [rows, columns, unit_rows, unit_columns, k, buffers].map(|value| value as u32);
        whole.then_some(Tiling { rows, columns, unit_rows, unit_columns, k, buffers })
    }

    /// Of a cube.
    pub fn units(self) -> u32 {
        self.rows / self.unit_rows * (self.columns / self.unit_columns)
    }

    /// Turns of a unit's loops over `k` terms of each sum.
    pub fn turns(self, k: usize) -> usize {
        looped(k.div_ceil(self.k as usize), looped(self.k as usize, 0))
    }

    /// All slabs.
    pub fn shared_bytes(self) -> u32 {
        (self.rows + self.columns) * self.k * self.buffers * 4
    }
}

/// A unit's sums, all zero.
#[cube]
pub fn zeros<F: Float>(#[comptime] t: Tiling) -> Array<F> {
    let mut sums = Array::<F>::new(comptime!((t.unit_rows * t.unit_columns) as usize));
    #[unroll]
    for i in 0..comptime!((t.unit_rows * t.unit_columns) as usize) {
        sums[i] = F::new(0.0);
    }
    sums
}

/// The line and the place along k of a value that a unit brings to a slab of so many `lines`. Where lines lie `deep`, k innermost,
/// neighbours read along k.
#[cube]
pub fn spot(load: u32, #[comptime] lines: u32, #[comptime] deep: bool, #[comptime] t: Tiling) -> (u32, u32) {
    let i = load * comptime!(t.units()) + UNIT_POS;
    if comptime!(deep) { (i / t.k, i % t.k) } else { (i % lines, i / lines) }
}

/// What a unit brings to a slab of a matrix, from line `first` and place `first_k` on; beyond `count` lines and `k` places there are zeros.
#[cube]
#[allow(clippy::too_many_arguments, reason = "the matrix, the place in it and the slab")]
pub fn fetch<F: Float>(
    matrix: &Array<F>,
    start: u32,
    first: u32,
    count: u32,
    first_k: u32,
    k: u32,
    #[comptime] lines: u32,
    #[comptime] deep: bool,
    #[comptime] t: Tiling,
) -> Array<F> {
    let mut held = Array::<F>::new(comptime!((lines * t.k / t.units()) as usize));
    #[unroll]
    for load in 0..comptime!(lines * t.k / t.units()) {
        let (line, depth) = spot(load, lines, deep, t);
        let (at_line, at_k) = (first + line, first_k + depth);
        let mut value = F::new(0.0);
        if at_line < count && at_k < k {
            let at = if comptime!(deep) { at_line * k + at_k } else { at_k * count + at_line };
            value = matrix[(start + at) as usize];
        }
        held[comptime!(load as usize)] = value;
    }
    held
}

/// Writes what a unit brings to the slab that stands at `place`. Slabs have k outermost, so that units read neighbours.
#[cube]
pub fn store<F: Float>(
    held: &Array<F>,
    slabs: &mut SharedMemory<F>,
    place: u32,
    #[comptime] lines: u32,
    #[comptime] deep: bool,
    #[comptime] t: Tiling,
) {
    #[unroll]
    for load in 0..comptime!(lines * t.k / t.units()) {
        let (line, depth) = spot(load, lines, deep, t);
        slabs[((place * t.k + depth) * lines + line) as usize] = held[comptime!(load as usize)];
    }
}

/// Adds the product of the slabs at `place` to a unit's sums: its rows are neighbours, its columns a cube's width apart, so that units
/// that stand side by side read and write side by side.
#[cube]
pub fn add_slab<F: Float>(a: &SharedMemory<F>, b: &SharedMemory<F>, place: u32, sums: &mut Array<F>, #[comptime] t: Tiling) {
    let mut rows = Array::<F>::new(comptime!(t.unit_rows as usize));
    let mut columns = Array::<F>::new(comptime!(t.unit_columns as usize));
    for depth in 0..t.k {
        let at = place * t.k + depth;
        #[unroll]
        for i in 0..t.unit_rows {
            rows[comptime!(i as usize)] = a[(at * t.rows + UNIT_POS_Y * t.unit_rows + i) as usize];
        }
        #[unroll]
        for j in 0..t.unit_columns {
            columns[comptime!(j as usize)] =
                b[(at * t.columns + UNIT_POS_X + j * comptime!(t.columns / t.unit_columns)) as usize];
        }
        #[unroll]
        for i in 0..t.unit_rows {
            #[unroll]
            for j in 0..t.unit_columns {
                sums[comptime!((i * t.unit_columns + j) as usize)] +=
                    rows[comptime!(i as usize)] * columns[comptime!(j as usize)];
            }
        }
    }
}

/// Bias by channel, residual by element, activation; `extra` holds those of the two that there are.
#[cube]
pub fn finished<F: Float>(sum: F, extra: &Sequence<Array<F>>, channel: u32, at: u32, #[comptime] finish: Finish) -> F {
    let mut value = sum;
    if comptime!(finish.bias) {
        value += extra.index(0usize)[channel as usize];
    }
    if comptime!(finish.residual) {
        value += extra.index(comptime!(usize::from(finish.bias)))[at as usize];
    }
    activate::<F>(value, comptime!(finish.act))
}
