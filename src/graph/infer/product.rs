//! Products of matrices, and of any number of tensors.

use super::facts::{Result, Site};
use super::{Rule, rule};
use crate::graph::{Dim, Shape, Type};
use std::collections::BTreeMap;

pub(super) static RULES: &[Rule] = &[
    rule("Det", "T -> T; T: float", determinant),
    rule("Einsum", "T* -> T; T: num", einsum),
    rule("Gemm", "T T T? -> T; T: num", gemm),
    rule("MatMul", "T T -> T; T: num", matmul),
    rule("MatMulInteger", "byte byte byte? byte? -> i32", matmul),
];

fn matmul(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    let (Some(a), Some(b)) = (site.shape(0), site.shape(1)) else { return Ok(vec![site.out(0, None)]) };
    Ok(vec![site.out(0, Some(product(site, a, b)?))])
}

/// NumPy's matmul: vectors are a row on the left, a column on the right.
pub(super) fn product(site: &Site<'_, '_>, a: &[Dim], b: &[Dim]) -> Result<Shape> {
    let (Some(k), false) = (a.last(), b.is_empty()) else { return site.shape_error("a scalar in a product of matrices") };
    let inner = if b.len() == 1 { &b[0] } else { &b[b.len() - 2] };
    site.same(k, inner, "inner axes")?;
    let (rows, columns) = (a.len().checked_sub(2), b.len().checked_sub(2));
    let mut out = site.broadcast(&a[..rows.unwrap_or(0)], &b[..columns.unwrap_or(0)])?;
    out.extend(rows.map(|at| a[at].clone()));
    out.extend(columns.map(|at| b[at + 1].clone()));
    Ok(out)
}

fn gemm(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    let (across_a, across_b) = (site.flag("transA", false)?, site.flag("transB", false)?);
    let (Some(a), Some(b)) = (site.shape_of_rank(0, 2)?, site.shape_of_rank(1, 2)?) else {
        return Ok(vec![site.out(0, Some(site.open_shape(0, 2)))]);
    };
    let (m, k) = if across_a { (&a[1], &a[0]) } else { (&a[0], &a[1]) };
    let (inner, n) = if across_b { (&b[1], &b[0]) } else { (&b[0], &b[1]) };
    site.same(k, inner, "inner axes")?;
    let out = vec![m.clone(), n.clone()];
    if let Some(c) = site.shape(2) {
        let wide = site.broadcast(&out, c)?;
        let grown = |(wide, own): (&Dim, &Dim)| matches!((wide.fixed(), own.fixed()), (Some(a), Some(b)) if a != b);
        if wide.len() > 2 || wide.iter().zip(&out).any(grown) {
            return site.mismatch("C has more elements than the product");
        }
    }
    Ok(vec![site.out(0, Some(out))])
}

fn determinant(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    let Some(shape) = site.shape(0) else { return Ok(vec![site.out(0, None)]) };
    let Some(rest) = shape.len().checked_sub(2) else { return site.shape_error("fewer than 2 axes") };
    site.same(&shape[rest], &shape[rest + 1], "rows against columns")?;
    Ok(vec![site.out(0, Some(shape[..rest].to_vec()))])
}

fn einsum(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    let text: String = site.string("equation", "")?.chars().filter(|c| !c.is_whitespace()).collect();
    let garbage = || site.attribute_error(format!("equation {text:?} makes no sense"));
    let (left, right) = match text.split_once("->") {
        Some((left, right)) => (left, Some(right)),
        None => (text.as_str(), None),
    };
    let terms: Vec<&str> = left.split(',').collect();
    if terms.len() != site.inputs() || right.is_some_and(|right| labels(right).is_none()) {
        return garbage();
    }
    let mut extents: BTreeMap<char, (Dim, usize)> = BTreeMap::new();
    let mut ellipsis: Option<Shape> = None;
    for (index, term) in terms.iter().enumerate() {
        let Some((before, after)) = labels(term) else { return garbage() };
        let Some(shape) = site.shape(index) else { return Ok(vec![site.out(0, None)]) };
        let named = before.len() + after.as_ref().map_or(0, Vec::len);
        let Some(hidden) = shape.len().checked_sub(named).filter(|&hidden| hidden == 0 || after.is_some()) else {
            return site.shape_error(format!("input {index} has {} axes, {term:?} names {named}", shape.len()));
        };
        if after.is_some() {
            let part = &shape[before.len()..before.len() + hidden];
            ellipsis = Some(site.broadcast(ellipsis.as_deref().unwrap_or_default(), part)?);
        }
        let tail = after.unwrap_or_default();
        let axes = before.iter().zip(shape).chain(tail.iter().zip(&shape[before.len() + hidden..]));
        for (&label, dim) in axes {
            let (old, count) = extents.get(&label).cloned().unwrap_or_else(|| (dim.clone(), 0));
            // An axis of one element broadcasts.
            let one = |dim: &Dim| *dim == Dim::Fixed(1);
            let merged = if one(&old) {
                dim.clone()
            } else if one(dim) {
                old
            } else {
                site.same(&old, dim, &format!("label {label}"))?
            };
            extents.insert(label, (merged, count + 1));
        }
    }
    let hidden = ellipsis.unwrap_or_default();
    let out = match right {
        Some(right) => {
            let Some((before, after)) = labels(right) else { return garbage() };
            if after.is_none() && !hidden.is_empty() {
                return garbage();
            }
            let mut out = Vec::new();
            let named = |labels: &[char]| {
                labels.iter().map(|label| extents.get(label).map(|(dim, _)| dim.clone())).collect::<Option<Vec<_>>>()
            };
            let (Some(head), Some(tail)) = (named(&before), named(after.as_deref().unwrap_or_default())) else {
                return garbage();
            };
            out.extend(head);
            out.extend(hidden);
            out.extend(tail);
            out
        }
        // Without an arrow: what the ellipsis hides, then the labels that come once, in their order.
        None => hidden.into_iter().chain(extents.values().filter(|(_, count)| *count == 1).map(|(dim, _)| dim.clone())).collect(),
    };
    Ok(vec![site.out(0, Some(out))])
}

/// The labels before and, when there is an ellipsis, after it.
fn labels(term: &str) -> Option<(Vec<char>, Option<Vec<char>>)> {
    let letters = |text: &str| text.chars().map(|c| c.is_ascii_alphabetic().then_some(c)).collect::<Option<Vec<char>>>();
    match term.split_once("...") {
        Some((before, after)) => Some((letters(before)?, Some(letters(after)?))),
        None => Some((letters(term)?, None)),
    }
}
