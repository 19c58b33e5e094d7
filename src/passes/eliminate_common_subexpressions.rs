//! Computes once what several nodes compute from the same values, and keeps one of several equal small constants.
//!
//! Nodes are compared by operator, attributes and inputs; those with bodies and those that draw random numbers are left alone.

use super::{Options, PassError};
use crate::graph::text::{attribute_text, digest};
use crate::graph::{Graph, Node, ValueId};
use std::collections::HashMap;
use std::fmt::Write;

/// Constants of more bytes are not compared: reading weights costs more than equal ones are worth.
const CONSTANT_BYTES_MAX: usize = 4096;

/// Operators that give other numbers each time.
pub(super) const RANDOM: &[&str] =
    &["RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli", "Dropout"];

pub(super) fn run(graph: &mut Graph, _: &Options) -> Result<usize, PassError> {
    Ok(eliminate(graph))
}

fn eliminate(graph: &mut Graph) -> usize {
    let mut changes: usize = graph.nodes.iter_mut().flat_map(|node| &mut node.bodies).map(|(_, body)| eliminate(body)).sum();
    let mut same: Vec<ValueId> = (0..graph.values.len()).map(|i| ValueId(i as u32)).collect();
    merge_constants(graph, &mut same);
    let mut seen: HashMap<String, usize> = HashMap::new();
    let mut gone = vec![false; graph.nodes.len()];
    for index in 0..graph.nodes.len() {
        let node = &graph.nodes[index];
        if !node.bodies.is_empty() || RANDOM.contains(&node.op.as_str()) {
            continue;
        }
        match seen.get(&key(node, &same)) {
            Some(&first) if covers(&graph.nodes[first], node) => {
                for (kept, gone) in graph.nodes[first].outputs.iter().zip(&node.outputs) {
                    if let (Some(kept), Some(gone)) = (kept, gone) {
                        same[gone.index()] = *kept;
                    }
                }
                gone[index] = true;
                changes += 1;
            }
            _ => {
                seen.insert(key(node, &same), index);
            }
        }
    }
    let mut index = 0;
    graph.nodes.retain(|_| {
        index += 1;
        !gone[index - 1]
    });
    super::rewrite::redirect(graph, &same);
    graph.compact();
    changes
}

/// Whether the first node makes every output of the second.
fn covers(first: &Node, second: &Node) -> bool {
    first.outputs.len() == second.outputs.len()
        && first.outputs.iter().zip(&second.outputs).all(|(a, b)| a.is_some() || b.is_none())
}

fn key(node: &Node, same: &[ValueId]) -> String {
    let mut key = node.op.clone();
    for input in &node.inputs {
        let _ = match input {
            Some(id) => write!(key, " {}", same[id.index()].0),
            None => write!(key, " _"),
        };
    }
    for (name, value) in node.attributes.iter() {
        let _ = write!(key, " {name}={}", attribute_text(value));
    }
    key
}

fn merge_constants(graph: &Graph, same: &mut [ValueId]) {
    let mut seen = HashMap::new();
    for (index, value) in graph.values.iter().enumerate() {
        let Some(tensor) = &value.constant else { continue };
        if tensor.texts().is_none() && tensor.bytes().len() <= CONSTANT_BYTES_MAX {
            let key = (tensor.dtype(), tensor.shape().to_vec(), digest(tensor));
            same[index] = *seen.entry(key).or_insert(ValueId(index as u32));
        }
    }
}
