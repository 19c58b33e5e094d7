//! The general variant: one copy per index.

use super::Extents;
use crate::embedding::Indices;
use crate::row_split::{self, PARTITION, PARTITION_RULE};
use crate::strided_copy::by_width;
use crate::{BuildError, Element, Kernel, Operands, Request, Variant};

/// Any axis.
pub static RUNS: Variant = Variant {
    id: "gather.host_runs",
    revision: 1,
    knobs: &[PARTITION],
    rules: &[PARTITION_RULE],
    default: |task, limits| vec![super::partition(task, limits)],
    build,
};

fn build(request: &Request<'_>) -> Result<Box<dyn Kernel>, BuildError> {
    Ok(Box::new(Runs { extents: Extents::of(request.task)?, parts: row_split::parts(request.config, request.limits) }))
}

struct Runs {
    extents: Extents,
    parts: usize,
}

impl Runs {
    fn copy<T: Element>(&self, operands: &mut Operands<'_>) {
        let e = self.extents;
        let x = operands.input::<T>(0).unwrap_or_default();
        let indices = Indices::of(operands, 1, e.wide);
        row_split::rows(operands.output::<T>(0), e.inner, self.parts, &|first, y| {
            for (i, y) in y.chunks_exact_mut(e.inner).enumerate() {
                y.copy_from_slice(&x[e.start(first + i, indices)..][..e.inner]);
            }
        });
    }
}

impl Kernel for Runs {
    fn run(&self, operands: &mut Operands<'_>) {
        by_width!(self.extents.dtype, self.copy(operands));
    }
}
