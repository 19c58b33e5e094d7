//! Resampling along axes: `Resize` in all its modes, and the older `Upsample`.
//!
//! Interpolation is separable, so each axis is resampled on its own by a list of (place, weight) per output position. Where ONNX's
//! text leaves a choice (which of two equally near points), this follows the reference implementation that ships with `onnx`.

use super::call::one;
use super::number::{Real, load};
use super::{Call, Evaluate, EvaluateError};
use crate::{Datum, Tensor};
use schema::DType;

type Result<T> = std::result::Result<T, EvaluateError>;

pub(super) static OPERATORS: &[(&str, Evaluate)] = &[("Resize", resize), ("Upsample", upsample)];

/// How values between points are made.
struct Mode<'a> {
    name: &'a str,
    nearest: &'a str,
    cubic: f64,
    antialias: bool,
    exclude_outside: bool,
    transform: &'a str,
    extrapolation: f64,
}

impl<'a> Mode<'a> {
    fn new(call: &Call<'a>) -> Result<Self> {
        let mode = Mode {
            name: call.text("mode", "nearest"),
            nearest: call.text("nearest_mode", "round_prefer_floor"),
            cubic: f64::from(call.float("cubic_coeff_a", -0.75)),
            antialias: call.flag("antialias", false),
            exclude_outside: call.flag("exclude_outside", false),
            transform: call.text("coordinate_transformation_mode", "half_pixel"),
            extrapolation: f64::from(call.float("extrapolation_value", 0.0)),
        };
        let known = match mode.name {
            "nearest" => matches!(mode.nearest, "round_prefer_floor" | "round_prefer_ceil" | "floor" | "ceil") && !mode.antialias,
            "linear" | "cubic" => true,
            _ => false,
        };
        let transforms =
            ["half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric", "tf_crop_and_resize"];
        match known && transforms.contains(&mode.transform) {
            true => Ok(mode),
            false => Err(call.attribute_error(format_args!("mode '{}', '{}', '{}'", mode.name, mode.nearest, mode.transform))),
        }
    }

    /// The weights of the points around a place `ratio` (in (0, 1]) after a point.
    fn weights(&self, ratio: f64, scale: f64) -> Vec<f64> {
        let scale = scale.min(1.0);
        match self.name {
            "nearest" => {
                let left = match self.nearest {
                    _ if ratio == 1.0 => false,
                    "round_prefer_floor" => ratio <= 0.5,
                    "round_prefer_ceil" => ratio < 0.5,
                    "floor" => true,
                    _ => false,
                };
                if left { vec![1.0, 0.0] } else { vec![0.0, 1.0] }
            }
            "linear" if !self.antialias => vec![1.0 - ratio, ratio],
            "linear" => {
                let start = (-1.0 / scale).floor() as i64 + 1;
                let taps = (start..2 - start).map(|i| (1.0 - ((i as f64 - ratio) * scale).abs()).clamp(0.0, 1.0));
                normalized(taps.collect())
            }
            _ if !self.antialias => (-1..3).map(|i| self.cubic_weight(i as f64 - ratio)).collect(),
            _ => {
                let start = (-2.0 / scale).floor() as i64 + 1;
                normalized((start..2 - start).map(|i| self.cubic_weight(scale * (i as f64 - ratio))).collect())
            }
        }
    }

    /// Keys' cubic convolution kernel.
    fn cubic_weight(&self, x: f64) -> f64 {
        let (a, x) = (self.cubic, x.abs());
        match x {
            x if x <= 1.0 => ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0,
            x if x < 2.0 => ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a,
            _ => 0.0,
        }
    }

    /// Where output position `at` lies in the input.
    fn origin(&self, at: f64, axis: &Axis) -> f64 {
        let (size, length) = (axis.input as f64, axis.scale * axis.input as f64);
        match self.transform {
            "align_corners" if length == 1.0 => 0.0,
            "align_corners" => at * (size - 1.0) / (length - 1.0),
            "asymmetric" => at / axis.scale,
            "tf_crop_and_resize" => {
                let (from, to) = axis.region;
                let along = if length == 1.0 {
                    (to - from) * (size - 1.0) / 2.0
                } else {
                    at * (to - from) * (size - 1.0) / (length - 1.0)
                };
                along + from * (size - 1.0)
            }
            "pytorch_half_pixel" if length == 1.0 => -0.5,
            "half_pixel_symmetric" => size / 2.0 * (1.0 - axis.output as f64 / length) + (at + 0.5) / axis.scale - 0.5,
            _ => (at + 0.5) / axis.scale - 0.5,
        }
    }

