//! One element after the other.

use crate::{BuildError, Task, Tensor, strides};
use bytes::Bytes;

/// Computes the transpose; see [`super`] for the operands.
pub fn compute(task: &Task, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, BuildError> {
    let signature = super::signature(task)?;
    let x = inputs.first().copied().flatten().ok_or_else(|| task.refused("operand 'x' is absent"))?;
    let (y, width) = (&signature.outputs[0], x.dtype().bytes());
    let own = strides::row_major(x.shape());
    let walk: Vec<isize> = task.ints("perm").iter().map(|&axis| own[axis] as isize).collect();
    let mut bytes = Vec::with_capacity(x.bytes().len());
    for flat in 0..x.len() {
        let at = strides::offset_of(flat, &y.shape, &walk) as usize * width;
        bytes.extend_from_slice(&x.bytes()[at..at + width]);
    }
    let tensor = Tensor::from_bytes(x.dtype(), y.shape.clone(), Bytes::from(bytes));
    Ok(vec![tensor.ok_or_else(|| task.refused("operand 'x' is not of the task's shape"))?])
}
