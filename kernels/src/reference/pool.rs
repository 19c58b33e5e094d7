//! Pooling, its inverse, and pooling over regions.

use super::call::one;
use super::number::{Real, load, real_type};
use super::window::Window;
use super::{Call, Evaluate, EvaluateError};
use crate::{Datum, Tensor};
use num_traits::{Float as _, Zero as _};
use schema::DType;

type Result<T> = std::result::Result<T, EvaluateError>;

pub(super) static OPERATORS: &[(&str, Evaluate)] = &[
    ("MaxPool", max_pool),
    ("AveragePool", average_pool),
    ("LpPool", lp_pool),
    ("GlobalAveragePool", |call| global(call, |plane| plane.iter().sum::<f64>() / plane.len() as f64)),
    ("GlobalMaxPool", |call| global(call, |plane| plane.iter().copied().fold(f64::NEG_INFINITY, f64::max))),
    ("GlobalLpPool", |call| {
        let p = call.int("p", 2) as f64;
        global(call, |plane| plane.iter().map(|v| v.abs().powf(p)).sum::<f64>().powf(p.recip()))
    }),
    ("MaxUnpool", max_unpool),
    ("MaxRoiPool", max_roi_pool),
];

/// Number of planes (`n · c`) and the window of a pooling node.
fn geometry(call: &Call<'_>) -> Result<(usize, Window, Vec<usize>)> {
    let x = call.tensor(0)?;
    call.at_least(x, 3)?;
    let kernel = call.ints("kernel_shape").ok_or_else(|| call.attribute_error("no kernel_shape"))?;
    let window = Window::new(call, &x.shape()[2..], call.extents(kernel)?)?;
    let shape = [&x.shape()[..2], &window.output].concat();
    let count = call.budget.take(x.dtype(), &shape)?;
    call.budget.work((count as u64).saturating_mul(window.taps() as u64))?;
    let planes = if shape.contains(&0) { 0 } else { x.shape()[0] * x.shape()[1] };
    Ok((planes, window, shape))
}

fn max_pool(call: &Call<'_>) -> Result<Vec<Datum>> {
    let (planes, window, shape) = geometry(call)?;
    let x = call.tensor(0)?;
    let (table, taps) = (window.table(call)?, window.taps());
    let image: usize = window.input.iter().product();
    let by_column = call.int("storage_order", 0) == 1;
    let indices = call.wants(1);
    if indices {
        call.budget.take(DType::I64, &shape)?;
    }
    real_type!(x.dtype(), R => {
        let values = load::<R>(call.op, x)?;
        let (mut out, mut places) = (Vec::new(), Vec::new());
        for plane in 0..planes {
            let source = &values[plane * image..(plane + 1) * image];
            for taps in table.chunks_exact(taps) {
                let (mut best, mut from) = (R::neg_infinity(), None);
                for &place in taps.iter().filter(|&&place| place != Window::OUTSIDE) {
                    let value = source[place as usize];
                    if value > best || value.is_nan() || from.is_none() {
                        (best, from) = (value, Some(place as usize));
                    }
                }
                out.push(best);
                if indices {
                    let from = from.unwrap_or(0);
                    places.push((plane * image + if by_column { column_major(from, &window.input) } else { from }) as i64);
                }
            }
        }
        let mut results = vec![R::store(x.dtype(), shape.clone(), out).into()];
        if indices {
            results.push(Tensor::new(shape, places).into());
        }
        Ok(results)
    })
}

/// A row-major position as a column-major one.
fn column_major(mut at: usize, extents: &[usize]) -> usize {
    let mut digits = Vec::with_capacity(extents.len());
    for &extent in extents.iter().rev() {
        digits.push(at % extent);
        at /= extent;
    }
    extents.iter().rev().zip(&digits).fold(0, |sum, (&extent, &digit)| sum * extent + digit)
}

