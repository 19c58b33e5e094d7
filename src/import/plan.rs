//! A first look at what running would need, before any pass or plan: values that could never be held, and loops that never end.
//!
//! The memory plan proper belongs to `execute`; this refuses what no plan can make right.

use super::error::{Excess, ImportError, quote};
use super::limits::Limits;
use crate::graph::{Graph, Node, ValueId, infer};

/// Looks at every value and loop of a graph and of its bodies.
///
/// # Errors
/// [`Class::LimitExceeded`](super::Class::LimitExceeded).
pub(super) fn check(graph: &Graph, limits: &Limits) -> Result<(), ImportError> {
    for node in &graph.nodes {
        for &output in node.outputs.iter().flatten() {
            check_value(graph, node, output, limits)?;
        }
        if node.op == "Loop" {
            check_loop(graph, node, limits)?;
        }
        for (_, body) in &node.bodies {
            check(body, limits)?;
        }
    }
    Ok(())
}

fn check_value(graph: &Graph, node: &Node, output: ValueId, limits: &Limits) -> Result<(), ImportError> {
    let value = graph.value(output);
    let (Some(dtype), Some(shape)) = (value.dtype(), value.fixed_shape()) else { return Ok(()) };
    let elements = shape.iter().try_fold(1u64, |product, &dim| product.checked_mul(dim as u64));
    let need = elements.and_then(|elements| elements.checked_mul(dtype.bytes() as u64));
    if need.is_none_or(|need| need > limits.plan_bytes) {
        let excess = Excess { limit: "plan-bytes", allowed: limits.plan_bytes, need };
        let what = format!("bytes of its output {}", value.ty);
        return Err(ImportError::limit(format!("node {}", quote(&node.name)), &what, excess));
    }
    Ok(())
}

/// A loop without a count whose condition is true and never changes does not end.
fn check_loop(graph: &Graph, node: &Node, limits: &Limits) -> Result<(), ImportError> {
    let condition = node.input(1).and_then(|id| graph.value(id).constant.as_ref());
    if node.input(0).is_none() && infer::never_stops_early(node, condition) {
        let excess = Excess { limit: "loop-rounds", allowed: limits.loop_rounds, need: None };
        return Err(ImportError::limit(format!("node {}", quote(&node.name)), "rounds of a loop that never ends", excess));
    }
    Ok(())
}
