//! What a model's work looks like before anything is measured: counts and sizes of its graph, for predictions on devices where it has
//! not run.
//!
//! In: a graph with its batch chosen, passes done. Out: [`Features`]. It knows no device; the order of nodes and values decides nothing.

use crate::graph::{Graph, Node, ValueId};
use crate::task;
use schema::Features;

/// Raised when a feature means something else than before.
pub const REVISION: u16 = 1;

/// The features of a graph and its bodies; shapes that are still open count as 0.
pub fn of(graph: &Graph) -> Features {
    let mut features = Features {
        input_bytes: all_bytes(graph, &graph.inputs),
        output_bytes: all_bytes(graph, &graph.outputs),
        activation_bytes: activation_bytes(graph),
        ..Features::default()
    };
    let mut tuned_flops = 0;
    count(graph, &mut features, &mut tuned_flops);
    let levels = levels(graph);
    features.depth = levels.len() as u32;
    features.width_max = levels.iter().copied().max().unwrap_or(0);
    features.width_milli = (graph.nodes.len() * 1000 / levels.len().max(1)) as u32;
    features.tuned_ppm = (1e6 * tuned_flops as f64 / features.flops.max(1) as f64).round() as u32;
    features
}

/// Nodes by kind, their work and the constants, of a graph and of what it holds.
fn count(graph: &Graph, features: &mut Features, tuned_flops: &mut u64) {
    for constant in graph.values.iter().filter_map(|value| value.constant.as_ref()) {
        features.parameters += constant.shape().iter().map(|&extent| extent as u64).product::<u64>();
        features.weights_bytes += constant.bytes().len() as u64;
    }
    for node in &graph.nodes {
        *kind(node, features) += 1;
        let task = task::operator(node).zip(task::of(graph, node).and_then(Result::ok));
        let flops = match &task {
            Some((operator, task)) => (operator.flops)(task),
            None => node.outputs.iter().flatten().fold(0, |sum: u64, &id| sum.saturating_add(elements(graph, id))),
        };
        features.flops = features.flops.saturating_add(flops);
        if let Some((operator, task)) = task {
            *tuned_flops = tuned_flops.saturating_add(flops);
            if operator.id == "gemm" {
                let product = ["m", "n", "k"].iter().map(|name| task.int(name) as u64);
                features.gemm_max = features.gemm_max.max(product.fold(1, u64::saturating_mul));
            }
        }
        node.bodies.iter().for_each(|(_, body)| count(body, features, tuned_flops));
    }
}

/// The count that a node belongs to, by the names of our operators and of ONNX's.
fn kind<'f>(node: &Node, features: &'f mut Features) -> &'f mut u32 {
    match node.op.as_str() {
        "conv2d" | "conv_transpose2d" | "Conv" | "ConvTranspose" => &mut features.convs,
        "depthwise" => &mut features.depthwise_convs,
        "gemm" | "MatMul" | "Gemm" => &mut features.gemms,
        "attention" | "Attention" => &mut features.attentions,
        "lstm" | "gru" | "LSTM" | "GRU" | "RNN" => &mut features.recurrents,
        "embedding" | "gather" | "Gather" => &mut features.embeddings,
        "elementwise" => &mut features.elementwises,
        _ => &mut features.others,
    }
}

fn elements(graph: &Graph, id: ValueId) -> u64 {
    let shape = graph.value(id).fixed_shape();
    shape.map_or(0, |shape| shape.iter().map(|&extent| extent as u64).fold(1, u64::saturating_mul))
}

fn bytes(graph: &Graph, id: ValueId) -> u64 {
    elements(graph, id).saturating_mul(graph.value(id).dtype().map_or(0, |dtype| dtype.bytes() as u64))
}

fn all_bytes(graph: &Graph, ids: &[ValueId]) -> u64 {
    ids.iter().fold(0, |sum: u64, &id| sum.saturating_add(bytes(graph, id)))
}

