//! Brings moves of data to one form: everything that only renames axes is one `Reshape` to a constant shape, pairs of moves are one,
//! and an `Expand` that its reader's own broadcasting makes superfluous goes.
//!
//! - `Squeeze`, `Unsqueeze`, `Flatten`, and a `Transpose` that moves only axes of length 1, become `Reshape`.
//! - `Reshape` of `Reshape` and `Transpose` of `Transpose` become one.
//! - `Gather` and `GatherND` that take every element in order become `Reshape`.

use super::rewrite::{Step, Sweep, instead_of, ints, sweep_all};
use super::{Options, PassError};
use crate::graph::{Graph, Node, ValueId};
use kernels::{Attribute, Attributes, Tensor};

/// Indices of more elements are not compared with the order of the data.
const INDICES_MAX: usize = 1 << 20;

/// Operators that broadcast their inputs by themselves.
static BROADCASTING: &[&str] = &[
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Pow",
    "Mod",
    "And",
    "Or",
    "Xor",
    "Equal",
    "Greater",
    "GreaterOrEqual",
    "Less",
    "LessOrEqual",
    "Where",
    "Min",
    "Max",
    "Sum",
    "Mean",
];

pub(super) fn run(graph: &mut Graph, _: &Options) -> Result<usize, PassError> {
    Ok(simplify(graph))
}

/// The pass, for others that leave reshapes of reshapes.
pub(super) fn simplify(graph: &mut Graph) -> usize {
    let mut changes = 0;
    loop {
        let changed =
            sweep_all(graph, &mut |sweep, index| step(sweep, index).map_or(Step::Keep, |node| Step::Replace(vec![node])));
        changes += changed;
        if changed == 0 {
            return changes;
        }
    }
}

fn step(sweep: &mut Sweep<'_>, index: usize) -> Option<Node> {
    let node = sweep.node(index).clone();
    match node.op.as_str() {
        "Squeeze" | "Unsqueeze" | "Flatten" => reshape(sweep, &node, node.input(0)?),
        "Reshape" => merge_reshapes(sweep, &node),
        "Transpose" => merge_transposes(sweep, &node),
        "Gather" | "GatherND" if takes_all(sweep, &node) => reshape(sweep, &node, node.input(0)?),
        op if BROADCASTING.contains(&op) => without_expand(sweep, &node),
        _ => None,
    }
}

/// A `Reshape` of a value to the known shape of the node's output.
fn reshape(sweep: &mut Sweep<'_>, node: &Node, from: ValueId) -> Option<Node> {
    let output = node.output(0)?;
    let dims: Vec<i64> = sweep.shape(output)?.into_iter().map(|dim| i64::try_from(dim).ok()).collect::<Option<_>>()?;
    sweep.shape(from)?;
    let shape = sweep.add_constant(output, "shape", Tensor::new(vec![dims.len()], dims));
    Some(instead_of(node, "Reshape", &[from, shape], &[output], Attributes::default().with("allowzero", Attribute::Int(1))))
}

/// Reads through a `Reshape`, and makes the shape a plain constant.
fn merge_reshapes(sweep: &mut Sweep<'_>, node: &Node) -> Option<Node> {
    let mut from = node.input(0)?;
    while let Some(inner) = sweep.made_by(from, "Reshape").and_then(|inner| inner.input(0)) {
        from = inner;
    }
    let wanted: Option<Vec<i64>> = sweep.shape(node.output(0)?)?.into_iter().map(|dim| i64::try_from(dim).ok()).collect();
    let plain = sweep.ints(node.input(1)?) == wanted && node.attributes.int("allowzero") == Some(1);
    if plain && Some(from) == node.input(0) { None } else { reshape(sweep, node, from) }
}

fn merge_transposes(sweep: &mut Sweep<'_>, node: &Node) -> Option<Node> {
    let input = node.input(0)?;
    let shape = sweep.shape(input)?;
    let perm = permutation(node, shape.len())?;
    if order_kept(&perm, &shape) {
        return reshape(sweep, node, input);
    }
    let inner = sweep.made_by(input, "Transpose")?;
    let first = permutation(inner, shape.len())?;
    let both = ints(perm.iter().map(|&axis| first[axis]));
    Some(instead_of(node, "Transpose", &[inner.input(0)?], &[node.output(0)?], Attributes::default().with("perm", both)))
}

