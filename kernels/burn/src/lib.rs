//! Burn's operations behind concrete functions, for operators without a tuned kernel.
//!
//! No generic of Burn appears in a signature: a caller would compile Burn again.
use burn::tensor::{Tensor, TensorData, backend::Backend as _};

/// The product of two row-major f32 matrices `[m, k]` and `[k, n]`.
pub fn matmul(a: &[f32], b: &[f32], m: usize, k: usize, n: usize) -> Vec<f32> {
    type B = burn::backend::Flex;
    let device = Default::default();
    let a = Tensor::<B, 2>::from_data(TensorData::new(a.to_vec(), [m, k]), &device);
    let b = Tensor::<B, 2>::from_data(TensorData::new(b.to_vec(), [k, n]), &device);
    let _ = B::name(&device);
    a.matmul(b).into_data().to_vec().expect("f32 in, f32 out")
}
