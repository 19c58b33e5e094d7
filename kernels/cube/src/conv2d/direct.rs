//! A unit for each element of y: any groups, strides, dilations and pads.

use super::{Prepared, shape};
use crate::epilogue::Finish;
use crate::gemm::finished;
use crate::geometry;
use crate::gpu::{Buffer, Gpu, with_client};
use crate::operator::{PLAIN, UNIT_KNOBS, UNITS, cubes_for, unit_default, units_of};
use crate::turns::{looped, turns_end};
use crate::{CubeKernel, CubeVariant};
use cubecl::prelude::*;
use kernels::{BuildError, Request, Task};
use schema::Config;

pub static DIRECT: CubeVariant = CubeVariant { id: "conv2d.cube_direct", ..DEPTHWISE };

pub static DEPTHWISE: CubeVariant = CubeVariant {
    id: "depthwise.cube_direct",
    revision: 2,
    knobs: UNIT_KNOBS,
    rules: &[PLAIN, turns_end!(turns), UNITS],
    default: unit_default,
    build,
};

fn turns(task: &Task, _: &Config) -> Option<usize> {
    let shape = shape(task)?;
    Some(looped(shape.group_c(), looped(shape.kh, looped(shape.kw, 0))))
}

struct Direct {
    prepared: Prepared,
    units: u32,
}

fn build(request: &Request<'_>, gpu: &Gpu) -> Result<Box<dyn CubeKernel>, BuildError> {
    let units = units_of(request.config);
    Ok(Box::new(Direct { prepared: Prepared::new(request, gpu)?, units }))
}

impl CubeKernel for Direct {
    fn prepared_bytes(&self) -> usize {
        self.prepared.bytes()
    }

    fn launch(&self, gpu: &Gpu, inputs: &[Option<Buffer>], outputs: &[Buffer], _: &[Buffer]) {
        let (x, extra) = self.prepared.weights.operands(inputs);
        let weight = self.prepared.weights.weight(0, inputs);
        let elements = (self.prepared.shape.pixels() * self.prepared.shape.o) as u32;
        // SAFETY: only elements of y are written, and taps that fall into pads are left out; x, weight, bias and residual are as large as the
        // geometry says, by the signature of the task.
        with_client!(gpu, client => unsafe {
            elements_of_y::launch_unchecked::<f32, _>(
                client,
                cubes_for(elements, self.units, gpu),
                CubeDim::new_1d(self.units),
                x.array(),
                weight.array(),
                Buffer::sequence(&extra),
                outputs[0].array(),
                self.prepared.geometry.words(),
                elements,
                self.prepared.shape.epilogue.into(),
            )
        });
    }
}

#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments, reason = "what a kernel is launched with")]
fn elements_of_y<F: Float>(
    x: &Array<F>,
    weight: &Array<F>,
    extra: &Sequence<Array<F>>,
    y: &mut Array<F>,
    g: &Array<u32>,
    elements: u32,
    #[comptime] finish: Finish,
) {
    let at = ABSOLUTE_POS as u32;
    let g = geometry::read(g);
    if at < elements {
        let column = at % g.ow;
        let row = at / g.ow % g.oh;
        let channel = at / (g.ow * g.oh) % g.o;
        let image = at / (g.ow * g.oh * g.o);
        let first_c = channel / g.group_o * g.group_c;
        // Shifted by the pad, so that nothing is negative.
        let (top, left) = (row * g.stride_y, column * g.stride_x);
        let mut sum = F::new(0.0);
        for i in 0..g.group_c {
            let plane = (image * g.channels + first_c + i) * g.height * g.width;
            let taps = (channel * g.group_c + i) * g.kh * g.kw;
            for r in 0..g.kh {
                let y_padded = top + r * g.dilation_y;
                if y_padded >= g.pad_y && y_padded - g.pad_y < g.height {
                    let line = plane + (y_padded - g.pad_y) * g.width;
                    for s in 0..g.kw {
                        let x_padded = left + s * g.dilation_x;
                        if x_padded >= g.pad_x && x_padded - g.pad_x < g.width {
                            sum += x[(line + x_padded - g.pad_x) as usize] * weight[(taps + r * g.kw + s) as usize];
                        }
                    }
                }
            }
        }
        y[at as usize] = finished::<F>(sum, extra, channel, at, finish);
    }
}
