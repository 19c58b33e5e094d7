//! A convolution as a product whose second operand is gathered on the way: weight `[o, c·kh·kw]` times the windows of an image, which
//! units bring to shared memory straight from x. One group; a cube computes a tile of channels × pixels of one image.

use super::{Prepared, shape};
use crate::epilogue::Finish;
use crate::gemm::{Tiling, add_slab, finished, zeros};
use crate::gpu::{Buffer, Gpu, with_client};
use crate::operator::{PLAIN, refuse};
use crate::turns::turns_end;
use crate::{CubeKernel, CubeVariant};
use cubecl::prelude::*;
use kernels::{BuildError, Request, Rule, Task};
use schema::{Config, KnobValue};

pub static IMPLICIT: CubeVariant = CubeVariant {
    id: "conv2d.cube_implicit",
    revision: 1,
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
    default: |_, _| vec![KnobValue::Pair(32, 32), KnobValue::Pair(4, 4), KnobValue::Int(16)],
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
    let units = comptime!(t.units());
    let (channels, height, width) = (g[0], g[1], g[2]);
    let (o, oh, ow) = (g[3], g[4], g[5]);
    let (kh, kw) = (g[8], g[9]);
    let taps = kh * kw;
    let k = channels * taps;
    let pixels = oh * ow;
    let first_o = CUBE_POS_Y * t.rows;
    let first_pixel = CUBE_POS_X * t.columns;
    let image = CUBE_POS_Z * channels * height * width;
    let mut slab_w = SharedMemory::<F>::new(comptime!((t.rows * t.k) as usize));
    let mut slab_x = SharedMemory::<F>::new(comptime!((t.columns * t.k) as usize));
    let mut sums = zeros::<F>(t);

    let slabs = k.div_ceil(t.k);
    for slab in 0..slabs {
        let first_k = slab * t.k;
        #[unroll]
        for load in 0..comptime!(t.rows * t.k / units) {
            let i = load * units + UNIT_POS;
            let (row, depth) = (i / t.k, i % t.k);
            let (at_o, at_k) = (first_o + row, first_k + depth);
            let mut value = F::new(0.0);
            if at_o < o && at_k < k {
                value = weight[(at_o * k + at_k) as usize];
            }
            slab_w[(depth * t.rows + row) as usize] = value;
        }
        #[unroll]
        for load in 0..comptime!(t.columns * t.k / units) {
            let i = load * units + UNIT_POS;
            let (column, depth) = (i % t.columns, i / t.columns);
            let (pixel, at_k) = (first_pixel + column, first_k + depth);
            let mut value = F::new(0.0);
            if pixel < pixels && at_k < k {
                let channel = at_k / taps;
                let tap = at_k % taps;
                // Shifted by the pad, so that nothing is negative.
                let y_padded = pixel / ow * g[10] + tap / kw * g[14];
                let x_padded = pixel % ow * g[11] + tap % kw * g[15];
                if y_padded >= g[12] && y_padded - g[12] < height && x_padded >= g[13] && x_padded - g[13] < width {
                    value = x[(image + (channel * height + y_padded - g[12]) * width + x_padded - g[13]) as usize];
                }
            }
            slab_x[(depth * t.columns + column) as usize] = value;
        }
        sync_cube();
        add_slab::<F>(&slab_w, &slab_x, &mut sums, t);
        sync_cube();
    }

    #[unroll]
    for i in 0..t.unit_rows {
        let channel = first_o + UNIT_POS_Y * t.unit_rows + i;
        #[unroll]
        for j in 0..t.unit_columns {
            let pixel = first_pixel + UNIT_POS_X + j * comptime!(t.columns / t.unit_columns);
            if channel < o && pixel < pixels {
                let at = (CUBE_POS_Z * o + channel) * pixels + pixel;
                let sum = sums[comptime!((i * t.unit_columns + j) as usize)];
                y[at as usize] = finished::<F>(sum, extra, channel, at, finish);
            }
        }
    }
}
