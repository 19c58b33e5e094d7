//! Normalisations and the softmax family.

use super::call::one;
use super::number::{Real, load, real_type};
use super::walk::{broadcast_shape, broadcast_strides, copy_view};
use super::{Call, Evaluate, EvaluateError};
use crate::{Datum, Tensor};
use num_traits::{Float as _, One as _, Zero as _};
use schema::DType;

type Result<T> = std::result::Result<T, EvaluateError>;

pub(super) static OPERATORS: &[(&str, Evaluate)] = &[
    ("BatchNormalization", batch_norm),
    ("InstanceNormalization", instance_norm),
    ("GroupNormalization", group_norm),
    ("LayerNormalization", layer_norm),
    ("RMSNormalization", rms_norm),
    ("LRN", local_response_norm),
    ("LpNormalization", lp_norm),
    ("MeanVarianceNormalization", mean_variance_norm),
    ("Softmax", |call| softmax(call, Kind::Softmax)),
    ("LogSoftmax", |call| softmax(call, Kind::Log)),
    ("Hardmax", |call| softmax(call, Kind::Hard)),
];

/// Mean and variance of a line, in `f64`.
fn moments<R: Real>(line: &[R]) -> (f64, f64) {
    let count = line.len().max(1) as f64;
    let mean = line.iter().map(|v| v.wide()).sum::<f64>() / count;
    (mean, line.iter().map(|v| (v.wide() - mean).powi(2)).sum::<f64>() / count)
}

/// `[n, c, points]` of an input with channels at axis 1.
fn channels(call: &Call<'_>, x: &Tensor) -> Result<(usize, usize, usize)> {
    call.at_least(x, 2)?;
    Ok((x.shape()[0], x.shape()[1], x.shape()[2..].iter().product()))
}

/// One value per channel.
fn per_channel(call: &Call<'_>, index: usize, channels: usize) -> Result<Vec<f64>> {
    let tensor = call.tensor(index)?;
    call.same_shape(&format!("input {index}"), tensor.shape(), &[channels])?;
    Ok(load::<f64>(call.op, tensor)?.into_owned())
}

fn batch_norm(call: &Call<'_>) -> Result<Vec<Datum>> {
    let x = call.tensor(0)?;
    let (n, c, points) = match x.shape() {
        &[n] => (n, 1, 1),
        _ => channels(call, x)?,
    };
    let (scale, bias) = (per_channel(call, 1, c)?, per_channel(call, 2, c)?);
    let (mut mean, mut variance) = (per_channel(call, 3, c)?, per_channel(call, 4, c)?);
    let count = call.budget.take(x.dtype(), x.shape())?;
    call.budget.work(2 * count as u64)?;
    let (epsilon, momentum) = (f64::from(call.float("epsilon", 1e-5)), f64::from(call.float("momentum", 0.9)));
    let training = call.flag("training_mode", false);
    let mut running = None;
    if training {
        let values = load::<f64>(call.op, x)?;
        let old = (mean.clone(), variance.clone());
        for channel in 0..c {
            let lines = (0..n).flat_map(|i| &values[(i * c + channel) * points..][..points]).copied().collect::<Vec<f64>>();
            (mean[channel], variance[channel]) = moments(&lines);
        }
        let blend = |old: &[f64], new: &[f64]| {
            old.iter().zip(new).map(|(o, n)| o * momentum + n * (1.0 - momentum)).collect::<Vec<f64>>()
        };
        running = Some((blend(&old.0, &mean), blend(&old.1, &variance)));
    }
    let factors: Vec<(f64, f64)> = (0..c)
        .map(|i| {
            let factor = scale[i] / (variance[i] + epsilon).sqrt();
            (factor, bias[i] - mean[i] * factor)
        })
        .collect();
    let y = real_type!(x.dtype(), R => {
        let mut out = load::<R>(call.op, x)?.into_owned();
        if count > 0 {
            for (i, plane) in out.chunks_exact_mut(points).enumerate() {
                let (factor, shift) = factors[i % c];
                plane.iter_mut().for_each(|v| *v = R::of(v.wide() * factor + shift));
            }
        }
        R::store(x.dtype(), x.shape().to_vec(), out)
    });
    let mut results = vec![y.into()];
    if let Some((mean, variance)) = running {
        for (index, values) in [(3, mean), (4, variance)] {
            results.push(f64::store(call.tensor(index)?.dtype(), vec![c], values).into());
        }
    }
    Ok(results)
}

