//! What the lowering passes share: whether one of our operators takes a node.

use super::rewrite::Sweep;
use crate::graph::{Graph, Node, ValueId};
use kernels::{Facts, OperandFacts, Operator};

/// Whether one of our operators computes this node: all shapes known, none of them empty, and its `task` accepts the facts.
pub fn takes(graph: &Graph, node: &Node) -> bool {
    let Some(operator) = kernels::operator(&node.op) else { return false };
    let (Some(inputs), Some(outputs)) = (operands(graph, &node.inputs), operands(graph, &node.outputs)) else { return false };
    let empty = outputs.iter().flatten().any(|operand| operand.shape.contains(&0));
    !empty && accepts(operator, &Facts { attributes: &node.attributes, inputs: &inputs, outputs: &outputs })
}

/// [`takes`] for the graph of a sweep.
pub fn taken(sweep: &Sweep<'_>, node: &Node) -> bool {
    takes(sweep.graph(), node)
}

fn accepts(operator: &Operator, facts: &Facts<'_>) -> bool {
    (operator.task)(facts).is_ok_and(|task| (operator.signature)(&task).is_ok())
}

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
