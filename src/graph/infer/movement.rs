//! Shapes and places: reshaping, cutting, joining, padding, making.

use super::facts::{Result, Site};
use super::shape::{self, elements, with};
use super::symbol::Expr;
use super::{Fault, Item, Rule, rule};
use crate::graph::{Dim, Shape, Type};
use schema::DType;
use std::ops::Range;

pub(super) static RULES: &[Rule] = &[
    rule("CenterCropPad", "T index -> T", center_crop_pad),
    rule("Compress", "T bool -> T", compress),
    rule("Concat", "T* -> T", concat),
    rule("ConstantOfShape", "i64 -> any", constant_of_shape),
    rule("DepthToSpace", "T -> T", depth_to_space),
    rule("Expand", "T i64 -> T", expand),
    rule("EyeLike", "any -> any", eye_like),
    rule("Flatten", "T -> T", flatten),
    rule("NonZero", "any -> i64", non_zero),
    rule("OneHot", "num num T -> T", one_hot),
    rule("Pad", "T i64 T? index? -> T", pad),
    rule("Range", "T T T -> T; T: num", range),
    rule("Reshape", "T i64 -> T", reshape),
    rule("ReverseSequence", "T i64 -> T", reverse_sequence),
    rule("Shape", "any -> i64", shape_of),
    rule("Size", "any -> i64", size),
    rule("Slice", "T I I I? I? -> T; I: index", slice),
    rule("SpaceToDepth", "T -> T", space_to_depth),
    rule("Split", "T i64? -> T*", split),
    rule("Squeeze", "T i64? -> T", squeeze),
    rule("Tile", "T i64 -> T", tile),
    rule("Transpose", "T -> T", transpose),
    rule("Trilu", "T i64? -> T", trilu),
    rule("Unique", "T -> T i64 i64 i64", unique),
    rule("Unsqueeze", "T i64 -> T", unsqueeze),
];

/// Which axes a `Shape` tells. Both ends are clamped, as the standard says.
pub(super) fn shape_range(site: &Site<'_, '_>, rank: usize) -> Option<Range<usize>> {
    let rank = rank as i64;
    let clamp = |axis: i64| if axis < 0 { axis.saturating_add(rank).max(0) } else { axis.min(rank) };
    let start = clamp(site.int("start", 0).ok()?);
    let end = clamp(site.int("end", rank).ok()?);
    Some(start as usize..end.max(start) as usize)
}

fn shape_of(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    site.int("start", 0)?;
    site.int("end", 0)?;
    let len = match site.shape(0).and_then(|shape| shape_range(site, shape.len())) {
        Some(range) => Dim::Fixed(range.len()),
        None => site.open(0, 0),
    };
    Ok(vec![site.out(0, Some(vec![len]))])
}

fn size(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    Ok(vec![site.out(0, Some(vec![]))])
}

/// A shape that an input gives: its elements as extents. `None` when not even their number is known.
fn given_shape(site: &Site<'_, '_>, index: usize) -> Result<Option<Shape>> {
    if let Some(items) = site.items(index) {
        let mut shape = Vec::with_capacity(items.len());
        for (axis, item) in items.iter().enumerate() {
            shape.push(match item {
                Item::Int(expr) => shape::dim(site, Some(expr.clone()), axis)?,
                _ => site.open(0, axis),
            });
        }
        return Ok(Some(shape));
    }
    Ok(site.len_of(index).map(|rank| site.open_shape(0, rank)))
}

fn constant_of_shape(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    let value = site.node().attributes.tensor("value");
    if value.is_some_and(|value| value.len() != 1) {
        return site.attribute_error("value must have one element");
    }
    let dtype = value.map_or(DType::F32, |value| value.dtype());
    Ok(vec![site.tensor(Some(dtype), given_shape(site, 0)?)])
}

fn expand(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    let (Some(from), Some(to)) = (site.shape(0), given_shape(site, 1)?) else { return Ok(vec![site.out(0, None)]) };
    Ok(vec![site.out(0, Some(site.broadcast(from, &to)?))])
}

