//! Convolutions: plain, transposed, deformable, of integers and quantised, causal with a state; and columns back to images.

use super::call::one;
use super::matmul::multiply;
use super::number::{Real, load, real_type};
use super::quantize::{Affine, centred_by_channel};
use super::window::{Window, counts, pads};
use super::{Call, Evaluate, EvaluateError};
use crate::{Datum, Tensor};
use schema::DType;

type Result<T> = std::result::Result<T, EvaluateError>;

pub(super) static OPERATORS: &[(&str, Evaluate)] = &[
    ("Conv", conv),
    ("ConvInteger", conv_integer),
    ("QLinearConv", qlinear_conv),
    ("ConvTranspose", conv_transpose),
    ("DeformConv", deform_conv),
    ("Col2Im", col_to_image),
    ("CausalConvWithState", causal_conv),
];

/// The extents of a convolution.
struct Extents {
    batch: usize,
    channels: usize,
    groups: usize,
    filters: usize,
    window: Window,
}

impl Extents {
    /// Of input `[n, c, …]` and weight `[k, c / groups, …]`.
    fn new(call: &Call<'_>, x: &Tensor, w: &Tensor) -> Result<Self> {
        let (&[batch, channels, ref image @ ..], &[filters, per_group, ref kernel @ ..]) = (x.shape(), w.shape()) else {
            return Err(call.shape_error(format_args!("input {:?}, weight {:?}", x.shape(), w.shape())));
        };
        let groups = usize::try_from(call.int("group", 1)).unwrap_or(0);
        if groups == 0 || per_group.checked_mul(groups) != Some(channels) || filters % groups != 0 || image.len() != kernel.len()
        {
            return Err(call.shape_error(format_args!("input {:?}, weight {:?}, {groups} groups", x.shape(), w.shape())));
        }
        if call.ints("kernel_shape").is_some_and(|shape| shape.iter().map(|&v| v as usize).ne(kernel.iter().copied())) {
            return Err(call.attribute_error(format_args!("kernel_shape is not that of weight {:?}", w.shape())));
        }
        Ok(Extents { batch, channels, groups, filters, window: Window::new(call, image, kernel.to_vec())? })
    }

    fn shape(&self) -> Vec<usize> {
        [&[self.batch, self.filters], self.window.output.as_slice()].concat()
    }

    /// Takes bytes and work from the budget.
    fn charge(&self, call: &Call<'_>, dtype: DType) -> Result<usize> {
        let count = call.budget.take(dtype, &self.shape())?;
        let taps = (self.channels / self.groups).saturating_mul(self.window.taps());
        call.budget.work((count as u64).saturating_mul(taps as u64).saturating_mul(2))?;
        Ok(count)
    }
}

/// Convolves by gathering columns of the input, a block of output points at a time, and multiplying them by the weights.
fn convolve<T: Copy>(call: &Call<'_>, e: &Extents, x: &[T], w: &[T], zero: T, fused: impl Fn(T, T, T) -> T) -> Result<Vec<T>> {
    /// Output points whose columns are gathered together: a row of products stays in the first-level cache.
    const BLOCK: usize = 256;
    let table = e.window.table(call)?;
    let (points, image): (usize, usize) = (e.window.output.iter().product(), e.window.input.iter().product());
    let (taps, depth, per_group) = (e.window.taps(), e.channels / e.groups, e.filters / e.groups);
    let mut out = vec![zero; e.batch * e.filters * points];
    if out.is_empty() {
        return Ok(out);
    }
    let mut columns = vec![zero; depth * taps * BLOCK.min(points)];
    let mut products = vec![zero; per_group * BLOCK.min(points)];
    for n in 0..e.batch {
        for group in 0..e.groups {
            let weights = &w[group * per_group * depth * taps..(group + 1) * per_group * depth * taps];
            for from in (0..points).step_by(BLOCK) {
                let width = BLOCK.min(points - from);
                for channel in 0..depth {
                    let plane = &x[((n * e.groups + group) * depth + channel) * image..][..image];
                    for tap in 0..taps {
                        let row = &mut columns[(channel * taps + tap) * width..][..width];
                        for (i, slot) in row.iter_mut().enumerate() {
                            let place = table[(from + i) * taps + tap];
                            *slot = if place == Window::OUTSIDE { zero } else { plane[place as usize] };
                        }
                    }
                }
                let results = &mut products[..per_group * width];
                results.fill(zero);
                multiply(weights, &columns[..depth * taps * width], depth * taps, width, results, &fused);
                for filter in 0..per_group {
                    let to = ((n * e.groups + group) * per_group + filter) * points + from;
                    out[to..to + width].copy_from_slice(&results[filter * width..(filter + 1) * width]);
                }
            }
        }
    }
    Ok(out)
}

