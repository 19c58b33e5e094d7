//! Convolutions over two axes; the tasks are those of [`kernels::conv2d`] and [`kernels::depthwise`].

mod direct;
mod implicit;

use crate::CubeVariant;
use crate::gpu::{Buffer, Gpu};
use crate::operator::{refuse, upload_constant};
use kernels::conv2d::Shape;
use kernels::{BuildError, Request, Task};

/// Convolutions of any groups, the most general last: it is the slowest.
pub static VARIANTS: &[&CubeVariant] = &[&implicit::IMPLICIT, &direct::DIRECT];

/// Those with a kernel for every channel.
pub static DEPTHWISE_VARIANTS: &[&CubeVariant] = &[&direct::DEPTHWISE];

/// The convolution a task of either operator stands for.
fn shape(task: &Task) -> Option<Shape> {
    if task.operator() == "depthwise" { kernels::depthwise::shape(task).ok() } else { Shape::of(task).ok() }
}

/// The constants of a convolution, uploaded.
struct Prepared {
    shape: Shape,
    weight: Option<Buffer>,
    bias: Option<Buffer>,
    /// [`GEOMETRY`] numbers.
    geometry: Buffer,
}

impl Prepared {
    fn new(request: &Request<'_>, gpu: &Gpu) -> Result<Self, BuildError> {
        let shape = shape(request.task).ok_or_else(|| refuse(request.task, &"the parameters do not fit"))?;
        let [s, p, d] = [shape.strides, [shape.pads[0], shape.pads[1]], shape.dilations];
        let numbers = [
            shape.c,
            shape.h,
            shape.w,
            shape.o,
            shape.oh,
            shape.ow,
            shape.group_c(),
            shape.group_o(),
            shape.kh,
            shape.kw,
            s[0],
            s[1],
            p[0],
            p[1],
            d[0],
            d[1],
        ];
        let words = numbers.map(|number| number as u32);
        let geometry = gpu.upload(bytemuck::cast_slice(&words)).map_err(|error| refuse(request.task, &error))?;
        let constant = |i: usize| if shape.weight_constant { upload_constant(request, gpu, i) } else { Ok(None) };
        let (weight, bias) = (constant(1)?, constant(2)?);
        Ok(Prepared { shape, weight, bias, geometry })
    }

    fn bytes(&self) -> usize {
        [&self.weight, &self.bias].into_iter().flatten().map(Buffer::bytes).sum::<usize>() + self.geometry.bytes()
    }

    /// x, weight and what the epilogue adds.
    fn operands(&self, inputs: &[Option<Buffer>]) -> (Buffer, Buffer, Vec<Buffer>) {
        let given = |i: usize| inputs.get(i).cloned().flatten();
        let x = given(0).expect("the task has an x");
        let weight = self.weight.clone().or_else(|| given(1)).expect("the task has a weight");
        let bias = self.shape.epilogue.bias.then(|| self.bias.clone().or_else(|| given(2))).flatten();
        let residual = self.shape.epilogue.residual.then(|| given(3)).flatten();
        (x, weight, bias.into_iter().chain(residual).collect())
    }
}
