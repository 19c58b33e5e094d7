//! Products as sets of factors, so that recognition does not depend on how an exporter nests its multiplications.

use super::rewrite::Sweep;
use crate::graph::{Node, ValueId};

/// How deep multiplications are followed: patterns of exporters nest three.
const DEPTH_MAX: usize = 4;

/// A product: a number times values.
#[derive(Clone, Debug, PartialEq)]
pub struct Product {
    pub number: f64,
    /// In the order in which they are written.
    pub factors: Vec<ValueId>,
}

impl Product {
    /// The product a node computes, if it is a multiplication or a division by a number. Factors that are products themselves are
    /// taken apart when nobody else reads them.
    pub fn of_node(sweep: &Sweep<'_>, node: &Node) -> Option<Product> {
        let mut product = Product { number: 1.0, factors: Vec::new() };
        product.multiply_node(sweep, node, 0).then_some(product)
    }

    /// The product that makes a value; the value itself when it is made otherwise.
    pub fn of(sweep: &Sweep<'_>, id: ValueId) -> Product {
        let alone = Product { number: 1.0, factors: vec![id] };
        sweep.maker(id).and_then(|node| Product::of_node(sweep, node)).unwrap_or(alone)
    }

    /// The other factor, when there are two and one is `id`.
    pub fn beside(&self, id: ValueId) -> Option<ValueId> {
        match self.factors[..] {
            [a, b] if a == id => Some(b),
            [a, b] if b == id => Some(a),
            _ => None,
        }
    }

    fn multiply_node(&mut self, sweep: &Sweep<'_>, node: &Node, depth: usize) -> bool {
        let (Some(a), Some(b)) = (node.input(0), node.input(1)) else { return false };
        match node.op.as_str() {
            "Mul" => {
                self.multiply(sweep, a, depth);
                self.multiply(sweep, b, depth);
                true
            }
            "Div" => match sweep.scalar(b) {
                Some(number) if number != 0.0 => {
                    self.multiply(sweep, a, depth);
                    self.number /= number;
                    true
                }
                _ => false,
            },
            _ => false,
        }
    }

    fn multiply(&mut self, sweep: &Sweep<'_>, id: ValueId, depth: usize) {
        if let Some(number) = sweep.scalar(id) {
            self.number *= number;
            return;
        }
        let inner = sweep.maker(id).filter(|_| sweep.uses(id) == 1 && depth < DEPTH_MAX);
        if !inner.is_some_and(|node| self.multiply_node(sweep, node, depth + 1)) {
            self.factors.push(id);
        }
    }
}

/// Whether two numbers are the same to the precision with which exporters write constants.
pub fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-5 * b.abs().max(1e-30)
}

/// What is added to the number, when a value is made by adding a number close to `number`.
pub fn plus(sweep: &Sweep<'_>, id: ValueId, number: f64) -> Option<ValueId> {
    let node = sweep.made_by(id, "Add")?;
    let (a, b) = (node.input(0)?, node.input(1)?);
    let is = |id| sweep.scalar(id).is_some_and(|value| close(value, number));
    if is(b) {
        Some(a)
    } else if is(a) {
        Some(b)
    } else {
        None
    }
}

/// The input of the only operator `op` that makes a value.
pub fn under(sweep: &Sweep<'_>, id: ValueId, op: &str) -> Option<ValueId> {
    sweep.made_by(id, op)?.input(0)
}