fn reshape(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    let zero_is_zero = site.flag("allowzero", false)?;
    let from = site.shape(0);
    let Some(items) = site.items(1) else {
        return Ok(vec![site.out(0, site.len_of(1).map(|rank| site.open_shape(0, rank)))]);
    };
    let (mut shape, mut rest) = (Vec::with_capacity(items.len()), None);
    for (axis, item) in items.iter().enumerate() {
        let extent = item.int();
        shape.push(match (item, extent) {
            (_, Some(-1)) if rest.replace(axis).is_some() => return site.shape_error("more than one -1"),
            (_, Some(-1)) => Dim::Fixed(1),
            (_, Some(0)) if !zero_is_zero => match from.map(|from| from.get(axis)) {
                Some(Some(dim)) => dim.clone(),
                Some(None) => return site.shape_error(format!("0 takes over axis {axis}, which the input does not have")),
                None => site.open(0, axis),
            },
            (_, Some(extent)) => site.extent(extent)?,
            (Item::Int(expr), None) => expr.dim().unwrap_or_else(|| site.open(0, axis)),
            _ => site.open(0, axis),
        });
    }
    if zero_is_zero && rest.is_some() && items.iter().any(|item| item.int() == Some(0)) {
        return site.attribute_error("allowzero with both 0 and -1");
    }
    if let Some(axis) = rest {
        shape[axis] = remaining(site, from, &shape, axis)?;
    } else if let (Some(from), Some(to)) = (from.and_then(elements), elements(&shape))
        && from != to
    {
        return site.mismatch(format!("{from} elements into {to}"));
    }
    Ok(vec![site.out(0, Some(shape))])
}

/// The extent that -1 stands for; `shape` has a 1 there.
fn remaining(site: &Site<'_, '_>, from: Option<&[Dim]>, shape: &[Dim], axis: usize) -> Result<Dim> {
    let Some(from) = from else { return Ok(site.open(0, axis)) };
    if let (Some(have), Some(others)) = (elements(from), elements(shape)) {
        if others == 0 {
            return if have == 0 { Ok(Dim::Fixed(0)) } else { site.mismatch(format!("{have} elements into 0")) };
        }
        if have % others != 0 {
            return site.mismatch(format!("{have} elements into rows of {others}"));
        }
        return site.extent(i64::try_from(have / others).unwrap_or(i64::MAX));
    }
    // Equal extents cancel even where the product cannot be written.
    let (mut from, mut to) = (from.to_vec(), shape.to_vec());
    to.retain(|dim| match from.iter().position(|other| other == dim) {
        Some(at) => {
            from.remove(at);
            false
        }
        None => true,
    });
    let quotient = shape::product(&from).zip(shape::product(&to)).and_then(|(have, others)| have.div_floor(&others));
    shape::dim(site, quotient, axis)
}

fn flatten(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    let axis = site.int("axis", 1)?;
    let Some(shape) = site.shape(0) else { return Ok(vec![site.out(0, Some(site.open_shape(0, 2)))]) };
    // The axis may be one behind the last.
    let axis = if axis == shape.len() as i64 { shape.len() } else { site.resolve_axis("axis", axis, shape.len())? };
    let (rows, columns) = (shape::flatten(site, &shape[..axis], 0)?, shape::flatten(site, &shape[axis..], 1)?);
    Ok(vec![site.out(0, Some(vec![rows, columns]))])
}

fn squeeze(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    let Some(shape) = site.shape(0) else { return Ok(vec![site.out(0, None)]) };
    let axes = match site.input(1) {
        None if shape.iter().all(|dim| dim.fixed().is_some()) => {
            (0..shape.len()).filter(|&axis| shape[axis] == Dim::Fixed(1)).collect()
        }
        None => return Ok(vec![site.out(0, None)]),
        Some(_) => match site.ints(1) {
            Some(axes) => site.resolve_axes(&axes, shape.len())?,
            None => {
                let rank = site.len_of(1).and_then(|count| shape.len().checked_sub(count));
                return Ok(vec![site.out(0, rank.map(|rank| site.open_shape(0, rank)))]);
            }
        },
    };
    for &axis in &axes {
        if shape[axis].fixed().is_some_and(|extent| extent != 1) {
            return site.shape_error(format!("axis {axis} has {} elements, not 1", shape[axis]));
        }
    }
    let kept = shape.iter().enumerate().filter(|(axis, _)| !axes.contains(axis)).map(|(_, dim)| dim.clone()).collect();
    Ok(vec![site.out(0, Some(kept))])
}

