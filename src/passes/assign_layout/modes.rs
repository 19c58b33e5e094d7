//! Rows or blocks for each node, by local search.

use super::sides::{Blockable, blockable, halo};
use crate::graph::{Graph, ValueId};

/// Where a reader wants an input.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Side {
    Rows,
    Blocks,
    Either,
}

/// Sweeps of the local search. It settles after two or three; the bound is against cycles of equal cost.
const SWEEPS_MAX: usize = 16;

/// What each node of a graph does, and what that costs.
pub struct Modes {
    nodes: Vec<Option<Blockable>>,
    blocked: Vec<bool>,
    /// For each node, its input values by place.
    inputs: Vec<Vec<Option<ValueId>>>,
    outputs: Vec<Vec<Option<ValueId>>>,
    values: Vec<Flow>,
}

/// Who makes and reads a value.
#[derive(Clone, Debug, Default)]
struct Flow {
    /// Node and place among its outputs.
    maker: Option<(usize, usize)>,
    /// Node and place among its inputs.
    readers: Vec<(usize, usize)>,
    /// An output of the graph or captured by a body: read in rows as well.
    leaves: bool,
    bytes: u64,
}

impl Modes {
    /// Every node in rows.
    pub fn of(graph: &Graph) -> Self {
        let mut values: Vec<Flow> = graph
            .values
            .iter()
            .map(|value| {
                let elements = value.fixed_shape().map_or(0, |shape| shape.iter().product::<usize>());
                Flow { bytes: elements as u64 * 4, ..Flow::default() }
            })
            .collect();
        for (index, node) in graph.nodes.iter().enumerate() {
            for (place, id) in node.inputs.iter().enumerate().filter_map(|(place, id)| id.map(|id| (place, id))) {
                values[id.index()].readers.push((index, place));
            }
            for (place, id) in node.outputs.iter().enumerate().filter_map(|(place, id)| id.map(|id| (place, id))) {
                values[id.index()].maker = Some((index, place));
            }
            let captured = node.bodies.iter().flat_map(|(_, body)| &body.captures);
            captured.for_each(|capture| values[capture.outer.index()].leaves = true);
        }
        graph.outputs.iter().for_each(|id| values[id.index()].leaves = true);
        Modes {
            nodes: graph.nodes.iter().map(|node| blockable(graph, node)).collect(),
            blocked: vec![false; graph.nodes.len()],
            inputs: graph.nodes.iter().map(|node| node.inputs.clone()).collect(),
            outputs: graph.nodes.iter().map(|node| node.outputs.clone()).collect(),
            values,
        }
    }

    /// Whether a node runs in blocks.
    pub fn is_blocked(&self, node: usize) -> bool {
        self.blocked[node]
    }

    /// How many do.
    pub fn blocked(&self) -> usize {
        self.blocked.iter().filter(|&&blocked| blocked).count()
    }

    /// The outputs that a node writes in blocks.
    pub fn blocked_outputs(&self, node: usize) -> &[usize] {
        match &self.nodes[node] {
            Some(sides) if self.blocked[node] => &sides.outputs,
            _ => &[],
        }
    }

    /// Where a node wants an input.
    pub fn side(&self, node: usize, place: usize) -> Side {
        match &self.nodes[node] {
            Some(sides) if self.blocked[node] && sides.inputs.contains(&place) => Side::Blocks,
            Some(sides) if self.blocked[node] && sides.either.contains(&place) => Side::Either,
            _ => Side::Rows,
        }
    }

    /// Keeps a node in rows from now on.
    pub fn exclude(&mut self, node: usize) {
        self.nodes[node] = None;
    }

    /// Chooses anew.
    pub fn settle(&mut self) {
        let count = self.nodes.len();
        self.blocked = self.nodes.iter().map(|sides| sides.as_ref().is_some_and(|sides| sides.gain > 0)).collect();
        // What reads blocks joins them; then, backwards, what only blocks read.
        for node in 0..count {
            let reads = |modes: &Modes, sides: &Blockable| sides.inputs.iter().any(|&place| modes.lies_in_blocks(node, place));
            self.blocked[node] |= self.nodes[node].as_ref().is_some_and(|sides| reads(self, sides));
        }
        for _ in 0..SWEEPS_MAX {
            let forward = (0..count).filter(|&node| self.improve(node)).count();
            let backward = (0..count).rev().filter(|&node| self.improve(node)).count();
            if forward + backward == 0 {
                return;
            }
        }
    }

    fn lies_in_blocks(&self, node: usize, place: usize) -> bool {
        self.inputs[node][place].is_some_and(|id| self.home(id))
    }

    /// Whether a value's maker writes it in blocks.
    fn home(&self, id: ValueId) -> bool {
        self.values[id.index()].maker.is_some_and(|(node, place)| self.blocked_outputs(node).contains(&place))
    }

    /// Moves a node to the other side if that saves bytes.
    fn improve(&mut self, node: usize) -> bool {
        if self.nodes[node].is_none() {
            return false;
        }
        let before = self.cost_around(node);
        self.blocked[node] = !self.blocked[node];
        let better = self.cost_around(node) < before;
        if !better {
            self.blocked[node] = !self.blocked[node];
        }
        better
    }

    fn cost_around(&self, node: usize) -> u64 {
        let ids = self.inputs[node].iter().chain(&self.outputs[node]).flatten();
        let mut ids: Vec<ValueId> = ids.copied().collect();
        ids.sort_unstable();
        ids.dedup();
        let lost = match &self.nodes[node] {
            Some(sides) if !self.blocked[node] => {
                let made = self.outputs[node].iter().flatten().map(|id| self.values[id.index()].bytes).sum::<u64>();
                sides.gain.saturating_mul(made)
            }
            _ => 0,
        };
        ids.iter().fold(lost, |sum, &id| sum.saturating_add(self.conversions(id)))
    }

    /// Bytes moved by the conversions of a value.
    fn conversions(&self, id: ValueId) -> u64 {
        let flow = &self.values[id.index()];
        let wants = |side| flow.readers.iter().any(|&(node, place)| self.side(node, place) == side);
        let converted = if self.home(id) { flow.leaves || wants(Side::Rows) } else { wants(Side::Blocks) };
        if converted { 2 * flow.bytes } else { 0 }
    }

    /// For each value, its halo when it lies in blocks.
    pub fn halos(&self, graph: &Graph) -> Vec<usize> {
        let mut halos = vec![0; graph.values.len()];
        for (index, node) in graph.nodes.iter().enumerate() {
            if self.side(index, 0) == Side::Blocks
                && let Some(id) = node.input(0)
            {
                halos[id.index()] = halos[id.index()].max(halo(graph, node));
            }
        }
        // Residuals and results share a halo; chains of them share one.
        let tied: Vec<(ValueId, ValueId)> = (0..graph.nodes.len())
            .filter(|&index| self.blocked[index])
            .filter_map(|index| self.nodes[index].as_ref().and_then(|sides| sides.tied))
            .collect();
        loop {
            let mut changed = false;
            for &(a, b) in &tied {
                let most = halos[a.index()].max(halos[b.index()]);
                changed |= halos[a.index()] != most || halos[b.index()] != most;
                (halos[a.index()], halos[b.index()]) = (most, most);
            }
            if !changed {
                return halos;
            }
        }
    }
}
