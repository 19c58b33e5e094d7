//! A block of C for each unit, in registers and straight from global memory: nothing is shared, and units never wait for each other.

use super::tiling::finished;
use super::{FITS_BUFFERS, Form, Prepared, folded, launchable};
use crate::epilogue::{pick, written_max};
use crate::gpu::{Buffer, Gpu, with_client};
use crate::operator::refuse;
use crate::turns::{looped, turns_end};
use crate::{CubeKernel, CubeVariant, uniform};
use cubecl::prelude::*;
use kernels::{BuildError, Knob, Limits, Request, Rule, Task};
use schema::{Config, KnobValue};

pub static BLOCKS: CubeVariant = CubeVariant {
    id: "gemm.cube_blocks",
    revision: 2,
    knobs: &[
        // Rows and columns of C for a unit.
        Knob::pairs(
            "block",
            &[(1, 1), (1, 4), (1, 8), (4, 1), (4, 4), (4, 8), (8, 2), (8, 4), (8, 8), (16, 8), (16, 16), (32, 16)],
        ),
        Knob::ints("units", &[8, 16, 32, 64, 128]),
        // Steps along k that are written out one after the other.
        Knob::ints("k", &[1, 2, 4]),
    ],
    rules: &[
        FITS_BUFFERS,
        turns_end!(turns),
        Rule {
            reason: "so much is written out that drivers compile it for long or keep it outside of registers",
            holds: |_, config, limits| Blocks::of(config).is_some_and(|t| t.rows * t.columns * t.k <= written_max(limits)),
        },
        Rule {
            reason: "a block larger than C, more units than a cube of the device has, or more cubes than it can launch",
            holds: |task, config, limits| {
                let Some(((t, shape), gpu)) = Blocks::of(config).zip(folded(task)).zip(limits.gpu) else { return false };
                t.rows as usize <= shape.m.next_power_of_two()
                    && t.columns as usize <= shape.n.next_power_of_two()
                    && t.units <= gpu.units_per_cube.min(gpu.cube_dim[0])
                    && launchable(shape.n.div_ceil((t.columns * t.units) as usize), limits)
                    && launchable(shape.m.div_ceil(t.rows as usize), limits)
                    && launchable(shape.batch(), limits)
            },
        },
    ],
    default,
    build,
};

/// Blocks that read little, up to a size that compiles in a second or, for long products, in two; units as a processor has lanes.
fn default(task: &Task, limits: &Limits) -> Vec<KnobValue> {
    let (extents, products) = folded(task).map_or(([1; 3], 1), |shape| {
        let extents = [shape.batch(), shape.m, shape.n];
        (extents, extents.iter().fold(shape.k, |all, &extent| all.saturating_mul(extent)))
    });
    let most = if products >= PRODUCTS_LONG { written_max(limits) } else { written_max(limits) / 2 };
    let (rows, columns) = least_read(extents, most);
    // A turn of larger blocks has enough to do.
    let k = if rows * columns > 64 { 1 } else { 2 };
    vec![KnobValue::Pair(rows as i64, columns as i64), KnobValue::Int(LANES as i64), KnobValue::Int(k)]
}

/// Of a processor.
pub const LANES: usize = 8;

/// Products of all elements that take Mesa's lavapipe a tenth of a second.
const PRODUCTS_LONG: usize = 1 << 26;

/// Cubes that leave no core without one for long.
pub const CUBES_MANY: usize = 8;

/// Rows and columns of blocks, in cubes of a processor's lanes, that read least of so many matrices of so many rows and columns, those beyond
/// the edges included, once there are enough cubes. Drivers that compute on the processor read lane by lane, so that what counts is how
/// often each value is used. No block has more results than `most`.
pub fn least_read([matrices, m, n]: [usize; 3], most: u32) -> (usize, usize) {
    let blocks = [(32, 16), (16, 16), (16, 8), (8, 8), (8, 4), (8, 2), (4, 8), (4, 4), (1, 8), (1, 4), (4, 1), (1, 1)];
    let fits = |&(rows, columns): &(usize, usize)| {
        rows <= m.next_power_of_two() && columns <= n.next_power_of_two() && rows * columns <= most as usize
    };
    let cost = |&(rows, columns): &(usize, usize)| {
        let cubes = matrices * m.div_ceil(rows) * n.div_ceil(columns * LANES);
        (cubes < CUBES_MANY, cubes * (rows + columns))
    };
    blocks.into_iter().filter(fits).min_by_key(cost).unwrap_or((1, 1))
}

fn turns(task: &Task, config: &Config) -> Option<usize> {
    let (shape, t) = (folded(task)?, Blocks::of(config)?);
    Some(looped(shape.k / t.k as usize, 0) + looped(shape.k % t.k as usize, 0) + looped(t.rows as usize, 0))
}

/// The sizes of a config, as part of the kernel's identity.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
struct Blocks {
    rows: u32,
    columns: u32,
    units: u32,
    k: u32,
}

impl Blocks {
    fn of(config: &Config) -> Option<Blocks> {
        let ((rows, columns), units, k) = (config.pair("block")?, config.int("units")?, config.int("k")?);
        Some(Blocks { rows: rows as u32, columns: columns as u32, units: units as u32, k: k as u32 })
    }
}

struct Kernel {
    prepared: Prepared,
    blocks: Blocks,
}

fn build(request: &Request<'_>, gpu: &Gpu) -> Result<Box<dyn CubeKernel>, BuildError> {
    let blocks = Blocks::of(request.config).ok_or_else(|| refuse(request.task, &"it names no block"))?;
    Ok(Box::new(Kernel { prepared: Prepared::new(request, gpu)?, blocks }))
}