fn unsqueeze(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    let Some(shape) = site.shape(0) else { return Ok(vec![site.out(0, None)]) };
    let Some(axes) = site.ints(1) else {
        return Ok(vec![site.out(0, site.len_of(1).map(|count| site.open_shape(0, shape.len() + count)))]);
    };
    let rank = shape.len() + axes.len();
    let axes = site.resolve_axes(&axes, rank)?;
    let mut old = shape.iter().cloned();
    let axis = |axis| if axes.contains(&axis) { Some(Dim::Fixed(1)) } else { old.next() };
    Ok(vec![site.out(0, Some((0..rank).filter_map(axis).collect()))])
}

fn transpose(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    let perm = site.ints_attribute("perm")?;
    let Some(shape) = site.shape(0) else { return Ok(vec![site.out(0, perm.map(|perm| site.open_shape(0, perm.len())))]) };
    let rank = shape.len();
    let order: Vec<usize> = match perm {
        None => (0..rank).rev().collect(),
        Some(perm) if perm.len() != rank => {
            return site.attribute_error(format!("perm has {} entries for {rank} axes", perm.len()));
        }
        Some(perm) => {
            if perm.iter().any(|&axis| axis < 0) {
                return site.attribute_error(format!("perm {perm:?} is no permutation"));
            }
            site.resolve_axes(perm, rank)?
        }
    };
    Ok(vec![site.out(0, Some(order.iter().map(|&axis| shape[axis].clone()).collect()))])
}

fn concat(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    let Some(rank) = (0..site.inputs()).find_map(|index| site.shape(index)).map(<[Dim]>::len) else {
        return Ok(vec![site.out(0, None)]);
    };
    let axis = site.axis(0, rank)?;
    if site.node().attributes.get("axis").is_none() {
        return site.attribute_error("without its attribute axis");
    }
    let mut out: Option<Shape> = None;
    let mut sum = Some(Expr::number(0));
    for index in 0..site.inputs() {
        let Some(shape) = site.shape(index) else {
            sum = None;
            continue;
        };
        if shape.len() != rank {
            return site.mismatch(format!("input {index} has {} axes, others have {rank}", shape.len()));
        }
        sum = sum.and_then(|sum| sum.add(&Expr::of(&shape[axis])));
        let out = out.get_or_insert_with(|| shape.to_vec());
        for other in (0..rank).filter(|&other| other != axis) {
            out[other] = site.same(&out[other], &shape[other], &format!("axis {other} of input {index}"))?;
        }
    }
    let mut out = out.unwrap_or_default();
    out[axis] = shape::dim(site, sum, axis)?;
    Ok(vec![site.out(0, Some(out))])
}

fn split(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    let count = site.node().outputs.len();
    let Some(shape) = site.shape(0) else { return Ok((0..count).map(|output| site.out(output, None)).collect()) };
    let axis = site.axis(0, shape.len())?;
    let part = |output: usize, dim: Dim| site.out(output, Some(with(shape, axis, dim)));
    if site.input(1).is_some() {
        let Some(sizes) = site.ints(1) else {
            return Ok((0..count).map(|output| part(output, site.open(output, axis))).collect());
        };
        if sizes.len() < count {
            return Err(site.error(Fault::ShapeMismatch, format!("{} sizes for {count} outputs", sizes.len())));
        }
        let total = sizes.iter().try_fold(0i64, |sum, &size| if size < 0 { None } else { sum.checked_add(size) });
        match (total, shape[axis].fixed()) {
            (None, _) => return site.shape_error(format!("sizes {sizes:?}")),
            (Some(total), Some(have)) if total as u64 != have as u64 => {
                return site.mismatch(format!("sizes of {total} in all for {have} elements"));
            }
            _ => {}
        }
        return sizes.iter().take(count).enumerate().map(|(output, &size)| Ok(part(output, site.extent(size)?))).collect();
    }
    let parts = site.positive("num_outputs", count as i64)?;
    if (parts as u64) < count as u64 {
        return site.attribute_error(format!("num_outputs is {parts}, the node has {count}"));
    }
    let mut out = Vec::with_capacity(count);
    for output in 0..count {
        let dim = match shape[axis].fixed() {
            Some(have) => {
                let each = have.div_ceil(parts as usize);
                Dim::Fixed(have.saturating_sub(each.saturating_mul(output)).min(each))
            }
            None => match Expr::of(&shape[axis]).div_exact(&Expr::number(parts)).and_then(|each| each.dim()) {
                Some(each) => each,
                None => site.open(output, axis),
            },
        };
        out.push(part(output, dim));
    }
    Ok(out)
}

