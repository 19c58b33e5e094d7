//! Lays whole regions of a network in blocks of channels, with conversions only at their borders.
//!
//! A node that can run on `[N][C/16][H + 2h][W + 2h][16]` does so or not; which is chosen by local search over the bytes that
//! conversions (`reorder`) move, against what convolutions lose in rows. Convolutions start blocked and pull their neighbours along;
//! then single nodes change sides as long as that saves bytes. A value has one home: where its maker writes it. Readers on
//! the other side share one conversion.
//!
//! The halo of a blocked value is the widest border of zeros that a convolution reading it asks for (its padding, or how far its last
//! window reaches). A residual lies as the result it is added to, so the two share one halo.
//!
//! What can be blocked is asked of the operators' own `task` with the layouts in question; a node refused in the end goes back to rows.
//! No variant is named: a layout is a fact of the task, and which kernel runs on it is for tuning to find.

mod modes;
mod sides;

use super::{Options, PassError};
use crate::graph::{Graph, Node, Value, ValueId};
use kernels::{Attributes, Layout};
use modes::Modes;
use std::collections::HashMap;

pub(super) fn run(graph: &mut Graph, _: &Options) -> Result<usize, PassError> {
    Ok(assign(graph))
}

/// Lays out the graph and its bodies; gives the number of nodes in blocks.
fn assign(graph: &mut Graph) -> usize {
    let within: usize = graph.nodes.iter_mut().flat_map(|node| &mut node.bodies).map(|(_, body)| assign(body)).sum();
    let mut modes = Modes::of(graph);
    loop {
        modes.settle();
        let laid = lay_out(graph, &modes);
        match refused(&laid, &modes) {
            Some(index) => modes.exclude(index),
            None => {
                *graph = laid.graph;
                graph.compact();
                return within + modes.blocked();
            }
        }
    }
}

/// A graph with layouts, and where the nodes of the graph it was made from stand in it.
struct Laid {
    graph: Graph,
    places: Vec<usize>,
}

/// The first blocked node that its operator refuses.
fn refused(laid: &Laid, modes: &Modes) -> Option<usize> {
    (0..laid.places.len())
        .find(|&index| modes.is_blocked(index) && !super::lowering::takes(&laid.graph, &laid.graph.nodes[laid.places[index]]))
}

/// The graph with every value in its home and conversions where a reader needs the other side.
fn lay_out(graph: &Graph, modes: &Modes) -> Laid {
    let halos = modes.halos(graph);
    let mut laid = graph.clone();
    let nodes = std::mem::take(&mut laid.nodes);
    let mut converted: HashMap<(ValueId, Layout), ValueId> = HashMap::new();
    let mut places = Vec::with_capacity(graph.nodes.len());
    for (index, mut node) in nodes.into_iter().enumerate() {
        for &output in modes.blocked_outputs(index) {
            if let Some(id) = node.output(output) {
                laid.value_mut(id).layout = Layout::Channels { halo: halos[id.index()] };
            }
        }
        for (place, input) in node.inputs.iter_mut().enumerate() {
            let Some(id) = input else { continue };
            let home = laid.value(*id).layout;
            let wanted = match modes.side(index, place) {
                modes::Side::Either => home,
                modes::Side::Rows => Layout::Rows,
                modes::Side::Blocks if home != Layout::Rows => home,
                modes::Side::Blocks => Layout::Channels { halo: halos[id.index()] },
            };
            if wanted != home {
                *input = Some(convert(&mut laid, &mut converted, *id, wanted));
            }
        }
        let captured: Vec<ValueId> =
            node.bodies.iter().flat_map(|(_, body)| &body.captures).map(|capture| capture.outer).collect();
        let rows: HashMap<ValueId, ValueId> =
            captured.into_iter().map(|id| (id, in_rows(&mut laid, &mut converted, id))).collect();
        for (_, body) in &mut node.bodies {
            body.captures.iter_mut().for_each(|capture| capture.outer = rows[&capture.outer]);
        }
        places.push(laid.nodes.len());
        laid.nodes.push(node);
    }
    for i in 0..laid.outputs.len() {
        laid.outputs[i] = in_rows(&mut laid, &mut converted, graph.outputs[i]);
    }
    Laid { graph: laid, places }
}

fn in_rows(graph: &mut Graph, converted: &mut HashMap<(ValueId, Layout), ValueId>, id: ValueId) -> ValueId {
    if graph.value(id).layout == Layout::Rows { id } else { convert(graph, converted, id, Layout::Rows) }
}

/// The value in another layout: converted here, or earlier for another reader.
fn convert(graph: &mut Graph, converted: &mut HashMap<(ValueId, Layout), ValueId>, id: ValueId, layout: Layout) -> ValueId {
    if let Some(&done) = converted.get(&(id, layout)) {
        return done;
    }
    let value = graph.value(id);
    let name = format!("{}.{layout}", value.name);
    let ty = value.ty.clone();
    let to = graph.add_value(Value { name, ty, layout, constant: None });
    let reorder = Node::new("reorder", vec![Some(id)], vec![Some(to)]);
    graph.nodes.push(Node { attributes: Attributes::default(), ..reorder });
    converted.insert((id, layout), to);
    to
}
