//! One element after the other: where does it come from?

use super::{Kind, Mode};
use crate::{BuildError, OperandSpec, Task, Tensor, strides};
use bytes::Bytes;

/// Computes the copy; see [`super`] for the operands.
pub fn compute(task: &Task, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, BuildError> {
    let signature = super::signature(task)?;
    let kind = Kind::parse(task.word("kind")).ok_or_else(|| task.refused("there is no such kind"))?;
    let mut offset = 0;
    let mut results = Vec::new();
    for y in &signature.outputs {
        let width = y.dtype.bytes();
        let mut bytes = Vec::with_capacity(y.bytes());
        for flat in 0..y.shape.iter().product() {
            let place = place(flat, &y.shape);
            let source = match kind {
                Kind::Join => Some(joined(task, &signature.inputs, &place, offset)),
                _ => single(kind, task, &signature.inputs[0].shape, &y.shape, &place).map(|place| (0, place)),
            };
            match source {
                Some((input, place)) => {
                    let x = inputs.get(input).copied().flatten().ok_or_else(|| task.refused("an input is absent"))?;
                    let walk = strides::row_major(x.shape());
                    let at = place.iter().zip(&walk).map(|(i, s)| i * s).sum::<usize>() * width;
                    bytes.extend_from_slice(&x.bytes()[at..at + width]);
                }
                None => bytes.extend_from_slice(&super::pieces::pad_value(task, y.dtype).to_ne_bytes()[..width]),
            }
        }
        if kind == Kind::Join {
            offset += y.shape[task.int("axis")];
        }
        let tensor = Tensor::from_bytes(y.dtype, y.shape.clone(), Bytes::from(bytes));
        results.push(tensor.ok_or_else(|| task.refused("the elements do not fill the output"))?);
    }
    Ok(results)
}

/// The index along every axis of the `flat`-th element.
fn place(mut flat: usize, shape: &[usize]) -> Vec<usize> {
    let mut place = vec![0; shape.len()];
    for (i, &dim) in place.iter_mut().zip(shape).rev() {
        *i = flat % dim;
        flat /= dim;
    }
    place
}

fn joined(task: &Task, inputs: &[OperandSpec], place: &[usize], offset: usize) -> (usize, Vec<usize>) {
    let (axis, groups) = (task.int("axis"), super::groups(task));
    let total: usize = inputs.iter().map(|spec| spec.shape[axis]).sum();
    let j = place[axis] + offset;
    let mut from = (j % groups) * (total / groups) + j / groups;
    let mut input = 0;
    while from >= inputs[input].shape[axis] {
        from -= inputs[input].shape[axis];
        input += 1;
    }
    let mut place = place.to_vec();
    place[axis] = from;
    (input, place)
}

fn single(kind: Kind, task: &Task, x: &[usize], y: &[usize], place: &[usize]) -> Option<Vec<usize>> {
    let skip = y.len() - x.len();
    let (starts, steps, pads) = (task.signed("starts"), task.signed("steps"), task.signed("pads"));
    let mode = Mode::parse(task.word("mode"));
    (0..x.len())
        .map(|axis| {
            let (i, dim) = (place[skip + axis], x[axis]);
            match kind {
                Kind::Slice => Some((starts[axis] + i as i64 * steps[axis]) as usize),
                Kind::Expand | Kind::Tile => Some(i % dim),
                _ => {
                    let (at, dim) = (i as i64 - pads[axis], dim as i64);
                    let inside = match mode {
                        Some(Mode::Edge) => at.clamp(0, dim - 1),
                        Some(Mode::Wrap) => at.rem_euclid(dim),
                        Some(Mode::Reflect) if at < 0 => -at,
                        Some(Mode::Reflect) if at >= dim => 2 * (dim - 1) - at,
                        _ => at,
                    };
                    (0..dim).contains(&inside).then_some(inside as usize)
                }
            }
        })
        .collect()
}
