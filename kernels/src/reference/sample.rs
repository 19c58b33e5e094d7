//! Sampling images at free positions: grids, affine grids, aligned regions.

use super::call::one;
use super::number::{Real, load};
use super::walk::{dense_strides, positions};
use super::{Call, Evaluate, EvaluateError};
use crate::Datum;

type Result<T> = std::result::Result<T, EvaluateError>;

pub(super) static OPERATORS: &[(&str, Evaluate)] =
    &[("GridSample", grid_sample), ("AffineGrid", affine_grid), ("RoiAlign", roi_align)];

/// What lies outside an image.
#[derive(Copy, Clone, PartialEq)]
enum Outside {
    Zeros,
    Border,
    Reflection,
}

/// One axis of the image that is sampled.
struct Line {
    size: usize,
    low: f64,
    high: f64,
    outside: Outside,
}

impl Line {
    /// Mirrors a position at the borders until it is inside.
    fn reflect(&self, x: f64) -> f64 {
        let range = self.high - self.low;
        let beyond = if x < self.low { self.low - x } else { x - self.high };
        if beyond <= 0.0 || range <= 0.0 || !beyond.is_finite() {
            return x.clamp(self.low, self.high.max(self.low));
        }
        let (turns, rest) = ((beyond / range).trunc(), beyond % range);
        let even = turns % 2.0 == 0.0;
        if (x < self.low) == even { self.low + rest } else { self.high - rest }
    }

    /// A sampling position brought to where pixels are, as far as the mode wants that.
    fn bring(&self, x: f64) -> f64 {
        if (self.low..=self.high).contains(&x) {
            return x;
        }
        match self.outside {
            Outside::Zeros => x,
            Outside::Border => x.clamp(0.0, self.size as f64 - 1.0),
            Outside::Reflection => self.reflect(x),
        }
    }

    /// The pixel of a whole position, if there is one.
    fn pixel(&self, at: f64) -> Option<usize> {
        let last = self.size as f64 - 1.0;
        let at = match self.outside {
            Outside::Zeros if !(0.0..=last).contains(&at) => return None,
            Outside::Zeros => at,
            Outside::Border => at.clamp(0.0, last),
            Outside::Reflection => self.reflect(at).clamp(0.0, last),
        };
        Some(at as usize)
    }

    /// Pixels and weights that make the value at `x`.
    fn taps(&self, x: f64, mode: &str) -> Vec<(Option<usize>, f64)> {
        let floor = x.floor();
        let t = x - floor;
        match mode {
            "nearest" => vec![(self.pixel(x), 1.0)],
            "linear" => vec![(self.pixel(floor), 1.0 - t), (self.pixel(floor + 1.0), t)],
            _ => (-1..3).map(|i| (self.pixel(floor + f64::from(i)), cubic(f64::from(i) - t))).collect(),
        }
    }
}

/// Keys' cubic convolution kernel with a = -0.75.
fn cubic(x: f64) -> f64 {
    let (a, x) = (-0.75, x.abs());
    match x {
        x if x <= 1.0 => ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0,
        x if x < 2.0 => ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a,
        _ => 0.0,
    }
}

