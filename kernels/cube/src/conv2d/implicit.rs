//! A convolution as a product whose second operand is gathered on the way: weight `[o, c·kh·kw]` times the windows of an image, which
//! units bring to shared memory straight from x. One group; a cube computes a tile of channels × pixels of one image.

use super::{Prepared, shape};
use crate::epilogue::Finish;
use crate::gemm::{Tiling, add_slab, fetch, finished, spot, store, tiling_default, zeros};
use crate::geometry::{self, Geometry};
use crate::gpu::{Buffer, Gpu, with_client};
use crate::operator::{PLAIN, refuse};
use crate::turns::turns_end;
use crate::{CubeKernel, CubeVariant};
use cubecl::prelude::*;
use kernels::{BuildError, Request, Rule, Task};
use schema::Config;

pub static IMPLICIT: CubeVariant = CubeVariant {
    id: "conv2d.cube_implicit",
    revision: 2,
    knobs: crate::gemm::TILING_KNOBS,
    rules: &[
        PLAIN,
        turns_end!(turns),
        Rule { reason: "it has groups", holds: |task, _, _| shape(task).is_some_and(|shape| shape.groups == 1) },
        crate::gemm::DIVIDES,
        crate::gemm::SHARES_OUT,
        crate::gemm::FITS,
        Rule {
            reason: "more cubes than the device can launch",
            holds: |task, config, limits| {
                Tiling::of(config).zip(shape(task)).is_some_and(|(t, shape)| {
                    crate::gemm::launchable((shape.oh * shape.ow).div_ceil(t.columns as usize), limits)
                        && crate::gemm::launchable(shape.o.div_ceil(t.rows as usize), limits)
                        && crate::gemm::launchable(shape.n, limits)
                })
            },
        },
    ],
    default: tiling_default,
    build,
};

fn turns(task: &Task, config: &Config) -> Option<usize> {
    let shape = shape(task)?;
    Some(Tiling::of(config)?.turns(shape.c * shape.kh * shape.kw))
}

struct Implicit {
    prepared: Prepared,
    tiling: Tiling,
}

fn build(request: &Request<'_>, gpu: &Gpu) -> Result<Box<dyn CubeKernel>, BuildError> {
    let tiling = Tiling::of(request.config).ok_or_else(|| refuse(request.task, &"the tiles do not divide"))?;
    Ok(Box::new(Implicit { prepared: Prepared::new(request, gpu)?, tiling }))
}

impl CubeKernel for Implicit {
    fn prepared_bytes(&self) -> usize {
        self.prepared.bytes()
    }

    fn launch(&self, gpu: &Gpu, inputs: &[Option<Buffer>], outputs: &[Buffer], _: &[Buffer]) {
        let (x, extra) = self.prepared.weights.operands(inputs);
        let weight = self.prepared.weights.weight(0, inputs);
        let (shape, t) = (&self.prepared.shape, self.tiling);
        let cubes = |extent: usize, tile: u32| (extent as u32).div_ceil(tile);
        let count = CubeCount::Static(cubes(shape.oh * shape.ow, t.columns), cubes(shape.o, t.rows), shape.n as u32);
        with_client!(gpu, client => tiles_of_y::launch::<f32, _>(
            client,
            count,
            CubeDim::new_2d(t.columns / t.unit_columns, t.rows / t.unit_rows),
            x.array(),
            weight.array(),
            Buffer::sequence(&extra),
            outputs[0].array(),
            self.prepared.geometry.words(),
            t,
            shape.epilogue.into(),
        ));
    }
}

