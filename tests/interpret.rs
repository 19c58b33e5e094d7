//! Computes a graph node by node with the plain references: what passes must not change.

use kernels::reference::{self, Budget, Call, EvaluateError};
use kernels::{Datum, Tensor};
use schema::DType;
use std::collections::HashMap;
use tunewright::graph::{Graph, Node, ValueId};
use tunewright::task;

/// Why a graph could not be computed.
#[derive(Debug)]
pub enum Stop {
    /// An operator without a reference, or a type the generator of inputs does not make.
    #[allow(dead_code, reason = "shown by Debug")]
    Unsupported(String),
    Failed(String),
}

type Values = HashMap<ValueId, Datum>;

/// Computes the outputs.
pub fn outputs(graph: &Graph, inputs: &[Datum], captured: &Values) -> Result<Vec<Datum>, Stop> {
    let mut values: Values = graph.inputs.iter().copied().zip(inputs.iter().cloned()).collect();
    for capture in &graph.captures {
        values.insert(capture.inner, captured[&capture.outer].clone());
    }
    for (index, value) in graph.values.iter().enumerate() {
        if let Some(tensor) = &value.constant {
            values.insert(ValueId(index as u32), Datum::Tensor(tensor.clone()));
        }
    }
    let mut last_use = HashMap::new();
    for (index, node) in graph.nodes.iter().enumerate() {
        let captures = node.bodies.iter().flat_map(|(_, body)| &body.captures).map(|capture| capture.outer);
        last_use.extend(node.inputs.iter().flatten().copied().chain(captures).map(|id| (id, index)));
    }
    last_use.extend(graph.outputs.iter().map(|&id| (id, usize::MAX)));
    for (index, node) in graph.nodes.iter().enumerate() {
        let made = node_outputs(graph, node, &values).map_err(|stop| match stop {
            Stop::Failed(why) => Stop::Failed(format!("{} '{}': {why}", node.op, node.name)),
            stop => stop,
        })?;
        for (id, datum) in node.outputs.iter().zip(made) {
            if let Some(id) = id {
                values.insert(*id, datum);
            }
        }
        values.retain(|id, _| last_use.get(id).is_some_and(|&last| last > index));
    }
    Ok(graph.outputs.iter().map(|id| values[id].clone()).collect())
}

fn node_outputs(graph: &Graph, node: &Node, values: &Values) -> Result<Vec<Datum>, Stop> {
    let inputs: Vec<Option<&Datum>> = node.inputs.iter().map(|id| id.map(|id| &values[&id])).collect();
    match node.op.as_str() {
        "If" => {
            let taken = inputs[0].and_then(Datum::tensor).is_some_and(|condition| condition.bytes()[0] != 0);
            let body = node.body(if taken { "then_branch" } else { "else_branch" });
            outputs(body.expect("an If has branches"), &[], values)
        }
        "Loop" => run_loop(node, &inputs, values),
        "Scan" => run_scan(node, &inputs, values),
        _ if kernels::operator(&node.op).is_some() => lowered(graph, node, &inputs),
        _ => {
            let budget = Budget::unlimited();
            let call = Call {
                op: &node.op,
                attributes: &node.attributes,
                inputs: &inputs,
                outputs: node.outputs.len(),
                budget: &budget,
            };
            reference::evaluate(&call).map_err(|error| match error {
                EvaluateError::Unsupported(op) => Stop::Unsupported(op),
                error => Stop::Failed(error.to_string()),
            })
        }
    }
}

fn lowered(graph: &Graph, node: &Node, inputs: &[Option<&Datum>]) -> Result<Vec<Datum>, Stop> {
    let operator = kernels::operator(&node.op).expect("asked before");
    let task = task::of(graph, node).ok_or_else(|| Stop::Failed("an operand's shape is open".to_owned()))?;
    let task = task.map_err(|e| Stop::Failed(e.to_string()))?;
    let tensors: Vec<Option<&Tensor>> = inputs.iter().map(|input| input.and_then(Datum::tensor)).collect();
    let made = (operator.reference)(&task, &tensors).map_err(|e| Stop::Failed(e.to_string()))?;
    Ok(made.into_iter().map(Datum::Tensor).collect())
}

fn run_loop(node: &Node, inputs: &[Option<&Datum>], values: &Values) -> Result<Vec<Datum>, Stop> {
    let body = node.body("body").expect("a Loop has a body");
    let trips = inputs[0].and_then(Datum::tensor).and_then(Tensor::to_ints).map_or(i64::MAX, |trips| trips[0]);
    let mut go = inputs.get(1).copied().flatten().and_then(Datum::tensor).is_none_or(|go| go.bytes()[0] != 0);
    let mut state: Vec<Datum> = inputs.iter().skip(2).map(|datum| (*datum).expect("carried values are there").clone()).collect();
    let carried = state.len();
    let mut stacks: Vec<Vec<Datum>> = vec![Vec::new(); body.outputs.len() - 1 - carried];
    let mut trip = 0;
    while go && trip < trips {
        let mut given = vec![Tensor::scalar(trip).into(), Datum::Tensor(Tensor::bools(vec![], vec![go]))];
        given.extend(state);
        let mut made = outputs(body, &given, values)?.into_iter();
        go = made.next().and_then(|go| go.tensor().map(|go| go.bytes()[0] != 0)).unwrap_or(true);
        state = made.by_ref().take(carried).collect();
        stacks.iter_mut().zip(made).for_each(|(stack, datum)| stack.push(datum));
        trip += 1;
    }
    for stack in stacks {
        state.push(stacked(&stack, 0)?);
    }
    Ok(state)
}

