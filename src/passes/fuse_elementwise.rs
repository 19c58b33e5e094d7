//! Puts chains and trees of `elementwise` nodes into one: the numbers between them never reach memory.
//!
//! A node is put into its reader when that is its only reader and has the same number of elements: computing it inside costs the same
//! work. What is broadcast later is computed once, outside.

use super::lowering::taken;
use super::rewrite::{Step, Sweep, sweep_all};
use super::{Options, PassError};
use crate::graph::{Graph, Node, ValueId};
use kernels::Attribute;
use kernels::elementwise::Expression;
use kernels::elementwise::expression::INPUTS_MAX;

/// Calls of one expression. Longer ones are of no use: registers and the instruction cache are full.
const CALLS_MAX: u64 = 40;

pub(super) fn run(graph: &mut Graph, _: &Options) -> Result<usize, PassError> {
    let mut changes = 0;
    loop {
        let fused = sweep_all(graph, &mut |sweep, index| match fuse(sweep, index) {
            Some(node) => Step::Replace(vec![node]),
            None => Step::Keep,
        });
        changes += fused;
        if fused == 0 {
            return Ok(changes);
        }
    }
}

/// The expression of an `elementwise` node.
pub(super) fn expression(node: &Node) -> Option<Expression> {
    if node.op != "elementwise" {
        return None;
    }
    Expression::parse(node.attributes.string("expr")?).ok()
}

/// The node with its makers inside.
fn fuse(sweep: &Sweep<'_>, index: usize) -> Option<Node> {
    let node = sweep.node(index);
    let mut whole = expression(node)?;
    let mut inputs: Vec<ValueId> = node.inputs.iter().copied().collect::<Option<_>>()?;
    let elements = |id| sweep.shape(id).map(|shape| shape.iter().product::<usize>());
    let result = elements(node.output(0)?)?;
    let mut changed = false;
    for place in 0..inputs.len() {
        let id = inputs[place];
        let Some(maker) = sweep.made_by(id, "elementwise") else { continue };
        let readings = node.inputs.iter().filter(|input| **input == Some(id)).count() as u32;
        let Some(inner) = expression(maker) else { continue };
        if sweep.uses(id) != readings || elements(id) != Some(result) || whole.calls() + inner.calls() > CALLS_MAX {
            continue;
        }
        let mut joined = inputs.clone();
        let places: Option<Vec<usize>> = maker.inputs.iter().map(|id| Some(place_of(&mut joined, (*id)?))).collect();
        let Some(places) = places else { continue };
        let joint = substitute(&whole, place, &renumbered(&inner, &places));
        if without_unused(&joint, &joined).1.len() <= INPUTS_MAX {
            (whole, inputs, changed) = (joint, joined, true);
        }
    }
    if !changed {
        return None;
    }
    let (whole, inputs) = without_unused(&whole, &inputs);
    let mut fused = node.clone();
    fused.inputs = inputs.into_iter().map(Some).collect();
    fused.attributes.set("expr", Attribute::String(whole.to_string()));
    taken(sweep, &fused).then_some(fused)
}

fn place_of(inputs: &mut Vec<ValueId>, id: ValueId) -> usize {
    inputs.iter().position(|&input| input == id).unwrap_or_else(|| {
        inputs.push(id);
        inputs.len() - 1
    })
}

/// The expression with other expressions for its inputs.
fn mapped(expression: &Expression, leaf: &dyn Fn(usize) -> Expression) -> Expression {
    match expression {
        Expression::Input(input) => leaf(*input),
        Expression::Number(number) => Expression::Number(*number),
        Expression::Cast(x, to) => Expression::Cast(Box::new(mapped(x, leaf)), *to),
        Expression::Call(function, arguments) => {
            Expression::Call(*function, arguments.iter().map(|argument| mapped(argument, leaf)).collect())
        }
    }
}

fn renumbered(expression: &Expression, places: &[usize]) -> Expression {
    mapped(expression, &|input| Expression::Input(places[input]))
}

fn substitute(expression: &Expression, place: usize, inner: &Expression) -> Expression {
    mapped(expression, &|input| if input == place { inner.clone() } else { Expression::Input(input) })
}

/// The inputs that the expression still names, in their order, and the expression over them.
fn without_unused(expression: &Expression, inputs: &[ValueId]) -> (Expression, Vec<ValueId>) {
    let mut used = vec![false; inputs.len()];
    mark(expression, &mut used);
    let mut places = vec![0; inputs.len()];
    let mut kept = Vec::new();
    for (place, id) in inputs.iter().enumerate().filter(|(place, _)| used[*place]) {
        places[place] = kept.len();
        kept.push(*id);
    }
    (renumbered(expression, &places), kept)
}

fn mark(expression: &Expression, used: &mut [bool]) {
    match expression {
        Expression::Input(input) => used[*input] = true,
        Expression::Number(_) => {}
        Expression::Cast(x, _) => mark(x, used),
        Expression::Call(_, arguments) => arguments.iter().for_each(|argument| mark(argument, used)),
    }
}