/// How many taps of each output point lie inside the padded image: the divisor when pads count.
fn padded_counts(window: &Window) -> Vec<usize> {
    let mut counts = vec![1usize];
    if window.output.contains(&0) {
        return Vec::new();
    }
    for axis in 0..window.input.len() {
        let limit = window.input[axis] as i64 + window.after[axis];
        let line: Vec<usize> = (0..window.output[axis])
            .map(|at| {
                let start = (at * window.strides[axis]) as i64 - window.before[axis];
                (0..window.kernel[axis]).filter(|tap| start + ((tap * window.dilations[axis]) as i64) < limit).count()
            })
            .collect();
        counts = counts.iter().flat_map(|&outer| line.iter().map(move |&inner| outer * inner)).collect();
    }
    counts
}

fn average_pool(call: &Call<'_>) -> Result<Vec<Datum>> {
    let (planes, window, shape) = geometry(call)?;
    let x = call.tensor(0)?;
    let (table, taps) = (window.table(call)?, window.taps());
    let image: usize = window.input.iter().product();
    let counts = call.flag("count_include_pad", false).then(|| padded_counts(&window));
    real_type!(x.dtype(), R => {
        let values = load::<R>(call.op, x)?;
        let mut out = Vec::new();
        for plane in 0..planes {
            let source = &values[plane * image..(plane + 1) * image];
            for (point, taps) in table.chunks_exact(taps).enumerate() {
                let (mut sum, mut inside) = (R::zero(), 0usize);
                for &place in taps.iter().filter(|&&place| place != Window::OUTSIDE) {
                    sum += source[place as usize];
                    inside += 1;
                }
                let count = counts.as_ref().map_or(inside, |counts| counts[point]);
                out.push(sum / R::of(count.max(1) as f64));
            }
        }
        one(R::store(x.dtype(), shape, out))
    })
}

fn lp_pool(call: &Call<'_>) -> Result<Vec<Datum>> {
    let (planes, window, shape) = geometry(call)?;
    let x = call.tensor(0)?;
    let (table, taps) = (window.table(call)?, window.taps());
    let image: usize = window.input.iter().product();
    let p = call.int("p", 2) as f64;
    let values = load::<f64>(call.op, x)?;
    let mut out = Vec::new();
    for plane in 0..planes {
        let source = &values[plane * image..(plane + 1) * image];
        for taps in table.chunks_exact(taps) {
            let inside = taps.iter().filter(|&&place| place != Window::OUTSIDE);
            out.push(inside.map(|&place| source[place as usize].abs().powf(p)).sum::<f64>().powf(p.recip()));
        }
    }
    one(f64::store(x.dtype(), shape, out))
}

/// Pools whole planes to one point each.
fn global(call: &Call<'_>, pool: impl Fn(&[f64]) -> f64) -> Result<Vec<Datum>> {
    let x = call.tensor(0)?;
    call.at_least(x, 2)?;
    let shape: Vec<usize> = x.shape().iter().enumerate().map(|(axis, &extent)| if axis < 2 { extent } else { 1 }).collect();
    let count = call.budget.take(x.dtype(), &shape)?;
    call.budget.work(x.len() as u64)?;
    let image: usize = x.shape()[2..].iter().product();
    let values = load::<f64>(call.op, x)?;
    let out = (0..count).map(|plane| pool(&values[plane * image..(plane + 1) * image])).collect();
    one(f64::store(x.dtype(), shape, out))
}

