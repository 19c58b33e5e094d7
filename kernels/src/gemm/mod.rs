//! Matrix products: `C = act(alpha · A·B + bias + residual)`, one or a batch of them.
//!
//! Parameters of the task; those with a default may be absent:
//!
//! | parameter | means |
//! |---|---|
//! | `m` `n` `k` | C is `[…, m, n]`, A `[…, m, k]`, B `[…, k, n]` |
//! | `batch_a` `batch_b` | the axes before them, of equal rank; an axis of 1 is broadcast. Default: none |
//! | `trans_a` `trans_b` | 1: A is given as `[…, k, m]`, B as `[…, n, k]`. Default 0 |
//! | `a` `c` | layout: `rows` (default) or `columns16`; an A given transposed is `rows`. The residual lies as C |
//! | `b` | `const` (packed when built) or `dynamic` (default), always in rows |
//! | `alpha` | a word, default 1 |
//! | `epilogue` | default `none`; bias is `[n]` |
//!
//! Inputs by position: A, B, bias, residual. Where the epilogue has a residual but no bias, input 2 is absent (shape `[0]`). The bias
//! is constant where B is.

mod host_gemv;
pub mod host_packed;
pub mod pack;
pub mod product;
mod reference;
mod shape;

pub use shape::{Shape, push_epilogue};

use crate::{BuildError, Operator, Task};

/// See the module.
pub static GEMM: Operator = Operator {
    id: "gemm",
    variants: &[&host_gemv::STREAMED, &host_packed::PACKED, &host_gemv::GEMV],
    task: shape::task,
    signature: |task| Shape::of(task).map(|shape| shape.signature()),
    flops: |task| or_zero(task, |shape| 2 * shape.batch() as u64 * (shape.m * shape.n * shape.k) as u64),
    bytes: |task| or_zero(task, |shape| shape.signature().bytes() as u64),
    reference: reference::reference,
    row_wise: shape::row_wise,
};

fn or_zero(task: &Task, count: impl Fn(&Shape) -> u64) -> u64 {
    Shape::of(task).map_or(0, |shape| count(&shape))
}

/// A refusal of a task.
pub(crate) fn refuse(task: &Task, reason: impl Into<String>) -> BuildError {
    BuildError::Task { task: task.to_string(), reason: reason.into() }
}
