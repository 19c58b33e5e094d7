//! The order of a plan for a device with memory of its own: its nodes in stages, and the graph of a stage.

use crate::graph::{Graph, Node, ValueId};
use std::collections::BTreeSet;

/// The nodes in stages, device and host in turn, each as long as it can be: whatever can be computed where one is, is computed there
/// before one goes over.
pub(super) fn stages_of(graph: &Graph, on_device: &[bool]) -> Vec<(bool, Vec<usize>)> {
    let producers = graph.producers();
    let mut waits: Vec<usize> = vec![0; graph.nodes.len()];
    let mut followers: Vec<Vec<usize>> = vec![Vec::new(); graph.nodes.len()];
    for (at, node) in graph.nodes.iter().enumerate() {
        let before: BTreeSet<usize> = reads(node).filter_map(|id| producers[id.index()]).collect();
        waits[at] = before.len();
        before.into_iter().for_each(|producer| followers[producer].push(at));
    }
    let mut ready: [BTreeSet<usize>; 2] = Default::default();
    for (at, _) in waits.iter().enumerate().filter(|(_, waits)| **waits == 0) {
        ready[usize::from(on_device[at])].insert(at);
    }
    let mut stages = Vec::new();
    // What the host prepares comes first, so that the device need not wait twice.
    let mut device = ready[0].is_empty();
    while ready.iter().any(|ready| !ready.is_empty()) {
        let mut nodes = Vec::new();
        while let Some(at) = ready[usize::from(device)].pop_first() {
            nodes.push(at);
            for &follower in &followers[at] {
                waits[follower] -= 1;
                if waits[follower] == 0 {
                    ready[usize::from(on_device[follower])].insert(follower);
                }
            }
        }
        if !nodes.is_empty() {
            stages.push((device, nodes));
        }
        device = !device;
    }
    stages
}

/// What a node reads, its bodies' captures included.
pub(super) fn reads(node: &Node) -> impl Iterator<Item = ValueId> + '_ {
    let captured = node.bodies.iter().flat_map(|(_, body)| &body.captures).map(|capture| capture.outer);
    node.inputs.iter().flatten().copied().chain(captured)
}

/// The graph of some nodes: what they read of others goes in, what others read of them comes out.
pub(super) fn part(graph: &Graph, nodes: &[usize]) -> Graph {
    let mut nodes = nodes.to_vec();
    nodes.sort_unstable();
    let inside: BTreeSet<ValueId> = nodes.iter().flat_map(|&at| graph.nodes[at].outputs.iter().flatten().copied()).collect();
    let constant = |id: &ValueId| graph.value(*id).constant.is_some();
    let read: BTreeSet<ValueId> = nodes.iter().flat_map(|&at| reads(&graph.nodes[at])).collect();
    let members: BTreeSet<usize> = nodes.iter().copied().collect();
    let others = graph.nodes.iter().enumerate().filter(|(at, _)| !members.contains(at)).flat_map(|(_, node)| reads(node));
    let wanted: BTreeSet<ValueId> = others.chain(graph.outputs.iter().copied()).filter(|id| inside.contains(id)).collect();
    let outputs: Vec<ValueId> = wanted.into_iter().collect();
    Graph {
        name: graph.name.clone(),
        values: graph.values.clone(),
        nodes: nodes.iter().map(|&at| graph.nodes[at].clone()).collect(),
        inputs: read.into_iter().filter(|id| !inside.contains(id) && !constant(id)).collect(),
        output_names: outputs.iter().map(|&id| graph.value(id).name.clone()).collect(),
        outputs,
        captures: Vec::new(),
    }
}