/// Where a slice of an axis begins and how many elements it takes. `None` for step 0 or on overflow.
pub(super) fn slice_range(start: i64, end: i64, step: i64, len: i64) -> Option<(i64, i64)> {
    let from_end = |at: i64| if at < 0 { at.saturating_add(len) } else { at };
    let (low, high) = if step > 0 { (0, len) } else { (-1, len - 1) };
    let start = from_end(start).clamp(low.max(0), high.max(0));
    let end = from_end(end).clamp(low, high);
    if len == 0 {
        return (step != 0).then_some((0, 0));
    }
    let span = end.checked_sub(start)?;
    let whole = span.checked_div(step)?;
    let count = whole + i64::from(span.checked_rem(step)? != 0);
    let forward = (span > 0) == (step > 0) && span != 0;
    Some((start, if forward { count } else { 0 }))
}

fn slice(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    let steps = if site.input(4).is_some() { site.ints(4) } else { Some(vec![1; site.len_of(1).unwrap_or(64)]) };
    if steps.as_ref().is_some_and(|steps| steps.contains(&0)) {
        return site.attribute_error("a step of 0");
    }
    let Some(shape) = site.shape(0) else { return Ok(vec![site.out(0, None)]) };
    let axes = match site.input(3) {
        Some(_) => site.ints(3),
        None => site.len_of(1).map(|count| (0..count as i64).collect()),
    };
    let Some(axes) = axes else { return Ok(vec![site.out(0, Some(site.open_shape(0, shape.len())))]) };
    let axes = site.resolve_axes(&axes, shape.len())?;
    let (starts, ends) = (site.items(1), site.items(2));
    let counts = [&starts, &ends].into_iter().flatten().map(Vec::len).chain(steps.as_ref().map(Vec::len));
    if counts.into_iter().any(|count| count != axes.len() && count != 64) {
        return site.shape_error(format!("starts, ends, axes and steps differ in number from {} axes", axes.len()));
    }
    let mut out = shape.to_vec();
    for (i, &axis) in axes.iter().enumerate() {
        let start = starts.as_ref().and_then(|starts| starts.get(i));
        let end = ends.as_ref().and_then(|ends| ends.get(i));
        let step = steps.as_ref().and_then(|steps| steps.get(i)).copied();
        out[axis] = match sliced(&shape[axis], start, end, step) {
            Some(dim) => dim,
            None => site.open(0, axis),
        };
    }
    Ok(vec![site.out(0, Some(out))])
}

/// The extent of a slice, where it can be told.
fn sliced(dim: &Dim, start: Option<&Item>, end: Option<&Item>, step: Option<i64>) -> Option<Dim> {
    let (start, end, step) = (start?, end?, step?);
    if let (Dim::Fixed(len), Some(start), Some(end)) = (dim, start.int(), end.int()) {
        let (_, count) = slice_range(start, end, step, i64::try_from(*len).ok()?)?;
        return usize::try_from(count).ok().map(Dim::Fixed);
    }
    if step != 1 {
        return None;
    }
    // Of an open axis: all but the first or last few, when there are enough; up to a symbol that is its own length.
    let len = Expr::of(dim);
    let bound = |item: &Item| match item {
        Item::Int(expr) => match expr.constant() {
            Some(i64::MIN..0) => len.add(expr),
            Some(value) if value >= i64::from(i32::MAX) => Some(len.clone()),
            _ => Some(expr.clone()),
        },
        _ => None,
    };
    let (from, to) = (bound(start)?, bound(end)?);
    let dim_is_long_enough = |expr: &Expr| *expr == len || expr.constant().is_none();
    if from.constant() == Some(0) && to == len {
        return Some(dim.clone());
    }
    match (dim, to.constant()) {
        // An open end on a fixed axis, or a fixed end on an open one, may be clamped: only running tells.
        (Dim::Fixed(_), None) | (Dim::Named(_), Some(_)) => None,
        _ if dim_is_long_enough(&to) => to.sub(&from)?.dim(),
        _ => None,
    }
}

