//! Reductions, running sums, softmax and its kin, the largest few.

use super::facts::{Result, Site};
use super::{Rule, rule};
use crate::graph::{Dim, Type};

pub(super) static RULES: &[Rule] = &[
    rule("ArgMax", "num -> i64", arg),
    rule("ArgMin", "num -> i64", arg),
    rule("CumProd", "T index -> T; T: num", running),
    rule("CumSum", "T index -> T; T: num", running),
    rule("Hardmax", "T -> T; T: float", along),
    rule("LogSoftmax", "T -> T; T: float", along),
    rule("ReduceL1", "T i64? -> T; T: num", reduce),
    rule("ReduceL2", "T i64? -> T; T: num", reduce),
    rule("ReduceLogSum", "T i64? -> T; T: num", reduce),
    rule("ReduceLogSumExp", "T i64? -> T; T: num", reduce),
    rule("ReduceMax", "T i64? -> T; T: ordered", reduce),
    rule("ReduceMean", "T i64? -> T; T: num", reduce),
    rule("ReduceMin", "T i64? -> T; T: ordered", reduce),
    rule("ReduceProd", "T i64? -> T; T: num", reduce),
    rule("ReduceSum", "T i64? -> T; T: num", reduce),
    rule("ReduceSumSquare", "T i64? -> T; T: num", reduce),
    rule("Softmax", "T -> T; T: float", along),
    rule("TopK", "T i64 -> T i64; T: num", top_k),
];

fn along(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    if let Some(shape) = site.shape(0)
        && !shape.is_empty()
    {
        site.axis(-1, shape.len())?;
    }
    site.like(0)
}

fn running(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    site.flag("exclusive", false)?;
    site.flag("reverse", false)?;
    if let (Some(shape), Some(axis)) = (site.shape(0), site.int_input(1)) {
        site.resolve_axis("axis", axis, shape.len())?;
    }
    site.like(0)
}

fn arg(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    let keep = site.flag("keepdims", true)?;
    site.flag("select_last_index", false)?;
    let Some(shape) = site.shape(0) else { return Ok(vec![site.out(0, None)]) };
    let axis = site.axis(0, shape.len())?;
    if shape[axis] == Dim::Fixed(0) {
        return site.shape_error("nothing to choose from on an axis of 0 elements");
    }
    Ok(vec![site.out(0, Some(reduced(shape, &[axis], keep)))])
}

fn reduce(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    let keep = site.flag("keepdims", true)?;
    let none_is_noop = site.flag("noop_with_empty_axes", false)?;
    let Some(shape) = site.shape(0) else { return Ok(vec![site.out(0, None)]) };
    let axes = match site.input(1) {
        None => Some(Vec::new()),
        Some(_) => site.ints(1),
    };
    let out = match axes {
        Some(axes) if axes.is_empty() && none_is_noop => shape.to_vec(),
        Some(axes) if axes.is_empty() => reduced(shape, &(0..shape.len()).collect::<Vec<_>>(), keep),
        Some(axes) => reduced(shape, &site.resolve_axes(&axes, shape.len())?, keep),
        // Which axes, only running will tell; how many, the length of the list.
        None if keep => site.open_shape(0, shape.len()),
        None => match site.len_of(1).and_then(|count| shape.len().checked_sub(count)) {
            Some(rank) => site.open_shape(0, rank),
            None => return Ok(vec![site.out(0, None)]),
        },
    };
    Ok(vec![site.out(0, Some(out))])
}

fn reduced(shape: &[Dim], axes: &[usize], keep: bool) -> Vec<Dim> {
    let axis = |(axis, dim): (usize, &Dim)| match (axes.contains(&axis), keep) {
        (false, _) => Some(dim.clone()),
        (true, true) => Some(Dim::Fixed(1)),
        (true, false) => None,
    };
    shape.iter().enumerate().filter_map(axis).collect()
}

fn top_k(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    site.flag("largest", true)?;
    site.flag("sorted", true)?;
    let Some(shape) = site.shape(0) else { return Ok(vec![site.out(0, None), site.out(1, None)]) };
    let axis = site.axis(-1, shape.len())?;
    let count = match site.int_input(1) {
        Some(k) => {
            let have = shape[axis].fixed();
            if k < 0 || have.is_some_and(|have| k as u64 > have as u64) {
                return site.shape_error(format!("the largest {k} of {}", shape[axis]));
            }
            site.extent(k)?
        }
        None => match site.items(1).as_deref() {
            Some([super::Item::Int(expr)]) => expr.dim().unwrap_or_else(|| site.open(0, axis)),
            _ => site.open(0, axis),
        },
    };
    let out = super::shape::with(shape, axis, count);
    Ok(vec![site.out(0, Some(out.clone())), site.out(1, Some(out))])
}
