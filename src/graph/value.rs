//! Values: what flows along the edges, and what is known of it before anything runs.

use kernels::{Layout, Tensor};
use schema::DType;
use std::fmt;
use std::sync::Arc;

/// One extent of a shape.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Dim {
    Fixed(usize),
    /// Open: a symbolic axis of the model (`seq`), or one that only running will tell (`NonZero_12.1`). Equal names are equal extents.
    Named(Arc<str>),
}

/// The extents, outermost first.
pub type Shape = Vec<Dim>;

/// What is known of a value.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Type {
    /// Not inferred yet.
    #[default]
    Unknown,
    /// `shape` is `None` when not even the rank is known.
    Tensor {
        dtype: DType,
        shape: Option<Shape>,
    },
    Sequence(Box<Type>),
    Optional(Box<Type>),
}

/// An edge of the graph.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Value {
    /// The model's name, or one made from it.
    pub name: String,
    pub ty: Type,
    pub layout: Layout,
    /// Known data: an initializer, or what folding computed. Always in [`Layout::Rows`].
    pub constant: Option<Tensor>,
}

impl Dim {
    /// The extent, if it is known.
    pub fn fixed(&self) -> Option<usize> {
        match self {
            Dim::Fixed(extent) => Some(*extent),
            Dim::Named(_) => None,
        }
    }

    /// An open extent of that name.
    pub fn named(name: &str) -> Self {
        Dim::Named(name.into())
    }
}

impl From<usize> for Dim {
    fn from(extent: usize) -> Self {
        Dim::Fixed(extent)
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dim::Fixed(extent) => extent.fmt(f),
            Dim::Named(name) => f.write_str(name),
        }
    }
}

impl Type {
    /// A tensor whose extents are all known.
    pub fn tensor(dtype: DType, shape: &[usize]) -> Self {
        Type::Tensor { dtype, shape: Some(shape.iter().map(|&extent| Dim::Fixed(extent)).collect()) }
    }

    /// The element type of a tensor.
    pub fn dtype(&self) -> Option<DType> {
        match self {
            Type::Tensor { dtype, .. } => Some(*dtype),
            _ => None,
        }
    }

    /// The extents of a tensor of known rank.
    pub fn shape(&self) -> Option<&[Dim]> {
        match self {
            Type::Tensor { shape, .. } => shape.as_deref(),
            _ => None,
        }
    }

    /// The extents of a tensor when all of them are known.
    pub fn fixed_shape(&self) -> Option<Vec<usize>> {
        self.shape()?.iter().map(Dim::fixed).collect()
    }
}

impl Value {
    /// A value of which only the name is known.
    pub fn named(name: &str) -> Self {
        Value { name: name.to_owned(), ..Value::default() }
    }

    /// A constant.
    pub fn constant(name: &str, tensor: Tensor) -> Self {
        let ty = Type::tensor(tensor.dtype(), tensor.shape());
        Value { name: name.to_owned(), ty, layout: Layout::Rows, constant: Some(tensor) }
    }

    /// The element type, if it is a tensor of known type.
    pub fn dtype(&self) -> Option<DType> {
        self.ty.dtype()
    }

    /// The extents when all of them are known.
    pub fn fixed_shape(&self) -> Option<Vec<usize>> {
        self.ty.fixed_shape()
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Unknown => f.write_str("?"),
            Type::Tensor { dtype, shape: None } => write!(f, "{dtype}[?]"),
            Type::Tensor { dtype, shape: Some(shape) } => {
                write!(f, "{dtype}[")?;
                for (i, dim) in shape.iter().enumerate() {
                    write!(f, "{}{dim}", if i > 0 { "," } else { "" })?;
                }
                f.write_str("]")
            }
            Type::Sequence(of) => write!(f, "seq({of})"),
            Type::Optional(of) => write!(f, "opt({of})"),
        }
    }
}
