//! The threads a plan runs on.

use kernels::simd::FlushDenormals;
use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};
use rustix::thread::{CpuSet, sched_setaffinity};
use std::sync::Arc;

/// A pool of `units` threads for running plans. Its threads flush denormals to zero.
///
/// # Errors
/// When the operating system gives no threads.
pub fn pool(units: u32) -> Result<Arc<ThreadPool>, ThreadPoolBuildError> {
    let builder = ThreadPoolBuilder::new().num_threads(units.max(1) as usize).thread_name(|i| format!("kernel-{i}"));
    // The threads are the pool's own: what the guard would restore nobody will miss.
    builder.start_handler(|_| std::mem::forget(FlushDenormals::new())).build().map(Arc::new)
}

/// A pool with a thread for each of `cores`, bound to all of them together, so that a thread may move to a core that is free. Its
/// threads flush denormals to zero. Where the system refuses to bind them they run wherever they may.
///
/// # Errors
/// When the operating system gives no threads.
pub fn pool_on(cores: &[usize]) -> Result<Arc<ThreadPool>, ThreadPoolBuildError> {
    let mut set = CpuSet::new();
    cores.iter().filter(|&&core| core < CpuSet::MAX_CPU).for_each(|&core| set.set(core));
    let builder = ThreadPoolBuilder::new().num_threads(cores.len().max(1)).thread_name(|i| format!("kernel-{i}"));
    let started = move |_| {
        let _ = sched_setaffinity(None, &set);
        std::mem::forget(FlushDenormals::new());
    };
    builder.start_handler(started).build().map(Arc::new)
}
