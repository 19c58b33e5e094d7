//! Matrix products; the task is that of [`kernels::gemm`].

mod rows;
mod tiled;
mod tiling;

pub use tiling::{DIVIDES, FITS, SHARES_OUT, TILING_KNOBS, Tiling, add_slab, finished, zeros};

use crate::CubeVariant;
use crate::gpu::{Buffer, Gpu};
use crate::operator::{refuse, upload_constant};
use kernels::gemm::Shape;
use kernels::{BuildError, Limits, Request, Task};

/// The most general first.
pub static VARIANTS: &[&CubeVariant] = &[&tiled::TILED, &rows::ROWS];

/// The constants of a product, uploaded, and where each matrix of a batch begins.
struct Prepared {
    shape: Shape,
    /// B where it is constant.
    b: Option<Buffer>,
    /// The bias where it is constant.
    bias: Option<Buffer>,
    /// For each product, the first element of its A and of its B.
    starts: Buffer,
}

impl Prepared {
    fn new(request: &Request<'_>, gpu: &Gpu) -> Result<Self, BuildError> {
        // One B for a whole batch is one product.
        let shape = Shape::of(request.task)?.folded();
        let (a_size, b_size) = (shape.m * shape.k, shape.k * shape.n);
        let starts: Vec<u32> = shape.pairs().iter().flat_map(|&(a, b)| [(a * a_size) as u32, (b * b_size) as u32]).collect();
        let constant = |i: usize| upload_constant(request, gpu, i);
        let (b, bias) = if shape.b_constant { (constant(1)?, constant(2)?) } else { (None, None) };
        let starts = gpu.upload(bytemuck::cast_slice(&starts)).map_err(|error| refuse(request.task, &error))?;
        Ok(Prepared { shape, b, bias, starts })
    }

    fn bytes(&self) -> usize {
        [&self.b, &self.bias].into_iter().flatten().map(Buffer::bytes).sum::<usize>() + self.starts.bytes()
    }

    /// A, B and what the epilogue adds.
    fn operands(&self, inputs: &[Option<Buffer>]) -> (Buffer, Buffer, Vec<Buffer>) {
        let given = |i: usize| inputs.get(i).cloned().flatten();
        let a = given(0).expect("the task has an A");
        let b = self.b.clone().or_else(|| given(1)).expect("the task has a B");
        let bias = self.shape.epilogue.bias.then(|| self.bias.clone().or_else(|| given(2))).flatten();
        let residual = self.shape.epilogue.residual.then(|| given(3)).flatten();
        (a, b, bias.into_iter().chain(residual).collect())
    }
}

/// Whether `cubes` of them can be launched along one axis.
pub fn launchable(cubes: usize, limits: &Limits) -> bool {
    limits.gpu.is_some_and(|gpu| cubes <= gpu.cubes_per_axis as usize)
}

/// The product a task asks for, as it is computed.
fn folded(task: &Task) -> Option<Shape> {
    Shape::of(task).ok().map(Shape::folded)
}
