//! Nodes without a tuned kernel: Burn's operation where it takes the node, else the plain reference.
//!
//! Inputs that lie in the arena are lent, not copied; outputs are copied into it. What stays in a slot owns its bytes.

use super::compile::{PlanError, Writer};
use super::memory::Memory;
use super::plan::RunError;
use super::program::{Fixed, Place, Source};
use crate::graph::Node;
use bytes::Bytes;
use kernels::reference::{self, Budget, Call, EvaluateError};
use kernels::{Attributes, Datum, Tensor};

/// A node that keeps ONNX's name.
pub(super) struct Untuned {
    node: String,
    op: String,
    attributes: Attributes,
    sources: Vec<Option<Source>>,
    targets: Vec<Place>,
}

impl Untuned {
    /// Finds the operands of a node.
    ///
    /// # Errors
    /// [`PlanError::Unsupported`] when nothing computes its operator, [`PlanError::Layout`] for an operand that is not in rows.
    pub fn new(writer: &mut Writer<'_>, node: &Node) -> Result<Self, PlanError> {
        if reference::find(&node.op).is_none() {
            return Err(PlanError::Unsupported { node: node.name.clone(), op: node.op.clone() });
        }
        let source = |id: &Option<_>| id.map(|id| writer.source(node, id)).transpose();
        let sources = node.inputs.iter().map(source).collect::<Result<_, _>>()?;
        let (name, op, attributes) = (node.name.clone(), node.op.clone(), node.attributes.clone());
        Ok(Untuned { node: name, op, attributes, sources, targets: writer.places(node)? })
    }

    /// Computes the node.
    ///
    /// # Errors
    /// [`RunError::Node`] for what the operator refuses, [`RunError::Result`] when a result is not what the graph says.
    pub fn run(&self, memory: &mut Memory, slots: &mut [Option<Datum>]) -> Result<(), RunError> {
        let outputs = {
            let datum = |source: &Option<Source>| source.as_ref().map(|source| fetch(source, memory, slots)).transpose();
            let inputs: Vec<Option<Datum>> = self.sources.iter().map(datum).collect::<Result<_, _>>()?;
            let inputs: Vec<Option<&Datum>> = inputs.iter().map(Option::as_ref).collect();
            let budget = Budget::unlimited();
            let call = Call {
                op: &self.op,
                attributes: &self.attributes,
                inputs: &inputs,
                outputs: self.targets.len(),
                budget: &budget,
            };
            evaluate(&call).map_err(|source| RunError::Node { node: self.node.clone(), op: self.op.clone(), source })?
        };
        let mut outputs = outputs.into_iter();
        for place in &self.targets {
            let Some(datum) = outputs.next() else {
                let reason = format!("computed {} outputs too few", self.targets.len());
                return Err(RunError::Result { node: self.node.clone(), op: self.op.clone(), reason });
            };
            match place {
                Place::Nowhere => {}
                Place::Slot(slot) => slots[*slot] = Some(if memory.nothing_lent() { datum } else { owned(datum) }),
                Place::Fixed(fixed) => store(&datum, fixed, memory).map_err(|reason| RunError::Result {
                    node: self.node.clone(),
                    op: self.op.clone(),
                    reason,
                })?,
            }
        }
        drop(outputs);
        assert!(memory.nothing_lent(), "{} keeps nothing of its inputs", self.op);
        Ok(())
    }
}

/// Burn's operation, else the reference. Burn gives one output.
fn evaluate(call: &Call<'_>) -> Result<Vec<Datum>, EvaluateError> {
    if call.outputs == 1 && burn_ops::takes(call.op) {
        let only_tensors = call.inputs.iter().flatten().all(|datum| datum.tensor().is_some());
        let tensors: Vec<Option<&Tensor>> = call.inputs.iter().map(|input| input.and_then(Datum::tensor)).collect();
        if let Some(computed) = only_tensors.then(|| burn_ops::evaluate(call.op, call.attributes, &tensors)).flatten() {
            return Ok(computed?.into_iter().map(Datum::Tensor).collect());
        }
    }
    reference::evaluate(call)
}

/// A value as data; what lies in the arena is lent.
pub(super) fn fetch(source: &Source, memory: &Memory, slots: &[Option<Datum>]) -> Result<Datum, RunError> {
    match source {
        Source::Constant(datum) => Ok(datum.clone()),
        Source::Slot(slot) => slots[*slot].clone().ok_or(RunError::Absent),
        Source::Fixed(fixed) => Ok(Datum::Tensor(tensor(fixed, memory.lend(fixed.span)))),
    }
}

/// A tensor of a fixed value's type over `bytes`.
pub(super) fn tensor(fixed: &Fixed, bytes: Bytes) -> Tensor {
    Tensor::from_bytes(fixed.dtype, fixed.shape.clone(), bytes).expect("a span has the bytes of its type and shape")
}

/// Puts data into its fixed place.
///
/// # Errors
/// What differs when type or shape are not those of the place.
pub(super) fn store(datum: &Datum, fixed: &Fixed, memory: &mut Memory) -> Result<(), String> {
    let tensor = datum.tensor().ok_or("is no tensor")?;
    if tensor.dtype() != fixed.dtype || tensor.shape() != fixed.shape {
        let (dtype, shape) = (tensor.dtype(), tensor.shape());
        return Err(format!("is {dtype}{shape:?}, the graph says {}{:?}", fixed.dtype, fixed.shape));
    }
    memory.bytes_mut(fixed.span).copy_from_slice(tensor.bytes());
    Ok(())
}

/// The same data with bytes of its own.
pub(super) fn owned(datum: Datum) -> Datum {
    match datum {
        Datum::Tensor(tensor) if tensor.texts().is_none() => {
            let bytes = Bytes::copy_from_slice(tensor.bytes());
            let copy = Tensor::from_bytes(tensor.dtype(), tensor.shape().to_vec(), bytes);
            Datum::Tensor(copy.expect("the same bytes under the same type and shape"))
        }
        Datum::Tensor(_) => datum,
        Datum::Sequence(items) => Datum::Sequence(items.into_iter().map(owned).collect()),
        Datum::Optional(item) => Datum::Optional(item.map(|item| Box::new(owned(*item)))),
    }
}