#[cube(launch)]
#[allow(clippy::too_many_arguments, reason = "what a kernel is launched with")]
fn tiles_of_y<F: Float>(
    x: &Array<F>,
    weight: &Array<F>,
    extra: &Sequence<Array<F>>,
    y: &mut Array<F>,
    g: &Array<u32>,
    #[comptime] t: Tiling,
    #[comptime] finish: Finish,
) {
    let g = geometry::read(g);
    let k = g.channels * g.kh * g.kw;
    let pixels = g.oh * g.ow;
    let first_o = CUBE_POS_Y * t.rows;
    let first_pixel = CUBE_POS_X * t.columns;
    let image = CUBE_POS_Z * g.channels * g.height * g.width;
    let mut slabs_w = SharedMemory::<F>::new(comptime!((t.rows * t.k * t.buffers) as usize));
    let mut slabs_x = SharedMemory::<F>::new(comptime!((t.columns * t.k * t.buffers) as usize));
    let mut sums = zeros::<F>(t);

    if comptime!(t.buffers == 2) {
        let held_w = fetch::<F>(weight, 0u32, first_o, g.o, 0u32, k, t.rows, true, t);
        let held_x = fetch_windows::<F>(x, &g, image, first_pixel, 0u32, t);
        store::<F>(&held_w, &mut slabs_w, 0u32, t.rows, true, t);
        store::<F>(&held_x, &mut slabs_x, 0u32, t.columns, false, t);
        sync_cube();
    }
    for slab in 0..k.div_ceil(t.k) {
        if comptime!(t.buffers == 2) {
            // Behind the last there is an empty one.
            let next_k = (slab + 1) * t.k;
            let held_w = fetch::<F>(weight, 0u32, first_o, g.o, next_k, k, t.rows, true, t);
            let held_x = fetch_windows::<F>(x, &g, image, first_pixel, next_k, t);
            let place = slab % 2;
            add_slab::<F>(&slabs_w, &slabs_x, place, &mut sums, t);
            store::<F>(&held_w, &mut slabs_w, 1 - place, t.rows, true, t);
            store::<F>(&held_x, &mut slabs_x, 1 - place, t.columns, false, t);
        } else {
            let held_w = fetch::<F>(weight, 0u32, first_o, g.o, slab * t.k, k, t.rows, true, t);
            store::<F>(&held_w, &mut slabs_w, 0u32, t.rows, true, t);
            let held_x = fetch_windows::<F>(x, &g, image, first_pixel, slab * t.k, t);
            store::<F>(&held_x, &mut slabs_x, 0u32, t.columns, false, t);
            sync_cube();
            add_slab::<F>(&slabs_w, &slabs_x, 0u32, &mut sums, t);
        }
        sync_cube();
    }

    #[unroll]
    for i in 0..t.unit_rows {
        let channel = first_o + UNIT_POS_Y * t.unit_rows + i;
        #[unroll]
        for j in 0..t.unit_columns {
            let pixel = first_pixel + UNIT_POS_X + j * comptime!(t.columns / t.unit_columns);
            if channel < g.o && pixel < pixels {
                let at = (CUBE_POS_Z * g.o + channel) * pixels + pixel;
                let sum = sums[comptime!((i * t.unit_columns + j) as usize)];
                y[at as usize] = finished::<F>(sum, extra, channel, at, finish);
            }
        }
    }
}

/// What a unit brings to a slab of windows: so many pixels of y, some taps of each.
#[cube]
fn fetch_windows<F: Float>(
    x: &Array<F>,
    g: &Geometry,
    image: u32,
    first_pixel: u32,
    first_k: u32,
    #[comptime] t: Tiling,
) -> Array<F> {
    let mut held = Array::<F>::new(comptime!((t.columns * t.k / t.units()) as usize));
    #[unroll]
    for load in 0..comptime!(t.columns * t.k / t.units()) {
        let (column, depth) = spot(load, t.columns, false, t);
        held[comptime!(load as usize)] = window_value::<F>(x, g, image, first_pixel + column, first_k + depth);
    }
    held
}

/// What a tap meets at a pixel of y; zero beyond the image, the pixels and the taps.
#[cube]
pub fn window_value<F: Float>(x: &Array<F>, g: &Geometry, image: u32, pixel: u32, at_k: u32) -> F {
    let taps = g.kh * g.kw;
    let mut value = F::new(0.0);
    if pixel < g.oh * g.ow && at_k < g.channels * taps {
        let channel = at_k / taps;
        let tap = at_k % taps;
        // Shifted by the pad, so that nothing is negative.
        let y_padded = pixel / g.ow * g.stride_y + tap / g.kw * g.dilation_y;
        let x_padded = pixel % g.ow * g.stride_x + tap % g.kw * g.dilation_x;
        let in_y = y_padded >= g.pad_y && y_padded - g.pad_y < g.height;
        if in_y && x_padded >= g.pad_x && x_padded - g.pad_x < g.width {
            value = x[(image + (channel * g.height + y_padded - g.pad_y) * g.width + x_padded - g.pad_x) as usize];
        }
    }
    value
}
