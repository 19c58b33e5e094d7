//! The threads a plan runs on.

use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};
use std::sync::Arc;

/// A pool of `units` threads for running plans.
///
/// # Errors
/// When the operating system gives no threads.
pub fn pool(units: u32) -> Result<Arc<ThreadPool>, ThreadPoolBuildError> {
    let builder = ThreadPoolBuilder::new().num_threads(units.max(1) as usize).thread_name(|i| format!("kernel-{i}"));
    builder.build().map(Arc::new)
}
