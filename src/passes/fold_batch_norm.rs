//! Puts batch normalisation into the weights beside it.
//!
//! With constant statistics a batch norm is `x · s + t` per channel, `s = scale / √(var + ε)` and `t = bias − mean · s`, computed in
//! f64. Behind a convolution, a transposed convolution or a `Gemm` that nobody else reads, `s` goes into the weights and `t` into the
//! bias. Before a convolution without padding, which alone reads it, likewise (padding puts zeros behind the norm, so with it the sum
//! would be wrong at the borders). Anywhere else it becomes a multiplication and an addition, for elementwise fusion.

use super::rewrite::{Step, Sweep, instead_of, sweep_all};
use super::{Options, PassError};
use crate::graph::{Graph, Node, ValueId};
use kernels::{Attributes, Tensor};

pub(super) fn run(graph: &mut Graph, _: &Options) -> Result<usize, PassError> {
    let mut changes = 0;
    for rule in [behind, before, alone] {
        changes += sweep_all(graph, &mut |sweep, index| rule(sweep, index).map_or(Step::Keep, Step::Replace));
    }
    Ok(changes)
}

/// `x · s + t` per channel.
struct Affine {
    s: Vec<f64>,
    t: Vec<f64>,
}

/// What a batch norm does, if its statistics are constant f32.
fn affine(sweep: &Sweep<'_>, node: &Node) -> Option<Affine> {
    let inference = node.op == "BatchNormalization" && node.attributes.int("training_mode").unwrap_or(0) == 0;
    if !inference || node.outputs.len() != 1 {
        return None;
    }
    let values =
        |i: usize| Some(sweep.constant(node.input(i)?)?.values::<f32>()?.iter().map(|&v| f64::from(v)).collect::<Vec<_>>());
    let (scale, bias, mean, variance) = (values(1)?, values(2)?, values(3)?, values(4)?);
    let epsilon = f64::from(node.attributes.float("epsilon").unwrap_or(1e-5));
    let s: Vec<f64> = scale.iter().zip(&variance).map(|(scale, variance)| scale / (variance + epsilon).sqrt()).collect();
    let t: Vec<f64> = bias.iter().zip(&mean).zip(&s).map(|((bias, mean), s)| bias - mean * s).collect();
    let sound = t.len() == scale.len() && s.len() == scale.len();
    sound.then_some(Affine { s, t })
}

/// Into the convolution or product that makes its input.
fn behind(sweep: &mut Sweep<'_>, index: usize) -> Option<Vec<Node>> {
    let node = sweep.node(index).clone();
    let Affine { s, t } = affine(sweep, &node)?;
    let x = node.input(0).filter(|&x| sweep.uses(x) == 1)?;
    let maker = sweep.maker(x)?.clone();
    let weight = sweep.constant(maker.input(1)?)?.clone();
    let groups = usize::try_from(maker.attributes.int("group").unwrap_or(1)).ok()?;
    let axis = match maker.op.as_str() {
        "Conv" => 0,
        "ConvTranspose" => 1,
        "Gemm" if plain_gemm(&maker) => usize::from(maker.attributes.int("transB").unwrap_or(0) == 0),
        _ => return None,
    };
    let channels = weight.shape().get(axis)?.checked_mul(if axis == 1 && maker.op == "ConvTranspose" { groups } else { 1 })?;
    if s.len() != channels || (maker.op == "Gemm" && sweep.ty(x).shape()?.len() != 2) {
        return None;
    }
    let old = match maker.input(2) {
        Some(id) => sweep.constant(id)?.values::<f32>().filter(|values| values.len() == channels)?.into_owned(),
        None => vec![0.0; channels],
    };
    let bias = (0..channels).map(|c| (f64::from(old[c]) * s[c] + t[c]) as f32).collect();
    let scaled = match (maker.op.as_str(), axis) {
        ("ConvTranspose", _) => scaled_transposed(&weight, &s, groups)?,
        _ => scaled(&weight, &s, axis)?,
    };
    let output = node.output(0)?;
    let weight = sweep.add_constant(output, "weight", scaled);
    let bias = sweep.add_constant(output, "bias", Tensor::new(vec![channels], bias));
    Some(vec![instead_of(&maker, &maker.op, &[maker.input(0)?, weight, bias], &[output], maker.attributes.clone())])
}

fn plain_gemm(node: &Node) -> bool {
    let one = |name| node.attributes.float(name).unwrap_or(1.0) == 1.0;
    one("alpha") && one("beta")
}

