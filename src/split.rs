//! A batch in parts: the graph of one part, where the rows of a batch do not meet.
//!
//! In: a graph with its batch chosen, passes done, and the number of parts. Out: the same graph for one part of the rows, or the node in
//! which rows meet. What an operator of ours does with rows it says itself ([`Operator::row_wise`](kernels::Operator::row_wise)); views
//! keep them apart when every row has as many elements behind the view as before; any other node that rows reach ends the walk.
//!
//! Invariant: what the graph of a part computes from a part of the inputs is that part of what the whole graph computes from all.

use crate::graph::{self, Graph, Node, Type, Value, ValueId};
use crate::task;
use bytes::Bytes;
use kernels::Tensor;
use thiserror::Error;

/// Why a batch cannot be computed in parts.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum Mixed {
    #[error("{0}")]
    Ports(String),
    #[error("node '{node}' ({op}): {reason}")]
    Node { node: String, op: String, reason: String },
}

/// The graph that computes one of `parts` equal parts of the rows of all inputs and outputs.
///
/// # Errors
/// [`Mixed`]: rows meet, or they cannot be shared out.
pub fn part(graph: &Graph, parts: usize) -> Result<Graph, Mixed> {
    let rows = common_rows(graph)?;
    if parts == 0 || !rows.is_multiple_of(parts) {
        return Err(Mixed::Ports(format!("{rows} rows have no {parts} equal parts")));
    }
    let mut part = graph.clone();
    let mut varies = vec![false; graph.values.len()];
    for &id in &graph.inputs {
        shrink(&mut part, id, rows, parts).map_err(Mixed::Ports)?;
        varies[id.index()] = true;
    }
    for (index, node) in graph.nodes.iter().enumerate() {
        let reached: Vec<bool> = node.inputs.iter().map(|id| id.is_some_and(|id| varies[id.index()])).collect();
        if !reached.contains(&true) && node.bodies.is_empty() {
            continue;
        }
        let mixed = |reason: String| Mixed::Node { node: node.name.clone(), op: node.op.clone(), reason };
        let apart = match task::operator(node).zip(task::facts(graph, node)) {
            Some((operator, facts)) => {
                let row_wise = |varies: &[bool]| (operator.row_wise)(&facts.as_facts(node), varies);
                row_wise(&reached) || {
                    // A constant that says the same for every row may go along with them.
                    let repeats: Vec<bool> =
                        node.inputs.iter().map(|id| id.is_some_and(|id| repeats(graph.value(id), rows))).collect();
                    let all: Vec<bool> = reached.iter().zip(&repeats).map(|(reached, repeats)| *reached || *repeats).collect();
                    let apart = row_wise(&all);
                    for (place, id) in node.inputs.iter().enumerate().filter(|(place, _)| apart && repeats[*place]) {
                        let own = id.and_then(|id| first_rows(graph.value(id), parts));
                        part.nodes[index].inputs[place] = own.map(|own| part.add_value(own));
                    }
                    apart
                }
            }
            None => is_view(node) && !reached[1..].contains(&true),
        };
        if !apart {
            return Err(mixed("rows of the batch meet".to_owned()));
        }
        for &id in node.outputs.iter().flatten() {
            shrink(&mut part, id, rows, parts).map_err(mixed)?;
            varies[id.index()] = true;
        }
        if node.op == "Reshape" {
            let target = reshape_target(&part, node).map_err(mixed)?;
            let id = part.add_value(target);
            part.nodes[index].inputs[1] = Some(id);
        }
    }
    if let Some(place) = graph.outputs.iter().position(|id| !varies[id.index()]) {
        return Err(Mixed::Ports(format!("output \"{}\" is the same for all rows", graph.output_names[place])));
    }
    // What a part must keep in common with the whole, constants above all, is checked by making its tasks.
    for node in &part.nodes {
        if let Some(Err(error)) = task::of(&part, node) {
            return Err(Mixed::Node { node: node.name.clone(), op: node.op.clone(), reason: error.to_string() });
        }
    }
    graph::verify(&part).map_err(|error| Mixed::Ports(error.to_string()))?;
    Ok(part)
}

/// The extent of axis 0 that all inputs have.
fn common_rows(graph: &Graph) -> Result<usize, Mixed> {
    let mut common = None;
    for &id in &graph.inputs {
        let value = graph.value(id);
        let rows = value.fixed_shape().and_then(|shape| shape.first().copied()).filter(|&rows| rows > 0);
        let rows = rows.ok_or_else(|| Mixed::Ports(format!("input \"{}\" has no fixed number of rows", value.name)))?;
        if *common.get_or_insert(rows) != rows {
            return Err(Mixed::Ports(format!("input \"{}\" has {rows} rows, others have more or fewer", value.name)));
        }
    }
    common.ok_or_else(|| Mixed::Ports("there are no inputs".to_owned()))
}

/// Gives a value that varies with the rows the shape it has in a part.
fn shrink(part: &mut Graph, id: ValueId, rows: usize, parts: usize) -> Result<(), String> {
    let value = part.value_mut(id);
    let shape = value.fixed_shape().zip(value.dtype());
    let (mut shape, dtype) = shape.ok_or_else(|| format!("the size of '{}' is open", value.name))?;
    match shape.first_mut() {
        // Several places of axis 0 may belong to one row, never a part of a place.
        Some(extent) if *extent > 0 && extent.is_multiple_of(rows) => *extent /= parts,
        _ => return Err(format!("axis 0 of '{}' is not one of rows", value.name)),
    }
    value.ty = Type::tensor(dtype, &shape);
    Ok(())
}

/// Whether a constant has the same elements for each of `rows`.
fn repeats(value: &Value, rows: usize) -> bool {
    let Some(tensor) = value.constant.as_ref().filter(|tensor| tensor.texts().is_none()) else { return false };
    let bytes = tensor.bytes();
    let whole = tensor.shape().first().is_some_and(|extent| *extent > 0 && extent.is_multiple_of(rows));
    whole && !bytes.is_empty() && bytes.chunks_exact(bytes.len() / rows).all(|row| *row == bytes[..row.len()])
}

/// The first of `parts` equal parts of a constant along axis 0.
fn first_rows(value: &Value, parts: usize) -> Option<Value> {
    let tensor = value.constant.as_ref()?;
    let mut shape = tensor.shape().to_vec();
    *shape.first_mut()? /= parts;
    let bytes = Bytes::copy_from_slice(&tensor.bytes()[..tensor.bytes().len() / parts]);
    Some(Value::constant(&format!("{}.part", value.name), Tensor::from_bytes(tensor.dtype(), shape, bytes)?))
}

/// Nodes that say anew how many elements are in a row, and nothing else. Axis 0 is checked to be one of rows on both sides.
fn is_view(node: &Node) -> bool {
    matches!(node.op.as_str(), "Reshape" | "Squeeze" | "Unsqueeze" | "Flatten" | "Identity")
}

/// The constant that names the shape a `Reshape` has in the part.
fn reshape_target(part: &Graph, node: &Node) -> Result<Value, String> {
    let known = "a Reshape has a target and a result";
    let shape = node.output(0).and_then(|id| part.value(id).fixed_shape()).ok_or(known)?;
    let old = part.value(node.input(1).ok_or(known)?);
    let extents: Vec<i64> = shape.iter().map(|&extent| extent as i64).collect();
    Ok(Value::constant(&format!("{}.part", old.name), Tensor::new(vec![extents.len()], extents)))
}
