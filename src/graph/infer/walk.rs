//! Over a whole graph, bodies included.

use super::control::{join, scan_axes};
use super::facts::{Facts, Known};
use super::propagate::Item;
use super::{Bounds, Fault, InferError, infer_site};
use crate::graph::{Dim, Graph, Node, Type, Value, ValueId};
use schema::DType;
use std::cell::Cell;
use std::collections::HashMap;

/// Elements of the values that are followed.
type Items = HashMap<ValueId, Vec<Item>>;

/// A loop's carried types settle in so many rounds: the first time an extent changes it becomes open, and open it stays.
const ROUNDS_MAX: usize = 6;

/// Nodes that may be inferred again because bodies are walked until their carried types settle. Past it, what a loop carries is taken
/// to change in every way, which settles at once: loops within loops cost time that grows with their number, not with its power.
const REPEATS_MAX: u64 = 100_000;

/// Gives every value of a graph a type, from its inputs and constants on.
///
/// Nodes of our own operators keep the types that the pass which made them gave their outputs.
///
/// # Errors
/// [`InferError`] at the first node whose inputs or attributes are not what its operator allows.
pub fn infer(graph: &mut Graph) -> Result<(), InferError> {
    infer_within(graph, &Bounds::default())
}

/// The same, within bounds of the caller.
///
/// # Errors
/// As [`infer`].
pub fn infer_within(graph: &mut Graph, bounds: &Bounds) -> Result<(), InferError> {
    let walk = Walk { bounds, steps_left: Cell::new(REPEATS_MAX + graph.node_count() as u64) };
    walk.graph(graph, Items::new())
}

/// Gives the outputs of one node their types, from the types and constants that its inputs have in `graph`. The node is not part of
/// the graph, or about to be put back: that is how a pass infers while it rebuilds. Bodies are inferred too.
///
/// # Errors
/// As [`infer`].
pub fn infer_in(graph: &mut Graph, node: &mut Node) -> Result<(), InferError> {
    let walk = Walk { bounds: &Bounds::default(), steps_left: Cell::new(REPEATS_MAX + node_count(node)) };
    walk.node(node, &mut graph.values, &mut Items::new())
}

fn node_count(node: &Node) -> u64 {
    node.bodies.iter().map(|(_, body)| body.node_count() as u64).sum()
}

/// One inference.
struct Walk<'b> {
    bounds: &'b Bounds,
    steps_left: Cell<u64>,
}