/// Normalises consecutive lines, then scales and shifts element `i` of line `l` by what `affine(l, i)` gives.
fn normalize_lines(call: &Call<'_>, x: &Tensor, line: usize, affine: impl Fn(usize, usize) -> (f64, f64)) -> Result<Tensor> {
    let epsilon = f64::from(call.float("epsilon", 1e-5));
    call.budget.take(x.dtype(), x.shape())?;
    call.budget.work(4 * x.len() as u64)?;
    real_type!(x.dtype(), R => {
        let mut out = load::<R>(call.op, x)?.into_owned();
        if line > 0 {
            for (l, line) in out.chunks_exact_mut(line).enumerate() {
                let (mean, variance) = moments(line);
                let factor = 1.0 / (variance + epsilon).sqrt();
                for (i, value) in line.iter_mut().enumerate() {
                    let (scale, bias) = affine(l, i);
                    *value = R::of((value.wide() - mean) * factor * scale + bias);
                }
            }
        }
        Ok(R::store(x.dtype(), x.shape().to_vec(), out))
    })
}

fn instance_norm(call: &Call<'_>) -> Result<Vec<Datum>> {
    let x = call.tensor(0)?;
    let (_, c, points) = channels(call, x)?;
    let (scale, bias) = (per_channel(call, 1, c)?, per_channel(call, 2, c)?);
    normalize_lines(call, x, points, |line, _| (scale[line % c], bias[line % c])).and_then(one)
}

fn group_norm(call: &Call<'_>) -> Result<Vec<Datum>> {
    let x = call.tensor(0)?;
    let (_, c, points) = channels(call, x)?;
    let groups = usize::try_from(call.int("num_groups", 0)).unwrap_or(0);
    if groups == 0 || c % groups != 0 {
        return Err(call.attribute_error(format_args!("{groups} groups of {c} channels")));
    }
    let (scale, bias) = (per_channel(call, 1, c)?, per_channel(call, 2, c)?);
    let each = c / groups;
    let affine = |line: usize, i: usize| {
        let channel = line % groups * each + i / points;
        (scale[channel], bias[channel])
    };
    normalize_lines(call, x, each * points, affine).and_then(one)
}

/// An operand broadcast to the axes that a normalisation covers.
fn spread(call: &Call<'_>, tensor: &Tensor, shape: &[usize]) -> Result<Vec<f64>> {
    if broadcast_shape(call.op, &[tensor.shape(), shape])? != shape {
        return Err(call.shape_error(format_args!("{:?} does not broadcast to {shape:?}", tensor.shape())));
    }
    let values = load::<f64>(call.op, tensor)?;
    Ok(copy_view(&values, 0, shape, &broadcast_strides(tensor.shape(), shape)))
}

/// The type that statistics are kept in.
fn stash(call: &Call<'_>) -> Result<DType> {
    let code = call.int("stash_type", 1);
    DType::of_code(code).filter(|dtype| dtype.is_float()).ok_or_else(|| call.attribute_error(format_args!("stash_type {code}")))
}

fn layer_norm(call: &Call<'_>) -> Result<Vec<Datum>> {
    let x = call.tensor(0)?;
    let axis = call.axis("axis", -1, x.shape().len())?;
    let (outer, inner) = x.shape().split_at(axis);
    let line: usize = inner.iter().product();
    call.budget.take(DType::F64, inner)?;
    let scale = spread_or(call, 1, x, axis)?;
    let bias = spread_or(call, 2, x, axis)?;
    let pick = |values: &Option<Spread>, l: usize, i: usize, other: f64| values.as_ref().map_or(other, |values| values.at(l, i));
    let y = normalize_lines(call, x, line, |l, i| (pick(&scale, l, i, 1.0), pick(&bias, l, i, 0.0)))?;
    let mut results = vec![y.into()];
    if call.wants(1) {
        let shape: Vec<usize> = outer.iter().copied().chain(inner.iter().map(|_| 1)).collect();
        let epsilon = f64::from(call.float("epsilon", 1e-5));
        let values = load::<f64>(call.op, x)?;
        let (means, factors) = values
            .chunks_exact(line.max(1))
            .map(moments)
            .map(|(mean, variance)| (mean, 1.0 / (variance + epsilon).sqrt()))
            .unzip::<f64, f64, Vec<_>, Vec<_>>();
        call.same_shape("statistics", &[means.len()], &[shape.iter().product()])?;
        let dtype = stash(call)?;
        results.push(f64::store(dtype, shape.clone(), means).into());
        if call.wants(2) {
            results.push(f64::store(dtype, shape, factors).into());
        }
    }
    Ok(results)
}

/// Factors of a normalisation: the same for every line, or one for every element.
struct Spread {
    values: Vec<f64>,
    line: usize,
    whole: bool,
}

