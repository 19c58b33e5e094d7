//! ONNX's operators, version by version: what each may have, and how it becomes the newest version's form.
//!
//! One table per family, a line per operator: its name, its versions, and the function that normalises. A version is written as
//! `since inputs outputs attribute:kind …`, where a count is `2`, `1-3` or `2+` and a kind is `i f s t g is fs ss sp ty`, with `!` when the
//! attribute is required. A version is only listed when it changes one of these. Source: the schemas of onnx 1.23.

mod attributes;
mod control;
mod elementwise;
mod learning;
mod movement;
mod network;
mod quantization;
mod reduction;
mod semantics;
pub use semantics::{COERCED, PER_GROUP};
mod signal;
mod vision;

use super::error::{Class, ImportError, quote};
use super::proto::Kind;
use crate::graph::{Graph, ValueId};
use kernels::{Attributes, Tensor};
use std::collections::HashMap;
use std::sync::OnceLock;

/// The oldest and the newest operator set that is known.
pub const OPSETS: std::ops::RangeInclusive<i64> = 7..=28;

/// An operator and its versions.
pub struct Op {
    /// As in [`Node::op`](crate::graph::Node::op).
    pub name: &'static str,
    /// Oldest first.
    pub versions: &'static [&'static str],
    /// From any version to the newest.
    pub normalise: fn(&mut Draft<'_>) -> Result<(), ImportError>,
}

/// A node before it joins the graph.
pub struct Draft<'g> {
    pub op: String,
    /// The operator set it was written for.
    pub opset: i64,
    pub inputs: Vec<Option<ValueId>>,
    pub outputs: Vec<Option<ValueId>>,
    pub attributes: Attributes,
    /// Its name in the graph.
    pub name: &'g str,
    pub graph: &'g mut Graph,
}

/// What one version allows.
pub struct Version {
    pub since: i64,
    pub inputs: Count,
    pub outputs: Count,
    pub attributes: Vec<AttributeSpec>,
}

/// Least and most.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Count {
    pub least: usize,
    pub most: usize,
}

/// An attribute of one version.
pub struct AttributeSpec {
    pub name: &'static str,
    pub kind: Kind,
    pub required: bool,
}

static FAMILIES: &[&[Op]] = &[
    elementwise::OPS,
    reduction::OPS,
    movement::OPS,
    network::OPS,
    quantization::OPS,
    vision::OPS,
    signal::OPS,
    control::OPS,
    learning::OPS,
];

const fn op(
    name: &'static str,
    versions: &'static [&'static str],
    normalise: fn(&mut Draft<'_>) -> Result<(), ImportError>,
) -> Op {
    Op { name, versions, normalise }
}

/// Nothing but defaults changed between the versions.
fn same(_: &mut Draft<'_>) -> Result<(), ImportError> {
    Ok(())
}

/// The operator of that name, `domain.Name` outside the default domain.
pub fn find(name: &str) -> Option<&'static Op> {
    static BY_NAME: OnceLock<HashMap<&str, &Op>> = OnceLock::new();
    BY_NAME.get_or_init(|| FAMILIES.iter().flat_map(|family| family.iter()).map(|op| (op.name, op)).collect()).get(name).copied()
}

impl Op {
    /// The version that an operator set means.
    pub fn version(&self, opset: i64) -> Option<Version> {
        self.versions.iter().rev().map(|text| Version::parse(text)).find(|version| version.since <= opset)
    }
}

impl Version {
    fn parse(text: &'static str) -> Version {
        let mut words = text.split(' ');
        let mut word = || words.next().expect("the table gives since, inputs and outputs");
        let since = word().parse().expect("the table gives a number");
        let (inputs, outputs) = (Count::parse(word()), Count::parse(word()));
        Version { since, inputs, outputs, attributes: words.map(AttributeSpec::parse).collect() }
    }
}

impl Count {
    fn parse(text: &str) -> Count {
        let number = |text: &str| text.parse().expect("the table gives a number");
        match (text.strip_suffix('+'), text.split_once('-')) {
            (Some(least), _) => Count { least: number(least), most: usize::MAX },
            (None, Some((least, most))) => Count { least: number(least), most: number(most) },
            (None, None) => Count { least: number(text), most: number(text) },
        }
    }
}

impl std::fmt::Display for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.least, self.most) {
            (least, usize::MAX) => write!(f, "{least} or more"),
            (least, most) if least == most => write!(f, "{least}"),
            (least, most) => write!(f, "{least} to {most}"),
        }
    }
}

impl AttributeSpec {
    fn parse(text: &'static str) -> AttributeSpec {
        let (name, kind) = text.split_once(':').expect("the table gives name:kind");
        let (kind, required) = match kind.strip_suffix('!') {
            Some(kind) => (kind, true),
            None => (kind, false),
        };
        let kind = match kind {
            "i" => Kind::Int,
            "f" => Kind::Float,
            "s" => Kind::String,
            "t" => Kind::Tensor,
            "g" => Kind::Graph,
            "is" => Kind::Ints,
            "fs" => Kind::Floats,
            "ss" => Kind::Strings,
            "sp" => Kind::Sparse,
            "ty" => Kind::Type,
            _ => unreachable!("the table's kinds are the ones above; a test parses all"),
        };
        AttributeSpec { name, kind, required }
    }
}

impl Draft<'_> {
    /// Adds a constant to the graph, named after the node and what it is.
    fn constant(&mut self, what: &str, tensor: Tensor) -> ValueId {
        let name = format!("{}.{what}", self.name);
        self.graph.add_value(crate::graph::Value::constant(&name, tensor))
    }

    /// Puts a constant at an input, extending the list as needed.
    fn set_input(&mut self, index: usize, what: &str, tensor: Tensor) {
        let value = self.constant(what, tensor);
        if self.inputs.len() <= index {
            self.inputs.resize(index + 1, None);
        }
        self.inputs[index] = Some(value);
    }

    /// The data of an input, when it is a constant.
    fn known(&self, index: usize) -> Option<&Tensor> {
        let id = self.inputs.get(index).copied().flatten()?;
        self.graph.value(id).constant.as_ref()
    }

    /// Moves an attribute of whole numbers to an input.
    fn ints_to_input(&mut self, attribute: &str, index: usize) {
        if let Some(kernels::Attribute::Ints(values)) = self.attributes.remove(attribute) {
            self.set_input(index, attribute, Tensor::new(vec![values.len()], values));
        }
    }

    fn refuse(&self, found: &str) -> ImportError {
        ImportError::new(Class::UnsupportedOp, format!("node {}", quote(self.name)), format!("{}: {found}", self.op))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_parse_and_name_each_operator_once() {
        let mut names = std::collections::BTreeSet::new();
        for op in FAMILIES.iter().flat_map(|family| family.iter()) {
            assert!(names.insert(op.name), "{} twice", op.name);
            let since: Vec<i64> = op.versions.iter().map(|text| Version::parse(text).since).collect();
            assert!(since.is_sorted_by(|a, b| a < b), "{}", op.name);
        }
        assert!(names.len() > 190, "{}", names.len());
    }

    #[test]
    fn an_operator_set_means_the_newest_version_before_it() {
        assert_eq!(find("Clip").unwrap().version(10).unwrap().inputs, Count { least: 1, most: 1 });
        assert_eq!(find("Clip").unwrap().version(28).unwrap().inputs, Count { least: 1, most: 3 });
        assert!(find("Gelu").unwrap().version(19).is_none());
    }
}
