//! Query by query in f64.

use super::{Shape, ordered};
use crate::{BuildError, Task, Tensor};

/// Computes the attention; see [`super`] for the operands.
pub fn compute(task: &Task, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, BuildError> {
    let s = Shape::of(task)?;
    let tensor = |index: usize| inputs.get(index).copied().flatten().map(|tensor| tensor.reinterpret::<f32>());
    let need = |index: usize| tensor(index).ok_or_else(|| task.refused("an operand is absent"));
    let (q, k, v, mask) = (need(0)?, need(1)?, need(2)?, tensor(3));
    let mut out = vec![0.0f32; s.images * s.heads * s.queries * s.width];
    for image in 0..s.images {
        for head in 0..s.heads {
            let group = s.group(head);
            for query in 0..s.queries {
                let q = &q[s.q.at(image, head) + query * s.q.stride()..][..s.depth];
                let score = |key: usize| {
                    let k = &k[s.k.at(image, group) + key * s.k.stride()..][..s.depth];
                    let dot: f64 = q.iter().zip(k).map(|(&q, &k)| f64::from(q) * f64::from(k)).sum();
                    let masked = mask.as_ref().map_or(0.0, |mask| {
                        f64::from(mask[s.mask_at([image, head, query]) + key * s.mask.map_or(0, |strides| strides[3])])
                    });
                    dot * f64::from(s.scale) + masked
                };
                let scores: Vec<f64> = (0..s.seen(query)).map(score).collect();
                let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = scores.iter().map(|x| (x - most).exp()).sum();
                let y = &mut out[s.y.at(image, head) + query * s.y.stride()..][..s.width];
                for (column, y) in y.iter_mut().enumerate() {
                    let weighted = scores.iter().enumerate().map(|(key, x)| {
                        (x - most).exp() / sum * f64::from(v[s.v.at(image, group) + key * s.v.stride() + column])
                    });
                    *y = weighted.sum::<f64>() as f32;
                }
            }
        }
    }
    let shape = ordered(task.word("y_order"), [s.images, s.heads, s.queries, s.width]);
    Ok(vec![Tensor::new(shape, out)])
}
