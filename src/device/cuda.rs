//! NVIDIA GPUs.

use super::{Backend, Find};

/// Devices reached through CUDA.
pub const BACKEND: Backend = Backend { name: "cuda", find: Find::Adapters(cube_kernels::cuda_adapters) };
