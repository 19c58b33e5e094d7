//! Axes in another order.
//!
//! **Input** `x`: rows, any type of 1, 2, 4 or 8 bytes. **Output** `y`: rows, the same type. **Attribute** `perm`: ints, as in ONNX:
//! axis `i` of `y` is axis `perm[i]` of `x`. **Task**: `x`, `perm`.

mod host_runs;
mod host_tiles;
mod reference;

use crate::row_split;
use crate::strided_copy::{Piece, is_copied};
use crate::{BuildError, Facts, Fill, Layout, Limits, OperandSpec, Operator, Signature, Task, Variant, strides};
use schema::{DType, KnobValue};

/// Axes in another order.
pub static TRANSPOSE: Operator = Operator {
    id: "transpose",
    variants: VARIANTS,
    task,
    signature,
    flops: |_| 0,
    bytes: |task| signature(task).map_or(0, |s| 2 * s.inputs[0].bytes() as u64),
    reference: reference::compute,
    row_wise: |facts, _| facts.attributes.ints("perm").is_some_and(|perm| perm.first() == Some(&0)),
};

static VARIANTS: &[&Variant] = &[&host_runs::RUNS, &host_tiles::TILES];

/// The default of the knob `partition`: the operator is bound by memory.
fn partition(task: &Task, limits: &Limits) -> KnobValue {
    row_split::partition_for_bytes((TRANSPOSE.bytes)(task), limits)
}

fn task(facts: &Facts<'_>) -> Result<Task, BuildError> {
    let bare = Task::new("transpose");
    let perm = facts.attributes.ints("perm").ok_or_else(|| bare.refused("attribute 'perm' is missing"))?;
    let task = bare.with_operand("x", facts.input("transpose", 0)?).with_signed("perm", perm);
    signature(&task)?;
    Ok(task)
}

fn signature(task: &Task) -> Result<Signature, BuildError> {
    let x = task.required("x")?;
    let x = OperandSpec { fill: copied_fill(x.dtype), ..x };
    let perm = task.ints("perm");
    let mut sorted = perm.clone();
    sorted.sort_unstable();
    if task.signed("perm").iter().any(|&axis| axis < 0) || sorted != (0..x.shape.len()).collect::<Vec<_>>() {
        return Err(task.refused("'perm' is no order of the axes"));
    }
    if x.layout != Layout::Rows || !is_copied(x.dtype) {
        return Err(task.refused("only rows of elements of 1, 2, 4 or 8 bytes are transposed"));
    }
    let y = OperandSpec { name: "y", shape: perm.iter().map(|&axis| x.shape[axis]).collect(), ..x.clone() };
    Ok(Signature { inputs: vec![x], outputs: vec![y] })
}

/// What to fill an operand with that is only copied.
pub(crate) fn copied_fill(dtype: DType) -> Fill {
    match dtype {
        DType::Bool => Fill::Mask,
        DType::I64 | DType::I32 => Fill::Whole(1000),
        _ => Fill::Signed,
    }
}

/// The transpose as a strided copy.
pub fn piece(task: &Task, signature: &Signature) -> Piece {
    let from = strides::row_major(&signature.inputs[0].shape);
    let dims = signature.outputs[0].shape.clone();
    let to = strides::row_major(&dims).into_iter().map(|stride| stride as isize).collect();
    Piece::new(dims, 0, task.ints("perm").iter().map(|&axis| from[axis] as isize).collect(), 0, to)
}
