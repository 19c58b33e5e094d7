//! Selection: the largest, the distinct, and boxes that do not overlap.

use super::call::one;
use super::number::{Rearrange, int_type, load, rearrange};
use super::{Call, Evaluate, EvaluateError};
use crate::{Datum, Tensor};
use schema::DType;
use std::cmp::Ordering;

type Result<T> = std::result::Result<T, EvaluateError>;

pub(super) static OPERATORS: &[(&str, Evaluate)] =
    &[("TopK", top_k), ("Unique", unique), ("NonMaxSuppression", non_max_suppression)];

/// Picks elements by place.
struct Pick<'a>(&'a [usize]);

impl Rearrange for Pick<'_> {
    fn run<T: Clone + Default>(&self, sources: &[&[T]]) -> Result<Vec<T>> {
        Ok(self.0.iter().map(|&at| sources[0][at].clone()).collect())
    }
}

fn top_k(call: &Call<'_>) -> Result<Vec<Datum>> {
    fn places<T: PartialOrd>(values: &[T], lines: (usize, usize, usize), k: usize, largest: bool) -> Vec<usize> {
        let (outer, extent, inner) = lines;
        let mut picks = vec![0; outer * k * inner];
        let mut order: Vec<usize> = Vec::with_capacity(extent);
        for line in 0..outer * inner {
            let (block, column) = (line / inner, line % inner);
            let at = |i: usize| (block * extent + i) * inner + column;
            let ahead = |a: &usize, b: &usize| {
                let order = values[at(*a)].partial_cmp(&values[at(*b)]).unwrap_or(Ordering::Equal);
                if largest { order.reverse() } else { order }.then(a.cmp(b))
            };
            order.clear();
            order.extend(0..extent);
            if k < extent && k > 0 {
                order.select_nth_unstable_by(k - 1, ahead);
            }
            order[..k].sort_unstable_by(ahead);
            for (rank, &i) in order[..k].iter().enumerate() {
                picks[(block * k + rank) * inner + column] = at(i);
            }
        }
        picks
    }
    let data = call.tensor(0)?;
    let axis = call.axis("axis", -1, data.shape().len())?;
    let k = usize::try_from(call.one_whole(1)?).ok().filter(|&k| k <= data.shape()[axis]);
    let k = k.ok_or_else(|| call.shape_error(format_args!("k of {} elements", data.shape()[axis])))?;
    let mut shape = data.shape().to_vec();
    shape[axis] = k;
    call.budget.take(data.dtype(), &shape)?;
    call.budget.take(DType::I64, &shape)?;
    call.budget.work((data.len() as u64).saturating_mul(u64::from(usize::BITS - data.shape()[axis].leading_zeros())))?;
    let inner: usize = data.shape()[axis + 1..].iter().product();
    let lines = (data.shape()[..axis].iter().product(), data.shape()[axis], inner);
    let largest = call.flag("largest", true);
    let picks = if data.is_empty() {
        Vec::new()
    } else {
        int_type!(data.dtype(), T => places(&data.reinterpret::<T>(), lines, k, largest), else {
            // NaN has no place in an order; it goes last.
            let last = if largest { f64::NEG_INFINITY } else { f64::INFINITY };
            let values: Vec<f64> = load::<f64>(call.op, data)?.iter().map(|&v| if v.is_nan() { last } else { v }).collect();
            places(&values, lines, k, largest)
        })
    };
    let indices = picks.iter().map(|&at| (at / inner.max(1) % lines.1.max(1)) as i64).collect();
    let values = rearrange(call.op, &[data], shape.clone(), &Pick(&picks))?;
    Ok(vec![values.into(), Tensor::new(shape, indices).into()])
}

/// Compares two slices along an axis, element by element.
trait Slices {
    fn compare(&self, a: usize, b: usize) -> Ordering;
}

struct SlicesOf<'a, T> {
    values: &'a [T],
    outer: usize,
    extent: usize,
    inner: usize,
    order: fn(&T, &T) -> Ordering,
}

impl<T> Slices for SlicesOf<'_, T> {
    fn compare(&self, a: usize, b: usize) -> Ordering {
        for block in 0..self.outer {
            for i in 0..self.inner {
                let at = |slice: usize| &self.values[(block * self.extent + slice) * self.inner + i];
                match (self.order)(at(a), at(b)) {
                    Ordering::Equal => {}
                    order => return order,
                }
            }
        }
        Ordering::Equal
    }
}

