//! A unit for each element of y, which looks for the input pixels whose taps meet it: any groups, strides, dilations and pads.

use crate::epilogue::Finish;
use crate::gemm::finished;
use crate::gpu::{Buffer, Gpu, with_client};
use crate::operator::{PLAIN, UNIT_KNOBS, UNITS, cubes_for, unit_default, units_of, upload_words};
use crate::turns::{looped, turns_end};
use crate::weights::Weights;
use crate::{CubeKernel, CubeVariant};
use cubecl::prelude::*;
use kernels::conv_transpose2d::Shape;
use kernels::{BuildError, Request, Task};
use schema::Config;

pub static DIRECT: CubeVariant = CubeVariant {
    id: "conv_transpose2d.cube_direct",
    revision: 1,
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
    /// Extents of x, channels and extents of y, channels of a group in x and y, kernel, strides, pads before, dilations.
    geometry: Buffer,
    elements: u32,
    finish: Finish,
    units: u32,
}

fn build(request: &Request<'_>, gpu: &Gpu) -> Result<Box<dyn CubeKernel>, BuildError> {
    let s = Shape::of(request.task)?;
    let ([kh, kw], [sh, sw], [dh, dw]) = (s.kernel, s.strides, s.dilations);
    let numbers = [s.c, s.h, s.w, s.o, s.oh, s.ow, s.group_c(), s.group_o(), kh, kw, sh, sw, s.pads[0], s.pads[1], dh, dw]
        .map(|n| n as u32);
    Ok(Box::new(Direct {
        weights: Weights::new(request, gpu, s.weight_constant, &s.epilogue)?,
        geometry: upload_words(request.task, gpu, &numbers)?,
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
        with_client!(gpu, client => elements_of_y::launch::<f32, _>(
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
        ));
    }
}

#[cube(launch)]
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
    if at < elements {
        let (channels, height, width) = (g[0], g[1], g[2]);
        let (o, oh, ow) = (g[3], g[4], g[5]);
        let (group_c, group_o) = (g[6], g[7]);
        let (kh, kw) = (g[8], g[9]);
        let column = at % ow;
        let row = at / ow % oh;
        let channel = at / (ow * oh) % o;
        let image = at / (ow * oh * o);
        let first_c = channel / group_o * group_c;
        // The place in the uncut result.
        let (down, across) = (row + g[12], column + g[13]);
        let mut sum = F::new(0.0);
        for r in 0..kh {
            let from_top = down - r * g[14];
            if down >= r * g[14] && from_top % g[10] == 0 && from_top / g[10] < height {
                for s in 0..kw {
                    let from_left = across - s * g[15];
                    if across >= s * g[15] && from_left % g[11] == 0 && from_left / g[11] < width {
                        let first_x = ((image * channels + first_c) * height + from_top / g[10]) * width + from_left / g[11];
                        let first_w = ((first_c * group_o + channel % group_o) * kh + r) * kw + s;
                        for i in 0..group_c {
                            sum +=
                                x[(first_x + i * height * width) as usize] * weight[(first_w + i * group_o * kh * kw) as usize];
                        }
                    }
                }
            }
        }
        y[at as usize] = finished::<F>(sum, extra, channel, at, finish);
    }
}
