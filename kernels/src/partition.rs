//! Splitting a kernel's work over the threads of the pool it runs in.

use crate::thread_pool::join;
use std::ops::Range;

/// Calls `part(0)` to `part(parts − 1)`, concurrently where the pool has idle threads. Costs about half a microsecond for two.
pub fn for_each_part(parts: usize, part: &(impl Fn(usize) + Sync)) {
    halve(0..parts, part);
}

fn halve(parts: Range<usize>, part: &(impl Fn(usize) + Sync)) {
    match parts.len() {
        0 => {}
        1 => part(parts.start),
        count => {
            let middle = parts.start + count / 2;
            join(|| halve(parts.start..middle, part), || halve(middle..parts.end, part));
        }
    }
}

/// The share of part `index` of `parts` in `0..total`, in whole multiples of `granule` but at the end.
pub fn share(total: usize, granule: usize, parts: usize, index: usize) -> Range<usize> {
    let granules = total.div_ceil(granule);
    let edge = |i: usize| (granules * i / parts * granule).min(total);
    edge(index)..edge(index + 1)
}

/// An address that parts of one operand's work may carry to another thread: each writes a place of its own.
#[derive(Copy, Clone)]
pub struct Shared<T>(pub *mut T);

// SAFETY: only an address; the duty to write disjoint places is stated where it is used.
unsafe impl<T> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// The address. A method, so that closures capture the whole and not the field.
    pub fn get(self) -> *mut T {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn shares_cover_everything_once() {
        for (total, granule, parts) in [(0, 4, 2), (1, 4, 2), (17, 4, 3), (100, 6, 7), (5, 1, 8)] {
            let mut next = 0;
            for i in 0..parts {
                let range = share(total, granule, parts, i);
                assert_eq!(range.start, next);
                next = range.end;
            }
            assert_eq!(next, total);
        }
    }

    #[test]
    fn every_part_runs_once() {
        let hits: Vec<AtomicUsize> = (0..5).map(|_| AtomicUsize::new(0)).collect();
        for_each_part(5, &|i| {
            hits[i].fetch_add(1, Ordering::Relaxed);
        });
        assert!(hits.iter().all(|hit| hit.load(Ordering::Relaxed) == 1));
    }
}
