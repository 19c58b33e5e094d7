//! Moves a reshape of a product's result behind the elementwise node that reads it, so that the node can become the product's epilogue.
//!
//! Exporters put a reshape between a product over rows and its bias, activation or residual: `add(Reshape(gemm), x)` is
//! `Reshape(add(gemm, Reshape(x)))`, and reshapes cost nothing. The other operands must have the result's shape, be one number, or run
//! along a last axis that the reshape keeps.

use super::lowering::taken;
use super::rewrite::{Step, Sweep, reshape_to, sweep_all};
use super::{Options, PassError};
use crate::graph::{Graph, Node, Type, ValueId};

pub(super) fn run(graph: &mut Graph, _: &Options) -> Result<usize, PassError> {
    let mut changes = 0;
    loop {
        let sunk = sweep_all(graph, &mut |sweep, index| sink(sweep, index).map_or(Step::Keep, Step::Replace));
        changes += sunk;
        if sunk == 0 {
            return Ok(changes + super::simplify_shapes::simplify(graph));
        }
    }
}

fn sink(sweep: &mut Sweep<'_>, index: usize) -> Option<Vec<Node>> {
    let node = sweep.node(index).clone();
    if node.op != "elementwise" {
        return None;
    }
    let output = node.output(0)?;
    let (shape, dtype) = (sweep.shape(output)?, sweep.value(output).dtype()?);
    let product = node.inputs.iter().flatten().find_map(|&id| under_reshape(sweep, id, &shape))?;
    let inner = sweep.shape(product)?;
    let mut nodes = Vec::new();
    let mut inputs = Vec::with_capacity(node.inputs.len());
    for id in node.inputs.iter().copied() {
        inputs.push(Some(inside(sweep, &node, id?, &shape, &inner, &mut nodes)?));
    }
    let within = sweep.add(output, "inside", Type::tensor(dtype, &inner));
    let moved = Node { inputs, outputs: vec![Some(within)], ..node.clone() };
    if !taken(sweep, &moved) {
        return None;
    }
    nodes.push(moved);
    nodes.push(reshape_to(sweep, &node, within, output, &shape));
    Some(nodes)
}

/// The product whose reshaped result only this node reads.
fn under_reshape(sweep: &Sweep<'_>, id: ValueId, shape: &[usize]) -> Option<ValueId> {
    let reshape = sweep.made_by(id, "Reshape").filter(|_| sweep.uses(id) == 1)?;
    let product = reshape.input(0).filter(|&product| sweep.uses(product) == 1)?;
    let host = sweep.maker(product).is_some_and(|node| super::fuse_epilogue::is_host(node) || node.op == "elementwise");
    // Towards fewer axes only: two products, one on either side, would pull for ever.
    (host && sweep.shape(id)? == shape && sweep.shape(product)?.len() < shape.len()).then_some(product)
}

/// An operand as it is inside the reshape.
fn inside(
    sweep: &mut Sweep<'_>,
    node: &Node,
    id: ValueId,
    shape: &[usize],
    inner: &[usize],
    nodes: &mut Vec<Node>,
) -> Option<ValueId> {
    let own = sweep.shape(id)?;
    let last = |shape: &[usize]| shape.last().copied();
    let row = own.iter().rev().skip(1).all(|&dim| dim == 1) && last(&own) == last(shape) && last(shape) == last(inner);
    let target: Vec<usize> = if own == shape {
        inner.to_vec()
    } else if own.iter().all(|&dim| dim == 1) {
        Vec::new()
    } else if row {
        own.last().copied().into_iter().collect()
    } else {
        return None;
    };
    if own == target {
        return Some(id);
    }
    // Straight to where the reshape came from, if it came from there.
    if let Some(source) = sweep.made_by(id, "Reshape").and_then(|reshape| reshape.input(0))
        && sweep.shape(source)? == target
    {
        return Some(source);
    }
    if let Some(tensor) = sweep.constant(id).and_then(|tensor| tensor.reshaped(target.clone())) {
        return Some(sweep.add_constant(id, "inside", tensor));
    }
    let ty = Type::tensor(sweep.value(id).dtype()?, &target);
    let to = sweep.add(id, "inside", ty);
    nodes.push(reshape_to(sweep, node, id, to, &target));
    Some(to)
}