/// The weights times `s` along an axis.
fn scaled(weight: &Tensor, s: &[f64], axis: usize) -> Option<Tensor> {
    let values = weight.values::<f32>()?;
    let inner: usize = weight.shape()[axis + 1..].iter().product();
    let scale = |i: usize| s[i / inner.max(1) % s.len()];
    Some(Tensor::new(
        weight.shape().to_vec(),
        values.iter().enumerate().map(|(i, &w)| (f64::from(w) * scale(i)) as f32).collect(),
    ))
}

/// Weights `[C, O/groups, …]`: input channel c belongs to group `c / (C/groups)`.
fn scaled_transposed(weight: &Tensor, s: &[f64], groups: usize) -> Option<Tensor> {
    let values = weight.values::<f32>()?;
    let (&inputs, &outputs) = (weight.shape().first()?, weight.shape().get(1)?);
    let inner: usize = weight.shape()[2..].iter().product();
    let per_group = inputs.checked_div(groups)?.max(1);
    let scale = |i: usize| {
        let (c, o) = (i / inner.max(1) / outputs, i / inner.max(1) % outputs);
        s[c / per_group * outputs + o]
    };
    Some(Tensor::new(
        weight.shape().to_vec(),
        values.iter().enumerate().map(|(i, &w)| (f64::from(w) * scale(i)) as f32).collect(),
    ))
}

/// Into the convolution that reads it: seen from the convolution.
fn before(sweep: &mut Sweep<'_>, index: usize) -> Option<Vec<Node>> {
    let node = sweep.node(index).clone();
    let padded = node.attributes.ints("pads").is_some_and(|pads| pads.iter().any(|&pad| pad != 0));
    let automatic = !matches!(node.attributes.string("auto_pad"), None | Some("NOTSET" | "VALID"));
    if node.op != "Conv" || padded || automatic || node.attributes.int("group").unwrap_or(1) != 1 {
        return None;
    }
    let x = node.input(0).filter(|&x| sweep.uses(x) == 1)?;
    let norm = sweep.maker(x)?.clone();
    let Affine { s, t } = affine(sweep, &norm)?;
    let weight = sweep.constant(node.input(1)?)?.clone();
    let (&outputs, &channels) = (weight.shape().first()?, weight.shape().get(1)?);
    if channels != s.len() {
        return None;
    }
    let values = weight.values::<f32>()?;
    let inner: usize = weight.shape()[2..].iter().product();
    let old = match node.input(2) {
        Some(id) => sweep.constant(id)?.values::<f32>().filter(|values| values.len() == outputs)?.into_owned(),
        None => vec![0.0; outputs],
    };
    let added = |o: usize| -> f64 {
        let row = &values[o * channels * inner..(o + 1) * channels * inner];
        row.iter().enumerate().map(|(i, &w)| f64::from(w) * t[i / inner.max(1)]).sum()
    };
    let bias = (0..outputs).map(|o| (f64::from(old[o]) + added(o)) as f32).collect();
    let output = node.output(0)?;
    let weight = scaled(&weight, &s, 1)?;
    let weight = sweep.add_constant(output, "weight", weight);
    let bias = sweep.add_constant(output, "bias", Tensor::new(vec![outputs], bias));
    Some(vec![instead_of(&node, "Conv", &[norm.input(0)?, weight, bias], &[output], node.attributes.clone())])
}

/// As a multiplication and an addition.
fn alone(sweep: &mut Sweep<'_>, index: usize) -> Option<Vec<Node>> {
    let node = sweep.node(index).clone();
    let Affine { s, t } = affine(sweep, &node)?;
    let (x, output) = (node.input(0)?, node.output(0)?);
    let rank = sweep.ty(x).shape()?.len();
    let mut shape = vec![1; rank.checked_sub(1)?];
    *shape.first_mut()? = s.len();
    let constant = |values: &[f64]| Tensor::new(shape.clone(), values.iter().map(|&value| value as f32).collect());
    let (s, t): (ValueId, ValueId) =
        (sweep.add_constant(output, "scale", constant(&s)), sweep.add_constant(output, "bias", constant(&t)));
    let ty = sweep.ty(output).clone();
    let scaled = sweep.add(output, "scaled", ty);
    Some(vec![
        instead_of(&node, "Mul", &[x, s], &[scaled], Attributes::default()),
        instead_of(&node, "Add", &[scaled, t], &[output], Attributes::default()),
    ])
}
