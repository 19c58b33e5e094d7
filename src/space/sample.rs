//! Drawing configs at random, from a seed.

use super::{ConfigIndex, Space, Stream};
use schema::Seed;

impl Space {
    /// `count` different configs in a random order, or all of them when there are fewer.
    pub fn sample(&self, count: usize, seed: Seed) -> Vec<ConfigIndex> {
        let mut all: Vec<ConfigIndex> = self.indices().collect();
        let mut stream = Stream::new(seed);
        let count = count.min(all.len());
        // Fisher and Yates, stopped after the part that is wanted.
        for at in 0..count {
            let other = at + stream.below(all.len() - at);
            all.swap(at, other);
        }
        all.truncate(count);
        all
    }
}
