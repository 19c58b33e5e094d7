//! Operators on shapes, and those that only give data another shape.

use super::call::one;
use super::number::{Rearrange, int_type, load, real_type, rearrange, typed};
use super::{Call, Evaluate, EvaluateError};
use crate::reference::number::Real;
use crate::{Attribute, Datum, Tensor};
use schema::DType;

type Result<T> = std::result::Result<T, EvaluateError>;

pub(super) static OPERATORS: &[(&str, Evaluate)] = &[
    ("Shape", shape),
    ("Size", |call| one(Tensor::scalar(call.tensor(0)?.len() as i64))),
    ("Reshape", reshape),
    ("Flatten", flatten),
    ("Squeeze", squeeze),
    ("Unsqueeze", unsqueeze),
    ("Identity", |call| Ok(vec![call.datum(0)?.clone()])),
    ("Constant", constant),
    ("ConstantOfShape", constant_of_shape),
    ("Range", range),
    ("EyeLike", eye_like),
];

/// The same bytes under another shape. Counts as no new bytes.
fn under(call: &Call<'_>, tensor: &Tensor, shape: Vec<usize>) -> Result<Vec<Datum>> {
    match tensor.reshaped(shape.clone()) {
        Some(tensor) => one(tensor),
        None => Err(call.shape_error(format_args!("{:?} does not become {shape:?}", tensor.shape()))),
    }
}

fn shape(call: &Call<'_>) -> Result<Vec<Datum>> {
    let extents = call.tensor(0)?.shape();
    let rank = extents.len() as i64;
    let bound = |value: i64| if value < 0 { value.saturating_add(rank) } else { value }.clamp(0, rank) as usize;
    let (start, end) = (bound(call.int("start", 0)), bound(call.int("end", rank)));
    let values: Vec<i64> = extents.get(start..end.max(start)).unwrap_or(&[]).iter().map(|&extent| extent as i64).collect();
    one(Tensor::new(vec![values.len()], values))
}

fn reshape(call: &Call<'_>) -> Result<Vec<Datum>> {
    let (data, wanted) = (call.tensor(0)?, call.whole(1)?);
    let keep_zero = call.flag("allowzero", false);
    let mut out = Vec::with_capacity(wanted.len());
    let mut open = None;
    for (axis, &extent) in wanted.iter().enumerate() {
        out.push(match extent {
            -1 if open.is_none() => {
                open = Some(axis);
                1
            }
            0 if !keep_zero => {
                *data.shape().get(axis).ok_or_else(|| call.shape_error(format_args!("extent 0 at axis {axis}")))?
            }
            extent => usize::try_from(extent).map_err(|_| call.shape_error(format_args!("extents {wanted:?}")))?,
        });
    }
    if let Some(axis) = open {
        let known = out.iter().try_fold(1usize, |size, &extent| size.checked_mul(extent)).filter(|&known| known > 0);
        let rest = known.filter(|known| data.len() % known == 0).map(|known| data.len() / known);
        out[axis] = rest.ok_or_else(|| call.shape_error(format_args!("{:?} does not become {wanted:?}", data.shape())))?;
    }
    under(call, data, out)
}

fn flatten(call: &Call<'_>) -> Result<Vec<Datum>> {
    let data = call.tensor(0)?;
    let rank = data.shape().len();
    let axis = call.int("axis", 1);
    let axis = if axis == rank as i64 { rank } else { call.place(axis, rank)? };
    let (outer, inner) = data.shape().split_at(axis);
    under(call, data, vec![outer.iter().product(), inner.iter().product()])
}

fn squeeze(call: &Call<'_>) -> Result<Vec<Datum>> {
    let data = call.tensor(0)?;
    let axes = match call.optional_whole(1)? {
        Some(axes) => call.places(&axes, data.shape().len())?,
        None => (0..data.shape().len()).filter(|&axis| data.shape()[axis] == 1).collect(),
    };
    if let Some(axis) = axes.iter().find(|&&axis| data.shape()[axis] != 1) {
        return Err(call.shape_error(format_args!("axis {axis} of {:?} is not 1", data.shape())));
    }
    let kept = data.shape().iter().enumerate().filter(|(axis, _)| !axes.contains(axis)).map(|(_, &extent)| extent).collect();
    under(call, data, kept)
}

fn unsqueeze(call: &Call<'_>) -> Result<Vec<Datum>> {
    let (data, axes) = (call.tensor(0)?, call.whole(1)?);
    let rank = data.shape().len() + axes.len();
    let places = call.places(&axes, rank)?;
    let mut rest = data.shape().iter().copied();
    let out = (0..rank).map(|axis| if places.contains(&axis) { 1 } else { rest.next().unwrap_or(1) }).collect();
    under(call, data, out)
}

