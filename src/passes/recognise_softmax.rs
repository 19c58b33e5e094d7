//! Recognises softmax written as `e / sum(e)` with `e = exp(x − max(x))` along one axis, and the logarithm of a softmax.

use super::rewrite::{Step, Sweep, axis, instead_of, sweep_all};
use super::{Options, PassError};
use crate::graph::{Graph, Node, ValueId};
use kernels::{Attribute, Attributes};

pub(super) fn run(graph: &mut Graph, _: &Options) -> Result<usize, PassError> {
    let mut changes = 0;
    for rule in [softmax, log_softmax] {
        changes += sweep_all(graph, &mut |sweep, index| match rule(sweep, sweep.node(index)) {
            Some(node) => Step::Replace(vec![node]),
            None => Step::Keep,
        });
    }
    Ok(changes)
}

fn softmax(sweep: &Sweep<'_>, node: &Node) -> Option<Node> {
    let (e, sum) = (node.input(0)?, node.input(1)?);
    if node.op != "Div" {
        return None;
    }
    let (summed, over) = reduced(sweep, sum, "ReduceSum")?;
    let inside = sweep.made_by(e, "Exp")?.input(0)?;
    // Without the maximum taken off, large inputs give NaN where softmax gives numbers: only this form is the same everywhere.
    let difference = sweep.made_by(inside, "Sub")?;
    let x = difference.input(0)?;
    let (largest, same) = reduced(sweep, difference.input(1)?, "ReduceMax")?;
    if summed != e || largest != x || same != over {
        return None;
    }
    Some(instead_of(node, "Softmax", &[x], &[node.output(0)?], along(over)))
}

fn log_softmax(sweep: &Sweep<'_>, node: &Node) -> Option<Node> {
    if node.op != "Log" {
        return None;
    }
    let softmax = sweep.made_by(node.input(0)?, "Softmax")?;
    let rank = sweep.ty(node.input(0)?).shape()?.len();
    let over = axis(softmax.attributes.int("axis").unwrap_or(-1), rank)?;
    Some(instead_of(node, "LogSoftmax", &[softmax.input(0)?], &[node.output(0)?], along(over)))
}

fn along(axis: usize) -> Attributes {
    Attributes::default().with("axis", Attribute::Int(axis as i64))
}

/// What a reduction over one axis that keeps it reads, and the axis.
fn reduced(sweep: &Sweep<'_>, id: ValueId, op: &str) -> Option<(ValueId, usize)> {
    let node = sweep.made_by(id, op).filter(|node| node.attributes.int("keepdims") != Some(0))?;
    let x = node.input(0)?;
    let rank = sweep.ty(x).shape()?.len();
    match sweep.ints(node.input(1)?)?[..] {
        [over] => Some((x, axis(over, rank)?)),
        _ => None,
    }
}
