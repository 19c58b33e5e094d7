//! C in tiles of planes, from operands rounded to a narrow type; see [`crate::narrow`]. A constant B is rounded when it is prepared.

use super::{FITS_BUFFERS, Form, Prepared, folded, launchable, parts};
use crate::gemm::finished;
use crate::gpu::{Buffer, Gpu, with_client};
use crate::narrow::{self, NarrowTiling, OF_UNIT, add_products, bring, lay, no_sums, show_tile, shown_sum, shown_values};
use crate::operator::refuse;
use crate::turns::turns_end;
use crate::{CubeKernel, CubeVariant, uniform};
use cubecl::ir::StorageType;
use cubecl::prelude::*;
use kernels::gemm::Shape;
use kernels::{BuildError, Limits, Request, Rule, Task};
use schema::{Config, KnobValue};

pub static MATRIX: CubeVariant = CubeVariant {
    id: "gemm.cube_matrix",
    revision: 2,
    knobs: narrow::KNOBS,
    rules: &[
        kernels::RELAXED,
        FITS_BUFFERS,
        narrow::DIVIDES,
        turns_end!(turns),
        narrow::TYPE,
        narrow::SHARES_OUT,
        narrow::WRITTEN,
        narrow::FITS,
        Rule {
            reason: "vectors do not divide the inner axes of A and B",
            holds: |task, config, limits| {
                folded(task).zip(config.int("vector")).is_some_and(|(shape, vector)| divide(&shape, vector as usize, limits))
            },
        },
        Rule {
            reason: "more cubes than the device can launch",
            holds: |task, config, limits| {
                NarrowTiling::of(config).zip(folded(task)).is_some_and(|(t, shape)| {
                    launchable(shape.n.div_ceil(t.columns as usize), limits)
                        && launchable(shape.m.div_ceil(t.rows as usize), limits)
                        && launchable(shape.batch(), limits)
                })
            },
        },
    ],
    default,
    build,
};

fn default(task: &Task, limits: &Limits) -> Vec<KnobValue> {
    let vectors = folded(task).is_some_and(|shape| divide(&shape, 4, limits));
    narrow::default_of_vectors(if vectors { 4 } else { 1 }, limits)
}

/// Whether vectors divide the inner axes of A and of every part of B.
fn divide(shape: &Shape, vector: usize, limits: &Limits) -> bool {
    let inner_a = if shape.trans_a { shape.m } else { shape.k };
    let parts = parts(shape, limits);
    let b_divides = match shape.trans_b {
        true => shape.k.is_multiple_of(vector),
        false => parts.iter().all(|&(_, columns)| (columns as usize).is_multiple_of(vector)),
    };
    inner_a.is_multiple_of(vector) && b_divides
}

fn turns(task: &Task, config: &Config) -> Option<usize> {
    Some(NarrowTiling::of(config)?.turns(folded(task)?.k))
}

struct Matrix {
    prepared: Prepared,
    tiling: NarrowTiling,
    /// Of B in memory.
    b: StorageType,
}

fn build(request: &Request<'_>, gpu: &Gpu) -> Result<Box<dyn CubeKernel>, BuildError> {
    let tiling = NarrowTiling::of(request.config).ok_or_else(|| refuse(request.task, &"the tiles do not divide"))?;
    let shape = folded(request.task).ok_or_else(|| refuse(request.task, &"the parameters do not fit"))?;
    let whole = shape.b_constant && parts(&shape, request.limits).len() == 1;
    let (prepared, b) = narrow::prepare(request, tiling, whole, |request| Prepared::new(request, gpu))?;
    Ok(Box::new(Matrix { prepared, tiling, b }))
}

impl CubeKernel for Matrix {
    fn prepared_bytes(&self) -> usize {
        self.prepared.bytes()
    }

    fn launch(&self, gpu: &Gpu, inputs: &[Option<Buffer>], outputs: &[Buffer], _: &[Buffer]) {
        let (a, extra) = self.prepared.weights.operands(inputs);
        let (shape, t) = (&self.prepared.shape, self.tiling);
        let cubes = |extent: usize, tile: u32| (extent as u32).div_ceil(tile);
        let vector = t.vector as usize;
        for (b, first, columns) in self.prepared.launches(inputs) {
            with_client!(gpu, client => planes_of_c::launch(
                client,
                CubeCount::Static(columns.div_ceil(t.columns), cubes(shape.m, t.rows), shape.batch() as u32),
                CubeDim::new_1d(t.units()),
                a.vectors(vector * size_of::<f32>()),
                b.vectors(vector * self.b.size()),
                Buffer::sequence(&extra),
                outputs[0].array(),
                self.prepared.starts.words(),
                shape.m as u32,
                columns,
                shape.k as u32,
                first,
                shape.n as u32,
                shape.alpha,
                [t.storage(), self.b],
                vector,
                t,
                self.prepared.form(),
            ));
        }
    }
}