/// Puts values where the indices of a max pooling say; the rest is zero.
fn max_unpool(call: &Call<'_>) -> Result<Vec<Datum>> {
    let (x, indices) = (call.tensor(0)?, call.whole(1)?);
    call.at_least(x, 3)?;
    let axes = x.shape().len() - 2;
    let kernel = call.extents(call.ints("kernel_shape").ok_or_else(|| call.attribute_error("no kernel_shape"))?)?;
    let strides = super::window::counts(call, "strides", axes)?;
    let (before, after) = super::window::pads(call, axes)?;
    if kernel.len() != axes || indices.len() != x.len() {
        return Err(call.shape_error("kernel or indices do not fit the input"));
    }
    let natural = (0..axes).map(|axis| {
        let extent = (x.shape()[axis + 2] as i64 - 1).saturating_mul(strides[axis] as i64).saturating_add(kernel[axis] as i64);
        extent.saturating_sub(before[axis] + after[axis])
    });
    let natural = [&x.shape()[..2], &call.extents(&natural.collect::<Vec<_>>())?].concat();
    let shape = match call.optional_whole(2)? {
        Some(wanted) => call.extents(&wanted)?,
        None => natural.clone(),
    };
    if shape.len() != natural.len() {
        return Err(call.shape_error(format_args!("an output of shape {shape:?}")));
    }
    let count = call.budget.take(x.dtype(), &shape)?;
    let strides = super::walk::dense_strides(&shape);
    real_type!(x.dtype(), R => {
        let values = load::<R>(call.op, x)?;
        let mut out = vec![R::default(); count];
        for (&index, &value) in indices.iter().zip(values.iter()) {
            // Indices count in the natural output; a larger output keeps their coordinates.
            let mut at = usize::try_from(index).map_err(|_| call.index_error(format_args!("index {index}")))?;
            let mut place = 0;
            for axis in (0..natural.len()).rev() {
                place += at % natural[axis].max(1) * strides[axis] as usize;
                at /= natural[axis].max(1);
            }
            *out.get_mut(place).filter(|_| at == 0).ok_or_else(|| call.index_error(format_args!("index {index}")))? = value;
        }
        one(R::store(x.dtype(), shape, out))
    })
}

/// Inputs: x `[n, c, h, w]`, regions `[r, 5]` as batch, x1, y1, x2, y2.
fn max_roi_pool(call: &Call<'_>) -> Result<Vec<Datum>> {
    let (x, regions) = (call.tensor(0)?, call.tensor(1)?);
    let (&[batch, channels, height, width], &[count, 5]) = (x.shape(), regions.shape()) else {
        return Err(call.shape_error(format_args!("input {:?}, regions {:?}", x.shape(), regions.shape())));
    };
    let pooled = call.extents(call.ints("pooled_shape").unwrap_or(&[]))?;
    let &[high, wide] = pooled.as_slice() else {
        return Err(call.attribute_error("pooled_shape is not two extents"));
    };
    let shape = vec![count, channels, high, wide];
    call.budget.take(x.dtype(), &shape)?;
    call.budget.work((count as u64).saturating_mul((channels * height) as u64).saturating_mul(width as u64))?;
    let scale = f64::from(call.float("spatial_scale", 1.0));
    let (values, regions) = (load::<f64>(call.op, x)?, load::<f64>(call.op, regions)?);
    let mut out = Vec::new();
    for region in regions.chunks_exact(5) {
        let n = region[0] as usize;
        if region[0] < 0.0 || n >= batch {
            return Err(call.index_error(format_args!("batch {} of {batch}", region[0])));
        }
        let [left, top, right, bottom] = [1, 2, 3, 4].map(|i| (region[i] * scale).round());
        let (tall, broad) = ((bottom - top + 1.0).max(1.0), (right - left + 1.0).max(1.0));
        let span = |at: usize, parts: usize, size: f64, start: f64, limit: usize| {
            let (from, to) =
                ((at as f64 * size / parts as f64).floor() + start, ((at + 1) as f64 * size / parts as f64).ceil() + start);
            (from.clamp(0.0, limit as f64) as usize, to.clamp(0.0, limit as f64) as usize)
        };
        for channel in 0..channels {
            let plane = &values[(n * channels + channel) * height * width..][..height * width];
            for (row, column) in (0..high).flat_map(|row| (0..wide).map(move |column| (row, column))) {
                let (rows, columns) = (span(row, high, tall, top, height), span(column, wide, broad, left, width));
                let mut best = f64::NEG_INFINITY;
                for y in rows.0..rows.1 {
                    best =
                        plane[y * width..][..width].get(columns.0..columns.1).unwrap_or(&[]).iter().copied().fold(best, f64::max);
                }
                out.push(if best == f64::NEG_INFINITY { 0.0 } else { best });
            }
        }
    }
    one(f64::store(x.dtype(), shape, out))
}
