//! Recognises hard swish: `x · HardSigmoid(x)` with α = 1/6 and β = 1/2, and `x · clip(x + 3, 0, 6) / 6`. The second form's gate
//! alone, `clip(x + 3, 0, 6) / 6`, becomes `HardSigmoid`.

use super::product::{Product, close, plus};
use super::rewrite::{Step, Sweep, instead_of, sweep_all};
use super::{Options, PassError};
use crate::graph::{Graph, Node, ValueId};
use kernels::{Attribute, Attributes};

pub(super) fn run(graph: &mut Graph, _: &Options) -> Result<usize, PassError> {
    Ok(sweep_all(graph, &mut |sweep, index| match recognise(sweep, index) {
        Some(node) => Step::Replace(vec![node]),
        None => Step::Keep,
    }))
}

fn recognise(sweep: &Sweep<'_>, index: usize) -> Option<Node> {
    let node = sweep.node(index);
    let output = node.output(0)?;
    let product = Product::of_node(sweep, node)?;
    for &x in &product.factors {
        let gated = |gate| {
            (close(product.number, 1.0) && is_hard_sigmoid(sweep, gate, x))
                || (close(product.number, 1.0 / 6.0) && clipped(sweep, gate) == Some(x))
        };
        if product.beside(x).is_some_and(gated) {
            return Some(instead_of(node, "HardSwish", &[x], &[output], Attributes::default()));
        }
    }
    match product.factors[..] {
        [gate] if close(product.number, 1.0 / 6.0) => {
            let attributes = Attributes::default().with("alpha", Attribute::Float(1.0 / 6.0)).with("beta", Attribute::Float(0.5));
            Some(instead_of(node, "HardSigmoid", &[clipped(sweep, gate)?], &[output], attributes))
        }
        _ => None,
    }
}

fn is_hard_sigmoid(sweep: &Sweep<'_>, gate: ValueId, x: ValueId) -> bool {
    let attribute = |node: &Node, name, default| f64::from(node.attributes.float(name).unwrap_or(default));
    sweep.made_by(gate, "HardSigmoid").is_some_and(|node| {
        let (alpha, beta) = (attribute(node, "alpha", 0.2), attribute(node, "beta", 0.5));
        node.input(0) == Some(x) && close(alpha, 1.0 / 6.0) && close(beta, 0.5)
    })
}

/// The x of `clip(x + 3, 0, 6)`.
fn clipped(sweep: &Sweep<'_>, id: ValueId) -> Option<ValueId> {
    let node = sweep.made_by(id, "Clip")?;
    let (lo, hi) = (sweep.scalar(node.input(1)?)?, sweep.scalar(node.input(2)?)?);
    if lo == 0.0 && hi == 6.0 { plus(sweep, node.input(0)?, 3.0) } else { None }
}
