//! What is bound by memory.

use super::{Engine, FloatTensor, Run, extents};
use burn::tensor::Slice;
use burn::tensor::ops::{InterpolateMode, InterpolateOptions};
use kernels::Task;

/// A softmax without mask and scale.
pub fn softmax<B: Engine>(task: &Task, operands: &[FloatTensor<B>]) -> Option<Run<B>> {
    let ([x], axis) = (operands, task.int("axis")) else { return None };
    if task.get("scale").is_some() {
        return None;
    }
    let (x, log) = (x.clone(), task.int("log") == 1);
    Some(Box::new(move || if log { B::log_softmax(x.clone(), axis) } else { B::softmax(x.clone(), axis) }))
}

/// A layer normalisation of rows with scale and bias.
pub fn layer_norm<B: Engine>(task: &Task, operands: &[FloatTensor<B>]) -> Option<Run<B>> {
    let [x, scale, bias] = operands else { return None };
    if task.int("axis") + 1 != task.ints("x").len() || task.int("rms") == 1 {
        return None;
    }
    let epsilon = f64::from(task.float("epsilon").unwrap_or(1e-5));
    let (x, scale, bias) = (x.clone(), scale.clone(), bias.clone());
    Some(Box::new(move || B::layer_norm(x.clone(), scale.clone(), Some(bias.clone()), epsilon)))
}

/// Sums, means and extremes, axis by axis.
pub fn reduce<B: Engine>(task: &Task, operands: &[FloatTensor<B>]) -> Option<Run<B>> {
    let fold = match task.word("kind") {
        "sum" => B::float_sum_dim,
        "mean" => B::float_mean_dim,
        "max" => B::float_max_dim,
        _ => return None,
    };
    let (x, axes) = (operands.first()?.clone(), task.ints("axes"));
    Some(Box::new(move || axes.iter().rev().fold(x.clone(), |x, &axis| fold(x, axis))))
}

/// Windows over planes, pads alike at both ends.
pub fn pool<B: Engine>(task: &Task, operands: &[FloatTensor<B>]) -> Option<Run<B>> {
    let pair = |name: &str| -> Option<[usize; 2]> { task.ints(name).try_into().ok() };
    let (kernel, strides, dilations) = (pair("kernel_shape")?, pair("strides")?, pair("dilations")?);
    let [top, left, bottom, right] = task.ints("pads")[..] else { return None };
    let (x, pads) = (operands.first()?.clone(), [top, left]);
    if pads != [bottom, right] {
        return None;
    }
    match task.word("kind") {
        "max" => Some(Box::new(move || B::max_pool2d(x.clone(), kernel, strides, pads, dilations, false))),
        _ if dilations == [1, 1] => {
            let padding_counts = task.int("count_include_pad") == 1;
            Some(Box::new(move || B::avg_pool2d(x.clone(), kernel, strides, pads, padding_counts, false)))
        }
        _ => None,
    }
}

/// Axes in another order, written out.
pub fn transpose<B: Engine>(task: &Task, operands: &[FloatTensor<B>]) -> Option<Run<B>> {
    let (x, perm) = (operands.first()?.clone(), task.ints("perm"));
    Some(Box::new(move || B::in_rows(B::float_permute(x.clone(), &perm))))
}

