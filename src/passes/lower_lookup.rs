//! Turns `Gather` into `embedding`, `gather` or a slice.
//!
//! Rows of a constant f32 table chosen by computed indices are an `embedding`. A sum or mean over the last axis of the indices that alone reads the
//! rows goes into it as a bag. One constant index, or a run of them, is a slice, which is a view or a plain copy.

use super::lowering::taken;
use super::rewrite::{Step, Sweep, axis, instead_of, reshape_to, sweep_all};
use super::{Options, PassError};
use crate::graph::{Graph, Node, Type, ValueId};
use kernels::{Attribute, Attributes};

pub(super) fn run(graph: &mut Graph, _: &Options) -> Result<usize, PassError> {
    let bags = sweep_all(graph, &mut |sweep, index| match bag(sweep, sweep.node(index)) {
        Some(node) => Step::Replace(vec![node]),
        None => Step::Keep,
    });
    let rest = sweep_all(graph, &mut |sweep, index| match lower(sweep, index) {
        Some(nodes) => Step::Replace(nodes),
        None => Step::Keep,
    });
    Ok(bags + rest)
}

/// The table and the indices of a `Gather` of rows from a constant.
fn rows(sweep: &Sweep<'_>, node: &Node) -> Option<(ValueId, ValueId)> {
    let (table, indices) = (node.input(0)?, node.input(1)?);
    let rank = sweep.ty(table).shape()?.len();
    let first = node.op == "Gather" && axis(node.attributes.int("axis").unwrap_or(0), rank)? == 0;
    (first && sweep.constant(table).is_some() && sweep.constant(indices).is_none()).then_some((table, indices))
}

/// A sum or mean over what an embedding looked up, as a bag.
fn bag(sweep: &Sweep<'_>, node: &Node) -> Option<Node> {
    let kind = match node.op.as_str() {
        "ReduceSum" => "sum",
        "ReduceMean" => "mean",
        _ => return None,
    };
    let looked_up = node.input(0).filter(|&id| sweep.uses(id) == 1)?;
    let (table, indices) = rows(sweep, sweep.made_by(looked_up, "Gather")?)?;
    let rank = sweep.ty(looked_up).shape()?.len();
    let over: Vec<usize> = sweep.ints(node.input(1)?)?.into_iter().map(|at| axis(at, rank)).collect::<Option<_>>()?;
    let bagged = sweep.ty(indices).shape()?.len().checked_sub(1)?;
    if over != [bagged] || node.attributes.int("keepdims").unwrap_or(1) != 0 {
        return None;
    }
    let attributes = Attributes::default().with("bag", Attribute::String(kind.to_owned()));
    let lowered = instead_of(node, "embedding", &[table, indices], &[node.output(0)?], attributes);
    taken(sweep, &lowered).then_some(lowered)
}

fn lower(sweep: &mut Sweep<'_>, index: usize) -> Option<Vec<Node>> {
    let node = sweep.node(index).clone();
    if node.op != "Gather" {
        return None;
    }
    if let Some(nodes) = slice(sweep, &node) {
        return Some(nodes);
    }
    let (x, indices, y) = (node.input(0)?, node.input(1)?, node.output(0)?);
    let along = axis(node.attributes.int("axis").unwrap_or(0), sweep.ty(x).shape()?.len())?;
    let embedding = instead_of(&node, "embedding", &[x, indices], &[y], Attributes::default());
    if along == 0 && taken(sweep, &embedding) {
        return Some(vec![embedding]);
    }
    let attributes = Attributes::default().with("axis", Attribute::Int(along as i64));
    let gather = instead_of(&node, "gather", &[x, indices], &[y], attributes);
    taken(sweep, &gather).then(|| vec![gather])
}

/// Constant indices that follow one another, as a slice and a reshape.
fn slice(sweep: &mut Sweep<'_>, node: &Node) -> Option<Vec<Node>> {
    let (x, y) = (node.input(0)?, node.output(0)?);
    let shape = sweep.shape(x)?;
    let along = axis(node.attributes.int("axis").unwrap_or(0), shape.len())?;
    let extent = i64::try_from(shape[along]).ok()?;
    let indices = sweep.ints(node.input(1)?)?;
    let from_front = |index: i64| if index < 0 { index + extent } else { index };
    let first = from_front(*indices.first()?);
    let run = indices.iter().enumerate().all(|(i, &index)| from_front(index) == first + i as i64);
    let last = first.checked_add(indices.len() as i64)?;
    if !run || first < 0 || last > extent {
        return None;
    }
    let mut starts = vec![0; shape.len()];
    starts[along] = first;
    let mut taken_shape = shape;
    taken_shape[along] = indices.len();
    let attributes =
        Attributes::default().with("kind", Attribute::String("slice".to_owned())).with("starts", Attribute::Ints(starts));
    let whole = sweep.shape(y)?;
    if whole == taken_shape {
        let lowered = instead_of(node, "copy", &[x], &[y], attributes);
        return taken(sweep, &lowered).then(|| vec![lowered]);
    }
    let part = sweep.add(y, "slice", Type::tensor(sweep.value(x).dtype()?, &taken_shape));
    let lowered = instead_of(node, "copy", &[x], &[part], attributes);
    taken(sweep, &lowered).then(|| vec![lowered, reshape_to(sweep, node, part, y, &whole)])
}