/// Inputs: x `[n, c, …]`, grid `[n, …, axes]` of positions in -1…1, innermost axis first.
fn grid_sample(call: &Call<'_>) -> Result<Vec<Datum>> {
    let (x, grid) = (call.tensor(0)?, call.tensor(1)?);
    let (&[batch, channels, ref image @ ..], &[grids, ref out @ .., width]) = (x.shape(), grid.shape()) else {
        return Err(call.shape_error(format_args!("input {:?}, grid {:?}", x.shape(), grid.shape())));
    };
    if grids != batch || width != image.len() || out.len() != image.len() || image.contains(&0) {
        return Err(call.shape_error(format_args!("input {:?}, grid {:?}", x.shape(), grid.shape())));
    }
    let mode = match call.text("mode", "linear") {
        "linear" | "bilinear" => "linear",
        "cubic" | "bicubic" => "cubic",
        "nearest" => "nearest",
        other => return Err(call.attribute_error(format_args!("mode '{other}'"))),
    };
    let outside = match call.text("padding_mode", "zeros") {
        "zeros" => Outside::Zeros,
        "border" => Outside::Border,
        "reflection" => Outside::Reflection,
        other => return Err(call.attribute_error(format_args!("padding_mode '{other}'"))),
    };
    let corners = call.flag("align_corners", false);
    let lines = image.iter().map(|&size| match corners {
        true => Line { size, low: 0.0, high: size as f64 - 1.0, outside },
        false => Line { size, low: -0.5, high: size as f64 - 0.5, outside },
    });
    let lines: Vec<Line> = lines.collect();
    let shape = [&[batch, channels], out].concat();
    let count = call.budget.take(x.dtype(), &shape)?;
    let taps = match mode {
        "nearest" => 1u64,
        "linear" => 2,
        _ => 4,
    };
    call.budget.work((count as u64).saturating_mul(taps.saturating_pow(image.len() as u32)))?;
    let (values, coordinates) = (load::<f64>(call.op, x)?, load::<f32>(call.op, grid)?);
    let (points, pixels): (usize, usize) = (out.iter().product(), image.iter().product());
    let strides = dense_strides(image);
    let mut result = vec![0.0; count];
    for (n, point) in (0..batch).flat_map(|n| (0..points).map(move |point| (n, point))) {
        let place = &coordinates[(n * points + point) * width..][..width];
        let mut terms = vec![(0usize, 1.0f64)];
        for (axis, line) in lines.iter().enumerate() {
            let along = f64::from(place[width - 1 - axis]);
            let size = line.size as f64;
            let at = if corners { (along + 1.0) / 2.0 * (size - 1.0) } else { ((along + 1.0) * size - 1.0) / 2.0 };
            let at = f64::from(at as f32);
            let at = line.bring(if mode == "nearest" { at.round_ties_even() } else { at });
            let taps = line.taps(if at.is_finite() { at } else { -9e9 }, mode);
            let step = strides[axis] as usize;
            let joined = |&(base, weight): &(usize, f64)| {
                let inside =
                    taps.iter().filter_map(move |&(pixel, share)| pixel.map(|pixel| (base + pixel * step, weight * share)));
                inside.collect::<Vec<_>>()
            };
            terms = terms.iter().flat_map(joined).collect();
        }
        for channel in 0..channels {
            let plane = &values[(n * channels + channel) * pixels..][..pixels];
            result[(n * channels + channel) * points + point] = terms.iter().map(|&(at, weight)| plane[at] * weight).sum();
        }
    }
    one(f64::store(x.dtype(), shape, result))
}

/// Inputs: matrices `[n, axes, axes + 1]`, extents `[n, c, …]`; the result is `[n, …, axes]`.
fn affine_grid(call: &Call<'_>) -> Result<Vec<Datum>> {
    let (theta, size) = (call.tensor(0)?, call.extents(&call.whole(1)?)?);
    let &[batch, _, ref image @ ..] = size.as_slice() else {
        return Err(call.shape_error(format_args!("size {size:?}")));
    };
    let axes = image.len();
    call.same_shape("theta", theta.shape(), &[batch, axes, axes + 1])?;
    let shape = [&[batch], image, &[axes]].concat();
    let count = call.budget.take(theta.dtype(), &shape)?;
    call.budget.work((count as u64).saturating_mul(2 * axes as u64))?;
    let corners = call.flag("align_corners", false);
    let theta_values = load::<f64>(call.op, theta)?;
    let mut out = Vec::with_capacity(count);
    let normal = |at: usize, size: usize| match (corners, size) {
        (true, 1) => -1.0,
        (true, _) => 2.0 * at as f64 / (size as f64 - 1.0) - 1.0,
        (false, _) => (2.0 * at as f64 + 1.0) / size as f64 - 1.0,
    };
    for matrix in theta_values.chunks_exact(axes * (axes + 1)).take(batch) {
        positions(image, |at| {
            // Innermost axis first, as the matrices expect.
            let point: Vec<f64> = (0..axes).rev().map(|axis| normal(at[axis], image[axis])).chain([1.0]).collect();
            out.extend(matrix.chunks_exact(axes + 1).map(|row| row.iter().zip(&point).map(|(a, b)| a * b).sum::<f64>()));
        });
    }
    one(f64::store(theta.dtype(), shape, out))
}

