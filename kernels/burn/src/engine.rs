//! The backends of Burn's that this crate computes with: flex on the host, wgpu and CUDA on devices.

use burn::backend::Flex;
use burn::tensor::backend::{Backend, BackendTypes};
use burn::tensor::ops::FloatTensor;
use burn::tensor::{Shape, TensorData};
use burn_cubecl::kernel::into_contiguous;
use burn_cuda::Cuda;
use burn_wgpu::Wgpu;

/// A backend, and what is needed of it beyond Burn's own traits. One type serves for floats and for indices.
pub trait Engine: Backend<IntTensorPrimitive = <Self as BackendTypes>::FloatTensorPrimitive> {
    /// The same elements, lying in rows.
    fn in_rows(tensor: FloatTensor<Self>) -> FloatTensor<Self>;
}

impl Engine for Flex {
    fn in_rows(tensor: FloatTensor<Self>) -> FloatTensor<Self> {
        tensor.to_contiguous()
    }
}

impl Engine for Wgpu {
    fn in_rows(tensor: FloatTensor<Self>) -> FloatTensor<Self> {
        into_contiguous(tensor)
    }
}

impl Engine for Cuda {
    fn in_rows(tensor: FloatTensor<Self>) -> FloatTensor<Self> {
        into_contiguous(tensor)
    }
}

/// A tensor of Burn's from f32 values.
pub fn lend<B: Engine>(values: &[f32], shape: &[usize], device: &B::Device) -> FloatTensor<B> {
    B::float_from_data(TensorData::new(values.to_vec(), shape.to_vec()), device)
}

/// The same elements under another shape.
pub fn reshaped<B: Engine>(tensor: FloatTensor<B>, shape: &[usize]) -> FloatTensor<B> {
    B::float_reshape(tensor, Shape::from(shape.to_vec()))
}
