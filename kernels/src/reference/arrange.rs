//! Operators that move data: transposition, joining, cutting, repeating, padding, and blocks to and from depth.

use super::call::one;
use super::number::{Rearrange, rearrange};
use super::walk::{broadcast_shape, broadcast_strides, copy_view, dense_strides, positions};
use super::{Call, Evaluate, EvaluateError};
use crate::{Datum, Tensor};

type Result<T> = std::result::Result<T, EvaluateError>;

pub(super) static OPERATORS: &[(&str, Evaluate)] = &[
    ("Transpose", transpose),
    ("Concat", concat),
    ("Split", split),
    ("Slice", slice),
    ("Expand", expand),
    ("Tile", tile),
    ("Pad", pad),
    ("DepthToSpace", depth_to_space),
    ("SpaceToDepth", space_to_depth),
    ("ReverseSequence", reverse_sequence),
    ("CenterCropPad", center_crop_pad),
    ("Trilu", trilu),
];

/// A strided view of one source.
pub(super) struct View {
    pub(super) start: isize,
    pub(super) extents: Vec<usize>,
    pub(super) strides: Vec<isize>,
}

impl Rearrange for View {
    fn run<T: Clone + Default>(&self, sources: &[&[T]]) -> Result<Vec<T>> {
        Ok(copy_view(sources[0], self.start, &self.extents, &self.strides))
    }
}

/// Copies a view, with its bytes taken from the budget.
fn view(call: &Call<'_>, tensor: &Tensor, view: View) -> Result<Tensor> {
    view_as(call, tensor, view.extents.clone(), view)
}

fn view_as(call: &Call<'_>, tensor: &Tensor, shape: Vec<usize>, view: View) -> Result<Tensor> {
    let count = call.budget.take(tensor.dtype(), &shape)?;
    call.budget.work(count as u64)?;
    rearrange(call.op, &[tensor], shape, &view)
}

fn transpose(call: &Call<'_>) -> Result<Vec<Datum>> {
    let data = call.tensor(0)?;
    let rank = data.shape().len();
    let order = match call.ints("perm") {
        Some(perm) => call.places(perm, rank)?,
        None => (0..rank).rev().collect(),
    };
    if order.len() != rank {
        return Err(call.shape_error(format_args!("perm {order:?} for rank {rank}")));
    }
    permuted(call, data, &order).and_then(one)
}

/// The tensor with its axes in another order.
pub(super) fn permuted(call: &Call<'_>, data: &Tensor, order: &[usize]) -> Result<Tensor> {
    let dense = dense_strides(data.shape());
    let extents = order.iter().map(|&axis| data.shape()[axis]).collect();
    view(call, data, View { start: 0, extents, strides: order.iter().map(|&axis| dense[axis]).collect() })
}

/// Joins sources that each give `chunks[i]` consecutive elements in each of `outer` rounds.
pub(super) struct Join {
    pub(super) outer: usize,
    pub(super) chunks: Vec<usize>,
}

impl Rearrange for Join {
    fn run<T: Clone + Default>(&self, sources: &[&[T]]) -> Result<Vec<T>> {
        let mut out = Vec::with_capacity(self.outer * self.chunks.iter().sum::<usize>());
        for round in 0..self.outer {
            for (source, &chunk) in sources.iter().zip(&self.chunks) {
                out.extend_from_slice(&source[round * chunk..(round + 1) * chunk]);
            }
        }
        Ok(out)
    }
}

/// Joins tensors along an axis.
pub(super) fn joined(call: &Call<'_>, tensors: &[&Tensor], axis: usize) -> Result<Tensor> {
    let first = tensors.first().ok_or_else(|| call.shape_error("nothing to join"))?;
    let mut shape = first.shape().to_vec();
    shape[axis] = 0;
    for tensor in tensors {
        let fits = tensor.shape().len() == shape.len() && (0..shape.len()).all(|i| i == axis || tensor.shape()[i] == shape[i]);
        if !fits {
            return Err(call.shape_error(format_args!("{:?} and {:?} along axis {axis}", first.shape(), tensor.shape())));
        }
        shape[axis] = shape[axis].checked_add(tensor.shape()[axis]).ok_or_else(|| call.shape_error("too long"))?;
    }
    let count = call.budget.take(first.dtype(), &shape)?;
    let outer = if count == 0 { 0 } else { shape[..axis].iter().product() };
    let chunks = tensors.iter().map(|tensor| tensor.shape()[axis..].iter().product()).collect();
    rearrange(call.op, tensors, shape, &Join { outer, chunks })
}

