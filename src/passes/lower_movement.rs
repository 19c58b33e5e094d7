//! Turns what only moves data into `transpose` and `copy`.
//!
//! `Concat` and `Split` are joins, `Slice` with constant bounds, `Pad`, `Expand` and `Tile` are copies of their own kind. `Reshape` stays:
//! it costs nothing. `DepthToSpace` and `SpaceToDepth` are a transpose between two reshapes.

use super::lowering::taken;
use super::rewrite::{Step, Sweep, axis, instead_of, ints, reshape_to, sweep_all};
use super::{Options, PassError};
use crate::graph::{Graph, Node, Type, ValueId};
use kernels::{Attribute, Attributes, Tensor};

pub(super) fn run(graph: &mut Graph, _: &Options) -> Result<usize, PassError> {
    Ok(sweep_all(graph, &mut |sweep, index| {
        let node = sweep.node(index).clone();
        let nodes = match node.op.as_str() {
            "Transpose" => transpose(sweep, &node),
            "Concat" | "Split" => join(sweep, &node),
            "Slice" => slice(sweep, &node),
            "Pad" => pad(sweep, &node),
            "Expand" => copy(sweep, &node, "expand", Attributes::default()),
            "Tile" => copy(sweep, &node, "tile", Attributes::default()),
            "DepthToSpace" | "SpaceToDepth" => depth_and_space(sweep, &node),
            _ => None,
        };
        nodes.map_or(Step::Keep, Step::Replace)
    }))
}

fn transpose(sweep: &Sweep<'_>, node: &Node) -> Option<Vec<Node>> {
    let x = node.input(0)?;
    let rank = sweep.ty(x).shape()?.len();
    let reversed = Attribute::Ints((0..rank as i64).rev().collect());
    let perm = node.attributes.get("perm").cloned().unwrap_or(reversed);
    let lowered = instead_of(node, "transpose", &[x], &[node.output(0)?], Attributes::default().with("perm", perm));
    taken(sweep, &lowered).then(|| vec![lowered])
}

/// A `copy` of the node's first input into its output.
fn copy(sweep: &Sweep<'_>, node: &Node, kind: &str, attributes: Attributes) -> Option<Vec<Node>> {
    let attributes = attributes.with("kind", Attribute::String(kind.to_owned()));
    let lowered = instead_of(node, "copy", &[node.input(0)?], &[node.output(0)?], attributes);
    taken(sweep, &lowered).then(|| vec![lowered])
}

fn join(sweep: &Sweep<'_>, node: &Node) -> Option<Vec<Node>> {
    let joined = if node.op == "Concat" { node.inputs.len() } else { 1 };
    let inputs: Vec<ValueId> = node.inputs.iter().take(joined).copied().collect::<Option<_>>()?;
    let outputs: Vec<ValueId> = node.outputs.iter().copied().collect::<Option<_>>()?;
    let rank = sweep.ty(*inputs.first()?).shape()?.len();
    let along = axis(node.attributes.int("axis").unwrap_or(0), rank)?;
    // An input without elements adds nothing; a kernel need not know of it.
    let filled = |id: &ValueId| sweep.shape(*id).is_none_or(|shape| shape[along] > 0);
    let inputs: Vec<ValueId> = inputs.into_iter().filter(filled).collect();
    let attributes =
        Attributes::default().with("axis", Attribute::Int(along as i64)).with("kind", Attribute::String("join".to_owned()));
    let lowered = instead_of(node, "copy", &inputs, &outputs, attributes);
    (!inputs.is_empty() && taken(sweep, &lowered)).then(|| vec![lowered])
}

