//! The invariants of a graph. [`verify`] tests them all in one walk and is run before the first pass and after every pass.
//!
//! Values
//! - Every id in inputs, captures, nodes and outputs is in the table.
//! - Every value that is used has exactly one source: an input, a capture, a constant or one output of one node.
//! - A constant's type and shape are its tensor's, its layout is rows.
//! - A layout fits: channel blocks need a tensor of rank 4, column blocks one of rank 2 or more.
//! - Inputs, captures and outputs lie in rows: layouts are a matter between the nodes of one graph.
//!
//! Nodes
//! - Nodes are in topological order: what a node reads comes from an input, a capture, a constant or an earlier node.
//! - An operator has a name; the list of inputs and that of outputs do not end in an absent one.
//!
//! Graphs
//! - As many output names as outputs.
//! - Only bodies have captures. What a body captures is defined before the node that holds the body, and has the same element type.
//! - Bodies hold the same, to a depth of [`DEPTH_MAX`].
//!
//! Names are for people and for messages: two values may share one.

use super::{Graph, Node, ValueId};
use kernels::Layout;
use thiserror::Error;

/// How deep bodies may nest; the importer refuses deeper models (`subgraph-depth`).
pub const DEPTH_MAX: usize = 64;

/// A graph that breaks an invariant: a bug of the pass that ran last, or of the importer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("graph '{graph}', {place}: {broken}")]
pub struct VerifyError {
    /// The graph's name.
    pub graph: String,
    /// The node or list where it shows.
    pub place: String,
    /// What does not hold.
    pub broken: String,
}

/// Tests the invariants of this module. Linear in the size of the graph; no data is read.
///
/// # Errors
/// The first invariant that does not hold, with the place where it shows.
pub fn verify(graph: &Graph) -> Result<(), VerifyError> {
    if !graph.captures.is_empty() {
        return Err(broken(graph, "captures", "only bodies have captures".to_owned()));
    }
    verify_one(graph, 0)
}

fn broken(graph: &Graph, place: &str, broken: String) -> VerifyError {
    VerifyError { graph: graph.name.clone(), place: place.to_owned(), broken }
}

fn verify_one(graph: &Graph, depth: usize) -> Result<(), VerifyError> {
    if depth > DEPTH_MAX {
        return Err(broken(graph, "body", format!("nested deeper than {DEPTH_MAX}")));
    }
    let mut defined = vec![false; graph.values.len()];
    verify_values(graph, &mut defined)?;
    for (index, node) in graph.nodes.iter().enumerate() {
        verify_node(graph, index, node, &mut defined, depth)?;
    }
    for &id in &graph.outputs {
        used(graph, "outputs", id, &defined)?;
        in_rows(graph, "outputs", id)?;
    }
    if graph.outputs.len() != graph.output_names.len() {
        let (ids, names) = (graph.outputs.len(), graph.output_names.len());
        return Err(broken(graph, "outputs", format!("{ids} outputs have {names} names")));
    }
    Ok(())
}

fn verify_values(graph: &Graph, defined: &mut [bool]) -> Result<(), VerifyError> {
    for (index, value) in graph.values.iter().enumerate() {
        if let Some(tensor) = &value.constant {
            defined[index] = true;
            let shape_kept = value.fixed_shape().as_deref() == Some(tensor.shape());
            if value.dtype() != Some(tensor.dtype()) || !shape_kept || value.layout != Layout::Rows {
                let found = format!("constant '{}' of type {} {} holds {tensor:?}", value.name, value.ty, value.layout);
                return Err(broken(graph, "values", found));
            }
        }
        let rank = value.ty.shape().map(<[_]>::len);
        let fits = match value.layout {
            Layout::Rows => true,
            Layout::Channels { .. } => rank == Some(4),
            Layout::Columns => rank.is_some_and(|rank| rank >= 2),
        };
        if !fits {
            return Err(broken(graph, "values", format!("'{}' of type {} cannot lie in {}", value.name, value.ty, value.layout)));
        }
    }
    // A captured constant is known inside too: its type and data are those of the value outside.
    let known = |id: ValueId| graph.values.get(id.index()).is_some_and(|value| value.constant.is_some());
    let inner = graph.captures.iter().filter(|capture| !known(capture.inner)).map(|capture| ("captures", capture.inner));
    for (place, id) in graph.inputs.iter().map(|&id| ("inputs", id)).chain(inner) {
        define(graph, place, id, defined)?;
        in_rows(graph, place, id)?;
    }
    Ok(())
}

