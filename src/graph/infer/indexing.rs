//! Gathering and scattering.

use super::facts::{Result, Site};
use super::{Fault, Rule, rule};
use crate::graph::{Dim, Type};

pub(super) static RULES: &[Rule] = &[
    rule("Gather", "T index -> T", gather),
    rule("GatherElements", "T index -> T", gather_elements),
    rule("GatherND", "T i64 -> T", gather_nd),
    rule("ScatterElements", "T index T -> T", scatter_elements),
    rule("ScatterND", "T i64 T -> T", scatter_nd),
    rule("TensorScatter", "T T i64? -> T", tensor_scatter),
];

/// Refuses constant indices outside their axis.
fn within(site: &Site<'_, '_>, axis: &Dim) -> Result<()> {
    let (Some(extent), Some(indices)) = (axis.fixed(), site.ints(1)) else { return Ok(()) };
    match indices.iter().find(|&&index| super::shape::axis(index, extent).is_none()) {
        Some(index) => Err(site.error(Fault::IndexOutOfRange, format!("index {index} of {extent} elements"))),
        None => Ok(()),
    }
}

fn gather(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    let Some(shape) = site.shape(0) else { return Ok(vec![site.out(0, None)]) };
    let axis = site.axis(0, shape.len())?;
    within(site, &shape[axis])?;
    let Some(indices) = site.shape(1) else { return Ok(vec![site.out(0, None)]) };
    let out = shape[..axis].iter().chain(indices).chain(&shape[axis + 1..]).cloned().collect();
    Ok(vec![site.out(0, Some(out))])
}

fn gather_elements(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    if let Some(shape) = site.shape(0) {
        let axis = site.axis(0, shape.len())?;
        site.shape_of_rank(1, shape.len())?;
        within(site, &shape[axis])?;
    }
    Ok(vec![site.out(0, site.shape(1).map(<[Dim]>::to_vec))])
}

fn gather_nd(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    let batch = site.int("batch_dims", 0)?;
    let (Some(shape), Some(indices)) = (site.shape(0), site.shape(1)) else { return Ok(vec![site.out(0, None)]) };
    let (rank, of) = (shape.len(), indices.len());
    if batch < 0 || batch as u64 >= rank.min(of) as u64 {
        return site.attribute_error(format!("batch_dims is {batch} for {rank} and {of} axes"));
    }
    let batch = batch as usize;
    let Some(depth) = indices[of - 1].fixed() else { return Ok(vec![site.out(0, None)]) };
    if depth == 0 || depth > rank - batch {
        return site.shape_error(format!("indices of {depth} numbers for {} axes", rank - batch));
    }
    let mut out = Vec::with_capacity(rank + of);
    for axis in 0..batch {
        out.push(site.same(&shape[axis], &indices[axis], "batch axes")?);
    }
    out.extend_from_slice(&indices[batch..of - 1]);
    out.extend_from_slice(&shape[batch + depth..]);
    Ok(vec![site.out(0, Some(out))])
}

const REDUCTIONS: &[&str] = &["none", "add", "mul", "max", "min"];

fn scatter_elements(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    site.choice("reduction", REDUCTIONS)?;
    if let Some(shape) = site.shape(0) {
        let axis = site.axis(0, shape.len())?;
        within(site, &shape[axis])?;
        if let (Some(indices), Some(updates)) = (site.shape_of_rank(1, shape.len())?, site.shape_of_rank(2, shape.len())?) {
            for (a, b) in indices.iter().zip(updates) {
                site.same(a, b, "indices against updates")?;
            }
        }
    }
    site.like(0)
}

fn scatter_nd(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    site.choice("reduction", REDUCTIONS)?;
    if let (Some(shape), Some(indices)) = (site.shape(0), site.shape(1)) {
        let Some(last) = indices.last() else { return site.shape_error("indices without axes") };
        if let Some(depth) = last.fixed() {
            if depth > shape.len() {
                return site.shape_error(format!("indices of {depth} numbers for {} axes", shape.len()));
            }
            if let Some(updates) = site.shape(2) {
                let want: Vec<&Dim> = indices[..indices.len() - 1].iter().chain(&shape[depth..]).collect();
                if want.len() != updates.len() {
                    return site.mismatch(format!("updates have {} axes, {} are needed", updates.len(), want.len()));
                }
                for (a, b) in want.into_iter().zip(updates) {
                    site.same(a, b, "updates")?;
                }
            }
        }
    }
    site.like(0)
}

fn tensor_scatter(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    site.choice("mode", &["linear", "circular"])?;
    if let Some(shape) = site.shape(0) {
        site.axis(-2, shape.len())?;
        site.shape_of_rank(1, shape.len())?;
    }
    site.like(0)
}
