//! Infers types, computes what is already known, and takes the branch of an `If` whose condition is known.
//!
//! One walk in topological order: a node's types are inferred, then it is computed by the plain reference if all it reads is constant
//! (`Shape` and `Size` need only the type), so that the next node's inference sees the result. With batch and axes bound this leaves
//! nothing of a model's shape arithmetic. Constants that a body captures become constants of the body first.
//!
//! Everything computed is charged to the budget of [`Options`]. What does not fit stays a node and is noted in `Options::unfolded`.
//! An operator that is not defined for its constant inputs (an index out of range) is the model's fault in the main graph; in a body,
//! which may never run, the node is left to run time.

use super::eliminate_common_subexpressions::RANDOM;
use super::{Options, PassError, Unfolded};
use crate::graph::infer::{self, infer, infer_node};
use crate::graph::{Dim, Graph, Node, Type, Value, ValueId};
use bytes::Bytes;
use kernels::reference::{self, Call, EvaluateError};
use kernels::{Datum, Tensor};
use std::collections::{HashMap, VecDeque};

/// A transposed constant above so many bytes is left to the matrix product that reads it: the product can read it either way, and
/// a second copy of an embedding table would double the model.
const TRANSPOSE_BYTES_MAX: usize = 64 << 10;

/// Walks over the graph. A second finds what the first learnt within loops; more than three were never needed.
const ROUNDS_MAX: usize = 4;

pub(super) fn run(graph: &mut Graph, options: &Options) -> Result<usize, PassError> {
    let mut fold = Fold { options, changes: 0 };
    for _ in 0..ROUNDS_MAX {
        let before = fold.changes;
        infer(graph)?;
        fold.walk(graph, true)?;
        if fold.changes == before {
            break;
        }
    }
    infer(graph)?;
    Ok(fold.changes)
}

struct Fold<'a> {
    options: &'a Options,
    changes: usize,
}

