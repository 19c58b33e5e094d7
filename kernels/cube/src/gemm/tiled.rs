//! C in tiles: a cube computes one, from slabs of A and B that its units bring to shared memory together, each unit a register tile.

use super::tiling::{DIVIDES, FITS, SHARES_OUT, TILING_KNOBS, Tiling, add_slab, fetch, finished, store, tiling_default, zeros};
use super::{FITS_BUFFERS, Form, Prepared, folded, launchable};
use crate::gpu::{Buffer, Gpu, with_client};
use crate::operator::refuse;
use crate::turns::turns_end;
use crate::{CubeKernel, CubeVariant, uniform};
use cubecl::prelude::*;
use kernels::{BuildError, Limits, Request, Rule, Task};
use schema::Config;

pub static TILED: CubeVariant = CubeVariant {
    id: "gemm.cube_tiled",
    revision: 3,
    knobs: TILING_KNOBS,
    rules: &[
        FITS_BUFFERS,
        turns_end!(turns),
        DIVIDES,
        SHARES_OUT,
        FITS,
        Rule {
            reason: "more cubes than the device can launch",
            holds: |task, config, limits| tiles_launchable(task, config, 1, limits),
        },
    ],
    default: tiling_default,
    build,
};

fn turns(task: &Task, config: &Config) -> Option<usize> {
    Some(Tiling::of(config)?.turns(folded(task)?.k))
}

/// Whether the device can launch a cube for each tile, as often as k has parts.
pub fn tiles_launchable(task: &Task, config: &Config, parts: usize, limits: &Limits) -> bool {
    Tiling::of(config).zip(folded(task)).is_some_and(|(t, shape)| {
        launchable(shape.n.div_ceil(t.columns as usize), limits)
            && launchable(shape.m.div_ceil(t.rows as usize), limits)
            && launchable(shape.batch() * parts, limits)
    })
}

struct Tiled {
    prepared: Prepared,
    tiling: Tiling,
}

fn build(request: &Request<'_>, gpu: &Gpu) -> Result<Box<dyn CubeKernel>, BuildError> {
    let tiling = Tiling::of(request.config).ok_or_else(|| refuse(request.task, &"the tiles do not divide"))?;
    Ok(Box::new(Tiled { prepared: Prepared::new(request, gpu)?, tiling }))
}

impl CubeKernel for Tiled {
    fn prepared_bytes(&self) -> usize {
        self.prepared.bytes()
    }

    fn launch(&self, gpu: &Gpu, inputs: &[Option<Buffer>], outputs: &[Buffer], _: &[Buffer]) {
        let (_, extra) = self.prepared.weights.operands(inputs);
        let target =
            Target { c: &outputs[0], extra: &extra, alpha: self.prepared.shape.alpha, form: self.prepared.form(), parts: 1 };
        launch(gpu, &self.prepared, self.tiling, inputs, &target);
    }
}

/// Where sums go, and what becomes of them on the way.
pub struct Target<'a> {
    /// Part by part of k, the products of a batch.
    pub c: &'a Buffer,
    pub extra: &'a [Buffer],
    pub alpha: f32,
    pub form: Form,
    /// Of k.
    pub parts: u32,
}

/// Launches the tiles of all products and parts of k.
pub fn launch(gpu: &Gpu, prepared: &Prepared, t: Tiling, inputs: &[Option<Buffer>], target: &Target<'_>) {
    let (a, _) = prepared.weights.operands(inputs);
    let shape = &prepared.shape;
    let cubes = |extent: usize, tile: u32| (extent as u32).div_ceil(tile);
    for (b, first, columns) in prepared.launches(inputs) {
        let batch = shape.batch() as u32;
        with_client!(gpu, client => tiles_of_c::launch::<f32, _>(
            client,
            CubeCount::Static(columns.div_ceil(t.columns), cubes(shape.m, t.rows), batch * target.parts),
            CubeDim::new_2d(t.columns / t.unit_columns, t.rows / t.unit_rows),
            a.array(),
            b.array(),
            Buffer::sequence(target.extra),
            target.c.array(),
            prepared.starts.words(),
            shape.m as u32,
            columns,
            shape.k as u32,
            batch,
            cubes(shape.k, t.k).div_ceil(target.parts),
            first,
            shape.n as u32,
            target.alpha,
            t,
            target.form,
        ));
    }
}