/// The most bytes of values that are alive at once, constants left out. Bodies are not looked into.
fn activation_bytes(graph: &Graph) -> u64 {
    let mut last_use = vec![0; graph.values.len()];
    for (at, node) in graph.nodes.iter().enumerate() {
        let captured = node.bodies.iter().flat_map(|(_, body)| body.captures.iter().map(|capture| capture.outer));
        node.inputs.iter().flatten().copied().chain(captured).for_each(|id| last_use[id.index()] = at);
    }
    graph.outputs.iter().for_each(|id| last_use[id.index()] = graph.nodes.len());
    let size = |id: ValueId| if graph.value(id).constant.is_some() { 0 } else { bytes(graph, id) };
    // By node what goes after it.
    let mut dying = vec![0u64; graph.nodes.len() + 1];
    let mut alive: u64 = 0;
    for &id in &graph.inputs {
        alive = alive.saturating_add(size(id));
        let gone = &mut dying[last_use[id.index()]];
        *gone = gone.saturating_add(size(id));
    }
    let mut most = alive;
    for (at, node) in graph.nodes.iter().enumerate() {
        for &id in node.outputs.iter().flatten() {
            alive = alive.saturating_add(size(id));
            // What nobody reads goes at once.
            let gone = &mut dying[last_use[id.index()].max(at)];
            *gone = gone.saturating_add(size(id));
        }
        most = most.max(alive);
        alive = alive.saturating_sub(dying[at]);
    }
    most
}

/// How many nodes are on each level: one behind the deepest of those they follow.
fn levels(graph: &Graph) -> Vec<u32> {
    let mut level_of = vec![0; graph.values.len()];
    let mut levels = Vec::new();
    for node in &graph.nodes {
        let captured = node.bodies.iter().flat_map(|(_, body)| body.captures.iter().map(|capture| capture.outer));
        let level: usize =
            node.inputs.iter().flatten().copied().chain(captured).map(|id| level_of[id.index()]).max().unwrap_or(0);
        node.outputs.iter().flatten().for_each(|id| level_of[id.index()] = level + 1);
        if levels.len() <= level {
            levels.resize(level + 1, 0);
        }
        levels[level] += 1;
    }
    levels
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::infer;
    use crate::import;
    use crate::passes::{self, FoldLimits, Pipeline};
    use schema::Batch;
    use std::path::Path;

    fn mnist(rows: u32) -> Features {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models/mnist_cnn.onnx");
        let mut graph = import::load(&path, &import::Options::default()).unwrap().graph;
        infer::bind(&mut graph, Batch::new(rows), &Default::default()).unwrap();
        Pipeline::untimed().run(&mut graph, &passes::Options::new(FoldLimits::default())).unwrap();
        of(&graph)
    }

    #[test]
    fn a_small_network_is_counted() {
        let one = mnist(1);
        assert!(one.convs >= 2 && one.gemms >= 1 && one.attentions + one.recurrents + one.embeddings == 0, "{one:?}");
        assert!(one.flops > 2 * one.parameters && one.weights_bytes >= 4 * one.parameters, "{one:?}");
        assert!(one.tuned_ppm > 990_000 && one.depth > 3 && one.width_max >= 1, "{one:?}");
        assert!(one.activation_bytes >= one.input_bytes + one.output_bytes && one.gemm_max > 0, "{one:?}");
    }

    #[test]
    fn what_belongs_to_rows_grows_with_the_batch_and_weights_do_not() {
        let (one, four) = (mnist(1), mnist(4));
        assert_eq!((one.input_bytes * 4, one.output_bytes * 4), (four.input_bytes, four.output_bytes));
        assert_eq!((one.depth, one.convs, one.gemms), (four.depth, four.convs, four.gemms));
        assert!(four.flops > 3 * one.flops && four.activation_bytes > 3 * one.activation_bytes, "{one:?} {four:?}");
        assert!(four.weights_bytes < one.weights_bytes + one.weights_bytes / 8, "{one:?} {four:?}");
    }
}
