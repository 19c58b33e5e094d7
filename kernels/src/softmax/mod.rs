//! `softmax(scale · x + mask)` along an axis, or its logarithm.
//!
//! **Inputs**: `x` f32 rows; `mask` f32 rows, optional, added, any shape that broadcasts to `x`'s. **Output** `y`: f32 rows, as `x`.
//! **Attributes**: `axis` (default −1), `log` (1: log-softmax; default 0), `scale` (float, default 1). **Task**: `x`, `mask`, `axis`,
//! `log`, `scale`. A row that is −∞ throughout gives NaN, as in ONNX.

mod host_columns;
mod host_rows;
mod host_sweeps;
mod reference;

pub(crate) use host_sweeps::row;

use crate::row_split;
use crate::{BuildError, Facts, Layout, Limits, Operator, Signature, Task, Variant, strides};
use schema::{DType, KnobValue};

/// Softmax along an axis.
pub static SOFTMAX: Operator = Operator {
    id: "softmax",
    variants: VARIANTS,
    task,
    signature,
    // Scale, mask, subtract, exp, add, multiply.
    flops: |task| 6 * task.ints("x").iter().product::<usize>() as u64,
    bytes: |task| signature(task).map_or(0, |s| s.inputs.iter().chain(&s.outputs).map(|spec| spec.bytes() as u64).sum()),
    reference: reference::compute,
    row_wise: |facts, varies| {
        varies[0] && crate::rows::axis(facts, -1).is_some_and(|axis| axis > 0) && crate::rows::along(facts, varies, 1)
    },
};

static VARIANTS: &[&Variant] = &[&host_sweeps::SWEEPS, &host_rows::ROWS, &host_columns::COLUMNS];

/// The default of the knob `partition`: about a nanosecond per element.
fn partition(task: &Task, limits: &Limits) -> KnobValue {
    row_split::partition_for(task.ints("x").iter().product::<usize>() as u64, limits)
}

fn task(facts: &Facts<'_>) -> Result<Task, BuildError> {
    let x = facts.input("softmax", 0)?;
    let mut task = Task::new("softmax").with_operand("x", x).with_int("axis", facts.axis("softmax", -1, x.shape.len())?);
    if let Some(mask) = facts.optional(1) {
        task = task.with_operand("mask", mask);
    }
    if facts.attributes.int("log").unwrap_or(0) != 0 {
        task = task.with_int("log", 1);
    }
    if let Some(scale) = facts.attributes.float("scale").filter(|&scale| scale != 1.0) {
        task = task.with_float("scale", scale);
    }
    signature(&task)?;
    Ok(task)
}

fn signature(task: &Task) -> Result<Signature, BuildError> {
    let (x, mask) = (task.required("x")?, task.operand("mask")?);
    if task.int("axis") >= x.shape.len() {
        return Err(task.refused("the axis lies outside"));
    }
    if std::iter::once(&x).chain(&mask).any(|spec| spec.layout != Layout::Rows || spec.dtype != DType::F32) {
        return Err(task.refused("operands are f32 in rows"));
    }
    if mask.as_ref().is_some_and(|mask| strides::broadcast_strides(&mask.shape, &x.shape).is_none()) {
        return Err(task.refused("the mask does not broadcast"));
    }
    let y = crate::OperandSpec { name: "y", ..x.clone() };
    Ok(Signature { inputs: std::iter::once(x).chain(mask).collect(), outputs: vec![y] })
}

/// A task as numbers: `outer × len × inner`, softmax along the middle.
struct Extents {
    outer: usize,
    len: usize,
    inner: usize,
    scale: f32,
    log: bool,
    /// The mask's strides along all axes but the softmax's and those behind it, along the softmax's, and behind it.
    mask: Option<Mask>,
}

/// Where a mask's elements lie.
struct Mask {
    /// The axes before the softmax's: extents and strides.
    outer: (Vec<usize>, Vec<isize>),
    len: isize,
    /// The axes behind: extents and strides.
    inner: (Vec<usize>, Vec<isize>),
}

impl Extents {
    fn of(task: &Task) -> Result<Self, BuildError> {
        let signature = signature(task)?;
        let (shape, axis) = (&signature.inputs[0].shape, task.int("axis"));
        let mask = signature.inputs.get(1).map(|mask| {
            let strides = strides::broadcast_strides(&mask.shape, shape).expect("the signature broadcasts");
            let strides: Vec<isize> = strides.into_iter().map(|stride| stride as isize).collect();
            let part = |range: std::ops::Range<usize>| {
                let (mut dims, mut strides) = (shape[range.clone()].to_vec(), [strides[range].to_vec()]);
                strides::collapse(&mut dims, &mut strides);
                (dims, std::mem::take(&mut strides[0]))
            };
            Mask { outer: part(0..axis), len: strides[axis], inner: part(axis + 1..shape.len()) }
        });
        Ok(Extents {
            outer: shape[..axis].iter().product(),
            len: shape[axis],
            inner: shape[axis + 1..].iter().product(),
            scale: task.float("scale").unwrap_or(1.0),
            log: task.int("log") == 1,
            mask,
        })
    }
}
