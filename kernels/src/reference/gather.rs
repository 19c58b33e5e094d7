//! Operators that pick elements by index, and those that write them.

use super::call::one;
use super::number::{Rearrange, int_type, load, rearrange, typed};
use super::walk::{Walk, dense_strides};
use super::{Call, Evaluate, EvaluateError};
use crate::reference::number::Real;
use crate::{Datum, Tensor};
use schema::DType;

type Result<T> = std::result::Result<T, EvaluateError>;

pub(super) static OPERATORS: &[(&str, Evaluate)] = &[
    ("Gather", gather),
    ("GatherElements", gather_elements),
    ("GatherND", gather_nd),
    ("ScatterElements", scatter_elements),
    ("Scatter", scatter_elements),
    ("ScatterND", scatter_nd),
    ("Compress", compress),
    ("OneHot", one_hot),
    ("NonZero", non_zero),
    ("TensorScatter", tensor_scatter),
    ("ai.onnx.ml.ArrayFeatureExtractor", array_feature_extractor),
];

/// Picks blocks of `chunk` elements, by number.
struct Blocks<'a> {
    chunk: usize,
    picks: &'a [usize],
}

impl Rearrange for Blocks<'_> {
    fn run<T: Clone + Default>(&self, sources: &[&[T]]) -> Result<Vec<T>> {
        if self.chunk == 1 {
            return Ok(self.picks.iter().map(|&pick| sources[0][pick].clone()).collect());
        }
        let mut out = Vec::with_capacity(self.picks.len() * self.chunk);
        for &pick in self.picks {
            out.extend_from_slice(&sources[0][pick * self.chunk..(pick + 1) * self.chunk]);
        }
        Ok(out)
    }
}

/// An index counted from either end, checked.
fn within(call: &Call<'_>, index: i64, extent: usize) -> Result<usize> {
    let at = if index < 0 { index.checked_add(extent as i64) } else { Some(index) };
    at.and_then(|at| usize::try_from(at).ok())
        .filter(|&at| at < extent)
        .ok_or_else(|| call.index_error(format_args!("index {index} of {extent}")))
}

fn gather(call: &Call<'_>) -> Result<Vec<Datum>> {
    let (data, indices) = (call.tensor(0)?, call.tensor(1)?);
    let axis = call.axis("axis", 0, data.shape().len())?;
    let (before, rest) = data.shape().split_at(axis);
    let (extent, after) = (rest[0], &rest[1..]);
    let shape = [before, indices.shape(), after].concat();
    let count = call.budget.take(data.dtype(), &shape)?;
    call.budget.work(count as u64)?;
    let outer: usize = if count == 0 { 0 } else { before.iter().product() };
    let whole = call.whole(1)?.into_iter().map(|index| within(call, index, extent)).collect::<Result<Vec<_>>>()?;
    let picks: Vec<usize> = (0..outer).flat_map(|round| whole.iter().map(move |&at| round * extent + at)).collect();
    rearrange(call.op, &[data], shape, &Blocks { chunk: after.iter().product(), picks: &picks }).and_then(one)
}

fn array_feature_extractor(call: &Call<'_>) -> Result<Vec<Datum>> {
    let (data, indices) = (call.tensor(0)?, call.whole(1)?);
    let Some((&extent, before)) = data.shape().split_last() else {
        return Err(call.shape_error("needs at least one axis"));
    };
    let outer: usize = before.iter().product();
    let shape = if data.shape().len() == 1 { vec![1, indices.len()] } else { [before, &[indices.len()]].concat() };
    call.budget.take(data.dtype(), &shape)?;
    let whole = indices.into_iter().map(|index| within(call, index, extent)).collect::<Result<Vec<_>>>()?;
    let picks: Vec<usize> = (0..outer).flat_map(|round| whole.iter().map(move |&at| round * extent + at)).collect();
    rearrange(call.op, &[data], shape, &Blocks { chunk: 1, picks: &picks }).and_then(one)
}

