//! Normalisation.

use super::facts::{Result, Site};
use super::{Fault, Rule, rule};
use crate::graph::{Dim, Type};
use schema::DType;

pub(super) static RULES: &[Rule] = &[
    rule("BatchNormalization", "T S S U U -> T U U; T: float, S: float, U: float", batch_norm),
    rule("GroupNormalization", "T T T -> T; T: float", group_norm),
    rule("InstanceNormalization", "T T T -> T; T: float", per_channel),
    rule("LRN", "T -> T; T: float", local_response),
    rule("LayerNormalization", "T T T? -> T any any; T: float", layer_norm),
    rule("LpNormalization", "T -> T; T: float", lp_norm),
    rule("MeanVarianceNormalization", "T -> T; T: float", mean_variance),
    rule("RMSNormalization", "T V -> V; T: float, V: float", rms_norm),
];

/// The inputs from `first` on have one element per channel.
fn channels(site: &Site<'_, '_>, first: usize, last: usize) -> Result<()> {
    let Some(shape) = site.shape(0) else { return Ok(()) };
    if shape.len() < 2 {
        return site.shape_error(format!("an input of {} axes, 2 are the least", shape.len()));
    }
    for index in first..=last {
        if let Some(each) = site.shape_of_rank(index, 1)? {
            site.same(&shape[1], &each[0], &format!("channels against input {index}"))?;
        }
    }
    Ok(())
}

fn batch_norm(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    site.flag("training_mode", false)?;
    channels(site, 1, 4)?;
    let mut types = site.like(0)?;
    types.extend([1, 2].map(|output| site.out(output, site.shape(3).map(<[Dim]>::to_vec))));
    Ok(types)
}

fn per_channel(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    channels(site, 1, 2)?;
    site.like(0)
}

fn group_norm(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    let groups = site.positive("num_groups", 0)?;
    if let Some(channels) = site.shape(0).and_then(|shape| shape.get(1)?.fixed())
        && !(channels as u64).is_multiple_of(groups as u64)
    {
        return site.attribute_error(format!("num_groups {groups} of {channels} channels"));
    }
    // An old model's scale per group is settled after inference.
    if site.node().attributes.get("per_group").is_none() {
        channels(site, 1, 2)?;
    }
    site.like(0)
}

fn local_response(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    site.positive("size", 0)?;
    site.like(0)
}

fn lp_norm(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    let p = site.int("p", 2)?;
    if p != 1 && p != 2 {
        return site.attribute_error(format!("p is {p}, it must be 1 or 2"));
    }
    if let Some(shape) = site.shape(0) {
        site.axis(-1, shape.len())?;
    }
    site.like(0)
}

fn mean_variance(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    let axes = site.ints_attribute("axes")?;
    if let Some(shape) = site.shape(0) {
        site.resolve_axes(axes.unwrap_or(&[0, 2, 3]), shape.len())?;
    }
    site.like(0)
}

fn layer_norm(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    let stash = stash_type(site)?;
    let Some(shape) = site.shape(0) else {
        let statistic = site.tensor(Some(stash), None);
        return Ok(vec![site.out(0, None), statistic.clone(), statistic]);
    };
    let axis = site.axis(-1, shape.len())?;
    for index in 1..site.inputs() {
        if let Some(scale) = site.shape(index) {
            site.broadcast(&shape[axis..], scale)?;
        }
    }
    let statistic = shape[..axis].iter().cloned().chain(shape[axis..].iter().map(|_| Dim::Fixed(1))).collect();
    let statistic = site.tensor(Some(stash), Some(statistic));
    Ok(vec![site.out(0, Some(shape.to_vec())), statistic.clone(), statistic])
}

/// The type that statistics are calculated in.
fn stash_type(site: &Site<'_, '_>) -> Result<DType> {
    let stash = site.dtype_attribute("stash_type")?.unwrap_or(DType::F32);
    if stash.is_float() {
        Ok(stash)
    } else {
        Err(site.error(Fault::BadDtype, format!("stash_type is {stash}, it must be a float")))
    }
}

fn rms_norm(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    stash_type(site)?;
    if let Some(shape) = site.shape(0) {
        let axis = site.axis(-1, shape.len())?;
        if let Some(scale) = site.shape(1) {
            site.broadcast(&shape[axis..], scale)?;
        }
    }
    site.like(0)
}
