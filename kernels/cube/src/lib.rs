//! Kernels for devices with memory of their own, written in CubeCL: one source for wgpu and CUDA.
//!
//! [`wgpu_adapters`] and [`cuda_adapters`] say what is there without touching it; [`Gpu`] is an opened device with its buffers;
//! [`OPERATORS`] lists the variants for it, with knobs and rules as data like those of the host, each built into a [`CubeKernel`] that a
//! plan launches on buffers.
//!
//! No signature here names a type of CubeCL, but those of [`interop`], which are for packages like this one: a caller would compile its
//! kernels again, minutes at every edit.
//!
//! Errors of a device come late, at the next [`Gpu::sync`] or download, and its threads may panic: both become a [`GpuError`]. What
//! could make a launch fail (shared memory, units, cubes, bindings) is a rule of the variant, tested before anything is launched.

#![deny(unsafe_code)]

mod adapter;
mod attention;
mod conv2d;
mod conv_transpose2d;
mod elementwise;
mod embedding;
mod epilogue;
mod faults;
mod gather;
mod gemm;
mod geometry;
mod gpu;
mod index;
pub mod interop;
mod layer_norm;
mod moves;
mod narrow;
mod operator;
mod picked;
mod pool;
mod recurrent;
mod reduce;
mod resize;
mod softmax;
#[cfg(feature = "sources")]
pub mod sources;
mod stream;
mod team;
mod turns;
mod uniform;
mod weights;

pub use adapter::{Adapter, AdapterKind, cuda_adapters, wgpu_adapters};
pub use gpu::{Buffer, Gpu, GpuError};
pub use operator::{CubeKernel, CubeOperator, CubeVariant, OPERATORS, operator};
pub use stream::{Begun, Stream};
