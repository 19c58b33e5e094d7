//! Recognises SiLU: `x · sigmoid(x)`, and `x · sigmoid(αx)`, as `Swish`.

use super::product::Product;
use super::rewrite::{Step, Sweep, instead_of, sweep_all};
use super::{Options, PassError};
use crate::graph::{Graph, Node};
use kernels::{Attribute, Attributes};

pub(super) fn run(graph: &mut Graph, _: &Options) -> Result<usize, PassError> {
    Ok(sweep_all(graph, &mut |sweep, index| match recognise(sweep, index) {
        Some(node) => Step::Replace(vec![node]),
        None => Step::Keep,
    }))
}

fn recognise(sweep: &Sweep<'_>, index: usize) -> Option<Node> {
    let node = sweep.node(index);
    if node.op != "Mul" {
        return None;
    }
    let (a, b) = (node.input(0)?, node.input(1)?);
    [(a, b), (b, a)].into_iter().find_map(|(x, gate)| {
        let inside = Product::of(sweep, sweep.made_by(gate, "Sigmoid")?.input(0)?);
        let alpha = if sweep.made_by(gate, "Sigmoid")?.input(0)? == x {
            1.0
        } else if inside.factors == [x] {
            inside.number as f32
        } else {
            return None;
        };
        let attributes = Attributes::default().with("alpha", Attribute::Float(alpha));
        Some(instead_of(node, "Swish", &[x], &[node.output(0)?], attributes))
    })
}
