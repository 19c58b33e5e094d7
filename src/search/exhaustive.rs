//! Every config, the most promising first.

use super::seen::{Seen, ranking};
use super::{Prior, Score, Strategy};
use crate::space::{ConfigIndex, Space};
use schema::Seed;

#[derive(Clone)]
struct Exhaustive {
    order: std::vec::IntoIter<ConfigIndex>,
    seen: Seen,
}

pub(super) fn new<'a>(space: &'a Space, prior: &'a dyn Prior, seed: Seed) -> Box<dyn Strategy + 'a> {
    Box::new(Exhaustive { order: ranking(space, prior, seed).into_iter(), seen: Seen::default() })
}

impl Strategy for Exhaustive {
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