impl Spread {
    fn at(&self, line: usize, i: usize) -> f64 {
        self.values[if self.whole { line * self.line + i } else { i }]
    }
}

/// An optional operand that broadcasts to the normalised axes, or else to the whole input.
fn spread_or(call: &Call<'_>, index: usize, x: &Tensor, axis: usize) -> Result<Option<Spread>> {
    let Some(tensor) = call.optional(index)? else { return Ok(None) };
    let inner = &x.shape()[axis..];
    let line = inner.iter().product();
    let whole = tensor.shape().len() > inner.len();
    if whole {
        call.budget.take(DType::F64, x.shape())?;
    }
    let values = spread(call, tensor, if whole { x.shape() } else { inner })?;
    Ok(Some(Spread { values, line, whole }))
}

fn rms_norm(call: &Call<'_>) -> Result<Vec<Datum>> {
    let x = call.tensor(0)?;
    let axis = call.axis("axis", -1, x.shape().len())?;
    let line: usize = x.shape()[axis..].iter().product();
    let epsilon = f64::from(call.float("epsilon", 1e-5));
    let count = call.budget.take(x.dtype(), x.shape())?;
    call.budget.work(4 * count as u64)?;
    let scale = spread_or(call, 1, x, axis)?;
    let dtype = call.optional(1)?.map_or(x.dtype(), Tensor::dtype);
    let mut values = load::<f64>(call.op, x)?.into_owned();
    if line > 0 {
        for (l, line) in values.chunks_exact_mut(line).enumerate() {
            let square = line.iter().map(|v| v * v).sum::<f64>() / line.len() as f64;
            let factor = 1.0 / (square + epsilon).sqrt();
            for (i, value) in line.iter_mut().enumerate() {
                *value *= factor * scale.as_ref().map_or(1.0, |scale| scale.at(l, i));
            }
        }
    }
    one(f64::store(dtype, x.shape().to_vec(), values))
}

fn local_response_norm(call: &Call<'_>) -> Result<Vec<Datum>> {
    let x = call.tensor(0)?;
    let (n, c, points) = channels(call, x)?;
    let size = call.int("size", 0);
    let (alpha, beta, bias) =
        (f64::from(call.float("alpha", 1e-4)), f64::from(call.float("beta", 0.75)), f64::from(call.float("bias", 1.0)));
    if size < 1 {
        return Err(call.attribute_error(format_args!("size {size}")));
    }
    let (back, ahead) = ((size - 1) / 2, size / 2);
    let count = call.budget.take(x.dtype(), x.shape())?;
    call.budget.work((count as u64).saturating_mul(size.min(c as i64) as u64))?;
    if count == 0 {
        return one(x.clone());
    }
    let values = load::<f64>(call.op, x)?;
    let mut out = Vec::with_capacity(count);
    for (i, channel) in (0..n).flat_map(|i| (0..c).map(move |channel| (i, channel))) {
        let from = (channel as i64 - back).max(0) as usize;
        let to = (channel as i64).saturating_add(ahead).min(c as i64 - 1) as usize;
        for point in 0..points {
            let at = |channel: usize| values[(i * c + channel) * points + point];
            let square: f64 = (from..=to).map(|channel| at(channel).powi(2)).sum();
            out.push(at(channel) / (bias + alpha / size as f64 * square).powf(beta));
        }
    }
    one(f64::store(x.dtype(), x.shape().to_vec(), out))
}

/// Calls `line` with each line along an axis, gathered into a buffer, and writes the buffer back.
pub(super) fn lines_along<T: Copy>(values: &mut [T], shape: &[usize], axis: usize, mut line: impl FnMut(&mut [T])) {
    let (extent, inner): (usize, usize) = (shape[axis], shape[axis + 1..].iter().product());
    if values.is_empty() {
        return;
    }
    if inner == 1 {
        return values.chunks_exact_mut(extent).for_each(line);
    }
    let mut buffer = Vec::with_capacity(extent);
    for block in values.chunks_exact_mut(extent * inner) {
        for column in 0..inner {
            buffer.clear();
            buffer.extend((0..extent).map(|i| block[i * inner + column]));
            line(&mut buffer);
            for (i, &value) in buffer.iter().enumerate() {
                block[i * inner + column] = value;
            }
        }
    }
}

/// Applies a function to each line along an axis.
fn along(call: &Call<'_>, axis: usize, line: impl FnMut(&mut [f64])) -> Result<Vec<Datum>> {
    let x = call.tensor(0)?;
    let count = call.budget.take(x.dtype(), x.shape())?;
    call.budget.work(4 * count as u64)?;
    let mut values = load::<f64>(call.op, x)?.into_owned();
    lines_along(&mut values, x.shape(), axis, line);
    one(f64::store(x.dtype(), x.shape().to_vec(), values))
}

