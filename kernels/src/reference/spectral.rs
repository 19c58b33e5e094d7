//! Signals: Fourier transforms, short-time transforms, windows, the mel filter bank.

use super::call::one;
use super::number::{Real, load};
use super::{Call, Evaluate, EvaluateError};
use crate::Datum;
use schema::DType;
use std::f64::consts::PI;

type Result<T> = std::result::Result<T, EvaluateError>;

pub(super) static OPERATORS: &[(&str, Evaluate)] = &[
    ("DFT", dft),
    ("STFT", stft),
    ("HannWindow", |call| window(call, |turn| 0.5 - 0.5 * turn.cos())),
    ("HammingWindow", |call| window(call, |turn| 25.0 / 46.0 - 21.0 / 46.0 * turn.cos())),
    ("BlackmanWindow", |call| window(call, |turn| 0.42 - 0.5 * turn.cos() + 0.08 * (2.0 * turn).cos())),
    ("MelWeightMatrix", mel_weight_matrix),
];

/// A complex number.
type Complex = (f64, f64);

/// The Fourier transform of a line, by Cooley and Tukey where the length is even and by the definition where it is odd; `sign` is -1
/// forwards and 1 backwards. Not normalised.
fn transform(line: &[Complex], sign: f64) -> Vec<Complex> {
    let n = line.len();
    if n <= 1 {
        return line.to_vec();
    }
    let turn = |k: usize| {
        let angle = sign * 2.0 * PI * (k % n) as f64 / n as f64;
        (angle.cos(), angle.sin())
    };
    let times = |a: Complex, b: Complex| (a.0 * b.0 - a.1 * b.1, a.0 * b.1 + a.1 * b.0);
    if n.is_multiple_of(2) {
        let half = |from: usize| transform(&line.iter().skip(from).step_by(2).copied().collect::<Vec<_>>(), sign);
        let (even, odd) = (half(0), half(1));
        let turned: Vec<Complex> = odd.iter().enumerate().map(|(k, &value)| times(value, turn(k))).collect();
        let low = even.iter().zip(&turned).map(|(a, b)| (a.0 + b.0, a.1 + b.1));
        let high = even.iter().zip(&turned).map(|(a, b)| (a.0 - b.0, a.1 - b.1));
        return low.chain(high).collect();
    }
    let sum = |k: usize| {
        let terms = line.iter().enumerate().map(|(j, &value)| times(value, turn(j * k % n)));
        terms.fold((0.0, 0.0), |sum, term| (sum.0 + term.0, sum.1 + term.1))
    };
    (0..n).map(sum).collect()
}

/// Multiplications of a transform of that length, roughly.
fn cost(n: usize) -> u64 {
    let odd = n >> n.trailing_zeros().min(63);
    (n as u64).saturating_mul(odd as u64 + u64::from(n.max(1).ilog2())).saturating_mul(8)
}

