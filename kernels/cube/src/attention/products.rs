//! The scores of all queries and keys as one product, their softmax, and the product with V: three launches with the scores between them in
//! global memory. In the products a unit has a block of its own, as in `gemm.cube_blocks`, and waits for no other.

use super::operands::{K, NUMBERS, Q, V, Y, first, keys_seen, numbers, of_mask};
use crate::gemm::{add_step, launchable};
use crate::gpu::{Buffer, Gpu, with_client};
use crate::operator::{PLAIN, UNITS, countable, cubes_for, refuse, units_of, upload_words};
use crate::team::{Fold, Team, fold_all, place_of_unit, row_of_unit, start};
use crate::turns::{looped, turns_end};
use crate::{CubeKernel, CubeVariant, uniform};
use cubecl::prelude::*;
use kernels::attention::Shape;
use kernels::{BuildError, Knob, Limits, Request, Rule, Task};
use schema::{Config, KnobValue};

pub static PRODUCTS: CubeVariant = CubeVariant {
    id: "attention.cube_products",
    revision: 2,
    knobs: &[
        // Rows and columns of a product for a unit.
        Knob::pairs("block", &[(1, 1), (1, 4), (2, 2), (4, 4), (4, 8), (8, 2), (8, 4), (8, 8), (16, 4)]),
        Knob::ints("units", &[8, 16, 32, 64, 128]),
        // Rows of a cube and units of each, for the softmax.
        Knob::pairs("team", &[(8, 1), (32, 1), (1, 32), (1, 128), (8, 8)]),
    ],
    rules: &[
        PLAIN,
        UNITS,
        turns_end!(turns),
        Rule {
            reason: "a team has more units than a cube of the device, or takes more shared memory",
            holds: |task, config, limits| {
                Form::of(task, config).zip(limits.gpu).is_some_and(|(form, gpu)| {
                    form.team.across * form.team.along <= gpu.units_per_cube.min(gpu.cube_dim[0])
                        && form.team.shared() * size_of::<f32>() <= gpu.shared_bytes as usize
                })
            },
        },
        Rule {
            reason: "the scores are larger than a buffer of the device or than its kernels count, or there are more cubes than it can launch",
            holds: |task, config, limits| {
                let Some(((shape, form), gpu)) = Shape::of(task).ok().zip(Form::of(task, config)).zip(limits.gpu) else {
                    return false;
                };
                let cubes = |columns: usize| launchable(columns.div_ceil(form.columns_of_cube() as usize), limits);
                countable(scores(&shape))
                    && (scores(&shape) * size_of::<f32>()) as u64 <= gpu.buffer_bytes
                    && cubes(shape.keys)
                    && cubes(shape.width)
                    && launchable(shape.queries.div_ceil(form.rows as usize), limits)
                    && launchable(shape.images * shape.heads, limits)
            },
        },
    ],
    default,
    build,
};

/// Of all heads.
fn scores(shape: &Shape) -> usize {
    shape.images * shape.heads * shape.queries * shape.keys
}

/// The largest block that both products fill; units as a processor has lanes, and a row of scores for each.
fn default(task: &Task, _: &Limits) -> Vec<KnobValue> {
    let units = 8;
    let shape = Shape::of(task).ok();
    let (rows, columns) = shape.map_or((1, 1), |shape| (shape.queries, shape.keys.min(shape.width) / units));
    let fits = |&(r, c): &(usize, usize)| r <= rows && c <= columns;
    let (rows, columns) = [(8, 8), (8, 4), (8, 2), (4, 4), (2, 2), (1, 4)].into_iter().find(fits).unwrap_or((1, 1));
    vec![KnobValue::Pair(rows as i64, columns as i64), KnobValue::Int(units as i64), KnobValue::Pair(8, 1)]
}

/// Of the launch with the most.
fn turns(task: &Task, config: &Config) -> Option<usize> {
    let (shape, form) = (Shape::of(task).ok()?, Form::of(task, config)?);
    let products = looped(shape.depth, 0).max(looped(shape.keys, 0));
    Some(products.max(form.team.turns(3, shape.keys)))
}

/// What is computed, as part of the kernels' identity.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
struct Form {
    /// Of a unit's block.
    rows: u32,
    columns: u32,
    units: u32,
    team: Team,
    keys: u32,
    masked: bool,
    causal: bool,
}

