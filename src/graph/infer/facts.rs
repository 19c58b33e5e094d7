//! What a rule is asked with: the node, what is known of its inputs, and the words to ask and to refuse.

use super::propagate::Item;
use super::shape;
use super::{Bounds, Fault, InferError};
use crate::graph::{Dim, Graph, Node, Shape, Type, Value};
use kernels::{Attribute, Tensor};
use schema::DType;

/// What is known of an input.
#[derive(Clone, Debug)]
pub struct Known<'a> {
    pub ty: &'a Type,
    /// Its data, when it is a constant.
    pub constant: Option<&'a Tensor>,
    /// Its elements, when they are followed symbolically.
    pub items: Option<&'a [Item]>,
}

/// A node and its inputs; absent optional inputs are `None`.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    pub node: &'a Node,
    pub inputs: Vec<Option<Known<'a>>>,
}

impl<'a> Known<'a> {
    /// What a value of a graph tells.
    pub fn of(value: &'a Value) -> Self {
        Known { ty: &value.ty, constant: value.constant.as_ref(), items: None }
    }
}

impl<'a> Facts<'a> {
    /// The node with its inputs as the graph knows them.
    pub fn of(graph: &'a Graph, node: &'a Node) -> Self {
        let inputs = node.inputs.iter().map(|input| input.map(|id| Known::of(graph.value(id)))).collect();
        Facts { node, inputs }
    }
}

/// A rule's view: the facts, the element types its signature gave, the bounds.
pub(super) struct Site<'f, 'a> {
    pub facts: &'f Facts<'a>,
    dtypes: &'f [Option<DType>],
    pub bounds: &'f Bounds,
}

pub(super) type Result<T> = std::result::Result<T, InferError>;

impl<'f, 'a> Site<'f, 'a> {
    pub fn new(facts: &'f Facts<'a>, dtypes: &'f [Option<DType>], bounds: &'f Bounds) -> Self {
        Site { facts, dtypes, bounds }
    }

