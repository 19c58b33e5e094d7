//! Turns `Conv` and `ConvTranspose` on f32 into `conv2d`, `depthwise` and `conv_transpose2d`.
//!
//! A convolution over one axis becomes one over two, the first of length 1. Automatic padding is written out. A `Pad` with zeros on the
//! image's axes becomes padding of the convolution. A constant bias goes into the epilogue; with any other the node stays as it is.

use super::lowering::taken;
use super::rewrite::{Step, Sweep, instead_of, ints, reshape_to, sweep_all};
use super::{Options, PassError};
use crate::graph::{Graph, Node, Type, ValueId};
use kernels::{Attribute, Attributes};
use schema::DType;

pub(super) fn run(graph: &mut Graph, _: &Options) -> Result<usize, PassError> {
    Ok(sweep_all(graph, &mut |sweep, index| match lower(sweep, index) {
        Some(nodes) => Step::Replace(nodes),
        None => Step::Keep,
    }))
}

/// The geometry of a convolution over one or two axes, as two.
struct Geometry {
    strides: [usize; 2],
    dilations: [usize; 2],
    /// Top, left, bottom, right.
    pads: [usize; 4],
    groups: usize,
    /// Rows and columns that a transposed convolution adds at the end.
    output_pads: [usize; 2],
}

/// Whole numbers of a node along the image's axes; `fill` where there are none, and for the axis in front of a single one.
fn pair(node: &Node, name: &str, axes: usize, fill: usize) -> Option<[usize; 2]> {
    let values: Vec<usize> = match node.attributes.ints(name) {
        Some(values) => values.iter().map(|&value| usize::try_from(value).ok()).collect::<Option<_>>()?,
        None => vec![fill; axes],
    };
    match values[..] {
        [x] if axes == 1 => Some([fill, x]),
        [y, x] if axes == 2 => Some([y, x]),
        _ => None,
    }
}

/// `[begin…, end…]` over one or two axes as top, left, bottom, right.
fn four(pads: &[i64]) -> Option<[usize; 4]> {
    let pads: Vec<usize> = pads.iter().map(|&pad| usize::try_from(pad).ok()).collect::<Option<_>>()?;
    match pads[..] {
        [left, right] => Some([0, left, 0, right]),
        [top, left, bottom, right] => Some([top, left, bottom, right]),
        _ => None,
    }
}

/// An image tensor's shape with two image axes.
fn planar(shape: &[usize]) -> Option<[usize; 4]> {
    match *shape {
        [n, c, w] => Some([n, c, 1, w]),
        [n, c, h, w] => Some([n, c, h, w]),
        _ => None,
    }
}

fn geometry(node: &Node, x: [usize; 4], kernel: [usize; 2], axes: usize) -> Option<Geometry> {
    let strides = pair(node, "strides", axes, 1)?;
    let dilations = pair(node, "dilations", axes, 1)?;
    let groups = usize::try_from(node.attributes.int("group").unwrap_or(1)).ok()?;
    if node.attributes.get("output_shape").is_some() {
        return None;
    }
    let output_pads = pair(node, "output_padding", axes, 0)?;
    let pads = match node.attributes.string("auto_pad").unwrap_or("NOTSET") {
        "NOTSET" => node.attributes.ints("pads").map_or(Some([0; 4]), four)?,
        "VALID" => [0; 4],
        upper @ ("SAME_UPPER" | "SAME_LOWER") if node.op == "Conv" => same(upper == "SAME_UPPER", x, kernel, strides, dilations)?,
        _ => return None,
    };
    Some(Geometry { strides, dilations, pads, groups, output_pads })
}

/// Padding that makes the output `⌈extent / stride⌉` long; an odd one goes to the end, or with `SAME_LOWER` to the beginning.
fn same(upper: bool, x: [usize; 4], kernel: [usize; 2], strides: [usize; 2], dilations: [usize; 2]) -> Option<[usize; 4]> {
    let mut pads = [0; 4];
    for axis in 0..2 {
        let (extent, stride) = (x[2 + axis], strides[axis]);
        let span = dilations[axis].checked_mul(kernel[axis].checked_sub(1)?)?.checked_add(1)?;
        let steps = extent.checked_add(stride)?.checked_sub(1)?.checked_div(stride)?;
        let need = steps.checked_sub(1)?.checked_mul(stride)?.checked_add(span)?.saturating_sub(extent);
        let (less, more) = (need / 2, need - need / 2);
        (pads[axis], pads[2 + axis]) = if upper { (less, more) } else { (more, less) };
    }
    Some(pads)
}

