//! Window by window in f64, from ONNX's definition.

use crate::{BuildError, Task, Tensor, strides};

/// Computes the pooling; see [`super`] for the operands.
pub fn compute(task: &Task, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, BuildError> {
    let signature = super::signature(task)?;
    let x = inputs.first().copied().flatten().ok_or_else(|| task.refused("operand 'x' is absent"))?;
    let (values, shape, y) = (x.reinterpret::<f32>(), x.shape(), &signature.outputs[0].shape);
    let axes = shape.len() - 2;
    let (kernel, steps, dilations, pads) =
        (task.ints("kernel_shape"), task.ints("strides"), task.ints("dilations"), task.ints("pads"));
    let (own, taps) = (strides::row_major(shape), kernel.iter().product::<usize>());
    let mut out = Vec::new();
    for flat in 0..y.iter().product() {
        let mut rest: usize = flat;
        let mut place = vec![0; y.len()];
        for axis in (0..y.len()).rev() {
            place[axis] = rest % y[axis];
            rest /= y[axis];
        }
        let (mut most, mut sum, mut inside, mut padded) = (f64::NEG_INFINITY, 0.0, 0, 0);
        for tap in 0..taps {
            let mut rest = tap;
            let mut at = Some(place[0] * own[0] + place[1] * own[1]);
            let mut in_padding = true;
            for axis in (0..axes).rev() {
                let shifted = place[axis + 2] * steps[axis] + rest % kernel[axis] * dilations[axis];
                rest /= kernel[axis];
                let extent = shape[axis + 2];
                let coordinate = shifted.checked_sub(pads[axis]).filter(|&coordinate| coordinate < extent);
                at = at.zip(coordinate).map(|(at, coordinate)| at + coordinate * own[axis + 2]);
                in_padding &= shifted < pads[axis] + extent + pads[axis + axes];
            }
            padded += usize::from(in_padding);
            if let Some(at) = at {
                most = most.max(f64::from(values[at]));
                sum += f64::from(values[at]);
                inside += 1;
            }
        }
        let count = if task.int("count_include_pad") == 1 { padded } else { inside };
        out.push(if task.word("kind") == "max" { most } else { sum / count as f64 } as f32);
    }
    Ok(vec![Tensor::new(y.clone(), out)])
}
