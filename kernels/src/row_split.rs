//! Splitting one kernel's work over the threads of the caller's pool.
//!
//! The pieces of an output are handed out by halving, so that nothing is allocated and no piece is touched by two threads.

use crate::thread_pool::join;
use crate::{Knob, Limits, Rule};
use schema::{Config, KnobValue};

/// The knob: the whole work on one thread, or its rows over all threads granted.
pub const PARTITION: Knob = Knob::names("partition", &["one", "rows"]);

/// The rule that goes with it.
pub const PARTITION_RULE: Rule = Rule {
    reason: "there is one thread: nothing to split over",
    holds: |_, config, limits| limits.units > 1 || config.name("partition") != Some("rows"),
};

/// Nanoseconds of work below which a second thread costs more than it gives (`docs/measurements`: 2 µs with a hot pool, 20 µs with
/// one that has gone to sleep).
const WORTH_SPLITTING_NS: u64 = 20_000;

/// The default of [`PARTITION`] for work of about so many nanoseconds on one thread.
pub fn partition_for(ns: u64, limits: &Limits) -> KnobValue {
    let split = limits.units > 1 && ns > WORTH_SPLITTING_NS;
    KnobValue::Name(if split { "rows" } else { "one" }.to_owned())
}

/// The default of [`PARTITION`] for an operator bound by memory: 10 bytes a nanosecond.
pub fn partition_for_bytes(bytes: u64, limits: &Limits) -> KnobValue {
    partition_for(bytes / 10, limits)
}

/// How many pieces a config asks for.
pub fn parts(config: &Config, limits: &Limits) -> usize {
    if config.name("partition") == Some("rows") { limits.units.max(1) as usize } else { 1 }
}

/// Calls `work(first, rows)` for `parts` pieces of `out`, cut between rows of `row` elements; `first` is the index of a piece's
/// first row. A last row may be shorter. An empty `out` is no piece.
pub fn rows<T: Send>(out: &mut [T], row: usize, parts: usize, work: &(impl Fn(usize, &mut [T]) + Sync)) {
    let none: &mut [u8] = &mut [];
    rows_with(out, row, none, parts, &|first, rows, _| work(first, rows));
}

/// Like [`rows`], and gives each piece `scratch.len() / parts` elements of scratch space of its own.
pub fn rows_with<T: Send, S: Send>(
    out: &mut [T],
    row: usize,
    scratch: &mut [S],
    parts: usize,
    work: &(impl Fn(usize, &mut [T], &mut [S]) + Sync),
) {
    if !out.is_empty() && row > 0 {
        let each = scratch.len() / parts.max(1);
        halve(0, out, row, scratch, each, parts, work);
    }
}

fn halve<T: Send, S: Send>(
    first: usize,
    out: &mut [T],
    row: usize,
    scratch: &mut [S],
    each: usize,
    parts: usize,
    work: &(impl Fn(usize, &mut [T], &mut [S]) + Sync),
) {
    let count = out.len().div_ceil(row);
    if parts <= 1 || count <= 1 {
        return work(first, out, &mut scratch[..each]);
    }
    let left = parts / 2;
    let middle = (count * left).div_ceil(parts).clamp(1, count - 1);
    let (low, high) = out.split_at_mut((middle * row).min(out.len()));
    let (scratch_low, scratch_high) = scratch.split_at_mut(each * left);
    join(
        || halve(first, low, row, scratch_low, each, left, work),
        || halve(first + middle, high, row, scratch_high, each, parts - left, work),
    );
}

/// Calls `work(index)` for every index below `count`, in `parts` runs of neighbours: for outputs that cannot be cut into rows.
pub fn indices(count: usize, parts: usize, work: &(impl Fn(std::ops::Range<usize>) + Sync)) {
    fn halve(range: std::ops::Range<usize>, parts: usize, work: &(impl Fn(std::ops::Range<usize>) + Sync)) {
        if parts <= 1 || range.len() <= 1 {
            return work(range);
        }
        let left = parts / 2;
        let middle = range.start + (range.len() * left).div_ceil(parts).clamp(1, range.len() - 1);
        join(|| halve(range.start..middle, left, work), || halve(middle..range.end, parts - left, work));
    }
    if count > 0 {
        halve(0..count, parts, work);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_handed_out_once_with_its_index() {
        for (len, row, parts) in [(0, 3, 2), (1, 3, 4), (10, 3, 2), (12, 3, 4), (7, 1, 3), (5, 9, 8), (100, 7, 5)] {
            let mut out = vec![usize::MAX; len];
            let mut scratch = vec![0u8; 2 * parts];
            rows_with(&mut out, row, &mut scratch, parts, &|first, rows, scratch| {
                assert_eq!(scratch.len(), 2);
                for (i, x) in rows.iter_mut().enumerate() {
                    *x = first * row + i;
                }
            });
            assert!(out.iter().enumerate().all(|(i, &x)| i == x), "{len} {row} {parts}: {out:?}");
        }
    }
}
