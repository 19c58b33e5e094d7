//! What could not be normalised before types and ranks were known: `Softmax` that flattens, bounds and fills as attributes.

use super::error::{Class, ImportError, quote};
use super::ops::{COERCED, PER_GROUP};
use crate::graph::{Graph, Node, Value, ValueId};
use kernels::{Attribute, Attributes, Tensor};
use schema::DType;

/// Brings the last nodes of old versions into the newest form. Returns whether there were any; new values have no types yet.
///
/// # Errors
/// [`Class::BadShape`], [`Class::BadDtype`] when a type or rank that is needed is not known even now.
pub(super) fn settle(graph: &mut Graph) -> Result<bool, ImportError> {
    let mut changed = false;
    let nodes = std::mem::take(&mut graph.nodes);
    for mut node in nodes {
        for (_, body) in &mut node.bodies {
            changed |= settle(body)?;
        }
        let old = match node.op.as_str() {
            "Softmax" | "LogSoftmax" | "Hardmax" => node.attributes.int(COERCED).is_some(),
            "Clip" => ["min", "max"].iter().any(|bound| node.attributes.get(bound).is_some()),
            "Pad" => node.attributes.get("value").is_some(),
            "GroupNormalization" => node.attributes.get(PER_GROUP).is_some(),
            _ => false,
        };
        if !old {
            graph.nodes.push(node);
            continue;
        }
        changed = true;
        match node.op.as_str() {
            "Clip" => clip(graph, node)?,
            "Pad" => pad(graph, node)?,
            "GroupNormalization" => group_norm(graph, node)?,
            _ => coerced(graph, node)?,
        }
    }
    Ok(changed)
}

/// A softmax over a matrix: today's softmax when the axis is the last, else between `Flatten` and `Reshape`.
fn coerced(graph: &mut Graph, mut node: Node) -> Result<(), ImportError> {
    let Some(Attribute::Int(axis)) = node.attributes.remove(COERCED) else { return Ok(()) };
    let input = node.input(0).map(|id| (id, graph.value(id).ty.shape().map(<[_]>::len)));
    let Some((input, Some(rank))) = input else {
        return Err(ImportError::new(Class::BadShape, place(&node), "works on a matrix, but the rank of its input is not known"));
    };
    let rank = rank as i64;
    if !(-rank..=rank).contains(&axis) {
        return Err(ImportError::new(Class::BadAttribute, place(&node), format!("axis {axis} of {rank} axes")));
    }
    let axis = if axis < 0 { axis + rank } else { axis };
    node.attributes.set("axis", Attribute::Int(-1));
    if axis == rank - 1 {
        graph.nodes.push(node);
        return Ok(());
    }
    let shape = value(graph, &node, "shape");
    graph.nodes.push(helper(&node, "Shape", vec![input], shape, Attributes::default()));
    let flat = value(graph, &node, "flat");
    let at = Attributes::default().with("axis", Attribute::Int(axis));
    graph.nodes.push(helper(&node, "Flatten", vec![input], flat, at));
    let rows = value(graph, &node, "rows");
    let outputs = std::mem::replace(&mut node.outputs, vec![Some(rows)]);
    node.inputs[0] = Some(flat);
    let reshape = Node { outputs, ..helper(&node, "Reshape", vec![rows, shape], rows, Attributes::default()) };
    graph.nodes.push(node);
    graph.nodes.push(reshape);
    Ok(())
}

fn clip(graph: &mut Graph, mut node: Node) -> Result<(), ImportError> {
    for (index, bound) in [(1, "min"), (2, "max")] {
        if let Some(Attribute::Float(limit)) = node.attributes.remove(bound) {
            set_scalar(graph, &mut node, index, bound, limit)?;
        }
    }
    graph.nodes.push(node);
    Ok(())
}

fn pad(graph: &mut Graph, mut node: Node) -> Result<(), ImportError> {
    if let Some(Attribute::Float(fill)) = node.attributes.remove("value")
        && fill != 0.0
    {
        set_scalar(graph, &mut node, 2, "value", fill)?;
    }
    graph.nodes.push(node);
    Ok(())
}

/// Puts a scalar of the type of the first input at an input.
fn set_scalar(graph: &mut Graph, node: &mut Node, index: usize, what: &str, number: f32) -> Result<(), ImportError> {
    let dtype = node.input(0).and_then(|id| graph.value(id).dtype());
    let tensor = match dtype {
        Some(DType::F32) => Tensor::scalar(number),
        Some(DType::F64) => Tensor::scalar(f64::from(number)),
        Some(DType::F16) => Tensor::scalar(half::f16::from_f32(number)),
        Some(DType::Bf16) => Tensor::scalar(half::bf16::from_f32(number)),
        Some(dtype) => {
            return Err(ImportError::new(Class::BadDtype, place(node), format!("{what} of a {dtype}; floats have one")));
        }
        None => return Err(ImportError::new(Class::BadDtype, place(node), "the type of its input is not known")),
    };
    let id = graph.add_value(Value::constant(&format!("{}.{what}", node.name), tensor));
    if node.inputs.len() <= index {
        node.inputs.resize(index + 1, None);
    }
    node.inputs[index] = Some(id);
    Ok(())
}

/// Scale and bias of `[groups]` become `[channels]`: each repeated for the channels of its group.
fn group_norm(graph: &mut Graph, mut node: Node) -> Result<(), ImportError> {
    node.attributes.remove(PER_GROUP);
    let groups = node.attributes.int("num_groups").unwrap_or(1);
    let channels = node.input(0).and_then(|id| graph.value(id).ty.shape()?.get(1)?.fixed());
    let channels = channels.and_then(|channels| i64::try_from(channels).ok());
    let Some(each) = channels.filter(|channels| groups > 0 && channels % groups == 0).map(|channels| channels / groups) else {
        return Err(ImportError::new(
            Class::BadShape,
            place(&node),
            format!("channels must be known and a multiple of {groups} groups"),
        ));
    };
    for (index, what) in [(1, "scale"), (2, "bias")] {
        let Some(given) = node.input(index) else { continue };
        let mut ints = |what: &str, values: Vec<i64>| {
            graph.add_value(Value::constant(&format!("{}.{what}", node.name), Tensor::new(vec![values.len()], values)))
        };
        let (column, wide, flat) =
            (ints("column", vec![groups, 1]), ints("wide", vec![groups, each]), ints("channels", vec![groups * each]));
        let steps = [("Reshape", column), ("Expand", wide), ("Reshape", flat)];
        let mut at = given;
        for (i, (op, shape)) in steps.into_iter().enumerate() {
            let next = value(graph, &node, &format!("{what}.{i}"));
            let step = helper(&node, op, vec![at, shape], next, Attributes::default());
            graph.nodes.push(Node { name: format!("{}.{what}.{i}", node.name), ..step });
            at = next;
        }
        node.inputs[index] = Some(at);
    }
    graph.nodes.push(node);
    Ok(())
}

fn value(graph: &mut Graph, node: &Node, what: &str) -> ValueId {
    graph.add_value(Value::named(&format!("{}.{what}", node.name)))
}

fn helper(node: &Node, op: &str, inputs: Vec<ValueId>, output: ValueId, attributes: Attributes) -> Node {
    let inputs = inputs.into_iter().map(Some).collect();
    Node { name: format!("{}.{op}", node.name), attributes, ..Node::new(op, inputs, vec![Some(output)]) }
}

fn place(node: &Node) -> String {
    format!("node {}", quote(&node.name))
}