fn constant(call: &Call<'_>) -> Result<Vec<Datum>> {
    let values = call.attributes;
    let tensor = if let Some(Attribute::Tensor(tensor)) = values.get("value") {
        tensor.clone()
    } else if let Some(value) = values.int("value_int") {
        Tensor::scalar(value)
    } else if let Some(value) = values.float("value_float") {
        Tensor::scalar(value)
    } else if let Some(value) = values.string("value_string") {
        Tensor::strings(vec![], vec![value.to_owned()])
    } else if let Some(values) = call.ints("value_ints") {
        Tensor::new(vec![values.len()], values.to_vec())
    } else if let Some(values) = call.floats("value_floats") {
        Tensor::new(vec![values.len()], values.to_vec())
    } else if let Some(values) = call.texts("value_strings") {
        Tensor::strings(vec![values.len()], values.to_vec())
    } else {
        return Err(call.attribute_error("no value of a kind that is read"));
    };
    one(tensor)
}

/// One element, many times.
struct Repeat(usize);

impl Rearrange for Repeat {
    fn run<T: Clone + Default>(&self, sources: &[&[T]]) -> Result<Vec<T>> {
        Ok(vec![sources[0].first().cloned().unwrap_or_default(); self.0])
    }
}

fn constant_of_shape(call: &Call<'_>) -> Result<Vec<Datum>> {
    let shape = call.extents(&call.whole(0)?)?;
    let zero = Tensor::new(vec![1], vec![0f32]);
    let value = match call.attributes.get("value") {
        Some(Attribute::Tensor(tensor)) if tensor.len() == 1 => tensor,
        None => &zero,
        _ => return Err(call.attribute_error("value is no tensor of one element")),
    };
    let count = call.budget.take(value.dtype(), &shape)?;
    rearrange(call.op, &[value], shape, &Repeat(count)).and_then(one)
}

fn range(call: &Call<'_>) -> Result<Vec<Datum>> {
    let (start, limit, delta) = (call.tensor(0)?, call.tensor(1)?, call.tensor(2)?);
    let dtype = start.dtype();
    if [start, limit, delta].iter().any(|tensor| tensor.len() != 1 || tensor.dtype() != dtype) {
        return Err(call.shape_error("start, limit and delta are scalars of one type"));
    }
    if let (Some(start), Some(limit), Some(delta)) = (start.to_ints(), limit.to_ints(), delta.to_ints()) {
        let (start, limit, delta) = (i128::from(start[0]), i128::from(limit[0]), i128::from(delta[0]));
        if delta == 0 {
            return Err(call.shape_error("delta is 0"));
        }
        let count = ((limit - start + delta - delta.signum()) / delta).max(0);
        let shape = [usize::try_from(count).map_err(|_| call.shape_error(format_args!("{count} elements")))?];
        let count = call.budget.take(dtype, &shape)?;
        return int_type!(dtype, T => {
            one(Tensor::new(vec![count], (0..count as i128).map(|i| (start + i * delta) as T).collect::<Vec<T>>()))
        }, else Err(call.dtype_error(dtype)));
    }
    let scalar = |tensor: &Tensor| load::<f64>(call.op, tensor).map(|values| values[0]);
    let (start, limit, delta) = (scalar(start)?, scalar(limit)?, scalar(delta)?);
    let count = ((limit - start) / delta).ceil().max(0.0);
    if !count.is_finite() || count >= 9e15 {
        return Err(call.shape_error(format_args!("from {start} to {limit} by {delta}")));
    }
    let count = call.budget.take(dtype, &[count as usize])?;
    one(f64::store(dtype, vec![count], (0..count).map(|i| start + i as f64 * delta).collect()))
}

fn eye_like(call: &Call<'_>) -> Result<Vec<Datum>> {
    let like = call.tensor(0)?;
    let &[rows, columns] = like.shape() else {
        return Err(call.shape_error("needs a matrix"));
    };
    let dtype = match call.attributes.int("dtype") {
        Some(code) => DType::of_code(code).ok_or_else(|| call.attribute_error(format_args!("type code {code}")))?,
        None => like.dtype(),
    };
    let shift = call.int("k", 0);
    let count = call.budget.take(dtype, like.shape())?;
    if dtype == DType::Bool {
        let on = |at: usize| (at % columns) as i64 - (at / columns) as i64 == shift;
        return one(typed(dtype, vec![rows, columns], (0..count).map(|at| u8::from(on(at))).collect::<Vec<u8>>()));
    }
    if matches!(dtype, DType::String | DType::C64 | DType::C128) {
        return Err(call.dtype_error(dtype));
    }
    real_type!(dtype, R => {
        let on = |at: usize| (at % columns) as i64 - (at / columns) as i64 == shift;
        one(R::store(dtype, vec![rows, columns], (0..count).map(|at| if on(at) { 1.0 } else { 0.0 }).collect()))
    })
}
