//! The product of [`super::implicit`] in tiles of planes, from operands rounded to a narrow type; see [`crate::narrow`]. A constant weight
//! is rounded when it is prepared.

use super::implicit::window_value;
use super::{Prepared, shape};
use crate::epilogue::Finish;
use crate::gemm::{finished, launchable};
use crate::geometry::{self, Geometry};
use crate::gpu::{Buffer, Gpu, with_client};
use crate::narrow::{
    self, NarrowTiling, OF_UNIT, Slab, add_products, bring, lay, no_sums, show_tile, shown_sum, shown_values, vector_spot,
};
use crate::operator::{PLAIN, refuse};
use crate::turns::turns_end;
use crate::{CubeKernel, CubeVariant};
use cubecl::ir::StorageType;
use cubecl::prelude::*;
use kernels::{BuildError, Request, Rule, Task};
use schema::Config;

pub static MATRIX: CubeVariant = CubeVariant {
    id: "conv2d.cube_matrix",
    revision: 1,
    knobs: narrow::KNOBS_OF_SCALARS,
    rules: &[
        kernels::RELAXED,
        PLAIN,
        narrow::DIVIDES,
        turns_end!(turns),
        Rule { reason: "it has groups", holds: |task, _, _| shape(task).is_some_and(|shape| shape.groups == 1) },
        narrow::TYPE,
        narrow::SHARES_OUT,
        narrow::WRITTEN,
        narrow::FITS,
        Rule {
            reason: "more cubes than the device can launch",
            holds: |task, config, limits| {
                NarrowTiling::of(config).zip(shape(task)).is_some_and(|(t, shape)| {
                    launchable((shape.oh * shape.ow).div_ceil(t.columns as usize), limits)
                        && launchable(shape.o.div_ceil(t.rows as usize), limits)
                        && launchable(shape.n, limits)
                })
            },
        },
    ],
    default: |_, limits| narrow::default_of_scalars(limits),
    build,
};

fn turns(task: &Task, config: &Config) -> Option<usize> {
    let shape = shape(task)?;
    Some(NarrowTiling::of(config)?.turns(shape.c * shape.kh * shape.kw))
}

struct Matrix {
    prepared: Prepared,
    tiling: NarrowTiling,
    /// Of the weight in memory.
    weight: StorageType,
}

fn build(request: &Request<'_>, gpu: &Gpu) -> Result<Box<dyn CubeKernel>, BuildError> {
    let tiling = NarrowTiling::of(request.config).ok_or_else(|| refuse(request.task, &"the tiles do not divide"))?;
    let shape = shape(request.task).ok_or_else(|| refuse(request.task, &"the parameters do not fit"))?;
    let (prepared, weight) = narrow::prepare(request, tiling, shape.weight_constant, |request| Prepared::new(request, gpu))?;
    Ok(Box::new(Matrix { prepared, tiling, weight }))
}

impl CubeKernel for Matrix {
    fn prepared_bytes(&self) -> usize {
        self.prepared.bytes()
    }

    fn launch(&self, gpu: &Gpu, inputs: &[Option<Buffer>], outputs: &[Buffer], _: &[Buffer]) {
        let (x, extra) = self.prepared.weights.operands(inputs);
        let weight = self.prepared.weights.weight(0, inputs);
        let (shape, t) = (&self.prepared.shape, self.tiling);
        let cubes = |extent: usize, tile: u32| (extent as u32).div_ceil(tile);
        with_client!(gpu, client => planes_of_y::launch(
            client,
            CubeCount::Static(cubes(shape.oh * shape.ow, t.columns), cubes(shape.o, t.rows), shape.n as u32),
            CubeDim::new_1d(t.units()),
            x.array(),
            weight.vectors(self.weight.size()),
            Buffer::sequence(&extra),
            outputs[0].array(),
            self.prepared.geometry.words(),
            [t.storage(), self.weight],
            1,
            t,
            shape.epilogue.into(),
        ));
    }
}

