//! The general variant: along the output, by the longest runs that lie together in the input.

use crate::row_split::{self, PARTITION, PARTITION_RULE};
use crate::strided_copy::{Piece, by_width};
use crate::{BuildError, Element, Kernel, Operands, Request, Variant};
use schema::DType;

/// Any order of axes.
pub static RUNS: Variant = Variant {
    id: "transpose.host_runs",
    revision: 1,
    knobs: &[PARTITION],
    rules: &[PARTITION_RULE],
    default: |task, limits| vec![super::partition(task, limits)],
    build,
};

fn build(request: &Request<'_>) -> Result<Box<dyn Kernel>, BuildError> {
    let signature = super::signature(request.task)?;
    Ok(Box::new(Runs {
        piece: super::piece(request.task, &signature),
        dtype: signature.inputs[0].dtype,
        parts: row_split::parts(request.config, request.limits),
    }))
}

struct Runs {
    piece: Piece,
    dtype: DType,
    parts: usize,
}

impl Runs {
    fn copy<T: Element>(&self, operands: &mut Operands<'_>) {
        let x = operands.input::<T>(0).unwrap_or_default();
        self.piece.copy(x, operands.output(0), self.parts);
    }
}

impl Kernel for Runs {
    fn run(&self, operands: &mut Operands<'_>) {
        by_width!(self.dtype, self.copy(operands));
    }
}
