//! The threads a plan runs on.

use kernels::simd::FlushDenormals;
use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};
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