/// For each element of `indices`, the place in a dense tensor of `shape` that has the same position but along `axis`.
fn element_places(call: &Call<'_>, shape: &[usize], axis: usize, indices: &Tensor) -> Result<Vec<usize>> {
    let fits = indices.shape().len() == shape.len() && (0..shape.len()).all(|i| i == axis || indices.shape()[i] <= shape[i]);
    if !fits {
        return Err(call.shape_error(format_args!("indices {:?} for {shape:?}", indices.shape())));
    }
    let strides = dense_strides(shape);
    let step = strides[axis] as usize;
    let mut bases = strides.clone();
    bases[axis] = 0;
    let values = indices.to_ints().ok_or_else(|| call.dtype_error(indices.dtype()))?;
    let mut places = Vec::with_capacity(values.len());
    let mut failed = None;
    Walk::new(indices.shape(), [0], [&bases]).rows(|[base], length, [stride]| {
        for n in 0..length as isize {
            match within(call, values[places.len()], shape[axis]) {
                Ok(at) => places.push((base + n * stride) as usize + at * step),
                Err(error) => {
                    failed = Some(error);
                    places.push(0);
                }
            }
        }
    });
    failed.map_or(Ok(places), Err)
}

fn gather_elements(call: &Call<'_>) -> Result<Vec<Datum>> {
    let (data, indices) = (call.tensor(0)?, call.tensor(1)?);
    let axis = call.axis("axis", 0, data.shape().len())?;
    let count = call.budget.take(data.dtype(), indices.shape())?;
    call.budget.work(count as u64)?;
    let picks = element_places(call, data.shape(), axis, indices)?;
    rearrange(call.op, &[data], indices.shape().to_vec(), &Blocks { chunk: 1, picks: &picks }).and_then(one)
}

/// Block numbers addressed by the innermost axis of `indices`, after `batch` shared axes; and how many axes a block has not.
fn block_places(call: &Call<'_>, shape: &[usize], indices: &Tensor, batch: usize) -> Result<(Vec<usize>, usize)> {
    let Some((&depth, outer)) = indices.shape().split_last() else {
        return Err(call.shape_error("indices have no axes"));
    };
    let fits = batch <= outer.len() && batch + depth <= shape.len() && outer.get(..batch) == shape.get(..batch);
    if !fits {
        return Err(call.shape_error(format_args!("indices {:?} for {shape:?}", indices.shape())));
    }
    let values = indices.to_ints().ok_or_else(|| call.dtype_error(indices.dtype()))?;
    let tuples = call.budget.take(DType::I64, outer)?;
    let per_batch: usize = outer[batch..].iter().product();
    let addressed = &shape[batch..batch + depth];
    let mut places = Vec::with_capacity(tuples);
    for tuple in 0..tuples {
        let mut place = tuple.checked_div(per_batch).unwrap_or(0);
        for (i, &extent) in addressed.iter().enumerate() {
            place = place * extent + within(call, values[tuple * depth + i], extent)?;
        }
        places.push(place);
    }
    Ok((places, batch + depth))
}

fn gather_nd(call: &Call<'_>) -> Result<Vec<Datum>> {
    let (data, indices) = (call.tensor(0)?, call.tensor(1)?);
    let batch = usize::try_from(call.int("batch_dims", 0)).map_err(|_| call.attribute_error("batch_dims is negative"))?;
    let Some((&depth, outer)) = indices.shape().split_last() else {
        return Err(call.shape_error("indices have no axes"));
    };
    let after = batch.checked_add(depth).and_then(|axes| data.shape().get(axes..));
    let after = after.ok_or_else(|| call.shape_error(format_args!("indices {:?} for {:?}", indices.shape(), data.shape())))?;
    let shape = [outer, after].concat();
    let count = call.budget.take(data.dtype(), &shape)?;
    call.budget.work(count as u64)?;
    let (picks, _) = block_places(call, data.shape(), indices, batch)?;
    rearrange(call.op, &[data], shape, &Blocks { chunk: after.iter().product(), picks: &picks }).and_then(one)
}

/// Writes blocks of the second source over the first.
struct Write<'a> {
    chunk: usize,
    places: &'a [usize],
}

impl Rearrange for Write<'_> {
    fn run<T: Clone + Default>(&self, sources: &[&[T]]) -> Result<Vec<T>> {
        let mut out = sources[0].to_vec();
        for (i, &place) in self.places.iter().enumerate() {
            let block = &sources[1][i * self.chunk..(i + 1) * self.chunk];
            out[place * self.chunk..(place + 1) * self.chunk].clone_from_slice(block);
        }
        Ok(out)
    }
}