/// Windows are gathered value by value, so `N` is 1.
#[cube(launch)]
#[allow(clippy::too_many_arguments, reason = "what a kernel is launched with")]
fn planes_of_y<E: Numeric, W: Numeric, N: Size>(
    x: &Array<f32>,
    weight: &Array<Vector<W, N>>,
    extra: &Sequence<Array<f32>>,
    y: &mut Array<f32>,
    g: &Array<u32>,
    #[define(E, W)] _types: [StorageType; 2],
    #[define(N)] _vector: usize,
    #[comptime] t: NarrowTiling,
    #[comptime] finish: Finish,
) {
    let g = geometry::read(g);
    let k = g.channels * g.kh * g.kw;
    let pixels = g.oh * g.ow;
    let first_o = CUBE_POS_Y * t.rows;
    let first_pixel = CUBE_POS_X * t.columns;
    let image = CUBE_POS_Z * g.channels * g.height * g.width;
    let slab_w = comptime!(t.slab_a(true));
    let slab_x = comptime!(t.slab_b(false));
    let mut slabs_w = SharedMemory::<Vector<E, N>>::new_aligned(comptime!(t.slab_vectors(slab_w)), 32usize);
    let mut slabs_x = SharedMemory::<Vector<E, N>>::new_aligned(comptime!(t.slab_vectors(slab_x)), 32usize);
    let mut shown = SharedMemory::<f32>::new_aligned(comptime!(shown_values(t)), 32usize);
    let mut sums = no_sums(t);

    if comptime!(t.buffers == 2) {
        let held_w = bring::<W, N>(weight, 0u32, first_o, g.o, 0u32, k, slab_w, t);
        let held_x = bring_windows::<N>(x, &g, image, first_pixel, 0u32, slab_x, t);
        lay::<W, E, N>(&held_w, &mut slabs_w, 0u32, slab_w, t);
        lay::<f32, E, N>(&held_x, &mut slabs_x, 0u32, slab_x, t);
        sync_cube();
    }
    for slab in 0..k.div_ceil(t.k) {
        if comptime!(t.buffers == 2) {
            // Behind the last there is an empty one.
            let next_k = (slab + 1) * t.k;
            let held_w = bring::<W, N>(weight, 0u32, first_o, g.o, next_k, k, slab_w, t);
            let held_x = bring_windows::<N>(x, &g, image, first_pixel, next_k, slab_x, t);
            let place = slab % 2;
            add_products::<E, N>(&slabs_w, &slabs_x, place, &mut sums, slab_w, slab_x, t);
            lay::<W, E, N>(&held_w, &mut slabs_w, 1 - place, slab_w, t);
            lay::<f32, E, N>(&held_x, &mut slabs_x, 1 - place, slab_x, t);
        } else {
            let held_w = bring::<W, N>(weight, 0u32, first_o, g.o, slab * t.k, k, slab_w, t);
            lay::<W, E, N>(&held_w, &mut slabs_w, 0u32, slab_w, t);
            let held_x = bring_windows::<N>(x, &g, image, first_pixel, slab * t.k, slab_x, t);
            lay::<f32, E, N>(&held_x, &mut slabs_x, 0u32, slab_x, t);
            sync_cube();
            add_products::<E, N>(&slabs_w, &slabs_x, 0u32, &mut sums, slab_w, slab_x, t);
        }
        sync_cube();
    }

    #[unroll]
    for tile in 0..comptime!(t.tiles()) {
        show_tile(&sums, &mut shown, tile, t);
        for i in 0..comptime!(OF_UNIT) {
            let (sum, row, column) = shown_sum(&shown, i, tile, t);
            let (channel, pixel) = (first_o + row, first_pixel + column);
            if channel < g.o && pixel < pixels {
                let at = (CUBE_POS_Z * g.o + channel) * pixels + pixel;
                y[at as usize] = finished::<f32>(sum, extra, channel, at, finish);
            }
        }
    }
}

/// What a unit brings to a slab of windows: so many pixels of y, some taps of each.
#[cube]
fn bring_windows<N: Size>(
    x: &Array<f32>,
    g: &Geometry,
    image: u32,
    first_pixel: u32,
    first_k: u32,
    #[comptime] slab: Slab,
    #[comptime] t: NarrowTiling,
) -> Array<Vector<f32, N>> {
    let mut held = Array::<Vector<f32, N>>::new(comptime!(slab.loads(t) as usize));
    #[unroll]
    for load in 0..comptime!(slab.loads(t)) {
        let (depth, column) = vector_spot(load, slab, t);
        held[comptime!(load as usize)] =
            Vector::<f32, N>::new(window_value::<f32>(x, g, image, first_pixel + column, first_k + depth));
    }
    held
}
