//! `TypeProto` → [`Type`], and whether what a model declares agrees with what is known.

use super::error::{Class, Excess, ImportError};
use super::limits::Limits;
use super::proto::{DimProto, TypeProto, ValueInfoProto};
use crate::graph::{Dim, Type};
use schema::DType;

/// The declared type of a value; [`Type::Unknown`] when none is declared.
pub(super) fn of(value: &ValueInfoProto<'_>, limits: &Limits) -> Result<Type, ImportError> {
    match &value.ty {
        Some(ty) => convert(ty, value.name, limits),
        None => Ok(Type::Unknown),
    }
}

/// A type of ours. Axes without a name are called after `value` and their number. Nesting was bounded when it was decoded.
pub(super) fn convert(proto: &TypeProto<'_>, value: &str, limits: &Limits) -> Result<Type, ImportError> {
    Ok(match proto {
        TypeProto::Unknown => Type::Unknown,
        TypeProto::Other(what) => return Err(ImportError::new(Class::BadDtype, "", format!("{what} as a value"))),
        TypeProto::Sequence(element) => Type::Sequence(Box::new(convert(element, value, limits)?)),
        TypeProto::Optional(element) => Type::Optional(Box::new(convert(element, value, limits)?)),
        TypeProto::Tensor { code, shape } => {
            let unknown = || ImportError::new(Class::BadDtype, "", format!("element type {code}, known are 1 to 26"));
            let dtype = DType::of_code(*code).ok_or_else(unknown)?;
            let shape = match shape {
                Some(dims) => Some(extents(dims, value, limits)?),
                None => None,
            };
            Type::Tensor { dtype, shape }
        }
    })
}

fn extents(dims: &[DimProto<'_>], value: &str, limits: &Limits) -> Result<Vec<Dim>, ImportError> {
    let fixed: Vec<i64> = dims.iter().filter_map(|dim| if let DimProto::Value(n) = dim { Some(*n) } else { None }).collect();
    super::tensor::shape(&fixed, limits)?;
    let allowed = limits.rank;
    if dims.len() as u64 > allowed {
        return Err(ImportError::limit("", "axes", Excess { limit: "rank", allowed, need: Some(dims.len() as u64) }));
    }
    let dim = |(axis, dim): (usize, &DimProto<'_>)| match dim {
        // `shape` above refused negative ones.
        DimProto::Value(extent) => Dim::Fixed(usize::try_from(*extent).unwrap_or_default()),
        DimProto::Param(name) => Dim::named(name),
        DimProto::Unknown => Dim::named(&format!("{value}.{axis}")),
    };
    Ok(dims.iter().enumerate().map(dim).collect())
}

/// Whether a declared type can be that of a value. Open extents agree with everything.
///
/// # Errors
/// [`Class::BadDtype`], [`Class::ShapeMismatch`].
pub(super) fn agree(declared: &Type, known: &Type) -> Result<(), ImportError> {
    match (declared, known) {
        (Type::Unknown, _) | (_, Type::Unknown) => Ok(()),
        (Type::Sequence(a), Type::Sequence(b)) | (Type::Optional(a), Type::Optional(b)) => agree(a, b),
        (Type::Tensor { dtype: a, shape: declared }, Type::Tensor { dtype: b, shape: known }) => {
            if a != b {
                return Err(ImportError::new(Class::BadDtype, "", format!("declared {a}, it is {b}")));
            }
            let (Some(declared), Some(known)) = (declared, known) else { return Ok(()) };
            let differ = |(a, b): (&Dim, &Dim)| matches!((a.fixed(), b.fixed()), (Some(a), Some(b)) if a != b);
            if declared.len() == known.len() && !declared.iter().zip(known).any(differ) {
                return Ok(());
            }
            let of = |shape: &Vec<Dim>| Type::Tensor { dtype: *a, shape: Some(shape.clone()) };
            let found = format!("declared {}, it is {}", of(declared), of(known));
            Err(ImportError::new(Class::ShapeMismatch, "", found))
        }
        _ => Err(ImportError::new(Class::BadDtype, "", format!("declared {declared}, it is {known}"))),
    }
}
