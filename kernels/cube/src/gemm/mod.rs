//! Matrix products; the task is that of [`kernels::gemm`].

#[allow(unsafe_code)]
mod blocks;
mod cubek;
mod matrix;
mod rows;
mod split_k;
mod team;
mod tiled;
mod tiling;

pub use blocks::{CUBES_MANY, LANES, add_step, least_read};
pub use tiling::{
    DIVIDES, FITS, SHARES_OUT, TILING_KNOBS, Tiling, add_slab, fetch, finished, spot, store, tiling_default, zeros,
};

use crate::CubeVariant;
use crate::epilogue::Finish;
use crate::gpu::{Buffer, Gpu};
use crate::operator::{ELEMENTS_MAX, in_one_buffer, in_rows, refuse, upload_words};
use crate::weights::Weights;
use kernels::gemm::Shape;
use kernels::{BuildError, Limits, OperandSpec, Request, Rule, Task, Tensor};

/// In the order in which they are tried as a default.
pub static VARIANTS: &[&CubeVariant] =
    &[&tiled::TILED, &rows::ROWS, &team::TEAM, &split_k::SPLIT_K, &blocks::BLOCKS, &matrix::MATRIX, &cubek::UNIT, &cubek::CMMA];

/// See [`crate::CubeOperator`].
pub static FIRST_ON_PROCESSORS: &[&CubeVariant] = &[&blocks::BLOCKS];

/// The constants of a product, and where each matrix of a batch begins.
struct Prepared {
    shape: Shape,
    weights: Weights,
    /// The first column of each part of B and how many it has; one part unless a constant B is larger than a buffer.
    parts: Vec<(u32, u32)>,
    /// For each product, the first element of its A and of its B.
    starts: Buffer,
}

impl Prepared {
    fn new(request: &Request<'_>, gpu: &Gpu) -> Result<Self, BuildError> {
        let task = request.task;
        let shape = folded(task).ok_or_else(|| refuse(task, &"the parameters do not fit"))?;
        let (a_size, b_size) = (shape.m * shape.k, shape.k * shape.n);
        let starts: Vec<u32> = shape.pairs().iter().flat_map(|&(a, b)| [(a * a_size) as u32, (b * b_size) as u32]).collect();
        let parts = parts(&shape, request.limits);
        let weights = match &parts[..] {
            [_] => Weights::new(request, gpu, shape.b_constant, &shape.epilogue)?,
            parts => {
                let b = request.constants.get(1).copied().flatten().and_then(Tensor::values::<f32>);
                let b = b.ok_or_else(|| refuse(task, &"B is no constant f32"))?;
                let cut: Vec<Vec<f32>> = parts.iter().map(|&part| columns(&b, &shape, part)).collect();
                Weights::in_parts(request, gpu, &cut, &shape.epilogue)?
            }
        };
        Ok(Prepared { starts: upload_words(task, gpu, &starts)?, weights, parts, shape })
    }

    fn bytes(&self) -> usize {
        self.weights.bytes() + self.starts.bytes()
    }

    fn form(&self) -> Form {
        Form { trans_a: self.shape.trans_a, trans_b: self.shape.trans_b, finish: self.shape.epilogue.into() }
    }

    /// What each launch computes: a part of B, the first of its columns and how many it has.
    fn launches(&self, inputs: &[Option<Buffer>]) -> impl Iterator<Item = (Buffer, u32, u32)> {
        self.parts.iter().enumerate().map(|(part, &(first, columns))| (self.weights.weight(part, inputs), first, columns))
    }
}

/// How operands lie and what becomes of the sums, as part of a kernel's identity.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
struct Form {
    trans_a: bool,
    trans_b: bool,
    finish: Finish,
}

/// Columns of B for each buffer.
fn parts(shape: &Shape, limits: &Limits) -> Vec<(u32, u32)> {
    let floats = limits.gpu.map_or(usize::MAX, |gpu| gpu.buffer_bytes as usize / size_of::<f32>());
    let most = floats.min(ELEMENTS_MAX) / shape.k.max(1);
    let most = if shape.b_constant { most.clamp(1, shape.n) } else { shape.n };
    (0..shape.n).step_by(most).map(|first| (first as u32, most.min(shape.n - first) as u32)).collect()
}

/// Some columns of B, as it is given.
fn columns(b: &[f32], shape: &Shape, (first, count): (u32, u32)) -> Vec<f32> {
    let (first, count) = (first as usize, count as usize);
    match shape.trans_b {
        true => b[first * shape.k..][..count * shape.k].to_vec(),
        false => b.chunks_exact(shape.n).flat_map(|row| &row[first..][..count]).copied().collect(),
    }
}

/// Operands are f32 in rows, each in one buffer; a constant B may take several.
const FITS_BUFFERS: Rule = Rule {
    reason: "an operand is not f32 in rows, or larger than a buffer of the device or than its kernels count",
    holds: |task, _, limits| {
        let Some(((shape, signature), gpu)) = folded(task).zip(Shape::of(task).ok().map(|s| s.signature())).zip(limits.gpu)
        else {
            return false;
        };
        let splits = shape.b_constant && shape.batch() == 1 && shape.k * size_of::<f32>() <= gpu.buffer_bytes as usize;
        let fits = |(i, spec): (usize, &OperandSpec)| in_rows(spec) && ((splits && i == 1) || in_one_buffer(spec, &gpu));
        signature.inputs.iter().enumerate().all(fits) && signature.outputs.iter().all(|spec| fits((0, spec)))
    },
};

/// Whether `cubes` of them can be launched along one axis.
pub fn launchable(cubes: usize, limits: &Limits) -> bool {
    limits.gpu.is_some_and(|gpu| cubes <= gpu.cubes_per_axis as usize)
}

/// The product a task asks for, as it is computed: one B for a whole batch is one product.
fn folded(task: &Task) -> Option<Shape> {
    Shape::of(task).ok().map(Shape::folded)
}