    /// For each output position the places and weights it is made of; `None` where it lies outside and takes the fill value.
    fn taps(&self, axis: &Axis) -> Vec<Option<Vec<(usize, f64)>>> {
        let limit = axis.input as i64;
        let position = |at: usize| {
            let origin = self.origin(at as f64, axis);
            if self.transform == "tf_crop_and_resize" && !(0.0..=(limit - 1) as f64).contains(&origin) {
                return None;
            }
            let floor = origin.floor();
            let ratio = if origin == floor { 1.0 } else { origin - floor };
            let mut weights = self.weights(ratio, axis.scale);
            let count = weights.len() as i64;
            // The points nearest to the origin, the left one when two are as near.
            let first = match count % 2 {
                0 => floor as i64 - count / 2 + i64::from(origin != floor),
                _ => floor as i64 - (count - 1) / 2 + i64::from(origin - floor > 0.5),
            };
            let outside = |i: usize| !(0..limit).contains(&(first + i as i64));
            if self.exclude_outside {
                (0..weights.len()).filter(|&i| outside(i)).for_each(|i| weights[i] = 0.0);
                weights = normalized(weights);
            }
            Some(
                weights
                    .into_iter()
                    .enumerate()
                    .map(|(i, weight)| ((first + i as i64).clamp(0, limit - 1) as usize, weight))
                    .collect(),
            )
        };
        (0..axis.output).map(position).collect()
    }
}

/// Weights whose sum is 1 (or 0).
fn normalized(mut weights: Vec<f64>) -> Vec<f64> {
    let sum: f64 = weights.iter().sum();
    if sum != 0.0 {
        weights.iter_mut().for_each(|weight| *weight /= sum);
    }
    weights
}

/// How one axis is resampled.
#[derive(Clone)]
struct Axis {
    input: usize,
    output: usize,
    scale: f64,
    region: (f64, f64),
}

/// Resamples the values along one axis of `shape`.
fn along(values: &[f64], shape: &[usize], axis: usize, taps: &[Option<Vec<(usize, f64)>>], fill: f64) -> Vec<f64> {
    let (outer, extent, inner): (usize, usize, usize) =
        (shape[..axis].iter().product(), shape[axis], shape[axis + 1..].iter().product());
    let mut out = vec![0.0; outer * taps.len() * inner];
    if inner == 0 {
        return out;
    }
    let mut rows = out.chunks_exact_mut(inner);
    for block in 0..outer {
        for (taps, row) in taps.iter().zip(rows.by_ref()) {
            let Some(taps) = taps else {
                row.fill(fill);
                continue;
            };
            for &(place, weight) in taps.iter().filter(|(_, weight)| *weight != 0.0) {
                let source = &values[(block * extent + place) * inner..][..inner];
                row.iter_mut().zip(source).for_each(|(slot, &value)| *slot += weight * value);
            }
        }
    }
    out
}