/// Writes or combines blocks of `updates` into `data`.
fn write(call: &Call<'_>, data: &Tensor, updates: &Tensor, chunk: usize, places: &[usize]) -> Result<Vec<Datum>> {
    fn fold<T: Copy>(data: &[T], updates: &[T], chunk: usize, places: &[usize], combine: impl Fn(T, T) -> T) -> Vec<T> {
        let mut out = data.to_vec();
        for (i, &place) in places.iter().enumerate() {
            for n in 0..chunk {
                let slot = &mut out[place * chunk + n];
                *slot = combine(*slot, updates[i * chunk + n]);
            }
        }
        out
    }
    let dtype = data.dtype();
    if updates.dtype() != dtype {
        return Err(EvaluateError::Dtype(format!("{}: {dtype} and {} are mixed", call.op, updates.dtype())));
    }
    if updates.len() != places.len() * chunk {
        return Err(call.shape_error(format_args!("updates have shape {:?}", updates.shape())));
    }
    let count = call.budget.take(dtype, data.shape())?;
    call.budget.work(count as u64)?;
    let shape = data.shape().to_vec();
    let reduction = call.text("reduction", "none");
    if reduction == "none" {
        return rearrange(call.op, &[data, updates], shape, &Write { chunk, places }).and_then(one);
    }
    macro_rules! combine {
        ($x:expr, $y:expr, $add:expr, $mul:expr) => {
            match reduction {
                "add" => fold($x, $y, chunk, places, $add),
                "mul" => fold($x, $y, chunk, places, $mul),
                "max" => fold($x, $y, chunk, places, |a, b| if b > a { b } else { a }),
                "min" => fold($x, $y, chunk, places, |a, b| if b < a { b } else { a }),
                other => return Err(call.attribute_error(format_args!("reduction '{other}'"))),
            }
        };
    }
    if dtype == DType::Bool {
        return one(typed(dtype, shape, combine!(data.bytes(), updates.bytes(), |a, b| a | b, |a, b| a & b)));
    }
    int_type!(dtype, T => {
        let (x, y) = (data.reinterpret::<T>(), updates.reinterpret::<T>());
        one(Tensor::new(shape, combine!(&x, &y, |a: T, b: T| a.wrapping_add(b), |a: T, b: T| a.wrapping_mul(b))))
    }, else if dtype == DType::F64 {
        let (x, y) = (load::<f64>(call.op, data)?, load::<f64>(call.op, updates)?);
        one(Tensor::new(shape, combine!(&x, &y, |a: f64, b: f64| a + b, |a: f64, b: f64| a * b)))
    } else {
        let (x, y) = (load::<f32>(call.op, data)?, load::<f32>(call.op, updates)?);
        one(f32::store(dtype, shape, combine!(&x, &y, |a: f32, b: f32| a + b, |a: f32, b: f32| a * b)))
    })
}

fn scatter_elements(call: &Call<'_>) -> Result<Vec<Datum>> {
    let (data, indices, updates) = (call.tensor(0)?, call.tensor(1)?, call.tensor(2)?);
    let axis = call.axis("axis", 0, data.shape().len())?;
    call.same_shape("updates", updates.shape(), indices.shape())?;
    let places = element_places(call, data.shape(), axis, indices)?;
    write(call, data, updates, 1, &places)
}

fn scatter_nd(call: &Call<'_>) -> Result<Vec<Datum>> {
    let (data, indices, updates) = (call.tensor(0)?, call.tensor(1)?, call.tensor(2)?);
    let (places, axes) = block_places(call, data.shape(), indices, 0)?;
    write(call, data, updates, data.shape()[axes..].iter().product(), &places)
}

fn compress(call: &Call<'_>) -> Result<Vec<Datum>> {
    let (data, condition) = (call.tensor(0)?, call.tensor(1)?);
    if condition.dtype() != DType::Bool {
        return Err(call.dtype_error(condition.dtype()));
    }
    let (data, axis) = match call.attributes.int("axis") {
        Some(axis) => (data.clone(), call.place(axis, data.shape().len())?),
        None => (data.reshaped(vec![data.len()]).unwrap_or_else(|| data.clone()), 0),
    };
    let extent = *data.shape().get(axis).ok_or_else(|| call.shape_error("needs at least one axis"))?;
    let kept: Vec<usize> =
        condition.bytes().iter().take(extent).enumerate().filter(|(_, v)| **v != 0).map(|(at, _)| at).collect();
    let mut shape = data.shape().to_vec();
    shape[axis] = kept.len();
    let count = call.budget.take(data.dtype(), &shape)?;
    let outer: usize = if count == 0 { 0 } else { shape[..axis].iter().product() };
    let picks: Vec<usize> = (0..outer).flat_map(|round| kept.iter().map(move |&at| round * extent + at)).collect();
    let chunk = shape[axis + 1..].iter().product();
    rearrange(call.op, &[&data], shape, &Blocks { chunk, picks: &picks }).and_then(one)
}

/// Two values, the second where a place is named.
struct Hot<'a> {
    count: usize,
    places: &'a [usize],
}