fn pad(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    site.choice("mode", &["constant", "reflect", "edge", "wrap"])?;
    let Some(shape) = site.shape(0) else { return Ok(vec![site.out(0, None)]) };
    let axes = match site.input(3) {
        None => Some((0..shape.len()).collect()),
        Some(_) => site.ints(3).map(|axes| site.resolve_axes(&axes, shape.len())).transpose()?,
    };
    let (Some(axes), Some(pads)) = (axes, site.items(1)) else {
        return Ok(vec![site.out(0, Some(site.open_shape(0, shape.len())))]);
    };
    if pads.len() != 2 * axes.len() {
        return site.shape_error(format!("{} pads for {} axes", pads.len(), axes.len()));
    }
    let mut out = shape.to_vec();
    for (i, &axis) in axes.iter().enumerate() {
        out[axis] = match (pads[i].int(), pads[i + axes.len()].int()) {
            (Some(before), Some(after)) => match before.checked_add(after) {
                Some(sum) => shape::add(site, &shape[axis], sum, axis)?,
                None => return Err(site.limit("dim", site.bounds.dim, None, "elements on an axis")),
            },
            _ => match (&pads[i], &pads[i + axes.len()]) {
                (Item::Int(before), Item::Int(after)) => {
                    shape::dim(site, before.add(after).and_then(|sum| sum.add(&Expr::of(&shape[axis]))), axis)?
                }
                _ => site.open(0, axis),
            },
        };
    }
    Ok(vec![site.out(0, Some(out))])
}

fn tile(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    let Some(shape) = site.shape(0) else { return Ok(vec![site.out(0, None)]) };
    let Some(repeats) = site.items(1) else { return Ok(vec![site.out(0, Some(site.open_shape(0, shape.len())))]) };
    if repeats.len() != shape.len() {
        return site.shape_error(format!("{} repeats for {} axes", repeats.len(), shape.len()));
    }
    let mut out = Vec::with_capacity(shape.len());
    for (axis, (dim, repeat)) in shape.iter().zip(&repeats).enumerate() {
        out.push(match (repeat.int(), repeat) {
            (Some(repeat), _) if repeat < 0 => return site.shape_error(format!("{repeat} repeats")),
            (Some(repeat), _) => shape::mul(site, dim, repeat, axis)?,
            (None, Item::Int(expr)) => shape::dim(site, Expr::of(dim).mul(expr), axis)?,
            _ => site.open(0, axis),
        });
    }
    Ok(vec![site.out(0, Some(out))])
}

/// How many numbers a range of whole numbers has; `None` for step 0 or on overflow.
pub(super) fn range_len(start: i64, limit: i64, step: i64) -> Option<i64> {
    let span = limit.checked_sub(start)?;
    let whole = span.checked_div(step)?;
    let count = whole + i64::from(span.checked_rem(step)? != 0 && (span > 0) == (step > 0));
    Some(count.max(0))
}