/// Joins into one output, slices with positive steps, and constant padding.
pub fn copy<B: Engine>(task: &Task, operands: &[FloatTensor<B>]) -> Option<Run<B>> {
    let target = task.ints("y0");
    let slices = |starts: &[i64], extents: &[usize], steps: &[i64]| -> Vec<Slice> {
        let axes = starts.iter().zip(extents).zip(steps);
        axes.map(|((&start, &extent), &step)| {
            let end = start + (extent as i64 - 1) * step + 1;
            Slice::new(start as isize, Some(end as isize), step as isize)
        })
        .collect()
    };
    match task.word("kind") {
        "join" if task.get("y1").is_none() && task.get("groups").is_none() => {
            let (operands, axis) = (operands.to_vec(), task.int("axis"));
            Some(Box::new(move || B::float_cat(operands.clone(), axis)))
        }
        // The first of several outputs; the others cost as much each.
        "join" if operands.len() == 1 && task.get("groups").is_none() => {
            let (x, axis) = (operands[0].clone(), task.int("axis"));
            let mut outputs = Vec::new();
            let mut start = 0;
            for name in ["y0", "y1", "y2", "y3"].into_iter().take_while(|name| task.get(name).is_some()) {
                let (mut starts, extents) = (vec![0; target.len()], task.ints(name));
                starts[axis] = start;
                start += extents[axis] as i64;
                outputs.push(slices(&starts, &extents, &vec![1; target.len()]));
            }
            Some(Box::new(move || {
                let mut parts = outputs.iter().map(|slices| B::in_rows(B::float_slice(x.clone(), slices)));
                let first = parts.next().expect("there is an output");
                parts.for_each(|part| drop(std::hint::black_box(part)));
                first
            }))
        }
        "slice" if task.signed("steps").iter().all(|&step| step > 0) => {
            let (x, slices) = (operands.first()?.clone(), slices(&task.signed("starts"), &target, &task.signed("steps")));
            Some(Box::new(move || B::in_rows(B::float_slice(x.clone(), &slices))))
        }
        "pad" if matches!(task.word("mode"), "" | "constant") && task.signed("pads").iter().all(|&pad| pad >= 0) => {
            let x = operands.first()?.clone();
            let (own, value) = (extents::<B>(&x), task.float("value").unwrap_or(0.0));
            let inside = slices(&task.signed("pads")[..own.len()], &own, &vec![1; own.len()]);
            Some(Box::new(move || {
                let scalar = super::lend::<B>(&[value], &vec![1; target.len()], &B::float_device(&x));
                let all = B::in_rows(B::float_expand(scalar, burn::tensor::Shape::from(target.clone())));
                B::float_slice_assign(all, &inside, x.clone())
            }))
        }
        _ => None,
    }
}

/// Height and width at another size: linear by half pixels or by corners, nearest by the floor.
pub fn resize<B: Engine>(task: &Task, operands: &[FloatTensor<B>]) -> Option<Run<B>> {
    let x = operands.first()?.clone();
    let [_, _, height, width] = task.ints("y")[..] else { return None };
    let (mode, align) = match (task.word("mode"), task.word("transform"), task.word("rounding")) {
        ("linear", "half_pixel", _) => (InterpolateMode::Bilinear, false),
        ("linear", "align_corners", _) => (InterpolateMode::Bilinear, true),
        ("nearest", "asymmetric", "floor") => (InterpolateMode::Nearest, false),
        _ => return None,
    };
    let options = InterpolateOptions::new(mode).with_align_corners(align);
    Some(Box::new(move || B::interpolate(x.clone(), [height, width], options.clone())))
}

/// Slices along an axis by a list of indices.
pub fn gather<B: Engine>(task: &Task, operands: &[FloatTensor<B>]) -> Option<Run<B>> {
    let ([x, indices], axis) = (operands, task.int("axis")) else { return None };
    let (x, indices) = (x.clone(), indices.clone());
    (task.ints("indices").len() == 1).then(|| Box::new(move || B::float_select(x.clone(), axis, indices.clone())) as Run<B>)
}

/// Rows of a table, or their sums over the last axis of indices.
pub fn embedding<B: Engine>(task: &Task, operands: &[FloatTensor<B>]) -> Option<Run<B>> {
    let [table, indices] = operands else { return None };
    let (table, indices, bag) = (table.clone(), indices.clone(), task.word("bag").to_owned());
    if task.ints("indices").len() != 2 {
        return None;
    }
    Some(Box::new(move || {
        let rows = B::embedding(table.clone(), indices.clone());
        match &bag[..] {
            "sum" => B::float_sum_dim(rows, 1),
            "mean" => B::float_mean_dim(rows, 1),
            _ => rows,
        }
    }))
}
