//! Row by row in f64.

use super::Extents;
use crate::{BuildError, Task, Tensor};

/// Computes the normalisation; see [`super`] for the operands.
pub fn compute(task: &Task, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, BuildError> {
    let e = Extents::of(task)?;
    let tensor = |index: usize| inputs.get(index).copied().flatten();
    let x = tensor(0).ok_or_else(|| task.refused("operand 'x' is absent"))?;
    let (scale, bias) = (tensor(1).map(|t| t.reinterpret::<f32>()), tensor(2).map(|t| t.reinterpret::<f32>()));
    let mut out = Vec::with_capacity(x.len());
    for row in x.reinterpret::<f32>().chunks_exact(e.len.max(1)) {
        let row: Vec<f64> = row.iter().map(|&x| f64::from(x)).collect();
        let mean = if e.rms { 0.0 } else { row.iter().sum::<f64>() / e.len as f64 };
        let variance = row.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / e.len as f64;
        let factor = 1.0 / (variance + f64::from(e.epsilon)).sqrt();
        for (i, x) in row.iter().enumerate() {
            let scale = scale.as_ref().map_or(1.0, |scale| f64::from(scale[i]));
            let bias = bias.as_ref().map_or(0.0, |bias| f64::from(bias[i]));
            out.push(((x - mean) * factor * scale + bias) as f32);
        }
    }
    Ok(vec![Tensor::new(x.shape().to_vec(), out)])
}