impl Walk<'_> {
    fn graph(&self, graph: &mut Graph, mut items: Items) -> Result<(), InferError> {
        let Graph { values, nodes, .. } = graph;
        nodes.iter_mut().try_for_each(|node| self.node(node, values, &mut items))
    }

    fn node(&self, node: &mut Node, values: &mut [Value], items: &mut Items) -> Result<(), InferError> {
        self.steps_left.set(self.steps_left.get().saturating_sub(1));
        if !node.bodies.is_empty() {
            self.bodies(node, values, items)?;
        }
        if super::find(&node.op).is_none() && is_typed(node, values) {
            return Ok(());
        }
        let inputs = node.inputs.iter().map(|input| input.map(|id| known(id, values, items))).collect();
        let (types, followed) = infer_site(&Facts { node, inputs }, self.bounds)?;
        for ((output, ty), followed) in node.outputs.iter().zip(types).zip(followed) {
            let Some(id) = output else { continue };
            let value = &mut values[id.index()];
            if ty != Type::Unknown || value.ty == Type::Unknown {
                value.ty = ty;
            }
            match followed {
                Some(followed) => items.insert(*id, followed),
                None => items.remove(id),
            };
        }
        Ok(())
    }

    /// Seeds the bodies of a node with what is known around them, and infers them.
    fn bodies(&self, node: &mut Node, values: &[Value], items: &Items) -> Result<(), InferError> {
        let mut bodies = std::mem::take(&mut node.bodies);
        let mut walked = Ok(());
        for (name, body) in &mut bodies {
            let mut seeds = Items::new();
            for capture in body.captures.clone() {
                let outer = &values[capture.outer.index()];
                let inner = body.value_mut(capture.inner);
                (inner.ty, inner.constant) = (outer.ty.clone(), outer.constant.clone());
                if let Some(followed) = items.get(&capture.outer) {
                    seeds.insert(capture.inner, followed.clone());
                }
            }
            // A captured constant is a constant of the body: a value has one source.
            let Graph { values: inner, captures, .. } = &mut *body;
            captures.retain(|capture| inner[capture.inner.index()].constant.is_none());
            let outer = |index: usize| node.input(index).map(|id| &values[id.index()].ty).cloned().unwrap_or_default();
            walked = match (node.op.as_str(), name.as_str()) {
                ("Loop", _) => {
                    let (round, condition) = (Type::tensor(DType::I64, &[]), Type::tensor(DType::Bool, &[]));
                    let carried: Vec<Type> = (2..body.inputs.len()).map(outer).collect();
                    let fixed = vec![round, condition];
                    self.settle(node, body, &Carry { fixed, first: 1, slices: vec![] }, carried, seeds)
                }
                ("Scan", _) => self.scan(node, body, outer, seeds),
                ("SequenceMap", _) => {
                    let given: Vec<Type> = (0..body.inputs.len()).map(outer).collect();
                    for (id, ty) in body.inputs.clone().into_iter().zip(given) {
                        body.value_mut(id).ty = match ty {
                            Type::Sequence(element) => *element,
                            other => other,
                        };
                    }
                    self.graph(body, seeds)
                }
                _ => self.graph(body, seeds),
            };
            if walked.is_err() {
                break;
            }
        }
        node.bodies = bodies;
        walked
    }

    fn scan(&self, node: &Node, body: &mut Graph, outer: impl Fn(usize) -> Type, seeds: Items) -> Result<(), InferError> {
        let scanned = node.attributes.int("num_scan_inputs").and_then(|count| usize::try_from(count).ok()).unwrap_or(0);
        let Some(states) = body.inputs.len().checked_sub(scanned) else {
            let what = format!("Scan: num_scan_inputs is {scanned} of {} inputs", body.inputs.len());
            return Err(InferError { node: node.name.as_str().into(), fault: Fault::BadAttribute, what });
        };
        let axes = scan_axes(node, "scan_input_axes", scanned);
        let mut slices = Vec::with_capacity(scanned);
        for (index, &axis) in axes.iter().enumerate() {
            let ty = outer(states + index);
            slices.push(match (ty.dtype(), ty.shape()) {
                (Some(dtype), Some(shape)) => {
                    let Some(axis) = super::shape::axis(axis, shape.len()) else {
                        let what = format!("Scan: scan_input_axes {axis} of {} axes", shape.len());
                        return Err(InferError { node: node.name.as_str().into(), fault: Fault::BadAttribute, what });
                    };
                    let mut shape = shape.to_vec();
                    shape.remove(axis);
                    Type::Tensor { dtype, shape: Some(shape) }
                }
                _ => ty,
            });
        }
        let carried = (0..states).map(outer).collect();
        self.settle(node, body, &Carry { fixed: vec![], first: 0, slices }, carried, seeds)
    }

    /// Infers a body whose outputs become its inputs, until the types of those no longer change.
    fn settle(
        &self,
        node: &Node,
        body: &mut Graph,
        carry: &Carry,
        mut carried: Vec<Type>,
        seeds: Items,
    ) -> Result<(), InferError> {
        if self.steps_left.get() == 0 {
            for ty in &mut carried {
                if let Type::Tensor { shape, .. } = ty {
                    *shape = None;
                }
            }
        }
        for round in 0..ROUNDS_MAX {
            let given = carry.fixed.iter().chain(&carried).chain(&carry.slices);
            for (id, ty) in body.inputs.clone().into_iter().zip(given) {
                body.value_mut(id).ty = ty.clone();
            }
            self.graph(body, seeds.clone())?;
            let mut settled = true;
            for (index, ty) in carried.iter_mut().enumerate() {
                let Some(&output) = body.outputs.get(carry.first + index) else { continue };
                let open = |axis: usize| Dim::named(&format!("{}.carried{index}.{axis}", node.name));
                let made = &body.value(output).ty;
                let Some(joined) = join_carried(ty, made, &open, round) else {
                    let what = format!("{}: carries {ty} in and {made} out", node.op);
                    return Err(InferError { node: node.name.as_str().into(), fault: Fault::BadDtype, what });
                };
                settled &= joined == *ty;
                *ty = joined;
            }
            if settled {
                break;
            }
        }
        Ok(())
    }
}

/// How a body's inputs are made up: `fixed`, then what is carried from round to round, then `slices`. The carried outputs come after
/// `first` others.
struct Carry {
    fixed: Vec<Type>,
    first: usize,
    slices: Vec<Type>,
}

fn known<'a>(id: ValueId, values: &'a [Value], items: &'a Items) -> Known<'a> {
    Known { items: items.get(&id).map(Vec::as_slice), ..Known::of(&values[id.index()]) }
}

fn is_typed(node: &Node, values: &[Value]) -> bool {
    node.outputs.iter().flatten().all(|id| values[id.index()].ty != Type::Unknown)
}

/// What holds before and after a round. An extent that is open already stays as it is, whatever the round makes of it.
fn join_carried(before: &Type, after: &Type, open: &dyn Fn(usize) -> Dim, round: usize) -> Option<Type> {
    let joined = join(before, after, open)?;
    // Sequences begin empty, with elements of no known shape: in the first round believe what is put in.
    if let (0, Type::Sequence(empty), Type::Sequence(filled)) = (round, before, after)
        && empty.shape().is_none()
        && empty.dtype().is_some()
        && empty.dtype() == filled.dtype()
    {
        return Some(after.clone());
    }
    Some(joined)
}