    pub fn node(&self) -> &'a Node {
        self.facts.node
    }

    /// A refusal.
    pub fn error(&self, fault: Fault, what: impl AsRef<str>) -> InferError {
        let node = self.node();
        InferError { node: node.name.as_str().into(), fault, what: format!("{}: {}", node.op, what.as_ref()) }
    }

    pub fn attribute_error<T>(&self, what: impl AsRef<str>) -> Result<T> {
        Err(self.error(Fault::BadAttribute, what))
    }

    pub fn shape_error<T>(&self, what: impl AsRef<str>) -> Result<T> {
        Err(self.error(Fault::BadShape, what))
    }

    pub fn mismatch<T>(&self, what: impl AsRef<str>) -> Result<T> {
        Err(self.error(Fault::ShapeMismatch, what))
    }

    // Inputs.

    pub fn input(&self, index: usize) -> Option<&Known<'a>> {
        self.facts.inputs.get(index)?.as_ref()
    }

    pub fn inputs(&self) -> usize {
        self.facts.inputs.len()
    }

    pub fn ty(&self, index: usize) -> Option<&'a Type> {
        Some(self.input(index)?.ty)
    }

    /// The extents of an input of known rank.
    pub fn shape(&self, index: usize) -> Option<&'a [Dim]> {
        self.ty(index)?.shape()
    }

    pub fn dtype(&self, index: usize) -> Option<DType> {
        self.ty(index)?.dtype()
    }

    /// The extents of an input, when its rank is known; refused when that is not `rank`.
    pub fn shape_of_rank(&self, index: usize, rank: usize) -> Result<Option<&'a [Dim]>> {
        match self.shape(index) {
            Some(shape) if shape.len() != rank => {
                self.shape_error(format!("input {index} has {} axes, it must have {rank}", shape.len()))
            }
            shape => Ok(shape),
        }
    }

    /// The elements of an input, constant or followed.
    pub fn items(&self, index: usize) -> Option<Vec<Item>> {
        let input = self.input(index)?;
        match (input.items, input.constant) {
            (Some(items), _) => Some(items.to_vec()),
            (None, Some(tensor)) => Item::of_tensor(tensor),
            (None, None) => None,
        }
    }

    /// The elements of an input as whole numbers, when all are known.
    pub fn ints(&self, index: usize) -> Option<Vec<i64>> {
        let input = self.input(index)?;
        match (input.items, input.constant) {
            (Some(items), _) => items.iter().map(Item::int).collect(),
            (None, Some(tensor)) => tensor.to_ints(),
            (None, None) => None,
        }
    }

    /// The one element of an input as a whole number, when it is known.
    pub fn int_input(&self, index: usize) -> Option<i64> {
        match self.ints(index)?[..] {
            [value] => Some(value),
            _ => None,
        }
    }

    /// The number of elements of an input of rank 1.
    pub fn len_of(&self, index: usize) -> Option<usize> {
        match self.shape(index)? {
            [len] => len.fixed(),
            _ => None,
        }
    }

    // Attributes. A wrong kind is refused like a wrong value.

    pub fn int(&self, name: &str, default: i64) -> Result<i64> {
        match self.node().attributes.get(name) {
            None => Ok(default),
            Some(Attribute::Int(value)) => Ok(*value),
            Some(_) => self.attribute_error(format!("{name} is no whole number")),
        }
    }

    /// A whole number that must be more than zero.
    pub fn positive(&self, name: &str, default: i64) -> Result<i64> {
        match self.int(name, default)? {
            value if value > 0 => Ok(value),
            value => self.attribute_error(format!("{name} is {value}, it must be more than 0")),
        }
    }

    pub fn flag(&self, name: &str, default: bool) -> Result<bool> {
        match self.int(name, i64::from(default))? {
            0 => Ok(false),
            1 => Ok(true),
            value => self.attribute_error(format!("{name} is {value}, it must be 0 or 1")),
        }
    }

    pub fn ints_attribute(&self, name: &str) -> Result<Option<&'a [i64]>> {
        match self.node().attributes.get(name) {
            None => Ok(None),
            Some(Attribute::Ints(values)) => Ok(Some(values)),
            Some(_) => self.attribute_error(format!("{name} is no list of whole numbers")),
        }
    }

    pub fn string(&self, name: &str, default: &'static str) -> Result<&'a str> {
        match self.node().attributes.get(name) {
            None => Ok(default),
            Some(Attribute::String(value)) => Ok(value),
            Some(_) => self.attribute_error(format!("{name} is no text")),
        }
    }

    /// A text that must be one of `choices`; the first is the default.
    pub fn choice(&self, name: &str, choices: &[&'static str]) -> Result<&'a str> {
        let found = self.string(name, choices[0])?;
        if choices.contains(&found) {
            return Ok(found);
        }
        self.attribute_error(format!("{name} is {found:?}, it must be one of {}", choices.join(", ")))
    }

    /// The element type an attribute gives by ONNX's number.
    pub fn dtype_attribute(&self, name: &str) -> Result<Option<DType>> {
        let Some(value) = self.node().attributes.get(name) else { return Ok(None) };
        let Attribute::Int(code) = value else { return self.attribute_error(format!("{name} is no whole number")) };
        match DType::of_code(*code) {
            Some(dtype) => Ok(Some(dtype)),
            None => Err(self.error(Fault::BadDtype, format!("{name} is {code}, element types are 1 to 26"))),
        }
    }

    /// An axis, counted from the end when negative, as an index.
    pub fn resolve_axis(&self, what: &str, axis: i64, rank: usize) -> Result<usize> {
        match shape::axis(axis, rank) {
            Some(axis) => Ok(axis),
            None => self.attribute_error(format!("{what} {axis} of {rank} axes")),
        }
    }

    /// The attribute `axis` of a tensor of that rank.
    pub fn axis(&self, default: i64, rank: usize) -> Result<usize> {
        self.resolve_axis("axis", self.int("axis", default)?, rank)
    }

    /// Axes, each once.
    pub fn resolve_axes(&self, axes: &[i64], rank: usize) -> Result<Vec<usize>> {
        let mut found = Vec::with_capacity(axes.len());
        for &axis in axes {
            let axis = self.resolve_axis("axis", axis, rank)?;
            if found.contains(&axis) {
                return self.attribute_error(format!("axis {axis} twice"));
            }
            found.push(axis);
        }
        Ok(found)
    }

    // Outputs.

    /// A tensor of that shape, with the element type the signature gives the output.
    pub fn out(&self, output: usize, shape: Option<Shape>) -> Type {
        self.tensor(self.dtypes.get(output).copied().flatten(), shape)
    }

    /// A tensor of that shape; unknown when the type is.
    pub fn tensor(&self, dtype: Option<DType>, shape: Option<Shape>) -> Type {
        match dtype {
            Some(dtype) => Type::Tensor { dtype, shape },
            None => Type::Unknown,
        }
    }

    /// One output like an input in shape.
    pub fn like(&self, index: usize) -> Result<Vec<Type>> {
        Ok(vec![self.out(0, self.shape(index).map(<[Dim]>::to_vec))])
    }

    /// An extent that only running will tell.
    pub fn open(&self, output: usize, axis: usize) -> Dim {
        let name = &self.node().name;
        Dim::named(&if output == 0 { format!("{name}.{axis}") } else { format!("{name}.{output}.{axis}") })
    }

    /// A shape of that rank of which nothing else is known.
    pub fn open_shape(&self, output: usize, rank: usize) -> Shape {
        (0..rank).map(|axis| self.open(output, axis)).collect()
    }

    /// An extent that was calculated.
    pub fn extent(&self, extent: i64) -> Result<Dim> {
        match u64::try_from(extent) {
            Err(_) => self.shape_error(format!("an axis of {extent} elements")),
            Ok(need) if need > self.bounds.dim => Err(self.limit("dim", self.bounds.dim, Some(need), "elements on an axis")),
            Ok(need) => Ok(Dim::Fixed(need as usize)),
        }
    }

    pub fn limit(&self, limit: &'static str, allowed: u64, need: Option<u64>, what: &str) -> InferError {
        self.error(Fault::Limit { limit, allowed, need }, what)
    }

    /// Refuses a type whose extents or elements are too many.
    pub fn within_bounds(&self, ty: &Type) -> Result<()> {
        let Some(shape) = ty.shape() else { return Ok(()) };
        let mut elements = Some(1u64);
        for extent in shape.iter().filter_map(Dim::fixed) {
            self.extent(i64::try_from(extent).unwrap_or(i64::MAX))?;
            elements = elements.and_then(|product| product.checked_mul(extent.max(1) as u64));
        }
        let allowed = self.bounds.elements;
        match elements {
            Some(elements) if elements <= allowed => Ok(()),
            need => Err(self.limit("elements", allowed, need, "elements of one value")),
        }
    }

    /// Two extents that must be equal: the one that is known.
    pub fn same(&self, a: &Dim, b: &Dim, what: &str) -> Result<Dim> {
        match (a, b) {
            (Dim::Fixed(x), Dim::Fixed(y)) if x != y => self.mismatch(format!("{what}: {x} against {y}")),
            (Dim::Named(_), Dim::Fixed(_)) => Ok(b.clone()),
            _ => Ok(a.clone()),
        }
    }

    /// The shape two tensors broadcast to.
    pub fn broadcast(&self, a: &[Dim], b: &[Dim]) -> Result<Shape> {
        let rank = a.len().max(b.len());
        let at = |shape: &[Dim], i: usize| (i + shape.len()).checked_sub(rank).map(|i| shape[i].clone());
        let mut out = Vec::with_capacity(rank);
        for i in 0..rank {
            out.push(match (at(a, i), at(b, i)) {
                (Some(a), Some(b)) => self.broadcast_dim(a, b, i)?,
                (Some(dim), None) | (None, Some(dim)) => dim,
                (None, None) => Dim::Fixed(1),
            });
        }
        Ok(out)
    }

    fn broadcast_dim(&self, a: Dim, b: Dim, axis: usize) -> Result<Dim> {
        Ok(match (a, b) {
            (a, b) if a == b => a,
            (Dim::Fixed(1), other) | (other, Dim::Fixed(1)) => other,
            (Dim::Fixed(x), Dim::Fixed(y)) => return self.mismatch(format!("{x} against {y} on axis {axis} do not broadcast")),
            (Dim::Fixed(x), Dim::Named(_)) | (Dim::Named(_), Dim::Fixed(x)) => Dim::Fixed(x),
            // Unless they are equal, one of the two is 1.
            (Dim::Named(a), Dim::Named(b)) if a.len() + b.len() < 100 => {
                let (a, b) = if a <= b { (a, b) } else { (b, a) };
                Dim::named(&format!("max({a}, {b})"))
            }
            _ => self.open(0, axis),
        })
    }
}
