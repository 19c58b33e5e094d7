//! Recognises GELU as exporters write it: `x · ½ · (1 + erf(x / √2))`, and with `tanh(√(2/π) · (x + 0.044715 · x³))` for the error
//! function, in any nesting of the products.

use super::product::{Product, close, plus, under};
use super::rewrite::{Step, Sweep, instead_of, sweep_all};
use super::{Options, PassError};
use crate::graph::{Graph, Node, ValueId};
use kernels::{Attribute, Attributes};
use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};

pub(super) fn run(graph: &mut Graph, _: &Options) -> Result<usize, PassError> {
    Ok(sweep_all(graph, &mut |sweep, index| match recognise(sweep, index) {
        Some(node) => Step::Replace(vec![node]),
        None => Step::Keep,
    }))
}

fn recognise(sweep: &Sweep<'_>, index: usize) -> Option<Node> {
    let node = sweep.node(index);
    let product = Product::of_node(sweep, node).filter(|product| close(product.number, 0.5))?;
    product.factors.iter().find_map(|&x| {
        let gate = plus(sweep, product.beside(x)?, 1.0)?;
        let approximate = if is_erf(sweep, gate, x) {
            "none"
        } else if is_tanh(sweep, gate, x) {
            "tanh"
        } else {
            return None;
        };
        let attributes = Attributes::default().with("approximate", Attribute::String(approximate.to_owned()));
        Some(instead_of(node, "Gelu", &[x], &[node.output(0)?], attributes))
    })
}

fn is_erf(sweep: &Sweep<'_>, gate: ValueId, x: ValueId) -> bool {
    under(sweep, gate, "Erf").is_some_and(|inside| is_multiple(sweep, inside, x, FRAC_1_SQRT_2))
}

/// Whether a value is `number · x`.
fn is_multiple(sweep: &Sweep<'_>, id: ValueId, x: ValueId, number: f64) -> bool {
    let product = Product::of(sweep, id);
    product.factors == [x] && close(product.number, number)
}

fn is_tanh(sweep: &Sweep<'_>, gate: ValueId, x: ValueId) -> bool {
    let Some(inside) = under(sweep, gate, "Tanh") else { return false };
    let product = Product::of(sweep, inside);
    let scale = FRAC_2_SQRT_PI * FRAC_1_SQRT_2;
    if !close(product.number, scale) {
        return false;
    }
    match product.factors[..] {
        // √(2/π) · (x + 0.044715 · x³)
        [sum] => sweep.made_by(sum, "Add").is_some_and(|add| {
            let (Some(a), Some(b)) = (add.input(0), add.input(1)) else { return false };
            (a == x && is_cube(sweep, b, x)) || (b == x && is_cube(sweep, a, x))
        }),
        // √(2/π) · x · (1 + 0.044715 · x²)
        [_, _] => product.beside(x).and_then(|sum| plus(sweep, sum, 1.0)).is_some_and(|square| {
            let square = Product::of(sweep, square);
            close(square.number, 0.044715) && (square.factors == [x, x] || is_power_of(sweep, &square.factors, x, 2.0))
        }),
        _ => false,
    }
}

/// Whether a value is `0.044715 · x³`.
fn is_cube(sweep: &Sweep<'_>, id: ValueId, x: ValueId) -> bool {
    let product = Product::of(sweep, id);
    let mixed = product.beside(x).is_some_and(|rest| is_power_of(sweep, &[rest], x, 2.0));
    close(product.number, 0.044715) && (product.factors == [x, x, x] || mixed || is_power_of(sweep, &product.factors, x, 3.0))
}

fn is_power_of(sweep: &Sweep<'_>, factors: &[ValueId], x: ValueId, exponent: f64) -> bool {
    let &[power] = factors else { return false };
    sweep.made_by(power, "Pow").is_some_and(|node| {
        node.input(0) == Some(x) && node.input(1).and_then(|id| sweep.scalar(id)).is_some_and(|value| value == exponent)
    })
}
