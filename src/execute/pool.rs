//! The threads a plan runs on.

use kernels::ThreadPool;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::io;
use std::sync::Arc;

/// Threads for running plans, the one that enters it included: while it is inside, it is bound to the pool's cores like the others.
pub struct Pool {
    threads: ThreadPool,
    /// Empty: wherever the threads may run.
    cores: Vec<usize>,
}

/// A pool of `units` threads.
///
/// # Errors
/// When the operating system gives no threads.
pub fn pool(units: u32) -> io::Result<Arc<Pool>> {
    Ok(Arc::new(Pool { threads: ThreadPool::new(units.max(1) as usize, || {})?, cores: Vec::new() }))
}

/// A pool with a thread for each of `cores`, bound to all of them together, so that a thread may move to a core that is free. Where
/// the system refuses to bind them they run wherever they may.
///
/// # Errors
/// When the operating system gives no threads.
pub fn pool_on(cores: &[usize]) -> io::Result<Arc<Pool>> {
    let set = set_of(cores);
    let start = move || {
        let _ = sched_setaffinity(None, &set);
    };
    Ok(Arc::new(Pool { threads: ThreadPool::new(cores.len().max(1), start)?, cores: cores.to_vec() }))
}

impl Pool {
    /// Runs `work` on the calling thread as one of the pool's. Costs nothing from inside; else about a microsecond where the thread
    /// has to be bound to the pool's cores and freed again.
    pub fn install<R>(&self, work: impl FnOnce() -> R) -> R {
        if self.threads.is_current() {
            return work();
        }
        let _bound = self.bind();
        self.threads.enter(work)
    }

    /// How many threads run in it, the one that enters it included.
    pub fn threads(&self) -> usize {
        self.threads.threads()
    }

    /// Calls `work(i)` once on every thread, the calling one as 0.
    pub fn broadcast(&self, work: impl Fn(usize) + Sync) {
        let _bound = self.bind();
        self.threads.broadcast(work);
    }

    /// Binds the calling thread to the pool's cores, unless it only runs on these anyway.
    fn bind(&self) -> Option<Bound> {
        if self.cores.is_empty() {
            return None;
        }
        let own = sched_getaffinity(None).ok()?;
        let shared = self.cores.iter().filter(|&&core| core < CpuSet::MAX_CPU && own.is_set(core)).count();
        if shared == own.count() as usize {
            return None;
        }
        sched_setaffinity(None, &set_of(&self.cores)).ok()?;
        Some(Bound(own))
    }
}

/// A thread bound to other cores than its own; gets them back when dropped.
struct Bound(CpuSet);

impl Drop for Bound {
    fn drop(&mut self) {
        let _ = sched_setaffinity(None, &self.0);
    }
}

fn set_of(cores: &[usize]) -> CpuSet {
    let mut set = CpuSet::new();
    cores.iter().filter(|&&core| core < CpuSet::MAX_CPU).for_each(|&core| set.set(core));
    set
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_is_bound_inside_and_has_its_own_cores_back_after() {
        let own = sched_getaffinity(None).unwrap();
        let core = (0..CpuSet::MAX_CPU).find(|&core| own.is_set(core)).unwrap();
        let pool = pool_on(&[core]).unwrap();
        pool.install(|| {
            assert_eq!(sched_getaffinity(None).unwrap(), set_of(&[core]));
            pool.install(|| assert_eq!(sched_getaffinity(None).unwrap(), set_of(&[core])));
        });
        assert_eq!(sched_getaffinity(None).unwrap(), own);
    }
}
