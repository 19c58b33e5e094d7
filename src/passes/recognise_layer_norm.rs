//! Recognises layer normalisation written as means, squares and roots:
//! `d = x − mean(x)`, `d / √(mean(d²) + ε) · scale + bias` over the last axes. Scale and bias may be missing.

use super::rewrite::{Step, Sweep, axis, instead_of, sweep_all};
use super::{Options, PassError};
use crate::graph::{Graph, Node, ValueId};
use kernels::{Attribute, Attributes, Tensor};

pub(super) fn run(graph: &mut Graph, _: &Options) -> Result<usize, PassError> {
    Ok(sweep_all(graph, &mut |sweep, index| match recognise(sweep, index) {
        Some(node) => Step::Replace(vec![node]),
        None => Step::Keep,
    }))
}

/// What is normalised, over which axes, with which ε.
struct Normal {
    x: ValueId,
    /// The first axis; it and all after it.
    axis: usize,
    epsilon: f32,
}

fn recognise(sweep: &mut Sweep<'_>, index: usize) -> Option<Node> {
    let node = sweep.node(index).clone();
    let (normal, scale, bias) = match node.op.as_str() {
        "Add" => {
            let (scaled, bias) = with_constant(sweep, &node)?;
            let scaled = sweep.made_by(scaled, "Mul")?;
            let (value, scale) = with_constant(sweep, scaled)?;
            (normal(sweep, sweep.maker(value)?)?, Some(scale), Some(bias))
        }
        "Mul" => match with_constant(sweep, &node) {
            Some((value, scale)) => (normal(sweep, sweep.maker(value)?)?, Some(scale), None),
            None => (normal(sweep, &node)?, None, None),
        },
        "Div" => (normal(sweep, &node)?, None, None),
        _ => return None,
    };
    let shape = sweep.shape(normal.x)?;
    let wide: Vec<usize> = shape[normal.axis..].to_vec();
    let output = node.output(0)?;
    let scale = match scale {
        Some(scale) => along(sweep, scale, &wide)?,
        None => Tensor::new(wide.clone(), vec![1f32; wide.iter().product()]),
    };
    let bias = match bias {
        Some(bias) => Some(along(sweep, bias, &wide)?),
        None => None,
    };
    let mut inputs = vec![normal.x, sweep.add_constant(output, "scale", scale)];
    inputs.extend(bias.map(|bias| sweep.add_constant(output, "bias", bias)));
    let attributes = Attributes::default()
        .with("axis", Attribute::Int(normal.axis as i64))
        .with("epsilon", Attribute::Float(normal.epsilon))
        .with("stash_type", Attribute::Int(1));
    Some(instead_of(&node, "LayerNormalization", &inputs, &[output], attributes))
}

/// The two operands of a node, a computed one and a constant.
fn with_constant(sweep: &Sweep<'_>, node: &Node) -> Option<(ValueId, ValueId)> {
    let (a, b) = (node.input(0)?, node.input(1)?);
    match (sweep.constant(a), sweep.constant(b)) {
        (None, Some(_)) => Some((a, b)),
        (Some(_), None) => Some((b, a)),
        _ => None,
    }
}

/// A constant as a tensor over the normalised axes.
fn along(sweep: &Sweep<'_>, id: ValueId, wide: &[usize]) -> Option<Tensor> {
    let tensor = sweep.constant(id).filter(|_| sweep.is_f32(id))?;
    let lead = tensor.shape().len().checked_sub(wide.len())?;
    let fits = tensor.shape()[..lead].iter().all(|&dim| dim == 1) && tensor.shape()[lead..] == *wide;
    if fits { tensor.reshaped(wide.to_vec()) } else { None }
}

/// `d / √(mean(d²) + ε)`, or `d · (1 / √(…))`.
fn normal(sweep: &Sweep<'_>, node: &Node) -> Option<Normal> {
    let (a, b) = (node.input(0)?, node.input(1)?);
    let (d, root) = match node.op.as_str() {
        "Div" => (a, b),
        "Mul" => match (sweep.made_by(a, "Reciprocal"), sweep.made_by(b, "Reciprocal")) {
            (_, Some(node)) => (a, node.input(0)?),
            (Some(node), _) => (b, node.input(0)?),
            _ => return None,
        },
        _ => return None,
    };
    let variance = root_of(sweep, root)?;
    let (mean, epsilon) = with_constant(sweep, sweep.made_by(variance, "Add")?)?;
    let epsilon = sweep.scalar(epsilon)? as f32;
    let (squares, axes) = mean_of(sweep, mean)?;
    if !is_square(sweep, squares, d) {
        return None;
    }
    let difference = sweep.made_by(d, "Sub")?;
    let (x, (averaged, same)) = (difference.input(0)?, mean_of(sweep, difference.input(1)?)?);
    let rank = sweep.ty(x).shape()?.len();
    let last = axes.len() <= rank && axes.iter().enumerate().all(|(i, &axis)| axis == rank - axes.len() + i);
    (averaged == x && same == axes && last && sweep.is_f32(x)).then(|| Normal { x, axis: rank - axes.len(), epsilon })
}

fn root_of(sweep: &Sweep<'_>, id: ValueId) -> Option<ValueId> {
    let node = sweep.maker(id)?;
    let half = || node.input(1).and_then(|exponent| sweep.scalar(exponent)) == Some(0.5);
    if node.op == "Sqrt" || (node.op == "Pow" && half()) { node.input(0) } else { None }
}

/// What a mean that keeps its axes averages, and over which axes, sorted.
fn mean_of(sweep: &Sweep<'_>, id: ValueId) -> Option<(ValueId, Vec<usize>)> {
    let node = sweep.made_by(id, "ReduceMean").filter(|node| node.attributes.int("keepdims") != Some(0))?;
    let x = node.input(0)?;
    let rank = sweep.ty(x).shape()?.len();
    let mut axes: Vec<usize> = sweep.ints(node.input(1)?)?.into_iter().map(|at| axis(at, rank)).collect::<Option<_>>()?;
    axes.sort_unstable();
    (!axes.is_empty()).then_some((x, axes))
}

fn is_square(sweep: &Sweep<'_>, id: ValueId, of: ValueId) -> bool {
    sweep.maker(id).is_some_and(|node| {
        let two = || node.input(1).and_then(|exponent| sweep.scalar(exponent)) == Some(2.0);
        node.input(0) == Some(of) && ((node.op == "Pow" && two()) || (node.op == "Mul" && node.input(1) == Some(of)))
    })
}
