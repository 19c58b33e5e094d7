//! Streams of a device, and what is begun there without waiting for it.

use crate::gpu::{Buffer, Gpu, GpuError, told, with_client};
use cubecl::server::Handle as Memory;
use cubecl::stream_id::StreamId;
use std::sync::atomic::{AtomicU64, Ordering};

/// CubeCL numbers its streams by thread from 0 upwards and has 128 of them, those of equal remainders being one: the second half is ours.
const FIRST: u64 = 64;

/// An order of uploads, launches and downloads: those of one stream follow each other, those of two do not wait for each other where the
/// backend has streams. CUDA has; wgpu has one queue, in which they lie in the order in which they were begun. A buffer may be used on any
/// stream: its contents are then waited for on the device. Not more than 64 are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream(StreamId);

impl Stream {
    /// A stream of its own.
    #[must_use]
    pub fn new() -> Stream {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Stream(StreamId { value: FIRST + NEXT.fetch_add(1, Ordering::Relaxed) % FIRST })
    }

    /// Does work whose uploads, launches and downloads are this stream's; by default they are the calling thread's.
    pub fn on<T>(self, work: impl FnOnce() -> T) -> T {
        self.0.executes(work)
    }
}

impl Default for Stream {
    fn default() -> Self {
        Stream::new()
    }
}

/// Something that was begun, for whoever waits for it: on any thread.
#[must_use]
pub struct Begun<T> {
    gpu: Gpu,
    wait: Waiting<T>,
}

type Waiting<T> = Box<dyn FnOnce(&Gpu) -> Result<T, GpuError> + Send>;

impl<T> Begun<T> {
    /// Waits for the end.
    ///
    /// # Errors
    /// [`GpuError`], as the question that waits at once.
    pub fn wait(self) -> Result<T, GpuError> {
        let Begun { gpu, wait } = self;
        gpu.ask(|| wait(&gpu))
    }
}

impl Gpu {
    /// Begins to download buffers, once everything launched before on this stream has ended. On CUDA they come by pinned memory.
    ///
    /// # Errors
    /// [`GpuError`]: what went wrong earlier.
    pub fn begin_download(&self, buffers: &[Buffer]) -> Result<Begun<Vec<Vec<u8>>>, GpuError> {
        let handles: Vec<Memory> = buffers.iter().map(|buffer| buffer.handle.clone()).collect();
        let sizes: Vec<usize> = buffers.iter().map(Buffer::bytes).collect();
        self.begin(|| {
            with_client!(self, client => {
                let read = client.read_async(handles);
                Box::new(move |gpu: &Gpu| {
                    let all = gpu.faults.wait(read)?.map_err(|error| told(&error))?;
                    Ok(all.iter().zip(sizes).map(|(bytes, size)| bytes[..size.min(bytes.len())].to_vec()).collect())
                })
            })
        })
    }

    /// Begins to wait until everything launched so far on this stream has ended, and sends it to the device if it still lies here. What
    /// failed of it is told by the wait.
    ///
    /// # Errors
    /// [`GpuError`]: what went wrong earlier.
    pub fn begin_sync(&self) -> Result<Begun<()>, GpuError> {
        self.begin(|| {
            with_client!(self, client => {
                let done = client.sync();
                Box::new(move |gpu: &Gpu| gpu.faults.wait(done)?.map_err(|error| told(&error)))
            })
        })
    }

    /// Sends to the device what was launched on this stream and still lies here.
    ///
    /// # Errors
    /// [`GpuError`] of what was launched since the last question.
    pub fn flush(&self) -> Result<(), GpuError> {
        self.ask(|| with_client!(self, client => client.flush()).map_err(|error| told(&error)))
    }

    fn begin<T>(&self, begin: impl FnOnce() -> Waiting<T>) -> Result<Begun<T>, GpuError> {
        let wait = self.ask(|| Ok(begin()))?;
        Ok(Begun { gpu: self.clone(), wait })
    }
}
