//! An opened device: buffers, transfers, and the end of what was launched.

use crate::adapter::{Adapter, Handle};
use cubecl::client::ComputeClient;
use cubecl::cuda::CudaRuntime;
use cubecl::prelude::{Array, ArrayArg, Runtime, SequenceArg};
use cubecl::server::Handle as Memory;
use cubecl::wgpu::WgpuRuntime;
use kernels::GpuLimits;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use thiserror::Error;

/// A device with memory of its own, ready for buffers and launches. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct Gpu {
    pub(crate) client: Client,
    /// How CubeCL addresses it; none where kernels are only compiled.
    pub(crate) device: Option<Handle>,
    limits: GpuLimits,
}

/// The runtimes there are.
#[derive(Clone)]
pub(crate) enum Client {
    Wgpu(ComputeClient<WgpuRuntime>),
    Cuda(ComputeClient<CudaRuntime>),
    #[cfg(feature = "sources")]
    Sources(ComputeClient<crate::sources::SourceRuntime>),
}

/// Bytes on a device. Cheap to clone; clones are the same bytes. Freed with the last.
#[derive(Clone, Debug)]
pub struct Buffer {
    pub(crate) handle: Memory,
    pub(crate) bytes: usize,
}

/// What went wrong on a device, seen at the first question after it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum GpuError {
    /// A kernel was not compiled or not launched; the device still works.
    #[error("a launch failed: {0}")]
    Launch(String),
    /// The device, or the thread that talks to it, is gone.
    #[error("the device is lost: {0}")]
    Lost(String),
}

/// Evaluates an expression with the client of whatever runtime there is.
macro_rules! with_client {
    ($gpu:expr, $client:ident => $body:expr) => {
        match &$gpu.client {
            $crate::gpu::Client::Wgpu($client) => $body,
            $crate::gpu::Client::Cuda($client) => $body,
            #[cfg(feature = "sources")]
            $crate::gpu::Client::Sources($client) => $body,
        }
    };
}
pub(crate) use with_client;

impl Gpu {
    /// Opens a device.
    ///
    /// # Errors
    /// [`GpuError::Lost`] when the driver refuses.
    pub fn open(adapter: &Adapter) -> Result<Gpu, GpuError> {
        let client = guarded(|| {
            Ok(match &adapter.handle {
                Handle::Wgpu(device) => Client::Wgpu(WgpuRuntime::client(device)),
                Handle::Cuda(device) => Client::Cuda(CudaRuntime::client(device)),
            })
        })?;
        Ok(Gpu::new(client, Some(adapter.handle.clone()), adapter.limits))
    }

    pub(crate) fn new(client: Client, device: Option<Handle>, limits: GpuLimits) -> Gpu {
        Gpu { client, device, limits }
    }

    /// What it can do.
    pub fn limits(&self) -> &GpuLimits {
        &self.limits
    }

    /// A buffer with these contents.
    ///
    /// # Errors
    /// [`GpuError::Lost`].
    pub fn upload(&self, bytes: &[u8]) -> Result<Buffer, GpuError> {
        // No device binds a buffer of nothing.
        let held = if bytes.is_empty() { &[0; 4] } else { bytes };
        guarded(|| Ok(with_client!(self, client => client.create_from_slice(held))))
            .map(|handle| Buffer { handle, bytes: bytes.len() })
    }

    /// A buffer of undefined contents.
    ///
    /// # Errors
    /// [`GpuError::Lost`].
    pub fn room(&self, bytes: usize) -> Result<Buffer, GpuError> {
        guarded(|| Ok(with_client!(self, client => client.empty(bytes.max(4))))).map(|handle| Buffer { handle, bytes })
    }

    /// The contents of a buffer, once everything launched before has ended.
    ///
    /// # Errors
    /// [`GpuError`]: also that of an earlier launch.
    pub fn download(&self, buffer: &Buffer) -> Result<Vec<u8>, GpuError> {
        guarded(|| {
            let read = with_client!(self, client => client.read_one(buffer.handle.clone()));
            let bytes = read.map_err(|error| GpuError::Launch(one_line(&format!("{error:?}"))))?;
            Ok(bytes[..buffer.bytes.min(bytes.len())].to_vec())
        })
    }

    /// Waits until everything launched has ended.
    ///
    /// # Errors
    /// [`GpuError`] of what was launched since the last question.
    pub fn sync(&self) -> Result<(), GpuError> {
        guarded(|| {
            let done = with_client!(self, client => cubecl::future::block_on(client.sync()));
            done.map_err(|error| GpuError::Launch(one_line(&format!("{error:?}"))))
        })
    }
}

impl Buffer {
    /// As floats, for a launch.
    pub(crate) fn array<R: Runtime>(&self) -> ArrayArg<R> {
        self.of_words(self.bytes / size_of::<f32>())
    }

    /// As numbers with a sign, for a launch.
    pub(crate) fn signed<R: Runtime>(&self) -> ArrayArg<R> {
        self.of_words(self.bytes / size_of::<i32>())
    }

    /// As whole numbers, for a launch.
    pub(crate) fn words<R: Runtime>(&self) -> ArrayArg<R> {
        self.of_words(self.bytes / size_of::<u32>())
    }

    #[allow(unsafe_code)]
    fn of_words<R: Runtime>(&self, len: usize) -> ArrayArg<R> {
        // SAFETY: `len` words of four bytes lie in the buffer.
        unsafe { ArrayArg::from_raw_parts(self.handle.clone(), len) }
    }

    /// Several, as floats, for a launch.
    pub(crate) fn sequence<R: Runtime>(buffers: &[Buffer]) -> SequenceArg<R, Array<f32>> {
        let mut sequence = SequenceArg::new();
        buffers.iter().for_each(|buffer| sequence.push(buffer.array()));
        sequence
    }

    /// Several, as numbers with a sign, for a launch.
    pub(crate) fn signed_sequence<R: Runtime>(buffers: &[Buffer]) -> SequenceArg<R, Array<i32>> {
        let mut sequence = SequenceArg::new();
        buffers.iter().for_each(|buffer| sequence.push(buffer.signed()));
        sequence
    }

    /// Its first bytes, as a buffer of their own. Panics when there are not so many: a bug of the caller.
    #[must_use]
    pub fn cut(&self, bytes: usize) -> Buffer {
        let handle = self.handle.clone().offset_end((self.bytes - bytes) as u64);
        Buffer { handle, bytes }
    }

    /// Its size.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl fmt::Debug for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gpu").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// CubeCL's clients unwrap what their device threads tell them: a panic here is a device that is gone.
pub(crate) fn guarded<T>(work: impl FnOnce() -> Result<T, GpuError>) -> Result<T, GpuError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        Err(GpuError::Lost(one_line(said.unwrap_or("its thread panicked"))))
    })
}

/// The first line of what a driver says, cut to what a message may hold.
fn one_line(text: &str) -> String {
    const CHARS_MAX: usize = 300;
    text.lines().next().unwrap_or_default().chars().take(CHARS_MAX).collect()
}