/// Adds one value per channel.
fn add_bias<R: Real>(call: &Call<'_>, out: &mut [R], bias: Option<&Tensor>, channels: usize, points: usize) -> Result<()> {
    let Some(bias) = bias else { return Ok(()) };
    call.same_shape("bias", bias.shape(), &[channels])?;
    let values = load::<R>(call.op, bias)?;
    if points > 0 && channels > 0 {
        for (i, plane) in out.chunks_exact_mut(points).enumerate() {
            plane.iter_mut().for_each(|slot| *slot += values[i % channels]);
        }
    }
    Ok(())
}

fn conv(call: &Call<'_>) -> Result<Vec<Datum>> {
    let (x, w) = (call.tensor(0)?, call.tensor(1)?);
    let e = Extents::new(call, x, w)?;
    e.charge(call, x.dtype())?;
    real_type!(x.dtype(), R => {
        let mut out = convolve(call, &e, &load::<R>(call.op, x)?, &load::<R>(call.op, w)?, R::default(), |sum: R, w, x| sum + w * x)?;
        add_bias(call, &mut out, call.optional(2)?, e.filters, e.window.output.iter().product())?;
        one(R::store(x.dtype(), e.shape(), out))
    })
}

fn conv_integer(call: &Call<'_>) -> Result<Vec<Datum>> {
    let (x, w) = (call.tensor(0)?, call.tensor(1)?);
    let e = Extents::new(call, x, w)?;
    e.charge(call, DType::I32)?;
    let (x, w) = (centred_by_channel(call, x, call.optional(2)?)?, centred_by_channel(call, w, call.optional(3)?)?);
    let out = convolve(call, &e, &x, &w, 0i32, |sum, w, x| sum.wrapping_add(w.wrapping_mul(x)))?;
    one(Tensor::new(e.shape(), out))
}

/// Inputs: x, scale, zero; w, scale(s), zero(s); scale, zero of the result; bias as i32.
fn qlinear_conv(call: &Call<'_>) -> Result<Vec<Datum>> {
    let (x, w) = (call.tensor(0)?, call.tensor(3)?);
    let e = Extents::new(call, x, w)?;
    e.charge(call, DType::F64)?;
    let out_zero = call.tensor(7)?;
    let scales = |index: usize| load::<f64>(call.op, call.tensor(index)?);
    let (x_scale, w_scale, y_scale) = (scales(1)?, scales(4)?, scales(6)?);
    if x_scale.len() != 1 || y_scale.len() != 1 || (w_scale.len() != 1 && w_scale.len() != e.filters) {
        return Err(call.shape_error("one scale for x and y, one or one per filter for w"));
    }
    let (x, w) = (centred_by_channel(call, x, call.optional(2)?)?, centred_by_channel(call, w, call.optional(5)?)?);
    let mut out = convolve(call, &e, &x, &w, 0i32, |sum, w, x| sum.wrapping_add(w.wrapping_mul(x)))?;
    let points: usize = e.window.output.iter().product();
    if let Some(bias) = call.optional(8)? {
        call.same_shape("bias", bias.shape(), &[e.filters])?;
        let values = bias.to_ints().ok_or_else(|| call.dtype_error(bias.dtype()))?;
        for (i, slot) in out.iter_mut().enumerate() {
            *slot = slot.wrapping_add(values[i / points % e.filters] as i32);
        }
    }
    let affine = Affine::of(call, out_zero)?;
    let scaled = out.iter().enumerate().map(|(i, &sum)| {
        let w_scale = w_scale[if w_scale.len() == 1 { 0 } else { i / points % e.filters }];
        affine.quantize(f64::from(sum) * x_scale[0] * w_scale / y_scale[0])
    });
    one(affine.tensor(e.shape(), scaled.collect()))
}

