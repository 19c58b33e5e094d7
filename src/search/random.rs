//! Configs in random order.

use super::{Prior, Score, Strategy, seen::Seen};
use crate::space::{ConfigIndex, Space};
use schema::Seed;

/// Proposes every config once, in random order.
#[derive(Clone)]
struct Random {
    order: std::vec::IntoIter<ConfigIndex>,
    seen: Seen,
}

pub(super) fn new<'a>(space: &'a Space, _: &'a dyn Prior, seed: Seed) -> Box<dyn Strategy + 'a> {
    Box::new(Random { order: space.sample(usize::MAX, seed).into_iter(), seen: Seen::default() })
}

impl Strategy for Random {
    fn propose(&mut self, room: usize) -> Vec<ConfigIndex> {
        let seen = &mut self.seen;
        self.order.by_ref().filter(|&index| seen.take(index)).take(room).collect()
    }

    fn observe(&mut self, scored: &[(ConfigIndex, Score)]) {
        self.seen.observe(scored);
    }

    fn fork(&self) -> Box<dyn Strategy + '_> {
        Box::new(self.clone())
    }
}