impl CubeKernel for Kernel {
    fn prepared_bytes(&self) -> usize {
        self.prepared.bytes()
    }

    fn launch(&self, gpu: &Gpu, inputs: &[Option<Buffer>], outputs: &[Buffer], _: &[Buffer]) {
        let (a, extra) = self.prepared.weights.operands(inputs);
        let (shape, t) = (&self.prepared.shape, self.blocks);
        for (b, first, columns) in self.prepared.launches(inputs) {
            let count =
                CubeCount::Static(columns.div_ceil(t.columns * t.units), (shape.m as u32).div_ceil(t.rows), shape.batch() as u32);
            // SAFETY: every index is within its operand. `starts` has two entries for each product, of which there are as many as
            // cubes along z, and they are starts of whole matrices of A and B. Rows beyond m and columns beyond n are computed as the
            // last one and k is walked once, so A and B are read inside of their matrix; C, bias and residual are touched only where
            // row < m and column < n.
            with_client!(gpu, client => unsafe {
                blocks_of_c::launch_unchecked::<f32, _>(
                    client,
                    count,
                    CubeDim::new_1d(t.units),
                    a.array(),
                    b.array(),
                    Buffer::sequence(&extra),
                    outputs[0].array(),
                    self.prepared.starts.words(),
                    shape.m as u32,
                    columns,
                    shape.k as u32,
                    first,
                    shape.n as u32,
                    shape.alpha,
                    t,
                    self.prepared.form(),
                )
            });
        }
    }
}

/// B has `n` columns, which are those of C from `first`; C is `width` wide. A unit's rows are neighbours, its columns a cube's width apart, so
/// that units that stand side by side read and write side by side.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments, reason = "what a kernel is launched with")]
fn blocks_of_c<F: Float + CubeElement>(
    a: &Array<F>,
    b: &Array<F>,
    extra: &Sequence<Array<F>>,
    c: &mut Array<F>,
    starts: &Array<u32>,
    m: u32,
    n: u32,
    k: u32,
    first: u32,
    width: u32,
    alpha: F,
    #[comptime] t: Blocks,
    #[comptime] form: Form,
) {
    let (m, n, k, first, width, alpha) = (
        uniform::number(m),
        uniform::number(n),
        uniform::number(k),
        uniform::number(first),
        uniform::number(width),
        uniform::float::<F>(alpha),
    );
    let first_row = CUBE_POS_Y * t.rows;
    let first_column = CUBE_POS_X * comptime!(t.columns * t.units) + UNIT_POS_X;
    let start_a = starts[(CUBE_POS_Z * 2) as usize];
    let start_b = starts[(CUBE_POS_Z * 2 + 1) as usize];
    let step_a = if comptime!(form.trans_a) { m } else { 1u32.runtime() };
    let step_b = if comptime!(form.trans_b) { 1u32.runtime() } else { n };
    // Where the rows of A and the columns of B begin; those beyond the last are computed as it and not stored.
    let mut rows = Array::<u32>::new(comptime!(t.rows as usize));
    let mut columns = Array::<u32>::new(comptime!(t.columns as usize));
    #[unroll]
    for i in 0..t.rows {
        let row = min(first_row + i, m - 1);
        rows[comptime!(i as usize)] = start_a + if comptime!(form.trans_a) { row } else { row * k };
    }
    #[unroll]
    for j in 0..t.columns {
        let column = min(first_column + j * t.units, n - 1);
        columns[comptime!(j as usize)] = start_b + if comptime!(form.trans_b) { column * k } else { column };
    }
    let mut sums = Array::<F>::new(comptime!((t.rows * t.columns) as usize));
    #[unroll]
    for i in 0..comptime!((t.rows * t.columns) as usize) {
        sums[i] = F::new(0.0);
    }
    let whole = k / t.k;
    for round in 0..whole {
        #[unroll]
        for d in 0..t.k {
            add_step::<F>(a, b, &rows, &columns, round * t.k + d, step_a, step_b, &mut sums, t.rows, t.columns);
        }
    }
    for depth in whole * t.k..k {
        add_step::<F>(a, b, &rows, &columns, depth, step_a, step_b, &mut sums, t.rows, t.columns);
    }
    for i in 0..min(t.rows, m - first_row) {
        #[unroll]
        for j in 0..t.columns {
            let (row, column) = (first_row + i, first_column + j * t.units);
            if column < n {
                let at = (CUBE_POS_Z * m + row) * width + first + column;
                let sum = pick::<F>(&sums, i, j, t.columns, t.rows);
                c[at as usize] = finished::<F>(sum * alpha, extra, first + column, at, comptime!(form.finish));
            }
        }
    }
}

/// Adds the products of a step along k of so many rows of A and columns of B, which begin there.
#[cube]
#[allow(clippy::too_many_arguments, reason = "the matrices, the place in them and the block")]
pub fn add_step<F: Float>(
    a: &Array<F>,
    b: &Array<F>,
    rows: &Array<u32>,
    columns: &Array<u32>,
    depth: u32,
    step_a: u32,
    step_b: u32,
    sums: &mut Array<F>,
    #[comptime] block_rows: u32,
    #[comptime] block_columns: u32,
) {
    let mut values = Array::<F>::new(comptime!(block_columns as usize));
    #[unroll]
    for j in 0..block_columns {
        values[comptime!(j as usize)] = b[(columns[comptime!(j as usize)] + depth * step_b) as usize];
    }
    #[unroll]
    for i in 0..block_rows {
        let value = a[(rows[comptime!(i as usize)] + depth * step_a) as usize];
        #[unroll]
        for j in 0..block_columns {
            sums[comptime!((i * block_columns + j) as usize)] += value * values[comptime!(j as usize)];
        }
    }
}