fn concat(call: &Call<'_>) -> Result<Vec<Datum>> {
    let tensors = (0..call.inputs.len()).map(|index| call.tensor(index)).collect::<Result<Vec<_>>>()?;
    let rank = tensors.first().map_or(0, |tensor| tensor.shape().len());
    joined(call, &tensors, call.axis("axis", 0, rank)?).and_then(one)
}

/// The part `from..from + extent` along an axis.
pub(super) fn part(call: &Call<'_>, data: &Tensor, axis: usize, from: usize, extent: usize) -> Result<Tensor> {
    let strides = dense_strides(data.shape());
    let mut extents = data.shape().to_vec();
    extents[axis] = extent;
    view(call, data, View { start: from as isize * strides[axis], extents, strides })
}

fn split(call: &Call<'_>) -> Result<Vec<Datum>> {
    let data = call.tensor(0)?;
    let axis = call.axis("axis", 0, data.shape().len())?;
    let whole = data.shape()[axis];
    let lengths = match call.optional_whole(1)? {
        Some(lengths) => call.extents(&lengths)?,
        None => {
            let parts = usize::try_from(call.int("num_outputs", call.outputs as i64)).unwrap_or(0);
            if parts == 0 || parts > call.outputs.max(1) {
                return Err(call.attribute_error(format_args!("{parts} parts")));
            }
            let each = whole.div_ceil(parts);
            (0..parts).map(|i| each.min(whole.saturating_sub(i * each))).collect()
        }
    };
    if lengths.iter().try_fold(0usize, |sum, &length| sum.checked_add(length)) != Some(whole) {
        return Err(call.shape_error(format_args!("parts {lengths:?} of {whole}")));
    }
    let mut from = 0;
    let mut parts = Vec::with_capacity(lengths.len());
    for length in lengths {
        parts.push(part(call, data, axis, from, length)?.into());
        from += length;
    }
    Ok(parts)
}

fn slice(call: &Call<'_>) -> Result<Vec<Datum>> {
    let data = call.tensor(0)?;
    let rank = data.shape().len();
    let (starts, ends) = (call.whole(1)?, call.whole(2)?);
    let axes = match call.optional_whole(3)? {
        Some(axes) => call.places(&axes, rank)?,
        None => (0..starts.len()).collect(),
    };
    let steps = call.optional_whole(4)?.unwrap_or_else(|| vec![1; starts.len()]);
    if [ends.len(), axes.len(), steps.len()] != [starts.len(); 3] || axes.len() > rank {
        return Err(call.shape_error("starts, ends, axes and steps differ in length"));
    }
    let mut strides = dense_strides(data.shape());
    let mut extents = data.shape().to_vec();
    let mut start = 0isize;
    for (i, &axis) in axes.iter().enumerate() {
        let step = steps[i];
        if step == 0 {
            return Err(call.shape_error("a step of 0"));
        }
        let extent = data.shape()[axis] as i64;
        let from_front = |value: i64| if value < 0 { value.saturating_add(extent) } else { value };
        let (low, high) = if step > 0 { (0, extent) } else { (-1, extent - 1) };
        let (from, to) = (from_front(starts[i]).clamp(low.max(0), high.max(0)), from_front(ends[i]).clamp(low, high));
        let span = if step > 0 { to - from } else { from - to };
        let count = if extent == 0 { 0 } else { span.max(0).div_ceil_of(step.unsigned_abs()) };
        extents[axis] = count as usize;
        start += from as isize * strides[axis];
        strides[axis] = strides[axis].wrapping_mul(step as isize);
    }
    view(call, data, View { start, extents, strides }).and_then(one)
}

/// Rounded-up division of a length by a step.
trait DivCeilOf {
    fn div_ceil_of(self, step: u64) -> i64;
}

impl DivCeilOf for i64 {
    fn div_ceil_of(self, step: u64) -> i64 {
        (self.max(0) as u64).div_ceil(step) as i64
    }
}

fn expand(call: &Call<'_>) -> Result<Vec<Datum>> {
    let data = call.tensor(0)?;
    let wanted = call.extents(&call.whole(1)?)?;
    let extents = broadcast_shape(call.op, &[data.shape(), &wanted])?;
    let strides = broadcast_strides(data.shape(), &extents);
    view(call, data, View { start: 0, extents, strides }).and_then(one)
}

