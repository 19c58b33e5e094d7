//! Place by place in f64.

use super::Extents;
use crate::{BuildError, Task, Tensor};

/// Computes the new size; see [`super`] for the operands.
pub fn compute(task: &Task, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, BuildError> {
    let signature = super::signature(task)?;
    let x = inputs.first().copied().flatten().ok_or_else(|| task.refused("operand 'x' is absent"))?;
    let Extents { from, to, rows, columns, .. } = Extents::of(task)?;
    let mut out = Vec::new();
    for image in x.reinterpret::<f32>().chunks_exact(from[0] * from[1]) {
        for place in 0..to[0] * to[1] {
            let (row, column) = (rows[place / to[1]], columns[place % to[1]]);
            let at = |y: usize, x: usize| f64::from(image[y * from[1] + x]);
            let mix = |a: f64, b: f64, weight: f32| a + (b - a) * f64::from(weight);
            let above = mix(at(row.first, column.first), at(row.first, column.second), column.weight);
            let below = mix(at(row.second, column.first), at(row.second, column.second), column.weight);
            out.push(mix(above, below, row.weight) as f32);
        }
    }
    Ok(vec![Tensor::new(signature.outputs[0].shape.clone(), out)])
}