fn range(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    for index in 0..3 {
        if site.shape(index).and_then(elements).is_some_and(|count| count != 1) {
            return site.shape_error(format!("input {index} is no scalar"));
        }
    }
    let items = [site.items(0), site.items(1), site.items(2)].map(|items| items.and_then(|items| items.into_iter().next()));
    if matches!(&items[2], Some(step) if step.int() == Some(0) || matches!(step, Item::Real(step) if *step == 0.0)) {
        return site.attribute_error("a step of 0");
    }
    let dim = match &items {
        [Some(Item::Real(start)), Some(Item::Real(limit)), Some(Item::Real(step))] => {
            let count = ((limit - start) / step).ceil();
            if count.is_nan() {
                return site.attribute_error("a bound that is no number");
            }
            if count > site.bounds.dim as f64 {
                return Err(site.limit("dim", site.bounds.dim, None, "elements on an axis"));
            }
            Dim::Fixed(count.max(0.0) as usize)
        }
        [Some(Item::Int(start)), Some(Item::Int(limit)), Some(Item::Int(step))] => {
            match (start.constant(), limit.constant(), step.constant()) {
                (Some(start), Some(limit), Some(step)) => match range_len(start, limit, step) {
                    Some(count) => site.extent(count)?,
                    None => return Err(site.limit("dim", site.bounds.dim, None, "elements on an axis")),
                },
                (_, _, Some(1)) => shape::dim(site, limit.sub(start), 0)?,
                _ => site.open(0, 0),
            }
        }
        _ => site.open(0, 0),
    };
    Ok(vec![site.out(0, Some(vec![dim]))])
}

fn one_hot(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    let Some(shape) = site.shape(0) else { return Ok(vec![site.out(0, None)]) };
    let axis = site.axis(-1, shape.len() + 1)?;
    let depth = match site.items(1).as_deref() {
        Some([Item::Real(depth)]) => site.extent(*depth as i64)?,
        Some([Item::Int(depth)]) => shape::dim(site, Some(depth.clone()), axis)?,
        _ => site.open(0, axis),
    };
    let mut out = shape.to_vec();
    out.insert(axis, depth);
    Ok(vec![site.out(0, Some(out))])
}

fn eye_like(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    let dtype = site.dtype_attribute("dtype")?.or(site.dtype(0));
    let shape = site.shape_of_rank(0, 2)?.map_or_else(|| site.open_shape(0, 2), <[Dim]>::to_vec);
    Ok(vec![site.tensor(dtype, Some(shape))])
}

fn non_zero(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    let rank = site.shape(0).map_or_else(|| site.open(0, 0), |shape| Dim::Fixed(shape.len()));
    Ok(vec![site.out(0, Some(vec![rank, site.open(0, 1)]))])
}

fn compress(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    site.shape_of_rank(1, 1)?;
    if site.node().attributes.get("axis").is_none() {
        return Ok(vec![site.out(0, Some(vec![site.open(0, 0)]))]);
    }
    let Some(shape) = site.shape(0) else { return Ok(vec![site.out(0, None)]) };
    let axis = site.axis(0, shape.len())?;
    Ok(vec![site.out(0, Some(with(shape, axis, site.open(0, axis))))])
}

fn unique(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    let list = |output| site.out(output, Some(vec![site.open(0, 0)]));
    let shape = match (site.node().attributes.get("axis"), site.shape(0)) {
        (None, _) => Some(vec![site.open(0, 0)]),
        (Some(_), Some(shape)) => {
            let axis = site.axis(0, shape.len())?;
            Some(with(shape, axis, site.open(0, 0)))
        }
        (Some(_), None) => None,
    };
    let inverse = match (site.node().attributes.get("axis"), site.shape(0)) {
        (None, Some(shape)) => shape::flatten(site, shape, 0)?,
        (Some(_), Some(shape)) => shape[site.axis(0, shape.len())?].clone(),
        _ => site.open(2, 0),
    };
    Ok(vec![site.out(0, shape), list(1), site.out(2, Some(vec![inverse])), list(3)])
}

fn trilu(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    site.flag("upper", true)?;
    if site.shape(0).is_some_and(|shape| shape.len() < 2) {
        return site.shape_error("fewer than 2 axes");
    }
    site.like(0)
}

fn reverse_sequence(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    let (batch, time) = (site.int("batch_axis", 1)?, site.int("time_axis", 0)?);
    if !(batch == 0 && time == 1 || batch == 1 && time == 0) {
        return site.attribute_error(format!("batch_axis {batch} and time_axis {time}, they must be 0 and 1"));
    }
    if site.shape(0).is_some_and(|shape| shape.len() < 2) {
        return site.shape_error("fewer than 2 axes");
    }
    site.like(0)
}

