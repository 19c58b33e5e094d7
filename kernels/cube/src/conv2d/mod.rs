//! Convolutions over two axes; the tasks are those of [`kernels::conv2d`] and [`kernels::depthwise`].

#[allow(unsafe_code)]
mod blocks;
#[allow(unsafe_code)]
mod direct;
mod implicit;
mod matrix;

use crate::CubeVariant;
use crate::geometry;
use crate::gpu::{Buffer, Gpu};
use crate::operator::refuse;
use crate::weights::Weights;
use kernels::conv2d::Shape;
use kernels::{BuildError, Request, Task};

/// In the order in which they are tried as a default: what takes any groups is the slowest.
pub static VARIANTS: &[&CubeVariant] = &[&implicit::IMPLICIT, &direct::DIRECT, &blocks::BLOCKS, &matrix::MATRIX];

/// See [`crate::CubeOperator`].
pub static FIRST_ON_PROCESSORS: &[&CubeVariant] = &[&blocks::BLOCKS];

/// Those with a kernel for every channel.
pub static DEPTHWISE_VARIANTS: &[&CubeVariant] = &[&direct::DEPTHWISE];

/// The convolution a task of either operator stands for.
fn shape(task: &Task) -> Option<Shape> {
    if task.operator() == "depthwise" { kernels::depthwise::shape(task).ok() } else { Shape::of(task).ok() }
}

/// The constants of a convolution.
struct Prepared {
    shape: Shape,
    weights: Weights,
    /// See [`geometry::Geometry`].
    geometry: Buffer,
}

impl Prepared {
    fn new(request: &Request<'_>, gpu: &Gpu) -> Result<Self, BuildError> {
        let shape = shape(request.task).ok_or_else(|| refuse(request.task, &"the parameters do not fit"))?;
        let extents = [[shape.c, shape.h, shape.w], [shape.o, shape.oh, shape.ow]];
        let group = [shape.group_c(), shape.group_o()];
        let windows = [[shape.kh, shape.kw], shape.strides, [shape.pads[0], shape.pads[1]], shape.dilations];
        let geometry = geometry::upload(request.task, gpu, extents, group, windows)?;
        let weights = Weights::new(request, gpu, shape.weight_constant, &shape.epilogue)?;
        Ok(Prepared { geometry, weights, shape })
    }

    fn bytes(&self) -> usize {
        self.weights.bytes() + self.geometry.bytes()
    }
}
