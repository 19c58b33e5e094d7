//! Rows of a table, one per index or a sum of several.
//!
//! **Inputs**: `table` f32 `[v, d]` (or `[v, …]`: everything behind the first axis is one row); `indices` i64 or i32, any shape.
//! **Output** `y`: f32, `indices.shape` + the row's; with a bag without the last axis of `indices`. **Attribute** `bag`: `none`
//! (default), `sum` or `mean` over the last axis of `indices`. All in rows. **Task**: `table`, `indices`, `bag`.
//!
//! A negative index counts from the end. What still lies outside is moved to the nearest row: a kernel never reads outside the
//! table, and a plan checks the indices before each run ([`Fill::Index`]), for it owes the user an error.

mod host_prefetch;
mod host_rows;
mod reference;

pub(crate) use host_rows::Indices;

use crate::row_split;
use crate::{BuildError, Facts, Fill, Layout, Limits, OperandSpec, Operator, Signature, Task, Variant};
use schema::{DType, KnobValue};

/// Rows of a table.
pub static EMBEDDING: Operator = Operator {
    id: "embedding",
    variants: VARIANTS,
    task,
    signature,
    flops: |task| if Bag::of(task) == Bag::None { 0 } else { read_bytes(task) / 4 },
    bytes: |task| {
        let (read, rest) = (read_bytes(task), signature(task));
        read + rest.map_or(0, |s| (s.inputs[1].bytes() + s.outputs[0].bytes()) as u64)
    },
    reference: reference::compute,
    row_wise,
};

static VARIANTS: &[&Variant] = &[&host_rows::ROWS, &host_prefetch::PREFETCH];

/// The default of the knob `partition`: the operator is bound by memory.
fn partition(task: &Task, limits: &Limits) -> KnobValue {
    row_split::partition_for_bytes((EMBEDDING.bytes)(task), limits)
}

/// Bytes read from the table.
fn read_bytes(task: &Task) -> u64 {
    let indices: usize = task.ints("indices").iter().product();
    4 * (indices * task.ints("table").iter().skip(1).product::<usize>()) as u64
}

/// What becomes of the rows of the last axis of indices.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Bag {
    None,
    Sum,
    Mean,
}

impl Bag {
    fn of(task: &Task) -> Bag {
        match task.word("bag") {
            "sum" => Bag::Sum,
            "mean" => Bag::Mean,
            _ => Bag::None,
        }
    }
}

/// One table for all; a bag is a row of indices.
fn row_wise(facts: &Facts<'_>, varies: &[bool]) -> bool {
    let bag = facts.attributes.string("bag").is_some_and(|bag| bag != "none");
    !varies[0] && facts.optional(1).is_some_and(|indices| indices.shape.len() > usize::from(bag))
}

fn task(facts: &Facts<'_>) -> Result<Task, BuildError> {
    let mut task = Task::new("embedding")
        .with_operand("table", facts.input("embedding", 0)?)
        .with_operand("indices", facts.input("embedding", 1)?);
    match facts.attributes.string("bag").unwrap_or("none") {
        "none" => {}
        bag @ ("sum" | "mean") => task = task.with_word("bag", bag),
        other => return Err(task.refused(format!("attribute 'bag' is '{other}'"))),
    }
    signature(&task)?;
    Ok(task)
}

fn signature(task: &Task) -> Result<Signature, BuildError> {
    let (table, indices) = (task.required("table")?, task.required("indices")?);
    if table.dtype != DType::F32 || !matches!(indices.dtype, DType::I64 | DType::I32) {
        return Err(task.refused("the table is f32 and the indices i64 or i32"));
    }
    if table.layout != Layout::Rows || indices.layout != Layout::Rows {
        return Err(task.refused("operands are in rows"));
    }
    let rows = match table.shape.first() {
        Some(&rows) if rows > 0 => rows,
        _ => return Err(task.refused("the table has no rows")),
    };
    let outer = match (Bag::of(task), &indices.shape[..]) {
        (Bag::None, all) => all,
        (_, [outer @ .., _]) => outer,
        (_, []) => return Err(task.refused("a bag needs an axis of indices")),
    };
    let shape = [outer, &table.shape[1..]].concat();
    let indices = OperandSpec { fill: Fill::Index(rows), ..indices };
    Ok(Signature { inputs: vec![table, indices], outputs: vec![OperandSpec::f32("y", shape)] })
}

/// A task as numbers.
#[derive(Copy, Clone, Debug)]
struct Extents {
    rows: usize,
    width: usize,
    /// Indices per result; 1 without bags.
    bag: usize,
    kind: Bag,
    wide: bool,
}

impl Extents {
    fn of(task: &Task) -> Result<Self, BuildError> {
        let signature = signature(task)?;
        let (table, indices) = (&signature.inputs[0], &signature.inputs[1]);
        let kind = Bag::of(task);
        Ok(Extents {
            rows: table.shape[0],
            width: table.shape[1..].iter().product(),
            bag: if kind == Bag::None { 1 } else { *indices.shape.last().unwrap_or(&1) },
            kind,
            wide: indices.dtype == DType::I64,
        })
    }
}

/// The row an index means: negative ones count from the end, others are moved inside.
#[inline(always)]
pub(crate) fn row_of(index: i64, rows: usize) -> usize {
    let rows = rows as i64;
    (if index < 0 { index.saturating_add(rows) } else { index }).clamp(0, rows - 1) as usize
}