/// The resampling of each named axis, from scales or sizes.
fn plan(call: &Call<'_>, shape: &[usize], axes: &[usize]) -> Result<Vec<Axis>> {
    let given = |index: usize| call.optional(index).map(|tensor| tensor.filter(|tensor| !tensor.is_empty()));
    let (scales, sizes) = (given(2)?, given(3)?);
    let region = match given(1)? {
        Some(region) if call.text("coordinate_transformation_mode", "") == "tf_crop_and_resize" => {
            load::<f64>(call.op, region)?.into_owned()
        }
        _ => Vec::new(),
    };
    if !region.is_empty() && region.len() != 2 * axes.len() {
        return Err(call.shape_error(format_args!("a region of {} numbers for {} axes", region.len(), axes.len())));
    }
    let region = |i: usize| region.get(i).map_or((0.0, 1.0), |&from| (from, region[axes.len() + i]));
    let whole =
        |values: Vec<f64>| match values.len() == axes.len() && values.iter().all(|v| v.is_finite() && *v >= 0.0 && *v < 9e15) {
            true => Ok(values),
            false => Err(call.shape_error(format_args!("scales or sizes {values:?} for {} axes", axes.len()))),
        };
    let mut plan = Vec::with_capacity(axes.len());
    if let Some(sizes) = sizes {
        let sizes = whole(load::<f64>(call.op, sizes)?.into_owned())?;
        let mut scales: Vec<f64> = sizes.iter().zip(axes).map(|(size, &axis)| size / shape[axis] as f64).collect();
        let mut outputs: Vec<usize> = sizes.iter().map(|&size| size as usize).collect();
        let common = match call.text("keep_aspect_ratio_policy", "stretch") {
            "stretch" => None,
            "not_larger" => scales.iter().copied().reduce(f64::min),
            "not_smaller" => scales.iter().copied().reduce(f64::max),
            other => return Err(call.attribute_error(format_args!("keep_aspect_ratio_policy '{other}'"))),
        };
        if let Some(scale) = common {
            scales.fill(scale);
            outputs = axes.iter().map(|&axis| (scale * shape[axis] as f64 + 0.5) as usize).collect();
        }
        for (i, &axis) in axes.iter().enumerate() {
            plan.push(Axis { input: shape[axis], output: outputs[i], scale: scales[i], region: region(i) });
        }
    } else if let Some(scales) = scales {
        let scales = whole(load::<f64>(call.op, scales)?.into_owned())?;
        for (i, &axis) in axes.iter().enumerate() {
            let output = (scales[i] * shape[axis] as f64) as usize;
            plan.push(Axis { input: shape[axis], output, scale: scales[i], region: region(i) });
        }
    } else {
        return Err(call.shape_error("neither scales nor sizes"));
    }
    if plan.iter().any(|axis| (axis.input == 0 || axis.scale == 0.0) && axis.output > 0) {
        return Err(call.shape_error("nothing to resample"));
    }
    Ok(plan)
}

fn resize(call: &Call<'_>) -> Result<Vec<Datum>> {
    let x = call.tensor(0)?;
    let rank = x.shape().len();
    let axes = match call.ints("axes") {
        Some(axes) => call.places(axes, rank)?,
        None => (0..rank).collect(),
    };
    let mode = Mode::new(call)?;
    let plan = plan(call, x.shape(), &axes)?;
    resample(call, x, &mode, &axes, &plan)
}

/// Resamples one axis after the other.
fn resample(call: &Call<'_>, x: &Tensor, mode: &Mode<'_>, axes: &[usize], plan: &[Axis]) -> Result<Vec<Datum>> {
    let mut shape = x.shape().to_vec();
    let mut values = load::<f64>(call.op, x)?.into_owned();
    for (&axis, step) in axes.iter().zip(plan) {
        let identity = step.input == step.output
            && step.scale == 1.0
            && (step.region == (0.0, 1.0) || mode.transform != "tf_crop_and_resize");
        if identity {
            continue;
        }
        let before = shape.clone();
        shape[axis] = step.output;
        let count = call.budget.take(DType::F64, &shape)?;
        call.budget.take(DType::F64, &[step.output])?;
        let reach = if mode.antialias { (4.0 / step.scale.clamp(1e-9, 1.0)).ceil() as u64 } else { 4 };
        call.budget.work((count as u64).saturating_mul(2 * reach))?;
        values = along(&values, &before, axis, &mode.taps(step), mode.extrapolation);
    }
    if !x.dtype().is_float() {
        // Integers are rounded, as the reference does.
        values.iter_mut().for_each(|value| *value = value.round_ties_even());
    }
    one(f64::store(x.dtype(), shape, values))
}

/// The older form: scales only, corners at the lower left.
fn upsample(call: &Call<'_>) -> Result<Vec<Datum>> {
    let x = call.tensor(0)?;
    let scales = match call.floats("scales") {
        Some(scales) => scales.iter().map(|&scale| f64::from(scale)).collect(),
        None => load::<f64>(call.op, call.tensor(1)?)?.into_owned(),
    };
    if scales.len() != x.shape().len() || scales.iter().any(|scale| !(scale.is_finite() && *scale > 0.0 && *scale < 1e9)) {
        return Err(call.shape_error(format_args!("scales {scales:?} for {:?}", x.shape())));
    }
    let mode = Mode { transform: "asymmetric", nearest: "floor", ..Mode::new(call)? };
    let axes: Vec<usize> = (0..scales.len()).collect();
    let axis =
        |(&input, &scale): (&usize, &f64)| Axis { input, output: (input as f64 * scale) as usize, scale, region: (0.0, 1.0) };
    let plan: Vec<Axis> = x.shape().iter().zip(&scales).map(axis).collect();
    resample(call, x, &mode, &axes, &plan)
}
