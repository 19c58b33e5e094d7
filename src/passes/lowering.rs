//! What the lowering passes share: whether one of our operators takes a node.

use super::rewrite::Sweep;
use crate::graph::{Graph, Node, ValueId};
use kernels::{Facts, OperandFacts, OperandSpec, Operator};

/// Whether one of our operators computes this node: all shapes known, no result empty, its `task` accepts the facts, and the operands
/// are what the signature says.
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
    let Ok(signature) = (operator.task)(facts).and_then(|task| (operator.signature)(&task)) else { return false };
    let pairs = |specs: &[OperandSpec], operands: &[Option<OperandFacts>]| {
        let agree = |(spec, operand): (&OperandSpec, &Option<OperandFacts>)| match operand {
            Some(operand) => {
                same(&spec.shape, &operand.shape) && spec.dtype == operand.dtype && (!spec.constant || operand.constant)
            }
            None => true,
        };
        specs.len() >= operands.len() && specs.iter().zip(operands).all(agree)
    };
    pairs(&signature.inputs, facts.inputs) && pairs(&signature.outputs, facts.outputs)
}

/// Equal but for axes of length 1 in front, which some tasks add.
fn same(a: &[usize], b: &[usize]) -> bool {
    let tail = |shape: &[usize]| shape.iter().position(|&dim| dim != 1).unwrap_or(shape.len());
    a[tail(a)..] == b[tail(b)..]
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
