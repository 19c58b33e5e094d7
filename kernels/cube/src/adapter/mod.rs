//! What is on this machine, asked without making a device of any of it.

mod cuda;
mod wgpu;

pub use cuda::cuda_adapters;
pub(crate) use cuda::multiprocessors;
pub use wgpu::wgpu_adapters;
pub(crate) use wgpu::{Opened, open};

use cubecl::cuda::CudaDevice;
use cubecl::wgpu::WgpuDevice;
use kernels::GpuLimits;

/// Which hardware is behind an adapter.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum AdapterKind {
    Discrete,
    Integrated,
    Virtual,
    /// A driver that computes on the host's processor.
    Software,
}

/// A device that can be opened.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    /// The driver's name of it: `llvmpipe (LLVM 15.0.6, 256 bits)`, `NVIDIA H200`.
    pub name: String,
    pub kind: AdapterKind,
    /// What it is beside its name, a `name=value` per line: the same for two of one make.
    pub identity: String,
    /// What computes on it, a `name=value` per line: another text makes old figures doubtful.
    pub driver: String,
    /// The driver's version as people read it: `Mesa 22.3.6 (LLVM 15.0.6)`, `driver 12.8`.
    pub version: String,
    pub limits: GpuLimits,
    /// Multiprocessors, where the driver counts them.
    pub multiprocessors: Option<u32>,
    /// Engines that copy while kernels run, where what is begun on several streams does not end in one queue.
    pub copy_engines: u32,
    pub(crate) handle: Handle,
}

/// How CubeCL addresses a device.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Handle {
    Wgpu(WgpuDevice),
    Cuda(CudaDevice),
}
