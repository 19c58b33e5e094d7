//! An opened device: buffers, transfers, and the end of what was launched.

use crate::adapter::{self, Adapter, Handle, Opened};
use crate::faults::Faults;
use cubecl::client::ComputeClient;
use cubecl::cuda::CudaRuntime;
use cubecl::prelude::{Array, ArrayArg, Runtime, SequenceArg, Size, Vector};
use cubecl::server::{Handle as Memory, IoError, LaunchError, ServerError};
use cubecl::wgpu::WgpuRuntime;
use kernels::GpuLimits;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use thiserror::Error;

/// A device with memory of its own, ready for buffers and launches. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct Gpu {
    /// CubeCL's devices last as long as the process, and so does this: what is begun may be waited for on any thread.
    pub(crate) client: &'static Client,
    /// How CubeCL addresses it; none where kernels are only compiled.
    pub(crate) device: Option<Handle>,
    limits: GpuLimits,
    pub(crate) faults: Arc<Faults>,
    /// Where it was opened through wgpu.
    opened: Option<Opened>,
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

/// What went wrong on a device, seen at the first question after it, whichever thread asks.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum GpuError {
    /// A kernel was not compiled or not launched; the device still works.
    #[error("a launch failed: {0}")]
    Launch(String),
    /// It has no room for a buffer; the device still works.
    #[error("the device has no memory left: {0}")]
    OutOfMemory(String),
    /// The device, or the thread that talks to it, is gone.
    #[error("the device is lost: {0}")]
    Lost(String),
}

