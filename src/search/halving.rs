//! Successive halving over neighbourhoods: many starts, then only around the best third, until one is left; then again.
//!
//! Jamieson and Talwalkar 2016 give the survivors of a rung more of the same resource. A timing here is cheap and
//! [`crate::measure`] already gives finalists more samples, so a rung spends what it has on the survivors' neighbours instead.

use super::seen::{Seen, ranking};
use super::{Prior, Score, Strategy};
use crate::space::{ConfigIndex, Space};
use schema::Seed;

/// Starts of a bracket.
const STARTS: usize = 12;
/// One of so many survives a rung.
const KEEP_ONE_OF: usize = 3;

#[derive(Clone)]
struct Halving<'a> {
    space: &'a Space,
    seen: Seen,
    starts: std::vec::IntoIter<ConfigIndex>,
    /// Members of the rung: proposed, scored or not.
    rung: Vec<ConfigIndex>,
    /// Members still to be proposed.
    queue: Vec<ConfigIndex>,
    /// Survivors of the next rung; 0 opens a new bracket.
    keep: usize,
}

pub(super) fn new<'a>(space: &'a Space, prior: &'a dyn Prior, seed: Seed) -> Box<dyn Strategy + 'a> {
    let starts = ranking(space, prior, seed).into_iter();
    Box::new(Halving { space, seen: Seen::default(), starts, rung: Vec::new(), queue: Vec::new(), keep: 0 })
}

impl Halving<'_> {
    /// Fills the queue with the next rung's unseen configs; false when the space is used up.
    fn next_rung(&mut self) -> bool {
        while self.queue.is_empty() {
            if self.keep == 0 {
                let seen = &mut self.seen;
                self.queue = self.starts.by_ref().filter(|&index| seen.take(index)).take(STARTS).collect();
                self.rung = self.queue.clone();
                self.keep = STARTS / KEEP_ONE_OF;
                if self.queue.is_empty() {
                    return false;
                }
            } else {
                let mut timed: Vec<_> = self.rung.iter().filter_map(|&index| Some((self.seen.time(index)?, index))).collect();
                timed.sort();
                self.rung = timed.into_iter().take(self.keep).map(|(_, index)| index).collect();
                let seen = &mut self.seen;
                let around = self.rung.iter().flat_map(|&index| self.space.neighbours(index));
                self.queue = around.filter(|&index| seen.take(index)).collect();
                self.rung.extend(&self.queue);
                self.keep /= 2;
            }
        }
        true
    }
}

impl Strategy for Halving<'_> {
    fn propose(&mut self, room: usize) -> Vec<ConfigIndex> {
        let mut proposed = Vec::new();
        if self.queue.is_empty() && !self.next_rung() {
            return proposed;
        }
        let some = self.queue.len().min(room);
        proposed.extend(self.queue.drain(..some));
        proposed
    }

    fn observe(&mut self, scored: &[(ConfigIndex, Score)]) {
        self.seen.observe(scored);
        self.queue.retain(|index| !scored.iter().any(|(known, _)| known == index));
    }

    fn fork(&self) -> Box<dyn Strategy + '_> {
        Box::new(self.clone())
    }
}
