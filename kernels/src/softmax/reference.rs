//! Row by row in f64.

use super::Extents;
use crate::strides::offset_of;
use crate::{BuildError, Task, Tensor};

/// Computes the softmax; see [`super`] for the operands.
pub fn compute(task: &Task, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, BuildError> {
    let extents = Extents::of(task)?;
    let tensor = |index: usize| inputs.get(index).copied().flatten();
    let x = tensor(0).ok_or_else(|| task.refused("operand 'x' is absent"))?;
    let values = x.reinterpret::<f32>();
    let mask = tensor(1).map(|mask| mask.reinterpret::<f32>());
    let mut out = vec![0.0f32; values.len()];
    for outer in 0..extents.outer {
        for inner in 0..extents.inner {
            let at = |i: usize| (outer * extents.len + i) * extents.inner + inner;
            let logit = |i: usize| {
                let added = match (&extents.mask, &mask) {
                    (Some(place), Some(values)) => {
                        let at = offset_of(outer, &place.outer.0, &place.outer.1)
                            + i as isize * place.len
                            + offset_of(inner, &place.inner.0, &place.inner.1);
                        f64::from(values[at as usize])
                    }
                    _ => 0.0,
                };
                f64::from(values[at(i)]) * f64::from(extents.scale) + added
            };
            let most = (0..extents.len).map(logit).fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = (0..extents.len).map(|i| (logit(i) - most).exp()).sum();
            for i in 0..extents.len {
                let x = logit(i) - most;
                out[at(i)] = if extents.log { x - sum.ln() } else { x.exp() / sum } as f32;
            }
        }
    }
    Ok(vec![Tensor::new(x.shape().to_vec(), out)])
}
