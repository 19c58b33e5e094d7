//! Removes arithmetic that changes nothing: `x · 1`, `x / 1`, `x + 0`, `x − 0`, `x ^ 1`, `x and true`, `x or false`, and a `Where` whose
//! condition is known throughout. A power with an exponent of 0.5 is left for the lowering.

use super::rewrite::{Step, Sweep, sweep_all};
use super::{Options, PassError};
use crate::graph::{Graph, Node, ValueId};
use kernels::Tensor;
use schema::DType;

/// Constants of more elements are not looked through.
const ELEMENTS_MAX: usize = 1 << 16;

pub(super) fn run(graph: &mut Graph, _: &Options) -> Result<usize, PassError> {
    Ok(sweep_all(graph, &mut |sweep, index| {
        let node = sweep.node(index);
        match (node.output(0), kept(sweep, node)) {
            (Some(output), Some(input)) if sweep.ty(output) == sweep.ty(input) && sweep.shape(input).is_some() => {
                Step::Same(vec![(output, input)])
            }
            _ => Step::Keep,
        }
    }))
}

/// The input that the output equals, but for its shape.
fn kept(sweep: &Sweep<'_>, node: &Node) -> Option<ValueId> {
    let (a, b) = (node.input(0)?, node.input(1)?);
    let all = |id: ValueId, value: f64| sweep.constant(id).is_some_and(|tensor| is_all(tensor, value));
    match node.op.as_str() {
        "Mul" if all(b, 1.0) => Some(a),
        "Mul" if all(a, 1.0) => Some(b),
        "Div" | "Pow" if all(b, 1.0) => Some(a),
        "Add" | "Sub" | "Or" | "Xor" if all(b, 0.0) => Some(a),
        "Add" | "Or" | "Xor" if all(a, 0.0) => Some(b),
        "And" if all(b, 1.0) => Some(a),
        "And" if all(a, 1.0) => Some(b),
        "Where" if all(a, 1.0) => Some(b),
        "Where" if all(a, 0.0) => node.input(2),
        _ => None,
    }
}

/// Whether every element is that number.
fn is_all(tensor: &Tensor, number: f64) -> bool {
    if tensor.is_empty() || tensor.len() > ELEMENTS_MAX {
        return false;
    }
    match tensor.dtype() {
        DType::F32 => tensor.values::<f32>().is_some_and(|values| values.iter().all(|&value| f64::from(value) == number)),
        DType::F64 => tensor.values::<f64>().is_some_and(|values| values.iter().all(|&value| value == number)),
        _ => tensor.to_ints().is_some_and(|values| values.iter().all(|&value| value as f64 == number)),
    }
}