fn lp_norm(call: &Call<'_>) -> Result<Vec<Datum>> {
    let axis = call.axis("axis", -1, call.tensor(0)?.shape().len())?;
    let p = call.int("p", 2);
    along(call, axis, |line| {
        let norm = match p {
            1 => line.iter().map(|v| v.abs()).sum::<f64>(),
            _ => line.iter().map(|v| v * v).sum::<f64>().sqrt(),
        };
        line.iter_mut().for_each(|v| *v = if norm == 0.0 { 0.0 } else { *v / norm });
    })
}

fn mean_variance_norm(call: &Call<'_>) -> Result<Vec<Datum>> {
    let x = call.tensor(0)?;
    let axes = call.places(call.ints("axes").unwrap_or(&[0, 2, 3]), x.shape().len())?;
    let count = call.budget.take(x.dtype(), x.shape())?;
    call.budget.work(4 * count as u64)?;
    let plan = super::reduce::Plan::new(x.shape(), &axes, true);
    let values = load::<f64>(call.op, x)?;
    let mut statistics = Vec::new();
    plan.each(&values, |line| statistics.push(moments(line)));
    let strides = broadcast_strides(&plan.shape, x.shape());
    let statistics = copy_view(&statistics, 0, x.shape(), &strides);
    // The function body of the operator adds 1e-9 to the deviation.
    let out = values.iter().zip(statistics).map(|(v, (mean, variance))| (v - mean) / (variance.sqrt() + 1e-9));
    one(f64::store(x.dtype(), x.shape().to_vec(), out.collect()))
}

/// What is made of a line of scores.
#[derive(Copy, Clone)]
enum Kind {
    Softmax,
    Log,
    Hard,
}

/// Turns a line of scores into probabilities. A line of only -∞ gives NaN, as the formula does.
///
/// In `f16` and `Bf16` every step of the operator's function body (difference, exponential, sum, quotient) is rounded to the type, as
/// by the numpy that made the node tests: its sums of `Bf16` round after each addend.
pub(super) fn softmax_line<R: Real>(dtype: DType, line: &mut [R]) {
    let top = line.iter().copied().fold(R::neg_infinity(), R::max);
    if !matches!(dtype, DType::F16 | DType::Bf16) {
        let mut sum = R::zero();
        for value in line.iter_mut() {
            *value = (*value - top).exp();
            sum += *value;
        }
        return line.iter_mut().for_each(|value| *value = *value / sum);
    }
    let mut sum = R::zero();
    for value in line.iter_mut() {
        *value = rounded(dtype, rounded(dtype, *value - top).exp());
        sum = if dtype == DType::Bf16 { rounded(dtype, sum + *value) } else { sum + *value };
    }
    let sum = rounded(dtype, sum);
    line.iter_mut().for_each(|value| *value = rounded(dtype, *value / sum));
}

/// The nearest value of a narrower type.
pub(super) fn rounded<R: Real>(dtype: DType, value: R) -> R {
    match dtype {
        DType::F16 => R::of(half::f16::from_f64(value.wide()).to_f64()),
        DType::Bf16 => R::of(half::bf16::from_f64(value.wide()).to_f64()),
        _ => value,
    }
}

fn softmax(call: &Call<'_>, kind: Kind) -> Result<Vec<Datum>> {
    let x = call.tensor(0)?;
    let axis = call.axis("axis", -1, x.shape().len())?;
    let count = call.budget.take(x.dtype(), x.shape())?;
    call.budget.work(4 * count as u64)?;
    if !x.dtype().is_float() {
        return Err(call.dtype_error(x.dtype()));
    }
    real_type!(x.dtype(), R => {
        let mut values = load::<R>(call.op, x)?.into_owned();
        lines_along(&mut values, x.shape(), axis, |line| match kind {
            Kind::Softmax => softmax_line(x.dtype(), line),
            Kind::Log => {
                let top = line.iter().copied().fold(R::neg_infinity(), R::max);
                let sum = line.iter().map(|&v| (v - top).exp()).sum::<R>().ln();
                line.iter_mut().for_each(|v| *v = *v - top - sum);
            }
            Kind::Hard => {
                let best = (0..line.len()).rev().fold(0, |best, i| if line[i] >= line[best] { i } else { best });
                let best = (0..line.len()).find(|&i| line[i] >= line[best]).unwrap_or(0);
                line.iter_mut().enumerate().for_each(|(i, v)| *v = if i == best { R::one() } else { R::zero() });
            }
        });
        one(R::store(x.dtype(), x.shape().to_vec(), values))
    })
}
