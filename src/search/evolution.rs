//! Evolution of configs: the fastest become parents, children take each knob from one of two parents and then step once.

use super::seen::{Seen, ranking};
use super::{Prior, Score, Strategy};
use crate::space::{ConfigIndex, Space, Stream};
use schema::Seed;

/// Configs that may become parents.
const PARENTS: usize = 8;
/// Attempts at an unseen child before the ranking gives the next config instead.
const ATTEMPTS: usize = 20;
/// Children that are taken from the ranking rather than bred, of 8: keeps the population from closing in on itself.
const STRANGERS_OF_8: usize = 2;

#[derive(Clone)]
struct Evolution<'a> {
    space: &'a Space,
    stream: Stream,
    seen: Seen,
    strangers: std::vec::IntoIter<ConfigIndex>,
}

pub(super) fn new<'a>(space: &'a Space, prior: &'a dyn Prior, seed: Seed) -> Box<dyn Strategy + 'a> {
    let strangers = ranking(space, prior, seed).into_iter();
    Box::new(Evolution { space, stream: Stream::new(seed), seen: Seen::default(), strangers })
}

impl Evolution<'_> {
    /// An unseen child of two of the parents; `None` after too many attempts.
    fn child(&mut self, parents: &[ConfigIndex]) -> Option<ConfigIndex> {
        for _ in 0..ATTEMPTS {
            // Of two drawn the better one: the list is sorted by time.
            let mut pick = || parents[self.stream.below(parents.len()).min(self.stream.below(parents.len()))];
            let (a, b) = (self.space.nth(pick())?, self.space.nth(pick())?);
            let mut child = a.clone();
            if a.variant == b.variant {
                for (knob, (_, other)) in child.knobs.iter_mut().zip(b.knobs) {
                    if self.stream.below(2) == 0 {
                        knob.1 = other;
                    }
                }
            }
            let Some(mut index) = self.space.index_of(&child) else { continue };
            let steps = self.space.neighbours(index);
            if !steps.is_empty() {
                index = steps[self.stream.below(steps.len())];
            }
            if self.seen.take(index) {
                return Some(index);
            }
        }
        None
    }

    fn stranger(&mut self) -> Option<ConfigIndex> {
        let seen = &mut self.seen;
        self.strangers.by_ref().find(|&index| seen.take(index))
    }
}

impl Strategy for Evolution<'_> {
    fn propose(&mut self, room: usize) -> Vec<ConfigIndex> {
        let parents: Vec<ConfigIndex> = self.seen.fastest().into_iter().take(PARENTS).map(|(index, _)| index).collect();
        let mut proposed = Vec::new();
        while proposed.len() < room.min(self.space.size()) {
            let bred = parents.len() >= 2 && self.stream.below(8) >= STRANGERS_OF_8;
            let next = if bred { self.child(&parents) } else { None };
            match next.or_else(|| self.stranger()) {
                Some(index) => proposed.push(index),
                None => break,
            }
        }
        proposed
    }

    fn observe(&mut self, scored: &[(ConfigIndex, Score)]) {
        self.seen.observe(scored);
    }

    fn fork(&self) -> Box<dyn Strategy + '_> {
        Box::new(self.clone())
    }
}