/// The window of a transposed convolution, seen from its output: an output point of the window is a point of the input `image`.
fn transposed_window(call: &Call<'_>, image: &[usize], kernel: &[usize]) -> Result<Window> {
    let axes = image.len();
    let (strides, dilations) = (counts(call, "strides", axes)?, counts(call, "dilations", axes)?);
    let (mut before, mut after) = pads(call, axes)?;
    let extra = call.ints("output_padding").map_or_else(|| vec![0; axes], <[i64]>::to_vec);
    let wanted = call.ints("output_shape").filter(|shape| !shape.is_empty());
    if extra.len() != axes || extra.iter().any(|&v| !(0..1 << 31).contains(&v)) || wanted.is_some_and(|shape| shape.len() < axes)
    {
        return Err(call.attribute_error("output_padding or output_shape has the wrong length"));
    }
    if kernel.contains(&0) || kernel.len() != axes || image.iter().any(|&extent| extent >= 1 << 31) {
        return Err(call.shape_error(format_args!("a kernel {kernel:?} over {image:?}")));
    }
    let auto = call.text("auto_pad", "NOTSET");
    let mut sizes = Vec::with_capacity(axes);
    for axis in 0..axes {
        let (size, stride) = (image[axis] as i64, strides[axis] as i64);
        let span = (kernel[axis] as i64 - 1).saturating_mul(dilations[axis] as i64).saturating_add(1);
        let full = ((size - 1) * stride).saturating_add(span).saturating_add(extra[axis]);
        let extent = match (wanted, auto) {
            (Some(shape), _) => shape[shape.len() - axes + axis],
            (None, "SAME_UPPER" | "SAME_LOWER") => size * stride,
            (None, "VALID") => full,
            _ => full.saturating_sub(before[axis] + after[axis]),
        };
        if wanted.is_some() || auto.starts_with("SAME") {
            let total = full.saturating_sub(extent).max(0);
            before[axis] = if auto == "SAME_UPPER" { total / 2 } else { total - total / 2 };
            after[axis] = total - before[axis];
        } else if auto == "VALID" {
            (before[axis], after[axis]) = (0, 0);
        }
        let extent = usize::try_from(extent).ok().filter(|&extent| extent < 1 << 40);
        sizes.push(extent.ok_or_else(|| call.shape_error(format_args!("a kernel {kernel:?} over {image:?}")))?);
    }
    Ok(Window { kernel: kernel.to_vec(), strides, dilations, before, after, input: sizes, output: image.to_vec() })
}

fn conv_transpose(call: &Call<'_>) -> Result<Vec<Datum>> {
    let (x, w) = (call.tensor(0)?, call.tensor(1)?);
    let (&[batch, channels, ref image @ ..], &[depth, per_group, ref kernel @ ..]) = (x.shape(), w.shape()) else {
        return Err(call.shape_error(format_args!("input {:?}, weight {:?}", x.shape(), w.shape())));
    };
    let groups = usize::try_from(call.int("group", 1)).unwrap_or(0);
    if groups == 0 || channels != depth || channels % groups != 0 || image.len() != kernel.len() {
        return Err(call.shape_error(format_args!("input {:?}, weight {:?}, {groups} groups", x.shape(), w.shape())));
    }
    let window = transposed_window(call, image, kernel)?;
    let filters = per_group.checked_mul(groups).ok_or_else(|| call.shape_error("too many filters"))?;
    let shape = [&[batch, filters], window.input.as_slice()].concat();
    let count = call.budget.take(x.dtype(), &shape)?;
    let (points, taps): (usize, usize) = (image.iter().product(), window.taps());
    call.budget.work((x.len() as u64).saturating_mul(per_group as u64).saturating_mul(taps as u64).saturating_mul(2))?;
    let table = window.table(call)?;
    let whole: usize = window.input.iter().product();
    let group_depth = channels / groups;
    real_type!(x.dtype(), R => {
        let (values, weights) = (load::<R>(call.op, x)?, load::<R>(call.op, w)?);
        let mut out = vec![R::default(); count];
        let planes = if points == 0 || count == 0 { 0 } else { batch * channels };
        for plane in 0..planes {
            let (n, channel) = (plane / channels, plane % channels);
            let source = &values[plane * points..(plane + 1) * points];
            for filter in 0..per_group {
                let to = (n * filters + channel / group_depth * per_group + filter) * whole;
                let target = &mut out[to..to + whole];
                let weights = &weights[(channel * per_group + filter) * taps..][..taps];
                for (places, &value) in table.chunks_exact(taps).zip(source) {
                    for (&place, &weight) in places.iter().zip(weights) {
                        if place != Window::OUTSIDE {
                            target[place as usize] += value * weight;
                        }
                    }
                }
            }
        }
        add_bias(call, &mut out, call.optional(2)?, filters, whole)?;
        one(R::store(x.dtype(), shape, out))
    })
}

