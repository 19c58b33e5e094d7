//! The way into an opened device for other packages that compute with CubeCL, on the same buffers and in the same order of launches.

use crate::adapter::Handle;
use crate::gpu::{Buffer, Client, Gpu};
use cubecl::client::ComputeClient;
use cubecl::cuda::{CudaDevice, CudaRuntime};
use cubecl::server::Handle as Memory;
use cubecl::wgpu::{WgpuDevice, WgpuRuntime};

/// A device as CubeCL knows it.
pub enum Opened<'a> {
    Wgpu(&'a ComputeClient<WgpuRuntime>, &'a WgpuDevice),
    Cuda(&'a ComputeClient<CudaRuntime>, &'a CudaDevice),
}

impl Gpu {
    /// As CubeCL knows it; `None` where kernels are only compiled.
    pub fn opened(&self) -> Option<Opened<'_>> {
        match (self.client, &self.device) {
            (Client::Wgpu(client), Some(Handle::Wgpu(device))) => Some(Opened::Wgpu(client, device)),
            (Client::Cuda(client), Some(Handle::Cuda(device))) => Some(Opened::Cuda(client, device)),
            _ => None,
        }
    }
}

impl Buffer {
    /// A buffer of memory that CubeCL gave, of which the first `bytes` count.
    pub fn of_memory(handle: Memory, bytes: usize) -> Buffer {
        Buffer { handle, bytes }
    }

    /// Its memory.
    pub fn memory(&self) -> &Memory {
        &self.handle
    }
}