fn tile(call: &Call<'_>) -> Result<Vec<Datum>> {
    let data = call.tensor(0)?;
    let repeats = call.extents(&call.whole(1)?)?;
    if repeats.len() != data.shape().len() {
        return Err(call.shape_error(format_args!("{} repeats for rank {}", repeats.len(), data.shape().len())));
    }
    let dense = dense_strides(data.shape());
    let (mut extents, mut strides, mut shape) = (Vec::new(), Vec::new(), Vec::new());
    for (axis, &times) in repeats.iter().enumerate() {
        extents.extend([times, data.shape()[axis]]);
        strides.extend([0, dense[axis]]);
        shape.push(times.checked_mul(data.shape()[axis]).ok_or_else(|| call.shape_error("too large"))?);
    }
    view_as(call, data, shape, View { start: 0, extents, strides }).and_then(one)
}

/// Gathers, per axis, the given places; `None` stands for the pad value, which is the second source.
struct PerAxis<'a> {
    shape: &'a [usize],
    places: &'a [Vec<Option<usize>>],
}

impl Rearrange for PerAxis<'_> {
    fn run<T: Clone + Default>(&self, sources: &[&[T]]) -> Result<Vec<T>> {
        let fill = sources.get(1).and_then(|values| values.first()).cloned().unwrap_or_default();
        let out_shape: Vec<usize> = self.places.iter().map(Vec::len).collect();
        let mut out = Vec::with_capacity(out_shape.iter().product());
        let Some((last, outer)) = self.places.split_last() else {
            return Ok(sources[0].to_vec());
        };
        if last.is_empty() {
            return Ok(out);
        }
        let strides = dense_strides(self.shape);
        // A run of consecutive places in the innermost axis is copied as one.
        let lead = last.iter().take_while(|place| place.is_none()).count();
        let run = last[lead..].windows(2).take_while(|pair| matches!(pair, [Some(a), Some(b)] if *b == *a + 1)).count() + 1;
        let run = if lead == last.len() { 0 } else { run };
        positions(&out_shape[..outer.len()], |at| {
            let mut base = 0;
            for (axis, &i) in at.iter().enumerate() {
                match outer[axis][i] {
                    Some(place) => base += place * strides[axis] as usize,
                    None => return out.resize(out.len() + last.len(), fill.clone()),
                }
            }
            out.resize(out.len() + lead, fill.clone());
            if run > 0 {
                let from = base + last[lead].unwrap_or(0);
                out.extend_from_slice(&sources[0][from..from + run]);
            }
            out.extend(
                last[lead + run..]
                    .iter()
                    .map(|place| place.map_or_else(|| fill.clone(), |place| sources[0][base + place].clone())),
            );
        });
        Ok(out)
    }
}

/// Applies [`PerAxis`] with its bytes taken from the budget.
fn per_axis(call: &Call<'_>, data: &Tensor, fill: Option<&Tensor>, places: &[Vec<Option<usize>>]) -> Result<Tensor> {
    let shape: Vec<usize> = places.iter().map(Vec::len).collect();
    let sources: Vec<&Tensor> = std::iter::once(data).chain(fill).collect();
    rearrange(call.op, &sources, shape, &PerAxis { shape: data.shape(), places })
}

