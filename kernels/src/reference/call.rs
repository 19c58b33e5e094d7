//! What operators ask of a call: attributes with defaults, axes in range, and errors that name the operator.

use super::{Call, EvaluateError};
use crate::{Attribute, Datum, Tensor};
use schema::DType;
use std::fmt::Display;

impl<'a> Call<'a> {
    /// An error about shapes.
    pub(crate) fn shape_error(&self, what: impl Display) -> EvaluateError {
        EvaluateError::Shape(format!("{}: {what}", self.op))
    }

    /// An error about an attribute.
    pub(crate) fn attribute_error(&self, what: impl Display) -> EvaluateError {
        EvaluateError::Attribute(format!("{}: {what}", self.op))
    }

    /// An error about an index.
    pub(crate) fn index_error(&self, what: impl Display) -> EvaluateError {
        EvaluateError::Index(format!("{}: {what}", self.op))
    }

    /// An error about an element type that the operator does not take.
    pub(crate) fn dtype_error(&self, dtype: DType) -> EvaluateError {
        EvaluateError::Dtype(format!("{}: not defined for {dtype}", self.op))
    }

    /// An operator or a form of it that we do not compute.
    pub(crate) fn unsupported(&self, what: impl Display) -> EvaluateError {
        EvaluateError::Unsupported(format!("{} ({what})", self.op))
    }

    /// A whole-number attribute.
    pub(crate) fn int(&self, name: &str, default: i64) -> i64 {
        self.attributes.int(name).unwrap_or(default)
    }

    /// A yes-or-no attribute.
    pub(crate) fn flag(&self, name: &str, default: bool) -> bool {
        self.attributes.int(name).map_or(default, |value| value != 0)
    }

    /// A float attribute.
    pub(crate) fn float(&self, name: &str, default: f32) -> f32 {
        self.attributes.float(name).unwrap_or(default)
    }

    /// A text attribute.
    pub(crate) fn text(&self, name: &str, default: &'a str) -> &'a str {
        self.attributes.string(name).unwrap_or(default)
    }

    /// A list of whole numbers.
    pub(crate) fn ints(&self, name: &str) -> Option<&'a [i64]> {
        match self.attributes.get(name)? {
            Attribute::Ints(values) => Some(values),
            _ => None,
        }
    }

    /// A list of texts.
    pub(crate) fn texts(&self, name: &str) -> Option<&'a [String]> {
        match self.attributes.get(name)? {
            Attribute::Strings(values) => Some(values),
            _ => None,
        }
    }

    /// A list of floats.
    pub(crate) fn floats(&self, name: &str) -> Option<&'a [f32]> {
        match self.attributes.get(name)? {
            Attribute::Floats(values) => Some(values),
            _ => None,
        }
    }

    /// The axis attribute, counted from the front.
    pub(crate) fn axis(&self, name: &str, default: i64, rank: usize) -> Result<usize, EvaluateError> {
        self.place(self.int(name, default), rank)
    }

    /// An axis that may be counted from the back.
    pub(crate) fn place(&self, axis: i64, rank: usize) -> Result<usize, EvaluateError> {
        let rank_signed = rank as i64;
        let from_front = if axis < 0 { axis.checked_add(rank_signed) } else { Some(axis) };
        from_front
            .filter(|axis| (0..rank_signed).contains(axis))
            .map(|axis| axis as usize)
            .ok_or_else(|| self.shape_error(format_args!("axis {axis} of a tensor of rank {rank}")))
    }

    /// Several axes; none may be named twice.
    pub(crate) fn places(&self, axes: &[i64], rank: usize) -> Result<Vec<usize>, EvaluateError> {
        let mut seen = vec![false; rank];
        let mut places = Vec::with_capacity(axes.len().min(rank));
        for &axis in axes {
            let place = self.place(axis, rank)?;
            if std::mem::replace(&mut seen[place], true) {
                return Err(self.shape_error(format_args!("axis {axis} is named twice")));
            }
            places.push(place);
        }
        Ok(places)
    }

    /// The whole numbers of an integer input.
    pub(crate) fn whole(&self, index: usize) -> Result<Vec<i64>, EvaluateError> {
        let tensor = self.tensor(index)?;
        tensor.to_ints().ok_or_else(|| self.dtype_error(tensor.dtype()))
    }

    /// The whole numbers of an optional integer input.
    pub(crate) fn optional_whole(&self, index: usize) -> Result<Option<Vec<i64>>, EvaluateError> {
        match self.optional(index)? {
            None => Ok(None),
            Some(tensor) => tensor.to_ints().map(Some).ok_or_else(|| self.dtype_error(tensor.dtype())),
        }
    }

    /// The first whole number of an integer input.
    pub(crate) fn one_whole(&self, index: usize) -> Result<i64, EvaluateError> {
        self.whole(index)?.first().copied().ok_or_else(|| self.shape_error(format_args!("input {index} is empty")))
    }

    /// Extents given as data: none may be negative.
    pub(crate) fn extents(&self, values: &[i64]) -> Result<Vec<usize>, EvaluateError> {
        let extent = |&value| usize::try_from(value).map_err(|_| self.shape_error(format_args!("extent {value}")));
        values.iter().map(extent).collect()
    }

    /// The input of any kind.
    pub(crate) fn datum(&self, index: usize) -> Result<&'a Datum, EvaluateError> {
        self.inputs.get(index).copied().flatten().ok_or_else(|| self.shape_error(format_args!("input {index} is missing")))
    }

    /// Whether the i-th output is asked for.
    pub(crate) fn wants(&self, index: usize) -> bool {
        index < self.outputs
    }

    /// Refuses inputs of fewer axes.
    pub(crate) fn at_least(&self, tensor: &Tensor, rank: usize) -> Result<(), EvaluateError> {
        match tensor.shape().len() >= rank {
            true => Ok(()),
            false => Err(self.shape_error(format_args!("shape {:?} has fewer than {rank} axes", tensor.shape()))),
        }
    }

    /// Refuses two shapes that must be one.
    pub(crate) fn same_shape(&self, what: &str, found: &[usize], need: &[usize]) -> Result<(), EvaluateError> {
        match found == need {
            true => Ok(()),
            false => Err(self.shape_error(format_args!("{what} has shape {found:?}, needs {need:?}"))),
        }
    }
}

/// One output.
pub(crate) fn one(tensor: Tensor) -> Result<Vec<Datum>, EvaluateError> {
    Ok(vec![Datum::Tensor(tensor)])
}