/// B has `n` columns, which are those of C from `first`; C is `width` wide.
#[cube(launch)]
#[allow(clippy::too_many_arguments, reason = "what a kernel is launched with")]
fn planes_of_c<E: Numeric, B: Numeric, N: Size>(
    a: &Array<Vector<f32, N>>,
    b: &Array<Vector<B, N>>,
    extra: &Sequence<Array<f32>>,
    c: &mut Array<f32>,
    starts: &Array<u32>,
    m: u32,
    n: u32,
    k: u32,
    first: u32,
    width: u32,
    alpha: f32,
    #[define(E, B)] _types: [StorageType; 2],
    #[define(N)] _vector: usize,
    #[comptime] t: NarrowTiling,
    #[comptime] form: Form,
) {
    let (m, n, k, first, width, alpha) = (
        uniform::number(m),
        uniform::number(n),
        uniform::number(k),
        uniform::number(first),
        uniform::number(width),
        uniform::float::<f32>(alpha),
    );
    let first_row = CUBE_POS_Y * t.rows;
    let first_column = CUBE_POS_X * t.columns;
    let start_a = starts[(CUBE_POS_Z * 2) as usize];
    let start_b = starts[(CUBE_POS_Z * 2 + 1) as usize];
    let slab_a = comptime!(t.slab_a(!form.trans_a));
    let slab_b = comptime!(t.slab_b(form.trans_b));
    let mut slabs_a = SharedMemory::<Vector<E, N>>::new_aligned(comptime!(t.slab_vectors(slab_a)), 32usize);
    let mut slabs_b = SharedMemory::<Vector<E, N>>::new_aligned(comptime!(t.slab_vectors(slab_b)), 32usize);
    let mut shown = SharedMemory::<f32>::new_aligned(comptime!(shown_values(t)), 32usize);
    let mut sums = no_sums(t);

    if comptime!(t.buffers == 2) {
        let held_a = bring::<f32, N>(a, start_a, first_row, m, 0u32, k, slab_a, t);
        let held_b = bring::<B, N>(b, start_b, first_column, n, 0u32, k, slab_b, t);
        lay::<f32, E, N>(&held_a, &mut slabs_a, 0u32, slab_a, t);
        lay::<B, E, N>(&held_b, &mut slabs_b, 0u32, slab_b, t);
        sync_cube();
    }
    for slab in 0..k.div_ceil(t.k) {
        if comptime!(t.buffers == 2) {
            // Behind the last there is one that nobody uses.
            let next_k = (slab + 1) * t.k;
            let held_a = bring::<f32, N>(a, start_a, first_row, m, next_k, k, slab_a, t);
            let held_b = bring::<B, N>(b, start_b, first_column, n, next_k, k, slab_b, t);
            let place = slab % 2;
            add_products::<E, N>(&slabs_a, &slabs_b, place, &mut sums, slab_a, slab_b, t);
            lay::<f32, E, N>(&held_a, &mut slabs_a, 1 - place, slab_a, t);
            lay::<B, E, N>(&held_b, &mut slabs_b, 1 - place, slab_b, t);
        } else {
            let held_a = bring::<f32, N>(a, start_a, first_row, m, slab * t.k, k, slab_a, t);
            lay::<f32, E, N>(&held_a, &mut slabs_a, 0u32, slab_a, t);
            let held_b = bring::<B, N>(b, start_b, first_column, n, slab * t.k, k, slab_b, t);
            lay::<B, E, N>(&held_b, &mut slabs_b, 0u32, slab_b, t);
            sync_cube();
            add_products::<E, N>(&slabs_a, &slabs_b, 0u32, &mut sums, slab_a, slab_b, t);
        }
        sync_cube();
    }

    #[unroll]
    for tile in 0..comptime!(t.tiles()) {
        show_tile(&sums, &mut shown, tile, t);
        for i in 0..comptime!(OF_UNIT) {
            let (sum, row, column) = shown_sum(&shown, i, tile, t);
            let (row, column) = (first_row + row, first_column + column);
            if row < m && column < n {
                let at = (CUBE_POS_Z * m + row) * width + first + column;
                c[at as usize] = finished::<f32>(sum * alpha, extra, first + column, at, comptime!(form.finish));
            }
        }
    }
}
