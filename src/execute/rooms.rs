//! Buffers of a device, each lent to several values one after the other.

use super::order::reads;
use crate::graph::{Graph, ValueId};
use std::collections::HashMap;

/// Buffers for what the device computes, each lent to several values one after the other.
pub(super) struct Rooms {
    /// Their bytes.
    pub sizes: Vec<usize>,
    free: Vec<usize>,
    /// For each root, when it is read last: the place of that node in the order.
    last: HashMap<ValueId, usize>,
    /// To whom; what nobody reads goes back at once.
    lent: Vec<(Option<ValueId>, usize)>,
}

impl Rooms {
    pub fn new(graph: &Graph, roots: &[ValueId], order: &[(bool, Vec<usize>)]) -> Self {
        let mut last = HashMap::new();
        for (time, &at) in order.iter().flat_map(|(_, nodes)| nodes).enumerate() {
            last.extend(reads(&graph.nodes[at]).map(|id| (roots[id.index()], time)));
        }
        last.extend(graph.outputs.iter().map(|id| (roots[id.index()], usize::MAX)));
        Rooms { sizes: Vec::new(), free: Vec::new(), last, lent: Vec::new() }
    }

    /// A buffer for a root, or for the time of one launch: one that is free and not much too large, or a new one.
    pub fn lend(&mut self, root: Option<ValueId>, bytes: usize) -> usize {
        let fits = |&&room: &&usize| (bytes..=2 * bytes).contains(&self.sizes[room]);
        let room = self.free.iter().filter(fits).min_by_key(|&&room| (self.sizes[room], room)).copied();
        let room = room.unwrap_or_else(|| {
            self.sizes.push(bytes);
            self.sizes.len() - 1
        });
        self.free.retain(|&free| free != room);
        self.lent.push((root, room));
        room
    }

    /// Takes back what nobody reads after this time.
    pub fn pass(&mut self, time: usize) {
        let (kept, done): (Vec<_>, Vec<_>) = self
            .lent
            .drain(..)
            .partition(|(root, _)| root.and_then(|root| self.last.get(&root)).is_some_and(|&last| last > time));
        self.lent = kept;
        self.free.extend(done.into_iter().map(|(_, room)| room));
    }
}
