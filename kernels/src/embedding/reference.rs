//! Row by row in f64.

use super::{Bag, Extents, row_of};
use crate::{BuildError, Task, Tensor};

/// Computes the look-up; see [`super`] for the operands.
pub fn compute(task: &Task, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, BuildError> {
    let e = Extents::of(task)?;
    let shape = super::signature(task)?.outputs[0].shape.clone();
    let tensor = |index: usize| inputs.get(index).copied().flatten().ok_or_else(|| task.refused("an operand is absent"));
    let table = tensor(0)?.reinterpret::<f32>();
    let indices = tensor(1)?.to_ints().unwrap_or_default();
    let results = shape.iter().product::<usize>().checked_div(e.width).unwrap_or(0);
    let mut out = Vec::new();
    for result in 0..results {
        let mut row = vec![0.0f64; e.width];
        for &index in &indices[result * e.bag..][..e.bag] {
            let at = row_of(index, e.rows) * e.width;
            row.iter_mut().zip(&table[at..at + e.width]).for_each(|(sum, &x)| *sum += f64::from(x));
        }
        let share = if e.kind == Bag::Mean { e.bag as f64 } else { 1.0 };
        out.extend(row.into_iter().map(|x| (x / share) as f32));
    }
    Ok(vec![Tensor::new(shape, out)])
}