fn run_scan(node: &Node, inputs: &[Option<&Datum>], values: &Values) -> Result<Vec<Datum>, Stop> {
    let body = node.body("body").expect("a Scan has a body");
    let scanned = node.attributes.int("num_scan_inputs").unwrap_or(0) as usize;
    let nonzero = |name: &str| node.attributes.ints(name).is_some_and(|values| values.iter().any(|&value| value != 0));
    if ["scan_input_axes", "scan_output_axes", "scan_input_directions", "scan_output_directions"].into_iter().any(nonzero) {
        return Err(Stop::Unsupported("Scan along other axes".to_owned()));
    }
    let carried = inputs.len() - scanned;
    let all = || inputs.iter().map(|datum| (*datum).expect("operands are there"));
    let mut state: Vec<Datum> = all().take(carried).cloned().collect();
    let sequences: Vec<&Tensor> = all().skip(carried).filter_map(Datum::tensor).collect();
    let mut stacks: Vec<Vec<Datum>> = vec![Vec::new(); body.outputs.len() - carried];
    for step in 0..sequences.first().map_or(0, |tensor| tensor.shape()[0]) {
        let mut given = state;
        given.extend(sequences.iter().map(|tensor| Datum::Tensor(row(tensor, step))));
        let mut made = outputs(body, &given, values)?.into_iter();
        state = made.by_ref().take(carried).collect();
        stacks.iter_mut().zip(made).for_each(|(stack, datum)| stack.push(datum));
    }
    for stack in stacks {
        state.push(stacked(&stack, 0)?);
    }
    Ok(state)
}

fn row(tensor: &Tensor, index: usize) -> Tensor {
    let shape = tensor.shape()[1..].to_vec();
    let bytes = shape.iter().product::<usize>() * tensor.dtype().bytes();
    let data = tensor.shared_bytes().slice(index * bytes..(index + 1) * bytes);
    Tensor::from_bytes(tensor.dtype(), shape, data).expect("a row of the tensor")
}

fn stacked(parts: &[Datum], _axis: usize) -> Result<Datum, Stop> {
    let tensors: Vec<&Tensor> = parts.iter().filter_map(Datum::tensor).collect();
    let Some(first) = tensors.first() else { return Err(Stop::Unsupported("a loop without rounds".to_owned())) };
    let mut shape = vec![tensors.len()];
    shape.extend(first.shape());
    let bytes: Vec<u8> = tensors.iter().flat_map(|tensor| tensor.bytes()).copied().collect();
    let tensor =
        Tensor::from_bytes(first.dtype(), shape, bytes.into()).ok_or_else(|| Stop::Failed("rounds differ".to_owned()))?;
    Ok(tensor.into())
}

/// Whether two graphs give the same on the same made-up inputs; `Ok` too when one cannot be computed.
pub fn agree(before: &Graph, after: &Graph) -> Result<(), String> {
    let Some(inputs) = before.inputs.iter().map(|&id| made_up(before, id)).collect::<Option<Vec<_>>>() else { return Ok(()) };
    let run = |graph: &Graph| match outputs(graph, &inputs, &Values::new()) {
        Ok(outputs) => Ok(Some(outputs)),
        Err(Stop::Unsupported(_)) => Ok(None),
        Err(Stop::Failed(why)) => Err(why),
    };
    let (Some(a), Some(b)) = (run(before).map_err(|e| format!("before: {e}"))?, run(after).map_err(|e| format!("after: {e}"))?)
    else {
        return Ok(());
    };
    for ((x, y), name) in a.iter().zip(&b).zip(&before.output_names) {
        near(x, y, 1e-4).map_err(|why| format!("output '{name}': {why}"))?;
    }
    Ok(())
}

/// Whether two outputs agree: |a − b| ≤ rel · max(|b|, rms of b).
pub fn near(a: &Datum, b: &Datum, rel: f64) -> Result<(), String> {
    let (Some(a), Some(b)) = (a.tensor(), b.tensor()) else {
        return if a == b { Ok(()) } else { Err("containers differ".to_owned()) };
    };
    if a.dtype() != b.dtype() || a.shape() != b.shape() {
        return Err(format!("{}{:?} and {}{:?}", a.dtype(), a.shape(), b.dtype(), b.shape()));
    }
    let (Some(x), Some(y)) = (a.values::<f32>(), b.values::<f32>()) else {
        return if a == b { Ok(()) } else { Err("elements differ".to_owned()) };
    };
    let rms = (y.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / y.len().max(1) as f64).sqrt();
    for (i, (x, y)) in x.iter().zip(y.iter()).enumerate() {
        let (x, y) = (f64::from(*x), f64::from(*y));
        let both = x == y || (x.is_nan() && y.is_nan());
        if !both && (x - y).abs() > rel * y.abs().max(rms) || x.is_nan() != y.is_nan() {
            return Err(format!("element {i}: {x} and {y}, rms {rms}"));
        }
    }
    Ok(())
}

/// Numbers for an input of known type and shape: floats in [−1, 1], whole numbers 0 and 1.
fn made_up(graph: &Graph, id: ValueId) -> Option<Datum> {
    let value = graph.value(id);
    let shape = value.fixed_shape()?;
    let count: usize = shape.iter().product();
    let mut state = u64::from(id.0) + 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    let tensor = match value.dtype()? {
        DType::F32 => Tensor::new(shape, (0..count).map(|_| next()).collect()),
        DType::F64 => Tensor::new(shape, (0..count).map(|_| f64::from(next())).collect()),
        DType::I64 => Tensor::new(shape, (0..count).map(|_| i64::from(next() > 0.0)).collect()),
        DType::I32 => Tensor::new(shape, (0..count).map(|_| i32::from(next() > 0.0)).collect()),
        DType::Bool => Tensor::bools(shape, (0..count).map(|_| next() > 0.0).collect()),
        _ => return None,
    };
    Some(tensor.into())
}
