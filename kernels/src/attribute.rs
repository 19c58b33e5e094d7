//! Attributes of nodes: small constants that say how, not what.

use crate::Tensor;
use std::collections::BTreeMap;

/// The value of an attribute. Graphs are not attributes: a node keeps its bodies apart.
#[derive(Clone, Debug, PartialEq)]
pub enum Attribute {
    Int(i64),
    Float(f32),
    String(String),
    Ints(Vec<i64>),
    Floats(Vec<f32>),
    Strings(Vec<String>),
    Tensor(Tensor),
}

/// Attributes by name, in the order of the names.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attributes(BTreeMap<String, Attribute>);

impl Attributes {
    /// Adds or replaces one.
    pub fn set(&mut self, name: &str, value: Attribute) {
        self.0.insert(name.to_owned(), value);
    }

    /// Adds one and returns all, for building in one expression.
    #[must_use]
    pub fn with(mut self, name: &str, value: Attribute) -> Self {
        self.set(name, value);
        self
    }

    /// Takes one out.
    pub fn remove(&mut self, name: &str) -> Option<Attribute> {
        self.0.remove(name)
    }

    /// The attribute of that name.
    pub fn get(&self, name: &str) -> Option<&Attribute> {
        self.0.get(name)
    }

    /// All, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Attribute)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A whole number, or `None` when absent or of another kind.
    pub fn int(&self, name: &str) -> Option<i64> {
        match self.get(name)? {
            Attribute::Int(value) => Some(*value),
            _ => None,
        }
    }

    /// A float, or `None` when absent or of another kind.
    pub fn float(&self, name: &str) -> Option<f32> {
        match self.get(name)? {
            Attribute::Float(value) => Some(*value),
            _ => None,
        }
    }

    /// A text, or `None` when absent or of another kind.
    pub fn string(&self, name: &str) -> Option<&str> {
        match self.get(name)? {
            Attribute::String(value) => Some(value),
            _ => None,
        }
    }

    /// Whole numbers, or `None` when absent or of another kind.
    pub fn ints(&self, name: &str) -> Option<&[i64]> {
        match self.get(name)? {
            Attribute::Ints(values) => Some(values),
            _ => None,
        }
    }

    /// Floats, or `None` when absent or of another kind.
    pub fn floats(&self, name: &str) -> Option<&[f32]> {
        match self.get(name)? {
            Attribute::Floats(values) => Some(values),
            _ => None,
        }
    }

    /// A tensor, or `None` when absent or of another kind.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        match self.get(name)? {
            Attribute::Tensor(tensor) => Some(tensor),
            _ => None,
        }
    }
}