/// Outputs: distinct slices, the place where each came first, for each slice which it is, how often each came.
fn unique(call: &Call<'_>) -> Result<Vec<Datum>> {
    let data = call.tensor(0)?;
    let (data, axis) = match call.attributes.int("axis") {
        Some(axis) => (data.clone(), call.place(axis, data.shape().len())?),
        None => (data.reshaped(vec![data.len()]).unwrap_or_else(|| data.clone()), 0),
    };
    let extent = data.shape()[axis];
    let (outer, inner): (usize, usize) = (data.shape()[..axis].iter().product(), data.shape()[axis + 1..].iter().product());
    call.budget.take(DType::I64, &[extent, 3])?;
    call.budget.work((data.len() as u64).saturating_mul(2 * u64::from(usize::BITS - extent.leading_zeros())))?;
    let (floats, whole);
    let slices: Box<dyn Slices + '_> = if let Some(texts) = data.texts() {
        Box::new(SlicesOf { values: texts, outer, extent, inner, order: |a, b| a.cmp(b) })
    } else if data.dtype().is_float() {
        floats = load::<f64>(call.op, &data)?.into_owned();
        Box::new(SlicesOf { values: &floats, outer, extent, inner, order: f64::total_cmp })
    } else {
        let values = if data.dtype() == DType::U64 { None } else { data.to_ints() };
        whole = values.unwrap_or_else(|| {
            data.bytes().chunks_exact(8).map(|b| b.iter().rev().fold(0, |n, &b| n << 8 | i64::from(b))).collect()
        });
        Box::new(SlicesOf { values: &whole, outer, extent, inner, order: |a, b| a.cmp(b) })
    };
    let mut order: Vec<usize> = (0..extent).collect();
    order.sort_by(|&a, &b| slices.compare(a, b).then(a.cmp(&b)));
    // Groups of equal slices, each a first place and the members.
    let mut groups: Vec<(usize, Vec<usize>)> = Vec::new();
    for &at in &order {
        match groups.last_mut() {
            Some((first, members)) if slices.compare(*first, at) == Ordering::Equal => members.push(at),
            _ => groups.push((at, vec![at])),
        }
    }
    if !call.flag("sorted", true) {
        groups.sort_by_key(|(first, _)| *first);
    }
    let mut inverse = vec![0i64; extent];
    for (number, (_, members)) in groups.iter().enumerate() {
        members.iter().for_each(|&at| inverse[at] = number as i64);
    }
    let mut shape = data.shape().to_vec();
    shape[axis] = groups.len();
    call.budget.take(data.dtype(), &shape)?;
    let mut picks = Vec::with_capacity(outer * groups.len() * inner);
    for block in 0..outer {
        for (first, _) in &groups {
            picks.extend((0..inner).map(|i| (block * extent + first) * inner + i));
        }
    }
    let counts: Vec<i64> = groups.iter().map(|(_, members)| members.len() as i64).collect();
    let firsts: Vec<i64> = groups.iter().map(|(first, _)| *first as i64).collect();
    let list = |values: Vec<i64>| Datum::from(Tensor::new(vec![values.len()], values));
    let values = rearrange(call.op, &[&data], shape, &Pick(&picks))?;
    Ok(vec![values.into(), list(firsts), list(inverse), list(counts)])
}

/// How much two boxes overlap: intersection over union.
fn overlap(a: &[f32; 4], b: &[f32; 4]) -> f32 {
    let area = |c: &[f32; 4]| (c[2] - c[0]) * (c[3] - c[1]);
    let (height, width) = (a[2].min(b[2]) - a[0].max(b[0]), a[3].min(b[3]) - a[1].max(b[1]));
    if height <= 0.0 || width <= 0.0 {
        return 0.0;
    }
    let common = height * width;
    common / (area(a) + area(b) - common)
}

/// Inputs: boxes `[n, b, 4]`, scores `[n, classes, b]`, how many per class, overlap and score thresholds; output `[kept, 3]`.
fn non_max_suppression(call: &Call<'_>) -> Result<Vec<Datum>> {
    let (boxes, scores) = (call.tensor(0)?, call.tensor(1)?);
    let (&[batch, count, 4], &[batches, classes, scored]) = (boxes.shape(), scores.shape()) else {
        return Err(call.shape_error(format_args!("boxes {:?}, scores {:?}", boxes.shape(), scores.shape())));
    };
    if batch != batches || count != scored {
        return Err(call.shape_error(format_args!("boxes {:?}, scores {:?}", boxes.shape(), scores.shape())));
    }
    let most = call.optional_whole(2)?.and_then(|values| values.first().copied()).unwrap_or(0);
    let threshold = |index: usize| -> Result<Option<f32>> {
        call.optional(index)?.map_or(Ok(None), |tensor| load::<f32>(call.op, tensor).map(|values| values.first().copied()))
    };
    let (overlap_most, score_least) = (threshold(3)?.unwrap_or(0.0), threshold(4)?);
    call.budget.take(DType::I64, &[batch, classes, count.min(usize::try_from(most).unwrap_or(0)), 3])?;
    call.budget
        .work((batch as u64).saturating_mul(classes as u64).saturating_mul((count as u64).saturating_mul(count as u64)))?;
    let centred = call.int("center_point_box", 0) == 1;
    let (corners, values) = (load::<f32>(call.op, boxes)?, load::<f32>(call.op, scores)?);
    let corners: Vec<[f32; 4]> = corners
        .chunks_exact(4)
        .map(|c| match centred {
            true => [c[1] - c[3] / 2.0, c[0] - c[2] / 2.0, c[1] + c[3] / 2.0, c[0] + c[2] / 2.0],
            false => [c[0].min(c[2]), c[1].min(c[3]), c[0].max(c[2]), c[1].max(c[3])],
        })
        .collect();
    let mut kept = Vec::new();
    for (n, class) in (0..batch).flat_map(|n| (0..classes).map(move |class| (n, class))) {
        let scores = &values[(n * classes + class) * count..][..count];
        let mut order: Vec<usize> = (0..count).filter(|&i| score_least.is_none_or(|least| scores[i] > least)).collect();
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
        let mut chosen: Vec<usize> = Vec::new();
        for at in order {
            if chosen.len() as i64 >= most {
                break;
            }
            if chosen.iter().all(|&other| overlap(&corners[n * count + at], &corners[n * count + other]) <= overlap_most) {
                chosen.push(at);
                kept.extend([n as i64, class as i64, at as i64]);
            }
        }
    }
    one(Tensor::new(vec![kept.len() / 3, 3], kept))
}