fn depth_to_space(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    site.choice("mode", &["DCR", "CRD"])?;
    let block = site.positive("blocksize", 0)?;
    let Some(shape) = site.shape_of_rank(0, 4)? else { return Ok(vec![site.out(0, Some(site.open_shape(0, 4)))]) };
    let square = block.checked_mul(block);
    let Some(square) = square else { return site.attribute_error(format!("blocksize is {block}")) };
    let channels = match shape[1].fixed() {
        Some(channels) if !(channels as u64).is_multiple_of(square as u64) => {
            return site.shape_error(format!("{channels} channels in blocks of {square}"));
        }
        Some(channels) => Dim::Fixed(channels / square as usize),
        None => shape::dim(site, Expr::of(&shape[1]).div_exact(&Expr::number(square)), 1)?,
    };
    let out = vec![shape[0].clone(), channels, shape::mul(site, &shape[2], block, 2)?, shape::mul(site, &shape[3], block, 3)?];
    Ok(vec![site.out(0, Some(out))])
}

fn space_to_depth(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    site.choice("mode", &["DCR", "CRD"])?;
    let block = site.positive("blocksize", 0)?;
    let Some(shape) = site.shape_of_rank(0, 4)? else { return Ok(vec![site.out(0, Some(site.open_shape(0, 4)))]) };
    let Some(square) = block.checked_mul(block) else { return site.attribute_error(format!("blocksize is {block}")) };
    let mut out = vec![shape[0].clone(), shape::mul(site, &shape[1], square, 1)?];
    for (axis, dim) in shape.iter().enumerate().skip(2) {
        out.push(match dim.fixed() {
            Some(extent) if !(extent as u64).is_multiple_of(block as u64) => {
                return site.shape_error(format!("{extent} elements in blocks of {block}"));
            }
            Some(extent) => Dim::Fixed(extent / block as usize),
            None => shape::dim(site, Expr::of(dim).div_floor(&Expr::number(block)), axis)?,
        });
    }
    Ok(vec![site.out(0, Some(out))])
}

fn center_crop_pad(site: &Site<'_, '_>) -> Result<Vec<Type>> {
    let Some(shape) = site.shape(0) else { return Ok(vec![site.out(0, None)]) };
    let axes = match site.ints_attribute("axes")? {
        Some(axes) => site.resolve_axes(axes, shape.len())?,
        None => (0..shape.len()).collect(),
    };
    let wanted = given_shape(site, 1)?.unwrap_or_else(|| site.open_shape(0, axes.len()));
    if wanted.len() != axes.len() {
        return site.shape_error(format!("{} extents for {} axes", wanted.len(), axes.len()));
    }
    let mut out = shape.to_vec();
    for (&axis, dim) in axes.iter().zip(wanted) {
        out[axis] = dim;
    }
    Ok(vec![site.out(0, Some(out))])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_count_like_python() {
        for (start, end, step, len, want) in [
            (0, 4, 1, 4, (0, 4)),
            (1, i64::MAX, 1, 4, (1, 3)),
            (-2, i64::MAX, 1, 4, (2, 2)),
            (3, 0, -1, 4, (3, 3)),
            (-1, i64::MIN, -1, 4, (3, 4)),
            (0, 4, 3, 4, (0, 2)),
            (9, 20, 1, 4, (4, 0)),
            (2, 1, 1, 4, (2, 0)),
            (0, 5, 1, 0, (0, 0)),
        ] {
            assert_eq!(slice_range(start, end, step, len), Some(want), "{start}:{end}:{step} of {len}");
        }
        assert_eq!(slice_range(0, 1, 0, 4), None);
    }

    #[test]
    fn ranges_count_like_python() {
        assert_eq!(range_len(0, 10, 3), Some(4));
        assert_eq!(range_len(10, 0, -3), Some(4));
        assert_eq!(range_len(0, -5, 1), Some(0));
        assert_eq!(range_len(0, 1, 0), None);
    }
}