impl Fold<'_> {
    /// `certain`: whether every node runs when the model runs.
    fn walk(&mut self, graph: &mut Graph, certain: bool) -> Result<(), PassError> {
        let readers = readers(graph);
        let mut queue: VecDeque<Node> = std::mem::take(&mut graph.nodes).into();
        let mut same: HashMap<ValueId, ValueId> = HashMap::new();
        while let Some(mut node) = queue.pop_front() {
            redirect(&mut node, &same);
            if let Some(branch) = chosen_branch(graph, &node) {
                let (nodes, outputs) = inline(graph, &node, branch);
                for (gone, kept) in node.outputs.iter().zip(outputs) {
                    if let Some(gone) = gone {
                        same.insert(*gone, kept);
                    }
                }
                nodes.into_iter().rev().for_each(|node| queue.push_front(node));
                self.changes += 1;
                continue;
            }
            self.bodies(graph, &mut node)?;
            self.infer(graph, &node, certain)?;
            let stays = keeps_transpose(graph, &node, &readers);
            if !stays && self.fold(graph, &node, certain)? {
                self.changes += 1;
            } else {
                graph.nodes.push(node);
            }
        }
        for output in &mut graph.outputs {
            *output = last(&same, *output);
        }
        Ok(())
    }

    /// Gives bodies the constants they capture, and folds within.
    fn bodies(&mut self, graph: &Graph, node: &mut Node) -> Result<(), PassError> {
        if node.bodies.is_empty() {
            return Ok(());
        }
        for (_, body) in &mut node.bodies {
            let mut kept = Vec::with_capacity(body.captures.len());
            for capture in std::mem::take(&mut body.captures) {
                let outer = graph.value(capture.outer);
                let inner = &mut body.values[capture.inner.index()];
                inner.ty = outer.ty.clone();
                inner.constant = outer.constant.clone();
                if inner.constant.is_none() {
                    kept.push(capture);
                } else {
                    self.changes += 1;
                }
            }
            body.captures = kept;
        }
        for (_, body) in &mut node.bodies {
            self.walk(body, false)?;
        }
        Ok(())
    }

    /// Types the outputs anew where they are open: constants may have told more since.
    fn infer(&self, graph: &mut Graph, node: &Node, certain: bool) -> Result<(), PassError> {
        let open = |id: &ValueId| graph.value(*id).fixed_shape().is_none();
        if !node.outputs.iter().flatten().any(open) || kernels::operator(&node.op).is_some() {
            return Ok(());
        }
        match infer_node(&infer::Facts::of(graph, node)) {
            Ok(types) => {
                for (id, ty) in node.outputs.iter().zip(types) {
                    let Some(id) = id else { continue };
                    let known = &mut graph.value_mut(*id).ty;
                    if *known == Type::Unknown || ty.fixed_shape().is_some() {
                        *known = ty;
                    }
                }
                Ok(())
            }
            Err(error) if certain => Err(error.into()),
            Err(_) => Ok(()),
        }
    }

    /// Computes the node if it can be computed now; its outputs become constants.
    fn fold(&mut self, graph: &mut Graph, node: &Node, certain: bool) -> Result<bool, PassError> {
        if !node.bodies.is_empty() || RANDOM.contains(&node.op.as_str()) || kernels::operator(&node.op).is_some() {
            return Ok(false);
        }
        if let Some(tensor) = from_type(graph, node) {
            return Ok(set_constants(graph, node, vec![Datum::Tensor(tensor)]));
        }
        let datum = |(place, id): (usize, &Option<ValueId>)| match id {
            None => Some(None),
            Some(id) => known_data(graph.value(*id), node, place).map(|tensor| Some(Datum::Tensor(tensor))),
        };
        let Some(inputs) = node.inputs.iter().enumerate().map(datum).collect::<Option<Vec<_>>>() else { return Ok(false) };
        let inputs: Vec<Option<&Datum>> = inputs.iter().map(Option::as_ref).collect();
        let budget = &self.options.budget;
        let call = Call { op: &node.op, attributes: &node.attributes, inputs: &inputs, outputs: node.outputs.len(), budget };
        match reference::evaluate(&call) {
            Ok(outputs) => Ok(set_constants(graph, node, outputs)),
            Err(EvaluateError::Unsupported(_)) => Ok(false),
            Err(reason @ EvaluateError::Budget { .. }) => {
                let unfolded = Unfolded { node: node.name.clone(), op: node.op.clone(), reason };
                self.options.unfolded.borrow_mut().push(unfolded);
                Ok(false)
            }
            Err(source) if certain => Err(PassError::Evaluate { node: node.name.clone(), op: node.op.clone(), source }),
            Err(_) => Ok(false),
        }
    }
}

/// The data that a node reads, if it is known. Of the second input of `CastLike` only the type matters.
fn known_data(value: &Value, node: &Node, place: usize) -> Option<Tensor> {
    match &value.constant {
        Some(tensor) => Some(tensor.clone()),
        None if node.op == "CastLike" && place == 1 => Tensor::from_bytes(value.dtype()?, vec![0], Bytes::new()),
        None => None,
    }
}

/// For each value, the operators that read it; an output of the graph counts as one.
fn readers(graph: &Graph) -> HashMap<ValueId, Vec<String>> {
    let mut readers: HashMap<ValueId, Vec<String>> = HashMap::new();
    for node in graph.nodes.iter().filter(|node| node.op == "Transpose") {
        readers.extend(node.output(0).map(|id| (id, Vec::new())));
    }
    for node in &graph.nodes {
        for id in node.inputs.iter().flatten() {
            readers.entry(*id).and_modify(|ops| ops.push(node.op.clone()));
        }
    }
    for id in &graph.outputs {
        readers.entry(*id).and_modify(|ops| ops.push(String::new()));
    }
    readers
}

fn keeps_transpose(graph: &Graph, node: &Node, readers: &HashMap<ValueId, Vec<String>>) -> bool {
    let (Some(input), Some(output)) = (node.input(0), node.output(0)) else { return false };
    let large = graph.value(input).constant.as_ref().is_some_and(|tensor| tensor.bytes().len() > TRANSPOSE_BYTES_MAX);
    let products = |ops: &Vec<String>| !ops.is_empty() && ops.iter().all(|op| op == "MatMul" || op == "Gemm");
    node.op == "Transpose" && large && readers.get(&output).is_some_and(products)
}

