//! Normalisation over the last axes: `(x − mean) / √(variance + ε) · scale + bias`, or without the mean (`rms`).
//!
//! **Inputs**: `x` f32; `scale` and `bias` f32 rows, optional, any shape that broadcasts to the normalised axes `x.shape[axis..]` and
//! has as many elements. **Output** `y`: f32, as `x`. An absent `scale` before a `bias` is allowed. **Attributes**: `axis` (first
//! normalised axis, default −1), `epsilon` (float, default 1e-5), `rms` (1: root mean square only; default 0).
//!
//! **Layouts**: `x` and `y` each in rows or, when `axis` is the last, in `Columns`. **Task**: `x`, `y`, `scale`, `bias`, `axis`,
//! `epsilon`, `rms`.

mod host_columns;
mod host_rows;
mod host_two_pass;
mod reference;

use crate::row_split;
use crate::{BuildError, Facts, Fill, Layout, Limits, OperandSpec, Operator, Signature, Task, Variant};
use schema::{DType, KnobValue};

/// Normalisation over the last axes.
pub static LAYER_NORM: Operator = Operator {
    id: "layer_norm",
    variants: VARIANTS,
    task,
    signature,
    flops: |task| 8 * task.ints("x").iter().product::<usize>() as u64,
    bytes: |task| signature(task).map_or(0, |s| s.inputs.iter().chain(&s.outputs).map(|spec| spec.bytes() as u64).sum()),
    reference: reference::compute,
    row_wise: |facts, varies| crate::rows::only(varies, 0, &[]) && crate::rows::axis(facts, -1).is_some_and(|axis| axis > 0),
};

static VARIANTS: &[&Variant] = &[&host_two_pass::TWO_PASS, &host_rows::ROWS, &host_columns::COLUMNS];

/// The default of the knob `partition`: the operator is bound by memory.
fn partition(task: &Task, limits: &Limits) -> KnobValue {
    row_split::partition_for_bytes((LAYER_NORM.bytes)(task), limits)
}

fn task(facts: &Facts<'_>) -> Result<Task, BuildError> {
    let x = facts.input("layer_norm", 0)?;
    let mut task = Task::new("layer_norm")
        .with_operand("x", x)
        .with_operand("y", facts.output("layer_norm", 0)?)
        .with_int("axis", facts.axis("layer_norm", -1, x.shape.len())?)
        .with_float("epsilon", facts.attributes.float("epsilon").unwrap_or(1e-5));
    for (index, name) in [(1, "scale"), (2, "bias")] {
        if let Some(operand) = facts.optional(index) {
            task = task.with_operand(name, operand);
        }
    }
    if facts.attributes.int("rms").unwrap_or(0) != 0 {
        task = task.with_int("rms", 1);
    }
    signature(&task)?;
    Ok(task)
}

fn signature(task: &Task) -> Result<Signature, BuildError> {
    let (x, y, axis) = (task.required("x")?, task.required("y")?, task.int("axis"));
    if axis >= x.shape.len() || x.shape != y.shape || task.float("epsilon").is_none() {
        return Err(task.refused("axis, epsilon or the output's shape make no sense"));
    }
    let normalised: usize = x.shape[axis..].iter().product();
    let absent = |name| OperandSpec { shape: vec![0], ..OperandSpec::f32(name, vec![]) };
    let (scale, bias) = (task.operand("scale")?, task.operand("bias")?);
    for spec in scale.iter().chain(&bias) {
        if spec.shape.iter().product::<usize>() != normalised || spec.layout != Layout::Rows {
            return Err(task.refused(format!("'{}' does not fit the normalised axes", spec.name)));
        }
    }
    let floats = [&x, &y].into_iter().chain(&scale).chain(&bias).all(|spec| spec.dtype == DType::F32);
    let columns = [&x, &y].iter().all(|spec| match spec.layout {
        Layout::Rows => true,
        Layout::Columns => axis + 1 == spec.shape.len(),
        Layout::Channels { .. } => false,
    });
    if !floats || !columns {
        return Err(task.refused("operands are f32 in rows, or in columns when the last axis is normalised"));
    }
    let mut inputs = vec![x];
    if scale.is_some() || bias.is_some() {
        inputs.push(scale.map_or_else(|| absent("scale"), |spec| OperandSpec { fill: Fill::Positive, ..spec }));
        inputs.extend(bias);
    }
    Ok(Signature { inputs, outputs: vec![y] })
}

/// A task as numbers.
#[derive(Copy, Clone, Debug)]
struct Extents {
    /// Elements normalised together.
    len: usize,
    /// Rows of one matrix in `Columns`.
    matrix: usize,
    from: Layout,
    to: Layout,
    epsilon: f32,
    rms: bool,
}

impl Extents {
    fn of(task: &Task) -> Result<Self, BuildError> {
        let signature = signature(task)?;
        let x = &signature.inputs[0];
        Ok(Extents {
            len: x.shape[task.int("axis")..].iter().product(),
            matrix: x.shape.iter().rev().nth(1).copied().unwrap_or(1),
            from: x.layout,
            to: signature.outputs[0].layout,
            epsilon: task.float("epsilon").unwrap_or(1e-5),
            rms: task.int("rms") == 1,
        })
    }
}
