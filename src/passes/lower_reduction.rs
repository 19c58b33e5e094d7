//! Turns reductions into `reduce`: ONNX's ten, and global pooling, which is a mean or a maximum over the image.

use super::lowering::taken;
use super::rewrite::{Step, Sweep, axis, instead_of, ints, sweep_all};
use super::{Options, PassError};
use crate::graph::{Graph, Node};
use kernels::{Attribute, Attributes};

/// ONNX's names and ours. `ReduceLogSumExp` has none: taking the maximum off first is another computation.
static KINDS: &[(&str, &str)] = &[
    ("ReduceSum", "sum"),
    ("ReduceMean", "mean"),
    ("ReduceMax", "max"),
    ("ReduceMin", "min"),
    ("ReduceProd", "prod"),
    ("ReduceL1", "l1"),
    ("ReduceL2", "l2"),
    ("ReduceSumSquare", "sum_square"),
    ("ReduceLogSum", "log_sum"),
    ("GlobalAveragePool", "mean"),
    ("GlobalMaxPool", "max"),
];

pub(super) fn run(graph: &mut Graph, _: &Options) -> Result<usize, PassError> {
    Ok(sweep_all(graph, &mut |sweep, index| match lower(sweep, sweep.node(index)) {
        Some(node) => Step::Replace(vec![node]),
        None => Step::Keep,
    }))
}

fn lower(sweep: &Sweep<'_>, node: &Node) -> Option<Node> {
    let (_, kind) = KINDS.iter().find(|(op, _)| *op == node.op)?;
    let x = node.input(0)?;
    let rank = sweep.ty(x).shape()?.len();
    let axes: Vec<usize> = if node.op.starts_with("Global") {
        (2..rank).collect()
    } else {
        match node.input(1) {
            Some(axes) => sweep.ints(axes)?.into_iter().map(|at| axis(at, rank)).collect::<Option<_>>()?,
            None => Vec::new(),
        }
    };
    // Without axes ONNX reduces all, or with this attribute none.
    if axes.is_empty() && (node.attributes.int("noop_with_empty_axes").unwrap_or(0) != 0 || node.op.starts_with("Global")) {
        return None;
    }
    let attributes = Attributes::default().with("kind", Attribute::String((*kind).to_owned())).with("axes", ints(axes));
    let lowered = instead_of(node, "reduce", &[x], &[node.output(0)?], attributes);
    taken(sweep, &lowered).then_some(lowered)
}
