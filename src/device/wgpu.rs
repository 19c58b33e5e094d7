//! What wgpu finds: GPUs of every maker, and drivers that compute on the processor.

use super::{Backend, Find};

/// Devices reached through wgpu.
pub const BACKEND: Backend = Backend { name: "wgpu", find: Find::Adapters(cube_kernels::wgpu_adapters) };
