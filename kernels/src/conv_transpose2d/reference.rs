//! The plain transposed convolution, in f64.

use super::Shape;
use crate::gemm::refuse;
use crate::{BuildError, Task, Tensor};

/// All tensors in rows.
pub fn reference(task: &Task, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, BuildError> {
    let s = Shape::of(task)?;
    let values = |i: usize, name: &str| {
        let tensor = inputs.get(i).copied().flatten().ok_or_else(|| refuse(task, format!("operand '{name}' is missing")))?;
        tensor.values::<f32>().ok_or_else(|| refuse(task, format!("operand '{name}' is not f32")))
    };
    let (x, weight) = (values(0, "x")?, values(1, "weight")?);
    let bias = s.epilogue.bias.then(|| values(2, "bias")).transpose()?;
    let residual = s.epilogue.residual.then(|| values(3, "residual")).transpose()?;
    let [kh, kw] = s.kernel;
    let mut sums = vec![0f64; s.n * s.o * s.oh * s.ow];
    for image in 0..s.n {
        for c in 0..s.c {
            let first = c / s.group_c() * s.group_o();
            for (iy, ix) in (0..s.h * s.w).map(|i| (i / s.w, i % s.w)) {
                let value = f64::from(x[((image * s.c + c) * s.h + iy) * s.w + ix]);
                for (o, ky, kx) in (0..s.group_o() * kh * kw).map(|i| (i / (kh * kw), i / kw % kh, i % kw)) {
                    let oy = (iy * s.strides[0] + ky * s.dilations[0]).wrapping_sub(s.pads[0]);
                    let ox = (ix * s.strides[1] + kx * s.dilations[1]).wrapping_sub(s.pads[1]);
                    if oy < s.oh && ox < s.ow {
                        let weight = f64::from(weight[((c * s.group_o() + o) * kh + ky) * kw + kx]);
                        sums[((image * s.o + first + o) * s.oh + oy) * s.ow + ox] += value * weight;
                    }
                }
            }
        }
    }
    let y = sums.iter().enumerate().map(|(i, &sum)| {
        let bias = bias.as_ref().map_or(0.0, |bias| f64::from(bias[i / (s.oh * s.ow) % s.o]));
        let residual = residual.as_ref().map_or(0.0, |residual| f64::from(residual[i]));
        s.epilogue.apply(sum, bias, residual) as f32
    });
    Ok(vec![Tensor::new(s.output_shape().to_vec(), y.collect())])
}
