//! Slices along an axis, chosen by indices.
//!
//! **Inputs**: `x`, any type of 1, 2, 4 or 8 bytes; `indices` i64 or i32, any shape. **Output** `y`: `x`'s type,
//! `x.shape[..axis] + indices.shape + x.shape[axis + 1..]`. **Attribute** `axis` (default 0). All in rows. **Task**: `x`, `indices`,
//! `axis`.
//!
//! Indices are treated as in [`embedding`](crate::embedding): negative ones count from the end, others are moved inside.

mod host_lines;
mod host_prefetch;
mod host_runs;
mod reference;

use crate::embedding::{Indices, row_of};
use crate::row_split;
use crate::rows;
use crate::strided_copy::is_copied;
use crate::transpose::copied_fill;
use crate::{BuildError, Facts, Fill, Layout, Limits, OperandSpec, Operator, Signature, Task, Variant};
use schema::{DType, KnobValue};

/// Slices along an axis.
pub static GATHER: Operator = Operator {
    id: "gather",
    variants: VARIANTS,
    task,
    signature,
    flops: |_| 0,
    bytes: |task| signature(task).map_or(0, |s| (2 * s.outputs[0].bytes() + s.inputs[1].bytes()) as u64),
    reference: reference::compute,
    row_wise,
};

static VARIANTS: &[&Variant] = &[&host_runs::RUNS, &host_prefetch::PREFETCH, &host_lines::LINES];

/// The default of the knob `partition`: the operator is bound by memory.
fn partition(task: &Task, limits: &Limits) -> KnobValue {
    row_split::partition_for_bytes((GATHER.bytes)(task), limits)
}

/// Rows of indices into what is the same for all, or the same indices into every row.
fn row_wise(facts: &Facts<'_>, varies: &[bool]) -> bool {
    match rows::axis(facts, 0) {
        Some(0) => !varies[0],
        Some(_) => varies[0] && !varies[1],
        None => false,
    }
}

fn task(facts: &Facts<'_>) -> Result<Task, BuildError> {
    let x = facts.input("gather", 0)?;
    let task = Task::new("gather")
        .with_operand("x", x)
        .with_operand("indices", facts.input("gather", 1)?)
        .with_int("axis", facts.axis("gather", 0, x.shape.len())?);
    signature(&task)?;
    Ok(task)
}

fn signature(task: &Task) -> Result<Signature, BuildError> {
    let (x, indices, axis) = (task.required("x")?, task.required("indices")?, task.int("axis"));
    if !is_copied(x.dtype) || !matches!(indices.dtype, DType::I64 | DType::I32) {
        return Err(task.refused("the types have no kernels"));
    }
    if x.layout != Layout::Rows || indices.layout != Layout::Rows {
        return Err(task.refused("operands are in rows"));
    }
    match x.shape.get(axis) {
        Some(&extent) if extent > 0 => {
            let shape = [&x.shape[..axis], &indices.shape, &x.shape[axis + 1..]].concat();
            let y = OperandSpec { name: "y", shape, ..x.clone() };
            let x = OperandSpec { fill: copied_fill(x.dtype), ..x };
            Ok(Signature { inputs: vec![x, OperandSpec { fill: Fill::Index(extent), ..indices }], outputs: vec![y] })
        }
        _ => Err(task.refused("the axis lies outside or is empty")),
    }
}

/// A task as numbers: slices of `inner` elements, `count` of them of the `extent` there are, for every place in front of the axis.
#[derive(Copy, Clone, Debug)]
struct Extents {
    extent: usize,
    inner: usize,
    count: usize,
    dtype: DType,
    /// Indices are i64.
    wide: bool,
}

impl Extents {
    fn of(task: &Task) -> Result<Self, BuildError> {
        let signature = signature(task)?;
        let (x, indices, axis) = (&signature.inputs[0], &signature.inputs[1], task.int("axis"));
        Ok(Extents {
            extent: x.shape[axis],
            inner: x.shape[axis + 1..].iter().product(),
            count: indices.shape.iter().product(),
            dtype: x.dtype,
            wide: indices.dtype == DType::I64,
        })
    }

    /// Where in `x` the slice begins that becomes the output's `place`-th.
    #[inline(always)]
    fn start(&self, place: usize, indices: Indices<'_>) -> usize {
        let (outer, place) = (place / self.count, place % self.count);
        (outer * self.extent + row_of(indices.at(place), self.extent)) * self.inner
    }
}