impl Rearrange for Hot<'_> {
    fn run<T: Clone + Default>(&self, sources: &[&[T]]) -> Result<Vec<T>> {
        let mut out = vec![sources[0][0].clone(); self.count];
        for &place in self.places {
            out[place] = sources[0][1].clone();
        }
        Ok(out)
    }
}

fn one_hot(call: &Call<'_>) -> Result<Vec<Datum>> {
    let (indices, depth, values) = (call.tensor(0)?, call.tensor(1)?, call.tensor(2)?);
    let depth = load::<f64>(call.op, depth)?.first().copied().unwrap_or(-1.0);
    if !(0.0..9e15).contains(&depth) || values.len() != 2 {
        return Err(call.shape_error(format_args!("depth {depth}, {} values", values.len())));
    }
    let depth = depth as usize;
    let axis = call.axis("axis", -1, indices.shape().len() + 1)?;
    let (before, after) = indices.shape().split_at(axis);
    let shape = [before, &[depth], after].concat();
    let count = call.budget.take(values.dtype(), &shape)?;
    let inner: usize = after.iter().product();
    let mut places = Vec::new();
    for (i, &index) in load::<f64>(call.op, indices)?.iter().enumerate() {
        let index = if index < 0.0 { index + depth as f64 } else { index };
        if index >= 0.0 && index < depth as f64 {
            places.push((i / inner * depth + index as usize) * inner + i % inner);
        }
    }
    rearrange(call.op, &[values], shape, &Hot { count, places: &places }).and_then(one)
}

fn non_zero(call: &Call<'_>) -> Result<Vec<Datum>> {
    let data = call.tensor(0)?;
    let truths: Vec<bool> = match data.texts() {
        Some(texts) => texts.iter().map(|text| !text.is_empty()).collect(),
        None if data.dtype().is_float() => load::<f64>(call.op, data)?.iter().map(|&v| v != 0.0).collect(),
        None => data.bytes().chunks_exact(data.dtype().bytes()).map(|bytes| bytes.iter().any(|&b| b != 0)).collect(),
    };
    let found: Vec<usize> = truths.iter().enumerate().filter(|(_, truth)| **truth).map(|(at, _)| at).collect();
    let shape = vec![data.shape().len(), found.len()];
    call.budget.take(DType::I64, &shape)?;
    let strides = dense_strides(data.shape());
    let mut out = Vec::with_capacity(shape[0] * shape[1]);
    for (axis, &extent) in data.shape().iter().enumerate() {
        out.extend(found.iter().map(|&at| (at / strides[axis] as usize % extent) as i64));
    }
    one(Tensor::new(shape, out))
}

/// Writes new entries into a cache along its sequence axis, at a position per batch.
fn tensor_scatter(call: &Call<'_>) -> Result<Vec<Datum>> {
    let (past, update) = (call.tensor(0)?, call.tensor(1)?);
    let rank = past.shape().len();
    let axis = call.axis("axis", -2, rank)?;
    let fits = axis > 0 && update.shape().len() == rank && (0..rank).all(|i| i == axis || update.shape()[i] == past.shape()[i]);
    if !fits || update.shape()[axis] > past.shape()[axis] {
        return Err(call.shape_error(format_args!("{:?} into {:?}", update.shape(), past.shape())));
    }
    let (batches, limit, length) = (past.shape()[0], past.shape()[axis], update.shape()[axis]);
    let starts = call.optional_whole(2)?.unwrap_or_else(|| vec![0; batches]);
    if starts.len() != batches {
        return Err(call.shape_error(format_args!("{} positions for {batches} batches", starts.len())));
    }
    let circular = match call.text("mode", "linear") {
        "linear" => false,
        "circular" => true,
        other => return Err(call.attribute_error(format_args!("mode '{other}'"))),
    };
    let outer: usize = past.shape()[1..axis].iter().product();
    let mut places = Vec::with_capacity(call.budget.take(DType::I64, &[batches, outer, length])?);
    for (batch, &start) in starts.iter().enumerate() {
        let start = usize::try_from(start).map_err(|_| call.index_error(format_args!("position {start}")))?;
        for round in 0..outer {
            for step in 0..length {
                let at = start.saturating_add(step);
                if at >= limit && !circular {
                    return Err(call.index_error(format_args!("position {at} of {limit}")));
                }
                places.push((batch * outer + round) * limit + at % limit);
            }
        }
    }
    write(call, past, update, past.shape()[axis + 1..].iter().product(), &places)
}
