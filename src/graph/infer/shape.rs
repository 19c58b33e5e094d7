//! Arithmetic on axes and extents.

use super::facts::{Result, Site};
use super::symbol::Expr;
use crate::graph::{Dim, Shape};

/// An axis, counted from the end when negative, as an index; `None` when it is outside.
pub(super) fn axis(axis: i64, rank: usize) -> Option<usize> {
    let rank = i64::try_from(rank).ok()?;
    let axis = if axis < 0 { axis.checked_add(rank)? } else { axis };
    (0..rank).contains(&axis).then_some(axis as usize)
}

/// The product of extents, as far as it can be written.
pub(super) fn product(dims: &[Dim]) -> Option<Expr> {
    dims.iter().try_fold(Expr::number(1), |product, dim| product.mul(&Expr::of(dim)))
}

/// The number of elements, when all extents are known.
pub(super) fn elements(dims: &[Dim]) -> Option<u64> {
    dims.iter().try_fold(1u64, |product, dim| product.checked_mul(dim.fixed()? as u64))
}

/// An expression as an extent of an output; an open one when it cannot be written.
pub(super) fn dim(site: &Site<'_, '_>, expr: Option<Expr>, axis: usize) -> Result<Dim> {
    match expr.as_ref().map(|expr| (expr.constant(), expr)) {
        Some((Some(value), _)) => site.extent(value),
        Some((None, expr)) => Ok(expr.dim().unwrap_or_else(|| site.open(0, axis))),
        None => Ok(site.open(0, axis)),
    }
}

/// `a + b`.
pub(super) fn add(site: &Site<'_, '_>, a: &Dim, b: i64, axis: usize) -> Result<Dim> {
    if b == 0 {
        return Ok(a.clone());
    }
    if let Dim::Fixed(extent) = a {
        let sum = i64::try_from(*extent).ok().and_then(|extent| extent.checked_add(b));
        return match sum {
            Some(sum) => site.extent(sum),
            None => Err(site.limit("dim", site.bounds.dim, None, "elements on an axis")),
        };
    }
    dim(site, Expr::of(a).add(&Expr::number(b)), axis)
}

/// `a * b`.
pub(super) fn mul(site: &Site<'_, '_>, a: &Dim, b: i64, axis: usize) -> Result<Dim> {
    if let Dim::Fixed(extent) = a {
        let product = i64::try_from(*extent).ok().and_then(|extent| extent.checked_mul(b));
        return match product {
            Some(product) => site.extent(product),
            None => Err(site.limit("dim", site.bounds.dim, None, "elements on an axis")),
        };
    }
    dim(site, Expr::of(a).mul(&Expr::number(b)), axis)
}

/// The product of extents as one extent.
pub(super) fn flatten(site: &Site<'_, '_>, dims: &[Dim], axis: usize) -> Result<Dim> {
    if let [one] = dims {
        return Ok(one.clone());
    }
    if dims.iter().all(|dim| dim.fixed().is_some()) && elements(dims).is_none_or(|product| product > i64::MAX as u64) {
        return Err(site.limit("dim", site.bounds.dim, elements(dims), "elements on an axis"));
    }
    dim(site, product(dims), axis)
}

/// A shape with one extent replaced.
pub(super) fn with(shape: &[Dim], axis: usize, dim: Dim) -> Shape {
    let mut shape = shape.to_vec();
    shape[axis] = dim;
    shape
}