/// Inputs: x `[…, 1 or 2]`, length, axis.
fn dft(call: &Call<'_>) -> Result<Vec<Datum>> {
    let x = call.tensor(0)?;
    let rank = x.shape().len();
    call.at_least(x, 2)?;
    let parts = x.shape()[rank - 1];
    if parts != 1 && parts != 2 {
        return Err(call.shape_error(format_args!("the last axis of {:?} is not 1 or 2", x.shape())));
    }
    let axis = match call.optional_whole(2)?.and_then(|values| values.first().copied()) {
        Some(axis) => call.place(axis, rank)?,
        None => call.axis("axis", -2, rank)?,
    };
    if axis == rank - 1 {
        return Err(call.shape_error("the last axis holds the parts of numbers"));
    }
    let (inverse, onesided) = (call.flag("inverse", false), call.flag("onesided", false));
    let extent = x.shape()[axis];
    let natural = if inverse && onesided { extent.saturating_sub(1).saturating_mul(2) } else { extent };
    let length = match call.optional_whole(1)?.and_then(|values| values.first().copied()) {
        Some(length) => usize::try_from(length).map_err(|_| call.shape_error(format_args!("length {length}")))?,
        None => natural,
    };
    if onesided && !inverse && parts == 2 {
        return Err(call.shape_error("a onesided transform is of real numbers"));
    }
    let mut shape = x.shape().to_vec();
    shape[axis] = if onesided && !inverse { length / 2 + 1 } else { length };
    shape[rank - 1] = if onesided && inverse { 1 } else { 2 };
    let count = call.budget.take(x.dtype(), &shape)?;
    call.budget.take(DType::C128, &[length])?;
    let (outer, inner): (usize, usize) = (shape[..axis].iter().product(), shape[axis + 1..rank - 1].iter().product());
    call.budget.work(cost(length).saturating_mul((outer * inner) as u64))?;
    let values = load::<f64>(call.op, x)?;
    let mut out = vec![0.0; count];
    let width = shape[rank - 1];
    for line in 0..outer * inner {
        let (block, column) = (line / inner, line % inner);
        let at = |i: usize| {
            let from = ((block * extent + i) * inner + column) * parts;
            (values[from], if parts == 2 { values[from + 1] } else { 0.0 })
        };
        let mut signal: Vec<Complex> = (0..length.min(extent)).map(at).collect();
        signal.resize(length, (0.0, 0.0));
        if inverse && onesided {
            // The other half of the spectrum of a real signal mirrors the first.
            for i in length / 2 + 1..length {
                let (re, im) = signal[length - i];
                signal[i] = (re, -im);
            }
        }
        let scale = if inverse { 1.0 / length.max(1) as f64 } else { 1.0 };
        let spectrum = transform(&signal, if inverse { 1.0 } else { -1.0 });
        for (i, value) in spectrum.iter().take(shape[axis]).enumerate() {
            let to = ((block * shape[axis] + i) * inner + column) * width;
            out[to] = value.0 * scale;
            if width == 2 {
                out[to + 1] = value.1 * scale;
            }
        }
    }
    one(f64::store(x.dtype(), shape, out))
}

/// Inputs: signal `[n, t]` or `[n, t, 1 or 2]`, step, window, frame length; output `[n, frames, bins, 2]`.
fn stft(call: &Call<'_>) -> Result<Vec<Datum>> {
    let (x, step) = (call.tensor(0)?, call.one_whole(1)?);
    let (batch, length, parts) = match *x.shape() {
        [batch, length] => (batch, length, 1),
        [batch, length, parts @ 1..=2] => (batch, length, parts),
        _ => return Err(call.shape_error(format_args!("a signal of shape {:?}", x.shape()))),
    };
    let window = call.optional(2)?.map(|window| load::<f64>(call.op, window)).transpose()?;
    let frame = match (call.optional_whole(3)?.and_then(|values| values.first().copied()), &window) {
        (Some(frame), _) => usize::try_from(frame).map_err(|_| call.shape_error(format_args!("frames of {frame}")))?,
        (None, Some(window)) => window.len(),
        (None, None) => length,
    };
    let step =
        usize::try_from(step).ok().filter(|&step| step > 0).ok_or_else(|| call.shape_error(format_args!("a step of {step}")))?;
    if frame == 0 || frame > length || window.as_ref().is_some_and(|window| window.len() > frame) {
        return Err(call.shape_error(format_args!("frames of {frame} in a signal of {length}")));
    }
    let onesided = call.flag("onesided", true);
    if onesided && parts == 2 {
        return Err(call.shape_error("a onesided transform is of real numbers"));
    }
    let frames = 1 + (length - frame) / step;
    let bins = if onesided { frame / 2 + 1 } else { frame };
    let shape = vec![batch, frames, bins, 2];
    let count = call.budget.take(x.dtype(), &shape)?;
    call.budget.work(cost(frame).saturating_mul((batch * frames) as u64))?;
    let values = load::<f64>(call.op, x)?;
    // A shorter window is centred in the frame.
    let lead = window.as_ref().map_or(0, |window| (frame - window.len()) / 2);
    let weight =
        |i: usize| window.as_ref().map_or(1.0, |window| i.checked_sub(lead).and_then(|i| window.get(i)).copied().unwrap_or(0.0));
    let mut out = Vec::with_capacity(count);
    for (n, first) in (0..batch).flat_map(|n| (0..frames).map(move |f| (n, f * step))) {
        let at = |i: usize| {
            let from = (n * length + first + i) * parts;
            (values[from] * weight(i), if parts == 2 { values[from + 1] * weight(i) } else { 0.0 })
        };
        let spectrum = transform(&(0..frame).map(at).collect::<Vec<_>>(), -1.0);
        out.extend(spectrum[..bins].iter().flat_map(|value| [value.0, value.1]));
    }
    one(f64::store(x.dtype(), shape, out))
}

