//! Reductions, running sums, softmax and its kin, top k.

use super::{Op, attributes, op, same, semantics};

pub static OPS: &[Op] = &[
    op("ArgMax", &["1 1 1 axis:i keepdims:i", "12 1 1 axis:i keepdims:i select_last_index:i"], same),
    op("ArgMin", &["1 1 1 axis:i keepdims:i", "12 1 1 axis:i keepdims:i select_last_index:i"], same),
    op("CumProd", &["26 2 1 exclusive:i reverse:i"], same),
    op("CumSum", &["11 2 1 exclusive:i reverse:i"], same),
    op("Hardmax", &["1 1 1 axis:i"], semantics::coerced),
    op("LogSoftmax", &["1 1 1 axis:i"], semantics::coerced),
    op("ReduceL1", &["1 1 1 axes:is keepdims:i", "18 1-2 1 keepdims:i noop_with_empty_axes:i"], attributes::axes),
    op("ReduceL2", &["1 1 1 axes:is keepdims:i", "18 1-2 1 keepdims:i noop_with_empty_axes:i"], attributes::axes),
    op("ReduceLogSum", &["1 1 1 axes:is keepdims:i", "18 1-2 1 keepdims:i noop_with_empty_axes:i"], attributes::axes),
    op("ReduceLogSumExp", &["1 1 1 axes:is keepdims:i", "18 1-2 1 keepdims:i noop_with_empty_axes:i"], attributes::axes),
    op("ReduceMax", &["1 1 1 axes:is keepdims:i", "18 1-2 1 keepdims:i noop_with_empty_axes:i"], attributes::axes),
    op("ReduceMean", &["1 1 1 axes:is keepdims:i", "18 1-2 1 keepdims:i noop_with_empty_axes:i"], attributes::axes),
    op("ReduceMin", &["1 1 1 axes:is keepdims:i", "18 1-2 1 keepdims:i noop_with_empty_axes:i"], attributes::axes),
    op("ReduceProd", &["1 1 1 axes:is keepdims:i", "18 1-2 1 keepdims:i noop_with_empty_axes:i"], attributes::axes),
    op("ReduceSum", &["1 1 1 axes:is keepdims:i", "13 1-2 1 keepdims:i noop_with_empty_axes:i"], attributes::axes),
    op("ReduceSumSquare", &["1 1 1 axes:is keepdims:i", "18 1-2 1 keepdims:i noop_with_empty_axes:i"], attributes::axes),
    op("Softmax", &["1 1 1 axis:i"], semantics::coerced),
    op("TopK", &["1 1 2 axis:i k:i!", "10 2 2 axis:i", "11 2 2 axis:i largest:i sorted:i"], attributes::top_k),
];
