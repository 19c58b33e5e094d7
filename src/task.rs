//! Which node is which task: the one place where a graph's nodes become what is tuned and what is executed.
//!
//! A node of one of our operators whose operands all have a known type and shape is a task; nodes with ONNX's names are not tuned.

use crate::graph::{Graph, Node, ValueId};
use kernels::{BuildError, Facts, OperandFacts, Operator, Task};
use schema::TaskKey;
use std::collections::BTreeMap;

/// A task of a graph and how often it occurs, bodies included.
#[derive(Clone, Debug, PartialEq)]
pub struct Counted {
    pub task: Task,
    pub count: usize,
}

/// The operator of ours a node names, if it does.
pub fn operator(node: &Node) -> Option<&'static Operator> {
    kernels::operator(&node.op)
}

/// The task a node stands for; `None` when it is not of our operators or an operand's shape is open.
///
/// # Errors
/// [`BuildError`] when the operator refuses the node's attributes or operands.
pub fn of(graph: &Graph, node: &Node) -> Option<Result<Task, BuildError>> {
    let operator = operator(node)?;
    Some((operator.task)(&facts(graph, node)?.as_facts(node)))
}

/// What is known of a node's operands.
pub struct Known {
    inputs: Vec<Option<OperandFacts>>,
    outputs: Vec<Option<OperandFacts>>,
}

impl Known {
    /// As operators take it.
    pub fn as_facts<'a>(&'a self, node: &'a Node) -> Facts<'a> {
        Facts { attributes: &node.attributes, inputs: &self.inputs, outputs: &self.outputs }
    }
}

/// What is known of a node's operands; `None` when a shape is open.
pub fn facts(graph: &Graph, node: &Node) -> Option<Known> {
    Some(Known { inputs: operands(graph, &node.inputs)?, outputs: operands(graph, &node.outputs)? })
}

/// The distinct tasks of a graph and of its bodies, in the order of their keys.
///
/// # Errors
/// [`BuildError`] of the first node that its operator refuses.
pub fn tasks(graph: &Graph) -> Result<Vec<Counted>, BuildError> {
    let mut found = BTreeMap::new();
    collect(graph, &mut found)?;
    Ok(found.into_values().collect())
}

fn collect(graph: &Graph, found: &mut BTreeMap<TaskKey, Counted>) -> Result<(), BuildError> {
    for node in &graph.nodes {
        if let Some(task) = of(graph, node).transpose()? {
            found.entry(task.key()).or_insert(Counted { task, count: 0 }).count += 1;
        }
        node.bodies.iter().try_for_each(|(_, body)| collect(body, found))?;
    }
    Ok(())
}

/// What is known of operands; `None` when one of them is open.
fn operands(graph: &Graph, ids: &[Option<ValueId>]) -> Option<Vec<Option<OperandFacts>>> {
    let known = |id: &Option<ValueId>| match id {
        None => Some(None),
        Some(id) => {
            let value = graph.value(*id);
            let (dtype, shape) = (value.dtype()?, value.fixed_shape()?);
            Some(Some(OperandFacts { dtype, shape, layout: value.layout, constant: value.constant.is_some() }))
        }
    };
    ids.iter().map(known).collect()
}