/// B has `n` columns, which are those of C from `first`; C is `width` wide. A cube adds up so many slabs along k as a part of it has.
#[cube(launch)]
#[allow(clippy::too_many_arguments, reason = "what a kernel is launched with")]
fn tiles_of_c<F: Float + CubeElement>(
    a: &Array<F>,
    b: &Array<F>,
    extra: &Sequence<Array<F>>,
    c: &mut Array<F>,
    starts: &Array<u32>,
    m: u32,
    n: u32,
    k: u32,
    batch: u32,
    slabs_of_part: u32,
    first: u32,
    width: u32,
    alpha: F,
    #[comptime] t: Tiling,
    #[comptime] form: Form,
) {
    let (m, n, k, batch, slabs_of_part, first, width, alpha) = (
        uniform::number(m),
        uniform::number(n),
        uniform::number(k),
        uniform::number(batch),
        uniform::number(slabs_of_part),
        uniform::number(first),
        uniform::number(width),
        uniform::float::<F>(alpha),
    );
    let first_row = CUBE_POS_Y * t.rows;
    let first_column = CUBE_POS_X * t.columns;
    let product = CUBE_POS_Z % batch;
    let start_a = starts[(product * 2) as usize];
    let start_b = starts[(product * 2 + 1) as usize];
    let from = CUBE_POS_Z / batch * slabs_of_part;
    let to = min(from + slabs_of_part, k.div_ceil(t.k));
    let deep_a = comptime!(!form.trans_a);
    let deep_b = comptime!(form.trans_b);
    let mut slabs_a = SharedMemory::<F>::new(comptime!((t.rows * t.k * t.buffers) as usize));
    let mut slabs_b = SharedMemory::<F>::new(comptime!((t.columns * t.k * t.buffers) as usize));
    let mut sums = zeros::<F>(t);

    if comptime!(t.buffers == 2) {
        let held_a = fetch::<F>(a, start_a, first_row, m, from * t.k, k, t.rows, deep_a, t);
        let held_b = fetch::<F>(b, start_b, first_column, n, from * t.k, k, t.columns, deep_b, t);
        store::<F>(&held_a, &mut slabs_a, 0u32, t.rows, deep_a, t);
        store::<F>(&held_b, &mut slabs_b, 0u32, t.columns, deep_b, t);
        sync_cube();
    }
    for slab in from..to {
        if comptime!(t.buffers == 2) {
            // Behind the last there is one that nobody uses.
            let next_k = (slab + 1) * t.k;
            let held_a = fetch::<F>(a, start_a, first_row, m, next_k, k, t.rows, deep_a, t);
            let held_b = fetch::<F>(b, start_b, first_column, n, next_k, k, t.columns, deep_b, t);
            let place = (slab - from) % 2;
            add_slab::<F>(&slabs_a, &slabs_b, place, &mut sums, t);
            store::<F>(&held_a, &mut slabs_a, 1 - place, t.rows, deep_a, t);
            store::<F>(&held_b, &mut slabs_b, 1 - place, t.columns, deep_b, t);
        } else {
            let held_a = fetch::<F>(a, start_a, first_row, m, slab * t.k, k, t.rows, deep_a, t);
            store::<F>(&held_a, &mut slabs_a, 0u32, t.rows, deep_a, t);
            let held_b = fetch::<F>(b, start_b, first_column, n, slab * t.k, k, t.columns, deep_b, t);
            store::<F>(&held_b, &mut slabs_b, 0u32, t.columns, deep_b, t);
            sync_cube();
            add_slab::<F>(&slabs_a, &slabs_b, 0u32, &mut sums, t);
        }
        sync_cube();
    }

    #[unroll]
    for i in 0..t.unit_rows {
        let row = first_row + UNIT_POS_Y * t.unit_rows + i;
        #[unroll]
        for j in 0..t.unit_columns {
            let column = first_column + UNIT_POS_X + j * comptime!(t.columns / t.unit_columns);
            if row < m && column < n {
                let at = (CUBE_POS_Z * m + row) * width + first + column;
                let sum = sums[comptime!((i * t.unit_columns + j) as usize)];
                c[at as usize] = finished::<F>(sum * alpha, extra, first + column, at, comptime!(form.finish));
            }
        }
    }
}
