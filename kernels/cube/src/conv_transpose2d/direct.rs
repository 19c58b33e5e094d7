//! A unit for each element of y, which looks for the input pixels whose taps meet it: any groups, strides, dilations and pads.

use crate::epilogue::Finish;
use crate::gemm::finished;
use crate::geometry;
use crate::gpu::{Buffer, Gpu, with_client};
use crate::operator::{PLAIN, UNIT_KNOBS, UNITS, cubes_for, unit_default, units_of};
use crate::turns::{looped, turns_end};
use crate::weights::Weights;
use crate::{CubeKernel, CubeVariant};
use cubecl::prelude::*;
use kernels::conv_transpose2d::Shape;
use kernels::{BuildError, Request, Task};
use schema::Config;

pub static DIRECT: CubeVariant = CubeVariant {
    id: "conv_transpose2d.cube_direct",
    revision: 2,
    knobs: UNIT_KNOBS,
    rules: &[PLAIN, UNITS, turns_end!(turns)],
    default: unit_default,
    build,
};

fn turns(task: &Task, _: &Config) -> Option<usize> {
    let shape = Shape::of(task).ok()?;
    Some(looped(shape.kernel[0], looped(shape.kernel[1], looped(shape.group_c(), 0))))
}

struct Direct {
    weights: Weights,
    /// See [`geometry::Geometry`].
    geometry: Buffer,
    elements: u32,
    finish: Finish,
    units: u32,
}

fn build(request: &Request<'_>, gpu: &Gpu) -> Result<Box<dyn CubeKernel>, BuildError> {
    let s = Shape::of(request.task)?;
    let extents = [[s.c, s.h, s.w], [s.o, s.oh, s.ow]];
    let windows = [s.kernel, s.strides, [s.pads[0], s.pads[1]], s.dilations];
    Ok(Box::new(Direct {
        weights: Weights::new(request, gpu, s.weight_constant, &s.epilogue)?,
        geometry: geometry::upload(request.task, gpu, extents, [s.group_c(), s.group_o()], windows)?,
        elements: s.output_shape().iter().product::<usize>() as u32,
        finish: s.epilogue.into(),
        units: units_of(request.config),
    }))
}

impl CubeKernel for Direct {
    fn prepared_bytes(&self) -> usize {
        self.weights.bytes() + self.geometry.bytes()
    }

    fn launch(&self, gpu: &Gpu, inputs: &[Option<Buffer>], outputs: &[Buffer], _: &[Buffer]) {
        let (x, extra) = self.weights.operands(inputs);
        let weight = self.weights.weight(0, inputs);
        // SAFETY: only elements of y are written, and taps that fall beside x are left out; x, weight, bias and residual are as large as the
        // geometry says, by the signature of the task.
        with_client!(gpu, client => unsafe {
            elements_of_y::launch_unchecked::<f32, _>(
                client,
                cubes_for(self.elements, self.units, gpu),
                CubeDim::new_1d(self.units),
                x.array(),
                weight.array(),
                Buffer::sequence(&extra),
                outputs[0].array(),
                self.geometry.words(),
                self.elements,
                self.finish,
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
        // The place in the uncut result.
        let (down, across) = (row + g.pad_y, column + g.pad_x);
        let mut sum = F::new(0.0);
        for r in 0..g.kh {
            let from_top = down - r * g.dilation_y;
            if down >= r * g.dilation_y && from_top.is_multiple_of(g.stride_y) && from_top / g.stride_y < g.height {
                for s in 0..g.kw {
                    let from_left = across - s * g.dilation_x;
                    if across >= s * g.dilation_x && from_left.is_multiple_of(g.stride_x) && from_left / g.stride_x < g.width {
                        let first_x = ((image * g.channels + first_c) * g.height + from_top / g.stride_y) * g.width
                            + from_left / g.stride_x;
                        let first_w = ((first_c * g.group_o + channel % g.group_o) * g.kh + r) * g.kw + s;
                        for i in 0..g.group_c {
                            sum += x[(first_x + i * g.height * g.width) as usize]
                                * weight[(first_w + i * g.group_o * g.kh * g.kw) as usize];
                        }
                    }
                }
            }
        }
        y[at as usize] = finished::<F>(sum, extra, channel, at, finish);
    }
}