/// The permutation of a transpose; by default the axes in reverse.
fn permutation(node: &Node, rank: usize) -> Option<Vec<usize>> {
    let perm: Vec<usize> = match node.attributes.ints("perm") {
        Some(perm) => perm.iter().map(|&axis| usize::try_from(axis).ok()).collect::<Option<_>>()?,
        None => (0..rank).rev().collect(),
    };
    (perm.len() == rank && perm.iter().all(|&axis| axis < rank)).then_some(perm)
}

/// Whether the axes longer than 1 stay in their order, so that no element moves.
fn order_kept(perm: &[usize], shape: &[usize]) -> bool {
    let long: Vec<usize> = perm.iter().copied().filter(|&axis| shape[axis] != 1).collect();
    long.is_sorted() && perm.iter().enumerate().any(|(i, &axis)| i != axis)
}

/// Whether constant indices name every element of the data in order.
fn takes_all(sweep: &Sweep<'_>, node: &Node) -> bool {
    let all = || {
        let data = sweep.shape(node.input(0)?)?;
        let indices = sweep.constant(node.input(1)?).filter(|tensor| tensor.len() <= INDICES_MAX)?;
        let (shape, values) = (indices.shape().to_vec(), indices.to_ints()?);
        if node.op == "Gather" {
            let at = super::rewrite::axis(node.attributes.int("axis").unwrap_or(0), data.len())?;
            let in_order = values.iter().enumerate().all(|(i, &value)| value == i as i64);
            return Some(in_order && values.len() == data[at]);
        }
        // The last axis of the indices holds a place in the first axes of the data.
        let depth = *shape.last().filter(|_| node.attributes.int("batch_dims").unwrap_or(0) == 0)?;
        let axes = data.get(..depth).filter(|axes| !axes.is_empty())?;
        let count = axes.iter().try_fold(1usize, |size, &dim| size.checked_mul(dim))?;
        if values.len() != count.checked_mul(depth)? {
            return Some(false);
        }
        let flat = |place: &[i64]| {
            let mut at = 0i64;
            for (&index, &dim) in place.iter().zip(axes) {
                let dim = dim as i64;
                let index = if index < 0 { index + dim } else { index };
                if !(0..dim).contains(&index) {
                    return None;
                }
                at = at * dim + index;
            }
            Some(at)
        };
        Some(values.chunks(depth).enumerate().all(|(i, place)| flat(place) == Some(i as i64)))
    };
    all().unwrap_or(false)
}

/// The node reading what an `Expand` expands, when broadcasting gives the same shape without it.
fn without_expand(sweep: &Sweep<'_>, node: &Node) -> Option<Node> {
    let output = sweep.shape(node.output(0)?)?;
    for (place, id) in node.inputs.iter().enumerate() {
        let Some(source) = id.and_then(|id| sweep.made_by(id, "Expand")).and_then(|expand| expand.input(0)) else { continue };
        let mut direct = node.clone();
        direct.inputs[place] = Some(source);
        let shapes: Option<Vec<Vec<usize>>> = direct.inputs.iter().map(|id| sweep.shape((*id)?)).collect();
        if broadcast(&shapes?) == Some(output.clone()) {
            return Some(direct);
        }
    }
    None
}

/// The shape that shapes broadcast to.
fn broadcast(shapes: &[Vec<usize>]) -> Option<Vec<usize>> {
    let rank = shapes.iter().map(Vec::len).max()?;
    let mut result = vec![1; rank];
    for shape in shapes {
        for (slot, &dim) in result[rank - shape.len()..].iter_mut().zip(shape) {
            match (*slot, dim) {
                (_, 1) => {}
                (1, dim) => *slot = dim,
                (a, b) if a == b => {}
                _ => return None,
            }
        }
    }
    Some(result)
}
