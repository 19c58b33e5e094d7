//! The general variant: one copy per index.

use crate::embedding::{Indices, row_of};
use crate::row_split::{self, PARTITION, PARTITION_RULE};
use crate::strided_copy::by_width;
use crate::{BuildError, Element, Kernel, Operands, Request, Variant};
use schema::DType;

/// Any axis.
pub static RUNS: Variant = Variant {
    id: "gather.host_runs",
    revision: 1,
    knobs: &[PARTITION],
    rules: &[PARTITION_RULE],
    default: |task, limits| vec![row_split::partition_for_bytes((super::GATHER.bytes)(task), limits)],
    build,
};

fn build(request: &Request<'_>) -> Result<Box<dyn Kernel>, BuildError> {
    let signature = super::signature(request.task)?;
    let (x, indices, axis) = (&signature.inputs[0], &signature.inputs[1], request.task.int("axis"));
    Ok(Box::new(Runs {
        extent: x.shape[axis],
        inner: x.shape[axis + 1..].iter().product(),
        count: indices.shape.iter().product(),
        dtype: x.dtype,
        wide: indices.dtype == DType::I64,
        parts: row_split::parts(request.config, request.limits),
    }))
}

struct Runs {
    extent: usize,
    inner: usize,
    count: usize,
    dtype: DType,
    wide: bool,
    parts: usize,
}

impl Runs {
    fn copy<T: Element>(&self, operands: &mut Operands<'_>) {
        let x = operands.input::<T>(0).unwrap_or_default();
        let indices = Indices::of(operands, 1, self.wide);
        row_split::rows(operands.output::<T>(0), self.inner, self.parts, &|first, y| {
            for (i, y) in y.chunks_exact_mut(self.inner).enumerate() {
                let (outer, place) = ((first + i) / self.count, (first + i) % self.count);
                let row = outer * self.extent + row_of(indices.at(place), self.extent);
                y.copy_from_slice(&x[row * self.inner..][..self.inner]);
            }
        });
    }
}

impl Kernel for Runs {
    fn run(&self, operands: &mut Operands<'_>) {
        by_width!(self.dtype, self.copy(operands));
    }
}
