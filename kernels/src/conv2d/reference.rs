//! The plain convolution, in f64.

use super::Shape;
use crate::gemm::refuse;
use crate::{BuildError, Task, Tensor};

/// All tensors in rows.
pub fn reference(task: &Task, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, BuildError> {
    convolve(&Shape::of(task)?, task, inputs)
}

/// The convolution of that shape, accumulated in f64, all tensors in rows.
///
/// # Errors
/// [`BuildError::Task`] when an operand is missing or not f32.
pub fn convolve(s: &Shape, task: &Task, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, BuildError> {
    let values = |i: usize, name: &str| {
        let tensor = inputs.get(i).copied().flatten().ok_or_else(|| refuse(task, format!("operand '{name}' is missing")))?;
        tensor.values::<f32>().ok_or_else(|| refuse(task, format!("operand '{name}' is not f32")))
    };
    let (x, weight) = (values(0, "x")?, values(1, "weight")?);
    let bias = s.epilogue.bias.then(|| values(2, "bias")).transpose()?;
    let residual = s.epilogue.residual.then(|| values(3, "residual")).transpose()?;
    let mut y = Vec::with_capacity(s.pixels() * s.o);
    for image in 0..s.n {
        for o in 0..s.o {
            let first = o / s.group_o() * s.group_c();
            for oy in 0..s.oh {
                for ox in 0..s.ow {
                    let mut sum = 0.0;
                    for c in 0..s.group_c() {
                        for ky in 0..s.kh {
                            for kx in 0..s.kw {
                                let iy = (oy * s.strides[0] + ky * s.dilations[0]).wrapping_sub(s.pads[0]);
                                let ix = (ox * s.strides[1] + kx * s.dilations[1]).wrapping_sub(s.pads[1]);
                                if iy < s.h && ix < s.w {
                                    let x = x[((image * s.c + first + c) * s.h + iy) * s.w + ix];
                                    let weight = weight[((o * s.group_c() + c) * s.kh + ky) * s.kw + kx];
                                    sum += f64::from(x) * f64::from(weight);
                                }
                            }
                        }
                    }
                    let bias = bias.as_ref().map_or(0.0, |bias| f64::from(bias[o]));
                    let residual = residual.as_ref().map_or(0.0, |residual| f64::from(residual[y.len()]));
                    y.push(s.epilogue.apply(sum, bias, residual) as f32);
                }
            }
        }
    }
    Ok(vec![Tensor::new(s.output_shape().to_vec(), y)])
}
