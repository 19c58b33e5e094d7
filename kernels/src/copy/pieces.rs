//! A copy as boxes of elements, each from one input to one output.

use super::{Kind, Mode};
use crate::strided_copy::Piece;
use crate::{Signature, Task, strides};
use schema::DType;

/// Boxes, in an order that may matter: later ones may read nothing an earlier one wrote, but may write over it.
pub struct Pieces {
    /// Input, output, box.
    pub list: Vec<(usize, usize, Piece)>,
    /// The bits to fill the outputs with first, when the boxes do not cover them.
    pub fill: Option<u64>,
}

/// The bits of a pad value in that type.
pub fn pad_value(task: &Task, dtype: DType) -> u64 {
    let value = task.float("value").unwrap_or(0.0);
    match dtype {
        DType::F32 => u64::from(value.to_bits()),
        DType::F64 => f64::from(value).to_bits(),
        DType::F16 => u64::from(half::f16::from_f32(value).to_bits()),
        DType::Bf16 => u64::from(half::bf16::from_f32(value).to_bits()),
        DType::Bool => u64::from(value != 0.0),
        _ => value as i64 as u64,
    }
}

/// The boxes of a task in rows.
pub fn plan(kind: Kind, task: &Task, signature: &Signature) -> Pieces {
    let (x, y) = (&signature.inputs[0].shape, &signature.outputs[0].shape);
    let own: Vec<isize> = strides::row_major(x).into_iter().map(|s| s as isize).collect();
    let to: Vec<isize> = strides::row_major(y).into_iter().map(|s| s as isize).collect();
    let one = |piece: Piece| Pieces { list: vec![(0, 0, piece)], fill: None };
    match kind {
        Kind::Join => join(task, signature),
        Kind::Slice => {
            let (starts, steps) = (task.signed("starts"), task.signed("steps"));
            let from: isize = starts.iter().zip(&own).map(|(&start, s)| start as isize * s).sum();
            let strides = steps.iter().zip(&own).map(|(&step, s)| step as isize * s).collect();
            one(Piece::new(y.clone(), if y.contains(&0) { 0 } else { from as usize }, strides, 0, to))
        }
        Kind::Expand => {
            let strides = strides::broadcast_strides(x, y).expect("the signature broadcasts");
            one(Piece::new(y.clone(), 0, strides.into_iter().map(|s| s as isize).collect(), 0, to))
        }
        Kind::Tile => {
            // Each axis becomes two: how often, and the input's.
            let (mut dims, mut from, mut target) = (Vec::new(), Vec::new(), Vec::new());
            for axis in 0..x.len() {
                dims.extend([y[axis].checked_div(x[axis]).unwrap_or(0), x[axis]]);
                from.extend([0, own[axis]]);
                target.extend([to[axis] * x[axis] as isize, to[axis]]);
            }
            one(Piece::new(dims, 0, from, 0, target))
        }
        Kind::Pad => pad(task, signature, &own, &to),
    }
}

/// Runs along the axis that stay together in an input and an output.
fn join(task: &Task, signature: &Signature) -> Pieces {
    let (axis, groups) = (task.int("axis"), super::groups(task));
    let first = &signature.inputs[0].shape;
    let (outer, inner): (usize, usize) = (first[..axis].iter().product(), first[axis + 1..].iter().product());
    let total: usize = signature.inputs.iter().map(|spec| spec.shape[axis]).sum();
    let mut list = Vec::new();
    let mut start = 0usize;
    for (output, y) in signature.outputs.iter().enumerate() {
        let here = y.shape[axis];
        let mut base = 0usize;
        for (input, x) in signature.inputs.iter().enumerate() {
            let extent = x.shape[axis];
            // Place j takes (j mod groups)·(total/groups) + j/groups; with one group that is j itself.
            for group in 0..groups {
                let share = total / groups;
                // Sources of this group: group·share + q for q in 0..share, at places q·groups + group.
                let low = base.saturating_sub(group * share);
                let high = (base + extent).saturating_sub(group * share).min(share);
                let low = low.max(start.saturating_sub(group).div_ceil(groups));
                let high = high.min((start + here).saturating_sub(group).div_ceil(groups));
                if low < high && base + extent > group * share {
                    let piece = Piece::new(
                        vec![outer, high - low, inner],
                        (group * share + low - base) * inner,
                        vec![(extent * inner) as isize, inner as isize, 1],
                        (low * groups + group - start) * inner,
                        vec![(here * inner) as isize, (groups * inner) as isize, 1],
                    );
                    list.push((input, output, piece));
                }
            }
            base += extent;
        }
        start += here;
    }
    Pieces { list, fill: None }
}

/// Every axis falls into up to three stretches: before, inside and after; their products are the boxes.
fn pad(task: &Task, signature: &Signature, own: &[isize], to: &[isize]) -> Pieces {
    let (x, y) = (&signature.inputs[0].shape, &signature.outputs[0].shape);
    let pads = task.signed("pads");
    let mode = Mode::parse(task.word("mode")).unwrap_or(Mode::Constant);
    let stretches: Vec<Vec<[isize; 4]>> =
        (0..x.len()).map(|axis| axis_stretches(mode, x[axis] as isize, y[axis] as isize, pads[axis] as isize)).collect();
    let mut list = Vec::new();
    let count: usize = stretches.iter().map(Vec::len).product();
    for index in 0..count {
        let (mut rest, mut from, mut target) = (index, 0, 0);
        let (mut dims, mut strides) = (Vec::new(), Vec::new());
        for (axis, options) in stretches.iter().enumerate() {
            let [at, length, source, step] = options[rest % options.len()];
            rest /= options.len();
            dims.push(length as usize);
            strides.push(step * own[axis]);
            from += source * own[axis];
            target += at * to[axis];
        }
        list.push((0, 0, Piece::new(dims, from as usize, strides, target as usize, to.to_vec())));
    }
    let fill = (mode == Mode::Constant).then(|| pad_value(task, signature.inputs[0].dtype));
    Pieces { list, fill }
}

/// The stretches of one axis: `[place in the output, length, place in the input, step in the input]`, none empty.
fn axis_stretches(mode: Mode, x: isize, y: isize, before: isize) -> Vec<[isize; 4]> {
    // The input's element i stands at i + before.
    let (low, high) = (before.clamp(0, y), (before + x).clamp(0, y));
    let mut stretches = vec![[low, high - low, low - before, 1]];
    match mode {
        Mode::Constant => {}
        Mode::Edge => stretches.extend([[0, low, 0, 0], [high, y - high, x - 1, 0]]),
        Mode::Reflect => stretches.extend([[0, low, before, -1], [high, y - high, 2 * (x - 1) - (high - before), -1]]),
        Mode::Wrap => stretches.extend([[0, low, x - before, 1], [high, y - high, high - before - x, 1]]),
    }
    stretches.retain(|stretch| stretch[1] > 0);
    stretches
}