/// A value between the points of an image; outside there are zeros.
fn bilinear<R: Real>(plane: &[R], height: usize, width: usize, y: R, x: R) -> R {
    let (top, left) = (y.floor(), x.floor());
    let mut sum = R::zero();
    for (row, row_share) in [(top, R::one() - (y - top)), (top + R::one(), y - top)] {
        for (column, share) in [(left, R::one() - (x - left)), (left + R::one(), x - left)] {
            let inside = row >= R::zero() && column >= R::zero() && row < R::of(height as f64) && column < R::of(width as f64);
            if let (true, Some(row), Some(column)) = (inside, row.to_usize(), column.to_usize()) {
                sum += row_share * share * plane[row * width + column];
            }
        }
    }
    sum
}

/// Inputs: x `[n, c, h, w]`, weight, offsets `[n, groups · taps · 2, h', w']`, bias, mask `[n, groups · taps, h', w']`.
fn deform_conv(call: &Call<'_>) -> Result<Vec<Datum>> {
    let (x, w, offsets) = (call.tensor(0)?, call.tensor(1)?, call.tensor(2)?);
    let e = Extents::new(call, x, w)?;
    let (&[height, width], &[high, wide]) = (e.window.input.as_slice(), e.window.output.as_slice()) else {
        return Err(call.unsupported("other than two spatial axes"));
    };
    let count = e.charge(call, x.dtype())?;
    let moving = usize::try_from(call.int("offset_group", 1)).unwrap_or(0);
    if moving == 0 || e.channels % moving != 0 {
        return Err(call.attribute_error(format_args!("offset_group {moving} for {} channels", e.channels)));
    }
    let (taps, points) = (e.window.taps(), high * wide);
    let taps_of_groups =
        moving.checked_mul(taps).and_then(|taps| taps.checked_mul(2)).ok_or_else(|| call.shape_error("too many taps"))?;
    call.same_shape("offset", offsets.shape(), &[e.batch, taps_of_groups, high, wide])?;
    let mask = call.optional(4)?;
    if let Some(mask) = mask {
        call.same_shape("mask", mask.shape(), &[e.batch, moving * taps, high, wide])?;
    }
    let (depth, per_group, image) = (e.channels / e.groups, e.filters / e.groups, height * width);
    real_type!(x.dtype(), R => {
        let (values, weights, offsets) = (load::<R>(call.op, x)?, load::<R>(call.op, w)?, load::<R>(call.op, offsets)?);
        let mask = mask.map(|mask| load::<R>(call.op, mask)).transpose()?;
        let mut out = vec![R::default(); count];
        for (n, point) in (0..e.batch).flat_map(|n| (0..points).map(move |point| (n, point))) {
            for channel in 0..e.channels {
                let plane = &values[(n * e.channels + channel) * image..][..image];
                let (group, mover) = (channel / depth, channel / (e.channels / moving));
                for tap in 0..taps {
                    let at = [(point / wide, tap / e.window.kernel[1]), (point % wide, tap % e.window.kernel[1])];
                    let place = |axis: usize| {
                        let (step, reach) = (at[axis].0 * e.window.strides[axis], at[axis].1 * e.window.dilations[axis]);
                        let fixed = step as i64 - e.window.before[axis] + reach as i64;
                        R::of(fixed as f64) + offsets[((n * moving + mover) * 2 * taps + 2 * tap + axis) * points + point]
                    };
                    let mut value = bilinear(plane, height, width, place(0), place(1));
                    if let Some(mask) = &mask {
                        value *= mask[((n * moving + mover) * taps + tap) * points + point];
                    }
                    for filter in group * per_group..(group + 1) * per_group {
                        let weight = weights[(filter * depth + channel % depth) * taps + tap];
                        out[(n * e.filters + filter) * points + point] += value * weight;
                    }
                }
            }
        }
        add_bias(call, &mut out, call.optional(3)?, e.filters, points)?;
        one(R::store(x.dtype(), e.shape(), out))
    })
}