impl Form {
    fn of(task: &Task, config: &Config) -> Option<Form> {
        let (shape, (rows, columns), (across, along)) = (Shape::of(task).ok()?, config.pair("block")?, config.pair("team")?);
        Some(Form {
            rows: rows as u32,
            columns: columns as u32,
            units: units_of(config),
            team: Team { across: across as u32, along: along as u32 },
            keys: shape.keys as u32,
            masked: shape.mask.is_some(),
            causal: shape.causal,
        })
    }

    fn columns_of_cube(self) -> u32 {
        self.columns * self.units
    }
}

/// Which of the two products.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
enum Product {
    /// Q and the transpose of K.
    Scores,
    /// The weights and V.
    Values,
}

struct Products {
    form: Form,
    /// See [`numbers`].
    geometry: Buffer,
    shape: Shape,
}

fn build(request: &Request<'_>, gpu: &Gpu) -> Result<Box<dyn CubeKernel>, BuildError> {
    let (task, shape) = (request.task, Shape::of(request.task)?);
    let form = Form::of(task, request.config).ok_or_else(|| refuse(task, &"it says nothing of blocks and teams"))?;
    Ok(Box::new(Products { form, geometry: upload_words(task, gpu, &numbers(&shape))?, shape }))
}

impl Products {
    /// One of the products; `mask` is that of the scores.
    fn product(&self, gpu: &Gpu, [a, b, c]: [&Buffer; 3], mask: &[Buffer], product: Product) {
        let (shape, form) = (&self.shape, self.form);
        let (columns, scale) = match product {
            Product::Scores => (shape.keys, shape.scale),
            Product::Values => (shape.width, 1.0),
        };
        let columns = columns as u32;
        let count = CubeCount::Static(
            columns.div_ceil(form.columns_of_cube()),
            (shape.queries as u32).div_ceil(form.rows),
            (shape.images * shape.heads) as u32,
        );
        // SAFETY: every index is within its operand. Cubes along z are the heads of all images, whose matrices and mask `numbers` places in
        // their operands, and the scores' one after the other in `scratch`. Rows beyond the queries and columns beyond the last are
        // computed as the last one and touch neither mask nor result; steps end at depth and keys.
        with_client!(gpu, client => unsafe {
            blocks_of_product::launch_unchecked::<f32, _>(
                client,
                count,
                CubeDim::new_1d(form.units),
                a.array(),
                b.array(),
                Buffer::sequence(mask),
                c.array(),
                self.geometry.words(),
                columns,
                scale,
                product,
                form,
            )
        });
    }
}

impl CubeKernel for Products {
    fn prepared_bytes(&self) -> usize {
        self.geometry.bytes()
    }

    fn scratch_bytes(&self) -> Vec<usize> {
        vec![scores(&self.shape) * size_of::<f32>()]
    }

    fn launch(&self, gpu: &Gpu, inputs: &[Option<Buffer>], outputs: &[Buffer], scratch: &[Buffer]) {
        let [q, k, v] = [0, 1, 2].map(|i| inputs[i].as_ref().expect("the task has Q, K and V"));
        let mask: Vec<Buffer> = inputs.iter().skip(3).flatten().cloned().collect();
        let (form, rows) = (self.form, (self.shape.images * self.shape.heads * self.shape.queries) as u32);
        self.product(gpu, [q, k, &scratch[0]], &mask, Product::Scores);
        // SAFETY: units of rows beyond the last see no key and write nothing; the others stay in their row, of which `scratch` has so many.
        with_client!(gpu, client => unsafe {
            weights_of_rows::launch_unchecked::<f32, _>(
                client,
                cubes_for(rows, form.team.across, gpu),
                form.team.dim(),
                scratch[0].array(),
                self.geometry.words(),
                rows,
                form,
            )
        });
        self.product(gpu, [&scratch[0], v, &outputs[0]], &[], Product::Values);
    }
}

