//! The general variant: boxes of elements, by the longest runs; in planes, lane by lane.

use super::Kind;
use super::pieces::{self, Pieces};
use super::planes::Shuffle;
use crate::row_split::{self, PARTITION, PARTITION_RULE};
use crate::strided_copy::by_width;
use crate::{BuildError, Element, Kernel, Layout, Operands, Request, Variant};
use schema::DType;

/// Any copy.
pub static RUNS: Variant = Variant {
    id: "copy.host_runs",
    revision: 1,
    knobs: &[PARTITION],
    rules: &[PARTITION_RULE],
    default: |task, limits| vec![super::partition(task, limits)],
    build,
};

fn build(request: &Request<'_>) -> Result<Box<dyn Kernel>, BuildError> {
    let task = request.task;
    let signature = super::signature(task)?;
    let parts = row_split::parts(request.config, request.limits);
    if signature.outputs[0].layout != Layout::Rows {
        return Ok(Box::new(Shuffle::new(task, &signature, parts)?));
    }
    let kind = Kind::parse(task.word("kind")).ok_or_else(|| task.refused("there is no such kind"))?;
    Ok(Box::new(Runs { pieces: pieces::plan(kind, task, &signature), dtype: signature.inputs[0].dtype, parts }))
}

struct Runs {
    pieces: Pieces,
    dtype: DType,
    parts: usize,
}

/// An unsigned type as wide as the elements.
trait Bits: Element {
    fn from_bits(bits: u64) -> Self;
}

macro_rules! bits {
    ($($type:ty),*) => { $(impl Bits for $type {
        fn from_bits(bits: u64) -> $type {
            bits as $type
        }
    })* };
}
bits!(u8, u16, u32, u64);

impl Runs {
    fn copy<T: Bits>(&self, operands: &mut Operands<'_>) {
        if let Some(bits) = self.pieces.fill {
            operands.output::<T>(0).fill(T::from_bits(bits));
        }
        for (input, output, piece) in &self.pieces.list {
            let x = operands.input::<T>(*input).unwrap_or_default();
            piece.copy(x, operands.output(*output), self.parts);
        }
    }
}

impl Kernel for Runs {
    fn run(&self, operands: &mut Operands<'_>) {
        by_width!(self.dtype, self.copy(operands));
    }
}
