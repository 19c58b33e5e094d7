//! The part of `ai.onnx.ml` that works on tensors alone.

use super::facts::{Result, Site};
use super::shape;
use super::{Rule, rule};
use crate::graph::{Dim, Type};
use schema::DType;

pub(super) static RULES: &[Rule] = &[
    rule("ai.onnx.ml.ArrayFeatureExtractor", "T i64 -> T", extract),
    rule("ai.onnx.ml.Binarizer", "T -> T; T: num", same),
    rule("ai.onnx.ml.FeatureVectorizer", "num* -> f32", concatenate),
    rule("ai.onnx.ml.Imputer", "T -> T; T: num", same),
    rule("ai.onnx.ml.LinearRegressor", "num -> f32", regress),
    rule("ai.onnx.ml.Normalizer", "num -> f32", normalise),
    rule("ai.onnx.ml.Scaler", "num -> f32", same),
];

fn same(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    site.like(0)
}

fn normalise(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    site.choice("norm", &["MAX", "L1", "L2"])?;
    site.like(0)
}

fn extract(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    let (Some(shape), Some(picks)) = (site.shape(0), site.shape(1)) else { return Ok(vec![site.out(0, None)]) };
    let Some(last) = shape.len().checked_sub(1) else { return site.shape_error("a scalar") };
    let count = shape::flatten(site, picks, last)?;
    Ok(vec![site.out(0, Some(if last == 0 { vec![Dim::Fixed(1), count] } else { shape::with(shape, last, count) }))])
}

fn concatenate(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    let Some(widths) = site.ints_attribute("inputdimensions")? else { return Ok(vec![site.out(0, Some(site.open_shape(0, 2)))]) };
    let Some(width) = widths.iter().try_fold(0i64, |sum, &width| sum.checked_add(width)) else {
        return site.attribute_error("inputdimensions overflow");
    };
    let batch = match site.shape(0) {
        Some([batch, _]) => batch.clone(),
        Some(_) => Dim::Fixed(1),
        None => site.open(0, 0),
    };
    Ok(vec![site.tensor(Some(DType::F32), Some(vec![batch, site.extent(width)?]))])
}

fn regress(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    let targets = site.positive("targets", 1)?;
    let batch = match site.shape(0) {
        Some([batch, _]) => batch.clone(),
        Some(_) => Dim::Fixed(1),
        None => site.open(0, 0),
    };
    Ok(vec![site.tensor(Some(DType::F32), Some(vec![batch, site.extent(targets)?]))])
}