fn lower(sweep: &mut Sweep<'_>, index: usize) -> Option<Vec<Node>> {
    let node = sweep.node(index).clone();
    if node.op != "Conv" && node.op != "ConvTranspose" {
        return None;
    }
    let (mut x, w, y) = (node.input(0)?, node.input(1)?, node.output(0)?);
    if sweep.value(x).dtype() != Some(DType::F32) {
        return None;
    }
    let axes = sweep.shape(y)?.len().checked_sub(2).filter(|axes| (1..=2).contains(axes))?;
    let weight = planar(&sweep.shape(w)?)?;
    let mut geometry = geometry(&node, planar(&sweep.shape(x)?)?, [weight[2], weight[3]], axes)?;
    if node.op == "Conv"
        && let Some((unpadded, pads)) = through_pad(sweep, x)
    {
        x = unpadded;
        geometry.pads.iter_mut().zip(pads).for_each(|(sum, pad)| *sum += pad);
    }
    let bias = match node.input(2) {
        Some(bias) => Some(sweep.constant(bias).filter(|tensor| tensor.dtype() == DType::F32)?.clone()),
        None => None,
    };
    let attributes = attributes(&node, &geometry, bias.is_some())?;
    let mut nodes = Vec::new();
    let (x, w, z) = if axes == 1 {
        let x = widened(sweep, &node, x, &mut nodes)?;
        let w = widened(sweep, &node, w, &mut nodes)?;
        let wide = Type::tensor(DType::F32, &planar(&sweep.shape(y)?)?);
        (x, w, sweep.add(y, "image", wide))
    } else {
        (x, w, y)
    };
    let mut inputs = vec![x, w];
    inputs.extend(bias.map(|bias| sweep.add_constant(y, "bias", bias)));
    let convolution = operators(&node.op, &geometry, weight, sweep.shape(x)?)
        .into_iter()
        .map(|op| instead_of(&node, op, &inputs, &[z], attributes_of(op, &attributes)))
        .find(|lowered| taken(sweep, lowered))?;
    nodes.push(convolution);
    if axes == 1 {
        let shape = sweep.shape(y)?;
        nodes.push(reshape_to(sweep, &node, z, y, &shape));
    }
    Some(nodes)
}

/// The operators that may compute it, the most special first.
fn operators(op: &str, geometry: &Geometry, weight: [usize; 4], x: Vec<usize>) -> Vec<&'static str> {
    if op == "ConvTranspose" {
        return vec!["conv_transpose2d"];
    }
    let each_channel_alone =
        geometry.groups > 1 && weight[1] == 1 && x.get(1) == Some(&geometry.groups) && weight[0] == geometry.groups;
    if each_channel_alone { vec!["depthwise", "conv2d"] } else { vec!["conv2d"] }
}

fn attributes(node: &Node, geometry: &Geometry, bias: bool) -> Option<Attributes> {
    let mut attributes = Attributes::default();
    if geometry.strides != [1, 1] {
        attributes.set("strides", ints(geometry.strides));
    }
    if geometry.dilations != [1, 1] {
        attributes.set("dilations", ints(geometry.dilations));
    }
    if geometry.pads != [0; 4] {
        attributes.set("pads", ints(geometry.pads));
    }
    if geometry.groups != 1 {
        attributes.set("groups", Attribute::Int(i64::try_from(geometry.groups).ok()?));
    }
    if bias {
        attributes.set("epilogue", Attribute::String("bias".to_owned()));
    }
    if node.op == "ConvTranspose" && geometry.output_pads != [0, 0] {
        attributes.set("output_pads", ints(geometry.output_pads));
    }
    Some(attributes)
}

/// `depthwise` has no groups: each channel is one.
fn attributes_of(op: &str, attributes: &Attributes) -> Attributes {
    let mut attributes = attributes.clone();
    if op == "depthwise" {
        attributes.remove("groups");
    }
    attributes
}

/// What a `Pad` with zeros on the image's axes pads, and by how much.
fn through_pad(sweep: &Sweep<'_>, x: ValueId) -> Option<(ValueId, [usize; 4])> {
    let node = sweep.made_by(x, "Pad")?;
    let rank = sweep.ty(x).shape()?.len();
    let constant = matches!(node.attributes.string("mode"), None | Some("constant"));
    let zero = node.input(2).is_none_or(|value| sweep.scalar(value) == Some(0.0));
    let pads = sweep.ints(node.input(1)?).filter(|pads| constant && zero && node.input(3).is_none() && pads.len() == 2 * rank)?;
    let (begin, end) = pads.split_at(rank);
    if begin[..2] != [0, 0] || end[..2] != [0, 0] {
        return None;
    }
    Some((node.input(0)?, four(&[&begin[2..], &end[2..]].concat())?))
}

/// A value with one image axis as one with two.
fn widened(sweep: &mut Sweep<'_>, node: &Node, id: ValueId, nodes: &mut Vec<Node>) -> Option<ValueId> {
    let shape = planar(&sweep.shape(id)?)?;
    if let Some(tensor) = sweep.constant(id) {
        let wide = tensor.reshaped(shape.to_vec())?;
        return Some(sweep.add_constant(id, "image", wide));
    }
    let wide = sweep.add(id, "image", Type::tensor(DType::F32, &shape));
    nodes.push(reshape_to(sweep, node, id, wide, &shape));
    Some(wide)
}