fn slice(sweep: &Sweep<'_>, node: &Node) -> Option<Vec<Node>> {
    let shape = sweep.shape(node.input(0)?)?;
    let starts = sweep.ints(node.input(1)?)?;
    let axes = match node.input(3) {
        Some(axes) => sweep.ints(axes)?,
        None => (0..starts.len() as i64).collect(),
    };
    let steps = match node.input(4) {
        Some(steps) => sweep.ints(steps)?,
        None => vec![1; starts.len()],
    };
    if axes.len() != starts.len() || steps.len() != starts.len() {
        return None;
    }
    let (mut first, mut by) = (vec![0i64; shape.len()], vec![1i64; shape.len()]);
    for ((&start, &at), &step) in starts.iter().zip(&axes).zip(&steps) {
        let at = axis(at, shape.len())?;
        let extent = i64::try_from(shape[at]).ok()?;
        let start = if start < 0 { start.saturating_add(extent) } else { start };
        // A backward slice begins at the last element at most.
        first[at] = if step < 0 { start.clamp(0, (extent - 1).max(0)) } else { start.clamp(0, extent) };
        by[at] = step;
    }
    let attributes = Attributes::default().with("starts", Attribute::Ints(first)).with("steps", Attribute::Ints(by));
    copy(sweep, node, "slice", attributes)
}

fn pad(sweep: &Sweep<'_>, node: &Node) -> Option<Vec<Node>> {
    let rank = sweep.ty(node.input(0)?).shape()?.len();
    let given = sweep.ints(node.input(1)?)?;
    let mut pads = given.clone();
    if let Some(axes) = node.input(3) {
        let axes = sweep.ints(axes)?;
        pads = vec![0; 2 * rank];
        for (i, &at) in axes.iter().enumerate() {
            let at = axis(at, rank)?;
            pads[at] = *given.get(i)?;
            pads[rank + at] = *given.get(axes.len() + i)?;
        }
    }
    let value = match node.input(2) {
        Some(value) => number(sweep.constant(value)?)?,
        None => 0.0,
    };
    let mode = node.attributes.string("mode").unwrap_or("constant").to_owned();
    let attributes = Attributes::default()
        .with("pads", Attribute::Ints(pads))
        .with("mode", Attribute::String(mode))
        .with("value", Attribute::Float(value));
    copy(sweep, node, "pad", attributes)
}

/// The number in a tensor of one element, if an f32 holds it.
fn number(tensor: &Tensor) -> Option<f32> {
    match tensor.values::<f32>() {
        Some(values) => (values.len() == 1).then(|| values[0]),
        None => match tensor.to_ints()?[..] {
            [value] if value.unsigned_abs() <= 1 << 24 => Some(value as f32),
            _ => None,
        },
    }
}

/// Blocks of channels into blocks of pixels, or back.
fn depth_and_space(sweep: &mut Sweep<'_>, node: &Node) -> Option<Vec<Node>> {
    let (x, y) = (node.input(0)?, node.output(0)?);
    let block = usize::try_from(node.attributes.int("blocksize")?).ok().filter(|&block| block > 0)?;
    let (&[n, c, h, w], dtype) = (&sweep.shape(x)?[..], sweep.value(x).dtype()?) else { return None };
    let (inner, perm): (Vec<usize>, &[usize]) = match (node.op.as_str(), node.attributes.string("mode").unwrap_or("DCR")) {
        ("SpaceToDepth", "DCR") => (vec![n, c, h / block, block, w / block, block], &[0, 3, 5, 1, 2, 4]),
        ("SpaceToDepth", "CRD") => (vec![n, c, h / block, block, w / block, block], &[0, 1, 3, 5, 2, 4]),
        (_, "DCR") => (vec![n, block, block, c / (block * block), h, w], &[0, 3, 4, 1, 5, 2]),
        (_, "CRD") => (vec![n, c / (block * block), block, block, h, w], &[0, 1, 4, 2, 5, 3]),
        _ => return None,
    };
    let moved: Vec<usize> = perm.iter().map(|&at| inner[at]).collect();
    let split = sweep.add(x, "blocks", Type::tensor(dtype, &inner));
    let turned = sweep.add(y, "blocks", Type::tensor(dtype, &moved));
    let attributes = Attributes::default().with("perm", ints(perm.iter().copied()));
    let transposed = instead_of(node, "transpose", &[split], &[turned], attributes);
    if !taken(sweep, &transposed) || inner.iter().product::<usize>() != n * c * h * w {
        return None;
    }
    let shape = sweep.shape(y)?;
    Some(vec![reshape_to(sweep, node, x, split, &inner), transposed, reshape_to(sweep, node, turned, y, &shape)])
}