fn verify_node(graph: &Graph, index: usize, node: &Node, defined: &mut [bool], depth: usize) -> Result<(), VerifyError> {
    let place = || format!("node {index} {} '{}'", node.op, node.name);
    if node.op.is_empty() {
        return Err(broken(graph, &place(), "no operator".to_owned()));
    }
    if matches!(node.inputs.last(), Some(None)) || matches!(node.outputs.last(), Some(None)) {
        return Err(broken(graph, &place(), "a list of operands ends in an absent one".to_owned()));
    }
    for &id in node.inputs.iter().flatten() {
        used(graph, &place(), id, defined)?;
    }
    for (_, body) in &node.bodies {
        for capture in &body.captures {
            used(graph, &place(), capture.outer, defined)?;
            in_rows(graph, &place(), capture.outer)?;
            let inner = body.values.get(capture.inner.index());
            let outer = graph.value(capture.outer);
            if let (Some(a), Some(b)) = (inner.and_then(|inner| inner.dtype()), outer.dtype())
                && a != b
            {
                return Err(broken(graph, &place(), format!("captures '{}' of type {b} as {a}", outer.name)));
            }
        }
        verify_one(body, depth + 1)?;
    }
    for &id in node.outputs.iter().flatten() {
        define(graph, &place(), id, defined)?;
    }
    Ok(())
}

fn define(graph: &Graph, place: &str, id: ValueId, defined: &mut [bool]) -> Result<(), VerifyError> {
    match defined.get_mut(id.index()) {
        None => Err(broken(graph, place, format!("value {} is not in the table", id.0))),
        Some(true) => Err(broken(graph, place, format!("value '{}' has a second source", graph.value(id).name))),
        Some(slot) => {
            *slot = true;
            Ok(())
        }
    }
}

fn used(graph: &Graph, place: &str, id: ValueId, defined: &[bool]) -> Result<(), VerifyError> {
    match defined.get(id.index()) {
        None => Err(broken(graph, place, format!("value {} is not in the table", id.0))),
        Some(false) => Err(broken(graph, place, format!("value '{}' is used before it is made", graph.value(id).name))),
        Some(true) => Ok(()),
    }
}

fn in_rows(graph: &Graph, place: &str, id: ValueId) -> Result<(), VerifyError> {
    let value = graph.value(id);
    match value.layout {
        Layout::Rows => Ok(()),
        layout => Err(broken(graph, place, format!("'{}' crosses the graph's border in {layout}", value.name))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Builder, Capture, Type, Value};
    use kernels::{Attributes, Tensor};
    use schema::DType;

    fn sample() -> Graph {
        let mut b = Builder::new("sample");
        let x = b.input("x", Type::tensor(DType::F32, &[2]));
        let c = b.constant("c", Tensor::new(vec![2], vec![1f32, 2.0]));
        let y = b.node("Add", &[x, c], Attributes::default());
        b.output("y", y);
        b.finish()
    }

    fn refused(change: impl FnOnce(&mut Graph), expect: &str) {
        let mut graph = sample();
        change(&mut graph);
        let found = verify(&graph).unwrap_err().to_string();
        assert!(found.contains(expect), "{found}");
    }

    #[test]
    fn each_broken_invariant_is_named() {
        verify(&sample()).unwrap();
        refused(|g| g.nodes[0].inputs[0] = Some(ValueId(99)), "not in the table");
        refused(|g| g.inputs.clear(), "used before it is made");
        refused(|g| g.nodes.push(g.nodes[0].clone()), "second source");
        refused(|g| g.values[1].ty = Type::tensor(DType::F32, &[3]), "holds");
        refused(|g| g.values[0].layout = Layout::Channels { halo: 1 }, "cannot lie in");
        refused(|g| g.nodes[0].inputs.push(None), "absent");
        refused(|g| g.nodes[0].op.clear(), "no operator");
        refused(|g| g.output_names.clear(), "names");
        refused(|g| g.captures.push(Capture { outer: ValueId(0), inner: ValueId(0) }), "only bodies");
        refused(
            |g| {
                g.values[2] = Value { layout: Layout::Columns, ty: Type::tensor(DType::F32, &[2, 2]), ..g.values[2].clone() };
            },
            "border",
        );
    }

    #[test]
    fn a_capture_must_exist_before_its_node() {
        refused(
            |g| {
                let mut body = sample();
                let inner = body.add_value(Value::named("late"));
                body.captures.push(Capture { outer: ValueId(2), inner });
                g.nodes[0].bodies.push(("body".to_owned(), body));
            },
            "used before it is made",
        );
    }
}
