//! Turns `LSTM` and `GRU` with their default functions into `lstm` and `gru`.
//!
//! ONNX's operands keep their places; a state of zeros is left out. Batch first, peepholes, clipping or other functions keep the node.

use super::lowering::taken;
use super::rewrite::{Step, Sweep, sweep_all};
use super::{Options, PassError};
use crate::graph::{Graph, Node};
use kernels::{Attribute, Attributes};

pub(super) fn run(graph: &mut Graph, _: &Options) -> Result<usize, PassError> {
    Ok(sweep_all(graph, &mut |sweep, index| match lower(sweep, sweep.node(index)) {
        Some(node) => Step::Replace(vec![node]),
        None => Step::Keep,
    }))
}

fn lower(sweep: &Sweep<'_>, node: &Node) -> Option<Node> {
    let (op, functions, states) = match node.op.as_str() {
        "LSTM" => ("lstm", &["Sigmoid", "Tanh", "Tanh"][..], 6..7),
        "GRU" => ("gru", &["Sigmoid", "Tanh"][..], 5..6),
        _ => return None,
    };
    let named = match node.attributes.get("activations") {
        Some(Attribute::Strings(names)) => names.iter().zip(functions.iter().cycle()).all(|(name, usual)| name == usual),
        Some(_) => false,
        None => true,
    };
    let plain = named
        && ["clip", "activation_alpha", "activation_beta"].iter().all(|name| node.attributes.get(name).is_none())
        && ["layout", "input_forget"].iter().all(|name| node.attributes.int(name).unwrap_or(0) == 0)
        && node.input(7).is_none();
    if !plain {
        return None;
    }
    let mut inputs = node.inputs.clone();
    // States of zeros are what absent ones mean.
    let zeros = |i: usize, inputs: &[Option<_>]| inputs.get(i).copied().flatten().and_then(|id| sweep.uniform(id)) == Some(0.0);
    let both = (5..states.end).all(|i| inputs.get(i).copied().flatten().is_none() || zeros(i, &inputs));
    if both {
        inputs.truncate(5);
    }
    while matches!(inputs.last(), Some(None)) {
        inputs.pop();
    }
    let direction = node.attributes.string("direction").unwrap_or("forward").to_owned();
    let mut attributes = Attributes::default().with("direction", Attribute::String(direction));
    if node.attributes.int("linear_before_reset").unwrap_or(0) != 0 {
        attributes.set("linear_before_reset", Attribute::Int(1));
    }
    let lowered = Node { name: node.name.clone(), attributes, ..Node::new(op, inputs, node.outputs.clone()) };
    taken(sweep, &lowered).then_some(lowered)
}
