//! Choosing the batch and the other open axes: after this, every input is fixed.

use super::{InferError, infer};
use crate::graph::infer::Expr;
use crate::graph::{Dim, Graph, Type};
use schema::Batch;
use std::collections::{BTreeMap, BTreeSet};
use thiserror::Error;

/// Names that people give the batch.
const BATCH_NAMES: &[&str] = &["N", "n", "B", "b", "bs", "batch", "Batch", "batch_size", "batchsize", "batch_dim", "batch_axis"];

/// Why axes could not be chosen.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BindError {
    /// An open axis that nobody chose.
    #[error("axis \"{axis}\" of input \"{input}\" is open; add --dim {axis}=128")]
    Open { axis: String, input: String },
    /// `--dim` names an axis that no input has.
    #[error("no input has an axis \"{axis}\"; open axes are {open}")]
    Unknown { axis: String, open: String },
    /// The model's batch is fixed.
    #[error(
        "input \"{input}\" has a fixed batch of {fixed}, {asked} was asked for; leave the batch out, or export the model with an open one"
    )]
    FixedBatch { input: String, fixed: usize, asked: u64 },
    /// The chosen extents contradict the model.
    #[error(transparent)]
    Infer(#[from] InferError),
}

/// The open axes of the inputs, in order of appearance, each with the first input that has it; the batch, if there is one, is first.
pub fn open_axes(graph: &Graph) -> Vec<(String, String)> {
    let mut axes: Vec<(String, String)> = Vec::new();
    for &id in &graph.inputs {
        let value = graph.value(id);
        for dim in value.ty.shape().unwrap_or_default() {
            for name in Expr::of(dim).names() {
                if !axes.iter().any(|(axis, _)| axis == name) {
                    axes.push((name.to_owned(), value.name.clone()));
                }
            }
        }
    }
    if let Some(batch) = batch_axis(graph)
        && let Some(at) = axes.iter().position(|(axis, _)| *axis == batch)
    {
        let first = axes.remove(at);
        axes.insert(0, first);
    }
    axes
}

/// The name of the batch: an open axis that all inputs with open axes share, by preference one that is called like a batch and
/// leads; else the leading open axis of the first input that has one.
fn batch_axis(graph: &Graph) -> Option<String> {
    let named = |id| -> Vec<String> {
        let dims = graph.value(id).ty.shape().unwrap_or_default();
        dims.iter().filter_map(|dim| if let Dim::Named(name) = dim { Some(name.to_string()) } else { None }).collect()
    };
    let inputs: Vec<Vec<String>> = graph.inputs.iter().map(|&id| named(id)).filter(|names| !names.is_empty()).collect();
    let first = inputs.first()?;
    let common: Vec<&String> = first.iter().filter(|name| inputs.iter().all(|names| names.contains(name))).collect();
    let called = common.iter().find(|name| BATCH_NAMES.contains(&name.as_str()));
    let leads = graph.inputs.iter().filter_map(|&id| graph.value(id).ty.shape()?.first()).find_map(|dim| match dim {
        Dim::Named(name) => Some(name.to_string()),
        Dim::Fixed(_) => None,
    });
    match (called, common.first()) {
        (Some(name), _) => Some((*name).clone()),
        (None, Some(name)) if leads.as_ref() == Some(*name) => Some((*name).clone()),
        _ => leads,
    }
}

/// The leading open axes that mean the batch too: exporters that know no names, or give each input its own, write one per input.
fn batch_names(graph: &Graph) -> BTreeSet<String> {
    let Some(batch) = batch_axis(graph) else { return BTreeSet::new() };
    let mut names = BTreeSet::from([batch]);
    for &id in &graph.inputs {
        let value = graph.value(id);
        if let Some(Dim::Named(leading)) = value.ty.shape().and_then(<[Dim]>::first)
            && (BATCH_NAMES.contains(&&**leading) || **leading == format!("{}.0", value.name))
        {
            names.insert(leading.to_string());
        }
    }
    names
}

/// Fixes the open axes of a graph's inputs, and infers everything anew: the batch by `batch`, the others by name.
///
/// # Errors
/// [`BindError`]: an axis left open, a name that no input has, a batch other than the fixed one, extents that contradict the model.
pub fn bind(graph: &mut Graph, batch: Option<Batch>, dims: &BTreeMap<String, u64>) -> Result<(), BindError> {
    let open = open_axes(graph);
    if let Some(axis) = dims.keys().find(|&axis| !open.iter().any(|(name, _)| name == axis)) {
        let names = if open.is_empty() {
            "none".to_owned()
        } else {
            open.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ")
        };
        return Err(BindError::Unknown { axis: axis.clone(), open: names });
    }
    let mut chosen: BTreeMap<String, i64> =
        dims.iter().map(|(name, &extent)| (name.clone(), i64::try_from(extent).unwrap_or(i64::MAX))).collect();
    if let Some(batch) = batch {
        let names = batch_names(graph);
        if names.is_empty() {
            fixed_batch(graph, batch)?;
        }
        for name in names {
            chosen.entry(name).or_insert(i64::from(batch.rows()));
        }
    }
    for id in graph.inputs.clone() {
        let value = graph.value_mut(id);
        let Type::Tensor { shape: Some(shape), .. } = &mut value.ty else { continue };
        for dim in shape.iter_mut().filter(|dim| dim.fixed().is_none()) {
            let expr = Expr::of(dim);
            let extent = expr.evaluate(|name| chosen.get(name).copied()).and_then(|extent| usize::try_from(extent).ok());
            let Some(extent) = extent else {
                let missing = expr.names().find(|name| !chosen.contains_key(*name)).unwrap_or_default().to_owned();
                return Err(BindError::Open { axis: missing, input: value.name.clone() });
            };
            *dim = Dim::Fixed(extent);
        }
    }
    Ok(infer(graph)?)
}

/// A model without open axes has the batch it has.
fn fixed_batch(graph: &Graph, batch: Batch) -> Result<(), BindError> {
    for &id in &graph.inputs {
        let value = graph.value(id);
        if let Some(fixed) = value.ty.shape().and_then(<[Dim]>::first).and_then(Dim::fixed) {
            return if fixed as u64 == u64::from(batch.rows()) {
                Ok(())
            } else {
                Err(BindError::FixedBatch { input: value.name.clone(), fixed, asked: u64::from(batch.rows()) })
            };
        }
    }
    Ok(())
}