/// Adds columns `[n, c · taps, points]` up into an image.
fn col_to_image(call: &Call<'_>) -> Result<Vec<Datum>> {
    let (columns, image, kernel) = (call.tensor(0)?, call.extents(&call.whole(1)?)?, call.extents(&call.whole(2)?)?);
    let window = Window::new(call, &image, kernel)?;
    let (points, taps): (usize, usize) = (window.output.iter().product(), window.taps());
    let &[batch, rows, width] = columns.shape() else {
        return Err(call.shape_error(format_args!("columns {:?}", columns.shape())));
    };
    if rows % taps != 0 || width != points {
        return Err(call.shape_error(format_args!("columns {:?} for {taps} taps at {points} points", columns.shape())));
    }
    let shape = [&[batch, rows / taps], image.as_slice()].concat();
    let count = call.budget.take(columns.dtype(), &shape)?;
    call.budget.work(columns.len() as u64)?;
    let table = window.table(call)?;
    let whole: usize = image.iter().product();
    real_type!(columns.dtype(), R => {
        let values = load::<R>(call.op, columns)?;
        let mut out = vec![R::default(); count];
        let planes = if columns.is_empty() || count == 0 { 0 } else { batch * (rows / taps) };
        for plane in 0..planes {
            for (i, &place) in table.iter().enumerate() {
                if place != Window::OUTSIDE {
                    out[plane * whole + place as usize] += values[(plane * taps + i % taps) * points + i / taps];
                }
            }
        }
        one(R::store(columns.dtype(), shape, out))
    })
}

/// A depthwise convolution over time that sees only the past, which an optional state continues.
///
/// Inputs: x `[n, c, t]`, weight `[c, 1, k]`, bias `[c]`, state `[n, c, k - 1]`; outputs: y `[n, c, t]`, the next state.
fn causal_conv(call: &Call<'_>) -> Result<Vec<Datum>> {
    let (x, w, state) = (call.tensor(0)?, call.tensor(1)?, call.optional(3)?);
    let (&[batch, channels, steps], &[filters, 1, taps]) = (x.shape(), w.shape()) else {
        return Err(call.unsupported(format_args!("input {:?}, weight {:?}", x.shape(), w.shape())));
    };
    if filters != channels || taps == 0 {
        return Err(call.shape_error(format_args!("input {:?}, weight {:?}", x.shape(), w.shape())));
    }
    let past = taps - 1;
    if let Some(state) = state {
        call.same_shape("state", state.shape(), &[batch, channels, past])?;
    }
    let silu = match call.text("activation", "none") {
        "none" | "" => false,
        "silu" | "swish" => true,
        other => return Err(call.attribute_error(format_args!("activation '{other}'"))),
    };
    let count = call.budget.take(x.dtype(), x.shape())?;
    call.budget.take(x.dtype(), &[batch, channels, past + 1])?;
    call.budget.work((count as u64).saturating_mul(taps as u64).saturating_mul(2))?;
    real_type!(x.dtype(), R => {
        let (values, weights) = (load::<R>(call.op, x)?, load::<R>(call.op, w)?);
        let before = match state {
            Some(state) => load::<R>(call.op, state)?.into_owned(),
            None => vec![R::default(); batch * channels * past],
        };
        let (mut out, mut next) = (Vec::with_capacity(count), Vec::with_capacity(before.len()));
        for line in 0..batch * channels {
            let weights = &weights[line % channels * taps..][..taps];
            let seen: Vec<R> = before[line * past..(line + 1) * past].iter().chain(&values[line * steps..(line + 1) * steps]).copied().collect();
            out.extend(seen.windows(taps).map(|window| window.iter().zip(weights).fold(R::default(), |sum, (&x, &w)| sum + x * w)));
            next.extend_from_slice(&seen[seen.len() - past..]);
        }
        add_bias(call, &mut out, call.optional(2)?, channels, steps)?;
        if silu {
            out.iter_mut().for_each(|slot| *slot *= super::unary::sigmoid(*slot));
        }
        Ok(vec![R::store(x.dtype(), x.shape().to_vec(), out).into(), R::store(x.dtype(), vec![batch, channels, past], next).into()])
    })
}
