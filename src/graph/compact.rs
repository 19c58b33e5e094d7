//! Leaving out what nothing uses.

use super::{Graph, ValueId};

impl Graph {
    /// Drops the values that nothing mentions and numbers the others in the order in which the text form mentions them. Bodies are
    /// left as they are, but for their captures' outer ids.
    pub fn compact(&mut self) {
        let mut place: Vec<Option<ValueId>> = vec![None; self.values.len()];
        let mut order = Vec::with_capacity(self.values.len());
        let mut visit = |id: &mut ValueId| {
            *id = *place[id.index()].get_or_insert_with(|| {
                order.push(*id);
                ValueId(order.len() as u32 - 1)
            });
        };
        self.inputs.iter_mut().for_each(&mut visit);
        self.captures.iter_mut().for_each(|capture| visit(&mut capture.inner));
        for node in &mut self.nodes {
            node.inputs.iter_mut().flatten().for_each(&mut visit);
            let captures = node.bodies.iter_mut().flat_map(|(_, body)| &mut body.captures);
            captures.for_each(|capture| visit(&mut capture.outer));
            node.outputs.iter_mut().flatten().for_each(&mut visit);
        }
        self.outputs.iter_mut().for_each(&mut visit);
        self.values = order.into_iter().map(|id| std::mem::take(&mut self.values[id.index()])).collect();
    }
}
