//! The same tensor in another layout.
//!
//! **Input** `x`, **output** `y`: f32, the same shape, in the layouts the graph gives them: rows and `Channels` either way, `Channels`
//! with one halo to another, rows and `Columns` either way, or no change (a copy). No attributes. Halo and padding of the output are
//! written as zeros. **Task**: `x` and `y`.
//!
//! `Channels` without a halo of `[n, c, h, w]` and `Columns` of `[n, h·w, c]` are the same bytes: that change needs no kernel.

mod host_blocks;
mod host_lines;
mod reference;

use crate::plane::Plane;
use crate::row_split;
use crate::{BuildError, Facts, Layout, Limits, OperandSpec, Operator, Signature, Task, Variant};
use schema::{DType, KnobValue};

/// The same tensor in another layout.
pub static REORDER: Operator = Operator {
    id: "reorder",
    variants: VARIANTS,
    task,
    signature,
    flops: |_| 0,
    bytes: |task| signature(task).map_or(0, |s| (s.inputs[0].bytes() + s.outputs[0].bytes()) as u64),
    reference: reference::compute,
    row_wise: |_, _| true,
};

static VARIANTS: &[&Variant] = &[&host_lines::LINES, &host_blocks::BLOCKS];

/// The default of the knob `partition`: the operator is bound by memory.
fn partition(task: &Task, limits: &Limits) -> KnobValue {
    row_split::partition_for_bytes((REORDER.bytes)(task), limits)
}

fn task(facts: &Facts<'_>) -> Result<Task, BuildError> {
    let bare = Task::new("reorder");
    let task = bare.with_operand("x", facts.input("reorder", 0)?).with_operand("y", facts.output("reorder", 0)?);
    signature(&task)?;
    Ok(task)
}

fn signature(task: &Task) -> Result<Signature, BuildError> {
    let (x, y) = (task.required("x")?, task.required("y")?);
    if x.shape != y.shape || x.dtype != DType::F32 || y.dtype != DType::F32 {
        return Err(task.refused("input and output are f32 of one shape"));
    }
    if Change::of(&x, &y).is_none() {
        return Err(task.refused(format!("there is no way from {} to {}", x.layout, y.layout)));
    }
    Ok(Signature { inputs: vec![x], outputs: vec![y] })
}

/// What changes.
#[derive(Copy, Clone, Debug)]
enum Change {
    /// Nothing.
    Copy,
    /// Rows to planes.
    Block(Plane),
    /// Planes to rows.
    Unblock(Plane),
    /// The halo.
    Halo(Plane, Plane),
    /// Rows to columns: `m` rows of `k`.
    ToColumns { m: usize, k: usize },
    /// Columns to rows: `m` rows of `k`.
    FromColumns { m: usize, k: usize },
}

impl Change {
    fn of(x: &OperandSpec, y: &OperandSpec) -> Option<Change> {
        let matrix = match x.shape[..] {
            [.., m, k] => (m, k),
            _ => (1, 1),
        };
        let (m, k) = matrix;
        Some(match (x.layout, y.layout) {
            (from, to) if from == to => Change::Copy,
            (Layout::Rows, Layout::Channels { .. }) => Change::Block(Plane::of(y)?),
            (Layout::Channels { .. }, Layout::Rows) => Change::Unblock(Plane::of(x)?),
            (Layout::Channels { .. }, Layout::Channels { .. }) => Change::Halo(Plane::of(x)?, Plane::of(y)?),
            (Layout::Rows, Layout::Columns) => Change::ToColumns { m, k },
            (Layout::Columns, Layout::Rows) => Change::FromColumns { m, k },
            _ => return None,
        })
    }
}