/// The type that an attribute asks for.
fn output_type(call: &Call<'_>) -> Result<DType> {
    let code = call.int("output_datatype", 1);
    let numeric = |dtype: &DType| !matches!(dtype, DType::String | DType::C64 | DType::C128 | DType::Bool);
    DType::of_code(code).filter(numeric).ok_or_else(|| call.attribute_error(format_args!("type code {code}")))
}

/// A window over `size` points, as a function of the angle.
fn window(call: &Call<'_>, shape: impl Fn(f64) -> f64) -> Result<Vec<Datum>> {
    let size = call.extents(&[call.one_whole(0)?])?;
    let dtype = output_type(call)?;
    let count = call.budget.take(dtype, &size)?;
    let period = if call.flag("periodic", true) { count } else { count.saturating_sub(1) };
    // A window of one point is 0/0 by the formula; it is 1 by convention.
    let value = |i: usize| if period == 0 { 1.0 } else { shape(2.0 * PI * i as f64 / period as f64) };
    one(f64::store(dtype, size, (0..count).map(value).collect()))
}

/// Inputs: number of mel bins, length of the transform, sample rate, lowest and highest frequency.
fn mel_weight_matrix(call: &Call<'_>) -> Result<Vec<Datum>> {
    let scalar = |index: usize| -> Result<f64> {
        let values = load::<f64>(call.op, call.tensor(index)?)?;
        values
            .first()
            .copied()
            .filter(|v| v.is_finite())
            .ok_or_else(|| call.shape_error(format_args!("input {index} is no number")))
    };
    let (bins, length) = (call.extents(&[call.one_whole(0)?])?[0], call.extents(&[call.one_whole(1)?])?[0]);
    let (rate, low, high) = (scalar(2)?, scalar(3)?, scalar(4)?);
    let dtype = output_type(call)?;
    let rows = length / 2 + 1;
    let count = call.budget.take(dtype, &[rows, bins])?;
    call.budget.take(DType::F64, &[rows, bins])?;
    let mel = |hertz: f64| 2595.0 * (hertz / 700.0).ln_1p() / 10f64.ln();
    let step = (mel(high) - mel(low)) / (bins as f64 + 2.0);
    let edge = |i: usize| {
        let hertz = 700.0 * ((i as f64 * step + mel(low)) / 2595.0 * 10f64.ln()).exp_m1();
        ((length as f64 + 1.0) * hertz / rate).floor()
    };
    let mut out = vec![0.0; count];
    let mut set = |row: f64, bin: usize, value: f64| {
        if row >= 0.0 && row < rows as f64 {
            out[row as usize * bins + bin] = value;
        }
    };
    for bin in 0..bins {
        let (left, centre, right) = (edge(bin), edge(bin + 1), edge(bin + 2));
        let inside = |from: f64, to: f64| (from.clamp(0.0, rows as f64) as usize)..(to.clamp(0.0, rows as f64) as usize);
        if left == centre {
            set(centre, bin, 1.0);
        } else {
            inside(left, centre + 1.0).for_each(|row| set(row as f64, bin, (row as f64 - left) / (centre - left)));
        }
        inside(centre, right).for_each(|row| set(row as f64, bin, (right - row as f64) / (right - centre)));
    }
    one(f64::store(dtype, vec![rows, bins], out))
}