/// Evaluates an expression with the client of whatever runtime there is.
macro_rules! with_client {
    ($gpu:expr, $client:ident => $body:expr) => {
        match $gpu.client {
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
        let (client, opened) = guarded(|| {
            Ok(match &adapter.handle {
                Handle::Wgpu(device) => {
                    let opened = adapter::open(device);
                    (Client::Wgpu(WgpuRuntime::client(device)), Some(opened))
                }
                Handle::Cuda(device) => (Client::Cuda(CudaRuntime::client(device)), None),
            })
        })?;
        let faults = opened.as_ref().map_or_else(Arc::default, |opened| opened.faults.clone());
        let client = Box::leak(Box::new(client));
        Ok(Gpu { client, device: Some(adapter.handle.clone()), limits: adapter.limits, faults, opened })
    }

    /// Without a device: kernels are only compiled.
    #[cfg(feature = "sources")]
    pub(crate) fn of_sources(client: Client, limits: GpuLimits) -> Gpu {
        Gpu { client: Box::leak(Box::new(client)), device: None, limits, faults: Arc::default(), opened: None }
    }

    /// What it can do.
    pub fn limits(&self) -> &GpuLimits {
        &self.limits
    }

    /// How many multiprocessors this process has of it, where the driver counts them.
    pub fn multiprocessors(&self) -> Option<u32> {
        match &self.device {
            Some(Handle::Cuda(device)) => adapter::multiprocessors(device.index),
            _ => None,
        }
    }

    /// A buffer with these contents.
    ///
    /// # Errors
    /// [`GpuError`]: more bytes than a buffer of the device holds, or what went wrong earlier. That it has no room is told by the next
    /// question.
    pub fn upload(&self, bytes: &[u8]) -> Result<Buffer, GpuError> {
        self.fits(bytes.len())?;
        // No device binds a buffer of nothing.
        let held = if bytes.is_empty() { &[0; 4] } else { bytes };
        self.guard(|| Ok(with_client!(self, client => client.create_from_slice(held))))
            .map(|handle| Buffer { handle, bytes: bytes.len() })
    }

    /// A buffer of undefined contents.
    ///
    /// # Errors
    /// As [`upload`](Self::upload).
    pub fn room(&self, bytes: usize) -> Result<Buffer, GpuError> {
        self.fits(bytes)?;
        self.guard(|| Ok(with_client!(self, client => client.empty(bytes.max(4))))).map(|handle| Buffer { handle, bytes })
    }

    fn fits(&self, bytes: usize) -> Result<(), GpuError> {
        let most = self.limits.buffer_bytes;
        if bytes as u64 <= most {
            return Ok(());
        }
        Err(GpuError::OutOfMemory(format!("a buffer of {bytes} bytes; the largest it has are of {most}")))
    }

    /// The contents of a buffer, once everything launched before has ended.
    ///
    /// # Errors
    /// [`GpuError`]: also that of an earlier launch.
    pub fn download(&self, buffer: &Buffer) -> Result<Vec<u8>, GpuError> {
        let mut all = self.begin_download(std::slice::from_ref(buffer))?.wait()?;
        Ok(all.pop().unwrap_or_default())
    }

    /// Waits until everything launched has ended.
    ///
    /// # Errors
    /// [`GpuError`] of what was launched since the last question.
    pub fn sync(&self) -> Result<(), GpuError> {
        self.begin_sync()?.wait()
    }

    /// What the device died of; `None` while it lives, as far as is known.
    pub fn lost(&self) -> Option<GpuError> {
        self.faults.lost()
    }

    /// Asks the device something. One that panics then is not asked again.
    pub(crate) fn ask<T>(&self, question: impl FnOnce() -> Result<T, GpuError>) -> Result<T, GpuError> {
        let answer = self.guard(question);
        if let Err(GpuError::Lost(why)) = &answer {
            self.faults.lose(why.clone());
        }
        answer
    }

    /// Does work on the device whose panic means that the device is gone, unless the device has told what is wrong.
    ///
    /// # Errors
    /// [`GpuError`]: what the device told, or else what the work says.
    pub fn guard<T>(&self, work: impl FnOnce() -> Result<T, GpuError>) -> Result<T, GpuError> {
        if let Some(lost) = self.faults.lost() {
            return Err(lost);
        }
        self.faults.listen();
        let result = guarded(work);
        self.faults.take().map_or(result, Err)
    }

    /// Destroys the device under everybody who uses it, as a driver that falls over or a card that is unplugged does: for tests of what
    /// follows. False where it was not opened through wgpu, which alone lets us.
    pub fn destroy(&self) -> bool {
        self.opened.as_ref().map(Opened::destroy).is_some()
    }
}

/// A server's error in our words.
pub(crate) fn told(error: &ServerError) -> GpuError {
    match error {
        ServerError::ServerUnhealthy { errors, .. } if !errors.is_empty() => told(&errors[0]),
        // A buffer for which there was no room is none that launches find.
        ServerError::Io(IoError::BufferTooBig { .. } | IoError::NotFound { .. })
        | ServerError::Launch(LaunchError::OutOfMemory { .. }) => GpuError::OutOfMemory(one_line(&format!("{error:?}"))),
        _ => GpuError::Launch(one_line(&format!("{error:?}"))),
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

    /// As vectors of so many bytes, for a launch.
    #[allow(unsafe_code)]
    pub(crate) fn vectors<R: Runtime>(&self, bytes: usize) -> ArrayArg<R> {
        // SAFETY: so many vectors lie in the buffer.
        unsafe { ArrayArg::from_raw_parts(self.handle.clone(), self.bytes / bytes) }
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

    /// Several, as vectors of so many floats, for a launch.
    pub(crate) fn vector_sequence<N: Size, R: Runtime>(
        buffers: &[Buffer],
        vector: usize,
    ) -> SequenceArg<R, Array<Vector<f32, N>>> {
        let mut sequence = SequenceArg::new();
        buffers.iter().for_each(|buffer| sequence.push(buffer.vectors(vector * size_of::<f32>())));
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
fn guarded<T>(work: impl FnOnce() -> Result<T, GpuError>) -> Result<T, GpuError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        Err(GpuError::Lost(one_line(said.unwrap_or("its thread panicked"))))
    })
}

/// What a driver says in one line, cut to what a message may hold.
pub(crate) fn one_line(text: &str) -> String {
    const CHARS_MAX: usize = 300;
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.join(" ").chars().take(CHARS_MAX).collect()
}