/// A unit's rows are neighbours, its columns a cube's width apart, so that units that stand side by side read and write side by side.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments, reason = "what a kernel is launched with")]
fn blocks_of_product<F: Float + CubeElement>(
    a: &Array<F>,
    b: &Array<F>,
    mask: &Sequence<Array<F>>,
    c: &mut Array<F>,
    g: &Array<u32>,
    width: u32,
    scale: F,
    #[comptime] product: Product,
    #[comptime] form: Form,
) {
    let (width, scale) = (uniform::number(width), uniform::float::<F>(scale));
    let g = uniform::words(g, NUMBERS);
    let (heads, queries) = (g[0], g[1]);
    let (head, image) = (CUBE_POS_Z % heads, CUBE_POS_Z / heads);
    let group = head / g[4];
    let of_scores = CUBE_POS_Z * queries * form.keys;
    let scored = comptime!(product == Product::Scores);
    let (start_a, pitch_a) =
        if comptime!(scored) { (first(&g, image, head, Q), g[comptime!(Q + 3)]) } else { (of_scores, u32::new(0) + form.keys) };
    let (start_b, pitch_b, step_b) = if comptime!(scored) {
        (first(&g, image, group, K), g[comptime!(K + 3)], 1u32.runtime())
    } else {
        (first(&g, image, group, V), 1u32.runtime(), g[comptime!(V + 3)])
    };
    let (start_c, pitch_c) =
        if comptime!(scored) { (of_scores, u32::new(0) + form.keys) } else { (first(&g, image, head, Y), g[comptime!(Y + 3)]) };
    let first_row = CUBE_POS_Y * form.rows;
    let first_column = CUBE_POS_X * comptime!(form.columns_of_cube()) + UNIT_POS_X;
    // Keys that none of the block's queries sees are not added up.
    let last_row = min(first_row + form.rows, queries) - 1;
    let seen = keys_seen(last_row, queries, form.keys, form.causal);
    let depth = if comptime!(scored) { g[2] } else { seen };

    let mut rows = Array::<u32>::new(comptime!(form.rows as usize));
    let mut columns = Array::<u32>::new(comptime!(form.columns as usize));
    #[unroll]
    for i in 0..form.rows {
        rows[comptime!(i as usize)] = start_a + min(first_row + i, queries - 1) * pitch_a;
    }
    #[unroll]
    for j in 0..form.columns {
        columns[comptime!(j as usize)] = start_b + min(first_column + j * form.units, width - 1) * pitch_b;
    }
    let mut sums = Array::<F>::new(comptime!((form.rows * form.columns) as usize));
    #[unroll]
    for i in 0..comptime!((form.rows * form.columns) as usize) {
        sums[i] = F::new(0.0);
    }
    for step in 0..depth {
        add_step::<F>(a, b, &rows, &columns, step, 1u32.runtime(), step_b, &mut sums, form.rows, form.columns);
    }
    #[unroll]
    for i in 0..form.rows {
        #[unroll]
        for j in 0..form.columns {
            let (row, column) = (first_row + i, first_column + j * form.units);
            if row < queries && column < width {
                let mut value = sums[comptime!((i * form.columns + j) as usize)] * scale;
                if comptime!(scored && form.masked) {
                    value += mask.index(0usize)[of_mask(&g, image, head, row, column) as usize];
                }
                c[(start_c + row * pitch_c + column) as usize] = value;
            }
        }
    }
}

/// The softmax of each row of the scores, in place; 0 for the keys that its query does not see.
#[cube(launch_unchecked)]
fn weights_of_rows<F: Float + CubeElement>(scores: &mut Array<F>, g: &Array<u32>, rows: u32, #[comptime] form: Form) {
    let rows = uniform::number(rows);
    let row = CUBE_POS as u32 * form.team.across + row_of_unit(form.team);
    let mut shared = SharedMemory::<F>::new(comptime!(form.team.shared()));
    let known = row < rows;
    let all = select(known, u32::new(0) + form.keys, u32::new(0));
    let queries = g[1];
    let seen = min(keys_seen(row % queries, queries, form.keys, form.causal), all);
    let first = row * form.keys;
    let mut own = start::<F>(Fold::Max);
    for j in range_stepped(place_of_unit(form.team), seen, form.team.along) {
        own = max(own, scores[(first + j) as usize]);
    }
    let greatest = fold_all::<F>(own, &mut shared, form.team, Fold::Max);
    let mut own = F::new(0.0);
    for j in range_stepped(place_of_unit(form.team), seen, form.team.along) {
        let weight = F::exp(scores[(first + j) as usize] - greatest);
        scores[(first + j) as usize] = weight;
        own += weight;
    }
    // It is at least 1 where any key is seen.
    let sum = max(fold_all::<F>(own, &mut shared, form.team, Fold::Sum), F::new(1e-30));
    for j in range_stepped(place_of_unit(form.team), all, form.team.along) {
        let mut weight = F::new(0.0);
        if j < seen {
            weight = scores[(first + j) as usize] / sum;
        }
        scores[(first + j) as usize] = weight;
    }
}
