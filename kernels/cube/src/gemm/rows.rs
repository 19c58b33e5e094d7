//! A unit for each element of C, straight from global memory: for products with few rows, where nothing is used twice.

use super::tiling::finished;
use super::{FITS_BUFFERS, Form, Prepared, folded, launchable};
use crate::gpu::{Buffer, Gpu, with_client};
use crate::operator::{UNIT_KNOBS, unit_default, units_of};
use crate::turns::{looped, turns_end};
use crate::{CubeKernel, CubeVariant, uniform};
use cubecl::prelude::*;
use kernels::{BuildError, Request, Rule, Task};
use schema::Config;

pub static ROWS: CubeVariant = CubeVariant {
    id: "gemm.cube_rows",
    revision: 2,
    knobs: UNIT_KNOBS,
    rules: &[
        FITS_BUFFERS,
        turns_end!(turns),
        Rule {
            reason: "more units than a cube of the device has, or more cubes than it can launch",
            holds: |task, config, limits| {
                let Some((shape, gpu)) = folded(task).zip(limits.gpu) else { return false };
                let units = config.int("units").unwrap_or(0) as usize;
                units > 0
                    && units <= gpu.units_per_cube.min(gpu.cube_dim[0]) as usize
                    && launchable(shape.n.div_ceil(units), limits)
                    && launchable(shape.m, limits)
                    && launchable(shape.batch(), limits)
            },
        },
    ],
    default: unit_default,
    build,
};

fn turns(task: &Task, _: &Config) -> Option<usize> {
    Some(looped(folded(task)?.k, 0))
}

struct Rows {
    prepared: Prepared,
    units: u32,
}

fn build(request: &Request<'_>, gpu: &Gpu) -> Result<Box<dyn CubeKernel>, BuildError> {
    let units = units_of(request.config);
    Ok(Box::new(Rows { prepared: Prepared::new(request, gpu)?, units }))
}

impl CubeKernel for Rows {
    fn prepared_bytes(&self) -> usize {
        self.prepared.bytes()
    }

    fn launch(&self, gpu: &Gpu, inputs: &[Option<Buffer>], outputs: &[Buffer], _: &[Buffer]) {
        let (a, extra) = self.prepared.weights.operands(inputs);
        let shape = &self.prepared.shape;
        for (b, first, columns) in self.prepared.launches(inputs) {
            let count = CubeCount::Static(columns.div_ceil(self.units), shape.m as u32, shape.batch() as u32);
            with_client!(gpu, client => rows_of_c::launch::<f32, _>(
                client,
                count,
                CubeDim::new_1d(self.units),
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
                self.prepared.form(),
            ));
        }
    }
}

/// B has `n` columns, which are those of C from `first`; C is `width` wide.
#[cube(launch)]
#[allow(clippy::too_many_arguments, reason = "what a kernel is launched with")]
fn rows_of_c<F: Float + CubeElement>(
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
    let column = CUBE_POS_X * CUBE_DIM_X + UNIT_POS_X;
    let row = CUBE_POS_Y;
    if column < n {
        let start_a = starts[(CUBE_POS_Z * 2) as usize];
        let start_b = starts[(CUBE_POS_Z * 2 + 1) as usize];
        let mut sum = F::new(0.0);
        for i in 0..k {
            let at_a = if comptime!(form.trans_a) { i * m + row } else { row * k + i };
            let at_b = if comptime!(form.trans_b) { column * k + i } else { i * n + column };
            sum += a[(start_a + at_a) as usize] * b[(start_b + at_b) as usize];
        }
        let at = (CUBE_POS_Z * m + row) * width + first + column;
        c[at as usize] = finished::<F>(sum * alpha, extra, first + column, at, comptime!(form.finish));
    }
}
