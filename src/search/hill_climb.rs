//! Hill climbing with restarts: the neighbours of the best config until none is better, then the most promising config not seen.

use super::seen::{Seen, ranking};
use super::{Prior, Score, Strategy};
use crate::space::{ConfigIndex, Space};
use schema::{Picos, Seed};

#[derive(Clone)]
struct HillClimb<'a> {
    space: &'a Space,
    seen: Seen,
    /// Where to start, the most promising first.
    starts: std::vec::IntoIter<ConfigIndex>,
    /// The config of this climb with the best time so far.
    top: Option<(ConfigIndex, Picos)>,
    /// A start was proposed and has no score yet.
    waiting: bool,
}

pub(super) fn new<'a>(space: &'a Space, prior: &'a dyn Prior, seed: Seed) -> Box<dyn Strategy + 'a> {
    let starts = ranking(space, prior, seed).into_iter();
    Box::new(HillClimb { space, seen: Seen::default(), starts, top: None, waiting: false })
}

impl HillClimb<'_> {
    /// The next start nobody has seen.
    fn start(&mut self) -> Option<ConfigIndex> {
        let seen = &mut self.seen;
        self.starts.by_ref().find(|&index| seen.take(index))
    }
}

impl Strategy for HillClimb<'_> {
    fn propose(&mut self, room: usize) -> Vec<ConfigIndex> {
        let mut proposed = Vec::new();
        while proposed.len() < room {
            if let Some((top, _)) = self.top {
                let seen = &mut self.seen;
                let fresh = self.space.neighbours(top).into_iter().filter(|&index| seen.take(index));
                proposed.extend(fresh.take(room - proposed.len()));
                if !proposed.is_empty() {
                    return proposed;
                }
                // A summit: the next climb starts elsewhere.
                self.top = None;
                self.waiting = false;
            }
            match self.start() {
                Some(start) => proposed.push(start),
                None => return proposed,
            }
            if !self.waiting {
                self.waiting = true;
                return proposed;
            }
        }
        proposed
    }

    fn observe(&mut self, scored: &[(ConfigIndex, Score)]) {
        self.seen.observe(scored);
        for &(index, score) in scored {
            if let Score::Time(time) = score
                && self.top.is_none_or(|(_, best)| time < best)
            {
                self.top = Some((index, time));
            }
        }
    }

    fn fork(&self) -> Box<dyn Strategy + '_> {
        Box::new(self.clone())
    }
}