/// What a value has become: the output of a branch may itself be that of a branch.
fn last(same: &HashMap<ValueId, ValueId>, mut id: ValueId) -> ValueId {
    while let Some(&next) = same.get(&id) {
        id = next;
    }
    id
}

fn redirect(node: &mut Node, same: &HashMap<ValueId, ValueId>) {
    let change = |id: &mut ValueId| *id = last(same, *id);
    node.inputs.iter_mut().flatten().for_each(change);
    node.bodies.iter_mut().flat_map(|(_, body)| &mut body.captures).for_each(|capture| change(&mut capture.outer));
}

/// What a type alone says: the result of `Shape` and `Size`.
fn from_type(graph: &Graph, node: &Node) -> Option<Tensor> {
    let shape = |node: &Node| graph.value(node.input(0)?).ty.shape();
    match node.op.as_str() {
        "Shape" => {
            let shape = shape(node)?;
            let rank = i64::try_from(shape.len()).ok()?;
            let place = |name, default| {
                let at = node.attributes.int(name).unwrap_or(default);
                (if at < 0 { at.saturating_add(rank) } else { at }).clamp(0, rank) as usize
            };
            let (start, end) = (place("start", 0), place("end", rank));
            let dims = shape.get(start..end.max(start))?.iter().map(|dim| dim.fixed().and_then(|dim| i64::try_from(dim).ok()));
            let dims: Vec<i64> = dims.collect::<Option<_>>()?;
            Some(Tensor::new(vec![dims.len()], dims))
        }
        "Size" => {
            let dims = shape(node)?.iter().map(Dim::fixed).collect::<Option<Vec<_>>>()?;
            let size = dims.iter().try_fold(1usize, |size, &dim| size.checked_mul(dim))?;
            Some(Tensor::scalar(i64::try_from(size).ok()?))
        }
        _ => None,
    }
}

/// Makes constants of a node's outputs, if all of them are tensors.
fn set_constants(graph: &mut Graph, node: &Node, outputs: Vec<Datum>) -> bool {
    let tensors: Option<Vec<Tensor>> = outputs.iter().map(|datum| datum.tensor().cloned()).collect();
    let Some(tensors) = tensors.filter(|tensors| tensors.len() >= node.outputs.len()) else { return false };
    for (id, tensor) in node.outputs.iter().zip(tensors) {
        if let Some(id) = id {
            let value = graph.value_mut(*id);
            *value = Value::constant(&std::mem::take(&mut value.name), tensor);
        }
    }
    true
}

/// The body that a known condition chooses.
fn chosen_branch<'n>(graph: &Graph, node: &'n Node) -> Option<&'n Graph> {
    if node.op != "If" {
        return None;
    }
    let condition = graph.value(node.input(0)?).constant.as_ref()?;
    let branch = if condition.bytes().first() == Some(&0) { "else_branch" } else { "then_branch" };
    node.body(branch).filter(|body| body.outputs.len() == node.outputs.len())
}

/// Copies a body without inputs into the graph; gives its nodes and, for each output, the value that holds it.
fn inline(graph: &mut Graph, node: &Node, body: &Graph) -> (Vec<Node>, Vec<ValueId>) {
    let captured: HashMap<ValueId, ValueId> = body.captures.iter().map(|capture| (capture.inner, capture.outer)).collect();
    let place: Vec<ValueId> = body
        .values
        .iter()
        .enumerate()
        .map(|(i, value)| captured.get(&ValueId(i as u32)).copied().unwrap_or_else(|| graph.add_value(value.clone())))
        .collect();
    let change = |id: &mut ValueId| *id = place[id.index()];
    let mut nodes = body.nodes.clone();
    for inner in &mut nodes {
        inner.inputs.iter_mut().chain(&mut inner.outputs).flatten().for_each(change);
        inner.bodies.iter_mut().flat_map(|(_, body)| &mut body.captures).for_each(|capture| change(&mut capture.outer));
        if inner.name.is_empty() {
            inner.name.clone_from(&node.name);
        }
    }
    (nodes, body.outputs.iter().map(|id| place[id.index()]).collect())
}
