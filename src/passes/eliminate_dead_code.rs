//! Removes nodes whose outputs nobody uses, outputs and captures that nobody reads, and values that nothing mentions.

use super::{Options, PassError};
use crate::graph::{Graph, Node};

/// Operators whose number of outputs says what they compute: their list keeps its length.
const COUNTED: &[&str] = &["Split", "SplitToSequence", "If", "Loop", "Scan", "split"];

pub(super) fn run(graph: &mut Graph, _: &Options) -> Result<usize, PassError> {
    Ok(eliminate(graph))
}

/// Works backwards, so that one walk finds whole dead chains.
pub(super) fn eliminate(graph: &mut Graph) -> usize {
    let before = graph.nodes.len();
    let mut live = vec![false; graph.values.len()];
    for id in &graph.outputs {
        live[id.index()] = true;
    }
    let mut kept: Vec<Node> = Vec::with_capacity(before);
    let mut changes = 0;
    for mut node in std::mem::take(&mut graph.nodes).into_iter().rev() {
        if !node.outputs.iter().flatten().any(|id| live[id.index()]) {
            continue;
        }
        if !COUNTED.contains(&node.op.as_str()) {
            changes += drop_unused(&mut node, &live);
        }
        for (_, body) in &mut node.bodies {
            changes += eliminate(body);
            for capture in &body.captures {
                live[capture.outer.index()] = true;
            }
        }
        for id in node.inputs.iter().flatten() {
            live[id.index()] = true;
        }
        kept.push(node);
    }
    kept.reverse();
    changes += before - kept.len();
    graph.nodes = kept;
    let uses = graph.uses();
    let captures = graph.captures.len();
    graph.captures.retain(|capture| uses[capture.inner.index()] > 0);
    changes += captures - graph.captures.len();
    graph.compact();
    changes
}

fn drop_unused(node: &mut Node, live: &[bool]) -> usize {
    let mut dropped = 0;
    for output in &mut node.outputs {
        if output.is_some_and(|id| !live[id.index()]) {
            *output = None;
            dropped += 1;
        }
    }
    while matches!(node.outputs.last(), Some(None)) {
        node.outputs.pop();
    }
    dropped
}