/// The four pixels around a point and their shares, or `None` outside.
fn corners(y: f64, x: f64, height: usize, width: usize) -> Option<[(usize, f64); 4]> {
    if !(-1.0..=height as f64).contains(&y) || !(-1.0..=width as f64).contains(&x) {
        return None;
    }
    let split = |at: f64, size: usize| {
        let at = at.max(0.0);
        let low = (at as usize).min(size - 1);
        if low >= size - 1 { (size - 1, size - 1, 0.0) } else { (low, low + 1, at - low as f64) }
    };
    let ((top, bottom, down), (left, right, across)) = (split(y, height), split(x, width));
    Some([
        (top * width + left, (1.0 - down) * (1.0 - across)),
        (top * width + right, (1.0 - down) * across),
        (bottom * width + left, down * (1.0 - across)),
        (bottom * width + right, down * across),
    ])
}

/// Inputs: x `[n, c, h, w]`, regions `[r, 4]` as x1, y1, x2, y2, batch of each region.
fn roi_align(call: &Call<'_>) -> Result<Vec<Datum>> {
    let (x, regions, batches) = (call.tensor(0)?, call.tensor(1)?, call.whole(2)?);
    let (&[batch, channels, height, width], &[count, 4]) = (x.shape(), regions.shape()) else {
        return Err(call.shape_error(format_args!("input {:?}, regions {:?}", x.shape(), regions.shape())));
    };
    let inside = batches.len() == count && batches.iter().all(|&n| usize::try_from(n).is_ok_and(|n| n < batch));
    if !inside || height == 0 || width == 0 {
        return Err(call.index_error("a region's batch is outside the input"));
    }
    let extent = |name: &str| usize::try_from(call.int(name, 1)).map_err(|_| call.attribute_error(name));
    let (high, wide) = (extent("output_height")?, extent("output_width")?);
    let (ratio, scale) = (call.int("sampling_ratio", 0), f64::from(call.float("spatial_scale", 1.0)));
    let half = match call.text("coordinate_transformation_mode", "half_pixel") {
        "half_pixel" => true,
        "output_half_pixel" => false,
        other => return Err(call.attribute_error(format_args!("coordinate_transformation_mode '{other}'"))),
    };
    let average = match call.text("mode", "avg") {
        "avg" => true,
        "max" => false,
        other => return Err(call.attribute_error(format_args!("mode '{other}'"))),
    };
    let shape = vec![count, channels, high, wide];
    let total = call.budget.take(x.dtype(), &shape)?;
    let (values, corners_of) = (load::<f64>(call.op, x)?, load::<f64>(call.op, regions)?);
    let mut out = vec![0.0; total];
    let shift = if half { 0.5 } else { 0.0 };
    for (r, region) in corners_of.chunks_exact(4).enumerate() {
        let [left, top, right, bottom] = [0, 1, 2, 3].map(|i| region[i] * scale - shift);
        let at_least = if half { f64::NEG_INFINITY } else { 1.0 };
        let (tall, broad) = ((bottom - top).max(at_least) / high as f64, (right - left).max(at_least) / wide as f64);
        let samples = |size: f64| if ratio > 0 { ratio as f64 } else { size.ceil().max(0.0) };
        let (down, across) = (samples(tall), samples(broad));
        call.budget.work((down * across * (high * wide * (channels + 1)) as f64 * 4.0) as u64)?;
        if !(0.0..1e9).contains(&(down * across)) {
            return Err(call.shape_error("a region of too many samples"));
        }
        let weight = 1.0 / (down * across).max(1.0);
        for (row, column) in (0..high).flat_map(|row| (0..wide).map(move |column| (row, column))) {
            // The maximum is taken over the weighted corners, not over the interpolated samples: so ONNX defines it by example.
            let mut sums = vec![if average || down * across == 0.0 { 0.0 } else { f64::NEG_INFINITY }; channels];
            for (i, j) in (0..down as usize).flat_map(|i| (0..across as usize).map(move |j| (i, j))) {
                let y = top + row as f64 * tall + (i as f64 + 0.5) * tall / down;
                let x = left + column as f64 * broad + (j as f64 + 0.5) * broad / across;
                let taps = corners(y, x, height, width).unwrap_or([(0, 0.0); 4]);
                for (channel, sum) in sums.iter_mut().enumerate() {
                    let plane = &values[(batches[r] as usize * channels + channel) * height * width..][..height * width];
                    let terms = taps.iter().map(|&(at, share)| plane[at] * share);
                    *sum = if average { *sum + terms.sum::<f64>() * weight } else { terms.fold(*sum, f64::max) };
                }
            }
            for (channel, sum) in sums.into_iter().enumerate() {
                out[((r * channels + channel) * high + row) * wide + column] = sum;
            }
        }
    }
    one(f64::store(x.dtype(), shape, out))
}
