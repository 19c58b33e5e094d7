//! Nodes in an order in which each finds its inputs made: Kahn's algorithm, file order where that is one.

use super::error::{Class, ImportError, quote};
use super::proto::{GraphProto, NodeProto};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};

/// The order, as indices. `defined` says which names the graph has before its nodes run.
///
/// # Errors
/// [`Class::DuplicateName`] when a name is made twice, [`Class::Cycle`] when nodes wait for each other.
pub(super) fn sort<'p>(nodes: &'p [NodeProto<'p>], defined: impl Fn(&str) -> bool) -> Result<Vec<usize>, ImportError> {
    let mut maker: HashMap<&str, usize> = HashMap::with_capacity(nodes.len());
    for (i, node) in nodes.iter().enumerate() {
        for &output in node.outputs.iter().filter(|name| !name.is_empty()) {
            if defined(output) || maker.insert(output, i).is_some() {
                let found = format!("makes {}, which exists already", quote(output));
                return Err(ImportError::new(Class::DuplicateName, node.place(), found));
            }
        }
    }
    let mut waits = vec![0usize; nodes.len()];
    let mut next: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
    let mut sorted = true;
    for (i, node) in nodes.iter().enumerate() {
        for name in reads(node) {
            if let Some(&from) = maker.get(name) {
                sorted &= from < i;
                waits[i] += 1;
                next[from].push(i);
            }
        }
    }
    if sorted {
        return Ok((0..nodes.len()).collect());
    }
    let mut ready: BinaryHeap<Reverse<usize>> = (0..nodes.len()).filter(|&i| waits[i] == 0).map(Reverse).collect();
    let mut order = Vec::with_capacity(nodes.len());
    while let Some(Reverse(i)) = ready.pop() {
        order.push(i);
        for &follower in &next[i] {
            waits[follower] -= 1;
            if waits[follower] == 0 {
                ready.push(Reverse(follower));
            }
        }
    }
    if order.len() < nodes.len() {
        // A node that waits may only be behind a cycle; one that is in it waits for one that waits, for ever: walk back far enough.
        let mut at = waits.iter().position(|&wait| wait > 0).unwrap_or_default();
        for _ in 0..nodes.len() {
            let before = reads(&nodes[at]).into_iter().filter_map(|name| maker.get(name).copied()).find(|&from| waits[from] > 0);
            let Some(before) = before else { break };
            at = before;
        }
        return Err(ImportError::new(Class::Cycle, nodes[at].place(), "waits for its own output"));
    }
    Ok(order)
}

/// What a node reads: its inputs, and what its bodies take from around them.
fn reads<'p>(node: &'p NodeProto<'p>) -> Vec<&'p str> {
    let mut names: Vec<&str> = node.inputs.iter().copied().filter(|name| !name.is_empty()).collect();
    for graph in node.attributes.iter().filter_map(|attribute| attribute.graph.as_deref()) {
        names.extend(free(graph));
    }
    names
}

/// The names a body uses and does not define. Depth is bounded by `subgraph-depth`.
fn free<'p>(graph: &'p GraphProto<'p>) -> HashSet<&'p str> {
    let mut used: HashSet<&str> = graph.nodes.iter().flat_map(reads).collect();
    used.extend(graph.outputs.iter().map(|output| output.name));
    let made = graph.nodes.iter().flat_map(|node| node.outputs.iter().copied());
    let given = graph.inputs.iter().map(|input| input.name);
    let constant = graph.initializers.iter().map(|tensor| tensor.name);
    let sparse = graph.sparse_initializers.iter().map(|sparse| sparse.values.name);
    for name in made.chain(given).chain(constant).chain(sparse) {
        used.remove(name);
    }
    used
}