fn pad(call: &Call<'_>) -> Result<Vec<Datum>> {
    let (data, pads, fill) = (call.tensor(0)?, call.whole(1)?, call.optional(2)?);
    let rank = data.shape().len();
    let axes = match call.optional_whole(3)? {
        Some(axes) => call.places(&axes, rank)?,
        None => (0..rank).collect(),
    };
    if pads.len() != 2 * axes.len() {
        return Err(call.shape_error(format_args!("{} pads for {} axes", pads.len(), axes.len())));
    }
    if fill.is_some_and(|fill| fill.len() != 1) {
        return Err(call.shape_error("the pad value is no scalar"));
    }
    let mode = call.text("mode", "constant");
    let mut ends = vec![(0i64, 0i64); rank];
    for (i, &axis) in axes.iter().enumerate() {
        ends[axis] = (pads[i], pads[axes.len() + i]);
    }
    let mut shape = Vec::with_capacity(rank);
    for (axis, (before, after)) in ends.iter().enumerate() {
        let extent = (data.shape()[axis] as i64).checked_add(*before).and_then(|sum| sum.checked_add(*after));
        let extent = extent.and_then(|extent| usize::try_from(extent).ok());
        shape.push(extent.ok_or_else(|| call.shape_error(format_args!("pads {pads:?} of {:?}", data.shape())))?);
    }
    let count = call.budget.take(data.dtype(), &shape)?;
    call.budget.work(count as u64)?;
    let mut places = Vec::with_capacity(rank);
    for (axis, &extent) in shape.iter().enumerate() {
        let size = data.shape()[axis] as i64;
        let place = |at: usize| -> Result<Option<usize>> {
            let at = at as i64 - ends[axis].0;
            let inside = (0..size).contains(&at);
            if !inside && size == 0 && mode != "constant" {
                return Err(call.shape_error("an empty axis has no border to repeat"));
            }
            Ok(match mode {
                _ if inside => Some(at as usize),
                "constant" => None,
                "edge" => Some(at.clamp(0, size - 1) as usize),
                "reflect" => Some(reflected(at, size)),
                "wrap" => Some(at.rem_euclid(size) as usize),
                other => return Err(call.attribute_error(format_args!("mode '{other}'"))),
            })
        };
        places.push((0..extent).map(place).collect::<Result<Vec<_>>>()?);
    }
    per_axis(call, data, fill, &places).and_then(one)
}

/// A position mirrored at the borders, which are not repeated.
fn reflected(at: i64, size: i64) -> usize {
    if size == 1 {
        return 0;
    }
    let period = 2 * (size - 1);
    let within = at.rem_euclid(period);
    within.min(period - within) as usize
}

fn center_crop_pad(call: &Call<'_>) -> Result<Vec<Datum>> {
    let (data, wanted) = (call.tensor(0)?, call.extents(&call.whole(1)?)?);
    let rank = data.shape().len();
    let axes = match call.ints("axes") {
        Some(axes) => call.places(axes, rank)?,
        None => (0..rank).collect(),
    };
    if axes.len() != wanted.len() {
        return Err(call.shape_error(format_args!("{} extents for {} axes", wanted.len(), axes.len())));
    }
    let mut shape = data.shape().to_vec();
    for (&axis, &extent) in axes.iter().zip(&wanted) {
        shape[axis] = extent;
    }
    call.budget.take(data.dtype(), &shape)?;
    let mut places = Vec::with_capacity(rank);
    for (&extent, &size) in shape.iter().zip(data.shape()) {
        let (cut, lead) = (size.saturating_sub(extent) / 2, extent.saturating_sub(size) / 2);
        places.push((0..extent).map(|at| at.checked_sub(lead).map(|at| at + cut).filter(|&at| at < size)).collect());
    }
    per_axis(call, data, None, &places).and_then(one)
}

/// The block size and the extents `[n, c, h, w]` of an image tensor.
fn blocks(call: &Call<'_>) -> Result<(usize, [usize; 4])> {
    let data = call.tensor(0)?;
    let &[n, c, h, w] = data.shape() else {
        return Err(call.shape_error(format_args!("shape {:?} is not [n, c, h, w]", data.shape())));
    };
    match usize::try_from(call.int("blocksize", 0)) {
        Ok(block) if block > 0 => Ok((block, [n, c, h, w])),
        _ => Err(call.attribute_error("blocksize is not positive")),
    }
}

fn depth_to_space(call: &Call<'_>) -> Result<Vec<Datum>> {
    let (b, [n, c, h, w]) = blocks(call)?;
    let square =
        b.checked_mul(b).filter(|square| c % square == 0).ok_or_else(|| call.shape_error(format_args!("{c} channels")))?;
    let deep = c / square;
    // Axes of the view: n, deep, h, block row, w, block column.
    let (split, order) = match call.text("mode", "DCR") {
        "DCR" => ([n, b, b, deep, h, w], [0, 3, 4, 1, 5, 2]),
        "CRD" => ([n, deep, b, b, h, w], [0, 1, 4, 2, 5, 3]),
        other => return Err(call.attribute_error(format_args!("mode '{other}'"))),
    };
    let dense = dense_strides(&split);
    let view =
        View { start: 0, extents: order.map(|axis| split[axis]).to_vec(), strides: order.map(|axis| dense[axis]).to_vec() };
    let out = [h.checked_mul(b), w.checked_mul(b)];
    let [Some(high), Some(wide)] = out else { return Err(call.shape_error("too large")) };
    view_as(call, call.tensor(0)?, vec![n, deep, high, wide], view).and_then(one)
}

