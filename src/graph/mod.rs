//! The graph: what a model computes, free of ONNX's wire format, of kernels' choices and of devices.
//!
//! A [`Graph`] is a list of [`Node`]s in topological order over a table of [`Value`]s. Nodes carry ONNX's names and the newest opset's
//! meaning (`Conv`, `ReduceSum` with axes as an input) until the passes lower them to our operators (`conv2d`, `gemm`). Bodies of
//! `If`, `Loop` and `Scan` are graphs of their own; what they use of the outer graph is listed as captures, so a body can be read alone.
//!
//! Invariant: graphs are changed through passes and the [`Builder`] only, and [`verify`] holds after each.

mod builder;
mod compact;
pub mod infer;
mod rows;
pub mod text;
mod value;
mod verify;

pub use builder::Builder;
pub use value::{Dim, Shape, Type, Value};
pub use verify::{VerifyError, verify};

use kernels::Attributes;

/// Which value of a graph's table.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ValueId(pub u32);

impl ValueId {
    /// The place in the table.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// One operation.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The model's name of it, for messages; may be empty, need not be unique.
    pub name: String,
    /// ONNX's name (`Conv`; `domain.Name` outside the default domain) or the id of one of our operators (`conv2d`).
    pub op: String,
    /// Absent optional inputs are `None`; trailing ones are left out.
    pub inputs: Vec<Option<ValueId>>,
    /// Outputs nobody asked for are `None`; trailing ones are left out.
    pub outputs: Vec<Option<ValueId>>,
    pub attributes: Attributes,
    /// Graphs by attribute name: `then_branch`, `else_branch`, `body`.
    pub bodies: Vec<(String, Graph)>,
}

/// What a body uses of the graph around it.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Capture {
    /// The value in the graph that holds the node.
    pub outer: ValueId,
    /// The same value in the body.
    pub inner: ValueId,
}

/// A model or a body of one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Graph {
    pub name: String,
    pub values: Vec<Value>,
    /// In topological order.
    pub nodes: Vec<Node>,
    /// Fed by the caller (or by the node that holds the body), in order. Their names are the model's.
    pub inputs: Vec<ValueId>,
    /// In order; a value may be listed twice. `output_names` are the model's names, kept whatever the passes do to the values.
    pub outputs: Vec<ValueId>,
    pub output_names: Vec<String>,
    /// Empty in a model's main graph.
    pub captures: Vec<Capture>,
}

impl Graph {
    /// A value of the table. Panics for an id of another graph.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.index()]
    }

    /// A value of the table, to change. Panics for an id of another graph.
    pub fn value_mut(&mut self, id: ValueId) -> &mut Value {
        &mut self.values[id.index()]
    }

    /// Adds a value to the table.
    pub fn add_value(&mut self, value: Value) -> ValueId {
        let id = ValueId(u32::try_from(self.values.len()).expect("a graph has fewer than 2^32 values"));
        self.values.push(value);
        id
    }

    /// For each value, the node that makes it, by index; `None` for inputs, captures and constants.
    pub fn producers(&self) -> Vec<Option<usize>> {
        let mut producers = vec![None; self.values.len()];
        for (i, node) in self.nodes.iter().enumerate() {
            for output in node.outputs.iter().flatten() {
                producers[output.index()] = Some(i);
            }
        }
        producers
    }

    /// For each value, how often it is used: by nodes, by captures of their bodies and as an output.
    pub fn uses(&self) -> Vec<u32> {
        let mut uses = vec![0; self.values.len()];
        let captured = self.nodes.iter().flat_map(|node| &node.bodies).flat_map(|(_, body)| &body.captures);
        let read = self.nodes.iter().flat_map(|node| node.inputs.iter().flatten().copied());
        for id in read.chain(captured.map(|capture| capture.outer)).chain(self.outputs.iter().copied()) {
            uses[id.index()] += 1;
        }
        uses
    }

    /// Nodes of this graph and of all bodies.
    pub fn node_count(&self) -> usize {
        self.nodes.iter().map(|node| 1 + node.bodies.iter().map(|(_, body)| body.node_count()).sum::<usize>()).sum()
    }
}

impl Node {
    /// A node without a name.
    pub fn new(op: &str, inputs: Vec<Option<ValueId>>, outputs: Vec<Option<ValueId>>) -> Self {
        Node { name: String::new(), op: op.to_owned(), inputs, outputs, attributes: Attributes::default(), bodies: Vec::new() }
    }

    /// The i-th input, if it is there.
    pub fn input(&self, i: usize) -> Option<ValueId> {
        self.inputs.get(i).copied().flatten()
    }

    /// The i-th output, if somebody asked for it.
    pub fn output(&self, i: usize) -> Option<ValueId> {
        self.outputs.get(i).copied().flatten()
    }

    /// The body of that name.
    pub fn body(&self, name: &str) -> Option<&Graph> {
        self.bodies.iter().find(|(body, _)| body == name).map(|(_, graph)| graph)
    }
}
