//! Kernels for devices with memory of their own, written in CubeCL: one source for wgpu and, later, CUDA.
//!
//! [`adapters`] says what is there without touching it; [`Gpu`] is an opened device with its buffers; [`OPERATORS`] lists the variants
//! for it, with knobs and rules as data like those of the host, each built into a [`CubeKernel`] that a plan launches on buffers.
//!
//! No signature here names a type of CubeCL: a caller would compile its kernels again, minutes at every edit.
//!
//! Errors of a device come late, at the next [`Gpu::sync`] or download, and its threads may panic: both become a [`GpuError`]. What
//! could make a launch fail (shared memory, units, cubes, bindings) is a rule of the variant, tested before anything is launched.

#![deny(unsafe_code)]

mod adapter;
mod conv2d;
mod elementwise;
mod epilogue;
mod gemm;
mod gpu;
mod index;
mod layer_norm;
mod moves;
mod operator;
mod pool;
mod reduce;
mod softmax;
mod team;

pub use adapter::{Adapter, AdapterKind, adapters};
pub use gpu::{Buffer, Gpu, GpuError};
pub use operator::{CubeKernel, CubeOperator, CubeVariant, OPERATORS, operator};
