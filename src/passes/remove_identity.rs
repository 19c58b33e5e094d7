//! Removes nodes whose output equals their input: `Identity`, `Dropout` at inference, casts to the same type, and moves of data
//! (`Transpose`, `Reshape`, `Expand`, `Slice`, `Pad`, `Tile`, `Concat` of one, …) that move nothing.

use super::rewrite::{Step, Sweep, sweep_all};
use super::{Options, PassError};
use crate::graph::{Graph, Node, Type};

pub(super) fn run(graph: &mut Graph, _: &Options) -> Result<usize, PassError> {
    Ok(sweep_all(graph, &mut |sweep, index| {
        let node = sweep.node(index);
        match (node.output(0), node.input(0)) {
            (Some(output), Some(input)) if is_identity(sweep, node) => Step::Same(vec![(output, input)]),
            _ => Step::Keep,
        }
    }))
}

fn is_identity(sweep: &Sweep<'_>, node: &Node) -> bool {
    if node.outputs.len() != 1 {
        return false;
    }
    match node.op.as_str() {
        "Identity" => true,
        "Dropout" => node.input(2).is_none_or(|mode| sweep.constant(mode).is_some_and(|mode| mode.bytes() == [0])),
        "Concat" | "Sum" | "Max" | "Min" | "Mean" => node.inputs.len() == 1,
        "Cast" | "CastLike" => same_type(sweep, node),
        "Reshape" | "Squeeze" | "Unsqueeze" | "Flatten" | "Expand" | "Tile" | "Split" => same_type(sweep, node),
        "Transpose" => moves_nothing(sweep, node),
        "Slice" => same_type(sweep, node) && steps_forward(sweep, node),
        "Pad" => node.input(1).and_then(|pads| sweep.ints(pads)).is_some_and(|pads| pads.iter().all(|&pad| pad == 0)),
        _ => false,
    }
}

/// Whether output and input have the same element type and the same extents, known or of equal names.
fn same_type(sweep: &Sweep<'_>, node: &Node) -> bool {
    let (Some(output), Some(input)) = (node.output(0), node.input(0)) else { return false };
    match (sweep.ty(output), sweep.ty(input)) {
        (Type::Tensor { dtype: a, shape: Some(x) }, Type::Tensor { dtype: b, shape: Some(y) }) => a == b && x == y,
        (Type::Tensor { dtype: a, .. }, Type::Tensor { dtype: b, .. }) => a == b && node.op.starts_with("Cast"),
        _ => false,
    }
}

fn moves_nothing(sweep: &Sweep<'_>, node: &Node) -> bool {
    let rank = node.input(0).and_then(|input| sweep.ty(input).shape()).map(<[_]>::len);
    match node.attributes.ints("perm") {
        Some(perm) => perm.iter().enumerate().all(|(i, &axis)| i as i64 == axis),
        None => rank.is_some_and(|rank| rank < 2),
    }
}

/// A slice with a negative step keeps the extents and reverses the data.
fn steps_forward(sweep: &Sweep<'_>, node: &Node) -> bool {
    node.input(4).is_none_or(|steps| sweep.ints(steps).is_some_and(|steps| steps.iter().all(|&step| step > 0)))
}
