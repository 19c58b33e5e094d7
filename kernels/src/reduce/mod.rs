//! Axes folded into one element: sums, means, extremes.
//!
//! **Input** `x`, **output** `y`: the same type; `y` has the reduced axes with extent 1 or lacks them. **Attributes**: `kind`: `sum`,
//! `mean`, `max`, `min`, `prod`, `l1`, `l2`, `sum_square`, `log_sum`; `axes`: ints (absent or empty: all axes). **Types**: f32; i64 and
//! i32 for `sum`, `max`, `min`, `prod`.
//!
//! **Layouts**: rows to rows; or `x` in `Channels` with `axes` 2 and 3 (global pooling) to rows or to `Channels`. **Task**: `kind`, `x`,
//! `y`, `axes` (sorted, from the front).

mod host_folds;
mod host_lines;
mod host_registers;
mod host_rows;
mod planes;
mod reference;

use crate::row_split;
use crate::{BuildError, Facts, Layout, Limits, OperandSpec, Operator, Rule, Signature, Task, Variant, from_front};
use schema::{DType, KnobValue};

/// Axes folded into one element.
pub static REDUCE: Operator = Operator {
    id: "reduce",
    variants: VARIANTS,
    task,
    signature,
    flops: |task| task.ints("x").iter().product::<usize>() as u64,
    bytes: |task| signature(task).map_or(0, |s| (s.inputs[0].bytes() + s.outputs[0].bytes()) as u64),
    reference: reference::compute,
    row_wise: |facts, _| task(facts).is_ok_and(|task| !task.ints("axes").contains(&0)),
};

static VARIANTS: &[&Variant] = &[&host_folds::FOLDS, &host_lines::LINES, &host_registers::REGISTERS, &host_rows::ROWS];

/// The default of the knob `partition`: the operator is bound by memory.
fn partition(task: &Task, limits: &Limits) -> KnobValue {
    row_split::partition_for_bytes((REDUCE.bytes)(task), limits)
}

/// The rule of variants that fold rows of f32 only.
const PLAIN_RULE: Rule = Rule {
    reason: "only f32 in rows",
    holds: |task, _, _| signature(task).is_ok_and(|s| s.inputs[0].layout == Layout::Rows && s.inputs[0].dtype == DType::F32),
};

/// The rule of variants that fold lines onto each other.
const KEPT_RULE: Rule = Rule {
    reason: "the innermost axis is folded",
    holds: |task, _, _| host_folds::Folds::of(task).is_ok_and(|folds| folds.line > 1),
};

/// What is computed of the elements folded together.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Kind {
    Sum,
    Mean,
    Max,
    Min,
    Prod,
    L1,
    L2,
    SumSquare,
    LogSum,
}

impl Kind {
    fn parse(text: &str) -> Option<Kind> {
        Some(match text {
            "sum" => Kind::Sum,
            "mean" => Kind::Mean,
            "max" => Kind::Max,
            "min" => Kind::Min,
            "prod" => Kind::Prod,
            "l1" => Kind::L1,
            "l2" => Kind::L2,
            "sum_square" => Kind::SumSquare,
            "log_sum" => Kind::LogSum,
            _ => return None,
        })
    }

    /// Where a fold starts.
    fn start(self) -> f32 {
        match self {
            Kind::Max => f32::NEG_INFINITY,
            Kind::Min => f32::INFINITY,
            Kind::Prod => 1.0,
            _ => 0.0,
        }
    }

    /// What a fold of `count` elements becomes.
    fn finish(self, folded: f32, count: usize) -> f32 {
        match self {
            Kind::Mean => folded / count as f32,
            Kind::L2 => folded.sqrt(),
            Kind::LogSum => folded.ln(),
            _ => folded,
        }
    }
}

fn task(facts: &Facts<'_>) -> Result<Task, BuildError> {
    let bare = Task::new("reduce");
    let word = facts.attributes.string("kind").unwrap_or_default();
    Kind::parse(word).ok_or_else(|| bare.refused(format!("attribute 'kind' is '{word}'")))?;
    let x = facts.input("reduce", 0)?;
    let rank = x.shape.len();
    let given = facts.attributes.ints("axes").unwrap_or_default();
    let all: Vec<i64> = (0..rank as i64).collect();
    let given = if given.is_empty() { &all } else { given };
    let axes: Option<Vec<usize>> = given.iter().map(|&axis| from_front(axis, rank)).collect();
    let mut axes = axes.ok_or_else(|| bare.refused("an axis lies outside"))?;
    axes.sort_unstable();
    axes.dedup();
    let task =
        bare.with_word("kind", word).with_operand("x", x).with_operand("y", facts.output("reduce", 0)?).with_ints("axes", &axes);
    signature(&task)?;
    Ok(task)
}

fn signature(task: &Task) -> Result<Signature, BuildError> {
    let (x, y) = (task.required("x")?, task.required("y")?);
    let kind = Kind::parse(task.word("kind")).ok_or_else(|| task.refused("there is no such kind"))?;
    let axes = task.ints("axes");
    let sorted = axes.is_sorted_by(|a, b| a < b) && axes.iter().all(|&axis| axis < x.shape.len());
    if !sorted || task.signed("axes").iter().any(|&axis| axis < 0) {
        return Err(task.refused("the axes are not sorted or lie outside"));
    }
    let kept = |axis: usize| !axes.contains(&axis);
    let ones: Vec<usize> = (0..x.shape.len()).map(|axis| if kept(axis) { x.shape[axis] } else { 1 }).collect();
    let dropped: Vec<usize> = (0..x.shape.len()).filter(|&axis| kept(axis)).map(|axis| x.shape[axis]).collect();
    if y.shape != ones && y.shape != dropped {
        return Err(task.refused("the output has another shape"));
    }
    let whole = matches!(x.dtype, DType::I64 | DType::I32) && matches!(kind, Kind::Sum | Kind::Max | Kind::Min | Kind::Prod);
    if y.dtype != x.dtype || !(x.dtype == DType::F32 || whole) {
        return Err(task.refused("the types have no kernels"));
    }
    let layouts = match (x.layout, y.layout) {
        (Layout::Rows, Layout::Rows) => true,
        (Layout::Channels { .. }, Layout::Rows | Layout::Channels { .. }) => axes == [2, 3] && x.dtype == DType::F32,
        _ => false,
    };
    if !layouts {
        return Err(task.refused(format!("there is no way from {} to {}", x.layout, y.layout)));
    }
    let fill = match (kind, x.dtype) {
        (Kind::LogSum | Kind::Prod, DType::F32) => crate::Fill::Positive,
        (Kind::Prod, _) => crate::Fill::Whole(5),
        (_, dtype) => crate::transpose::copied_fill(dtype),
    };
    Ok(Signature { inputs: vec![OperandSpec { fill, ..x }], outputs: vec![y] })
}
