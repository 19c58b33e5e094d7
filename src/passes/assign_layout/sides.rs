//! Which operands of a node would lie in blocks of channels, and what it gains.

use crate::graph::{Graph, Node, ValueId};
use schema::DType;

/// Input channels up to which a convolution reads an image in rows: blocks of 16 would be mostly padding.
const THIN_CHANNELS: usize = 4;

/// The widest halo that is kept: beyond it more zeros would be written than a kernel saves.
const HALO_MAX: usize = 4;

/// A node that can run in blocks.
#[derive(Clone, Debug)]
pub struct Blockable {
    /// Inputs that must lie in blocks when the node does.
    pub inputs: Vec<usize>,
    /// Inputs that may lie either way.
    pub either: Vec<usize>,
    pub outputs: Vec<usize>,
    /// How much more bytes than it moves anyway a node loses in rows, as a factor of its result.
    pub gain: u64,
    /// The output and input that must have the same halo.
    pub tied: Option<(ValueId, ValueId)>,
}

/// The sides of a node, if it can run in blocks at all.
pub fn blockable(graph: &Graph, node: &Node) -> Option<Blockable> {
    let image = |id: ValueId| is_image(graph, id);
    let output = node.output(0)?;
    match node.op.as_str() {
        "conv2d" | "depthwise" | "conv_transpose2d" => {
            let thin = graph.value(node.input(0)?).fixed_shape()?[1] <= THIN_CHANNELS;
            let mut inputs = if thin { Vec::new() } else { vec![0] };
            inputs.extend(node.input(3).map(|_| 3));
            let tied = node.input(3).map(|residual| (output, residual));
            image(output).then_some(Blockable { inputs, either: Vec::new(), outputs: vec![0], gain: 4, tied })
        }
        "pool" => image(output).then(|| plain(vec![0], 1)),
        "resize" => image(output).then(|| plain(vec![0], 0)),
        "reduce" if global(graph, node) => {
            Some(Blockable { outputs: if image(output) { vec![0] } else { Vec::new() }, ..plain(vec![0], 0) })
        }
        "elementwise" if image(output) => elementwise(graph, node, output),
        "copy" if joins_channels(node) => {
            let all = |ids: &[Option<ValueId>]| ids.iter().all(|id| id.is_some_and(image));
            let joined = all(&node.inputs) && all(&node.outputs);
            let outputs = (0..node.outputs.len()).collect();
            joined.then(|| Blockable { outputs, ..plain((0..node.inputs.len()).collect(), 0) })
        }
        _ => None,
    }
}

fn plain(inputs: Vec<usize>, gain: u64) -> Blockable {
    Blockable { inputs, either: Vec::new(), outputs: vec![0], gain, tied: None }
}

fn is_image(graph: &Graph, id: ValueId) -> bool {
    let value = graph.value(id);
    value.dtype() == Some(DType::F32) && value.constant.is_none() && value.fixed_shape().is_some_and(|shape| shape.len() == 4)
}

/// Inputs of the result's shape lie as it does; a value per channel either way; the rest is broadcast from rows.
fn elementwise(graph: &Graph, node: &Node, output: ValueId) -> Option<Blockable> {
    let shape = graph.value(output).fixed_shape()?;
    let per_channel = [&shape[..2], &[1, 1]].concat();
    let (mut inputs, mut either) = (Vec::new(), Vec::new());
    for (place, id) in node.inputs.iter().enumerate() {
        let id = (*id)?;
        let own = graph.value(id).fixed_shape()?;
        if own == shape && is_image(graph, id) {
            inputs.push(place);
        } else if own == per_channel && is_image(graph, id) {
            either.push(place);
        }
    }
    (!inputs.is_empty()).then_some(Blockable { inputs, either, outputs: vec![0], gain: 0, tied: None })
}

fn global(graph: &Graph, node: &Node) -> bool {
    let mut axes = node.attributes.ints("axes").unwrap_or_default().to_vec();
    axes.iter_mut().for_each(|axis| *axis = if *axis < 0 { *axis + 4 } else { *axis });
    axes.sort_unstable();
    axes == [2, 3] && node.input(0).is_some_and(|id| is_image(graph, id))
}

fn joins_channels(node: &Node) -> bool {
    node.attributes.string("kind") == Some("join") && node.attributes.int("axis") == Some(1)
}

/// The width of the border of zeros that a convolution wants around its image.
pub fn halo(graph: &Graph, node: &Node) -> usize {
    let wanted = || {
        if node.op != "conv2d" && node.op != "depthwise" {
            return None;
        }
        let x = graph.value(node.input(0)?).fixed_shape()?;
        let kernel = graph.value(node.input(1)?).fixed_shape()?;
        let y = graph.value(node.output(0)?).fixed_shape()?;
        let list = |name: &str, at: usize, default: usize| match node.attributes.ints(name) {
            Some(values) => values.get(at).and_then(|&value| usize::try_from(value).ok()),
            None => Some(default),
        };
        let mut wanted = 0;
        for axis in 0..2 {
            let (before, stride, dilation) = (list("pads", axis, 0)?, list("strides", axis, 1)?, list("dilations", axis, 1)?);
            let last = (y[2 + axis] - 1).checked_mul(stride)?.checked_add((kernel[2 + axis] - 1).checked_mul(dilation)?)?;
            let behind = last.saturating_sub(before).saturating_sub(x[2 + axis].checked_sub(1)?);
            wanted = wanted.max(before).max(behind);
        }
        Some(wanted)
    };
    wanted().filter(|&halo| halo <= HALO_MAX).unwrap_or(0)
}
