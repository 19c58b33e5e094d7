//! One element after the other.

use crate::embedding::row_of;
use crate::{BuildError, Task, Tensor};
use bytes::Bytes;

/// Computes the slices; see [`super`] for the operands.
pub fn compute(task: &Task, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, BuildError> {
    let signature = super::signature(task)?;
    let tensor = |index: usize| inputs.get(index).copied().flatten().ok_or_else(|| task.refused("an operand is absent"));
    let (x, indices) = (tensor(0)?, tensor(1)?.to_ints().unwrap_or_default());
    let (axis, width) = (task.int("axis"), x.dtype().bytes());
    let outer: usize = x.shape()[..axis].iter().product();
    let (extent, inner) = (x.shape()[axis], x.shape()[axis + 1..].iter().product::<usize>());
    let mut bytes = Vec::new();
    for outer in 0..outer {
        for &index in &indices {
            let at = (outer * extent + row_of(index, extent)) * inner * width;
            bytes.extend_from_slice(&x.bytes()[at..at + inner * width]);
        }
    }
    let tensor = Tensor::from_bytes(x.dtype(), signature.outputs[0].shape.clone(), Bytes::from(bytes));
    Ok(vec![tensor.ok_or_else(|| task.refused("the elements do not fill the output"))?])
}