fn space_to_depth(call: &Call<'_>) -> Result<Vec<Datum>> {
    let (b, [n, c, h, w]) = blocks(call)?;
    if h % b != 0 || w % b != 0 {
        return Err(call.shape_error(format_args!("{h}×{w} is no multiple of {b}")));
    }
    let split = [n, c, h / b, b, w / b, b];
    // Axes of the result: n, block row, block column, c, h, w.
    let order = match call.text("mode", "DCR") {
        "DCR" => [0, 3, 5, 1, 2, 4],
        "CRD" => [0, 1, 3, 5, 2, 4],
        other => return Err(call.attribute_error(format_args!("mode '{other}'"))),
    };
    let dense = dense_strides(&split);
    let view =
        View { start: 0, extents: order.map(|axis| split[axis]).to_vec(), strides: order.map(|axis| dense[axis]).to_vec() };
    let channels = c.checked_mul(b).and_then(|c| c.checked_mul(b)).ok_or_else(|| call.shape_error("too large"))?;
    view_as(call, call.tensor(0)?, vec![n, channels, h / b, w / b], view).and_then(one)
}

/// Reverses the leading part of the time axis, per batch.
struct Reverse<'a> {
    shape: &'a [usize],
    batch: usize,
    time: usize,
    lengths: &'a [usize],
}

impl Rearrange for Reverse<'_> {
    fn run<T: Clone + Default>(&self, sources: &[&[T]]) -> Result<Vec<T>> {
        let mut out = Vec::with_capacity(sources[0].len());
        let strides = dense_strides(self.shape);
        positions(self.shape, |at| {
            let length = self.lengths[at[self.batch]];
            let mut from: usize = at.iter().zip(&strides).map(|(&i, &stride)| i * stride as usize).sum();
            if at[self.time] < length {
                let step = strides[self.time] as usize;
                from = from - at[self.time] * step + (length - 1 - at[self.time]) * step;
            }
            out.push(sources[0][from].clone());
        });
        Ok(out)
    }
}

fn reverse_sequence(call: &Call<'_>) -> Result<Vec<Datum>> {
    let (data, lengths) = (call.tensor(0)?, call.extents(&call.whole(1)?)?);
    let rank = data.shape().len();
    let (batch, time) = (call.axis("batch_axis", 1, rank)?, call.axis("time_axis", 0, rank)?);
    let fits = lengths.len() == data.shape()[batch] && lengths.iter().all(|&length| length <= data.shape()[time]);
    if !fits || batch == time {
        return Err(call.shape_error(format_args!("lengths {lengths:?} for {:?}", data.shape())));
    }
    call.budget.take(data.dtype(), data.shape())?;
    let how = Reverse { shape: data.shape(), batch, time, lengths: &lengths };
    rearrange(call.op, &[data], data.shape().to_vec(), &how).and_then(one)
}

/// Keeps one triangle of each matrix.
struct Triangle {
    rows: usize,
    columns: usize,
    upper: bool,
    shift: i64,
}

impl Rearrange for Triangle {
    fn run<T: Clone + Default>(&self, sources: &[&[T]]) -> Result<Vec<T>> {
        let keep = |at: usize| {
            let across = (at % self.columns) as i64 - (at / self.columns % self.rows) as i64;
            if self.upper { across >= self.shift } else { across <= self.shift }
        };
        let values = sources[0].iter().enumerate();
        Ok(values.map(|(at, value)| if keep(at) { value.clone() } else { T::default() }).collect())
    }
}

fn trilu(call: &Call<'_>) -> Result<Vec<Datum>> {
    let data = call.tensor(0)?;
    let &[.., rows, columns] = data.shape() else {
        return Err(call.shape_error("needs matrices"));
    };
    let shift = call.optional_whole(1)?.and_then(|values| values.first().copied()).unwrap_or(0);
    call.budget.take(data.dtype(), data.shape())?;
    let how = Triangle { rows, columns, upper: call.flag("upper", true), shift };
    rearrange(call.op, &[data], data.shape().to_vec(), &how).and_then(one)
}
