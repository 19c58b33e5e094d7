//! The plain product, in f64.

use super::{Shape, refuse};
use crate::{BuildError, Task, Tensor};

/// `act(alpha · A·B + bias + residual)`, accumulated in f64, all tensors in rows.
pub fn reference(task: &Task, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, BuildError> {
    let shape = Shape::of(task)?;
    let values = |i: usize, name: &str| {
        let tensor = inputs.get(i).copied().flatten().ok_or_else(|| refuse(task, format!("operand '{name}' is missing")))?;
        tensor.values::<f32>().ok_or_else(|| refuse(task, format!("operand '{name}' is not f32")))
    };
    let (a, b) = (values(0, "a")?, values(1, "b")?);
    let bias = shape.epilogue.bias.then(|| values(2, "bias")).transpose()?;
    let residual = shape.epilogue.residual.then(|| values(3, "residual")).transpose()?;
    let (m, n, k) = (shape.m, shape.n, shape.k);
    let mut c = Vec::with_capacity(shape.batch() * m * n);
    for (ai, bi) in shape.pairs() {
        let (a, b) = (&a[ai * m * k..][..m * k], &b[bi * k * n..][..k * n]);
        for row in 0..m {
            for column in 0..n {
                let a_at = |i: usize| f64::from(if shape.trans_a { a[i * m + row] } else { a[row * k + i] });
                let b_at = |i: usize| f64::from(if shape.trans_b { b[column * k + i] } else { b[i * n + column] });
                let sum: f64 = (0..k).map(|i| a_at(i) * b_at(i)).sum();
                let bias = bias.as_ref().map_or(0.0, |bias| f64::from(bias[column]));
                let residual = residual.as_ref().map_or(0.0, |residual| f64::from(residual[c.len()]));
                c.push(shape.epilogue.apply(f64::from(shape.alpha) * sum, bias, residual) as f32);
            }
        }
    }
    Ok(vec![Tensor::new([&shape.batch_c()[..], &[m, n]].concat(), c)])
}
