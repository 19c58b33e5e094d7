//! Types and shapes of values, from what nodes mean.
//!
//! In comes a graph whose inputs and constants have types; out goes the same graph with a type for every value. Extents may be symbolic
//! (`N`, `2*N + 1`), and small integer tensors (shapes on their way to a `Reshape`) are followed element by element, also symbolically, so
//! that a graph with open axes keeps its shapes. What only running can tell gets a name of its own: `NonZero_12.1`.
//!
//! The families are tables: an operator's name, its signature (which inputs share an element type, which types are allowed) and
//! the function that knows its shapes. Attributes are judged here, because here their meaning is known. Source: ONNX's operator
//! documentation, newest opset.
//!
//! Invariant: types are derived, never believed. What a model declares of its values in between is not asked.

mod attention;
mod bind;
mod control;
mod elementwise;
mod facts;
mod indexing;
mod learning;
mod movement;
mod network;
mod pooling;
mod product;
mod propagate;
mod quantization;
mod recurrent;
mod reduction;
mod shape;
mod signal;
mod signature;
mod symbol;
mod vision;
mod walk;

pub use bind::{BindError, bind, open_axes};
pub use control::never_stops_early;
pub use facts::{Facts, Known};
pub use propagate::Item;
pub use symbol::Expr;
pub use walk::{infer, infer_in, infer_within};

use super::Type;
use facts::Site;
use std::sync::Arc;
use thiserror::Error;

/// Bounds that an inferred shape must keep.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Extent of one axis.
    pub dim: u64,
    /// Elements of one value.
    pub elements: u64,
    /// Rounds of a `Loop` whose count is a constant.
    pub rounds: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds { dim: (1 << 31) - 1, elements: 1 << 40, rounds: (1 << 31) - 1 }
    }
}

/// What is wrong with a node.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    Arity,
    BadAttribute,
    BadDtype,
    BadShape,
    ShapeMismatch,
    IndexOutOfRange,
    UnsupportedOp,
    /// A bound, with what was needed; `None` when even counting it overflows.
    Limit {
        limit: &'static str,
        allowed: u64,
        need: Option<u64>,
    },
}

/// A node that cannot be typed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("node '{node}': {what}")]
pub struct InferError {
    /// The node's name.
    pub node: Arc<str>,
    pub fault: Fault,
    /// What was found, and what is allowed.
    pub what: String,
}

/// Types of all outputs an operator can have.
type Infer = fn(&Site<'_, '_>) -> Result<Vec<Type>, InferError>;

/// An operator's name, signature and shapes.
struct Rule {
    op: &'static str,
    signature: &'static str,
    infer: Infer,
}

const fn rule(op: &'static str, signature: &'static str, infer: Infer) -> Rule {
    Rule { op, signature, infer }
}

/// The families. A new one is one file and one line here.
static FAMILIES: &[&[Rule]] = &[
    elementwise::RULES,
    reduction::RULES,
    movement::RULES,
    indexing::RULES,
    network::RULES,
    pooling::RULES,
    product::RULES,
    recurrent::RULES,
    attention::RULES,
    quantization::RULES,
    vision::RULES,
    signal::RULES,
    control::RULES,
    learning::RULES,
];

fn find(op: &str) -> Option<&'static Rule> {
    use std::collections::HashMap;
    use std::sync::OnceLock;
    static BY_NAME: OnceLock<HashMap<&str, &Rule>> = OnceLock::new();
    BY_NAME
        .get_or_init(|| FAMILIES.iter().flat_map(|family| family.iter()).map(|rule| (rule.op, rule)).collect())
        .get(op)
        .copied()
}

/// The types of a node's outputs, one for each that the node lists. Bodies must have been inferred before.
///
/// # Errors
/// [`InferError`] when inputs or attributes are not what the operator allows.
pub fn infer_node(facts: &Facts<'_>) -> Result<Vec<Type>, InferError> {
    infer_site(facts, &Bounds::default()).map(|(types, _)| types)
}

/// The same within bounds, with the elements of small integer outputs.
fn infer_site(facts: &Facts<'_>, bounds: &Bounds) -> Result<(Vec<Type>, Vec<Option<Vec<Item>>>), InferError> {
    let node = facts.node;
    let error = |fault, what: String| InferError { node: node.name.as_str().into(), fault, what };
    let rule =
        find(&node.op).ok_or_else(|| error(Fault::UnsupportedOp, format!("operator {} has no rule for shapes", node.op)))?;
    let dtypes = signature::check(rule.signature, facts).map_err(|(fault, what)| error(fault, format!("{}: {what}", node.op)))?;
    let site = Site::new(facts, &dtypes, bounds);
    let mut types = (rule.infer)(&site)?;
    types.resize(node.outputs.len(), Type::Unknown);
    for ty in &types {
        site.within_bounds(ty)?;
    }
    let items = propagate::items(&site, &types);
    Ok((types, items))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_has_a_signature_that_parses_and_a_name_of_its_own() {
        let mut names = std::collections::BTreeSet::new();
        for rule in FAMILIES.iter().flat_map(|family| family.iter()) {
            assert!(names.insert(rule.op), "{} twice", rule.op);
            assert!(signature::is_valid(rule.signature), "{}: {}", rule.op, rule.signature);
        }
        assert!(names.len() > 190, "{}", names.len());
    }
}
