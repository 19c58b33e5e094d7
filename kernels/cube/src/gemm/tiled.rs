//! C in tiles: a cube computes one, from slabs of A and B that its units bring to shared memory together, each unit a register tile.

use super::tiling::{DIVIDES, FITS, SHARES_OUT, TILING_KNOBS, Tiling, add_slab, finished, zeros};
use super::{FITS_BUFFERS, Prepared, folded, launchable};
use crate::epilogue::Finish;
use crate::gpu::{Buffer, Gpu, with_client};
use crate::operator::refuse;
use crate::turns::turns_end;
use crate::{CubeKernel, CubeVariant};
use cubecl::prelude::*;
use kernels::{BuildError, Request, Rule, Task};
use schema::{Config, KnobValue};

pub static TILED: CubeVariant = CubeVariant {
    id: "gemm.cube_tiled",
    revision: 1,
    knobs: TILING_KNOBS,
    rules: &[
        FITS_BUFFERS,
        turns_end!(turns),
        DIVIDES,
        SHARES_OUT,
        FITS,
        Rule {
            reason: "more cubes than the device can launch",
            holds: |task, config, limits| {
                Tiling::of(config).zip(folded(task)).is_some_and(|(t, shape)| {
                    launchable(shape.n.div_ceil(t.columns as usize), limits)
                        && launchable(shape.m.div_ceil(t.rows as usize), limits)
                        && launchable(shape.batch(), limits)
                })
            },
        },
    ],
    default: |_, _| vec![KnobValue::Pair(32, 32), KnobValue::Pair(4, 4), KnobValue::Int(16)],
    build,
};

fn turns(task: &Task, config: &Config) -> Option<usize> {
    Some(Tiling::of(config)?.turns(folded(task)?.k))
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
        let (a, extra) = self.prepared.weights.operands(inputs);
        let (shape, t) = (&self.prepared.shape, self.tiling);
        let form = Form { trans_a: shape.trans_a, trans_b: shape.trans_b, finish: shape.epilogue.into() };
        let cubes = |extent: usize, tile: u32| (extent as u32).div_ceil(tile);
        for (part, &(first, columns)) in self.prepared.parts.iter().enumerate() {
            let b = self.prepared.weights.weight(part, inputs);
            let count = CubeCount::Static(columns.div_ceil(t.columns), cubes(shape.m, t.rows), shape.batch() as u32);
            with_client!(gpu, client => tiles_of_c::launch::<f32, _>(
                client,
                count,
                CubeDim::new_2d(t.columns / t.unit_columns, t.rows / t.unit_rows),
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
                form,
            ));
        }
    }
}

#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
struct Form {
    trans_a: bool,
    trans_b: bool,
    finish: Finish,
}

/// B has `n` columns, which are those of C from `first`; C is `width` wide.
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
    first: u32,
    width: u32,
    alpha: F,
    #[comptime] t: Tiling,
    #[comptime] form: Form,
) {
    let units = comptime!(t.units());
    let first_row = CUBE_POS_Y * t.rows;
    let first_column = CUBE_POS_X * t.columns;
    let start_a = starts[(CUBE_POS_Z * 2) as usize];
    let start_b = starts[(CUBE_POS_Z * 2 + 1) as usize];
    // Slabs with k outermost, so that units read neighbours.
    let mut slab_a = SharedMemory::<F>::new(comptime!((t.rows * t.k) as usize));
    let mut slab_b = SharedMemory::<F>::new(comptime!((t.columns * t.k) as usize));
    let mut sums = zeros::<F>(t);

    let slabs = k.div_ceil(t.k);
    for slab in 0..slabs {
        let first_k = slab * t.k;
        #[unroll]
        for load in 0..comptime!(t.rows * t.k / units) {
            let i = load * units + UNIT_POS;
            let (row, depth) = if comptime!(form.trans_a) { (i % t.rows, i / t.rows) } else { (i / t.k, i % t.k) };
            let (at_row, at_k) = (first_row + row, first_k + depth);
            let mut value = F::new(0.0);
            if at_row < m && at_k < k {
                let at = if comptime!(form.trans_a) { at_k * m + at_row } else { at_row * k + at_k };
                value = a[(start_a + at) as usize];
            }
            slab_a[(depth * t.rows + row) as usize] = value;
        }
        #[unroll]
        for load in 0..comptime!(t.columns * t.k / units) {
            let i = load * units + UNIT_POS;
            let (column, depth) = if comptime!(form.trans_b) { (i / t.k, i % t.k) } else { (i % t.columns, i / t.columns) };
            let (at_column, at_k) = (first_column + column, first_k + depth);
            let mut value = F::new(0.0);
            if at_column < n && at_k < k {
                let at = if comptime!(form.trans_b) { at_column * k + at_k } else { at_k * n + at_column };
                value = b[(start_b + at) as usize];
            }
            slab_b[(depth * t.columns + column) as usize] = value;
        }
        sync_cube();
        add_slab::<F>(&slab_a, &slab_b, &mut sums, t);
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
